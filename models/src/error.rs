//! What can go wrong in building, loading and running a network.

use std::path::PathBuf;

use dressage_engine::{EngineError, Tensor};

/// An error of the models; each names the file, tensor or setting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// From a kernel called directly.
    #[error(transparent)]
    Kernel(#[from] dressage_kernels::KernelError),
    /// A file that cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A file whose bytes do not hold: cut short, changed on the way, or of another form. What to
    /// do about it depends on where it came from.
    #[error("{path}: {cause}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        cause: String,
    },
    /// A tensor of a file that holds NaN, infinity, or a number beyond the range of f32.
    #[error(
        "{path}: tensor {tensor} holds {value:?} at element {at} of {shape:?}{}; weights must be \
         finite numbers, so use a file from before they broke",
        beyond(.value)
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file names it.
        tensor: String,
        /// Sizes of its axes.
        shape: Vec<usize>,
        /// The first such element, in row-major order.
        at: usize,
        /// Its value, finite if only f32 cannot hold it.
        value: f64,
    },
    /// Weights that do not fit the network: missing, left over or of another shape.
    #[error("{source_name} does not fit {network}: {difference}")]
    Mismatch {
        /// Where the weights come from.
        source_name: String,
        /// What they were to fill.
        network: String,
        /// The difference, tensor by tensor.
        difference: String,
    },
    /// A setting that cannot work.
    #[error("{0}")]
    Config(String),
    /// No assignment, because a cost is not a number.
    #[error("matching: {0}")]
    Matching(String),
}

/// The fault of a finite value.
fn beyond(value: &f64) -> &'static str {
    if value.is_finite() { ", which is beyond the range of f32" } else { "" }
}

impl ModelError {
    /// The same as an error of the engine, for a part `op` of a network that the engine calls again
    /// on `x`. Such a part calls little but the engine.
    pub(crate) fn into_engine(self, op: &'static str, x: &Tensor) -> EngineError {
        match self {
            ModelError::Engine(error) => error,
            ModelError::Kernel(error) => error.into(),
            other => {
                let (expected, found) = (other.to_string(), x.shape().to_vec());
                EngineError::Shape { op, arg: "x", expected, found }
            }
        }
    }
}

/// Result of a model call.
pub type Result<T> = std::result::Result<T, ModelError>;
