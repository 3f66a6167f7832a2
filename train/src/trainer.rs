//! The training loop: batches in, updates, log lines, checkpoints and scores out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use dressage_engine::memory::{self, usage, usage_on};
use dressage_kernels::cpu::{allocate, scratch, simd};
use dressage_models::Segmenter;
use serde::Serialize;

use crate::checkpoint_timer::{CheckpointTimer, Clock};
use crate::data::check::{Checked, LeftOut, Which, check_recipe};
use crate::data::{Loader, LoaderSettings};
use crate::graphs::OnDevice;
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

/// Training run: a network and its progress through the steps of a recipe.
pub struct Trainer {
    pub(crate) recipe: Recipe,
    pub(crate) dir: PathBuf,
    /// Run folder; `None` for a dry run.
    pub(crate) folder: Option<RunFolder>,
    pub(crate) place: Place,
    pub(crate) model: Segmenter,
    pub(crate) optimiser: Optimiser,
    /// Schedule of the learning rate.
    pub(crate) schedule: Schedule,
    /// Schedule of the weight decay.
    pub(crate) decay: Schedule,
    /// Steps done.
    pub(crate) step: u64,
    /// The last step, if its loss is still on a device.
    pub(crate) pending: Option<Pending>,
    /// State of the steps on a device.
    pub(crate) on_device: Option<OnDevice>,
    /// Whether an update is incomplete, so that the state must not be saved.
    pub(crate) torn: bool,
    /// Message for the progress reporter, sent after the step.
    pub(crate) note: Option<String>,
    /// Memory plan of the steps, on the host or on a device that reports its free memory; `None`
    /// within a dry run.
    pub(crate) plan: Option<Plan>,
    /// Timer of the checkpoints that are due by time.
    pub(crate) timer: CheckpointTimer,
    /// Step of the last checkpoint written by time; the next checkpoint replaces it.
    pub(crate) timed: Option<u64>,
    /// Earlier state of a resumed run.
    pub(crate) earlier: Option<Earlier>,
    /// The data sets, once they are checked.
    pub(crate) data: Option<Checked>,
    /// Error text of the first evaluation that failed.
    pub(crate) unscored: Option<String>,
}

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether the run was asked to stop before its last step.
    pub interrupted: bool,
    /// Last checkpoint.
    pub checkpoint: PathBuf,
    /// Scores of the last evaluation, if the run reached it.
    pub report: Option<Report>,
    /// Memory of the steps, if any was done.
    pub memory: Option<MemoryReport>,
    /// Data that the run left out.
    pub left_out: LeftOut,
    /// Error text of the first evaluation that failed.
    pub unscored: Option<String>,
}

/// Memory that the steps of a run used.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MemoryReport {
    /// Host memory, compared with the plan.
    Host(Comparison),
    /// Device memory, which is not compared with a plan.
    Device(DeviceMemory),
}

impl MemoryReport {
    /// The memory used, as one line.
    pub fn line(&self) -> String {
        match self {
            MemoryReport::Host(comparison) => comparison.line(),
            MemoryReport::Device(taken) => taken.line(),
        }
    }
}

#[derive(Serialize)]
struct LogLine<'a> {
    loss: f32,
    lr: f64,
    seconds: f64,
    /// Part of `seconds` spent waiting for samples.
    waited: f64,
    images_per_s: f64,
    memory_mib: f64,
    /// Code path of the host's CPU.
    cpu: String,
    #[serde(flatten)]
    terms: BTreeMap<&'a str, f32>,
}

/// Share of a step above which waiting for samples is reported; `run.workers` is then too small.
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

    /// Host or device that runs the steps.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Memory plan of the steps, on the host or on a device that reports its free memory.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Sets the clock for the checkpoints by time.
    pub fn set_clock(&mut self, clock: Clock) {
        self.timer.set_clock(clock);
    }

    /// Opens and checks the data sets unless that is already done.
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

    /// Settings of the data workers.
    pub fn loader_settings(&self) -> LoaderSettings {
        loader_settings(&self.recipe, self.step)
    }

    /// Trains to the last step of the recipe, or until a stop is requested. Either way the state is
    /// saved, also when a sample cannot be read. The data are checked before anything is written.
    ///
    /// # Errors
    /// Data that cannot be used, samples that cannot be read, a loss that is not finite, a
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
            // A checkpoint of step 0 would block a new start with better settings.
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

    /// Prepares the run folder before the first step and opens the log.
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
                    progress.note(&format!("the {what} of an earlier start is kept as {old}"));
                }
            }
        }
        self.set_later_aside(progress)?;
        let mut log = RunLog::open(&self.dir.join(LOG), self.step)?;
        // Logged before the recipe is written: the log of a run killed in between still has the
        // changes.
        self.log_changes(&mut log, progress)?;
        if let Some(folder) = &self.folder
            && let Some(old) = folder.write_recipe(&self.recipe)?
        {
            progress.note(&format!("the earlier recipe is kept as {}", old.display()));
        }
        Ok(log)
    }

    /// Runs the steps of [`Trainer::run`], with the log lines, checkpoints and evaluations between
    /// them.
    fn steps(
        &mut self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<Option<MemoryReport>> {
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
                // Read before the evaluation, which has its own peak.
                memory = memory.or_else(|| self.memory());
                self.evaluate(log, progress, stop)?;
                stage = Stage::new(progress, "train", Some(steps));
                window = Window::start(self.step);
            }
        }
        self.flush()?;
        // The peak of an evaluation before the first step is not a peak of the steps.
        memory = memory.or_else(|| self.memory()).filter(|_| self.step > from && !made_up);
        if let Some(memory) = &memory {
            log.write("memory", self.step, memory)?;
        }
        Ok(memory)
    }

    fn memory(&self) -> Option<MemoryReport> {
        match self.place.device() {
            Some(device) => Some(MemoryReport::Device(DeviceMemory::now(device))),
            None => Some(MemoryReport::Host(Comparison::now(self.plan.as_ref()?.chosen()?.needs))),
        }
    }

    /// Saves the state if steps were done since `from`, before the run ends with `error`.
    fn save_on_error(&mut self, from: u64, error: &TrainError, progress: &dyn Progress) {
        // `torn`: a step may be half done. `bad`: the state has a file of its own.
        let torn = self.torn || matches!(error, TrainError::Engine(_) | TrainError::Model(_));
        let bad = matches!(error, TrainError::NotFinite { .. } | TrainError::BrokenState { .. });
        if torn || bad || self.step == from {
            return;
        }
        // Frees memory that the steps used, so that writing the file can use it.
        memory::trim();
        scratch::trim();
        // The error that ended the run is reported, even if saving fails as well, say on a full
        // disk.
        let saved = allocate::catch(|| self.flush().and_then(|_| self.save()));
        progress.note(&match saved {
            Ok(Ok(path)) => format!("step {} is saved in {}", self.step, path.display()),
            Ok(Err(error)) => format!("step {} is not saved: {error}", self.step),
            Err(refused) => format!("step {} is not saved: {refused}", self.step),
        });
    }

    /// Writes a checkpoint and removes the oldest beyond `train.keep`. A loss that is still on a
    /// device has to be read first ([`Trainer::flush`]).
    ///
    /// # Errors
    /// A file that cannot be written; earlier checkpoints survive.
    pub fn save(&self) -> Result<PathBuf> {
        let path = checkpoint::path_of(&self.dir, self.step);
        self.write(&path, self.step)?;
        checkpoint::prune(&self.dir, self.recipe.train.keep)?;
        Ok(path)
    }

    /// Peak bytes of tensors on the host or device that runs the steps.
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
            images_per_s: self.recipe.images_per_step() as f64 / per_step,
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
    /// Seconds spent waiting for samples.
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
        // The first loss of a window may still be on a device.
        if self.n == 0 { pace } else { format!("loss {:.2}, {pace}", self.mean_loss()) }
    }
}
