//! The exported functions of the driver, by the chapters of NVIDIA's reference.
//!
//! Names carry the suffixes that programs ask for. Handles are `usize`, which is passed as a
//! pointer is; enumerations are integers, so that no value of a caller is undefined here.

mod context;
mod copies;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod stream;
