//! The check of one data set.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::super::dataset::{Dataset, DatasetSpec, SamplePaths};
use super::super::label::label_facts;
use super::super::table::{Ids, Table};
use super::cache::{Cache, Facts, Stamp};
use super::facts::{ImageFacts, image_facts};
use crate::data::{LabelFacts, Source as _};
use crate::interrupt::Interrupt;
use crate::runlog::{Progress, Stage};
use crate::{IGNORE, Result, TrainError};

/// Pairs between two checks for a stop request.
const CHUNK: usize = 64;

/// Number of pairs from which the check reports progress as a stage.
const MANY: usize = 256;

/// A pair that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Position of the pair in its data set.
    pub pair: usize,
    /// The file and its fault.
    pub what: String,
    /// Whether a value in the label is no class: the table of ids may be the wrong one.
    pub value: bool,
}

/// Result of checking every pair of a data set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SetCheck {
    /// Name of the data set.
    pub name: String,
    /// Key of the set in the recipe, such as `data.train.0`.
    pub key: String,
    /// Pairs in all.
    pub pairs: usize,
    /// Pairs that cannot be used, in order.
    pub faults: Vec<Fault>,
    /// Pixels of each value in the labels of usable pairs; colours are `0xRRGGBB`.
    pub values: BTreeMap<u32, u64>,
    /// Pixels of each class in the labels of usable pairs.
    pub classes: Vec<u64>,
    /// Pixels without a class in the labels of usable pairs.
    pub void: u64,
    /// Usable pairs whose label is entirely void.
    pub void_labels: usize,
    /// Images of each size (width, height).
    pub sizes: BTreeMap<(usize, usize), usize>,
    /// Images of each form, `PNG` or `JPEG`.
    pub forms: BTreeMap<String, usize>,
    /// Files with facts from an earlier check.
    pub known: usize,
    /// Number of classes that the table of ids maps to, before they are merged into groups.
    pub id_classes: usize,
    /// Whether the table of ids of Cityscapes fits the classes and maps some value to one.
    pub as_cityscapes: bool,
    /// Whether pixels have a class that is in no group.
    pub grouped_away: bool,
}

/// Facts about one file, with the stamp to cache them under if they are new.
type Looked<T> = (T, Option<Stamp>);

/// Checks every pair of `dataset`, the set of `spec` with the key `key` in the recipe. Labels are
/// decoded on all threads; facts are cached in the folder `caches`.
///
/// # Errors
/// [`TrainError::Interrupted`]; pairs that cannot be used are no error here.
pub(crate) fn check_set(
    key: &str,
    spec: &DatasetSpec,
    dataset: &Dataset,
    caches: Option<&Path>,
    progress: &dyn Progress,
    stop: &Interrupt,
) -> Result<SetCheck> {
    let mut images = Cache::open(caches, &spec.images, "images");
    let mut labels = Cache::open(caches, &spec.labels, "labels");
    let pairs = dataset.pairs();
    let name = format!("check {}", dataset.name());
    let stage =
        (pairs.len() >= MANY).then(|| Stage::new(progress, &name, Some(pairs.len() as u64)));
    let mut check = SetCheck {
        name: dataset.name().to_owned(),
        key: key.to_owned(),
        pairs: pairs.len(),
        id_classes: spec.classes,
        classes: vec![0; dataset.class_names().len()],
        ..SetCheck::default()
    };
    let other = |ids: &Ids, groups| Table::new(key, ids, spec.classes, groups).ok();
    let cityscapes = Ids::Named("cityscapes".into());
    let cityscapes =
        (spec.ids != cityscapes).then(|| other(&cityscapes, spec.groups.as_ref())).flatten();
    let ungrouped = spec.groups.as_ref().and_then(|_| other(&spec.ids, None));
    for (chunk, first) in pairs.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let look = |pair| {
            if stop.requested() { None } else { Some(look(key, pair, &images, &labels)) }
        };
        let found: Vec<Option<Result<_>>> = chunk.par_iter().map(look).collect();
        for (found, pair) in found.into_iter().zip(first..) {
            let Some(found) = found else {
                images.store();
                labels.store();
                return Err(TrainError::Interrupted);
            };
            let files = &pairs[pair];
            let used = found.and_then(|(image, label)| {
                remember(&mut images, &files.image, &image, Facts::Image);
                remember(&mut labels, &files.label, &label, Facts::Label);
                check.known += usize::from(image.1.is_none()) + usize::from(label.1.is_none());
                let has = |table: &Option<Table>| {
                    table.as_ref().is_some_and(|table| label.0.has_class(&files.label, table))
                };
                check.as_cityscapes |= has(&cityscapes);
                check.grouped_away |= has(&ungrouped);
                check.add(files, dataset, &image.0, &label.0)
            });
            if let Err(error) = used {
                check.faults.push(Fault {
                    pair,
                    what: without_advice(&error),
                    value: matches!(error, TrainError::LabelValue { .. }),
                });
            }
        }
        if let Some(stage) = &stage {
            stage.at((first + chunk.len()) as u64, "");
        }
    }
    images.store();
    labels.store();
    Ok(check)
}

fn remember<T: Clone>(
    cache: &mut Cache,
    path: &Path,
    (facts, stamp): &Looked<T>,
    wrap: impl FnOnce(T) -> Facts,
) {
    if let Some(stamp) = stamp {
        cache.add(path, *stamp, wrap(facts.clone()));
    }
}

fn look(
    key: &str,
    pair: &SamplePaths,
    images: &Cache,
    labels: &Cache,
) -> Result<(Looked<ImageFacts>, Looked<LabelFacts>)> {
    // The stamps are taken first: a file that changes while it is read is then checked again.
    let (image, label) = (Stamp::of(&pair.image), Stamp::of(&pair.label));
    let known = |cache: &Cache, path: &Path, stamp: Option<Stamp>| cache.get(path, stamp?).cloned();
    let image = match known(images, &pair.image, image) {
        Some(Facts::Image(facts)) => (facts, None),
        _ => (image_facts(&pair.image)?, image),
    };
    if !pair.has_label() && label.is_none() {
        let (image, label) = (pair.image.clone(), pair.label.clone());
        return Err(TrainError::NoLabel { image, label, key: key.to_owned() });
    }
    let label = match known(labels, &pair.label, label) {
        Some(Facts::Label(facts)) => (facts, None),
        _ => (label_facts(&pair.label)?, label),
    };
    Ok((image, label))
}

impl SetCheck {
    /// Adds a pair to the counts.
    fn add(
        &mut self,
        pair: &SamplePaths,
        dataset: &Dataset,
        image: &ImageFacts,
        label: &LabelFacts,
    ) -> Result<()> {
        let classes = label.classes(&pair.label, dataset.table())?;
        pair.same_size((image.w, image.h), (label.w, label.h))?;
        for &(value, n, _) in &label.values {
            *self.values.entry(value).or_default() += n;
        }
        self.classes.iter_mut().zip(&classes).for_each(|(sum, n)| *sum += n);
        self.void += classes[usize::from(IGNORE)];
        let labelled: u64 = classes[..usize::from(IGNORE)].iter().sum();
        self.void_labels += usize::from(labelled == 0);
        *self.sizes.entry((image.w, image.h)).or_default() += 1;
        *self.forms.entry(image.form.clone()).or_default() += 1;
        Ok(())
    }

    /// Pairs that can be used.
    pub fn usable(&self) -> usize {
        self.pairs - self.faults.len()
    }

    /// Whether no pixel of the usable pairs has a class.
    pub(crate) fn is_void(&self) -> bool {
        self.usable() > 0 && self.void_labels == self.usable()
    }

    /// Positions of the pairs that cannot be used, in order.
    pub fn left_out(&self) -> Vec<usize> {
        self.faults.iter().map(|fault| fault.pair).collect()
    }
}

/// An error's text up to its advice, which follows the last semicolon.
fn without_advice(error: &TrainError) -> String {
    let text = error.to_string();
    text.rsplit_once("; ").map(|(what, _)| what.to_owned()).unwrap_or(text)
}
