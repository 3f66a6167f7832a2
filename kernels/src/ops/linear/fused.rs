//! Frozen linear layer fused with its neighbours.
//!
//! ```text
//! y = x + gamma (f(z) W^T + b)        f: nothing, layer norm or exact GELU
//! ```
//! `x +` and `gamma` are optional. Backward, for a frozen layer, with `v` the operand of the
//! product:
//! ```text
//! dv = (dy gamma) W        dz = dv gelu'(z) after GELU        dx = dy
//! ```
//! The layer norm operation computes the gradient through the norm, since it needs the whole `dv`.
//!
//! The normalised or activated operand and the product before its bias are never stored: `f` and
//! `gamma dy` are applied while the operand is packed, the rest while a tile is stored. A block of
//! a frozen transformer saves `z` of both norms, `qkv` and the input of GELU. Weights may be stored
//! as bf16 and are converted to f32 while they are packed; all arithmetic is f32.
//!
//! Source: spec backbones §2.2.

use half::bf16;

use super::{Linear, cpu, reference};
use crate::ops::layer_norm::Normed;
use crate::ops::matmul;
use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Operand that is multiplied by the weight, `[n, k]`.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a, T> {
    /// z.
    Plain(&'a [T]),
    /// Layer norm of z.
    Normed(Normed<'a, T>),
    /// Exact GELU of z.
    Gelu(&'a [T]),
}

/// A weight `[m, k]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a, T> {
    /// Weight in the type of the arithmetic.
    Full(&'a [T]),
    /// Weight in bf16, in half the memory.
    Bf16(&'a [bf16]),
}

/// Function of the product with its bias, `v` `[n, m]`.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a, T> {
    /// v.
    Plain,
    /// `x + gamma v`, x `[n, m]`, gamma `[m]`; `None` is 1.
    Residual {
        /// x.
        x: &'a [T],
        /// Layer scale.
        gamma: Option<&'a [T]>,
    },
}

impl<T> Weight<'_, T> {
    fn len(&self) -> usize {
        match self {
            Self::Full(w) => w.len(),
            Self::Bf16(w) => w.len(),
        }
    }
}

impl Linear {
    /// Writes `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn fused<T: Real>(
        &self,
        input: Input<'_, T>,
        weight: Weight<'_, T>,
        bias: Option<&[T]>,
        output: Output<'_, T>,
        y: &mut [T],
    ) -> Result<()> {
        match input {
            Input::Plain(z) | Input::Gelu(z) => check_len("linear", "z", z, self.n * self.k)?,
            Input::Normed(norm) => {
                check_len("linear", "z", norm.z, self.n * self.k)?;
                check_len("linear", "mean", norm.mean, self.n)?;
                check_len("linear", "rstd", norm.rstd, self.n)?;
                check_len("linear", "weight of the norm", norm.weight, self.k)?;
                check_len("linear", "bias of the norm", norm.bias, self.k)?;
            }
        }
        self.check_weight(&weight)?;
        check_len("linear", "y", y, self.n * self.m)?;
        if let Some(bias) = bias {
            check_len("linear", "bias", bias, self.m)?;
        }
        if let Output::Residual { x, gamma } = output {
            check_len("linear", "x", x, self.n * self.m)?;
            if let Some(gamma) = gamma {
                check_len("linear", "gamma", gamma, self.m)?;
            }
        }
        if dry_run::skip_with("linear", || matmul::cost(self.n, self.m, self.k)) {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::fused(self, input.f32(), weight.f32(), bias.map(f32s), output.f32(), f32s_mut(y));
        } else {
            reference::fused(self, input, weight, bias, output, y);
        }
        Ok(())
    }

    /// Writes `dz = (dy gamma) W`, times `gelu'(z)` if `gelu` has z. `gamma` is `[m]`; `None` is 1.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn fused_backward<T: Real>(
        &self,
        weight: Weight<'_, T>,
        gamma: Option<&[T]>,
        gelu: Option<&[T]>,
        dy: &[T],
        dz: &mut [T],
    ) -> Result<()> {
        self.check_weight(&weight)?;
        check_len("linear", "dy", dy, self.n * self.m)?;
        check_len("linear", "dz", dz, self.n * self.k)?;
        if let Some(gamma) = gamma {
            check_len("linear", "gamma", gamma, self.m)?;
        }
        if let Some(z) = gelu {
            check_len("linear", "z", z, self.n * self.k)?;
        }
        if dry_run::skip_with("linear", || matmul::cost(self.n, self.k, self.m)) {
            return Ok(());
        }
        if T::IS_F32 {
            let (gamma, gelu) = (gamma.map(f32s), gelu.map(f32s));
            cpu::fused_backward(self, weight.f32(), gamma, gelu, f32s(dy), f32s_mut(dz));
        } else {
            reference::fused_backward(self, weight, gamma, gelu, dy, dz);
        }
        Ok(())
    }

    fn check_weight<T>(&self, weight: &Weight<'_, T>) -> Result<()> {
        let (expected, found) = (self.m * self.k, weight.len());
        if expected == found {
            return Ok(());
        }
        Err(KernelError::Length { op: "linear", arg: "weight", expected, found })
    }
}

impl<'a, T: Real> Input<'a, T> {
    fn f32(self) -> Input<'a, f32> {
        match self {
            Self::Plain(z) => Input::Plain(f32s(z)),
            Self::Gelu(z) => Input::Gelu(f32s(z)),
            Self::Normed(norm) => Input::Normed(Normed {
                z: f32s(norm.z),
                mean: f32s(norm.mean),
                rstd: f32s(norm.rstd),
                weight: f32s(norm.weight),
                bias: f32s(norm.bias),
            }),
        }
    }
}

impl<'a, T: Real> Weight<'a, T> {
    fn f32(self) -> Weight<'a, f32> {
        match self {
            Self::Full(w) => Weight::Full(f32s(w)),
            Self::Bf16(w) => Weight::Bf16(w),
        }
    }
}

impl<'a, T: Real> Output<'a, T> {
    fn f32(self) -> Output<'a, f32> {
        match self {
            Self::Plain => Output::Plain,
            Self::Residual { x, gamma } => Output::Residual { x: f32s(x), gamma: gamma.map(f32s) },
        }
    }
}
