//! Convolution in plain loops: the reference implementation.

use super::Conv2d;
use crate::{Real, Result};

/// One product of the sum: where it reads and writes.
struct Tap {
    x: usize,
    weight: usize,
    y: usize,
}

/// Calls `f` for every product in the sums of the forward pass.
fn taps(s: &Conv2d, mut f: impl FnMut(Tap)) -> Result<()> {
    let (ho, wo) = s.output()?;
    for (b, oy, ox) in grid(s.b, ho, wo) {
        for (o, ky, kx) in grid(s.co, s.kh, s.kw) {
            let (iy, ix) = (oy * s.stride + ky, ox * s.stride + kx);
            if iy < s.pad || ix < s.pad || iy - s.pad >= s.h || ix - s.pad >= s.w {
                continue;
            }
            for i in 0..s.ci {
                f(Tap {
                    x: ((b * s.h + iy - s.pad) * s.w + ix - s.pad) * s.ci + i,
                    weight: ((o * s.ci + i) * s.kh + ky) * s.kw + kx,
                    y: ((b * ho + oy) * wo + ox) * s.co + o,
                });
            }
        }
    }
    Ok(())
}

fn grid(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// Writes `y`.
///
/// # Errors
/// As [`Conv2d::output`].
pub fn forward<T: Real>(
    s: &Conv2d,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) -> Result<()> {
    for (i, y) in y.iter_mut().enumerate() {
        *y = bias.map_or(T::ZERO, |bias| bias[i % s.co]);
    }
    taps(s, |t| y[t.y] += x[t.x] * weight[t.weight])
}

/// Writes `dx` and adds to `dweight` and `dbias`.
///
/// # Errors
/// As [`Conv2d::output`].
pub fn backward<T: Real>(
    s: &Conv2d,
    x: &[T],
    weight: &[T],
    dy: &[T],
    dx: &mut [T],
    dweight: &mut [T],
    dbias: &mut [T],
) -> Result<()> {
    dx.fill(T::ZERO);
    for (i, dy) in dy.iter().enumerate() {
        dbias[i % s.co] += *dy;
    }
    // y[..] += x[..] * weight[..]
    taps(s, |t| {
        dx[t.x] += dy[t.y] * weight[t.weight];
        dweight[t.weight] += dy[t.y] * x[t.x];
    })
}
