//! Plan of a training step on a device, before the first one: launches, copies, waits and memory.
//!
//! The training code itself runs the step, on a [`Device::dry_run`] together with a [`DryRun`] for
//! the host. So launches, copies and bytes are those of the real step, as long as nothing depends
//! on values. On a device nothing does: targets are padded to the number of classes. The first
//! steps fill the pool; the step after them is reported.

use dressage_engine::RecomputePolicy;
use dressage_engine::memory::usage_on;
use dressage_engine::{Device, DryRun};
use dressage_kernels::device::{LiveBuffer, Trace};

use crate::plan::{self, Level, Needs};
use crate::recipe::Recipe;
use crate::trainer::Trainer;
use crate::{Result, TrainError};

/// Steps after which the pool no longer grows. The one after them is reported.
const STEPS: usize = 3;

impl Needs {
    /// Memory that a run takes on a device at its peak. The driver's context and the scratch memory
    /// of cuBLASLt are not included: they exist before the plan is compared with the free memory.
    fn of_device(device: &Device) -> Needs {
        let (usage, pool) = (usage_on(device), device.usage());
        Needs {
            scratch: pool.peak.saturating_sub(usage.peak),
            pool: pool.reserved.saturating_sub(pool.peak),
            ..Needs::of(&usage)
        }
    }
}

/// A step at one recompute level.
#[derive(Debug, Clone)]
pub struct DeviceStep {
    /// The recompute level.
    pub level: RecomputePolicy,
    /// Memory needs.
    pub needs: Needs,
    /// Trace of the step on the device, by part.
    pub trace: Trace,
    /// Number of reservations that the step makes.
    pub reservations: u64,
}

impl DeviceStep {
    /// Runs steps of `recipe` in a dry run at one level. Takes some tenths of a second and no
    /// memory.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(recipe: &Recipe, level: RecomputePolicy) -> Result<DeviceStep> {
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

    /// Buffers in use at the peak, each with its count, largest sum first.
    pub fn at_peak(&self) -> Vec<(&LiveBuffer, usize)> {
        let mut buffers: Vec<_> =
            self.trace.at_peak.iter().map(|(buffer, n)| (buffer, *n)).collect();
        buffers.sort_by_key(|(buffer, n)| std::cmp::Reverse(buffer.bytes * n));
        buffers
    }
}

/// Memory that a recipe takes on a device at every recompute level.
#[derive(Debug, Clone)]
pub struct DevicePlan {
    /// Steps, from the most memory to the least.
    pub steps: Vec<DeviceStep>,
    /// The level of the recipe.
    pub chosen: RecomputePolicy,
    /// Bytes that are free on the device, if there is one that reports them.
    pub available: Option<usize>,
}

impl DevicePlan {
    /// Runs a few steps of `recipe` in a dry run at every level. `available` is compared with their
    /// needs.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(recipe: &Recipe, available: Option<usize>) -> Result<DevicePlan> {
        let step = |level| DeviceStep::new(recipe, level);
        let steps = RecomputePolicy::ALL.into_iter().map(step).collect::<Result<_>>()?;
        Ok(DevicePlan { steps, chosen: recipe.train.recompute, available })
    }

    /// The step at the level of the recipe.
    pub fn chosen(&self) -> Option<&DeviceStep> {
        self.steps.iter().find(|step| step.level == self.chosen)
    }

    /// Fails if the device has too little memory for the recipe as it is.
    ///
    /// # Errors
    /// [`TrainError::Memory`], which names settings that need less.
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
            let live: usize = step.at_peak().iter().map(|(buffer, n)| buffer.bytes * n).sum();
            assert_eq!(live, step.trace.peak);
        }
        // Values that `cheap` would recompute are small here, and small values are kept on a
        // device.
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
        assert!(text.contains("not enough by itself"), "{text}");
    }
}
