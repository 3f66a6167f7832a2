//! Resampling in plain loops: the reference implementation.

use super::Taps;
use crate::Real;

/// Applies the tap tables `y` and `x` to maps `[n, h, w, c]`; the backward pass uses transposed
/// tables.
pub fn apply<T: Real>(n: usize, c: usize, y: &Taps, x: &Taps, input: &[T], output: &mut [T]) {
    let (h, w, ho, wo) = (y.n_in, x.n_in, y.n_out, x.n_out);
    output.fill(T::ZERO);
    for b in 0..n {
        for oy in 0..ho {
            for ox in 0..wo {
                let out = &mut output[((b * ho + oy) * wo + ox) * c..][..c];
                let ((rows, wy), (columns, wx)) = (y.row(oy), x.row(ox));
                for (&i, &wi) in rows.iter().zip(wy) {
                    for (&j, &wj) in columns.iter().zip(wx) {
                        let from = &input[((b * h + i as usize) * w + j as usize) * c..][..c];
                        for (o, v) in out.iter_mut().zip(from) {
                            *o += T::of(wi * wj) * *v;
                        }
                    }
                }
            }
        }
    }
}
