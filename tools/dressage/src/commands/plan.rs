//! `dressage plan`.

use std::collections::BTreeMap;

use dressage_kernels::device::Counts;
use dressage_train::plan::{Plan, PlannedStep};
use dressage_train::recipe::Recipe;
use serde_json::{Value, json};

use super::{Overrides, assignment, start_threads};
use crate::console::{grouped, print};
use crate::failure::Failure;

/// Show the work and the memory of a training step on a GPU, without a GPU
///
/// The training code does a dry run of the step on a device that executes nothing. The table lists
/// launches, matrix products, copies and waits by part of the network, for forward, recompute (what
/// the level of recomputation computes twice) and backward; and the memory at each level. Parts
/// that differ only in a number, such as the blocks of the backbone, are summed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  dressage plan gtav-dinov2-l-rein
  dressage plan my.toml train.batch=8 train.recompute=block --each")]
pub struct Args {
    /// Recipe file or name of a recipe
    recipe: String,

    /// Keys of the recipe to set
    #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
    settings: Vec<String>,

    #[command(flatten)]
    overrides: Overrides,

    /// List every block and layer by itself
    #[arg(long)]
    each: bool,

    /// List the largest buffers in use at the peak as well
    #[arg(long)]
    buffers: bool,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Returns the recipe to plan, with all settings.
    pub fn recipe(&self) -> Result<Recipe, Failure> {
        Ok(Recipe::find(&self.recipe, &self.overrides.all(&self.settings))?)
    }
}

/// Plans.
pub fn run(args: &Args) -> Result<(), Failure> {
    let recipe = args.recipe()?;
    start_threads(&recipe.run)?;
    let plan = Plan::on_device(&recipe, None)?;
    if args.json {
        print(&format!("{:#}", as_json(&plan)));
        return Ok(());
    }
    let (t, crop) = (&recipe.train, recipe.augment.crop);
    print(&format!(
        "{}: {} crops of {crop} px a step, activations in {}, recompute {}\n",
        recipe.name,
        t.batch,
        recipe.run.precision.dtype(),
        t.recompute
    ));
    if let Some(step) = plan.chosen() {
        print(&parts_table(step, args.each));
        print(LEGEND);
        print(&reservations(step));
    }
    print(&format!("\n{}", memory_table(&plan)));
    if let Some(step) = plan.chosen().filter(|_| args.buffers) {
        print(&format!("\n{}", buffers_table(step)));
    }
    Ok(())
}

/// Returns a part with its numbers replaced by `*`: `backbone.block * / mlp`.
fn family(part: &str) -> String {
    let mut text = String::new();
    for c in part.chars() {
        match c {
            '0'..='9' if text.ends_with('*') => {}
            '0'..='9' => text.push('*'),
            other => text.push(other),
        }
    }
    text
}

/// Returns the counts of each part and phase, sorted by name.
fn rows(step: &PlannedStep, each: bool) -> Vec<(String, Counts)> {
    let mut rows: BTreeMap<_, Counts> = BTreeMap::new();
    for (scope, counts) in &step.trace.parts {
        let part = if each { scope.part.to_string() } else { family(&scope.part) };
        *rows.entry((part, scope.phase)).or_default() += *counts;
    }
    let named = |((part, phase), counts): ((String, dressage_kernels::device::Phase), Counts)| {
        let part = if part.is_empty() { "elsewhere".to_owned() } else { part };
        let phase = phase.to_string();
        (if phase == "forward" { part } else { format!("{part}, {phase}") }, counts)
    };
    rows.into_iter().map(named).collect()
}

fn parts_table(step: &PlannedStep, each: bool) -> String {
    let mut rows = rows(step, each);
    rows.push(("total".to_owned(), step.trace.total()));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let mut text = format!(
        "{:width$} {:>8} {:>8} {:>8} {:>6} {:>9} {:>12} {:>7} {:>11} {:>5}\n",
        "",
        "launches",
        "products",
        "GFLOP",
        "copies",
        "MB copied",
        "MB allocated",
        "uploads",
        "MB uploaded",
        "waits"
    );
    for (name, a) in &rows {
        let (gflop, copied, taken) = (a.flops as f64 / 1e9, mb(a.copied), mb(a.allocated));
        let (launches, products, uploads, up) = (a.launches, a.products, a.uploads, mb(a.uploaded));
        text.push_str(&format!(
            "{name:width$} {launches:>8} {products:>8} {gflop:>8.1} {:>6} {copied:>9} \
             {taken:>12} {uploads:>7} {up:>11} {:>5}\n",
            a.copies, a.waits
        ));
    }
    text
}

/// Meaning of the columns of [`parts_table`].
const LEGEND: &str = "\
launches: kernels; products: matrix products of cuBLASLt, GFLOP is theirs alone; copies: copies and
fills within the device; allocated: taken from the memory pool; uploads: copies from the host;
waits: times that the host waits for the device
";

fn reservations(step: &PlannedStep) -> String {
    match step.reservations {
        0 => "After the first steps, a step reserves no device memory.".to_owned(),
        n => format!("After the first steps, a step reserves device memory {n} times."),
    }
}

/// Returns a table of the device memory of training in MB, by recompute level.
pub fn memory_table(plan: &Plan) -> String {
    let mut text = format!("{:15}", "memory in MB");
    for step in &plan.steps {
        let mark = if step.level == plan.chosen { "*" } else { "" };
        text.push_str(&format!("{:>9}", format!("{}{mark}", step.level)));
    }
    let line = |name: &str, of: &dyn Fn(&PlannedStep) -> usize| {
        let mut line = format!("\n{name:15}");
        for step in &plan.steps {
            line.push_str(&format!("{:>9}", grouped(of(step).div_ceil(1_000_000))));
        }
        line
    };
    let names = plan.steps.first().map(|step| step.needs.named().map(|(name, _)| name));
    for (i, name) in names.into_iter().flatten().enumerate() {
        // The loader and the program take no device memory.
        if plan.steps.iter().any(|step| step.needs.named()[i].1 > 0) {
            text.push_str(&line(name, &|step| step.needs.named()[i].1));
        }
    }
    text.push_str(&line("total", &|step| step.needs.total()));
    let free = plan.available.map(|free| format!("; {} MB are free", grouped(free / 1_000_000)));
    text.push_str("\n* the level of this recipe (train.recompute)");
    text + &free.unwrap_or_default()
}

/// Maximum number of lines in the table of buffers.
const LINES: usize = 40;

fn buffers_table(step: &PlannedStep) -> String {
    let mut sums: BTreeMap<(String, &str, usize), usize> = BTreeMap::new();
    for (buffer, n) in step.at_peak() {
        let scope = family(&buffer.scope.to_string());
        *sums.entry((scope, buffer.name, buffer.bytes)).or_default() += n;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|((_, _, bytes), n)| std::cmp::Reverse(bytes * n));
    let mut text = "buffers in use at the peak\n".to_owned();
    for ((scope, name, bytes), n) in sums.into_iter().take(LINES) {
        let mb = (bytes * n) as f64 / 1e6;
        text.push_str(&format!(
            "{mb:9.1} MB = {n:4} x {:>11}  {name:12} {scope}\n",
            grouped(bytes)
        ));
    }
    text
}

fn asked_json(a: &Counts) -> Value {
    json!({
        "launches": a.launches, "products": a.products, "flops": a.flops,
        "allocations": a.allocations, "allocated": a.allocated,
        "copies": a.copies, "copied": a.copied, "uploads": a.uploads, "uploaded": a.uploaded,
        "downloads": a.downloads, "downloaded": a.downloaded, "waits": a.waits,
    })
}

fn as_json(plan: &Plan) -> Value {
    let step = |step: &PlannedStep| {
        let parts = step.trace.parts.iter().map(|(scope, counts)| {
            let phase = scope.phase.to_string();
            json!({"part": &*scope.part, "phase": phase, "asked": asked_json(counts)})
        });
        let buffers = step.at_peak().into_iter().map(|(buffer, n)| {
            let scope = buffer.scope.to_string();
            json!({"place": scope, "name": buffer.name, "bytes": buffer.bytes, "count": n})
        });
        json!({
            "level": step.level.to_string(),
            "memory": step.needs,
            "memory_total": step.needs.total(),
            "reservations": step.reservations,
            "total": asked_json(&step.trace.total()),
            "parts": parts.collect::<Vec<_>>(),
            "kernels": step.trace.by_kernel(),
            "at_peak": buffers.collect::<Vec<_>>(),
        })
    };
    json!({
        "chosen": plan.chosen.to_string(),
        "levels": plan.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_left_open() {
        assert_eq!(family("backbone.block 17 / attention"), "backbone.block * / attention");
        assert_eq!(family(""), "");
    }
}
