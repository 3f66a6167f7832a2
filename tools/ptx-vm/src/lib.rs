//! A virtual GPU: parses PTX and runs it on the CPU, warp by warp, checking every access.
//!
//! [`Module::parse`] reads the PTX text of nvcc. [`Gpu`] contains the memory and launches kernels.
//! A launch returns a [`Report`] with counters of the work and the faults found.

mod ast;
mod counters;
mod decode;
mod error;
mod exec;
mod gpu;
mod launch;
mod lexer;
mod memory;
mod module;
mod parser;
mod program;
mod report;
mod touch;
mod types;

pub use counters::{Counters, Tally};
pub use error::{Fault, MemoryError, ParseError};
pub use gpu::{Address, Gpu};
pub use launch::{Launch, Params};
pub use memory::ALIGNMENT;
pub use module::{Kernel, Module, Param, UnknownForm};
pub use program::Class;
pub use report::{Finding, FindingKind, MAX_FINDINGS, Report};
