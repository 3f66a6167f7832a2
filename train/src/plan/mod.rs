//! Memory of a training step, known before the first one.
//!
//! The plan is a dry run: the training code itself builds the network and runs three steps on
//! buffers that are only reserved ([`dressage_engine::DryRun`]). So there are no formulas that
//! could fall behind the network. The numbers equal those measured at the end of a run to the byte,
//! as long as every class occurs in every image. A batch with fewer classes takes the same or less.
//!
//! Memory outside of tensors is added: scratch memory of the kernels, samples that wait for the
//! loop, and the program before anything is loaded. Evaluation is not part of the plan: it saves no
//! values for a backward pass, and takes less than a step for crops of one size.

mod device;

use dressage_engine::DryRun;
use dressage_engine::RecomputePolicy;
use dressage_engine::memory::{CATEGORIES, Category, Usage};
use dressage_kernels::cpu::{allocate, scratch};
use dressage_kernels::device::Trace;
use dressage_models::{Method, Precision};
use serde::Serialize;

use crate::machine::{self, Limit};
use crate::recipe::{RANDOM, Recipe};
use crate::trainer::Trainer;
use crate::{Result, TrainError};

/// Steps after which the pool no longer grows.
const STEPS: usize = 3;

/// Bytes that a run takes at its peak, by purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// Parameters, frozen and trained.
    pub weights: usize,
    /// Moments of the optimiser.
    pub optimiser: usize,
    /// Gradients and values of the backward pass.
    pub gradients: usize,
    /// Values of the forward pass: those saved for the backward pass and temporary ones.
    pub activations: usize,
    /// The batch as tensors, and the points of the losses.
    pub data: usize,
    /// Freed buffers that the pool keeps for tensors of their size.
    pub pool: usize,
    /// Scratch memory of the kernels. On a device also tables, and the rounding of each buffer's
    /// size.
    pub scratch: usize,
    /// Samples that the data workers have prepared.
    pub loader: usize,
    /// The program itself.
    pub program: usize,
}

impl Needs {
    /// Sum of all.
    pub fn total(&self) -> usize {
        self.named().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Sum over the parts that live tensors take.
    pub fn tensors(&self) -> usize {
        self.weights + self.optimiser + self.gradients + self.activations + self.data
    }

    /// Each part with its name, in the order of a table.
    pub fn named(&self) -> [(&'static str, usize); 9] {
        [
            ("weights", self.weights),
            ("optimiser", self.optimiser),
            ("gradients", self.gradients),
            ("activations", self.activations),
            ("data", self.data),
            ("pool", self.pool),
            ("scratch", self.scratch),
            ("loader", self.loader),
            ("program", self.program),
        ]
    }

    /// The parts that the account of tensors records.
    pub(crate) fn of(usage: &Usage) -> Needs {
        let of = |category: Category| {
            let at = CATEGORIES.iter().position(|c| *c == category);
            at.map_or(0, |at| usage.at_peak[at])
        };
        Needs {
            weights: of(Category::Weights),
            optimiser: of(Category::Optimiser),
            gradients: of(Category::Gradients),
            activations: of(Category::Activations),
            data: of(Category::Data),
            pool: usage.system_bytes.saturating_sub(usage.peak),
            ..Needs::default()
        }
    }
}

/// A step at one recompute level.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// The recompute level.
    pub level: RecomputePolicy,
    /// Memory needs.
    pub needs: Needs,
    /// Trace of the step on a device, by part; empty on the host.
    pub trace: Trace,
    /// Number of reservations that the step makes on a device.
    pub reservations: u64,
}

/// Plan of a recipe's steps at every recompute level, on the host or on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Steps, from the most memory to the least.
    pub steps: Vec<PlannedStep>,
    /// The level of the recipe.
    pub chosen: RecomputePolicy,
    /// Bytes that the process can still take, or that are free on the device, if known.
    pub available: Option<usize>,
    /// Limit that these bytes come from, on the host.
    pub limit: Option<Limit>,
}

impl Plan {
    /// Runs a few steps of `recipe` on the host in a dry run at every level. Takes milliseconds and
    /// no memory.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(recipe: &Recipe) -> Result<Plan> {
        let program = machine::resident().unwrap_or(0);
        let room = machine::room();
        let (available, limit) = (room.map(|r| r.bytes), room.map(|r| r.limit));
        let step = |level| PlannedStep::on_host(recipe, level, program);
        Ok(Plan { available, limit, ..Plan::of_levels(recipe, step)? })
    }

    /// Runs a few steps of `recipe` on a device in a dry run at every level. `available` is
    /// compared with their needs.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn on_device(recipe: &Recipe, available: Option<usize>) -> Result<Plan> {
        let plan = Plan::of_levels(recipe, |level| PlannedStep::on_device(recipe, level))?;
        Ok(Plan { available, ..plan })
    }

    fn of_levels(
        recipe: &Recipe,
        step: impl FnMut(RecomputePolicy) -> Result<PlannedStep>,
    ) -> Result<Plan> {
        let steps = RecomputePolicy::ALL.into_iter().map(step).collect::<Result<_>>()?;
        Ok(Plan { steps, chosen: recipe.train.recompute, available: None, limit: None })
    }

    /// The step at the level of the recipe.
    pub fn chosen(&self) -> Option<&PlannedStep> {
        self.steps.iter().find(|step| step.level == self.chosen)
    }

    /// Fails if there is too little memory for the recipe as it is.
    ///
    /// # Errors
    /// [`TrainError::Memory`], which names settings that need less.
    pub fn check(&self, recipe: &Recipe) -> Result<()> {
        let Some(available) = self.available else { return Ok(()) };
        // The program itself is in memory already.
        let fits = |step: &PlannedStep| step.needs.total() - step.needs.program <= available;
        let Some(own) = self.chosen().filter(|step| !fits(step)) else { return Ok(()) };
        let (needed, free) = (mib(own.needs.total()), mib(available));
        let limit = self.limit.map(|limit| format!(" {limit}")).unwrap_or_default();
        let ways = ways_out(recipe, self, fits).join(", ");
        Err(TrainError::Memory { needed, available: free, limit, ways })
    }
}

/// Settings that need less memory.
fn ways_out(recipe: &Recipe, plan: &Plan, fits: impl Fn(&PlannedStep) -> bool) -> Vec<String> {
    let mut ways = Vec::new();
    match (plan.steps.iter().find(|step| fits(step)), plan.steps.last()) {
        (Some(step), _) => {
            let total = mib(step.needs.total());
            ways.push(format!("set train.recompute={} ({total})", step.level));
        }
        (None, Some(last)) if plan.chosen != last.level => {
            let (level, total) = (last.level, mib(last.needs.total()));
            ways.push(format!("set train.recompute={level} ({total}, not enough by itself)"));
        }
        _ => {}
    }
    let frozen = recipe.model.method != Method::Full;
    if frozen && recipe.model.precision == Precision::F32 {
        ways.push("set model.precision=bf16".to_owned());
    }
    if recipe.train.batch > 1 {
        let batch = recipe.train.batch;
        ways.push(format!("lower train.batch ({batch}) and raise train.accumulate as much"));
    }
    ways.push(format!("lower augment.crop ({})", recipe.augment.crop));
    ways
}

/// Bytes as `1,234 MiB`.
pub fn mib(bytes: usize) -> String {
    let digits = bytes.div_ceil(1 << 20).to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + " MiB"
}

/// Floating-point operations of the products in one training step of `recipe`. Every class is in
/// every image. A multiply-add counts as two, and recomputed products count again.
///
/// # Errors
/// Sizes that do not fit together.
pub fn flops(recipe: &Recipe) -> Result<u64> {
    let mut dry_run = DryRun::new();
    dry_run.run(|| Trainer::fresh(without_files(recipe))?.dry_run_step())?;
    Ok(dry_run.tally().flops)
}

/// Copy of `recipe` with parameters of the same sizes that needs no files.
pub(crate) fn without_files(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.model.weights = RANDOM.into();
    recipe.model.checkpoint = "".into();
    recipe
}

impl PlannedStep {
    /// Runs steps of `recipe` on the host in a dry run at one level.
    fn on_host(recipe: &Recipe, level: RecomputePolicy, program: usize) -> Result<PlannedStep> {
        let mut recipe = without_files(recipe);
        recipe.train.recompute = level;
        let mut dry_run = DryRun::new();
        let threads = machine::threads(recipe.run.threads);
        let loader = in_dry_run(&mut dry_run, || {
            let mut trainer = Trainer::fresh(recipe)?;
            for _ in 0..STEPS {
                trainer.dry_run_step()?;
            }
            Ok(trainer.loader_settings().bytes())
        })?;
        let scratch = dry_run.tally().scratch(threads);
        let needs = Needs { scratch, loader, program, ..Needs::of(&dry_run.usage()) };
        Ok(PlannedStep { level, needs, trace: Trace::default(), reservations: 0 })
    }
}

/// Runs `f` within a dry run. Its buffers take address space, and a process may have less
/// of it than they need.
///
/// # Errors
/// Those of `f`; [`TrainError::AddressSpace`], with the bytes needed until then.
pub(crate) fn in_dry_run<R>(dry_run: &mut DryRun, f: impl FnOnce() -> Result<R>) -> Result<R> {
    let limit =
        machine::room().map(|room| format!("{} are available {}", mib(room.bytes), room.limit));
    allocate::catch(|| dry_run.run(f)).unwrap_or_else(|refused| {
        let needed = mib(dry_run.usage().system_bytes.saturating_add(refused.bytes));
        Err(TrainError::AddressSpace { needed, available: limit.unwrap_or_default() })
    })
}

/// Planned memory compared with that measured at the end of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// The plan.
    pub planned: Needs,
    /// Sum of the plan in bytes.
    pub planned_total: usize,
    /// Account of tensors at their peak, the pool and scratch memory.
    pub measured: Needs,
    /// Peak resident bytes of the process, if the system reports them.
    pub peak_resident: Option<usize>,
}

impl Comparison {
    /// Measures the memory used so far.
    pub(crate) fn now(planned: Needs) -> Comparison {
        let usage = dressage_engine::memory::usage();
        let measured = Needs { scratch: scratch::allocated(), ..Needs::of(&usage) };
        let peak_resident = machine::peak_resident();
        Comparison { planned, planned_total: planned.total(), measured, peak_resident }
    }

    /// The comparison as one line.
    pub fn line(&self) -> String {
        let (planned, found) = (self.planned.tensors(), self.measured.tensors());
        let tensors = format!("tensors {} planned, {} at the peak", mib(planned), mib(found));
        let Some(peak) = self.peak_resident else { return tensors };
        let off = 100.0 * (self.planned_total as f64 / peak as f64 - 1.0);
        format!(
            "process {} planned, {} at the peak ({off:+.1} %); {tensors}",
            mib(self.planned_total),
            mib(peak)
        )
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
    fn levels_descend_and_batches_add_up() {
        let of = |settings: &[&str]| Plan::new(&demo(settings)).expect("planned");
        let chosen = |settings: &[&str]| of(settings).chosen().expect("a level").needs;
        let one = of(&["train.batch=1"]);
        let totals: Vec<usize> = one.steps.iter().map(|step| step.needs.activations).collect();
        assert!(totals.windows(2).all(|w| w[0] > w[1]), "{totals:?}");
        let [a, b, c] = [1, 2, 3].map(|b| chosen(&[&format!("train.batch={b}")]));
        assert_eq!((a.weights, a.optimiser), (c.weights, c.optimiser));
        let (first, second) = (b.activations - a.activations, c.activations - b.activations);
        assert!(first.abs_diff(second) < first / 10, "{first} and {second}");
        let larger = chosen(&["augment.crop=256", "train.batch=1"]);
        assert!(larger.activations > 3 * a.activations);
        let narrow = chosen(&["model.method=rein", "model.precision=bf16"]);
        let wide = chosen(&["model.method=rein"]);
        assert!(narrow.weights < wide.weights && narrow.activations == wide.activations);
        assert_eq!(one.chosen(), Some(&one.steps[0]));
        assert_eq!(a.total(), a.named().iter().map(|(_, n)| n).sum::<usize>());
    }

    #[test]
    fn too_little_memory_is_refused_with_a_way_out() {
        let recipe = demo(&["model.method=rein"]);
        let mut plan = Plan::new(&recipe).expect("planned");
        plan.check(&recipe).expect("fits");
        let of = |i: usize| plan.steps[i].needs.total() - plan.steps[i].needs.program;
        let (none, cheap, block) = (of(0), of(1), of(2));
        assert!(none > cheap && cheap > block);
        let mut refusal = |available: usize| {
            plan.available = Some(available);
            plan.check(&recipe).expect_err("must be refused").to_string()
        };
        for (available, words) in [
            (none - 1, "train.recompute=cheap ("),
            (cheap - 1, "train.recompute=block ("),
            (block - 1, "not enough by itself"),
        ] {
            let text = refusal(available);
            let others = ["lower train.batch (2)", "augment.crop (128)", "precision=bf16", "MiB"];
            for words in others.into_iter().chain([words]) {
                assert!(text.contains(words), "{text:?} does not say {words:?}");
            }
        }
        plan.limit = Some(Limit::AddressSpace(200 << 20));
        plan.available = Some(block - 1);
        let text = plan.check(&recipe).expect_err("must be refused").to_string();
        assert!(text.contains("limit of 200 MiB of address space (ulimit -v)"), "{text}");
        plan.available = Some(none);
        plan.check(&recipe).expect("fits to the byte");
        plan.available = None;
        plan.check(&recipe).expect("nobody knows");
    }

    #[test]
    fn sizes_read_easily() {
        assert_eq!([mib(0), mib(1), mib(5 << 30)], ["0 MiB", "1 MiB", "5,120 MiB"]);
    }
}
