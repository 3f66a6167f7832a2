//! Dropout of elements or of whole images.

use dressage_kernels::ops::dropout::{self, Dropout as Size};

use super::expect_shape;
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Place and rate of a dropout in a network.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Seed of the run.
    pub seed: u64,
    /// Number of this dropout in the network, below 2^20.
    pub site: u32,
    /// Share that is dropped, in [0, 1).
    pub rate: f64,
    /// Whether an image is dropped as a whole.
    pub whole: bool,
    /// Step and number of the first image in the batch, `[2]`, of type i32, beside the inputs.
    pub position: Tensor,
}

/// `x` `[b, ..]` with a share of its elements, or of its images, set to zero and the rest divided by
/// what is kept.
///
/// # Errors
/// A rate outside [0, 1), a site of 2^20 or more, or a type without a kernel.
pub fn dropout(x: &Tensor, of: &Dropout) -> Result<Tensor> {
    expect_shape("dropout", "position", &of.position, &[2])?;
    let b = x.shape().first().copied().unwrap_or(1);
    let n = x.len() / b.max(1);
    let size = Size { seed: of.seed, site: of.site, rate: of.rate, whole: of.whole, b, n };
    let y = dropped(&size, x, &of.position)?;
    Ok(record(y, &[x], || Saved { size, position: of.position.clone(), to: x.edge() }))
}

fn dropped(size: &Size, x: &Tensor, position: &Tensor) -> Result<Tensor> {
    let mut y = x.empty_like(x.shape())?;
    call!(x, size, |M, T| dropout::Forward::<M, T> {
        position: M::read(position)?,
        x: M::read(x)?,
        y: M::write(&mut y)?,
    })?;
    Ok(y)
}

struct Saved {
    size: Size,
    position: Tensor,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let dx = dropped(&self.size, &dy, &self.position)?;
        grads.add(&self.to, dx)
    }
}
