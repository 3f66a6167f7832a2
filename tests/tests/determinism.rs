//! A run depends only on its recipe: not on threads, data workers, or interruptions.

mod common;

use std::path::Path;

use common::recipe;
use dressage_train::checkpoint;
use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::Recipe;
use dressage_train::runlog::{Progress, Silent, read_log};
use dressage_train::trainer::{Outcome, Trainer};
use serde_json::Value;

/// Trains a new run in its own folder; returns the bytes of its last checkpoint.
fn trained(settings: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("folder");
    let outcome = run(&recipe(dir.path(), settings), false);
    std::fs::read(outcome.checkpoint).expect("checkpoint")
}

fn run(recipe: &Recipe, resume: bool) -> Outcome {
    let mut trainer = Trainer::new(recipe.clone(), resume).expect("trainer");
    trainer.run(&Silent, &Interrupt::default()).expect("trained")
}

fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads");
    pool.install(f)
}

/// Checks equality byte for byte without printing half a megabyte.
fn assert_same(a: &[u8], b: &[u8], what: &str) {
    let at = a.iter().zip(b).position(|(a, b)| a != b);
    assert!(a.len() == b.len() && at.is_none(), "{what}: first difference at byte {at:?}");
}

#[test]
fn the_seed_decides_every_byte() {
    let first = trained(&[]);
    assert_same(&first, &trained(&[]), "same seed");
    assert_ne!(first, trained(&["train.seed=43"]), "another seed gave the same bytes");
}

#[test]
fn threads_and_workers_change_nothing() {
    let options = [&OPTIONS[..], &["train.steps=3"]].concat();
    assert_same(
        &on_threads(1, || trained(&options)),
        &on_threads(3, || trained(&options)),
        "options of the update on 3 threads",
    );
    let one = on_threads(1, || trained(&["run.workers=1"]));
    for (threads, workers) in [(2, "run.workers=1"), (2, "run.workers=2"), (3, "run.workers=5")] {
        let other = on_threads(threads, || trained(&[workers]));
        assert_same(&one, &other, &format!("{threads} threads, {workers}"));
    }
}

#[test]
fn recomputing_changes_nothing() {
    for settings in [
        ["model.method=rein", "train.steps=3"],
        ["model.method=full", "train.steps=3"],
        ["model.ffn_form=swiglu", "train.steps=3"],
        ["model.precision=bf16", "train.steps=3"],
    ] {
        let with = |level| trained(&[settings[0], settings[1], level]);
        let none = with("train.recompute=none");
        for level in ["train.recompute=cheap", "train.recompute=block"] {
            assert_same(&none, &with(level), &format!("{settings:?}, {level}"));
        }
    }
}

#[test]
fn threads_change_nothing_where_kernels_split_their_work() {
    // Crops and points in more pieces than threads. After two steps a difference would be in every
    // moment.
    let settings = [
        "augment.crop=160",
        "model.patch=8",
        "model.method=full",
        "loss.points=2000",
        "train.steps=2",
        "head.width=64",
    ];
    let one = on_threads(1, || trained(&settings));
    for threads in [2, 5] {
        let other = on_threads(threads, || trained(&settings));
        assert_same(&one, &other, &format!("{threads} threads"));
    }
}

/// Requests a stop when a stage reaches a position.
struct StopAt(&'static str, u64, Interrupt, std::sync::Mutex<String>);

impl StopAt {
    fn new(stage: &'static str, position: u64) -> StopAt {
        StopAt(stage, position, Interrupt::default(), Default::default())
    }

    fn run(&self, trainer: &mut Trainer) -> Outcome {
        trainer.run(self, &self.2).expect("stopped politely")
    }
}

impl Progress for StopAt {
    fn begin(&self, stage: &str, _total: Option<u64>) {
        stage.clone_into(&mut self.3.lock().expect("unpoisoned"));
    }
    fn at(&self, position: u64, _rate: &str) {
        if position == self.1 && *self.3.lock().expect("unpoisoned") == self.0 {
            self.2.request();
        }
    }
    fn end(&self) {}
    fn note(&self, _text: &str) {}
}

/// Kind, step and losses of every log line about training and scores. The rest is time and memory.
fn logged(dir: &Path) -> Vec<Value> {
    let mut lines = read_log(&dir.join("run/log.jsonl")).expect("log");
    lines.retain(|line| line["kind"] != "memory");
    for line in &mut lines {
        let fields = line.as_object_mut().expect("object");
        fields.retain(|key, _| {
            !["seconds", "waited", "images_per_s", "memory_mib"].contains(&key.as_str())
        });
    }
    lines
}

/// Options of the update that keep state, or that depend on the step.
const OPTIONS: [&str; 6] = [
    "train.batch=1",
    "train.accumulate=2",
    "train.clip_norm=0.5",
    "train.weight_decay_end=1e-5",
    "train.ema.rate=0.1",
    "train.ema.start=7",
];

fn stopped_and_resumed_equals_straight(settings: &[&str]) {
    let dirs = [tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder")];
    let [straight, broken] = dirs.each_ref().map(|dir| recipe(dir.path(), settings));
    let whole = run(&straight, false);
    let first =
        StopAt::new("train", 10).run(&mut Trainer::new(broken.clone(), false).expect("new"));
    assert!(first.interrupted && first.step == 10, "{first:?}");
    assert!(first.checkpoint.ends_with("step-000010.safetensors"), "{first:?}");
    let trainer = Trainer::new(broken.clone(), true).expect("resumed");
    assert_eq!(trainer.step(), 10);
    drop(trainer);
    let second = run(&broken, true);
    assert!(!second.interrupted && second.step == 20);
    let [a, b] = [whole, second].map(|o| std::fs::read(o.checkpoint).expect("checkpoint"));
    assert_same(&a, &b, &format!("{settings:?}, stopped after 10 of 20 steps"));
    let [a, b] = dirs.each_ref().map(|dir| logged(dir.path()));
    let steps = |lines: &[Value]| lines.iter().map(|l| l["step"].as_u64()).collect::<Vec<_>>();
    assert_eq!(steps(&a), (1..=20).map(Some).collect::<Vec<_>>());
    assert_eq!(steps(&a), steps(&b), "the resumed run's log");
    a.iter().zip(&b).for_each(|(a, b)| assert_eq!(a, b));
}

#[test]
fn stopping_changes_nothing_with_rein() {
    stopped_and_resumed_equals_straight(&["model.method=rein"]);
}

#[test]
fn stopping_changes_nothing_with_a_frozen_backbone() {
    stopped_and_resumed_equals_straight(&["model.method=freeze"]);
}

#[test]
fn stopping_changes_nothing_with_everything_trained() {
    stopped_and_resumed_equals_straight(&["model.method=full"]);
}

#[test]
fn stopping_changes_nothing_with_options_of_the_update() {
    stopped_and_resumed_equals_straight(&OPTIONS);
}

#[test]
fn an_evaluation_that_was_stopped_is_made_up_for() {
    let dir = tempfile::tempdir().expect("folder");
    let test =
        "data.eval=[{name = 'fog', source = 'scenes', count = 3, first = 50, size = [96, 64]}]";
    let recipe = recipe(dir.path(), &["train.steps=2", test]);
    let stopped = StopAt::new("evaluate fog", 1);
    let outcome = stopped.run(&mut Trainer::new(recipe.clone(), false).expect("new"));
    assert!(!outcome.interrupted && outcome.report.is_none() && outcome.step == 2);
    let kinds = |dir| logged(dir).iter().map(|l| l["kind"].clone()).collect::<Vec<_>>();
    assert_eq!(kinds(dir.path()), ["train", "train"]);
    let outcome = run(&recipe, true);
    assert!(outcome.report.is_some());
    assert_eq!(kinds(dir.path()), ["train", "train", "eval"]);
    // Resumed once more: the score is replaced, not duplicated.
    assert!(run(&recipe, true).report.is_some());
    assert_eq!(kinds(dir.path()), ["train", "train", "eval"]);
}

#[test]
fn an_evaluation_between_steps_that_was_stopped_or_lost_is_made_up_for() {
    let test =
        "data.eval=[{name = 'fog', source = 'scenes', count = 3, first = 50, size = [96, 64]}]";
    let settings = ["train.steps=6", "train.eval_every=2", "train.checkpoint_every=2", test];
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("folder"));
    let [straight, stopped, lost] = dirs.each_ref().map(|dir| recipe(dir.path(), &settings));
    run(&straight, false);
    let stop = StopAt::new("evaluate fog", 2);
    let outcome = stop.run(&mut Trainer::new(stopped.clone(), false).expect("new"));
    assert!(outcome.interrupted && outcome.step == 2, "{outcome:?}");
    assert_eq!(logged(dirs[1].path()).len(), 2, "no score");
    // Stopped once more while the evaluation is repeated.
    let outcome = stop.run(&mut Trainer::new(stopped.clone(), true).expect("resumed"));
    assert!(outcome.interrupted && outcome.step == 2, "{outcome:?}");
    run(&stopped, true);
    // Same files as after a kill between the checkpoint of step 4 and the end of its evaluation.
    run(&lost, false);
    std::fs::remove_file(checkpoint::path_of(&lost.run.dir, 6)).expect("removed");
    let log = lost.run.dir.join("log.jsonl");
    let text = std::fs::read_to_string(&log).expect("log");
    let is_lost = |line: &str| line.contains("\"kind\":\"eval\",\"step\":4");
    let remaining: String = text.split_inclusive('\n').take_while(|line| !is_lost(line)).collect();
    assert!(remaining.len() < text.len(), "{text}");
    std::fs::write(&log, remaining).expect("written");
    run(&lost, true);
    let [want, stopped, lost] = dirs.each_ref().map(|dir| logged(dir.path()));
    let evals: Vec<_> = want.iter().filter(|l| l["kind"] == "eval").map(|l| &l["step"]).collect();
    assert_eq!(evals, [2, 4, 6]);
    assert_eq!((&stopped, &lost), (&want, &want));
}
