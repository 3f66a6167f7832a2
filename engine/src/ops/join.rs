//! Operations that copy rows: concatenation, slices, broadcast, selection.

use dressage_kernels::dry_run;
use dressage_kernels::ops::add::Add;

use super::shape_error;
use crate::dtype::kernel;
use crate::{Backward, DType, Edge, EngineError, Gradients, Result, Tensor, record};

/// Products of the axes before and after `axis`.
fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
}

/// Copies pieces of `n` elements from `x` to `out`. `starts` gives where each piece begins in `x`
/// and in `out`. On a device each piece is a copy of its own.
fn copy_pieces(
    op: &'static str,
    n: usize,
    mut starts: impl Iterator<Item = (usize, usize)>,
    x: &Tensor,
    out: &mut Tensor,
) -> Result<()> {
    kernel!(op, x, T,
        host => {
            let (x, out) = (x.data::<T>()?, out.data_mut::<T>()?);
            if !dry_run::skip(op) {
                starts.for_each(|(i, o)| out[o..o + n].copy_from_slice(&x[i..i + n]));
            }
            Ok::<_, EngineError>(())
        },
        device => {
            let (x, mut out) = (x.view::<T>()?, out.view_mut::<T>()?);
            starts.try_for_each(|(i, o)| {
                device.copy(x.slice(i..i + n), out.reborrow().slice(o..o + n))
            })
        },
    )
}

/// Adds pieces to `out`, located like those of [`copy_pieces`]. On a device `out` is always f32,
/// and each piece is a launch.
pub(super) fn add_pieces(
    op: &'static str,
    n: usize,
    mut starts: impl Iterator<Item = (usize, usize)>,
    x: &Tensor,
    out: &mut Tensor,
) -> Result<()> {
    kernel!(op, x, T,
        host => {
            let (x, out) = (x.data::<T>()?, out.data_mut::<T>()?);
            if !dry_run::skip(op) {
                starts.for_each(|(i, o)| {
                    out[o..o + n].iter_mut().zip(&x[i..i + n]).for_each(|(d, g)| *d += *g);
                });
            }
            Ok::<_, EngineError>(())
        },
        device => {
            let wide = x.cast_on(device, DType::F32)?;
            let (x, mut out) = (wide.view::<f32>()?, out.view_mut::<f32>()?);
            let size = Add { n: 1, inner: n };
            starts.try_for_each(|(i, o)| {
                size.in_place_gpu(device, out.reborrow().slice(o..o + n), x.slice(i..i + n))
            })
        },
    )
}

/// Concatenates tensors along `axis`; all other axes are equal.
///
/// # Errors
/// No tensors, or axes that differ; a type without a kernel.
pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        let empty = Tensor::zeros(DType::F32, &[0]);
        return Err(shape_error("concat", "parts", "at least one tensor", &empty));
    };
    let same = |t: &&&Tensor| {
        let (a, b) = (t.shape(), first.shape());
        a.len() == b.len() && axis < a.len() && (0..a.len()).all(|i| i == axis || a[i] == b[i])
    };
    if let Some(odd) = parts.iter().find(|t| !same(t)) {
        let like = format!("{:?} but for axis {axis}", first.shape());
        return Err(shape_error("concat", "part", like, odd));
    }
    let mut shape = first.shape().to_vec();
    shape[axis] = parts.iter().map(|t| t.dim(axis)).sum();
    let (outer, inner) = around(&shape, axis);
    let mut y = first.empty_like(&shape)?;
    let row = shape[axis] * inner;
    let mut start = 0;
    for part in parts {
        let n = part.dim(axis) * inner;
        let starts = (0..outer).map(|i| (i * n, start + i * row));
        copy_pieces("concat", n, starts, part, &mut y)?;
        start += n;
    }
    Ok(record(y, parts, || Concat {
        outer,
        row,
        parts: parts.iter().map(|t| (t.edge(), t.shape().to_vec(), t.dim(axis) * inner)).collect(),
    }))
}

struct Concat {
    outer: usize,
    row: usize,
    /// Edge, shape and elements per outer index of each part.
    parts: Vec<(Edge, Vec<usize>, usize)>,
}

impl Backward for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let mut start = 0;
        for (to, shape, n) in &self.parts {
            if to.wants() {
                let mut dx = dy.empty_like(shape)?;
                let starts = (0..self.outer).map(|i| (start + i * self.row, i * n));
                copy_pieces("concat", *n, starts, &dy, &mut dx)?;
                grads.add(to, dx)?;
            }
            start += n;
        }
        Ok(())
    }
}

/// Copies `start..start + len` of `axis`.
///
/// # Errors
/// If the range leaves the axis; a type without a kernel.
pub fn narrow(x: &Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor> {
    if axis >= x.shape().len() || start + len > x.dim(axis) {
        let range = format!("{start}..{} on axis {axis}", start + len);
        return Err(shape_error("narrow", "x", range, x));
    }
    let (outer, inner) = around(x.shape(), axis);
    let mut shape = x.shape().to_vec();
    shape[axis] = len;
    let (row, skip, n) = (x.dim(axis) * inner, start * inner, len * inner);
    let mut y = x.empty_like(&shape)?;
    copy_pieces("narrow", n, (0..outer).map(|i| (skip + i * row, i * n)), x, &mut y)?;
    Ok(record(y, &[x], || Narrow { outer, row, skip, n, to: x.edge() }))
}

struct Narrow {
    outer: usize,
    row: usize,
    skip: usize,
    n: usize,
    to: Edge,
}

impl Backward for Narrow {
    fn name(&self) -> &'static str {
        "narrow"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.accumulate(&self.to, |dx| {
            let starts = (0..self.outer).map(|i| (i * self.n, self.skip + i * self.row));
            add_pieces("narrow", self.n, starts, &dy, dx)
        })
    }
}

/// Repeats `x` `[..]` as `[b, ..]`; the gradient is the sum over b.
///
/// # Errors
/// A type without a kernel.
pub fn broadcast(x: &Tensor, b: usize) -> Result<Tensor> {
    let shape: Vec<usize> = std::iter::once(b).chain(x.shape().iter().copied()).collect();
    let mut y = x.empty_like(&shape)?;
    let n = x.len();
    copy_pieces("broadcast", n, (0..b).map(|i| (0, i * n)), x, &mut y)?;
    Ok(record(y, &[x], || Broadcast { b, n, to: x.edge() }))
}

struct Broadcast {
    b: usize,
    n: usize,
    to: Edge,
}

impl Backward for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.accumulate(&self.to, |dx| {
            add_pieces("broadcast", self.n, (0..self.b).map(|i| (i * self.n, 0)), &dy, dx)
        })
    }
}

/// Puts the rows `lead` `[r, c]` before each image's tokens `x` `[b, n, c]`: `[b, r + n, c]`.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn prepend(lead: &Tensor, x: &Tensor) -> Result<Tensor> {
    if x.shape().len() != 3 || lead.shape().len() != 2 || lead.dim(1) != x.dim(2) {
        return Err(shape_error("prepend", "lead", format!("[r, {}]", x.last_dim()), lead));
    }
    concat(&[&broadcast(lead, x.dim(0))?, x], 1)
}

/// Copies the rows `indices` of the first axis; a row may occur more than once. The buffer has room
/// for `capacity` rows, so that a varying number of rows does not vary the memory.
///
/// # Errors
/// An index beyond the axis; a type without a kernel.
pub fn gather_rows(x: &Tensor, indices: &[usize], capacity: usize) -> Result<Tensor> {
    if let Some(bad) = indices.iter().find(|&&i| i >= x.dim(0)) {
        return Err(shape_error("gather_rows", "x", format!("more than {bad} rows"), x));
    }
    let row = x.len() / x.dim(0).max(1);
    let mut shape = x.shape().to_vec();
    shape[0] = indices.len();
    let mut y = Tensor::with_capacity_on(x.device(), x.dtype(), &shape, capacity * row)?;
    let starts = indices.iter().enumerate().map(|(to, from)| (from * row, to * row));
    copy_pieces("gather_rows", row, starts, x, &mut y)?;
    Ok(record(y, &[x], || Gather { indices: indices.to_vec(), row, to: x.edge() }))
}

struct Gather {
    indices: Vec<usize>,
    row: usize,
    to: Edge,
}

impl Backward for Gather {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let (row, indices) = (self.row, &self.indices);
        grads.accumulate(&self.to, |dx| {
            let starts = indices.iter().enumerate().map(|(from, to)| (from * row, to * row));
            add_pieces("gather_rows", row, starts, &dy, dx)
        })
    }
}
