//! Verification of products on a device (a library or the CPU computes them) against f64.

use half::bf16;

use super::MatMul;
use crate::Result;
use crate::Write;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "matmul", verify, timed };

/// Factor of every product.
const ALPHA: f32 = 0.5;

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for write in [Write::Over, Write::Add] {
        for sizes in [
            MatMul::new(5, 7, 13),
            MatMul::new(1, 33, 2).trans_b(),
            MatMul::new(17, 3, 40).trans_a().batched(3),
            MatMul::new(4, 4, 4).batched(2).shared_b(),
            MatMul::new(72, 64, 136).trans_b(),
        ] {
            check::<f32, f32>(verification, sizes, write)?;
            check::<bf16, f32>(verification, sizes, write)?;
            check::<bf16, bf16>(verification, sizes, write)?;
        }
        let sum = MatMul::new(6, 5, 4).trans_a().batched(3).summed();
        check::<bf16, f32>(verification, sum, write)?;
    }
    Ok(())
}

fn check<T: Float, C: Float>(
    verification: &mut Verification<'_>,
    sizes: MatMul,
    write: Write,
) -> Result<()> {
    let MatMul { batch, n, m, k, stride_a, stride_b, stride_c, .. } = sizes;
    let span = |stride: usize, size: usize| (batch - 1) * stride + size;
    let (a, exact_a) = stored::<T>(&noise(span(stride_a, n * k), 1));
    let (b, exact_b) = stored::<T>(&noise(span(stride_b, k * m), 2));
    let (old, exact_old) = stored::<C>(&noise(span(stride_c, n * m), 3));
    let device = verification.device();
    let what = format!("matmul{}{} {batch} x [{n}, {m}, {k}] {write:?}", T::SUFFIX, C::SUFFIX);
    let got = verification.twice(&what, || {
        let (a, b) = (device.upload("a", &a)?, device.upload("b", &b)?);
        let mut c = device.upload("c", &old)?;
        device.matmul(&sizes, ALPHA, a.view(), b.view(), write, c.view_mut())?;
        device.download(c.view())
    })?;
    let mut want = exact_old.clone();
    sizes.run(f64::from(ALPHA), &exact_a, &exact_b, write, &mut want)?;
    // Sums of k terms, each at most one half; a sum over the batch has more terms.
    let depth = (k * if stride_c == 0 { batch } else { 1 } + 2) as f64;
    let bound = |i: usize| depth * UNIT * (0.5 * depth + exact_old[i].abs());
    verification.within(&format!("{what}: c"), &got, &want, bound);
    Ok(())
}

/// Second product of the MLP of ViT-L on four 512 px images, in both types.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    Ok(vec![product::<bf16>(device, "matmul_bf16")?, product::<f32>(device, "matmul_f32")?])
}

fn product<'a, T: Float>(device: &'a Device, name: &'static str) -> Result<Timed<'a>> {
    let (n, m, k) = (4 * 1025, 1024, 4096);
    let (a, b) = (filled::<T>(device, "a", n * k, 1)?, filled::<T>(device, "b", m * k, 2)?);
    let mut c = device.alloc::<T>("c", n * m)?;
    let run = move || {
        let sizes = MatMul::new(n, m, k).trans_b();
        device.matmul(&sizes, 1.0, a.view(), b.view(), Write::Over, c.view_mut())
    };
    let bytes = size_of::<T>() * (n * k + m * k + n * m);
    Ok(Timed::new(name, format!("[{n}, {m}, {k}]"), 2 * n * m * k, bytes, run))
}
