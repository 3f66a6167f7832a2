//! Angles of a rotation by halves (spec dinov3 §3).

use std::f64::consts::TAU;

/// Base of the periods.
const BASE: f64 = 100.0;

/// Periods `[d / 4]` of a rotation by halves: `100^(i / (d / 4))`.
pub fn periods(d: usize) -> Vec<f64> {
    let quarter = d / 4;
    (0..quarter).map(|i| BASE.powf(i as f64 / quarter as f64)).collect()
}

/// Cosines and sines `[h w, d / 2, 2]` for the cells of a grid `[h, w]`, row by row.
///
/// The angle is `2 pi` times the coordinate by the period. The first half of the angles is of the
/// row, the second of the column. Each axis spans (-1, 1), with cells at their centres.
pub fn centred_table([h, w]: [usize; 2], periods: &[f64]) -> Vec<f64> {
    let centre = |i: usize, n: usize| 2.0 * (i as f64 + 0.5) / n as f64 - 1.0;
    let mut table = Vec::with_capacity(h * w * 4 * periods.len());
    for cell in 0..h * w {
        for at in [centre(cell / w, h), centre(cell % w, w)] {
            for period in periods {
                let (sin, cos) = (TAU * at / period).sin_cos();
                table.extend([cos, sin]);
            }
        }
    }
    table
}
