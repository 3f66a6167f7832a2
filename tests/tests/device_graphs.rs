//! Training steps on the virtual GPU as captured graphs, compared with the same steps without
//! graphs.
//!
//! Both must give the same bits. A step waits once and reserves no memory. Further tests cover
//! graphs that no longer fit.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use common::recipe;
use dressage_engine::{Device, Param, Tensor};
use dressage_kernels::device::Buffer;
use dressage_train::TrainError;
use dressage_train::data::Batch;
use dressage_train::interrupt::Interrupt;
use dressage_train::runlog::Progress;
use dressage_train::trainer::{StepLog, Trainer};

/// The smallest possible settings.
const SMALL: [&str; 7] = [
    "augment.crop=32",
    "train.batch=2",
    "head.decoder_layers=1",
    "loss.points=32",
    "train.steps=100",
    "run.device=virtual",
    "run.precision=f32",
];

/// A head with running statistics and dropout.
const SEMFPN: &[&str] = &["head.kind=semfpn", "head.fpn_width=16", "run.precision=bf16"];

/// Number of steps that are launched directly before the first capture.
const WARM: usize = 2;

fn trainer(dir: &Path, graphs: bool, more: &[&str], resume: bool) -> Trainer {
    let graphs = if graphs { "run.graphs=true" } else { "run.graphs=false" };
    let recipe = recipe(dir, &[&SMALL[..], &[graphs], more].concat());
    Trainer::new(recipe, resume).expect("trainer")
}

fn device(trainer: &Trainer) -> Device {
    trainer.place().device().expect("a device").clone()
}

fn batches(trainer: &Trainer, n: usize) -> Vec<Batch> {
    let mut loader = trainer.loader().expect("loader");
    (0..n).map(|_| loader.next_batch().expect("batch")).collect()
}

/// Loss, learning rate and terms, as bits.
type Bits = (u32, u64, Vec<(String, u32)>);

fn bits(log: &StepLog) -> Bits {
    let terms = log.terms.iter().map(|(name, v)| (name.clone(), v.to_bits())).collect();
    (log.loss.to_bits(), log.lr.to_bits(), terms)
}

/// The saved bytes of the trainer's current state.
fn state(trainer: &Trainer) -> Vec<u8> {
    fs::read(trainer.save().expect("saved")).expect("checkpoint")
}

/// A trainer with graphs and one without, over the same batches.
struct Pair {
    trainers: [Trainer; 2],
    logs: [Vec<Bits>; 2],
    _dirs: [tempfile::TempDir; 2],
}

impl Pair {
    fn new(more: &[&str]) -> Pair {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
        let trainers = [true, false].map(|on| {
            let dir = if on { &dirs[0] } else { &dirs[1] };
            trainer(dir.path(), on, more, false)
        });
        Pair { trainers, logs: Default::default(), _dirs: dirs }
    }

    /// Queues a step on each trainer; returns the number of graphs that the first one replayed.
    fn queue(&mut self, batch: &Batch) -> u64 {
        let device = device(&self.trainers[0]);
        let before = device.counters();
        for (trainer, logs) in self.trainers.iter_mut().zip(&mut self.logs) {
            logs.extend(trainer.queue(batch).expect("queued").as_ref().map(bits));
        }
        let after = device.counters();
        assert_eq!(after.waits - before.waits, 1, "waits of step {}", self.trainers[0].step());
        after.graphs - before.graphs
    }

    /// Checks that losses and states are equal.
    fn compare(&mut self) {
        for (trainer, logs) in self.trainers.iter_mut().zip(&mut self.logs) {
            logs.extend(trainer.flush().expect("flushed").as_ref().map(bits));
        }
        assert!(!self.logs[1].is_empty());
        assert_eq!(self.logs[0], self.logs[1]);
        let [with, without] = self.trainers.each_ref().map(state);
        assert!(with == without, "the states differ");
        assert_eq!(device(&self.trainers[1]).counters().graphs, 0);
    }
}

#[test]
fn steps_as_graphs_give_the_bits_of_direct_steps() {
    for more in [
        &["run.precision=f32"][..],
        &["run.precision=bf16"],
        &["run.precision=bf16", "train.recompute=cheap"],
        &["run.precision=bf16", "train.recompute=block"],
        &["model.method=full"],
        &["head.kind=per-pixel", "run.precision=bf16"],
        &["head.kind=per-pixel", "model.method=full"],
        SEMFPN,
    ] {
        let mut pair = Pair::new(more);
        let [there, directly] = pair.trainers.each_ref().map(device);
        let mut reservations = Vec::new();
        for (step, batch) in batches(&pair.trainers[0], 6).iter().enumerate() {
            [&there, &directly].into_iter().for_each(Device::restart_trace);
            let graphs = pair.queue(batch);
            assert_eq!(graphs, if step < WARM { 0 } else { 2 }, "{more:?}, step {step}");
            reservations.push(there.usage().reservations);
            let [with, without] = [&there, &directly].map(|d| d.trace().expect("a trace"));
            if step > WARM {
                // Only the two graph launches, the uploads and one download.
                let (counts, before) = (with.total(), without.total());
                assert!(with.kernels.is_empty(), "{:?}", with.kernels);
                assert_eq!((counts.copies, counts.allocations, counts.downloads), (0, 0, 1));
                assert!(counts.uploads <= 7, "{} uploads", counts.uploads);
                assert_eq!(counts.products, before.products);
                let direct = before.launches + before.products + before.copies + before.uploads;
                println!(
                    "{more:?}, step {step}: {} calls directly ({} launches, {} products, {} \
                     copies, {} uploads, {} downloads), {} with graphs (2 graphs of {} launches \
                     and {} products, {} uploads, {} downloads)",
                    direct + before.downloads,
                    before.launches,
                    before.products,
                    before.copies,
                    before.uploads,
                    before.downloads,
                    2 + counts.uploads + counts.downloads,
                    counts.launches,
                    counts.products,
                    counts.uploads,
                    counts.downloads,
                );
            }
        }
        assert_eq!(reservations[WARM - 1..], [reservations[WARM]; 5], "{more:?}");
        pair.compare();
    }
}

#[test]
fn a_run_that_was_saved_and_resumed_ends_in_the_same_state() {
    saved_and_resumed(&[]);
    saved_and_resumed(SEMFPN);
}

fn saved_and_resumed(more: &[&str]) {
    let dir = tempfile::tempdir().expect("folder");
    let mut first = trainer(dir.path(), true, more, false);
    for batch in batches(&first, 4) {
        first.queue(&batch).expect("queued");
    }
    first.flush().expect("flushed");
    // A checkpoint in between moves no buffer.
    first.save().expect("saved");
    let rest = batches(&first, 4);
    let mut resumed = trainer(dir.path(), true, more, true);
    let mut directly = trainer(dir.path(), false, more, true);
    let graphs = device(&first).counters().graphs;
    for trainer in [&mut first, &mut resumed, &mut directly] {
        for batch in &rest {
            trainer.queue(batch).expect("queued");
        }
        trainer.flush().expect("flushed");
    }
    assert_eq!(device(&first).counters().graphs, graphs + 8);
    assert_eq!(device(&resumed).counters().graphs, 4);
    let want = state(&directly);
    assert!(state(&first) == want && state(&resumed) == want);
}

/// Overwrites the class bias of the network in place.
fn spoil(trainer: &Trainer, bias: &[f32]) {
    let param = &trainer.model().params()["decode_head.cls_embed.bias"];
    param.update(|value| value.overwrite(bias)).expect("written");
}

#[test]
fn a_bad_loss_in_a_replay_is_reported_and_changes_nothing() {
    let mut pair = Pair::new(&[]);
    let all = batches(&pair.trainers[0], 8);
    for batch in &all[..4] {
        pair.queue(batch);
    }
    pair.compare();
    let name = "decode_head.cls_embed.bias";
    let good = &pair.trainers[0].model().params()[name];
    let good = good.master().detach().to_host().expect("bias");
    let good = good.data::<f32>().expect("f32").to_vec();
    // The costs of such logits are finite, but their cross-entropy is not.
    let mut bad = good.clone();
    bad[0] = 3e38;
    pair.trainers.iter().for_each(|trainer| spoil(trainer, &bad));
    let before = pair.trainers.each_ref().map(state);
    assert_eq!(pair.queue(&all[4]), 2, "the bias has not moved");
    let graphs = device(&pair.trainers[0]).counters().graphs;
    let errors = pair.trainers.each_mut().map(|t| t.queue(&all[5]).expect_err("infinite"));
    assert_eq!(device(&pair.trainers[0]).counters().graphs, graphs + 1, "no update follows");
    for (error, before) in errors.iter().zip(&before) {
        let TrainError::NotFinite { step, saved, samples, .. } = error else { panic!("{error}") };
        assert_eq!((*step, samples), (5, &all[4].names.join(", ")));
        assert!(fs::read(saved).expect("kept") == *before);
    }
    for (trainer, before) in pair.trainers.iter().zip(&before) {
        assert_eq!(trainer.step(), 4);
        assert!(state(trainer) == *before);
    }
    // Once the bias is repaired the run goes on, with the same graphs.
    pair.trainers.iter().for_each(|trainer| spoil(trainer, &good));
    for batch in &all[6..] {
        assert_eq!(pair.queue(batch), 2);
    }
    pair.compare();
}

/// The first image of a batch as a batch of its own.
fn one_of(batch: &Batch) -> Batch {
    let (image, map) = (batch.images.len() / batch.b, batch.labels.len() / batch.b);
    Batch {
        step: batch.step,
        b: 1,
        h: batch.h,
        w: batch.w,
        images: batch.images[..image].to_vec(),
        labels: batch.labels[..map].to_vec(),
        names: batch.names[..1].to_vec(),
    }
}

#[test]
fn batches_of_another_size_are_queued_directly() {
    let mut pair = Pair::new(&["run.precision=bf16"]);
    let all = batches(&pair.trainers[0], 8);
    let graphs: Vec<u64> = all
        .iter()
        .enumerate()
        .map(|(i, batch)| match i {
            0 | 4 | 5 => pair.queue(&one_of(batch)),
            _ => pair.queue(batch),
        })
        .collect();
    assert_eq!(graphs, [0, 0, 0, 2, 0, 0, 2, 2]);
    pair.compare();
}

#[test]
fn a_parameter_that_was_set_is_not_read_from_where_it_was() {
    let mut pair = Pair::new(&["run.precision=bf16"]);
    let all = batches(&pair.trainers[0], 7);
    for batch in &all[..4] {
        pair.queue(batch);
    }
    // One trained matrix, with a working copy, and one frozen.
    for trainable in [true, false] {
        for trainer in &pair.trainers {
            let mut matrices = trainer.model().params().values();
            let wanted = |p: &&Param| p.trainable() == trainable && p.master().shape().len() > 1;
            let param = matrices.find(wanted).expect("a matrix");
            let old = param.master();
            let other = Tensor::zeros_on(old.device(), old.dtype(), old.shape()).expect("zeros");
            param.set(&other).expect("set");
        }
    }
    let graphs: Vec<u64> = all[4..].iter().map(|batch| pair.queue(batch)).collect();
    assert_eq!(graphs, [0, 2, 2]);
    pair.compare();
}

/// Disturbance of the pool after every step.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    None,
    /// Frees all idle blocks.
    Trim,
    /// Takes all idle blocks of this size.
    Take(usize),
}

/// Disturbs the pool and collects the notes.
struct Watcher {
    device: Device,
    harm: Harm,
    taken: Mutex<Vec<Buffer<u8>>>,
    notes: Mutex<Vec<String>>,
}

impl Progress for Watcher {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn at(&self, _: u64, _: &str) {
        match self.harm {
            Harm::None => {}
            Harm::Trim => self.device.trim().expect("trimmed"),
            Harm::Take(bytes) => {
                let before = self.device.usage().reservations;
                while self.device.usage().reservations == before {
                    let block = self.device.alloc("taken", bytes).expect("taken");
                    self.taken.lock().expect("blocks").push(block);
                }
            }
        }
    }
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.notes.lock().expect("notes").push(text.to_owned());
    }
}

/// Settings of a run of seven steps with an evaluation after the fourth and the last one.
const RUN: [&str; 4] = [
    "train.steps=7",
    "train.log_every=2",
    "train.eval_every=4",
    "data.eval=[{name = 'fog', source = 'scenes', count = 1, first = 50, size = [32, 32]}]",
];

/// The state after a run, its notes and the number of replayed graphs.
fn run(graphs: bool, harm: Harm) -> (Vec<u8>, Vec<String>, u64) {
    let dir = tempfile::tempdir().expect("folder");
    let mut trainer = trainer(dir.path(), graphs, &RUN, false);
    let device = device(&trainer);
    let (taken, notes) = Default::default();
    let watcher = Watcher { device: device.clone(), harm, taken, notes };
    let done = trainer.run(&watcher, &Interrupt::default()).expect("run");
    assert!(done.report.is_some(), "the run was evaluated");
    let notes = watcher.notes.into_inner().expect("notes");
    (fs::read(done.checkpoint).expect("checkpoint"), notes, device.counters().graphs)
}

#[test]
fn an_evaluation_lets_go_of_graphs_and_a_failed_capture_goes_on_without() {
    let (want, notes, graphs) = run(false, Harm::None);
    assert_eq!((notes.len(), graphs), (0, 0));
    // Two direct steps, two in graphs, the evaluation, one direct step, two in graphs.
    let (found, notes, graphs) = run(true, Harm::None);
    assert!(found == want);
    assert_eq!((notes.len(), graphs), (0, 8), "{notes:?}");
    // The first capture fails, or the second one fails after the first has run. The second lacks
    // room for the candidate points: three times 32 in each of 19 slots of two images.
    for (harm, replayed) in [(Harm::Trim, 0), (Harm::Take(2 * 19 * 96 * 2 * 4), 1)] {
        let (found, notes, graphs) = run(true, harm);
        assert!(found == want);
        assert_eq!(graphs, replayed);
        let [note] = &notes[..] else { panic!("{notes:?}") };
        assert!(note.contains("run.graphs=false") && note.contains("no free block"), "{note}");
    }
}
