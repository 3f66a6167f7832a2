//! Multi-scale deformable attention in plain loops: the reference implementation.

use super::{Backward, Forward, MsDeformAttn, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;

/// Sampling position of one point on its level.
struct Point<T> {
    /// Weights of the four taps: (y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1).
    weights: [T; 4],
    /// Derivative of each weight by px and by py.
    slopes: [[T; 2]; 4],
    /// Token of each tap within the image; `None` outside the level.
    tokens: [Option<usize>; 4],
}

fn locate<T: Real>(
    reference: [T; 2],
    offset: &[T],
    level: (usize, usize),
    start: usize,
) -> Point<T> {
    let (h, w) = level;
    let (wf, hf) = (T::of(w as f64), T::of(h as f64));
    let px = (reference[0] + offset[0] / wf) * wf - T::of(0.5);
    let py = (reference[1] + offset[1] / hf) * hf - T::of(0.5);
    let inside = px > -T::ONE && py > -T::ONE && px < wf && py < hf;
    if !inside {
        let (weights, slopes) = ([T::ZERO; 4], [[T::ZERO; 2]; 4]);
        return Point { weights, slopes, tokens: [None; 4] };
    }
    let (lx, ly) = (px - px.floor(), py - py.floor());
    let (hx, hy) = (T::ONE - lx, T::ONE - ly);
    let (x0, y0) = (px.floor().f64() as i64, py.floor().f64() as i64);
    let token = |y: i64, x: i64| {
        let within = y >= 0 && x >= 0 && y < h as i64 && x < w as i64;
        within.then(|| start + y as usize * w + x as usize)
    };
    Point {
        weights: [hy * hx, hy * lx, ly * hx, ly * lx],
        slopes: [[-hy, -hx], [hy, -lx], [-ly, hx], [ly, lx]],
        tokens: [token(y0, x0), token(y0, x0 + 1), token(y0 + 1, x0), token(y0 + 1, x0 + 1)],
    }
}

/// Calls `f(row, k, point)` for every point, where `row` counts (image, token, head).
fn each_point<T: Real>(s: &MsDeformAttn, offsets: &[T], mut f: impl FnMut(usize, usize, Point<T>)) {
    let (starts, refs, n) = (s.starts(), s.reference_points::<T>(), s.samples());
    for row in 0..s.b * s.tokens() * s.heads {
        let reference = refs[row / s.heads % s.tokens()];
        for k in 0..n {
            let (level, start) = (s.levels[k / s.points], starts[k / s.points]);
            let offset = &offsets[(row * n + k) * 2..][..2];
            f(row, k, locate(reference, offset, level, start));
        }
    }
}

/// First element of a token's channels in `value`, for the image and head of `row`.
fn element(s: &MsDeformAttn, row: usize, token: usize) -> usize {
    let (image, head) = (row / s.heads / s.tokens(), row % s.heads);
    ((image * s.tokens() + token) * s.heads + head) * s.d
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = MsDeformAttn;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &MsDeformAttn, c: Forward<'_, Host, U>) {
        let Forward { value, offsets, logits, out, attn } = c;
        let n = s.samples();
        for (a, z) in attn.chunks_exact_mut(n).zip(logits.chunks_exact(n)) {
            let top = z.iter().copied().fold(z[0], U::max);
            let total: U = z.iter().map(|&z| (z - top).exp()).sum();
            for (a, &z) in a.iter_mut().zip(z) {
                *a = (z - top).exp() / total;
            }
        }
        out.fill(U::ZERO);
        each_point(s, offsets, |row, k, point| {
            for (token, weight) in point.tokens.into_iter().zip(point.weights) {
                let Some(token) = token else { continue };
                let at = element(s, row, token);
                for j in 0..s.d {
                    out[row * s.d + j] += attn[row * n + k] * weight * value[at + j];
                }
            }
        });
    }

    fn fast(s: &MsDeformAttn, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = MsDeformAttn;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &MsDeformAttn, c: Backward<'_, Host, U>) {
        let Backward { value, offsets, attn, dout, mut dvalue, mut doffsets, mut dlogits } = c;
        let n = s.samples();
        for d in [dvalue.as_deref_mut(), doffsets.as_deref_mut(), dlogits.as_deref_mut()]
            .into_iter()
            .flatten()
        {
            d.fill(U::ZERO);
        }
        each_point(s, offsets, |row, k, point| {
            let (g, a) = (&dout[row * s.d..(row + 1) * s.d], attn[row * n + k]);
            for (tap, token) in point.tokens.into_iter().enumerate() {
                let Some(token) = token else { continue };
                let at = element(s, row, token);
                // out += a * weight * value
                if let Some(d) = &mut dvalue {
                    for j in 0..s.d {
                        d[at + j] += a * point.weights[tap] * g[j];
                    }
                }
                let gv: U = (0..s.d).map(|j| g[j] * value[at + j]).sum();
                if let Some(d) = &mut doffsets {
                    for axis in 0..2 {
                        d[(row * n + k) * 2 + axis] += a * point.slopes[tap][axis] * gv;
                    }
                }
                if let Some(d) = &mut dlogits {
                    d[row * n + k] += point.weights[tap] * gv;
                }
            }
        });
        // a = softmax(logits); dlogits holds da so far
        if let Some(d) = &mut dlogits {
            for (d, a) in d.chunks_exact_mut(n).zip(attn.chunks_exact(n)) {
                let mean: U = d.iter().zip(a).map(|(&d, &a)| d * a).sum();
                for (d, &a) in d.iter_mut().zip(a) {
                    *d = a * (*d - mean);
                }
            }
        }
    }

    fn fast(s: &MsDeformAttn, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }

    /// The gradient of a head's values and of one row of weights.
    fn cost<U: Real>(s: &MsDeformAttn, _c: &Backward<'_, Host, U>) -> Cost {
        Cost { task: s.tokens() * s.d + s.samples(), ..Cost::default() }
    }
}
