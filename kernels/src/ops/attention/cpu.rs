//! Attention in f32. The scores of a block of queries with all keys of its head form a strip that
//! stays in the L2 cache. Both products run on packed operands (see `tile`).
//!
//! The scores are in units of ln 2: `log2(e)` is folded into the scale of `q`, so the softmax needs
//! only 2^x, which is two products cheaper than e^x.
//!
//! Rows of a head are a whole token apart, which hardware prefetchers do not detect. So packing
//! prefetches them, and transposes keys in squares of 16. Together that reduced the forward pass of
//! ViT-L at 512 px (1025 tokens, 16 heads of 64) from 24.2 to 22.8 ms on two cores of a Zen 4 (best
//! times).

use std::f32::consts::{LN_2, LOG2_E};

use rayon::prelude::*;

use super::{Attention, HeadView, Inputs, Rows};
use crate::cpu::scratch::{Shared, take, with_scratch};
use crate::cpu::simd;
use crate::cpu::simd::{LANES, madd, sum_lanes};
use crate::cpu::tile::{Left, Product, ROW_STEP, pack, pack_transposed, padded, product};
use crate::dry_run::Cost;
use crate::simd;

/// Maximum floats in a strip of scores: half of an L2 cache of 1 MiB.
const STRIP: usize = 131_072;
/// Maximum queries per block.
const BLOCK: usize = 64;
/// Approximate queries per forward task; packing keys and values for them costs a few per cent.
const CHUNK: usize = 512;

/// Queries per block. It depends only on the sizes, and so does the order of sums.
fn block_rows(s: &Attention) -> usize {
    (STRIP / padded(s.nk).max(1) / ROW_STEP * ROW_STEP).clamp(ROW_STEP, BLOCK)
}

/// 2^x for x <= 0, relative error below 2e-7; 0 below -125. Cephes coefficients.
#[inline(always)]
pub fn exp2<const FMA: bool>(x: f32) -> f32 {
    // This order of the comparison keeps a NaN.
    let y = if -125.0 > x { -125.0 } else { x };
    // 1.5 * 2^23: the low bits of the sum are the nearest integer, ready for the exponent field.
    let shifted = y + 12_582_912.0;
    let r = y - (shifted - 12_582_912.0);
    let mut p = 1.535_336_2e-4;
    for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, LN_2, 1.0] {
        p = madd::<FMA>(p, r, c);
    }
    let y = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -125.0 { 0.0 } else { y }
}

/// Sets the scores of blocked keys to -inf.
#[inline(always)]
fn block_keys(row: &mut [f32], blocked: Option<&[u8]>) {
    if let Some(blocked) = blocked {
        for (s, b) in row.iter_mut().zip(blocked) {
            *s = if *b == 0 { *s } else { f32::NEG_INFINITY };
        }
    }
}

/// Adds relative positions, in units of ln 2 like the scores.
#[inline(always)]
fn add_relative<const FMA: bool>(row: &mut [f32], relative: Option<(&[f32], &[f32])>) {
    if let Some((rows, columns)) = relative {
        for (part, y) in row.chunks_exact_mut(columns.len()).zip(rows) {
            let y = y * LOG2_E;
            for (s, x) in part.iter_mut().zip(columns) {
                *s += madd::<FMA>(*x, LOG2_E, y);
            }
        }
    }
}

#[inline(always)]
fn row_max(row: &[f32]) -> f32 {
    const WIDE: usize = 4 * LANES;
    let mut acc = [f32::NEG_INFINITY; WIDE];
    let (body, rest) = row.as_chunks::<WIDE>();
    for chunk in body {
        for l in 0..WIDE {
            acc[l] = if chunk[l] > acc[l] { chunk[l] } else { acc[l] };
        }
    }
    let mut top = f32::NEG_INFINITY;
    for x in acc {
        top = if x > top { x } else { top };
    }
    for &x in rest {
        top = if x > top { x } else { top };
    }
    top
}

simd! {
    /// Turns scores into `2^(s - max)`; returns the reciprocal of their sum and log2 of the sum of
    /// `2^s`.
    fn softmax_row<FMA>(
        row: &mut [f32],
        blocked: Option<&[u8]>,
        relative: Option<(&[f32], &[f32])>,
    ) -> (f32, f32) {
        add_relative::<FMA>(row, relative);
        block_keys(row, blocked);
        let top = row_max(row);
        // A row of NaN also has no maximum; it must stay NaN.
        if top == f32::NEG_INFINITY && !row.iter().any(|s| s.is_nan()) {
            // -inf - -inf would be NaN.
            row.fill(0.0);
            return (0.0, f32::INFINITY);
        }
        let mut acc = [0.0; LANES];
        let (body, rest) = row.as_chunks_mut::<LANES>();
        for chunk in body {
            for l in 0..LANES {
                chunk[l] = exp2::<FMA>(chunk[l] - top);
                acc[l] += chunk[l];
            }
        }
        let mut total = sum_lanes(acc);
        for x in rest {
            *x = exp2::<FMA>(*x - top);
            total += *x;
        }
        (1.0 / total, top + total.log2())
    }

    /// Turns scores into probabilities, given log2 of their sum.
    fn probabilities<FMA>(
        row: &mut [f32],
        blocked: Option<&[u8]>,
        relative: Option<(&[f32], &[f32])>,
        lse: f32,
    ) {
        add_relative::<FMA>(row, relative);
        block_keys(row, blocked);
        for x in row {
            // With a single key, rounding may put the score slightly above the log of the sum.
            let y = *x - lse;
            *x = exp2::<FMA>(if y > 0.0 { 0.0 } else { y });
        }
    }

    /// `dp <- p (dp - sum(p dp))`
    fn score_gradients<FMA>(p: &[f32], dp: &mut [f32]) {
        let mean = simd::dot::<FMA>(p, dp);
        for (d, p) in dp.iter_mut().zip(p) {
            *d = p * (*d - mean);
        }
    }

    /// Sums of a row's score gradients over the rows and over the columns of the grid.
    fn relative_sums<FMA>(ds: &[f32], rows: &mut [f32], columns: &mut [f32]) {
        columns.fill(0.0);
        for (part, y) in ds.chunks_exact(columns.len()).zip(rows) {
            *y = simd::sum(part);
            for (x, ds) in columns.iter_mut().zip(part) {
                *x += *ds;
            }
        }
    }
}

/// Copies scaled rows of a head, with zeros up to a whole number of row steps.
fn copy_rows(
    s: &Attention,
    x: &HeadView<'_, f32>,
    at: (usize, usize, usize),
    n: usize,
    scale: f32,
    out: &mut [f32],
) {
    let (image, head, first) = at;
    let (used, rest) = out.split_at_mut(n * s.d);
    for (i, row) in used.chunks_exact_mut(s.d).enumerate() {
        let ahead = x.rows.at(s, image, head, first + i + 8);
        (0..s.d).step_by(LANES).for_each(|line| simd::prefetch(x.x, ahead + line));
        for (o, x) in row.iter_mut().zip(x.row(s, image, head, first + i)) {
            *o = scale * x;
        }
    }
    rest.fill(0.0);
}

/// Rows of a head as one strided slice.
fn head_rows<'a>(s: &Attention, x: &HeadView<'a, f32>, image: usize, head: usize) -> &'a [f32] {
    &x.x[x.rows.at(s, image, head, 0)..]
}

/// Cost of the forward pass: two products.
pub(crate) fn forward_cost(s: &Attention) -> Cost {
    Cost { task: forward_task(s).iter().sum(), ..Cost::products(2 * s.scores() * s.d) }
}

/// Scratch sizes: keys and values of a head as right operands; queries, scores and result of a
/// block.
fn forward_task(s: &Attention) -> [usize; 5] {
    let (rows, np, dp) = (block_rows(s), padded(s.nk), padded(s.d));
    [s.d * np, s.nk * dp, rows * s.d, rows * np, rows * dp]
}

pub fn forward(s: &Attention, x: Inputs<'_, f32>, out: &mut [f32], lse: &mut [f32]) {
    if s.nq == 0 {
        return;
    }
    if s.nk == 0 {
        out.fill(0.0);
        lse.fill(f32::INFINITY);
        return;
    }
    let parts = ((s.nq + CHUNK / 2) / CHUNK).max(1);
    // Whole row steps, so that only the last chunk computes on padding.
    let chunk = s.nq.div_ceil(parts).next_multiple_of(ROW_STEP);
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    (0..s.b * s.heads * parts).into_par_iter().for_each(|task| {
        let (image, head, part) = (task / parts / s.heads, task / parts % s.heads, task % parts);
        let queries = s.nq.min(part * chunk)..s.nq.min((part + 1) * chunk);
        forward_chunk(s, &x, image, head, queries, &out, &lse);
    });
}

fn forward_chunk(
    s: &Attention,
    x: &Inputs<'_, f32>,
    image: usize,
    head: usize,
    queries: std::ops::Range<usize>,
    out: &Shared<'_>,
    lse: &Shared<'_>,
) {
    let (rows, np, dp) = (block_rows(s), padded(s.nk), padded(s.d));
    let scale = LOG2_E / (s.d as f32).sqrt();
    let sizes = forward_task(s);
    with_scratch(sizes.iter().sum(), |mut rest| {
        let [keys, values, q, strip, o] = sizes.map(|len| take(&mut rest, len));
        pack_transposed(head_rows(s, &x.k, image, head), x.k.rows.token, s.d, s.nk, keys);
        pack(head_rows(s, &x.v, image, head), x.v.rows.token, s.nk, s.d, 1.0, values);
        for first in queries.clone().step_by(rows) {
            let n = rows.min(queries.end - first);
            let m = n.next_multiple_of(ROW_STEP);
            copy_rows(s, &x.q, (image, head, first), n, scale, &mut q[..m * s.d]);
            let scores = Product { m, n: np, k: s.d, ldc: np, add: false };
            product(scores, Left { x: q, row: s.d, col: 1 }, keys, strip);
            let mut inverse = [0.0; BLOCK];
            // SAFETY: only this task writes these queries of its head.
            let lse = unsafe { lse.piece((image * s.heads + head) * s.nq + first, n) };
            for i in 0..n {
                let blocked = x.blocked_row(s, image, first + i);
                let relative = x.relative_row(s, image, head, first + i);
                let (inv, log2) = softmax_row(&mut strip[i * np..][..s.nk], blocked, relative);
                (inverse[i], lse[i]) = (inv, log2 * LN_2);
            }
            let sums = Product { m, n: dp, k: s.nk, ldc: dp, add: false };
            product(sums, Left { x: strip, row: np, col: 1 }, values, o);
            for i in 0..n {
                // SAFETY: as above.
                let to = unsafe { out.piece(s.rows(s.nq).at(s, image, head, first + i), s.d) };
                for (to, from) in to.iter_mut().zip(&o[i * dp..]) {
                    *to = from * inverse[i];
                }
            }
        }
    });
}

/// Destination of a gradient.
struct Target<'a> {
    x: &'a Shared<'a>,
    rows: Rows,
}

impl Target<'_> {
    /// Writes `factor * from`, rows `first..`, for one head.
    fn write(&self, s: &Attention, at: (usize, usize, usize), n: usize, factor: f32, from: &[f32]) {
        let (image, head, first) = at;
        for (i, from) in from.chunks_exact(padded(s.d)).take(n).enumerate() {
            // SAFETY: rows of one head of one image, which only one task writes, one at a time.
            let to = unsafe { self.x.piece(self.rows.at(s, image, head, first + i), s.d) };
            for (to, from) in to.iter_mut().zip(from) {
                *to = factor * from;
            }
        }
    }
}

pub fn backward(
    s: &Attention,
    x: Inputs<'_, f32>,
    lse: &[f32],
    dout: &[f32],
    mut d: [Option<&mut [f32]>; 3],
) {
    if s.nk == 0 || s.nq == 0 {
        d.iter_mut().flatten().for_each(|d| d.fill(0.0));
        return;
    }
    let shared = d.map(|d| d.map(Shared::new));
    let [dq, dk, dv] = &shared;
    let target = |x: &'_ Option<Shared<'_>>, n: usize| x.is_some().then(|| s.rows(n));
    let rows = [target(dq, s.nq), target(dk, s.nk), target(dv, s.nk)];
    let dout = HeadView { x: dout, rows: s.rows(s.nq) };
    run_backward(&Incoming { s, x, lse, dout, drel: None }, |part| {
        let x = shared[part].as_ref()?;
        Some(Target { x, rows: rows[part]? })
    });
}

pub fn backward_packed(
    s: &Attention,
    x: Inputs<'_, f32>,
    lse: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    drel: Option<&mut [f32]>,
) {
    if s.nq == 0 {
        return;
    }
    let (shared, drel) = (Shared::new(dqkv), drel.map(Shared::new));
    let dout = HeadView { x: dout, rows: s.rows(s.nq) };
    run_backward(&Incoming { s, x, lse, dout, drel: drel.as_ref() }, |part| {
        Some(Target { x: &shared, rows: s.packed_rows(part) })
    });
}

/// Operands of a backward pass that all of its tasks read, and the gradients of biases.
struct Incoming<'a> {
    s: &'a Attention,
    x: Inputs<'a, f32>,
    lse: &'a [f32],
    dout: HeadView<'a, f32>,
    drel: Option<&'a Shared<'a>>,
}

/// Runs one task per head, which sums the gradients of its keys and values in the order of queries.
fn run_backward<'a>(call: &Incoming<'_>, target: impl Fn(usize) -> Option<Target<'a>> + Sync) {
    let s = call.s;
    (0..s.b * s.heads).into_par_iter().for_each(|task| {
        let (image, head) = (task / s.heads, task % s.heads);
        let targets = [target(0), target(1), target(2)];
        backward_head(call, image, head, targets);
    });
}

/// Cost of the backward pass: five products, including the recomputed scores.
pub(crate) fn backward_cost(s: &Attention) -> Cost {
    Cost { task: backward_task(s).iter().sum(), ..Cost::products(5 * s.scores() * s.d) }
}

/// Scratch sizes of the slices of a [`Head`], in their order.
fn backward_task(s: &Attention) -> [usize; 11] {
    let (rows, np, dp) = (block_rows(s), padded(s.nk), padded(s.d));
    let (keys, sums, narrow, strip) = (s.d * np, np * dp, rows * dp, rows * np);
    [keys, keys, s.nk * dp, sums, sums, rows * s.d, rows * s.d, narrow, strip, strip, narrow]
}

/// Working memory of the backward pass of one head.
struct Head<'a> {
    image: usize,
    head: usize,
    /// Right operands: transposed keys and values, and keys as stored.
    kt: &'a [f32],
    vt: &'a [f32],
    k: &'a [f32],
    /// Sums over the queries so far, `[padded(nk), padded(d)]`; dk is in units of ln 2.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// Scaled queries and incoming gradients of a block, and the same as right operands.
    q: &'a mut [f32],
    g: &'a mut [f32],
    right: &'a mut [f32],
    /// Probabilities and score gradients of a block, `[rows, padded(nk)]`, and its dq.
    p: &'a mut [f32],
    ds: &'a mut [f32],
    dq: &'a mut [f32],
}

fn backward_head(call: &Incoming<'_>, image: usize, head: usize, targets: [Option<Target<'_>>; 3]) {
    let (s, x) = (call.s, &call.x);
    let (rows, sizes) = (block_rows(s), backward_task(s));
    with_scratch(sizes.iter().sum(), |mut rest| {
        let [kt, vt, k, dk, dv, q, g, right, p, ds, dq] = sizes.map(|len| take(&mut rest, len));
        dk.fill(0.0);
        dv.fill(0.0);
        pack_transposed(head_rows(s, &x.k, image, head), x.k.rows.token, s.d, s.nk, kt);
        pack_transposed(head_rows(s, &x.v, image, head), x.v.rows.token, s.d, s.nk, vt);
        pack(head_rows(s, &x.k, image, head), x.k.rows.token, s.nk, s.d, 1.0, k);
        let mut h = Head { image, head, kt, vt, k, dk, dv, q, g, right, p, ds, dq };
        for first in (0..s.nq).step_by(rows) {
            let n = rows.min(s.nq - first);
            h.add_queries(call, first, n, &targets);
        }
        let [_, dk, dv] = &targets;
        // The queries were scaled by log2(e) / sqrt(d).
        dk.iter().for_each(|d| d.write(s, (image, head, 0), s.nk, LN_2, h.dk));
        dv.iter().for_each(|d| d.write(s, (image, head, 0), s.nk, 1.0, h.dv));
    });
}

impl Head<'_> {
    /// Writes dq of the queries `first..first + n` and adds to dk and dv.
    fn add_queries(
        &mut self,
        call: &Incoming<'_>,
        first: usize,
        n: usize,
        [dq, dk, dv]: &[Option<Target<'_>>; 3],
    ) {
        let &Incoming { s, ref x, lse, ref dout, drel } = call;
        let (np, dp, m) = (padded(s.nk), padded(s.d), n.next_multiple_of(ROW_STEP));
        let (at, scale) = ((self.image, self.head, first), 1.0 / (s.d as f32).sqrt());
        copy_rows(s, &x.q, at, n, LOG2_E * scale, &mut self.q[..m * s.d]);
        copy_rows(s, dout, at, n, 1.0, &mut self.g[..m * s.d]);
        // p = exp(q . k / sqrt(d) - lse)
        let scores = Product { m, n: np, k: s.d, ldc: np, add: false };
        product(scores, Left { x: self.q, row: s.d, col: 1 }, self.kt, self.p);
        for i in 0..n {
            let lse = lse[(self.image * s.heads + self.head) * s.nq + first + i] * LOG2_E;
            let blocked = x.blocked_row(s, self.image, first + i);
            let relative = x.relative_row(s, self.image, self.head, first + i);
            probabilities(&mut self.p[i * np..][..s.nk], blocked, relative, lse);
        }
        // out = p v
        let to_keys = Product { m: np, n: dp, k: n, ldc: dp, add: true };
        if dv.is_some() {
            pack(self.g, s.d, n, s.d, 1.0, self.right);
            product(to_keys, Left { x: self.p, row: 1, col: np }, self.right, self.dv);
        }
        if dq.is_none() && dk.is_none() {
            return;
        }
        product(scores, Left { x: self.g, row: s.d, col: 1 }, self.vt, self.ds);
        for i in 0..n {
            let row = i * np..i * np + s.nk;
            score_gradients(&self.p[row.clone()], &mut self.ds[row.clone()]);
            if let (Some(drel), Some(r)) = (drel, &x.relative) {
                let query = (self.image * s.heads + self.head) * s.nq + first + i;
                // SAFETY: only this task writes the queries of its head.
                let to = unsafe { drel.piece(query * r.len(), r.len()) };
                let (rows, columns) = to.split_at_mut(r.grid[0]);
                relative_sums(&self.ds[row], rows, columns);
            }
        }
        // s = q . k / sqrt(d)
        if let Some(dq) = dq {
            let to_queries = Product { m, n: dp, k: s.nk, ldc: dp, add: false };
            product(to_queries, Left { x: self.ds, row: np, col: 1 }, self.k, self.dq);
            dq.write(s, at, n, scale, self.dq);
        }
        if dk.is_some() {
            pack(self.q, s.d, n, s.d, 1.0, self.right);
            product(to_keys, Left { x: self.ds, row: 1, col: np }, self.right, self.dk);
        }
    }
}
