//! Plan of a training step on a device, before the first one: launches, copies, waits and memory.
//!
//! The training code itself runs the step, on a [`Device::dry_run`] together with a [`DryRun`] for
//! the host. So launches, copies and bytes are those of the real step, as long as nothing depends
//! on values. On a device nothing does: targets are padded to the number of classes. The first
//! steps fill the pool; the step after them is reported.

use dressage_engine::RecomputePolicy;
use dressage_engine::memory::usage_on;
use dressage_engine::{Device, DryRun};
use dressage_kernels::device::LiveBuffer;

use super::{Needs, PlannedStep, STEPS, without_files};
use crate::recipe::Recipe;
use crate::trainer::Trainer;
use crate::{Result, TrainError};

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

impl PlannedStep {
    /// Runs steps of `recipe` on a device in a dry run at one level. Takes some tenths of a second and no
    /// memory.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn on_device(recipe: &Recipe, level: RecomputePolicy) -> Result<PlannedStep> {
        let mut recipe = without_files(recipe);
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
        Ok(PlannedStep { level, needs: Needs::of_device(&device), trace, reservations })
    }

    /// Buffers in use at the peak, each with its count, largest sum first.
    pub fn at_peak(&self) -> Vec<(&LiveBuffer, usize)> {
        let mut buffers: Vec<_> =
            self.trace.at_peak.iter().map(|(buffer, n)| (buffer, *n)).collect();
        buffers.sort_by_key(|(buffer, n)| std::cmp::Reverse(buffer.bytes * n));
        buffers
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::*;

    fn demo(settings: &[&str]) -> Recipe {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::from_name("demo", &settings).expect("recipe")
    }

    #[test]
    fn a_step_waits_once_and_reserves_nothing() {
        let plan = Plan::on_device(&demo(&["model.method=rein"]), None).expect("planned");
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
    fn parts_of_a_batch_and_averages_are_counted() {
        let of = |settings: &[&str]| {
            let all = [&["model.method=rein", "train.batch=1"], settings].concat();
            let plan = Plan::on_device(&demo(&all), None).expect("planned");
            plan.chosen().expect("a level").clone()
        };
        let one = of(&[]);
        let options = ["train.accumulate=3", "train.clip_norm=1", "train.ema.rate=0.1"];
        let three = of(&options);
        let (total, before) = (three.trace.total(), one.trace.total());
        assert_eq!((total.waits, total.downloads, three.reservations), (3, 3, 0));
        assert_eq!(total.products, 3 * before.products);
        // Two moments and the average.
        assert_eq!(2 * three.needs.optimiser, 3 * one.needs.optimiser);
        assert!(three.needs.activations < 2 * one.needs.activations);
    }

    #[test]
    fn too_little_memory_of_a_device_is_refused_with_a_way_out() {
        let recipe = demo(&["model.method=rein"]);
        let mut plan = Plan::on_device(&recipe, None).expect("planned");
        plan.check(&recipe).expect("nobody knows");
        let total = |plan: &Plan, i: usize| plan.steps[i].needs.total();
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
