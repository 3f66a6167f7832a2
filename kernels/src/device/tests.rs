use half::bf16;

use super::{Args, Counts, Device, Epilogue, Grid, Module};
use crate::Write;
use crate::check::{noise, stored};
use crate::ops::matmul::MatMul;

#[test]
fn without_a_driver_the_error_says_what_was_looked_for() {
    let error = match Device::cuda(0) {
        // On a machine with a GPU, a number beyond the last one is missing.
        Ok(device) => {
            assert!(!device.name().is_empty());
            Device::cuda(1000).unwrap_err()
        }
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(text.starts_with("no CUDA device: "), "{text}");
    assert!(!text.contains('\n'), "{text}");
    println!("{text}");
}

#[test]
fn copies_arrive() {
    let device = Device::virtual_gpu();
    let host: Vec<u8> = (0..=255).collect();
    let source = device.upload("source", &host).unwrap();
    let mut copy = device.zeros::<u8>("copy", 256).unwrap();
    device.copy(source.view().slice(1..100), copy.view_mut().slice(2..101)).unwrap();
    let got = device.download(copy.view()).unwrap();
    assert_eq!((&got[..2], &got[101..], &got[2..101]), (&[0, 0][..], &[0; 155][..], &host[1..100]));
    device.zero(copy.view_mut().slice(3..4)).unwrap();
    device.write(copy.view_mut().slice(0..1), &[9]).unwrap();
    assert_eq!(device.download(copy.view().slice(0..5)).unwrap(), [9, 0, 1, 0, 3]);
    let waits = device.counters().waits;
    device.wait().unwrap();
    assert_eq!(device.counters().waits, waits + 1);
    let error = device.write(copy.view_mut(), &[1; 3]).unwrap_err();
    assert_eq!(error.to_string(), "write: host has 3 elements, its sizes require 256");
    let other = Device::virtual_gpu();
    let error = other.download(copy.view()).unwrap_err().to_string();
    assert!(error.starts_with("read: an argument is on device number"), "{error}");
}

#[test]
fn bytes_are_elements_of_any_type() {
    let device = Device::virtual_gpu();
    let mut bytes = device.alloc::<u8>("bytes", 12).unwrap();
    let part = bytes.view_mut().slice(4..12).cast::<f32>();
    device.write(part, &[1.5, -2.0]).unwrap();
    let back = bytes.view().slice(8..12).cast::<f32>();
    assert_eq!(device.download(back).unwrap(), [-2.0]);
    assert!(device == device.clone() && device != Device::virtual_gpu());
}

#[test]
#[should_panic(expected = "are not whole, aligned elements")]
fn bytes_that_end_within_an_element_are_refused() {
    let device = Device::virtual_gpu();
    let bytes = device.alloc::<u8>("bytes", 12).unwrap();
    let _ = bytes.view().slice(0..10).cast::<f32>();
}

#[test]
#[should_panic(expected = "are not whole, aligned elements")]
fn misaligned_bytes_are_refused() {
    let device = Device::virtual_gpu();
    let bytes = device.alloc::<u8>("bytes", 12).unwrap();
    let _ = bytes.view().slice(2..10).cast::<f32>();
}

#[test]
fn a_steady_state_reserves_nothing() {
    let device = Device::virtual_gpu();
    let step = || {
        let a = device.alloc::<f32>("a", 1000).unwrap();
        let b = device.alloc::<bf16>("b", 300).unwrap();
        drop(a);
        let c = device.alloc::<i32>("c", 1000).unwrap();
        (b, c)
    };
    let live = step();
    let first = device.usage();
    assert_eq!((first.live, first.peak, first.reserved), (4600, 4600, 4600));
    assert_eq!(first.reservations, 2);
    drop(live);
    for _ in 0..3 {
        drop(step());
    }
    let steady = device.usage();
    assert_eq!((steady.live, steady.peak, steady.reservations), (0, 4600, 2));
    device.trim().unwrap();
    assert_eq!(device.usage().reserved, 0);
    device.reset_peak();
    assert_eq!(device.usage().peak, 0);
}

/// Writes 2 x[i] to y[i] for all i < n; `y` may be shorter than it should be. The parameters are a
/// struct of 4 bytes and two pointers, so the pointers are at offsets 8 and 16.
static DOUBLE: Module = Module::new(
    "double",
    ".version 8.0
.target sm_80
.address_size 64
.visible .entry double_f32(
    .param .align 4 .b8 size[4],
    .param .u64 x,
    .param .u64 y
)
.maxntid 32, 1, 1
{
    .reg .pred %p<2>;
    .reg .f32 %f<3>;
    .reg .b32 %r<3>;
    .reg .b64 %d<8>;
    ld.param.u32 %r1, [size];
    ld.param.u64 %d1, [x];
    ld.param.u64 %d2, [y];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %d3, %d1;
    cvta.to.global.u64 %d4, %d2;
    mul.wide.u32 %d5, %r2, 4;
    add.s64 %d6, %d3, %d5;
    add.s64 %d7, %d4, %d5;
    ld.global.f32 %f1, [%d6];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%d7], %f2;
DONE:
    ret;
}
",
);

fn double(device: &Device, x: &[f32], n: u32, out: usize) -> crate::Result<Vec<f32>> {
    let x = device.upload("x", x)?;
    let mut y = device.alloc("y", out)?;
    let args = Args::new(&n).read(x.view()).write(y.view_mut());
    // SAFETY: the virtual device checks every access.
    unsafe { device.launch(&DOUBLE.kernel_of::<f32>("double"), &Grid::line(1, 1, 32), &args)? };
    device.download(y.view())
}

#[test]
fn a_kernel_runs_and_its_faults_are_errors() {
    let device = Device::virtual_gpu();
    assert_eq!(double(&device, &[1.0, -2.5, 3.0], 3, 3).unwrap(), [2.0, -5.0, 6.0]);
    assert_eq!(device.counters().launches, 1);
    // Three values read and written.
    assert_eq!(device.work().unwrap().global_bytes, 24);
    let error = double(&device, &[1.0; 5], 5, 4).unwrap_err().to_string();
    assert!(error.starts_with("double_f32, blocks [1, 1, 1] of threads [32, 1, 1]: "), "{error}");
    assert!(error.contains("out of bounds") && error.contains("`y`"), "{error}");
    // Memory from the pool counts as unwritten, even if an earlier buffer was written.
    drop(device.upload("old", &[1.0f32; 6]).unwrap());
    let x = device.alloc::<f32>("new", 6).unwrap();
    let mut y = device.alloc::<f32>("y", 6).unwrap();
    let args = Args::new(&6u32).read(x.view()).write(y.view_mut());
    let kernel = DOUBLE.kernel("double_f32");
    // SAFETY: the virtual device checks every access.
    let error = unsafe { device.launch(&kernel, &Grid::line(1, 1, 32), &args) }.unwrap_err();
    assert!(error.to_string().contains("never written"), "{error}");
}

#[test]
fn bad_launches_are_refused() {
    let device = Device::virtual_gpu();
    let x = device.upload("x", &[1.0f32]).unwrap();
    let launch = |device: &Device, name, grid: Grid, args: Args<'_>| {
        // SAFETY: the virtual device checks every access.
        unsafe { device.launch(&DOUBLE.kernel(name), &grid, &args) }
    };
    let args = || Args::new(&1u32).read(x.view()).read(x.view());
    let refused = |grid, word: &str| {
        let error = launch(&device, "double_f32", grid, args()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(Grid::line(1, 1, 2000), "1 to 1024 threads");
    refused(Grid::new([1, 70_000, 1], [32, 1, 1]), "65535 blocks");
    refused(Grid::line(1, 1, 32).shared(200 << 10), "163 KiB");
    refused(Grid::line(1, 1, 64), "threads");
    let error = launch(&device, "triple", Grid::line(1, 1, 32), args()).unwrap_err().to_string();
    assert!(error.contains("triple"), "{error}");
    let few = Args::new(&1u32).read(x.view());
    assert!(launch(&device, "double_f32", Grid::line(1, 1, 32), few).is_err());
    let other = Device::virtual_gpu();
    let error = launch(&other, "double_f32", Grid::line(1, 1, 32), args()).unwrap_err();
    assert!(error.to_string().starts_with("launch: an argument is on"), "{error}");
    let before = device.counters().launches;
    launch(&device, "double_f32", Grid::line(0, 1, 32), args()).unwrap();
    assert_eq!(device.counters().launches, before);
}

#[test]
fn products_that_would_round_too_often_are_refused() {
    let device = Device::virtual_gpu();
    let a = device.zeros::<bf16>("a", 8).unwrap();
    let wide = device.zeros::<f32>("wide", 8).unwrap();
    let mut c = device.zeros::<bf16>("c", 4).unwrap();
    let sizes = MatMul::new(2, 2, 2).batched(2).summed();
    let (a, wide) = (a.view(), wide.view());
    let error = device.matmul(&sizes, 1.0, a, a, Write::Over, c.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "matmul: a sum over a batch needs a result of f32");
    let error = device.matmul(&sizes, 1.0, wide, wide, Write::Over, c.view_mut()).unwrap_err();
    assert!(error.to_string().contains("operands of f32"), "{error}");
    let short = device.matmul(&sizes, 1.0, a.slice(0..7), a, Write::Add, c.view_mut());
    assert_eq!(short.unwrap_err().to_string(), "matmul: a has 7 elements, its sizes require 8");
    assert_eq!(device.counters().products, 0);
    // Nothing to sum: zeros.
    let mut c = device.upload("c", &[1.0f32; 4]).unwrap();
    let none = MatMul::new(2, 2, 0);
    let empty = a.slice(0..0);
    device.matmul(&none, 1.0, empty, empty, Write::Add, c.view_mut()).unwrap();
    assert_eq!(device.download(c.view()).unwrap(), [1.0; 4]);
    device.matmul(&none, 1.0, empty, empty, Write::Over, c.view_mut()).unwrap();
    assert_eq!(device.download(c.view()).unwrap(), [0.0; 4]);
}

#[test]
fn an_epilogue_rounds_once() {
    let device = Device::virtual_gpu();
    let (n, m, k) = (5, 7, 11);
    let (a, _) = stored::<bf16>(&noise(n * k, 1));
    let (b, _) = stored::<bf16>(&noise(k * m, 2));
    let (bias, wide) = stored::<bf16>(&noise(m, 3));
    let [a, b, bias] = [&a, &b, &bias].map(|host| device.upload("operand", host).unwrap());
    let sizes = MatMul::new(n, m, k).trans_a();
    let mut exact = device.alloc::<f32>("exact", n * m).unwrap();
    let (a, b, over) = (a.view(), b.view(), Write::Over);
    device.matmul(&sizes, 1.0, a, b, over, exact.view_mut()).unwrap();
    let exact = device.download(exact.view()).unwrap();
    let mut c = device.alloc::<bf16>("c", n * m).unwrap();
    let sum = |i: usize| exact[i] + wide[i % m] as f32;
    let fused = Epilogue::Bias(bias.view());
    assert!(device.matmul_with(&sizes, 1.0, a, b, over, fused, c.view_mut()).unwrap());
    let got = device.download(c.view()).unwrap();
    (0..n * m).for_each(|i| assert_eq!(got[i], bf16::from_f32(sum(i))));
    let fused = Epilogue::BiasRelu(bias.view());
    assert!(device.matmul_with(&sizes, 1.0, a, b, over, fused, c.view_mut()).unwrap());
    let got = device.download(c.view()).unwrap();
    (0..n * m).for_each(|i| assert_eq!(got[i], bf16::from_f32(sum(i).max(0.0))));
    assert!(got.contains(&bf16::ZERO) && got.iter().any(|&c| c > bf16::ZERO));
    // Arguments that are refused, and a product with nothing to do.
    let short = Epilogue::Bias(bias.view().slice(1..m));
    let error = device.matmul_with(&sizes, 1.0, a, b, over, short, c.view_mut()).unwrap_err();
    let want = "matmul: vector of the epilogue has 6 elements, its sizes require 7";
    assert_eq!(error.to_string(), want);
    let twice = MatMul::new(1, m, k).batched(n).shared_b();
    let fused = Epilogue::Bias(bias.view());
    let error = device.matmul_with(&twice, 1.0, a, b, over, fused, c.view_mut()).unwrap_err();
    assert!(error.to_string().contains("not to a batch"), "{error}");
    let none = MatMul::new(n, m, 0);
    let (empty, fused) = (a.slice(0..0), Epilogue::Bias(bias.view()));
    assert!(!device.matmul_with(&none, 1.0, empty, empty, over, fused, c.view_mut()).unwrap());
    assert_eq!(device.counters().products, 3);
}

#[test]
fn a_dry_run_checks_and_counts_and_executes_nothing() {
    let device = Device::dry_run();
    assert!(device.is_dry_run() && !Device::virtual_gpu().is_dry_run());
    let part = super::range("layer 3");
    assert_eq!(double(&device, &[1.0, -2.5, 3.0], 3, 3).unwrap(), [0.0; 3]);
    drop(part);
    let a = device.zeros::<bf16>("a", 6).unwrap();
    let mut c = device.alloc::<f32>("c", 4).unwrap();
    let sizes = MatMul::new(2, 2, 3);
    device.matmul(&sizes, 1.0, a.view(), a.view(), Write::Over, c.view_mut()).unwrap();
    let trace = device.trace().unwrap();
    let named: Vec<_> = trace.parts.keys().map(|place| place.to_string()).collect();
    assert_eq!(named, ["", "layer 3"]);
    let expected = Counts {
        launches: 1,
        allocations: 2,
        allocated: 24,
        uploads: 1,
        uploaded: 12,
        downloads: 1,
        downloaded: 12,
        waits: 1,
        ..Counts::default()
    };
    assert_eq!(trace.parts.values().last(), Some(&expected));
    let total = trace.total();
    assert_eq!((total.products, total.flops, total.copies, total.copied), (1, 24, 1, 12));
    assert_eq!(trace.by_kernel().into_iter().collect::<Vec<_>>(), [("double_f32", 1)]);
    // Both buffers of the launch were in use at once, then both of the product.
    assert_eq!(trace.peak, 28);
    let live: Vec<_> =
        trace.at_peak.iter().map(|(buffer, n)| (buffer.name, buffer.bytes, *n)).collect();
    assert_eq!(live, [("a", 12, 1), ("c", 16, 1)]);
    device.restart_trace();
    let trace = device.trace().unwrap();
    assert_eq!((trace.total(), trace.peak), (Counts::default(), 28));
    // Launches that a real device refuses are refused.
    let x = device.upload("x", &[1.0f32]).unwrap();
    let args = Args::new(&1u32).read(x.view()).read(x.view());
    // SAFETY: nothing is executed.
    let refused =
        unsafe { device.launch(&DOUBLE.kernel("double_f32"), &Grid::line(1, 1, 2000), &args) };
    assert!(refused.unwrap_err().to_string().contains("1 to 1024 threads"));
}

#[test]
fn a_device_keeps_its_tables() {
    let device = Device::virtual_gpu();
    let table = |numbers: &[u64], value: f32| {
        let table =
            device.constant("table", numbers, || Ok::<_, crate::KernelError>(vec![value; 3]));
        device.download(table.unwrap().view()).unwrap()
    };
    assert_eq!(table(&[1], 2.0), [2.0; 3]);
    // Kept, so that nothing is created again.
    assert_eq!(table(&[1], 9.0), [2.0; 3]);
    assert_eq!(table(&[2], 9.0), [9.0; 3]);
    assert_eq!(device.trace().unwrap().total().uploads, 2);
    let bad = device.constant("bad", &[], || {
        Err::<Vec<u8>, _>(crate::KernelError::Size { op: "table", what: "no such table".into() })
    });
    assert!(bad.unwrap_err().to_string().contains("no such table"));
}
