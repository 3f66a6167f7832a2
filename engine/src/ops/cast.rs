//! Conversion between element types.

use crate::{Backward, DType, Edge, EngineError, Gradients, Result, Tensor, record};

/// Converts `x` to `dtype`: on a device between f32 and bf16, rounded to nearest. If the type is
/// the same it copies nothing. The gradient has the type of `x`.
///
/// # Errors
/// Any other conversion; f32 and bf16 in host memory.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let Some(device) = x.device() else {
        return Err(EngineError::Type { op: "cast", expected: dtype.name(), found: x.dtype() });
    };
    let y = x.cast_on(device, dtype)?;
    Ok(record(y, &[x], || Cast { to: x.edge() }))
}

struct Cast {
    to: Edge,
}

impl Backward for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        // `add` converts the gradient to the type of its value.
        grads.add(&self.to, dy)
    }
}
