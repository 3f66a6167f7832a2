//! The arithmetic of Dressage: slices and sizes in, slices out; no tensors, no graph, no files.
//!
//! Each operation has one folder: `mod.rs` states the contract and dispatches, `reference.rs`
//! defines what is right in plain loops over f32 or f64, `cpu.rs` is the fast f32 form where one
//! pays, `tests.rs` checks them against each other and against central differences.
//!
//! Conventions: tensors are contiguous and row-major. Outputs and input gradients are overwritten;
//! parameter gradients are added to. An operand that needs no gradient is passed as `None` and
//! costs nothing. Results are bitwise equal for any number of threads: reductions are split by size
//! only. Only which thread computes which whole sum may depend on the number of threads.

pub mod call;
pub mod check;
pub mod cpu;
pub mod device;
pub mod dry_run;
mod error;
pub mod ops;
mod real;

pub(crate) use error::check_count;
pub use error::{KernelError, Result, check_len};
pub use real::Real;
pub(crate) use real::{f32s, f32s_mut};

/// Treatment of the old contents of an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Write {
    /// Overwrites them without reading them.
    #[default]
    Over,
    /// Adds the result to them.
    Add,
}
