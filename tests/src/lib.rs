//! What the integration tests share: recorded tensors on disk and their comparison with ours, and
//! writers of the forms in which checkpoints are published.
//!
//! The tests themselves lie in one folder a theme; `parity` compares with numbers that the public
//! reference implementation computed.

pub mod checkpoint;
pub mod compare;
pub mod fixture;
pub mod published;
pub mod samples;

/// Result of a test's parts; the text says which file or tensor.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
