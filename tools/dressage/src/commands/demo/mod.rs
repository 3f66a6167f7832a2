//! `dressage demo`.

mod pictures;

use std::path::{Path, PathBuf};

use dressage_models::weights::write_safetensors;
use dressage_train::interrupt::Interrupt;
use dressage_train::metrics::Report;
use dressage_train::recipe::{Recipe, SaveSignal};
use dressage_train::run_folder;
use dressage_train::runlog::Progress as _;
use dressage_train::trainer::Trainer;
use dressage_train::{checkpoint, files};

use super::Cpu;
use crate::console::{duration, grouped, print};
use crate::failure::Failure;
use crate::progress::Watch;
use crate::signals::{Words, watched};

/// Train on drawn street scenes and see how well it generalises to night, fog, rain and snow
///
/// Needs no data: the scenes are drawn by the program. First a small vision transformer learns
/// seven coarse categories on scenes of every look; it stands in for a foundation model, which
/// cannot be trained in minutes. Then it is frozen, and two networks learn the fine classes from
/// daylight scenes alone: `freeze` trains a segmentation head, `rein` the head and Rein's tokens in
/// every block. Both are tested on new scenes of every look. An interrupted demo continues when the
/// same command is given again.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for runs, pictures and the two recipes
    #[arg(long, value_name = "DIR", default_value = "dressage-demo")]
    out: PathBuf,

    /// Steps of each of the two networks; the stand-in gets half as many again
    #[arg(long, value_name = "N", default_value_t = STEPS, value_parser = positive)]
    steps: u64,

    /// Test scenes of each look
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = positive)]
    images: u64,

    /// Seed of weights, order and crops
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    #[command(flatten)]
    cpu: Cpu,
}

/// Default steps of each network: the demo takes about four minutes on two cores.
const STEPS: u64 = 400;

/// Steps of warm-up, if there are enough steps for it.
const WARM_UP: u64 = 20;

const PRETRAIN: &str = include_str!("pretrain.toml");
const FINETUNE: &str = include_str!("finetune.toml");
/// Number of test sets in the second recipe.
const LOOKS: usize = dressage_train::scenes::Domain::ALL.len();
const METHODS: [&str; 2] = ["freeze", "rein"];

fn positive(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| "it must be a whole number, 1 or more".into())
}

/// A network of the demo after its training.
struct Trained {
    method: &'static str,
    recipe: Recipe,
    trainer: Trainer,
    report: Report,
}

/// State that all parts of the demo share.
struct Stage<'a> {
    args: &'a Args,
    watch: &'a Watch,
    stop: &'a Interrupt,
}

/// Runs the demo.
pub fn run(args: &Args) -> Result<(), Failure> {
    let begin = std::time::Instant::now();
    args.cpu.start()?;
    let words = Words {
        first: "stopping after this step; the state will be saved",
        lost: "progress since the last checkpoint is not saved",
    };
    let (watch, stop) = watched(words, SaveSignal::None)?;
    let stage = Stage { args, watch: &watch, stop: &stop };
    for (name, text) in [("pretrain.toml", PRETRAIN), ("finetune.toml", FINETUNE)] {
        write_recipe(&args.out.join(name), text)?;
    }
    watch.note(
        "1/3  a small transformer learns coarse categories, as a stand-in for a foundation model",
    );
    stage.backbone()?;
    let mut trained = Vec::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        watch.note(&format!("{}/3  {method}: the stand-in is frozen, training on daylight", i + 2));
        trained.push(stage.method(method)?);
    }
    let sheet = pictures::write(&args.out, &trained)?;
    print(&format!("\n{}", table(&trained)));
    let out = args.out.display();
    print(&format!(
        "pictures: {} ({} in all)",
        sheet.display(),
        duration(begin.elapsed().as_secs_f64())
    ));
    print(&format!(
        "next: dressage predict {out}/rein IMAGE\n      dressage train {out}/finetune.toml \
         model.method=full run.dir={out}/full"
    ));
    Ok(())
}

impl Stage<'_> {
    /// Trains a recipe of the demo, or resumes its run.
    fn train(
        &self,
        file: &str,
        settings: &[String],
    ) -> Result<(Recipe, Trainer, Option<Report>), Failure> {
        let recipe = Recipe::from_file(&self.args.out.join(file), settings)?;
        let dir = &recipe.run.dir;
        let resume = !checkpoint::list(dir)?.is_empty();
        if resume && !run_folder::holds(dir, &recipe)? {
            return Err(Failure::Message(format!(
                "{} holds a demo with other settings; choose another folder with --out",
                self.args.out.display()
            )));
        }
        let mut trainer = Trainer::new(recipe.clone(), resume)?;
        let outcome = trainer.run(self.watch, self.stop)?;
        if self.stop.requested() {
            let what = "the state is saved; give the same command again to continue";
            return Err(Failure::Interrupted(what.into()));
        }
        Ok((recipe, trainer, outcome.report))
    }

    fn settings(&self, dir: &str, steps: u64) -> Vec<String> {
        let dir = self.args.out.join(dir);
        vec![
            format!("run.dir={}", dir.display()),
            // The networks are too small for a GPU, and the results are to match those of the
            // README.
            "run.device=cpu".to_owned(),
            // An explicit number, as in the recipe that the run writes, so that the two can be
            // compared.
            "run.workers=2".to_owned(),
            format!("train.steps={steps}"),
            format!("train.warm_up_steps={}", (steps / 2).min(WARM_UP)),
            format!("train.seed={}", self.args.seed),
        ]
    }

    /// Trains the stand-in and writes its weights under DINOv2's names, so that a recipe can name
    /// them.
    fn backbone(&self) -> Result<(), Failure> {
        let settings = self.settings("pretrain", self.args.steps.saturating_mul(3) / 2);
        let (_, trainer, _) = self.train("pretrain.toml", &settings)?;
        let params = trainer.model().params().iter();
        let stored = params.filter_map(|(name, p)| {
            let name = name.strip_prefix("backbone.")?.to_owned();
            Some(p.master().detach().to_host().map(|value| (name, value)))
        });
        let tensors = stored.collect::<Result<Vec<_>, _>>()?;
        let path = self.args.out.join("backbone.safetensors");
        files::write(&path, |out| write_safetensors(&tensors, &[], out))?;
        Ok(())
    }

    fn method(&self, method: &'static str) -> Result<Trained, Failure> {
        let mut settings = self.settings(method, self.args.steps);
        settings.push(format!("model.method={method}"));
        let counts = (0..LOOKS).map(|k| format!("data.eval.{k}.count={}", self.args.images));
        settings.extend(counts);
        let (recipe, trainer, report) = self.train("finetune.toml", &settings)?;
        let report = report.ok_or_else(|| Failure::Message("the demo has no test sets".into()))?;
        Ok(Trained { method, recipe, trainer, report })
    }
}

/// Writes one of the demo's recipes; refuses to replace a different file.
fn write_recipe(path: &Path, text: &str) -> Result<(), Failure> {
    match std::fs::read(path) {
        Ok(old) if old == text.as_bytes() => Ok(()),
        Ok(_) => {
            let file = path.display();
            let what =
                format!("{file} was not written by the demo; choose another folder with --out");
            Err(Failure::Message(what))
        }
        Err(_) => Ok(files::write_bytes(path, text.as_bytes())?),
    }
}

/// Returns a table of mIoU by method and look.
fn table(trained: &[Trained]) -> String {
    let Some(first) = trained.first() else { return String::new() };
    let mut head = format!("{:8}{:>10}", "method", "trains");
    for set in &first.report.sets {
        head.push_str(&format!("{:>9}", set.name));
    }
    head.push_str(&format!("{:>13}", "mean unseen"));
    let rule = "-".repeat(head.len());
    let mut text = format!(
        "mIoU in per cent on {} new scenes of each look; both methods were trained on day alone\n\n",
        first.report.sets.first().map_or(0, |set| set.images)
    );
    text.push_str(&format!("{head}\n{rule}\n"));
    let cell = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.2}"));
    for t in trained {
        let params = t.trainer.model().trainable();
        let count: usize = params.iter().map(|p| p.get().len()).sum();
        text.push_str(&format!("{:8}{:>10}", t.method, grouped(count)));
        for set in &t.report.sets {
            text.push_str(&format!("{:>9}", cell(set.miou)));
        }
        text.push_str(&format!("{:>13}\n", cell(t.report.mean.miou)));
    }
    text
}
