//! `dressage eval`.

use std::path::PathBuf;

use dressage_train::data::check::{Which, check_recipe};
use dressage_train::evaluate::evaluate;
use dressage_train::metrics::Report;
use dressage_train::recipe::{Command, Recipe, SaveSignal};
use dressage_train::{checkpoint, files};
use serde::Serialize;

use super::{Overrides, Trained, Wanted, assignment, refuse_own_file, start_threads};
use crate::console::{print, width};
use crate::failure::Failure;
use crate::signals::{Words, watched};

/// Score a trained network on the evaluation sets of its run or recipe
///
/// Prints IoU per class and set with the means, and writes the same values to eval.json in the run
/// folder. Sets can be added or changed on the command line, such as data.eval.0.box='[1024,512]';
/// a key that has no effect here is refused. A released checkpoint needs no run folder: name a
/// recipe, the backbone's file and the checkpoint.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  dressage eval runs/gtav-dinov2-l-rein
  dressage eval gtav-dinov2-l-rein data.root=/data model.weights=dinov2_vitl14_pretrain.pth \\
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

/// Content of eval.json.
#[derive(Serialize)]
struct Scored<'a> {
    /// Step of the run's checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    checkpoint: PathBuf,
    /// Whether the run's averaged weights were scored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    averaged: bool,
    #[serde(flatten)]
    report: &'a Report,
}

impl Args {
    /// Finds the trained network and its recipe with all settings.
    pub fn trained(&self) -> Result<(Trained, Recipe), Failure> {
        let overrides = self.overrides.all(&self.settings);
        let command = |run| Command::Eval { run };
        Trained::find(&self.trained, self.checkpoint, &overrides, command)
    }
}

/// Evaluates.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (mut trained, recipe) = args.trained()?;
    start_threads(&recipe.run)?;
    if recipe.data.eval.is_empty() {
        let what = "the recipe names no evaluation set; add one with settings such as \
                    data.eval.0.images=FOLDER data.eval.0.labels=FOLDER";
        return Err(Failure::Message(what.into()));
    }
    if let (Some(dir), Some(out)) = (trained.folder(), &args.out) {
        refuse_own_file(dir, out)?;
    }
    let words = Words { first: "stopping after this image", lost: "the scores are not written" };
    let (watch, stop) = watched(words, SaveSignal::None)?;
    let data = check_recipe(&recipe, Which::Eval, &*watch, &stop)?;
    let model = trained.load(&recipe, &watch)?;
    let report = evaluate(&model, &recipe, &data.eval, &*watch, &stop)?;
    let (step, checkpoint, of) = match &trained {
        Trained::Run(dir, Wanted { step, .. }) => {
            (Some(*step), checkpoint::path_of(dir, *step), format!("after step {step}"))
        }
        Trained::Recipe(file) => (None, file.clone(), format!("of {}", file.display())),
    };
    print(&format!("IoU in per cent {of}:\n"));
    print(&report.table(width()));
    let out = args.out.clone().or_else(|| Some(trained.folder()?.join("eval.json")));
    let Some(path) = out else { return Ok(()) };
    let averaged = trained.folder().is_some() && recipe.eval.averaged;
    let scored = Scored { step, checkpoint, averaged, report: &report };
    let mut json = serde_json::to_string_pretty(&scored)
        .map_err(|e| Failure::Message(format!("cannot write the scores as JSON: {e}")))?;
    json.push('\n');
    files::write_bytes(&path, json.as_bytes())?;
    print(&format!("\nwritten to {}", path.display()));
    Ok(())
}
