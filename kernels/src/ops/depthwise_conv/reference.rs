//! Depthwise convolution in plain loops: the reference implementation.

use super::{Backward, DepthwiseConv, Forward, ParameterGradients, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;

/// One product of the sum: where it reads and writes.
struct Tap {
    x: usize,
    weight: usize,
    y: usize,
}

/// Calls `f` for every product in the sums of the forward pass.
fn taps(s: &DepthwiseConv, mut f: impl FnMut(Tap)) {
    let (ho, wo) = s.output().unwrap_or((0, 0));
    for b in 0..s.b {
        for at in 0..ho * wo * s.k * s.k {
            let (pixel, tap) = (at / (s.k * s.k), at % (s.k * s.k));
            let (iy, ix) = (pixel / wo + tap / s.k, pixel % wo + tap % s.k);
            if iy < s.pad || ix < s.pad || iy - s.pad >= s.h || ix - s.pad >= s.w {
                continue;
            }
            for j in 0..s.c {
                f(Tap {
                    x: ((b * s.h + iy - s.pad) * s.w + ix - s.pad) * s.c + j,
                    weight: j * s.k * s.k + tap,
                    y: (b * ho * wo + pixel) * s.c + j,
                });
            }
        }
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = DepthwiseConv;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    /// `y = sum x weight + bias`.
    fn reference<U: Real>(s: &DepthwiseConv, c: Forward<'_, Host, U>) {
        let Forward { x, weight, bias, y } = c;
        for (i, y) in y.iter_mut().enumerate() {
            *y = bias.map_or(U::ZERO, |bias| bias[i % s.c]);
        }
        taps(s, |t| y[t.y] += x[t.x] * weight[t.weight]);
    }

    fn fast(s: &DepthwiseConv, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }

    fn cost<U: Real>(s: &DepthwiseConv, _c: &Forward<'_, Host, U>) -> Cost {
        cpu::cost(s)
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = DepthwiseConv;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    /// `dx = sum dy weight`.
    fn reference<U: Real>(s: &DepthwiseConv, Backward { weight, dy, dx }: Backward<'_, Host, U>) {
        dx.fill(U::ZERO);
        // y[..] += x[..] * weight[..]
        taps(s, |t| dx[t.x] += dy[t.y] * weight[t.weight]);
    }

    fn fast(s: &DepthwiseConv, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }

    fn cost<U: Real>(s: &DepthwiseConv, _c: &Backward<'_, Host, U>) -> Cost {
        cpu::cost(&s.turned())
    }
}

impl<M: Memory, T: Element> Call for ParameterGradients<'_, M, T> {
    type Op = DepthwiseConv;
    type At<'a, N: Memory, U: Element> = ParameterGradients<'a, N, U>;

    /// `dweight += sum dy x`, `dbias += sum dy`.
    fn reference<U: Real>(s: &DepthwiseConv, c: ParameterGradients<'_, Host, U>) {
        let ParameterGradients { x, dy, dweight, dbias } = c;
        if let Some(dbias) = dbias {
            dy.iter().enumerate().for_each(|(i, &dy)| dbias[i % s.c] += dy);
        }
        if let (Some(x), Some(dweight)) = (x, dweight) {
            // y[..] += x[..] * weight[..]
            taps(s, |t| dweight[t.weight] += dy[t.y] * x[t.x]);
        }
    }

    fn fast(s: &DepthwiseConv, c: ParameterGradients<'_, Host, f32>) {
        cpu::parameters(s, c);
    }

    fn cost<U: Real>(s: &DepthwiseConv, c: &ParameterGradients<'_, Host, U>) -> Cost {
        if c.dweight.is_some() { cpu::cost_of_dweight(s) } else { Cost::default() }
    }
}
