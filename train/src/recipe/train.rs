//! Settings of the optimiser, the schedules and the intervals of a run.

use dressage_engine::RecomputePolicy;
use serde::{Deserialize, Serialize};

/// Optimiser, schedule and intervals (spec training-and-data §1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Steps.
    pub steps: u64,
    /// Images that are computed at once.
    pub batch: usize,
    /// Batches per update; their losses and gradients are those of one large batch.
    pub accumulate: usize,
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Weight decay of AdamW at the first step.
    pub weight_decay: f64,
    /// Weight decay at the last step, which half a cosine leads to; `weight_decay` by default.
    pub weight_decay_end: f64,
    /// AdamW's factor of the first moment.
    pub beta1: f64,
    /// AdamW's factor of the second moment.
    pub beta2: f64,
    /// Term added to the root of the second moment.
    pub eps: f64,
    /// Limit of the norm of all gradients of an update together; 0 for none.
    pub clip_norm: f64,
    /// Exponent of the learning rate's decay.
    pub power: f64,
    /// Learning rate at the last step.
    pub lr_min: f64,
    /// Steps of linear warm-up.
    pub warm_up_steps: u64,
    /// Factor at the first step of the warm-up.
    pub warm_up_start: f64,
    /// Factor for the backbone's own weights when `model.method` is `full`.
    pub backbone_lr_mult: f64,
    /// Learning rate of what trains within a frozen backbone, relative to `lr`.
    pub adapter_lr_mult: f64,
    /// Values that the forward pass saves for the backward pass; the result does not depend on it.
    pub recompute: RecomputePolicy,
    /// Seed of every random number of the run.
    pub seed: u64,
    /// Steps between evaluations; 0 evaluates only at the end.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 writes only the last.
    pub checkpoint_every: u64,
    /// Minutes after which an additional checkpoint is written, which the next one replaces; 0
    /// writes none. The result does not depend on it.
    pub checkpoint_minutes: f64,
    /// Number of checkpoints to keep.
    pub keep: usize,
    /// Steps between log lines.
    pub log_every: u64,
    /// Signal that saves and ends the run, in addition to those that always do.
    pub save_signal: SaveSignal,
    /// Average of the trained weights.
    pub ema: Ema,
}

/// Exponential moving average of the trained weights: `a <- a + rate (w - a)` after each update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ema {
    /// Rate; 0 keeps no average.
    pub rate: f64,
    /// First step, from 0, whose update moves the average. Before it, the average equals the
    /// weights.
    pub start: u64,
}

/// Values of [`Train::save_signal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveSignal {
    /// None.
    #[default]
    None,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Recipe, RecipeError};

    fn demo(settings: &[&str]) -> Result<Recipe, RecipeError> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::from_name("demo", &settings)
    }

    #[test]
    fn options_of_the_update_are_off_unless_they_are_set() {
        let plain = demo(&[]).expect("recipe");
        let t = &plain.train;
        assert_eq!((t.accumulate, t.clip_norm, t.ema.rate, t.ema.start), (1, 0.0, 0.0, 0));
        assert!(t.weight_decay_end == t.weight_decay && !plain.eval.averaged);
        let decay = demo(&["train.weight_decay=0"]).expect("recipe").train.weight_decay_end;
        assert_eq!(decay, 0.0, "it follows the decay");
        let annealed = ["train.weight_decay=0.1", "train.weight_decay_end=1e-5"];
        let annealed = demo(&annealed).expect("recipe").decay_schedule().expect("valid");
        let last = annealed.lr(t.steps - 1);
        assert!(annealed.lr(0) == 0.1 && (last - 1e-5).abs() < 1e-12, "{last}");
        let averaged = demo(&["train.ema.rate=2e-4", "train.accumulate=3"]).expect("recipe");
        assert!(averaged.eval.averaged, "averages are scored");
        assert_eq!(averaged.images_per_step(), 3 * averaged.train.batch);
        // What a run writes is read back as it was.
        let text = averaged.to_toml().expect("text");
        let again = Recipe::from_text("demo.toml".as_ref(), &text, &[]).expect("recipe");
        assert_eq!((&again.train, &again.eval), (&averaged.train, &averaged.eval));
        for (setting, words) in [
            ("eval.averaged=true", ["eval.averaged", "train.ema.rate"]),
            ("train.ema.rate=1.5", ["train.ema.rate", "1.5"]),
            ("train.clip_norm=-1", ["train.clip_norm", "-1"]),
            ("train.accumulate=0", ["train.accumulate", "is 0"]),
        ] {
            let text = demo(&[setting]).expect_err("refused").to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }
}
