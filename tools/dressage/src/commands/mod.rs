//! One module per command, and what they share.

pub mod bench;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod params;
pub mod plan;
pub mod predict;
pub mod train;
pub mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dressage_models::Segmenter;
use dressage_train::interrupt::Interrupt;
use dressage_train::place::Place;
use dressage_train::recipe::{Command, EMBEDDED, Recipe, acting};
use dressage_train::runlog::Progress as _;
use dressage_train::trainer::{RECIPE, load};
use dressage_train::{TrainError, checkpoint, network};

use crate::console::complain;
use crate::failure::Failure;
use crate::progress::Watch;

/// Settings given on the command line.
#[derive(clap::Args)]
pub struct Overrides {
    /// Set a key of the recipe, such as train.lr=1e-4 or data.eval.0.name=night (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<String>,

    /// Threads for arithmetic, 0 for one per core; the result does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Store the matrices of a frozen backbone as f32, or as bf16 in half the memory; the
    /// arithmetic is f32 either way
    #[arg(long, value_name = "TYPE")]
    precision: Option<String>,

    /// Where the work is done: auto, cpu, cuda, cuda:N (a GPU by its number) or virtual (the GPU's
    /// kernels executed and checked on the CPU: slow)
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// Accepts `key=value`; what the key takes is checked with the recipe.
pub fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("settings have the form key=value, such as train.steps=2000".into()),
    }
}

impl Overrides {
    /// All settings, those of `more` (bare words) last.
    pub fn all(&self, more: &[String]) -> Vec<String> {
        let threads = self.threads.map(|n| format!("run.threads={n}"));
        let precision = self.precision.iter().map(|p| format!("model.precision={p}"));
        let device = self.device.iter().map(|device| format!("run.device={device}"));
        let given = self.set.iter().chain(more).cloned();
        given.chain(threads).chain(precision).chain(device).collect()
    }
}

/// Makes the pool of arithmetic threads; 0 takes one per core.
pub fn start_threads(threads: usize) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| Failure::Told(format!("cannot start {threads} threads: {e}")))
}

/// Programs such as `timeout` send a signal to the process and again to its group; that is one
/// request, not two.
const ECHO: Duration = Duration::from_millis(300);

/// Someone to watch, and a request to stop that Ctrl-C sets; a second Ctrl-C ends the program at
/// once. `first` is said at the first one.
pub fn watched(first: &'static str) -> Result<(Arc<Watch>, Interrupt), Failure> {
    let (watch, stop) = (Arc::new(Watch::new()), Interrupt::default());
    let (seen, asked) = (Arc::clone(&watch), stop.clone());
    let mut asked_at = None;
    ctrlc::set_handler(move || {
        if asked.request() {
            asked_at = Some(Instant::now());
            seen.note(first);
        } else if asked_at.is_none_or(|at: Instant| at.elapsed() > ECHO) {
            complain("ended at once");
            std::process::exit(130);
        }
    })
    .map_err(|e| Failure::Told(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok((watch, stop))
}

/// Where a trained network comes from.
pub enum Trained {
    /// A run folder and the step of one of its checkpoints.
    Run(PathBuf, u64),
    /// A recipe with `model.checkpoint`; the file that it names.
    Recipe(PathBuf),
}

impl Trained {
    /// What `name` stands for, with its recipe: the folder of a run (`step`, or its newest
    /// checkpoint), or a recipe that names trained weights. `command` is [`Command::Eval`] or
    /// [`Command::Predict`], by whether it is a run; an override that does nothing there is
    /// refused.
    pub fn find(
        name: &str,
        step: Option<u64>,
        overrides: &[String],
        command: fn(bool) -> Command,
    ) -> Result<(Trained, Recipe), Failure> {
        let path = Path::new(name);
        let run = path.join(RECIPE).is_file();
        let recipe = EMBEDDED.iter().any(|r| r.name == name) || path.is_file();
        if run || !recipe {
            let step = checkpoint_step(path, step)?;
            let read = || Recipe::from_file(&path.join(RECIPE), overrides);
            let recipe = acting(command(true), overrides, read)?;
            return Ok((Trained::Run(path.into(), step), recipe));
        }
        let recipe = acting(command(false), overrides, || Recipe::find(name, overrides))?;
        let told = |what: &str| Failure::Told(format!("recipe {name}: {what}"));
        if step.is_some() {
            return Err(told("--checkpoint is for run folders; set model.checkpoint=FILE"));
        }
        let Some(file) = recipe.checkpoint().map(Path::to_path_buf) else {
            return Err(told(
                "it names no trained weights; set model.checkpoint=FILE, or name the folder of a \
                 run instead",
            ));
        };
        Ok((Trained::Recipe(file), recipe))
    }

    /// Builds the network, takes the trained weights and brings it to where it is to run, which is
    /// told `watch` unless it is the CPU because someone said so.
    pub fn load(&self, recipe: &Recipe, watch: &Watch) -> Result<Segmenter, Failure> {
        let place = Place::of(&recipe.run)?;
        if recipe.run.device != "cpu" {
            watch.note(&format!("on {}", place.said()));
        }
        Ok(place.take(match self {
            Trained::Run(dir, step) => load(recipe, dir, *step)?,
            Trained::Recipe(_) => network::build(recipe)?,
        })?)
    }

    /// The folder that results go to if nobody says where.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Trained::Run(dir, _) => Some(dir),
            Trained::Recipe(_) => None,
        }
    }
}

/// The checkpoint to use: `step`, or the newest of the run folder.
pub fn checkpoint_step(run: &Path, step: Option<u64>) -> Result<u64, Failure> {
    let found = checkpoint::list(run)?;
    let missing = |what: String| TrainError::RunFolder { path: run.to_path_buf(), what };
    let Some(last) = found.last() else {
        let what = "holds no checkpoint; name the folder of a run, such as runs/demo, or a recipe";
        return Err(missing(what.into()).into());
    };
    match step {
        None => Ok(*last),
        Some(step) if found.contains(&step) => Ok(step),
        Some(step) => {
            let known = found.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            Err(missing(format!("holds no checkpoint of step {step}; there are {known}")).into())
        }
    }
}
