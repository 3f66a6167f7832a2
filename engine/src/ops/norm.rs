//! Layer norm over the last axis and group norm of channels-last maps.
//!
//! The kernels state the formulas. Both norms save a mean and a reciprocal deviation, so they share
//! their graph node.

use dressage_kernels::Write;
use dressage_kernels::ops::group_norm::{self, GroupNorm};
use dressage_kernels::ops::layer_norm::{self, LayerNorm};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::saved::SavedValue;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Normalises the last axis of `x` `[.., c]` and applies `weight` `[c]` and `bias` `[c]`.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let c = x.last_dim();
    let n = x.len() / c.max(1);
    let y = normalise(Size::Layer(LayerNorm { n, c, eps }), &[n], x, weight, bias)?;
    Ok(y.recomputable(|| {
        let (x, weight, bias) = (x.save(), weight.detach(), bias.detach());
        move || layer_norm(&x.get()?, &weight, &bias, eps)
    }))
}

/// Group norm of channels-last maps `[b, .., c]` with weight and bias `[c]`.
///
/// # Errors
/// Channels that do not divide into `groups`; a type without a kernel.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let c = x.last_dim();
    if x.shape().len() < 3 || groups == 0 || !c.is_multiple_of(groups) {
        let want = format!("[b, .., c] with c divisible into {groups} groups");
        return Err(shape_error("group_norm", "x", want, x));
    }
    let b = x.dim(0);
    let size = GroupNorm { b, hw: x.len() / (b * c).max(1), c, groups, eps };
    normalise(Size::Group(size), &[b, groups], x, weight, bias)
}

/// Kernel sizes of either norm.
#[derive(Clone, Copy)]
enum Size {
    Layer(LayerNorm),
    Group(GroupNorm),
}

impl Size {
    fn name(&self) -> &'static str {
        match self {
            Size::Layer(_) => "layer_norm",
            Size::Group(_) => "group_norm",
        }
    }
}

/// Computes the norm of `x` with statistics of shape `stats`.
fn normalise(
    size: Size,
    stats: &[usize],
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    let c = x.last_dim();
    expect_shape(size.name(), "weight", weight, &[c])?;
    expect_shape(size.name(), "bias", bias, &[c])?;
    let mut y = x.empty_like(x.shape())?;
    let (mut mean, mut rstd) = (x.empty_sums(stats)?, x.empty_sums(stats)?);
    match &size {
        Size::Layer(s) => call!(x, s, |M, T| layer_norm::Forward::<M, T> {
            x: M::read(x)?,
            weight: M::read(weight)?,
            bias: M::read(bias)?,
            y: M::write(&mut y)?,
            mean: M::write(&mut mean)?,
            rstd: M::write(&mut rstd)?,
        }),
        Size::Group(s) => call!(x, s, |M, T| group_norm::Forward::<M, T> {
            x: M::read(x)?,
            weight: M::read(weight)?,
            bias: M::read(bias)?,
            y: M::write(&mut y)?,
            mean: M::write(&mut mean)?,
            rstd: M::write(&mut rstd)?,
        }),
    }?;
    Ok(record(y, &[x, weight, bias], || Saved {
        size,
        x: x.save(),
        weight: weight.detach(),
        mean,
        rstd,
        to: [x.edge(), weight.edge(), bias.edge()],
    }))
}

struct Saved {
    size: Size,
    x: SavedValue,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    to: [Edge; 3],
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        self.size.name()
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let x = self.x.get()?;
        let [to_x, to_weight, to_bias] = &self.to;
        match self.size {
            Size::Layer(_) => grads.accumulate_or_write(to_x, |dx, write| {
                self.kernel(&x, &dy, Some((dx, write)), None, None)
            })?,
            Size::Group(_) if to_x.wants() => {
                let mut dx = x.empty_like(x.shape())?;
                self.kernel(&x, &dy, Some((&mut dx, Write::Over)), None, None)?;
                grads.add(to_x, dx)?;
            }
            Size::Group(_) => {}
        }
        grads.accumulate_all([to_weight, to_bias], |[dw, db]| self.kernel(&x, &dy, None, dw, db))
    }
}

impl Saved {
    /// Writes `dx` or adds to it (group norm only writes); adds to `dw` and `db`.
    fn kernel(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<(&mut Tensor, Write)>,
        dw: Option<&mut Tensor>,
        db: Option<&mut Tensor>,
    ) -> Result<()> {
        let Saved { size, weight, mean, rstd, .. } = self;
        let (dx, write) = dx.map_or((None, Write::Over), |(dx, write)| (Some(dx), write));
        match size {
            Size::Layer(s) => call!(dy, s, |M, T| layer_norm::Backward::<M, T> {
                x: M::read(x)?,
                weight: M::read(weight)?,
                mean: M::read(mean)?,
                rstd: M::read(rstd)?,
                dy: M::read(dy)?,
                dx: M::write_if(dx)?,
                write,
                dweight: M::write_if(dw)?,
                dbias: M::write_if(db)?,
            }),
            Size::Group(s) => call!(dy, s, |M, T| group_norm::Backward::<M, T> {
                x: M::read(x)?,
                weight: M::read(weight)?,
                mean: M::read(mean)?,
                rstd: M::read(rstd)?,
                dy: M::read(dy)?,
                dx: M::write_if(dx)?,
                dweight: M::write_if(dw)?,
                dbias: M::write_if(db)?,
            }),
        }
    }
}
