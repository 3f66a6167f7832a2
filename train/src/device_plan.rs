//! A training step on a device, known before the first one: what is launched, copied and waited
//! for, and the memory that it takes.
//!
//! The step is gone through by the code that trains, on a [`Device::dry_run`] beside an
//! [`DryRun`] for the host. So launches, copies and bytes are those of the real step, as long as
//! nothing depends on values, and on a device nothing does: targets are padded to the number of
//! classes. The first steps fill the pool; what is told is the step after them.

use dressage_engine::memory::usage_on;
use dressage_engine::{Device, DryRun};
use dressage_kernels::device::{LiveBuffer, Trace};
use dressage_models::backbone::Recompute;

use crate::plan::{self, Level, Needs};
use crate::recipe::Recipe;
use crate::trainer::Trainer;
use crate::{Result, TrainError};

/// Steps after which the pool takes nothing more, and the one that is told.
const STEPS: usize = 3;

impl Needs {
    /// What a run takes of a device at its peak. The context of the driver and the scratch memory
    /// of cuBLASLt, which are there before the plan is compared with what is free, are not in it.
    fn of_device(device: &Device) -> Needs {
        let (usage, pool) = (usage_on(device), device.usage());
        Needs {
            scratch: pool.peak.saturating_sub(usage.peak),
            pool: pool.reserved.saturating_sub(pool.peak),
            ..Needs::of(&usage)
        }
    }
}

/// A step at one level of recomputation.
#[derive(Debug, Clone)]
pub struct DeviceStep {
    /// The level.
    pub level: Recompute,
    /// Memory.
    pub needs: Needs,
    /// What the step asks of the device, by part.
    pub trace: Trace,
    /// Reservations that the step makes.
    pub reservations: u64,
}

impl DeviceStep {
    /// Goes through steps of `recipe` at a level. Takes some tenths of a second and no memory.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(recipe: &Recipe, level: Recompute) -> Result<DeviceStep> {
        let mut recipe = plan::without_files(recipe);
        recipe.train.recompute = level;
        let device = Device::dry_run();
        let reservations = DryRun::new().run(|| {
            let mut trainer = Trainer::for_dry_run(recipe, &device)?;
            for _ in 0..STEPS {
                trainer.dry_run_step()?;
            }
            device.restart_trace();
            let before = device.usage().reservations;
            trainer.dry_run_step()?;
            Ok::<u64, TrainError>(device.usage().reservations - before)
        })?;
        let trace = device.trace().unwrap_or_default();
        Ok(DeviceStep { level, needs: Needs::of_device(&device), trace, reservations })
    }

    /// Buffers that were in use at the peak with their number, largest sum first.
    pub fn at_peak(&self) -> Vec<(&LiveBuffer, usize)> {
        let mut held: Vec<_> = self.trace.at_peak.iter().map(|(held, n)| (held, *n)).collect();
        held.sort_by_key(|(held, n)| std::cmp::Reverse(held.bytes * n));
        held
    }
}

/// What a recipe takes of a device at every level of recomputation.
#[derive(Debug, Clone)]
pub struct DevicePlan {
    /// Steps, from the most memory to the least.
    pub steps: Vec<DeviceStep>,
    /// The level of the recipe.
    pub chosen: Recompute,
    /// Bytes that are free on the device, if there is one that tells.
    pub available: Option<usize>,
}

impl DevicePlan {
    /// Goes through a few steps of `recipe` at every level; `available` is compared with what they
    /// take.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(recipe: &Recipe, available: Option<usize>) -> Result<DevicePlan> {
        let step = |level| DeviceStep::new(recipe, level);
        let steps = Recompute::ALL.into_iter().map(step).collect::<Result<_>>()?;
        Ok(DevicePlan { steps, chosen: recipe.train.recompute, available })
    }

    /// The step at the level of the recipe.
    pub fn chosen(&self) -> Option<&DeviceStep> {
        self.steps.iter().find(|step| step.level == self.chosen)
    }

    /// Fails if the device has too little memory for the recipe as it is.
    ///
    /// # Errors
    /// [`TrainError::Memory`], which names the ways out.
    pub fn check(&self, recipe: &Recipe) -> Result<()> {
        let Some(available) = self.available else { return Ok(()) };
        let level = |step: &DeviceStep| {
            let total = step.needs.total();
            Level { level: step.level, taken: total, total }
        };
        let levels: Vec<Level> = self.steps.iter().map(level).collect();
        plan::refuse(recipe, &levels, self.chosen, available, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo(settings: &[&str]) -> Recipe {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::from_name("demo", &settings).expect("recipe")
    }

    #[test]
    fn a_step_waits_once_and_reserves_nothing() {
        let plan = DevicePlan::new(&demo(&["model.method=rein"]), None).expect("planned");
        for step in &plan.steps {
            let total = step.trace.total();
            assert_eq!((total.waits, total.downloads), (1, 1), "{}", step.level);
            assert_eq!(step.reservations, 0, "{}", step.level);
            assert!(total.launches > 0 && total.products > 0);
            // Images, labels, classes, assignment, class weights, step, constants of the update.
            assert!(total.uploads <= 16, "{} uploads", total.uploads);
            let held: usize = step.at_peak().iter().map(|(held, n)| held.bytes * n).sum();
            assert_eq!(held, step.trace.peak);
        }
        // What `cheap` would make again is small here, and small values are kept on a device.
        let activations: Vec<usize> = plan.steps.iter().map(|s| s.needs.activations).collect();
        let [none, cheap, block] = activations[..] else { panic!("{activations:?}") };
        assert!(none >= cheap && cheap > block, "{activations:?}");
    }

    #[test]
    fn too_little_memory_of_a_device_is_refused_with_a_way_out() {
        let recipe = demo(&["model.method=rein"]);
        let mut plan = DevicePlan::new(&recipe, None).expect("planned");
        plan.check(&recipe).expect("nobody knows");
        let total = |plan: &DevicePlan, i: usize| plan.steps[i].needs.total();
        plan.available = Some(total(&plan, 0));
        plan.check(&recipe).expect("fits to the byte");
        plan.available = Some(total(&plan, 0) - 1);
        let text = plan.check(&recipe).expect_err("refused").to_string();
        assert!(text.contains("train.recompute=block ("), "{text}");
        plan.available = Some(1);
        let text = plan.check(&recipe).expect_err("refused").to_string();
        assert!(text.contains("still too much alone"), "{text}");
    }
}
