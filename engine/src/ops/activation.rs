//! Pointwise activations: GELU, QuickGELU, SwiGLU and ReLU.
//!
//! ReLU saves its output, which the next layer saves anyway. The others save their input.

use dressage_kernels::ops::activation::{self, Activation, Forward, Pointwise};
use dressage_kernels::ops::swiglu::{self, Swiglu};

use super::shape_error;
use crate::call::{Place, call};
use crate::saved::SavedValue;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Computes the exact GELU, `x/2 (1 + erf(x/√2))`.
///
/// # Errors
/// A type without a kernel.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(pointwise(Activation::Gelu, x)?.recomputable(|| {
        let x = x.save();
        move || gelu(&x.get()?)
    }))
}

/// Computes CLIP's QuickGELU, `x sigmoid(1.702 x)`.
///
/// # Errors
/// A type without a kernel.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    Ok(pointwise(Activation::QuickGelu, x)?.recomputable(|| {
        let x = x.save();
        move || quick_gelu(&x.get()?)
    }))
}

/// Computes the ReLU, `max(x, 0)`.
///
/// # Errors
/// A type without a kernel.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    pointwise(Activation::Relu, x)
}

fn pointwise(kind: Activation, x: &Tensor) -> Result<Tensor> {
    let mut y = x.empty_like(x.shape())?;
    let size = Pointwise { f: kind, n: x.len() };
    call!(x, &size, |M, T| Forward::<M, T> { x: M::read(x)?, y: M::write(&mut y)? })?;
    let saved = match kind {
        Activation::Gelu | Activation::QuickGelu => x.save(),
        // The output is positive exactly where the input is.
        Activation::Relu => SavedValue::Stored(y.detach()),
    };
    Ok(record(y, &[x], || Saved { kind, x: saved, to: x.edge() }))
}

/// Returns `dy` where the result `y` of a ReLU is positive, and 0 elsewhere.
pub(super) fn relu_backward(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    backward(Activation::Relu, y, dy)
}

fn backward(kind: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dx = x.empty_like(x.shape())?;
    let size = Pointwise { f: kind, n: x.len() };
    call!(x, &size, |M, T| activation::Backward::<M, T> {
        x: M::read(x)?,
        dy: M::read(dy)?,
        dx: M::write(&mut dx)?,
    })?;
    Ok(dx)
}

struct Saved {
    kind: Activation,
    /// The input of the activation, or for a ReLU its output.
    x: SavedValue,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.add(&self.to, backward(self.kind, &self.x.get()?, &dy)?)
    }
}

/// Computes `silu(x[.., :h]) * x[.., h:]` for x `[.., 2h]`, the gate of DINOv2-g's MLP.
///
/// # Errors
/// A last axis of odd length; a type without a kernel.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    let h = x.last_dim() / 2;
    if x.last_dim() != 2 * h || h == 0 {
        return Err(shape_error("swiglu", "x", "an even last axis", x));
    }
    let size = Swiglu { n: x.len() / (2 * h), h };
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = h;
    }
    let mut y = x.empty_like(&shape)?;
    call!(x, &size, |M, T| swiglu::Forward::<M, T> { x: M::read(x)?, y: M::write(&mut y)? })?;
    let y = record(y, &[x], || SwigluSaved { size, x: x.save(), to: x.edge() });
    Ok(y.recomputable(|| {
        let x = x.save();
        move || swiglu(&x.get()?)
    }))
}

struct SwigluSaved {
    size: Swiglu,
    x: SavedValue,
    to: Edge,
}

impl Backward for SwigluSaved {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let x = self.x.get()?;
        let mut dx = x.empty_like(x.shape())?;
        call!(x, &self.size, |M, T| swiglu::Backward::<M, T> {
            x: M::read(&x)?,
            dy: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(&self.to, dx)
    }
}
