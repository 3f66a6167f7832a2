//! Losses over points and classes, and their sum.

use dressage_kernels::device::ViewMut;
use dressage_kernels::ops::add::Add;
use dressage_kernels::ops::class_loss::{self, ClassLoss};
use dressage_kernels::ops::mask_loss::{self, MaskLoss};
use dressage_kernels::ops::reduce::sum_gpu;
use half::bf16;

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::dtype::kernel;
use crate::{
    Backward, DType, Device, Edge, EngineError, Gradients, Result, Tensor, floats, record,
};

/// Weighted binary cross-entropy and dice losses of logits `x` and targets `t`, both `[r, p]`. The
/// result `[2]` holds the two losses times `weights`. Both are divided by `num` `[1]`, the number of
/// masks. Each pair has a weight in `pair_weights` `[r]`, 0 for padding; without them all are 1. The
/// gradient's buffer has room for `capacity` rows.
///
/// All are where the logits are: f32 on a device, of the type of the logits in host memory. On a
/// device the host reads neither `num` nor the weights.
///
/// # Errors
/// Shapes that do not fit; in host memory a `num` that is not positive; a type without a kernel.
pub fn mask_loss(
    x: &Tensor,
    t: &Tensor,
    num: &Tensor,
    pair_weights: Option<&Tensor>,
    weights: [f64; 2],
    capacity: usize,
) -> Result<Tensor> {
    let &[r, p] = x.shape() else {
        return Err(shape_error("mask_loss", "x", "[r, p]", x));
    };
    expect_shape("mask_loss", "t", t, &[r, p])?;
    expect_shape("mask_loss", "num", num, &[1])?;
    if let Some(pair_weights) = pair_weights {
        expect_shape("mask_loss", "pair_weights", pair_weights, &[r])?;
    }
    let size = MaskLoss { r, p, mask_weight: weights[0], dice_weight: weights[1] };
    if x.device().is_none() {
        let num: f64 =
            floats!("mask_loss", num, T => Ok(dressage_kernels::Real::f64(num.item::<T>()?)))?;
        size.check_num(num)?;
    }
    let exact = x.dtype().of_sums();
    let mut sums = Tensor::with_capacity_on(x.device(), exact, &[r, 4], 4 * capacity)?;
    let mut y = x.empty_sums(&[2])?;
    call!(x, &size, |M, T| mask_loss::Forward::<M, T> {
        x: M::read(x)?,
        t: M::read(t)?,
        num: M::read(num)?,
        weights: M::read_if(pair_weights)?,
        sums: M::write(&mut sums)?,
        losses: M::write(&mut y)?,
    })?;
    Ok(record(y, &[x], || MaskSaved {
        size,
        capacity,
        x: x.detach(),
        t: t.detach(),
        num: num.clone(),
        pair_weights: pair_weights.cloned(),
        sums,
        to: x.edge(),
    }))
}

struct MaskSaved {
    size: MaskLoss,
    capacity: usize,
    x: Tensor,
    t: Tensor,
    num: Tensor,
    pair_weights: Option<Tensor>,
    sums: Tensor,
    to: Edge,
}

impl Backward for MaskSaved {
    fn name(&self) -> &'static str {
        "mask_loss"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let MaskSaved { size, capacity, x, t, num, pair_weights, sums, to } = &*self;
        let capacity = capacity * size.p;
        let mut dx = Tensor::with_capacity_on(x.device(), x.dtype(), x.shape(), capacity)?;
        call!(x, size, |M, T| mask_loss::Backward::<M, T> {
            x: M::read(x)?,
            t: M::read(t)?,
            num: M::read(num)?,
            weights: M::read_if(pair_weights.as_ref())?,
            sums: M::read(sums)?,
            dlosses: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(to, dx)
    }
}

/// Weighted cross-entropy of class logits `[.., k]` against `targets`, one per row: a scalar. The
/// last class is "no object". The loss is divided by the sum of the rows' class weights and
/// multiplied by `weight`.
///
/// # Errors
/// Shapes that do not fit, a target beyond the classes; a type without a kernel.
pub fn class_loss(
    logits: &Tensor,
    targets: &[i32],
    class_weights: &[f64],
    weight: f64,
) -> Result<Tensor> {
    let size = class_sizes(logits, weight);
    size.check_targets(targets)?;
    let narrow = || class_weights.iter().map(|&w| w as f32).collect::<Vec<_>>();
    let k = &[class_weights.len()];
    let mut class_weights = match logits.dtype() {
        DType::F64 => Tensor::from_slice(class_weights, k)?,
        _ => Tensor::from_slice(&narrow(), k)?,
    };
    let mut targets = Tensor::from_slice(targets, &[targets.len()])?;
    if let Some(device) = logits.device() {
        targets = targets.to_device(device, DType::I32)?;
        class_weights = class_weights.to_device(device, DType::F32)?;
    }
    class_loss_of(size, logits, [&targets, &class_weights], None)
}

/// [`class_loss()`] with `targets` `[n]` (i32) and `class_weights` `[k]` where the logits are. The
/// weights are f32 on a device, and have the type of the logits in host memory. On a device the host
/// does not read the targets, and a row whose target is not a class is ignored.
///
/// A loss over a part of a batch is divided by `divisor` `[1]`, the sum over the whole batch, which
/// has the type of the class weights.
///
/// # Errors
/// Errors of [`class_loss()`].
pub fn class_loss_at(
    logits: &Tensor,
    targets: &Tensor,
    class_weights: &Tensor,
    divisor: Option<&Tensor>,
    weight: f64,
) -> Result<Tensor> {
    let size = class_sizes(logits, weight);
    if logits.device().is_none() {
        size.check_targets(targets.data()?)?;
    }
    class_loss_of(size, logits, [targets, class_weights], divisor)
}

fn class_sizes(logits: &Tensor, weight: f64) -> ClassLoss {
    let k = logits.last_dim();
    ClassLoss { n: logits.len() / k.max(1), k, weight }
}

fn class_loss_of(
    size: ClassLoss,
    logits: &Tensor,
    [targets, class_weights]: [&Tensor; 2],
    divisor: Option<&Tensor>,
) -> Result<Tensor> {
    let (mut y, mut scale) = (logits.empty_sums(&[])?, logits.empty_sums(&[])?);
    call!(logits, &size, |M, T| class_loss::Forward::<M, T> {
        x: M::read(logits)?,
        targets: M::read(targets)?,
        class_weights: M::read(class_weights)?,
        divisor: M::read_if(divisor)?,
        loss: M::write(&mut y)?,
        scale: M::write(&mut scale)?,
    })?;
    let (x, to) = (logits.detach(), logits.edge());
    let (targets, class_weights) = (targets.clone(), class_weights.clone());
    Ok(record(y, &[logits], || ClassSaved { size, x, targets, class_weights, scale, to }))
}

struct ClassSaved {
    size: ClassLoss,
    x: Tensor,
    targets: Tensor,
    class_weights: Tensor,
    scale: Tensor,
    to: Edge,
}

impl Backward for ClassSaved {
    fn name(&self) -> &'static str {
        "class_loss"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let ClassSaved { size, x, targets, class_weights, scale, to } = &*self;
        let mut dx = x.empty_like(x.shape())?;
        call!(x, size, |M, T| class_loss::Backward::<M, T> {
            x: M::read(x)?,
            targets: M::read(targets)?,
            class_weights: M::read(class_weights)?,
            scale: M::read(scale)?,
            dloss: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(to, dx)
    }
}

/// Computes the sum of all elements of all `parts`, in order: a scalar.
///
/// # Errors
/// No parts; a type without a kernel.
pub fn total(parts: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Err(shape_error(
            "total",
            "parts",
            "at least one",
            &Tensor::zeros(DType::F32, &[0]),
        ));
    };
    let mut y = first.empty_sums(&[])?;
    match first.device() {
        None => floats!("total", first, T => {
            let mut sum: T = 0.0;
            for part in parts {
                sum += part.data::<T>()?.iter().sum::<T>();
            }
            y.data_mut::<T>()?.fill(sum);
            Ok(())
        })?,
        Some(device) => match parts {
            [part] => sum_on(device, part, y.view_mut()?)?,
            _ => {
                let mut sums = first.empty_sums(&[parts.len()])?;
                for (i, part) in parts.iter().enumerate() {
                    sum_on(device, part, sums.view_mut::<f32>()?.slice(i..i + 1))?;
                }
                sum_gpu(device, sums.view::<f32>()?, y.view_mut()?)?;
            }
        },
    }
    let to = || parts.iter().map(|t| (t.edge(), t.shape().to_vec())).collect();
    Ok(record(y, parts, || Total { to: to() }))
}

/// Writes the sum of `part` to `out` `[1]`.
fn sum_on(device: &Device, part: &Tensor, out: ViewMut<'_, f32>) -> Result<()> {
    let summed = match part.dtype() {
        DType::Bf16 => sum_gpu(device, part.view::<bf16>()?, out),
        _ => sum_gpu(device, part.view::<f32>()?, out),
    };
    Ok(summed?)
}

struct Total {
    to: Vec<(Edge, Vec<usize>)>,
}

impl Backward for Total {
    fn name(&self) -> &'static str {
        "total"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        for (to, shape) in self.to.iter().filter(|(to, _)| to.wants()) {
            let mut dx = Tensor::zeros_on(dy.device(), dy.dtype(), shape)?;
            kernel!("total", dy, T,
                host => {
                    dx.data_mut::<T>()?.fill(dy.item::<T>()?);
                    Ok::<_, EngineError>(())
                },
                device => {
                    let each = Add { n: dx.len(), inner: 1 };
                    each.in_place_gpu(device, dx.view_mut::<T>()?, dy.view::<T>()?)
                },
            )?;
            grads.add(to, dx)?;
        }
        Ok(())
    }
}
