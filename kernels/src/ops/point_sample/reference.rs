//! Point sampling in plain loops: the reference implementation.

use super::{Backward, Forward, PointSample, Taps, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = PointSample;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &PointSample, c: Forward<'_, Host, U>) {
        let Forward { maps, points, values } = c;
        for i in 0..s.r {
            let map = &maps[i * s.h * s.w..][..s.h * s.w];
            for (j, point) in points_of(s, points, i).chunks_exact(2).enumerate() {
                let mut v = U::ZERO;
                if let Some(taps) = Taps::at(s.h, s.w, point[0], point[1]) {
                    for (at, weight) in taps.each(s.h, s.w) {
                        v += at.map_or(U::ZERO, |at| weight * map[at]);
                    }
                }
                values[i * s.p + j] = v;
            }
        }
    }

    fn fast(s: &PointSample, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = PointSample;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &PointSample, c: Backward<'_, Host, U>) {
        let Backward { points, dvalues, dmaps } = c;
        dmaps.fill(U::ZERO);
        for i in 0..s.r {
            let dmap = &mut dmaps[i * s.h * s.w..][..s.h * s.w];
            for (j, point) in points_of(s, points, i).chunks_exact(2).enumerate() {
                // v += weight * map[at]
                if let Some(taps) = Taps::at(s.h, s.w, point[0], point[1]) {
                    for (at, weight) in taps.each(s.h, s.w) {
                        if let Some(at) = at {
                            dmap[at] += weight * dvalues[i * s.p + j];
                        }
                    }
                }
            }
        }
    }

    fn fast(s: &PointSample, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}

/// Points of map `i`, `[p, 2]`.
fn points_of<'a, T>(s: &PointSample, points: &'a [T], i: usize) -> &'a [T] {
    &points[i / s.of_set() * s.p * 2..][..s.p * 2]
}
