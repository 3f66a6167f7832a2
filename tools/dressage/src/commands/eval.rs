//! `dressage eval`.

use std::path::PathBuf;

use dressage_train::evaluate::evaluate;
use dressage_train::metrics::Report;
use dressage_train::trainer::load_run;
use dressage_train::{checkpoint, files};
use serde::Serialize;

use super::{Overrides, assignment, checkpoint_step, start_threads, watched};
use crate::console::{say, width};
use crate::failure::Failure;

/// Score a trained network on the evaluation sets of its run
///
/// Prints IoU per class and set with the means, and writes the same numbers to eval.json in the
/// run folder. Sets can be added or changed on the command line, such as
/// data.eval.0.box='[1024,512]'.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the run
    run_dir: PathBuf,

    /// Keys of the recipe to set
    #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
    settings: Vec<String>,

    #[command(flatten)]
    overrides: Overrides,

    /// Step of the checkpoint to score, by default the newest
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,
}

/// What eval.json holds.
#[derive(Serialize)]
struct Scored<'a> {
    step: u64,
    checkpoint: PathBuf,
    #[serde(flatten)]
    report: &'a Report,
}

/// Evaluates.
pub fn run(args: &Args) -> Result<(), Failure> {
    let step = checkpoint_step(&args.run_dir, args.checkpoint)?;
    let overrides = args.overrides.all(&args.settings);
    let recipe_file = args.run_dir.join(dressage_train::trainer::RECIPE);
    let recipe = dressage_train::recipe::Recipe::from_file(&recipe_file, &overrides)?;
    start_threads(recipe.run.threads)?;
    let (recipe, model) = load_run(&args.run_dir, Some(step), &overrides)?;
    if recipe.data.eval.is_empty() {
        let what = "the recipe of this run names no evaluation set; add one with settings such as \
                    data.eval.0.images=FOLDER data.eval.0.labels=FOLDER";
        return Err(Failure::Told(what.into()));
    }
    let (watch, stop) = watched("stopping after this image")?;
    let report = evaluate(&model, &recipe, &*watch, &stop)?;
    say(&format!("IoU in per cent after step {step}:\n"));
    say(&report.table(width()));
    let path = args.run_dir.join("eval.json");
    let checkpoint = checkpoint::path_of(&args.run_dir, step);
    let scored = Scored { step, checkpoint, report: &report };
    let mut json = serde_json::to_string_pretty(&scored)
        .map_err(|e| Failure::Told(format!("cannot write the scores as JSON: {e}")))?;
    json.push('\n');
    files::write_bytes(&path, json.as_bytes())?;
    say(&format!("\nwritten to {}", path.display()));
    Ok(())
}
