//! Checkpoints: trained parameters, running statistics, optimiser, step, and fingerprint of the frozen
//! weights.
//!
//! Each checkpoint is one safetensors file, `checkpoints/step-000500.safetensors`. Random numbers
//! are a function of seed and step, so these two are the whole random state, including the order of
//! samples.
//!
//! Names, shapes, notes and values have checksums, which every reader compares. Files from before
//! there were checksums are read without. A state with a weight or moment that is not finite is
//! neither written nor read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dressage_engine::{DType, Param};
use dressage_models::adapter::is_adapter;
use dressage_models::weights::{ScalarType, StateDict, write_safetensors};
use dressage_models::{ModelError, Segmenter};
use serde::{Deserialize, Serialize};

use crate::optimiser::{AVERAGE, MOMENTS, Optimiser};
use crate::recipe::{Recipe, settings};
use crate::{Result, TrainError, files, finite};

/// Notes of a checkpoint about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notes {
    /// Steps done.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Trained part: `rein`, `freeze` or `full`.
    pub method: String,
    /// Fingerprint of the frozen weights.
    pub backbone: String,
    /// Number of updates of each parameter.
    pub updates: BTreeMap<String, u64>,
    /// Version of the program.
    pub version: String,
    /// Settings that affect the weights, by key; none in files of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Key of the notes in the file.
pub(crate) const NOTES: &str = "dressage";

/// Folder of the checkpoints in a run folder.
pub fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// Path of the checkpoint of `step` in a run folder.
pub fn path_of(run: &Path, step: u64) -> PathBuf {
    folder(run).join(format!("step-{step:06}.safetensors"))
}

/// Path of the state before a step whose loss was not finite.
pub fn before_nan(run: &Path) -> PathBuf {
    run.join("checkpoints").join("before-nan.safetensors")
}

/// Steps of the checkpoints in a run folder, ascending.
///
/// # Errors
/// A folder that cannot be read. A folder that does not exist has no checkpoints.
pub fn list(run: &Path) -> Result<Vec<u64>> {
    let dir = folder(run);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TrainError::Read { path: dir, source }),
    };
    let mut steps: Vec<u64> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let step = name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()?;
            // A copy with another spelling of the number was not written by a run.
            path_of(run, step).ends_with(&name).then_some(step)
        })
        .collect();
    steps.sort_unstable();
    Ok(steps)
}

/// Writes model and optimiser after `step` steps to `path`, whole or not at all. The file does not
/// depend on where they are stored. From a device the f32 weights and moments are copied, with one
/// wait for each.
///
/// # Errors
/// [`TrainError::BrokenState`] for a weight or moment that is not finite; a file that cannot be
/// written; a failure of the device; weights that are used in place from their file and were
/// changed there. The old file survives.
pub fn save(
    path: &Path,
    model: &Segmenter,
    optimiser: &Optimiser,
    step: u64,
    recipe: &Recipe,
) -> Result<()> {
    model.check_files()?;
    let notes = Notes {
        step,
        seed: recipe.train.seed,
        method: model.method().to_string(),
        backbone: model.backbone_fingerprint(),
        updates: optimiser.counts(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        settings: settings(recipe),
    };
    let stored = |p: &Param| Ok((p.name().to_string(), p.master().detach().to_host()?));
    let mut tensors = model.changing().iter().map(stored).collect::<Result<Vec<_>>>()?;
    tensors.extend(optimiser.tensors()?);
    for (name, tensor) in &tensors {
        if let Some(what) = finite::fault(name, tensor)? {
            return Err(TrainError::BrokenState { step, what, instead: String::new() });
        }
    }
    let notes = serde_json::to_string(&notes)
        .map_err(|e| TrainError::Checkpoint { path: path.into(), what: e.to_string() })?;
    files::write(path, |out| write_safetensors(&tensors, &[(NOTES, notes.clone())], out))?;
    Ok(())
}

/// Removes the checkpoint of a step.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove(run: &Path, step: u64) -> Result<()> {
    let path = path_of(run, step);
    match std::fs::remove_file(&path) {
        // Somebody else has removed it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(files::FileError { action: "remove", path, source }.into()),
        Ok(()) => Ok(()),
    }
}

/// Renames the checkpoints of steps after `step` and returns their steps. Nothing continues from
/// them any more, so their new names do not end like those of checkpoints.
///
/// # Errors
/// A file that cannot be renamed.
pub(crate) fn set_aside(run: &Path, step: u64) -> Result<Vec<u64>> {
    let mut later = list(run)?;
    later.retain(|other| *other > step);
    for step in &later {
        let path = path_of(run, *step);
        let name = |n: usize| {
            let mut name = path.clone().into_os_string();
            name.push(if n == 0 { ".set-aside".into() } else { format!(".set-aside-{n}") });
            PathBuf::from(name)
        };
        let free = (0..).map(name).find(|name| name.symlink_metadata().is_err());
        let aside = free.unwrap_or_else(|| name(0));
        std::fs::rename(&path, aside).map_err(|source| TrainError::Write { path, source })?;
    }
    Ok(later)
}

/// Removes all but the newest `keep` checkpoints of a run folder (0 keeps all).
///
/// # Errors
/// A file that cannot be removed.
pub(crate) fn prune(run: &Path, keep: usize) -> Result<()> {
    let steps = list(run)?;
    if keep == 0 || steps.len() <= keep {
        return Ok(());
    }
    steps[..steps.len() - keep].iter().try_for_each(|step| remove(run, *step))
}

/// Opens a checkpoint: reads its notes and tensors and compares their checksums.
///
/// # Errors
/// A missing or damaged file, one that is no checkpoint, or one with values that are not finite.
pub fn open(path: &Path) -> Result<(Notes, StateDict)> {
    let fail = |what: String| TrainError::Checkpoint { path: path.into(), what };
    // Without advice on files from elsewhere.
    let own = |error: ModelError| match error {
        ModelError::Read { cause, .. } | ModelError::Damaged { cause, .. } => fail(cause),
        other => other.into(),
    };
    let dict = StateDict::open(path).map_err(own)?;
    let text = dict
        .metadata()
        .get(NOTES)
        .ok_or_else(|| fail("is a weights file, not a checkpoint of a run".into()))?;
    let notes = serde_json::from_str(text).map_err(|e| fail(format!("notes are damaged: {e}")))?;
    for (name, stored) in dict.iter() {
        if stored.kind() != ScalarType::F32 {
            return Err(fail(format!("{name} is a tensor of {}, not of f32", stored.kind())));
        }
        let Some(values) = stored.checked_float(DType::F32).map_err(own)? else { continue };
        if let Some(what) = finite::fault(name, &values)? {
            return Err(fail(what));
        }
    }
    Ok((notes, dict))
}

/// Opens the checkpoint of `step` in a run folder. If it is damaged, the error names the newest
/// undamaged one, with the command line `option` that selects it.
///
/// # Errors
/// As [`open`].
pub fn open_of(run: &Path, step: u64, option: &str) -> Result<(Notes, StateDict)> {
    let path = path_of(run, step);
    let opened = open(&path).and_then(|(notes, dict)| match notes.step {
        found if found == step => Ok((notes, dict)),
        found => {
            let what = format!("holds the state after step {found}, but its name says another");
            Err(TrainError::Checkpoint { path: path.clone(), what })
        }
    });
    match opened {
        Err(error) if path.symlink_metadata().is_ok() => {
            let instead = match newest_whole(run)? {
                Some(step) => {
                    format!("the newest intact checkpoint is that of step {step}: {option} {step}")
                }
                None => "no other checkpoint of the run is intact".to_string(),
            };
            Err(TrainError::Damaged { error: error.to_string(), instead })
        }
        other => other,
    }
}

/// Step of the newest checkpoint in a run folder that can be read.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn newest_whole(run: &Path) -> Result<Option<u64>> {
    Ok(list(run)?.into_iter().rev().find(|step| open(&path_of(run, *step)).is_ok()))
}

/// Trained parameters of a checkpoint, without the state of the optimiser.
pub fn trained(mut dict: StateDict) -> StateDict {
    dict.retain(|name| !name.starts_with(MOMENTS));
    dict
}

/// Puts the averaged weights of the checkpoint `path` in the place of the weights.
///
/// # Errors
/// A checkpoint without averages.
pub fn use_averages(path: &Path, dict: &mut StateDict) -> Result<()> {
    let names = dict.names().filter_map(|name| name.strip_prefix(AVERAGE));
    let names: Vec<String> = names.map(str::to_owned).collect();
    if names.is_empty() {
        let what = "holds no averaged weights, which a run has if train.ema.rate is not 0";
        return Err(TrainError::Checkpoint { path: path.into(), what: what.into() });
    }
    for name in names {
        if let Some(average) = dict.take(&format!("{AVERAGE}{name}")) {
            dict.insert(name, average);
        }
    }
    Ok(())
}

/// Copies a checkpoint's values into a model that was built from the same recipe.
///
/// # Errors
/// Another method, other frozen weights than those it was trained on, or tensors that are missing,
/// left over or of another shape.
pub fn restore(path: &Path, notes: &Notes, dict: &mut StateDict, model: &Segmenter) -> Result<()> {
    let fail = |what: String| TrainError::Checkpoint { path: path.into(), what };
    if notes.method != model.method().to_string() {
        let (a, b) = (&notes.method, model.method());
        return Err(fail(format!("was trained with method `{a}`, the recipe says `{b}`")));
    }
    let found = model.backbone_fingerprint();
    if notes.backbone != found {
        return Err(fail(format!(
            "belongs to a backbone with fingerprint {}, this one has {found}; set model.weights \
             to the file it was trained on",
            notes.backbone
        )));
    }
    let float = |t: dressage_models::weights::Stored| t.to_float(DType::F32).transpose();
    for param in model.changing() {
        let name = param.name();
        let value = dict
            .take(name)
            .and_then(float)
            .transpose()?
            .ok_or_else(|| fail(format!("{name} {:?} is missing", param.get().shape())))?;
        if value.shape() != param.get().shape() {
            let (a, b) = (value.shape().to_vec(), param.get().shape().to_vec());
            return Err(fail(format!("{name} is {a:?}, the network has {b:?}")));
        }
        let copy = dressage_engine::memory::with_category(
            dressage_engine::memory::Category::Weights,
            || value.deep_copy(),
        )?;
        param.set(&copy)?;
    }
    let merged = |name: &str| model.merges() && is_adapter(name);
    match dict.names().find(|name| !name.starts_with(MOMENTS) && !merged(name)) {
        Some(name) => Err(fail(format!("{name} is left over: the network has no such tensor"))),
        None => Ok(()),
    }
}
