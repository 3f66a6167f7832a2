//! Gradients of every differentiable operation, compared with central differences in f64.
//!
//! The table has one row per operation and variant. Each row has these checks. All gradients must
//! agree with central differences. Each input tracked alone must give exactly the same gradient, so
//! an operand without a gradient changes nothing. Saving as little as possible must also give
//! exactly the same gradients. The f32 result must agree with the f64 one.

use dressage_engine::{DType, RecomputePolicy, Tensor, backward_from, ops, with_recompute_policy};
use dressage_kernels::check::{central_differences, noise, relative_error, weighted_sum};

use crate::cases::{self, Case};

fn tensors(case: &Case, values: &[Vec<f64>], tracked: impl Fn(usize) -> bool) -> Vec<Tensor> {
    let make = |(i, v): (usize, &Vec<f64>)| {
        let t = Tensor::from_slice(v, &case.inputs[i]).unwrap();
        if tracked(i) { t.leaf() } else { t }
    };
    values.iter().enumerate().map(make).collect()
}

fn gradients(case: &Case, values: &[Vec<f64>], dy: &[f64], only: Option<usize>) -> Vec<Vec<f64>> {
    let inputs = tensors(case, values, |i| only.is_none_or(|o| o == i));
    let y = (case.run)(&inputs).unwrap();
    let dy = Tensor::from_slice(dy, y.shape()).unwrap();
    let mut grads = backward_from(y, dy).unwrap();
    inputs
        .iter()
        .map(|t| grads.take(t).map_or(Vec::new(), |g| g.data::<f64>().unwrap().to_vec()))
        .collect()
}

fn check(case: &Case, tolerance: f64) -> f64 {
    let values: Vec<Vec<f64>> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, shape)| noise(shape.iter().product(), 17 + i as u64))
        .collect();
    let run = |values: &[Vec<f64>]| (case.run)(&tensors(case, values, |_| false)).unwrap();
    let y = run(&values);
    let y64 = y.data::<f64>().unwrap();
    let dy = noise::<f64>(y.len(), 5);
    let all = gradients(case, &values, &dy, None);
    for (i, g) in all.iter().enumerate() {
        let alone = gradients(case, &values, &dy, Some(i));
        assert!(relative_error(&alone[i], g) < 1e-12, "{}: input {i} alone differs", case.name);
        assert!(
            alone.iter().enumerate().all(|(j, a)| j == i || a.is_empty()),
            "{}: an input that wants no gradient got one",
            case.name
        );
    }
    assert_eq!(
        with_recompute_policy(RecomputePolicy::Cheap, || gradients(case, &values, &dy, None)),
        all,
        "{}: recompute policy",
        case.name
    );
    let objective = |v: &[Vec<f64>]| weighted_sum(run(v).data::<f64>().unwrap(), &dy);
    let worst = central_differences(case.name, &values, &all, objective);
    let narrow: Vec<Tensor> = values
        .iter()
        .zip(&case.inputs)
        .map(|(v, shape)| {
            let v: Vec<f32> = v.iter().map(|&x| x as f32).collect();
            Tensor::from_slice(&v, shape).unwrap()
        })
        .collect();
    let y32 = (case.run)(&narrow).unwrap();
    assert_eq!(y32.dtype(), DType::F32, "{}", case.name);
    let y32: Vec<f64> = y32.data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect();
    let error = relative_error(&y32, y64);
    assert!(error <= tolerance, "{}: f32 is off by {error:.2e}", case.name);
    worst
}

#[test]
fn every_operation_matches_central_differences() {
    let cases = cases::all();
    let mut worst: (f64, &str) = (0.0, "");
    let on_host = cases.iter().filter_map(|case| Some((case, case.host?)));
    let mut checked = 0;
    for (case, tolerance) in on_host {
        let error = check(case, tolerance);
        checked += 1;
        println!("{:<44} worst relative error {error:.1e}", case.name);
        if error > worst.0 {
            worst = (error, case.name);
        }
    }
    println!("{checked} operations and variants checked; worst {:.1e} ({})", worst.0, worst.1);
}

#[test]
fn a_norm_without_channels_is_refused() {
    let nothing = |shape: &[usize]| Tensor::zeros(DType::F32, shape);
    let (x, p, weight) = (nothing(&[2, 0]), nothing(&[0]), nothing(&[3, 0]));
    let norm = ops::Norm { weight: &p, bias: &p, eps: 1e-6 };
    for result in [ops::layer_norm(&x, &p, &p, 1e-6), ops::norm_linear(&x, &norm, &weight, None)] {
        let error = result.map(|y| y.shape().to_vec()).expect_err("no mean").to_string();
        assert!(error.contains("layer_norm"), "{error}");
    }
}
