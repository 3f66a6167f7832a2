//! Verification of resampling on a device against the CPU in f64.

use half::bf16;

use super::{Axis, AxisGpu, Mode, Resize, ResizeGpu, Step, Taps};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "resize", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    let axis = |n_in, n_out, mode| Axis::new(n_in, n_out, mode, Step::Size);
    // Planar maps, part of a vector of channels, whole vectors; each up, down and with every mode.
    for c in [1, 3, 40] {
        for (n, y, x) in [
            (1, axis(1, 1, Mode::Bilinear)?, axis(1, 3, Mode::Bilinear)?),
            (2, axis(5, 20, Mode::Bilinear)?, axis(7, 14, Mode::Bilinear)?),
            (2, axis(13, 4, Mode::Bilinear)?, axis(9, 9, Mode::Bilinear)?),
            (1, axis(6, 11, Mode::Bicubic)?, axis(12, 5, Mode::BicubicAntialias)?),
        ] {
            check::<f32>(verification, &Resize { n, c, y: &y, x: &x })?;
            check::<bf16>(verification, &Resize { n, c, y: &y, x: &x })?;
        }
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, s: &Resize<'_>) -> Result<()> {
    let Resize { n, c, y, x } = *s;
    let device = verification.device();
    let (input, exact) = stored::<T>(&noise(s.input_len(), 1));
    let (dy, exact_dy) = stored::<T>(&noise(s.output_len(), 2));
    let (rows, columns) = (AxisGpu::new(device, y)?, AxisGpu::new(device, x)?);
    let gpu = ResizeGpu { n, c, y: &rows, x: &columns };
    let sizes = format!("{}x{} to {}x{}", y.n_in(), x.n_in(), y.n_out(), x.n_out());
    let what = format!("resize{} {n} x {sizes} x {c}", T::SUFFIX);
    let (got, got_dx) = verification.twice(&what, || {
        let (x, dy) = (device.upload("x", &input)?, device.upload("dy", &dy)?);
        let mut y = device.alloc("y", s.output_len())?;
        let mut dx = device.alloc("dx", s.input_len())?;
        gpu.forward(device, x.view(), y.view_mut())?;
        gpu.backward(device, dy.view(), dx.view_mut())?;
        Ok((device.download(y.view())?, device.download(dx.view())?))
    })?;
    let (mut want, mut want_dx) = (vec![0.0; s.output_len()], vec![0.0; s.input_len()]);
    s.forward(&exact, &mut want)?;
    s.backward(&exact_dy, &mut want_dx)?;
    // Each weight and their product are rounded, then a sum over all taps of values up to 1. Cubic
    // weights are at most 1.2; the rows of a transposed table sum to the scale.
    let bound = |y: &Taps, x: &Taps| {
        let taps = (y.width * x.width) as f64;
        (taps + 3.0) * UNIT * taps.min(1.5 * (y.n_in * x.n_in) as f64)
    };
    let (forward, backward) = (bound(&y.forward, &x.forward), bound(&y.backward, &x.backward));
    verification.within::<T>(&format!("{what}: y"), &got, &want, |_| forward);
    verification.within::<T>(&format!("{what}: dx"), &got_dx, &want_dx, |_| backward);
    Ok(())
}

/// Finest feature map of four images of 512 px for the pixel decoder, and its gradient. Also the
/// masks of 100 queries of four images, resized to the crop.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let mut list = Vec::new();
    for (name, n, from, to, c, forward) in [
        ("resize_fwd_bf16", 4, 32, 128, 1024, true),
        ("resize_bwd_bf16", 4, 32, 128, 1024, false),
        ("resize_planar_fwd_bf16", 400, 128, 512, 1, true),
    ] {
        let axis = AxisGpu::new(device, &Axis::new(from, to, Mode::Bilinear, Step::Size)?)?;
        let (small, large) = (n * from * from * c, n * to * to * c);
        let [len_in, len_out] = if forward { [small, large] } else { [large, small] };
        let input = filled::<bf16>(device, "input", len_in, 1)?;
        let mut output = device.alloc("output", len_out)?;
        let run = move || {
            let s = ResizeGpu { n, c, y: &axis, x: &axis };
            let (from, to) = (input.view(), output.view_mut());
            if forward { s.forward(device, from, to) } else { s.backward(device, from, to) }
        };
        let shape = format!("{n} x {from}x{from} to {to}x{to} x {c}");
        // Four taps per pixel of the larger map in either direction.
        list.push(Timed::new(name, shape, 8 * large, 2 * (small + large), run));
    }
    Ok(list)
}
