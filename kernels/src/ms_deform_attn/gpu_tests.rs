use half::bf16;

use super::{MsDeformAttn, reference};
use crate::check::{UNIT, assert_close, assert_within, noise, stored};
use crate::device::{Device, Float};

/// out, attn, dvalue, doffsets, dlogits.
type Results<T> = (Vec<T>, Vec<f32>, Vec<T>, Vec<f32>, Vec<f32>);

fn run<T: Float>(s: &MsDeformAttn<'_>, value: &[T], f32s: [&[f32]; 2], dout: &[T]) -> Results<T> {
    let device = Device::virtual_gpu();
    let [offsets, logits] = f32s;
    let (points, features) = (logits.len(), value.len());
    let value = device.upload("value", value).unwrap();
    let offsets = device.upload("offsets", offsets).unwrap();
    let logits = device.upload("logits", logits).unwrap();
    let dout = device.upload("dout", dout).unwrap();
    let mut out = device.alloc("out", features).unwrap();
    let mut attn = device.alloc("attn", points).unwrap();
    let (v, o, z) = (value.view(), offsets.view(), logits.view());
    s.forward_gpu(&device, v, o, z, out.view_mut(), attn.view_mut()).unwrap();
    let mut dvalue = device.alloc("dvalue", features).unwrap();
    let mut doffsets = device.alloc("doffsets", 2 * points).unwrap();
    let mut dlogits = device.alloc("dlogits", points).unwrap();
    let a = attn.view();
    let dv = Some(dvalue.view_mut());
    let (doff, dz) = (Some(doffsets.view_mut()), Some(dlogits.view_mut()));
    s.backward_gpu(&device, v, o, a, dout.view(), dv, doff, dz).unwrap();
    // forward; peak, backward, settle
    assert_eq!(device.counters().launches, 4);
    let launches = device.counters().launches;
    let mut alone = device.alloc("doffsets", 2 * points).unwrap();
    let only = Some(alone.view_mut());
    s.backward_gpu(&device, v, o, a, dout.view(), None, only, None).unwrap();
    assert_eq!(device.counters().launches, launches + 1);
    let down = |b: &crate::device::Buffer<f32>| device.download(b.view()).unwrap();
    assert!(down(&alone) == down(&doffsets), "doffsets depends on which gradients are wanted");
    let big = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
    (big(&out), down(&attn), big(&dvalue), down(&doffsets), down(&dlogits))
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Values of the reference: out, attn, dvalue, doffsets, dlogits.
type Reference = [Vec<f64>; 5];

fn check<T: Float>(s: &MsDeformAttn<'_>) {
    let rows = s.b * s.tokens() * s.heads;
    let (value, exact_value) = stored::<T>(&noise(rows * s.d, 1));
    let (dout, exact_dout) = stored::<T>(&noise(rows * s.d, 4));
    let offsets: Vec<f32> =
        noise::<f32>(rows * s.samples() * 2, 2).iter().map(|v| v * 2.5).collect();
    let logits = noise::<f32>(rows * s.samples(), 3);
    let got = run(s, &value, [&offsets, &logits], &dout);
    assert!(got == run(s, &value, [&offsets, &logits], &dout), "two runs differ");
    let (offsets, logits) = (wide(&offsets), wide(&logits));
    let points = logits.len();
    let sizes = [rows * s.d, points, rows * s.d, 2 * points, points];
    let mut want = sizes.map(|n| vec![0.0f64; n]);
    let [out, attn, dv, doff, dz] = &mut want;
    reference::forward(s, &exact_value, &offsets, &logits, out, attn);
    let (dv, doff, dz) = (Some(&mut dv[..]), Some(&mut doff[..]), Some(&mut dz[..]));
    reference::backward(s, &exact_value, &offsets, attn, &exact_dout, dv, doff, dz);
    let what = format!(
        "ms_deform_attn{} b {} h {} d {} {:?} x {}",
        T::SUFFIX,
        s.b,
        s.heads,
        s.d,
        s.levels,
        s.points
    );
    within_bounds(s, &what, &got, &want, &offsets);
    // Bounds are for the worst case. In f32 the kernels are nearly as close as `cpu.rs` is to the
    // f32 reference; this one is in f64, whose places differ by the roundings of f32.
    if size_of::<T>() == 4 {
        let wide_t = |x: &[T]| x.iter().map(|x| f64::from(x.f32())).collect::<Vec<f64>>();
        let got = [wide_t(&got.0), wide(&got.1), wide_t(&got.2), wide(&got.3), wide(&got.4)];
        for (got, want) in got.iter().zip(&want) {
            assert_close(&what, got, want, 1e-5);
        }
    }
}

/// |value| and |dout| are at most 1, softmax weights of a row sum to 1, weights of a point's taps
/// too. A place has a rounding error of a few units of the level's width, which moves the weights
/// of its taps by as much.
fn within_bounds<T: Float>(
    s: &MsDeformAttn<'_>,
    what: &str,
    got: &Results<T>,
    [out, attn, dv, doff, dz]: &Reference,
    offsets: &[f64],
) {
    // px = (ref + offset / w) w - 0.5: four roundings of numbers up to the width and an offset.
    let side = s.levels.iter().map(|&(h, w)| h.max(w)).max().unwrap_or(1) as f64 + 3.0;
    let place = 4.0 * UNIT * side;
    let softmax = (s.samples() as f64 + 8.0) * UNIT;
    assert_within(&format!("{what}, attn"), &got.1, attn, |i| softmax * attn[i] + 1e-9);
    // A head's output is a sum of 4 n terms.
    let terms = 4.0 * s.samples() as f64 * UNIT;
    let out_bound = 4.0 * place + softmax + terms;
    assert_within(&format!("{what}, out"), &got.0, out, |_| out_bound);
    // Dot products of d terms, gathered over four taps.
    let d = s.d as f64;
    let dot = d * (4.0 * place + (d + 12.0) * UNIT);
    assert_within(&format!("{what}, doffsets"), &got.3, doff, |i| {
        attn[i / 2] * (2.0 * dot + softmax * d)
    });
    assert_within(&format!("{what}, dlogits"), &got.4, dz, |i| attn[i] * 2.0 * (dot + softmax * d));
    let reach = readers(s, offsets, attn);
    assert_within(&format!("{what}, dvalue"), &got.2, dv, |i| {
        reach[i / s.d] * (softmax + 3.0 * UNIT + 2.0 * place) + UNIT * dv[i].abs()
    });
}

/// For each (image, token, head): the sum of the softmax weights of the points that may touch it
/// within rounding.
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

#[test]
fn kernels_match_the_reference() {
    type Case = (usize, &'static [(usize, usize)], usize, usize, usize);
    let cases: [Case; 4] = [
        (1, &[(1, 1)], 1, 4, 1),
        (2, &[(3, 5), (7, 4)], 3, 12, 3),
        (2, &[(2, 3), (4, 6), (8, 12)], 8, 32, 4),
        (1, &[(5, 1), (1, 7), (2, 2), (3, 3)], 1, 20, 8),
    ];
    for (b, levels, heads, d, points) in cases {
        let s = MsDeformAttn { b, levels, heads, d, points };
        check::<f32>(&s);
        check::<bf16>(&s);
    }
}

#[test]
fn gradients_of_any_size_keep_their_precision_and_nan_is_not_hidden() {
    let s = MsDeformAttn { b: 1, levels: &[(2, 2)], heads: 1, d: 4, points: 2 };
    let (value, offsets) = (noise::<f32>(16, 1), noise::<f32>(16, 2));
    let (logits, unit) = (noise::<f32>(8, 3), noise::<f32>(16, 4));
    let with = |dout: &[f32]| run(&s, &value, [&offsets, &logits], dout).2;
    let one = with(&unit);
    for power in [-100, -30, 30, 90] {
        let by = 2f32.powi(power);
        let scaled = with(&unit.iter().map(|g| g * by).collect::<Vec<_>>());
        assert!(scaled.iter().zip(&one).all(|(s, o)| (s / by - o).abs() <= 1e-6), "2^{power}");
    }
    assert_eq!(with(&[0.0; 16]), [0.0; 16]);
    let mut broken = unit.clone();
    broken[3] = f32::NAN;
    assert!(with_nan(&s, &value, &offsets, &logits, &broken).iter().all(|d| d.is_nan()));
}

/// dvalue alone: NaN does not equal itself, so the comparison of two forms in `run` would fail.
fn with_nan(
    s: &MsDeformAttn<'_>,
    value: &[f32],
    offsets: &[f32],
    logits: &[f32],
    dout: &[f32],
) -> Vec<f32> {
    let device = Device::virtual_gpu();
    let v = device.upload("value", value).unwrap();
    let (o, a) = (device.upload("o", offsets).unwrap(), device.upload("a", logits).unwrap());
    let g = device.upload("dout", dout).unwrap();
    let mut dv = device.alloc("dvalue", value.len()).unwrap();
    let out = Some(dv.view_mut());
    s.backward_gpu(&device, v.view(), o.view(), a.view(), g.view(), out, None, None).unwrap();
    device.download(dv.view()).unwrap()
}

#[test]
fn sizes_without_a_kernel_are_named() {
    let device = Device::virtual_gpu();
    let s = MsDeformAttn { b: 1, levels: &[(1, 1)], heads: 1, d: 6, points: 1 };
    let x = device.zeros::<f32>("x", 6).unwrap();
    let mut y = device.alloc::<f32>("y", 6).unwrap();
    let mut z = device.alloc::<f32>("z", 1).unwrap();
    let (x, y, z) = (x.view(), y.view_mut(), z.view_mut());
    let error = s.forward_gpu(&device, x, x, x, y, z).unwrap_err();
    let want = "ms_deform_attn: heads of 6 channels; the GPU kernel takes 4, 8, .. 32";
    assert_eq!(error.to_string(), want);
}
