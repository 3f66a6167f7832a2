//! Copies of patches to rows and back, and the products.

use rayon::prelude::*;

use super::{Backward, Forward, ParameterGradients, PatchEmbed};
use crate::call::{Call, Host};
use crate::cpu::scratch;
use crate::ops::linear;

/// Calls `f` with the start of each run of `p` pixels of one row of patches: in the rows of patches
/// and in the image.
fn runs(s: &PatchEmbed, image: usize, gy: usize, mut f: impl FnMut(usize, usize)) {
    let (p, gw, row) = (s.p, s.w / s.p, s.channels * s.p * s.p);
    for (channel, py) in (0..s.channels).flat_map(|i| (0..p).map(move |py| (i, py))) {
        let line = ((image * s.channels + channel) * s.h + gy * p + py) * s.w;
        for gx in 0..gw {
            f(gx * row + (channel * p + py) * p, line + gx * p);
        }
    }
}

/// Elements per row of patches.
fn strip(s: &PatchEmbed) -> usize {
    (s.channels * s.p * s.w).max(1)
}

/// `[b, channels, h, w]` to `[b gh gw, channels p p]`.
fn unfold(s: &PatchEmbed, x: &[f32], rows: &mut [f32]) {
    let gh = s.h / s.p;
    rows.par_chunks_mut(strip(s)).enumerate().for_each(|(k, rows)| {
        runs(s, k / gh, k % gh, |at, from| {
            rows[at..at + s.p].copy_from_slice(&x[from..from + s.p]);
        });
    });
}

/// `[b gh gw, channels p p]` to `[b, channels, h, w]`.
fn fold(s: &PatchEmbed, rows: &[f32], x: &mut [f32]) {
    let gh = s.h / s.p;
    // One task writes an image: its rows of patches interleave in memory.
    let image = (s.channels * s.h * s.w).max(1);
    x.par_chunks_mut(image).enumerate().for_each(|(b, x)| {
        for gy in 0..gh {
            let rows = &rows[(b * gh + gy) * strip(s)..][..strip(s)];
            runs(s, 0, gy, |at, to| x[to..to + s.p].copy_from_slice(&rows[at..at + s.p]));
        }
    });
}

pub fn forward(s: &PatchEmbed, c: Forward<'_, Host, f32>) {
    let Forward { x, weight, bias, y } = c;
    scratch::with(x.len(), |patches: &mut [f32]| {
        unfold(s, x, patches);
        let layer = linear::Forward { x: &*patches, weight, bias, y };
        linear::Forward::<Host, f32>::fast(&s.layer(), layer);
    });
}

pub fn backward(s: &PatchEmbed, Backward { weight, dy, dx }: Backward<'_, Host, f32>) {
    scratch::with(dx.len(), |patches: &mut [f32]| {
        let layer = linear::Backward { weight, dy, dx: &mut *patches };
        linear::Backward::<Host, f32>::fast(&s.layer(), layer);
        fold(s, patches, dx);
    });
}

pub fn parameters(s: &PatchEmbed, c: ParameterGradients<'_, Host, f32>) {
    let ParameterGradients { x, dy, dweight, dbias } = c;
    let x = x.filter(|_| dweight.is_some());
    scratch::with(x.map_or(0, <[f32]>::len), |patches: &mut [f32]| {
        if let Some(x) = x {
            unfold(s, x, patches);
        }
        let layer = linear::ParameterGradients { x: x.map(|_| &*patches), dy, dweight, dbias };
        linear::ParameterGradients::<Host, f32>::fast(&s.layer(), layer);
    });
}
