//! What can be wrong with the arguments of an operation.

/// An argument that does not fit the operation it was given to.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice has another length than the sizes say.
    #[error("{op}: {arg} has {found} elements, its sizes ask for {expected}")]
    Length {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
        /// Elements that the sizes ask for.
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A size that the operation cannot work with.
    #[error("{op}: {what}")]
    Size {
        /// Operation.
        op: &'static str,
        /// What is wrong, in words and numbers.
        what: String,
    },
    /// Code that this CPU cannot run.
    #[error("this CPU cannot run {wanted} code; it can run {can}")]
    Vectors {
        /// The level asked for.
        wanted: crate::simd::Level,
        /// Levels that it has.
        can: String,
    },
    /// No device of the kind that was asked for.
    #[error("no CUDA device: {0}")]
    NoDevice(String),
    /// A device that cannot do what it was asked for.
    #[error("{device} cannot {action}: {what}")]
    Device {
        /// What the device calls itself.
        device: String,
        /// What was tried, a verb.
        action: &'static str,
        /// What the device says.
        what: String,
    },
    /// Work that cannot be part of a graph, or a graph that cannot run.
    #[error("graph capture: {0}")]
    Capture(String),
    /// A device without room for a buffer.
    #[error("{device} has no room for {name} of {bytes} bytes beside the {live} bytes in use")]
    OutOfMemory {
        /// What the device calls itself.
        device: String,
        /// The buffer.
        name: &'static str,
        /// Bytes asked for.
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
        /// What the device says.
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
pub fn check_count(
    op: &'static str,
    arg: &'static str,
    found: usize,
    expected: usize,
) -> Result<()> {
    if found == expected { Ok(()) } else { Err(KernelError::Length { op, arg, expected, found }) }
}
