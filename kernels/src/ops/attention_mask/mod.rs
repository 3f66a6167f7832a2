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

mod gpu;
pub(crate) mod verify;

use rayon::prelude::*;

pub use gpu::AttentionMaskGpu;

use crate::call::{Call, Host};
use crate::ops::resize::{Axis, Forward, Resize};
use crate::{KernelError, Real, Result, check_len, dry_run};

/// Half the spacing of f32 below 0.5, divided by the slope of the sigmoid at zero.
const THRESHOLD: f64 = -1.0 / (1u64 << 24) as f64;

/// Sizes and tap tables of an attention mask.
#[derive(Debug, Clone, Copy)]
pub struct AttentionMask<'a> {
    /// Rows of keys: one per query of each image.
    pub n: usize,
    /// Bilinear taps from rows of the mask to rows of the level.
    pub y: &'a Axis,
    /// Bilinear taps from columns of the mask to columns of the level.
    pub x: &'a Axis,
}

impl AttentionMask<'_> {
    /// Writes `used` `[n, ho, wo]` and, if requested, `raw`: the same flags before rows were
    /// opened.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn compute<T: Real>(
        &self,
        logits: &[T],
        used: &mut [u8],
        raw: Option<&mut [u8]>,
    ) -> Result<()> {
        let one = Resize { n: 1, c: 1, y: self.y.clone(), x: self.x.clone() };
        let (map, keys) = (one.input_len(), one.output_len());
        check_len("attention_mask", "logits", logits, self.n * map)?;
        check_len("attention_mask", "used", used, self.n * keys)?;
        if let Some(raw) = &raw {
            check_len("attention_mask", "raw", raw, self.n * keys)?;
        }
        if dry_run::skip("attention_mask") {
            return Ok(());
        }
        if self.n == 0 {
            return Ok(());
        }
        let rows = logits.par_chunks(map).zip(used.par_chunks_mut(keys));
        let block = |values: &mut Vec<T>, (logits, used): (&[T], &mut [u8])| {
            values.resize(keys, T::ZERO);
            Forward::<Host, _> { x: logits, y: values }.run(&one)?;
            for (used, v) in used.iter_mut().zip(&*values) {
                *used = u8::from(*v < T::of(THRESHOLD));
            }
            Ok::<(), KernelError>(())
        };
        match raw {
            Some(raw) => rows.zip(raw.par_chunks_mut(keys)).try_for_each_init(
                Vec::new,
                |values, ((logits, used), raw)| {
                    block(values, (logits, &mut *used))?;
                    raw.copy_from_slice(used);
                    reset(used);
                    Ok(())
                },
            ),
            None => rows.try_for_each_init(Vec::new, |values, (logits, used)| {
                block(values, (logits, &mut *used))?;
                reset(used);
                Ok(())
            }),
        }
    }
}

/// Opens a row with every key blocked: attention over no keys is undefined.
fn reset(row: &mut [u8]) {
    if !row.contains(&0) {
        row.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::noise;
    use crate::ops::resize::{Mode, Step};

    fn axis(n_in: usize, n_out: usize) -> Axis {
        Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).unwrap()
    }

    fn check<T: Real>() {
        for (n, h, w, ho, wo) in [(1, 1, 1, 1, 1), (5, 13, 7, 4, 9), (3, 128, 128, 16, 16)] {
            let (y, x) = (axis(h, ho), axis(w, wo));
            let mut logits = noise::<T>(n * h * w, 1);
            // The last row is negative everywhere.
            logits[(n - 1) * h * w..].iter_mut().for_each(|v| *v = -v.abs() - T::of(0.1));
            let mut resized = vec![T::ZERO; n * ho * wo];
            let resize = Resize { n, c: 1, y: y.clone(), x: x.clone() };
            Forward::<Host, _> { x: &logits, y: &mut resized }.run(&resize).unwrap();
            let want: Vec<u8> =
                resized.iter().map(|v| u8::from(v.sigmoid() < T::of(0.5))).collect();
            let (mut used, mut raw) = (vec![9; n * ho * wo], vec![9; n * ho * wo]);
            let s = AttentionMask { n, y: &y, x: &x };
            s.compute(&logits, &mut used, Some(&mut raw)).unwrap();
            assert_eq!(raw, want);
            let (last, others) = (&used[(n - 1) * ho * wo..], &used[..(n - 1) * ho * wo]);
            assert!(last.iter().all(|&v| v == 0), "a row without open keys stays blocked");
            assert_eq!(others, &want[..others.len()]);
            let mut again = vec![9; n * ho * wo];
            s.compute(&logits, &mut again, None).unwrap();
            assert_eq!(again, used);
        }
    }

    #[test]
    fn flags_follow_the_sigmoid_and_full_rows_open() {
        check::<f32>();
        check::<f64>();
    }

    #[test]
    fn a_logit_whose_sigmoid_rounds_to_one_half_is_open() {
        let (y, x) = (axis(1, 1), axis(7, 7));
        let edge = -(2f32.powi(-24));
        let logits = [0.0, -0.0, 1.0, edge, edge * (1.0 + f32::EPSILON), -1e-30, -2e-7];
        let mut used = [9; 7];
        AttentionMask { n: 1, y: &y, x: &x }.compute(&logits, &mut used, None).unwrap();
        assert_eq!(used, [0, 0, 0, 0, 1, 0, 1]);
        // The same with the sigmoid in f64, rounded once.
        let rounded = |v: f32| ((1.0 / (1.0 + (-f64::from(v)).exp())) as f32) < 0.5;
        assert_eq!(used.map(|u| u == 1), logits.map(rounded));
    }

    #[test]
    fn wrong_lengths_are_named() {
        let a = axis(4, 2);
        let s = AttentionMask { n: 1, y: &a, x: &a };
        let error = s.compute(&[0.0f32; 15], &mut [0; 4], None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attention_mask: logits has 15 elements, its sizes require 16"
        );
    }
}
