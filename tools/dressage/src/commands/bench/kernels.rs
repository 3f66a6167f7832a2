//! Measurements of single operations at their sizes in the network, on random values.
//!
//! Names and sizes are those of the peer's rows. Two sets of arguments are used in turn, as in the
//! peer on a CPU.

use std::time::Instant;

use dressage_kernels::Result as Done;
use dressage_kernels::Write;
use dressage_kernels::call::{Call, Host};
use dressage_kernels::check::noise;
use dressage_kernels::ops::attention::{
    self, Attention, PackedAttention, PackedBackward, PackedForward,
};
use dressage_kernels::ops::attention_mask::{self, AttentionMask};
use dressage_kernels::ops::layer_norm::{self, LayerNorm};
use dressage_kernels::ops::matmul::MatMul;
use dressage_kernels::ops::ms_deform_attn::{self, MsDeformAttn};
use dressage_kernels::ops::rein::{Gradients, Rein, Weights};
use dressage_kernels::ops::resize::{Axis, Mode, Step};
use dressage_models::backbone::VitConfig;

use super::case::{Case, Part};
use super::figures::{BACKWARD, Figures, Span, Stat};
use crate::failure::Failure;

/// Width and heads of the pixel decoder and of the head, and its queries.
const DIM: usize = 256;
const HEADS: usize = 8;
const QUERIES: usize = 100;

/// Number of sets of arguments.
const SETS: usize = 2;

/// Times one operation.
///
/// # Errors
/// Sizes that an operation refuses.
pub fn measure(case: &Case) -> Result<Figures, Failure> {
    let mut rows = Rows { case, vit: case.vit()?, spans: Vec::new() };
    let done = match case.part {
        Part::Gemm => gemm(&mut rows),
        Part::Layernorm => layer_norms(&mut rows),
        Part::Attention => attention(&mut rows),
        Part::MaskedAttention => masked_attention(&mut rows),
        Part::Rein => rein(&mut rows),
        _ => deform(&mut rows),
    };
    done.map_err(dressage_engine::EngineError::from)?;
    Ok(Figures { spans: rows.spans, peak: None })
}

struct Rows<'a> {
    case: &'a Case,
    vit: &'a VitConfig,
    spans: Vec<Span>,
}

impl Rows<'_> {
    /// Times `run`, whose argument is the number of a set.
    fn time(
        &mut self,
        name: String,
        [flops, bytes]: [usize; 2],
        mut run: impl FnMut(usize) -> Done<()>,
    ) -> Done<()> {
        let mut times = Vec::new();
        for i in 0..self.case.warmup.max(1) + self.case.iters {
            let start = Instant::now();
            (0..SETS).try_for_each(&mut run)?;
            if i >= self.case.warmup.max(1) {
                times.push(start.elapsed().as_secs_f64() * 1e3 / SETS as f64);
            }
        }
        let (flops, bytes) = (flops as f64, bytes as f64);
        self.spans.push(Span { name, ms: Stat::of(&times), flops, bytes });
        Ok(())
    }
}

/// Returns a buffer of random values for each set.
fn random(n: usize, seed: u64) -> [Vec<f32>; SETS] {
    std::array::from_fn(|i| noise(n, seed + 100 * i as u64))
}

fn gemm(rows: &mut Rows<'_>) -> Done<()> {
    let (b, n, c) = (rows.case.batch, rows.case.patches(), rows.vit.embed_dim);
    let tokens: usize = rows.case.levels().iter().map(|(h, w)| h * w).sum();
    let backbone = [(c, 3 * c), (c, c), (c, 4 * c), (4 * c, c)].map(|(k, o)| (b * (n + 1), k, o));
    let head = [(DIM, DIM), (DIM, 1024), (1024, DIM)].map(|(k, o)| (b * tokens, k, o));
    for (m, k, o) in backbone.into_iter().chain([(b * n, c, c)]).chain(head) {
        let cost = [2 * m * k * o, 0];
        let (x, w, g) = (random(m * k, 1), random(o * k, 2), random(m * o, 3));
        let (mut y, mut dx, mut dw) = (vec![0.0; m * o], vec![0.0; m * k], vec![0.0; o * k]);
        let name = |kind: &str| format!("{kind:<10} rows {m}, {k} -> {o}");
        let product =
            |s: MatMul, a: &[f32], b: &[f32], c: &mut [f32]| s.run(1.0, a, b, Write::Over, c);
        rows.time(name("y = x W'"), cost, |i| {
            product(MatMul::new(m, o, k).trans_b(), &x[i], &w[i], &mut y)
        })?;
        rows.time(name("dx = g W"), cost, |i| {
            product(MatMul::new(m, k, o), &g[i], &w[i], &mut dx)
        })?;
        rows.time(name("dW = g' x"), cost, |i| {
            product(MatMul::new(o, k, m).trans_a(), &g[i], &x[i], &mut dw)
        })?;
    }
    Ok(())
}

fn layer_norms(rows: &mut Rows<'_>) -> Done<()> {
    let case = rows.case;
    let tokens: usize = case.levels().iter().map(|(h, w)| h * w).sum();
    let blocks = (case.batch * (case.patches() + 1), rows.vit.embed_dim, "frozen");
    for (n, c, affine) in [blocks, (case.batch * tokens, DIM, "trained")] {
        let s = LayerNorm { n, c, eps: 1e-6 };
        let (x, dy) = (random(n * c, 1), random(n * c, 2));
        let (weight, bias) = (noise::<f32>(c, 3), noise::<f32>(c, 4));
        let (mut y, mut dx) = (vec![0.0; n * c], vec![0.0; n * c]);
        let (mut mean, mut rstd) = (random(n, 5), random(n, 6));
        let name = format!("layernorm {n} x {c}, {affine} affine");
        rows.time(name.clone(), [0, 8 * n * c], |i| {
            let (x, y) = (&x[i][..], &mut y[..]);
            let (mean, rstd) = (&mut mean[i][..], &mut rstd[i][..]);
            let (weight, bias) = (&weight[..], &bias[..]);
            layer_norm::Forward::<Host, _> { x, weight, bias, y, mean, rstd }.run(&s)
        })?;
        let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
        rows.time(name + BACKWARD, [0, 12 * n * c], |i| {
            let trained = affine == "trained";
            layer_norm::Backward::<Host, _> {
                x: &x[i],
                weight: &weight,
                mean: &mean[i],
                rstd: &rstd[i],
                dy: &dy[i],
                dx: Some(&mut dx),
                write: Write::Over,
                dweight: trained.then_some(&mut dw),
                dbias: trained.then_some(&mut db),
            }
            .run(&s)
        })?;
    }
    Ok(())
}

fn attention(rows: &mut Rows<'_>) -> Done<()> {
    let (b, n, heads) = (rows.case.batch, rows.case.patches() + 1, rows.vit.heads);
    let (c, d) = (rows.vit.embed_dim, rows.vit.embed_dim / heads);
    let s = PackedAttention { b, t: n, heads, d, grid: None };
    let (qkv, dout) = (random(b * n * 3 * c, 1), random(b * n * c, 2));
    let (mut out, mut lse) = (vec![0.0; b * n * c], random(b * heads * n, 3));
    let mut dqkv = vec![0.0; b * n * 3 * c];
    let name = format!("vit {b} x {heads} x {n} x {d}");
    let scores = b * heads * n * n * d;
    rows.time(name.clone(), [4 * scores, 0], |i| {
        let (qkv, out, lse) = (&qkv[i][..], &mut out[..], &mut lse[i][..]);
        PackedForward::<Host, _> { rel: None, qkv, out, lse }.run(&s)
    })?;
    rows.time(name + BACKWARD, [10 * scores, 0], |i| {
        let (qkv, lse, dout, dqkv) = (&qkv[i][..], &lse[i][..], &dout[i][..], &mut dqkv[..]);
        PackedBackward::<Host, _> { rel: None, qkv, out: None, lse, dout, dqkv, drel: None }.run(&s)
    })
}

fn masked_attention(rows: &mut Rows<'_>) -> Done<()> {
    let (b, side) = (rows.case.batch, rows.case.size / 4);
    for (h, w) in rows.case.levels().into_iter().rev() {
        let (keys, d) = (h * w, DIM / HEADS);
        let s = Attention { b, heads: HEADS, d, nq: QUERIES, nk: keys, masked: true };
        let [q, k, v] = [QUERIES, keys, keys].map(|n| random(b * n * DIM, n as u64));
        let dout = random(b * QUERIES * DIM, 7);
        let blocked: Vec<u8> =
            noise::<f32>(b * QUERIES * keys, 8).iter().map(|v| u8::from(*v < 0.0)).collect();
        let (mut out, mut lse) = (vec![0.0; b * QUERIES * DIM], random(b * HEADS * QUERIES, 9));
        let name = format!("bool mask {b} x {HEADS} x {QUERIES} x {keys} x {d}");
        let scores = b * QUERIES * keys * DIM;
        rows.time(name.clone(), [4 * scores, 0], |i| {
            let (q, k, v, blocked) = (&q[i][..], &k[i][..], &v[i][..], Some(&blocked[..]));
            let (out, lse) = (&mut out[..], &mut lse[i][..]);
            attention::Forward::<Host, _> { q, k, v, blocked, out, lse }.run(&s)
        })?;
        let mut g = [QUERIES, keys, keys].map(|n| vec![0.0; b * n * DIM]);
        rows.time(name + BACKWARD, [10 * scores, 0], |i| {
            let [dq, dk, dv] = g.each_mut().map(|g| Some(&mut g[..]));
            let (q, k, v, blocked) = (&q[i][..], &k[i][..], &v[i][..], Some(&blocked[..]));
            let (out, lse, dout) = (None, &lse[i][..], &dout[i][..]);
            attention::Backward::<Host, _> { q, k, v, blocked, out, lse, dout, dq, dk, dv }.run(&s)
        })?;
        let logits = random(b * QUERIES * side * side, 10);
        let axis = |to| Axis::new(side, to, Mode::Bilinear, Step::Size);
        let (y, x) = (axis(h)?, axis(w)?);
        let mask = AttentionMask { n: b * QUERIES, y, x };
        let mut used = vec![0; b * QUERIES * keys];
        let name = format!("mask from logits {side}^2 -> {h}^2");
        let bytes = b * QUERIES * (4 * side * side + keys);
        rows.time(name, [0, bytes], |i| {
            let (logits, used) = (&logits[i][..], &mut used[..]);
            attention_mask::Forward::<Host, _> { logits, used, raw: None }.run(&mask)
        })?;
    }
    Ok(())
}

fn rein(rows: &mut Rows<'_>) -> Done<()> {
    let (b, n, c) = (rows.case.batch, rows.case.patches(), rows.vit.embed_dim);
    let s = Rein { b, skip: 0, n, c, m: QUERIES, softmax: true };
    let (f, dout) = (random(b * n * c, 1), random(b * n * c, 2));
    let (tokens, values) = (random(QUERIES * c, 3), random((QUERIES - 1) * c, 4));
    let (weight, bias) = (random(c * c, 5), random(c, 6));
    let weights = |i: usize| Weights {
        tokens: &tokens[i],
        values: &values[i],
        weight: &weight[i],
        bias: &bias[i],
        scale: &[1e-3],
    };
    let (mut out, mut lse) = (vec![0.0; b * n * c], random(b * n, 7));
    let name = format!("rein {b} x {n} x {c}, {QUERIES} tokens, all gradients");
    // Backward recomputes two of the products and adds six; the wide one is followed by two.
    let (wide, narrow) = (2 * b * n * c * c, 2 * b * n * c * QUERIES);
    rows.time(name.clone(), [wide + 2 * narrow, 0], |i| {
        s.forward(&f[i], weights(i), &mut out, &mut lse[i])
    })?;
    let sizes = [b * n * c, QUERIES * c, (QUERIES - 1) * c, c * c, c, 1];
    let mut d = sizes.map(|n| vec![0.0f32; n]);
    rows.time(name + BACKWARD, [2 * wide + 6 * narrow, 0], |i| {
        let [df, dtokens, dvalues, dweight, dbias, dscale] = d.each_mut().map(|d| Some(&mut d[..]));
        let d = Gradients { df, dtokens, dvalues, dweight, dbias, dscale };
        s.backward(&f[i], weights(i), &lse[i], &dout[i], d)
    })
}

fn deform(rows: &mut Rows<'_>) -> Done<()> {
    let (b, levels) = (rows.case.batch, rows.case.levels().to_vec());
    let s = MsDeformAttn { b, levels, heads: HEADS, d: DIM / HEADS, points: 4 };
    let n = b * s.tokens() * HEADS;
    let (value, dout) = (random(n * s.d, 1), random(n * s.d, 2));
    // Offsets of about three pixels, as an untrained network has them after some steps.
    let wide = |v: Vec<f32>| v.into_iter().map(|v| 3.0 * v).collect::<Vec<f32>>();
    let offsets = random(n * s.samples() * 2, 3).map(wide);
    let (logits, mut attn) = (random(n * s.samples(), 4), random(n * s.samples(), 5));
    let mut out = vec![0.0; n * s.d];
    // The values that samples read are in cache; each argument moves once.
    let arguments = 4 * n * (2 * s.d + 4 * s.samples());
    rows.time("deform".into(), [0, arguments], |i| {
        let c = ms_deform_attn::Forward::<Host, _> {
            value: &value[i],
            offsets: &offsets[i],
            logits: &logits[i],
            out: &mut out,
            attn: &mut attn[i],
        };
        c.run(&s)
    })?;
    let mut d = [s.d, 2 * s.samples(), s.samples()].map(|k| vec![0.0f32; n * k]);
    rows.time(format!("deform{BACKWARD}"), [0, 2 * arguments], |i| {
        let [dvalue, doffsets, dlogits] = d.each_mut().map(|d| Some(&mut d[..]));
        let c = ms_deform_attn::Backward::<Host, _> {
            value: &value[i],
            offsets: &offsets[i],
            attn: &attn[i],
            dout: &dout[i],
            dvalue,
            doffsets,
            dlogits,
        };
        c.run(&s)
    })
}
