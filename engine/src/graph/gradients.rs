//! Gradients during a backward pass, and their accumulation.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use dressage_kernels::Write;
use dressage_kernels::device::{Phase, Range, resume};
use dressage_kernels::dry_run;
use dressage_kernels::ops::add::Add;
use half::bf16;

use super::{Edge, Node, Origin};
use crate::dtype::kernel;
use crate::memory::{Category, with_category};
use crate::tensor::Extent;
use crate::{DType, EngineError, HostFloat, Result, Tensor, bf16_emulation};

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
    /// Gradients by number of node or leaf.
    accumulated: HashMap<u64, Tensor>,
    pending: BinaryHeap<Pending>,
}

impl Gradients {
    /// Adds `g` to the gradient at `edge`.
    ///
    /// # Errors
    /// If `g` has another number of elements than the value, or another type than the gradient so
    /// far.
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
            (None, Origin::Node(_)) => bf16_emulation::stored(g),
            _ => g,
        };
        match self.accumulated.remove(&id) {
            None if edge.partial() => {
                let mut sum = self.zeros(edge, edge.gradient_dtype(), edge.whole)?;
                sum.within(edge.start, edge.len, |part| add_into(part, &g))?;
                self.accumulated.insert(id, sum);
                self.announce(edge);
            }
            None => {
                let g = match g.device() {
                    Some(device) => g.cast_on(device, edge.gradient_dtype())?,
                    None => g,
                };
                self.accumulated.insert(id, g.detach());
                self.announce(edge);
            }
            Some(mut sum) => {
                sum.make_own()?;
                sum.within(edge.start, edge.len, |part| add_into(part, &g))?;
                self.accumulated.insert(id, sum);
            }
        }
        Ok(())
    }

    /// Differentiates further values, each with its given gradient, and adds to the gradients so far,
    /// as if all values were differentiated at once.
    ///
    /// # Errors
    /// As [`backward_from_all`](crate::backward_from_all).
    pub fn extend(&mut self, values: Vec<(Tensor, Tensor)>) -> Result<()> {
        if !values.iter().any(|(y, _)| y.tracked()) {
            return Err(EngineError::NotTracked);
        }
        with_category(Category::Gradients, || {
            for (y, dy) in values {
                self.add(&y.edge(), dy)?;
            }
            self.run_down_to(0)
        })
    }

    fn zeros(&self, edge: &Edge, dtype: DType, len: usize) -> Result<Tensor> {
        Tensor::zeros_on(edge.device.as_ref(), dtype, &[len])
    }

    /// Lets `f` add to the gradient of `edge` in place; a first gradient starts at zero. It is for
    /// parameters, whose kernels add rather than overwrite. The gradient has the type of sums over
    /// the value ([`DType::of_sums`]).
    ///
    /// # Errors
    /// Errors of `f`; no room on the device.
    pub fn accumulate(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let Some(mut lent) = self.lend(edge)? else { return Ok(()) };
        f(&mut lent.sum)?;
        self.return_lent(edge, lent)
    }

    /// [`Gradients::accumulate`] for parameters whose gradients come from one kernel. `f` gets
    /// `None` for a gradient that is not needed, and is not called if none is needed.
    ///
    /// # Errors
    /// Errors of [`Gradients::accumulate`].
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
                self.return_lent(edge, lent)?;
            }
        }
        Ok(())
    }

    /// Takes out the gradient at `edge`, for `f` to add to; `None` if none is needed.
    fn lend(&mut self, edge: &Edge) -> Result<Option<Lent>> {
        let Some(id) = edge.id() else { return Ok(None) };
        let dtype = edge.dtype.of_sums();
        // A gradient that flows on to another operation in bf16 is rounded once, after the kernel.
        if dtype != edge.gradient_dtype() {
            return Ok(Some(Lent { sum: self.zeros(edge, dtype, edge.len)?, around: None }));
        }
        let mut sum = match self.accumulated.remove(&id) {
            Some(sum) => sum,
            None => self.zeros(edge, dtype, edge.whole)?,
        };
        sum.make_own()?;
        let around = edge.partial().then(|| sum.focus(edge.start, edge.len));
        Ok(Some(Lent { sum, around }))
    }

    /// Puts back a gradient from [`Gradients::lend`].
    fn return_lent(&mut self, edge: &Edge, lent: Lent) -> Result<()> {
        let Lent { mut sum, around } = lent;
        let Some(around) = around else { return self.add(edge, sum) };
        sum.restore(around);
        let whole = Edge { start: 0, len: edge.whole, ..edge.clone() };
        self.add(&whole, sum)
    }

    /// [`Gradients::accumulate`] for a kernel that writes the value's type and can add or
    /// overwrite. A first gradient must overwrite memory of undefined content.
    ///
    /// # Errors
    /// Errors of `f`; no room on the device.
    pub fn accumulate_or_write(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(&mut Tensor, Write) -> Result<()>,
    ) -> Result<()> {
        let Some(id) = edge.id() else { return Ok(()) };
        self.add_or_write(edge, id, edge.dtype, f)
    }

    /// [`Gradients::accumulate`] for matrix products, which can write either type of a device. The
    /// sum has the gradient's type, so a bf16 gradient that flows on takes no f32 memory. A first
    /// gradient must overwrite memory of undefined content.
    ///
    /// # Errors
    /// Errors of `f`; no room on the device.
    pub fn accumulate_product(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(&mut Tensor, Write) -> Result<()>,
    ) -> Result<()> {
        let Some(id) = edge.id() else { return Ok(()) };
        if edge.device.is_none() {
            return self.accumulate(edge, |sum| f(sum, Write::Add));
        }
        self.add_or_write(edge, id, edge.gradient_dtype(), f)
    }

    /// Lets `f` write a first gradient of type `dtype` or add to the sum so far. If the sum has
    /// another type or covers more than this edge, `f` writes a separate gradient that is then
    /// added.
    fn add_or_write(
        &mut self,
        edge: &Edge,
        id: u64,
        dtype: DType,
        f: impl FnOnce(&mut Tensor, Write) -> Result<()>,
    ) -> Result<()> {
        let empty = || Tensor::empty_on(edge.device.as_ref(), dtype, &[edge.len]);
        if dtype != edge.gradient_dtype() || edge.partial() {
            let mut g = empty()?;
            f(&mut g, Write::Over)?;
            return self.add(edge, g);
        }
        let (mut sum, write) = match self.accumulated.remove(&id) {
            Some(sum) => (sum, Write::Add),
            None => {
                self.announce(edge);
                (empty()?, Write::Over)
            }
        };
        sum.make_own()?;
        f(&mut sum, write)?;
        self.accumulated.insert(id, sum);
        Ok(())
    }

    /// Queues the node behind an edge that receives its first gradient.
    fn announce(&mut self, edge: &Edge) {
        if let Origin::Node(node) = &edge.origin {
            self.pending.push(Pending(node.clone()));
        }
    }

    /// Runs pending nodes whose number is at least `floor`, latest first.
    pub(super) fn run_down_to(&mut self, floor: u64) -> Result<()> {
        let mut within: Option<(Arc<str>, Range)> = None;
        while self.pending.peek().is_some_and(|p| p.0.id >= floor) {
            let Some(Pending(node)) = self.pending.pop() else { break };
            let Some(dy) = self.accumulated.remove(&node.id) else { continue };
            if within.as_ref().is_none_or(|(part, _)| *part != node.part) {
                // The previous range must end first: ranges close in reverse order of opening.
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

    /// Takes the gradient of a leaf, in the leaf's shape; `None` if there is none.
    pub fn take(&mut self, leaf: &Tensor) -> Option<Tensor> {
        let id = leaf.edge().id()?;
        self.accumulated.remove(&id).map(|g| g.part(0, leaf.shape()))
    }
}

/// A gradient that is taken out for an in-place addition.
struct Lent {
    sum: Tensor,
    /// The extent of the whole, if `sum` shows a part of it.
    around: Option<Extent>,
}

/// Computes `sum += g` in place; nobody else holds the memory of `sum`. On a device one of the two
/// may be bf16 and the other f32.
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

fn add_slices<T: HostFloat>(sum: &mut [T], g: &[T]) -> Result<()> {
    if !dry_run::skip("add_into") {
        sum.iter_mut().zip(g).for_each(|(s, g)| *s += *g);
    }
    Ok(())
}
