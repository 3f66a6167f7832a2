//! Verification of relative positions on a device against the reference.

use half::bf16;

use super::{OP, RelativePosition, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, sum_error, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: OP, verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One cell; a prime number of cells in more than one tile of queries; tables of more than one
    // tile; a window of SAM.
    for (b, heads, h, w) in [(1, 1, 1, 1), (2, 1, 5, 17), (1, 2, 37, 3), (1, 2, 14, 14)] {
        let s = RelativePosition { b, heads, d: 80, h, w };
        check::<f32>(verification, s)?;
        check::<bf16>(verification, s)?;
    }
    // Splits of more than one chunk of queries.
    check::<bf16>(verification, RelativePosition { b: 43, heads: 3, d: 80, h: 1, w: 2 })?;
    Ok(())
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    rel: Vec<T>,
    dqkv: Vec<T>,
    dtables: [Vec<f32>; 2],
}

/// Runs the kernels on qkv, tables, drel and the old values of dqkv.
fn run<T: Float>(
    device: &Device,
    s: &RelativePosition,
    x: [&[T]; 5],
    old: &[f32],
) -> Result<Outputs<T>> {
    let qkv = device.upload("qkv", x[0])?;
    let (rows, columns) = (device.upload("rows", x[1])?, device.upload("columns", x[2])?);
    let drel = device.upload("drel", x[3])?;
    let mut rel = device.alloc("rel", x[3].len())?;
    let tables = [rows.view(), columns.view()];
    s.forward_gpu(device, qkv.view(), tables, rel.view_mut())?;
    let mut dqkv = device.upload("dqkv", x[4])?;
    let mut drows = device.upload("drows", &old[..x[1].len()])?;
    let mut dcolumns = device.upload("dcolumns", &old[..x[2].len()])?;
    let dtables = [Some(drows.view_mut()), Some(dcolumns.view_mut())];
    let to = Some(dqkv.view_mut());
    s.backward_gpu(device, qkv.view(), tables, drel.view(), to, dtables)?;
    Ok(Outputs {
        rel: device.download(rel.view())?,
        dqkv: device.download(dqkv.view())?,
        dtables: [device.download(drows.view())?, device.download(dcolumns.view())?],
    })
}

fn check<T: Float>(verification: &mut Verification<'_>, s: RelativePosition) -> Result<()> {
    let RelativePosition { b, heads, d, h, w } = s;
    let tokens = b * heads * h * w;
    let lengths = [tokens * 3 * d, (2 * h - 1) * d, (2 * w - 1) * d, tokens * (h + w)];
    let lengths = [lengths[0], lengths[1], lengths[2], lengths[3], lengths[0]];
    let mut seed = 0;
    let drawn = lengths.map(|n| {
        seed += 1;
        stored::<T>(&noise(n, seed))
    });
    let x = drawn.each_ref().map(|(x, _)| &x[..]);
    let exact = drawn.each_ref().map(|(_, exact)| &exact[..]);
    let old: Vec<f32> = noise(lengths[1].max(lengths[2]), 9);
    let what = format!("relative_position{} [{b}, {h} {w}, 3, {heads}, {d}]", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, &s, x, &old))?;
    compare(verification, &what, &s, exact, &old, &got);
    Ok(())
}

fn compare<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    s: &RelativePosition,
    [qkv, rows, columns, drel, old_dqkv]: [&[f64]; 5],
    old: &[f32],
    got: &Outputs<T>,
) {
    let all = |qkv: &[f64], rows: &[f64], columns: &[f64], drel: &[f64], start: [&[f64]; 3]| {
        let mut rel = vec![0.0; drel.len()];
        reference::forward(s, qkv, [rows, columns], &mut rel);
        let [mut dqkv, mut drows, mut dcolumns] = start.map(<[f64]>::to_vec);
        let dtables = [Some(&mut drows[..]), Some(&mut dcolumns[..])];
        reference::backward(s, qkv, [rows, columns], drel, Some(&mut dqkv), dtables);
        [rel, dqkv, drows, dcolumns]
    };
    let old = wide(old);
    let start = [old_dqkv, &old[..rows.len()], &old[..columns.len()]];
    let want = all(qkv, rows, columns, drel, start);
    // The same sums over the magnitudes of their terms; operands of a product are exact in storage.
    let size = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let [q, r, c, g] = [qkv, rows, columns, drel].map(size);
    let start = start.map(size);
    let sizes = all(&q, &r, &c, &g, start.each_ref().map(|x| &x[..]));
    let queries = s.b * s.heads * s.h * s.w;
    let within = |i: usize, terms: usize| {
        let (sizes, depth) = (&sizes[i], sum_error::<T>(terms) + 4.0);
        move |at: usize| depth * UNIT * sizes[at]
    };
    verification.within(&format!("{what}: rel"), &got.rel, &want[0], within(0, s.d));
    verification.within(&format!("{what}: dqkv"), &got.dqkv, &want[1], within(1, s.width()));
    let (dr, dc) = (&got.dtables[0], &got.dtables[1]);
    verification.within(&format!("{what}: dR"), dr, &want[2], within(2, queries));
    verification.within(&format!("{what}: dC"), dc, &want[3], within(3, queries));
}

/// Global block of SAM-H for four images of 512 px, and its windows.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let mut all = Vec::new();
    for (b, h, w) in [(4, 32, 32), (36, 14, 14)] {
        let s = RelativePosition { b, heads: 16, d: 80, h, w };
        let (tokens, shape) = (b * h * w, format!("[{b}, {h} {w}, 3, 16, 80]"));
        let (features, numbers) = (tokens * s.heads * s.d, tokens * s.heads * s.width());
        let flops = 2 * numbers * s.d;
        let table = |n: usize, seed| filled::<bf16>(device, "table", (2 * n - 1) * s.d, seed);
        let qkv = filled::<bf16>(device, "qkv", 3 * features, 1)?;
        let (rows, columns) = (table(h, 2)?, table(w, 3)?);
        let mut rel = device.alloc::<bf16>("rel", numbers)?;
        let run = move || {
            let tables = [rows.view(), columns.view()];
            s.forward_gpu(device, qkv.view(), tables, rel.view_mut())
        };
        let bytes = 2 * (features + numbers);
        all.push(Timed::new("relative_position_fwd_80_bf16", shape.clone(), flops, bytes, run));
        let qkv = filled::<bf16>(device, "qkv", 3 * features, 1)?;
        let (rows, columns) = (table(h, 2)?, table(w, 3)?);
        let drel = filled::<bf16>(device, "drel", numbers, 4)?;
        let mut dqkv = filled::<bf16>(device, "dqkv", 3 * features, 5)?;
        let run = move || {
            let (tables, to) = ([rows.view(), columns.view()], Some(dqkv.view_mut()));
            s.backward_gpu(device, qkv.view(), tables, drel.view(), to, [None, None])
        };
        let bytes = 2 * (2 * features + numbers);
        all.push(Timed::new("relative_position_dq_80_bf16", shape, flops, bytes, run));
    }
    Ok(all)
}
