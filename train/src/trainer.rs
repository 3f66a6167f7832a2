//! The training loop: batches in, updates, log lines, checkpoints and scores out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use dressage_engine::memory::{self, usage, usage_on};
use dressage_kernels::{allocate, scratch, simd};
use dressage_models::Segmenter;
use dressage_models::criterion::{Criterion, DevicePoints};
use serde::Serialize;

use crate::checkpoint_timer::{CheckpointTimer, Clock};
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
use crate::resume::Earlier;
use crate::run_folder::{LOG, RunFolder};
use crate::runlog::{Progress, RunLog, Stage};
use crate::schedule::Schedule;
pub use crate::setup::load;
use crate::setup::loader_settings;
use crate::step::Pending;
pub use crate::step::StepLog;
use crate::wait::Waiting;
use crate::{Result, TrainError, checkpoint, network};

/// A run: a network on its way through the steps of a recipe.
pub struct Trainer {
    pub(crate) recipe: Recipe,
    pub(crate) dir: PathBuf,
    /// Its folder, but for a dry run.
    pub(crate) folder: Option<RunFolder>,
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
    /// Whether an update has begun and not ended: nothing of it may be saved.
    pub(crate) torn: bool,
    /// What whoever watches is still to be told.
    pub(crate) note: Option<String>,
    /// Memory that the steps take; made with the first trainer that is not itself a dry run. Not
    /// on a device: a dry run knows the host alone.
    pub(crate) plan: Option<Plan>,
    /// The same for a device that tells how much of its memory is free.
    pub(crate) device_plan: Option<DevicePlan>,
    /// Time until a checkpoint is due by time.
    pub(crate) timer: CheckpointTimer,
    /// Step of the checkpoint that was due by time; the next one replaces it.
    pub(crate) timed: Option<u64>,
    /// Earlier state of a resumed run.
    pub(crate) earlier: Option<Earlier>,
    /// The data once they are checked.
    pub(crate) data: Option<Checked>,
    /// The first evaluation that failed, in words.
    pub(crate) unscored: Option<String>,
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
    /// The first evaluation that failed, in words.
    pub unscored: Option<String>,
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
    /// Of these, seconds of waiting for samples.
    waited: f64,
    images_per_s: f64,
    memory_mib: f64,
    /// Code of the host's CPU.
    cpu: String,
    #[serde(flatten)]
    terms: BTreeMap<&'a str, f32>,
}

/// The share of a step above which waiting for samples is told: `run.workers` are too few then.
const WORTH_TELLING: f64 = 0.1;

impl Trainer {
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

    /// Makes the checkpoints by time go by another clock.
    pub fn set_clock(&mut self, clock: Clock) {
        self.timer.set_clock(clock);
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

    /// How the data workers draw samples.
    pub fn loader_settings(&self) -> LoaderSettings {
        loader_settings(&self.recipe, self.step)
    }

    /// Trains to the last step of the recipe, or until someone asks to stop; either way the state
    /// is saved, also when a sample cannot be read. The data are checked before anything is
    /// written.
    ///
    /// # Errors
    /// Data that cannot be used, samples that cannot be read, a loss that is not a number, a
    /// checkpoint that cannot be written.
    pub fn run(&mut self, progress: &dyn Progress, stop: &Interrupt) -> Result<Outcome> {
        self.check_data(progress, stop)?;
        let steps = self.recipe.train.steps;
        let mut log = self.begin(progress)?;
        self.timer.restart();
        let from = self.step;
        let trained = allocate::catch(|| self.steps(&mut log, progress, stop));
        let memory = match trained.unwrap_or_else(|refused| Err(refused.into())) {
            Ok(memory) => memory,
            Err(error) => {
                self.save_on_error(from, &error, progress);
                return Err(error);
            }
        };
        if self.step == 0 && steps > 0 {
            // A checkpoint without a step would refuse another start with better settings.
            return Err(TrainError::Interrupted);
        }
        let saved = self.checkpoint(&log, false)?;
        let interrupted = self.step < steps;
        let mut report = None;
        if !interrupted && !self.recipe.data.eval.is_empty() {
            report = self.evaluate(&mut log, progress, stop)?;
        }
        log.sync()?;
        let left_out = self.data.as_ref().map(Checked::left_out).unwrap_or_default();
        Ok(Outcome {
            step: self.step,
            interrupted,
            checkpoint: saved,
            report,
            memory,
            left_out,
            unscored: self.unscored.clone(),
        })
    }

    /// Writes what a run folder holds before the first step, and opens the log.
    fn begin(&mut self, progress: &dyn Progress) -> Result<RunLog> {
        let checkpoints = checkpoint::folder(&self.dir);
        std::fs::create_dir_all(&checkpoints)
            .map_err(|source| TrainError::Write { path: checkpoints, source })?;
        if let Some(folder) = self.folder.as_ref().filter(|_| self.earlier.is_none()) {
            let aside =
                [("log", folder.set_log_aside()?), ("state", folder.set_before_nan_aside()?)];
            for (what, old) in aside {
                if let Some(old) = old {
                    let old = old.display();
                    progress.note(&format!("the {what} of an earlier start is now {old}"));
                }
            }
        }
        self.set_later_aside(progress)?;
        let mut log = RunLog::open(&self.dir.join(LOG), self.step)?;
        // Before the recipe has them: a run that is killed in between still tells of them.
        self.log_changes(&mut log, progress)?;
        if let Some(folder) = &self.folder
            && let Some(old) = folder.write_recipe(&self.recipe)?
        {
            progress.note(&format!("the recipe that was there is now {}", old.display()));
        }
        Ok(log)
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
        let made_up = self.make_up(log, progress, stop)?;
        let waiting = Waiting::new(progress, stop);
        let mut loader = self.loader()?;
        let steps = self.recipe.train.steps;
        let mut stage = Stage::new(progress, "train", Some(steps));
        let mut window = Window::start(self.step);
        while self.step < steps && !stop.requested() {
            let start = Instant::now();
            let batch = match loader.next_batch_unless(waiting) {
                Err(TrainError::Interrupted) => break,
                batch => batch?,
            };
            window.waited += start.elapsed().as_secs_f64();
            let mut done = self.queue(&batch)?;
            if let Some(note) = self.note.take() {
                progress.note(&note);
            }
            window.add(done.as_ref());
            stage.at(self.step, &window.text(self.step));
            let step = self.step;
            let every = |n: u64| n > 0 && step.is_multiple_of(n);
            if every(self.recipe.train.log_every) || step == steps {
                if let Some(last) = self.flush()? {
                    window.add(Some(&last));
                    stage.at(self.step, &window.text(self.step));
                    done = Some(last);
                }
                if let Some(done) = &done {
                    self.log_step(log, done, &window)?;
                }
                window = Window::start(self.step);
            }
            let regular = every(self.recipe.train.checkpoint_every);
            if (regular || self.timer.is_over()) && self.step < steps {
                window.add(self.flush()?.as_ref());
                self.checkpoint(log, !regular)?;
            }
            if every(self.recipe.train.eval_every) && self.step < steps {
                window.add(self.flush()?.as_ref());
                drop(stage);
                // An evaluation has a peak of its own.
                memory = memory.or_else(|| self.memory());
                self.evaluate(log, progress, stop)?;
                stage = Stage::new(progress, "train", Some(steps));
                window = Window::start(self.step);
            }
        }
        self.flush()?;
        // A peak of an evaluation before the first step is none of the steps.
        memory = memory.or_else(|| self.memory()).filter(|_| self.step > from && !made_up);
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
    fn save_on_error(&mut self, from: u64, error: &TrainError, progress: &dyn Progress) {
        // The first may have met a step half done, the second has a file of its own.
        let torn = self.torn || matches!(error, TrainError::Engine(_) | TrainError::Model(_));
        let bad = matches!(error, TrainError::NotFinite { .. } | TrainError::BrokenState { .. });
        if torn || bad || self.step == from {
            return;
        }
        // What the steps have used is of use to the file now.
        memory::trim();
        scratch::trim();
        // The error that ended the run is the one to report, not that of a disk which is full as
        // well.
        let saved = allocate::catch(|| self.flush().and_then(|_| self.save()));
        progress.note(&match saved {
            Ok(Ok(path)) => format!("step {} is saved in {}", self.step, path.display()),
            Ok(Err(error)) => format!("step {} is not saved: {error}", self.step),
            Err(refused) => format!("step {} is not saved: {refused}", self.step),
        });
    }

    /// Writes a checkpoint and removes the oldest beyond those to keep. A loss that is on a device
    /// still has to be looked at before ([`Trainer::flush`]).
    ///
    /// # Errors
    /// A file that cannot be written; earlier checkpoints survive.
    pub fn save(&self) -> Result<PathBuf> {
        let path = checkpoint::path_of(&self.dir, self.step);
        self.write(&path, self.step)?;
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
            waited: window.waited_per_step(self.step),
            images_per_s: self.recipe.train.batch as f64 / per_step,
            memory_mib: self.peak() as f64 / f64::from(1 << 20),
            cpu: simd::described(),
            terms: done.terms.iter().map(|(k, v)| (k.as_str(), *v)).collect(),
        };
        Ok(log.write("train", self.step, &line)?)
    }
}

/// Steps since the last log line.
struct Window {
    from: u64,
    start: Instant,
    sum: f64,
    n: u32,
    /// Seconds of waiting for samples.
    waited: f64,
}

impl Window {
    fn start(from: u64) -> Window {
        Window { from, start: Instant::now(), sum: 0.0, n: 0, waited: 0.0 }
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

    fn waited_per_step(&self, step: u64) -> f64 {
        self.waited / (step - self.from).max(1) as f64
    }

    fn text(&self, step: u64) -> String {
        let (seconds, waited) = (self.seconds_per_step(step), self.waited_per_step(step));
        let mut pace = format!("{seconds:.2} s/step");
        if waited > WORTH_TELLING * seconds {
            pace += &format!(", {:.0} % of it waiting for samples", 100.0 * waited / seconds);
        }
        // The first loss of a window may be on a device still.
        if self.n == 0 { pace } else { format!("loss {:.2}, {pace}", self.mean_loss()) }
    }
}
