//! Errors of building, loading and running a network.

use std::path::PathBuf;

use dressage_engine::{EngineError, Tensor};

/// An error of the models. Each names the file, tensor or setting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An error of the engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An error of a kernel that was called directly.
    #[error(transparent)]
    Kernel(#[from] dressage_kernels::KernelError),
    /// A file that cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
    /// A damaged file: truncated, changed in transfer or of another format. The remedy depends on
    /// where the file came from.
    #[error("{path}: {cause}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        cause: String,
    },
    /// A tensor of a file with NaN, infinity or a value beyond the range of f32.
    #[error(
        "{path}: tensor {tensor} holds {value:?} at element {at} of {shape:?}{}; weights must be \
         finite numbers, so use an earlier file",
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
        /// Its value; finite if it is only beyond the range of f32.
        value: f64,
    },
    /// Weights that do not fit the network: missing, left over or of another shape.
    #[error("{source_name} does not fit {network}: {difference}")]
    Mismatch {
        /// Source of the weights.
        source_name: String,
        /// The network that they were to fill.
        network: String,
        /// The difference, tensor by tensor.
        difference: String,
    },
    /// A setting that cannot work.
    #[error("{0}")]
    Config(String),
    /// A failed assignment, as a rule because a cost is NaN or infinite.
    #[error("matching: {0}")]
    Matching(String),
}

/// End of the message of [`ModelError::NotFinite`] for a finite value.
fn beyond(value: &f64) -> &'static str {
    if value.is_finite() { ", which is beyond the range of f32" } else { "" }
}

impl ModelError {
    /// Converts to an error of the engine, for a part `op` of a network that the engine recomputes
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
