//! Batched matrix products.

use dressage_kernels::matmul::{Beta, MatMul};

use super::shape_error;
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// `op(a) op(b)` for every leading index: a is `[.., n, k]` (`[.., k, n]` if `trans_a`), b `[..,
/// k, m]` (`[.., m, k]` if `trans_b`), the result `[.., n, m]`. Both have the same leading axes.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn matmul(a: &Tensor, b: &Tensor, trans_a: bool, trans_b: bool) -> Result<Tensor> {
    let (ra, rb) = (a.shape().len(), b.shape().len());
    if ra < 2 {
        return Err(shape_error("matmul", "a", "at least two axes", a));
    }
    if rb != ra || a.shape()[..ra - 2] != b.shape()[..ra - 2] {
        return Err(shape_error("matmul", "b", format!("the leading axes of {:?}", a.shape()), b));
    }
    let pick = |t: &Tensor, swap: bool| {
        let (r, c) = (t.dim(ra - 2), t.dim(ra - 1));
        if swap { (c, r) } else { (r, c) }
    };
    let ((n, k), (kb, m)) = (pick(a, trans_a), pick(b, trans_b));
    if k != kb {
        return Err(shape_error("matmul", "b", format!("a depth of {k}"), b));
    }
    let mut product = MatMul::new(n, m, k).batched(a.shape()[..ra - 2].iter().product());
    (product.trans_a, product.trans_b) = (trans_a, trans_b);
    floats!("matmul", a, T => forward::<T>(product, a, b))
}

fn forward<T: Float>(product: MatMul, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut shape = a.shape().to_vec();
    let r = shape.len();
    (shape[r - 2], shape[r - 1]) = (product.n, product.m);
    let mut c = Tensor::empty::<T>(&shape);
    product.run(1.0, a.data::<T>()?, b.data()?, Beta::Overwrite, c.data_mut()?)?;
    Ok(record(c, &[a, b], || Saved {
        product,
        a: b.tracked().then(|| a.detach()),
        b: a.tracked().then(|| b.detach()),
        to: [a.edge(), b.edge()],
    }))
}

struct Saved {
    product: MatMul,
    /// Each operand is kept for the other's gradient.
    a: Option<Tensor>,
    b: Option<Tensor>,
    to: [Edge; 2],
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("matmul", dy, T => self.run::<T>(&dy, grads))
    }
}

/// A product whose left operand is `[rows, depth]` after its transpose flag is applied.
fn product(batch: usize, sizes: [usize; 3], trans: [bool; 2]) -> MatMul {
    let [n, m, k] = sizes;
    let mut p = MatMul::new(n, m, k).batched(batch);
    (p.trans_a, p.trans_b) = (trans[0], trans[1]);
    p
}

impl Saved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let MatMul { batch, n, m, k, trans_a, trans_b, .. } = self.product;
        let dy = dy.data::<T>()?;
        if let Some(b) = &self.b {
            let b = b.data::<T>()?;
            // op(a) = dy op(b)^T; stored transposed if a was.
            grads.accumulate::<T>(&self.to[0], |da| {
                let (product, x, y) = match trans_a {
                    true => (product(batch, [k, n, m], [trans_b, true]), b, dy),
                    false => (product(batch, [n, k, m], [false, !trans_b]), dy, b),
                };
                Ok(product.run(1.0, x, y, Beta::Add, da)?)
            })?;
        }
        if let Some(a) = &self.a {
            let a = a.data::<T>()?;
            // op(b) = op(a)^T dy
            grads.accumulate::<T>(&self.to[1], |db| {
                let (product, x, y) = match trans_b {
                    true => (product(batch, [m, k, n], [true, trans_a]), dy, a),
                    false => (product(batch, [k, m, n], [!trans_a, false]), a, dy),
                };
                Ok(product.run(1.0, x, y, Beta::Add, db)?)
            })?;
        }
        Ok(())
    }
}
