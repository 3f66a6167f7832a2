//! Samples: their sources, their order, and their delivery to the training loop.

pub mod check;
mod dataset;
mod decode;
mod form;
mod jpeg;
mod label;
mod loader;
#[cfg(test)]
mod loader_tests;
mod sampler;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

pub use dataset::{Dataset, DatasetSpec, SamplePaths};
pub use decode::{decode_image, panics_are_contained, read_image};
pub use label::{LabelFacts, decode_label, read_label};
pub(crate) use loader::BESIDE_HOST;
pub use loader::{Batch, Loader, LoaderSettings};
pub use sampler::Sampler;
pub use table::{ClassGroups, Ids, Table};
pub use walk::{WalkResult, walk};

use crate::{Image, LabelMap, Result, TrainError};

/// Source of labelled images: files, drawn scenes, or several of them.
pub trait Source: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether it has no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of each class.
    fn class_names(&self) -> &[String];

    /// Name of sample `index`, which says where it comes from.
    fn sample_name(&self, index: usize) -> String;

    /// Loads image and label of sample `index`, of the same size.
    ///
    /// # Errors
    /// A file that cannot be read or is not valid.
    fn load(&self, index: usize) -> Result<(Image, LabelMap)>;
}

/// Several sources in sequence, with the same classes.
pub struct Joined {
    parts: Vec<Arc<dyn Source>>,
}

impl Joined {
    /// Joins `parts`.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when there are none or their classes differ.
    pub fn new(parts: Vec<Arc<dyn Source>>) -> Result<Self> {
        let fail = |what| Err(TrainError::Setting { setting: "data.train", what });
        let Some(first) = parts.first() else {
            return fail("no data set is named".into());
        };
        for (k, part) in parts.iter().enumerate() {
            if part.class_names() != first.class_names() {
                return fail(format!("data set {k} has other classes than the first"));
            }
        }
        Ok(Self { parts })
    }

    fn find(&self, mut index: usize) -> (&dyn Source, usize) {
        let mut part = 0;
        while part + 1 < self.parts.len() && index >= self.parts[part].len() {
            index -= self.parts[part].len();
            part += 1;
        }
        (&*self.parts[part], index)
    }
}

impl Source for Joined {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    fn class_names(&self) -> &[String] {
        self.parts[0].class_names()
    }

    fn sample_name(&self, index: usize) -> String {
        let (part, index) = self.find(index);
        part.sample_name(index)
    }

    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        let (part, index) = self.find(index);
        part.load(index)
    }
}
