//! Patch embedding in plain loops: the reference implementation.

use super::{Backward, Forward, ParameterGradients, PatchEmbed, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;

/// Calls `f` with the indices in `y`, `x` and `weight` of every product of the sum.
fn products(s: &PatchEmbed, mut f: impl FnMut(usize, usize, usize)) {
    let (gh, gw) = s.grid().unwrap_or_default();
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
}

/// Cost of one product with the images in rows of patches.
fn cost(s: &PatchEmbed) -> Cost {
    let layer = s.layer();
    Cost { call: layer.n * layer.k, ..Cost::products(layer.n * layer.m * layer.k) }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = PatchEmbed;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &PatchEmbed, c: Forward<'_, Host, U>) {
        let Forward { x, weight, bias, y } = c;
        for (i, y) in y.iter_mut().enumerate() {
            *y = bias.map_or(U::ZERO, |bias| bias[i % s.c]);
        }
        products(s, |at, i, l| y[at] += x[i] * weight[l]);
    }

    fn fast(s: &PatchEmbed, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }

    fn cost<U: Real>(s: &PatchEmbed, _c: &Forward<'_, Host, U>) -> Cost {
        cost(s)
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = PatchEmbed;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &PatchEmbed, Backward { weight, dy, dx }: Backward<'_, Host, U>) {
        dx.fill(U::ZERO);
        // y[at] += x[i] * weight[l]
        products(s, |at, i, l| dx[i] += dy[at] * weight[l]);
    }

    fn fast(s: &PatchEmbed, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }

    fn cost<U: Real>(s: &PatchEmbed, _c: &Backward<'_, Host, U>) -> Cost {
        cost(s)
    }
}

impl<M: Memory, T: Element> Call for ParameterGradients<'_, M, T> {
    type Op = PatchEmbed;
    type At<'a, N: Memory, U: Element> = ParameterGradients<'a, N, U>;

    fn reference<U: Real>(s: &PatchEmbed, c: ParameterGradients<'_, Host, U>) {
        let ParameterGradients { x, dy, dweight, dbias } = c;
        if let Some(dbias) = dbias {
            dy.iter().enumerate().for_each(|(i, dy)| dbias[i % s.c] += *dy);
        }
        if let (Some(x), Some(dweight)) = (x, dweight) {
            // y[at] += x[i] * weight[l]
            products(s, |at, i, l| dweight[l] += dy[at] * x[i]);
        }
    }

    fn fast(s: &PatchEmbed, c: ParameterGradients<'_, Host, f32>) {
        cpu::parameters(s, c);
    }

    fn cost<U: Real>(s: &PatchEmbed, c: &ParameterGradients<'_, Host, U>) -> Cost {
        c.dweight.as_ref().map_or(Cost::default(), |_| cost(s))
    }
}
