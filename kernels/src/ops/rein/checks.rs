//! Sizes at which Rein is checked and timed.

use half::bf16;

use super::{Backward, Forward, Rein, bounds};
use crate::Result;
use crate::call::{Gpu, Host, Launch};
use crate::check::checks::{Checked, Checks, Pass};
use crate::check::verify::{Verification, filled};
use crate::device::Float;

const fn size([b, skip, n]: [usize; 3], c: usize, m: usize, softmax: bool) -> Rein {
    Rein { b, skip, n, c, m, softmax }
}

/// Checks that `df` does not depend on which other gradients are wanted.
fn alone<T: Float>(verification: &mut Verification<'_>) -> Result<()> {
    let (s, device) = (size([2, 5, 67], 64, 25, true), verification.device());
    let [features, values] = s.lengths();
    let wide = |name, len, seed| filled::<T>(device, name, len, seed);
    let (f, dout) = (wide("f", features, 1)?, wide("dout", features, 2)?);
    let (tokens, values) = (wide("tokens", s.m * s.c, 3)?, wide("values", values, 4)?);
    let weight = wide("weight", s.c * s.c, 5)?;
    let (bias, scale) = (filled::<f32>(device, "bias", s.c, 6)?, device.upload("scale", &[0.7])?);
    let lse = device.upload("lse", &vec![(s.m as f32).ln(); s.b * s.n])?;
    let parameters = [s.m * s.c, values.len(), s.c * s.c, s.c, 1];
    let df = |all: bool| {
        let mut df = device.alloc::<T>("df", features)?;
        let mut gradients = Vec::new();
        for len in parameters {
            gradients.push(device.zeros::<f32>("gradient", len)?);
        }
        let mut sums = gradients.iter_mut().map(|d| all.then(|| d.view_mut()));
        let mut next = || sums.next().flatten();
        let call = Backward::<Gpu, T> {
            f: f.view(),
            tokens: tokens.view(),
            values: values.view(),
            weight: weight.view(),
            bias: bias.view(),
            scale: scale.view(),
            lse: lse.view(),
            dout: dout.view(),
            df: Some(df.view_mut()),
            dtokens: next(),
            dvalues: next(),
            dweight: next(),
            dbias: next(),
            dscale: next(),
        };
        call.launch(device, &s)?;
        device.download(df.view())
    };
    let what = format!("rein{} b 2 5+67 x 64, 25 tokens: df alone", T::SUFFIX);
    verification.same(&what, &df(false)?, &df(true)?);
    Ok(())
}

impl Checked for Rein {
    fn checks() -> Checks<Rein> {
        let places = [("ViT-S", 384), ("ViT-B", 768), ("ViT-L", 1024)];
        Checks::new(|s: &Rein| {
            let form = if s.softmax { "" } else { ", no softmax" };
            format!("b {} {}+{} x {}, {} tokens{form}", s.b, s.skip, s.n, s.c, s.m)
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 2 * s.b * s.n * s.c * (s.c + 2 * s.m))
                .bound("out", bounds::out)
                .bound("lse", bounds::lse)
                .accurate(&["out"], 2e-5)
                .accurate(&["lse"], 1e-5),
        )
        .pass(
            Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 4 * s.b * s.n * s.c * (s.c + 3 * s.m))
                .bound("df", bounds::df)
                .bound("dtokens", bounds::dtokens)
                .bound("dvalues", bounds::dvalues)
                .bound("dweight", bounds::dweight)
                .bound("dbias", bounds::dbias)
                .bound("dscale", bounds::dscale)
                .accurate(&["df", "dtokens", "dvalues", "dweight", "dbias", "dscale"], 1e-4),
        )
        // Tokens of this magnitude make the softmax uneven, so that a lost column would be detected.
        .given("tokens", |s, x| x.iter_mut().for_each(|x| *x *= if s.softmax { 3.0 } else { 0.2 }))
        .given("weight", |s, x| x.iter_mut().for_each(|x| *x /= (s.c as f64).sqrt()))
        .given("scale", |_, x| x.fill(0.7))
        .gradients(
            [true, false].into_iter().flat_map(|softmax| {
                [size([1, 0, 1], 1, 1, softmax), size([2, 1, 3], 5, 4, softmax)]
            }),
        )
        // One token and patch; no multiple of a tile; several chunks; the wide kernel; no softmax;
        // sums over more than one split of an image.
        .sizes([
            size([1, 0, 1], 64, 1, true),
            size([2, 1, 3], 64, 4, true),
            size([2, 5, 67], 64, 25, true),
            size([1, 1, 33], 192, 100, true),
            size([1, 0, 35], 64, 113, true),
            size([2, 0, 40], 128, 17, false),
            size([1, 1, 530], 64, 5, true),
        ])
        // One channel (of more than one patch, since one result may cancel to nothing), primes, no
        // multiple of a block or vector.
        .host_sizes([
            size([1, 0, 5], 1, 1, true),
            size([2, 1, 3], 5, 4, true),
            size([2, 5, 67], 37, 13, true),
            size([2, 0, 130], 80, 17, false),
        ])
        .empty([size([0, 1, 3], 64, 2, true), size([1, 2, 0], 64, 2, true)])
        .refused([size([1, 1, 3], 64, 0, true), size([1, 1, 3], 0, 2, true)])
        .more(|verification| {
            alone::<f32>(verification)?;
            alone::<bf16>(verification)
        })
        // Layer of ViT-L for four images of 512 px, with every gradient.
        .timed([size([4, 1, 1024], 1024, 100, true)])
        .timed_on_host(places.map(|(place, c)| (place, size([1, 1, 1024], c, 100, true))))
    }
}
