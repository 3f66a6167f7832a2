//! (crate doc)

pub mod matching;
