//! Patch embedding in plain loops: the reference implementation.

use super::PatchEmbed;
use crate::{Real, Result};

/// Calls `f` with the indices in `y`, `x` and `weight` of every product of the sum.
fn products(s: &PatchEmbed, mut f: impl FnMut(usize, usize, usize)) -> Result<()> {
    let (gh, gw) = s.grid()?;
    for token in 0..s.b * gh * gw {
        let (image, gy, gx) = (token / (gh * gw), token / gw % gh, token % gw);
        for o in 0..s.c {
            for l in 0..s.channels * s.p * s.p {
                let (i, py, px) = (l / (s.p * s.p), l / s.p % s.p, l % s.p);
                let line = (image * s.channels + i) * s.h + gy * s.p + py;
                let x = line * s.w + gx * s.p + px;
                f(token * s.c + o, x, o * s.channels * s.p * s.p + l);
            }
        }
    }
    Ok(())
}

/// Writes `y`.
///
/// # Errors
/// As [`PatchEmbed::grid`].
pub fn forward<T: Real>(
    s: &PatchEmbed,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) -> Result<()> {
    for (i, y) in y.iter_mut().enumerate() {
        *y = bias.map_or(T::ZERO, |bias| bias[i % s.c]);
    }
    products(s, |at, i, l| y[at] += x[i] * weight[l])
}

/// Writes `dx` and adds to `dweight` and `dbias`.
///
/// # Errors
/// As [`PatchEmbed::grid`].
pub fn backward<T: Real>(
    s: &PatchEmbed,
    x: &[T],
    weight: &[T],
    dy: &[T],
    dx: &mut [T],
    dweight: &mut [T],
    dbias: &mut [T],
) -> Result<()> {
    dx.fill(T::ZERO);
    for (i, dy) in dy.iter().enumerate() {
        dbias[i % s.c] += *dy;
    }
    // y[at] += x[i] * weight[l]
    products(s, |at, i, l| {
        dx[i] += dy[at] * weight[l];
        dweight[l] += dy[at] * x[i];
    })
}
