//! Images and labels that are missing, damaged or do not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dressage_train::data::Batch;
use dressage_train::interrupt::Interrupt;
use dressage_train::network;
use dressage_train::recipe::Recipe;
use dressage_train::runlog::{Progress, Silent};
use dressage_train::scenes::{Domain, write_dataset};
use dressage_train::trainer::Trainer;
use dressage_train::{Result, checkpoint};
use image::{DynamicImage, GrayImage, RgbImage};

use crate::common::recipe;
use crate::fails_with;

/// A folder with `count` drawn scenes as files of 96x64, and a recipe that trains on them.
struct Files {
    dir: tempfile::TempDir,
    recipe: Recipe,
}

impl Files {
    fn new(count: usize) -> Files {
        Files::with(count, ".png", &[])
    }

    fn with(count: usize, suffix: &str, settings: &[&str]) -> Files {
        let dir = tempfile::tempdir().expect("folder");
        write_dataset(dir.path(), 5, Domain::Day, count, (96, 64)).expect("files");
        let set = format!(
            "data.train=[{{name = 'files', images = 'images', labels = 'labels', \
             image_suffix = '{suffix}'}}]"
        );
        let settings: Vec<&str> = settings.iter().copied().chain([set.as_str()]).collect();
        let recipe = recipe(dir.path(), &settings);
        Files { dir, recipe }
    }

    fn image(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("images/day/{i:05}.png"))
    }

    fn label(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("labels/day/{i:05}.png"))
    }

    /// The first batch of a run.
    fn batch(&self) -> Result<Batch> {
        Trainer::new(self.recipe.clone(), false)?.loader()?.next_batch()
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn cut(path: &Path, keep: f64) {
    let bytes = fs::read(path).expect("file");
    let n = (bytes.len() as f64 * keep) as usize;
    fs::write(path, &bytes[..n]).expect("written");
}

#[test]
fn intact_files_are_taken() {
    let files = Files::new(2);
    assert_eq!(files.batch().expect("batch").b, 2);
}

#[test]
fn folders_without_the_data_are_named() {
    let files = Files::new(2);
    fs::remove_file(files.label(1)).expect("removed");
    fails_with(files.batch(), &["1 of 2 images", &text(&files.image(1)), &text(&files.label(1))]);
    for i in 0..2 {
        fs::remove_file(files.image(i)).expect("removed");
    }
    fails_with(
        files.batch(),
        &["\".png\"", &text(&files.dir.path().join("images")), "image_suffix"],
    );
    fs::remove_dir_all(files.dir.path().join("images")).expect("removed");
    fails_with(files.batch(), &[&text(&files.dir.path().join("images")), "check that it exists"]);
}

#[test]
fn an_image_that_went_away_is_named() {
    let files = Files::new(1);
    let source = network::train_source(&files.recipe).expect("source");
    fs::remove_file(files.image(0)).expect("removed");
    fails_with(source.load(0), &["cannot read", &text(&files.image(0)), "check that it exists"]);
}

#[test]
fn damaged_pictures_are_named() {
    for keep in [0.0, 0.001, 0.3, 0.9] {
        let files = Files::new(1);
        cut(&files.image(0), keep);
        fails_with(files.batch(), &["cannot decode", &text(&files.image(0)), "cut short"]);
        let files = Files::new(1);
        cut(&files.label(0), keep);
        fails_with(files.batch(), &[&text(&files.label(0))]);
    }
    let files = Files::new(1);
    fs::write(files.image(0), "GIF89a and what follows").expect("written");
    let words = ["cannot decode", &text(&files.image(0)), "a GIF picture", "PNG and JPEG"];
    fails_with(files.batch(), &words);
}

#[test]
fn a_jpeg_cut_short_is_named() {
    let files = Files::with(1, ".jpg", &[]);
    let path = files.image(0).with_extension("jpg");
    let picture = image::open(files.image(0)).expect("picture");
    for keep in [1.0, 0.99, 0.5] {
        picture.to_rgb8().save(&path).expect("written");
        cut(&path, keep);
        if keep == 1.0 {
            files.batch().expect("a whole one is taken");
        } else {
            fails_with(files.batch(), &["cannot decode", &text(&path), "JPEG", "cut short"]);
        }
    }
}

#[test]
fn labels_that_do_not_fit_are_named() {
    let files = Files::new(1);
    GrayImage::new(96, 63).save(files.label(0)).expect("written");
    let (image, label) = (text(&files.image(0)), text(&files.label(0)));
    fails_with(files.batch(), &[&image, &label, "96x63", "96x64"]);
    let mut map = GrayImage::new(96, 64);
    map.put_pixel(70, 41, image::Luma([42]));
    map.save(files.label(0)).expect("written");
    fails_with(files.batch(), &[&label, "pixel (70, 41)", "value 42", "0 to 18"]);
    DynamicImage::from(RgbImage::new(96, 64)).save(files.label(0)).expect("written");
    fails_with(files.batch(), &[&label, "Rgb 8-bit", "one index per pixel"]);
}

/// Damages all images when training reaches a given step.
struct Damage<'a>(&'a Files, u64, Mutex<Vec<String>>);

impl Progress for Damage<'_> {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn at(&self, position: u64, _rate: &str) {
        if position == self.1 {
            (0..4).for_each(|i| cut(&self.0.image(i), 0.5));
        }
    }
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.2.lock().expect("unpoisoned").push(text.to_owned());
    }
}

#[test]
fn a_run_that_meets_a_damaged_image_loses_no_step() {
    let steps = ["train.steps=16"];
    let whole = Files::with(4, ".png", &steps);
    let run = |recipe: &Recipe, resume, watch: &dyn Progress| {
        Trainer::new(recipe.clone(), resume)?.run(watch, &Interrupt::default())
    };
    let straight = run(&whole.recipe, false, &Silent).expect("trained");
    let files = Files::with(4, ".png", &steps);
    let originals = [0, 1, 2, 3].map(|i| fs::read(files.image(i)).expect("image"));
    let damage = Damage(&files, 2, Mutex::default());
    fails_with(run(&files.recipe, false, &damage), &["cannot decode", "images/day/0000"]);
    // The loader was some steps ahead.
    let steps = checkpoint::list(&files.recipe.run.dir).expect("list");
    assert!(steps.len() == 1 && (2..16).contains(&steps[0]), "{steps:?}");
    let notes = damage.2.into_inner().expect("unpoisoned");
    let saved = format!("step {} is saved", steps[0]);
    assert!(notes.iter().any(|note| note.starts_with(&saved)), "{notes:?}");
    // The next try fails at once and changes nothing.
    let path = checkpoint::path_of(&files.recipe.run.dir, steps[0]);
    let before = fs::read(&path).expect("checkpoint");
    fails_with(run(&files.recipe, true, &Silent), &["cannot decode"]);
    assert!(fs::read(&path).expect("checkpoint") == before, "the checkpoint changed");
    for (i, bytes) in originals.iter().enumerate() {
        fs::write(files.image(i), bytes).expect("repaired");
    }
    let resumed = run(&files.recipe, true, &Silent).expect("continued");
    let [a, b] = [straight, resumed].map(|o| fs::read(o.checkpoint).expect("checkpoint"));
    assert!(a == b, "the repaired run differs from an undisturbed one");
}

#[test]
fn a_run_that_meets_one_at_its_first_step_leaves_nothing_to_resume() {
    let files = Files::new(2);
    (0..2).for_each(|i| cut(&files.image(i), 0.5));
    let mut trainer = Trainer::new(files.recipe.clone(), false).expect("trainer");
    fails_with(trainer.run(&Silent, &Interrupt::default()), &["cannot decode"]);
    assert!(checkpoint::list(&files.recipe.run.dir).expect("list").is_empty());
    Trainer::new(files.recipe.clone(), false).expect("a second try needs no other folder");
}

/// Checks `data.on_error=skip`. Pairs that are wrong at the start are left out, images that break
/// later are replaced, and the run goes on.
#[test]
fn a_run_that_may_skip_goes_on_and_counts() {
    let files = Files::with(4, ".png", &["train.steps=16", "data.on_error=skip"]);
    GrayImage::new(96, 63).save(files.label(3)).expect("written");
    struct Remove<'a>(&'a Files);
    impl Progress for Remove<'_> {
        fn begin(&self, _stage: &str, _total: Option<u64>) {}
        fn at(&self, position: u64, _rate: &str) {
            if position == 2 {
                cut(&self.0.image(1), 0.5);
            }
        }
        fn end(&self) {}
        fn note(&self, _text: &str) {}
    }
    let mut trainer = Trainer::new(files.recipe.clone(), false).expect("trainer");
    let outcome = trainer.run(&Remove(&files), &Interrupt::default()).expect("trained");
    assert_eq!((outcome.step, outcome.left_out.pairs, outcome.left_out.replaced), (16, 1, 1));
    // An error if all of them fail at once.
    (0..3).for_each(|i| cut(&files.image(i), 0.5));
    let mut trainer = Trainer::new(files.recipe.clone(), true).expect("trainer");
    fails_with(trainer.run(&Silent, &Interrupt::default()), &["4 of 4 pairs", "cannot decode"]);
}

/// A picture found by fuzzing: the JPEG decoder's AVX2 code panics on it. CPUs without AVX2 may
/// decode it.
#[test]
fn a_picture_that_makes_its_decoder_panic_is_refused_like_any_other() {
    let bytes = include_bytes!("../../fixtures/hostile/idct.jpg");
    match dressage_train::data::decode_image(Path::new("street.jpg"), bytes) {
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("street.jpg") && error.contains("malformed"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        Ok(_) => assert!(!has_avx2(), "decoded, though AVX2 code panics on it"),
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
