use half::bf16;

use super::{all_finite_gpu, column_sums_gpu, sum_gpu};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::sizes::Pieces;
use crate::device::{Device, Float};

fn column_sums<T: Float>(n: usize, c: usize) {
    let device = Device::virtual_gpu();
    let (x, exact) = stored::<T>(&noise(n * c, 1));
    let old = noise::<f32>(c, 2);
    let run = || {
        let x = device.upload("x", &x).unwrap();
        let mut out = device.upload("out", &old).unwrap();
        column_sums_gpu(&device, x.view(), n, out.view_mut()).unwrap();
        device.download(out.view()).unwrap()
    };
    let got = run();
    assert_eq!(got, run());
    let column = |f: fn(f64) -> f64, j: usize| (0..n).map(|i| f(exact[i * c + j])).sum::<f64>();
    let want: Vec<f64> = (0..c).map(|j| column(|x| x, j) + f64::from(old[j])).collect();
    let depth = Pieces::of(n).depth();
    let what = format!("column_sums{} [{n}, {c}]", T::SUFFIX);
    assert_within(&what, &got, &want, |j| {
        depth * UNIT * (column(f64::abs, j) + f64::from(old[j].abs()))
    });
}

#[test]
fn column_sums_match_f64() {
    for (n, c) in [(1, 1), (7, 13), (65, 40), (1031, 33), (9001, 3)] {
        column_sums::<f32>(n, c);
        column_sums::<bf16>(n, c);
    }
    let device = Device::virtual_gpu();
    let x = device.upload("x", &[0.0f32; 5]).unwrap();
    let mut out = device.zeros("out", 3).unwrap();
    let error = column_sums_gpu(&device, x.view(), 2, out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "column_sums: x has 5 elements, its sizes ask for 6");
}

#[test]
fn sums_match_f64() {
    fn check<T: Float>(n: usize) {
        let device = Device::virtual_gpu();
        let (x, exact) = stored::<T>(&noise(n, 1));
        let run = || {
            let x = device.upload("x", &x).unwrap();
            let mut out = device.alloc("out", 1).unwrap();
            sum_gpu(&device, x.view(), out.view_mut()).unwrap();
            device.download(out.view()).unwrap()
        };
        let got = run();
        assert_eq!(got, run());
        // 64 elements of a thread, 5 steps of a warp, 8 warps; partial sums the same way.
        let depth = 2.0 * (64.0 + 5.0 + 8.0);
        let size: f64 = exact.iter().map(|x| x.abs()).sum();
        let want = [exact.iter().sum::<f64>()];
        let what = format!("sum{} [{n}]", T::SUFFIX);
        assert_within(&what, &got, &want, |_| depth * UNIT * size);
    }
    for n in [0, 1, 13, (1 << 14) + 5, 70_001] {
        check::<f32>(n);
        check::<bf16>(n);
    }
}

#[test]
fn the_first_damaged_number_is_found() {
    let device = Device::virtual_gpu();
    let mut x = noise::<f32>(40_003, 1);
    x[3] = f32::MAX;
    let find = |x: &[f32]| all_finite_gpu(&device, device.upload("x", x).unwrap().view()).unwrap();
    assert_eq!(find(&x), None);
    assert_eq!(find(&[]), None);
    for (at, bad) in [(40_002, f32::NAN), (20_001, f32::NEG_INFINITY), (20_000, f32::INFINITY)] {
        x[at] = bad;
        assert_eq!(find(&x), Some(at));
    }
    let half: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
    // The largest f32 is beyond the largest bf16 and rounds to infinity.
    let half = device.upload("x", &half).unwrap();
    assert_eq!(all_finite_gpu(&device, half.view()).unwrap(), Some(3));
}
