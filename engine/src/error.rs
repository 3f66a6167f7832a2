//! What can go wrong in the engine.

use crate::DType;
use dressage_kernels::KernelError;

/// An error of the engine; each names the operation and the argument.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Sizes that a kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An argument of the wrong shape.
    #[error("{op}: {arg} is {found:?}, expected {expected}")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
        /// The shape that would fit, in words or numbers.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// An argument of the wrong element type.
    #[error("{op}: element type is {found}, expected {expected}")]
    Type {
        /// Operation.
        op: &'static str,
        /// Type that would fit.
        expected: &'static str,
        /// Type found.
        found: DType,
    },
    /// A value that needs a gradient entered an operation that has none.
    #[error("{op}: {arg} needs a gradient, but the operation has none; detach it if that is meant")]
    NoBackward {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
    },
    /// The host asked for the elements of a tensor that lies on a device.
    #[error("{op}: the tensor lies on {device}, not in host memory; to_host copies it there")]
    OnDevice {
        /// Operation.
        op: &'static str,
        /// What the device calls itself.
        device: String,
    },
    /// A kernel of a device was given a tensor that lies in host memory.
    #[error("{op}: the tensor lies in host memory, not on a device; to_device copies it there")]
    OnHost {
        /// Operation.
        op: &'static str,
    },
    /// An operation that runs on the host alone was given a tensor that lies on a device.
    #[error("{op}: has no form for {device}; its operands have to lie in host memory (to_host)")]
    NoDeviceForm {
        /// Operation.
        op: &'static str,
        /// What the device calls itself.
        device: String,
    },
    /// A tensor was to be made on a device within a dry run, which knows host memory alone.
    #[error("a dry run cannot use {device}; use `Device::dry_run()`")]
    NotInDryRun {
        /// What the device calls itself.
        device: String,
    },
    /// A backward pass was asked of something that leads to no trainable value.
    #[error("backward: the result depends on no value that needs a gradient")]
    NotTracked,
    /// A buffer that others still hold was to be written.
    #[error("{op}: the buffer is shared and cannot be written in place")]
    Shared {
        /// Operation.
        op: &'static str,
    },
}

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;
