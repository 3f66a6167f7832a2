//! Attention masks and position codes: no gradients.

use dressage_kernels::attention_mask::AttentionMask;
use dressage_kernels::resize::{Axis, Mode, Step};
use dressage_kernels::sine_position;

use super::shape_error;
use crate::{DType, EngineError, Result, Tensor, floats, forbid_gradient};

/// Which keys a query does not attend to (spec mask2former §3.3, §3.4): mask logits `[b, q, h, w]`
/// resized to `size`, 1 where the sigmoid is below one half. Returns the raw mask and the one in
/// use, where rows that were blocked everywhere are open; both `[b, q, size]` (u8).
///
/// # Errors
/// Logits that need a gradient; another number of axes; a type other than f32 and f64.
pub fn attention_mask(logits: &Tensor, size: [usize; 2]) -> Result<(Tensor, Tensor)> {
    forbid_gradient("attention_mask", "logits", logits)?;
    let &[b, q, h, w] = logits.shape() else {
        return Err(shape_error("attention_mask", "logits", "[b, q, h, w]", logits));
    };
    let y = Axis::new(h, size[0], Mode::Bilinear, Step::Size)?;
    let x = Axis::new(w, size[1], Mode::Bilinear, Step::Size)?;
    let mut raw = Tensor::empty::<u8>(&[b, q, size[0] * size[1]]);
    let mut used = Tensor::empty::<u8>(&[b, q, size[0] * size[1]]);
    floats!("attention_mask", logits, T => {
        let mask = AttentionMask { n: b * q, y: &y, x: &x };
        mask.compute(logits.data::<T>()?, used.data_mut()?, Some(raw.data_mut()?))?;
        Ok((raw, used))
    })
}

/// Sine position code of an h×w map, `[h * w, c]` (spec mask2former §2.2).
///
/// # Errors
/// Channels that do not divide by 4; a type other than f32 and f64.
pub fn sine_position(h: usize, w: usize, c: usize, dtype: DType) -> Result<Tensor> {
    let mut code = Tensor::empty_of(dtype, &[h * w, c]);
    match dtype {
        DType::F32 => sine_position::sine_position(h, w, c, code.data_mut::<f32>()?)?,
        DType::F64 => sine_position::sine_position(h, w, c, code.data_mut::<f64>()?)?,
        found => {
            return Err(EngineError::Type { op: "sine_position", expected: "f32 or f64", found });
        }
    }
    Ok(code)
}
