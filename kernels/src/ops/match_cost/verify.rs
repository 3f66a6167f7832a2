//! Verification of matching costs on a device against the reference.

use half::bf16;

use super::{MatchCost, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "match_cost", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (b, q, g, k, p) in [(1, 1, 1, 1, 1), (2, 3, 5, 4, 13), (2, 7, 4, 40, 700)] {
        check::<f32>(verification, b, MatchCost::new(q, g, k, p))?;
        check::<bf16>(verification, b, MatchCost::new(q, g, k, p))?;
    }
    Ok(())
}

/// Inputs of all images.
struct Inputs<T> {
    cls: Vec<T>,
    labels: Vec<i32>,
    x: Vec<f32>,
    t: Vec<f32>,
}

fn run<T: Float>(device: &Device, b: usize, s: &MatchCost, of: &Inputs<T>) -> Result<Vec<f32>> {
    let (cls, labels) = (device.upload("cls", &of.cls)?, device.upload("labels", &of.labels)?);
    let (x, t) = (device.upload("x", &of.x)?, device.upload("t", &of.t)?);
    let mut cost = device.alloc("cost", b * s.q * s.g)?;
    let (cls, labels, out) = (cls.view(), labels.view(), cost.view_mut());
    s.compute_gpu(device, b, cls, labels, x.view(), t.view(), out)?;
    device.download(cost.view())
}

fn check<T: Float>(verification: &mut Verification<'_>, b: usize, s: MatchCost) -> Result<()> {
    let MatchCost { q, g, k, p, .. } = s;
    let cls: Vec<f32> = noise::<f32>(b * q * (k + 1), 1).iter().map(|v| 4.0 * v).collect();
    let (cls, exact_cls) = stored::<T>(&cls);
    // The last target of an image is padding.
    let label = |i: usize| if i % g + 1 == g && g > 1 { -1 } else { (i % k) as i32 };
    let labels: Vec<i32> = (0..b * g).map(label).collect();
    let x: Vec<f32> = noise::<f32>(b * q * p, 2).iter().map(|v| 9.0 * v).collect();
    let t = noise::<f32>(b * g * p, 3).iter().map(|v| (2.0 * v).clamp(0.0, 1.0)).collect();
    let of = Inputs { cls, labels, x, t };
    let what = format!("match_cost{} {b} x [{q}, {g}, {k}, {p}]", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, b, &s, &of))?;
    let (x, t) = (wide(&of.x), wide(&of.t));
    let mut want = vec![0.0; b * q * g];
    for i in 0..b {
        let labels: Vec<i32> = of.labels[i * g..][..g].iter().map(|&l| l.max(0)).collect();
        let cls = &exact_cls[i * q * (k + 1)..][..q * (k + 1)];
        let (x, t) = (&x[i * q * p..][..q * p], &t[i * g * p..][..g * p]);
        reference::compute(&s, cls, &labels, x, t, &mut want[i * q * g..][..q * g]);
    }
    for (i, want) in want.iter_mut().enumerate() {
        if of.labels[i / (q * g) * g + i % g] < 0 {
            *want = 0.0;
        }
    }
    // Sums over the points of a thread, a warp and the warps, about twelve operations per term.
    // Terms of the cross-entropy are differences of values up to 9, and its mean has weight 5. Dice
    // and class costs are below 1, with weights 5 and 2.
    let depth = p.div_ceil(256) as f64 + 5.0 + 8.0 + 12.0;
    let bound = UNIT * (depth * (5.0 * 19.0 + 2.0 * 5.0) + 2.0 * ((k + 1) as f64 + 20.0));
    verification.within(&format!("{what}: cost"), &got, &want, |_| bound);
    Ok(())
}

/// Ten outputs of four images at the sizes of the recipe.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (b, s) = (40, MatchCost::new(100, 19, 19, 12544));
    let MatchCost { q, g, k, p, .. } = s;
    let cls = filled::<f32>(device, "cls", b * q * (k + 1), 1)?;
    let labels: Vec<i32> = (0..b * g).map(|i| (i % k) as i32).collect();
    let labels = device.upload("labels", &labels)?;
    let (x, t) = (filled(device, "x", b * q * p, 2)?, device.zeros("t", b * g * p)?);
    let mut cost = device.alloc("cost", b * q * g)?;
    let run = move || {
        let (cls, labels) = (cls.view(), labels.view());
        s.compute_gpu(device, b, cls, labels, x.view(), t.view(), cost.view_mut())
    };
    let bytes = 4 * b * (q * (k + 1) + g + q * p + g * p + q * g);
    let shape = format!("{b} x [{q}, {g}, {k}, {p}]");
    Ok(vec![Timed::new("match_cost_f32", shape, 6 * b * q * g * p, bytes, run)])
}
