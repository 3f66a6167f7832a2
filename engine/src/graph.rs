//! Reverse-mode differentiation.
//!
//! An operation whose inputs need gradients leaves a [`Node`] with its typed saved state
//! ([`Backward`]). Node numbers grow with time, so walking them from the largest to the smallest
//! is a reverse topological order. The walk is pruned by construction: a node is visited only if a
//! gradient arrived at it, and an operation asks [`Edge::wants`] before it does any work for an
//! operand. State is freed as soon as a node has run.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use dressage_kernels::add::Add;
use dressage_kernels::device::{Device, Phase, Range, part, resume};
use dressage_kernels::matmul::Beta;
use dressage_kernels::outline;

use crate::dtype::kernel;
use crate::memory::{Category, with_category};
use crate::{DType, EngineError, Float, Result, Tensor, floats};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number larger than all before it.
pub(crate) fn fresh_id() -> u64 {
    NEXT_ID.fetch_add(1, Relaxed)
}

/// What a tensor comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    Constant,
    Leaf(u64),
    Node(Arc<Node>),
}

/// One recorded operation.
pub(crate) struct Node {
    id: u64,
    /// The part of the network that recorded it, to which its backward work is booked.
    part: Arc<str>,
    /// Taken when the backward pass reaches the node.
    state: Mutex<Option<Box<dyn Backward>>>,
}

impl Node {
    fn new(state: Box<dyn Backward>) -> Arc<Node> {
        Arc::new(Node { id: fresh_id(), part: part(), state: Mutex::new(Some(state)) })
    }
}

/// The saved state of an operation and the rule that turns the gradient of its output into those
/// of its inputs.
pub trait Backward: Send {
    /// Name of the operation, for errors.
    fn name(&self) -> &'static str;

    /// Delivers the gradients of the inputs, given the output's gradient `dy`.
    ///
    /// # Errors
    /// Whatever the kernels refuse.
    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()>;
}

/// Where a gradient is to be delivered: an input of an operation, without its data.
#[derive(Clone)]
pub struct Edge {
    origin: Origin,
    len: usize,
    /// Type and place of the value.
    dtype: DType,
    device: Option<Device>,
}

impl Edge {
    pub(crate) fn new(value: &Tensor) -> Edge {
        let (origin, device) = (value.origin.clone(), value.device().cloned());
        Edge { origin, len: value.len(), dtype: value.dtype(), device }
    }

    /// Whether anybody waits for this gradient.
    pub fn wants(&self) -> bool {
        !matches!(self.origin, Origin::Constant)
    }

    fn id(&self) -> Option<u64> {
        match &self.origin {
            Origin::Constant => None,
            Origin::Leaf(id) => Some(*id),
            Origin::Node(node) => Some(node.id),
        }
    }

    /// Type of the gradient: that of the value, but at a leaf that of sums.
    fn gradient_dtype(&self) -> DType {
        match self.origin {
            Origin::Leaf(_) => self.dtype.of_sums(),
            _ => self.dtype,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Record,
    /// Nothing is recorded; whether anything would have been is noted.
    Off {
        tracked_seen: bool,
    },
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Record) };
}

struct RestoreMode(Mode);
impl Drop for RestoreMode {
    fn drop(&mut self) {
        MODE.set(self.0);
    }
}

/// Runs `f` without recording: results are constants.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    unrecorded(f).0
}

/// As [`no_grad`]; also says whether any operation met a value that needs a gradient.
fn unrecorded<R>(f: impl FnOnce() -> R) -> (R, bool) {
    let restore = RestoreMode(MODE.replace(Mode::Off { tracked_seen: false }));
    let result = f();
    let seen = MODE.get() == (Mode::Off { tracked_seen: true });
    drop(restore);
    (result, seen)
}

/// Runs `f` as if nothing were around it: recording on, buffers booked as activations, in no
/// range.
///
/// A thread of a pool that waits for a part of its work takes up other work meanwhile. Work that
/// is handed to a pool whole begins with this, or it would inherit the mode of what it interrupts.
pub fn isolated<R>(f: impl FnOnce() -> R) -> R {
    let _restore = RestoreMode(MODE.replace(Mode::Record));
    let _range = resume(Phase::Forward, &Arc::from(""));
    with_category(Category::Activations, f)
}

/// Ties `out` into the graph if any of `inputs` needs a gradient; `state` is built only then.
pub fn record<B: Backward + 'static>(
    out: Tensor,
    inputs: &[&Tensor],
    state: impl FnOnce() -> B,
) -> Tensor {
    if !inputs.iter().any(|t| t.tracked()) {
        return out;
    }
    if MODE.get() != Mode::Record {
        MODE.set(Mode::Off { tracked_seen: true });
        return out;
    }
    let node = Node::new(Box::new(state()));
    out.with_origin(Origin::Node(node))
}

/// Fails if a value that needs a gradient enters an operation without a backward pass while
/// recording is on.
///
/// # Errors
/// [`EngineError::NoBackward`].
pub fn forbid_gradient(op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
    if x.tracked() && MODE.get() == Mode::Record {
        return Err(EngineError::NoBackward { op, arg });
    }
    Ok(())
}

/// Runs `f` without keeping what it saves, and runs it again when its gradient is asked for.
///
/// Saves the memory of everything between `inputs` and the result for one more forward pass.
/// Values that `f` captures get their gradients as well. `f` must give the same result both times.
///
/// # Errors
/// Whatever `f` returns.
pub fn recompute<F>(inputs: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    let (out, tracked) = unrecorded(|| f(inputs));
    let out = out?.detach();
    if !tracked {
        return Ok(out);
    }
    if MODE.get() != Mode::Record {
        MODE.set(Mode::Off { tracked_seen: true });
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
        // Nodes made from here on belong to the segment; gradients of older ones wait in the same
        // queue for the outer walk.
        let floor = fresh_id();
        let again = resume(Phase::Again, &part());
        let out = with_category(Category::Activations, || (self.f)(&self.inputs))?;
        drop(again);
        grads.add(&out.edge(), dy)?;
        drop(out);
        grads.run_down_to(floor)
    }
}

/// Heap entry ordered by node number.
struct Pending(Arc<Node>);
impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

/// Gradients during and after a backward pass.
#[derive(Default)]
pub struct Gradients {
    /// By number of node or leaf.
    held: HashMap<u64, Tensor>,
    pending: BinaryHeap<Pending>,
}

impl Gradients {
    /// Adds `g` to what has arrived at `edge`.
    ///
    /// # Errors
    /// If `g` has another number of elements than the value, or another type than what arrived
    /// before.
    pub fn add(&mut self, edge: &Edge, g: Tensor) -> Result<()> {
        let Some(id) = edge.id() else { return Ok(()) };
        if g.len() != edge.len {
            return Err(EngineError::Shape {
                op: "backward",
                arg: "gradient",
                expected: format!("{} elements", edge.len),
                found: g.shape().to_vec(),
            });
        }
        let g = match g.device() {
            Some(device) => g.cast_on(device, edge.gradient_dtype())?,
            None => g,
        };
        match self.held.remove(&id) {
            None => {
                self.held.insert(id, g.detach());
                self.announce(edge);
            }
            Some(mut sum) => {
                add_into(&mut sum, &g)?;
                self.held.insert(id, sum);
            }
        }
        Ok(())
    }

    /// Lets `f` add to the gradient of `edge` in place; a first gradient starts at zero. For
    /// parameters, whose kernels add rather than overwrite, in the type of sums over the value
    /// ([`DType::of_sums`]).
    ///
    /// # Errors
    /// Whatever `f` returns; no room on the device.
    pub fn accumulate(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let Some(mut sum) = self.lend(edge)? else { return Ok(()) };
        f(&mut sum)?;
        self.add(edge, sum)
    }

    /// As [`Gradients::accumulate`] for two parameters whose gradients one kernel forms together;
    /// `None` for one that is not wanted.
    ///
    /// # Errors
    /// As [`Gradients::accumulate`].
    pub fn accumulate_both(
        &mut self,
        edges: [&Edge; 2],
        f: impl FnOnce([Option<&mut Tensor>; 2]) -> Result<()>,
    ) -> Result<()> {
        let mut sums = [self.lend(edges[0])?, self.lend(edges[1])?];
        if sums.iter().all(Option::is_none) {
            return Ok(());
        }
        f(sums.each_mut().map(Option::as_mut))?;
        for (edge, sum) in edges.into_iter().zip(sums) {
            if let Some(sum) = sum {
                self.add(edge, sum)?;
            }
        }
        Ok(())
    }

    /// What has arrived at `edge` so far, to be added to and given back; `None` if nobody waits.
    fn lend(&mut self, edge: &Edge) -> Result<Option<Tensor>> {
        let Some(id) = edge.id() else { return Ok(None) };
        let dtype = edge.dtype.of_sums();
        // What flows on to another operation in bf16 is rounded once, when the kernel is done.
        let held = match dtype == edge.gradient_dtype() {
            true => self.held.remove(&id),
            false => None,
        };
        let mut sum = match held {
            Some(sum) => sum,
            None => Tensor::zeros_on(edge.device.as_ref(), dtype, &[edge.len])?,
        };
        sum.make_own()?;
        Ok(Some(sum))
    }

    /// As [`Gradients::accumulate`] for a kernel that writes the value's type and can do either: a
    /// first gradient is to be written over memory that holds anything.
    ///
    /// # Errors
    /// Whatever `f` returns; no room on the device.
    pub fn accumulate_or_write(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(&mut Tensor, Beta) -> Result<()>,
    ) -> Result<()> {
        let Some(id) = edge.id() else { return Ok(()) };
        let empty = || Tensor::empty_on(edge.device.as_ref(), edge.dtype, &[edge.len]);
        if edge.dtype != edge.gradient_dtype() {
            let mut g = empty()?;
            f(&mut g, Beta::Overwrite)?;
            return self.add(edge, g);
        }
        let (mut sum, beta) = match self.held.remove(&id) {
            Some(sum) => (sum, Beta::Add),
            None => {
                self.announce(edge);
                (empty()?, Beta::Overwrite)
            }
        };
        sum.make_own()?;
        f(&mut sum, beta)?;
        self.held.insert(id, sum);
        Ok(())
    }

    /// Queues the node behind an edge that receives its first gradient.
    fn announce(&mut self, edge: &Edge) {
        if let Origin::Node(node) = &edge.origin {
            self.pending.push(Pending(node.clone()));
        }
    }

    /// Runs pending nodes whose number is at least `floor`, latest first.
    fn run_down_to(&mut self, floor: u64) -> Result<()> {
        let mut within: Option<(Arc<str>, Range)> = None;
        while self.pending.peek().is_some_and(|p| p.0.id >= floor) {
            let Some(Pending(node)) = self.pending.pop() else { break };
            let Some(dy) = self.held.remove(&node.id) else { continue };
            if within.as_ref().is_none_or(|(part, _)| *part != node.part) {
                // The range before ends first: they close in the reverse order of their opening.
                drop(within.take());
                within = Some((node.part.clone(), resume(Phase::Backward, &node.part)));
            }
            let state = node.state.lock().ok().and_then(|mut s| s.take());
            drop(node);
            if let Some(state) = state {
                state.backward(dy, self)?;
            }
        }
        Ok(())
    }

    /// Takes the gradient of a leaf, in the leaf's shape; `None` if none arrived.
    pub fn take(&mut self, leaf: &Tensor) -> Option<Tensor> {
        let id = leaf.edge().id()?;
        self.held.remove(&id).map(|g| g.part(0, leaf.shape()))
    }
}

/// `sum += g`, in place where nobody else holds the memory.
fn add_into(sum: &mut Tensor, g: &Tensor) -> Result<()> {
    kernel!("backward", g, T,
        host => add_slices::<T>(sum.make_mut()?, g.data()?),
        device => {
            sum.make_own()?;
            let size = Add { n: 1, inner: g.len() };
            size.in_place_gpu(device, sum.view_mut::<T>()?, g.view::<T>()?)
        },
    )
}

fn add_slices<T: Float>(sum: &mut [T], g: &[T]) -> Result<()> {
    if !outline::skips("add_into") {
        sum.iter_mut().zip(g).for_each(|(s, g)| *s += *g);
    }
    Ok(())
}

/// Differentiates a scalar `loss` with respect to everything it depends on that needs a gradient.
///
/// # Errors
/// If `loss` is not one float or depends on nothing that needs a gradient.
pub fn backward(loss: Tensor) -> Result<Gradients> {
    loss.expect_one("backward")?;
    let one = match (loss.device(), loss.dtype()) {
        (Some(device), dtype) => Tensor::full(loss.shape(), 1.0f32).to_device(device, dtype)?,
        (None, _) => floats!("backward", loss, T => Ok(Tensor::full::<T>(loss.shape(), 1.0)))?,
    };
    backward_from(loss, one)
}

/// As [`backward`], from a value of any shape with its gradient `dy` given.
///
/// # Errors
/// If `y` depends on nothing that needs a gradient, or `dy` does not fit it.
pub fn backward_from(y: Tensor, dy: Tensor) -> Result<Gradients> {
    backward_from_all(vec![(y, dy)])
}

/// As [`backward_from`], from several values at once.
///
/// # Errors
/// If none of the values depends on anything that needs a gradient, or a gradient does not fit its
/// value.
pub fn backward_from_all(values: Vec<(Tensor, Tensor)>) -> Result<Gradients> {
    if !values.iter().any(|(y, _)| y.tracked()) {
        return Err(EngineError::NotTracked);
    }
    with_category(Category::Gradients, || {
        let mut grads = Gradients::default();
        for (y, dy) in values {
            grads.add(&y.edge(), dy)?;
        }
        grads.run_down_to(0)?;
        Ok(grads)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    #[test]
    fn isolated_work_records_whatever_it_interrupts() {
        let leaf = Tensor::full(&[2], 3.0f32).leaf();
        let inside = no_grad(|| {
            let quiet = ops::add(&leaf, &leaf).map(|y| y.tracked());
            assert!(!quiet.unwrap());
            let y = isolated(|| ops::add(&leaf, &leaf)).unwrap();
            assert!(!ops::add(&leaf, &leaf).unwrap().tracked(), "the mode around it is back");
            y
        });
        let dy = Tensor::full(&[2], 1.0f32);
        let g = backward_from(inside, dy).unwrap().take(&leaf).unwrap();
        assert_eq!(g.data::<f32>().unwrap(), [2.0, 2.0]);
    }
}
