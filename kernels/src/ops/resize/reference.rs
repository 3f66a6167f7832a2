//! Resampling in plain loops: the reference implementation.

use super::{Backward, Forward, Resize, Taps, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Resize;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Resize, Forward { x, y }: Forward<'_, Host, U>) {
        apply(s.n, s.c, &s.y.forward, &s.x.forward, x, y);
    }

    fn fast(s: &Resize, Forward { x, y }: Forward<'_, Host, f32>) {
        cpu::apply(s.c, &s.y.forward, &s.x.forward, x, y);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Resize;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Resize, Backward { dy, dx }: Backward<'_, Host, U>) {
        apply(s.n, s.c, &s.y.backward, &s.x.backward, dy, dx);
    }

    fn fast(s: &Resize, Backward { dy, dx }: Backward<'_, Host, f32>) {
        cpu::apply(s.c, &s.y.backward, &s.x.backward, dy, dx);
    }
}

/// Applies the tap tables `y` and `x` to maps `[n, h, w, c]`; the backward pass uses transposed
/// tables.
fn apply<T: Real>(n: usize, c: usize, y: &Taps, x: &Taps, input: &[T], output: &mut [T]) {
    let (h, w, ho, wo) = (y.n_in, x.n_in, y.n_out, x.n_out);
    output.fill(T::ZERO);
    for b in 0..n {
        for oy in 0..ho {
            for ox in 0..wo {
                let out = &mut output[((b * ho + oy) * wo + ox) * c..][..c];
                let ((rows, wy), (columns, wx)) = (y.row(oy), x.row(ox));
                for (&i, &wi) in rows.iter().zip(wy) {
                    for (&j, &wj) in columns.iter().zip(wx) {
                        let from = &input[((b * h + i as usize) * w + j as usize) * c..][..c];
                        for (o, v) in out.iter_mut().zip(from) {
                            *o += T::of(wi) * T::of(wj) * *v;
                        }
                    }
                }
            }
        }
    }
}
