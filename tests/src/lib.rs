//! What the integration tests share: recorded tensors on disk and their comparison with ours.
//!
//! The tests themselves lie in one folder a theme; `parity` compares with numbers that the public
//! reference implementation computed.

pub mod compare;
pub mod fixture;

/// Result of a test's parts; the text says which file or tensor.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
