//! Sizes at which depthwise convolutions are checked and timed.

use super::{Backward, DepthwiseConv, Forward, ParameterGradients};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

/// Sizes with this map, channels, kernel and padding.
fn conv([b, h, w]: [usize; 3], c: usize, [k, pad]: [usize; 2]) -> DepthwiseConv {
    DepthwiseConv { b, h, w, c, k, pad }
}

impl Checked for DepthwiseConv {
    fn checks() -> Checks<DepthwiseConv> {
        let flops = |s: &DepthwiseConv| 2 * s.lengths()[2] * s.k * s.k;
        let stage = |side: usize, c: usize| conv([1, side, side], c, [7, 3]);
        Checks::new(|s: &DepthwiseConv| {
            let DepthwiseConv { b, h, w, c, k, pad } = s;
            format!("[{b}, {h}, {w}, {c}] + {pad} by {k} x {k}")
        })
        .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", flops))
        .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", flops))
        .pass(
            Pass::of::<ParameterGradients<'_, Host, f32>>("bwd_parameters", flops)
                .accurate(&["dweight", "dbias"], 1e-5),
        )
        // The published kernel, an even one, no padding, the most padding, 1 x 1.
        .gradients([
            conv([2, 5, 4], 3, [7, 3]),
            conv([1, 4, 5], 2, [2, 1]),
            conv([2, 4, 5], 3, [3, 0]),
            conv([1, 2, 3], 2, [3, 2]),
            conv([1, 2, 3], 2, [1, 0]),
        ])
        // Odd channels, whole vectors of channels, more taps in a row than are read together, an
        // even kernel, one channel.
        .sizes([
            conv([2, 7, 5], 3, [7, 3]),
            conv([1, 6, 9], 16, [7, 3]),
            conv([1, 5, 7], 8, [9, 4]),
            conv([2, 4, 5], 11, [4, 2]),
            conv([1, 3, 2], 1, [3, 1]),
        ])
        // Columns of several blocks, more lines than warps, splits of them, two blocks of channels.
        .sizes([conv([1, 2, 70], 40, [3, 1]), conv([3, 7, 2], 264, [3, 1])])
        // Several strips with and without a remainder, panels of channels with one.
        .host_sizes([
            conv([1, 1, 1], 1, [1, 0]),
            conv([2, 64, 5], 32, [7, 3]),
            conv([1, 70, 33], 40, [7, 3]),
            conv([1, 37, 6], 17, [5, 0]),
            conv([1, 33, 4], 19, [6, 5]),
        ])
        .unaligned(1, [conv([1, 4, 5], 16, [3, 1])])
        .empty([conv([0, 3, 3], 2, [3, 1]), conv([1, 3, 3], 0, [3, 1])])
        .refused([
            conv([1, 2, 2], 1, [3, 0]),
            conv([1, 2, 2], 1, [10, 10]),
            conv([1, 0, 2], 1, [3, 1]),
        ])
        // The maps of ConvNeXt-L: four images of 512 px.
        .timed(
            [stage(128, 192), stage(64, 384), stage(32, 768), stage(16, 1536)]
                .map(|s| DepthwiseConv { b: 4, ..s }),
        )
        .timed_on_host([
            ("ConvNeXt-L, stride 4", stage(128, 192)),
            ("ConvNeXt-L, stride 8", stage(64, 384)),
            ("ConvNeXt-L, stride 16", stage(32, 768)),
            ("ConvNeXt-L, stride 32", stage(16, 1536)),
        ])
    }
}
