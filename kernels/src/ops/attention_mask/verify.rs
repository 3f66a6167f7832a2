//! Verification of attention masks on a device against the CPU in f64.

use half::bf16;

use super::{AttentionMask, AttentionMaskGpu, THRESHOLD};
use crate::Result;
use crate::call::{Call, Host};
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};
use crate::ops::resize::{Axis, AxisGpu, Forward, Mode, Resize, Step};

pub(crate) const KERNELS: Kernels = Kernels { name: "attention_mask", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (n, sizes) in [(1, [1, 1, 1, 1]), (5, [13, 7, 4, 9]), (3, [32, 32, 20, 17])] {
        check::<f32>(verification, n, sizes)?;
        check::<bf16>(verification, n, sizes)?;
    }
    Ok(())
}

/// Flags, those before rows were opened, and the flags of a call that does not request the latter.
type Outputs = [Vec<u8>; 3];

fn run<T: Float>(device: &Device, n: usize, y: &Axis, x: &Axis, logits: &[T]) -> Result<Outputs> {
    let (y, x) = (AxisGpu::new(device, y)?, AxisGpu::new(device, x)?);
    let s = AttentionMaskGpu { n, y: &y, x: &x };
    let keys = n * y.forward.n_out * x.forward.n_out;
    let logits = device.upload("logits", logits)?;
    let (mut used, mut raw) = (device.alloc("used", keys)?, device.alloc("raw", keys)?);
    s.compute(device, logits.view(), used.view_mut(), Some(raw.view_mut()))?;
    let first = device.download(used.view())?;
    s.compute(device, logits.view(), used.view_mut(), None)?;
    Ok([first, device.download(raw.view())?, device.download(used.view())?])
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    n: usize,
    [h, w, ho, wo]: [usize; 4],
) -> Result<()> {
    let axis = |n_in, n_out| Axis::new(n_in, n_out, Mode::Bilinear, Step::Size);
    let (y, x, keys) = (axis(h, ho)?, axis(w, wo)?, n * ho * wo);
    let mut logits = noise::<f32>(n * h * w, 1);
    // The last row is negative everywhere.
    logits[(n - 1) * h * w..].iter_mut().for_each(|v| *v = -v.abs() - 0.1);
    let (logits, exact) = stored::<T>(&logits);
    let what = format!("attention_mask{} {n} x [{h}, {w}] to [{ho}, {wo}]", T::SUFFIX);
    let device = verification.device();
    let [mut used, mut raw, alone] =
        verification.twice(&what, || run(device, n, &y, &x, &logits))?;
    verification.same(&format!("{what}: flags alone"), &alone, &used);
    let opened = used[(n - 1) * ho * wo..].iter().all(|&v| v == 0);
    verification.holds(&format!("{what}: a row without keys is opened"), opened);
    let (mut want, mut want_raw) = (vec![9; keys], vec![9; keys]);
    AttentionMask { n, y: &y, x: &x }.compute(&exact, &mut want, Some(&mut want_raw))?;
    let mut values = vec![0.0; keys];
    Forward::<Host, _> { x: &exact, y: &mut values }.run(&Resize { n, c: 1, y, x })?;
    // Four taps of values up to 1.1: within this distance of the threshold either flag is correct.
    let unsure: Vec<usize> =
        (0..keys).filter(|&i| (values[i] - THRESHOLD).abs() <= 8.0 * UNIT).collect();
    for &i in &unsure {
        (used[i], raw[i]) = (want[i], want_raw[i]);
    }
    verification.holds(&format!("{what}: few keys at the threshold"), unsure.len() * 100 <= keys);
    verification.same(&format!("{what}: flags"), &used, &want);
    verification.same(&format!("{what}: flags before opening"), &raw, &want_raw);
    Ok(())
}

/// Finest level of the mask decoder for four 512 px images and 100 queries.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (n, from, to) = (400, 128, 64);
    let axis = AxisGpu::new(device, &Axis::new(from, to, Mode::Bilinear, Step::Size)?)?;
    let logits = filled::<f32>(device, "logits", n * from * from, 1)?;
    let mut used = device.alloc("used", n * to * to)?;
    let run = move || {
        let s = AttentionMaskGpu { n, y: &axis, x: &axis };
        s.compute(device, logits.view(), used.view_mut(), None)
    };
    let shape = format!("{n} x [{from}, {from}] to [{to}, {to}]");
    let bytes = n * (4 * from * from + to * to);
    Ok(vec![Timed::new("attention_mask_f32", shape, 12 * n * to * to, bytes, run)])
}
