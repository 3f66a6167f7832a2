//! Speed of the virtual GPU on one thread. A layer norm is measured in thread-instructions per
//! second, a bf16 product in floating-point operations per second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_vm::{Address, Gpu, Launch, Module, Params};

const LAYER_NORM: &str = include_str!("../tests/cuda/ptx/layer_norm.ptx");
const GEMM: &str = include_str!("../tests/cuda/ptx/gemm.ptx");

/// Returns a buffer of `n` bytes with a pattern of small numbers.
fn buffer(gpu: &mut Gpu, name: &str, n: usize, pattern: &[u8]) -> Address {
    let at = gpu.alloc(name, n);
    let data: Vec<u8> = pattern.iter().copied().cycle().take(n).collect();
    gpu.write(at, &data).expect("it fits");
    at
}

fn layer_norm(c: &mut Criterion) {
    let module = Module::parse("layer_norm", LAYER_NORM).expect("it parses");
    let (rows, width) = (257, 1024);
    let mut gpu = Gpu::new();
    let pattern: Vec<u8> = (0..97).flat_map(|i| (i as f32 * 0.1).to_le_bytes()).collect();
    let x = buffer(&mut gpu, "x", rows * width * 4, &pattern);
    let gamma = buffer(&mut gpu, "gamma", width * 4, &pattern);
    let y = gpu.alloc("y", rows * width * 4);
    let mut p = Params::new();
    p.address(x).address(gamma).address(gamma).address(y);
    p.i32(rows as i32).i32(width as i32).f32(1e-5);
    let launch = Launch {
        grid: [rows as u32, 1, 1],
        block: [256, 1, 1],
        dynamic_shared: 0,
        params: p.bytes(),
    };
    let mut run = || gpu.launch(&module, "layer_norm", &launch).expect("it runs");
    let mut group = c.benchmark_group("thread-instructions");
    group.throughput(Throughput::Elements(run().counters.thread_instructions()));
    group.bench_function("layer norm 257 x 1024", |b| b.iter(&mut run));
    group.finish();
}

fn gemm(c: &mut Criterion) {
    let module = Module::parse("gemm", GEMM).expect("it parses");
    let (m, n, k) = (192, 192, 1024);
    let mut gpu = Gpu::new();
    let pattern: Vec<u8> = (0..89u16).flat_map(|i| (0x3F00 + i).to_le_bytes()).collect();
    let a = buffer(&mut gpu, "a", m * k * 2, &pattern);
    let b = buffer(&mut gpu, "b", n * k * 2, &pattern);
    let out = gpu.alloc("c", m * n * 4);
    let mut p = Params::new();
    p.address(a).address(b).address(out).i32(n as i32).i32(k as i32);
    let launch = Launch {
        grid: [n as u32 / 64, m as u32 / 64, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
        params: p.bytes(),
    };
    let mut group = c.benchmark_group("floating-point operations");
    group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
    group.bench_function("bf16 product 192 x 192 x 1024", |bench| {
        bench.iter(|| gpu.launch(&module, "gemm", &launch).expect("it runs"));
    });
    group.finish();
}

/// Runs on one thread, so that the results are per core.
fn all(c: &mut Criterion) {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the first pool");
    layer_norm(c);
    gemm(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
