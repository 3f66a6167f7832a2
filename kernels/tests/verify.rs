//! Verification of every kernel on the virtual GPU, as a table. It also checks that no kernel is
//! left out.
//!
//! `cargo test -p dressage-kernels --test verify [FOLDER ..]` runs the folders whose names contain
//! one of the words. Each comparison is listed with `--nocapture`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use dressage_kernels::check::verify::{self, CHECKS, Kernels, Outcome, Summary};
use dressage_kernels::device::Device;
use rayon::prelude::*;

struct FolderResult {
    name: &'static str,
    outcomes: Vec<Outcome>,
    launched: Vec<String>,
}

fn run(kernels: &Kernels) -> FolderResult {
    let device = Device::virtual_gpu();
    let outcomes = kernels.run(&device);
    let trace = device.trace().expect("the virtual GPU keeps a trace");
    let launched = trace.by_kernel().into_keys().map(str::to_owned).collect();
    FolderResult { name: kernels.name, outcomes, launched }
}

/// Prints one folder; returns whether all of it holds.
fn report(found: &FolderResult, every: bool) -> bool {
    let FolderResult { name, outcomes, launched } = found;
    let values: usize = outcomes.iter().map(|o| o.values).sum();
    let worst = outcomes.iter().max_by(|a, b| a.worst.total_cmp(&b.worst));
    let (worst, place) = worst.map_or((0.0, ""), |o| (o.worst, &o.what));
    let count = outcomes.len();
    println!("{name}: {count} comparisons of {values} values, worst {worst:.3} ({place})");
    if !launched.is_empty() {
        println!("    kernels: {}", launched.join(", "));
    }
    for Summary { kernel, shapes, worst, .. } in verify::summary(outcomes) {
        println!("    {kernel}: worst {worst:.3} at {}", shapes.join(", "));
    }
    for Outcome { what, values, worst, failure } in outcomes {
        if let Some(failure) = failure {
            println!("    FAILED {what}: {failure}");
        } else if every {
            println!("    {what}: {values} values, {worst:.3} of the bound");
        }
    }
    !outcomes.is_empty() && outcomes.iter().all(|o| o.failure.is_none())
}

/// Names of the kernels in the PTX files.
fn shipped() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx");
    let files = std::fs::read_dir(folder).expect("the folder of PTX").map(|f| f.expect("a file"));
    let mut names = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file.path()).expect("PTX is text");
        let entries = text.lines().filter_map(|line| line.split_once(".entry ")).map(|(_, s)| s);
        names.extend(entries.map(|name| name.trim_end().trim_end_matches('(').to_owned()));
    }
    names
}

/// Whether every shipped kernel was launched; prints the others.
fn complete(found: &[FolderResult]) -> bool {
    let launched: BTreeSet<&String> = found.iter().flat_map(|f| &f.launched).collect();
    let shipped = shipped();
    let (yes, no): (Vec<&String>, Vec<&String>) =
        shipped.iter().partition(|n| launched.contains(n));
    println!("{} of {} shipped kernels were launched", yes.len(), shipped.len());
    if !no.is_empty() {
        println!("FAILED, no verification launches {no:?}");
    }
    no.is_empty() && !shipped.is_empty()
}

/// Queues the timed launches in a dry run: their arguments fit together.
fn timed(folders: &[Kernels]) -> bool {
    let mut holds = true;
    for kernels in folders {
        let device = Device::dry_run();
        let timed = (kernels.timed)(&device).and_then(|mut all| {
            let none = all.is_empty();
            let empty = all.iter().any(|t| t.flops == 0 && t.bytes == 0);
            all.iter_mut().try_for_each(|timed| (timed.run)())?;
            Ok(!none && !empty)
        });
        if timed != Ok(true) {
            println!("FAILED {}: nothing to time, or {timed:?}", kernels.name);
            holds = false;
        }
    }
    holds
}

/// Options of the usual harness that take a word; that word is no name of a folder.
const VALUED: [&str; 5] = ["--skip", "--test-threads", "--color", "--format", "-Z"];

/// Options and names of the command line.
fn arguments() -> [Vec<String>; 2] {
    let (mut flags, mut names) = (Vec::new(), Vec::new());
    let mut all = std::env::args().skip(1);
    while let Some(word) = all.next() {
        if VALUED.contains(&word.as_str()) {
            all.next();
        } else if word.starts_with('-') {
            flags.push(word);
        } else {
            names.push(word);
        }
    }
    [flags, names]
}

fn main() -> ExitCode {
    let [flags, names] = arguments();
    let has = |flag: &str| flags.iter().any(|word| word == flag);
    let wanted = |folder: &str| names.is_empty() || names.iter().any(|name| folder.contains(name));
    let folders: Vec<Kernels> = verify::all().into_iter().filter(|k| wanted(k.name)).collect();
    if has("--list") {
        folders.iter().for_each(|kernels| println!("{}: test", kernels.name));
        return ExitCode::SUCCESS;
    }
    println!("\nkernels beside their references, the worst error in units of its bound:");
    let found: Vec<FolderResult> = folders.par_iter().map(run).collect();
    let passed = found.iter().filter(|found| report(found, has("--nocapture"))).count();
    println!("checked at every instruction: {CHECKS}");
    let mut holds = passed == folders.len() && timed(&folders);
    if names.is_empty() {
        holds &= complete(&found);
    }
    println!("{passed} of {} folders hold\n", folders.len());
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
