//! Check of the data of a recipe, before the first step.
//!
//! Sizes come from the headers of images, values from the labels. Labels are decoded once, and the
//! facts are cached in the user's cache. `data.on_error` decides about pairs that cannot be used:
//! `stop` names them, `skip` leaves them out before samples are drawn. Drawn scenes need no check.

mod cache;
mod facts;
mod replace;
mod set;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use super::{Dataset, DatasetSpec, Joined, Source};
use crate::interrupt::Interrupt;
use crate::recipe::{self, OnError, Recipe};
use crate::runlog::Progress;
use crate::wait::Waiting;
use crate::{Result, TrainError, network, user_cache};

pub use facts::ImageFacts;
pub use replace::Replacing;
pub(crate) use set::check_set;
pub use set::{Fault, SetCheck};

/// Number of faults that a message lists one by one.
const NAMED: usize = 3;

/// Sets to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Training and evaluation sets.
    All,
    /// Evaluation sets.
    Eval,
}

/// The sources of a recipe after their check.
pub struct Checked {
    /// Training sets in the order of the recipe; none for [`Which::Eval`].
    pub train: Vec<Arc<dyn Source>>,
    /// Evaluation sets in the order of the recipe.
    pub eval: Vec<Arc<dyn Source>>,
    /// Checks of the sets of files.
    pub sets: Vec<SetCheck>,
    /// The training sets as one source.
    samples: Option<Samples>,
}

enum Samples {
    Plain(Arc<dyn Source>),
    Replacing(Arc<Replacing>),
}

/// Pairs and samples that a run left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Pairs that the check has left out.
    pub pairs: usize,
    /// Samples that could not be loaded later on and were replaced.
    pub replaced: usize,
}

/// Opens and checks the sets of `recipe`. Notes go to `progress`, such as pairs that are left out
/// or classes that no label has.
///
/// # Errors
/// [`TrainError::BadData`] with all sets that have pairs which cannot be used (unless they are left
/// out) or no labelled pixel; a folder that cannot be read; [`TrainError::Interrupted`].
pub fn check_recipe(
    recipe: &Recipe,
    which: Which,
    progress: &dyn Progress,
    stop: &Interrupt,
) -> Result<Checked> {
    let caches = user_cache::folder();
    let caches = caches.as_deref();
    let (mut sets, mut train, mut eval) = (Vec::new(), Vec::new(), Vec::new());
    let mut open = |key: String, set: &recipe::Set| -> Result<Arc<dyn Source>> {
        let (source, check) = open_set(recipe, &key, set, caches, progress, stop)?;
        sets.extend(check);
        Ok(source)
    };
    if which == Which::All {
        for (i, set) in recipe.data.train.iter().enumerate() {
            train.push(open(format!("data.train.{i}"), set)?);
        }
    }
    for (i, set) in recipe.data.eval.iter().enumerate() {
        eval.push(open(format!("data.eval.{i}"), &set.set)?);
    }
    verdict(recipe.data.on_error, &sets)?;
    notes(recipe, &sets, progress);
    let samples = match train.is_empty() {
        true => None,
        false => Some(Samples::of(recipe, train.clone())?),
    };
    Ok(Checked { train, eval, sets, samples })
}

fn open_set(
    recipe: &Recipe,
    key: &str,
    set: &recipe::Set,
    caches: Option<&Path>,
    progress: &dyn Progress,
    stop: &Interrupt,
) -> Result<(Arc<dyn Source>, Option<SetCheck>)> {
    if set.source == recipe::SourceKind::Scenes {
        return Ok((network::source(recipe, set)?, None));
    }
    let spec = recipe.data.spec(set, &recipe.head.classes);
    let spec = DatasetSpec { key: key.to_owned(), ..spec };
    let (folders, waiting) = (spec.clone(), Waiting::new(progress, stop));
    let dataset = waiting.read(&spec.images, move || Dataset::scan(&folders))?;
    if let Some(what) = dataset.passed_over() {
        progress.note(&format!("data set {:?}: skipped {what}", dataset.name()));
    }
    let check = check_set(key, &spec, &dataset, caches, progress, stop)?;
    let usable = dataset.without(&check.left_out());
    let usable = match recipe.data.on_error {
        OnError::Stop => usable.stopping(),
        OnError::Skip => usable,
    };
    Ok((Arc::new(usable), Some(check)))
}

impl Samples {
    fn of(recipe: &Recipe, train: Vec<Arc<dyn Source>>) -> Result<Samples> {
        let joined: Arc<dyn Source> = Arc::new(Joined::new(train)?);
        Ok(match recipe.data.on_error {
            OnError::Stop => Samples::Plain(joined),
            OnError::Skip => Samples::Replacing(Arc::new(Replacing::new(joined))),
        })
    }
}

impl Checked {
    /// The training sets as one source; `None` if they were not checked.
    pub fn samples(&self) -> Option<Arc<dyn Source>> {
        Some(match self.samples.as_ref()? {
            Samples::Plain(source) => Arc::clone(source),
            Samples::Replacing(source) => Arc::clone(source) as Arc<dyn Source>,
        })
    }

    /// Samples left out so far.
    pub fn left_out(&self) -> LeftOut {
        let replaced = match &self.samples {
            Some(Samples::Replacing(source)) => source.replaced(),
            _ => 0,
        };
        LeftOut { pairs: self.sets.iter().map(|set| set.faults.len()).sum(), replaced }
    }
}

/// Fails if sets cannot be used; the error names all of them.
fn verdict(on_error: OnError, sets: &[SetCheck]) -> Result<()> {
    let (mut what, mut ways) = (Vec::new(), Vec::new());
    let mut way = |text: String| {
        if !ways.contains(&text) {
            ways.push(text);
        }
    };
    for set in sets {
        let faulty = !set.faults.is_empty();
        if faulty && (on_error == OnError::Stop || set.usable() == 0) {
            what.push(faults(set));
            way(match set.usable() {
                0 => "fix or remove them".to_owned(),
                _ => "fix or remove them, or leave them out with data.on_error=skip".to_owned(),
            });
            if set.faults.iter().any(|fault| fault.value) {
                way(table_of_ids(set));
            }
        } else if set.is_void() {
            let by = if set.grouped_away { "groups" } else { "table of ids" };
            what.push(format!(
                "no pixel in the {} labels of data set {:?} has a class: all their values are void \
                 in its {by}: {}",
                set.usable(),
                set.name,
                values(set)
            ));
            way(match set.grouped_away {
                true => format!("list the classes of these values in {}.groups", set.key),
                false => table_of_ids(set),
            });
        }
    }
    if what.is_empty() {
        return Ok(());
    }
    Err(TrainError::BadData { what: what.join("; "), way: ways.join(", or ") })
}

fn table_of_ids(set: &SetCheck) -> String {
    let (key, last) = (&set.key, set.id_classes.saturating_sub(1));
    let as_cityscapes = if set.as_cityscapes { "cityscapes or " } else { "" };
    format!(
        "set {key}.id_map to their table of ids, as {as_cityscapes}{{ value = class }} with \
         classes from 0 to {last}"
    )
}

/// Number of pairs of a set that cannot be used, and the first of them.
fn faults(set: &SetCheck) -> String {
    let first = set.faults.iter().take(NAMED).map(|fault| fault.what.as_str());
    let mut text = format!(
        "{} of {} pairs of data set {:?} cannot be used: {}",
        set.faults.len(),
        set.pairs,
        set.name,
        first.collect::<Vec<_>>().join("; ")
    );
    if set.faults.len() > NAMED {
        text.push_str(&format!("; and {} more", set.faults.len() - NAMED));
    }
    text
}

/// The most frequent values in the labels of a set, with their shares.
fn values(set: &SetCheck) -> String {
    const MOST: usize = 8;
    let all: u64 = set.values.values().sum();
    let mut values: Vec<(u64, u32)> = set.values.iter().map(|(value, n)| (*n, *value)).collect();
    values.sort_by_key(|(n, value)| (std::cmp::Reverse(*n), *value));
    let text = |(n, value): &(u64, u32)| {
        format!("{value} ({:.1} %)", 100.0 * *n as f64 / all.max(1) as f64)
    };
    let mut text = values.iter().take(MOST).map(text).collect::<Vec<_>>().join(", ");
    if values.len() > MOST {
        text.push_str(&format!(" and {} other values", values.len() - MOST));
    }
    text
}

fn notes(recipe: &Recipe, sets: &[SetCheck], progress: &dyn Progress) {
    for set in sets {
        if !set.faults.is_empty() {
            progress.note(&format!("left out (data.on_error=skip): {}", faults(set)));
        }
        if set.void_labels > 0 {
            let (void, usable, name) = (set.void_labels, set.usable(), &set.name);
            progress.note(&format!("{void} of {usable} labels of data set {name:?} are all void"));
        }
    }
    let train: Vec<_> = sets.iter().filter(|set| set.key.starts_with("data.train.")).collect();
    // The classes of a drawn scene are not known before it is drawn.
    if train.is_empty() || train.len() < recipe.data.train.len() {
        return;
    }
    let missing = |class: &usize| train.iter().all(|set| set.classes.get(*class) == Some(&0));
    let classes = (0..recipe.classes()).filter(missing);
    let names: Vec<&str> = classes.map(|class| recipe.head.classes[class].as_str()).collect();
    if !names.is_empty() {
        progress.note(&format!(
            "warning: no training label has {} of {} classes: {}",
            names.len(),
            recipe.classes(),
            names.join(", ")
        ));
    }
}
