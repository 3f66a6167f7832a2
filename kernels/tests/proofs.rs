//! Every kernel beside its reference on the virtual GPU, as a table; and that no kernel is left
//! out.
//!
//! `cargo test -p dressage-kernels --test proofs [FOLDER ..]` runs the folders whose names contain
//! one of the words. Each comparison is listed with `--nocapture`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use dressage_kernels::device::Device;
use dressage_kernels::proof::{self, Kernels, Outcome};
use rayon::prelude::*;

/// What the virtual GPU looks for at every instruction of every kernel.
const CHECKS: &str = "bounds of every buffer, alignment, bytes never written, races in shared and \
                      in global memory, copies under way, divergent barriers, absent lanes, \
                      floating-point atomics, unknown instructions, traps, deadlocks";

struct Found {
    name: &'static str,
    outcomes: Vec<Outcome>,
    launched: Vec<String>,
}

fn run(kernels: &Kernels) -> Found {
    let device = Device::virtual_gpu();
    let outcomes = kernels.run(&device);
    Found { name: kernels.name, outcomes, launched: device.launched() }
}

/// Prints one folder; whether all of it holds.
fn report(found: &Found, every: bool) -> bool {
    let Found { name, outcomes, launched } = found;
    let values: usize = outcomes.iter().map(|o| o.values).sum();
    let worst = outcomes.iter().max_by(|a, b| a.worst.total_cmp(&b.worst));
    let (worst, place) = worst.map_or((0.0, ""), |o| (o.worst, &o.what));
    let count = outcomes.len();
    println!("{name}: {count} comparisons of {values} values, worst {worst:.3} ({place})");
    println!("    kernels: {}", launched.join(", "));
    let mut cases: Vec<&str> = outcomes.iter().map(Outcome::case).collect();
    cases.dedup();
    println!("    at: {}", cases.join(", "));
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

fn main() -> ExitCode {
    let (flags, words): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a.starts_with('-'));
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let folders: Vec<Kernels> = proof::all().into_iter().filter(|k| wanted(k.name)).collect();
    if has("--list") {
        folders.iter().for_each(|kernels| println!("{}: test", kernels.name));
        return ExitCode::SUCCESS;
    }
    println!(
        "\nproofs of {} folders of kernels, the worst error in units of its bound",
        folders.len()
    );
    let found: Vec<Found> = folders.par_iter().map(run).collect();
    let mut holds = true;
    for found in &found {
        holds &= report(found, has("--nocapture"));
    }
    println!("checked at every instruction: {CHECKS}");
    if words.is_empty() {
        let launched: BTreeSet<&String> = found.iter().flat_map(|f| &f.launched).collect();
        let shipped = shipped();
        let missing: Vec<_> = shipped.iter().filter(|name| !launched.contains(name)).collect();
        println!(
            "{} of {} shipped kernels were launched",
            shipped.len() - missing.len(),
            shipped.len()
        );
        for name in &missing {
            println!("FAILED {name}: no proof launches it");
        }
        holds &= missing.is_empty() && !shipped.is_empty();
    }
    println!("proofs: {}\n", if holds { "all hold" } else { "FAILED" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
