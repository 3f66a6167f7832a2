//! Verification of addition, scaling and casts on a device against their references.

use half::bf16;

use super::{Add, cast_gpu, reference, scale_gpu};
use crate::Result;
use crate::Write;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::sizes::RowSplit;
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "add", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (n, inner) in [(1, 1), (7, 13), (70, 40), (2, 5001), (1, 2048)] {
        check::<f32, f32>(verification, n, inner)?;
        check::<bf16, f32>(verification, n, inner)?;
        check::<bf16, bf16>(verification, n, inner)?;
    }
    casts::<f32, f32>(verification)?;
    casts::<f32, bf16>(verification)?;
    casts::<bf16, f32>(verification)?;
    casts::<bf16, bf16>(verification)
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    y: Vec<T>,
    place: Vec<T>,
    db: Vec<f32>,
}

fn run<T: Float, B: Float>(device: &Device, s: &Add, a: &[T], b: &[B]) -> Result<Outputs<T>> {
    let all = s.n * s.inner;
    let (a, b) = (device.upload("a", a)?, device.upload("b", b)?);
    let (mut y, mut place) = (device.alloc("y", all)?, device.alloc("place", all)?);
    s.forward_gpu(device, a.view(), b.view(), y.view_mut())?;
    device.copy(a.view(), place.view_mut())?;
    s.in_place_gpu(device, place.view_mut(), b.view())?;
    let mut db = device.alloc("db", s.inner)?;
    s.backward_b_gpu(device, a.view(), Write::Over, db.view_mut())?;
    Ok(Outputs {
        y: device.download(y.view())?,
        place: device.download(place.view())?,
        db: device.download(db.view())?,
    })
}

fn check<T: Float, B: Float>(
    verification: &mut Verification<'_>,
    n: usize,
    inner: usize,
) -> Result<()> {
    let s = Add { n, inner };
    let (a, exact_a) = stored::<T>(&noise(n * inner, 1));
    let (b, exact_b) = stored::<B>(&noise(inner, 2));
    let what = format!("add{}{} [{n}, {inner}]", T::SUFFIX, B::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, &s, &a, &b))?;
    let (mut y, mut db) = (vec![0.0; n * inner], vec![0.0; inner]);
    reference::forward(&s, &exact_a, &exact_b, &mut y);
    reference::backward_b(&s, &exact_a, &mut db);
    // One operation; the rounding to the storage type is counted separately.
    verification.within(&format!("{what}: y"), &got.y, &y, |i| UNIT * y[i].abs());
    verification.same(&format!("{what}: in place"), &got.place, &got.y);
    let depth = RowSplit::of(n).depth();
    verification.within(&format!("{what}: db"), &got.db, &db, |j| {
        depth * UNIT * (0..n).map(|i| exact_a[i * inner + j].abs()).sum::<f64>()
    });
    Ok(())
}

/// Checks that casts and scaled copies are bitwise equal to the CPU's.
fn casts<X: Float, Y: Float>(verification: &mut Verification<'_>) -> Result<()> {
    const FACTOR: f32 = -3.0;
    let mut x = noise::<f32>(1031, 1);
    // Ties to even, overflow of bf16, a subnormal, the signs of zero, infinity.
    let special = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 3.4e38, 1e-40, -0.0, f32::INFINITY];
    x[..special.len()].copy_from_slice(&special);
    let x: Vec<X> = x.into_iter().map(X::of).collect();
    let what = format!("scale{}{} [{}]", X::SUFFIX, Y::SUFFIX, x.len());
    let device = verification.device();
    let (cast, scaled) = verification.twice(&what, || {
        let source = device.upload("x", &x)?;
        let (mut cast, mut scaled) = (device.alloc("y", x.len())?, device.alloc("y", x.len())?);
        cast_gpu(device, source.view(), cast.view_mut())?;
        scale_gpu(device, FACTOR, source.view(), scaled.view_mut())?;
        Ok((device.download(cast.view())?, device.download(scaled.view())?))
    })?;
    let want = |factor: f32| x.iter().map(|x| Y::of(factor * x.f32())).collect::<Vec<Y>>();
    verification.same(&format!("{what}: cast"), &cast, &want(1.0));
    verification.same(&format!("{what}: times {FACTOR}"), &scaled, &want(FACTOR));
    Ok(())
}

/// Position table added to the tokens of four 512 px images of ViT-L, and a cast of equal size.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (tokens, c) = (1025, 1024);
    let table = Add { n: 4, inner: tokens * c };
    let all = table.n * table.inner;
    let a = filled::<bf16>(device, "a", all, 1)?;
    let b = filled::<f32>(device, "b", table.inner, 2)?;
    let mut y = device.alloc::<bf16>("y", all)?;
    let forward = move || table.forward_gpu(device, a.view(), b.view(), y.view_mut());
    let x = filled::<f32>(device, "x", all, 4)?;
    let mut rounded = device.alloc::<bf16>("rounded", all)?;
    let cast = move || cast_gpu(device, x.view(), rounded.view_mut());
    let shape = format!("[{}, {}]", table.n, table.inner);
    Ok(vec![
        Timed::new("add_f32_bf16", shape, all, 4 * all + 4 * table.inner, forward),
        Timed::new("scale_f32_bf16", format!("[{all}]"), all, 6 * all, cast),
    ])
}
