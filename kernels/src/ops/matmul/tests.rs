use super::{MatMul, reference};
use crate::Real;
use crate::Write;
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// n, m, k: ones, primes, no multiples of the lanes or of a tile, a narrow product as in Rein, more
/// than one depth block.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 37, 5),
    (41, 1, 17),
    (10, 48, 4),
    (31, 29, 1),
    (65, 67, 71),
    (257, 100, 33),
    (33, 130, 1100),
    (200, 384, 384),
];

fn layouts() -> impl Iterator<Item = (bool, bool)> {
    [(false, false), (false, true), (true, false), (true, true)].into_iter()
}

fn layout(n: usize, m: usize, k: usize, (trans_a, trans_b): (bool, bool)) -> MatMul {
    MatMul { trans_a, trans_b, ..MatMul::new(n, m, k) }
}

fn agrees<T: Real>(tolerance: f64) {
    for (n, m, k) in SHAPES {
        for transposed in layouts() {
            for write in [Write::Over, Write::Add] {
                let s = layout(n, m, k, transposed);
                let (a, b) = (noise::<T>(n * k, 1), noise::<T>(k * m, 2));
                let mut want = noise::<T>(n * m, 3);
                let mut got = want.clone();
                if write == Write::Over {
                    // Old contents must not be read: 0 * NaN would stay NaN.
                    got.fill(T::of(f64::NAN));
                }
                s.run(0.7, &a, &b, write, &mut got).unwrap();
                reference::run(&s, T::of(0.7), &a, &b, write, &mut want);
                assert_close(&format!("{s:?} {write:?}"), &got, &want, tolerance);
            }
        }
    }
}

#[test]
fn fast_form_matches_reference_in_f32() {
    agrees::<f32>(3e-6);
}

#[test]
fn fast_form_matches_reference_in_f64() {
    agrees::<f64>(1e-14);
}

#[test]
fn batches_match_reference() {
    for batch in [0, 1, 2, 3, 70] {
        for (n, m, k) in [(5, 7, 3), (33, 64, 20), (70, 65, 64)] {
            let plain = MatMul::new(n, m, k).batched(batch);
            let gaps = MatMul { stride_a: n * k + 3, stride_c: n * m + 5, ..plain };
            let shared_a = MatMul { stride_a: 0, ..plain.trans_b() };
            for s in [plain, shared_a, plain.shared_b(), plain.summed(), gaps] {
                let len =
                    |stride: usize, size: usize| if stride == 0 { size } else { batch * stride };
                let a = noise::<f32>(len(s.stride_a, n * k), 1);
                let b = noise::<f32>(len(s.stride_b, k * m), 2);
                for write in [Write::Over, Write::Add] {
                    let mut want = noise::<f32>(len(s.stride_c, n * m), 3);
                    let mut got = want.clone();
                    s.run(1.0, &a, &b, write, &mut got).unwrap();
                    reference::run(&s, 1.0, &a, &b, write, &mut want);
                    assert_close(&format!("{s:?} {write:?}"), &got, &want, 5e-6);
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    // The crate has separate code paths for a side of 1 or 2.
    let shapes = [
        (257, 384, 1152),
        (100, 257, 1031),
        (1025, 65, 70),
        (61, 1111, 513),
        (9, 300, 300),
        (1, 700, 900),
        (900, 1, 700),
        (700, 900, 1),
        (700, 900, 2),
    ];
    for (n, m, k) in shapes {
        for transposed in layouts() {
            for batch in [1, 3] {
                let s = layout(n, m, k, transposed).batched(batch);
                let (a, b) = (noise::<f32>(batch * n * k, 1), noise::<f32>(batch * k * m, 2));
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let mut c = noise::<f32>(batch * n * m, 3);
                    pool.unwrap().install(|| s.run(1.3, &a, &b, Write::Add, &mut c)).unwrap();
                    c
                };
                let one = run(1);
                for threads in [2, 3, 7] {
                    let same =
                        one.iter().zip(run(threads)).all(|(x, y)| x.to_bits() == y.to_bits());
                    assert!(same, "{s:?} differs between 1 and {threads} threads");
                }
            }
        }
    }
}

#[test]
fn gradients_are_products() {
    let (n, m, k) = (3, 4, 5);
    for transposed in layouts() {
        let s = layout(n, m, k, transposed);
        let inputs = [noise::<f64>(n * k, 1), noise(k * m, 2)];
        let dc = noise::<f64>(n * m, 3);
        let (mut da, mut db) = (vec![0.0; n * k], vec![0.0; k * m]);
        let (a, b) = (&inputs[0], &inputs[1]);
        // C = 2 op(A) op(B)
        let da_form = if s.trans_a {
            MatMul { trans_a: s.trans_b, ..MatMul::new(k, n, m).trans_b() }.run(
                2.0,
                b,
                &dc,
                Write::Over,
                &mut da,
            )
        } else {
            MatMul { trans_b: !s.trans_b, ..MatMul::new(n, k, m) }.run(
                2.0,
                &dc,
                b,
                Write::Over,
                &mut da,
            )
        };
        da_form.unwrap();
        let db_form = if s.trans_b {
            MatMul { trans_b: s.trans_a, ..MatMul::new(m, k, n).trans_a() }.run(
                2.0,
                &dc,
                a,
                Write::Over,
                &mut db,
            )
        } else {
            MatMul { trans_a: !s.trans_a, ..MatMul::new(k, m, n) }.run(
                2.0,
                a,
                &dc,
                Write::Over,
                &mut db,
            )
        };
        db_form.unwrap();
        central_differences("matmul", &inputs, &[da, db], |inputs| {
            let mut c = vec![0.0; n * m];
            s.run(2.0, &inputs[0], &inputs[1], Write::Over, &mut c).unwrap();
            weighted_sum(&c, &dc)
        });
    }
}

#[test]
fn empty_depth_gives_zeros() {
    let mut c = [3.0f32; 4];
    MatMul::new(2, 2, 0).run(1.0, &[], &[], Write::Over, &mut c).unwrap();
    assert_eq!(c, [0.0; 4]);
}

#[test]
fn wrong_arguments_are_named() {
    let mut c = [0.0f32; 6];
    let error =
        MatMul::new(2, 3, 4).run(1.0, &[0.0; 8], &[0.0; 11], Write::Add, &mut c).unwrap_err();
    assert_eq!(error.to_string(), "matmul: b has 11 elements, its sizes require 12");
    let overlapping = MatMul { stride_c: 2, ..MatMul::new(2, 2, 1).batched(2) };
    let error = overlapping.run(1.0, &[0.0; 4], &[0.0; 4], Write::Add, &mut c).unwrap_err();
    assert_eq!(error.to_string(), "matmul: products of 4 elements overlap at a distance of 2 in c");
}
