//! `dressage eval`.

use std::path::PathBuf;

use dressage_train::data::check::{Which, check_recipe};
use dressage_train::evaluate::evaluate;
use dressage_train::metrics::Report;
use dressage_train::{checkpoint, files};
use serde::Serialize;

use super::{Overrides, Trained, assignment, start_threads, watched};
use crate::console::{say, width};
use crate::failure::Failure;

/// Score a trained network on the evaluation sets of its run or recipe
///
/// Prints IoU per class and set with the means, and writes the same numbers to eval.json in the
/// run folder. Sets can be added or changed on the command line, such as
/// data.eval.0.box='[1024,512]'. A released checkpoint needs no run folder: name a recipe, the
/// backbone's file and the checkpoint.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  dressage eval runs/gtav-l-rein
  dressage eval gtav-l-rein data.root=/data model.weights=dinov2_vitl14_pretrain.pth \\
      model.checkpoint=rein_dinov2_gtav.pth --out scores.json")]
pub struct Args {
    /// Folder of the run, or a recipe (a file, or a name that train --list shows) together with
    /// model.checkpoint=FILE
    #[arg(value_name = "RUN or RECIPE")]
    trained: String,

    /// Keys of the recipe to set
    #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
    settings: Vec<String>,

    #[command(flatten)]
    overrides: Overrides,

    /// Step of the run's checkpoint to score, by default the newest
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,

    /// File for the scores as JSON, by default eval.json in the run folder; none for a recipe
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What eval.json holds.
#[derive(Serialize)]
struct Scored<'a> {
    /// Of a run's checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    checkpoint: PathBuf,
    #[serde(flatten)]
    report: &'a Report,
}

/// Evaluates.
pub fn run(args: &Args) -> Result<(), Failure> {
    let overrides = args.overrides.all(&args.settings);
    let (trained, recipe) = Trained::find(&args.trained, args.checkpoint, &overrides)?;
    start_threads(recipe.run.threads)?;
    if recipe.data.eval.is_empty() {
        let what = "the recipe names no evaluation set; add one with settings such as \
                    data.eval.0.images=FOLDER data.eval.0.labels=FOLDER";
        return Err(Failure::Told(what.into()));
    }
    let (watch, stop) = watched("stopping after this image")?;
    let data = check_recipe(&recipe, Which::Eval, &*watch, &stop)?;
    let model = trained.load(&recipe, &watch)?;
    let report = evaluate(&model, &recipe, &data.eval, &*watch, &stop)?;
    let (step, checkpoint, of) = match &trained {
        Trained::Run(dir, step) => {
            (Some(*step), checkpoint::path_of(dir, *step), format!("after step {step}"))
        }
        Trained::Recipe(file) => (None, file.clone(), format!("of {}", file.display())),
    };
    say(&format!("IoU in per cent {of}:\n"));
    say(&report.table(width()));
    let out = args.out.clone().or_else(|| Some(trained.folder()?.join("eval.json")));
    let Some(path) = out else { return Ok(()) };
    let scored = Scored { step, checkpoint, report: &report };
    let mut json = serde_json::to_string_pretty(&scored)
        .map_err(|e| Failure::Told(format!("cannot write the scores as JSON: {e}")))?;
    json.push('\n');
    files::write_bytes(&path, json.as_bytes())?;
    say(&format!("\nwritten to {}", path.display()));
    Ok(())
}
