//! Ground truth of a batch.

use dressage_engine::{DType, Device, Tensor, ops};

use crate::{ModelError, Result};

/// Label of pixels that all losses ignore.
pub const IGNORE: u8 = 255;

/// Ground truth of a batch.
pub struct Targets {
    /// `[b, H, W]` u8, 255 = ignore.
    labels: Tensor,
    /// Classes present in each image, ascending; each is one target.
    classes: Vec<Vec<u8>>,
    /// Number of classes.
    k: usize,
    /// Table of [`PaddedTargets`], present if the labels are on a device.
    table: Option<Tensor>,
}

/// Targets padded to the number of classes; padding comes last in each image.
pub(crate) struct PaddedTargets {
    /// `[b * k]`, i32: image of each target, -1 for padding.
    pub images: Tensor,
    /// `[b * k]`, i32: class of each target, -1 for padding.
    pub classes: Tensor,
}

impl Targets {
    /// Targets from label maps `[b, H, W]` (u8).
    ///
    /// # Errors
    /// Another shape or type; a label that is neither a class nor 255.
    pub fn new(labels: Tensor, classes: usize) -> Result<Targets> {
        let &[_, h, w] = labels.shape() else {
            let text = format!("labels are {:?}, expected [b, H, W]", labels.shape());
            return Err(ModelError::Config(text));
        };
        let present = |map: &[u8]| {
            let mut seen = [false; 256];
            map.iter().for_each(|&v| seen[v as usize] = true);
            let found: Vec<u8> = (0..=254u8).filter(|&v| seen[v as usize]).collect();
            match found.iter().find(|&&v| v as usize >= classes) {
                Some(v) => Err(ModelError::Config(format!(
                    "label value {v} is not one of the {classes} classes (or 255)"
                ))),
                None => Ok(found),
            }
        };
        let maps = labels.data::<u8>()?.chunks_exact((h * w).max(1));
        let found = maps.map(present).collect::<Result<_>>()?;
        Ok(Targets { labels, classes: found, k: classes, table: None })
    }

    /// Targets of all `classes` in each of `b` images of side `s`, for a dry run: no pixel is read.
    pub fn for_dry_run(b: usize, s: usize, classes: usize) -> Targets {
        let all: Vec<u8> = (0..=254u8).take(classes).collect();
        let labels = Tensor::empty::<u8>(&[b, s, s]);
        Targets { labels, classes: vec![all; b], k: classes, table: None }
    }

    /// The same targets on a device. Two copies; does not wait.
    ///
    /// # Errors
    /// Labels that are on a device already; no room there.
    pub fn to_device(&self, device: &Device) -> Result<Targets> {
        let mut there = Targets {
            labels: Tensor::empty_on(Some(device), DType::U8, self.labels.shape())?,
            classes: Vec::new(),
            k: self.k,
            table: Some(Tensor::empty_on(Some(device), DType::I32, &[self.places()])?),
        };
        there.overwrite(self)?;
        Ok(there)
    }

    /// Overwrites these targets on a device with `from` in host memory. Addresses do not change, so
    /// kernel launches that read them stay the same. Two copies; does not wait.
    ///
    /// # Errors
    /// Images of another number or size, another number of classes; a part of these targets that is
    /// still in use; a failure of the device.
    pub fn overwrite(&mut self, from: &Targets) -> Result<()> {
        let labels = from.labels.data::<u8>()?;
        let Some(table) = self.table.as_mut() else { return Err(not_placed("")) };
        if self.labels.shape() != from.labels.shape() || self.k != from.k {
            let text = format!(
                "targets of {:?} and {} classes cannot replace those of {:?} and {}",
                from.labels.shape(),
                from.k,
                self.labels.shape(),
                self.k
            );
            return Err(ModelError::Config(text));
        }
        let words = from.words();
        self.labels.overwrite(labels)?;
        table.overwrite(&words)?;
        self.classes.clone_from(&from.classes);
        Ok(())
    }

    /// Number of words of the table.
    fn places(&self) -> usize {
        2 * self.labels.dim(0) * self.k
    }

    /// Image of each target, then its class; -1 for padding.
    fn words(&self) -> Vec<i32> {
        let slots = self.classes.len() * self.k;
        let mut words = vec![-1; 2 * slots];
        for (image, classes) in self.classes.iter().enumerate() {
            for (j, &class) in classes.iter().enumerate() {
                words[image * self.k + j] = image as i32;
                words[slots + image * self.k + j] = i32::from(class);
            }
        }
        words
    }

    /// The padded targets, on the device of the labels or on the host.
    ///
    /// # Errors
    /// Targets that are not in the memory of `place`.
    pub(crate) fn padded(&self, place: Option<&Device>) -> Result<PaddedTargets> {
        if self.labels.device() != place {
            return Err(not_placed(&place.map_or("the host".into(), Device::name)));
        }
        let slots = self.labels.dim(0) * self.k;
        let host;
        let table = match &self.table {
            Some(table) => table,
            None => {
                host = Tensor::from_slice(&self.words(), &[2 * slots])?;
                &host
            }
        };
        Ok(PaddedTargets {
            images: ops::rows(table, 0, slots)?,
            classes: ops::rows(table, slots, slots)?,
        })
    }

    /// Masks of classes in the label maps.
    pub(crate) fn masks<'a>(
        &'a self,
        images: &'a Tensor,
        classes: &'a Tensor,
    ) -> ops::LabelMasks<'a> {
        ops::LabelMasks { labels: &self.labels, images, classes }
    }

    /// `[b, H, W]`, u8.
    pub(crate) fn labels(&self) -> &Tensor {
        &self.labels
    }

    /// Number of classes.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Classes present in each image, ascending.
    pub fn classes(&self) -> &[Vec<u8>] {
        &self.classes
    }
}

fn not_placed(device: &str) -> ModelError {
    let place = if device.is_empty() { "a device" } else { device };
    ModelError::Config(format!("the targets are not on {place}; Targets::to_device copies them"))
}
