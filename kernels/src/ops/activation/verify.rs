//! Verification of activations on a device against their formulas.

use half::bf16;

use super::{Activation, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "activation", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for f in [Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
        // One element, a prime, whole blocks, a view that is not aligned.
        for (n, offset) in [(1, 0), (13, 0), (4099, 0), (2048, 0), (515, 3)] {
            check::<f32>(verification, f, n, offset)?;
            check::<bf16>(verification, f, n, offset)?;
        }
    }
    Ok(())
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    f: Activation,
    n: usize,
    offset: usize,
) -> Result<()> {
    // Values far in both tails, and the kink of the ReLU.
    let mut x: Vec<f32> = noise::<f32>(n, 1).iter().map(|x| 6.0 * x).collect();
    x[0] = 0.0;
    let (x, exact_x) = stored::<T>(&x);
    let (dy, exact_dy) = stored::<T>(&noise(n, 2));
    let name = match f {
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
    };
    let what = format!("{name}{} [{n}] from {offset}", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || {
        let (x, dy) = (device.upload("x", &x)?, device.upload("dy", &dy)?);
        let mut y = device.alloc("y", n - offset)?;
        let mut dx = device.alloc("dx", n - offset)?;
        let part = offset..n;
        let x = x.view().slice(part.clone());
        f.forward_gpu(device, x, y.view_mut())?;
        f.backward_gpu(device, x, dy.view().slice(part), dx.view_mut())?;
        Ok((device.download(y.view())?, device.download(dx.view())?))
    })?;
    let (x, dy) = (&exact_x[offset..], &exact_dy[offset..]);
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    reference::forward(f, x, &mut y);
    reference::backward(f, x, dy, &mut dx);
    // erff and expf are within two units of f32 (CUDA C++ Programming Guide), for values up to 2
    // and 1. Rounding of the argument adds at most as much. The arguments of QuickGELU reach 10,
    // and the relative error of a sigmoid is the error of its argument. ReLU has no arithmetic.
    let units = match f {
        Activation::Gelu => 8.0 * UNIT,
        Activation::QuickGelu => 16.0 * UNIT,
        Activation::Relu => 0.0,
    };
    verification.within(&format!("{what}: forward"), &got.0, &y, |i| units * x[i].abs());
    verification.within(&format!("{what}: backward"), &got.1, &dx, |i| {
        units * dy[i].abs() * (1.0 + x[i].abs())
    });
    Ok(())
}

/// Hidden layers of a block of ViT-L (GELU, QuickGELU) for four images of 512 px, and of the
/// decoder (ReLU).
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let mut all = Vec::new();
    for (f, forward, backward, rows, flops) in [
        (Activation::Gelu, "gelu_fwd_bf16", "gelu_bwd_bf16", 4100, 30),
        (Activation::QuickGelu, "quick_gelu_fwd_bf16", "quick_gelu_bwd_bf16", 4100, 15),
        (Activation::Relu, "relu_fwd_bf16", "relu_bwd_bf16", 400, 1),
    ] {
        let c = if f == Activation::Relu { 2048 } else { 4096 };
        let (n, shape) = (rows * c, format!("[{rows}, {c}]"));
        let x = filled::<bf16>(device, "x", n, 1)?;
        let mut y = device.alloc::<bf16>("y", n)?;
        let run = move || f.forward_gpu(device, x.view(), y.view_mut());
        all.push(Timed::new(forward, shape.clone(), flops * n, 4 * n, run));
        let (x, dy) = (filled::<bf16>(device, "x", n, 1)?, filled::<bf16>(device, "dy", n, 2)?);
        let mut dx = device.alloc::<bf16>("dx", n)?;
        let run = move || f.backward_gpu(device, x.view(), dy.view(), dx.view_mut());
        all.push(Timed::new(backward, shape, flops * n, 6 * n, run));
    }
    Ok(all)
}
