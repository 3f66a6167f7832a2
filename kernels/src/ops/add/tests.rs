use super::{Add, reference, scale};
use crate::Write;
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// One element, primes, narrow and long (several tasks of rows), one row wider than a task, a
/// position table.
const SHAPES: [(usize, usize); 6] =
    [(1, 1), (7, 13), (5000, 19), (3, 20_011), (2, 1025 * 48), (1000, 256)];

#[test]
fn gradient_matches_central_differences() {
    let s = Add { n: 3, inner: 5 };
    let inputs = [noise::<f64>(15, 1), noise(5, 2)];
    let dy = noise::<f64>(15, 3);
    let mut db = vec![f64::NAN; 5];
    s.backward_b(&dy, Write::Over, &mut db).unwrap();
    central_differences("add", &inputs, &[dy.clone(), db], |inputs| {
        let mut y = vec![0.0; 15];
        s.forward(&inputs[0], &inputs[1], &mut y).unwrap();
        weighted_sum(&y, &dy)
    });
}

#[test]
fn fast_form_matches_reference() {
    for (n, inner) in SHAPES {
        let s = Add { n, inner };
        let (a, b) = (noise::<f32>(n * inner, 1), noise::<f32>(inner, 2));
        let (mut y, mut want) = (vec![0.0; n * inner], vec![0.0; n * inner]);
        s.forward(&a, &b, &mut y).unwrap();
        reference::forward(&s, &a, &b, &mut want);
        assert_eq!(y, want, "{s:?}");
        let (mut db, mut want) = (b.clone(), b.clone());
        s.backward_b(&a, Write::Add, &mut db).unwrap();
        reference::backward_b(&s, &a, &mut want);
        assert_close(&format!("db of {s:?}"), &db, &want, 1e-5);
    }
    let x = noise::<f32>(100_003, 4);
    let (mut y, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    scale(-0.3, &x, &mut y).unwrap();
    reference::scale(-0.3, &x, &mut want);
    assert_eq!(y, want);
}

#[test]
fn sums_are_the_same_bits_on_any_pool() {
    let x = noise::<f32>(5003 * 97, 1);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut db = vec![0.0; 97];
        let s = Add { n: 5003, inner: 97 };
        pool.install(|| s.backward_b(&x, Write::Add, &mut db)).unwrap();
        db
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_lengths_are_named() {
    let s = Add { n: 2, inner: 3 };
    let error = s.forward(&[0.0f32; 6], &[0.0; 2], &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "add: b has 2 elements, its sizes require 3");
}
