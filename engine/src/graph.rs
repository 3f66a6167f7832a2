//! Reverse-mode differentiation.
//!
//! An operation whose inputs need gradients leaves a [`Node`] with its typed saved state
//! ([`Backward`]). Node numbers grow with time, so visiting nodes from the largest number to the
//! smallest is a reverse topological order. The walk visits a node only if a gradient arrived at
//! it. An operation asks [`Edge::wants`] before it does any work for an operand. The state of a
//! node is freed as soon as the node has run.

mod gradients;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use dressage_kernels::device::{Device, Phase, part, resume};
use dressage_kernels::dry_run;

use crate::ambient::{self, Ambient};
use crate::memory::{Category, with_category};
use crate::{DType, EngineError, Result, Tensor, bf16_emulation, floats};
pub use gradients::Gradients;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Returns a number larger than all before it.
pub(crate) fn fresh_id() -> u64 {
    NEXT_ID.fetch_add(1, Relaxed)
}

/// The origin of a tensor in the graph.
#[derive(Clone)]
pub(crate) enum Origin {
    Constant,
    Leaf(u64),
    Node(Arc<Node>),
    Part(Arc<Part>),
}

/// A view of some elements of a value; its gradient is added to that part of the value's gradient.
pub(crate) struct Part {
    /// A leaf or a node.
    of: Origin,
    start: usize,
    /// Number of elements of the value.
    whole: usize,
}

/// One recorded operation.
pub(crate) struct Node {
    id: u64,
    /// The part of the network that recorded it; its backward work is attributed to that part.
    part: Arc<str>,
    /// Taken when the backward pass reaches the node.
    state: Mutex<Option<Box<dyn Backward>>>,
}

impl Node {
    fn new(state: Box<dyn Backward>) -> Arc<Node> {
        Arc::new(Node { id: fresh_id(), part: part(), state: Mutex::new(Some(state)) })
    }
}

/// The saved state of an operation and the rule that turns its output gradient into its input
/// gradients.
pub trait Backward: Send {
    /// Name of the operation, for errors.
    fn name(&self) -> &'static str;

    /// Delivers the gradients of the inputs, given the output's gradient `dy`.
    ///
    /// # Errors
    /// Errors of the kernels.
    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()>;
}

/// The destination of a gradient: an input of an operation, without its data.
#[derive(Clone)]
pub struct Edge {
    /// A leaf or a node.
    origin: Origin,
    len: usize,
    /// Index of the first element within the value of the origin, and the size of that value.
    start: usize,
    whole: usize,
    /// Type and place of the value.
    dtype: DType,
    device: Option<Device>,
}

impl Edge {
    pub(crate) fn new(value: &Tensor) -> Edge {
        let (len, dtype, device) = (value.len(), value.dtype(), value.device().cloned());
        let (origin, start, whole) = match &value.origin {
            Origin::Part(part) => (part.of.clone(), part.start, part.whole),
            origin => (origin.clone(), 0, len),
        };
        Edge { origin, len, start, whole, dtype, device }
    }

    /// Whether a gradient is needed here.
    pub fn wants(&self) -> bool {
        !matches!(self.origin, Origin::Constant)
    }

    fn id(&self) -> Option<u64> {
        match &self.origin {
            Origin::Leaf(id) => Some(*id),
            Origin::Node(node) => Some(node.id),
            // An edge always points to the value that a part belongs to.
            Origin::Constant | Origin::Part(_) => None,
        }
    }

    /// Whether this is only a part of the value.
    fn partial(&self) -> bool {
        self.len != self.whole
    }

    /// Type of the gradient: the value's type, or at a leaf the type of sums.
    fn gradient_dtype(&self) -> DType {
        match self.origin {
            Origin::Leaf(_) => self.dtype.of_sums(),
            _ => self.dtype,
        }
    }
}

/// Runs `f` without recording: results are constants.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    unrecorded(f).0
}

/// [`no_grad`] that also returns whether any operation met a value that needs a gradient.
fn unrecorded<R>(f: impl FnOnce() -> R) -> (R, bool) {
    let seen = Rc::new(Cell::new(false));
    let result = ambient::with(|ambient| ambient.unrecorded = Some(Rc::clone(&seen)), f);
    (result, seen.get())
}

/// Runs `f` with the settings of a fresh thread: recording on, in no range and no dry run.
///
/// A thread of a pool that waits for part of its work takes up other work meanwhile. Work that is
/// sent to a pool as a whole must start with this. Otherwise it inherits the settings of the work
/// that it interrupts.
pub fn isolated<R>(f: impl FnOnce() -> R) -> R {
    let _range = resume(Phase::Forward, &Arc::from(""));
    ambient::with(|ambient| *ambient = Ambient::DEFAULT, || dry_run::outside(f))
}

/// Adds `out` to the graph if any of `inputs` needs a gradient; `state` is built only then.
pub fn record<B: Backward + 'static>(
    out: Tensor,
    inputs: &[&Tensor],
    state: impl FnOnce() -> B,
) -> Tensor {
    let out = bf16_emulation::stored(out);
    if !inputs.iter().any(|t| t.tracked()) {
        return out;
    }
    if !ambient::records() {
        return out;
    }
    let node = Node::new(Box::new(state()));
    out.with_origin(Origin::Node(node))
}

/// Connects the view `out` of `x`, from element `start` on, to the gradient of `x`. A view adds no
/// node.
pub(crate) fn record_view(out: Tensor, x: &Tensor, start: usize) -> Tensor {
    if !x.tracked() {
        return out;
    }
    if !ambient::records() {
        return out;
    }
    let Edge { origin, start: before, whole, .. } = x.edge();
    if out.len() == whole {
        return out.with_origin(origin);
    }
    out.with_origin(Origin::Part(Arc::new(Part { of: origin, start: before + start, whole })))
}

/// Fails if a value that needs a gradient enters an operation without a backward pass. Does nothing
/// if recording is off.
///
/// # Errors
/// [`EngineError::NoBackward`].
pub fn forbid_gradient(op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
    if x.tracked() && ambient::read(|ambient| ambient.unrecorded.is_none()) {
        return Err(EngineError::NoBackward { op, arg });
    }
    Ok(())
}

/// Runs `f` without saving its intermediate values, and runs it a second time in the backward pass.
///
/// It needs no memory for anything between `inputs` and the result, but one more forward pass.
/// Values that `f` captures get gradients as well. `f` must give the same result both times.
///
/// # Errors
/// Errors of `f`.
pub fn recompute<F>(inputs: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    let (out, tracked) = unrecorded(|| f(inputs));
    let out = out?.detach();
    if !tracked {
        return Ok(out);
    }
    if !ambient::records() {
        return Ok(out);
    }
    let node = Node::new(Box::new(Recompute { inputs: inputs.to_vec(), f }));
    Ok(out.with_origin(Origin::Node(node)))
}

struct Recompute<F> {
    inputs: Vec<Tensor>,
    f: F,
}

impl<F: Fn(&[Tensor]) -> Result<Tensor> + Send> Backward for Recompute<F> {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        // Nodes made from here on belong to the checkpoint. Gradients of older nodes stay in the
        // same queue for the outer walk.
        let floor = fresh_id();
        let recompute = resume(Phase::Recompute, &part());
        let out = with_category(Category::Activations, || (self.f)(&self.inputs))?;
        drop(recompute);
        grads.add(&out.edge(), dy)?;
        drop(out);
        grads.run_down_to(floor)
    }
}

/// Differentiates a scalar `loss` with respect to all values it depends on that need a gradient.
///
/// # Errors
/// If `loss` is not one float or depends on nothing that needs a gradient.
pub fn backward(loss: Tensor) -> Result<Gradients> {
    loss.expect_one("backward")?;
    let one = match (loss.device(), loss.dtype()) {
        (Some(device), dtype) => Tensor::full(loss.shape(), 1.0f32).constant_on(device, dtype)?,
        (None, _) => floats!("backward", loss, T => Ok(Tensor::full::<T>(loss.shape(), 1.0)))?,
    };
    backward_from(loss, one)
}

/// [`backward`] from a value `y` of any shape with its given gradient `dy`.
///
/// # Errors
/// If `y` depends on nothing that needs a gradient, or `dy` does not fit it.
pub fn backward_from(y: Tensor, dy: Tensor) -> Result<Gradients> {
    backward_from_all(vec![(y, dy)])
}

/// [`backward_from`] for several values at once.
///
/// # Errors
/// If none of the values depends on anything that needs a gradient, or a gradient does not fit its
/// value.
pub fn backward_from_all(values: Vec<(Tensor, Tensor)>) -> Result<Gradients> {
    let mut grads = Gradients::default();
    grads.extend(values)?;
    Ok(grads)
}

#[cfg(test)]
mod tests;
