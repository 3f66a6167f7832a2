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
use half::bf16;

use crate::dtype::kernel;
use crate::memory::{Category, with_category};
use crate::tensor::Extent;
use crate::{DType, EngineError, Float, Result, Tensor, floats, rounded};

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
    Part(Arc<Part>),
}

/// Some of the elements of a value, in its memory: their gradient lands in that of the value.
pub(crate) struct Part {
    /// A leaf or a node.
    of: Origin,
    start: usize,
    /// Elements of the value.
    whole: usize,
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
    /// A leaf or a node.
    origin: Origin,
    len: usize,
    /// Where the elements begin in the value that the origin stands for, and how many that has.
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

    /// Whether anybody waits for this gradient.
    pub fn wants(&self) -> bool {
        !matches!(self.origin, Origin::Constant)
    }

    fn id(&self) -> Option<u64> {
        match &self.origin {
            Origin::Leaf(id) => Some(*id),
            Origin::Node(node) => Some(node.id),
            // An edge leads to what a part is of.
            Origin::Constant | Origin::Part(_) => None,
        }
    }

    /// Whether this is not the whole value.
    fn partial(&self) -> bool {
        self.len != self.whole
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
    let out = rounded::stored(out);
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

/// Ties `out`, which holds elements of `x` from `start` on in the memory of `x`, to the gradient of
/// `x`: a view leaves no node.
pub(crate) fn record_view(out: Tensor, x: &Tensor, start: usize) -> Tensor {
    if !x.tracked() {
        return out;
    }
    if MODE.get() != Mode::Record {
        MODE.set(Mode::Off { tracked_seen: true });
        return out;
    }
    let Edge { origin, start: before, whole, .. } = x.edge();
    if out.len() == whole {
        return out.with_origin(origin);
    }
    out.with_origin(Origin::Part(Arc::new(Part { of: origin, start: before + start, whole })))
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
        let g = match (g.device(), &edge.origin) {
            (None, Origin::Node(_)) => rounded::stored(g),
            _ => g,
        };
        match self.held.remove(&id) {
            None if edge.partial() => {
                let mut sum = self.zeros(edge, edge.gradient_dtype(), edge.whole)?;
                sum.within(edge.start, edge.len, |part| add_into(part, &g))?;
                self.held.insert(id, sum);
                self.announce(edge);
            }
            None => {
                let g = match g.device() {
                    Some(device) => g.cast_on(device, edge.gradient_dtype())?,
                    None => g,
                };
                self.held.insert(id, g.detach());
                self.announce(edge);
            }
            Some(mut sum) => {
                sum.make_own()?;
                sum.within(edge.start, edge.len, |part| add_into(part, &g))?;
                self.held.insert(id, sum);
            }
        }
        Ok(())
    }

    fn zeros(&self, edge: &Edge, dtype: DType, len: usize) -> Result<Tensor> {
        Tensor::zeros_on(edge.device.as_ref(), dtype, &[len])
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
        let Some(mut lent) = self.lend(edge)? else { return Ok(()) };
        f(&mut lent.sum)?;
        self.settle(edge, lent)
    }

    /// As [`Gradients::accumulate`] for parameters whose gradients one kernel forms together;
    /// `None` for one that is not wanted. Without any that is wanted `f` is not called.
    ///
    /// # Errors
    /// As [`Gradients::accumulate`].
    pub fn accumulate_all<const N: usize>(
        &mut self,
        edges: [&Edge; N],
        f: impl FnOnce([Option<&mut Tensor>; N]) -> Result<()>,
    ) -> Result<()> {
        let mut lent: [Option<Lent>; N] = [const { None }; N];
        for (lent, edge) in lent.iter_mut().zip(edges) {
            *lent = self.lend(edge)?;
        }
        if lent.iter().all(Option::is_none) {
            return Ok(());
        }
        f(lent.each_mut().map(|lent| lent.as_mut().map(|lent| &mut lent.sum)))?;
        for (edge, lent) in edges.into_iter().zip(lent) {
            if let Some(lent) = lent {
                self.settle(edge, lent)?;
            }
        }
        Ok(())
    }

    /// What has arrived at `edge` so far, to be added to and given back; `None` if nobody waits.
    fn lend(&mut self, edge: &Edge) -> Result<Option<Lent>> {
        let Some(id) = edge.id() else { return Ok(None) };
        let dtype = edge.dtype.of_sums();
        // What flows on to another operation in bf16 is rounded once, when the kernel is done.
        if dtype != edge.gradient_dtype() {
            return Ok(Some(Lent { sum: self.zeros(edge, dtype, edge.len)?, around: None }));
        }
        let mut sum = match self.held.remove(&id) {
            Some(sum) => sum,
            None => self.zeros(edge, dtype, edge.whole)?,
        };
        sum.make_own()?;
        let around = edge.partial().then(|| sum.focus(edge.start, edge.len));
        Ok(Some(Lent { sum, around }))
    }

    /// Takes back what [`Gradients::lend`] gave.
    fn settle(&mut self, edge: &Edge, lent: Lent) -> Result<()> {
        let Lent { mut sum, around } = lent;
        let Some(around) = around else { return self.add(edge, sum) };
        sum.restore(around);
        let whole = Edge { start: 0, len: edge.whole, ..edge.clone() };
        self.add(&whole, sum)
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
        if edge.dtype != edge.gradient_dtype() || edge.partial() {
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

    /// As [`Gradients::accumulate`] for products, which write either type of a device: the sum is of
    /// the gradient's type, so that what flows on in bf16 takes no memory in f32. A first gradient
    /// is to be written over memory that holds anything.
    ///
    /// # Errors
    /// Whatever `f` returns; no room on the device.
    pub fn accumulate_product(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(&mut Tensor, Beta) -> Result<()>,
    ) -> Result<()> {
        let Some(id) = edge.id() else { return Ok(()) };
        let (mut sum, beta) = match self.held.remove(&id) {
            Some(sum) => (sum, Beta::Add),
            None => {
                let dtype = edge.gradient_dtype();
                (Tensor::empty_on(edge.device.as_ref(), dtype, &[edge.len])?, Beta::Overwrite)
            }
        };
        sum.make_own()?;
        f(&mut sum, beta)?;
        if beta == Beta::Overwrite {
            self.announce(edge);
        }
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

/// A gradient on loan.
struct Lent {
    sum: Tensor,
    /// The whole, if `sum` shows a part of it.
    around: Option<Extent>,
}

/// `sum += g`, in place; nobody else holds the memory of `sum`. On a device the sum may be bf16
/// and `g` f32, or the other way round.
fn add_into(sum: &mut Tensor, g: &Tensor) -> Result<()> {
    let g = match (g.device(), g.dtype(), sum.dtype()) {
        (Some(device), DType::Bf16, DType::F32) => g.cast_on(device, DType::F32)?,
        _ => g.detach(),
    };
    kernel!("backward", g, T,
        host => add_slices::<T>(sum.data_mut()?, g.data()?),
        device => {
            let size = Add { n: 1, inner: g.len() };
            match sum.dtype() {
                DType::Bf16 => size.in_place_gpu(device, sum.view_mut::<bf16>()?, g.view::<T>()?),
                _ => size.in_place_gpu(device, sum.view_mut::<T>()?, g.view::<T>()?),
            }
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
        (Some(device), dtype) => Tensor::full(loss.shape(), 1.0f32).constant_on(device, dtype)?,
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
