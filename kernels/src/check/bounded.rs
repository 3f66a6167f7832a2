//! Numbers that carry a bound of their own error in f32.
//!
//! A reference that runs on [`Bounded`] numbers gives, with each result, how far a form may be off
//! that computes the same formula in f32: with any order of its sums, with products and quotients
//! contracted or split, and with the errors of `expf` and its kin on a GPU. The storage type of the
//! result is not part of it.
//!
//! A sum is charged as a whole when it is used: its depth times the sum of the magnitudes of its
//! terms. The depth is the number of additions, or the smaller one that `Charge` states for forms
//! that add in a tree. All other rules follow from the exact propagation of an interval, so a
//! bound holds at any magnitude of the errors.
//!
//! What it cannot see is cancellation of errors: a variance around a computed mean has no error of
//! first order in that of the mean, but here it has. Such a result needs a bound of its own.

use std::cell::Cell;
use std::fmt::{Display, Formatter};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use half::bf16;

use crate::Real;
use crate::check::{EXPF, UNIT, sum_error};
use crate::device::Element;

/// Errors of the additions of a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Charge {
    /// At most so many roundings to f32 on the path of any term.
    Depth(f64),
    /// Those of tensor cores with operands in bf16 ([`sum_error`]).
    TensorCores,
}

impl Charge {
    /// Units of the roundoff for a sum of so many additions.
    fn units(self, additions: f64) -> f64 {
        match self {
            Charge::Depth(depth) => additions.min(depth),
            Charge::TensorCores => sum_error::<bf16>(additions as usize + 1),
        }
    }
}

thread_local! {
    static CHARGE: Cell<Charge> = const { Cell::new(Charge::Depth(f64::INFINITY)) };
}

/// Runs `f` with sums that are charged so.
pub(crate) fn with_charge<R>(charge: Charge, f: impl FnOnce() -> R) -> R {
    /// Restores the outer charge even if `f` panics.
    struct Restore(Charge);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHARGE.set(self.0);
        }
    }
    let _restore = Restore(CHARGE.replace(charge));
    f()
}

/// A value with a bound of its error; perhaps a sum that has not been charged yet.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Bounded {
    value: f64,
    /// Bound of the error, without that of the additions below.
    error: f64,
    /// Sum of the magnitudes of the terms.
    size: f64,
    /// Additions.
    additions: f64,
}

impl Bounded {
    fn with(value: f64, error: f64) -> Bounded {
        Bounded { value, error, size: value.abs(), additions: 0.0 }
    }

    /// A value that one operation rounded, with `units` of the roundoff, from operands whose errors
    /// change it by up to `error`.
    fn rounded(value: f64, error: f64, units: f64) -> Bounded {
        Bounded::with(value, error + units * UNIT * (value.abs() + error))
    }

    /// The bound of the error.
    pub fn error(self) -> f64 {
        let charge = CHARGE.get();
        match self.additions {
            0.0 => self.error,
            1.0 if charge != Charge::TensorCores => {
                self.error + UNIT * (self.value.abs() + self.error)
            }
            // Each partial sum is at most the sum of the magnitudes.
            n => self.error + charge.units(n) * UNIT * (self.size + self.error),
        }
    }

    /// `f` of the value, a monotone function whose result has an error of `units`.
    fn monotone(self, units: f64, f: impl Fn(f64) -> f64) -> Bounded {
        let (value, error) = (f(self.value), self.error());
        let off = [self.value - error, self.value + error].map(|x| (f(x) - value).abs());
        Bounded::rounded(value, off[0].max(off[1]), units)
    }
}

impl Element for Bounded {
    const ROUNDING: f32 = 0.0;
    fn from_f64(x: f64) -> Bounded {
        Bounded::with(x, 0.0)
    }
    fn to_f64(self) -> f64 {
        self.value
    }
}

impl Display for Bounded {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} +- {:.3e}", self.value, self.error())
    }
}

impl PartialOrd for Bounded {
    fn partial_cmp(&self, other: &Bounded) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl Add for Bounded {
    type Output = Bounded;
    fn add(self, other: Bounded) -> Bounded {
        // Adding zero, as at the start of a sum, is exact.
        if self == Bounded::ZERO {
            return other;
        }
        if other == Bounded::ZERO {
            return self;
        }
        Bounded {
            value: self.value + other.value,
            error: self.error + other.error,
            size: self.size + other.size,
            additions: self.additions + other.additions + 1.0,
        }
    }
}

impl Neg for Bounded {
    type Output = Bounded;
    fn neg(self) -> Bounded {
        Bounded { value: -self.value, ..self }
    }
}

impl Sub for Bounded {
    type Output = Bounded;
    fn sub(self, other: Bounded) -> Bounded {
        self + -other
    }
}

impl Mul for Bounded {
    type Output = Bounded;
    fn mul(self, other: Bounded) -> Bounded {
        let (a, b) = (self.error(), other.error());
        let error = self.value.abs() * b + other.value.abs() * a + a * b;
        // A factor of 1 is exact.
        let exact = [self, other].iter().any(|x| x.value.abs() == 1.0 && x.error() == 0.0);
        Bounded::rounded(self.value * other.value, error, if exact { 0.0 } else { 1.0 })
    }
}

impl Div for Bounded {
    type Output = Bounded;
    fn div(self, other: Bounded) -> Bounded {
        let (value, a, b) = (self.value / other.value, self.error(), other.error());
        // Where the divisor may be zero there is no bound.
        let least = other.value.abs() - b;
        let error = if least > 0.0 { (a + value.abs() * b) / least } else { f64::INFINITY };
        // A quotient may be the product with a reciprocal.
        Bounded::rounded(value, error, 2.0)
    }
}

impl AddAssign for Bounded {
    fn add_assign(&mut self, other: Bounded) {
        *self = *self + other;
    }
}

impl SubAssign for Bounded {
    fn sub_assign(&mut self, other: Bounded) {
        *self = *self - other;
    }
}

impl MulAssign for Bounded {
    fn mul_assign(&mut self, other: Bounded) {
        *self = *self * other;
    }
}

impl DivAssign for Bounded {
    fn div_assign(&mut self, other: Bounded) {
        *self = *self / other;
    }
}

impl Sum for Bounded {
    fn sum<I: Iterator<Item = Bounded>>(terms: I) -> Bounded {
        terms.fold(Bounded::ZERO, |sum, x| sum + x)
    }
}

impl Real for Bounded {
    const IS_F32: bool = false;
    const ZERO: Bounded = Bounded { value: 0.0, error: 0.0, size: 0.0, additions: 0.0 };
    const ONE: Bounded = Bounded { value: 1.0, error: 0.0, size: 1.0, additions: 0.0 };

    fn of(x: f64) -> Bounded {
        Bounded::with(x, (x - f64::from(x as f32)).abs())
    }
    fn f64(self) -> f64 {
        self.value
    }
    fn sqrt(self) -> Bounded {
        // Twice the unit of IEEE, as for a quotient: a reciprocal root may be one function.
        self.monotone(2.0, |x| x.max(0.0).sqrt())
    }
    fn exp(self) -> Bounded {
        self.monotone(EXPF, f64::exp)
    }
    fn ln(self) -> Bounded {
        self.monotone(EXPF, |x| x.max(0.0).ln())
    }
    fn ln_1p(self) -> Bounded {
        self.monotone(EXPF, |x| x.max(-1.0).ln_1p())
    }
    fn abs(self) -> Bounded {
        Bounded { value: self.value.abs(), ..self }
    }
    fn floor(self) -> Bounded {
        let error = self.error();
        let [low, high] = [self.value - error, self.value + error].map(f64::floor);
        Bounded::with(self.value.floor(), high - low)
    }
    fn erf(self) -> Bounded {
        self.monotone(EXPF, libm::erf)
    }
    fn max(self, other: Bounded) -> Bounded {
        let error = self.error().max(other.error());
        Bounded::with(self.value.max(other.value), error)
    }
    fn min(self, other: Bounded) -> Bounded {
        -(-self).max(-other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(x: f64) -> Bounded {
        Bounded::from_f64(x)
    }

    #[test]
    fn a_sum_is_charged_with_its_depth() {
        let sum: Bounded = (0..1000).map(|_| number(0.5)).sum();
        assert_eq!(sum.f64(), 500.0);
        assert!((sum.error() / (999.0 * 500.0 * UNIT) - 1.0).abs() < 1e-3, "{sum}");
        let tree = with_charge(Charge::Depth(10.0), || sum.error());
        assert!((tree / (10.0 * 500.0 * UNIT) - 1.0).abs() < 1e-3, "{tree}");
        let cores = with_charge(Charge::TensorCores, || sum.error());
        assert!((cores / (1504.0 * 500.0 * UNIT) - 1.0).abs() < 1e-3, "{cores}");
        // One addition rounds its result, however large the operands are.
        let difference = number(300.25) - number(300.0);
        assert!((difference.error() / (0.25 * UNIT) - 1.0).abs() < 1e-3, "{difference}");
        assert_eq!((number(0.0) + number(3.0)).error(), 0.0);
    }

    #[test]
    fn errors_of_operands_reach_the_result() {
        let x = number(1.0) / number(3.0);
        assert!((x.error() / (2.0 * UNIT / 3.0) - 1.0).abs() < 1e-3, "{x}");
        let product = x * number(-6.0);
        assert!((product.error() / (3.0 * UNIT * 2.0) - 1.0).abs() < 1e-3, "{product}");
        assert_eq!((x * Bounded::ONE).error(), x.error());
        let large = (x * number(60.0)).exp();
        let relative = large.error() / large.f64();
        assert!((relative / ((60.0 + EXPF) * UNIT) - 1.0).abs() < 1e-2, "{large}");
        assert!((x - x * number(3.0) + number(2.0 / 3.0)).f64().abs() < 1e-9);
        assert_eq!((number(1.0) / (x - x)).error(), f64::INFINITY);
        assert_eq!(number(2.5).floor().error(), 0.0);
        assert_eq!((x * number(3.0)).floor().error(), 1.0);
        assert_eq!((number(-2.0).max(x), number(2.0).min(x).error()), (x, x.error()));
    }

    #[test]
    fn a_bound_holds_for_f32() {
        let logistic = |x: f32| 1.0 / (1.0 + (-x).exp()) * x;
        for i in -400..=400 {
            let x = i as f32 * 0.05;
            let bound = number(f64::from(x)).sigmoid() * number(f64::from(x));
            let off = (f64::from(logistic(x)) - bound.f64()).abs();
            assert!(off <= bound.error(), "{x}: {off} for {bound}");
        }
    }
}
