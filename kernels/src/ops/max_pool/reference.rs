//! Max pooling in plain loops: the reference implementation.

use super::{Backward, Forward, MaxPool, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

/// Calls `f` with the index of each window in `y` and, in order, the indices in `x` and positions of
/// its pixels, for each channel.
fn windows(s: &MaxPool, mut f: impl FnMut(usize, &mut dyn Iterator<Item = (usize, u8)>)) {
    let (ho, wo) = s.output().unwrap_or((0, 0));
    for y in 0..s.b * ho * wo * s.c {
        let (channel, ox, oy) = (y % s.c, y / s.c % wo, y / (s.c * wo) % ho);
        let b = y / (s.c * wo * ho);
        let mut pixels = s.covered(oy, s.h).flat_map(|iy| {
            s.covered(ox, s.w).map(move |ix| {
                let x = ((b * s.h + iy) * s.w + ix) * s.c + channel;
                (x, s.position((oy, ox), (iy, ix)) as u8)
            })
        });
        f(y, &mut pixels);
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = MaxPool;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &MaxPool, Forward { x, y, at }: Forward<'_, Host, U>) {
        windows(s, |window, pixels| {
            let mut best: Option<(U, u8)> = None;
            for (i, position) in pixels {
                if best.is_none_or(|(most, _)| x[i] > most || x[i].f64().is_nan()) {
                    best = Some((x[i], position));
                }
            }
            (y[window], at[window]) = best.unwrap_or((U::ZERO, 0));
        });
    }

    fn fast(s: &MaxPool, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = MaxPool;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &MaxPool, Backward { at, dy, dx }: Backward<'_, Host, U>) {
        dx.fill(U::ZERO);
        windows(s, |window, pixels| {
            // y[window] = x[at]
            for (i, _) in pixels.filter(|(_, position)| *position == at[window]) {
                dx[i] += dy[window];
            }
        });
    }

    fn fast(s: &MaxPool, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
