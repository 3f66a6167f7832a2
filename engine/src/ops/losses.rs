//! Losses over points and classes, and their sum.

use dressage_kernels::class_loss::ClassLoss;
use dressage_kernels::mask_loss::{MaskLoss, MaskLosses};

use super::{expect_shape, shape_error};
use crate::{Backward, DType, Edge, Float, Gradients, Result, Tensor, floats, record};

/// Weighted binary cross-entropy and dice of logits `x` against targets `t`, both `[r, p]`: a
/// tensor `[2]` with the two losses times `weights`. `num` is the number of masks they are divided
/// by. The gradient's buffer is taken for `capacity` rows.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
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
    floats!("mask_loss", x, T => {
        let mut sums = Tensor::with_capacity(x.dtype(), &[r, 3], 3 * capacity);
        let loss = size.forward(x.data::<T>()?, t.data()?, num, sums.data_mut()?)?;
        let y = Tensor::from_slice(&[loss.mask, loss.dice], &[2])?;
        Ok(record(y, &[x], || MaskSaved {
            size,
            num,
            capacity,
            x: x.detach(),
            t: t.detach(),
            sums,
            to: x.edge(),
        }))
    })
}

struct MaskSaved {
    size: MaskLoss,
    num: f64,
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
        floats!("mask_loss", dy, T => self.run::<T>(&dy, grads))
    }
}

impl MaskSaved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let &[mask, dice] = dy.data::<T>()? else {
            return Err(shape_error("mask_loss", "dy", "[2]", dy));
        };
        let (x, t, sums) = (self.x.data::<T>()?, self.t.data::<T>()?, self.sums.data::<T>()?);
        let capacity = self.capacity * self.size.p;
        let mut dx = Tensor::with_capacity(T::DTYPE, self.x.shape(), capacity);
        let upstream = MaskLosses { mask, dice };
        self.size.backward(x, t, self.num, sums, upstream, dx.data_mut()?)?;
        grads.add(&self.to, dx)
    }
}

/// Weighted cross-entropy of class logits `[.., k]` (the last class is "no object") against
/// `targets`, one per row, normalised by the sum of the rows' class weights: a scalar. `weight`
/// multiplies the loss.
///
/// # Errors
/// Shapes that do not fit, a target beyond the classes; a type other than f32 and f64.
pub fn class_loss(
    logits: &Tensor,
    targets: &[i32],
    class_weights: &[f64],
    weight: f64,
) -> Result<Tensor> {
    let k = logits.last_dim();
    let size = ClassLoss { n: logits.len() / k.max(1), k, weight };
    floats!("class_loss", logits, T => {
        let weights: Vec<T> = class_weights.iter().map(|&w| w as T).collect();
        let loss = size.forward(logits.data::<T>()?, targets, &weights)?;
        Ok(record(Tensor::scalar(loss), &[logits], || ClassSaved {
            size,
            targets: targets.to_vec(),
            class_weights: class_weights.to_vec(),
            logits: logits.detach(),
            to: logits.edge(),
        }))
    })
}

struct ClassSaved {
    size: ClassLoss,
    targets: Vec<i32>,
    class_weights: Vec<f64>,
    logits: Tensor,
    to: Edge,
}

impl Backward for ClassSaved {
    fn name(&self) -> &'static str {
        "class_loss"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("class_loss", dy, T => {
            let weights: Vec<T> = self.class_weights.iter().map(|&w| w as T).collect();
            let mut dx = Tensor::empty::<T>(self.logits.shape());
            let (x, upstream) = (self.logits.data::<T>()?, dy.item::<T>()?);
            self.size.backward(x, &self.targets, &weights, upstream, dx.data_mut()?)?;
            grads.add(&self.to, dx)
        })
    }
}

/// The sum of all elements of all `parts`, in order: a scalar.
///
/// # Errors
/// No parts; a type other than f32 and f64.
pub fn total(parts: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Err(shape_error(
            "total",
            "parts",
            "at least one",
            &Tensor::zeros(DType::F32, &[0]),
        ));
    };
    floats!("total", first, T => {
        let mut sum: T = 0.0;
        for part in parts {
            sum += part.data::<T>()?.iter().sum::<T>();
        }
        let to = || parts.iter().map(|t| (t.edge(), t.shape().to_vec())).collect();
        Ok(record(Tensor::scalar(sum), parts, || Total { to: to() }))
    })
}

struct Total {
    to: Vec<(Edge, Vec<usize>)>,
}

impl Backward for Total {
    fn name(&self) -> &'static str {
        "total"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("total", dy, T => {
            let g = dy.item::<T>()?;
            for (to, shape) in &self.to {
                if to.wants() {
                    grads.add(to, Tensor::full(shape, g))?;
                }
            }
            Ok(())
        })
    }
}
