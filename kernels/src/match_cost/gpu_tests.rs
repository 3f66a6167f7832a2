use half::bf16;

use super::{MatchCost, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check<T: Float>(b: usize, q: usize, g: usize, k: usize, p: usize) {
    let device = Device::virtual_gpu();
    let s = MatchCost::new(q, g, k, p);
    let cls: Vec<f32> = noise::<f32>(b * q * (k + 1), 1).iter().map(|v| 4.0 * v).collect();
    let (cls, exact_cls) = stored::<T>(&cls);
    // The last target of an image pads.
    let label = |i: usize| if i % g + 1 == g && g > 1 { -1 } else { (i % k) as i32 };
    let labels: Vec<i32> = (0..b * g).map(label).collect();
    let x: Vec<f32> = noise::<f32>(b * q * p, 2).iter().map(|v| 9.0 * v).collect();
    let t: Vec<f32> =
        noise::<f32>(b * g * p, 3).iter().map(|v| (2.0 * v).clamp(0.0, 1.0)).collect();
    let run = || {
        let cls = device.upload("cls", &cls).unwrap();
        let labels = device.upload("labels", &labels).unwrap();
        let (x, t) = (device.upload("x", &x).unwrap(), device.upload("t", &t).unwrap());
        let mut cost = device.alloc("cost", b * q * g).unwrap();
        let (cls, labels, out) = (cls.view(), labels.view(), cost.view_mut());
        s.compute_gpu(&device, b, cls, labels, x.view(), t.view(), out).unwrap();
        device.download(cost.view()).unwrap()
    };
    let got = run();
    assert_eq!(got, run());
    let (x, t) = (wide(&x), wide(&t));
    let mut want = vec![0.0; b * q * g];
    for i in 0..b {
        let labels: Vec<i32> = labels[i * g..][..g].iter().map(|&l| l.max(0)).collect();
        let cls = &exact_cls[i * q * (k + 1)..][..q * (k + 1)];
        let (x, t) = (&x[i * q * p..][..q * p], &t[i * g * p..][..g * p]);
        reference::compute(&s, cls, &labels, x, t, &mut want[i * q * g..][..q * g]);
    }
    for (i, want) in want.iter_mut().enumerate() {
        if labels[i / (q * g) * g + i % g] < 0 {
            *want = 0.0;
        }
    }
    // Sums over the points of a thread, a warp and the warps, a dozen operations a term; terms of
    // the cross-entropy are differences of values up to 9, its mean has weight 5; dice and class
    // costs are below 1, of weight 5 and 2.
    let depth = p.div_ceil(256) as f64 + 5.0 + 8.0 + 12.0;
    let bound = UNIT * (depth * (5.0 * 19.0 + 2.0 * 5.0) + 2.0 * ((k + 1) as f64 + 20.0));
    let what = format!("match_cost{} {b} x [{q}, {g}, {k}, {p}]", T::SUFFIX);
    assert_within(&what, &got, &want, |_| bound);
}

#[test]
fn kernels_match_the_reference() {
    for (b, q, g, k, p) in [(1, 1, 1, 1, 1), (2, 3, 5, 4, 13), (2, 7, 4, 40, 700)] {
        check::<f32>(b, q, g, k, p);
        check::<bf16>(b, q, g, k, p);
    }
}
