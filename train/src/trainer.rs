//! The training loop: batches in, updates, log lines, checkpoints and scores out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{Tensor, backward, isolated};
use dressage_models::criterion::{Candidate, Criterion, Loss, RandomPoints, Targets};
use dressage_models::{ModelError, Segmenter};
use serde::Serialize;

use crate::data::{Batch, Loader, LoaderSettings};
use crate::interrupt::Interrupt;
use crate::metrics::Report;
use crate::optimiser::Optimiser;
use crate::plan::{Comparison, Plan};
use crate::recipe::Recipe;
use crate::runlog::{Progress, RunLog, Stage};
use crate::schedule::Schedule;
use crate::{Result, TrainError, checkpoint, evaluate, files, network};

/// A run: a network on its way through the steps of a recipe.
pub struct Trainer {
    recipe: Recipe,
    dir: PathBuf,
    model: Segmenter,
    criterion: Criterion,
    optimiser: Optimiser,
    schedule: Schedule,
    /// Steps done.
    step: u64,
    /// Memory that the steps take; made with the first trainer that is not itself an outline.
    plan: Option<Plan>,
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
    /// Planned and found memory, if a step was done.
    pub memory: Option<Comparison>,
}

/// What one step did.
#[derive(Debug, Clone, Serialize)]
pub struct StepLog {
    /// Sum of all losses.
    pub loss: f32,
    /// Every term under the reference's name, without its `decode.`.
    pub terms: Vec<(String, f32)>,
    /// Learning rate.
    pub lr: f64,
    /// Seconds for data, forward, losses, backward, update.
    pub seconds: [f64; 5],
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
        let plan = Plan::new(&recipe)?;
        if recipe.run.check_memory {
            plan.check(&recipe)?;
        }
        let model = match last {
            None => network::build(&recipe)?,
            Some(_) => network::rebuild(&recipe)?,
        };
        let mut trainer = Trainer { plan: Some(plan), ..Trainer::around(recipe, model)? };
        if let Some(step) = last {
            trainer.restore(step)?;
        }
        Ok(trainer)
    }

    /// A run before its first step, whatever its folder holds.
    pub(crate) fn fresh(recipe: Recipe) -> Result<Trainer> {
        let model = network::build(&recipe)?;
        Trainer::around(recipe, model)
    }

    fn around(recipe: Recipe, model: Segmenter) -> Result<Trainer> {
        let optimiser = network::optimiser(&recipe, &model);
        let (criterion, schedule) = (network::criterion(&recipe), recipe.schedule()?);
        let (dir, plan) = (recipe.run.dir.clone(), None);
        Ok(Trainer { recipe, dir, model, criterion, optimiser, schedule, step: 0, plan })
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

    /// Memory that the steps take.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Starts the data workers at the next step.
    ///
    /// # Errors
    /// Data sets that cannot be opened.
    pub fn loader(&self) -> Result<Loader> {
        Loader::start(network::train_source(&self.recipe)?, self.loader_settings())
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
    /// is saved, also when a sample cannot be read.
    ///
    /// # Errors
    /// Samples that cannot be read, a loss that is not a number, a checkpoint that cannot be
    /// written.
    pub fn run(&mut self, progress: &dyn Progress, stop: &Interrupt) -> Result<Outcome> {
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
        Ok(Outcome { step: self.step, interrupted, checkpoint: saved, report, memory })
    }

    /// The steps of [`Trainer::run`], with what is due between them.
    fn steps(
        &mut self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<Option<Comparison>> {
        let mut memory = None;
        let from = self.step;
        let mut loader = self.loader()?;
        let steps = self.recipe.train.steps;
        let mut stage = Stage::new(progress, "train", Some(steps));
        let mut window = Window::start(self.step);
        while self.step < steps && !stop.requested() {
            let done = self.step_with(&mut loader)?;
            let every = |n: u64| n > 0 && self.step.is_multiple_of(n);
            window.add(&done);
            stage.at(self.step, &window.text(self.step));
            if every(self.recipe.train.log_every) || self.step == steps {
                self.log_step(log, &done, &window)?;
                window = Window::start(self.step);
            }
            if every(self.recipe.train.checkpoint_every) && self.step < steps {
                self.save()?;
            }
            if every(self.recipe.train.eval_every) && self.step < steps {
                drop(stage);
                // An evaluation has a peak of its own.
                memory = memory.or_else(|| self.compare_memory());
                self.evaluate(log, progress, stop)?;
                stage = Stage::new(progress, "train", Some(steps));
                window = Window::start(self.step);
            }
        }
        memory = memory.or_else(|| self.compare_memory()).filter(|_| self.step > from);
        if let Some(memory) = &memory {
            log.write("memory", self.step, memory)?;
        }
        Ok(memory)
    }

    fn compare_memory(&self) -> Option<Comparison> {
        self.plan.as_ref().map(|plan| Comparison::now(plan.chosen()))
    }

    /// Saves what has been learnt since step `from` before the run ends with `error`.
    fn keep(&self, from: u64, error: &TrainError, progress: &dyn Progress) {
        // The first may have met a step half done, the second has a file of its own.
        let torn = matches!(error, TrainError::Engine(_) | TrainError::Model(_));
        if torn || matches!(error, TrainError::NotFinite { .. }) || self.step == from {
            return;
        }
        // The error that ended the run is the one to report, not that of a disk which is full as
        // well.
        if let Ok(path) = self.save() {
            progress.note(&format!("step {} is saved in {}", self.step, path.display()));
        }
    }

    /// One step on the loader's next batch.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn step_with(&mut self, loader: &mut Loader) -> Result<StepLog> {
        let start = Instant::now();
        let batch = loader.next_batch()?;
        let waited = start.elapsed().as_secs_f64();
        let mut done = self.step_on(&batch)?;
        done.seconds[0] += waited;
        Ok(done)
    }

    /// One step on a batch.
    ///
    /// # Errors
    /// A loss that is not a number (nothing is updated then, and the state is kept in a file of
    /// its own).
    pub fn step_on(&mut self, batch: &Batch) -> Result<StepLog> {
        // On a thread of the pool, so that a parallel loop starts without waking anybody to hand
        // the work over.
        rayon::scope(|_| isolated(|| self.step_in_pool(batch)))
    }

    fn step_in_pool(&mut self, batch: &Batch) -> Result<StepLog> {
        let (b, h, w, classes) = (batch.b, batch.h, batch.w, self.recipe.classes());
        self.step_from(&batch.names, || {
            let image = Tensor::from_slice(&batch.images, &[b, 3, h, w])?;
            let labels = Tensor::from_slice(&batch.labels, &[b, h, w])?;
            Ok((image, Targets::new(labels, classes)?))
        })
    }

    /// Goes through a step within an outline, with every class in every image.
    pub(crate) fn outline_step(&mut self) -> Result<StepLog> {
        let (b, s) = (self.recipe.train.batch, self.recipe.augment.crop);
        let classes = self.recipe.classes();
        self.step_from(&[], || {
            let image = Tensor::empty::<f32>(&[b, 3, s, s]);
            Ok((image, Targets::outlined(b, s, classes)))
        })
    }

    /// A step on the images `[b, 3, h, w]` and targets that `data` makes of `samples`.
    fn step_from(
        &mut self,
        samples: &[String],
        data: impl FnOnce() -> Result<(Tensor, Targets)>,
    ) -> Result<StepLog> {
        let mut clock = Clock::start();
        let (image, targets) = with_category(Category::Data, data)?;
        let (b, classes) = (image.dim(0), self.criterion.config.classes);
        clock.lap();
        let output = self.model.forward(&image, false)?;
        clock.lap();
        let queries = self.model.head().config().queries;
        let mut points = RandomPoints {
            seed: self.recipe.train.seed,
            step: self.step,
            capacity: b * classes.min(queries),
        };
        let candidates = Candidate::of(&output);
        let loss = self.criterion.loss(&candidates, &targets, &mut points);
        drop((output, candidates));
        let loss = self.checked(loss, samples)?;
        clock.lap();
        let (value, terms) = (loss.total.item::<f32>()?, loss.named()?);
        let mut grads = backward(loss.total)?;
        drop(loss.layers);
        clock.lap();
        let lr = self.schedule.lr(self.step);
        self.optimiser.step(lr, &mut grads)?;
        drop(grads);
        clock.lap();
        self.step += 1;
        Ok(StepLog { loss: value, terms, lr, seconds: clock.laps })
    }

    /// Turns a loss that is not a number into an error that says where it arose, after saving the
    /// state.
    fn checked(
        &self,
        loss: std::result::Result<Loss, ModelError>,
        samples: &[String],
    ) -> Result<Loss> {
        let what = match loss {
            Ok(loss) => match loss.named()?.iter().find(|(_, v)| !v.is_finite()) {
                None => return Ok(loss),
                Some((name, value)) => format!("{name} is {value}"),
            },
            Err(ModelError::Matching(what)) => what,
            Err(other) => return Err(other.into()),
        };
        let kept = self.dir.join("checkpoints").join("before-nan.safetensors");
        let seed = self.recipe.train.seed;
        checkpoint::save(&kept, &self.model, &self.optimiser, self.step, seed)?;
        let samples = samples.join(", ");
        Err(TrainError::NotFinite { step: self.step, what, kept, samples })
    }

    /// Writes a checkpoint and removes the oldest beyond those to keep.
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

    fn log_step(&self, log: &mut RunLog, done: &StepLog, window: &Window) -> Result<()> {
        let per_step = window.seconds_per_step(self.step);
        let line = LogLine {
            loss: window.mean_loss(),
            lr: done.lr,
            seconds: per_step,
            images_per_s: self.recipe.train.batch as f64 / per_step,
            memory_mib: dressage_engine::memory::usage().peak as f64 / f64::from(1 << 20),
            terms: done.terms.iter().map(|(k, v)| (k.as_str(), *v)).collect(),
        };
        Ok(log.write("train", self.step, &line)?)
    }

    fn evaluate(
        &self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<Option<Report>> {
        match evaluate::evaluate(&self.model, &self.recipe, progress, stop) {
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

/// Loads the network of a run folder as it was after `step`; `recipe` is the one in the folder,
/// perhaps with other settings for evaluation.
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

/// Laps of one step.
struct Clock {
    last: Instant,
    laps: [f64; 5],
    next: usize,
}

impl Clock {
    fn start() -> Clock {
        Clock { last: Instant::now(), laps: [0.0; 5], next: 0 }
    }

    fn lap(&mut self) {
        let now = Instant::now();
        if let Some(lap) = self.laps.get_mut(self.next) {
            *lap = (now - self.last).as_secs_f64();
        }
        (self.last, self.next) = (now, self.next + 1);
    }
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

    fn add(&mut self, done: &StepLog) {
        self.sum += f64::from(done.loss);
        self.n += 1;
    }

    fn mean_loss(&self) -> f32 {
        (self.sum / f64::from(self.n.max(1))) as f32
    }

    fn seconds_per_step(&self, step: u64) -> f64 {
        self.start.elapsed().as_secs_f64() / (step - self.from).max(1) as f64
    }

    fn text(&self, step: u64) -> String {
        format!("loss {:.2}, {:.2} s/step", self.mean_loss(), self.seconds_per_step(step))
    }
}
