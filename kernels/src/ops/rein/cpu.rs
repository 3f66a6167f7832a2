//! Rein in f32. Each block of 64 patches runs the whole operation while it is in cache; the weights
//! are packed once per call. Sums over patches (`dT`, `dV`, `dW_f`) run afterwards, with one task
//! per 64 columns of the result, over the blocks in order.

use rayon::prelude::*;

use super::cost::{
    HEIGHT, Wants, backward_call, backward_task, forward_call, forward_task, sums_task,
};
use super::{Backward, Forward, Rein};
use crate::call::Host;
use crate::cpu::scratch::{Shared, take, with_scratch};
use crate::cpu::simd;
use crate::cpu::tile::{Left, PANEL, Product, ROW_STEP, pack, pack_transposed, padded, product};
use crate::simd;

/// Patches per block. Fixed, so that sums have the same order for any number of threads.
pub const ROWS: usize = 64;

simd! {
    /// Turns the scores of one patch into weights; returns their log-sum-exp.
    fn softmax_row<FMA>(z: &mut [f32], scale: f32) -> f32 {
        let mut top = f32::NEG_INFINITY;
        for z in z.iter_mut() {
            *z *= scale;
            top = if *z > top { *z } else { top };
        }
        for z in z.iter_mut() {
            *z = simd::exp::<FMA>(*z - top);
        }
        let total = simd::sum(z);
        for z in z.iter_mut() {
            *z /= total;
        }
        top + total.ln()
    }

    fn weights_row<FMA>(z: &mut [f32], scale: f32, lse: f32) {
        for z in z {
            *z = simd::exp::<FMA>(*z * scale - lse);
        }
    }

    /// `dz = scale a (da - sum(a da))`
    fn score_gradients<FMA>(a: &[f32], dz: &mut [f32], scale: f32) {
        let mean = simd::dot::<FMA>(a, dz);
        for (d, a) in dz.iter_mut().zip(a) {
            *d = scale * a * (*d - mean);
        }
    }

    fn inner<FMA>(x: &[f32], y: &[f32]) -> f32 {
        simd::dot::<FMA>(x, y)
    }
}

/// Up to [`ROWS`] patches of one image.
#[derive(Clone, Copy)]
struct Block {
    /// First patch, counted over all images.
    patch: usize,
    /// First element in `[b, skip + n, c]`.
    at: usize,
    rows: usize,
    /// Rows, padded for products.
    m: usize,
}

pub(crate) fn block_count(s: &Rein) -> usize {
    s.b * s.n.div_ceil(ROWS)
}

fn block(s: &Rein, k: usize) -> Block {
    let per_image = s.n.div_ceil(ROWS);
    let (image, first) = (k / per_image, k % per_image * ROWS);
    let rows = ROWS.min(s.n - first);
    let at = (image * (s.skip + s.n) + s.skip + first) * s.c;
    Block { patch: image * s.n + first, at, rows, m: rows.next_multiple_of(ROW_STEP) }
}

/// Copies rows of `[rows, c]` to rows of `ld`, followed by zeros.
fn copy_padded(x: &[f32], c: usize, ld: usize, out: &mut [f32]) {
    let rows = x.len() / c;
    for (o, x) in out.chunks_exact_mut(ld).zip(x.chunks_exact(c)) {
        o[..c].copy_from_slice(x);
        o[c..].fill(0.0);
    }
    out[rows * ld..].fill(0.0);
}

fn copy_skipped(s: &Rein, from: &[f32], to: &mut [f32]) {
    let image = (s.skip + s.n) * s.c;
    for (to, from) in to.chunks_exact_mut(image.max(1)).zip(from.chunks_exact(image.max(1))) {
        to[..s.skip * s.c].copy_from_slice(&from[..s.skip * s.c]);
    }
}

/// The weights: right operands that are packed from them, of which those not needed are empty.
struct Packed<'a> {
    /// T^T `[c, m]` and V `[m - 1, c]`.
    tokens_t: &'a [f32],
    values: &'a [f32],
    /// W_f^T `[in, out]` (forward) or W_f `[out, in]` (backward).
    weight: &'a [f32],
    /// V^T `[c, m - 1]` and T `[m, c]`, backward only.
    values_t: &'a [f32],
    tokens: &'a [f32],
    /// b_f, forward only, and s.
    bias: &'a [f32],
    scale: f32,
}

/// Packs W_f (or its transpose) panel by panel in parallel.
fn pack_weight(s: &Rein, weight: &[f32], transposed: bool, out: &mut [f32]) {
    let c = s.c;
    out.par_chunks_mut(PANEL * c).enumerate().for_each(|(p, out)| {
        let n = PANEL.min(c - p * PANEL);
        if transposed {
            pack_transposed(&weight[p * PANEL * c..], c, c, n, out);
        } else {
            pack(&weight[p * PANEL..], c, c, n, 1.0, out);
        }
    });
}

/// Computes S and X of a block. `x`, `[rows, padded(c)]`, is `f` on entry; `weights` is `[rows,
/// padded(m)]`; `row` turns the scores of one patch into weights.
fn weigh(
    s: &Rein,
    b: Block,
    packed: &Packed<'_>,
    x: &mut [f32],
    weights: &mut [f32],
    mut row: impl FnMut(usize, &mut [f32]),
) {
    let (cp, mp) = (padded(s.c), padded(s.m));
    let scores = Product { m: b.m, n: mp, k: s.c, ldc: mp, add: false };
    product(scores, Left { x, row: cp, col: 1 }, packed.tokens_t, weights);
    for i in 0..b.rows {
        row(i, &mut weights[i * mp..][..s.m]);
    }
    if s.m > 1 {
        let sums = Product { m: b.m, n: cp, k: s.m - 1, ldc: cp, add: true };
        product(sums, Left { x: &weights[1..], row: mp, col: 1 }, packed.values, x);
    }
}

pub fn forward(s: &Rein, call: Forward<'_, Host, f32>) {
    let Forward { f, tokens, values: v, weight: w, bias, scale, out, lse } = call;
    let c = s.c;
    copy_skipped(s, f, out);
    let sizes = forward_call(s);
    with_scratch(sizes.iter().sum(), |mut rest| {
        let [tokens_t, values, weight] = sizes.map(|len| take(&mut rest, len));
        pack_transposed(tokens, c, c, s.m, tokens_t);
        pack(v, c, s.m - 1, c, 1.0, values);
        pack_weight(s, w, true, weight);
        let scale = scale[0];
        let packed = Packed { tokens_t, values, weight, values_t: &[], tokens: &[], bias, scale };
        let (out, lse) = (Shared::new(out), Shared::new(lse));
        (0..block_count(s)).into_par_iter().for_each(|k| {
            let b = block(s, k);
            // SAFETY: blocks are disjoint, and each belongs to one task.
            let out = unsafe { out.piece(b.at, b.rows * c) };
            // SAFETY: as above.
            let lse = unsafe { lse.piece(b.patch, b.rows) };
            forward_block(s, b, &f[b.at..b.at + b.rows * c], &packed, out, lse);
        });
    });
}

fn forward_block(
    s: &Rein,
    b: Block,
    f: &[f32],
    packed: &Packed<'_>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (c, cp) = (s.c, padded(s.c));
    let sizes = forward_task(s, b.m);
    with_scratch(sizes.iter().sum(), |mut rest| {
        let [x, weights, y] = sizes.map(|len| take(&mut rest, len));
        copy_padded(f, c, cp, x);
        weigh(s, b, packed, x, weights, |i, z| {
            lse[i] = if s.softmax { softmax_row(z, s.score_scale()) } else { 0.0 };
        });
        let delta = Product { m: b.m, n: cp, k: c, ldc: cp, add: false };
        product(delta, Left { x, row: cp, col: 1 }, packed.weight, y);
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let (f, y) = (&f[i * c..(i + 1) * c], &y[i * cp..][..c]);
            for j in 0..c {
                out[j] = f[j] + packed.scale * (y[j] + packed.bias[j]);
            }
        }
    });
}

/// Values of every block that the sums over patches need; empty if no such gradient is requested.
struct Intermediates<'a> {
    /// X, dX `[blocks, ROWS, padded(c)]`.
    x: Shared<'a>,
    dx: Shared<'a>,
    /// S, dz `[blocks, ROWS, padded(m)]`.
    weights: Shared<'a>,
    dz: Shared<'a>,
    /// Contribution of each block to ds, `[blocks]`.
    dscale: Shared<'a>,
}

pub fn backward(s: &Rein, call: Backward<'_, Host, f32>) {
    let (c, blocks) = (s.c, block_count(s));
    let Backward { f, tokens: t, values: v, weight: w, bias, scale, lse, dout, .. } = call;
    let Backward { mut df, dtokens, dvalues, dweight, dbias, dscale, .. } = call;
    let wants = Wants {
        df: df.is_some(),
        tokens: dtokens.is_some(),
        values: dvalues.is_some(),
        weight: dweight.is_some(),
        scale: dscale.is_some(),
    };
    if let Some(df) = &mut df {
        copy_skipped(s, dout, df);
    }
    let sizes = backward_call(s, wants);
    with_scratch(sizes.iter().sum(), |mut rest| {
        let [tokens_t, values, weight, values_t, tokens, x, dx, weights, dz, ds] =
            sizes.map(|len| take(&mut rest, len));
        pack_transposed(t, c, c, s.m, tokens_t);
        pack(v, c, s.m - 1, c, 1.0, values);
        pack_transposed(v, c, c, s.m - 1, values_t);
        pack(t, c, s.m, c, 1.0, tokens);
        pack_weight(s, w, false, weight);
        let scale = scale[0];
        let packed = Packed { tokens_t, values, weight, values_t, tokens, bias: &[], scale };
        let saved = Intermediates {
            x: Shared::new(x),
            dx: Shared::new(dx),
            weights: Shared::new(weights),
            dz: Shared::new(dz),
            dscale: Shared::new(ds),
        };
        let df = df.map(Shared::new);
        (0..blocks).into_par_iter().for_each(|k| {
            backward_block(s, k, [f, lse, dout], &packed, wants, &saved, df.as_ref());
        });
        let sums = Sums { s, features: f, dout, x, dx, weights, dz };
        sums.add(scale, dweight, dvalues, dtokens);
        bias_and_scale(s, bias, scale, dout, ds, dbias, dscale);
    });
}

fn backward_block(
    s: &Rein,
    k: usize,
    [f, lse, dout]: [&[f32]; 3],
    packed: &Packed<'_>,
    wants: Wants,
    saved: &Intermediates<'_>,
    df: Option<&Shared<'_>>,
) {
    let (c, cp, mp, b) = (s.c, padded(s.c), padded(s.m), block(s, k));
    let rows = b.at..b.at + b.rows * c;
    let sizes = backward_task(s, b.m);
    with_scratch(sizes.iter().sum(), |mut rest| {
        let [x, weights, g, dx, da, dz] = sizes.map(|len| take(&mut rest, len));
        copy_padded(&f[rows.clone()], c, cp, x);
        weigh(s, b, packed, x, weights, |i, z| {
            if s.softmax {
                weights_row(z, s.score_scale(), lse[b.patch + i]);
            }
        });
        let keep = |to: &Shared<'_>, ld: usize, from: &[f32]| {
            // SAFETY: only this task writes its block.
            unsafe { to.piece(k * ROWS * ld, b.rows * ld) }.copy_from_slice(&from[..b.rows * ld]);
        };
        if wants.weight {
            keep(&saved.x, cp, x);
        }
        if !(wants.df || wants.tokens || wants.values || wants.scale) {
            return;
        }
        // out = f + scale (X W_f^T + b_f)
        copy_padded(&dout[rows.clone()], c, cp, g);
        let through = Product { m: b.m, n: cp, k: c, ldc: cp, add: false };
        product(through, Left { x: g, row: cp, col: 1 }, packed.weight, dx);
        if wants.scale {
            // SAFETY: as above.
            let share = unsafe { saved.dscale.piece(k, 1) };
            share[0] = inner(&x[..b.rows * cp], &dx[..b.rows * cp]);
        }
        dx.iter_mut().for_each(|d| *d *= packed.scale);
        if wants.values {
            keep(&saved.weights, mp, weights);
            keep(&saved.dx, cp, dx);
        }
        if !(wants.df || wants.tokens) {
            return;
        }
        through_scores(s, b, packed.values_t, weights, dx, da, dz);
        if wants.tokens {
            keep(&saved.dz, mp, dz);
        }
        // z = f T^T / sqrt(c)
        if let Some(df) = df {
            let back = Product { m: b.m, n: cp, k: s.m, ldc: cp, add: true };
            product(back, Left { x: dz, row: mp, col: 1 }, packed.tokens, dx);
            // SAFETY: as above.
            let df = unsafe { df.piece(b.at, b.rows * c) };
            for (i, df) in df.chunks_exact_mut(c).enumerate() {
                for j in 0..c {
                    df[j] = g[i * cp + j] + dx[i * cp + j];
                }
            }
        }
    });
}

/// Computes `dz` from `dx`, including the scale of the scores; `da` is scratch.
fn through_scores(
    s: &Rein,
    b: Block,
    values_t: &[f32],
    weights: &[f32],
    dx: &[f32],
    da: &mut [f32],
    dz: &mut [f32],
) {
    let (cp, mp, vp) = (padded(s.c), padded(s.m), padded(s.m - 1));
    // X = f + S[:, 1:] V; the dropped column gets no gradient from here
    let back = Product { m: b.m, n: vp, k: s.c, ldc: vp, add: false };
    product(back, Left { x: dx, row: cp, col: 1 }, values_t, da);
    dz.fill(0.0);
    for i in 0..b.rows {
        let dz = &mut dz[i * mp..][..s.m];
        dz[1..].copy_from_slice(&da[i * vp..][..s.m - 1]);
        // S = softmax(z)
        if s.softmax {
            score_gradients(&weights[i * mp..][..s.m], dz, s.score_scale());
        }
    }
}

/// Inputs of the gradients summed over patches; the last four as in [`Intermediates`].
struct Sums<'a> {
    s: &'a Rein,
    features: &'a [f32],
    dout: &'a [f32],
    x: &'a [f32],
    dx: &'a [f32],
    weights: &'a [f32],
    dz: &'a [f32],
}

impl Sums<'_> {
    fn add(
        &self,
        scale: f32,
        dweight: Option<&mut [f32]>,
        dvalues: Option<&mut [f32]>,
        dtokens: Option<&mut [f32]>,
    ) {
        let s = self.s;
        let (c, cp, mp) = (s.c, padded(s.c), padded(s.m));
        let copy_block =
            |x: &[f32], k: usize, ld: usize, from: usize, n: usize, out: &mut [f32]| {
                copy_columns(&x[k * ROWS * ld..], block(s, k).rows, ld, from, n, out);
            };
        let patches = |x: &[f32], k: usize, from: usize, n: usize, out: &mut [f32]| {
            copy_columns(&x[block(s, k).at..], block(s, k).rows, c, from, n, out);
        };
        // out = f + scale (X W_f^T + b_f)
        if let Some(d) = dweight {
            let left = |k, from, n, out: &mut [f32]| patches(self.dout, k, from, n, out);
            let right = |k, from, n, out: &mut [f32]| copy_block(self.x, k, cp, from, n, out);
            sum_over_patches(s, c, scale, left, right, d);
        }
        // X = f + S[:, 1:] V
        if let Some(d) = dvalues {
            let left =
                |k, from, n, out: &mut [f32]| copy_block(self.weights, k, mp, from + 1, n, out);
            let right = |k, from, n, out: &mut [f32]| copy_block(self.dx, k, cp, from, n, out);
            sum_over_patches(s, s.m - 1, 1.0, left, right, d);
        }
        // z = f T^T / sqrt(c)
        if let Some(d) = dtokens {
            let left = |k, from, n, out: &mut [f32]| copy_block(self.dz, k, mp, from, n, out);
            let right = |k, from, n, out: &mut [f32]| patches(self.features, k, from, n, out);
            sum_over_patches(s, s.m, 1.0, left, right, d);
        }
    }
}

/// Copies columns `from..from + n` of `rows` rows with stride `ld` to contiguous memory.
fn copy_columns(x: &[f32], rows: usize, ld: usize, from: usize, n: usize, out: &mut [f32]) {
    for i in 0..rows {
        out[i * n..(i + 1) * n].copy_from_slice(&x[i * ld + from..][..n]);
    }
}

/// `out[height, c] += factor left^T right`, summed over all patches. `left(k, from, n, to)` and
/// `right` copy columns `from..from + n` of block `k`.
fn sum_over_patches(
    s: &Rein,
    height: usize,
    factor: f32,
    left: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
    right: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
    out: &mut [f32],
) {
    let (c, out) = (s.c, Shared::new(out));
    let pieces = height.div_ceil(HEIGHT);
    (0..c.div_ceil(PANEL) * pieces).into_par_iter().for_each(|task| {
        let (column, line) = (task / pieces * PANEL, task % pieces * HEIGHT);
        let (n, h) = (PANEL.min(c - column), HEIGHT.min(height - line));
        let (np, hp) = (padded(n), h.next_multiple_of(ROW_STEP));
        let sizes = sums_task(n, h);
        with_scratch(sizes.iter().sum(), |mut rest| {
            let [a, b, b_packed, sum] = sizes.map(|len| take(&mut rest, len));
            sum.fill(0.0);
            a.fill(0.0);
            for k in 0..block_count(s) {
                let rows = block(s, k).rows;
                left(k, line, h, a);
                right(k, column, n, b);
                pack(b, n, rows, n, 1.0, b_packed);
                let add = Product { m: hp, n: np, k: rows, ldc: np, add: true };
                product(add, Left { x: a, row: 1, col: h }, b_packed, sum);
            }
            for i in 0..h {
                // SAFETY: each task has its own rows and columns of the result.
                let out = unsafe { out.piece((line + i) * c + column, n) };
                for (o, v) in out.iter_mut().zip(&sum[i * np..]) {
                    *o += factor * v;
                }
            }
        });
    });
}

fn bias_and_scale(
    s: &Rein,
    bias: &[f32],
    scale: f32,
    dout: &[f32],
    shares: &[f32],
    dbias: Option<&mut [f32]>,
    dscale: Option<&mut [f32]>,
) {
    if dbias.is_none() && dscale.is_none() {
        return;
    }
    let mut columns = vec![0.0; s.c];
    columns.par_chunks_mut(PANEL).enumerate().for_each(|(p, sum)| {
        for k in 0..block_count(s) {
            let b = block(s, k);
            for row in dout[b.at..b.at + b.rows * s.c].chunks_exact(s.c) {
                sum.iter_mut().zip(&row[p * PANEL..]).for_each(|(s, g)| *s += g);
            }
        }
    });
    if let Some(d) = dscale {
        d[0] += shares.iter().sum::<f32>() + inner(bias, &columns);
    }
    if let Some(d) = dbias {
        d.iter_mut().zip(&columns).for_each(|(d, sum)| *d += scale * sum);
    }
}
