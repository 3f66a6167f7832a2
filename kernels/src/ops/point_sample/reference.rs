//! Point sampling in plain loops: the reference implementation.

use super::{PointSample, Taps};
use crate::Real;

pub fn forward<T: Real>(s: &PointSample, maps: &[T], points: &[T], values: &mut [T]) {
    for i in 0..s.r {
        let map = &maps[i * s.h * s.w..][..s.h * s.w];
        for (j, point) in s.points_of(points, i).chunks_exact(2).enumerate() {
            let mut v = T::ZERO;
            if let Some(taps) = Taps::at(s.h, s.w, point[0], point[1]) {
                for (at, weight) in taps.each(s.h, s.w) {
                    v += at.map_or(T::ZERO, |at| weight * map[at]);
                }
            }
            values[i * s.p + j] = v;
        }
    }
}

pub fn backward<T: Real>(s: &PointSample, points: &[T], dvalues: &[T], dmaps: &mut [T]) {
    dmaps.fill(T::ZERO);
    for i in 0..s.r {
        let dmap = &mut dmaps[i * s.h * s.w..][..s.h * s.w];
        for (j, point) in s.points_of(points, i).chunks_exact(2).enumerate() {
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
