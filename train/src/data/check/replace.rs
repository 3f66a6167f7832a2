//! A source that replaces samples that can no longer be loaded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::Source;
use crate::{Image, LabelMap, Result};

/// Samples of another source; one that cannot be loaded is replaced by the next that can.
pub struct Replacing {
    source: Arc<dyn Source>,
    /// Replacement of each sample that cannot be loaded.
    replaced: Mutex<BTreeMap<usize, usize>>,
}

impl Replacing {
    /// Wraps `source`.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, replaced: Mutex::default() }
    }

    /// Number of samples that could not be loaded so far.
    pub fn replaced(&self) -> usize {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Source for Replacing {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn class_names(&self) -> &[String] {
        self.source.class_names()
    }

    fn sample_name(&self, index: usize) -> String {
        let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        self.source.sample_name(replaced.get(&index).copied().unwrap_or(index))
    }

    /// Loads sample `index`, or the next one that can be loaded; the first follows the last.
    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        let replaced = || self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match self.source.load(index) {
            Ok(sample) => {
                // The file was repaired meanwhile; it still counts.
                replaced().entry(index).and_modify(|other| *other = index);
                return Ok(sample);
            }
            Err(error) => error,
        };
        for other in (index + 1..self.len()).chain(0..index) {
            if let Ok(sample) = self.source.load(other) {
                replaced().insert(index, other);
                return Ok(sample);
            }
        }
        Err(first)
    }
}
