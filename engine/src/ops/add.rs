//! Sums: broadcast addition and the residual connection with layer scale.

use dressage_kernels::Write;
use dressage_kernels::ops::add::{self, Add};
use dressage_kernels::ops::residual::{self, Residual};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::saved::SavedValue;
use crate::{Backward, DType, Edge, EngineError, Gradients, Result, Tensor, record};

/// Computes `a + b`, where b's shape is the end of a's: b repeats over a's leading axes.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.shape().ends_with(b.shape()) {
        return Err(shape_error("add", "b", format!("the end of {:?}", a.shape()), b));
    }
    let size = Add { n: a.len() / b.len().max(1), inner: b.len() };
    let mut y = a.empty_like(a.shape())?;
    // On a device b may be a parameter, which is f32 whatever the type of a.
    match b.dtype() {
        DType::F32 => call!(a, &size, |M, T| add::ParameterForward::<M, T> {
            a: M::read(a)?,
            b: M::read(b)?,
            y: M::write(&mut y)?,
        })?,
        _ => call!(a, &size, |M, T| add::Forward::<M, T> {
            a: M::read(a)?,
            b: M::read(b)?,
            y: M::write(&mut y)?,
        })?,
    }
    let y = record(y, &[a, b], || Sum { size, to: [a.edge(), b.edge()] });
    // Recomputation reads a. Storing a only for that would save nothing.
    match a.save() {
        SavedValue::Recomputed(_) => Ok(y.recomputable(|| {
            let (a, b) = (a.save(), b.save());
            move || add(&a.get()?, &b.get()?)
        })),
        SavedValue::Stored(_) => Ok(y),
    }
}

struct Sum {
    size: Add,
    to: [Edge; 2],
}

impl Backward for Sum {
    fn name(&self) -> &'static str {
        "add"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let [to_a, to_b] = &self.to;
        if self.size.n == 1 {
            grads.add(to_b, dy.clone())?;
        } else {
            grads.accumulate(to_b, |db| {
                call!(dy, &self.size, |M, T| add::Backward::<M, T> {
                    dy: M::read(&dy)?,
                    write: Write::Add,
                    db: M::write(db)?,
                })
            })?;
        }
        grads.add(to_a, dy)
    }
}

/// Computes `x + gamma * r` over the last axis; x and r have one shape, gamma is `[c]` or `None`
/// for 1.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn residual(x: &Tensor, r: &Tensor, gamma: Option<&Tensor>) -> Result<Tensor> {
    biased_residual(x, r, None, gamma)
}

/// Computes `x + gamma (r + bias)`, with a bias `[c]` that gets no gradient. The frozen layer
/// before it leaves its bias to this kernel; only devices support that.
pub(super) fn biased_residual(
    x: &Tensor,
    r: &Tensor,
    bias: Option<&Tensor>,
    gamma: Option<&Tensor>,
) -> Result<Tensor> {
    expect_shape("residual", "r", r, x.shape())?;
    let c = x.last_dim();
    if let Some(gamma) = gamma {
        expect_shape("residual", "gamma", gamma, &[c])?;
    }
    let size = Residual { n: x.len() / c.max(1), c };
    let mut y = x.empty_like(x.shape())?;
    if bias.is_some() && x.device().is_none() {
        return Err(EngineError::OnHost { op: "residual" });
    }
    call!(x, &size, |M, T| residual::Forward::<M, T> {
        x: M::read(x)?,
        r: M::read(r)?,
        bias: M::read_if(bias)?,
        gamma: M::read_if(gamma)?,
        y: M::write(&mut y)?,
    })?;
    let mut inputs = vec![x, r];
    inputs.extend(gamma);
    Ok(record(y, &inputs, || ResidualSaved {
        size,
        r: gamma.is_some_and(Tensor::tracked).then(|| r.save()),
        gamma: gamma.map(Tensor::detach),
        to: [x.edge(), r.edge()],
        to_gamma: gamma.map(Tensor::edge),
    }))
}

struct ResidualSaved {
    size: Residual,
    /// Saved only if gamma needs a gradient.
    r: Option<SavedValue>,
    gamma: Option<Tensor>,
    to: [Edge; 2],
    to_gamma: Option<Edge>,
}

impl Backward for ResidualSaved {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let [to_x, to_r] = &self.to;
        if self.gamma.is_none() {
            grads.add(to_r, dy.clone())?;
        } else if to_r.wants() {
            let mut dr = dy.empty_like(dy.shape())?;
            call!(dy, &self.size, |M, T| residual::Backward::<M, T> {
                gamma: M::read_if(self.gamma.as_ref())?,
                dy: M::read(&dy)?,
                dr: M::write(&mut dr)?,
            })?;
            grads.add(to_r, dr)?;
        }
        if let (Some(to_gamma), Some(r)) = (&self.to_gamma, &self.r) {
            let r = r.get()?;
            grads.accumulate(to_gamma, |dgamma| {
                call!(dy, &self.size, |M, T| residual::GammaGradient::<M, T> {
                    r: M::read(&r)?,
                    bias: None,
                    dy: M::read(&dy)?,
                    dgamma: M::write(dgamma)?,
                })
            })?;
        }
        grads.add(to_x, dy)
    }
}
