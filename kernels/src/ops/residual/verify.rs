//! Verification of residual connections on a device against the reference.

use half::bf16;

use super::{Residual, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::sizes::RowSplit;
use crate::device::{Buffer, Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "residual", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One element, no whole vector, more than one row split, more than one block of columns.
    for (n, c) in [(1, 1), (7, 13), (70, 40), (131, 264)] {
        for (bias, gamma) in [(false, true), (true, true), (false, false)] {
            check::<f32>(verification, n, c, bias, gamma)?;
            check::<bf16>(verification, n, c, bias, gamma)?;
        }
    }
    Ok(())
}

/// Inputs; `old` is the start value of the gradient of gamma.
struct Inputs<T> {
    x: Vec<T>,
    r: Vec<T>,
    dy: Vec<T>,
    bias: Option<Vec<f32>>,
    gamma: Option<Vec<f32>>,
    old: Vec<f32>,
}

/// y, dr, dgamma.
type Outputs<T> = (Vec<T>, Vec<T>, Vec<f32>);

fn run<T: Float>(device: &Device, s: &Residual, of: &Inputs<T>) -> Result<Outputs<T>> {
    let (x, r, dy) =
        (device.upload("x", &of.x)?, device.upload("r", &of.r)?, device.upload("dy", &of.dy)?);
    let bias = of.bias.as_ref().map(|b| device.upload("bias", b)).transpose()?;
    let gamma = of.gamma.as_ref().map(|g| device.upload("gamma", g)).transpose()?;
    let (bias, gamma) = (bias.as_ref().map(Buffer::view), gamma.as_ref().map(Buffer::view));
    let (mut y, mut dr) = (device.alloc("y", s.n * s.c)?, device.alloc("dr", s.n * s.c)?);
    let mut dgamma = device.upload("dgamma", &of.old)?;
    s.forward_gpu(device, x.view(), r.view(), bias, gamma, y.view_mut())?;
    let (dr_out, dgamma_out) = (Some(dr.view_mut()), Some(dgamma.view_mut()));
    s.backward_gpu(device, Some(r.view()), bias, gamma, dy.view(), dr_out, dgamma_out)?;
    Ok((device.download(y.view())?, device.download(dr.view())?, device.download(dgamma.view())?))
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    n: usize,
    c: usize,
    with_bias: bool,
    with_gamma: bool,
) -> Result<()> {
    let s = Residual { n, c };
    let [x, r, dy] = [1, 2, 3].map(|seed| stored::<T>(&noise(n * c, seed)));
    let (exact_x, exact_r, exact_dy) = (x.1, r.1, dy.1);
    let bias = with_bias.then(|| noise::<f32>(c, 4));
    let gamma = with_gamma.then(|| noise::<f32>(c, 5));
    let of = Inputs { x: x.0, r: r.0, dy: dy.0, bias, gamma, old: noise(c, 6) };
    let with = |yes: bool, what: &'static str| if yes { what } else { "" };
    let form = [with(with_bias, " bias"), with(with_gamma, " gamma")].concat();
    let what = format!("residual{} [{n}, {c}]{form}", T::SUFFIX);
    let device = verification.device();
    let (got_y, got_dr, got_dgamma) = verification.twice(&what, || run(device, &s, &of))?;
    let bias = of.bias.as_ref().map_or(vec![0.0; c], |bias| wide(bias));
    let scale = of.gamma.as_ref().map_or(vec![1.0; c], |gamma| wide(gamma));
    let old = wide(&of.old);
    let shifted: Vec<f64> = (0..n * c).map(|i| exact_r[i] + bias[i % c]).collect();
    let (mut y, mut dr, mut dgamma) = (vec![0.0; n * c], vec![0.0; n * c], old.clone());
    reference::forward(&s, &exact_x, &shifted, Some(&scale), &mut y);
    reference::dr(&s, Some(&scale), &exact_dy, &mut dr);
    reference::dgamma(&s, &shifted, &exact_dy, &mut dgamma);
    // Three operations, each with a result no larger than the sum of the magnitudes.
    verification.within(&format!("{what}: y"), &got_y, &y, |i| {
        let r = exact_r[i].abs() + bias[i % c].abs();
        3.0 * UNIT * (exact_x[i].abs() + r * scale[i % c].abs())
    });
    verification.within(&format!("{what}: dr"), &got_dr, &dr, |i| UNIT * dr[i].abs());
    let depth = RowSplit::of(n).depth() + 2.0;
    verification.within(&format!("{what}: dgamma"), &got_dgamma, &dgamma, |j| {
        let term =
            |i: usize| exact_dy[i * c + j].abs() * (exact_r[i * c + j].abs() + bias[j].abs());
        depth * UNIT * ((0..n).map(term).sum::<f64>() + old[j].abs())
    });
    Ok(())
}

/// Tokens of four 512 px images of ViT-L: forward with bias and layer scale, and both gradients.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Residual { n: 4 * 1025, c: 1024 };
    let all = s.n * s.c;
    let shape = format!("[{}, {}]", s.n, s.c);
    // x, r, y, dy and dr have two bytes per element; parameters and their gradients have four.
    let (values, params) = (2 * all, 4 * s.c);
    let big = |name, seed| filled::<bf16>(device, name, all, seed);
    let small = |name, seed| filled::<f32>(device, name, s.c, seed);
    let (x, r, mut y) = (big("x", 1)?, big("r", 2)?, device.alloc("y", all)?);
    let (bias, gamma) = (small("bias", 3)?, small("gamma", 4)?);
    let forward = move || {
        let (bias, gamma) = (Some(bias.view()), Some(gamma.view()));
        s.forward_gpu(device, x.view(), r.view(), bias, gamma, y.view_mut())
    };
    let (dy, gamma, mut dr) = (big("dy", 5)?, small("gamma", 4)?, device.alloc("dr", all)?);
    let by_r = move || {
        let (gamma, dr) = (Some(gamma.view()), Some(dr.view_mut()));
        s.backward_gpu(device, None, None, gamma, dy.view(), dr, None)
    };
    let (r, dy, bias) = (big("r", 2)?, big("dy", 5)?, small("bias", 3)?);
    let mut dgamma = small("dgamma", 6)?;
    let by_gamma = move || {
        let (r, bias) = (Some(r.view()), Some(bias.view()));
        s.backward_gpu(device, r, bias, None, dy.view(), None, Some(dgamma.view_mut()))
    };
    let bytes = [3 * values + 2 * params, 2 * values + params, 2 * values + 3 * params];
    Ok(vec![
        Timed::new("residual_fwd_bf16", shape.clone(), 3 * all, bytes[0], forward),
        Timed::new("residual_bwd_bf16", shape.clone(), all, bytes[1], by_r),
        Timed::new("residual_columns_bf16", shape, 3 * all, bytes[2], by_gamma),
    ])
}
