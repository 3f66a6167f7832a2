//! Sizes at which attention is checked and timed.

use half::bf16;

use super::bounds::{Bounds, bounds};
use super::{
    Attention, Backward, Forward, PackedAttention, PackedBackward, PackedForward, reference,
};
use crate::Result;
use crate::call::{Gpu, Host, Launch, Operation};
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::noise;
use crate::check::operands::Values;
use crate::check::verify::{Kernels, Verification};
use crate::device::Float;

/// Both forms.
pub(crate) const KERNELS: Kernels = Kernels {
    name: Attention::NAME,
    verify: |verification| {
        Attention::checks().on_device(verification)?;
        PackedAttention::checks().on_device(verification)
    },
    timed: |device| {
        let mut all = PackedAttention::checks().launches(device)?;
        all.extend(Attention::checks().launches(device)?);
        Ok(all)
    },
};

/// FLOP of `n` products of queries and keys.
fn products(s: &Attention, n: usize) -> usize {
    2 * n * s.scores() * s.d
}

/// Kernels of a head width.
fn name(d: usize) -> &'static str {
    match d {
        32 => "attention_32",
        64 => "attention_64",
        80 => "attention_80",
        _ => Attention::NAME,
    }
}

/// Bounds, which are worst cases, and in f32 a share of the largest value. (With one key, gradients
/// of scores are 0, and a share of them is meaningless.)
fn accurate(mut bounds: Vec<f64>, of: Arithmetic, want: &[f64]) -> Vec<f64> {
    let largest = want.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    if !of.bf16 && largest > 1e-3 {
        bounds.iter_mut().for_each(|bound| *bound = bound.min(5e-5 * largest));
    }
    bounds
}

/// Bounds of the separate form.
fn separate(s: &Attention, of: Arithmetic, known: &Values) -> Bounds {
    let blocked = known.get("blocked").filter(|_| s.masked);
    let blocked: Option<Vec<u8>> = blocked.map(|x| x.iter().map(|&b| b as u8).collect());
    let inputs = s.inputs([&known["q"], &known["k"], &known["v"]], blocked.as_deref());
    bounds(s, of, &inputs, known.get("dout").map(|x| &x[..]))
}

/// Bounds of the packed form.
fn packed(s: &PackedAttention, of: Arithmetic, known: &Values) -> Bounds {
    let inputs = s.inputs(&known["qkv"], known.get("rel").map(|x| &x[..]));
    bounds(&s.separate(), of, &inputs, known.get("dout").map(|x| &x[..]))
}

/// Mask with a third of the flags set. The last row of the first image has no open key; the first
/// one opens only its last key, so that whole parts of split keys are blocked.
fn flags(s: &Attention, drawn: &mut [f64]) {
    for (i, x) in drawn.iter_mut().enumerate() {
        let blocked = match i / s.nk {
            row if row + 1 == s.nq => true,
            0 => i + 1 < s.nk,
            _ => *x < -0.33,
        };
        *x = f64::from(u8::from(blocked));
    }
}

/// Queries and keys whose scores reach tens, so that the maximum must be subtracted.
fn steep(s: &PackedAttention, qkv: &mut [f64]) {
    for (row, x) in qkv.chunks_exact_mut((s.heads * s.d).max(1)).enumerate() {
        let factor = if row % 3 < 2 { 4.0 } else { 1.0 };
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

impl Checked for Attention {
    fn checks() -> Checks<Attention> {
        let size = |masked| move |(b, heads, d, nq, nk)| Attention { b, heads, d, nq, nk, masked };
        let (plain, masked) = (size(false), size(true));
        Checks::new(|s: &Attention| {
            let with = if s.masked { " blocked" } else { "" };
            format!("[{}, {}, {} x {}, {}]{with}", s.b, s.heads, s.nq, s.nk, s.d)
        })
        .named(|s| name(s.d))
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("forward", |s| products(s, 2))
                .bound("out", |s, of, x| accurate(separate(s, of, x).out, of, &x["out"]))
                .bound("lse", |s, of, x| separate(s, of, x).lse),
        )
        .pass(
            Pass::of::<Backward<'_, Host, f32>>("backward", |s| products(s, 5))
                .bound("dq", |s, of, x| accurate(separate(s, of, x).dq, of, &x["dq"]))
                .bound("dk", |s, of, x| accurate(separate(s, of, x).dk, of, &x["dk"]))
                .bound("dv", |s, of, x| accurate(separate(s, of, x).dv, of, &x["dv"])),
        )
        .scaled("q", 4.0)
        .scaled("k", 4.0)
        .given("blocked", flags)
        // Where no forward pass wrote it: above all scores.
        .given("lse", |_, lse| lse.fill(50.0))
        .gradients([(1, 1, 1, 1, 1), (2, 3, 5, 7, 13)].map(plain))
        .gradients([(1, 1, 1, 1, 1), (2, 3, 5, 7, 13)].map(masked))
        .sizes([(1, 1, 32, 1, 1)].map(plain))
        // At 32 channels the last two cases split their keys.
        .sizes(
            [
                (1, 1, 32, 1, 1),
                (2, 2, 32, 70, 131),
                (1, 2, 64, 67, 131),
                (1, 1, 64, 130, 33),
                (1, 2, 80, 33, 70),
                (1, 2, 32, 5, 601),
                (1, 1, 32, 67, 777),
            ]
            .map(masked),
        )
        .sizes(
            [(1, 2, 32, 7, 150), (2, 1, 64, 33, 70), (1, 2, 80, 17, 3), (1, 2, 32, 3, 1031)]
                .map(plain),
        )
        // One, primes, no multiples of the vector width, shapes of the mask decoder.
        .host_sizes([(1, 1, 1, 1, 1), (2, 3, 5, 7, 13), (2, 1, 16, 3, 9000)].map(plain))
        .host_sizes([(2, 3, 5, 7, 13), (1, 2, 80, 65, 130), (1, 2, 32, 100, 256)].map(masked))
        .empty([(0, 2, 32, 3, 5), (1, 2, 32, 0, 5), (1, 2, 32, 3, 0)].map(plain))
        .refused([(1, 0, 32, 3, 5), (1, 2, 0, 3, 5)].map(plain))
        // Masked cross-attention of the decoder at strides 8 and 4, for four images.
        .timed([(4, 8, 32, 100, 4096), (4, 8, 32, 100, 16_384)].map(masked))
        // The decoder's queries against each other and against the strides 32, 16 and 8 of 512 px.
        .timed_on_host([
            ("self", masked((1, 8, 32, 100, 100))),
            ("stride 32", masked((1, 8, 32, 100, 256))),
            ("stride 16", masked((1, 8, 32, 100, 1024))),
            ("stride 8", masked((1, 8, 32, 100, 4096))),
        ])
    }
}

impl Checked for PackedAttention {
    fn checks() -> Checks<PackedAttention> {
        let plain = |(b, heads, d, t)| PackedAttention { b, t, heads, d, grid: None };
        let relative =
            |(b, heads, d, h, w)| PackedAttention { b, t: h * w, heads, d, grid: Some([h, w]) };
        Checks::new(|s: &PackedAttention| {
            let with = s.grid.map_or(String::new(), |[h, w]| format!(" relative {h} {w}"));
            format!("[{}, {}, 3, {}, {}]{with}", s.b, s.t, s.heads, s.d)
        })
        .named(|s| name(s.d))
        .pass(
            Pass::of::<PackedForward<'_, Host, f32>>("forward", |s| products(&s.separate(), 2))
                .bound("out", |s, of, x| accurate(packed(s, of, x).out, of, &x["out"]))
                .bound("lse", |s, of, x| packed(s, of, x).lse),
        )
        .pass(
            Pass::of::<PackedBackward<'_, Host, f32>>("backward", |s| products(&s.separate(), 5))
                .bound("dqkv", |s, of, x| {
                    let Bounds { dq, dk, dv, .. } = packed(s, of, x);
                    let bounds = reference::interleave(&s.separate(), [&dq, &dk, &dv]);
                    accurate(bounds, of, &x["dqkv"])
                })
                .bound("drel", |s, of, x| accurate(packed(s, of, x).drel, of, &x["drel"])),
        )
        .given("qkv", steep)
        .scaled("rel", 4.0)
        .given("lse", |_, lse| lse.fill(50.0))
        .gradients([(1, 1, 1, 1), (2, 3, 5, 9)].map(plain))
        .gradients([(2, 2, 3, 3, 2), (1, 1, 2, 1, 5)].map(relative))
        .sizes([(1, 1, 32, 1)].map(plain))
        // One cell, rows of more than one chunk, more rows than columns, a window of SAM.
        .sizes(
            [(1, 1, 1, 1), (2, 2, 5, 17), (1, 1, 37, 3), (1, 1, 14, 14)]
                .map(|(b, heads, h, w)| relative((b, heads, 80, h, w))),
        )
        .sizes([(2, 3, 32, 65), (1, 1, 64, 129), (1, 1, 80, 131)].map(plain))
        .host_sizes([(1, 1, 1, 1), (1, 2, 64, 257)].map(plain))
        .host_sizes([(2, 2, 3, 3, 2), (1, 1, 2, 1, 5), (2, 1, 16, 37, 11)].map(relative))
        .empty([(0, 2, 32, 3), (1, 2, 32, 0)].map(plain))
        .refused([(1, 0, 32, 3), (1, 2, 0, 3)].map(plain))
        .refused([PackedAttention { t: 10, ..relative((1, 1, 80, 2, 2)) }])
        .more(same_bytes::<f32>)
        .more(same_bytes::<bf16>)
        // Four images: ViT-L at 512 px, a global block of SAM-H at 512 px and its windows.
        .timed([plain((4, 16, 64, 1025))])
        .timed([(4, 16, 80, 32, 32), (36, 16, 80, 14, 14)].map(relative))
        // Backbones at 512 px and patch 16: 1024 patches and the class token.
        .timed_on_host([
            ("ViT-S", plain((1, 6, 64, 1025))),
            ("ViT-B", plain((1, 12, 64, 1025))),
            ("ViT-L", plain((1, 16, 64, 1025))),
        ])
    }
}

/// Checks that the packed and the separate form are the same bytes.
fn same_bytes<T: Float>(verification: &mut Verification<'_>) -> Result<()> {
    for (b, heads, d, t) in [(1, 1, 32, 1), (2, 3, 32, 65), (1, 1, 64, 129), (1, 1, 80, 131)] {
        let packed = PackedAttention { b, t, heads, d, grid: None };
        let (s, n, device) = (packed.separate(), b * t * heads * d, verification.device());
        let draw = |seed| noise::<f32>(n, seed).iter().map(|x| T::of(2.0 * x)).collect::<Vec<T>>();
        let parts = [1, 2, 3].map(draw);
        let [q, k, v] = parts.each_ref().map(|x| device.upload("x", x));
        let (q, k, v, dout) = (q?, k?, v?, device.upload("dout", &draw(4))?);
        let qkv = reference::interleave(&s, parts.each_ref().map(|x| &x[..]));
        let qkv = device.upload("qkv", &qkv)?;
        let results = || {
            Ok::<_, crate::KernelError>((
                device.alloc::<T>("out", n)?,
                device.alloc::<f32>("lse", s.rows_of_scores())?,
            ))
        };
        let ((mut out, mut lse), (mut out_p, mut lse_p)) = (results()?, results()?);
        let (q, k, v, qkv, dout) = (q.view(), k.view(), v.view(), qkv.view(), dout.view());
        let (to, to_lse) = (out.view_mut(), lse.view_mut());
        Forward::<Gpu, T> { q, k, v, blocked: None, out: to, lse: to_lse }.launch(device, &s)?;
        let (to, to_lse) = (out_p.view_mut(), lse_p.view_mut());
        PackedForward::<Gpu, T> { rel: None, qkv, out: to, lse: to_lse }.launch(device, &packed)?;
        let [dq, dk, dv] = ["dq", "dk", "dv"].map(|name| device.alloc::<T>(name, n));
        let (mut dq, mut dk, mut dv) = (dq?, dk?, dv?);
        let mut dqkv = device.alloc::<T>("dqkv", 3 * n)?;
        Backward::<Gpu, T> {
            q,
            k,
            v,
            blocked: None,
            out: Some(out.view()),
            lse: lse.view(),
            dout,
            dq: Some(dq.view_mut()),
            dk: Some(dk.view_mut()),
            dv: Some(dv.view_mut()),
        }
        .launch(device, &s)?;
        PackedBackward::<Gpu, T> {
            rel: None,
            qkv,
            out: Some(out.view()),
            lse: lse.view(),
            dout,
            dqkv: dqkv.view_mut(),
            drel: None,
        }
        .launch(device, &packed)?;
        let what = format!("{}{} [{b}, {t}, 3, {heads}, {d}]", name(d), T::SUFFIX);
        let [dq, dk, dv] = [dq, dk, dv].map(|d| device.download(d.view()));
        let gradients = reference::interleave(&s, [&dq?, &dk?, &dv?]);
        let mut same = |part: &str, a: &[T], b: &[T]| {
            verification.same(&format!("{what}: {part}, packed and separate"), a, b);
        };
        same("out", &device.download(out_p.view())?, &device.download(out.view())?);
        same("dqkv", &device.download(dqkv.view())?, &gradients);
        let (lse, lse_p) = (device.download(lse.view())?, device.download(lse_p.view())?);
        verification.same(&format!("{what}: lse, packed and separate"), &lse_p, &lse);
    }
    Ok(())
}
