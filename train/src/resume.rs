//! Resuming a run: the state to continue from, and the settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dressage_models::weights::StateDict;

use crate::checkpoint::{self, Notes};
use crate::interrupt::Interrupt;
use crate::recipe::{Bearing, Change, Recipe, changed_settings, changes};
use crate::run_folder::RECIPE;
use crate::runlog::{Progress, RunLog};
use crate::trainer::Trainer;
use crate::{Result, TrainError};

/// Options for resuming a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resume {
    /// The state to continue from.
    pub from: ResumeFrom,
    /// Whether settings that affect the weights may differ from those of the run so far.
    pub changed: bool,
}

/// A state of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResumeFrom {
    /// The newest checkpoint.
    #[default]
    Newest,
    /// The checkpoint of a step.
    Step(u64),
    /// The state before a step whose loss was not finite.
    BeforeNan,
}

impl FromStr for ResumeFrom {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<ResumeFrom, String> {
        match text {
            "before-nan" => Ok(ResumeFrom::BeforeNan),
            step => match step.parse() {
                Ok(step) => Ok(ResumeFrom::Step(step)),
                Err(_) => Err("it must be the step of a checkpoint, or before-nan".into()),
            },
        }
    }
}

impl ResumeFrom {
    /// Opens the file in a run folder. Returns its path, notes and tensors.
    ///
    /// # Errors
    /// A state that does not exist or is damaged; the error names the newest undamaged checkpoint.
    pub(crate) fn open(self, run: &Path) -> Result<(PathBuf, Notes, StateDict)> {
        let step = match self {
            ResumeFrom::BeforeNan => {
                let path = checkpoint::before_nan(run);
                if !path.exists() {
                    return Err(refused(run, "holds no before-nan.safetensors".into()));
                }
                let (notes, dict) = checkpoint::open(&path)?;
                return Ok((path, notes, dict));
            }
            ResumeFrom::Step(step) => step,
            ResumeFrom::Newest => *checkpoint::list(run)?.last().ok_or_else(|| nothing(run))?,
        };
        if checkpoint::path_of(run, step).symlink_metadata().is_err() {
            let known: Vec<_> = checkpoint::list(run)?.iter().map(u64::to_string).collect();
            let what =
                format!("holds no checkpoint of step {step}; there are {}", known.join(", "));
            return Err(refused(run, what));
        }
        let (notes, dict) = checkpoint::open_of(run, step, "--resume --from")?;
        Ok((checkpoint::path_of(run, step), notes, dict))
    }
}

fn refused(run: &Path, what: String) -> TrainError {
    TrainError::RunFolder { path: run.to_path_buf(), what }
}

fn nothing(run: &Path) -> TrainError {
    let mut what = "holds no checkpoint to resume from".to_string();
    if checkpoint::before_nan(run).exists() {
        what += "; --from before-nan continues from the state before the loss that was not finite";
    }
    refused(run, what)
}

/// State of a run before it is resumed.
pub(crate) struct Earlier {
    /// Its recipe, if the folder has one.
    recipe: Option<Recipe>,
    /// Changes that affect weights or scores.
    pub changes: Vec<Change>,
}

impl Earlier {
    /// Compares the recipe in a run folder with the one to continue with.
    ///
    /// # Errors
    /// [`TrainError::ResumeChanged`] with every changed key that affects the weights, unless
    /// `changed` allows it; a recipe in the folder that cannot be read.
    pub fn of(run: &Path, now: &Recipe, notes: &Notes, changed: bool) -> Result<Earlier> {
        let path = run.join(RECIPE);
        let before = if path.exists() { Some(Recipe::from_file(&path, &[])?) } else { None };
        let mut changes = before.as_ref().map_or_else(Vec::new, |before| changes(before, now));
        if !notes.settings.is_empty() {
            // The checkpoint's own settings count, whatever was changed in the recipe since.
            let weighty = [Bearing::Network, Bearing::Learning];
            changes.retain(|change| !weighty.contains(&change.bearing));
            changes.extend(changed_settings(&notes.settings, now));
        }
        let refused = listed(changes.iter().filter(|change| change.bearing.on_weights()));
        if !changed && !refused.is_empty() {
            return Err(TrainError::ResumeChanged { path: run.into(), changes: refused });
        }
        let counts = |bearing: Bearing| bearing.on_weights() || bearing.on_scores();
        changes.retain(|change| counts(change.bearing));
        Ok(Earlier { recipe: before, changes })
    }

    /// Whether an evaluation was due after `step` steps, by the earlier or the present recipe.
    pub(crate) fn evaluation_due(&self, now: &Recipe, step: u64) -> bool {
        let due = |recipe: &Recipe| {
            let every = recipe.train.eval_every;
            step == recipe.train.steps || (every > 0 && step.is_multiple_of(every))
        };
        step > 0 && (due(now) || self.recipe.as_ref().is_some_and(due))
    }
}

/// Formats changes as one line.
pub(crate) fn listed<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    changes.into_iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
}

impl Trainer {
    /// Note about a state before a bad loss that is newer than the resumed state.
    pub(crate) fn newer_before_nan(&self, from: ResumeFrom) -> Option<String> {
        let path = checkpoint::before_nan(&self.dir);
        if from == ResumeFrom::BeforeNan || !path.exists() {
            return None;
        }
        let (notes, _) = checkpoint::open(&path).ok().filter(|(n, _)| n.step > self.step)?;
        Some(format!(
            "{} holds the state after step {}, before a loss that was not finite; continue from it \
             with --from before-nan",
            path.display(),
            notes.step
        ))
    }

    /// Sets aside the later checkpoints, to which the resumed run does not lead any more.
    pub(crate) fn set_later_aside(&self, progress: &dyn Progress) -> Result<()> {
        if self.earlier.is_none() {
            return Ok(());
        }
        let aside = checkpoint::set_aside(&self.dir, self.step)?;
        for step in &aside {
            let path = checkpoint::path_of(&self.dir, *step);
            progress.note(&format!(
                "{} is set aside, since training resumes from step {}",
                path.display(),
                self.step
            ));
        }
        if let Some(folder) = &self.folder
            && let Some(copy) = folder.copy_log(!aside.is_empty())?
        {
            progress.note(&format!("the earlier log is kept as {}", copy.display()));
        }
        Ok(())
    }

    /// Logs the settings that have changed in a resumed run.
    pub(crate) fn log_changes(&mut self, log: &mut RunLog, progress: &dyn Progress) -> Result<()> {
        if let Some(note) = self.note.take() {
            progress.note(&note);
        }
        let Some(Earlier { changes, .. }) = &self.earlier else { return Ok(()) };
        if !changes.is_empty() {
            progress.note(&format!("other settings after step {}: {}", self.step, listed(changes)));
            let values = changes.iter().map(|c| (&c.key, [&c.before, &c.now]));
            let values: BTreeMap<_, _> = values.collect();
            log.write("changed", self.step, &serde_json::json!({ "before_and_now": values }))?;
            log.sync()?;
        }
        Ok(())
    }

    /// Runs the evaluation that was due at the resumed step, if the log lacks it. Returns whether
    /// it ran.
    pub(crate) fn make_up(
        &mut self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<bool> {
        let due = self.earlier.as_ref().is_some_and(|e| e.evaluation_due(&self.recipe, self.step));
        // At the last step it is run anyway.
        let due = due && self.step < self.recipe.train.steps && !self.recipe.data.eval.is_empty();
        if !due || log.holds("eval", self.step)? {
            return Ok(false);
        }
        progress.note(&format!("running the missing evaluation after step {}", self.step));
        self.evaluate(log, progress, stop)?;
        Ok(true)
    }
}
