use super::{MsDeformAttn, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// Images, levels, heads, channels of a head, points.
type Case = (usize, &'static [(usize, usize)], usize, usize, usize);

/// Inputs with offsets of a few pixels, so that points are on other rows, on the border and
/// outside.
fn inputs<T: crate::Real>(s: &MsDeformAttn) -> [Vec<T>; 4] {
    let rows = s.b * s.tokens() * s.heads;
    let offsets = noise::<T>(rows * s.samples() * 2, 2).iter().map(|&v| v * T::of(2.5)).collect();
    let (value, logits) = (noise(rows * s.d, 1), noise(rows * s.samples(), 3));
    [value, offsets, logits, noise(rows * s.d, 4)]
}

#[test]
fn gradient_matches_central_differences() {
    let cases: [Case; 3] = [
        (1, &[(1, 1)], 1, 1, 1),
        (2, &[(2, 3), (3, 2)], 2, 3, 2),
        (1, &[(1, 2), (2, 2), (3, 5)], 1, 2, 2),
    ];
    for (b, levels, heads, d, points) in cases {
        let s = MsDeformAttn { b, levels, heads, d, points };
        let [value, offsets, logits, dout] = inputs::<f64>(&s);
        let run = |x: &[Vec<f64>]| {
            let (mut out, mut attn) = (vec![0.0; x[0].len()], vec![0.0; x[2].len()]);
            s.forward(&x[0], &x[1], &x[2], &mut out, &mut attn).unwrap();
            (out, attn)
        };
        let inputs = [value, offsets, logits];
        let attn = run(&inputs).1;
        let mut grads = [0, 1, 2].map(|i| vec![f64::NAN; inputs[i].len()]);
        let [dv, doff, dz] = &mut grads;
        s.backward(&inputs[0], &inputs[1], &attn, &dout, Some(dv), Some(doff), Some(dz)).unwrap();
        central_differences("ms_deform_attn", &inputs, &grads, |x| weighted_sum(&run(x).0, &dout));
    }
}

#[test]
fn fast_form_matches_reference() {
    let cases: [Case; 4] = [
        (1, &[(1, 1)], 1, 1, 1),
        (2, &[(3, 5), (7, 4)], 3, 13, 3),
        (2, &[(2, 3), (4, 6), (8, 12)], 8, 32, 4),
        (1, &[(8, 8), (16, 16), (32, 32)], 2, 48, 4),
    ];
    for (b, levels, heads, d, points) in cases {
        let s = MsDeformAttn { b, levels, heads, d, points };
        let [value, offsets, logits, dout] = inputs::<f32>(&s);
        let (mut out, mut attn) = (vec![f32::NAN; value.len()], vec![f32::NAN; logits.len()]);
        cpu::forward(&s, &value, &offsets, &logits, &mut out, &mut attn);
        let (mut out0, mut attn0) = (vec![0.0; value.len()], vec![0.0; logits.len()]);
        reference::forward(&s, &value, &offsets, &logits, &mut out0, &mut attn0);
        // Both versions use the same pixels; they differ only in the order of sums of a hundred
        // terms.
        assert_close("out", &out, &out0, 2e-6);
        assert_close("attn", &attn, &attn0, 2e-6);
        let fresh = || [&value, &offsets, &logits].map(|x| vec![f32::NAN; x.len()]);
        let (mut fast, mut slow) = (fresh(), fresh());
        let [dv, doff, dz] = &mut fast;
        let (dv, doff, dz) = (Some(&mut dv[..]), Some(&mut doff[..]), Some(&mut dz[..]));
        cpu::backward(&s, &value, &offsets, &attn0, &dout, dv, doff, dz);
        let [dv, doff, dz] = &mut slow;
        let (dv, doff, dz) = (Some(&mut dv[..]), Some(&mut doff[..]), Some(&mut dz[..]));
        reference::backward(&s, &value, &offsets, &attn0, &dout, dv, doff, dz);
        for (i, name) in ["dvalue", "doffsets", "dlogits"].into_iter().enumerate() {
            assert_close(name, &fast[i], &slow[i], 5e-6);
        }
        let mut alone = vec![f32::NAN; value.len()];
        cpu::backward(&s, &value, &offsets, &attn0, &dout, Some(&mut alone), None, None);
        assert_eq!(alone, fast[0], "dvalue depends on which gradients are wanted");
        let mut alone = vec![f32::NAN; offsets.len()];
        cpu::backward(&s, &value, &offsets, &attn0, &dout, None, Some(&mut alone), None);
        assert_eq!(alone, fast[1], "doffsets depends on which gradients are wanted");
    }
}

#[test]
fn points_outside_contribute_nothing() {
    let levels = [(2, 2)];
    let s = MsDeformAttn { b: 1, levels: &levels, heads: 1, d: 2, points: 2 };
    let value = vec![1.0f32; 8];
    // The first point stays on its token, the second leaves the level; their weights are equal.
    let offsets: Vec<f32> = (0..4).flat_map(|_| [0.0, 0.0, 50.0, f32::NAN]).collect();
    let (mut out, mut attn) = (vec![0.0; 8], vec![0.0; 8]);
    s.forward(&value, &offsets, &[0.0; 8], &mut out, &mut attn).unwrap();
    assert_close("out", &out, &[0.5; 8], 1e-6);
    let mut doffsets = [f32::NAN; 16];
    let (dout, doff) = (noise(8, 5), Some(&mut doffsets[..]));
    s.backward(&value, &offsets, &attn, &dout, None, doff, None).unwrap();
    assert!(doffsets.chunks(4).all(|d| d[2] == 0.0 && d[3] == 0.0));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let levels = [(3, 4), (6, 8), (12, 16)];
    let s = MsDeformAttn { b: 2, levels: &levels, heads: 3, d: 32, points: 4 };
    let [value, offsets, logits, dout] = inputs::<f32>(&s);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut out, mut attn) = (vec![0.0; value.len()], vec![0.0; logits.len()]);
            s.forward(&value, &offsets, &logits, &mut out, &mut attn).unwrap();
            let mut d = [&value, &offsets, &logits].map(|x| vec![0.0; x.len()]);
            let [dv, doff, dz] = &mut d;
            s.backward(&value, &offsets, &attn, &dout, Some(dv), Some(doff), Some(dz)).unwrap();
            (out, d)
        })
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn impossible_sizes_are_named() {
    let s = MsDeformAttn { b: 1, levels: &[(2, 0)], heads: 1, d: 1, points: 1 };
    let error = s.forward::<f32>(&[], &[], &[], &mut [], &mut []).unwrap_err();
    assert_eq!(error.to_string(), "ms_deform_attn: a level of 2 by 0 has no token to sample");
}
