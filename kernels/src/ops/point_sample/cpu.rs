//! Point sampling in f32. Each map is copied into a zero border one pixel wide. Then every tap of a
//! valid point has an address, an invalid point becomes the corner of the border with fractions 0,
//! and no loop has a branch.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Backward, Forward, PointSample};
use crate::call::Host;
use crate::cpu::simd::madd;
use crate::simd;

thread_local! {
    static FRAME: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static TAPS: RefCell<FrameTaps> = const { RefCell::new(FrameTaps::new()) };
}

/// Positions of points in a map with border: index of the upper left tap and the fractions, `[p]`
/// each.
#[derive(Debug, Clone)]
struct FrameTaps {
    base: Vec<u32>,
    lx: Vec<f32>,
    ly: Vec<f32>,
}

impl FrameTaps {
    const fn new() -> FrameTaps {
        FrameTaps { base: Vec::new(), lx: Vec::new(), ly: Vec::new() }
    }

    fn fill(&mut self, s: &PointSample, points: &[f32]) {
        self.base.resize(s.p, 0);
        self.lx.resize(s.p, 0.0);
        self.ly.resize(s.p, 0.0);
        locate(s.h, s.w, points, &mut self.base, &mut self.lx, &mut self.ly);
    }
}

simd! {
    fn locate<FMA>(
        h: usize, w: usize, points: &[f32], base: &mut [u32], lx: &mut [f32], ly: &mut [f32],
    ) {
        let (wf, hf) = (w as f32, h as f32);
        let (points, _) = points.as_chunks::<2>();
        for (j, point) in points.iter().enumerate() {
            // Not fused: the reference rounds the product, and both must get the same floor.
            let (px, py) = (point[0] * wf - 0.5, point[1] * hf - 0.5);
            let valid = px > -1.0 && py > -1.0 && px < wf && py < hf;
            let (fx, fy) = if valid { (px.floor(), py.floor()) } else { (-1.0, -1.0) };
            base[j] = (fy as i32 + 1) as u32 * (w as u32 + 2) + (fx as i32 + 1) as u32;
            lx[j] = if valid { px - fx } else { 0.0 };
            ly[j] = if valid { py - fy } else { 0.0 };
        }
    }

    fn gather<FMA>(frame: &[f32], stride: usize, taps: &FrameTaps, values: &mut [f32]) {
        for (j, value) in values.iter_mut().enumerate() {
            let (lx, ly) = (taps.lx[j], taps.ly[j]);
            let (hx, hy) = (1.0 - lx, 1.0 - ly);
            let at = &frame[taps.base[j] as usize..][..stride + 2];
            let v = madd::<FMA>(hy * lx, at[1], hy * hx * at[0]);
            *value = madd::<FMA>(ly * lx, at[stride + 1], madd::<FMA>(ly * hx, at[stride], v));
        }
    }

    fn scatter<FMA>(frame: &mut [f32], stride: usize, taps: &FrameTaps, dvalues: &[f32]) {
        for (j, &d) in dvalues.iter().enumerate() {
            let (lx, ly) = (taps.lx[j], taps.ly[j]);
            let (hx, hy) = (1.0 - lx, 1.0 - ly);
            let at = &mut frame[taps.base[j] as usize..][..stride + 2];
            at[0] = madd::<FMA>(hy * hx, d, at[0]);
            at[1] = madd::<FMA>(hy * lx, d, at[1]);
            at[stride] = madd::<FMA>(ly * hx, d, at[stride]);
            at[stride + 1] = madd::<FMA>(ly * lx, d, at[stride + 1]);
        }
    }
}

/// Maps that are handled in parallel: all where each has its own points, else those of a set.
fn together(s: &PointSample) -> usize {
    if s.sets == s.r { s.r } else { s.of_set() }
}

/// Taps of shared points, computed once; `None` if each map has its own points.
fn shared_taps(s: &PointSample, points: &[f32]) -> Option<FrameTaps> {
    (points.len() == s.p * 2).then(|| {
        let mut taps = FrameTaps::new();
        taps.fill(s, points);
        taps
    })
}

/// Calls `f` with the taps of row `i` and a zeroed map with border.
fn with_row(
    s: &PointSample,
    points: &[f32],
    shared: Option<&FrameTaps>,
    i: usize,
    f: impl FnOnce(&FrameTaps, &mut [f32]),
) {
    FRAME.with_borrow_mut(|frame| {
        frame.clear();
        frame.resize((s.h + 2) * (s.w + 2), 0.0);
        match shared {
            Some(taps) => f(taps, frame),
            None => TAPS.with_borrow_mut(|taps| {
                taps.fill(s, &points[i * s.p * 2..][..s.p * 2]);
                f(taps, frame);
            }),
        }
    });
}

pub fn forward(s: &PointSample, c: Forward<'_, Host, f32>) {
    if s.p == 0 {
        return;
    }
    let (n, pixels) = (together(s), s.h * s.w);
    let blocks = c.points.chunks(c.points.len() / (s.r / n));
    let blocks = blocks.zip(c.maps.chunks(n * pixels)).zip(c.values.chunks_mut(n * s.p));
    for ((points, maps), values) in blocks {
        let shared = shared_taps(s, points);
        let rows = values.par_chunks_mut(s.p).zip(maps.par_chunks(pixels)).enumerate();
        rows.for_each(|(i, (values, map))| {
            with_row(s, points, shared.as_ref(), i, |taps, frame| {
                let inner = frame[s.w + 2..].chunks_exact_mut(s.w + 2);
                for (line, row) in inner.zip(map.chunks_exact(s.w)) {
                    line[1..=s.w].copy_from_slice(row);
                }
                gather(frame, s.w + 2, taps, values);
            });
        });
    }
}

pub fn backward(s: &PointSample, c: Backward<'_, Host, f32>) {
    if s.p == 0 {
        c.dmaps.fill(0.0);
        return;
    }
    let (n, pixels) = (together(s), s.h * s.w);
    let blocks = c.points.chunks(c.points.len() / (s.r / n));
    let blocks = blocks.zip(c.dvalues.chunks(n * s.p)).zip(c.dmaps.chunks_mut(n * pixels));
    for ((points, dvalues), dmaps) in blocks {
        let shared = shared_taps(s, points);
        let rows = dmaps.par_chunks_mut(pixels).zip(dvalues.par_chunks(s.p)).enumerate();
        rows.for_each(|(i, (dmap, dvalues))| {
            with_row(s, points, shared.as_ref(), i, |taps, frame| {
                scatter(frame, s.w + 2, taps, dvalues);
                let inner = frame[s.w + 2..].chunks_exact(s.w + 2);
                for (line, row) in inner.zip(dmap.chunks_exact_mut(s.w)) {
                    row.copy_from_slice(&line[1..=s.w]);
                }
            });
        });
    }
}
