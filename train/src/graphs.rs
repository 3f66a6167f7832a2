//! The step on a device as two captured CUDA graphs around each matching (`run.graphs`).
//!
//! The first graph computes the forward pass and the costs, with the loss of the previous step
//! appended. Then the host waits, matches and uploads the assignment. The second graph computes
//! losses, backward pass and update. With `train.accumulate` each part of the batch has two graphs,
//! and the last one updates. Data that change from step to step are in buffers at fixed
//! addresses ([`StepBuffers`]), so that a replay needs only a few copies before it.
//!
//! The first steps are queued launch by launch over the same buffers, so that kernels are loaded
//! and the pool has the memory that a capture takes. A batch of another size is queued that way as
//! well. So is the next step when a parameter or moment has another address than at the capture;
//! the one after it is captured anew. A capture that fails ends the attempts, and the run goes on
//! without graphs.

use dressage_engine::{Device, Gradients, Tensor};
use dressage_kernels::device::CapturedGraph;

use crate::optimiser::{CapturedUpdate, Optimiser};
use crate::parts::{StepBuffers, Sums};
use crate::step::{StepContext, StepLog};
use crate::trainer::Trainer;
use crate::{Result, TrainError};

/// Direct steps before the first capture. The first of them loads kernels and makes tables.
const WARM: u32 = 2;

/// Direct steps before another capture: after an evaluation the pool may have less memory.
const WARM_AGAIN: u32 = 1;

/// State of the steps of a run on a device.
pub(crate) struct OnDevice {
    /// Images, height and width of the batches.
    pub size: [usize; 3],
    /// Buffers of the steps, once there was one.
    pub buffers: Option<StepBuffers>,
    /// Graphs of the steps, if they are used.
    pub graphs: Option<StepGraphs>,
    /// Whether all steps reuse the batch on the device and ignore the one given, for measurements.
    pub reuse_batch: bool,
}

impl OnDevice {
    /// State before the first step on batches of one size.
    pub fn new(size: [usize; 3], graphs: bool) -> OnDevice {
        let graphs = graphs.then_some(StepGraphs::Direct(WARM));
        OnDevice { size, buffers: None, graphs, reuse_batch: false }
    }

    /// Returns the memory of the graphs to the pool; a later step is captured anew.
    pub fn release(&mut self) {
        if let Some(graphs @ StepGraphs::Captured(_)) = &mut self.graphs {
            *graphs = StepGraphs::Direct(WARM_AGAIN);
            self.buffers.iter_mut().for_each(StepBuffers::release);
        }
    }
}

/// Graphs that the steps of a run go through.
pub(crate) enum StepGraphs {
    /// Number of steps that are still queued directly before a capture.
    Direct(u32),
    Captured(Box<Captured>),
}

/// A captured step.
pub(crate) struct Captured {
    /// The graphs before and after each matching.
    parts: Vec<[CapturedGraph; 2]>,
    updated: CapturedUpdate,
    /// Addresses of weights and moments at the capture.
    addresses: Vec<Option<u64>>,
}

impl Trainer {
    /// Runs a step through graphs, or launch by launch where they are off or not captured yet.
    /// Returns the previous step, if its loss was not known yet.
    pub(crate) fn through_graphs(
        &mut self,
        context: &StepContext<'_>,
        device: &Device,
        buffers: &mut StepBuffers,
    ) -> Result<Option<StepLog>> {
        let usual = |on_device: &&mut OnDevice| on_device.size == buffers.size();
        let on_device = self.on_device.as_mut().filter(usual);
        let Some(mut graphs) = on_device.and_then(|on_device| on_device.graphs.take()) else {
            return self.direct(context, buffers);
        };
        if let StepGraphs::Captured(captured) = &graphs
            && !(captured.addresses == self.addresses()
                && self.optimiser.still_valid(&captured.updated))
        {
            graphs = StepGraphs::Direct(WARM_AGAIN);
            buffers.release();
        }
        let done = match &mut graphs {
            StepGraphs::Captured(captured) => self.replay(context, device, buffers, captured),
            StepGraphs::Direct(0) => {
                let mut before = None;
                match self.capture(context, device, buffers, &mut before) {
                    Ok(Some(captured)) => {
                        graphs = StepGraphs::Captured(Box::new(captured));
                        Ok(before)
                    }
                    Ok(None) => {
                        // The graphs are dropped, which frees their memory for the step below.
                        buffers.release();
                        let done = self.direct(context, buffers)?;
                        return Ok(before.or(done));
                    }
                    Err(error) => Err(error),
                }
            }
            StepGraphs::Direct(left) => {
                let done = self.direct(context, buffers);
                *left -= u32::from(done.is_ok());
                done
            }
        };
        if let Some(on_device) = &mut self.on_device {
            on_device.graphs = Some(graphs);
        }
        done
    }

    /// Addresses of weights and moments.
    fn addresses(&self) -> Vec<Option<u64>> {
        let weights = self.model.params().values();
        let weights = weights.flat_map(|p| [p.master().address(), p.get().address()]);
        weights.chain(self.optimiser.addresses()).collect()
    }

    /// Runs the step launch by launch.
    fn direct(
        &mut self,
        context: &StepContext<'_>,
        buffers: &mut StepBuffers,
    ) -> Result<Option<StepLog>> {
        let (mut before, mut sums) = (None, Sums::default());
        for k in 0..buffers.parts.len() {
            self.forward_and_costs(buffers, k)?;
            before = before.or(self.match_on_host(context, buffers, k)?);
            self.losses_and_gradients(buffers, k, &mut sums)?;
        }
        self.update(sums, |optimiser, grads, guard| {
            optimiser.step(context.rates, grads, Some(guard)).map(drop)
        })?;
        buffers.release();
        Ok(before)
    }

    fn replay(
        &mut self,
        context: &StepContext<'_>,
        device: &Device,
        buffers: &mut StepBuffers,
        captured: &Captured,
    ) -> Result<Option<StepLog>> {
        let mut before = None;
        for (k, [forward, backward]) in captured.parts.iter().enumerate() {
            device.replay(forward)?;
            before = before.or(self.match_on_host(context, buffers, k)?);
            if k + 1 == captured.parts.len() {
                self.optimiser.write_constants(device, &captured.updated, context.rates)?;
            }
            device.replay(backward)?;
        }
        Ok(before)
    }

    /// Captures the step and replays it. Returns `None` if the device refuses, which a note
    /// explains. A capture executes nothing, so weights and moments are then those before the step.
    /// `before` becomes the previous step, if its loss was not known yet.
    fn capture(
        &mut self,
        context: &StepContext<'_>,
        device: &Device,
        buffers: &mut StepBuffers,
        before: &mut Option<StepLog>,
    ) -> Result<Option<Captured>> {
        let memory = device.graph_memory();
        let n = buffers.parts.len();
        let (mut parts, mut sums, mut updated) = (Vec::new(), Sums::default(), None);
        for k in 0..n {
            let forward = match device.capture(&memory, || self.forward_and_costs(buffers, k)) {
                Ok((forward, ())) => forward,
                Err(why) => return Ok(self.no_graphs(&why)),
            };
            device.replay(&forward)?;
            *before = before.take().or(self.match_on_host(context, buffers, k)?);
            let backward = device.capture(&memory, || {
                self.losses_and_gradients(buffers, k, &mut sums)?;
                if k + 1 < n {
                    return Ok(None);
                }
                let record = |optimiser: &mut Optimiser, grads: &mut Gradients, guard: &Tensor| {
                    optimiser.record(device, grads, guard)
                };
                self.update(std::mem::take(&mut sums), record).map(Some)
            });
            let (backward, recorded) = match backward {
                Ok(done) => done,
                Err(why) => return Ok(self.no_graphs(&why)),
            };
            if let Some(recorded) = &recorded {
                self.optimiser.write_constants(device, recorded, context.rates)?;
            }
            device.replay(&backward)?;
            parts.push([forward, backward]);
            updated = recorded;
        }
        let addresses = self.addresses();
        Ok(updated.map(|updated| Captured { parts, updated, addresses }))
    }

    fn no_graphs(&mut self, why: &TrainError) -> Option<Captured> {
        self.note = Some(format!(
            "training continues without CUDA graphs, as with run.graphs=false: {why}"
        ));
        None
    }
}
