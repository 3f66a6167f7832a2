//! The training loop: batches in, updates, log lines, checkpoints and scores out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use dressage_engine::Device;
use dressage_engine::memory::{usage, usage_on};
use dressage_models::Segmenter;
use dressage_models::criterion::{Criterion, DevicePoints};
use serde::Serialize;

use crate::data::check::{Checked, LeftOut, Which, check_recipe};
use crate::data::{Loader, LoaderSettings};
use crate::device_plan::DevicePlan;
use crate::graphs::Graphs;
use crate::interrupt::Interrupt;
use crate::metrics::Report;
use crate::optimiser::Optimiser;
use crate::place::{DeviceMemory, Place};
use crate::plan::{Comparison, Plan};
use crate::recipe::Recipe;
use crate::runlog::{Progress, RunLog, Stage};
use crate::schedule::Schedule;
use crate::step::Pending;
pub use crate::step::StepLog;
use crate::{Result, TrainError, checkpoint, evaluate, files, network};

/// A run: a network on its way through the steps of a recipe.
pub struct Trainer {
    pub(crate) recipe: Recipe,
    pub(crate) dir: PathBuf,
    pub(crate) place: Place,
    pub(crate) model: Segmenter,
    pub(crate) criterion: Criterion,
    /// Random points of a device.
    pub(crate) points: Option<DevicePoints>,
    pub(crate) optimiser: Optimiser,
    pub(crate) schedule: Schedule,
    /// Steps done.
    pub(crate) step: u64,
    /// The last step, if its loss is on a device still.
    pub(crate) pending: Option<Pending>,
    /// On a device, if its steps go through graphs.
    pub(crate) graphs: Option<Graphs>,
    /// What whoever watches is still to be told.
    pub(crate) note: Option<String>,
    /// Memory that the steps take; made with the first trainer that is not itself an outline. Not
    /// on a device: an outline knows the host alone.
    plan: Option<Plan>,
    /// The same for a device that tells how much of its memory is free.
    device_plan: Option<DevicePlan>,
    /// The data once they are checked.
    data: Option<Checked>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether someone asked it to stop before its last step.
    pub interrupted: bool,
    /// Last checkpoint.
    pub checkpoint: PathBuf,
    /// Scores of the last evaluation, if the run got there.
    pub report: Option<Report>,
    /// Memory of the steps, if one was done.
    pub memory: Option<Memory>,
    /// Data that the run did without.
    pub left_out: LeftOut,
}

/// What the steps of a run took.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Memory {
    /// Of the host, beside the plan.
    Host(Comparison),
    /// Of a device, for which there is no plan.
    Device(DeviceMemory),
}

impl Memory {
    /// What was taken, as one line.
    pub fn line(&self) -> String {
        match self {
            Memory::Host(comparison) => comparison.line(),
            Memory::Device(taken) => taken.line(),
        }
    }
}

#[derive(Serialize)]
struct LogLine<'a> {
    loss: f32,
    lr: f64,
    seconds: f64,
    images_per_s: f64,
    memory_mib: f64,
    #[serde(flatten)]
    terms: std::collections::BTreeMap<&'a str, f32>,
}

/// Name of the resolved recipe in a run folder.
pub const RECIPE: &str = "recipe.toml";

impl Trainer {
    /// Sets up a run in its folder: a fresh one, or with `resume` the continuation of what lies
    /// there.
    ///
    /// # Errors
    /// A folder that holds a run already (or none to resume); too little memory; weights or a
    /// checkpoint that do not fit.
    pub fn new(recipe: Recipe, resume: bool) -> Result<Trainer> {
        let dir = recipe.run.dir.clone();
        let last = checkpoint::list(&dir)?.last().copied();
        let refuse =
            |what: &str| Err(TrainError::RunFolder { path: dir.clone(), what: what.to_string() });
        match (last, resume) {
            (Some(_), false) => {
                return refuse(
                    "holds checkpoints of an earlier run; continue it with --resume, or choose \
                     another run.dir",
                );
            }
            (None, true) => return refuse("holds no checkpoint to resume from"),
            _ => {}
        }
        let place = Place::of(&recipe.run)?;
        let plan = match place.device() {
            None => Some(Plan::new(&recipe)?),
            Some(_) => None,
        };
        let free = place.device().and_then(Device::free_memory);
        let device_plan = free.map(|free| DevicePlan::new(&recipe, Some(free))).transpose()?;
        if recipe.run.check_memory {
            plan.as_ref().map_or(Ok(()), |plan| plan.check(&recipe))?;
            device_plan.as_ref().map_or(Ok(()), |plan| plan.check(&recipe))?;
        }
        let model = match last {
            None => network::build(&recipe)?,
            Some(_) => network::rebuild(&recipe)?,
        };
        let mut trainer = Trainer { plan, device_plan, ..Trainer::around(recipe, model, place)? };
        if let Some(step) = last {
            trainer.restore(step)?;
        }
        Ok(trainer)
    }

    /// A run on the host before its first step, whatever its folder holds.
    pub(crate) fn fresh(recipe: Recipe) -> Result<Trainer> {
        let model = network::build(&recipe)?;
        Trainer::around(recipe, model, Place::host())
    }

    /// A run on a device that executes nothing, within an outline.
    pub(crate) fn rehearsal(recipe: Recipe, device: &Device) -> Result<Trainer> {
        let (model, place) = (network::build(&recipe)?, Place::rehearsal(device, &recipe.run));
        Trainer::around(recipe, model, place)
    }

    fn around(recipe: Recipe, model: Segmenter, place: Place) -> Result<Trainer> {
        let model = place.take(model)?;
        let optimiser = network::optimiser(&recipe, &model)?;
        let (criterion, schedule) = (network::criterion(&recipe), recipe.schedule()?);
        let points = |device| DevicePoints::new(device, recipe.train.seed);
        let points = place.device().map(points).transpose()?;
        let graphs = place.device().filter(|device| recipe.run.graphs && !device.is_dry_run());
        let (batch, crop) = (recipe.train.batch, recipe.augment.crop);
        let graphs = graphs.map(|device| Graphs::new(device, [batch, crop, crop]));
        let (dir, step, pending) = (recipe.run.dir.clone(), 0, None);
        Ok(Trainer {
            recipe,
            dir,
            place,
            model,
            criterion,
            points,
            optimiser,
            schedule,
            step,
            pending,
            graphs,
            note: None,
            plan: None,
            device_plan: None,
            data: None,
        })
    }

    fn restore(&mut self, step: u64) -> Result<()> {
        let path = checkpoint::path_of(&self.dir, step);
        let (notes, mut dict) = checkpoint::open(&path)?;
        if notes.seed != self.recipe.train.seed {
            let (a, b) = (notes.seed, self.recipe.train.seed);
            let what = format!("was trained with seed {a}, the recipe says {b}");
            return Err(TrainError::Checkpoint { path, what });
        }
        checkpoint::restore(&path, &notes, &mut dict, &self.model)?;
        self.optimiser.restore(&mut dict, &notes.updates)?;
        self.step = notes.step;
        Ok(())
    }

    /// The network.
    pub fn model(&self) -> &Segmenter {
        &self.model
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Where the steps are done.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Memory that the steps take on the host; not known for a device.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Memory that the steps take on a device that tells how much is free.
    pub fn device_plan(&self) -> Option<&DevicePlan> {
        self.device_plan.as_ref()
    }

    /// Opens and checks the data sets unless that is done.
    ///
    /// # Errors
    /// As [`check_recipe`].
    pub fn check_data(&mut self, progress: &dyn Progress, stop: &Interrupt) -> Result<&Checked> {
        let checked = match self.data.take() {
            Some(checked) => checked,
            None => check_recipe(&self.recipe, Which::All, progress, stop)?,
        };
        Ok(self.data.insert(checked))
    }

    /// Starts the data workers at the next step.
    ///
    /// # Errors
    /// Data sets that cannot be opened.
    pub fn loader(&self) -> Result<Loader> {
        let source = match self.data.as_ref().and_then(Checked::samples) {
            Some(source) => source,
            None => network::train_source(&self.recipe)?,
        };
        Loader::start(source, self.loader_settings())
    }

    pub(crate) fn loader_settings(&self) -> LoaderSettings {
        LoaderSettings {
            batch: self.recipe.train.batch,
            workers: self.recipe.run.workers,
            seed: self.recipe.train.seed,
            start_step: self.step,
            augment: self.recipe.augment.pipeline(),
        }
    }

    /// Trains to the last step of the recipe, or until someone asks to stop; either way the state
    /// is saved, also when a sample cannot be read. The data are checked before anything is written.
    ///
    /// # Errors
    /// Data that cannot be used, samples that cannot be read, a loss that is not a number, a checkpoint that cannot be
    /// written.
    pub fn run(&mut self, progress: &dyn Progress, stop: &Interrupt) -> Result<Outcome> {
        self.check_data(progress, stop)?;
        let recipe_text = self.recipe.to_toml()?;
        files::write_bytes(&self.dir.join(RECIPE), recipe_text.as_bytes())?;
        let steps = self.recipe.train.steps;
        // A run whose steps are all done is evaluated again.
        let again: &[&str] = if self.step < steps { &[] } else { &["eval"] };
        let mut log = RunLog::open(&self.dir.join("log.jsonl"), self.step, again)?;
        let from = self.step;
        let memory = match self.steps(&mut log, progress, stop) {
            Ok(memory) => memory,
            Err(error) => {
                self.keep(from, &error, progress);
                return Err(error);
            }
        };
        let saved = self.save()?;
        let interrupted = self.step < steps;
        let mut report = None;
        if !interrupted && !self.recipe.data.eval.is_empty() {
            report = self.evaluate(&mut log, progress, stop)?;
        }
        log.sync()?;
        let left_out = self.data.as_ref().map(Checked::left_out).unwrap_or_default();
        Ok(Outcome { step: self.step, interrupted, checkpoint: saved, report, memory, left_out })
    }

    /// The steps of [`Trainer::run`], with what is due between them.
    fn steps(
        &mut self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<Option<Memory>> {
        let mut memory = None;
        let from = self.step;
        let mut loader = self.loader()?;
        let steps = self.recipe.train.steps;
        let mut stage = Stage::new(progress, "train", Some(steps));
        let mut window = Window::start(self.step);
        while self.step < steps && !stop.requested() {
            let batch = loader.next_batch()?;
            let mut done = self.queue(&batch)?;
            if let Some(note) = self.note.take() {
                progress.note(&note);
            }
            window.add(done.as_ref());
            stage.at(self.step, &window.text(self.step));
            let step = self.step;
            let every = |n: u64| n > 0 && step.is_multiple_of(n);
            if every(self.recipe.train.log_every) || step == steps {
                if let Some(last) = self.settle()? {
                    window.add(Some(&last));
                    stage.at(self.step, &window.text(self.step));
                    done = Some(last);
                }
                if let Some(done) = &done {
                    self.log_step(log, done, &window)?;
                }
                window = Window::start(self.step);
            }
            if every(self.recipe.train.checkpoint_every) && self.step < steps {
                window.add(self.settle()?.as_ref());
                self.save()?;
            }
            if every(self.recipe.train.eval_every) && self.step < steps {
                window.add(self.settle()?.as_ref());
                drop(stage);
                // An evaluation has a peak of its own.
                memory = memory.or_else(|| self.memory());
                self.evaluate(log, progress, stop)?;
                stage = Stage::new(progress, "train", Some(steps));
                window = Window::start(self.step);
            }
        }
        self.settle()?;
        memory = memory.or_else(|| self.memory()).filter(|_| self.step > from);
        if let Some(memory) = &memory {
            log.write("memory", self.step, memory)?;
        }
        Ok(memory)
    }

    fn memory(&self) -> Option<Memory> {
        match self.place.device() {
            Some(device) => Some(Memory::Device(DeviceMemory::now(device))),
            None => Some(Memory::Host(Comparison::now(self.plan.as_ref()?.chosen()))),
        }
    }

    /// Saves what has been learnt since step `from` before the run ends with `error`.
    fn keep(&mut self, from: u64, error: &TrainError, progress: &dyn Progress) {
        // The first may have met a step half done, the second has a file of its own.
        let torn = matches!(error, TrainError::Engine(_) | TrainError::Model(_));
        if torn || matches!(error, TrainError::NotFinite { .. }) || self.step == from {
            return;
        }
        if self.settle().is_err() {
            return;
        }
        // The error that ended the run is the one to report, not that of a disk which is full as
        // well.
        if let Ok(path) = self.save() {
            progress.note(&format!("step {} is saved in {}", self.step, path.display()));
        }
    }

    /// Writes a checkpoint and removes the oldest beyond those to keep. A loss that is on a device
    /// still has to be looked at before ([`Trainer::settle`]).
    ///
    /// # Errors
    /// A file that cannot be written; earlier checkpoints survive.
    pub fn save(&self) -> Result<PathBuf> {
        let path = checkpoint::path_of(&self.dir, self.step);
        let seed = self.recipe.train.seed;
        checkpoint::save(&path, &self.model, &self.optimiser, self.step, seed)?;
        checkpoint::prune(&self.dir, self.recipe.train.keep)?;
        Ok(path)
    }

    /// Bytes of tensors at their peak, where the steps are done.
    fn peak(&self) -> usize {
        self.place.device().map_or_else(usage, usage_on).peak
    }

    fn log_step(&self, log: &mut RunLog, done: &StepLog, window: &Window) -> Result<()> {
        let per_step = window.seconds_per_step(self.step);
        let line = LogLine {
            loss: window.mean_loss(),
            lr: done.lr,
            seconds: per_step,
            images_per_s: self.recipe.train.batch as f64 / per_step,
            memory_mib: self.peak() as f64 / f64::from(1 << 20),
            terms: done.terms.iter().map(|(k, v)| (k.as_str(), *v)).collect(),
        };
        Ok(log.write("train", self.step, &line)?)
    }

    fn evaluate(
        &mut self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<Option<Report>> {
        // What graphs hold of the memory is needed here.
        self.graphs.iter_mut().for_each(Graphs::release);
        self.check_data(progress, stop)?;
        let sources = self.data.as_ref().map_or(&[][..], |data| &data.eval);
        match evaluate::evaluate(&self.model, &self.recipe, sources, progress, stop) {
            Ok(report) => {
                log.write("eval", self.step, &report)?;
                Ok(Some(report))
            }
            // The state is saved; a broken-off evaluation is no score.
            Err(TrainError::Interrupted) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// Loads the network of a run folder into host memory, as it was after `step`; `recipe` is the one
/// in the folder, perhaps with other settings for evaluation.
///
/// # Errors
/// A checkpoint that is not there or does not fit.
pub fn load(recipe: &Recipe, dir: &Path, step: u64) -> Result<Segmenter> {
    let path = checkpoint::path_of(dir, step);
    let (notes, mut dict) = checkpoint::open(&path)?;
    let model = network::rebuild(recipe)?;
    checkpoint::restore(&path, &notes, &mut dict, &model)?;
    Ok(model)
}

/// Steps since the last log line.
struct Window {
    from: u64,
    start: Instant,
    sum: f64,
    n: u32,
}

impl Window {
    fn start(from: u64) -> Window {
        Window { from, start: Instant::now(), sum: 0.0, n: 0 }
    }

    fn add(&mut self, done: Option<&StepLog>) {
        if let Some(done) = done {
            self.sum += f64::from(done.loss);
            self.n += 1;
        }
    }

    fn mean_loss(&self) -> f32 {
        (self.sum / f64::from(self.n.max(1))) as f32
    }

    fn seconds_per_step(&self, step: u64) -> f64 {
        self.start.elapsed().as_secs_f64() / (step - self.from).max(1) as f64
    }

    fn text(&self, step: u64) -> String {
        let pace = format!("{:.2} s/step", self.seconds_per_step(step));
        // The first loss of a window may be on a device still.
        if self.n == 0 { pace } else { format!("loss {:.2}, {pace}", self.mean_loss()) }
    }
}
