//! Copies of patches to rows and back, and the products.

use rayon::prelude::*;

use super::PatchEmbed;
use crate::call::{Call, Host};
use crate::cpu::scratch;
use crate::ops::linear::{Backward, Forward, Linear, ParameterGradients};
use crate::{Real, Result};

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
fn unfold<T: Real>(s: &PatchEmbed, x: &[T], rows: &mut [T]) {
    let gh = s.h / s.p;
    rows.par_chunks_mut(strip(s)).enumerate().for_each(|(k, rows)| {
        runs(s, k / gh, k % gh, |at, from| {
            rows[at..at + s.p].copy_from_slice(&x[from..from + s.p]);
        });
    });
}

/// `[b gh gw, channels p p]` to `[b, channels, h, w]`.
fn fold<T: Real>(s: &PatchEmbed, rows: &[T], x: &mut [T]) {
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

/// `y = patches weight^T + bias`.
pub fn forward<T: Real>(
    s: &PatchEmbed,
    linear: &Linear,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) -> Result<()> {
    scratch::with(x.len(), |patches: &mut [T]| {
        unfold(s, x, patches);
        Forward::<Host, T> { x: patches, weight, bias, y }.run(linear)
    })
}

/// `dpatches = dy weight`, copied back to the image.
pub fn dx<T: Real>(
    s: &PatchEmbed,
    linear: &Linear,
    weight: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    scratch::with(dx.len(), |patches: &mut [T]| {
        Backward::<Host, T> { weight, dy, dx: &mut *patches }.run(linear)?;
        fold(s, patches, dx);
        Ok(())
    })
}

/// `dweight += dy^T patches`, and the gradient of the bias.
pub fn parameters<T: Real>(
    s: &PatchEmbed,
    linear: &Linear,
    x: &[T],
    dy: &[T],
    dweight: &mut [T],
    dbias: Option<&mut [T]>,
) -> Result<()> {
    scratch::with(x.len(), |patches: &mut [T]| {
        unfold(s, x, patches);
        let (x, dweight) = (Some(&*patches), Some(dweight));
        ParameterGradients::<Host, T> { x, dy, dweight, dbias }.run(linear)
    })
}
