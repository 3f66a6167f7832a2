//! Memory requests that the system refuses in the middle of a run.

use std::fs;
use std::hint::black_box;

use dressage_kernels::cpu::allocate::zeroed_or_unwind;
use dressage_train::TrainError;
use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::Recipe;
use dressage_train::runlog::{Progress, Silent};
use dressage_train::trainer::Trainer;

use crate::common::recipe;
use crate::names;

/// Requests too much memory when the run reaches a given step.
struct AsksAt(u64);

impl Progress for AsksAt {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn at(&self, position: u64, _rate: &str) {
        if position == self.0 {
            // The compiler may remove a buffer that is never read.
            black_box(zeroed_or_unwind::<u8>(1 << 60));
        }
    }
    fn end(&self) {}
    fn note(&self, _text: &str) {}
}

fn run(recipe: &Recipe, resume: bool, progress: &dyn Progress) -> Result<Vec<u8>, TrainError> {
    let mut trainer = Trainer::new(recipe.clone(), resume).expect("trainer");
    let outcome = trainer.run(progress, &Interrupt::default())?;
    Ok(fs::read(outcome.checkpoint).expect("checkpoint"))
}

#[test]
fn a_refusal_between_two_updates_loses_nothing() {
    let (dir, straight) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
    let settings = ["train.steps=6"];
    let broken = recipe(dir.path(), &settings);
    let error = run(&broken, false, &AsksAt(4)).expect_err("refused");
    assert!(matches!(error, TrainError::OutOfMemory { bytes, .. } if bytes == 1 << 60), "{error}");
    let text = error.to_string();
    assert!(text.contains("1152921504606846976 bytes was refused"), "{text}");
    assert_eq!(names(&dir.path().join("run/checkpoints")), ["step-000004.safetensors"]);
    let resumed = run(&broken, true, &Silent).expect("resumed");
    let whole = run(&recipe(straight.path(), &settings), false, &Silent).expect("straight");
    assert!(resumed == whole, "the resumed run gave other bits");
}
