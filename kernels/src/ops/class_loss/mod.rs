//! Cross-entropy over classes with class weights, divided by the summed weights of the rows.
//!
//! ```text
//! loss       = weight * sum_i w[y_i] (lse(x_i) - x[i, y_i]) / (sum_i w[y_i] + eps)
//! dx[i, j]   = dloss * weight * w[y_i] (softmax(x_i)[j] - [j = y_i]) / (sum_i w[y_i] + eps)
//! ```
//! `eps` is the machine epsilon of f32, 1.19e-7. Rows are the queries of a batch. `y` is their
//! matched class, or the last class for "no object". The divisor covers this process only.
//!
//! Shapes: `x`, `dx` `[n, k]` with `k` counting "no object"; `targets` `[n]`; `class_weights`
//! `[k]`; the loss is a scalar. Nothing is saved; the softmax is recomputed. Cost: 2 n k
//! exponentials. With n = 400, k = 20 plain loops take microseconds, so there is no faster version.
//!
//! On a GPU: 400 rows of 20 classes in f32 are 32 KB, which takes far less time than a launch. So
//! the forward pass is one block, and only the backward pass uses the whole device, one warp per
//! row.
//!
//! Source: spec mask2former §4.4, §4.5.

mod gpu;
#[cfg(test)]
mod gpu_tests;
pub(crate) mod verify;

use crate::{KernelError, Real, Result, check_len, dry_run};

/// Sizes of a class loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassLoss {
    /// Rows.
    pub n: usize,
    /// Classes, "no object" included.
    pub k: usize,
    /// Weight of the loss; 2 in the recipe.
    pub weight: f64,
}

impl ClassLoss {
    /// Returns the loss.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; a target outside `0..k`.
    pub fn forward<T: Real>(&self, x: &[T], targets: &[i32], class_weights: &[T]) -> Result<T> {
        let scale = self.check(x, targets, class_weights)?;
        if dry_run::skip("class_loss") {
            return Ok(T::ZERO);
        }
        let mut sum = T::ZERO;
        for (x, &y) in x.chunks_exact(self.k.max(1)).zip(targets) {
            let (top, total) = softmax_parts(x);
            let y = y as usize;
            sum += class_weights[y] * (top - x[y] + total.ln());
        }
        Ok(sum * scale)
    }

    /// Writes `dx` `[n, k]` for the incoming gradient `dloss`.
    ///
    /// # Errors
    /// As [`ClassLoss::forward`].
    pub fn backward<T: Real>(
        &self,
        x: &[T],
        targets: &[i32],
        class_weights: &[T],
        dloss: T,
        dx: &mut [T],
    ) -> Result<()> {
        let scale = self.check(x, targets, class_weights)? * dloss;
        check_len("class_loss", "dx", dx, self.n * self.k)?;
        if dry_run::skip("class_loss") {
            return Ok(());
        }
        let rows = x.chunks_exact(self.k.max(1)).zip(dx.chunks_exact_mut(self.k.max(1)));
        for ((x, dx), &y) in rows.zip(targets) {
            let (top, total) = softmax_parts(x);
            let y = y as usize;
            // sum += w[y] * (lse(x) - x[y])
            let d = scale * class_weights[y];
            for (dx, &v) in dx.iter_mut().zip(x) {
                *dx = d * ((v - top).exp() / total);
            }
            dx[y] += -d;
        }
        Ok(())
    }

    /// Checks the arguments and returns `weight / (sum_i w[y_i] + eps)`.
    fn check<T: Real>(&self, x: &[T], targets: &[i32], class_weights: &[T]) -> Result<T> {
        check_len("class_loss", "x", x, self.n * self.k)?;
        check_len("class_loss", "targets", targets, self.n)?;
        check_len("class_loss", "class_weights", class_weights, self.k)?;
        self.check_targets(targets)?;
        let total: T = targets.iter().map(|&y| class_weights[y as usize]).sum();
        Ok(T::of(self.weight) / (total + T::of(f64::from(f32::EPSILON))))
    }

    /// Fails for a target outside `0..k`. The GPU kernels do not check: they ignore such a row.
    ///
    /// # Errors
    /// The first such target.
    pub fn check_targets(&self, targets: &[i32]) -> Result<()> {
        match targets.iter().find(|y| !(0..self.k as i64).contains(&i64::from(**y))) {
            None => Ok(()),
            Some(y) => {
                let what = format!("target {y} is not one of {} classes", self.k);
                Err(KernelError::Size { op: "class_loss", what })
            }
        }
    }
}

/// Largest logit and the sum of the exponentials relative to it.
fn softmax_parts<T: Real>(x: &[T]) -> (T, T) {
    let top = x.iter().copied().fold(x[0], Real::max);
    (top, x.iter().map(|&v| (v - top).exp()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, central_differences, noise};

    #[test]
    fn golden_number() {
        let s = ClassLoss { n: 3, k: 3, weight: 2.0 };
        let x = [1.0f32, 0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        let loss = s.forward(&x, &[0, 1, 2], &[1.0, 1.0, 0.1]).unwrap();
        assert!((loss - 0.7210).abs() < 6e-5, "{loss}");
    }

    #[test]
    fn gradient_matches_central_differences() {
        for (n, k) in [(1, 1), (7, 5), (13, 20)] {
            let s = ClassLoss { n, k, weight: 2.0 };
            let x: Vec<f64> = noise::<f64>(n * k, 1).iter().map(|v| v * 4.0).collect();
            let w: Vec<f64> = noise::<f64>(k, 2).iter().map(|v| v.abs() + 0.1).collect();
            let y: Vec<i32> = (0..n).map(|i| (i * 3 % k) as i32).collect();
            let mut dx = vec![f64::NAN; n * k];
            s.backward(&x, &y, &w, 0.37, &mut dx).unwrap();
            central_differences("class_loss", &[x], &[dx], |inputs| {
                0.37 * s.forward(&inputs[0], &y, &w).unwrap()
            });
        }
    }

    #[test]
    fn f32_agrees_with_f64_at_extreme_logits() {
        let s = ClassLoss { n: 5, k: 4, weight: 2.0 };
        let x: Vec<f32> = noise::<f32>(20, 1).iter().map(|v| v * 200.0).collect();
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let y = [0, 3, 2, 1, 3];
        let loss = s.forward(&x, &y, &[1.0, 1.0, 1.0, 0.1]).unwrap();
        let want = s.forward(&wide, &y, &[1.0, 1.0, 1.0, 0.1]).unwrap();
        assert_close("loss", &[f64::from(loss)], &[want], 1e-6);
    }

    #[test]
    fn bad_targets_are_named_and_no_rows_give_zero() {
        let s = ClassLoss { n: 1, k: 2, weight: 2.0 };
        for y in [-1, 2] {
            let error = s.forward(&[0.0f32; 2], &[y], &[1.0; 2]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("class_loss: target {y} is not one of 2 classes")
            );
        }
        let s = ClassLoss { n: 0, k: 2, weight: 2.0 };
        assert_eq!(s.forward::<f32>(&[], &[], &[1.0; 2]).unwrap(), 0.0);
        s.backward::<f32>(&[], &[], &[1.0; 2], 1.0, &mut []).unwrap();
    }
}
