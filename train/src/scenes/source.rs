//! Scenes as a data set: drawn on demand, or written to files.

use std::path::Path;

use super::{Domain, render};
use crate::data::{ClassGroups, Source};
use crate::palette::{CITYSCAPES, Palette};
use crate::pictures::{write_image, write_label};
use crate::{IGNORE, Image, LabelMap, Result, TrainError};

/// `count` scenes of one domain, drawn when they are loaded.
pub struct SceneSource {
    seed: u64,
    first: u64,
    count: usize,
    domain: Domain,
    size: (usize, usize),
    names: Vec<String>,
    /// Class of each trainId, if classes are merged.
    merged: Option<Vec<u8>>,
}

impl SceneSource {
    /// Scenes `first` to `first + count` of `seed`, with `size` = (width, height). Disjoint ranges
    /// make training and test sets without a common scene.
    pub fn new(seed: u64, first: u64, count: usize, domain: Domain, size: (usize, usize)) -> Self {
        let names = CITYSCAPES.iter().map(|c| c.name.to_owned()).collect();
        Self { seed, first, count, domain, size, names, merged: None }
    }

    /// The same scenes with merged classes; trainIds beyond the groups' last have no class.
    pub fn grouped(self, groups: ClassGroups) -> Self {
        Self { names: groups.names, merged: Some(groups.of), ..self }
    }
}

impl Source for SceneSource {
    fn len(&self) -> usize {
        self.count
    }

    fn class_names(&self) -> &[String] {
        &self.names
    }

    fn sample_name(&self, index: usize) -> String {
        format!("{}/{:05}", self.domain.name(), self.first + index as u64)
    }

    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        let (w, h) = self.size;
        let (image, mut label) = render(self.seed, self.first + index as u64, self.domain, w, h);
        if let Some(of) = &self.merged {
            for class in &mut label.data {
                *class = of.get(usize::from(*class)).copied().unwrap_or(IGNORE);
            }
        }
        Ok((image, label))
    }
}

/// Writes `count` scenes of `domain` below `dir`: `images/<domain>/00000.png` and
/// `labels/<domain>/00000.png`, `size` = (width, height). Labels are palette PNGs whose index is
/// the trainId.
///
/// # Errors
/// [`TrainError::Write`] for the first file that could not be written.
pub fn write_dataset(
    dir: &Path,
    seed: u64,
    domain: Domain,
    count: usize,
    size: (usize, usize),
) -> Result<()> {
    let folders = ["images", "labels"].map(|kind| dir.join(kind).join(domain.name()));
    for folder in &folders {
        std::fs::create_dir_all(folder)
            .map_err(|source| TrainError::Write { path: folder.clone(), source })?;
    }
    let palette = Palette::cityscapes();
    for index in 0..count {
        let (image, label) = render(seed, index as u64, domain, size.0, size.1);
        let name = format!("{index:05}.png");
        write_image(&folders[0].join(&name), &image)?;
        write_label(&folders[1].join(&name), &label, &palette)?;
    }
    Ok(())
}
