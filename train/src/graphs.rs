//! The step on a device as two captured CUDA graphs around the matching (`run.graphs`).
//!
//! The first graph computes the forward pass and the costs, with the loss of the previous step
//! appended. Then the host waits, matches and uploads the assignment. The second graph computes
//! losses, backward pass and update. Data that change from step to step are in buffers at fixed
//! addresses ([`StaticBuffers`]), so that a replay needs only a few copies before it.
//!
//! The first steps are queued launch by launch over the same buffers, so that kernels are loaded
//! and the pool has the memory that a capture takes. A batch of another size is queued that way as
//! well. So is the next step when a parameter or moment has another address than at the capture;
//! the one after it is captured anew. A capture that fails ends the attempts, and the run goes on
//! without graphs.

use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Device, Gradients, Tensor, backward_from, range};
use dressage_kernels::device::{CapturedGraph, ViewMut};
use dressage_models::ModelError;
use dressage_models::criterion::{Candidate, DeviceAssignment, DevicePoints, StepCosts, Targets};

use crate::data::Batch;
use crate::optimiser::{CapturedUpdate, Optimiser};
use crate::step::{Pending, Step, StepLog};
use crate::trainer::Trainer;
use crate::{Result, TrainError};

/// Direct steps before the first capture. The first of them loads kernels and makes tables.
const WARM: u32 = 2;

/// Direct steps before another capture: after an evaluation the pool may have less memory.
const WARM_AGAIN: u32 = 1;

/// Graphs that the steps of a run go through.
pub(crate) struct StepGraphs {
    device: Device,
    /// Images, height and width of the batches.
    size: [usize; 3],
    buffers: Option<StaticBuffers>,
    state: State,
    /// Whether all steps reuse the batch on the device and ignore the one given, for measurements.
    pub reuse_batch: bool,
}

enum State {
    /// Number of steps that are still queued directly before a capture.
    Direct(u32),
    Captured(Box<Captured>),
}

/// Buffers that graphs read and write besides weights and moments, at fixed addresses.
struct StaticBuffers {
    image: Tensor,
    targets: Targets,
    assigned: DeviceAssignment,
    /// `[1 + 3 * layers]`: the sum of all losses of the last step, then each term.
    loss_readback: Tensor,
    /// Gradient 1 that the backward pass starts from.
    one: Tensor,
}

/// A captured step.
struct Captured {
    forward: CapturedGraph,
    costs: StepCosts,
    backward: CapturedGraph,
    updated: CapturedUpdate,
    /// Addresses of weights and moments at the capture.
    addresses: Vec<Option<u64>>,
}

impl StepGraphs {
    pub fn new(device: &Device, size: [usize; 3]) -> StepGraphs {
        let (device, state) = (device.clone(), State::Direct(WARM));
        StepGraphs { device, size, buffers: None, state, reuse_batch: false }
    }

    /// Whether steps on this batch go through graphs.
    pub fn take(&self, batch: &Batch) -> bool {
        self.size == [batch.b, batch.h, batch.w]
    }

    /// Returns the memory of the graphs to the pool; a later step is captured anew.
    pub fn release(&mut self) {
        if let State::Captured(_) = self.state {
            self.state = State::Direct(WARM_AGAIN);
        }
    }
}

impl StaticBuffers {
    /// Writes a batch over the previous one. Does not wait.
    fn write(&mut self, (image, targets): &(Tensor, Targets)) -> Result<()> {
        let _range = range("data");
        self.image.overwrite_from(image)?;
        Ok(self.targets.overwrite(targets)?)
    }

    /// Copies the sum and the terms of a loss into `loss_readback`.
    fn copy_loss(&mut self, device: &Device, total: &Tensor, values: &Tensor) -> Result<()> {
        let copy = |to: &mut Tensor, from: &Tensor, start: usize| {
            let to: ViewMut<'_, f32> = to.view_mut()?;
            Ok::<_, TrainError>(device.copy(from.view()?, to.slice(start..start + from.len()))?)
        };
        copy(&mut self.loss_readback, total, 0)?;
        copy(&mut self.loss_readback, values, 1)
    }
}

/// Inputs of a step in graphs besides the network.
struct StepContext<'a> {
    device: &'a Device,
    samples: &'a [String],
    lr: f64,
}

impl Trainer {
    /// Runs a step through graphs, or one that prepares them. Returns `None` if a capture failed:
    /// the step then has to run in another way, and `graphs` has to be dropped. `before` becomes
    /// the previous step, if its loss was not known yet.
    pub(crate) fn step_in(
        &mut self,
        graphs: &mut StepGraphs,
        batch: &Batch,
        before: &mut Option<StepLog>,
    ) -> Result<Option<Step>> {
        let start = Instant::now();
        let StepGraphs { device, buffers, state, reuse_batch, .. } = graphs;
        let (step, samples) = (self.step, batch.names.clone());
        let context = StepContext { device, samples: &samples, lr: self.schedule.lr(step) };
        let buffers = self.prepare(&context, buffers, (!*reuse_batch).then_some(batch))?;
        if let State::Captured(captured) = state
            && !(captured.addresses == self.addresses()
                && self.optimiser.still_valid(&captured.updated))
        {
            *state = State::Direct(WARM_AGAIN);
        }
        match state {
            State::Captured(captured) => self.replay(&context, buffers, captured, before)?,
            State::Direct(0) => match self.capture(&context, buffers, before)? {
                Some(captured) => *state = State::Captured(Box::new(captured)),
                None => return Ok(None),
            },
            State::Direct(left) => {
                self.direct(&context, buffers, before)?;
                *left -= 1;
            }
        }
        self.step += 1;
        let (lr, seconds, loss_readback) =
            (context.lr, start.elapsed().as_secs_f64(), buffers.loss_readback.clone());
        Ok(Some(Step::Queued(Pending { step, samples, lr, seconds, loss_readback })))
    }

    /// Copies a batch, the step number and the previous loss to where graphs read them. Without a
    /// batch the one on the device stays.
    fn prepare<'a>(
        &mut self,
        context: &StepContext<'_>,
        buffers: &'a mut Option<StaticBuffers>,
        batch: Option<&Batch>,
    ) -> Result<&'a mut StaticBuffers> {
        let device = context.device;
        let buffers = with_category(Category::Data, || match (buffers, batch) {
            (Some(buffers), None) => Ok::<_, TrainError>(buffers),
            (Some(buffers), Some(batch)) => {
                buffers.write(&self.to_tensors(batch)?)?;
                Ok(buffers)
            }
            (none, Some(batch)) => Ok(none.insert(self.allocate(device, self.to_tensors(batch)?)?)),
            (None, None) => Err(ModelError::Config("no batch on the device can be reused".into()))?,
        })?;
        // The pending loss is from a step outside of these buffers.
        if let Some(pending) = &self.pending
            && pending.loss_readback.address() != buffers.loss_readback.address()
        {
            device.copy(pending.loss_readback.view::<f32>()?, buffers.loss_readback.view_mut()?)?;
        }
        let step = self.step;
        self.points()?.set_step(step)?;
        Ok(buffers)
    }

    fn allocate(&self, device: &Device, data: (Tensor, Targets)) -> Result<StaticBuffers> {
        let (image, targets) = self.to_device(data)?;
        let head = self.model.head().config();
        let sizes = [head.decoder_layers + 1, image.dim(0), head.queries];
        Ok(StaticBuffers {
            assigned: DeviceAssignment::new(device, &self.criterion.config, sizes)?,
            loss_readback: Tensor::zeros_on(Some(device), DType::F32, &[1 + 3 * sizes[0]])?,
            one: Tensor::scalar(1.0f32).to_device(device, DType::F32)?,
            image,
            targets,
        })
    }

    /// Addresses of weights and moments.
    fn addresses(&self) -> Vec<Option<u64>> {
        let weights = self.model.params().values();
        let weights = weights.flat_map(|p| [p.master().address(), p.get().address()]);
        weights.chain(self.optimiser.addresses()).collect()
    }

    /// Computes the forward pass and the costs.
    fn forward_and_costs(
        &mut self,
        buffers: &StaticBuffers,
    ) -> Result<(Vec<Candidate>, StepCosts)> {
        let output = self.model.forward(&buffers.image, false)?;
        let candidates = Candidate::of(&output);
        drop(output);
        let _range = range("matching");
        let (criterion, loss_readback) = (self.criterion.clone(), Some(&buffers.loss_readback));
        let costs =
            criterion.costs(&candidates, &buffers.targets, self.points()?, loss_readback)?;
        Ok((candidates, costs))
    }

    /// Waits for the costs, matches and uploads the assignment.
    fn match_and_upload(
        &mut self,
        context: &StepContext<'_>,
        costs: &StepCosts,
        buffers: &mut StaticBuffers,
    ) -> Result<Option<StepLog>> {
        let _range = range("matching");
        let (assignment, before) = self.match_on_host(costs, &buffers.targets, context.samples)?;
        buffers.assigned.upload(&assignment)?;
        Ok(before)
    }

    /// Computes losses and gradients, then calls `update` with the gradients and the guarding loss.
    fn losses_and_update<R>(
        &mut self,
        device: &Device,
        buffers: &mut StaticBuffers,
        candidates: Vec<Candidate>,
        update: impl FnOnce(&mut Optimiser, &mut Gradients, &Tensor) -> Result<R>,
    ) -> Result<R> {
        let criterion = self.criterion.clone();
        let terms =
            criterion.terms(&candidates, &buffers.targets, &buffers.assigned, self.points()?)?;
        drop((candidates, terms.points));
        let guard = terms.total.detach();
        buffers.copy_loss(device, &guard, &terms.values)?;
        let mut grads = backward_from(terms.total, buffers.one.clone())?;
        let _range = range("optimiser");
        update(&mut self.optimiser, &mut grads, &guard)
    }

    /// Runs the step launch by launch.
    fn direct(
        &mut self,
        context: &StepContext<'_>,
        buffers: &mut StaticBuffers,
        before: &mut Option<StepLog>,
    ) -> Result<()> {
        let (candidates, costs) = self.forward_and_costs(buffers)?;
        *before = self.match_and_upload(context, &costs, buffers)?;
        self.losses_and_update(context.device, buffers, candidates, |optimiser, grads, guard| {
            optimiser.step(context.lr, grads, Some(guard)).map(drop)
        })
    }

    fn replay(
        &mut self,
        context: &StepContext<'_>,
        buffers: &mut StaticBuffers,
        captured: &Captured,
        before: &mut Option<StepLog>,
    ) -> Result<()> {
        context.device.replay(&captured.forward)?;
        *before = self.match_and_upload(context, &captured.costs, buffers)?;
        self.optimiser.write_constants(context.device, &captured.updated, context.lr)?;
        Ok(context.device.replay(&captured.backward)?)
    }

    /// Captures the step and replays it. Returns `None` if the device refuses, which a note
    /// explains. A capture executes nothing, so weights and moments are then those before the step.
    fn capture(
        &mut self,
        context: &StepContext<'_>,
        buffers: &mut StaticBuffers,
        before: &mut Option<StepLog>,
    ) -> Result<Option<Captured>> {
        let (device, memory) = (context.device, context.device.graph_memory());
        let (forward, (candidates, costs)) =
            match device.capture(&memory, || self.forward_and_costs(buffers)) {
                Ok(done) => done,
                Err(why) => return Ok(self.no_graphs(&why)),
            };
        device.replay(&forward)?;
        *before = self.match_and_upload(context, &costs, buffers)?;
        let backward = device.capture(&memory, || {
            self.losses_and_update(device, buffers, candidates, |optimiser, grads, guard| {
                optimiser.record(device, grads, guard)
            })
        });
        let (backward, updated) = match backward {
            Ok(done) => done,
            Err(why) => return Ok(self.no_graphs(&why)),
        };
        self.optimiser.write_constants(device, &updated, context.lr)?;
        device.replay(&backward)?;
        Ok(Some(Captured { forward, costs, backward, updated, addresses: self.addresses() }))
    }

    fn no_graphs(&mut self, why: &TrainError) -> Option<Captured> {
        self.note = Some(format!(
            "training continues without CUDA graphs, as with run.graphs=false: {why}"
        ));
        None
    }

    fn points(&mut self) -> Result<&mut DevicePoints> {
        let none = || ModelError::Config("the random points are not on the device".into());
        Ok(self.points.as_mut().ok_or_else(none)?)
    }
}
