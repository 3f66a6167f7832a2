//! Checkpoints with one flipped bit or a missing end, in every region of the file. All readers must
//! reject them and name an intact one.

use std::fs;
use std::ops::Range;
use std::path::Path;

use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::Recipe;
use dressage_train::resume::{Resume, ResumeFrom};
use dressage_train::runlog::Silent;
use dressage_train::trainer::{Trainer, load};
use dressage_train::{TrainError, checkpoint, network};

use crate::common::recipe;
use crate::fails_with;

/// Flips in each region. In the length, every bit is flipped.
const FLIPS: usize = 76;

/// Number of lengths that the file is cut to.
const CUTS: usize = 76;

/// Pseudo-random numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % n
    }

    fn within(&mut self, range: &Range<usize>) -> usize {
        range.start + self.below(range.len())
    }
}

/// Byte ranges of the file by content.
fn regions(bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let find = |word: &[u8]| bytes.windows(word.len()).position(|part| part == word);
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("length")) as usize;
    let header = 8..8 + length;
    let text = &bytes[header.clone()];
    let names = find(b"\"decode_head.").expect("a tensor");
    let moments = find(b"\"optimiser.m.").expect("a moment");
    let end = 8 + text.iter().rposition(|b| *b != b' ').expect("text") + 1;
    // Names are sorted, and so are values; the moments come last.
    let first = header.end + (bytes.len() - header.end) / 3;
    let mut regions = vec![
        ("notes and sums", 8..names),
        ("names, types, shapes", names..moments),
        ("names of moments", moments..end),
        ("weights", header.end..first),
        ("moments", first..bytes.len()),
    ];
    if end < header.end {
        regions.push(("padding", end..header.end));
    }
    regions
}

/// Checks that every reader rejects the file at `path`, the newest of two checkpoints.
fn refused(recipe: &Recipe, path: &Path, what: &str) {
    let run = &recipe.run.dir;
    let check = |result: Result<(), TrainError>, option: &str| {
        let Err(error) = result else { panic!("{what}: accepted") };
        let error = error.to_string();
        for word in ["step-000002.safetensors", "of step 1", option] {
            assert!(error.contains(word), "{what}: {error}");
        }
        assert!(!error.contains("fetch"), "{what}: {error}");
    };
    // Readers: train --resume, eval and predict, weights export.
    check(Trainer::new(recipe.clone(), true).map(|_| ()), "--from 1");
    check(load(recipe, run, 2).map(|_| ()), "--checkpoint 1");
    check(checkpoint::open_of(run, 2, "--checkpoint").map(|_| ()), "--checkpoint 1");
    // Reader: model.checkpoint.
    let mut other = recipe.clone();
    other.model.checkpoint = path.to_path_buf();
    assert!(network::build(&other).is_err(), "{what}: accepted as model.checkpoint");
}

#[test]
fn any_flipped_bit_and_any_cut_is_refused_by_every_reader() {
    let dir = tempfile::tempdir().expect("folder");
    let settings = ["train.steps=2", "train.checkpoint_every=1"];
    let recipe = recipe(dir.path(), &settings);
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    let saved = trainer.run(&Silent, &Interrupt::default()).expect("trained").checkpoint;
    drop(trainer);
    let whole = fs::read(&saved).expect("checkpoint");
    let (mut numbers, mut counts) = (Numbers(7), Vec::new());
    let flip = |what: &str, bit: usize| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&saved, &bytes).expect("written");
        refused(&recipe, &saved, &format!("{what}, bit {bit}"));
    };
    (0..64).for_each(|bit| flip("length", bit));
    counts.push(("length", 64));
    for (what, range) in regions(&whole) {
        (0..FLIPS).for_each(|_| flip(what, 8 * numbers.within(&range) + numbers.below(8)));
        counts.push((what, FLIPS));
    }
    for i in 0..CUTS {
        let length = if i < 16 { i } else { numbers.below(whole.len()) };
        fs::write(&saved, &whole[..length]).expect("written");
        refused(&recipe, &saved, &format!("cut to {length} bytes"));
    }
    counts.push(("cuts", CUTS));
    let all: usize = counts.iter().map(|(_, n)| n).sum();
    println!("{all} damaged files, all refused by 4 readers: {counts:?}");
    assert!(all >= 520, "{all}");
    fs::write(&saved, &whole).expect("written");
    Trainer::new(recipe, true).expect("whole again");
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_by_the_option_that_is_named() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &["train.steps=4", "train.checkpoint_every=1"]);
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    let saved = trainer.run(&Silent, &Interrupt::default()).expect("trained").checkpoint;
    let whole = fs::read(&saved).expect("checkpoint");
    // The run keeps the last three checkpoints.
    let path = |step| checkpoint::path_of(&recipe.run.dir, step);
    for step in [3, 4] {
        fs::write(path(step), &whole[..whole.len() / 2]).expect("cut");
    }
    let error = fails_with(Trainer::new(recipe.clone(), true).map(|_| ()), &["--resume --from 2"]);
    assert!(error.contains("step-000004"), "{error}");
    let from = |step| Some(Resume { from: ResumeFrom::Step(step), changed: false });
    let result = Trainer::set_up(recipe.clone(), from(7).as_ref(), &Silent).map(|_| ());
    fails_with(result, &["no checkpoint of step 7", "2, 3, 4"]);
    let mut resumed = Trainer::set_up(recipe.clone(), from(2).as_ref(), &Silent).expect("resumed");
    assert_eq!(resumed.step(), 2);
    assert!(path(4).exists(), "nothing is moved before the run goes on");
    resumed.run(&Silent, &Interrupt::default()).expect("trained");
    assert!(fs::read(path(4)).expect("checkpoint") == whole, "the same end");
    let aside = path(4).with_extension("safetensors.set-aside");
    assert_eq!(fs::read(aside).expect("set aside"), whole[..whole.len() / 2]);
}
