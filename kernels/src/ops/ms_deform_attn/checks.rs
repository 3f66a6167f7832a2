//! Sizes at which multi-scale deformable attention is checked and timed.

use super::{Backward, Forward, MsDeformAttn};
use crate::Result;
use crate::call::{Gpu, Host, Launch};
use crate::check::checks::{Checked, Checks, Pass};
use crate::check::verify::Verification;
use crate::check::{noise, wide};

/// Images, levels, heads, channels of a head, points.
type Size = (usize, &'static [(usize, usize)], usize, usize, usize);

/// Multiplications and additions of every tap.
fn flops(s: &MsDeformAttn) -> usize {
    8 * s.all_points() * s.d
}

impl Checked for MsDeformAttn {
    fn checks() -> Checks<MsDeformAttn> {
        let size = |(b, levels, heads, d, points): Size| MsDeformAttn {
            b,
            levels: levels.to_vec(),
            heads,
            d,
            points,
        };
        let decoder = |b, levels| size((b, levels, 8, 32, 4));
        let shape = |s: &MsDeformAttn| {
            let MsDeformAttn { b, levels, heads, d, points } = s;
            format!("b {b} h {heads} d {d} {levels:?} x {points}")
        };
        Checks::new(shape)
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", flops))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 2 * flops(s)))
            // A few pixels, so that points are on other rows, on the border and outside.
            .scaled("offsets", 2.5)
            .gradients([
                size((1, &[(1, 1)], 1, 1, 1)),
                size((2, &[(2, 3), (3, 2)], 2, 3, 2)),
                size((1, &[(1, 2), (2, 2), (3, 5)], 1, 2, 2)),
            ])
            // One of everything; odd sizes; the heads of the decoder; the maximum levels and points.
            .sizes([
                size((1, &[(1, 1)], 1, 4, 1)),
                size((2, &[(3, 5), (7, 4)], 3, 12, 3)),
                decoder(2, &[(2, 3), (4, 6), (8, 12)]),
                size((1, &[(5, 1), (1, 7), (2, 2), (3, 3)], 1, 20, 8)),
            ])
            // Single channels; more than one vector of them; more rows than one task handles.
            .host_sizes([
                size((1, &[(1, 1)], 1, 1, 1)),
                size((2, &[(3, 5), (7, 4)], 3, 13, 3)),
                size((2, &[(5, 7), (9, 13)], 3, 8, 4)),
                size((1, &[(8, 8), (16, 16), (32, 32)], 2, 48, 4)),
            ])
            .empty([size((0, &[(2, 2)], 1, 4, 1))])
            .refused([size((1, &[(2, 0)], 1, 4, 1)), size((1, &[(2, 2)], 1, 4, 0))])
            .more(extremes)
            // Tokens of the pixel decoder for four images of 512 px: strides 32, 16 and 8.
            .timed([decoder(4, &[(16, 16), (32, 32), (64, 64)])])
            .timed_on_host([
                ("512px", decoder(1, &[(16, 16), (32, 32), (64, 64)])),
                ("1024px", decoder(1, &[(32, 32), (64, 64), (128, 128)])),
            ])
    }
}

/// Checks that gradients of any magnitude keep their precision, and that NaN is not hidden.
fn extremes(verification: &mut Verification<'_>) -> Result<()> {
    let s = MsDeformAttn { b: 1, levels: vec![(2, 2)], heads: 1, d: 4, points: 2 };
    let (value, offsets, attn) = (noise::<f32>(16, 1), noise::<f32>(16, 2), noise::<f32>(8, 3));
    let (unit, device) = (noise::<f32>(16, 4), verification.device());
    let dvalue = |dout: &[f32]| {
        let (v, g) = (device.upload("value", &value)?, device.upload("dout", dout)?);
        let (o, a) = (device.upload("offsets", &offsets)?, device.upload("attn", &attn)?);
        let mut dv = device.alloc("dvalue", value.len())?;
        let (value, offsets, attn, dout) = (v.view(), o.view(), a.view(), g.view());
        let dvalue = Some(dv.view_mut());
        let (doffsets, dlogits) = (None, None);
        let c = Backward::<Gpu, f32> { value, offsets, attn, dout, dvalue, doffsets, dlogits };
        c.launch(device, &s)?;
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
