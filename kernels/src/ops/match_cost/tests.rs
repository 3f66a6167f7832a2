use super::{MatchCost, cpu, reference};
use crate::check::{assert_close, noise};

/// Spec mask2former §8: four points, three queries, two targets.
const X: [f32; 12] = [2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 0.25, 4.0, 0.0, 0.0, 0.0, 0.0];
const T: [f32; 8] = [1.0, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0];
const CLS: [f32; 9] = [1.0, 0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];

fn golden(weights: [f64; 3], want: [f32; 6]) {
    let [class_weight, mask_weight, dice_weight] = weights;
    let s = MatchCost { class_weight, mask_weight, dice_weight, ..MatchCost::new(3, 2, 2, 4) };
    let mut cost = [f32::NAN; 6];
    s.compute(&CLS, &[0, 1], &X, &T, &mut cost).unwrap();
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let mut exact = [f64::NAN; 6];
    s.compute(&wide(&CLS), &[0, 1], &wide(&X), &wide(&T), &mut exact).unwrap();
    for ((got, exact), want) in cost.iter().zip(exact).zip(want) {
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
fn fast_form_matches_reference_in_f64() {
    for (q, g, k, p) in [(1, 1, 1, 1), (7, 3, 5, 13), (5, 2, 3, 513), (100, 19, 19, 12544)] {
        let s = MatchCost::new(q, g, k, p);
        let cls = noise::<f32>(q * (k + 1), 1);
        let x: Vec<f32> = noise::<f32>(q * p, 2).iter().map(|v| v * 30.0).collect();
        let t: Vec<f32> = noise::<f32>(g * p, 3).iter().map(|v| v.abs()).collect();
        let labels: Vec<i32> = (0..g).map(|j| (j * 7 % k) as i32).collect();
        let mut fast = vec![f32::NAN; q * g];
        cpu::compute(&s, &cls, &labels, &x, &t, &mut fast);
        let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let mut exact = vec![f64::NAN; q * g];
        reference::compute(&s, &wide(&cls), &labels, &wide(&x), &wide(&t), &mut exact);
        assert_close("match_cost", &wide(&fast), &exact, 1e-6);
    }
}

#[test]
fn same_bits_on_any_pool() {
    let s = MatchCost::new(11, 4, 6, 2000);
    let (cls, x, t) = (noise::<f32>(77, 1), noise::<f32>(22000, 2), noise::<f32>(8000, 3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut cost = vec![f32::NAN; 44];
        pool.install(|| s.compute(&cls, &[0, 1, 2, 5], &x, &t, &mut cost)).unwrap();
        cost
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_arguments_are_named() {
    let s = MatchCost::new(1, 1, 2, 1);
    for label in [-1, 2] {
        let error = s.compute(&[0.0; 3], &[label], &[0.0f32], &[0.0], &mut [0.0]).unwrap_err();
        let want = format!("match_cost: label {label} is not one of 2 classes");
        assert_eq!(error.to_string(), want);
    }
    let s = MatchCost::new(1, 0, 2, 1);
    s.compute(&[0.0; 3], &[], &[0.0f32], &[], &mut []).unwrap();
}
