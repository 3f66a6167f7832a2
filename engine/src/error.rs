//! Errors of the engine.

use crate::DType;
use dressage_kernels::KernelError;

/// An error of the engine; each names the operation and the argument.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Sizes that a kernel rejected.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An argument of the wrong shape.
    #[error("{op}: {arg} is {found:?}, expected {expected}")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
        /// The shape that was expected, in words or numbers.
        expected: String,
        /// The actual shape.
        found: Vec<usize>,
    },
    /// An argument of the wrong element type.
    #[error("{op}: element type is {found}, expected {expected}")]
    Type {
        /// Operation.
        op: &'static str,
        /// Expected type.
        expected: &'static str,
        /// Actual type.
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
    /// The host accessed the elements of a tensor that is on a device.
    #[error("{op}: the tensor is on {device}, not in host memory; to_host copies it there")]
    OnDevice {
        /// Operation.
        op: &'static str,
        /// Name of the device.
        device: String,
    },
    /// A kernel of a device received a tensor that is in host memory.
    #[error("{op}: the tensor is in host memory, not on a device; to_device copies it there")]
    OnHost {
        /// Operation.
        op: &'static str,
    },
    /// An operation that runs only on the host received a tensor that is on a device.
    #[error("{op}: not implemented on {device}; copy the operands to host memory with to_host")]
    NoDeviceForm {
        /// Operation.
        op: &'static str,
        /// Name of the device.
        device: String,
    },
    /// Creation of a tensor on a real device within a dry run, which supports host memory only.
    #[error("a dry run cannot use {device}; use `Device::dry_run()`")]
    NotInDryRun {
        /// Name of the device.
        device: String,
    },
    /// Backward pass from a value that depends on nothing trainable.
    #[error("backward: the result depends on no value that needs a gradient")]
    NotTracked,
    /// In-place write to a buffer that is shared.
    #[error("{op}: the buffer is shared and cannot be written in place")]
    Shared {
        /// Operation.
        op: &'static str,
    },
}

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;
