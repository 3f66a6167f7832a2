//! Batch norm of channels-last maps, by the statistics of the batch or by given ones.

use dressage_kernels::ops::batch_norm::{self, BatchNorm};

use super::expect_shape;
use crate::call::{Place, call};
use crate::saved::SavedValue;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Mean and variance of each channel over a batch.
pub struct BatchStatistics {
    size: BatchNorm,
    mean: Tensor,
    var: Tensor,
}

impl BatchStatistics {
    /// Moves running statistics `[c]` in place: by `momentum` of the way to these, with the unbiased
    /// variance. If `guard`, one value in the same place, is not finite, nothing changes.
    ///
    /// # Errors
    /// Other shapes or types than those of the statistics; another place; a failure of the device.
    pub fn move_running(
        &self,
        running_mean: &mut Tensor,
        running_var: &mut Tensor,
        momentum: f64,
        guard: Option<&Tensor>,
    ) -> Result<()> {
        let BatchStatistics { mean, var, size } = self;
        let size = BatchNorm { momentum, ..*size };
        for (name, running) in [("running_mean", &*running_mean), ("running_var", &*running_var)] {
            expect_shape("batch_norm", name, running, &[size.c])?;
        }
        running_mean.make_own()?;
        running_var.make_own()?;
        call!(mean, &size, |M, T| batch_norm::Running::<M, T> {
            mean: M::read(mean)?,
            var: M::read(var)?,
            guard: M::read_if(guard)?,
            running_mean: M::write(running_mean)?,
            running_var: M::write(running_var)?,
        })
    }
}

/// Batch norm of maps `[.., c]` with weight and bias `[c]` by the statistics of the batch, which are
/// also returned.
///
/// # Errors
/// Shapes that do not fit; fewer than two values of a channel; a type without a kernel.
pub fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, BatchStatistics)> {
    let size = size(x, weight, bias, eps, true)?;
    let mut y = x.empty_like(x.shape())?;
    let (mut mean, mut var) = (x.empty_sums(&[size.c])?, x.empty_sums(&[size.c])?);
    call!(x, &size, |M, T| batch_norm::Forward::<M, T> {
        x: M::read(x)?,
        weight: M::read(weight)?,
        bias: M::read(bias)?,
        y: M::write(&mut y)?,
        mean: M::write(&mut mean)?,
        var: M::write(&mut var)?,
    })?;
    let statistics = BatchStatistics { size, mean: mean.clone(), var: var.clone() };
    Ok((
        record(y, &[x, weight, bias], || Saved::new(size, [x, weight, bias], mean, var)),
        statistics,
    ))
}

/// Batch norm of maps `[.., c]` by given statistics `[c]`, which are constants.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn batch_norm_by(
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    [mean, var]: [&Tensor; 2],
    eps: f64,
) -> Result<Tensor> {
    let size = size(x, weight, bias, eps, false)?;
    expect_shape("batch_norm", "mean", mean, &[size.c])?;
    expect_shape("batch_norm", "var", var, &[size.c])?;
    let mut y = x.empty_like(x.shape())?;
    call!(x, &size, |M, T| batch_norm::Evaluation::<M, T> {
        x: M::read(x)?,
        weight: M::read(weight)?,
        bias: M::read(bias)?,
        mean: M::read(mean)?,
        var: M::read(var)?,
        y: M::write(&mut y)?,
    })?;
    Ok(record(y, &[x, weight, bias], || {
        Saved::new(size, [x, weight, bias], mean.detach(), var.detach())
    }))
}

fn size(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, training: bool) -> Result<BatchNorm> {
    let c = x.last_dim();
    expect_shape("batch_norm", "weight", weight, &[c])?;
    expect_shape("batch_norm", "bias", bias, &[c])?;
    Ok(BatchNorm { n: x.len() / c.max(1), c, eps, momentum: 0.0, training })
}

struct Saved {
    size: BatchNorm,
    x: SavedValue,
    weight: Tensor,
    mean: Tensor,
    var: Tensor,
    to: [Edge; 3],
}

impl Saved {
    fn new(size: BatchNorm, [x, weight, bias]: [&Tensor; 3], mean: Tensor, var: Tensor) -> Saved {
        let to = [x.edge(), weight.edge(), bias.edge()];
        Saved { size, x: x.save(), weight: weight.detach(), mean, var, to }
    }
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let x = self.x.get()?;
        let [to_x, to_weight, to_bias] = &self.to;
        if to_x.wants() {
            let mut dx = x.empty_like(x.shape())?;
            self.kernel(&x, &dy, Some(&mut dx), None, None)?;
            grads.add(to_x, dx)?;
        }
        grads.accumulate_all([to_weight, to_bias], |[dw, db]| self.kernel(&x, &dy, None, dw, db))
    }
}

impl Saved {
    /// Writes `dx`; adds to `dw` and `db`.
    fn kernel(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<&mut Tensor>,
        dw: Option<&mut Tensor>,
        db: Option<&mut Tensor>,
    ) -> Result<()> {
        let Saved { size, weight, mean, var, .. } = self;
        call!(dy, size, |M, T| batch_norm::Backward::<M, T> {
            x: M::read(x)?,
            weight: M::read(weight)?,
            mean: M::read(mean)?,
            var: M::read(var)?,
            dy: M::read(dy)?,
            dx: M::write_if(dx)?,
            dweight: M::write_if(dw)?,
            dbias: M::write_if(db)?,
        })
    }
}
