//! Checkpoints of a run while it trains.

use std::path::{Path, PathBuf};

use crate::runlog::RunLog;
use crate::trainer::Trainer;
use crate::{Result, TrainError, checkpoint};

impl Trainer {
    /// Flushes the log and writes a checkpoint as [`Trainer::save`] does. A checkpoint `by_time`
    /// replaces the last one by time and is in addition to those to keep.
    pub(crate) fn checkpoint(&mut self, log: &RunLog, by_time: bool) -> Result<PathBuf> {
        log.sync()?;
        let path = checkpoint::path_of(&self.dir, self.step);
        self.write(&path, self.step)?;
        let last = std::mem::replace(&mut self.timed, by_time.then_some(self.step));
        if let Some(last) = last.filter(|last| *last != self.step) {
            checkpoint::remove(&self.dir, last)?;
        }
        if !by_time {
            checkpoint::prune(&self.dir, self.recipe.train.keep)?;
        }
        self.timer.restart();
        Ok(path)
    }

    /// Writes the state after `done` steps.
    ///
    /// # Errors
    /// As [`checkpoint::save`]; for a broken state, with the state to continue from.
    pub(crate) fn write(&self, path: &Path, done: u64) -> Result<()> {
        match checkpoint::save(path, &self.model, &self.optimiser, done, &self.recipe) {
            Err(TrainError::BrokenState { step, what, .. }) => {
                let instead = match checkpoint::newest_whole(&self.dir) {
                    Ok(Some(whole)) => format!(
                        "; the newest intact checkpoint is that of step {whole}; continue from it \
                         at a lower rate with --resume --resume-changed train.lr=RATE"
                    ),
                    _ => "; start again with a lower train.lr".to_string(),
                };
                Err(TrainError::BrokenState { step, what, instead })
            }
            other => other,
        }
    }
}
