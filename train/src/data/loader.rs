//! Batches prepared ahead of the training loop.
//!
//! Sample number `i` (counted over the whole run) is prepared by worker `i mod workers`, and each
//! worker has its own bounded queue. The consumer takes from the queues in turn, so batches arrive
//! in order without a reordering buffer. A slow consumer stops the workers instead of filling
//! memory. All randomness of a sample is keyed by (seed, slot in the batch, step), so the number of
//! workers changes nothing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dressage_engine::Philox;
use dressage_kernels::cpu::allocate::zeroed;

use super::Source;
use super::sampler::Sampler;
use crate::augment::{Augment, normalise};
use crate::files::hint;
use crate::wait::{Missed, Waiting};
use crate::{Result, TrainError};

/// Purpose of the generator for augmentation.
const PURPOSE: u32 = 0x4155_474D;

/// Batches that may wait for the training loop.
const AHEAD: usize = 2;

/// Time that dropping a loader waits for workers in the middle of a sample. A worker that hangs in
/// a read is abandoned.
const GRACE: Duration = Duration::from_secs(1);

/// Settings of a loader.
#[derive(Debug, Clone)]
pub struct LoaderSettings {
    /// Samples per step.
    pub batch: usize,
    /// Worker threads.
    pub workers: usize,
    /// Seed of the order and of the augmentation.
    pub seed: u64,
    /// First step to deliver: a resumed run starts where it stopped.
    pub start_step: u64,
    /// Augmentation of each sample.
    pub augment: Augment,
}

/// Workers for a step on the host, which uses all cores.
pub(crate) const BESIDE_HOST: usize = 2;

/// Most workers for a GPU unless a recipe asks for more.
const FOR_GPU: usize = 16;

impl LoaderSettings {
    /// Workers for a machine of so many `cores` if the recipe leaves them open. A step on a GPU
    /// needs one core, so the others decode and augment, as long as their data fit into `room`
    /// bytes ([`LoaderSettings::bytes`]).
    pub fn workers_for(&self, gpu: bool, cores: usize, room: Option<usize>) -> usize {
        if !gpu {
            return BESIDE_HOST;
        }
        let most = cores.saturating_sub(1).clamp(BESIDE_HOST, FOR_GPU);
        let bytes = |workers| LoaderSettings { workers, ..self.clone() }.bytes();
        let fits = |workers: &usize| room.is_none_or(|room| bytes(*workers) <= room);
        (BESIDE_HOST..=most).rev().find(fits).unwrap_or(BESIDE_HOST)
    }

    fn depth(&self) -> usize {
        (AHEAD * self.batch).div_ceil(self.workers.max(1))
    }

    /// Approximate bytes of a loader. They cover the waiting samples, one sample in work per thread
    /// with its image at the largest size after the resize, and the last delivered batch.
    pub fn bytes(&self) -> usize {
        let (a, workers) = (&self.augment, self.workers.max(1));
        let pixels = a.crop_h * a.crop_w;
        let sample = pixels * (3 * size_of::<f32>() + 1);
        let short = a.shortest_edges.iter().max().copied().unwrap_or(a.crop_h.max(a.crop_w));
        let picture = 3 * short.min(a.max_edge) * a.max_edge;
        (workers * (self.depth() + 1) + self.batch) * sample + workers * picture
    }
}

/// The samples of one training step.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Step that these samples belong to.
    pub step: u64,
    /// Number of samples.
    pub b: usize,
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Normalised images, `[b, 3, h, w]`.
    pub images: Vec<f32>,
    /// Classes, `[b, h, w]`, 255 for pixels without one.
    pub labels: Vec<u8>,
    /// Name of each sample.
    pub names: Vec<String>,
}

struct Sample {
    image: Vec<f32>,
    label: Vec<u8>,
    name: String,
}

/// Delivers batches in order. Dropping it ends its threads, except one that hangs in a read.
pub struct Loader {
    settings: LoaderSettings,
    source: Arc<dyn Source>,
    queues: Vec<Receiver<Result<Sample>>>,
    workers: Vec<JoinHandle<()>>,
    step: u64,
    taken: u64,
}

impl Loader {
    /// Starts the workers on `source`.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for an empty source, batch or crop.
    pub fn start(source: Arc<dyn Source>, settings: LoaderSettings) -> Result<Self> {
        settings.augment.check()?;
        let fail = |setting, what: &str| Err(TrainError::Setting { setting, what: what.into() });
        if source.is_empty() {
            return fail("data.train", "a data set without samples");
        }
        if settings.batch == 0 {
            return fail("train.batch", "at least one sample a step is needed");
        }
        let count = settings.workers.max(1);
        let depth = settings.depth();
        let (mut queues, mut workers) = (Vec::new(), Vec::new());
        for worker in 0..count {
            let (send, receive) = sync_channel(depth);
            let (source, settings) = (Arc::clone(&source), settings.clone());
            let run = move || work(&*source, &settings, worker, count, &send);
            let thread = std::thread::Builder::new().name(format!("data {worker}")).spawn(run);
            let what = |e: std::io::Error| TrainError::Setting {
                setting: "run.workers",
                what: format!(
                    "cannot start thread {worker}: {e}{}",
                    hint(&e).unwrap_or("; lower it")
                ),
            };
            workers.push(thread.map_err(what)?);
            queues.push(receive);
        }
        let step = settings.start_step;
        Ok(Self { settings, source, queues, workers, step, taken: 0 })
    }

    /// Step that [`Self::next_batch`] delivers next.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Waits for the next batch.
    ///
    /// # Errors
    /// The error of a worker for a sample of this batch, or [`TrainError::WorkerEnded`].
    pub fn next_batch(&mut self) -> Result<Batch> {
        let take = |queue: &Receiver<_>, _| queue.recv().map_err(|_| Missed::Ended);
        self.batch_through(take)
    }

    /// Waits for the next batch until a stop is requested.
    ///
    /// # Errors
    /// As [`Self::next_batch`], and [`TrainError::Interrupted`]. No batch can be taken after an
    /// error.
    pub(crate) fn next_batch_unless(&mut self, waiting: Waiting) -> Result<Batch> {
        let (source, settings) = (Arc::clone(&self.source), self.settings.clone());
        let name = |number| {
            let position = settings.start_step * settings.batch as u64 + number;
            let index = Sampler::new(settings.seed, source.len()).at(position);
            format!("{} or its label", source.sample_name(index))
        };
        self.batch_through(|queue, number| waiting.receive(queue, || name(number)))
    }

    /// Assembles a batch of the samples that `take` gets from a queue; it also gets their numbers.
    fn batch_through(
        &mut self,
        take: impl Fn(&Receiver<Result<Sample>>, u64) -> std::result::Result<Result<Sample>, Missed>,
    ) -> Result<Batch> {
        let (b, h, w) =
            (self.settings.batch, self.settings.augment.crop_h, self.settings.augment.crop_w);
        let mut batch = Batch {
            step: self.step,
            b,
            h,
            w,
            images: zeroed(b * 3 * h * w)?,
            labels: zeroed(b * h * w)?,
            names: Vec::with_capacity(b),
        };
        for i in 0..b {
            let queue = &self.queues[(self.taken % self.queues.len() as u64) as usize];
            let sample = take(queue, self.taken).map_err(|missed| match missed {
                Missed::Stopped => TrainError::Interrupted,
                Missed::Ended => TrainError::WorkerEnded { step: self.step + 1 },
            })??;
            self.taken += 1;
            batch.images[i * 3 * h * w..][..3 * h * w].copy_from_slice(&sample.image);
            batch.labels[i * h * w..][..h * w].copy_from_slice(&sample.label);
            batch.names.push(sample.name);
        }
        self.step += 1;
        Ok(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the next send of every worker fails, which ends it.
        self.queues.clear();
        let begin = Instant::now();
        for worker in self.workers.drain(..) {
            while !worker.is_finished() && begin.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(1));
            }
            if worker.is_finished() {
                // A worker that panicked has already been reported as `WorkerEnded`.
                let _ = worker.join();
            }
        }
    }
}

fn work(
    source: &dyn Source,
    settings: &LoaderSettings,
    worker: usize,
    workers: usize,
    send: &SyncSender<Result<Sample>>,
) {
    let mut sampler = Sampler::new(settings.seed, source.len());
    let first = settings.start_step * settings.batch as u64;
    for number in (worker as u64..).step_by(workers) {
        let position = first + number;
        let sample = prepare(source, settings, sampler.at(position), position);
        let failed = sample.is_err();
        if send.send(sample).is_err() || failed {
            return;
        }
    }
}

/// Loads and augments sample `index` for `position` of the stream.
fn prepare(
    source: &dyn Source,
    settings: &LoaderSettings,
    index: usize,
    position: u64,
) -> Result<Sample> {
    let b = settings.batch as u64;
    let mut random = Philox::new(settings.seed, PURPOSE, position % b, position / b);
    let (image, label) = source.load(index)?;
    let (image, label) = settings.augment.sample(&image, &label, &mut random)?;
    let (h, w) = (settings.augment.crop_h, settings.augment.crop_w);
    let mut sample = Sample {
        image: zeroed(3 * h * w)?,
        label: zeroed(h * w)?,
        name: source.sample_name(index),
    };
    normalise::image_into(&image, h, w, &mut sample.image);
    normalise::label_into(&label, h, w, &mut sample.label);
    Ok(sample)
}
