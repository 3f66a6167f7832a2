//! Verification of multi-scale deformable attention on a device against the reference.

use half::bf16;

use super::{MsDeformAttn, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{EXPF, UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "ms_deform_attn", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    type Case = (usize, &'static [(usize, usize)], usize, usize, usize);
    // One of everything; odd sizes; the heads of the decoder; the maximum levels and points.
    let cases: [Case; 4] = [
        (1, &[(1, 1)], 1, 4, 1),
        (2, &[(3, 5), (7, 4)], 3, 12, 3),
        (2, &[(2, 3), (4, 6), (8, 12)], 8, 32, 4),
        (1, &[(5, 1), (1, 7), (2, 2), (3, 3)], 1, 20, 8),
    ];
    for (b, levels, heads, d, points) in cases {
        let s = MsDeformAttn { b, levels, heads, d, points };
        check::<f32>(verification, &s)?;
        check::<bf16>(verification, &s)?;
    }
    extremes(verification)
}

/// Inputs.
struct Inputs<T> {
    value: Vec<T>,
    offsets: Vec<f32>,
    logits: Vec<f32>,
    dout: Vec<T>,
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    out: Vec<T>,
    attn: Vec<f32>,
    dvalue: Vec<T>,
    doffsets: Vec<f32>,
    dlogits: Vec<f32>,
    /// `doffsets` when no other gradient is requested.
    alone: Vec<f32>,
}

fn run<T: Float>(device: &Device, s: &MsDeformAttn<'_>, of: &Inputs<T>) -> Result<Outputs<T>> {
    let (points, features) = (of.logits.len(), of.value.len());
    let (value, dout) = (device.upload("value", &of.value)?, device.upload("dout", &of.dout)?);
    let offsets = device.upload("offsets", &of.offsets)?;
    let logits = device.upload("logits", &of.logits)?;
    let (mut out, mut attn) = (device.alloc("out", features)?, device.alloc("attn", points)?);
    let (v, o, z) = (value.view(), offsets.view(), logits.view());
    s.forward_gpu(device, v, o, z, out.view_mut(), attn.view_mut())?;
    let mut dvalue = device.alloc("dvalue", features)?;
    let mut doffsets = device.alloc("doffsets", 2 * points)?;
    let mut dlogits = device.alloc("dlogits", points)?;
    let (a, g, dv) = (attn.view(), dout.view(), Some(dvalue.view_mut()));
    let (doff, dz) = (Some(doffsets.view_mut()), Some(dlogits.view_mut()));
    s.backward_gpu(device, v, o, a, g, dv, doff, dz)?;
    let mut alone = device.alloc("doffsets", 2 * points)?;
    s.backward_gpu(device, v, o, a, g, None, Some(alone.view_mut()), None)?;
    Ok(Outputs {
        out: device.download(out.view())?,
        attn: device.download(attn.view())?,
        dvalue: device.download(dvalue.view())?,
        doffsets: device.download(doffsets.view())?,
        dlogits: device.download(dlogits.view())?,
        alone: device.download(alone.view())?,
    })
}

/// Values of the reference: out, attn, dvalue, doffsets, dlogits.
type Reference = [Vec<f64>; 5];

fn check<T: Float>(verification: &mut Verification<'_>, s: &MsDeformAttn<'_>) -> Result<()> {
    let rows = s.b * s.tokens() * s.heads;
    let (value, exact_value) = stored::<T>(&noise(rows * s.d, 1));
    let (dout, exact_dout) = stored::<T>(&noise(rows * s.d, 4));
    let offsets = noise::<f32>(rows * s.samples() * 2, 2).iter().map(|v| v * 2.5).collect();
    let of = Inputs { value, offsets, logits: noise(rows * s.samples(), 3), dout };
    let MsDeformAttn { b, levels, heads, d, points } = *s;
    let what = format!("ms_deform_attn{} b {b} h {heads} d {d} {levels:?} x {points}", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, s, &of))?;
    verification.same(&format!("{what}: doffsets alone"), &got.alone, &got.doffsets);
    let (offsets, logits) = (wide(&of.offsets), wide(&of.logits));
    let points = logits.len();
    let sizes = [rows * s.d, points, rows * s.d, 2 * points, points];
    let mut want = sizes.map(|n| vec![0.0f64; n]);
    let [out, attn, dv, doff, dz] = &mut want;
    reference::forward(s, &exact_value, &offsets, &logits, out, attn);
    let (dv, doff, dz) = (Some(&mut dv[..]), Some(&mut doff[..]), Some(&mut dz[..]));
    reference::backward(s, &exact_value, &offsets, attn, &exact_dout, dv, doff, dz);
    compare(verification, s, &what, &got, &want, &offsets);
    if size_of::<T>() == 4 {
        compare_closely(verification, &what, &got, &want);
    }
    Ok(())
}

/// Checks tighter bounds than the worst case. In f32 the kernels are nearly as close as `cpu.rs` is
/// to the f32 reference. This reference is in f64, so its positions differ by the rounding errors
/// of f32.
fn compare_closely<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    got: &Outputs<T>,
    [out, attn, dv, doff, dz]: &Reference,
) {
    let near = |want: &[f64]| 1e-5 * want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let part = |name: &str| format!("{what}: {name} of the largest");
    verification.within(&part("out"), &got.out, out, |_| near(out));
    verification.within(&part("attn"), &got.attn, attn, |_| near(attn));
    verification.within(&part("dvalue"), &got.dvalue, dv, |_| near(dv));
    verification.within(&part("doffsets"), &got.doffsets, doff, |_| near(doff));
    verification.within(&part("dlogits"), &got.dlogits, dz, |_| near(dz));
}

/// Checks the worst-case bounds. |value| and |dout| are at most 1; the softmax weights of a row sum
/// to 1, and so do the weights of a point's taps. A position has a rounding error of a few units of
/// the level width, which changes the weights of its taps by as much.
fn compare<T: Float>(
    verification: &mut Verification<'_>,
    s: &MsDeformAttn<'_>,
    what: &str,
    got: &Outputs<T>,
    [out, attn, dv, doff, dz]: &Reference,
    offsets: &[f64],
) {
    // px = (ref + offset / w) w - 0.5: four roundings of values up to the width plus an offset.
    let side = s.levels.iter().map(|&(h, w)| h.max(w)).max().unwrap_or(1) as f64 + 3.0;
    let place = 4.0 * UNIT * side;
    // Arguments up to 2 and their expf, in numerator and denominator; five additions, a quotient.
    // Sums over the points have more terms than that.
    let softmax = (s.samples() as f64 + 2.0 * (2.0 + EXPF) + 6.0) * UNIT;
    verification.within(&format!("{what}: attn"), &got.attn, attn, |i| softmax * attn[i] + 1e-9);
    // A head's output is a sum of 4 n terms.
    let terms = 4.0 * s.samples() as f64 * UNIT;
    let out_bound = 4.0 * place + softmax + terms;
    verification.within(&format!("{what}: out"), &got.out, out, |_| out_bound);
    // Dot products of d terms, gathered over four taps.
    let d = s.d as f64;
    let dot = d * (4.0 * place + (d + 12.0) * UNIT);
    verification.within(&format!("{what}: doffsets"), &got.doffsets, doff, |i| {
        attn[i / 2] * (2.0 * dot + softmax * d)
    });
    verification.within(&format!("{what}: dlogits"), &got.dlogits, dz, |i| {
        attn[i] * 2.0 * (dot + softmax * d)
    });
    let reach = readers(s, offsets, attn);
    verification.within(&format!("{what}: dvalue"), &got.dvalue, dv, |i| {
        reach[i / s.d] * (softmax + 3.0 * UNIT + 2.0 * place) + UNIT * dv[i].abs()
    });
}

/// Sum of the softmax weights of the points that may read each (image, token, head) within rounding
/// error.
fn readers(s: &MsDeformAttn<'_>, offsets: &[f64], attn: &[f64]) -> Vec<f64> {
    let (refs, starts, n) = (s.reference_points::<f64>(), s.starts(), s.samples());
    let mut reach = vec![0.0; s.b * s.tokens() * s.heads];
    for (i, &a) in attn.iter().enumerate() {
        let (row, level) = (i / n, i % n / s.points);
        let (h, w) = s.levels[level];
        let (head, token, image) =
            (row % s.heads, row / s.heads % s.tokens(), row / s.heads / s.tokens());
        let px = refs[token][0] * w as f64 + offsets[2 * i] - 0.5;
        let py = refs[token][1] * h as f64 + offsets[2 * i + 1] - 0.5;
        for y in 0..h {
            for x in 0..w {
                if (px - x as f64).abs() < 1.0 + 1e-5 && (py - y as f64).abs() < 1.0 + 1e-5 {
                    let at = (image * s.tokens() + starts[level] + y * w + x) * s.heads + head;
                    reach[at] += a;
                }
            }
        }
    }
    reach
}

/// Checks that gradients of any magnitude keep their precision, and that NaN is not hidden.
fn extremes(verification: &mut Verification<'_>) -> Result<()> {
    let s = MsDeformAttn { b: 1, levels: &[(2, 2)], heads: 1, d: 4, points: 2 };
    let (value, offsets, attn) = (noise::<f32>(16, 1), noise::<f32>(16, 2), noise::<f32>(8, 3));
    let (unit, device) = (noise::<f32>(16, 4), verification.device());
    let dvalue = |dout: &[f32]| {
        let (v, g) = (device.upload("value", &value)?, device.upload("dout", dout)?);
        let (o, a) = (device.upload("offsets", &offsets)?, device.upload("attn", &attn)?);
        let mut dv = device.alloc("dvalue", value.len())?;
        let out = Some(dv.view_mut());
        s.backward_gpu(device, v.view(), o.view(), a.view(), g.view(), out, None, None)?;
        device.download(dv.view())
    };
    let what = "ms_deform_attn_f32 b 1 h 1 d 4 [(2, 2)] x 2, extremes";
    let one = wide(&dvalue(&unit)?);
    for power in [-100, -30, 30, 90] {
        let by = 2f32.powi(power);
        let scaled = dvalue(&unit.iter().map(|g| g * by).collect::<Vec<_>>())?;
        let back: Vec<f32> = scaled.iter().map(|s| s / by).collect();
        verification.within(&format!("{what}: dvalue of dout x 2^{power}"), &back, &one, |_| 9e-7);
    }
    verification.same(&format!("{what}: dvalue of zeros"), &dvalue(&[0.0; 16])?, &[0.0; 16]);
    let mut broken = unit;
    broken[3] = f32::NAN;
    let all = dvalue(&broken)?.iter().all(|d| d.is_nan());
    verification.holds(&format!("{what}: NaN in dout is NaN everywhere"), all);
    Ok(())
}

/// Tokens of the pixel decoder for four images of 512 px: strides 32, 16 and 8, heads of 32.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    const LEVELS: &[(usize, usize)] = &[(16, 16), (32, 32), (64, 64)];
    let s = MsDeformAttn { b: 4, levels: LEVELS, heads: 8, d: 32, points: 4 };
    let rows = s.b * s.tokens() * s.heads;
    let (features, points) = (rows * s.d, rows * s.samples());
    let shape = format!("b {} h {} d {}, {} tokens x 3 x {}", s.b, s.heads, s.d, s.tokens(), 4);
    let value = filled::<bf16>(device, "value", features, 1)?;
    let (offsets, logits) =
        (filled(device, "offsets", 2 * points, 2)?, filled(device, "logits", points, 3)?);
    let (mut out, mut attn) = (device.alloc("out", features)?, device.alloc("attn", points)?);
    let forward = move || {
        let (v, o, z) = (value.view(), offsets.view(), logits.view());
        s.forward_gpu(device, v, o, z, out.view_mut(), attn.view_mut())
    };
    let value = filled::<bf16>(device, "value", features, 1)?;
    let dout = filled(device, "dout", features, 4)?;
    // Equal weights, as at the first step.
    let attn = device.upload("attn", &vec![1.0 / s.samples() as f32; points])?;
    let offsets = filled(device, "offsets", 2 * points, 2)?;
    let mut dvalue = device.alloc("dvalue", features)?;
    let mut doffsets = device.alloc("doffsets", 2 * points)?;
    let mut dlogits = device.alloc("dlogits", points)?;
    let backward = move || {
        let (v, o, a, g) = (value.view(), offsets.view(), attn.view(), dout.view());
        let (doff, dz) = (Some(doffsets.view_mut()), Some(dlogits.view_mut()));
        s.backward_gpu(device, v, o, a, g, Some(dvalue.view_mut()), doff, dz)
    };
    let flops = 8 * points * s.d;
    let bytes = [2 * 2 * features + 4 * 4 * points, 2 * 3 * features + 4 * 6 * points];
    Ok(vec![
        Timed::new("ms_deform_attn_fwd_bf16", shape.clone(), flops, bytes[0], forward),
        Timed::new("ms_deform_attn_bwd_bf16", shape, 2 * flops, bytes[1], backward),
    ])
}
