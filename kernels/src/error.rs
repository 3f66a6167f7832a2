//! Errors of operations and devices.

/// An error of an operation: an argument that does not fit, or a device that fails.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice whose length differs from the one that the sizes require.
    #[error("{op}: {arg} has {found} elements, its sizes require {expected}")]
    Length {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
        /// Elements that the sizes require.
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A size that the operation cannot work with.
    #[error("{op}: {what}")]
    Size {
        /// Operation.
        op: &'static str,
        /// Description of the problem, in words and numbers.
        what: String,
    },
    /// Code that this CPU cannot run.
    #[error("this CPU cannot run {wanted} code; it can run {can}")]
    Vectors {
        /// The requested level.
        wanted: crate::cpu::simd::Level,
        /// Levels that the CPU has.
        can: String,
    },
    /// No device of the requested kind.
    #[error("no CUDA device: {0}")]
    NoDevice(String),
    /// An action that a device cannot do.
    #[error("{device} cannot {action}: {what}")]
    Device {
        /// Name of the device.
        device: String,
        /// The action, a verb.
        action: &'static str,
        /// Message of the device.
        what: String,
    },
    /// Work that cannot be part of a graph, or a graph that cannot run.
    #[error("graph capture: {0}")]
    Capture(String),
    /// A device without room for a buffer.
    #[error("{device} is out of memory: {name} needs {bytes} bytes, {live} bytes are in use")]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// Name of the buffer.
        name: &'static str,
        /// Bytes requested.
        bytes: usize,
        /// Bytes in use.
        live: usize,
    },
    /// A kernel that could not be launched or failed.
    #[error("{kernel}, blocks {blocks:?} of threads {threads:?}: {what}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Blocks along x, y and z.
        blocks: [usize; 3],
        /// Threads of a block along x, y and z.
        threads: [u32; 3],
        /// Message of the device.
        what: String,
    },
}

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, KernelError>;

/// Fails unless `slice` has `expected` elements.
///
/// # Errors
/// [`KernelError::Length`].
pub fn check_len<T>(
    op: &'static str,
    arg: &'static str,
    slice: &[T],
    expected: usize,
) -> Result<()> {
    check_count(op, arg, slice.len(), expected)
}

/// Fails unless an argument has `expected` elements.
///
/// # Errors
/// [`KernelError::Length`].
pub(crate) fn check_count(
    op: &'static str,
    arg: &'static str,
    found: usize,
    expected: usize,
) -> Result<()> {
    if found == expected { Ok(()) } else { Err(KernelError::Length { op, arg, expected, found }) }
}
