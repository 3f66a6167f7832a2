//! Tensors, reverse-mode differentiation, random numbers and memory accounting.
//!
//! The engine turns the kernels' arithmetic into differentiable operations: one file per operation
//! under [`ops`], each with its shape check, its kernel call and its backward pass. It knows
//! nothing of networks or files.

mod device;
mod dtype;
mod error;
mod graph;
mod kept;
pub mod memory;
pub mod ops;
mod outline;
mod pages;
mod param;
pub mod rounded;
mod tensor;

pub use dressage_kernels::device::{Device, Range, range};
pub use dressage_kernels::uniform::{Philox, hash_name};
pub use dtype::{DType, Element, Float};
pub use error::{EngineError, Result};
pub use graph::{
    Backward, Edge, Gradients, backward, backward_from, backward_from_all, forbid_gradient,
    isolated, no_grad, recompute, record,
};
pub use kept::{Thrift, segment, thrifty};
pub use outline::Outline;
pub use pages::Pages;
pub use param::{Param, Values};
pub use tensor::Tensor;
