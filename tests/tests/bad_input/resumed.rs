//! Runs resumed with other settings or from other states, and checkpoints by time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dressage_train::checkpoint;
use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::Recipe;
use dressage_train::resume::{Resume, ResumeFrom};
use dressage_train::runlog::{Progress, Silent, read_log};
use dressage_train::trainer::Trainer;
use serde_json::json;

use crate::common::recipe;
use crate::{fails_with, names};

const TEST: &str =
    "data.eval=[{name='fog', source='scenes', count=1, first=50, size=[96, 64], domain='fog'}]";

fn trained(dir: &Path, settings: &[&str]) -> Recipe {
    let recipe = recipe(dir, settings);
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    trainer.run(&Silent, &Interrupt::default()).expect("trained");
    recipe
}

/// All files of a run folder.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in [dir.to_path_buf(), dir.join("checkpoints")] {
        for name in names(&folder) {
            let path = folder.join(name);
            if path.is_file() {
                found.insert(path.clone(), fs::read(path).expect("file"));
            }
        }
    }
    found
}

/// Log lines of one kind, without the kind.
fn logged(recipe: &Recipe, kind: &str) -> Vec<serde_json::Value> {
    let mut lines = read_log(&recipe.run.dir.join("log.jsonl")).expect("log");
    lines.retain(|line| line["kind"] == kind);
    lines
}

#[test]
fn settings_that_bear_on_the_weights_are_refused_with_a_list() {
    let dir = tempfile::tempdir().expect("folder");
    let base = ["train.steps=2", TEST];
    let run = trained(dir.path(), &base).run.dir;
    let before = files(&run);
    let names = "head.classes=['b','a','c','d','e','f','g','h','i','j','k','l','m','n','o','p','q',\
                 'r','s']";
    let added = "data.train.1={name='more', source='scenes', count=1, size=[64, 64]}";
    for (change, words) in [
        ("train.steps=3", ["train.steps (before 2, now 3)", "--resume-changed"]),
        ("train.lr=0.5", ["train.lr (before 0.001, now 0.5)", "--resume-changed"]),
        (names, ["head.classes (before [\"road\", ", "now [\"b\", \"a\", "]),
        ("train.batch=1", ["train.batch (before 2, now 1)", "differ from those of the run"]),
        ("train.seed=7", ["train.seed (before 42, now 7)", "differ from those of the run"]),
        ("augment.crop=96", ["augment.crop (before 64, now 96)", "augment.max_long_edge"]),
        (
            "augment.flip=false",
            ["augment.flip (before true, now false)", "differ from those of the run"],
        ),
        (
            "loss.no_object=0.2",
            ["loss.no_object (before 0.1, now 0.2)", "differ from those of the run"],
        ),
        (
            "data.train.0.count=3",
            ["data.train.0.count (before 12, now 3)", "differ from those of the run"],
        ),
        (added, ["data.train.1 (before none, now \"more\")", "differ from those of the run"]),
        (
            "model.precision=bf16",
            ["model.precision (before \"f32\", now \"bf16\")", "differ from those of the run"],
        ),
        (
            "model.method=freeze",
            ["model.method (before \"rein\", now \"freeze\")", "differ from those of the run"],
        ),
    ] {
        let words = [&run.display().to_string(), words[0], words[1]];
        let other = recipe(dir.path(), &[&base[..], &[change]].concat());
        fails_with(Trainer::new(other, true).map(|_| ()), &words);
        assert!(files(&run) == before, "{change}: the folder is not as it was");
    }
    let two = recipe(dir.path(), &[&base[..], &["train.lr=1", "train.batch=1"]].concat());
    fails_with(Trainer::new(two, true).map(|_| ()), &["train.batch (", "train.lr ("]);
}

#[test]
fn other_settings_are_taken_and_those_of_scores_are_logged() {
    let dir = tempfile::tempdir().expect("folder");
    let silent = ["run.workers=1", "train.keep=9", "train.log_every=5", "train.recompute=cheap"];
    let base = ["train.steps=2", TEST];
    trained(dir.path(), &base);
    let go_on = |more: &[&str], resume: &Resume| {
        let other = recipe(dir.path(), &[&base[..], more].concat());
        let mut trainer = Trainer::set_up(other.clone(), Some(resume), &Silent).expect("resumed");
        trainer.run(&Silent, &Interrupt::default()).expect("run");
        other
    };
    let same = Resume::default();
    let now = go_on(&silent, &same);
    assert_eq!(logged(&now, "changed"), Vec::<serde_json::Value>::new());
    let scored = [&silent[..], &["data.eval.0.count=2"]].concat();
    let now = go_on(&scored, &same);
    let lines = logged(&now, "changed");
    assert_eq!((lines.len(), &lines[0]["step"]), (1, &json!(2)));
    assert_eq!(lines[0]["before_and_now"], json!({ "data.eval.0.count": ["1", "2"] }));
    assert_eq!(logged(&now, "eval")[0]["sets"][0]["images"], 2, "it takes effect");
    let longer = [&scored[..], &["train.steps=3", "train.lr=0.5"]].concat();
    let now = go_on(&longer, &Resume { changed: true, ..same });
    let lines = logged(&now, "changed");
    let want = json!({ "train.lr": ["0.001", "0.5"], "train.steps": ["2", "3"] });
    assert_eq!((lines.len(), &lines[1]["before_and_now"]), (2, &want));
    assert_eq!(logged(&now, "train").last().expect("line")["step"], 3);
    // The folder has the new recipe, so the next resume reports no change.
    let now = go_on(&longer, &same);
    assert_eq!(logged(&now, "changed").len(), 2);
}

#[test]
fn a_run_goes_on_before_a_bad_loss() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &["train.steps=4", "train.checkpoint_every=1"]);
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    let none = Trainer::set_up(
        recipe.clone(),
        Some(&Resume { from: ResumeFrom::BeforeNan, changed: false }),
        &Silent,
    );
    fails_with(none.map(|_| ()), &["holds no before-nan.safetensors"]);
    let mut loader = trainer.loader().expect("loader");
    for _ in 0..2 {
        trainer.step_with(&mut loader).expect("step");
    }
    let mut bad = loader.next_batch().expect("batch");
    bad.images[5] = f32::INFINITY;
    fails_with(trainer.step_on(&bad), &["step 3", "before-nan", "--from before-nan"]);
    let before_nan = checkpoint::before_nan(&recipe.run.dir);
    assert!(before_nan.is_file());
    fails_with(
        Trainer::new(recipe.clone(), true).map(|_| ()),
        &["no checkpoint", "--from before-nan"],
    );
    let from: ResumeFrom = "before-nan".parse().expect("a state");
    let mut resumed =
        Trainer::set_up(recipe.clone(), Some(&Resume { from, changed: false }), &Silent)
            .expect("resumed");
    assert_eq!(resumed.step(), 2);
    let end = resumed.run(&Silent, &Interrupt::default()).expect("trained");
    let whole = tempfile::tempdir().expect("folder");
    let straight = trained(whole.path(), &["train.steps=4", "train.checkpoint_every=1"]);
    let straight = fs::read(checkpoint::path_of(&straight.run.dir, 4)).expect("checkpoint");
    assert!(fs::read(end.checkpoint).expect("checkpoint") == straight, "the same end");
}

/// Advances the clock by four minutes per step, and lists the checkpoints at each.
struct Minutes(Arc<AtomicU64>, PathBuf, std::sync::Mutex<Vec<Vec<u64>>>);

impl Progress for Minutes {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn at(&self, position: u64, _rate: &str) {
        self.0.store(240 * position, Ordering::Relaxed);
        let found = checkpoint::list(&self.1).expect("list");
        self.2.lock().expect("unpoisoned").push(found);
    }
    fn end(&self) {}
    fn note(&self, _text: &str) {}
}

#[test]
fn checkpoints_by_time_replace_each_other_and_change_nothing() {
    let run = |minutes: &str| {
        let dir = tempfile::tempdir().expect("folder");
        let every = ["train.steps=10", "train.checkpoint_every=4", "train.keep=2"];
        // In this run progress is reported at every step.
        let settings = [&every[..], &[minutes, "train.log_every=100"]].concat();
        let recipe = recipe(dir.path(), &settings);
        let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
        let now = Arc::new(AtomicU64::new(0));
        let watch = Minutes(now.clone(), recipe.run.dir.clone(), Default::default());
        trainer.set_clock(Box::new(move || Duration::from_secs(now.load(Ordering::Relaxed))));
        let end = trainer.run(&watch, &Interrupt::default()).expect("trained").checkpoint;
        let lists = watch.2.into_inner().expect("unpoisoned");
        (
            fs::read(end).expect("checkpoint"),
            checkpoint::list(&recipe.run.dir).expect("list"),
            lists,
        )
    };
    let (by_time, left, lists) = run("train.checkpoint_minutes=10");
    let (without, same, none) = run("train.checkpoint_minutes=0");
    assert!(by_time == without, "the result depends on checkpoints by time");
    assert_eq!((left, same), (vec![8, 10], vec![8, 10]));
    // Before the checkpoints of steps 4 to 8. Step 3 is 12 minutes after the start, and step 7 is
    // 12 minutes after the checkpoint of step 4.
    let want: [&[u64]; 5] = [&[3], &[4], &[4], &[4], &[4, 7]];
    assert_eq!(lists[3..8], want.map(<[u64]>::to_vec), "{lists:?}");
    let want: [&[u64]; 5] = [&[], &[4], &[4], &[4], &[4]];
    assert_eq!(none[3..8], want.map(<[u64]>::to_vec), "{none:?}");
}
