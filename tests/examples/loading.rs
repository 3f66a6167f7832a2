//! Time and memory to load a ViT-L from each file format.
//!
//!     cargo run --release -p dressage-tests --example loading
//!
//! It writes files of full size to a temporary folder, one at a time, and loads each in several
//! separate processes. With a file as argument it is such a process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use dressage_engine::memory::usage;
use dressage_engine::{DType, Philox, Tensor};
use dressage_models::backbone::published::named;
use dressage_models::weights::{StateDict, convert_backbone};
use dressage_tests::checkpoint::{self, Content, Entry, Out, ScalarType};
use dressage_tests::{Outcome, published};
use dressage_train::machine::{peak_resident, resident};
use half::f16;

/// Patches per side of the position table, and side of a patch. They are those of the files, so
/// that nothing is resized.
const GRID: usize = 32;
const PATCH: usize = 16;

/// Number of processes per format.
const RUNS: usize = 5;

type Writer = fn(&mut dyn Out, &[Entry]) -> io::Result<()>;

/// A row of the table: format, type, whether names are Hugging Face's, writer.
type Form = (&'static str, ScalarType, bool, Writer);

const FORMS: [Form; 4] = [
    ("zip `.pth`, f32", ScalarType::F32, false, |out, entries| checkpoint::zip(out, entries, "")),
    ("legacy `.pth`, f32", ScalarType::F32, false, |out, entries| {
        checkpoint::legacy(out, entries, "")
    }),
    ("zip `.pth`, f16", ScalarType::F16, false, |out, entries| checkpoint::zip(out, entries, "")),
    ("safetensors of Hugging Face, f32", ScalarType::F32, true, checkpoint::safetensors),
];

fn main() -> Outcome<()> {
    if let Some(path) = std::env::args_os().nth(1) {
        return load(Path::new(&path));
    }
    let folder = tempfile::tempdir()?;
    println!("| file | MB | loading, ms (least to most) | tensors, MB | RSS, MB | peak RSS, MB |");
    println!("|---|---|---|---|---|---|");
    for (i, form) in FORMS.iter().enumerate() {
        let path = folder.path().join(format!("{i}.weights"));
        written(&path, form)?;
        let bytes = path.metadata()?.len();
        let runs = (0..RUNS).map(|_| measured(&path)).collect::<Outcome<Vec<_>>>()?;
        let sorted = |at: usize| {
            let mut all: Vec<f64> = runs.iter().map(|run| run[at]).collect();
            all.sort_by(f64::total_cmp);
            [all[RUNS / 2], all[0], all[RUNS - 1]]
        };
        let [ms, least, most] = sorted(0);
        let [tensors, now, peak] = [1, 2, 3].map(|at| sorted(at)[0]);
        println!(
            "| {} | {:.0} | {ms:.0} ({least:.0} to {most:.0}) | {tensors:.0} | {now:.0} | {peak:.0} |",
            form.0,
            bytes as f64 / 1e6
        );
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// Writes the published tensors of a ViT-L, with values that no file system stores as holes.
fn written(path: &Path, &(_, kind, theirs, writer): &Form) -> Outcome<()> {
    let mut random = Philox::new(1, 0, 0, 0);
    let values: Vec<f32> = (0..1 << 20).map(|_| random.normal() as f32).collect();
    let block: Vec<u8> = match kind {
        ScalarType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let mut entries = Vec::new();
    for entry in published::recorded("DinoVisionTransformer-L")? {
        let names = if theirs { published::hugging_face(&entry.name) } else { vec![entry.name] };
        let mut shape = entry.shape;
        shape.iter_mut().take(1).for_each(|n| *n /= names.len() as u64);
        for name in names {
            let mut entry = Entry { name, kind, ..Entry::zeros("", &shape) };
            let bytes = block.iter().cycle().take(entry.written() as usize).copied();
            entry.content = Content::Bytes(bytes.collect());
            entries.push(entry);
        }
    }
    writer(&mut io::BufWriter::new(File::create(path)?), &entries)?;
    Ok(())
}

/// The output of a process that loads `path`.
fn measured(path: &Path) -> Outcome<Vec<f64>> {
    let output = Command::new(std::env::current_exe()?).arg(path).output()?;
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr)?.into());
    }
    let stdout = String::from_utf8(output.stdout)?;
    Ok(stdout.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// Loads every tensor as the network does. Prints the milliseconds and three values in megabytes:
/// tensors in memory, memory of the process, and its peak. The last two are less the memory at the
/// start.
fn load(path: &Path) -> Outcome<()> {
    // Starts the threads before the measurement.
    rayon::broadcast(|_| ());
    let before = resident().ok_or("the system does not tell")?;
    let start = Instant::now();
    let dict = convert_backbone(StateDict::open(path)?, &named("dinov2-l")?.at(PATCH, GRID))?;
    let mut tensors: Vec<Tensor> = Vec::new();
    for (name, stored) in dict {
        let floats = stored.checked_float(DType::F32)?;
        let floats = floats.ok_or_else(|| format!("{name} holds no floats"))?;
        if let Some((at, value)) = floats.first_not_finite() {
            return Err(format!("{name} holds {value} at {at}").into());
        }
        tensors.push(floats);
    }
    let seconds = start.elapsed().as_secs_f64();
    let memory = [Some(usage().system_bytes + before), resident(), peak_resident()];
    print!("{}", 1e3 * seconds);
    for bytes in memory {
        let bytes = bytes.ok_or("the system does not tell")?;
        print!(" {}", bytes.saturating_sub(before) as f64 / 1e6);
    }
    println!();
    drop(tensors);
    Ok(())
}
