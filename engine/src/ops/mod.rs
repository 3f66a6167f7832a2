//! Differentiable operations, one file each: shape check, kernel, backward pass.

mod layer_norm;
mod view;

pub use layer_norm::layer_norm;
pub use view::{reshape, rows};

use crate::{EngineError, Result, Tensor};

/// Fails unless `x` has exactly this shape.
pub(crate) fn expect_shape(
    op: &'static str,
    arg: &'static str,
    x: &Tensor,
    shape: &[usize],
) -> Result<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(EngineError::Shape { op, arg, expected: format!("{shape:?}"), found: x.shape().to_vec() })
}

/// An error that says in words which shape was expected.
pub(crate) fn shape_error(
    op: &'static str,
    arg: &'static str,
    expected: impl Into<String>,
    x: &Tensor,
) -> EngineError {
    EngineError::Shape { op, arg, expected: expected.into(), found: x.shape().to_vec() }
}
