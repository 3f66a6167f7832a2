//! Evaluations of a run while it trains.

use dressage_kernels::cpu::allocate;

use crate::graphs::OnDevice;
use crate::interrupt::Interrupt;
use crate::metrics::Report;
use crate::runlog::{Progress, RunLog};
use crate::trainer::Trainer;
use crate::{Result, TrainError, evaluate};

impl Trainer {
    /// Scores the network on all evaluation sets and logs the result; `None` without one.
    ///
    /// A sample that cannot be read fails the evaluation, not the training. The failure is logged,
    /// and the first one is in the outcome of the run.
    ///
    /// # Errors
    /// A failure of the network or of the log.
    pub(crate) fn evaluate(
        &mut self,
        log: &mut RunLog,
        progress: &dyn Progress,
        stop: &Interrupt,
    ) -> Result<Option<Report>> {
        // The memory of the graphs is needed here.
        self.on_device.iter_mut().for_each(OnDevice::release);
        self.check_data(progress, stop)?;
        let sources = self.data.as_ref().map_or(&[][..], |data| &data.eval);
        let averaged = self.recipe.eval.averaged;
        if averaged {
            self.optimiser.swap_averages()?;
        }
        let scored = allocate::catch(|| {
            evaluate::evaluate(&self.model, &self.recipe, sources, progress, stop)
        });
        // Also after a failure: what is saved then are the weights.
        if averaged {
            self.optimiser.swap_averages()?;
        }
        match scored? {
            Ok(report) => {
                // A run whose steps are all done may have a score already.
                log.replace("eval", self.step, &report)?;
                log.sync()?;
                Ok(Some(report))
            }
            // The state is saved; an interrupted evaluation has no score.
            Err(TrainError::Interrupted) => Ok(None),
            Err(error) if is_of_a_sample(&error) => {
                let text = format!("the evaluation after step {} failed: {error}", self.step);
                progress.note(&text);
                log.write("eval_failed", self.step, &serde_json::json!({ "error": text }))?;
                log.sync()?;
                self.unscored.get_or_insert(text);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}

/// Whether an error means that a picture or label could not be used.
fn is_of_a_sample(error: &TrainError) -> bool {
    use TrainError as E;
    matches!(
        error,
        E::Read { .. }
            | E::NoFile { .. }
            | E::PictureForm { .. }
            | E::Decode { .. }
            | E::Picture { .. }
            | E::LabelFile { .. }
            | E::LabelFormat { .. }
            | E::LabelColour { .. }
            | E::LabelValue { .. }
            | E::SizeMismatch { .. }
            | E::NoLabel { .. }
            | E::MissingLabel { .. }
            | E::Raster { .. }
    )
}
