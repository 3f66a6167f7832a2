//! From one type to another.

use crate::{Backward, DType, Edge, EngineError, Gradients, Result, Tensor, record};

/// `x` as `dtype`: on a device between f32 and bf16, rounded to nearest. Free where the type is
/// that already; its gradient comes back in the type of `x`.
///
/// # Errors
/// Other types that differ; f32 and bf16 in host memory.
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
        // A gradient arrives in the type of the value it belongs to.
        grads.add(&self.to, dy)
    }
}
