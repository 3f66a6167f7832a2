//! `dressage bench`.

mod case;
mod device;
pub(crate) mod figures;
mod gpu;
mod kernels;
mod program;
pub(crate) mod table;
mod whole;

use std::path::{Path, PathBuf};

use dressage_engine::RecomputePolicy;
use dressage_kernels::check::roofline::{self, Roofline};
use dressage_models::{Method, Precision};
use dressage_train::place::DeviceChoice;
use dressage_train::runlog::Stage;
use dressage_train::{files, machine};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::case::{Case, Part};
use self::figures::Figures;
use self::program::Program;
use self::table::Row;
use super::Cpu;
use crate::console::print;
use crate::failure::Failure;
use crate::progress::Watch;

/// Measure steps, backbones and single operations, alone or compared with another program
///
/// Everything runs on random weights and images. The table gives medians with the best and the
/// worst run, the rate of arithmetic, and its share of the rate of a register tile on this machine
/// (for passes over memory: of a copy).
///
/// With --peer every round runs first the peer and then this program, each as a process of its own
/// with the same sizes and threads, so that both see the same machine; ratios above 1 mean that
/// this program is faster, or takes less memory. A peer takes --part --precision --device --size
/// --width --depth --heads --batch --iters --warmup --json FILE, for `forward` --network NAME too,
/// and writes {PART: {"ms": {SPAN: {"median", "min", "max"}}}}.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  dressage bench step --model s,b --size 256,512
  dressage bench step --model b --method rein,lora,soma
  dressage bench forward block --model l --precision bf16
  dressage bench kernels --device cuda --iters 20
  dressage bench step backbone --device cuda --model l --batch 4 --iters 20 --json step.json
  dressage bench block forward --model l --peer \"python3 tools/dressage/peers/torch_parts.py\"
  dressage bench forward --model eva02-l --peer \"python3 tools/dressage/peers/timm_forward.py\"")]
pub struct Args {
    /// Parts to measure
    #[arg(value_enum, default_values_t = [Part::Step])]
    parts: Vec<Part>,

    /// Backbones: s, b, l, g, or tiny (a few thousand weights, to try a device out)
    #[arg(long, value_delimiter = ',', default_value = "s")]
    model: Vec<String>,

    /// Sides of the images in pixels: multiples of 32, up to 4096
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "512",
        value_parser = clap::value_parser!(u32).range(..=4096)
    )]
    size: Vec<u32>,

    /// Images at a time, up to 256
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,

    /// Timed runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    iters: u32,

    /// Untimed runs before those
    #[arg(long, default_value_t = 1)]
    warmup: u32,

    /// Processes of each program, with --peer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    #[command(flatten)]
    cpu: Cpu,

    /// Store the matrices of the frozen backbone as f32 or bf16; on a device activations as well,
    /// and bf16 is the default there
    #[arg(long, value_name = "TYPE", value_parser = named::<Precision>)]
    precision: Option<Precision>,

    /// Recompute policy of a step: none, cheap or block
    #[arg(long, value_name = "LEVEL", default_value = "none", value_parser = named::<RecomputePolicy>)]
    recompute: RecomputePolicy,

    /// Methods of adaptation of a step, such as rein,lora,soma
    #[arg(
        long,
        value_name = "METHOD",
        value_delimiter = ',',
        default_value = "rein",
        value_parser = named::<Method>
    )]
    method: Vec<Method>,

    /// Measure `step` and `backbone` on this device, cuda, cuda:N or virtual, with one batch that
    /// is stored there; or all `kernels` of a GPU, at sizes that are fixed: ViT-L, four images of
    /// 512 px
    #[arg(long, value_name = "DEVICE", value_parser = device::choice, conflicts_with = "peer")]
    device: Option<DeviceChoice>,

    /// On a device, queue a step launch by launch instead of as graphs; the batch is then copied
    /// there in every step
    #[arg(long, requires = "device")]
    no_graphs: bool,

    /// On a device, skip the rates of a copy and a large product, whose measurement takes 2.5 GB
    #[arg(long, requires = "device")]
    no_limits: bool,

    /// Program to compare with this one
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,

    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Parses one of the names that a setting takes.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.into())).map_err(|e| e.to_string())
}

impl Args {
    /// Checks the sizes of what is to be measured.
    pub fn check(&self) -> Result<(), Failure> {
        cases(self).map(drop)
    }
}

/// Measures.
pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(choice) = args.device {
        return device::run(args, choice);
    }
    let cases = cases(args)?;
    args.cpu.start()?;
    let threads = machine::threads(args.cpu.threads as usize);
    if let Some(line) = &args.peer {
        return paired(args, &cases, &Program::new(line)?, threads);
    }
    let mut rows = Vec::new();
    let mut written = Vec::new();
    let watch = Watch::new();
    for case in &cases {
        let stage = Stage::new(&watch, &case.title(), None);
        let mut found = match case.part {
            Part::Step | Part::Backbone | Part::Forward | Part::Block => whole::measure(case)?,
            _ => kernels::measure(case)?,
        };
        // The peak is that of the process: memory of one case would count for the others.
        found.peak = machine::peak_resident().filter(|_| cases.len() == 1);
        drop(stage);
        written.push(found.json(case, threads));
        rows.push(Row { case, here: vec![found], peer: Vec::new() });
    }
    // After the work, so that the copied buffers do not count as memory of the work.
    let ceiling = roofline::measure();
    print(&head(&ceiling, threads));
    print(&table::alone(&rows, &ceiling));
    if let Some(file) = &args.json {
        let limits = json!({"gflops": ceiling.gflops, "gbytes_per_s": ceiling.gbytes});
        written.iter_mut().for_each(|case| case["ceiling"] = limits.clone());
        // One case has the form of a peer's file, several are a list of them.
        let single = written.len() == 1;
        write(file, &if single { written.swap_remove(0) } else { Value::Array(written) })?;
    }
    Ok(())
}

fn cases(args: &Args) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    let steps = args.parts.iter().all(|part| *part == Part::Step);
    if !steps && args.method != [Method::Rein] {
        return Err(Failure::Message("--method: only the part `step` has methods".into()));
    }
    for (model, method) in args.model.iter().flat_map(|m| args.method.iter().map(move |n| (m, n))) {
        for size in &args.size {
            for part in args.parts.iter().flat_map(|part| part.single()) {
                let mut case = Case::new(part, model, *size as usize)?;
                case.method = *method;
                (case.batch, case.iters) = (args.batch as usize, args.iters as usize);
                let own = if args.device.is_some() { Precision::Bf16 } else { Precision::F32 };
                case.precision = args.precision.unwrap_or(own);
                case.recompute = args.recompute;
                case.warmup = args.warmup as usize;
                cases.push(case);
            }
        }
    }
    Ok(cases)
}

fn head(ceiling: &Roofline, threads: usize) -> String {
    format!(
        "{threads} threads, {}; a register tile reaches {:.0} GFLOP/s, a copy {:.1} GB/s\n",
        dressage_kernels::cpu::simd::described(),
        ceiling.gflops,
        ceiling.gbytes
    )
}

/// Measures rounds of both programs, each run in a process of its own.
fn paired(args: &Args, cases: &[Case], peer: &Program, threads: usize) -> Result<(), Failure> {
    let own = Program::own()?;
    let ceiling = roofline::measure();
    let watch = Watch::new();
    let stage = Stage::new(&watch, "rounds", Some(u64::from(args.rounds) * cases.len() as u64));
    let (mut rows, mut failed) = (Vec::new(), None);
    for (i, case) in cases.iter().enumerate() {
        let options = case.peer_options()?;
        let mut row = Row { case, here: Vec::new(), peer: Vec::new() };
        for round in 0..args.rounds {
            // Results measured so far are shown even then.
            match peer.measure(&options, threads, case.part) {
                Ok(found) => row.peer.push(found),
                Err(error) => failed = Some(error),
            }
            row.here.push(own.measure(&case.own_options(threads), threads, case.part)?);
            let done = i as u64 * u64::from(args.rounds) + u64::from(round) + 1;
            stage.at(done, &case.title());
        }
        rows.push(row);
    }
    drop(stage);
    print(&head(&ceiling, threads));
    print(&format!("{} rounds of {} runs\n", args.rounds, args.iters));
    print(&table::comparison(&rows, &ceiling));
    if let Some(file) = &args.json {
        let pair = |row: &Row| {
            let all = |runs: &[Figures]| -> Vec<Value> {
                runs.iter().map(|run| run.json(row.case, threads)).collect()
            };
            json!({"here": all(&row.here), "peer": all(&row.peer)})
        };
        write(file, &Value::Array(rows.iter().map(pair).collect()))?;
    }
    failed.map_or(Ok(()), Err)
}

fn write(file: &Path, value: &Value) -> Result<(), Failure> {
    Ok(files::write_bytes(file, format!("{value:#}\n").as_bytes())?)
}
