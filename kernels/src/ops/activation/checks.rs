//! Sizes at which activations are checked and timed.

use super::Activation::{Gelu, QuickGelu, Relu};
use super::{Backward, Forward, Pointwise};
use crate::call::Host;
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::operands::Values;

/// Operations per element.
fn flops(s: &Pointwise) -> usize {
    let each = match s.f {
        Gelu => 30,
        QuickGelu => 15,
        Relu => 1,
    };
    each * s.n
}

/// Error of a nonlinearity for an argument of 1, and of its derivative. They are stated, since the
/// fast GELU is another formula than that of the reference.
///
/// `erff` and `expf` are within two units of f32 (CUDA C++ Programming Guide), for values up to 2 and
/// to 1. Rounding of the argument adds at most as much. The arguments of QuickGELU reach 10, and the
/// relative error of a sigmoid is the error of its argument. ReLU has no arithmetic.
fn units(s: &Pointwise) -> f64 {
    match s.f {
        Gelu => 8.0 * UNIT,
        QuickGelu => 16.0 * UNIT,
        Relu => 0.0,
    }
}

/// Bounds of `y`.
fn forward(s: &Pointwise, _of: Arithmetic, known: &Values) -> Vec<f64> {
    known["x"].iter().map(|x| units(s) * x.abs()).collect()
}

/// Bounds of `dx`.
fn backward(s: &Pointwise, _of: Arithmetic, known: &Values) -> Vec<f64> {
    let bound = |(x, dy): (&f64, &f64)| units(s) * dy.abs() * (1.0 + x.abs());
    known["x"].iter().zip(&known["dy"]).map(bound).collect()
}

/// Each nonlinearity at each length.
fn sizes<const N: usize>(lengths: [usize; N]) -> impl Iterator<Item = Pointwise> {
    [Gelu, QuickGelu, Relu].into_iter().flat_map(move |f| lengths.map(|n| Pointwise { f, n }))
}

impl Checked for Pointwise {
    fn checks() -> Checks<Pointwise> {
        let hidden = |place| move |s| (place, s);
        Checks::new(|s: &Pointwise| format!("[{}]", s.n))
            .named(|s| match s.f {
                Gelu => "gelu",
                QuickGelu => "quick_gelu",
                Relu => "relu",
            })
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", flops).bound("y", forward))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", flops).bound("dx", backward))
            // Values far in both tails, and the kink of the ReLU.
            .scaled("x", 6.0)
            .edited("x", |_, x| x[0] = 0.0)
            .gradients(sizes([41]))
            // One element, a prime, whole blocks.
            .sizes(sizes([1, 13, 4099, 2048]))
            .unaligned(3, sizes([512]))
            .host_sizes(sizes([7, 16, 131, 5003, 100_003]))
            .empty(sizes([0]))
            // Hidden layers of a block of ViT-L for four images of 512 px, and of the decoder.
            .timed([Gelu, QuickGelu].map(|f| Pointwise { f, n: 4100 * 4096 }))
            .timed([Pointwise { f: Relu, n: 400 * 2048 }])
            .timed_on_host(sizes([1025 * 1536]).map(hidden("ViT-S")))
            .timed_on_host(sizes([1025 * 4096]).map(hidden("ViT-L")))
    }
}
