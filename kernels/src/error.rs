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
    if slice.len() == expected {
        Ok(())
    } else {
        Err(KernelError::Length { op, arg, expected, found: slice.len() })
    }
}
