//! Training on the virtual GPU, compared with training on the host.
//!
//! Both must give the same losses. A step waits once and takes no new memory. Checkpoints load on
//! either side. A loss that is not finite changes nothing.

mod common;
mod options;

use std::fs;
use std::path::Path;

use common::recipe;
use dressage_engine::Device;
use dressage_engine::memory::usage_on;
use dressage_kernels::device::Trace;
use dressage_train::data::Batch;
use dressage_train::interrupt::Interrupt;
use dressage_train::plan::Plan;
use dressage_train::recipe::Recipe;
use dressage_train::runlog::Silent;
use dressage_train::trainer::{MemoryReport, StepLog, Trainer};
use dressage_train::{TrainError, checkpoint};
use serde_json::Value;

const VIRTUAL: [&str; 2] = ["run.device=virtual", "run.precision=f32"];

/// The smallest possible settings.
const SMALL: [&str; 5] = [
    "augment.crop=32",
    "train.batch=2",
    "head.decoder_layers=1",
    "loss.points=32",
    "train.steps=100",
];

fn small(dir: &Path, more: &[&str]) -> Recipe {
    recipe(dir, &[&SMALL[..], more].concat())
}

fn trainer(dir: &Path, more: &[&str], resume: bool) -> Trainer {
    Trainer::new(small(dir, more), resume).expect("trainer")
}

fn device(trainer: &Trainer) -> Device {
    trainer.place().device().expect("a device").clone()
}

/// The loss and its terms.
fn values(log: &StepLog) -> Vec<f64> {
    let terms = log.terms.iter().map(|(_, v)| f64::from(*v));
    std::iter::once(f64::from(log.loss)).chain(terms).collect()
}

#[test]
fn steps_give_the_losses_of_the_host_and_wait_once() {
    let dir = tempfile::tempdir().expect("folder");
    let mut host = trainer(dir.path(), &[], false);
    let mut there = trainer(dir.path(), &VIRTUAL, false);
    let device = device(&there);
    let mut loader = host.loader().expect("loader");
    let batches: Vec<_> = (0..4).map(|_| loader.next_batch().expect("batch")).collect();
    let mut logs = Vec::new();
    let mut reservations = Vec::new();
    for batch in &batches {
        let before = device.counters().waits;
        logs.extend(there.queue(batch).expect("queued"));
        assert_eq!(device.counters().waits - before, 1, "waits of step {}", there.step());
        reservations.push(device.usage().reservations);
    }
    logs.extend(there.flush().expect("flushed"));
    assert_eq!(logs.len(), batches.len());
    assert!(there.flush().expect("nothing is left").is_none());
    for (step, (batch, found)) in batches.iter().zip(&logs).enumerate() {
        let want = host.step_on(batch).expect("step");
        assert_eq!((found.lr, found.laps), (want.lr, None));
        let names = |log: &StepLog| -> Vec<String> {
            log.terms.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(found), names(&want));
        for (a, b) in values(found).into_iter().zip(values(&want)) {
            assert!((a - b).abs() <= 2e-4 * b.abs() + 1e-6, "step {step}: {a} there, {b} here");
        }
    }
    assert_eq!(reservations[1..], [reservations[1]; 3], "{reservations:?}");
    let usage = usage_on(&device);
    assert!(usage.peak > 0 && usage.system_bytes >= usage.total());
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("checkpoint")
}

#[test]
fn a_run_goes_on_elsewhere_from_the_same_state() {
    let dir = tempfile::tempdir().expect("folder");
    let mut there = trainer(dir.path(), &["run.device=virtual"], false);
    let mut loader = there.loader().expect("loader");
    for _ in 0..2 {
        there.step_with(&mut loader).expect("step");
    }
    let saved = there.save().expect("saved");
    let state = bytes(&saved);
    drop((there, loader));
    // Saved once more from any place, the file is the same.
    for place in [&["run.device=cpu"][..], &["run.device=virtual"], &VIRTUAL] {
        let resumed = trainer(dir.path(), place, true);
        assert_eq!(resumed.step(), 2);
        fs::remove_file(&saved).expect("removed");
        assert_eq!(resumed.save().expect("saved"), saved);
        assert!(bytes(&saved) == state, "{place:?}");
    }
    // Both can go on: the host from the device's state, and the device from the host's.
    let mut here = trainer(dir.path(), &[], true);
    let mut loader = here.loader().expect("loader");
    let batch = loader.next_batch().expect("batch");
    let mut there = trainer(dir.path(), &VIRTUAL, true);
    let [a, b] = [&mut here, &mut there].map(|t| t.step_on(&batch).expect("step").loss);
    assert!((a - b).abs() <= 2e-4 * a, "{a} here, {b} there");
    here.save().expect("saved");
    let back = trainer(dir.path(), &VIRTUAL, true);
    assert_eq!(back.step(), 3);
    let saved = bytes(&checkpoint::path_of(&dir.path().join("run"), 3));
    back.save().expect("saved");
    assert!(bytes(&checkpoint::path_of(&dir.path().join("run"), 3)) == saved);
}

#[test]
fn the_same_run_twice_is_the_same_bytes() {
    let run = || {
        let dir = tempfile::tempdir().expect("folder");
        let mut trainer = trainer(dir.path(), &["run.device=virtual"], false);
        let mut loader = trainer.loader().expect("loader");
        let losses: Vec<u32> =
            (0..2).map(|_| trainer.step_with(&mut loader).expect("step").loss.to_bits()).collect();
        (losses, bytes(&trainer.save().expect("saved")))
    };
    let (first, again) = (run(), run());
    assert!(first.0 == again.0 && first.1 == again.1);
}

/// Costs are finite with this weight, but the sum of the losses is not.
const BAD: &str = "loss.class_weight=3e38";

#[test]
fn a_bad_loss_is_reported_with_the_next_step_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let mut there = trainer(dir.path(), &["run.device=virtual", BAD], false);
    let mut loader = there.loader().expect("loader");
    let before = bytes(&there.save().expect("saved"));
    let [first, second] = [(); 2].map(|()| loader.next_batch().expect("batch"));
    assert_ne!(first.names, second.names);
    assert!(there.queue(&first).expect("not known yet").is_none());
    let error = there.queue(&second).expect_err("the loss is infinite");
    let TrainError::NotFinite { step, saved, samples, .. } = &error else { panic!("{error}") };
    assert_eq!((*step, samples), (1, &first.names.join(", ")));
    assert!(error.to_string().contains("loss_cls is inf"), "{error}");
    assert!(bytes(saved) == before, "the kept state is not the one before the step");
    // The error is the same on the host, and when the loss is read at once.
    assert_eq!(there.step(), 0);
    assert!(bytes(&there.save().expect("saved")) == before);
    assert!(matches!(there.step_on(&first), Err(TrainError::NotFinite { step: 1, .. })));
    assert!(bytes(&there.save().expect("saved")) == before);
    let mut here = trainer(dir.path(), &[BAD], true);
    let same = here.step_on(&first).expect_err("the loss is infinite").to_string();
    assert_eq!(same, error.to_string());
}

/// Lines of a run's log, as JSON.
fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("run/log.jsonl")).expect("log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn log_lines_have_the_fields_of_those_of_the_host() {
    let run = |more: &[&str]| {
        let dir = tempfile::tempdir().expect("folder");
        let settings = [&["train.steps=3", "train.log_every=2"], more].concat();
        let mut trainer = trainer(dir.path(), &settings, false);
        let outcome = trainer.run(&Silent, &Interrupt::default()).expect("run");
        (lines(dir.path()), outcome)
    };
    let ((here, planned), (there, measured)) = (run(&[]), run(&VIRTUAL));
    let of = |lines: &[Value], kind: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["kind"] == kind).cloned().collect()
    };
    let (a, b) = (of(&here, "train"), of(&there, "train"));
    assert_eq!((a.len(), b.len()), (2, 2));
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a.as_object().expect("object"), b.as_object().expect("object"));
        assert!(a.keys().eq(b.keys()));
        for (key, a) in a.iter().filter(|(key, _)| key.contains("loss") || *key == "lr") {
            let (a, b) = (a.as_f64().expect("number"), b[key].as_f64().expect("number"));
            assert!((a - b).abs() <= 2e-4 * a.abs() + 1e-6, "{key}: {a} here, {b} there");
        }
        assert!(b["memory_mib"].as_f64().expect("number") > 0.0);
    }
    assert!(matches!(planned.memory, Some(MemoryReport::Host(_))), "the plan is one of the host");
    let Some(MemoryReport::Device(found)) = measured.memory else {
        panic!("{:?}", measured.memory)
    };
    assert!(found.tensors > 0 && found.reserved >= found.tensors, "{found:?}");
    assert_eq!(of(&there, "memory")[0]["tensors"], found.tensors);
}

#[test]
fn every_method_trains_as_on_the_host() {
    for method in ["model.method=full", "model.method=freeze"] {
        let dir = tempfile::tempdir().expect("folder");
        let mut host = trainer(dir.path(), &[method], false);
        let mut there = trainer(dir.path(), &[&VIRTUAL[..], &[method]].concat(), false);
        let mut loader = host.loader().expect("loader");
        for step in 0..2 {
            let batch = loader.next_batch().expect("batch");
            let [a, b] = [&mut host, &mut there].map(|t| t.step_on(&batch).expect("step").loss);
            assert!((a - b).abs() <= 2e-4 * a, "{method}, step {step}: {a} here, {b} there");
        }
    }
}

/// Fewer queries than the 19 classes, and masks narrower than features.
const ODD_HEAD: [&str; 2] = ["head.queries=5", "head.mask_width=20"];

/// A batch whose first image shows every class, so that most targets stay unmatched.
fn crowded(side: usize) -> Batch {
    let (b, n) = (2, side * side);
    let labels = (0..b * n).map(|i| if i < n { (i / 4 % 19) as u8 } else { 255 }).collect();
    let images = (0..b * 3 * n).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    Batch { step: 0, b, h: side, w: side, images, labels, names: vec!["drawn".into(); b] }
}

#[test]
fn more_classes_than_queries_train_as_on_the_host() {
    let dir = tempfile::tempdir().expect("folder");
    let mut host = trainer(dir.path(), &ODD_HEAD, false);
    let mut there = trainer(dir.path(), &[&VIRTUAL[..], &ODD_HEAD].concat(), false);
    for step in 0..2 {
        let batch = crowded(32);
        let [a, b] = [&mut host, &mut there].map(|t| t.step_on(&batch).expect("step"));
        for (a, b) in values(&a).into_iter().zip(values(&b)) {
            assert!(a.is_finite(), "step {step}: {a}");
            assert!((a - b).abs() <= 2e-4 * a.abs() + 1e-6, "step {step}: {a} here, {b} there");
        }
    }
}

#[test]
fn levels_of_recomputation_give_the_same_bits() {
    let run = |level: &str| {
        let dir = tempfile::tempdir().expect("folder");
        let level = format!("train.recompute={level}");
        let mut trainer = trainer(dir.path(), &["run.device=virtual", &level], false);
        let mut loader = trainer.loader().expect("loader");
        trainer.step_with(&mut loader).expect("step");
        bytes(&trainer.save().expect("saved"))
    };
    let none = run("none");
    for level in ["cheap", "block"] {
        assert!(run(level) == none, "{level} differs from none");
    }
}

#[test]
fn a_dry_run_counts_what_the_virtual_gpu_does() {
    counted(&[]);
    counted(&ODD_HEAD);
}

fn counted(more: &[&str]) {
    let dir = tempfile::tempdir().expect("folder");
    // No graphs: the replay of a graph would count as one call.
    let settings = ["run.device=virtual", "train.recompute=cheap", "run.graphs=false"];
    let recipe = small(dir.path(), &[&settings, more].concat());
    let planned = Plan::on_device(&recipe, None).expect("planned");
    let planned = planned.chosen().expect("the level of the recipe");
    let mut there = Trainer::new(recipe, false).expect("trainer");
    let device = device(&there);
    let mut loader = there.loader().expect("loader");
    for _ in 0..3 {
        let batch = loader.next_batch().expect("batch");
        there.queue(&batch).expect("queued");
    }
    device.restart_trace();
    let batch = loader.next_batch().expect("batch");
    there.queue(&batch).expect("queued");
    let found = device.trace().expect("a trace");
    assert_eq!(found.total().waits, 1);
    assert_eq!(planned.reservations, 0);
    assert_eq!(found.kernels, planned.trace.kernels);
    // The table of addresses is uploaded once more when a gradient has moved, and the two pools
    // round differently.
    let differs = |part: &str| part == "optimiser";
    let parts = |trace: &Trace| {
        let parts = trace.parts.iter().filter(|(scope, _)| !differs(&scope.part));
        parts.map(|(scope, counts)| (scope.to_string(), *counts)).collect::<Vec<_>>()
    };
    let (found_parts, planned_parts) = (parts(&found), parts(&planned.trace));
    for (found, planned) in found_parts.iter().zip(&planned_parts) {
        assert_eq!(found, planned);
    }
    assert_eq!(found_parts.len(), planned_parts.len());
    let (usage, needs) = (usage_on(&device), planned.needs);
    let tensors = [needs.weights, needs.optimiser, needs.gradients, needs.activations, needs.data];
    assert_eq!(usage.at_peak, tensors);
    for part in ["backbone.block 0 / rein", "head.layer 0 / mlp", "losses", "optimiser"] {
        assert!(
            found.parts.keys().any(|scope| &*scope.part == part),
            "nothing is booked to {part}"
        );
    }
}
