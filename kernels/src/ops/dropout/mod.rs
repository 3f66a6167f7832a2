//! Dropout of elements or of whole images, with draws that are never stored.
//!
//! ```text
//! y[b, i] = x[b, i] / (1 - rate)   if u(b, i) >= rate, else 0
//! ```
//! Shapes: `x`, `y` `[b, n]`, `position` `[2]`. `u(b, i)` is draw `i` of the stream (seed, sample,
//! step) of [`Philox`](super::uniform::Philox), and draw 0 for every `i` if [`Dropout::whole`]:
//! stochastic depth. The sample is 2^20 times [`Dropout::site`] plus the number of the image. The
//! backward pass is the same operation on `dy`.
//!
//! Step and first image are read from device memory: a launch that is repeated draws anew, and an
//! image gets the same draws in whatever part of a batch it is.
//!
//! On a GPU: the input of a layer of a ViT-L for four images of 512 px, `[4, 1025 * 1024]` in bf16,
//! is read and written once, 17 MB: floor on an H200 (4.3 TB/s) 4 us. About 20 integer operations for
//! an element take as long.
//!
//! Source: Srivastava et al., "Dropout", JMLR 2014; spec peft-and-dgss §3, backbones §2.6.

mod checks;
mod gpu;
mod reference;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Place, rate and sizes of a dropout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Seed of the run.
    pub seed: u64,
    /// Number of this dropout in the network, below 2^20.
    pub site: u32,
    /// Share of elements or images that are dropped, in [0, 1).
    pub rate: f64,
    /// Whether an image is dropped as a whole.
    pub whole: bool,
    /// Images.
    pub b: usize,
    /// Elements of an image.
    pub n: usize,
}

impl Dropout {
    /// Purpose of the draws.
    const PURPOSE: u32 = 0x4452_4F45;

    /// Sample of image 0.
    fn sample(&self) -> u64 {
        u64::from(self.site) << 20
    }

    /// Factor of what is kept, as f32.
    fn factor(&self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }
}

impl Operation for Dropout {
    const NAME: &'static str = "dropout";

    fn check(&self) -> Result<()> {
        let refuse = |what| Err(KernelError::Size { op: Self::NAME, what });
        if !(0.0..1.0).contains(&self.rate) {
            return refuse(format!("the rate is {}, and must be in [0, 1)", self.rate));
        }
        if self.site >= 1 << 20 {
            return refuse(format!("the site is {}, and must be below 2^20", self.site));
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.b * self.n == 0
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Low 32 bits of the step, and the number of the first image in the batch, `[2]`.
    pub position: M::In<'a, i32>,
    /// Input, `[b, n]`.
    pub x: M::In<'a, T>,
    /// Result, `[b, n]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Dropout;

    fn list(&mut self, s: &Dropout, w: &mut impl Walk<'a, M>) {
        w.reads("position", &mut self.position, 2);
        w.reads("x", &mut self.x, s.b * s.n);
        w.writes("y", &mut self.y, s.b * s.n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, Host};

    fn run(s: &Dropout, position: [i32; 2]) -> Vec<f32> {
        let (x, mut y) = (vec![1.0f32; s.b * s.n], vec![0.0; s.b * s.n]);
        Forward::<Host, _> { position: &position, x: &x, y: &mut y }.run(s).unwrap();
        y
    }

    const SIZE: Dropout = Dropout { seed: 7, site: 3, rate: 0.25, whole: false, b: 3, n: 40_000 };

    #[test]
    fn the_share_of_zeros_is_the_rate_and_the_mean_stays() {
        let y = run(&SIZE, [5, 0]);
        let zeros = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
        assert!((zeros - 0.25).abs() < 0.005, "{zeros}");
        assert!(y.iter().all(|y| *y == 0.0 || *y == 4.0 / 3.0));
        assert!(run(&Dropout { rate: 0.0, ..SIZE }, [5, 0]).iter().all(|y| *y == 1.0));
    }

    #[test]
    fn seed_site_step_and_image_decide() {
        let first = |s: Dropout, position| run(&Dropout { b: 1, n: 256, ..s }, position);
        let base = first(SIZE, [5, 0]);
        assert_eq!(base, first(SIZE, [5, 0]));
        for (s, position) in [
            (Dropout { seed: 8, ..SIZE }, [5, 0]),
            (Dropout { site: 4, ..SIZE }, [5, 0]),
            (SIZE, [6, 0]),
            (SIZE, [5, 1]),
        ] {
            assert_ne!(base, first(s, position));
        }
    }

    #[test]
    fn parts_of_a_batch_get_the_draws_of_the_batch() {
        for whole in [false, true] {
            let s = Dropout { whole, n: 37, ..SIZE };
            let (all, rest) = (run(&s, [9, 0]), run(&Dropout { b: 2, ..s }, [9, 1]));
            assert_eq!(all[37..], rest);
        }
    }

    #[test]
    fn whole_images_are_dropped_or_kept() {
        let y = run(&Dropout { whole: true, b: 4000, n: 3, ..SIZE }, [1, 0]);
        assert!(y.chunks(3).all(|image| image.iter().all(|y| *y == image[0])));
        let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
        assert!((dropped - 0.25).abs() < 0.03, "{dropped}");
    }
}
