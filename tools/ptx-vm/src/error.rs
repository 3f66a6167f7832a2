//! The errors of the library, one sentence each.

use crate::report::Finding;

/// PTX text that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}, line {line}: {message}")]
#[non_exhaustive]
pub struct ParseError {
    /// Name of the module, as given.
    pub name: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Description of the error.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(name: &str, line: u32, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), line, message: message.into() }
    }
}

/// A copy to or from device memory that does not fit an allocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Nothing is allocated there.
    #[error("{bytes} bytes at {address:#x}: no allocation holds them")]
    NoAllocation {
        /// First byte.
        address: u64,
        /// Requested bytes.
        bytes: usize,
    },
    /// It starts inside an allocation and ends outside.
    #[error("{bytes} bytes at offset {offset} of `{name}`, which holds {length} bytes")]
    OutOfRange {
        /// Name of the allocation.
        name: String,
        /// Offset of the first byte.
        offset: u64,
        /// Requested bytes.
        bytes: usize,
        /// Bytes of the allocation.
        length: u64,
    },
    /// Freed twice, or never allocated.
    #[error("{address:#x} is not the start of an allocation")]
    NotAStart {
        /// The address given.
        address: u64,
    },
}

/// A launch that could not start or could not continue.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The module has no such kernel.
    #[error("module {module} has no kernel `{kernel}`; it has: {known}")]
    NoKernel {
        /// Module.
        module: String,
        /// Requested kernel.
        kernel: String,
        /// Names of the existing kernels.
        known: String,
    },
    /// Grid, block, shared memory or parameters do not fit the kernel or a GPU.
    #[error("launch of `{kernel}`: {message}")]
    BadLaunch {
        /// Kernel.
        kernel: String,
        /// The mismatch, in words.
        message: String,
    },
    /// Execution reached an instruction that it cannot execute, or a limit.
    #[error("{0}")]
    Stopped(Box<Finding>),
}
