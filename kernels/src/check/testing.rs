//! Assertions for tests, and the folders of recorded values.

use std::path::{Path, PathBuf};

use super::relative_error;
use crate::Real;

/// Asserts that `got` is within `tolerance` of `want`, relative to the largest value of `want`.
///
/// # Panics
/// If it does not.
pub fn assert_close<T: Real>(what: &str, got: &[T], want: &[T], tolerance: f64) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "{what}: relative error {error:.3e} above {tolerance:.1e}");
}

/// Compares `gradients` (one slice per input) with central differences of `objective` at `inputs`.
/// Returns the worst error relative to the largest gradient of its input.
///
/// # Panics
/// If an error exceeds 1e-6; the message names the operation, the input and the element.
pub fn central_differences(
    what: &str,
    inputs: &[Vec<f64>],
    gradients: &[Vec<f64>],
    objective: impl Fn(&[Vec<f64>]) -> f64,
) -> f64 {
    const STEP: f64 = 1e-5;
    let mut worst: f64 = 0.0;
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(
            gradient.len(),
            inputs[i].len(),
            "{what}: gradient {i} has another length than its input"
        );
        let scale = gradient.iter().fold(1e-3, |a: f64, g| a.max(g.abs()));
        let mut at = inputs.to_vec();
        for j in 0..gradient.len() {
            let x = inputs[i][j];
            at[i][j] = x + STEP;
            let above = objective(&at);
            at[i][j] = x - STEP;
            let below = objective(&at);
            at[i][j] = x;
            let numeric = (above - below) / (2.0 * STEP);
            let error = (numeric - gradient[j]).abs() / scale;
            assert!(
                error <= 1e-6,
                "{what}: gradient of input {i}, element {j} is {}, central difference {numeric}",
                gradient[j]
            );
            worst = worst.max(error);
        }
    }
    worst
}

/// Folders of recorded values listed in `DRESSAGE_FIXTURES`, separated as in `PATH`. Relative paths
/// start at the root of the project, where the tests are called: cargo runs the tests of each
/// package in the package's own folder.
pub fn fixture_dirs() -> Vec<PathBuf> {
    let named = std::env::var_os("DRESSAGE_FIXTURES").unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let dirs = std::env::split_paths(&named).filter(|dir| !dir.as_os_str().is_empty());
    // An absolute folder replaces the root.
    dirs.map(|dir| root.join(dir)).collect()
}
