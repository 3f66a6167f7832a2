//! Sums: broadcasting addition, residual connection with layer scale.

use dressage_kernels::add::Add;
use dressage_kernels::matmul::Beta;
use dressage_kernels::residual::Residual;

use super::{expect_shape, shape_error};
use crate::kept::Kept;
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// `a + b`, where b's shape is the end of a's: b repeats over a's leading axes.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.shape().ends_with(b.shape()) {
        return Err(shape_error("add", "b", format!("the end of {:?}", a.shape()), b));
    }
    let size = Add { n: a.len() / b.len().max(1), inner: b.len() };
    let y = floats!("add", a, T => {
        let mut y = Tensor::empty::<T>(a.shape());
        size.forward(a.data::<T>()?, b.data()?, y.data_mut()?)?;
        Ok(record(y, &[a, b], || Sum { size, to: [a.edge(), b.edge()] }))
    })?;
    // Only where a is not memory that would be held for this alone.
    match a.keep() {
        Kept::Again(_) => Ok(y.again(|| {
            let (a, b) = (a.keep(), b.keep());
            move || add(&a.get()?, &b.get()?)
        })),
        Kept::Held(_) => Ok(y),
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
            floats!("add", dy, T => {
                grads.accumulate::<T>(to_b, |db| {
                    Ok(self.size.backward_b(dy.data::<T>()?, Beta::Add, db)?)
                })
            })?;
        }
        grads.add(to_a, dy)
    }
}

/// `x + gamma * r` over the last axis, x and r of one shape, gamma `[c]` or absent for 1.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn residual(x: &Tensor, r: &Tensor, gamma: Option<&Tensor>) -> Result<Tensor> {
    expect_shape("residual", "r", r, x.shape())?;
    let c = x.last_dim();
    if let Some(gamma) = gamma {
        expect_shape("residual", "gamma", gamma, &[c])?;
    }
    let size = Residual { n: x.len() / c.max(1), c };
    floats!("residual", x, T => residual_forward::<T>(size, x, r, gamma))
}

fn residual_forward<T: Float>(
    size: Residual,
    x: &Tensor,
    r: &Tensor,
    gamma: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = Tensor::empty::<T>(x.shape());
    let g = gamma.map(|g| g.data::<T>()).transpose()?;
    size.forward(x.data()?, r.data()?, g, y.data_mut()?)?;
    let mut inputs = vec![x, r];
    inputs.extend(gamma);
    Ok(record(y, &inputs, || ResidualSaved {
        size,
        r: gamma.is_some_and(Tensor::tracked).then(|| r.keep()),
        gamma: gamma.map(Tensor::detach),
        to: [x.edge(), r.edge()],
        to_gamma: gamma.map(Tensor::edge),
    }))
}

struct ResidualSaved {
    size: Residual,
    /// Only where gamma needs a gradient.
    r: Option<Kept>,
    gamma: Option<Tensor>,
    to: [Edge; 2],
    to_gamma: Option<Edge>,
}

impl Backward for ResidualSaved {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("residual", dy, T => self.run::<T>(&dy, grads))
    }
}

impl ResidualSaved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let [to_x, to_r] = &self.to;
        let gamma = self.gamma.as_ref().map(|g| g.data::<T>()).transpose()?;
        let d = dy.data::<T>()?;
        if gamma.is_none() {
            grads.add(to_r, dy.clone())?;
        } else if to_r.wants() {
            let mut dr = Tensor::empty::<T>(dy.shape());
            self.size.backward(None, gamma, d, Some(dr.data_mut()?), None)?;
            grads.add(to_r, dr)?;
        }
        if let (Some(to_gamma), Some(r)) = (&self.to_gamma, &self.r) {
            let r = r.get()?;
            let r = r.data::<T>()?;
            grads.accumulate::<T>(to_gamma, |dg| {
                Ok(self.size.backward(Some(r), gamma, d, None, Some(dg))?)
            })?;
        }
        grads.add(to_x, dy.clone())
    }
}
