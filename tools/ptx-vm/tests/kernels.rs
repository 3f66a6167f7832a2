//! Kernels that nvcc compiled: results equal those of Rust loops, without any finding.

mod common;

use common::*;
use ptx_vm::{Gpu, Params};

#[test]
fn layer_norm_agrees_with_rust() {
    let (rows, c) = (5, 203);
    let (report, y) = layer_norm(&module("layer_norm"), rows, 7, 96, c);
    assert_clean(&report);
    let (x, gamma, beta) = (random(1, rows * c), random(2, c), random(3, c));
    for row in 0..rows {
        let x: Vec<f64> = x[row * c..][..c].iter().map(|&v| f64::from(v)).collect();
        let mean = x.iter().sum::<f64>() / c as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
        for i in 0..c {
            let want = (x[i] - mean) / (var + 1e-5).sqrt() * f64::from(gamma[i]);
            let want = want + f64::from(beta[i]);
            let got = f64::from(y[row * c + i]);
            assert!((got - want).abs() < 2e-6, "row {row}, {i}: {got} against {want}");
        }
    }
}

#[test]
fn gemm_agrees_with_rust() {
    let (m, n, k) = (64, 128, 96);
    let (report, c, a, b) = gemm(&module("gemm"), m, n, k);
    assert_clean(&report);
    assert_eq!(report.counters.matrix.warp as usize, m * n * k / (16 * 8 * 16));
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|t| f64::from(a[i * k + t]) * f64::from(b[j * k + t]));
            let want: f64 = terms.sum();
            let got = f64::from(c[i * n + j]);
            assert!((got - want).abs() < 2e-5, "({i}, {j}): {got} against {want}");
        }
    }
}

#[test]
fn vectors_of_four_are_scaled() {
    let x = random(6, 400);
    let mut gpu = Gpu::new();
    let (dx, dy) = (upload(&mut gpu, "x", &x), gpu.alloc("y", 1600));
    let mut p = Params::new();
    p.address(dx).address(dy).i32(400).f32(1.5);
    let report = run(&mut gpu, &module("small"), "scale4", 2, 64, 0, &p);
    assert_clean(&report);
    let want: Vec<f32> = x.iter().map(|v| v * 1.5).collect();
    assert_eq!(download(&gpu, dy, 400), want);
    assert_eq!(report.counters.global_bytes, 3200);
    assert_eq!(report.counters.global_bytes_moved, 3200);
}

#[test]
fn shared_memory_reverses_a_block() {
    let x = random(7, 256);
    let mut gpu = Gpu::new();
    let (dx, dy) = (upload(&mut gpu, "x", &x), gpu.alloc("y", 1024));
    let mut p = Params::new();
    p.address(dx).address(dy);
    let report = run(&mut gpu, &module("small"), "reverse", 1, 256, 1024, &p);
    assert_clean(&report);
    let want: Vec<f32> = x.iter().rev().copied().collect();
    assert_eq!(download(&gpu, dy, 256), want);
    assert_eq!(report.counters.barriers, 8);
    assert_eq!(report.counters.bank_conflicts, 0);
}

#[test]
fn histograms_of_blocks_add_up() {
    let n = 1000;
    let x: Vec<u8> = (0..n).map(|i| (i * i % 251) as u8).collect();
    let mut gpu = Gpu::new();
    let dx = gpu.alloc("x", n);
    gpu.write(dx, &x).expect("it fits");
    let counts = upload_u32(&mut gpu, "counts", &[0; 256]);
    let mut p = Params::new();
    p.address(dx).address(counts).i32(n as i32);
    let report = run(&mut gpu, &module("small"), "histogram", 3, 256, 0, &p);
    assert_clean(&report);
    let mut want = [0; 256];
    x.iter().for_each(|&v| want[usize::from(v)] += 3);
    assert_eq!(download_u32(&gpu, counts, 256), want);
}

#[test]
fn neighbours_in_a_warp_and_halves_of_words_raise_no_alarm() {
    let x: Vec<u32> = (0..32).map(|i| i * i).collect();
    let mut gpu = Gpu::new();
    let (dx, dy) = (upload_u32(&mut gpu, "x", &x), gpu.alloc("y", 128));
    let mut p = Params::new();
    p.address(dx).address(dy);
    let module = module("small");
    assert_clean(&run(&mut gpu, &module, "neighbour", 1, 32, 0, &p));
    let want: Vec<u32> = (0..32).map(|i| x[i ^ 1]).collect();
    assert_eq!(download_u32(&gpu, dy, 32), want);

    let x: Vec<u32> = (0..128).map(|i| (2 * i) | (2 * i + 1) << 16).collect();
    let (dx, dy) = (upload_u32(&mut gpu, "x", &x), gpu.alloc("y", 512));
    let mut p = Params::new();
    p.address(dx).address(dy);
    assert_clean(&run(&mut gpu, &module, "halves", 1, 256, 0, &p));
    let want: Vec<u32> = (0..128).map(|i| (255 - 2 * i) | (254 - 2 * i) << 16).collect();
    assert_eq!(download_u32(&gpu, dy, 128), want);
}

/// The device function `poly` of `small.cu`.
fn poly(x: f32, order: i32) -> f32 {
    (0..order).fold(0.0, |sum: f32, i| sum.mul_add(x, (i + 1) as f32))
}

#[test]
fn calls_local_arrays_constants_and_wide_integers() {
    let n = 150;
    let x: Vec<i32> = (0..n).map(|i| i * 37 % 101 + 3).collect();
    let mut gpu = Gpu::new();
    let bits: Vec<u32> = x.iter().map(|&v| v as u32).collect();
    let dx = upload_u32(&mut gpu, "x", &bits);
    let (dy, dz) = (gpu.alloc("y", 4 * n as usize), gpu.alloc("z", 8 * n as usize));
    let mut p = Params::new();
    p.address(dx).address(dy).address(dz).i32(n);
    let report = run(&mut gpu, &module("small"), "mixture", 3, 64, 0, &p);
    assert_clean(&report);
    let y = download(&gpu, dy, n as usize);
    let mut z = vec![0; 8 * n as usize];
    gpu.read(dz, &mut z).expect("it fits");
    let table = [1.0f32, -2.0, 0.5, 4.0];
    for i in 0..n {
        let v = x[i as usize];
        let mut sum = 0f32;
        for k in 0..v % 7 + 1 {
            sum += (((k * 5 + v) & 7) * v) as f32;
        }
        if i % 3 == 0 {
            sum += poly(sum * 0.01, i % 5);
        } else {
            sum -= table[(i & 3) as usize];
        }
        assert_eq!(y[i as usize], sum, "y of {i}");
        let big = i64::from(v) * 1_000_003 + i64::from(i);
        let want = big / i64::from(i + 1) + big % 97 + (big << (i & 31)) + (big >> 3);
        let got: [u8; 8] = z[8 * i as usize..][..8].try_into().expect("eight bytes");
        assert_eq!(i64::from_le_bytes(got), want, "z of {i}");
    }
}

#[test]
fn functions_of_the_library_agree_with_f64() {
    let n = 500;
    let x: Vec<f32> = random(8, n).iter().map(|v| v * 4.0).collect();
    let mut gpu = Gpu::new();
    let (dx, dy) = (upload(&mut gpu, "x", &x), gpu.alloc("y", 36 * n));
    let mut p = Params::new();
    p.address(dx).address(dy).i32(n as i32);
    let report = run(&mut gpu, &module("small"), "functions", 4, 128, 0, &p);
    assert_clean(&report);
    let y = download(&gpu, dy, 9 * n);
    for (i, &v) in x.iter().enumerate() {
        let d = f64::from(v);
        let far = f64::from(v * 1000.0);
        let want = [
            erf(d),
            d.exp(),
            d.tanh(),
            d.sin(),
            far.cos(),
            (d.abs() + 0.5).ln(),
            (d.abs() + 0.1f32 as f64).powf(1.7f32 as f64),
            d.abs().sqrt() / (1.0 + d * d),
            erf(d),
        ];
        for (k, want) in want.into_iter().enumerate() {
            let got = f64::from(y[k * n + i]);
            let error = (got - want).abs() / (1.0 + want.abs());
            assert!(error < 1e-6, "function {k} of {v}: {got} against {want}");
        }
    }
}

/// Computes the error function by its series, accurate to 1e-12 for |x| < 5.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
