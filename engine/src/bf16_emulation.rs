//! The rounding of a device on the host: what bf16 costs, without a device's kernels.
//!
//! A device whose working type is bf16 computes in f32 and rounds what it stores. Within
//! [`emulate`] the host does the same: the result of every operation, and every gradient on its
//! way to another operation, is rounded to what bf16 holds and kept as f32. Errors of kernels in
//! bf16 are judged against the error that this makes.
//!
//! A little more is rounded than on a device, which keeps statistics, sampled points and losses in
//! f32; work of that kind is to be left outside. Gradients of leaves are sums and stay f32, as
//! there.

use half::bf16;

use crate::{DType, Result, Tensor, ambient};

/// Runs `f` with results and gradients of f32 in host memory rounded to bf16, on this thread.
pub fn emulate<R>(f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.bf16 = true, f)
}

/// A constant with the elements of `x`, f32 in host memory, as bf16 holds them.
///
/// # Errors
/// Another type or place.
pub fn to_bf16(x: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = x.data::<f32>()?.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    Tensor::from_slice(&values, x.shape())
}

/// What is stored of `x` now; its place in the graph stays.
pub(crate) fn stored(x: Tensor) -> Tensor {
    if !ambient::read(|ambient| ambient.bf16) || x.dtype() != DType::F32 || x.device().is_some() {
        return x;
    }
    match to_bf16(&x) {
        Ok(y) => y.with_origin(x.origin.clone()),
        // Both of its reasons were looked at above.
        Err(_) => x,
    }
}
