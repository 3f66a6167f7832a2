//! One training step: forward pass, costs, assignment, losses, backward pass, update.
//!
//! On a device the host queues work and waits once a step, for the costs of the matching; the
//! losses of the step before come with them. So a loss is known one step late, or when
//! [`Trainer::settle`] asks for it. A loss that is not a number is caught where it arises: the
//! update reads it on the device and leaves everything as it was.

use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{Tensor, backward, isolated};
use dressage_models::ModelError;
use dressage_models::criterion::{Candidate, Loss, RandomPoints, Targets};
use serde::Serialize;

use crate::data::{Batch, Loader};
use crate::trainer::Trainer;
use crate::{Result, TrainError, checkpoint};

/// What one step did.
#[derive(Debug, Clone, Serialize)]
pub struct StepLog {
    /// Sum of all losses.
    pub loss: f32,
    /// Every term under the reference's name, without its `decode.`.
    pub terms: Vec<(String, f32)>,
    /// Learning rate.
    pub lr: f64,
    /// Seconds that the host spent on the step, waiting for data and for a device included.
    pub seconds: f64,
    /// Of these, seconds for data, forward, losses, backward, update. Not on a device, which works
    /// on after the host has queued a part.
    pub laps: Option<[f64; 5]>,
}

/// A step whose loss is on a device still.
pub(crate) struct Pending {
    step: u64,
    samples: Vec<String>,
    lr: f64,
    seconds: f64,
    loss: Loss,
}

impl Trainer {
    /// One step on the loader's next batch, its loss known.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn step_with(&mut self, loader: &mut Loader) -> Result<StepLog> {
        let start = Instant::now();
        let batch = loader.next_batch()?;
        let waited = start.elapsed().as_secs_f64();
        let mut done = self.step_on(&batch)?;
        done.seconds += waited;
        if let Some(laps) = &mut done.laps {
            laps[0] += waited;
        }
        Ok(done)
    }

    /// One step on a batch, its loss known; on a device the host waits for that. Of a step before
    /// whose loss nobody asked for nothing is told but that it was not a number.
    ///
    /// # Errors
    /// A loss that is not a number (nothing is updated then, and the state is kept in a file of
    /// its own).
    pub fn step_on(&mut self, batch: &Batch) -> Result<StepLog> {
        let before = self.queue(batch)?;
        let last = self.settle()?;
        last.or(before).ok_or(TrainError::Interrupted)
    }

    /// As [`Trainer::step_on`], but does not wait for the loss: on a device what is returned is the
    /// step before, if its loss was not known yet.
    ///
    /// # Errors
    /// As [`Trainer::step_on`], on a device also for the step before.
    pub fn queue(&mut self, batch: &Batch) -> Result<Option<StepLog>> {
        // On a thread of the pool, so that a parallel loop starts without waking anybody to hand
        // the work over.
        rayon::scope(|_| isolated(|| self.step_in_pool(batch)))
    }

    fn step_in_pool(&mut self, batch: &Batch) -> Result<Option<StepLog>> {
        let (b, h, w, classes) = (batch.b, batch.h, batch.w, self.recipe.classes());
        self.step_from(&batch.names, || {
            let image = Tensor::from_slice(&batch.images, &[b, 3, h, w])?;
            let labels = Tensor::from_slice(&batch.labels, &[b, h, w])?;
            Ok((image, Targets::new(labels, classes)?))
        })
    }

    /// Goes through a step within an outline, with every class in every image.
    pub(crate) fn outline_step(&mut self) -> Result<()> {
        let (b, s) = (self.recipe.train.batch, self.recipe.augment.crop);
        let classes = self.recipe.classes();
        self.step_from(&[], || {
            let image = Tensor::empty::<f32>(&[b, 3, s, s]);
            Ok((image, Targets::outlined(b, s, classes)))
        })?;
        Ok(())
    }

    /// A step on the images `[b, 3, h, w]` and targets that `data` makes of `samples`.
    fn step_from(
        &mut self,
        samples: &[String],
        data: impl FnOnce() -> Result<(Tensor, Targets)>,
    ) -> Result<Option<StepLog>> {
        let mut clock = Clock::start();
        let (image, targets) = with_category(Category::Data, data)?;
        let image = self.model.image(image)?;
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
        let (value, terms) = (loss.total.item::<f32>()?, loss.named());
        let mut grads = backward(loss.total)?;
        drop(loss.layers);
        clock.lap();
        let lr = self.schedule.lr(self.step);
        self.optimiser.step(lr, &mut grads)?;
        drop(grads);
        clock.lap();
        self.step += 1;
        let (seconds, laps) = (clock.laps.iter().sum(), Some(clock.laps));
        Ok(Some(StepLog { loss: value, terms, lr, seconds, laps }))
    }

    /// Waits for the loss of the last step if it is on a device still.
    ///
    /// # Errors
    /// A loss that is not a number: as [`Trainer::step_on`].
    pub fn settle(&mut self) -> Result<Option<StepLog>> {
        Ok(None)
    }

    /// Turns a loss that is not a number into an error that says where it arose, after saving the
    /// state.
    fn checked(
        &self,
        loss: std::result::Result<Loss, ModelError>,
        samples: &[String],
    ) -> Result<Loss> {
        let what = match loss {
            Ok(loss) => match loss.named().iter().find(|(_, v)| !v.is_finite()) {
                None => return Ok(loss),
                Some((name, value)) => format!("{name} is {value}"),
            },
            Err(ModelError::Matching(what)) => what,
            Err(other) => return Err(other.into()),
        };
        Err(self.not_finite(what, self.step, samples)?)
    }

    /// Saves the state before `step`, whose loss was not a number, and says so.
    fn not_finite(&self, what: String, step: u64, samples: &[String]) -> Result<TrainError> {
        let kept = self.dir.join("checkpoints").join("before-nan.safetensors");
        let seed = self.recipe.train.seed;
        checkpoint::save(&kept, &self.model, &self.optimiser, step, seed)?;
        Ok(TrainError::NotFinite { step, what, kept, samples: samples.join(", ") })
    }
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
