//! Sizes at which convolutions are checked and timed.

use super::{Backward, Conv2d, Forward, ParameterGradients};
use crate::call::{Call, Host};
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::operands::Values;

/// Magnitudes of an operand.
fn sizes(known: &Values, name: &'static str) -> Vec<f64> {
    known[name].iter().map(|x| x.abs()).collect()
}

/// Bounds of `y`: the product is rounded to the storage type before the bias is added, or the bias
/// is.
fn biased(s: &Conv2d, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (x, weight, bias) = (sizes(known, "x"), sizes(known, "weight"), sizes(known, "bias"));
    let y = &known["y"];
    let mut size = vec![0.0; y.len()];
    let c = Forward::<Host, f64> { x: &x, weight: &weight, bias: Some(&bias), y: &mut size };
    Forward::<Host, f64>::reference(s, c);
    let bound = |(i, size): (usize, f64)| {
        let sum = of.products(s.kh * s.kw * s.ci + 1) * UNIT * size;
        sum + of.rounding() * (y[i].abs() + bias[i % s.co] + sum)
    };
    size.into_iter().enumerate().map(bound).collect()
}

/// Bounds of `dx`. The terms include the zeros of padding, which those of the reference do not.
fn gathered(s: &Conv2d, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (weight, dy) = (sizes(known, "weight"), sizes(known, "dy"));
    let mut size = vec![0.0; known["dx"].len()];
    Backward::<Host, f64>::reference(s, Backward { weight: &weight, dy: &dy, dx: &mut size });
    size.iter().map(|size| of.products(s.kh * s.kw * s.co) * UNIT * size).collect()
}

/// Bounds of `dweight`, with the zeros of padding. The old gradient is at most the new one and the
/// sum.
fn summed(s: &Conv2d, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (x, dy, new) = (sizes(known, "x"), sizes(known, "dy"), sizes(known, "dweight"));
    let (mut size, places) = (vec![0.0; new.len()], dy.len() / s.co);
    let (x, dweight) = (Some(&x[..]), Some(&mut size[..]));
    let c = ParameterGradients::<Host, f64> { x, dy: &dy, dweight, dbias: None };
    ParameterGradients::<Host, f64>::reference(s, c);
    let bound = |(size, new): (&f64, f64)| of.products(places + 1) * UNIT * (2.0 * size + new);
    size.iter().zip(new).map(bound).collect()
}

/// Sizes with these maps, channels, kernel, and stride and padding.
fn conv(
    [b, h, w]: [usize; 3],
    [ci, co]: [usize; 2],
    [kh, kw]: [usize; 2],
    [stride, pad]: [usize; 2],
) -> Conv2d {
    Conv2d { b, h, w, ci, co, kh, kw, stride, pad, dilation: 1 }
}

/// The same with distances between taps.
fn dilated(dilation: usize, s: Conv2d) -> Conv2d {
    Conv2d { dilation, ..s }
}

impl Checked for Conv2d {
    fn checks() -> Checks<Conv2d> {
        let flops = |s: &Conv2d| 2 * s.lengths()[2] * s.ci * s.kh * s.kw;
        let square = conv([1, 128, 128], [256, 256], [3, 3], [1, 1]);
        Checks::new(|s: &Conv2d| {
            let Conv2d { b, h, w, ci, co, kh, kw, stride, pad, dilation } = s;
            let apart = if *dilation == 1 { String::new() } else { format!(" x {dilation}") };
            format!("[{b}, {h}, {w}, {ci}] + {pad} by [{co}, {ci}, {kh}, {kw}]{apart} / {stride}")
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("fwd", flops)
                .bound("y", biased)
                .accurate(&["y"], 5e-6),
        )
        .pass(
            Pass::of::<Backward<'_, Host, f32>>("bwd", flops)
                .bound("dx", gathered)
                .accurate(&["dx"], 5e-6),
        )
        .pass(
            Pass::of::<ParameterGradients<'_, Host, f32>>("bwd_parameters", flops)
                .bound("dweight", summed)
                .accurate(&["dweight", "dbias"], 1e-5),
        )
        // 1 x 1, strides with a remainder, a kernel that is not square, padding wider than the
        // kernel, no padding, dilation as wide as the padding, dilation with a stride.
        .gradients([
            conv([2, 5, 7], [3, 4], [1, 1], [1, 0]),
            conv([2, 5, 7], [3, 4], [3, 3], [1, 1]),
            conv([1, 8, 6], [5, 2], [3, 3], [2, 1]),
            conv([2, 9, 7], [2, 3], [2, 4], [3, 0]),
            conv([1, 3, 4], [2, 2], [2, 2], [1, 2]),
            conv([1, 6, 5], [1, 2], [1, 1], [2, 0]),
            dilated(2, conv([1, 6, 5], [2, 3], [3, 3], [1, 2])),
            dilated(3, conv([1, 9, 8], [1, 2], [3, 2], [2, 1])),
        ])
        // Odd channels, whole vectors of channels, a stride, one row of taps, 1 x 1, one channel,
        // dilation.
        .sizes([
            conv([2, 7, 5], [3, 4], [3, 3], [1, 1]),
            conv([2, 7, 5], [8, 16], [3, 3], [1, 1]),
            conv([2, 7, 5], [3, 4], [3, 3], [2, 1]),
            conv([2, 7, 5], [3, 4], [1, 2], [1, 0]),
            conv([2, 7, 5], [3, 4], [1, 1], [1, 0]),
            conv([1, 2, 2], [1, 1], [2, 2], [2, 0]),
            dilated(2, conv([1, 7, 5], [8, 3], [3, 3], [1, 2])),
        ])
        // One pixel, the gradients' sizes in f32, the 3 x 3 of the pixel decoder over several
        // blocks, products large enough for threads, dilation.
        .host_sizes([
            conv([1, 1, 1], [1, 1], [1, 1], [1, 0]),
            conv([1, 1, 1], [2, 3], [3, 3], [1, 1]),
            conv([1, 8, 6], [5, 2], [3, 3], [2, 1]),
            conv([2, 9, 7], [2, 3], [2, 4], [3, 0]),
            conv([1, 3, 4], [2, 2], [2, 2], [1, 2]),
            conv([1, 6, 5], [1, 2], [1, 1], [2, 0]),
            conv([2, 23, 31], [80, 17], [3, 3], [1, 1]),
            conv([2, 17, 13], [24, 20], [3, 3], [1, 1]),
            conv([2, 17, 13], [24, 20], [3, 3], [2, 1]),
            conv([2, 17, 13], [24, 20], [1, 1], [1, 0]),
            dilated(4, conv([2, 17, 13], [24, 20], [3, 3], [1, 4])),
            dilated(2, conv([1, 9, 11], [5, 3], [3, 3], [2, 2])),
        ])
        .empty([conv([0, 3, 3], [2, 2], [3, 3], [1, 1])])
        .refused([
            conv([1, 2, 2], [1, 1], [1, 1], [0, 0]),
            dilated(0, conv([1, 2, 2], [1, 1], [1, 1], [1, 0])),
        ])
        // Finest map of the pixel decoder for four 512 px images.
        .timed([Conv2d { b: 4, ..square }])
        .timed_on_host([
            ("3 x 3 at stride 4", square),
            ("ViT-L to 256 channels", conv([1, 64, 64], [1024, 256], [1, 1], [1, 0])),
        ])
    }
}
