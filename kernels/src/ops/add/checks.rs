//! Sizes at which addition is checked and timed; checks of casts and of sums in place.

use half::bf16;

use super::{Add, Backward, Forward, ParameterForward, cast_gpu, cpu, scale_gpu};
use crate::Result;
use crate::call::{Host, Operation};
use crate::check::checks::{Checked, Checks, Depth, Pass};
use crate::check::noise;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::device::sizes::RowSplit;
use crate::device::{Device, Float};

/// Addition, and the casts that share its kernels' file.
pub(crate) const KERNELS: Kernels = Kernels {
    name: Add::NAME,
    verify: |verification| Add::checks().on_device(verification),
    timed,
};

/// One element, no whole vector, more than one row split, more than one block of columns, one row.
const SIZES: [(usize, usize); 5] = [(1, 1), (7, 13), (70, 40), (2, 5001), (1, 2048)];

/// Position table for the tokens of four 512 px images of ViT-L.
const TABLE: Add = Add { n: 4, inner: 1025 * 1024 };

/// Additions over the rows.
fn column(s: &Add) -> Depth {
    let rows = cpu::rows(s.inner);
    let host = if s.n <= rows { s.n } else { rows + s.n.div_ceil(rows) };
    Depth { device: RowSplit::of(s.n).depth(), host: host as f64 }
}

fn size((n, inner): (usize, usize)) -> Add {
    Add { n, inner }
}

impl Checked for Add {
    fn checks() -> Checks<Add> {
        Checks::new(|s: &Add| format!("[{}, {}]", s.n, s.inner))
            .pass(Pass::of::<ParameterForward<'_, Host, f32>>("f32", |s| s.n * s.inner))
            .pass(Pass::of::<Forward<'_, Host, f32>>("bf16", |s| s.n * s.inner))
            .pass(
                Pass::of::<Backward<'_, Host, f32>>("columns", |s| s.n * s.inner)
                    .sums(&["db"], column)
                    .accurate(&["db"], 1e-5),
            )
            .gradients([(3, 5)].map(size))
            .sizes(SIZES.map(size))
            // Several tasks of rows, one row wider than a task, a position table.
            .host_sizes([(5000, 19), (3, 20_011), (2, 1025 * 48), (1000, 256)].map(size))
            .empty([(0, 3), (2, 0)].map(size))
            .more(in_place::<f32, f32>)
            .more(in_place::<bf16, f32>)
            .more(in_place::<bf16, bf16>)
            .more(casts::<f32, f32>)
            .more(casts::<f32, bf16>)
            .more(casts::<bf16, f32>)
            .more(casts::<bf16, bf16>)
            .timed([TABLE])
            .timed_on_host([
                ("ViT-L position table", size((2, 1025 * 1024))),
                ("level embedding", size((2 * 5376, 256))),
                ("ViT-L bias of the MLP", size((1025, 4096))),
            ])
    }
}

/// Checks that sums in place have the bits of sums on the host.
fn in_place<T: Float, B: Float>(verification: &mut Verification<'_>) -> Result<()> {
    for s in SIZES.map(size) {
        let y: Vec<T> = noise::<f32>(s.n * s.inner, 1).into_iter().map(T::of).collect();
        let b: Vec<B> = noise::<f32>(s.inner, 2).into_iter().map(B::of).collect();
        let what = format!("add{}{} [{}, {}]", B::SUFFIX, T::SUFFIX, s.n, s.inner);
        let device = verification.device();
        let got = verification.twice(&what, || {
            let (mut y, b) = (device.upload("y", &y)?, device.upload("b", &b)?);
            s.in_place_gpu(device, y.view_mut(), b.view())?;
            device.download(y.view())
        })?;
        let sum = |(i, y): (usize, &T)| T::of(y.f32() + b[i % s.inner].f32());
        let want: Vec<T> = y.iter().enumerate().map(sum).collect();
        verification.same(&format!("{what}: in place"), &got, &want);
    }
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

/// Launches of additions, and a cast of equal size.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (mut all, n) = (Add::checks().launches(device)?, TABLE.n * TABLE.inner);
    let (x, mut y) = (filled::<f32>(device, "x", n, 4)?, device.alloc::<bf16>("y", n)?);
    let cast = move || cast_gpu(device, x.view(), y.view_mut());
    all.push(Timed::new("scale_f32_bf16", format!("[{n}]"), n, 6 * n, cast));
    Ok(all)
}
