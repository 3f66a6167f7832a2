use half::bf16;

use super::blocked::{Blocked, DEPTH};
use super::{Finish, Left, Right, Values};
use crate::check::{assert_close, noise};
use crate::cpu::simd::{self, Level};
use crate::ops::layer_norm::Normed;

/// n, m, k: ones, primes, edges of every tile, several blocks of depth, more columns than rows
/// and the other way round.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (3, 5, 0),
    (13, 31, 17),
    (14, 32, 16),
    (29, 33, 100),
    (200, 45, 130),
    (37, 700, 61),
    (31, 40, 2 * DEPTH + 5),
];

fn levels() -> impl Iterator<Item = Level> {
    let all = [Level::Portable, Level::Avx2, Level::Avx512];
    all.into_iter().filter(|level| *level <= simd::level())
}

/// Product with the left operand `left(i, l)` in f64.
fn want(
    (n, m, k): (usize, usize, usize),
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
    finish: impl Fn(usize, usize, f64) -> f64,
) -> Vec<f32> {
    let element = |e: usize| {
        let (i, j) = (e / m, e % m);
        let v = (0..k).map(|l| f64::from(left(i, l)) * f64::from(right(l, j))).sum();
        finish(i, j, v) as f32
    };
    (0..n * m).map(element).collect()
}

#[test]
fn every_operand_is_packed_right() {
    for (n, m, k) in SHAPES {
        let (x, w) = (noise::<f32>(n * k, 1), noise::<f32>(k * m, 2));
        let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
        let (mean, rstd) = (noise::<f32>(n, 3), noise::<f32>(n, 4));
        let (weight, bias) = (noise::<f32>(k, 5), noise::<f32>(k, 6));
        let norm = Normed { z: &x, mean: &mean, rstd: &rstd, weight: &weight, bias: &bias };
        let plain = |i: usize, l: usize| x[i * k + l];
        let turned = |i: usize, l: usize| x[l * n + i];
        let normed = |i: usize, l: usize| (x[i * k + l] - mean[i]) * rstd[i] * weight[l] + bias[l];
        let gelu = |i: usize, l: usize| crate::ops::activation::reference::gelu(x[i * k + l]);
        let scaled = |i: usize, l: usize| x[i * k + l] * weight[l];
        type Element<'a> = &'a dyn Fn(usize, usize) -> f32;
        let lefts: [(Left<'_>, Element<'_>); 5] = [
            (Left::Rows(&x), &plain),
            (Left::Columns(&x), &turned),
            (Left::Normed(norm), &normed),
            (Left::Gelu(&x), &gelu),
            (Left::Scaled { x: &x, gamma: &weight }, &scaled),
        ];
        let finish = Finish::Scale { alpha: 1.0, add: false };
        for (left, value) in lefts {
            for (narrowed, transposed) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let values = if narrowed { Values::Bf16(&narrow) } else { Values::F32(&w) };
                let element = |l: usize, j: usize| {
                    let at = if transposed { j * k + l } else { l * m + j };
                    if narrowed { narrow[at].to_f32() } else { w[at] }
                };
                let want = want((n, m, k), value, element, |_, _, v| v);
                let right = Right { values, transposed };
                for level in levels() {
                    let mut out = vec![f32::NAN; n * m];
                    Blocked { n, m, k, left, right, finish }.run_at(level, &mut out);
                    assert_close(&format!("{n} {m} {k} {level:?}"), &out, &want, 3e-6);
                }
            }
        }
    }
}

#[test]
fn every_finish_is_applied() {
    for (n, m, k) in SHAPES {
        let (x, w) = (noise::<f32>(n * k, 1), noise::<f32>(k * m, 2));
        let (old, u) = (noise::<f32>(n * m, 3), noise::<f32>(n * m, 4));
        let (bias, gamma) = (noise::<f32>(m, 5), noise::<f32>(m, 6));
        let at = |x: &[f32], i: usize| f64::from(x[i]);
        let slope = |i: usize| crate::ops::activation::reference::gelu_slope(at(&u, i));
        let residual = |g: bool, b: bool| {
            let (gamma, bias) = (g.then_some(&gamma[..]), b.then_some(&bias[..]));
            Finish::Residual { x: &u, gamma, bias }
        };
        let e = |i: usize, j: usize| i * m + j;
        type Element<'a> = &'a dyn Fn(usize, usize, f64) -> f64;
        let cases: [(Finish<'_>, bool, Element<'_>); 7] = [
            (Finish::Scale { alpha: 0.7, add: false }, true, &|_, _, v| 0.7 * v),
            (Finish::Scale { alpha: 0.7, add: true }, false, &|i, j, v| {
                0.7 * v + at(&old, e(i, j))
            }),
            (Finish::Bias(&bias), true, &|_, j, v| v + at(&bias, j)),
            (residual(true, true), true, &|i, j, v| {
                at(&u, e(i, j)) + at(&gamma, j) * (v + at(&bias, j))
            }),
            (residual(false, true), true, &|i, j, v| at(&u, e(i, j)) + v + at(&bias, j)),
            (residual(true, false), true, &|i, j, v| at(&u, e(i, j)) + at(&gamma, j) * v),
            (Finish::GeluSlope(&u), true, &|i, j, v| v * slope(e(i, j))),
        ];
        let (left, right) = (Left::Rows(&x), Right { values: Values::F32(&w), transposed: false });
        for (c, (finish, overwrites, value)) in cases.into_iter().enumerate() {
            let want = want((n, m, k), |i, l| x[i * k + l], |l, j| w[l * m + j], value);
            for level in levels() {
                // Old contents must not be read unless they are added to.
                let mut out = if overwrites { vec![f32::NAN; n * m] } else { old.clone() };
                Blocked { n, m, k, left, right, finish }.run_at(level, &mut out);
                assert_close(&format!("{n} {m} {k} {level:?} case {c}"), &out, &want, 3e-6);
            }
        }
    }
}

#[test]
fn vector_levels_and_thread_counts_give_the_same_bits() {
    for (n, m, k) in [(200, 45, 130), (37, 700, 61), (1500, 64, 1500), (31, 40, 2 * DEPTH + 5)] {
        let (x, w) = (noise::<f32>(n * k, 1), noise::<f32>(k * m, 2));
        let (left, right) = (Left::Rows(&x), Right { values: Values::F32(&w), transposed: true });
        let finish = Finish::Scale { alpha: 1.3, add: true };
        let run = |level: Level, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = noise::<f32>(n * m, 3);
            let product = Blocked { n, m, k, left, right, finish };
            pool.install(|| product.run_at(level, &mut out));
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let vector = levels().filter(|level| *level > Level::Portable);
        let mut runs = vector.flat_map(|l| [1, 2, 3, 7].map(|threads| run(l, threads)));
        if let Some(first) = runs.next() {
            assert!(runs.all(|r| r == first), "{n} {m} {k} differs");
        }
        assert_eq!(run(Level::Portable, 1), run(Level::Portable, 5));
    }
}
