//! Class loss in plain loops: the reference implementation, and all that the host needs.

use super::{Backward, ClassLoss, Forward};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = ClassLoss;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &ClassLoss, c: Forward<'_, Host, U>) {
        let Forward { x, targets, class_weights, divisor, loss, scale } = c;
        let classes = targets.iter().filter_map(|&y| s.class(y));
        let own = || classes.map(|y| class_weights[y]).sum();
        let total: U = divisor.map_or_else(own, |divisor| divisor[0]);
        scale[0] = U::of(s.weight) / (total + U::of(f64::from(f32::EPSILON)));
        let mut sum = U::ZERO;
        for (x, &y) in x.chunks_exact(s.k.max(1)).zip(targets) {
            let Some(y) = s.class(y) else { continue };
            let (top, total) = softmax_parts(x);
            sum += class_weights[y] * (top - x[y] + total.ln());
        }
        loss[0] = sum * scale[0];
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = ClassLoss;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &ClassLoss, c: Backward<'_, Host, U>) {
        let Backward { x, targets, class_weights, scale, dloss, dx } = c;
        let scale = scale[0] * dloss[0];
        let rows = x.chunks_exact(s.k.max(1)).zip(dx.chunks_exact_mut(s.k.max(1)));
        for ((x, dx), &y) in rows.zip(targets) {
            let Some(y) = s.class(y) else {
                dx.fill(U::ZERO);
                continue;
            };
            let (top, total) = softmax_parts(x);
            // sum += w[y] * (lse(x) - x[y])
            let d = scale * class_weights[y];
            for (dx, &v) in dx.iter_mut().zip(x) {
                *dx = d * ((v - top).exp() / total);
            }
            dx[y] += -d;
        }
    }
}

/// Largest logit and the sum of the exponentials relative to it.
fn softmax_parts<T: Real>(x: &[T]) -> (T, T) {
    let top = x.iter().copied().fold(x[0], Real::max);
    (top, x.iter().map(|&v| (v - top).exp()).sum())
}
