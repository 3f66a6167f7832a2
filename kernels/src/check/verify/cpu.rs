//! Verification of the fast f32 forms of the CPU against the references in f64.
//!
//! It covers only operations that have a separate form for f32 and decide the time of a step; the
//! tests compare the rest as well. Inputs are f32 numbers, exact in both types. Errors are relative
//! to the largest value of a result, since the sums of one result have terms of one size.

use super::{Kernels, Timed, Verification, Verify};
use crate::check::checks::Checked;
use crate::check::noise;
use crate::ops::activation::Pointwise;
use crate::ops::attention::Attention;
use crate::ops::class_loss::ClassLoss;
use crate::ops::conv2d::Conv2d;
use crate::ops::gather_rows::GatherRows;
use crate::ops::group_norm::GroupNorm;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::mask_loss::MaskLoss;
use crate::ops::match_cost::MatchCost;
use crate::ops::ms_deform_attn::MsDeformAttn;
use crate::ops::pixel_loss::PixelLoss;
use crate::ops::residual::Residual;
use crate::ops::row_width::RowWidth;
use crate::ops::semantic_scores::SemanticScores;
use crate::ops::softmax::Softmax;
use crate::ops::swiglu::Swiglu;
use crate::ops::token_link::TokenLink;
use crate::ops::transpose::Transpose;
use crate::{Real, Result};

/// Results of an operation, by name.
type Named<T> = Vec<(&'static str, Vec<T>)>;

/// All operations with a CPU verification. None has launches to time on a device.
pub fn all() -> Vec<Kernels> {
    let verifications: [(&'static str, Verify); 19] = [
        of::<Pointwise>(),
        ("attention", attention),
        of::<ClassLoss>(),
        ("conv2d", conv2d),
        of::<GatherRows>(),
        of::<GroupNorm>(),
        of::<LayerNorm>(),
        ("linear", linear),
        of::<MaskLoss>(),
        of::<MatchCost>(),
        ("ms_deform_attn", ms_deform_attn),
        of::<PixelLoss>(),
        of::<Residual>(),
        of::<RowWidth>(),
        of::<SemanticScores>(),
        of::<Softmax>(),
        of::<Swiglu>(),
        of::<TokenLink>(),
        of::<Transpose>(),
    ];
    verifications.map(|(name, verify)| Kernels { name, verify, timed: |_| Ok(Vec::new()) }).to_vec()
}

/// Checks that an operation states, on the host.
fn of<O: Checked>() -> (&'static str, Verify) {
    (O::NAME, |verification| O::checks().on_host(verification))
}

/// Calls to be timed that an operation states.
fn calls_of<O: Checked>() -> (&'static str, Calls) {
    (O::NAME, || O::checks().calls())
}

/// Calls to be timed on the host; making them fills their operands.
pub type Calls = fn() -> Result<Vec<Timed<'static>>>;

/// Calls to be timed, by folder.
pub fn timed() -> Vec<(&'static str, Calls)> {
    vec![
        calls_of::<ClassLoss>(),
        calls_of::<GatherRows>(),
        calls_of::<LayerNorm>(),
        calls_of::<MaskLoss>(),
        calls_of::<MatchCost>(),
        calls_of::<SemanticScores>(),
        calls_of::<Softmax>(),
        calls_of::<Swiglu>(),
    ]
}

/// Compares results in f32 with those in f64. `allowed` is the allowed error as a share of the
/// largest value of a result.
fn compare(
    verification: &mut Verification<'_>,
    case: &str,
    allowed: f64,
    fast: impl FnMut() -> Result<Named<f32>>,
    exact: Named<f64>,
) -> Result<()> {
    let fast = verification.twice(case, fast)?;
    for ((name, got), (_, want)) in fast.iter().zip(&exact) {
        let largest = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        verification.within(&format!("{case}: {name}"), got, want, |_| allowed * largest);
    }
    Ok(())
}

/// Numbers of f32 in (-1, 1), exact in both types.
fn input<T: Real>(n: usize, seed: u64) -> Vec<T> {
    noise::<f32>(n, seed).into_iter().map(|x| T::of(f64::from(x))).collect()
}

fn scaled<T: Real>(n: usize, seed: u64, factor: f64) -> Vec<T> {
    input::<T>(n, seed).into_iter().map(|x| x * T::of(factor)).collect()
}

fn zeros<T: Real>(n: usize) -> Vec<T> {
    vec![T::ZERO; n]
}

fn attention(verification: &mut Verification<'_>) -> Result<()> {
    fn run<T: Real>(s: Attention) -> Result<Named<T>> {
        let c = s.heads * s.d;
        let (nq, nk) = (s.b * s.nq * c, s.b * s.nk * c);
        let (q, k) = (scaled::<T>(nq, 1, 4.0), scaled::<T>(nk, 2, 4.0));
        let (v, dout) = (input(nk, 3), input(nq, 4));
        let (mut out, mut lse) = (zeros(nq), zeros(s.b * s.heads * s.nq));
        s.forward(&q, &k, &v, None, &mut out, &mut lse)?;
        let (mut dq, mut dk, mut dv) = (zeros(nq), zeros(nk), zeros(nk));
        let into = (Some(&mut dq[..]), Some(&mut dk[..]), Some(&mut dv[..]));
        s.backward(&q, &k, &v, None, &lse, &dout, into.0, into.1, into.2)?;
        Ok(vec![("out", out), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv)])
    }
    for s in [
        Attention { b: 2, heads: 3, d: 5, nq: 7, nk: 13 },
        Attention { b: 1, heads: 2, d: 64, nq: 257, nk: 257 },
    ] {
        let case = format!("attention_f32 {} x {} x [{}, {}, {}]", s.b, s.heads, s.nq, s.nk, s.d);
        compare(verification, &case, 5e-5, || run(s), run(s)?)?;
    }
    Ok(())
}

fn conv2d(verification: &mut Verification<'_>) -> Result<()> {
    fn run<T: Real>(s: Conv2d) -> Result<Named<T>> {
        let (ho, wo) = s.output()?;
        let (x, dy) = (input(s.b * s.h * s.w * s.ci, 1), input(s.b * ho * wo * s.co, 2));
        let (weight, bias) = (input(s.co * s.ci * s.kh * s.kw, 3), input::<T>(s.co, 4));
        let (mut y, mut dx) = (zeros(dy.len()), zeros(x.len()));
        let (mut dw, mut db) = (zeros(weight.len()), zeros(s.co));
        s.forward(&x, &weight, Some(&bias), &mut y)?;
        let into = (Some(&mut dx[..]), Some(&mut dw[..]), Some(&mut db[..]));
        s.backward(Some(&x), &weight, &dy, into.0, into.1, into.2)?;
        Ok(vec![("y", y), ("dx", dx), ("dweight", dw), ("dbias", db)])
    }
    let s = Conv2d { b: 2, h: 17, w: 13, ci: 24, co: 20, kh: 3, kw: 3, stride: 1, pad: 1 };
    for s in [s, Conv2d { stride: 2, ..s }, Conv2d { kh: 1, kw: 1, pad: 0, ..s }] {
        let Conv2d { b, h, w, ci, co, kh, kw, stride, .. } = s;
        let case = format!("conv2d_f32 [{b}, {h}, {w}, {ci}] by [{co}, {kh}, {kw}] / {stride}");
        compare(verification, &case, 1e-5, || run(s), run(s)?)?;
    }
    Ok(())
}

fn linear(verification: &mut Verification<'_>) -> Result<()> {
    fn run<T: Real>(s: Linear) -> Result<Named<T>> {
        let (x, weight, dy) = (input(s.n * s.k, 1), input(s.m * s.k, 2), input(s.n * s.m, 3));
        let bias = input::<T>(s.m, 4);
        let (mut y, mut dx) = (zeros(s.n * s.m), zeros(s.n * s.k));
        let (mut dw, mut db) = (zeros(s.m * s.k), zeros(s.m));
        s.forward(&x, &weight, Some(&bias), &mut y)?;
        let into = (Some(&mut dx[..]), Some(&mut dw[..]), Some(&mut db[..]));
        s.backward(Some(&x), &weight, &dy, into.0, into.1, into.2)?;
        Ok(vec![("y", y), ("dx", dx), ("dweight", dw), ("dbias", db)])
    }
    // The second is large enough for the blocked product.
    for (n, m, k) in [(7, 13, 5), (257, 512, 384)] {
        let s = Linear { n, m, k };
        compare(verification, &format!("linear_f32 [{n}, {m}, {k}]"), 5e-6, || run(s), run(s)?)?;
    }
    Ok(())
}

fn ms_deform_attn(verification: &mut Verification<'_>) -> Result<()> {
    fn run<T: Real>(s: MsDeformAttn<'_>) -> Result<Named<T>> {
        let features = s.b * s.tokens() * s.heads * s.d;
        let points = s.b * s.tokens() * s.heads * s.samples();
        let (value, offsets) = (input(features, 1), scaled::<T>(2 * points, 2, 3.0));
        let (logits, dout) = (input(points, 3), input(features, 4));
        let (mut out, mut attn) = (zeros(features), zeros(points));
        s.forward(&value, &offsets, &logits, &mut out, &mut attn)?;
        let (mut dv, mut doff, mut dl) = (zeros(features), zeros(2 * points), zeros(points));
        let into = (Some(&mut dv[..]), Some(&mut doff[..]), Some(&mut dl[..]));
        s.backward(&value, &offsets, &attn, &dout, into.0, into.1, into.2)?;
        Ok(vec![("out", out), ("attn", attn), ("dvalue", dv), ("doffsets", doff), ("dlogits", dl)])
    }
    let levels = [(5, 7), (9, 13)];
    let s = MsDeformAttn { b: 2, levels: &levels, heads: 3, d: 8, points: 4 };
    compare(verification, "ms_deform_attn_f32 2 x [5 x 7 + 9 x 13, 3, 8]", 5e-5, || run(s), run(s)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn the_forms_of_the_cpu_hold() {
        for kernels in all() {
            let outcomes = kernels.run(&Device::dry_run());
            assert!(outcomes.len() > 1, "{}", kernels.name);
            for outcome in outcomes {
                assert_eq!(outcome.failure, None, "{}", outcome.what);
                println!("{}: {:.3}", outcome.what, outcome.worst);
            }
        }
    }

    #[test]
    fn every_call_to_be_timed_runs() {
        for (folder, calls) in timed() {
            let mut calls = crate::dry_run::dry_run(&mut Default::default(), calls).unwrap();
            assert!(calls.iter().all(|call| call.bytes > 0), "{folder}");
            let run = || calls.iter_mut().try_for_each(|call| (call.run)());
            crate::dry_run::dry_run(&mut Default::default(), run).unwrap();
        }
    }
}
