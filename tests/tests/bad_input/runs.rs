//! Checkpoints of other networks, full disks, losses that are not finite, folders in use.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use dressage_engine::{DType, Tensor};
use dressage_models::weights::{StateDict, Stored, write_safetensors};
use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::Recipe;
use dressage_train::resume::Resume;
use dressage_train::runlog::Silent;
use dressage_train::trainer::{Trainer, load};
use dressage_train::{checkpoint, files};

use crate::common::recipe;
use crate::weights::{backbone, write};
use crate::{fails_with, names};

/// Trains `steps` steps and saves a checkpoint.
fn started(recipe: &Recipe, steps: usize) -> (Trainer, PathBuf) {
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    let mut loader = trainer.loader().expect("loader");
    for _ in 0..steps {
        trainer.step_with(&mut loader).expect("step");
    }
    let saved = trainer.save().expect("saved");
    (trainer, saved)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("file")
}

/// Checks that a run with `before` cannot be resumed with `after` and keeps its checkpoint.
fn no_resume(before: &[&str], after: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().expect("folder");
    let (_, saved) = started(&recipe(dir.path(), before), 1);
    let bytes = read(&saved);
    // Otherwise the list of changes would be the error.
    let changed = Resume { changed: true, ..Resume::default() };
    let result = Trainer::set_up(recipe(dir.path(), after), Some(&changed), &Silent).map(|_| ());
    let error = fails_with(result, words);
    assert!(error.contains("step-000001.safetensors"), "{error:?} does not name the checkpoint");
    assert!(read(&saved) == bytes, "the checkpoint changed");
    Trainer::new(recipe(dir.path(), before), true).expect("its own recipe resumes it");
}

#[test]
fn checkpoints_of_another_network_are_refused() {
    let freeze = "model.method=freeze";
    no_resume(&[], &[freeze], &["method `rein`", "`freeze`"]);
    let dir = tempfile::tempdir().expect("folder");
    started(&recipe(dir.path(), &[]), 1);
    let result = Trainer::new(recipe(dir.path(), &["train.seed=8"]), true).map(|_| ());
    fails_with(result, &["train.seed (before 42, now 8)", "--resume-changed"]);
    let wider = [freeze, "head.width=64"];
    no_resume(&[freeze], &wider, &["decode_head.", "is [20, 32], the network has [20, 64]"]);
    let deeper = [freeze, "head.decoder_layers=3"];
    no_resume(&[freeze], &deeper, &["decode_head.transformer_decoder.layers.2", "is missing"]);
    no_resume(&deeper, &[freeze], &["decode_head.transformer_decoder.layers.2", "left over"]);
    let tokens = ["head.queries=24"];
    no_resume(&[], &tokens, &["backbone.reins.", "the network has [4, 24"]);
}

#[test]
fn a_recipe_that_was_changed_in_its_folder_is_noticed() {
    let dir = tempfile::tempdir().expect("folder");
    started(&recipe(dir.path(), &[]), 1);
    let folder = dir.path().join("run");
    for (change, key, reads) in [
        ("train.lr=0.5", "train.lr (before", true),
        ("train.steps=31", "train.steps (before", true),
        ("model.heads=4", "model.heads (before", false),
        ("rein.softmax=false", "rein.softmax (before", false),
    ] {
        let other = recipe(dir.path(), &[change]);
        fs::write(folder.join("recipe.toml"), other.to_toml().expect("TOML")).expect("written");
        fails_with(Trainer::new(other.clone(), true).map(|_| ()), &[key, "--resume-changed"]);
        let read = load(&other, &folder, 1).map(|_| ());
        match reads {
            true => read.expect("what is learnt is applied all the same"),
            false => drop(fails_with(read, &["step-000001", key, "recipe.toml"])),
        }
    }
}

#[test]
fn a_checkpoint_knows_the_backbone_it_was_trained_on() {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = backbone(dir.path());
    let weights = format!("model.weights={}", write(dir.path(), &tensors).display());
    let recipe = recipe(dir.path(), &[&weights]);
    let (trainer, saved) = started(&recipe, 1);
    let fingerprint = trainer.model().backbone_fingerprint();
    drop(trainer);
    let bytes = read(&saved);
    let changed = tensors.iter_mut().find(|(name, _)| name == "blocks.3.mlp.fc1.bias");
    let mut values = changed.as_ref().expect("bias").1.data::<f32>().expect("f32").to_vec();
    values[5] += 1e-6;
    changed.expect("bias").1 = Tensor::from_slice(&values, &[values.len()]).expect("bias");
    write(dir.path(), &tensors);
    let result = Trainer::new(recipe, true).map(|_| ());
    fails_with(result, &["step-000001", "fingerprint", &fingerprint, "model.weights"]);
    assert!(read(&saved) == bytes, "the checkpoint changed");
}

#[test]
fn damaged_checkpoints_are_named() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &["model.method=freeze"]);
    let (trainer, saved) = started(&recipe, 1);
    let bytes = read(&saved);
    let resume = || Trainer::new(recipe.clone(), true).map(|_| ());
    fs::write(&saved, &bytes[..bytes.len() - 100]).expect("written");
    fails_with(resume(), &["step-000001.safetensors", "truncated"]);
    let tensors = backbone(dir.path());
    fs::rename(write(dir.path(), &tensors), &saved).expect("moved");
    fails_with(resume(), &["step-000001.safetensors", "weights file, not a checkpoint"]);
    fs::write(&saved, &bytes).expect("written");
    resume().expect("whole again");
    drop(trainer);
}

#[test]
fn folders_in_use_and_folders_without_a_run() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[]);
    let folder = recipe.run.dir.display().to_string();
    let result = Trainer::new(recipe.clone(), true).map(|_| ());
    fails_with(result, &[&folder, "no checkpoint to resume from"]);
    assert!(!recipe.run.dir.exists(), "asking leaves no folder");
    let (trainer, saved) = started(&recipe, 1);
    drop(trainer);
    let bytes = read(&saved);
    let result = Trainer::new(recipe.clone(), false).map(|_| ());
    fails_with(result, &[&folder, "--resume", "another run.dir"]);
    assert!(read(&saved) == bytes, "the checkpoint changed");
    let result = load(&recipe, dir.path(), 7).map(|_| ());
    fails_with(result, &[dir.path().to_str().expect("path"), "step-000007"]);
}

#[test]
fn a_full_disk_costs_nothing_but_the_new_checkpoint() {
    let dir = tempfile::tempdir().expect("folder");
    let (trainer, saved) = started(&recipe(dir.path(), &[]), 1);
    let folder = saved.parent().expect("folder");
    let bytes = read(&saved);
    let result = files::write(&saved, |out| {
        // More than the buffer's size, so that a part is written to the disk.
        out.write_all(&vec![1; 3 << 20])?;
        Err(ErrorKind::StorageFull.into())
    });
    fails_with(result, &["step-000001.safetensors", "free some space", "untouched"]);
    assert!(read(&saved) == bytes, "the old checkpoint changed");
    assert_eq!(names(folder), ["step-000001.safetensors"]);
    drop(trainer);
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_without_space_is_reported_and_the_run_can_go_on() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &["model.method=freeze"]);
    let (mut trainer, saved) = started(&recipe, 1);
    let folder = saved.parent().expect("folder").to_path_buf();
    let bytes = read(&saved);
    // The partial files link to `/dev/full`, which is always full.
    let full = |step: u64| {
        let path = checkpoint::path_of(&recipe.run.dir, step);
        let partial = PathBuf::from(format!("{}.partial", path.display()));
        std::os::unix::fs::symlink("/dev/full", partial).expect("link");
    };
    full(1);
    fails_with(trainer.save(), &["step-000001.safetensors", "No space left", "free some space"]);
    let mut loader = trainer.loader().expect("loader");
    trainer.step_with(&mut loader).expect("step");
    full(2);
    fails_with(trainer.save(), &["step-000002.safetensors", "No space left"]);
    assert!(read(&saved) == bytes, "the old checkpoint changed");
    assert_eq!(names(&folder), ["step-000001.safetensors"]);
    let saved = trainer.save().expect("there is space again");
    assert_eq!(names(&folder), ["step-000001.safetensors", "step-000002.safetensors"]);
    assert!(read(&saved) != bytes);
}

/// Checks a failed step: the state in memory and the kept file are those before it. Then the run
/// goes on.
fn nothing_was_updated(recipe: &Recipe, trainer: &Trainer, saved: &Path, before: &[u8]) {
    let before_nan = recipe.run.dir.join("checkpoints/before-nan.safetensors");
    assert!(read(&before_nan) == before, "the kept state is not the one before the step");
    fs::remove_file(saved).expect("removed");
    assert_eq!(trainer.save().expect("saved"), saved);
    assert!(read(saved) == before, "memory is not as before the step");
    // The kept file is a normal checkpoint.
    fs::rename(&before_nan, saved).expect("renamed");
    let resumed = Trainer::new(recipe.clone(), true).expect("resumed");
    assert_eq!(resumed.step(), trainer.step());
}

#[test]
fn an_image_that_is_no_number_is_named_and_nothing_is_updated() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[]);
    let (mut trainer, saved) = started(&recipe, 2);
    let before = read(&saved);
    let good = trainer.loader().expect("loader").next_batch().expect("batch");
    let mut bad = good.clone();
    let n = bad.images.len();
    bad.images[n / 2 + 77] = f32::NAN;
    let names: Vec<&str> = good.names.iter().map(String::as_str).collect();
    let words = ["step 3", "prediction 0", "image 1 of the batch", "NaN", "before-nan", "train.lr"];
    fails_with(trainer.step_on(&bad), &[words.as_slice(), &names].concat());
    nothing_was_updated(&recipe, &trainer, &saved, &before);
    let mut other = Trainer::new(recipe, true).expect("resumed");
    let [a, b] = [&mut trainer, &mut other].map(|t| t.step_on(&good).expect("step").loss);
    assert!(a.is_finite() && a == b, "{a} after the failed step, {b} from the kept state");
}

/// Fills a parameter of a run with a value.
fn spoil(trainer: &Trainer, name: &str, value: f32) {
    let names: Vec<_> = trainer.model().params().keys().cloned().collect();
    let param = trainer.model().params().get(name).unwrap_or_else(|| panic!("{names:?}"));
    let fill = |t: &mut Tensor| {
        t.data_mut::<f32>()?.fill(value);
        Ok(())
    };
    param.update(fill).expect("spoilt");
}

#[test]
fn a_state_that_is_no_number_is_neither_saved_nor_in_the_way_of_good_ones() {
    for (name, value) in [
        ("decode_head.cls_embed.bias", f32::NAN),
        ("decode_head.mask_embed.4.weight", f32::INFINITY),
        // It only reaches predictions after the last decoder layer.
        ("decode_head.transformer_decoder.layers.1.ffn.layers.1.bias", f32::NAN),
    ] {
        let dir = tempfile::tempdir().expect("folder");
        let recipe = recipe(dir.path(), &["model.method=freeze", "train.keep=1"]);
        let (mut trainer, saved) = started(&recipe, 1);
        let before = read(&saved);
        spoil(&trainer, name, value);
        let words =
            ["after step 1", name, &value.to_string(), "not saved", "of step 1", "--resume"];
        fails_with(trainer.save(), &words);
        let batch = trainer.loader().expect("loader").next_batch().expect("batch");
        fails_with(trainer.step_on(&batch), &words);
        fails_with(trainer.run(&Silent, &Interrupt::default()), &words);
        let folder = saved.parent().expect("folder");
        assert_eq!(names(folder), ["step-000001.safetensors"]);
        assert!(read(&saved) == before, "the good checkpoint changed");
    }
}

/// Learning rates at which the first update gives values that are not finite.
const FAR: [&str; 3] = ["train.lr=1e300", "train.lr_min=1e300", "train.steps=3"];

#[test]
fn an_update_that_breaks_the_weights_ends_the_run_and_saves_nothing() {
    for more in [&["train.checkpoint_every=1", "train.keep=1"][..], &["train.steps=1"], &[]] {
        let dir = tempfile::tempdir().expect("folder");
        let recipe = recipe(dir.path(), &[&FAR[..], more].concat());
        let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
        let result = trainer.run(&Silent, &Interrupt::default());
        fails_with(
            result,
            &["after step 1 ", "holds", "not saved", "start again with a lower train.lr"],
        );
        assert!(names(&recipe.run.dir.join("checkpoints")).is_empty(), "{more:?}");
        Trainer::new(recipe, false).expect("a second try needs no other folder");
    }
}

/// Writes a checkpoint's tensors, changed by `change`, with or without checksums; returns the
/// bytes.
fn rewritten(saved: &Path, summed: bool, change: impl Fn(&str, &mut [f32])) -> Vec<u8> {
    let dict = StateDict::open(saved).expect("checkpoint");
    let notes = [("dressage", dict.metadata()["dressage"].clone())];
    let tensor = |(name, stored): (&String, &Stored)| {
        let values = stored.to_float(DType::F32).expect("read").expect("f32");
        let mut values = values.data::<f32>().expect("f32").to_vec();
        change(name, &mut values);
        (name.clone(), Tensor::from_slice(&values, stored.shape()).expect("tensor"))
    };
    let tensors: Vec<_> = dict.iter().map(tensor).collect();
    let mut bytes = Vec::new();
    if summed {
        write_safetensors(&tensors, &notes, &mut bytes).expect("written");
    } else {
        let stored: Vec<(String, Stored)> =
            tensors.into_iter().map(|(name, t)| (name, t.into())).collect();
        let all = stored.iter().map(|(name, t)| (name.as_str(), t, t.kind())).collect();
        dressage_models::weights::write(all, &notes, &mut bytes).expect("written");
    }
    bytes
}

#[test]
fn checkpoints_from_before_there_were_checksums_resume() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &["model.method=freeze"]);
    let (trainer, saved) = started(&recipe, 1);
    drop(trainer);
    let whole = read(&saved);
    let old = rewritten(&saved, false, |_, _| {});
    assert!(old.len() < whole.len(), "they hold less");
    fs::write(&saved, old).expect("written");
    let resumed = Trainer::new(recipe, true).expect("resumed");
    resumed.save().expect("saved");
    assert!(read(&saved) == whole, "the same state gives the same file");
}

#[test]
fn stored_values_that_are_no_numbers_are_named() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &["model.method=freeze"]);
    let (trainer, saved) = started(&recipe, 1);
    drop(trainer);
    let bias = "decode_head.cls_embed.bias";
    for (name, value) in [
        (bias.to_string(), f32::NEG_INFINITY),
        (format!("optimiser.m.{bias}"), f32::NAN),
        (format!("optimiser.v.{bias}"), -1e-12),
    ] {
        for summed in [true, false] {
            let good = read(&saved);
            let bad = rewritten(&saved, summed, |found, values| {
                if found == name {
                    values[3] = value;
                }
            });
            fs::write(&saved, bad).expect("written");
            let words = ["step-000001", &name, &value.to_string(), "element 3"];
            fails_with(Trainer::new(recipe.clone(), true).map(|_| ()), &words);
            fails_with(load(&recipe, &recipe.run.dir, 1).map(|_| ()), &words);
            fails_with(checkpoint::open(&saved).map(|_| ()), &words);
            fs::write(&saved, good).expect("written");
        }
    }
}
