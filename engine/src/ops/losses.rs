//! Losses over points and classes, and their sum.

use dressage_kernels::KernelError;
use dressage_kernels::add::Add;
use dressage_kernels::class_loss::ClassLoss;
use dressage_kernels::mask_loss::{MaskLoss, MaskLosses, Pairs};
use dressage_kernels::reduce::sum_gpu;
use half::bf16;

use super::{expect_shape, shape_error};
use crate::dtype::kernel;
use crate::{
    Backward, DType, Device, Edge, Element, EngineError, Float, Gradients, Result, Tensor, floats,
    record,
};

/// Weighted binary cross-entropy and dice of logits `x` against targets `t`, both `[r, p]`: a
/// tensor `[2]` with the two losses times `weights`. `num` is the number of masks they are divided
/// by. The gradient's buffer is taken for `capacity` rows.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn mask_loss(
    x: &Tensor,
    t: &Tensor,
    num: f64,
    weights: [f64; 2],
    capacity: usize,
) -> Result<Tensor> {
    let &[r, p] = x.shape() else {
        return Err(shape_error("mask_loss", "x", "[r, p]", x));
    };
    expect_shape("mask_loss", "t", t, &[r, p])?;
    let size = MaskLoss { r, p, mask_weight: weights[0], dice_weight: weights[1] };
    let exact = x.dtype().of_sums();
    // A device keeps the cross-entropy of each pair as well.
    let kept = if x.device().is_some() { 4 } else { 3 };
    let mut sums = Tensor::with_capacity_on(x.device(), exact, &[r, kept], kept * capacity)?;
    let mut y = x.empty_sums(&[2])?;
    let count = match x.device() {
        Some(device) => Some(Tensor::scalar(num as f32).to_device(device, DType::F32)?),
        None => None,
    };
    kernel!("mask_loss", x, T,
        host => {
            let loss = size.forward(x.data::<T>()?, t.data()?, num, sums.data_mut()?)?;
            y.data_mut::<T>()?.copy_from_slice(&[loss.mask, loss.dice]);
            Ok::<_, EngineError>(())
        },
        device => {
            let pairs = pairs::<T>(x, t, count.as_ref())?;
            size.forward_gpu(device, pairs, sums.view_mut()?, y.view_mut()?)
        },
    )?;
    Ok(record(y, &[x], || MaskSaved {
        size,
        num,
        count,
        capacity,
        x: x.detach(),
        t: t.detach(),
        sums,
        to: x.edge(),
    }))
}

/// What the kernels of a device read; `count` holds the number that divides the losses.
fn pairs<'a, T: Element>(
    x: &'a Tensor,
    t: &'a Tensor,
    count: Option<&'a Tensor>,
) -> Result<Pairs<'a, T>> {
    let num = count.ok_or(EngineError::OnHost { op: "mask_loss" })?.view()?;
    Ok(Pairs { x: x.view()?, t: t.view()?, weights: None, num })
}

struct MaskSaved {
    size: MaskLoss,
    num: f64,
    /// `num` on the device, if the logits lie on one.
    count: Option<Tensor>,
    capacity: usize,
    x: Tensor,
    t: Tensor,
    sums: Tensor,
    to: Edge,
}

impl Backward for MaskSaved {
    fn name(&self) -> &'static str {
        "mask_loss"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let MaskSaved { size, num, count, capacity, x, t, sums, to } = &*self;
        let capacity = capacity * size.p;
        let mut dx = Tensor::with_capacity_on(x.device(), x.dtype(), x.shape(), capacity)?;
        kernel!("mask_loss", x, T,
            host => {
                let &[mask, dice] = dy.data::<T>()? else {
                    return Err(shape_error("mask_loss", "dy", "[2]", &dy));
                };
                let upstream = MaskLosses { mask, dice };
                size.backward(x.data()?, t.data()?, *num, sums.data()?, upstream, dx.data_mut()?)
            },
            device => {
                let pairs = pairs::<T>(x, t, count.as_ref())?;
                size.backward_gpu(device, pairs, sums.view()?, dy.view()?, dx.view_mut()?)
            },
        )?;
        grads.add(to, dx)
    }
}

/// Weighted cross-entropy of class logits `[.., k]` (the last class is "no object") against
/// `targets`, one per row, normalised by the sum of the rows' class weights: a scalar. `weight`
/// multiplies the loss.
///
/// # Errors
/// Shapes that do not fit, a target beyond the classes; a type without a kernel.
pub fn class_loss(
    logits: &Tensor,
    targets: &[i32],
    class_weights: &[f64],
    weight: f64,
) -> Result<Tensor> {
    let k = logits.last_dim();
    let size = ClassLoss { n: logits.len() / k.max(1), k, weight };
    let tables = match logits.device() {
        Some(device) => Some(ClassTables::new(device, &size, targets, class_weights)?),
        None => None,
    };
    let mut saved = ClassSaved {
        size,
        targets: targets.to_vec(),
        class_weights: class_weights.to_vec(),
        tables,
        logits: logits.detach(),
        to: logits.edge(),
    };
    let mut y = logits.empty_sums(&[])?;
    kernel!("class_loss", logits, T,
        host => {
            let loss = size.forward(logits.data::<T>()?, targets, &saved.weights::<T>())?;
            y.data_mut::<T>()?.fill(loss);
            Ok::<_, EngineError>(())
        },
        device => {
            let tables = saved.tables.as_mut().ok_or(EngineError::OnHost { op: "class_loss" })?;
            let (targets, weights) = (tables.targets.view()?, tables.weights.view()?);
            let (x, scale) = (logits.view::<T>()?, tables.scale.view_mut()?);
            size.forward_gpu(device, x, targets, weights, y.view_mut()?, scale)
        },
    )?;
    Ok(record(y, &[logits], || saved))
}

/// What the kernels of a device read beside the logits, and the scale that one leaves for the
/// other.
struct ClassTables {
    targets: Tensor,
    weights: Tensor,
    scale: Tensor,
}

impl ClassTables {
    /// Refuses a target beyond the classes, which the kernel would leave out.
    fn new(device: &Device, size: &ClassLoss, targets: &[i32], weights: &[f64]) -> Result<Self> {
        let classes = 0..size.k as i64;
        if let Some(bad) = targets.iter().find(|y| !classes.contains(&i64::from(**y))) {
            let what = format!("target {bad} is not one of {} classes", size.k);
            return Err(KernelError::Size { op: "class_loss", what }.into());
        }
        let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
        let targets = Tensor::from_slice(targets, &[targets.len()])?;
        let weights = Tensor::from_slice(&weights, &[weights.len()])?;
        Ok(ClassTables {
            targets: targets.to_device(device, DType::I32)?,
            weights: weights.to_device(device, DType::F32)?,
            scale: Tensor::empty_on(Some(device), DType::F32, &[])?,
        })
    }
}

struct ClassSaved {
    size: ClassLoss,
    targets: Vec<i32>,
    class_weights: Vec<f64>,
    /// Only on a device.
    tables: Option<ClassTables>,
    logits: Tensor,
    to: Edge,
}

impl ClassSaved {
    fn weights<T: Float>(&self) -> Vec<T> {
        self.class_weights.iter().map(|&w| T::of(w)).collect()
    }
}

impl Backward for ClassSaved {
    fn name(&self) -> &'static str {
        "class_loss"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let x = &self.logits;
        let mut dx = x.empty_like(x.shape())?;
        kernel!("class_loss", x, T,
            host => {
                let (weights, upstream) = (self.weights::<T>(), dy.item::<T>()?);
                let (x, dx) = (x.data::<T>()?, dx.data_mut()?);
                self.size.backward(x, &self.targets, &weights, upstream, dx)
            },
            device => {
                let tables = self.tables.as_ref();
                let tables = tables.ok_or(EngineError::OnHost { op: "class_loss" })?;
                let (targets, weights) = (tables.targets.view()?, tables.weights.view()?);
                let (scale, dy) = (tables.scale.view()?, dy.view()?);
                let (x, dx) = (x.view::<T>()?, dx.view_mut()?);
                self.size.backward_gpu(device, x, targets, weights, scale, dy, dx)
            },
        )?;
        grads.add(&self.to, dx)
    }
}

/// The sum of all elements of all `parts`, in order: a scalar.
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
        Some(device) => {
            let mut sums = first.empty_sums(&[parts.len()])?;
            for (i, part) in parts.iter().enumerate() {
                let out = sums.view_mut::<f32>()?.slice(i..i + 1);
                match part.dtype() {
                    DType::Bf16 => sum_gpu(device, part.view::<bf16>()?, out)?,
                    _ => sum_gpu(device, part.view::<f32>()?, out)?,
                }
            }
            sum_gpu(device, sums.view::<f32>()?, y.view_mut()?)?;
        }
    }
    let to = || parts.iter().map(|t| (t.edge(), t.shape().to_vec())).collect();
    Ok(record(y, parts, || Total { to: to() }))
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
