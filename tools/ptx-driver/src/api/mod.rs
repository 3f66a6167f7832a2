//! The exported functions of the driver, by the chapters of NVIDIA's reference.
//!
//! Names have the suffixes that programs look up. Handles are `usize`, which is passed like a
//! pointer. Enumerations are integers, so that no value of a caller is undefined behaviour.

mod context;
mod copies;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod stream;
