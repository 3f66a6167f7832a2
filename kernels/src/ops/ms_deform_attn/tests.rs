use super::{Backward, Forward, MsDeformAttn};
use crate::call::{Call, Host};
use crate::check::{assert_close, noise};

/// Inputs with offsets of a few pixels, so that points are on other rows, on the border and
/// outside.
fn inputs(s: &MsDeformAttn) -> [Vec<f32>; 4] {
    let rows = s.b * s.tokens() * s.heads;
    let offsets = noise::<f32>(rows * s.samples() * 2, 2).iter().map(|v| v * 2.5).collect();
    let (value, logits) = (noise(rows * s.d, 1), noise(rows * s.samples(), 3));
    [value, offsets, logits, noise(rows * s.d, 4)]
}

#[test]
fn points_outside_contribute_nothing() {
    let s = MsDeformAttn { b: 1, levels: vec![(2, 2)], heads: 1, d: 2, points: 2 };
    let value = &[1.0; 8];
    // The first point stays on its token, the second leaves the level; their weights are equal.
    let offsets: Vec<f32> = (0..4).flat_map(|_| [0.0, 0.0, 50.0, f32::NAN]).collect();
    let (mut out, mut attn) = (vec![0.0; 8], vec![0.0; 8]);
    let (offsets, logits) = (&offsets[..], &[0.0; 8]);
    let (out_of, attn_of) = (&mut out, &mut attn);
    Forward::<Host, _> { value, offsets, logits, out: out_of, attn: attn_of }.run(&s).unwrap();
    assert_close("out", &out, &[0.5; 8], 1e-6);
    let mut doffsets = [f32::NAN; 16];
    let (dvalue, dlogits) = (None, None);
    let (attn, dout) = (&attn, &noise(8, 5)[..]);
    let wanted = Some(&mut doffsets[..]);
    let c = Backward::<Host, f32> { value, offsets, attn, dout, dvalue, doffsets: wanted, dlogits };
    c.run(&s).unwrap();
    assert!(doffsets.chunks(4).all(|d| d[2] == 0.0 && d[3] == 0.0));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let levels = vec![(3, 4), (6, 8), (12, 16)];
    let s = MsDeformAttn { b: 2, levels, heads: 3, d: 32, points: 4 };
    let inputs = inputs(&s);
    let [value, offsets, logits, dout] = inputs.each_ref().map(|x| &x[..]);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let [mut out, mut dvalue, mut doffsets, mut attn, mut dlogits] =
                [value, value, offsets, logits, logits].map(|x| vec![0.0; x.len()]);
            let (out_of, attn_of) = (&mut out[..], &mut attn[..]);
            let c = Forward::<Host, _> { value, offsets, logits, out: out_of, attn: attn_of };
            c.run(&s).unwrap();
            let c = Backward::<Host, _> {
                value,
                offsets,
                attn: &attn,
                dout,
                dvalue: Some(&mut dvalue),
                doffsets: Some(&mut doffsets),
                dlogits: Some(&mut dlogits),
            };
            c.run(&s).unwrap();
            [out, dvalue, doffsets, dlogits]
        })
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn impossible_sizes_are_named() {
    let s = MsDeformAttn { b: 1, levels: vec![(2, 0)], heads: 1, d: 1, points: 1 };
    let error = Forward::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "ms_deform_attn: a level of 2 by 0 has no token to sample");
}
