//! Max pooling in f32: rows are spread over threads, inner loops run over the channels of a pixel.

use rayon::prelude::*;

use super::{Backward, Forward, MaxPool};
use crate::call::Host;
use crate::simd;

simd! {
    /// Takes the values of a pixel that are larger than all before, and its position.
    fn take<FMA>(x: &[f32], position: u8, y: &mut [f32], at: &mut [u8]) {
        let c = x.len();
        let (y, at) = (&mut y[..c], &mut at[..c]);
        for j in 0..c {
            let larger = (x[j] > y[j]) | x[j].is_nan();
            y[j] = if larger { x[j] } else { y[j] };
            at[j] = if larger { position } else { at[j] };
        }
    }

    /// Adds the gradients of a window whose maximum is at this position.
    fn give<FMA>(dy: &[f32], at: &[u8], position: u8, dx: &mut [f32]) {
        let c = dx.len();
        let (dy, at) = (&dy[..c], &at[..c]);
        for j in 0..c {
            dx[j] += if at[j] == position { dy[j] } else { 0.0 };
        }
    }
}

pub fn forward(s: &MaxPool, Forward { x, y, at }: Forward<'_, Host, f32>) {
    let (ho, wo) = s.output().unwrap_or((0, 0));
    let (c, row) = (s.c, wo * s.c);
    y.par_chunks_mut(row).zip(at.par_chunks_mut(row)).enumerate().for_each(|(line, (y, at))| {
        let (b, oy) = (line / ho, line % ho);
        let pixels = y.chunks_exact_mut(c).zip(at.chunks_exact_mut(c));
        for (ox, (y, at)) in pixels.enumerate() {
            let mut first = true;
            for iy in s.covered(oy, s.h) {
                for ix in s.covered(ox, s.w) {
                    let x = &x[((b * s.h + iy) * s.w + ix) * c..][..c];
                    let position = s.position((oy, ox), (iy, ix)) as u8;
                    if std::mem::take(&mut first) {
                        y.copy_from_slice(x);
                        at.fill(position);
                    } else {
                        take(x, position, y, at);
                    }
                }
            }
        }
    });
}

pub fn backward(s: &MaxPool, Backward { at, dy, dx }: Backward<'_, Host, f32>) {
    let (ho, wo) = s.output().unwrap_or((0, 0));
    let c = s.c;
    dx.par_chunks_mut(s.w * c).enumerate().for_each(|(line, dx)| {
        let (b, iy) = (line / s.h, line % s.h);
        for (ix, dx) in dx.chunks_exact_mut(c).enumerate() {
            dx.fill(0.0);
            for oy in s.windows(iy, ho) {
                for ox in s.windows(ix, wo) {
                    let window = ((b * ho + oy) * wo + ox) * c;
                    let position = s.position((oy, ox), (iy, ix)) as u8;
                    give(&dy[window..][..c], &at[window..][..c], position, dx);
                }
            }
        }
    });
}
