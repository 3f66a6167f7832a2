//! Operations that copy rows about: concatenation, slices, broadcast, selection.

use dressage_kernels::outline;

use super::shape_error;
use crate::{Backward, DType, Edge, Float, Gradients, Result, Tensor, floats, record};

/// Product of the axes before and after `axis`.
fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
}

/// Equal pieces of a slice, the first from element `start`, each `row` elements after the one
/// before.
#[derive(Clone, Copy)]
struct Pieces {
    start: usize,
    row: usize,
}

/// `out = x` for `count` pieces of `n` elements each.
fn copy_pieces<T: Float>(
    op: &'static str,
    [count, n]: [usize; 2],
    (x, from): (&[T], Pieces),
    (out, to): (&mut [T], Pieces),
) {
    if outline::skips(op) {
        return;
    }
    for i in 0..count {
        let x = &x[from.start + i * from.row..][..n];
        out[to.start + i * to.row..][..n].copy_from_slice(x);
    }
}

/// `out += x` for `count` pieces of `n` elements each.
fn add_pieces<T: Float>(
    op: &'static str,
    [count, n]: [usize; 2],
    (x, from): (&[T], Pieces),
    (out, to): (&mut [T], Pieces),
) {
    if outline::skips(op) {
        return;
    }
    for i in 0..count {
        let x = &x[from.start + i * from.row..][..n];
        out[to.start + i * to.row..][..n].iter_mut().zip(x).for_each(|(d, g)| *d += *g);
    }
}

/// Joins tensors along `axis`; all other axes are equal.
///
/// # Errors
/// No tensors, or axes that differ; a type other than f32 and f64.
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
    floats!("concat", first, T => concat_forward::<T>(parts, axis))
}

fn concat_forward<T: Float>(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let mut shape = parts[0].shape().to_vec();
    shape[axis] = parts.iter().map(|t| t.dim(axis)).sum();
    let (outer, inner) = around(&shape, axis);
    let mut y = Tensor::empty::<T>(&shape);
    let row = shape[axis] * inner;
    let out = y.data_mut::<T>()?;
    let mut start = 0;
    for part in parts {
        let n = part.dim(axis) * inner;
        let (from, to) = (Pieces { start: 0, row: n }, Pieces { start, row });
        copy_pieces("concat", [outer, n], (part.data()?, from), (&mut *out, to));
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
        floats!("concat", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Concat {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let dy = dy.data::<T>()?;
        let mut start = 0;
        for (to, shape, n) in &self.parts {
            if to.wants() {
                let mut dx = Tensor::empty::<T>(shape);
                let (from, to_dx) = (Pieces { start, row: self.row }, Pieces { start: 0, row: *n });
                copy_pieces("concat", [self.outer, *n], (dy, from), (dx.data_mut()?, to_dx));
                grads.add(to, dx)?;
            }
            start += n;
        }
        Ok(())
    }
}

/// `start..start + len` of `axis`, copied.
///
/// # Errors
/// If the range leaves the axis; a type other than f32 and f64.
pub fn narrow(x: &Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor> {
    if axis >= x.shape().len() || start + len > x.dim(axis) {
        let range = format!("{start}..{} on axis {axis}", start + len);
        return Err(shape_error("narrow", "x", range, x));
    }
    let (outer, inner) = around(x.shape(), axis);
    let mut shape = x.shape().to_vec();
    shape[axis] = len;
    let (row, skip, n) = (x.dim(axis) * inner, start * inner, len * inner);
    floats!("narrow", x, T => {
        let mut y = Tensor::empty::<T>(&shape);
        let (from, to) = (Pieces { start: skip, row }, Pieces { start: 0, row: n });
        copy_pieces("narrow", [outer, n], (x.data::<T>()?, from), (y.data_mut()?, to));
        Ok(record(y, &[x], || Narrow { outer, row, skip, n, to: x.edge() }))
    })
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
        floats!("narrow", dy, T => {
            let dy = dy.data::<T>()?;
            grads.accumulate::<T>(&self.to, |dx| {
                let from = Pieces { start: 0, row: self.n };
                let to = Pieces { start: self.skip, row: self.row };
                add_pieces("narrow", [self.outer, self.n], (dy, from), (dx, to));
                Ok(())
            })
        })
    }
}

/// Repeats `x` `[..]` as `[b, ..]`; the gradient is the sum over b.
///
/// # Errors
/// A type other than f32 and f64.
pub fn broadcast(x: &Tensor, b: usize) -> Result<Tensor> {
    let shape: Vec<usize> = std::iter::once(b).chain(x.shape().iter().copied()).collect();
    floats!("broadcast", x, T => {
        let mut y = Tensor::empty::<T>(&shape);
        let n = x.len();
        let (from, to) = (Pieces { start: 0, row: 0 }, Pieces { start: 0, row: n });
        copy_pieces("broadcast", [b, n], (x.data::<T>()?, from), (y.data_mut()?, to));
        Ok(record(y, &[x], || Broadcast { b, n, to: x.edge() }))
    })
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
        floats!("broadcast", dy, T => {
            let dy = dy.data::<T>()?;
            grads.accumulate::<T>(&self.to, |dx| {
                let (from, to) = (Pieces { start: 0, row: self.n }, Pieces { start: 0, row: 0 });
                add_pieces("broadcast", [self.b, self.n], (dy, from), (dx, to));
                Ok(())
            })
        })
    }
}

/// Puts the rows `lead` `[r, c]` in front of every image's tokens `x` `[b, n, c]`: `[b, r + n, c]`.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn prepend(lead: &Tensor, x: &Tensor) -> Result<Tensor> {
    if x.shape().len() != 3 || lead.shape().len() != 2 || lead.dim(1) != x.dim(2) {
        return Err(shape_error("prepend", "lead", format!("[r, {}]", x.last_dim()), lead));
    }
    concat(&[&broadcast(lead, x.dim(0))?, x], 1)
}

/// Rows `indices` of the first axis, copied; a row may occur more than once. The buffer is taken
/// for `capacity` rows, so that a number of rows which varies from step to step does not vary the
/// memory.
///
/// # Errors
/// An index beyond the axis; a type other than f32 and f64.
pub fn gather_rows(x: &Tensor, indices: &[usize], capacity: usize) -> Result<Tensor> {
    if let Some(bad) = indices.iter().find(|&&i| i >= x.dim(0)) {
        return Err(shape_error("gather_rows", "x", format!("more than {bad} rows"), x));
    }
    let row = x.len() / x.dim(0).max(1);
    let mut shape = x.shape().to_vec();
    shape[0] = indices.len();
    floats!("gather_rows", x, T => {
        let mut y = Tensor::with_capacity(x.dtype(), &shape, capacity * row);
        let (data, out) = (x.data::<T>()?, y.data_mut::<T>()?);
        if !outline::skips("gather_rows") {
            for (out, &i) in out.chunks_exact_mut(row.max(1)).zip(indices) {
                out.copy_from_slice(&data[i * row..][..row]);
            }
        }
        Ok(record(y, &[x], || Gather { indices: indices.to_vec(), row, to: x.edge() }))
    })
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
        floats!("gather_rows", dy, T => {
            let dy = dy.data::<T>()?;
            grads.accumulate::<T>(&self.to, |dx| {
                if outline::skips("gather_rows") {
                    return Ok(());
                }
                for (part, &i) in dy.chunks_exact(self.row.max(1)).zip(&self.indices) {
                    let dx = &mut dx[i * self.row..][..self.row];
                    dx.iter_mut().zip(part).for_each(|(d, g)| *d += *g);
                }
                Ok(())
            })
        })
    }
}
