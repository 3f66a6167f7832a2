//! Verification of attention on a device against the reference.

use half::bf16;

use super::{Attention, SavedGpu, verify_bounds};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{noise, relative_error, stored};
use crate::device::{Buffer, Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "attention", verify, timed };

/// Variant of attention.
pub(super) enum Form {
    Plain,
    /// Flags, `[b, nq, nk]`.
    Blocked(Vec<u8>),
    /// Relative positions on a grid.
    Relative([usize; 2]),
}

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (b, heads, d, nq, nk) in [
        (1, 1, 32, 1, 1),
        (2, 3, 32, 65, 65),
        (1, 2, 32, 7, 150),
        (1, 1, 64, 129, 129),
        (2, 1, 64, 33, 70),
        (1, 1, 80, 131, 131),
        (1, 2, 80, 17, 3),
    ] {
        both(verification, &Attention { b, heads, d, nq, nk }, &Form::Plain)?;
    }
    // At 32 channels the last two cases split their keys.
    for (b, heads, d, nq, nk) in [
        (1, 1, 32, 1, 1),
        (2, 2, 32, 70, 131),
        (1, 2, 64, 67, 131),
        (1, 1, 64, 130, 33),
        (1, 2, 80, 33, 70),
        (1, 2, 32, 5, 601),
        (1, 1, 32, 67, 777),
    ] {
        let s = Attention { b, heads, d, nq, nk };
        both(verification, &s, &Form::Blocked(flags(&s)))?;
    }
    both(verification, &Attention { b: 1, heads: 2, d: 32, nq: 3, nk: 1031 }, &Form::Plain)?;
    // One cell, rows of more than one chunk, more rows than columns, a window of SAM.
    for (b, heads, h, w) in [(1, 1, 1, 1), (2, 2, 5, 17), (1, 1, 37, 3), (1, 1, 14, 14)] {
        let s = Attention { b, heads, d: 80, nq: h * w, nk: h * w };
        both(verification, &s, &Form::Relative([h, w]))?;
    }
    Ok(())
}

fn both(verification: &mut Verification<'_>, s: &Attention, form: &Form) -> Result<()> {
    check::<bf16>(verification, s, form)?;
    check::<f32>(verification, s, form)
}

/// Mask with a third of the flags set. The last row of the first image has no open key; the first
/// one opens only its last key, so that whole parts of split keys are blocked.
fn flags(s: &Attention) -> Vec<u8> {
    let draw = noise::<f64>(s.b * s.nq * s.nk, 5);
    let blocked = |i: usize| match i / s.nk {
        row if row + 1 == s.nq => true,
        0 => i + 1 < s.nk,
        _ => draw[i] < -0.33,
    };
    (0..draw.len()).map(|i| u8::from(blocked(i))).collect()
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    out: Vec<T>,
    lse: Vec<f32>,
    /// dq, dk, dv.
    d: [Vec<T>; 3],
    /// Empty without relative positions.
    drel: Vec<T>,
}

fn interleave<T: Copy>(s: &Attention, parts: [&[T]; 3]) -> Vec<T> {
    let c = s.heads * s.d;
    (0..s.b * s.nq).flat_map(|t| parts.map(|p| p[t * c..(t + 1) * c].to_vec())).flatten().collect()
}

/// Returns the three parts of packed values.
fn part<T: Copy>(s: &Attention, packed: &[T]) -> [Vec<T>; 3] {
    let c = s.heads * s.d;
    [0, 1, 2].map(|part| packed.chunks(c).skip(part).step_by(3).flatten().copied().collect())
}

fn separate<T: Float>(
    device: &Device,
    s: &Attention,
    x: [&[T]; 4],
    blocked: Option<&[u8]>,
) -> Result<Outputs<T>> {
    let up = |name, x: &[T]| device.upload(name, x);
    let [q, k, v, dout] = [up("q", x[0])?, up("k", x[1])?, up("v", x[2])?, up("dout", x[3])?];
    let blocked = blocked.map(|b| device.upload("blocked", b)).transpose()?;
    let blocked = blocked.as_ref().map(Buffer::view);
    let mut out = device.alloc("out", x[0].len())?;
    let mut lse = device.alloc("lse", s.b * s.heads * s.nq)?;
    let (qv, kv, vv) = (q.view(), k.view(), v.view());
    s.forward_gpu(device, qv, kv, vv, blocked, out.view_mut(), lse.view_mut())?;
    let mut dq = device.alloc("dq", x[0].len())?;
    let (mut dk, mut dv) = (device.alloc("dk", x[1].len())?, device.alloc("dv", x[2].len())?);
    let (saved, dout) = (SavedGpu { out: out.view(), lse: lse.view() }, dout.view());
    let dkv = Some((dk.view_mut(), dv.view_mut()));
    s.backward_gpu(device, qv, kv, vv, blocked, saved, dout, Some(dq.view_mut()), dkv)?;
    Ok(Outputs {
        out: device.download(out.view())?,
        lse: device.download(lse.view())?,
        d: [device.download(dq.view())?, device.download(dk.view())?, device.download(dv.view())?],
        drel: Vec::new(),
    })
}

/// Runs the packed form, with relative positions if a grid is given.
fn packed<T: Float>(
    device: &Device,
    s: &Attention,
    qkv: &[T],
    dout: &[T],
    relative: Option<(&[T], [usize; 2])>,
) -> Result<Outputs<T>> {
    let (x, g) = (device.upload("qkv", qkv)?, device.upload("dout", dout)?);
    let mut out = device.alloc("out", dout.len())?;
    let mut lse = device.alloc("lse", s.b * s.heads * s.nq)?;
    let mut dqkv = device.alloc("dqkv", qkv.len())?;
    let mut drel = Vec::new();
    if let Some((rel, grid)) = relative {
        let rel = device.upload("rel", rel)?;
        let mut d = device.alloc("drel", rel.len())?;
        let (x, r, g) = (x.view(), rel.view(), g.view());
        s.forward_relative_gpu(device, x, r, grid, out.view_mut(), lse.view_mut())?;
        let saved = SavedGpu { out: out.view(), lse: lse.view() };
        let (to, to_rel) = (dqkv.view_mut(), d.view_mut());
        s.backward_relative_gpu(device, x, r, grid, saved, g, to, to_rel)?;
        drel = device.download(d.view())?;
    } else {
        s.forward_packed_gpu(device, x.view(), out.view_mut(), lse.view_mut())?;
        let saved = SavedGpu { out: out.view(), lse: lse.view() };
        s.backward_packed_gpu(device, x.view(), saved, g.view(), dqkv.view_mut())?;
    }
    let (out, lse) = (device.download(out.view())?, device.download(lse.view())?);
    let d = part(s, &device.download(dqkv.view())?);
    Ok(Outputs { out, lse, d, drel })
}

fn check<T: Float>(verification: &mut Verification<'_>, s: &Attention, form: &Form) -> Result<()> {
    let Attention { b, heads, d, nq, nk } = *s;
    let c = heads * d;
    let rel = if let Form::Relative([h, w]) = form { b * heads * nq * (h + w) } else { 0 };
    let mut seed = 0;
    let drawn = [b * nq * c, b * nk * c, b * nk * c, b * nq * c, rel].map(|n| {
        seed += 1;
        // Scores reach tens, so that the maximum must be subtracted.
        let size = if matches!(seed, 1 | 2 | 5) { 4.0 } else { 1.0 };
        stored::<T>(&noise::<f32>(n, seed).iter().map(|x| size * x).collect::<Vec<f32>>())
    });
    let [q, k, v, dout, rel] = drawn.each_ref().map(|(x, _)| &x[..]);
    let (with, blocked, relative) = match form {
        Form::Plain => (String::new(), None, None),
        Form::Blocked(flags) => (" blocked".into(), Some(&flags[..]), None),
        Form::Relative([h, w]) => (format!(" relative {h} {w}"), None, Some((rel, [*h, *w]))),
    };
    let what = format!("attention{} [{b}, {heads}, {nq} x {nk}, {d}]{with}", T::SUFFIX);
    let device = verification.device();
    let in_one = |q, k, v| packed(device, s, &interleave(s, [q, k, v]), dout, relative);
    let got = verification.twice(&what, || match relative {
        Some(_) => in_one(q, k, v),
        None => separate(device, s, [q, k, v, dout], blocked),
    })?;
    compare(verification, &what, s, form, drawn.each_ref().map(|(_, x)| &x[..]), &got);
    if nq == nk && matches!(form, Form::Plain) {
        let same = in_one(q, k, v)? == got;
        verification.holds(&format!("{what}: packed and separate form are the same bytes"), same);
    }
    Ok(())
}

fn compare<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    s: &Attention,
    form: &Form,
    x: [&[f64]; 5],
    got: &Outputs<T>,
) {
    let e = verify_bounds::expected::<T>(s, x, form);
    let [dq, dk, dv] = &got.d;
    let parts = [
        ("out", &got.out, &e.out),
        ("dq", dq, &e.dq),
        ("dk", dk, &e.dk),
        ("dv", dv, &e.dv),
        ("drel", &got.drel, &e.drel),
    ];
    for (part, got, want) in parts.into_iter().filter(|(.., want)| !want[0].is_empty()) {
        verification.within(&format!("{what}: {part}"), got, &want[0], |i| want[1][i]);
        // The bounds are worst cases. In f32 the kernels have to be as accurate as `cpu.rs`. (With
        // one key, gradients of scores are 0, and relative errors are meaningless.)
        if size_of::<T>() == 4 && want[0].iter().any(|w| w.abs() > 1e-3) {
            let got: Vec<f64> = got.iter().map(|x| f64::from(x.f32())).collect();
            let near = got.len() == want[0].len() && relative_error(&got, &want[0]) <= 5e-5;
            verification.holds(&format!("{what}: {part} is as accurate as on the CPU"), near);
        }
    }
    // Rows without keys have an infinite lse, which the bounds do not cover.
    let infinite = |x: f64| x == f64::INFINITY;
    let alike = got.lse.iter().zip(&e.lse[0]).all(|(&l, &e)| infinite(l.into()) == infinite(e));
    verification.holds(&format!("{what}: rows without keys have an lse of +inf"), alike);
    let finite: Vec<usize> = (0..got.lse.len()).filter(|&i| e.lse[0][i].is_finite()).collect();
    let pick = |x: &[f64]| finite.iter().map(|&i| x[i]).collect::<Vec<f64>>();
    let lse: Vec<f32> = finite.iter().map(|&i| got.lse[i]).collect();
    let bound = pick(&e.lse[1]);
    verification.within(&format!("{what}: lse"), &lse, &pick(&e.lse[0]), |i| bound[i]);
}

/// Four images each: ViT-L at 512 px, the masked cross-attention of the decoder at strides 8 and 4,
/// a global block of SAM-H at 512 px and its windows.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let packed = |b, heads, d, n| Attention { b, heads, d, nq: n, nk: n };
    let vit = packed(4, 16, 64, 1025);
    let mut all = timed_packed(
        device,
        vit,
        None,
        ["attention_forward_64_bf16", "attention_backward_64_bf16"],
    )?;
    for nk in [4096, 16_384] {
        all.extend(timed_masked(device, Attention { b: 4, heads: 8, d: 32, nq: 100, nk })?);
    }
    for (b, grid) in [(4, [32, 32]), (36, [14, 14])] {
        let s = packed(b, 16, 80, grid[0] * grid[1]);
        all.extend(timed_packed(
            device,
            s,
            Some(grid),
            ["attention_forward_80_bf16", "attention_backward_80_bf16"],
        )?);
    }
    Ok(all)
}

/// FLOP of `n` products of queries and keys.
fn products(s: &Attention, n: usize) -> usize {
    2 * n * s.scores() * s.d
}

fn timed_packed<'a>(
    device: &'a Device,
    s: Attention,
    grid: Option<[usize; 2]>,
    names: [&'static str; 2],
) -> Result<Vec<Timed<'a>>> {
    let (n, rows) = (s.b * s.nq * s.width(), s.b * s.heads * s.nq);
    let numbers = grid.map_or(0, |[h, w]| rows * (h + w));
    let shape = format!("[{}, {}, 3, {}, {}]", s.b, s.nq, s.heads, s.d);
    let operands = || -> Result<_> {
        Ok((
            filled::<bf16>(device, "qkv", 3 * n, 1)?,
            filled::<bf16>(device, "rel", numbers, 2)?,
            device.alloc::<bf16>("out", n)?,
            device.alloc::<f32>("lse", rows)?,
        ))
    };
    let (qkv, rel, mut out, mut lse) = operands()?;
    let forward = move || {
        let (x, to, lse) = (qkv.view(), out.view_mut(), lse.view_mut());
        match grid {
            Some(grid) => s.forward_relative_gpu(device, x, rel.view(), grid, to, lse),
            None => s.forward_packed_gpu(device, x, to, lse),
        }
    };
    let (qkv, rel, mut out, mut lse) = operands()?;
    let (x, to) = (qkv.view(), out.view_mut());
    match grid {
        Some(grid) => s.forward_relative_gpu(device, x, rel.view(), grid, to, lse.view_mut())?,
        None => s.forward_packed_gpu(device, x, to, lse.view_mut())?,
    }
    let dout = filled::<bf16>(device, "dout", n, 3)?;
    let mut dqkv = device.alloc::<bf16>("dqkv", 3 * n)?;
    let mut drel = device.alloc::<bf16>("drel", numbers)?;
    let backward = move || {
        let saved = SavedGpu { out: out.view(), lse: lse.view() };
        let (x, g, to) = (qkv.view(), dout.view(), dqkv.view_mut());
        match grid {
            Some(grid) => {
                let (rel, drel) = (rel.view(), drel.view_mut());
                s.backward_relative_gpu(device, x, rel, grid, saved, g, to, drel)
            }
            None => s.backward_packed_gpu(device, x, saved, g, to),
        }
    };
    let bytes = [2 * (4 * n + numbers), 2 * (8 * n + 2 * numbers)];
    let [name, back] = names;
    Ok(vec![
        Timed::new(name, shape.clone(), products(&s, 2), bytes[0], forward),
        Timed::new(back, shape, products(&s, 5), bytes[1], backward),
    ])
}

fn timed_masked(device: &Device, s: Attention) -> Result<Vec<Timed<'_>>> {
    let (n, m, rows) = (s.b * s.nq * s.width(), s.b * s.nk * s.width(), s.b * s.heads * s.nq);
    let shape = format!("[{}, {}, {} x {}, {}]", s.b, s.heads, s.nq, s.nk, s.d);
    let flags = s.b * s.nq * s.nk;
    let operands = || -> Result<_> {
        let drawn = noise::<f32>(flags, 4).iter().map(|x| u8::from(*x > 0.5)).collect::<Vec<u8>>();
        Ok((
            [("q", n), ("k", m), ("v", m)].map(|(name, len)| filled::<bf16>(device, name, len, 1)),
            device.upload("blocked", &drawn)?,
            device.alloc::<bf16>("out", n)?,
            device.alloc::<f32>("lse", rows)?,
        ))
    };
    let ([q, k, v], blocked, mut out, mut lse) = operands()?;
    let (q, k, v) = (q?, k?, v?);
    let forward = move || {
        let (q, k, v, mask) = (q.view(), k.view(), v.view(), Some(blocked.view()));
        s.forward_gpu(device, q, k, v, mask, out.view_mut(), lse.view_mut())
    };
    let ([q, k, v], blocked, mut out, mut lse) = operands()?;
    let (q, k, v) = (q?, k?, v?);
    let mask = Some(blocked.view());
    let views = (q.view(), k.view(), v.view());
    s.forward_gpu(device, views.0, views.1, views.2, mask, out.view_mut(), lse.view_mut())?;
    let dout = filled::<bf16>(device, "dout", n, 3)?;
    let mut dq = device.alloc::<bf16>("dq", n)?;
    let (mut dk, mut dv) = (device.alloc::<bf16>("dk", m)?, device.alloc::<bf16>("dv", m)?);
    let backward = move || {
        let (q, k, v, mask) = (q.view(), k.view(), v.view(), Some(blocked.view()));
        let saved = SavedGpu { out: out.view(), lse: lse.view() };
        let dkv = Some((dk.view_mut(), dv.view_mut()));
        s.backward_gpu(device, q, k, v, mask, saved, dout.view(), Some(dq.view_mut()), dkv)
    };
    let bytes = [2 * (2 * n + 2 * m) + flags, 2 * (4 * n + 4 * m) + flags];
    Ok(vec![
        Timed::new("attention_forward_32_bf16", shape.clone(), products(&s, 2), bytes[0], forward),
        Timed::new("attention_backward_32_bf16", shape, products(&s, 5), bytes[1], backward),
    ])
}
