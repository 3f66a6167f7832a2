//! Convolution in plain loops: the reference implementation.

use super::{Backward, Conv2d, Forward, ParameterGradients, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;
use crate::ops::linear;

/// One product of the sum: where it reads and writes.
struct Tap {
    x: usize,
    weight: usize,
    y: usize,
}

/// Calls `f` for every product in the sums of the forward pass.
fn taps(s: &Conv2d, mut f: impl FnMut(Tap)) {
    let (ho, wo) = s.output().unwrap_or((0, 0));
    for (b, oy, ox) in grid(s.b, ho, wo) {
        for (o, ky, kx) in grid(s.co, s.kh, s.kw) {
            let (iy, ix) = (oy * s.stride + ky * s.dilation, ox * s.stride + kx * s.dilation);
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
}

fn grid(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Conv2d;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    /// `y = sum x weight + bias`.
    fn reference<U: Real>(s: &Conv2d, Forward { x, weight, bias, y }: Forward<'_, Host, U>) {
        for (i, y) in y.iter_mut().enumerate() {
            *y = bias.map_or(U::ZERO, |bias| bias[i % s.co]);
        }
        taps(s, |t| y[t.y] += x[t.x] * weight[t.weight]);
    }

    fn fast(s: &Conv2d, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }

    fn cost<U: Real>(s: &Conv2d, _c: &Forward<'_, Host, U>) -> Cost {
        let pointwise = |s| linear::Forward::<Host, U>::cost::<U>(&s, &Default::default());
        s.pointwise().map_or_else(|| cpu::cost(s), pointwise)
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Conv2d;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    /// `dx = sum dy weight`.
    fn reference<U: Real>(s: &Conv2d, Backward { weight, dy, dx }: Backward<'_, Host, U>) {
        dx.fill(U::ZERO);
        // y[..] += x[..] * weight[..]
        taps(s, |t| dx[t.x] += dy[t.y] * weight[t.weight]);
    }

    fn fast(s: &Conv2d, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }

    fn cost<U: Real>(s: &Conv2d, _c: &Backward<'_, Host, U>) -> Cost {
        let pointwise = |s| linear::Backward::<Host, U>::cost::<U>(&s, &Default::default());
        s.pointwise().map_or_else(|| cpu::cost(s), pointwise)
    }
}

impl<M: Memory, T: Element> Call for ParameterGradients<'_, M, T> {
    type Op = Conv2d;
    type At<'a, N: Memory, U: Element> = ParameterGradients<'a, N, U>;

    /// `dweight += sum dy x`, `dbias += sum dy`.
    fn reference<U: Real>(s: &Conv2d, c: ParameterGradients<'_, Host, U>) {
        let ParameterGradients { x, dy, dweight, dbias } = c;
        if let Some(dbias) = dbias {
            dy.iter().enumerate().for_each(|(i, &dy)| dbias[i % s.co] += dy);
        }
        if let (Some(x), Some(dweight)) = (x, dweight) {
            // y[..] += x[..] * weight[..]
            taps(s, |t| dweight[t.weight] += dy[t.y] * x[t.x]);
        }
    }

    fn fast(s: &Conv2d, c: ParameterGradients<'_, Host, f32>) {
        cpu::parameters(s, c);
    }

    fn cost<U: Real>(s: &Conv2d, c: &ParameterGradients<'_, Host, U>) -> Cost {
        match s.pointwise() {
            _ if c.dweight.is_none() => Cost::default(),
            None => cpu::cost(s),
            Some(s) => s.product_of_dweight().cost::<U>(),
        }
    }
}
