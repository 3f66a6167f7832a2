//! Shared code of the kernel tests: PTX made from `tests/cuda`, buffers, random numbers.
#![allow(dead_code)]

use ptx_vm::{Address, Gpu, Launch, Module, Params, Report};

/// Returns the PTX of a source, with a planted fault or without (`""`).
pub fn module(name: &str) -> Module {
    let path = format!("{}/tests/cuda/ptx/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the PTX is committed");
    let module = Module::parse(name, &text).expect("nvcc's output parses");
    assert_eq!(module.unknown_forms(), [], "{name} has forms that are not known");
    module
}

/// Returns random numbers in [-1, 1), the same in every run.
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub fn bytes<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| to(v)).collect()
}

/// Uploads a buffer of floats to the device.
pub fn upload(gpu: &mut Gpu, name: &str, values: &[f32]) -> Address {
    let at = gpu.alloc(name, values.len() * 4);
    gpu.write(at, &bytes(values, f32::to_le_bytes)).expect("it fits");
    at
}

pub fn download(gpu: &Gpu, at: Address, n: usize) -> Vec<f32> {
    let mut out = vec![0; n * 4];
    gpu.read(at, &mut out).expect("it fits");
    out.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub fn upload_u32(gpu: &mut Gpu, name: &str, values: &[u32]) -> Address {
    let at = gpu.alloc(name, values.len() * 4);
    gpu.write(at, &bytes(values, u32::to_le_bytes)).expect("it fits");
    at
}

pub fn download_u32(gpu: &Gpu, at: Address, n: usize) -> Vec<u32> {
    download(gpu, at, n).iter().map(|v| v.to_bits()).collect()
}

/// Launches along x and returns the report.
pub fn run(
    gpu: &mut Gpu,
    module: &Module,
    kernel: &str,
    grid: u32,
    block: u32,
    shared: u32,
    params: &Params,
) -> Report {
    let launch = Launch {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: shared,
        params: params.bytes(),
    };
    match gpu.launch(module, kernel, &launch) {
        Ok(report) => report,
        Err(fault) => panic!("{kernel}: {fault}"),
    }
}

/// Fails with the first finding, if there is one.
pub fn assert_clean(report: &Report) {
    if let Some(finding) = report.findings.first() {
        panic!("a finding in a kernel that is right: {finding}");
    }
}

/// Converts f32 to bf16, to nearest even.
pub fn bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

pub fn from_bf16(v: u16) -> f32 {
    f32::from_bits(u32::from(v) << 16)
}

/// Runs a layer norm of `rows` rows on the device; returns report and output.
pub fn layer_norm(
    module: &Module,
    rows: usize,
    grid: u32,
    block: u32,
    c: usize,
) -> (Report, Vec<f32>) {
    let mut gpu = Gpu::new();
    let x = upload(&mut gpu, "x", &random(1, rows * c));
    let gamma = upload(&mut gpu, "gamma", &random(2, c));
    let beta = upload(&mut gpu, "beta", &random(3, c));
    let y = gpu.alloc("y", rows * c * 4);
    let mut p = Params::new();
    p.address(x).address(gamma).address(beta).address(y);
    p.i32(rows as i32).i32(c as i32).f32(1e-5);
    let report = run(&mut gpu, module, "layer_norm", grid, block, 0, &p);
    (report, download(&gpu, y, rows * c))
}

/// Runs a product of bf16 matrices on the device; returns report, output, A, B.
pub fn gemm(
    module: &Module,
    m: usize,
    n: usize,
    k: usize,
) -> (Report, Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut gpu = Gpu::new();
    let to16 = |v: Vec<f32>| v.into_iter().map(bf16).collect::<Vec<_>>();
    let (a, b) = (to16(random(4, m * k)), to16(random(5, n * k)));
    let mut put = |name: &str, values: &[u16]| {
        let at = gpu.alloc(name, values.len() * 2);
        gpu.write(at, &bytes(values, u16::to_le_bytes)).expect("it fits");
        at
    };
    let (da, db) = (put("a", &a), put("b", &b));
    let c = gpu.alloc("c", m * n * 4);
    let mut p = Params::new();
    p.address(da).address(db).address(c).i32(n as i32).i32(k as i32);
    let launch = Launch {
        grid: [n as u32 / 64, m as u32 / 64, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
        params: p.bytes(),
    };
    let report = gpu.launch(module, "gemm", &launch).expect("the launch runs");
    let wide = |v: Vec<u16>| v.into_iter().map(from_bf16).collect::<Vec<_>>();
    (report, download(&gpu, c, m * n), wide(a), wide(b))
}
