//! Comparison of our tensors with recorded ones.

use dressage_engine::{DType, Tensor};
use serde_json::Value;

use crate::Outcome;
use crate::fixture::Fixture;

/// Largest allowed distance of a value from the recorded one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Absolute part of the bound.
    pub abs: f64,
    /// Part of the bound per unit of the recorded value.
    pub element: f64,
}

impl Bound {
    /// Creates a bound that is the same for every element.
    pub fn abs(abs: f64) -> Bound {
        Bound { abs, element: 0.0 }
    }
}

/// Rule for the bound of a tensor.
pub enum Tolerance {
    /// The bound is `10 * max_abs_err + 1e-5 * max_abs_value`. The settings state both for each
    /// tensor, from the rounding of the f32 reference against itself in f64. For a tensor that is
    /// not listed the error counts as 0, and its own largest value is used.
    Stated(Value),
    /// Outputs: 1e-4 of the value plus 1e-5. Gradients: 1e-3 of the tensor's largest value.
    Float64,
}

impl Tolerance {
    /// The tolerance that a case states.
    pub fn of(fixture: &Fixture) -> Tolerance {
        match fixture.sidecar {
            true => Tolerance::Stated(fixture.json["float32_error_vs_float64"].clone()),
            false => Tolerance::Float64,
        }
    }

    fn bound(&self, name: &str, largest: f64) -> Bound {
        match self {
            Tolerance::Stated(list) => {
                let stated = |key: &str| list[name][key].as_f64();
                let error = stated("max_abs_err").unwrap_or(0.0);
                Bound::abs(10.0 * error + 1e-5 * stated("max_abs_value").unwrap_or(largest))
            }
            // A gradient that is zero throughout in f64 is rounding noise in f32.
            Tolerance::Float64 if name.starts_with("grad.") => Bound::abs(1e-3 * largest + 1e-9),
            Tolerance::Float64 => Bound { abs: 1e-5, element: 1e-4 },
        }
    }
}

/// All comparisons of one case.
pub struct Table {
    tolerance: Tolerance,
    compared: usize,
    worst: Option<(f64, String)>,
    failures: Vec<String>,
}

impl Table {
    /// Creates a table without comparisons.
    pub fn new(tolerance: Tolerance) -> Table {
        Table { tolerance, compared: 0, worst: None, failures: Vec::new() }
    }

    /// Number of tensors and lists compared.
    pub fn compared(&self) -> usize {
        self.compared
    }

    /// Largest error relative to the largest value of its tensor, and the name of the tensor.
    pub fn worst(&self) -> Option<(f64, &str)> {
        self.worst.as_ref().map(|(e, name)| (*e, name.as_str()))
    }

    /// The failed comparisons.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Adds a failure.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    /// Compares with the recorded tensor `name` within the case's bound.
    ///
    /// # Errors
    /// A recorded tensor that is missing; tensors that are not f32.
    pub fn close(&mut self, fixture: &Fixture, name: &str, got: &Tensor) -> Outcome<()> {
        self.close_to(name, got, &fixture.floats(name)?)
    }

    /// Compares with `want` within the case's bound.
    ///
    /// # Errors
    /// Tensors that are not f32.
    pub fn close_to(&mut self, name: &str, got: &Tensor, want: &Tensor) -> Outcome<()> {
        let bound = self.tolerance.bound(name, largest(want.data::<f32>()?));
        self.within(name, got, want, |_| bound)
    }

    /// [`Table::close`] for a gradient. `None` is a gradient that never arrived, which a recorded
    /// zero allows.
    ///
    /// # Errors
    /// Errors of [`Table::close`].
    pub fn gradient(&mut self, fixture: &Fixture, name: &str, got: Option<&Tensor>) -> Outcome<()> {
        if let Some(got) = got {
            return self.close(fixture, name, got);
        }
        self.compared += 1;
        if largest(fixture.floats(name)?.data::<f32>()?) != 0.0 {
            self.fail(format!("{name}: no gradient arrived"));
        }
        Ok(())
    }

    /// Compares element by element; `bound` returns the bound of element `i`. The worst error is
    /// taken over the elements with the tightest bound.
    ///
    /// # Errors
    /// Tensors that are neither f32 nor f64.
    pub fn within(
        &mut self,
        name: &str,
        got: &Tensor,
        want: &Tensor,
        bound: impl Fn(usize) -> Bound,
    ) -> Outcome<()> {
        self.compared += 1;
        // The reference records a scalar as [] or [1], depending on how it was computed.
        let scalars = got.len() == 1 && want.len() == 1;
        if got.shape() != want.shape() && !scalars {
            self.fail(format!("{name}: shape {:?}, recorded {:?}", got.shape(), want.shape()));
            return Ok(());
        }
        let (got, want) = (wide(got)?, wide(want)?);
        let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let tightest = (0..want.len()).fold(f64::INFINITY, |m, i| m.min(bound(i).abs));
        let (mut error, mut beyond, mut first) = (0.0f64, 0usize, None);
        for (i, (&x, &y)) in got.iter().zip(&want).enumerate() {
            let (d, bound) = (x - y, bound(i));
            let d = if d.is_nan() { f64::INFINITY } else { d.abs() };
            if bound.abs <= tightest {
                error = error.max(d);
            }
            if d > bound.abs + bound.element * y.abs() {
                beyond += 1;
                first = first.or(Some((i, x, y)));
            }
        }
        let relative = if largest > 0.0 { error / largest } else { error };
        if self.worst.as_ref().is_none_or(|(w, _)| relative > *w) {
            self.worst = Some((relative, name.to_string()));
        }
        if let Some((i, x, y)) = first {
            let n = got.len();
            self.fail(format!(
                "{name}: {beyond} of {n} beyond the bound, error up to {error:.2e} = {relative:.2e} \
                 of {largest:.3e}; first at {i}: {x:e}, recorded {y:e}"
            ));
        }
        Ok(())
    }

    /// Checks that two lists are equal.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, got: &[T], want: &[T]) {
        self.compared += 1;
        if got.len() != want.len() {
            self.fail(format!("{name}: {} elements, recorded {}", got.len(), want.len()));
        } else if let Some(i) = (0..got.len()).find(|&i| got[i] != want[i]) {
            let differ = got.iter().zip(want).filter(|(a, b)| a != b).count();
            self.fail(format!(
                "{name}: {differ} of {} differ; first at {i}: {:?}, recorded {:?}",
                got.len(),
                got[i],
                want[i]
            ));
        }
    }
}

/// The values of an f32 or f64 tensor, as f64.
fn wide(t: &Tensor) -> Outcome<Vec<f64>> {
    Ok(match t.dtype() {
        DType::F64 => t.data::<f64>()?.to_vec(),
        _ => t.data::<f32>()?.iter().map(|v| f64::from(*v)).collect(),
    })
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Table {
        let list = json!({"output.x": {"max_abs_err": 1e-6, "max_abs_value": 2.0}});
        Table::new(Tolerance::Stated(list))
    }

    fn check(got: &[f32], want: &[f32]) -> Table {
        let mut table = table();
        let (n, m) = (got.len(), want.len());
        let got = Tensor::from_slice(got, &[n]).unwrap();
        let want = Tensor::from_slice(want, &[m]).unwrap();
        let bound = table.tolerance.bound("output.x", 2.0);
        table.within("output.x", &got, &want, |_| bound).unwrap();
        table
    }

    #[test]
    fn parity_bound_is_ten_errors_and_a_share_of_the_largest() {
        let bound = table().tolerance.bound("output.x", 7.0);
        assert!((bound.abs - 3e-5).abs() < 1e-12, "{bound:?}");
        // Not listed: the largest recorded value decides.
        assert!((table().tolerance.bound("output.y", 7.0).abs - 7e-5).abs() < 1e-12);
        assert_eq!(Tolerance::Float64.bound("output.x", 7.0), Bound { abs: 1e-5, element: 1e-4 });
        assert!((Tolerance::Float64.bound("grad.x", 2.0).abs - 2e-3).abs() < 1e-8);
    }

    #[test]
    fn parity_distinguishes_right_from_wrong() {
        assert!(check(&[1.0, 2.0], &[1.00002, 2.0]).failures().is_empty());
        let wrong = check(&[1.0, 2.0], &[1.0001, 2.0]);
        assert!(wrong.failures()[0].contains("1 of 2 beyond"), "{:?}", wrong.failures());
        let (worst, name) = wrong.worst().unwrap();
        assert!((worst - 5e-5).abs() < 1e-6 && name == "output.x");
        assert!(!check(&[f32::NAN, 2.0], &[1.0, 2.0]).failures().is_empty());
        assert!(check(&[1.0], &[1.0, 2.0]).failures()[0].contains("shape"));
        let mut table = table();
        table.equal("labels", &[1, 2, 3], &[1, 5, 3]);
        table.equal("labels", &[1, 2], &[1, 2]);
        assert_eq!((table.compared(), table.failures().len()), (2, 1));
    }
}
