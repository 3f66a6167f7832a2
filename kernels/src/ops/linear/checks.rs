//! Sizes at which linear layers are checked and timed.

use super::{Backward, Forward, ForwardRelu, Linear, ParameterGradients};
use crate::call::Host;
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::operands::Values;

/// Bounds of `y`, also behind a ReLU. With an epilogue the bias is rounded to the storage type,
/// without one the product is.
fn biased(s: &Linear, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (x, weight, bias) = (&known["x"], &known["weight"], &known["bias"]);
    let bound = |at: usize| {
        let (i, j) = (at / s.m, at % s.m);
        let terms = || (0..s.k).map(|l| x[i * s.k + l] * weight[j * s.k + l]);
        let (product, size) = (terms().sum::<f64>().abs(), terms().map(f64::abs).sum::<f64>());
        let sum = of.products(s.k + 1) * UNIT * (size + bias[j].abs());
        sum + of.rounding() * (product.max(bias[j].abs()) + sum)
    };
    (0..s.n * s.m).map(bound).collect()
}

impl Checked for Linear {
    fn checks() -> Checks<Linear> {
        let flops = |s: &Linear| 2 * s.n * s.m * s.k;
        let size = |(n, m, k)| Linear { n, m, k };
        Checks::new(|s: &Linear| format!("[{}, {}, {}]", s.n, s.m, s.k))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("fwd", flops)
                    .bound("y", biased)
                    .accurate(&["y"], 5e-6),
            )
            .pass(
                Pass::of::<ForwardRelu<'_, Host, f32>>("fwd_relu", flops)
                    .bound("y", biased)
                    .accurate(&["y"], 5e-6),
            )
            .pass(
                Pass::of::<Backward<'_, Host, f32>>("bwd", flops)
                    .on_tensor_cores(&["dx"])
                    .accurate(&["dx"], 5e-6),
            )
            .pass(
                Pass::of::<ParameterGradients<'_, Host, f32>>("bwd_parameters", flops)
                    .on_tensor_cores(&["dweight"])
                    .accurate(&["dweight", "dbias"], 5e-6),
            )
            .gradients([(3, 5, 4)].map(size))
            // One element, primes, no multiples of a block size, no inputs: the bias alone.
            .sizes([(1, 1, 1), (7, 13, 5), (70, 24, 40), (2, 3, 0)].map(size))
            // A class layer, tokens of ViT-S, and a layer large enough for the blocked product.
            .host_sizes([(33, 50, 47), (100, 20, 256), (257, 384, 96), (257, 512, 384)].map(size))
            .empty([(0, 3, 2), (2, 0, 3)].map(size))
            // First layer of the MLP of ViT-L on four 512 px images.
            .timed([(4 * 1025, 4096, 1024)].map(size))
            .timed_on_host([
                ("ViT-S MLP up", size((1025, 1536, 384))),
                ("ViT-B qkv", size((1025, 2304, 768))),
                ("ViT-L MLP up", size((1025, 4096, 1024))),
                ("pixel decoder FFN", size((5376, 1024, 256))),
            ])
    }
}
