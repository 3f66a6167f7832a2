//! Fixed position table of the mask decoder: sines and cosines of the row and the column.
//!
//! ```text
//! y = 2 pi (i + 1) / (h + 1e-6)      x = 2 pi (j + 1) / (w + 1e-6)
//! t_k = 10000^(2 floor(k / 2) / (c / 2))
//! table[i, j, k]         = sin(y / t_k) for even k, cos(y / t_k) for odd k       k in 0..c/2
//! table[i, j, c / 2 + k] = the same of x
//! ```
//! Counting starts at 1, so the last row and column are at 2 pi. Quotients are computed in f32, as
//! in the published code.
//! Shapes: `table` `[h w, c]`. No gradient; computed once per size.
//!
//! On a GPU: the table is computed here and uploaded once per size; there is no kernel.
//!
//! Source: spec mask2former §2.2.

use crate::{KernelError, Real, Result, check_len, dry_run};

/// Writes the table `[h w, c]`.
///
/// # Errors
/// A `c` that is not a multiple of 4; a slice of another length.
pub fn sine_position<T: Real>(h: usize, w: usize, c: usize, table: &mut [T]) -> Result<()> {
    if c == 0 || !c.is_multiple_of(4) {
        let what = format!("{c} channels do not divide into sines and cosines of two axes");
        return Err(KernelError::Size { op: "sine_position", what });
    }
    check_len("sine_position", "table", table, h * w * c)?;
    if dry_run::skip("sine_position") {
        return Ok(());
    }
    let half = c / 2;
    let rows = axis::<T>(h, half);
    let columns = axis::<T>(w, half);
    for (n, out) in table.chunks_exact_mut(c).enumerate() {
        let (i, j) = (n / w, n % w);
        out[..half].copy_from_slice(&rows[i * half..][..half]);
        out[half..].copy_from_slice(&columns[j * half..][..half]);
    }
    Ok(())
}

/// Half of the table that depends on one axis, `[n, half]`.
fn axis<T: Real>(n: usize, half: usize) -> Vec<T> {
    let mut table = Vec::with_capacity(n * half);
    for i in 0..n {
        let at = (i + 1) as f32 / (n as f32 + 1e-6) * std::f32::consts::TAU;
        for k in 0..half {
            let exponent = (2 * (k / 2)) as f64 / half as f64;
            let angle = at / 10000f64.powf(exponent) as f32;
            table.push(T::of(f64::from(if k % 2 == 0 { angle.sin() } else { angle.cos() })));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_numbers() {
        let (h, w, c) = (3, 5, 256);
        let mut table = vec![f32::NAN; h * w * c];
        sine_position(h, w, c, &mut table).unwrap();
        let at = &table[(5 + 2) * c..][..c];
        let golden =
            [(0, -0.866025), (1, -0.500001), (2, -0.466871), (128, -0.587785), (129, -0.809017)];
        for (k, want) in golden {
            assert!((at[k] - want).abs() < 1.5e-6, "channel {k}: {} instead of {want}", at[k]);
        }
    }

    #[test]
    fn every_entry_follows_the_formula_in_f64() {
        let (h, w, c) = (7, 4, 24);
        let mut table = vec![f64::NAN; h * w * c];
        sine_position(h, w, c, &mut table).unwrap();
        for (n, row) in table.chunks(c).enumerate() {
            let y = std::f64::consts::TAU * (n / w + 1) as f64 / (h as f64 + 1e-6);
            let x = std::f64::consts::TAU * (n % w + 1) as f64 / (w as f64 + 1e-6);
            for k in 0..c {
                let m = k % (c / 2);
                let t = 10000f64.powf(((m / 2) * 2) as f64 / (c / 2) as f64);
                let angle = if k < c / 2 { y } else { x } / t;
                let want = if m % 2 == 0 { angle.sin() } else { angle.cos() };
                assert!((row[k] - want).abs() < 2e-6, "token {n}, channel {k}");
            }
        }
    }

    #[test]
    fn odd_widths_are_refused() {
        let error = sine_position(1, 1, 6, &mut [0.0f32; 6]).unwrap_err();
        let want = "sine_position: 6 channels do not divide into sines and cosines of two axes";
        assert_eq!(error.to_string(), want);
    }
}
