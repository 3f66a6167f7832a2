//! Reading and writing of weights.
//!
//! [`StateDict::open`] reads files as their authors publish them: safetensors, `.pth` files of
//! PyTorch in their zip and legacy formats, TorchScript archives. The format is detected from the
//! bytes. Files are never executed: the unpickler knows a few names and calls none of them. For an
//! index of shards, or a folder in the layout of the Hugging Face hub, all files are opened.
//!
//! Tensors stay in their file until they are read, one at a time, and are then copied. Writing to,
//! replacing or truncating a file later does not change tensors that were read. If a file was
//! written to or truncated since it was opened, reading fails. [`StateDict::use_in_place`] avoids
//! the copy of f32 tensors if memory is short; its caller must check the files
//! ([`crate::Segmenter::check_files`]).
//!
//! Entries of zip archives and tensors of checkpoints written here have checksums. They are
//! compared before an entry is first used ([`Stored::check`]), so reading names and shapes does not
//! read the values. Other files have none; [`StateDict::check`] detects those that end in zeros, as
//! interrupted downloads do.
//!
//! # What a file can cost
//! Opening a file takes at most [`OPEN_BYTES`] bytes of memory per byte of the file, plus
//! [`OPEN_BASE`], whatever the file declares. A file of real weights takes about a thousandth of
//! its size. All tensors that a file declares may be at most [`TENSOR_BYTES`] times as large as the
//! file together, else it is refused. Views may overlap, and one value may be repeated.

mod archive_entry;
mod container;
mod convert;
mod convnext;
mod difference;
mod dinov3;
mod elements;
mod families;
mod fingerprint;
mod finite;
mod folder;
mod hub;
mod names;
mod pickle;
mod reading;
mod renaming;
mod safetensors;
mod scalar_type;
mod stored;
mod sums;
mod tail;
mod torch;
mod trained_checkpoint;
mod wrappers;
mod zip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use container::Container;
pub use convert::{convert_backbone, resize_patch_kernel, resize_pos_embed, same_size};
pub use difference::Difference;
pub use families::{Family, Known, recognise, recognise_shapes};
pub use fingerprint::{Digests, fingerprint, fingerprint_of, fingerprint_of_floats};
pub(crate) use fingerprint::{digest, fingerprint_with};
pub(crate) use finite::finite;
pub use folder::{part_of, refuse_part};
pub use hub::Declared;
pub use safetensors::{Written, write, write_safetensors, write_summed};
pub use scalar_type::ScalarType;
pub use stored::Stored;
pub use trained_checkpoint::{Fitted, HeadIn, fitted, is_backbone};

use crate::Result;

#[cfg(target_endian = "big")]
compile_error!("files of weights are little-endian and mapped as they are");

/// Bytes of memory that opening a file may take per byte of the file.
pub const OPEN_BYTES: usize = 2 * pickle::PER_BYTE;

/// Bytes of memory that opening a file may take in addition to [`OPEN_BYTES`].
pub const OPEN_BASE: usize = 2 * pickle::BASE;

/// Bytes of all tensors that a file may declare, per byte of the file.
pub const TENSOR_BYTES: usize = 8;

/// A name from a file as messages show it: on one line, long names truncated.
pub fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text = String::new();
    for c in name.chars().take(LONGEST + 1) {
        match c {
            // Quotes are shown unescaped, as values have them.
            '"' | '\'' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Checks that a file was not written to since it was opened.
pub(crate) fn unchanged(pages: &dressage_engine::MappedFile) -> Result<()> {
    reading::unchanged(pages).map_err(reading::of_reading)
}

/// Source of a dictionary that was read from files.
#[derive(Debug, Clone)]
pub struct FileSource {
    /// Format of the file.
    pub container: Container,
    /// The files, more than one for shards.
    pub files: Vec<PathBuf>,
    /// Keys and prefixes that were around the weights, such as `state_dict` or `module.`.
    pub wrapper: Vec<String>,
    /// Names and classes of some objects among the tensors that were skipped.
    pub skipped: Vec<(String, String)>,
}

/// Named tensors of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    origin: String,
    tensors: BTreeMap<String, Stored>,
    metadata: BTreeMap<String, String>,
    source: Option<FileSource>,
    declared: Option<Declared>,
    /// The backbone whose names were converted to those of the network.
    converted_from: Option<Known>,
}

impl StateDict {
    /// An empty dictionary; `origin` names it in errors.
    pub fn new(origin: impl Into<String>) -> StateDict {
        StateDict { origin: origin.into(), ..Default::default() }
    }

    /// Opens a file of weights in any format of [`Container`], an index of shards, or a folder with
    /// either. Keys that wrap the weights (`state_dict`, `model`, `teacher`) are followed. Parts
    /// that module wrappers add to names (`module.`, `_orig_mod.`) are removed.
    ///
    /// # Errors
    /// [`crate::ModelError::Damaged`] for a truncated or malformed file; a missing file or shard,
    /// an element type that is not supported, sizes other than those of the `config.json` next to
    /// it.
    pub fn open(path: &Path) -> Result<StateDict> {
        container::open(path)
    }

    /// As [`StateDict::open`], for a file of one network. The prefix of its names (`model.`,
    /// `teacher.backbone.`) is removed, and tensors without this prefix are skipped.
    ///
    /// # Errors
    /// As [`StateDict::open`]; several networks with no obvious choice.
    pub fn open_network(path: &Path) -> Result<StateDict> {
        let mut dict = StateDict::open(path)?;
        if let Some(FileSource { wrapper, skipped, .. }) = &mut dict.source {
            let separate = wrappers::separate(&mut dict.tensors, wrapper, skipped);
            separate.map_err(|fault| fault.of(path))?;
        }
        Ok(dict)
    }

    /// As [`StateDict::open`], for a file in memory. `path` is used in errors only.
    ///
    /// # Errors
    /// A truncated or malformed file, or an element type that is not supported.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<StateDict> {
        container::from_bytes(path, bytes)
    }

    /// Origin of the tensors, as named in errors.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The files that they were read from; `None` for a dictionary made in memory.
    pub fn source(&self) -> Option<&FileSource> {
        self.source.as_ref()
    }

    /// Sizes that the configuration next to the files declares.
    pub fn declared(&self) -> Option<&Declared> {
        self.declared.as_ref()
    }

    /// Uses f32 tensors in place in the mapped files from now on, without a copy. They change when
    /// the files change.
    pub fn use_in_place(&mut self) {
        self.tensors.values_mut().for_each(Stored::use_in_place);
    }

    /// The first few names, for a message.
    pub fn first_names(&self) -> String {
        wrappers::first_of(self.tensors.keys().cloned(), self.tensors.len())
    }

    /// The metadata of the file.
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

    /// Compares the values with the file's checksums ([`Stored::check`]); a format without
    /// checksums is checked for an interrupted download.
    ///
    /// # Errors
    /// [`crate::ModelError::Damaged`] with the first that differs.
    pub fn check(&self) -> Result<()> {
        self.check_end()?;
        self.check_sums()
    }

    /// The part of [`StateDict::check`] that compares checksums.
    ///
    /// # Errors
    /// [`crate::ModelError::Damaged`] with the first that differs.
    pub fn check_sums(&self) -> Result<()> {
        self.tensors.values().try_for_each(Stored::check)
    }

    /// The part of [`StateDict::check`] that reads only the end of an intact file.
    ///
    /// # Errors
    /// [`crate::ModelError::Damaged`] for a file that ends in zeros.
    pub fn check_end(&self) -> Result<()> {
        tail::check(self)
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
            declared: self.declared.clone(),
            converted_from: self.converted_from.clone(),
        }
    }

    /// Removes a tensor and returns it.
    pub fn take(&mut self, name: &str) -> Option<Stored> {
        self.tensors.remove(name)
    }

    /// Inserts a tensor, replacing one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<Stored>) {
        self.tensors.insert(name.into(), tensor.into());
    }

    /// Name that the file has for a tensor of the network; several joined by `+` if it is packed.
    pub(crate) fn name_in_file(&self, name: &str) -> String {
        self.converted_from.as_ref().map_or_else(|| name.into(), |known| known.name_in_file(name))
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
