//! Sizes at which resampling is checked and timed.

use super::{Axis, Backward, Forward, Mode, Resize};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

const ALL: [Mode; 4] = [Mode::Bilinear, Mode::Bicubic, Mode::BicubicAntialias, Mode::Nearest];

/// Taps by output size.
fn axis((n_in, n_out): (usize, usize), mode: Mode) -> Axis {
    Axis::tabulate(n_in, n_out, mode, n_in as f64 / n_out as f64)
}

/// Four taps for each pixel of the larger map.
fn flops(s: &Resize) -> usize {
    8 * s.input_len().max(s.output_len())
}

/// Identity, one pixel on either side, up, down, primes, a scale factor, the run-time step of DINOv2:
/// each with every mode, along rows and along columns.
fn axes_of_the_host() -> Vec<Resize> {
    let mut all = Vec::new();
    for mode in ALL {
        let other = || Axis::tabulate(11, 17, mode, 11.0 / 17.0);
        let sizes = [(5, 5), (1, 4), (7, 1), (3, 7), (13, 5), (4, 16), (37, 32)];
        let mut axes: Vec<Axis> = sizes.map(|size| axis(size, mode)).to_vec();
        axes.push(Axis::tabulate(7, 3, mode, 2.0));
        axes.push(Axis::tabulate(37, 32, mode, 37.0 / 32.1));
        for of in axes {
            // Planar maps, part of a vector of channels, more than one block of them.
            for c in [1, 3, 70] {
                all.push(Resize { n: 2, c, y: of.clone(), x: other() });
                all.push(Resize { n: 2, c, y: other(), x: of.clone() });
            }
        }
    }
    all
}

impl Checked for Resize {
    fn checks() -> Checks<Resize> {
        let bilinear = |n, c, y, x| {
            let [y, x] = [y, x].map(|size| axis(size, Mode::Bilinear));
            Resize { n, c, y, x }
        };
        let square = |(n, c, from, to)| bilinear(n, c, (from, to), (from, to));
        let mixed = |n, c| {
            let (y, x) = (axis((6, 11), Mode::Bicubic), axis((12, 5), Mode::BicubicAntialias));
            Resize { n, c, y, x }
        };
        let nearest =
            Resize { n: 2, c: 3, y: axis((3, 7), Mode::Nearest), x: axis((9, 4), Mode::Nearest) };
        let name = |s: &Resize| {
            let ([h, ho], [w, wo]) = ([s.y.n_in(), s.y.n_out()], [s.x.n_in(), s.x.n_out()]);
            format!("{} x {h}x{w} to {ho}x{wo} x {}", s.n, s.c)
        };
        Checks::new(name)
            .named(Resize::kernel)
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", flops))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", flops))
            .gradients(ALL.into_iter().flat_map(|mode| {
                let of = |(c, y, x)| Resize { n: 2, c, y: axis(y, mode), x: axis(x, mode) };
                [(1, (3, 7), (5, 2)), (3, (4, 4), (2, 5)), (2, (1, 3), (3, 1))].map(of)
            }))
            // Planar maps, part of a vector of channels, whole vectors; each up, down and with every
            // mode.
            .sizes([1, 3, 40].into_iter().flat_map(|c| {
                [
                    bilinear(1, c, (1, 1), (1, 3)),
                    bilinear(2, c, (5, 20), (7, 14)),
                    bilinear(2, c, (13, 4), (9, 9)),
                    mixed(1, c),
                ]
            }))
            .sizes([nearest])
            .host_sizes(axes_of_the_host())
            .empty([(0, 3, 4, 8), (2, 0, 4, 8)].map(square))
            // Finest feature map of four images of 512 px for the pixel decoder; the masks of 100
            // queries of four images, resized to the crop.
            .timed([(4, 1024, 32, 128), (400, 1, 128, 512)].map(square))
            .timed_on_host([
                ("ViT-L tap x4", square((1, 1024, 32, 128))),
                ("ViT-S tap x4", square((1, 384, 32, 128))),
                ("ViT-L tap x0.5", square((1, 1024, 32, 16))),
                ("100 mask logits to the crop", square((100, 1, 128, 512))),
                ("19 scores to 1024 px", square((19, 1, 512, 1024))),
            ])
    }
}
