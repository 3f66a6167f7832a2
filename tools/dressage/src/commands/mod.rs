//! One module per command, and the code that they share.

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

use dressage_kernels::cpu::simd::{self, Choice};
use dressage_models::Segmenter;
use dressage_train::place::Place;
use dressage_train::recipe::{Command, EMBEDDED, Recipe, Run, acting};
use dressage_train::run_folder;
use dressage_train::runlog::Progress as _;
use dressage_train::trainer::load;
use dressage_train::{TrainError, checkpoint, machine, network};

use crate::console::{eprint, warn};
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

    /// Code of the CPU: auto (the fastest), avx512, avx2 or portable; any but auto gives the same
    /// bits on every CPU that can run it
    #[arg(long, value_name = "CODE")]
    cpu: Option<String>,

    /// Store the matrices of a frozen backbone as f32, or as bf16 in half the memory; the
    /// arithmetic is f32 either way
    #[arg(long, value_name = "TYPE")]
    precision: Option<String>,

    /// Device: auto, cpu, cuda, cuda:N (a GPU by its number) or virtual (the GPU's kernels executed
    /// and checked on the CPU: slow)
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// Accepts `key=value`; the value is checked with the recipe.
pub fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("settings have the form key=value, such as train.steps=2000".into()),
    }
}

impl Overrides {
    /// Returns all settings: `--set`, then `more` (bare words), then the other options.
    pub fn all(&self, more: &[String]) -> Vec<String> {
        let threads = self.threads.map(|n| format!("run.threads={n}"));
        let cpu = self.cpu.iter().map(|code| format!("run.cpu={code}"));
        let precision = self.precision.iter().map(|p| format!("model.precision={p}"));
        let device = self.device.iter().map(|device| format!("run.device={device}"));
        let given = self.set.iter().chain(more).cloned();
        given.chain(threads).chain(cpu).chain(precision).chain(device).collect()
    }
}

/// Settings of the CPU for commands without a recipe.
#[derive(clap::Args)]
pub struct Cpu {
    /// Threads for arithmetic, 0 for one per core; the result does not depend on it
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=4096)
    )]
    pub threads: u32,

    /// Code of the CPU: auto (the fastest), avx512, avx2 or portable
    #[arg(long = "cpu", value_name = "CODE", default_value_t = Choice::Auto, value_parser = code)]
    code: Choice,
}

fn code(text: &str) -> Result<Choice, String> {
    text.parse().map_err(|expected| format!("it must be {expected}"))
}

impl Cpu {
    /// Like [`start_threads`].
    pub fn start(&self) -> Result<(), Failure> {
        start(self.threads as usize, self.code)
    }
}

/// Selects the code of the CPU and starts the pool of arithmetic threads, as the recipe says.
pub fn start_threads(run: &Run) -> Result<(), Failure> {
    let code = run.cpu.parse().map_err(|expected| TrainError::Setting {
        setting: "run.cpu",
        what: format!("is `{}`, it must be {expected}", run.cpu),
    })?;
    capped("run.workers", run.workers);
    start(run.threads, code)
}

/// Starts `threads` threads, or one per core for 0.
pub fn start(threads: usize, code: Choice) -> Result<(), Failure> {
    simd::choose(code)
        .map_err(|e| TrainError::Setting { setting: "run.cpu", what: e.to_string() })?;
    let threads = capped("run.threads", threads);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| Failure::Message(no_thread(&e)))
}

/// Returns the message for a thread that cannot be started.
pub fn no_thread(error: &dyn std::fmt::Display) -> String {
    format!(
        "cannot start a thread: {error}; the limit of address space (ulimit -v) or of processes \
         (ulimit -u) is too low"
    )
}

/// Returns the number of threads to start for `wanted`; prints a note if it is smaller.
fn capped(key: &str, wanted: usize) -> usize {
    let threads = machine::threads(wanted);
    if threads < wanted {
        let cores = machine::threads(0);
        eprint(&format!("{key}={wanted} is too many for {cores} cores; using {threads} threads"));
    }
    threads
}

/// Source of a trained network.
pub enum Trained {
    /// A run folder and a checkpoint in it.
    Run(PathBuf, Wanted),
    /// A recipe with `model.checkpoint`: the file that this key names.
    Recipe(PathBuf),
}

impl Trained {
    /// Finds the trained network that `name` stands for, and its recipe. `name` is the folder of a
    /// run (checkpoint `step`, or the newest) or a recipe that names trained weights. `command` is
    /// [`Command::Eval`] or [`Command::Predict`]; its argument says whether it is a run. An
    /// override that has no effect there is refused.
    pub fn find(
        name: &str,
        step: Option<u64>,
        overrides: &[String],
        command: fn(bool) -> Command,
    ) -> Result<(Trained, Recipe), Failure> {
        let path = Path::new(name);
        let run = run_folder::find(path);
        let recipe = EMBEDDED.iter().any(|r| r.name == name) || path.is_file();
        if run.is_some() || !recipe {
            let dir = run.unwrap_or(path);
            let wanted = Wanted::find(dir, step)?;
            let read = || run_folder::recipe_of(dir, overrides);
            let recipe = acting(command(true), overrides, read)?;
            return Ok((Trained::Run(dir.into(), wanted), recipe));
        }
        let recipe = acting(command(false), overrides, || Recipe::find(name, overrides))?;
        let failure = |what: &str| Failure::Message(format!("recipe {name}: {what}"));
        if step.is_some() {
            return Err(failure("--checkpoint is for run folders; set model.checkpoint=FILE"));
        }
        let Some(file) = recipe.checkpoint().map(Path::to_path_buf) else {
            return Err(failure(
                "it names no trained weights; set model.checkpoint=FILE, or name the folder of a \
                 run instead",
            ));
        };
        Ok((Trained::Recipe(file), recipe))
    }

    /// Builds the network, loads the trained weights and moves it to its device. The device is
    /// reported to `watch` unless the recipe says `cpu`.
    pub fn load(&mut self, recipe: &Recipe, watch: &Watch) -> Result<Segmenter, Failure> {
        let place = Place::of(&recipe.run, watch)?;
        if recipe.run.device != "cpu" {
            watch.note(&format!("on {}", place.description()));
        }
        place.warning().into_iter().for_each(warn);
        Ok(place.take(match self {
            Trained::Run(dir, wanted) => wanted.open(dir, |step| load(recipe, dir, step))?,
            Trained::Recipe(_) => network::build(recipe)?,
        })?)
    }

    /// Returns the default folder for results.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Trained::Run(dir, _) => Some(dir),
            Trained::Recipe(_) => None,
        }
    }
}

/// Refuses a result file that would replace a file of the run in `dir`.
pub fn refuse_own_file(dir: &Path, out: &Path) -> Result<(), Failure> {
    if !run_folder::is_own_file(dir, out) {
        return Ok(());
    }
    let what = format!("{} belongs to the run itself; choose another --out", out.display());
    Err(Failure::Message(what))
}

/// The checkpoint of a run that a command works with.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Step of the checkpoint.
    pub step: u64,
    /// Whether it was chosen as the newest.
    newest: bool,
}

impl Wanted {
    /// Finds the checkpoint of `step`, or the newest of the run folder.
    pub fn find(run: &Path, step: Option<u64>) -> Result<Wanted, Failure> {
        let found = checkpoint::list(run)?;
        let missing = |what: String| TrainError::RunFolder { path: run.to_path_buf(), what };
        let Some(last) = found.last() else {
            let what =
                "holds no checkpoint; name the folder of a run, such as runs/demo, or a recipe";
            return Err(missing(what.into()).into());
        };
        match step {
            None => Ok(Wanted { step: *last, newest: true }),
            Some(step) if found.contains(&step) => Ok(Wanted { step, newest: false }),
            Some(step) => {
                let known = found.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
                let what = format!("holds no checkpoint of step {step}; there are {known}");
                Err(missing(what).into())
            }
        }
    }

    /// Opens the checkpoint. A training running at the same time may have removed it: then the
    /// newest is opened, unless a step was given.
    pub fn open<T>(
        &mut self,
        run: &Path,
        open: impl Fn(u64) -> Result<T, TrainError>,
    ) -> Result<T, Failure> {
        loop {
            let opened = open(self.step);
            if opened.is_ok() || !self.newest || checkpoint::path_of(run, self.step).exists() {
                return Ok(opened?);
            }
            let newest = Wanted::find(run, None)?;
            if newest.step == self.step {
                return Ok(opened?);
            }
            *self = newest;
        }
    }
}
