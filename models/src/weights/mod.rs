//! Weights in and out.
//!
//! [`StateDict::open`] reads files as their authors publish them: safetensors, `.pth` files of
//! PyTorch in their zip and legacy forms, TorchScript archives. Files are told apart by their
//! bytes, memory-mapped, and never executed: a pickle is read by a machine that knows a handful of
//! names and runs none. Tensors stay where they lie until they are asked for, one at a time; f32
//! tensors in row-major order are used in place.
//!
//! Entries of zip archives have checksums. They are compared before an entry is first used, so
//! that looking at names and shapes does not read the values: [`Stored::check`]. The other forms
//! have none.
//!
//! # What a file can cost
//! Whatever it declares, opening a file takes at most [`OPEN_BYTES`] bytes of memory for each of
//! its own, plus [`OPEN_BASE`]; a file of real weights takes about a thousandth of its size. The
//! tensors that it declares are at most [`TENSOR_BYTES`] times as large as the file together (views
//! may overlap, and one value may stand for many), else it is refused.

mod container;
mod convert;
mod difference;
mod dinov2;
mod elements;
mod fingerprint;
mod known;
mod member;
mod names;
mod pickle;
mod safetensors;
mod stored;
mod torch;
mod trained;
mod zip;

use std::collections::BTreeMap;
use std::path::Path;

pub use container::Container;
pub use convert::{dinov2, resize_patch_kernel, resize_pos_embed, same_size};
pub use difference::Difference;
pub use fingerprint::{
    Digests, digest, fingerprint, fingerprint_of, fingerprint_of_floats, fingerprint_with,
};
pub use known::{Family, Known, recognise, recognise_shapes};
pub use safetensors::{Written, write, write_safetensors};
pub use stored::{Kind, Stored};
pub use trained::{fitted, has_head, is_backbone};

use crate::Result;

#[cfg(target_endian = "big")]
compile_error!("files of weights are little-endian and mapped as they are");

/// Bytes of memory that opening a file may take for each byte of the file.
pub const OPEN_BYTES: usize = 2 * pickle::PER_BYTE;

/// Bytes of memory that opening a file may take beyond that.
pub const OPEN_BASE: usize = 2 * pickle::BASE;

/// Bytes of all tensors that a file may declare for each byte of the file.
pub const TENSOR_BYTES: usize = 8;

/// A name out of a file as a message shows it: in one line, long ones cut.
pub fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text = String::new();
    for c in name.chars().take(LONGEST + 1) {
        match c {
            // Values are shown with their quotes.
            '"' | '\'' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// What a dictionary was read from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Form of the file.
    pub container: Container,
    /// Keys and prefixes that were around the weights, from the outside in, such as `state_dict`
    /// or `module.`.
    pub wrapper: Vec<&'static str>,
    /// Names and classes of some objects that lay among the tensors and were passed over.
    pub skipped: Vec<(String, String)>,
}

/// Named tensors, as a checkpoint holds them.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    origin: String,
    tensors: BTreeMap<String, Stored>,
    metadata: BTreeMap<String, String>,
    source: Option<Source>,
}

impl StateDict {
    /// An empty dictionary; `origin` names it in errors.
    pub fn new(origin: impl Into<String>) -> StateDict {
        StateDict { origin: origin.into(), ..Default::default() }
    }

    /// Opens a file of weights in any form of [`Container`], memory-mapped. Keys that wrap the
    /// weights (`state_dict`, `model`, `module`, `model_ema`) are followed, and the `module.` of
    /// data-parallel training is taken off.
    ///
    /// # Errors
    /// A missing, truncated or malformed file, or an element type that is not supported.
    pub fn open(path: &Path) -> Result<StateDict> {
        container::open(path)
    }

    /// As [`StateDict::open`], for a file that lies in memory; `path` is named in errors only.
    ///
    /// # Errors
    /// A truncated or malformed file, or an element type that is not supported.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<StateDict> {
        container::from_bytes(path, bytes)
    }

    /// Where the tensors come from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The file they were read from; `None` for a dictionary made in memory.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// The file's own notes.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names and tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Stored)> {
        self.tensors.iter()
    }

    /// Shapes by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect()
    }

    /// Compares the values with the file's checksums ([`Stored::check`]).
    ///
    /// # Errors
    /// [`crate::ModelError::Read`] with the first that differs.
    pub fn check(&self) -> Result<()> {
        self.tensors.values().try_for_each(Stored::check)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// The same dictionary without its tensors.
    fn emptied(&self) -> StateDict {
        StateDict {
            origin: self.origin.clone(),
            tensors: BTreeMap::new(),
            metadata: self.metadata.clone(),
            source: self.source.clone(),
        }
    }

    /// Takes a tensor out.
    pub fn take(&mut self, name: &str) -> Option<Stored> {
        self.tensors.remove(name)
    }

    /// Puts a tensor in, replacing one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<Stored>) {
        self.tensors.insert(name.into(), tensor.into());
    }

    /// Moves the tensors whose name satisfies `wanted` into a dictionary of the same origin.
    pub fn part(&mut self, wanted: impl Fn(&str) -> bool) -> StateDict {
        let all = std::mem::take(&mut self.tensors).into_iter();
        let (part, rest) = all.partition(|(name, _)| wanted(name));
        self.tensors = rest;
        StateDict { tensors: part, ..self.emptied() }
    }

    /// Adds tensors, replacing those of the same names.
    pub fn add(&mut self, tensors: impl IntoIterator<Item = (String, Stored)>) {
        self.tensors.extend(tensors);
    }

    /// Keeps the tensors whose name satisfies `keep`.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| keep(name));
    }

    /// Tensors whose name begins with `prefix`, the prefix replaced by `with`.
    pub fn renamed(self, prefix: &str, with: &str) -> StateDict {
        let tensors = self
            .tensors
            .into_iter()
            .filter_map(|(k, v)| k.strip_prefix(prefix).map(|rest| (format!("{with}{rest}"), v)))
            .collect();
        StateDict { tensors, ..self }
    }

    /// Adds all tensors of `other`.
    pub fn extend(&mut self, other: StateDict) {
        if self.origin.is_empty() {
            self.origin = other.origin;
        } else if !other.origin.is_empty() {
            self.origin = format!("{} with {}", self.origin, other.origin);
        }
        self.tensors.extend(other.tensors);
    }
}

impl IntoIterator for StateDict {
    type Item = (String, Stored);
    type IntoIter = std::collections::btree_map::IntoIter<String, Stored>;

    /// Names and tensors, sorted by name.
    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
