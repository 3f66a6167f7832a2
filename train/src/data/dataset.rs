//! Pairs of image and label files below two folders.
//!
//! Source: spec training-and-data §5: recursive scan for the image suffix, label path = image path
//! with folder and suffix swapped, sorted by path.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Source;
use super::decode::{read_image, read_label};
use super::table::{Groups, Ids, Table};
use crate::{Image, LabelMap, Result, TrainError};

/// Where a data set lies and how it numbers its classes: one entry of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    /// Name in logs and tables.
    pub name: String,
    /// Folder of the images, searched with its subfolders.
    pub images: PathBuf,
    /// Folder of the labels, with the same subfolders.
    pub labels: PathBuf,
    /// End of every image's file name, such as `_leftImg8bit.png`.
    pub image_suffix: String,
    /// What a label has in place of `image_suffix`, such as `_gtFine_labelIds.png`.
    pub label_suffix: String,
    /// Numbers in the label files.
    #[serde(default)]
    pub ids: Ids,
    /// Classes that `ids` leads to.
    #[serde(default = "nineteen")]
    pub classes: usize,
    /// Merges the classes into fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
}

fn nineteen() -> usize {
    19
}

/// Files of one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Image file.
    pub image: PathBuf,
    /// Label file.
    pub label: PathBuf,
}

/// A scanned data set: every image has a label file. The files are opened when a sample is loaded.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: String,
    pairs: Vec<Pair>,
    table: Table,
}

impl Dataset {
    /// Scans the folders of `spec`.
    ///
    /// # Errors
    /// A folder that cannot be read or holds no image, images without a label, or a table of ids
    /// that does not fit.
    pub fn open(spec: &DatasetSpec) -> Result<Self> {
        let table = Table::new(&spec.name, &spec.ids, spec.classes, spec.groups.as_ref())?;
        // With images and labels side by side, `_label.png` also ends in `.png`.
        let together =
            spec.images == spec.labels && spec.label_suffix.ends_with(&spec.image_suffix);
        let skip = if together { Some(spec.label_suffix.as_str()) } else { None };
        let mut images = Vec::new();
        scan(&spec.images, &spec.image_suffix, skip, 0, &mut images)?;
        if images.is_empty() {
            let (path, suffix) = (spec.images.clone(), spec.image_suffix.clone());
            return Err(TrainError::EmptyFolder { path, suffix });
        }
        images.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        let pairs: Vec<Pair> = images.into_iter().map(|image| pair(spec, image)).collect();
        let mut missing = pairs.iter().filter(|pair| !pair.label.is_file());
        if let Some(first) = missing.next() {
            return Err(TrainError::MissingLabel {
                count: 1 + missing.count(),
                total: pairs.len(),
                image: first.image.clone(),
                label: first.label.clone(),
            });
        }
        Ok(Self { name: spec.name.clone(), pairs, table })
    }

    /// Name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files, sorted by image path.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
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
        let pair = &self.pairs[index];
        let image = read_image(&pair.image)?;
        let label = read_label(&pair.label, &self.table)?;
        if (image.w, image.h) == (label.w, label.h) {
            return Ok((image, label));
        }
        Err(TrainError::SizeMismatch {
            image: pair.image.clone(),
            label: pair.label.clone(),
            image_w: image.w,
            image_h: image.h,
            label_w: label.w,
            label_h: label.h,
        })
    }
}

/// Folders inside folders beyond which a link is taken to loop.
const DEEPEST: usize = 64;

fn scan(
    folder: &Path,
    suffix: &str,
    skip: Option<&str>,
    depth: usize,
    out: &mut Vec<PathBuf>,
) -> Result<()> {
    let fail = |path: &Path, source| TrainError::Read { path: path.into(), source };
    if depth > DEEPEST {
        let what = format!("more than {DEEPEST} folders deep, perhaps a link that loops");
        return Err(fail(folder, std::io::Error::other(what)));
    }
    for entry in std::fs::read_dir(folder).map_err(|e| fail(folder, e))? {
        let path = entry.map_err(|e| fail(folder, e))?.path();
        if path.is_dir() {
            scan(&path, suffix, skip, depth + 1, out)?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(suffix) && !skip.is_some_and(|skip| name.ends_with(skip)) {
            out.push(path);
        }
    }
    Ok(())
}

fn pair(spec: &DatasetSpec, image: PathBuf) -> Pair {
    let below = image.strip_prefix(&spec.images).unwrap_or(&image);
    let name = below.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(&spec.image_suffix).unwrap_or(&name);
    let label = spec.labels.join(below).with_file_name(format!("{stem}{}", spec.label_suffix));
    Pair { image, label }
}
