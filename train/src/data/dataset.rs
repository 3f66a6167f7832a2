//! Pairs of image and label files below two folders.
//!
//! Source: spec training-and-data §5: recursive scan for the image suffix, label path = image path
//! with folder and suffix swapped, sorted by path.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Source;
use super::decode::read_image;
use super::label::read_label;
use super::table::{ClassGroups, Ids, Table};
use super::walk::{WalkResult, walk};
use crate::files::hint;
use crate::{Image, LabelMap, Result, TrainError};

/// Location and class numbers of a data set: one entry of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    /// Key in the recipe, such as `data.train.0`, for messages.
    #[serde(skip)]
    pub key: String,
    /// Name in logs and tables.
    pub name: String,
    /// Folder of the images, searched with its subfolders.
    pub images: PathBuf,
    /// Folder of the labels, with the same subfolders.
    pub labels: PathBuf,
    /// Suffix of every image's file name, such as `_leftImg8bit.png`.
    pub image_suffix: String,
    /// Suffix of a label in place of `image_suffix`, such as `_gtFine_labelIds.png`.
    pub label_suffix: String,
    /// Meaning of the numbers in the label files.
    #[serde(default)]
    pub ids: Ids,
    /// Number of classes that `ids` maps to.
    #[serde(default = "nineteen")]
    pub classes: usize,
    /// Groups that merge the classes into fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ClassGroups>,
}

fn nineteen() -> usize {
    19
}

/// Files of one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplePaths {
    /// Image file.
    pub image: PathBuf,
    /// Label file.
    pub label: PathBuf,
}

/// A scanned data set. The files are opened when a sample is loaded.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: String,
    pairs: Vec<SamplePaths>,
    table: Table,
    passed_over: Option<String>,
    stops: bool,
}

impl Dataset {
    /// Scans the folders of `spec`; every image must have a label file.
    ///
    /// # Errors
    /// As [`Dataset::scan`], and for images without a label.
    pub fn open(spec: &DatasetSpec) -> Result<Self> {
        let dataset = Self::scan(spec)?;
        let mut missing = dataset.pairs.iter().filter(|pair| !pair.has_label());
        if let Some(first) = missing.next() {
            return Err(TrainError::MissingLabel {
                count: 1 + missing.count(),
                total: dataset.pairs.len(),
                image: first.image.clone(),
                label: first.label.clone(),
                key: spec.key.clone(),
            });
        }
        Ok(dataset)
    }

    /// Scans the folders of `spec`, whether or not the labels exist.
    ///
    /// # Errors
    /// A folder that cannot be read or holds no image, or a table of ids that does not fit.
    pub fn scan(spec: &DatasetSpec) -> Result<Self> {
        let table = Table::new(&spec.key, &spec.ids, spec.classes, spec.groups.as_ref())?;
        // With images and labels side by side, `_label.png` also ends in `.png`.
        let together =
            spec.images == spec.labels && spec.label_suffix.ends_with(&spec.image_suffix);
        let ends = |path: &Path, suffix: &str| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().ends_with(suffix.as_bytes())
        };
        let wanted = |path: &Path| {
            ends(path, &spec.image_suffix) && !(together && ends(path, &spec.label_suffix))
        };
        let mut found = walk(&spec.images, usize::MAX, &wanted);
        if !found.unreadable.is_empty() {
            let (path, source) = found.unreadable.swap_remove(0);
            return Err(TrainError::Read { path, source });
        }
        if found.files.is_empty() {
            return Err(TrainError::EmptyFolder {
                path: spec.images.clone(),
                suffix: spec.image_suffix.clone(),
                key: spec.key.clone(),
            });
        }
        let passed_over = WalkResult::passed_over(&found);
        let pairs = found.files.into_iter().map(|image| pair(spec, image)).collect();
        Ok(Self { name: spec.name.clone(), pairs, table, passed_over, stops: false })
    }

    /// The data set without the pairs at the ascending positions `left_out`.
    pub fn without(&self, left_out: &[usize]) -> Self {
        let mut dataset = self.clone();
        let mut at = 0..;
        dataset
            .pairs
            .retain(|_| at.next().is_some_and(|k: usize| left_out.binary_search(&k).is_err()));
        dataset
    }

    /// The data set without images whose label does not exist.
    pub fn labelled(mut self) -> Self {
        self.pairs.retain(SamplePaths::has_label);
        self
    }

    /// The data set for a run that stops at a sample that cannot be loaded. The error names the
    /// setting that leaves the sample out.
    pub fn stopping(self) -> Self {
        Self { stops: true, ..self }
    }

    /// Name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files, sorted by image path.
    pub fn pairs(&self) -> &[SamplePaths] {
        &self.pairs
    }

    /// Table that maps the values in its labels to classes.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Entries that the scan of its folder passed over, in words.
    pub fn passed_over(&self) -> Option<&str> {
        self.passed_over.as_deref()
    }
}

impl SamplePaths {
    fn load(&self, table: &Table) -> Result<(Image, LabelMap)> {
        let image = read_image(&self.image)?;
        let label = read_label(&self.label, table)?;
        self.same_size((image.w, image.h), (label.w, label.h))?;
        Ok((image, label))
    }

    /// Whether the label file exists.
    pub(crate) fn has_label(&self) -> bool {
        self.label.is_file()
    }

    /// Fails when image and label differ in size; sizes are (width, height).
    pub(super) fn same_size(&self, image: (usize, usize), label: (usize, usize)) -> Result<()> {
        if image == label {
            return Ok(());
        }
        Err(TrainError::SizeMismatch {
            image: self.image.clone(),
            label: self.label.clone(),
            image_w: image.0,
            image_h: image.1,
            label_w: label.0,
            label_h: label.1,
        })
    }
}

/// Whether the files of one sample cause an error. A limit of the process does not count.
fn is_of_sample(error: &TrainError) -> bool {
    match error {
        TrainError::Read { source, .. } => hint(source).is_none(),
        TrainError::OutOfMemory { .. } | TrainError::Interrupted => false,
        _ => true,
    }
}

impl Source for Dataset {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn class_names(&self) -> &[String] {
        self.table.names()
    }

    fn sample_name(&self, index: usize) -> String {
        self.pairs[index].image.display().to_string()
    }

    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        let loaded = self.pairs[index].load(&self.table);
        loaded.map_err(|error| match self.stops && is_of_sample(&error) {
            true => TrainError::Sample(Box::new(error)),
            false => error,
        })
    }
}

/// Pairs an image with its label, which has the same place below the folder of labels. A name need
/// not be Unicode.
fn pair(spec: &DatasetSpec, image: PathBuf) -> SamplePaths {
    let below = image.strip_prefix(&spec.images).unwrap_or(&image);
    let name = below.file_name().unwrap_or_default();
    let stem = name.as_encoded_bytes().strip_suffix(spec.image_suffix.as_bytes());
    // SAFETY: the bytes are those of a name up to a part that is valid UTF-8 and not empty.
    let stem = stem.map(|stem| unsafe { OsStr::from_encoded_bytes_unchecked(stem) });
    let mut label = stem.unwrap_or(name).to_owned();
    label.push(&spec.label_suffix);
    let label = spec.labels.join(below).with_file_name(label);
    SamplePaths { image, label }
}
