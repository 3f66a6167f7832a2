//! Multi-scale deformable attention in f32. Sampling positions are computed without branches: taps
//! outside a level keep a valid address and get weight 0.

use rayon::prelude::*;

use super::{Backward, Forward, MsDeformAttn};
use crate::call::Host;
use crate::cpu::scratch::{Shared, take, with_scratch};
use crate::cpu::simd;
use crate::cpu::simd::{LANES, madd, sum_lanes};
use crate::simd;

/// Tokens per forward task.
const ROWS: usize = 64;

/// Level of each point, repeated for every head whose points are located together.
struct Table {
    /// Width and height as f32 and as integers, and the first token of the level.
    levels: Vec<([f32; 2], [i32; 2], i32)>,
    refs: Vec<[f32; 2]>,
}

impl Table {
    fn new(s: &MsDeformAttn, heads: usize) -> Self {
        let starts = s.starts();
        let point = |k: usize| {
            let (h, w) = s.levels[k / s.points];
            ([w as f32, h as f32], [w as i32, h as i32], starts[k / s.points] as i32)
        };
        let levels = (0..heads * s.samples()).map(|k| point(k % s.samples())).collect();
        Self { levels, refs: s.reference_points() }
    }
}

/// Sampling position of a point: its two columns and two rows of pixels.
#[derive(Clone, Copy, Default)]
struct Point {
    /// Weight of each column and of each row; 0 outside the level.
    x: [f32; 2],
    y: [f32; 2],
    /// Derivatives of these weights by px and py: -1 and 1 inside the level, 0 outside.
    dx: [f32; 2],
    dy: [f32; 2],
    /// Clamped columns, and the first token of each clamped row.
    column: [i32; 2],
    row: [i32; 2],
}

impl Point {
    #[inline(always)]
    fn tokens(&self) -> [usize; 4] {
        let ([r0, r1], [c0, c1]) = (self.row, self.column);
        [(r0 + c0) as usize, (r0 + c1) as usize, (r1 + c0) as usize, (r1 + c1) as usize]
    }

    #[inline(always)]
    fn weights(&self, a: f32) -> [f32; 4] {
        let (top, bottom) = (a * self.y[0], a * self.y[1]);
        [top * self.x[0], top * self.x[1], bottom * self.x[0], bottom * self.x[1]]
    }
}

#[inline(always)]
fn keep_if(yes: bool, v: f32) -> f32 {
    if yes { v } else { 0.0 }
}

#[inline(always)]
fn locate(table: &Table, reference: [f32; 2], offsets: &[f32], points: &mut [Point]) {
    let (offsets, _) = offsets.as_chunks::<2>();
    for ((p, offset), level) in points.iter_mut().zip(offsets).zip(&table.levels) {
        let (size, isize, start) = *level;
        let px = (reference[0] + offset[0] / size[0]) * size[0] - 0.5;
        let py = (reference[1] + offset[1] / size[1]) * size[1] - 0.5;
        let inside = px > -1.0 && py > -1.0 && px < size[0] && py < size[1];
        let (fx, fy) = (px.floor(), py.floor());
        let (lx, ly) = (px - fx, py - fy);
        // Comparisons first: a NaN coordinate counts as outside.
        let (x0, y0) = if inside { (fx as i32, fy as i32) } else { (0, 0) };
        let (left, right) = (inside & (x0 >= 0), inside & (x0 + 1 < isize[0]));
        let (top, bottom) = (inside & (y0 >= 0), inside & (y0 + 1 < isize[1]));
        p.x = [keep_if(left, 1.0 - lx), keep_if(right, lx)];
        p.y = [keep_if(top, 1.0 - ly), keep_if(bottom, ly)];
        p.dx = [keep_if(left, -1.0), keep_if(right, 1.0)];
        p.dy = [keep_if(top, -1.0), keep_if(bottom, 1.0)];
        p.column = [x0.max(0), (x0 + 1).min(isize[0] - 1)];
        p.row[0] = start + y0.max(0) * isize[0];
        p.row[1] = start + (y0 + 1).min(isize[1] - 1) * isize[0];
    }
}

/// `out = sum over taps of weight * value row`, for heads of any width in pieces of `W` channels.
#[inline(always)]
fn gather<const FMA: bool, const W: usize>(
    value: &[f32],
    stride: usize,
    points: &[Point],
    attn: &[f32],
    out: &mut [f32; W],
) {
    let mut acc = [0.0; W];
    for (p, a) in points.iter().zip(attn) {
        for (token, weight) in p.tokens().into_iter().zip(p.weights(*a)) {
            let row: &[f32] = &value[token * stride..][..W];
            for j in 0..W {
                acc[j] = madd::<FMA>(weight, row[j], acc[j]);
            }
        }
    }
    *out = acc;
}

#[inline(always)]
fn softmax<const FMA: bool>(logits: &[f32], attn: &mut [f32]) {
    let mut top = logits[0];
    for &z in logits {
        top = if z > top { z } else { top };
    }
    for (a, z) in attn.iter_mut().zip(logits) {
        *a = simd::exp::<FMA>(z - top);
    }
    let scale = 1.0 / attn.iter().sum::<f32>();
    for a in attn {
        *a *= scale;
    }
}

simd! {
    /// Computes tokens `first..` of one image; `value` is the whole image, the other slices begin
    /// at `first`.
    fn forward_rows<FMA>(
        s: &MsDeformAttn, table: &Table, first: usize, value: &[f32], offsets: &[f32],
        logits: &[f32], out: &mut [f32], attn: &mut [f32],
    ) {
        let (c, n) = (s.heads * s.d, s.samples());
        let mut points = vec![Point::default(); s.heads * n];
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let at = i * s.heads * n;
            locate(table, table.refs[first + i], &offsets[2 * at..], &mut points);
            for (h, out) in out.chunks_exact_mut(s.d).enumerate() {
                let attn = &mut attn[at + h * n..][..n];
                softmax::<FMA>(&logits[at + h * n..][..n], attn);
                let points = &points[h * n..(h + 1) * n];
                let value = &value[h * s.d..];
                let (wide, rest) = out.as_chunks_mut::<32>();
                for (j, out) in wide.iter_mut().enumerate() {
                    gather::<FMA, 32>(&value[j * 32..], c, points, attn, out);
                }
                let done = s.d - rest.len();
                let (narrow, rest) = rest.as_chunks_mut::<8>();
                for (j, out) in narrow.iter_mut().enumerate() {
                    gather::<FMA, 8>(&value[done + j * 8..], c, points, attn, out);
                }
                let done = s.d - rest.len();
                let (single, _) = rest.as_chunks_mut::<1>();
                for (j, out) in single.iter_mut().enumerate() {
                    gather::<FMA, 1>(&value[done + j..], c, points, attn, out);
                }
            }
        }
    }
}

pub fn forward(s: &MsDeformAttn, c: Forward<'_, Host, f32>) {
    let Forward { value, offsets, logits, out, attn } = c;
    let (t, c, n) = (s.tokens(), s.heads * s.d, s.heads * s.samples());
    let table = Table::new(s, s.heads);
    let images = out.par_chunks_mut(t * c).zip(attn.par_chunks_mut(t * n)).enumerate();
    images.for_each(|(i, (out, attn))| {
        let value = &value[i * t * c..(i + 1) * t * c];
        let (offsets, logits) = (&offsets[i * t * n * 2..], &logits[i * t * n..]);
        let blocks = out.par_chunks_mut(ROWS * c).zip(attn.par_chunks_mut(ROWS * n)).enumerate();
        blocks.for_each(|(k, (out, attn))| {
            let (first, at) = (k * ROWS, k * ROWS * n);
            forward_rows(s, &table, first, value, &offsets[at * 2..], &logits[at..], out, attn);
        });
    });
}

/// Inner product over the first `g.len()` channels.
#[inline(always)]
fn dot<const FMA: bool>(g: &[f32], v: &[f32]) -> f32 {
    let v = &v[..g.len()];
    let mut acc = [0.0; LANES];
    let (gs, gr) = g.as_chunks::<LANES>();
    let (vs, vr) = v.as_chunks::<LANES>();
    for (g, v) in gs.iter().zip(vs) {
        for j in 0..LANES {
            acc[j] = madd::<FMA>(g[j], v[j], acc[j]);
        }
    }
    let rest: f32 = gr.iter().zip(vr).map(|(g, v)| g * v).sum();
    if gs.is_empty() { rest } else { sum_lanes(acc) + rest }
}

/// One head of one token, with everything its backward pass reads.
struct Row<'a> {
    /// The head's channels of a token begin at `token * stride`.
    value: &'a [f32],
    stride: usize,
    attn: &'a [f32],
    g: &'a [f32],
}

simd! {
    fn locate_row<FMA>(table: &Table, token: usize, offsets: &[f32], points: &mut [Point]) {
        let _ = FMA;
        locate(table, table.refs[token], offsets, points);
    }

    /// `plane[token] += a * weight * g`
    fn scatter<FMA>(row: &Row, points: &[Point], plane: &mut [f32]) {
        let d = row.g.len();
        for (p, a) in points.iter().zip(row.attn) {
            for (token, weight) in p.tokens().into_iter().zip(p.weights(*a)) {
                for (v, g) in plane[token * d..][..d].iter_mut().zip(row.g) {
                    *v = madd::<FMA>(weight, *g, *v);
                }
            }
        }
    }

    fn point_gradients<FMA>(
        row: &Row, points: &[Point], doffsets: Option<&mut [f32]>, dattn: &mut [f32],
    ) {
        let mut doffsets = doffsets;
        for (k, (p, a)) in points.iter().zip(row.attn).enumerate() {
            // A loop, not `map`: a closure would be compiled for the baseline CPU, where `madd` is
            // slow.
            let (tokens, mut gv) = (p.tokens(), [0.0; 4]);
            for tap in 0..4 {
                gv[tap] = dot::<FMA>(row.g, &row.value[tokens[tap] * row.stride..]);
            }
            dattn[k] = bilinear(p.x, p.y, gv);
            if let Some(d) = &mut doffsets {
                d[2 * k] = a * bilinear(p.dx, p.y, gv);
                d[2 * k + 1] = a * bilinear(p.x, p.dy, gv);
            }
        }
    }
}

#[inline(always)]
fn bilinear(x: [f32; 2], y: [f32; 2], v: [f32; 4]) -> f32 {
    y[0] * (x[0] * v[0] + x[1] * v[1]) + y[1] * (x[0] * v[2] + x[1] * v[3])
}

pub fn backward(s: &MsDeformAttn, c: Backward<'_, Host, f32>) {
    let Backward { value, offsets, attn, dout, dvalue, doffsets, dlogits } = c;
    let (t, n, d, c) = (s.tokens(), s.samples(), s.d, s.heads * s.d);
    let table = Table::new(s, 1);
    let [dvalue, doffsets, dlogits] = [dvalue, doffsets, dlogits].map(|x| x.map(Shared::new));
    let wants_points = doffsets.is_some() || dlogits.is_some();
    let plane_len = if dvalue.is_some() { t * d } else { 0 };
    (0..s.b * s.heads).into_par_iter().for_each(|task| {
        let (image, head) = (task / s.heads, task % s.heads);
        let head_of = |token: usize| (image * t + token) * s.heads + head;
        let mut points = vec![Point::default(); n];
        with_scratch(plane_len + n, |mut rest| {
            let (plane, dattn) = (take(&mut rest, plane_len), take(&mut rest, n));
            plane.fill(0.0);
            for token in 0..t {
                let at = head_of(token);
                locate_row(&table, token, &offsets[at * n * 2..][..n * 2], &mut points);
                let row = Row {
                    value: &value[image * t * c + head * d..],
                    stride: c,
                    attn: &attn[at * n..][..n],
                    g: &dout[at * d..][..d],
                };
                if dvalue.is_some() {
                    scatter(&row, &points, plane);
                }
                if !wants_points {
                    continue;
                }
                // SAFETY: only this task writes the points of its head and image.
                let doff = doffsets.as_ref().map(|x| unsafe { x.piece(at * n * 2, n * 2) });
                point_gradients(&row, &points, doff, dattn);
                if let Some(x) = &dlogits {
                    // SAFETY: as above.
                    let dlogits = unsafe { x.piece(at * n, n) };
                    let mean: f32 = dattn.iter().zip(row.attn).map(|(d, a)| d * a).sum();
                    for (k, out) in dlogits.iter_mut().enumerate() {
                        *out = row.attn[k] * (dattn[k] - mean);
                    }
                }
            }
            if let Some(x) = &dvalue {
                for (token, from) in plane.chunks_exact(d).enumerate() {
                    // SAFETY: only this task writes the channels of its head and image.
                    unsafe { x.piece(head_of(token) * d, d) }.copy_from_slice(from);
                }
            }
        });
    });
}
