//! Setup of a run: fresh, resumed, or for a dry run.

use std::path::{Path, PathBuf};

use dressage_engine::Device;
use dressage_models::Segmenter;
use dressage_models::weights::StateDict;

use crate::checkpoint::Notes;
use crate::checkpoint_timer::CheckpointTimer;
use crate::data::{BESIDE_HOST, LoaderSettings};
use crate::graphs::OnDevice;
use crate::place::Place;
use crate::plan::Plan;
use crate::recipe::{Bearing, Recipe, changed_settings};
use crate::resume::{Earlier, Resume, listed};
use crate::run_folder::RunFolder;
use crate::runlog::{Progress, Silent};
use crate::trainer::Trainer;
use crate::{Result, TrainError, checkpoint, machine, network};

impl Trainer {
    /// Sets up a fresh run in its folder, or with `resume` continues the run there. A continued run
    /// starts from its newest checkpoint, with the same settings.
    ///
    /// # Errors
    /// As [`Trainer::set_up`].
    pub fn new(recipe: Recipe, resume: bool) -> Result<Trainer> {
        Trainer::set_up(recipe, resume.then(Resume::default).as_ref(), &Silent)
    }

    /// Sets up a fresh run in its folder, or continues the run there. A GPU verifies its kernels
    /// once ([`Place::of`]), which `progress` shows.
    ///
    /// # Errors
    /// A folder that already has a run (or none to resume), that another process trains in, or that
    /// has a run of other settings; too little memory; weights or a checkpoint that do not fit or
    /// are damaged.
    pub fn set_up(
        recipe: Recipe,
        resume: Option<&Resume>,
        progress: &dyn Progress,
    ) -> Result<Trainer> {
        let dir = recipe.run.dir.clone();
        let folder = RunFolder::open(&dir, resume.is_some())?;
        let Some(resume) = resume else {
            return Trainer::built(recipe, &network::build, folder, progress);
        };
        let (path, notes, dict) = resume.from.open(&dir)?;
        let earlier = Earlier::of(&dir, &recipe, &notes, resume.changed)?;
        let rebuild = |recipe: &Recipe| network::rebuild(recipe, &dict);
        let mut trainer = Trainer::built(recipe, &rebuild, folder, progress)?;
        trainer.restore(path, &notes, dict, resume.changed)?;
        trainer.earlier = Some(earlier);
        if let Some(newer) = trainer.newer_before_nan(resume.from) {
            trainer.note =
                Some(trainer.note.map_or(newer.clone(), |note| format!("{note}; {newer}")));
        }
        Ok(trainer)
    }

    /// Makes a run before its first step. `build` makes its network, after the check of its memory.
    fn built(
        mut recipe: Recipe,
        build: &dyn Fn(&Recipe) -> Result<Segmenter>,
        folder: RunFolder,
        progress: &dyn Progress,
    ) -> Result<Trainer> {
        if recipe.model.merge_adapter {
            let what = "is true, but a merged adapter cannot train; it is for eval and predict";
            return Err(TrainError::Setting { setting: "model.merge_adapter", what: what.into() });
        }
        let place = Place::of(&recipe.run, progress)?;
        recipe.run.workers = workers(&recipe, &place);
        let plan = match place.device() {
            None => Some(Plan::new(&recipe)),
            Some(device) => device.free_memory().map(|free| Plan::on_device(&recipe, Some(free))),
        };
        let plan = match plan.transpose() {
            Err(TrainError::AddressSpace { .. }) if !recipe.run.check_memory => None,
            plan => plan?,
        };
        if let Some(plan) = plan.as_ref().filter(|_| recipe.run.check_memory) {
            plan.check(&recipe)?;
        }
        let model = build(&recipe)?;
        let around = Trainer::around(recipe, model, place)?;
        let (note, folder) = (folder.note(), Some(folder));
        Ok(Trainer { folder, note, plan, ..around })
    }

    /// Makes a run on the host before its first step, whatever its folder holds.
    pub(crate) fn fresh(recipe: Recipe) -> Result<Trainer> {
        let model = network::build(&recipe)?;
        Trainer::around(recipe, model, Place::host())
    }

    /// Makes a run on a device that executes nothing, within a dry run.
    pub(crate) fn for_dry_run(recipe: Recipe, device: &Device) -> Result<Trainer> {
        let (model, place) = (network::build(&recipe)?, Place::for_dry_run(device, &recipe.run));
        Trainer::around(recipe, model, place)
    }

    fn around(recipe: Recipe, model: Segmenter, place: Place) -> Result<Trainer> {
        if recipe.train.accumulate > 1 && model.moves_statistics() {
            let what = "is above 1, but the network has batch norms that would normalise by parts of \
                        a batch; use a larger train.batch";
            let what = what.to_string();
            return Err(TrainError::Setting { setting: "train.accumulate", what });
        }
        let model = place.take(model)?;
        let optimiser = network::optimiser(&recipe, &model)?;
        let (schedule, decay) = (recipe.schedule()?, recipe.decay_schedule()?);
        let (images, crop) = (recipe.images_per_step(), recipe.augment.crop);
        let on_device = |device: &Device| {
            OnDevice::new([images, crop, crop], recipe.run.graphs && !device.is_dry_run())
        };
        let on_device = place.device().map(on_device);
        let (dir, step, pending) = (recipe.run.dir.clone(), 0, None);
        let timer = CheckpointTimer::new(recipe.train.checkpoint_minutes);
        Ok(Trainer {
            recipe,
            dir,
            folder: None,
            place,
            model,
            optimiser,
            schedule,
            decay,
            step,
            pending,
            on_device,
            torn: false,
            note: None,
            plan: None,
            timer,
            timed: None,
            earlier: None,
            data: None,
            unscored: None,
        })
    }

    fn restore(
        &mut self,
        path: PathBuf,
        notes: &Notes,
        mut dict: StateDict,
        changed: bool,
    ) -> Result<()> {
        if notes.seed != self.recipe.train.seed && !changed {
            let (a, b) = (notes.seed, self.recipe.train.seed);
            let what = format!("was trained with seed {a}, the recipe says {b}");
            return Err(TrainError::Checkpoint { path, what });
        }
        checkpoint::restore(&path, notes, &mut dict, &self.model)?;
        self.optimiser.restore(&mut dict, &notes.updates)?;
        self.step = notes.step;
        Ok(())
    }
}

pub(crate) fn loader_settings(recipe: &Recipe, start_step: u64) -> LoaderSettings {
    LoaderSettings {
        batch: recipe.images_per_step(),
        workers: match recipe.run.workers {
            0 => BESIDE_HOST,
            n => machine::threads(n),
        },
        seed: recipe.train.seed,
        start_step,
        augment: recipe.augment.pipeline(),
    }
}

/// Data workers of a run: those of the recipe, or a number that suits the machine.
fn workers(recipe: &Recipe, place: &Place) -> usize {
    match recipe.run.workers {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            // Memory that samples may take, besides everything else of a run.
            let room = machine::available().map(|free| free / 4);
            loader_settings(recipe, 0).workers_for(place.is_gpu(), cores, room)
        }
        n => machine::threads(n),
    }
}

/// Loads the network of a run folder into host memory, as it was after `step`, with the averaged
/// weights if `eval.averaged` says so. `recipe` is the one in the folder, perhaps with other settings
/// for evaluation.
///
/// # Errors
/// A checkpoint that does not exist or does not fit.
pub fn load(recipe: &Recipe, dir: &Path, step: u64) -> Result<Segmenter> {
    let path = checkpoint::path_of(dir, step);
    let (notes, mut dict) = checkpoint::open_of(dir, step, "--checkpoint")?;
    let mut other = changed_settings(&notes.settings, recipe);
    other.retain(|change| change.bearing == Bearing::Network);
    if !other.is_empty() {
        let what = format!(
            "belongs to another network than the recipe of the run: {}; put these keys of \
             recipe.toml back",
            listed(&other)
        );
        return Err(TrainError::Checkpoint { path, what });
    }
    if recipe.eval.averaged {
        checkpoint::use_averages(&path, &mut dict)?;
    }
    let model = network::rebuild(recipe, &dict)?;
    checkpoint::restore(&path, &notes, &mut dict, &model)?;
    Ok(model)
}
