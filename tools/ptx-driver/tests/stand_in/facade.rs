//! The CUDA backend of `dressage-kernels`, which is written for a GPU, on the stand-in.

use dressage_kernels::call::{Gpu, Launch};
use dressage_kernels::check::verify;
use dressage_kernels::device::{Args, Buffer, Device, Element, Epilogue, Float, Grid, Module};
use dressage_kernels::ops::activation::{self, Activation, Pointwise};
use dressage_kernels::ops::attention::{self, Attention};
use dressage_kernels::ops::layer_norm::{self, LayerNorm};
use dressage_kernels::ops::matmul::MatMul;
use dressage_kernels::ops::reduce;
use dressage_kernels::{KernelError, Result, Write};
use half::bf16;

use crate::{run, run_at};

/// Returns pseudo-random numbers in (-1, 1), the same everywhere.
fn noise<T: Float>(len: usize, seed: u32) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        T::of(state as f32 / 2f32.powi(31) - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

fn bytes<T: Element>(device: &Device, buffer: &Buffer<T>) -> Result<Vec<u8>> {
    Ok(bytemuck::cast_slice(&device.download(buffer.view())?).to_vec())
}

/// Runs kernels with and without much shared memory, forward and backward.
fn kernels<T: Float>(device: &Device) -> Result<Vec<Vec<u8>>> {
    let s = Attention { b: 2, heads: 2, d: 64, nq: 70, nk: 70, masked: false };
    let (n, width) = (s.b * s.nq, s.heads * s.d);
    let put = |name, seed| device.upload(name, &noise::<T>(n * width, seed));
    let (q, k, v, dout) = (put("q", 1)?, put("k", 2)?, put("v", 3)?, put("dout", 4)?);
    let mut out = device.alloc("out", n * width)?;
    let mut lse = device.alloc("lse", s.b * s.heads * s.nq)?;
    let (q, k, v) = (q.view(), k.view(), v.view());
    let (to, to_lse) = (out.view_mut(), lse.view_mut());
    let forward = attention::Forward::<Gpu, T> { q, k, v, blocked: None, out: to, lse: to_lse };
    forward.launch(device, &s)?;
    let [mut dq, mut dk, mut dv] = [
        device.alloc("dq", n * width)?,
        device.alloc("dk", n * width)?,
        device.alloc("dv", n * width)?,
    ];
    attention::Backward::<Gpu, T> {
        q,
        k,
        v,
        blocked: None,
        out: Some(out.view()),
        lse: lse.view(),
        dout: dout.view(),
        dq: Some(dq.view_mut()),
        dk: Some(dk.view_mut()),
        dv: Some(dv.view_mut()),
    }
    .launch(device, &s)?;
    let norm = LayerNorm { n, c: width, eps: 1e-6 };
    let weight = device.upload("weight", &noise::<f32>(width, 5))?;
    let bias = device.upload("bias", &noise::<f32>(width, 6))?;
    let (mut y, mut mean, mut rstd) =
        (device.alloc("y", n * width)?, device.alloc("mean", n)?, device.alloc("rstd", n)?);
    layer_norm::Forward::<Gpu, T> {
        x: q,
        weight: weight.view(),
        bias: bias.view(),
        y: y.view_mut(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
    }
    .launch(device, &norm)?;
    let mut dx = device.zeros("dx", n * width)?;
    let (mut dw, mut db) = (device.zeros("dw", width)?, device.zeros("db", width)?);
    layer_norm::Backward::<Gpu, T> {
        x: q,
        weight: weight.view(),
        mean: mean.view(),
        rstd: rstd.view(),
        dy: dout.view(),
        dx: Some(dx.view_mut()),
        write: Write::Add,
        dweight: Some(dw.view_mut()),
        dbias: Some(db.view_mut()),
    }
    .launch(device, &norm)?;
    let mut copy = device.alloc("copy", n * width)?;
    device.copy(y.view(), copy.view_mut())?;
    let gelu = Pointwise { f: Activation::Gelu, n: n * width };
    activation::Forward::<Gpu, T> { x: copy.view(), y: y.view_mut() }.launch(device, &gelu)?;
    let mut sum = device.zeros("sum", 1)?;
    reduce::sum_gpu(device, y.view(), sum.view_mut())?;
    let mut all = Vec::new();
    for buffer in [&out, &dq, &dk, &dv, &dx, &copy, &y] {
        all.push(bytes(device, buffer)?);
    }
    for buffer in [&lse, &mean, &rstd, &dw, &db, &sum] {
        all.push(bytes(device, buffer)?);
    }
    Ok(all)
}

#[test]
fn kernels_give_the_bytes_of_the_virtual_gpu() {
    let variables = [("PTX_DRIVER_LEAKS", "1")];
    run("facade::child_kernels", &variables).quietly();
}

#[test]
fn kernels_give_the_same_bytes_when_work_is_delayed() {
    let variables = [("PTX_DRIVER_LEAKS", "1"), ("PTX_DRIVER_DELAY", "1")];
    run("facade::child_kernels", &variables).quietly();
}

pub fn child_kernels() {
    let cuda = Device::cuda(0).unwrap();
    assert_eq!(cuda.name(), "ptx-vm, not a GPU (number 0)");
    let here = Device::virtual_gpu();
    assert_eq!(kernels::<f32>(&cuda).unwrap(), kernels::<f32>(&here).unwrap());
    assert_eq!(kernels::<bf16>(&cuda).unwrap(), kernels::<bf16>(&here).unwrap());
    // A second time, with memory from the pool.
    assert_eq!(kernels::<bf16>(&cuda).unwrap(), kernels::<bf16>(&here).unwrap());
    cuda.trim().unwrap();
}

/// Compares a product on both devices with the difference that rounding allows.
fn product<T: Float, C: Float>(cuda: &Device, sizes: MatMul, beta: Write) {
    let MatMul { batch, n, m, k, stride_a, stride_b, stride_c, .. } = sizes;
    let span = |stride: usize, one: usize| (batch - 1) * stride + one;
    let a = noise::<T>(span(stride_a, n * k), 1);
    let b = noise::<T>(span(stride_b, k * m), 2);
    let old = noise::<C>(span(stride_c, n * m), 3);
    let on = |device: &Device| {
        let (a, b) = (device.upload("a", &a).unwrap(), device.upload("b", &b).unwrap());
        let mut c = device.upload("c", &old).unwrap();
        device.matmul(&sizes, 0.5, a.view(), b.view(), beta, c.view_mut()).unwrap();
        device.download(c.view()).unwrap()
    };
    let (got, want) = (on(cuda), on(&Device::virtual_gpu()));
    let depth = (k * batch + 2) as f32;
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let (got, want) = (got.f32(), want.f32());
        // Both devices round sums of this many terms below 1, and then round to the type.
        let allowed = depth * depth * f32::EPSILON + 2.0 * C::ROUNDING * want.abs();
        assert!((got - want).abs() <= allowed, "{sizes:?} {beta:?} element {i}: {got}, not {want}");
    }
}

#[test]
fn products_are_those_of_the_virtual_gpu() {
    let variables = [("PTX_DRIVER_LEAKS", "1")];
    run("facade::child_products", &variables).quietly();
    run("facade::child_products", &[("PTX_DRIVER_DELAY", "1")]).quietly();
}

pub fn child_products() {
    let cuda = Device::cuda(0).unwrap();
    for beta in [Write::Over, Write::Add] {
        for sizes in [
            MatMul::new(5, 7, 13),
            MatMul::new(1, 1, 1),
            MatMul::new(64, 40, 32).trans_b(),
            MatMul::new(1, 33, 2).trans_b(),
            MatMul::new(33, 1, 2).trans_a(),
            MatMul::new(6, 5, 4).trans_a().trans_b(),
            MatMul::new(17, 3, 40).trans_a().batched(3),
            MatMul::new(4, 6, 5).batched(2).shared_b(),
        ] {
            product::<f32, f32>(&cuda, sizes, beta);
            product::<bf16, f32>(&cuda, sizes, beta);
            product::<bf16, bf16>(&cuda, sizes, beta);
        }
        product::<bf16, f32>(&cuda, MatMul::new(6, 5, 4).trans_a().batched(3).summed(), beta);
    }
}

#[test]
fn without_a_gpu_or_a_library_one_sentence_says_so() {
    let none = [("PTX_DRIVER_DEVICES", "0"), ("CHILD_EXPECTS", "no CUDA-capable device")];
    run("facade::child_no_device", &none).quietly();
    let beyond = [("CHILD_ORDINAL", "1"), ("CHILD_EXPECTS", "number 1 of 1")];
    run("facade::child_no_device", &beyond).quietly();
    let old = [("PTX_DRIVER_CAPABILITY", "7.5"), ("CHILD_EXPECTS", "compute capability 7.5")];
    run("facade::child_no_device", &old).quietly();
    let old = [("PTX_DRIVER_VERSION", "11080"), ("CHILD_EXPECTS", "525 or newer")];
    run("facade::child_no_device", &old).quietly();
    let tf32 = [("NVIDIA_TF32_OVERRIDE", "1"), ("CHILD_EXPECTS", "NVIDIA_TF32_OVERRIDE=1")];
    run("facade::child_no_device", &tf32).quietly();
    let newer = [("PTX_DRIVER_VERSION", "12080"), ("CHILD_EXPECTS", "580 or newer")];
    run("facade::child_no_device", &newer).quietly();
    let broken = [("PTX_DRIVER_CUBLASLT_BROKEN", "1"), ("CHILD_EXPECTS", "does not start")];
    run("facade::child_no_device", &broken).quietly();
    // The driver alone: no cuBLASLt.
    let alone = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver-alone");
    std::fs::create_dir_all(&alone).unwrap();
    let _ = std::fs::remove_file(alone.join("libcuda.so"));
    let library = ptx_driver::built().unwrap();
    std::os::unix::fs::symlink(library, alone.join("libcuda.so")).unwrap();
    let expects = [("CHILD_EXPECTS", "libcublasLt.so"), ("CHILD_MAY_WORK", "1")];
    run_at(Some(&alone), "facade::child_no_device", &expects).quietly();
    let expects = [("CHILD_EXPECTS", "libcuda.so"), ("CHILD_MAY_WORK", "1")];
    run_at(None, "facade::child_no_device", &expects).quietly();
}

pub fn child_no_device() {
    let of = |name| std::env::var(name).ok();
    let ordinal = of("CHILD_ORDINAL").map_or(0, |text| text.parse().unwrap());
    match Device::cuda(ordinal) {
        Ok(_) => assert!(of("CHILD_MAY_WORK").is_some(), "there is a device"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("no CUDA device: ") && !text.contains('\n'), "{text}");
            assert!(text.contains(&of("CHILD_EXPECTS").unwrap()), "{text}");
        }
    }
}

#[test]
fn memory_that_runs_out_is_an_error_and_the_pool_is_tried_first() {
    // cuBLASLt's workspace of 32 MiB is allocated first.
    run("facade::child_memory", &[("PTX_DRIVER_MEMORY", "64"), ("PTX_DRIVER_LEAKS", "1")])
        .quietly();
}

pub fn child_memory() {
    let device = Device::cuda(0).unwrap();
    let buffer = device.alloc::<u8>("held", 4 << 20).unwrap();
    drop(device.alloc::<u8>("first", 16 << 20).unwrap());
    // Only the memory of the pool can be freed for it.
    let other = device.alloc::<u8>("other", 20 << 20).unwrap();
    let error = device.alloc::<u8>("too much", 20 << 20).unwrap_err();
    assert!(matches!(error, KernelError::OutOfMemory { name: "too much", .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    drop((buffer, other));
}

/// Kernel that may write out of bounds: `n` values to a buffer that may be shorter.
static STORE: Module = Module::new(
    "store",
    ".version 8.0
.target sm_80
.address_size 64
.visible .entry store(.param .align 4 .b8 size[4], .param .u64 to)
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %d<5>;
    ld.param.u32 %r1, [size];
    ld.param.u64 %d1, [to];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %d2, %d1;
    mul.wide.u32 %d3, %r2, 4;
    add.s64 %d4, %d2, %d3;
    st.global.u32 [%d4], %r2;
DONE:
    ret;
}
",
);

#[test]
fn the_error_of_a_kernel_stays() {
    for variables in [&[][..], &[("PTX_DRIVER_DELAY", "1")], &[("CUDA_LAUNCH_BLOCKING", "1")]] {
        let messages = run("facade::child_fault", variables).well();
        let [message] = &messages[..] else { panic!("{messages:?}") };
        let begin = "the device fails with CUDA_ERROR_ILLEGAL_ADDRESS: out of bounds: store, line ";
        assert!(message.starts_with(begin), "{message}");
    }
}

pub fn child_fault() {
    let device = Device::cuda(0).unwrap();
    let mut to = device.alloc::<u32>("to", 8).unwrap();
    let mut store = |n: u32| {
        let args = Args::new(&n).write(to.view_mut());
        // SAFETY: not met for n above 128, which this test tries; the stand-in finds it.
        unsafe { device.launch(&STORE.kernel("store"), &Grid::line(1, 1, 256), &args) }
    };
    // Allocations are multiples of 512 bytes.
    store(128).unwrap();
    device.wait().unwrap();
    let launched = store(129);
    let blocking = std::env::var("CUDA_LAUNCH_BLOCKING").is_ok();
    assert_eq!(launched.is_err(), blocking, "a launch does not wait for its kernel");
    let check = |error: KernelError| {
        let text = error.to_string();
        assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS") && !text.contains('\n'), "{text}");
    };
    check(device.wait().unwrap_err());
    check(device.download(to.view()).unwrap_err());
    check(device.upload("new", &[1.0f32]).unwrap_err());
    // Another device of the process is the same GPU.
    assert!(Device::cuda(0).is_err());
}

#[test]
fn threads_share_a_device_and_devices_share_a_gpu() {
    run("facade::child_threads", &[("PTX_DRIVER_LEAKS", "1")]).quietly();
}

pub fn child_threads() {
    let sum = |device: &Device, by: f32| {
        let x = device.upload("x", &[by; 100]).unwrap();
        let mut out = device.zeros("out", 1).unwrap();
        reduce::sum_gpu(device, x.view(), out.view_mut()).unwrap();
        assert_eq!(device.download(out.view()).unwrap(), [100.0 * by]);
    };
    let device = Device::cuda(0).unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let device = &device;
            scope.spawn(move || (0..8).for_each(|_| sum(device, i as f32)));
        }
    });
    let second = Device::cuda(0).unwrap();
    sum(&second, 2.0);
    drop(device);
    // The context lives as long as one of the devices.
    sum(&second, 3.0);
    drop(second);
    sum(&Device::cuda(0).unwrap(), 4.0);
}

#[test]
fn epilogues_that_the_library_refuses_are_done_apart() {
    for at in ["choice", "call"] {
        let variables = [("PTX_DRIVER_EPILOGUES", at), ("PTX_DRIVER_LEAKS", "1")];
        run("facade::child_unfused", &variables).quietly();
    }
}

pub fn child_unfused() {
    let device = Device::cuda(0).unwrap();
    let sizes = MatMul::new(2, 3, 1);
    let (a, b) = (device.upload("a", &[1.0f32, 2.0]).unwrap(), device.zeros("b", 3).unwrap());
    let bias = device.upload("bias", &[1.0f32, 2.0, 3.0]).unwrap();
    let mut c = device.upload("c", &[7.0f32; 6]).unwrap();
    for _ in 0..2 {
        let epilogue = Epilogue::Bias(bias.view());
        let (beta, to) = (Write::Over, c.view_mut());
        let fused = device.matmul_with(&sizes, 1.0, a.view(), b.view(), beta, epilogue, to);
        assert_eq!(fused, Ok(false));
        assert_eq!(device.unfused(), ["bias of [2, 1] x [1, 3], f32 to f32"]);
    }
    assert_eq!(device.download(c.view()).unwrap(), [7.0; 6], "nothing was queued");
    assert_eq!(device.counters().products, 0);
    device.matmul(&sizes, 1.0, a.view(), b.view(), Write::Over, c.view_mut()).unwrap();
    assert_eq!(device.download(c.view()).unwrap(), [0.0; 6]);
    let linear = verify::all().into_iter().find(|kernels| kernels.name == "linear").unwrap();
    let outcomes = linear.run(&device);
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()), "{outcomes:?}");
}
