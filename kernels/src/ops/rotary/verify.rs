//! Verification of rotary position on a device against the reference.

use half::bf16;

use super::{OP, Pairs, Rotary, Turn, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: OP, verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One pair, vectors that end within a token, whole accesses, more vectors than a block has.
    let sizes = [(1, 1, 1, 2, 0), (2, 5, 3, 6, 1), (3, 7, 2, 16, 2), (1, 2, 17, 64, 1)];
    let pairs = [Pairs::Neighbours, Pairs::Halves];
    for (pairs, (b, t, heads, d, skip)) in pairs.into_iter().flat_map(|p| sizes.map(|s| (p, s))) {
        let s = Rotary { b, t, heads, d, skip, pairs };
        check::<f32>(verification, s)?;
        check::<bf16>(verification, s)?;
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, s: Rotary) -> Result<()> {
    let Rotary { b, t, heads, d, skip, pairs } = s;
    let turn = |x: f32| [(5.0 * x).cos(), (5.0 * x).sin()];
    let table: Vec<f32> = noise((t - skip) * d / 2, 2).into_iter().flat_map(turn).collect();
    let (x, exact) = stored::<T>(&noise(b * t * 3 * heads * d, 1));
    for (turn, name) in [(Turn::Forward, "forward"), (Turn::Back, "back")] {
        let shape = format!("[{b}, {t}, 3, {heads}, {d}] from {skip}");
        let kernel = if pairs == Pairs::Halves { "rotary_halves" } else { OP };
        let what = format!("{kernel}{} {shape} {name}", T::SUFFIX);
        let device = verification.device();
        let got = verification.twice(&what, || {
            let (mut qkv, table) = (device.upload("qkv", &x)?, device.upload("table", &table)?);
            s.apply_gpu(device, qkv.view_mut(), table.view(), turn)?;
            device.download(qkv.view())
        })?;
        let mut want = exact.clone();
        reference::apply(&s, &mut want, &wide(&table), turn);
        let other = |i: usize| match (pairs, i % d < d / 2) {
            (Pairs::Neighbours, _) => i ^ 1,
            (Pairs::Halves, true) => i + d / 2,
            (Pairs::Halves, false) => i - d / 2,
        };
        // Two products and a sum, each rounded.
        verification.within(&format!("{what}: qkv"), &got, &want, |i| {
            2.0 * UNIT * (exact[i].abs() + exact[other(i)].abs())
        });
    }
    Ok(())
}

/// Four images of EVA02-L at 512 px.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Rotary { b: 4, t: 1025, heads: 16, d: 64, skip: 1, pairs: Pairs::Neighbours };
    let turned = s.b * (s.t - s.skip) * 2 * s.heads * s.d;
    let mut qkv = filled::<bf16>(device, "qkv", s.b * s.t * 3 * s.heads * s.d, 1)?;
    let table = filled::<f32>(device, "table", s.table_len(), 2)?;
    let run = move || s.apply_gpu(device, qkv.view_mut(), table.view(), Turn::Forward);
    let bytes = 4 * turned + 4 * s.table_len();
    Ok(vec![Timed::new("rotary_bf16", "[4, 1025, 3, 16, 64]", 3 * turned, bytes, run)])
}
