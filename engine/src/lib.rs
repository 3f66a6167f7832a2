//! Tensors, reverse-mode differentiation, random numbers and memory accounting.
//!
//! The engine makes differentiable operations from the kernels. Each file under [`ops`] holds one
//! operation: its shape check, its kernel call and its backward pass. The engine knows nothing of
//! networks or files.

mod ambient;
pub mod bf16_emulation;
mod call;
mod device;
mod dry_run;
mod dtype;
mod error;
mod graph;
mod mapped_file;
pub mod memory;
pub mod ops;
mod param;
mod saved;
mod tensor;

pub use dressage_kernels::device::{Device, Range, range};
pub use dressage_kernels::ops::uniform::{Philox, hash_name};
pub use dry_run::DryRun;
pub use dtype::{DType, Element, HostFloat};
pub use error::{EngineError, Result};
pub use graph::{
    Backward, Edge, Gradients, backward, backward_from, backward_from_all, forbid_gradient,
    isolated, no_grad, recompute, record,
};
pub use mapped_file::MappedFile;
pub use param::{Param, ParamKind, Role, Values};
pub use saved::{RecomputePolicy, checkpoint, with_recompute_policy};
pub use tensor::Tensor;
