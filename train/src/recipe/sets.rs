//! Data sets of a recipe, and how they are opened.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data::{self, Dataset, DatasetSpec, Ids};
use crate::scenes::{Domain, SceneSource};
use crate::{IGNORE, TrainError};

/// Number of Cityscapes train ids.
const TRAIN_IDS: usize = 19;

/// Data sets of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Folder that the sets' folders are relative to.
    pub root: PathBuf,
    /// Policy for images and labels that cannot be used.
    pub on_error: OnError,
    /// Label ids that make up each class, in the order of `head.classes`; ids in no group are
    /// ignored. Empty: id = class.
    pub groups: Vec<Vec<usize>>,
    /// Training sets; their samples form one list.
    pub train: Vec<Set>,
    /// Sets to evaluate on.
    pub eval: Vec<EvalSet>,
}

/// Values of [`Data::on_error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The run ends, before its first step if possible, and names the files.
    #[default]
    Stop,
    /// The run continues without them and counts them.
    Skip,
}

/// Source of a set's images and labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Set {
    /// Name in logs and tables.
    pub name: String,
    /// `files`, or `scenes` for images that Dressage draws itself.
    pub source: SourceKind,
    /// Folder of the images, searched recursively.
    pub images: PathBuf,
    /// Folder of the labels, of the same layout.
    pub labels: PathBuf,
    /// Suffix of image names.
    pub image_suffix: String,
    /// Suffix of label names in its place.
    pub label_suffix: String,
    /// Map from label values to train ids.
    pub id_map: Ids,
    /// Groups of this set, as in `data.groups`.
    pub groups: Vec<Vec<usize>>,
    /// Number of scenes to draw.
    pub count: usize,
    /// Number of the first scene; sets with disjoint ranges share no scene.
    pub first: u64,
    /// Width and height of a drawn scene in pixels.
    pub size: [usize; 2],
    /// Look of the drawn scenes.
    pub domain: Domain,
}

/// Values of [`Set::source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// Image and label files.
    #[default]
    Files,
    /// Drawn scenes.
    Scenes,
}

/// A set to evaluate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSet {
    /// Images and labels.
    #[serde(flatten)]
    pub set: Set,
    /// Width and height of the box that images are resized to fit, keeping their ratio; `[0, 0]`
    /// keeps the size.
    #[serde(rename = "box")]
    pub test_box: [usize; 2],
    /// Side of the sliding window in pixels.
    pub crop: usize,
    /// Step of the sliding window in pixels.
    pub stride: usize,
    /// Whether the mean over sets counts this one.
    pub in_mean: bool,
}

impl Set {
    /// Class of each train id as the data loader takes it, 255 for ids in no group. `None` without
    /// groups, where the id is the class.
    fn merged(&self, classes: &[String]) -> Option<data::ClassGroups> {
        let last = self.groups.iter().flatten().max()?;
        let mut of = vec![IGNORE; (last + 1).max(TRAIN_IDS)];
        for (class, ids) in self.groups.iter().enumerate() {
            for &id in ids {
                of[id] = class as u8;
            }
        }
        Some(data::ClassGroups { names: classes.to_vec(), of })
    }
}

impl Data {
    /// Folders of a set's images and labels.
    pub fn folders(&self, set: &Set) -> (PathBuf, PathBuf) {
        (self.root.join(&set.images), self.root.join(&set.labels))
    }

    /// Opens a set: scans its folders, or prepares to draw its scenes with `seed`. `classes` are as
    /// for [`Data::spec`]. Images without a label are left out if [`Data::on_error`] says so. The
    /// content of the files is not checked (see [`data::check`]).
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open(
        &self,
        set: &Set,
        classes: &[String],
        seed: u64,
    ) -> Result<Arc<dyn data::Source>, TrainError> {
        Ok(match set.source {
            SourceKind::Files => Arc::new(match self.on_error {
                OnError::Stop => Dataset::open(&self.spec(set, classes))?,
                OnError::Skip => Dataset::scan(&self.spec(set, classes))?.labelled(),
            }),
            SourceKind::Scenes => {
                let size = (set.size[0], set.size[1]);
                let scenes = SceneSource::new(seed, set.first, set.count, set.domain, size);
                Arc::new(match set.merged(classes) {
                    Some(groups) => scenes.grouped(groups),
                    None => scenes,
                })
            }
        })
    }

    /// Key of `set`, which must be one of these sets, such as `data.eval.0`.
    fn key_of(&self, set: &Set) -> String {
        let train = self.train.iter().position(|own| own == set).map(|i| format!("data.train.{i}"));
        let eval = || self.eval.iter().position(|own| own.set == *set);
        train.or_else(|| eval().map(|i| format!("data.eval.{i}"))).unwrap_or_default()
    }

    /// Describes a set of files for the data loader; `classes` are the names in `head.classes`.
    pub fn spec(&self, set: &Set, classes: &[String]) -> DatasetSpec {
        let (images, labels) = self.folders(set);
        let groups = set.merged(classes);
        DatasetSpec {
            key: self.key_of(set),
            name: set.name.clone(),
            images,
            labels,
            image_suffix: set.image_suffix.clone(),
            label_suffix: set.label_suffix.clone(),
            ids: set.id_map.clone(),
            classes: groups.as_ref().map_or(classes.len(), |groups| groups.of.len()),
            groups,
        }
    }
}
