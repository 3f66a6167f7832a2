use super::{Forward, MatchCost};
use crate::Real;
use crate::call::{Call, Host};
use crate::check::{assert_close, noise, wide};

/// Spec mask2former §8: four points, three queries, two targets.
const X: [f32; 12] = [2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 0.25, 4.0, 0.0, 0.0, 0.0, 0.0];
const T: [f32; 8] = [1.0, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0];
const CLS: [f32; 9] = [1.0, 0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];

fn costs<T: Real>(s: &MatchCost, operands: [&[f32]; 3], labels: &[i32]) -> Vec<T> {
    let [cls, x, t] = operands.map(|x| x.iter().map(|&v| T::of(v.into())).collect::<Vec<T>>());
    let mut cost = vec![T::of(f64::NAN); s.b * s.q * s.g];
    Forward::<Host, T> { cls: &cls, labels, x: &x, t: &t, cost: &mut cost }.run(s).unwrap();
    cost
}

fn golden(weights: [f64; 3], want: [f32; 6]) {
    let [class_weight, mask_weight, dice_weight] = weights;
    let s = MatchCost { class_weight, mask_weight, dice_weight, ..MatchCost::new([1, 3, 2, 2, 4]) };
    let got = costs::<f32>(&s, [&CLS, &X, &T], &[0, 1]);
    let exact = costs::<f64>(&s, [&CLS, &X, &T], &[0, 1]);
    for ((got, exact), want) in got.iter().zip(exact).zip(want) {
        // The expected values have four decimals.
        assert!((got - want).abs() < 6e-5, "{got} instead of {want}");
        assert!((exact - f64::from(want)).abs() < 6e-5, "{exact} instead of {want}");
    }
}

#[test]
fn golden_numbers() {
    golden([2.0, 0.0, 0.0], [-1.3305, -0.4895, -0.2130, -1.5740, -0.6667, -0.6667]);
    golden([0.0, 5.0, 0.0], [2.3218, 5.7593, 6.3512, 6.1949, 3.4657, 3.4657]);
    golden([0.0, 0.0, 5.0], [1.2024, 2.3609, 1.8906, 1.6310, 1.8182, 2.0000]);
    golden([2.0, 5.0, 5.0], [2.1937, 7.6307, 8.0287, 6.2519, 4.6173, 4.7991]);
}

#[test]
fn fast_form_is_accurate() {
    for (q, g, k, p) in [(1, 1, 1, 1), (7, 3, 5, 13), (5, 2, 3, 513), (100, 19, 19, 12544)] {
        let (s, cls) = (MatchCost::new([1, q, g, k, p]), noise::<f32>(q * (k + 1), 1));
        let x: Vec<f32> = noise::<f32>(q * p, 2).iter().map(|v| v * 30.0).collect();
        let t: Vec<f32> = noise::<f32>(g * p, 3).iter().map(|v| v.abs()).collect();
        let labels: Vec<i32> = (0..g).map(|j| (j * 7 % k) as i32).collect();
        let fast = costs::<f32>(&s, [&cls, &x, &t], &labels);
        let exact = costs::<f64>(&s, [&cls, &x, &t], &labels);
        assert_close("match_cost", &wide(&fast), &exact, 1e-6);
    }
}

#[test]
fn same_bits_on_any_pool() {
    let s = MatchCost::new([1, 11, 4, 6, 2000]);
    let (cls, x, t) = (noise::<f32>(77, 1), noise::<f32>(22000, 2), noise::<f32>(8000, 3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| costs::<f32>(&s, [&cls, &x, &t], &[0, 1, 2, 5]))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_arguments_are_named() {
    let s = MatchCost::new([1, 1, 1, 2, 1]);
    let error = s.check_labels(&[1, -1, 2]).unwrap_err();
    assert_eq!(error.to_string(), "match_cost: label 2 is not one of 2 classes");
    s.check_labels(&[1, 0, -1]).unwrap();
    let error = Forward::<Host, f32>::default().run(&MatchCost::new([1, 1, 1, 2, 0])).unwrap_err();
    assert_eq!(error.to_string(), "match_cost: there are no points");
}
