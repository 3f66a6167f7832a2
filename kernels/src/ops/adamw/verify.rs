//! Verification that the update of all tensors on a device is bitwise equal to the CPU's.

use half::bf16;

use super::{AdamW, MultiAdamW, Tensor};
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

/// Weights, moments and gradient of one tensor.
type State = [Vec<f32>; 4];

/// Random state of a tensor of `n` weights.
pub(super) fn state(n: usize, seed: u64) -> State {
    let v = noise::<f32>(n, seed + 2).iter().map(|v| v * v).collect();
    [noise(n, seed), noise(n, seed + 1), v, noise(n, seed + 3)]
}

fn groups() -> [AdamW; 2] {
    let other = AdamW { lr: 3e-3, beta1: 0.8, weight_decay: 0.0, eps: 1e-6, ..AdamW::default() };
    [AdamW::default(), other]
}

/// Returns the tensors after all updates, and their working copies.
fn run(device: &Device, host: &[State]) -> Result<(Vec<State>, Vec<Vec<bf16>>)> {
    let mut states = Vec::new();
    for [p, m, v, g] in host {
        let up = |x: &Vec<f32>| device.upload("state", x);
        states.push([up(p)?, up(m)?, up(v)?, up(g)?]);
    }
    let copies = host.iter().map(|s| device.zeros::<bf16>("copy", s[0].len()));
    let mut copies = copies.collect::<Result<Vec<_>>>()?;
    let mut step = MultiAdamW::default();
    for t in 1..=STEPS {
        let mut tensors = Vec::new();
        for (i, ([p, m, v, g], copy)) in states.iter_mut().zip(&mut copies).enumerate() {
            let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
            let copy = (i != ALONE).then(|| copy.view_mut());
            tensors.push(Tensor { p, m, v, g: g.view(), copy, group: i % 2 });
        }
        step.update(device, t, &groups(), &mut tensors, None)?;
    }
    let down = |b: &Buffer<f32>| device.download(b.view());
    let states = states.iter().map(|[p, m, v, g]| Ok([down(p)?, down(m)?, down(v)?, down(g)?]));
    let copies = copies.iter().map(|copy| device.download(copy.view()));
    Ok((states.collect::<Result<_>>()?, copies.collect::<Result<_>>()?))
}

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    let mut host: Vec<State> =
        LENGTHS.into_iter().zip([0, 10, 20, 30]).map(|(n, s)| state(n, s)).collect();
    let device = verification.device();
    let before = device.counters().launches;
    let (states, copies) =
        verification.twice(&format!("adamw_update {LENGTHS:?}"), || run(device, &host))?;
    let launches = device.counters().launches - before;
    verification
        .holds(&format!("adamw_update {LENGTHS:?}: one launch a step"), launches == 2 * STEPS);
    for (i, [p, m, v, g]) in host.iter_mut().enumerate() {
        for t in 1..=STEPS {
            groups()[i % 2].update(t, p, m, v, g)?;
        }
    }
    for (i, (want, got)) in host.iter().zip(&states).enumerate() {
        let what = format!("adamw_update [{}]", LENGTHS[i]);
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
            tensors.push(Tensor { p, m, v, g: g.view(), copy: Some(copy.view_mut()), group: 0 });
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
