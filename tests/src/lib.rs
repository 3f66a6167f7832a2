//! Shared parts of the integration tests: recorded tensors, their comparison with ours, and
//! checkpoint writers.
//!
//! The writers write the formats in which checkpoints are published. The tests have one folder per
//! theme. `parity` compares with values that the public reference implementation computed.

pub mod checkpoint;
pub mod compare;
pub mod families;
pub mod fixture;
pub mod published;
pub mod samples;

/// Result of a test's parts; the text names the file or tensor.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
