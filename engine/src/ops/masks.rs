//! Attention masks and position codes; both have no gradient.

use dressage_kernels::ops::attention_mask::{AttentionMask, Forward};
use dressage_kernels::ops::resize::{Axis, Mode, Step};
use dressage_kernels::ops::sine_position;

use super::shape_error;
use crate::call::{Place, call};
use crate::{DType, EngineError, Result, Tensor, forbid_gradient};

/// Computes which keys each query does not attend to (spec mask2former §3.3, §3.4). It resizes mask
/// logits `[b, q, h, w]` to `size`; the mask is 1 where the sigmoid is below one half. Returns the
/// raw mask and the mask in use, in which rows that block all keys are opened. Both are
/// `[b, q, size]` (u8).
///
/// # Errors
/// Logits that need a gradient; another number of axes; a type without a kernel.
pub fn attention_mask(logits: &Tensor, size: [usize; 2]) -> Result<(Tensor, Tensor)> {
    forbid_gradient("attention_mask", "logits", logits)?;
    let &[b, q, h, w] = logits.shape() else {
        return Err(shape_error("attention_mask", "logits", "[b, q, h, w]", logits));
    };
    let y = Axis::new(h, size[0], Mode::Bilinear, Step::Size)?;
    let x = Axis::new(w, size[1], Mode::Bilinear, Step::Size)?;
    let place = logits.device();
    let mut raw = Tensor::empty_on(place, DType::U8, &[b, q, size[0] * size[1]])?;
    let mut used = Tensor::empty_on(place, DType::U8, &[b, q, size[0] * size[1]])?;
    call!(logits, &AttentionMask { n: b * q, y, x }, |M, T| Forward::<M, T> {
        logits: M::read(logits)?,
        used: M::write(&mut used)?,
        raw: Some(M::write(&mut raw)?),
    })?;
    Ok((raw, used))
}

/// Sine position code of an h×w map, `[h * w, c]` (spec mask2former §2.2). It has the type and the
/// place of `like`. The host computes it and a device caches it.
///
/// # Errors
/// Channels that do not divide by 4; a type that is not a float; no room on the device.
pub fn sine_position(h: usize, w: usize, c: usize, like: &Tensor) -> Result<Tensor> {
    let dtype = like.dtype().of_sums();
    let compute = || {
        let mut code = Tensor::empty_of(dtype, &[h * w, c]);
        match dtype {
            DType::F32 => sine_position::sine_position(h, w, c, code.data_mut::<f32>()?)?,
            DType::F64 => sine_position::sine_position(h, w, c, code.data_mut::<f64>()?)?,
            found => {
                let expected = "f32 or f64";
                return Err(EngineError::Type { op: "sine_position", expected, found });
            }
        }
        Ok(code)
    };
    let Some(device) = like.device() else { return compute() };
    let numbers = [h, w, c].map(|n| n as u64);
    Tensor::table(device, like.dtype(), &[h * w, c], ("sine_position", &numbers), compute)
}
