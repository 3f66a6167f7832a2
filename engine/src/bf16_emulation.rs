//! Emulation of a device's bf16 rounding on the host, without the kernels of a device.
//!
//! A device with working type bf16 computes in f32 and rounds its stored values. Within [`emulate`]
//! the host does the same. It rounds the result of every operation, and every gradient on its way
//! to another operation, to bf16 and keeps it as f32. The resulting error is the yardstick for the
//! errors of bf16 kernels.
//!
//! The emulation rounds a little more than a device, which keeps statistics, sampled points and
//! losses in f32. Such work should run outside of [`emulate`]. Gradients of leaves are sums and
//! stay f32, as on a device.

use half::bf16;

use crate::{DType, Result, Tensor, ambient};

/// Runs `f` on this thread with f32 results and gradients in host memory rounded to bf16.
pub fn emulate<R>(f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.bf16 = true, f)
}

/// A constant with the f32 elements of the host tensor `x`, rounded to bf16.
///
/// # Errors
/// If `x` has another type or is on a device.
pub fn to_bf16(x: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = x.data::<f32>()?.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    Tensor::from_slice(&values, x.shape())
}

/// Rounds `x` to bf16 within [`emulate`]; its place in the graph stays.
pub(crate) fn stored(x: Tensor) -> Tensor {
    if !ambient::read(|ambient| ambient.bf16) || x.dtype() != DType::F32 || x.device().is_some() {
        return x;
    }
    match to_bf16(&x) {
        Ok(y) => y.with_origin(x.origin.clone()),
        // Both causes of an error were excluded above.
        Err(_) => x,
    }
}
