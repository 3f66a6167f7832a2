//! A source that goes on where a sample can no longer be loaded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::Source;
use crate::{Image, LabelMap, Result};

/// The samples of another source; one that cannot be loaded is replaced by the next that can.
pub struct Replacing {
    source: Arc<dyn Source>,
    /// Sample that stands for one that cannot be loaded.
    replaced: Mutex<BTreeMap<usize, usize>>,
}

impl Replacing {
    /// The samples of `source`.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, replaced: Mutex::default() }
    }

    /// Samples that could not be loaded so far.
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

    /// The sample `index`, or the next behind it that can be loaded, the first after the last.
    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        let replaced = || self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match self.source.load(index) {
            Ok(sample) => {
                // It was mended meanwhile; it counts all the same.
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
