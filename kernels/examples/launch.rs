//! Runs the forward and backward kernels of one operation, for a profiler or for the counters of
//! the virtual GPU:
//!
//! ```text
//! cargo run --release -p dressage-kernels --example launch -- attention virtual
//! cargo run --release -p dressage-kernels --example launch -- rein cuda 20
//! ```
//! A CUDA device runs the sizes of ViT-L at 512 px, batch 4 (deformable attention: of the pixel
//! decoder). The virtual one runs sizes that take a second. Features are bf16.

use std::process::ExitCode;
use std::time::Instant;

use dressage_kernels::Result;
use dressage_kernels::call::{Gpu, Launch};
use dressage_kernels::check::noise;
use dressage_kernels::device::{Buffer, Device, Float};
use dressage_kernels::ops::attention::{PackedAttention, PackedBackward, PackedForward};
use dressage_kernels::ops::ms_deform_attn::{self, MsDeformAttn};
use dressage_kernels::ops::rein::{self, Rein};
use half::bf16;

const USAGE: &str = "usage: launch attention|rein|ms_deform_attn virtual|cuda [REPEATS]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("launch: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> std::result::Result<(), String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (op, kind, repeats) = match words[..] {
        [op, kind] => (op, kind, 1),
        [op, kind, n] => (op, kind, n.parse().map_err(|_| USAGE)?),
        _ => return Err(USAGE.into()),
    };
    let device = match kind {
        "virtual" => Device::virtual_gpu(),
        "cuda" => Device::cuda(0).map_err(|error| error.to_string())?,
        _ => return Err(USAGE.into()),
    };
    let large = kind == "cuda";
    let step = match op {
        "attention" => attention(&device, large),
        "rein" => rein(&device, large),
        "ms_deform_attn" => ms_deform_attn(&device, large),
        _ => return Err(USAGE.into()),
    };
    let mut step = step.map_err(|error| error.to_string())?;
    for i in 0..repeats {
        let start = Instant::now();
        step().and_then(|()| device.wait()).map_err(|error| error.to_string())?;
        println!(
            "{op} on {}, run {i}: {:.3} ms",
            device.name(),
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    if let Some(work) = device.work() {
        println!("{work:?} in {} launches", device.counters().launches);
    }
    Ok(())
}

type Step<'a> = Result<Box<dyn FnMut() -> Result<()> + 'a>>;

fn filled<T: Float>(device: &Device, n: usize, seed: u64) -> Result<Buffer<T>> {
    let host: Vec<T> = noise::<f32>(n, seed).into_iter().map(T::of).collect();
    device.upload("input", &host)
}

fn attention(device: &Device, large: bool) -> Step<'_> {
    let (b, heads, t) = if large { (4, 16, 1025) } else { (1, 2, 129) };
    let s = PackedAttention { b, t, heads, d: 64, grid: None };
    let n = b * t * heads * s.d;
    let (qkv, dout) = (filled::<bf16>(device, 3 * n, 1)?, filled::<bf16>(device, n, 2)?);
    let (mut out, mut lse) = (device.alloc("out", n)?, device.alloc("lse", b * heads * t)?);
    let mut dqkv = device.alloc("dqkv", 3 * n)?;
    Ok(Box::new(move || {
        let (qkv, to, to_lse) = (qkv.view(), out.view_mut(), lse.view_mut());
        PackedForward::<Gpu, _> { rel: None, qkv, out: to, lse: to_lse }.launch(device, &s)?;
        PackedBackward::<Gpu, _> {
            rel: None,
            qkv,
            out: Some(out.view()),
            lse: lse.view(),
            dout: dout.view(),
            dqkv: dqkv.view_mut(),
            drel: None,
        }
        .launch(device, &s)
    }))
}

fn rein(device: &Device, large: bool) -> Step<'_> {
    let (b, n, c) = if large { (4, 1024, 1024) } else { (1, 65, 128) };
    let s = Rein { b, skip: 1, n, c, m: 100, softmax: true };
    let all = b * (n + 1) * c;
    let (f, dout) = (filled::<bf16>(device, all, 1)?, filled::<bf16>(device, all, 2)?);
    let tokens = filled::<bf16>(device, s.m * c, 3)?;
    let (values, weight) = (filled(device, (s.m - 1) * c, 4)?, filled(device, c * c, 5)?);
    let (bias, scale) = (filled(device, c, 6)?, device.upload("scale", &[1e-3f32])?);
    let (mut out, mut df) = (device.alloc("out", all)?, device.alloc("df", all)?);
    let mut lse = device.alloc("lse", b * n)?;
    let sizes = [s.m * c, (s.m - 1) * c, c * c, c, 1];
    let mut d = sizes.into_iter().map(|n| device.zeros("gradient", n));
    let mut next = || d.next().unwrap_or_else(|| device.zeros("gradient", 0));
    let (mut dt, mut dv, mut dw, mut db, mut ds) = (next()?, next()?, next()?, next()?, next()?);
    Ok(Box::new(move || {
        let (f, dout, bias, scale) = (f.view(), dout.view(), bias.view(), scale.view());
        let (tokens, values, weight) = (tokens.view(), values.view(), weight.view());
        let (out, sums) = (out.view_mut(), lse.view_mut());
        let call =
            rein::Forward::<Gpu, _> { f, tokens, values, weight, bias, scale, out, lse: sums };
        call.launch(device, &s)?;
        let call = rein::Backward::<Gpu, bf16> {
            f,
            tokens,
            values,
            weight,
            bias,
            scale,
            lse: lse.view(),
            dout,
            df: Some(df.view_mut()),
            dtokens: Some(dt.view_mut()),
            dvalues: Some(dv.view_mut()),
            dweight: Some(dw.view_mut()),
            dbias: Some(db.view_mut()),
            dscale: Some(ds.view_mut()),
        };
        call.launch(device, &s)
    }))
}

fn ms_deform_attn(device: &Device, large: bool) -> Step<'_> {
    const LARGE: &[(usize, usize)] = &[(16, 16), (32, 32), (64, 64)];
    const SMALL: &[(usize, usize)] = &[(2, 2), (4, 4), (8, 8)];
    let (b, levels) = if large { (4, LARGE) } else { (1, SMALL) };
    let s = MsDeformAttn { b, levels: levels.to_vec(), heads: 8, d: 32, points: 4 };
    let rows = b * s.tokens() * s.heads;
    let (features, points) = (rows * s.d, rows * s.samples());
    let value = filled::<bf16>(device, features, 1)?;
    let dout = filled::<bf16>(device, features, 2)?;
    let (offsets, logits) = (filled(device, 2 * points, 3)?, filled(device, points, 4)?);
    let (mut out, mut attn) = (device.alloc("out", features)?, device.alloc("attn", points)?);
    let mut dvalue = device.alloc("dvalue", features)?;
    let mut doffsets = device.alloc("doffsets", 2 * points)?;
    let mut dlogits = device.alloc("dlogits", points)?;
    Ok(Box::new(move || {
        let (value, offsets) = (value.view(), offsets.view());
        let forward = ms_deform_attn::Forward::<Gpu, bf16> {
            value,
            offsets,
            logits: logits.view(),
            out: out.view_mut(),
            attn: attn.view_mut(),
        };
        forward.launch(device, &s)?;
        let backward = ms_deform_attn::Backward::<Gpu, bf16> {
            value,
            offsets,
            attn: attn.view(),
            dout: dout.view(),
            dvalue: Some(dvalue.view_mut()),
            doffsets: Some(doffsets.view_mut()),
            dlogits: Some(dlogits.view_mut()),
        };
        backward.launch(device, &s)
    }))
}
