//! Batched matrix products.

use dressage_kernels::Write;
use dressage_kernels::ops::matmul::MatMul;

use super::shape_error;
use crate::dtype::kernel;
use crate::{Backward, DType, Edge, Gradients, Result, Tensor, record};

/// Computes `op(a) op(b)` for every leading index.
///
/// Shapes: a `[.., n, k]` (`[.., k, n]` if `trans_a`), b `[.., k, m]` (`[.., m, k]` if `trans_b`),
/// the result `[.., n, m]`. Both operands have the same leading axes.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
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
    let mut shape = a.shape().to_vec();
    (shape[ra - 2], shape[ra - 1]) = (n, m);
    let mut c = a.empty_like(&shape)?;
    run(&product, a, b, Write::Over, &mut c)?;
    Ok(record(c, &[a, b], || Saved {
        product,
        a: b.tracked().then(|| a.detach()),
        b: a.tracked().then(|| b.detach()),
        to: [a.edge(), b.edge()],
    }))
}

/// Computes `c = a b` or `c += a b`. On a device `c` may be f32 for bf16 operands.
fn run(product: &MatMul, a: &Tensor, b: &Tensor, write: Write, c: &mut Tensor) -> Result<()> {
    kernel!("matmul", a, T,
        host => product.run(1.0, a.data::<T>()?, b.data()?, write, c.data_mut()?),
        device => {
            let (a, b) = (a.view::<T>()?, b.view()?);
            match c.dtype() {
                DType::F32 => device.matmul(product, 1.0, a, b, write, c.view_mut::<f32>()?),
                _ => device.matmul(product, 1.0, a, b, write, c.view_mut::<T>()?),
            }
        },
    )
}

struct Saved {
    product: MatMul,
    /// Each operand is saved for the other's gradient.
    a: Option<Tensor>,
    b: Option<Tensor>,
    to: [Edge; 2],
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let MatMul { batch, n, m, k, trans_a, trans_b, .. } = self.product;
        if let Some(b) = &self.b {
            // d op(a) = dy op(b)^T, stored transposed if a was.
            grads.accumulate_product(&self.to[0], |da, write| match trans_a {
                true => run(&product(batch, [k, n, m], [trans_b, true]), b, &dy, write, da),
                false => run(&product(batch, [n, k, m], [false, !trans_b]), &dy, b, write, da),
            })?;
        }
        if let Some(a) = &self.a {
            // d op(b) = op(a)^T dy
            grads.accumulate_product(&self.to[1], |db, write| match trans_b {
                true => run(&product(batch, [m, k, n], [true, trans_a]), &dy, a, write, db),
                false => run(&product(batch, [k, m, n], [!trans_a, false]), a, &dy, write, db),
            })?;
        }
        Ok(())
    }
}

/// Creates a product whose left operand is `[rows, depth]` after its transpose flag is applied.
fn product(batch: usize, sizes: [usize; 3], trans: [bool; 2]) -> MatMul {
    let [n, m, k] = sizes;
    let mut p = MatMul::new(n, m, k).batched(batch);
    (p.trans_a, p.trans_b) = (trans[0], trans[1]);
    p
}
