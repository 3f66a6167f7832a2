use super::{GroupNorm, Stats, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// b, hw, c, groups: one, primes, one group, one channel per group, more rows than a task handles,
/// the shape of the pixel decoder.
const SHAPES: [(usize, usize, usize, usize); 6] =
    [(1, 2, 1, 1), (3, 5, 6, 2), (2, 67, 7, 1), (2, 9, 5, 5), (1, 199, 48, 3), (2, 1024, 256, 32)];

#[test]
fn gradient_matches_central_differences() {
    let (b, hw, c, groups) = (2, 3, 6, 3);
    let s = GroupNorm { b, hw, c, groups, eps: 1e-5 };
    let inputs = [noise::<f64>(b * hw * c, 1), noise(c, 2), noise(c, 3)];
    let dy = noise(b * hw * c, 4);
    let run = |inputs: &[Vec<f64>]| {
        let mut y = vec![0.0; b * hw * c];
        let (mut mean, mut rstd) = (vec![0.0; b * groups], vec![0.0; b * groups]);
        s.forward(&inputs[0], &inputs[1], &inputs[2], &mut y, &mut mean, &mut rstd).unwrap();
        (y, mean, rstd)
    };
    let (_, mean, rstd) = run(&inputs);
    let mut grads = [vec![f64::NAN; b * hw * c], vec![0.0; c], vec![0.0; c]];
    let [dx, dw, db] = &mut grads;
    let stats = Stats { mean: &mean, rstd: &rstd };
    s.backward(&inputs[0], &inputs[1], stats, &dy, Some(dx), Some(dw), Some(db)).unwrap();
    central_differences("group_norm", &inputs, &grads, |inputs| weighted_sum(&run(inputs).0, &dy));
}

#[test]
fn fast_form_matches_reference() {
    for (b, hw, c, groups) in SHAPES {
        let s = GroupNorm { b, hw, c, groups, eps: 1e-5 };
        let n = b * hw * c;
        // A mean far from zero, where E[x^2] - E[x]^2 would lose digits. The reference runs in f64:
        // summing this many values in f32 one after the other is less accurate than the fast
        // version.
        let x: Vec<f32> = noise::<f32>(n, 1).iter().map(|v| v + 30.0).collect();
        let (w, bias, dy) = (noise::<f32>(c, 2), noise::<f32>(c, 3), noise::<f32>(n, 4));
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|v| f64::from(*v)).collect() };
        let (x2, w2, bias2, dy2) = (wide(&x), wide(&w), wide(&bias), wide(&dy));
        let (mut y, mut mean, mut rstd) =
            (vec![f32::NAN; n], vec![0.0; b * groups], vec![0.0; b * groups]);
        cpu::forward(&s, &x, &w, &bias, &mut y, &mut mean, &mut rstd);
        let (mut y2, mut mean2, mut rstd2) =
            (vec![0.0; n], vec![0.0; b * groups], vec![0.0; b * groups]);
        reference::forward(&s, &x2, &w2, &bias2, &mut y2, &mut mean2, &mut rstd2);
        assert_close(&format!("mean of {s:?}"), &wide(&mean), &mean2, 1e-6);
        // A mean near 30 has a rounding error of 1e-6, compared with distances of order one
        // (smaller with only two values).
        assert_close(&format!("y of {s:?}"), &wide(&y), &y2, 3e-5);
        assert_close(&format!("rstd of {s:?}"), &wide(&rstd), &rstd2, 3e-5);
        let (mut dx, mut dw, mut db) = (vec![f32::NAN; n], noise(c, 5), noise(c, 6));
        let stats = Stats { mean: &mean, rstd: &rstd };
        cpu::backward(&s, &x, &w, stats, &dy, Some(&mut dx), Some(&mut dw), Some(&mut db));
        let (mut dx2, mut dw2, mut db2) = (vec![0.0; n], wide(&noise(c, 5)), wide(&noise(c, 6)));
        let stats = Stats { mean: &mean2, rstd: &rstd2 };
        reference::backward(
            &s,
            &x2,
            &w2,
            stats,
            &dy2,
            Some(&mut dx2),
            Some(&mut dw2),
            Some(&mut db2),
        );
        assert_close(&format!("dweight of {s:?}"), &wide(&dw), &dw2, 3e-5);
        assert_close(&format!("dbias of {s:?}"), &wide(&db), &db2, 1e-5);
        if hw > 2 {
            // With two values per group, dx is a difference of nearly equal terms; the f64 check
            // above covers it.
            assert_close(&format!("dx of {s:?}"), &wide(&dx), &dx2, 3e-5);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = GroupNorm { b: 2, hw: 333, c: 40, groups: 4, eps: 1e-5 };
    let (x, w, dy) = (noise::<f32>(26_640, 1), noise::<f32>(40, 2), noise::<f32>(26_640, 3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; 8], vec![0.0; 8]);
            s.forward(&x, &w, &w, &mut y, &mut mean, &mut rstd).unwrap();
            let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; 40], vec![0.0; 40]);
            let stats = Stats { mean: &mean, rstd: &rstd };
            s.backward(&x, &w, stats, &dy, Some(&mut dx), Some(&mut dw), Some(&mut db)).unwrap();
            (y, dx, dw, db)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn wrong_arguments_are_named() {
    let s = GroupNorm { b: 1, hw: 1, c: 4, groups: 3, eps: 1e-5 };
    let x = [0.0f32; 4];
    let error = s.forward(&x, &x, &x, &mut [0.0; 4], &mut [0.0; 3], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "group_norm: 4 channels do not divide into 3 groups");
}
