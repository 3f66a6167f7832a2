//! Verification that updates and norms of all tensors on a device are bitwise equal to the CPU's.

use half::bf16;

use super::{AdamW, ClipNorm, MultiAdamW, Tensor, clip_factor};
use crate::Result;
use crate::check::noise;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::device::{Buffer, Device};

pub(crate) const KERNELS: Kernels = Kernels { name: "adamw", verify, timed };

/// Updates that are compared.
const STEPS: u64 = 3;

/// One element, a prime, whole and broken chunks.
const LENGTHS: [usize; 4] = [1, 13, 4096, 9001];

/// Index of the tensor without a working copy.
const ALONE: usize = 1;

/// Index of the tensor whose weights have no average.
const NO_AVERAGE: usize = 2;

/// Limits of the norm of the gradients; the second one is beyond it.
const LIMITS: [f64; 2] = [0.5, 1e4];

/// Weights, moments and gradient of one tensor.
type State = [Vec<f32>; 4];

/// States, working copies and averages after all updates.
type Updated = (Vec<State>, Vec<Vec<bf16>>, Vec<Vec<f32>>);

/// Random state of a tensor of `n` weights.
pub(super) fn state(n: usize, seed: u64) -> State {
    let v = noise::<f32>(n, seed + 2).iter().map(|v| v * v).collect();
    [noise(n, seed), noise(n, seed + 1), v, noise(n, seed + 3)]
}

fn groups() -> [AdamW; 2] {
    let own = AdamW {
        lr: 3e-3,
        beta1: 0.8,
        weight_decay: 0.0,
        eps: 1e-6,
        average: 0.3,
        ..AdamW::default()
    };
    [AdamW::default(), own]
}

fn run(device: &Device, host: &[State], clip: Option<f64>) -> Result<Updated> {
    let mut states = Vec::new();
    for [p, m, v, g] in host {
        let up = |x: &Vec<f32>| device.upload("state", x);
        states.push([up(p)?, up(m)?, up(v)?, up(g)?]);
    }
    let copies = host.iter().map(|s| device.zeros::<bf16>("copy", s[0].len()));
    let mut copies = copies.collect::<Result<Vec<_>>>()?;
    let averages = host.iter().map(|s| device.zeros::<f32>("average", s[0].len()));
    let mut averages = averages.collect::<Result<Vec<_>>>()?;
    let (mut step, mut clip) = (MultiAdamW::default(), clip.map(ClipNorm::new));
    for t in 1..=STEPS {
        let mut tensors = Vec::new();
        let beside = copies.iter_mut().zip(&mut averages);
        for (i, ([p, m, v, g], (copy, average))) in states.iter_mut().zip(beside).enumerate() {
            let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
            let copy = (i != ALONE).then(|| copy.view_mut());
            let average = (i != NO_AVERAGE).then(|| average.view_mut());
            tensors.push(Tensor { p, m, v, g: g.view(), copy, average, group: i % 2 });
        }
        let gradients: Vec<_> = tensors.iter().map(|tensor| tensor.g).collect();
        let factor = clip.as_mut().map(|clip| clip.launch(device, &gradients)).transpose()?;
        step.set_step(device, t, &groups())?;
        step.launch(device, &mut tensors, None, factor)?;
    }
    let down = |b: &Buffer<f32>| device.download(b.view());
    let states = states.iter().map(|[p, m, v, g]| Ok([down(p)?, down(m)?, down(v)?, down(g)?]));
    let copies = copies.iter().map(|copy| device.download(copy.view()));
    let averages = averages.iter().map(down).collect::<Result<_>>()?;
    Ok((states.collect::<Result<_>>()?, copies.collect::<Result<_>>()?, averages))
}

/// Compares norm and factor with those of the host, and with the sum of squares in f64.
fn verify_norm(verification: &mut Verification<'_>, host: &[State]) -> Result<()> {
    let device = verification.device();
    let gradients: Vec<&[f32]> = host.iter().map(|state| &state[3][..]).collect();
    let squares = gradients.iter().flat_map(|g| g.iter()).map(|g| f64::from(g * g));
    let norm = squares.sum::<f64>().sqrt();
    for most in LIMITS {
        let case = format!("clip_factor {LENGTHS:?}, at most {most}");
        let mut clip = ClipNorm::new(most);
        let got = verification.twice(&case, || {
            let upload = |g: &&[f32]| device.upload("g", g);
            let there = gradients.iter().map(upload).collect::<Result<Vec<_>>>()?;
            let views: Vec<_> = there.iter().map(Buffer::view).collect();
            let factor = clip.launch(device, &views)?;
            device.download(factor)
        })?;
        let host = clip_factor(&gradients, most);
        verification.same(&format!("{case}: factor and norm of the host"), &got, &host);
        let want = [(most / (norm + 1e-6)).min(1.0) as f32, norm as f32];
        let close = got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-6 * b);
        verification.holds(&format!("{case}: near the norm in f64"), close);
    }
    Ok(())
}

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    let host: Vec<State> =
        LENGTHS.into_iter().zip([0, 10, 20, 30]).map(|(n, s)| state(n, s)).collect();
    verify_norm(verification, &host)?;
    compare(verification, host.clone(), Some(LIMITS[0]))?;
    compare(verification, host, None)
}

/// Compares all updates with those of the host.
fn compare(
    verification: &mut Verification<'_>,
    mut host: Vec<State>,
    clip: Option<f64>,
) -> Result<()> {
    let device = verification.device();
    let case = format!("adamw_update {LENGTHS:?}{}", clip.map_or("", |_| ", clipped"));
    let before = device.counters().launches;
    let (states, copies, averages) = verification.twice(&case, || run(device, &host, clip))?;
    let launches = device.counters().launches - before;
    let each = if clip.is_some() { 3 } else { 1 };
    verification.holds(&format!("{case}: one launch a step"), launches == 2 * each * STEPS);
    let gradients: Vec<&[f32]> = host.iter().map(|state| &state[3][..]).collect();
    let factor = clip.map(|most| clip_factor(&gradients, most)[0]);
    let mut want_averages = Vec::new();
    for (i, [p, m, v, g]) in host.iter_mut().enumerate() {
        let mut average = vec![0.0; p.len()];
        if let Some(factor) = factor {
            g.iter_mut().for_each(|g| *g *= factor);
        }
        for t in 1..=STEPS {
            groups()[i % 2].update(t, p, m, v, g)?;
            if i != NO_AVERAGE {
                groups()[i % 2].average(&mut average, p)?;
            }
        }
        want_averages.push(average);
    }
    for (i, (want, got)) in host.iter().zip(&states).enumerate() {
        let what = format!("adamw_update [{}]{}", LENGTHS[i], clip.map_or("", |_| ", clipped"));
        verification.same(&format!("{what}: average"), &averages[i], &want_averages[i]);
        for (name, got, want) in
            [("p", &got[0], &want[0]), ("m", &got[1], &want[1]), ("v", &got[2], &want[2])]
        {
            verification.same(&format!("{what}: {name} after {STEPS} steps"), got, want);
        }
        let copy = |&p: &f32| if i == ALONE { bf16::ZERO } else { bf16::from_f32(p) };
        let copy: Vec<bf16> = want[0].iter().map(copy).collect();
        verification.same(&format!("{what}: working copy"), &copies[i], &copy);
    }
    Ok(())
}

/// Approximate number of weights trained on ViT-L with Rein and Mask2Former.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    const TENSORS: usize = 90;
    const EACH: usize = 512 * 512;
    let mut states = Vec::new();
    for i in 0..TENSORS as u64 {
        let (p, g) = (filled(device, "p", EACH, i)?, filled(device, "g", EACH, 1000 + i)?);
        let (m, v) = (device.zeros("m", EACH)?, device.zeros("v", EACH)?);
        states.push(([p, m, v, g], device.alloc::<bf16>("copy", EACH)?));
    }
    let (mut step, mut t) = (MultiAdamW::default(), 0);
    let update = move || {
        t += 1;
        let mut tensors = Vec::with_capacity(TENSORS);
        for ([p, m, v, g], copy) in &mut states {
            let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
            let copy = Some(copy.view_mut());
            tensors.push(Tensor { p, m, v, g: g.view(), copy, average: None, group: 0 });
        }
        step.update(device, t, &[AdamW::default()], &mut tensors, None)
    };
    let all = TENSORS * EACH;
    // Three values read and written, the gradient read, the copy written.
    Ok(vec![Timed::new(
        "adamw_update",
        format!("{TENSORS} x [{EACH}]"),
        14 * all,
        30 * all,
        update,
    )])
}
