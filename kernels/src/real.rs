//! The two number types the arithmetic is written for: f32 for work, f64 for gradient checks.

use std::fmt::Display;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::call::{Call, Host};
use crate::device::Element;

/// A floating-point element of a tensor: `f32` or `f64`. The checks have a third, which carries the
/// bound of its error.
///
/// The reference form of every operation is generic over this trait; the fast forms exist for
/// `f32` only and are reached through [`Real::IS_F32`] together with `f32s` and `f32s_mut`.
pub trait Real:
    Element
    + PartialOrd
    + Display
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// Whether `Self` is `f32`.
    const IS_F32: bool;
    /// Computes a call by the form for this type: the fast one for f32, else the reference.
    fn compute<C: Call>(s: &C::Op, c: C::At<'_, Host, Self>) {
        C::reference(s, c);
    }
    /// Additive identity.
    const ZERO: Self;
    /// Multiplicative identity.
    const ONE: Self;
    /// Nearest value of this type.
    fn of(x: f64) -> Self;
    /// The value as `f64`, exactly.
    fn f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power of `self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// `ln(1 + self)`, accurate near zero.
    fn ln_1p(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Largest integer not above `self`.
    fn floor(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// The larger of two values (the first if they are equal).
    fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
    /// The smaller of two values (the first if they are equal).
    fn min(self, other: Self) -> Self {
        if other < self { other } else { self }
    }
    /// `1 / (1 + exp(-self))` without overflow.
    fn sigmoid(self) -> Self {
        if self >= Self::ZERO {
            Self::ONE / (Self::ONE + (-self).exp())
        } else {
            let e = self.exp();
            e / (Self::ONE + e)
        }
    }
}

macro_rules! real {
    ($t:ident, $is_f32:literal, $erf:path $(, $compute:item)?) => {
        impl Real for $t {
            $($compute)?
            const IS_F32: bool = $is_f32;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn of(x: f64) -> Self {
                x as $t
            }
            fn f64(self) -> f64 {
                self as f64
            }
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn ln(self) -> Self {
                $t::ln(self)
            }
            fn ln_1p(self) -> Self {
                $t::ln_1p(self)
            }
            fn abs(self) -> Self {
                $t::abs(self)
            }
            fn floor(self) -> Self {
                $t::floor(self)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
        }
    };
}

real!(
    f32,
    true,
    libm::erff,
    fn compute<C: Call>(s: &C::Op, c: C::At<'_, Host, f32>) {
        C::fast(s, c);
    }
);
real!(f64, false, libm::erf);

/// Views a slice of `T` as `f32`; call it only where [`Real::IS_F32`] holds.
///
/// # Panics
/// If `T` is not `f32`.
pub(crate) fn f32s<T: Real>(x: &[T]) -> &[f32] {
    assert!(T::IS_F32, "f32s called on another type");
    bytemuck::cast_slice(x)
}

/// Mutable counterpart of [`f32s`].
///
/// # Panics
/// If `T` is not `f32`.
pub(crate) fn f32s_mut<T: Real>(x: &mut [T]) -> &mut [f32] {
    assert!(T::IS_F32, "f32s_mut called on another type");
    bytemuck::cast_slice_mut(x)
}
