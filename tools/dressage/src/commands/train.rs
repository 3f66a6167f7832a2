//! `dressage train`.

use std::path::Path;
use std::sync::Arc;

use dressage_train::data::Source;
use dressage_train::data::check::{Checked, LeftOut};
use dressage_train::plan::{Plan, mib};
use dressage_train::recipe::{Command, EMBEDDED, Embedded, GROUPS, Recipe, acting, keys};
use dressage_train::resume::{Resume, ResumeFrom};
use dressage_train::run_folder::{self, RECIPE};
use dressage_train::trainer::{Outcome, Trainer};
use dressage_train::{TrainError, checkpoint};

use super::{Overrides, assignment, start_threads};
use crate::console::{grouped, print, warn, width};
use crate::failure::Failure;
use crate::signals::{Words, watched};

/// Train a network as a recipe says
///
/// RECIPE is a TOML file, the name of a recipe in the program (see --list), or the folder of a run
/// to resume. Every key can be set on the command line; --help-recipe explains all of them. The run
/// folder (run.dir, by default runs/NAME) receives recipe.toml with every key, log.jsonl with
/// losses, rates and scores, and checkpoints/. Before training, the memory that it takes is printed
/// for each level of recomputation; at the end it is compared with the memory that was used. Only
/// one process at a time trains in a run folder; a copied or moved one is a run like any other.
/// SIGINT (Ctrl-C), SIGTERM, SIGHUP and train.save_signal save the state after the current step and
/// end with 128 plus the number of the signal. --resume continues with the same result as without
/// the interruption, evaluations included. It refuses changed settings that affect the weights, and
/// lists them; --resume-changed accepts and logs them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  dressage train demo                                  drawn scenes, no data needed
  dressage train my.toml train.steps=2000 run.dir=runs/short
  dressage train runs/short --resume
  dressage train runs/short --resume-changed train.steps=4000
  dressage train runs/short --from 1500")]
pub struct Args {
    /// Recipe file, name of a recipe, or run folder
    #[arg(required_unless_present_any = ["list", "help_recipe"])]
    recipe: Option<String>,

    /// Keys of the recipe to set
    #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
    settings: Vec<String>,

    #[command(flatten)]
    overrides: Overrides,

    /// Save less for the backward pass and recompute it: none, cheap or block; the result does not
    /// depend on it
    #[arg(long, value_name = "LEVEL")]
    recompute: Option<String>,

    /// Continue the run in the run folder at its newest checkpoint
    #[arg(long)]
    resume: bool,

    /// Like --resume, also with changed settings that affect the weights
    #[arg(long)]
    resume_changed: bool,

    /// Like --resume, from the checkpoint of a step, or from before-nan, the state before a loss
    /// that was not finite; later checkpoints are set aside
    #[arg(long, value_name = "STEP|before-nan")]
    from: Option<ResumeFrom>,

    /// List the recipes in the program and end
    #[arg(long)]
    list: bool,

    /// Explain every key of a recipe and end
    #[arg(long)]
    help_recipe: bool,
}

impl Args {
    /// Returns the name and the recipe to train, with all settings; `None` if there is nothing to
    /// train.
    pub fn recipe(&self) -> Result<Option<(&str, Recipe)>, Failure> {
        let Some(name) = self.recipe.as_deref().filter(|_| !self.list && !self.help_recipe) else {
            return Ok(None);
        };
        let mut settings = self.overrides.all(&self.settings);
        settings.extend(self.recompute.iter().map(|level| format!("train.recompute={level}")));
        let recipe = match self.resume() {
            None => find(name, &settings)?,
            Some(_) => acting(Command::Resume, &settings, || find(name, &settings))?,
        };
        Ok(Some((name, recipe)))
    }

    /// Returns how to resume the run, if it is resumed.
    fn resume(&self) -> Option<Resume> {
        let resume = self.resume || self.resume_changed || self.from.is_some();
        let from = self.from.unwrap_or_default();
        resume.then_some(Resume { from, changed: self.resume_changed })
    }
}

/// Trains.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.help_recipe {
        print(keys::help(width()).trim_start());
        return Ok(());
    }
    let Some((name, recipe)) = args.recipe()? else {
        print(list().trim_end());
        return Ok(());
    };
    start_threads(&recipe.run)?;
    let words = Words {
        first: "stopping after this step; the state will be saved",
        lost: "progress since the last checkpoint is not saved",
    };
    let (watch, stop) = watched(words, recipe.train.save_signal)?;
    let mut trainer = Trainer::set_up(recipe.clone(), args.resume().as_ref(), &*watch)?;
    let mut run = || -> Result<Outcome, TrainError> {
        let counts = SampleCounts::of(trainer.check_data(&*watch, &stop)?);
        describe(&recipe, &trainer, &counts);
        trainer.place().warning().into_iter().for_each(warn);
        trainer.run(&*watch, &stop)
    };
    let outcome = run().map_err(|error| before_a_step(error, &recipe))?;
    // Repeated, since the first one has scrolled away.
    trainer.place().warning().into_iter().for_each(warn);
    finish(name, &recipe, &outcome, stop.requested())
}

/// All recipes by table of the paper, with their published mIoU.
fn list() -> String {
    let longest = EMBEDDED.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for recipe in EMBEDDED.iter().filter(|recipe| recipe.paper.is_empty()) {
        text += &format!("{:longest$}  {}\n", recipe.name, recipe.about());
    }
    text += "\nGTAV to Cityscapes / BDD100K / Mapillary = mean mIoU as published, unless said otherwise\n";
    for (table, title) in GROUPS {
        let of = |recipe: &&Embedded| recipe.paper.contains_key(*table);
        let rows = EMBEDDED.iter().filter(of).map(|recipe| {
            let row = format!("  {:longest$}  {}", recipe.name, recipe.paper[*table]);
            row.trim_end().to_owned() + "\n"
        });
        let rows: String = rows.collect();
        if !rows.is_empty() {
            text += &format!("\n{title}\n{rows}");
        }
    }
    text
}

/// Finds the recipe that `name` stands for; a run folder stands for the recipe in it.
fn find(name: &str, overrides: &[String]) -> Result<Recipe, Failure> {
    if let Some(dir) = run_folder::find(Path::new(name)) {
        return Ok(run_folder::recipe_of(dir, overrides)?);
    }
    if Path::new(name).is_dir() && !EMBEDDED.iter().any(|r| r.name == name) {
        let inside = Path::new(name).join(RECIPE);
        let what = match inside.is_file() {
            true => format!(
                "{} was not written by a run; to train with it, name the file instead of its folder",
                inside.display()
            ),
            false => format!("{name} is a folder without {RECIPE}, so not the folder of a run"),
        };
        return Err(Failure::Message(what));
    }
    Ok(Recipe::find(name, overrides)?)
}

/// Number of used images of each set.
struct SampleCounts {
    train: Vec<usize>,
    eval: Vec<usize>,
}

impl SampleCounts {
    fn of(data: &Checked) -> SampleCounts {
        let count = |sources: &[Arc<dyn Source>]| sources.iter().map(|s| s.len()).collect();
        SampleCounts { train: count(&data.train), eval: count(&data.eval) }
    }
}

/// Prints what is trained, on which data, and on which device.
fn describe(recipe: &Recipe, trainer: &Trainer, counts: &SampleCounts) {
    let (m, t) = (&recipe.model, &recipe.train);
    let (mut trained, mut frozen) = (0, 0);
    for param in trainer.model().params().values() {
        let sum = if param.trainable() { &mut trained } else { &mut frozen };
        *sum += param.get().len();
    }
    print(&format!("{}: {}", recipe.name, recipe.about));
    print(&format!("network   {} with {} px patches, method {}", m.backbone, m.patch, m.method));
    print(&format!(
        "          {} parameters train, {} are frozen",
        grouped(trained),
        grouped(frozen)
    ));
    if let (Some(file), 0) = (recipe.checkpoint(), trainer.step()) {
        print(&format!("start     {}", file.display()));
    }
    for (set, n) in recipe.data.train.iter().zip(&counts.train) {
        print(&format!("train on  {}, {} images", set.name, grouped(*n)));
    }
    for (set, n) in recipe.data.eval.iter().zip(&counts.eval) {
        print(&format!("test on   {}, {} images", set.set.name, grouped(*n)));
    }
    let from = match trainer.step() {
        0 => String::new(),
        step => format!(", continuing after step {step}"),
    };
    let crop = recipe.augment.crop;
    print(&format!("steps     {} of {} crops of {crop} px{from}", t.steps, t.batch));
    print(&format!("run       {}", recipe.run.dir.display()));
    print(&format!("device    {}", trainer.place().description()));
    if trainer.place().is_gpu() {
        let loader = trainer.loader_settings();
        print(&format!(
            "samples   prepared by {} threads in {} of host memory (run.workers)",
            loader.workers,
            mib(loader.bytes())
        ));
    }
    if let Some(plan) = trainer.plan() {
        print(&match trainer.place().device() {
            None => memory_table(plan),
            Some(_) => super::plan::memory_table(plan),
        });
    }
}

/// Returns a table of the memory of training in MiB, by recompute level.
fn memory_table(plan: &Plan) -> String {
    let mib = |bytes: usize| grouped(bytes.div_ceil(1 << 20));
    let mut text = "memory    planned, in MiB".to_owned();
    for step in &plan.steps {
        let mark = if step.level == plan.chosen { "*" } else { "" };
        text.push_str(&format!("{:>9}", format!("{}{mark}", step.level)));
    }
    let names = plan.chosen().map(|step| step.needs.named().map(|(name, _)| name));
    for (i, name) in names.into_iter().flatten().enumerate() {
        text.push_str(&format!("\n          {name:15}"));
        for step in &plan.steps {
            text.push_str(&format!("{:>9}", mib(step.needs.named()[i].1)));
        }
    }
    text.push_str("\n          total          ");
    for step in &plan.steps {
        text.push_str(&format!("{:>9}", mib(step.needs.total())));
    }
    let free = plan.available.map(|free| format!("; {} MiB are available", mib(free)));
    text.push_str("\n          * the level of this run (train.recompute)");
    text + &free.unwrap_or_default()
}

/// Converts the error of a run that was stopped before its first step: there is nothing to save.
fn before_a_step(error: TrainError, recipe: &Recipe) -> Failure {
    let TrainError::Interrupted = error else { return error.into() };
    let again = match checkpoint::list(&recipe.run.dir) {
        Ok(steps) if steps.is_empty() => "start it again with the same command",
        _ => "its checkpoints are unchanged",
    };
    Failure::Interrupted(format!("no step was done, {again}"))
}
/// Returns a path quoted for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-+:@%,=".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn finish(name: &str, recipe: &Recipe, outcome: &Outcome, stopped: bool) -> Result<(), Failure> {
    let saved = outcome.checkpoint.display();
    if outcome.interrupted {
        let (step, dir) = (outcome.step, quoted(&recipe.run.dir));
        return Err(Failure::Interrupted(format!(
            "step {step} is saved in {saved}; continue with: dressage train {dir} --resume"
        )));
    }
    if let Some(why) = &outcome.unscored {
        return Err(Failure::Message(format!(
            "training is done and saved in {saved}, but {why}; fix the file, or leave it out: \
             dressage eval {} data.on_error=skip",
            quoted(&recipe.run.dir)
        )));
    }
    if stopped && outcome.report.is_none() && !recipe.data.eval.is_empty() {
        return Err(Failure::Interrupted(format!(
            "training is done and saved in {saved}, but the evaluation is not done; run it with: \
             dressage train {} --resume",
            quoted(&recipe.run.dir)
        )));
    }
    if let Some(report) = &outcome.report {
        print(&format!("\nIoU in per cent after step {}:\n", outcome.step));
        print(&report.table(width()));
    }
    if let Some(memory) = &outcome.memory {
        print(&format!("\nmemory    {}", memory.line()));
    }
    let out = outcome.left_out;
    if out != LeftOut::default() {
        let (pairs, replaced) = (grouped(out.pairs), grouped(out.replaced));
        print(&format!(
            "\ndata      {pairs} pairs were left out at the start, {replaced} samples were replaced \
             while they were loaded"
        ));
    }
    print(&format!("\n{name} is trained: {saved}"));
    Ok(())
}
