//! Sizes at which patch embedding is checked and timed.

use half::bf16;

use super::{Backward, Forward, ParameterGradients, PatchEmbed};
use crate::call::Host;
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::operands::Values;
use crate::device::Element;

/// Bounds of `y`: the product may be stored before the bias is added, or the bias rounded.
fn biased(s: &PatchEmbed, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (k, y) = (s.layer().k, &known["y"]);
    // Products are below 1.
    let sum = of.products(k + 1) * UNIT * (k + 1) as f64;
    let rounding = f64::from(if of.bf16 { bf16::ROUNDING } else { f32::ROUNDING });
    let bias = |i: usize| known.get("bias").map_or(0.0, |bias| bias[i % s.c].abs());
    let bound = |(i, y): (usize, &f64)| sum + rounding * (y.abs() + bias(i) + sum);
    y.iter().enumerate().map(bound).collect()
}

impl Checked for PatchEmbed {
    fn checks() -> Checks<PatchEmbed> {
        let flops = |s: &PatchEmbed| 2 * s.b * s.channels * s.h * s.w * s.c;
        let size = |(b, channels, h, w, p, c)| PatchEmbed { b, channels, h, w, p, c };
        let vit = |b, c| size((b, 3, 512, 512, 16, c));
        Checks::new(|PatchEmbed { b, channels, h, w, p, c }| {
            format!("{b} x {channels} x {h}x{w}, {p}x{p} to {c}")
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("fwd", flops)
                .bound("y", biased)
                .accurate(&["y"], 5e-6),
        )
        .pass(
            Pass::of::<Backward<'_, Host, f32>>("dx", flops)
                .on_tensor_cores(&["dx"])
                .accurate(&["dx"], 5e-6),
        )
        .pass(
            Pass::of::<ParameterGradients<'_, Host, f32>>("bwd", flops)
                .on_tensor_cores(&["dweight"])
                .accurate(&["dweight", "dbias"], 5e-6),
        )
        .gradients([(2, 3, 6, 9, 3, 5)].map(size))
        // One pixel, sides of several small patches, the patch size of the published weights.
        .sizes([(1, 1, 1, 1, 1, 1), (2, 3, 6, 9, 3, 5), (1, 3, 28, 14, 14, 8)].map(size))
        // Patches of 14 and 16 pixels as published.
        .host_sizes([(1, 3, 28, 42, 14, 19), (2, 3, 64, 32, 16, 48)].map(size))
        .empty(
            [(0, 3, 6, 9, 3, 5), (2, 0, 6, 9, 3, 5), (2, 3, 0, 9, 3, 5), (2, 3, 6, 9, 3, 0)]
                .map(size),
        )
        .refused([(1, 3, 30, 32, 16, 4), (1, 3, 32, 32, 0, 4)].map(size))
        // ViT-L on four images of 512 px.
        .timed([vit(4, 1024)])
        .timed_on_host([
            ("ViT-S", vit(1, 384)),
            ("ViT-B", vit(1, 768)),
            ("ViT-L", vit(1, 1024)),
        ])
    }
}
