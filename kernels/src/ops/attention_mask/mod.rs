//! Mask of the keys that a query of the mask decoder may not attend to, from its last mask
//! prediction.
//!
//! ```text
//! v       = bilinear resize of the mask logits to the size of the level
//! raw     = sigmoid(v) < 0.5
//! used    = raw, except that a row with every key blocked becomes open
//! ```
//! `sigmoid(v) < 0.5` uses the correctly rounded f32 value of the sigmoid: `v` must be below zero
//! by enough that the sigmoid does not round to one half. The next f32 below 0.5 is 2^-25 away, so
//! half that spacing divided by the slope 1/4 gives `v < -2^-24`.
//!
//! Shapes: logits `[n, h, w]` with `n = b q`; flags `[n, ho, wo]` as bytes, 1 = blocked. The flags
//! are constants: no gradient. Only one resized map is in memory at a time; only the flags are
//! written. Cost: see [`crate::ops::resize`].
//!
//! On a GPU: one level reads 400 rows of 128 x 128 f32 logits, 26 MB; the floor on an H200
//! (4.3 TB/s) is 6 us, at 12 FLOP per key. One block handles one row, since all keys of a row must
//! be known before it can be opened. Resizing and comparing are one pass.
//!
//! Source: spec mask2former §3.3 and §3.4.

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::Write;
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::ops::resize::{Axis, Resize};

/// Half the spacing of f32 below 0.5, divided by the slope of the sigmoid at zero.
const THRESHOLD: f64 = -1.0 / (1u64 << 24) as f64;

/// Sizes and tap tables of an attention mask.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionMask {
    /// Rows of keys: one per query of each image.
    pub n: usize,
    /// Bilinear taps from rows of the mask to rows of the level.
    pub y: Axis,
    /// Bilinear taps from columns of the mask to columns of the level.
    pub x: Axis,
}

impl Operation for AttentionMask {
    const NAME: &'static str = "attention_mask";

    fn is_empty(&self) -> bool {
        self.n == 0
    }
}

impl AttentionMask {
    /// The resampling of one row.
    fn row(&self) -> Resize {
        Resize { n: 1, c: 1, y: self.y.clone(), x: self.x.clone() }
    }

    /// Keys of all rows.
    fn keys(&self) -> usize {
        self.n * self.y.n_out() * self.x.n_out()
    }
}

/// Call that writes the flags.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Logits of the masks, `[n, h, w]`.
    pub logits: M::In<'a, T>,
    /// Flags, `[n, ho, wo]`, 1 where a key is blocked.
    pub used: M::Out<'a, u8>,
    /// The same flags before rows were opened; optional.
    pub raw: Option<M::Out<'a, u8>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = AttentionMask;

    fn list(&mut self, s: &AttentionMask, w: &mut impl Walk<'a, M>) {
        w.reads("logits", &mut self.logits, s.n * s.y.n_in() * s.x.n_in());
        w.writes("used", &mut self.used, s.keys());
        w.stores_if("raw", &mut self.raw, s.keys(), Write::Over);
    }
}
