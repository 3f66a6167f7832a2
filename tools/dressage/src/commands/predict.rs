//! `dressage predict`.

mod inputs;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use dressage_models::Segmenter;
use dressage_train::data::read_image;
use dressage_train::evaluate::{Inference, predict};
use dressage_train::palette::Palette;
use dressage_train::pictures::{
    self, result_paths, write_result_image, write_result_label, write_result_submission,
};
use dressage_train::recipe::{Command, EvalMode, Recipe, SaveSignal};
use dressage_train::runlog::{Progress as _, Stage};
use dressage_train::wait::Waiting;
use dressage_train::{Image, LabelMap, TrainError};

use super::{Overrides, Trained, start_threads};
use crate::console::{eprint, escaped, print};
use crate::failure::Failure;
use crate::signals::{Words, watched};
use inputs::{Inputs, collect};

/// Segment images with a trained network
///
/// For each image NAME two files are written: NAME_overlay.png, the classes over the picture, and
/// NAME_label.png with one class per pixel. Images in the subfolders of a given folder or pattern
/// keep their subfolder; images of one name get the folders that distinguish them. An image that
/// cannot be read, or whose result cannot be written, is reported and the others are processed; the
/// exit code is then 1. Hidden files, earlier results and links to files that are included already
/// are skipped. Scale and windows are those of the first evaluation set, and are printed; --box and
/// --set change them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  dressage predict runs/demo street.png
  dressage predict runs/demo photos --out pictures --alpha 0.7
  dressage predict runs/demo 'photos/*.jpg' --encoding cityscapes-ids --set eval.mode=whole
  dressage predict gtav-dinov2-l-rein photos --set model.weights=dinov2_vitl14_pretrain.pth \\
      --set model.checkpoint=rein_dinov2_gtav.pth")]
pub struct Args {
    /// Folder of the run, or a recipe (a file, or a name that train --list shows) together with
    /// --set model.checkpoint=FILE
    #[arg(value_name = "RUN or RECIPE")]
    trained: String,

    /// Images (PNG, JPEG), folders or patterns such as 'photos/*.jpg'
    #[arg(required = true)]
    input: Vec<PathBuf>,

    /// Folder for the results, by default `predictions` in the run folder, for a recipe here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Step of the run's checkpoint to use, by default the newest
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,

    /// Opacity of the classes in overlays, from 0 to 1
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    alpha: f32,

    /// Encoding of the label files
    #[arg(long, value_enum, default_value_t = Encoding::Palette)]
    encoding: Encoding,

    /// Fit images into a box of this many pixels for the network, such as 1024x512; by default the
    /// box of the first evaluation set
    #[arg(long = "box", value_name = "WxH", value_parser = test_box)]
    test_box: Option<[usize; 2]>,

    #[command(flatten)]
    overrides: Overrides,
}

/// Encodings of label files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encoding {
    /// Number of the class, shown in its colour by any viewer
    Palette,
    /// Number of the class in plain grey: the form for ACDC submissions
    TrainIds,
    /// Ids of Cityscapes (7 road, 33 bicycle) in plain grey: the form for its test server
    CityscapesIds,
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("it must be a number from 0 to 1".into()),
    }
}

fn test_box(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some([w.parse().ok()?, h.parse().ok()?]));
    sides.filter(|s| s.iter().all(|n| *n > 0)).ok_or_else(|| "it must look like 1024x512".into())
}

impl Args {
    /// Finds the trained network and its recipe with all settings.
    pub fn trained(&self) -> Result<(Trained, Recipe), Failure> {
        let command = |run| Command::Predict { run };
        Trained::find(&self.trained, self.checkpoint, &self.overrides.all(&[]), command)
    }
}

/// Predicts.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (mut trained, recipe) = args.trained()?;
    start_threads(&recipe.run)?;
    if args.encoding == Encoding::CityscapesIds && !is_cityscapes(&recipe) {
        let what = "--encoding cityscapes-ids needs the 19 classes of Cityscapes, this run has \
                    others; use --encoding train-ids for the numbers of its own classes";
        return Err(Failure::Message(what.into()));
    }
    let folder = trained.folder().unwrap_or(Path::new(""));
    let out = args.out.clone().unwrap_or_else(|| folder.join("predictions"));
    if out.is_file() {
        let what = format!("--out {} is a file, not a folder; name a folder", out.display());
        return Err(Failure::Message(what));
    }
    let inputs = collect(&args.input, &out)?;
    let Inputs { files, mut failed, notes } = inputs;
    let total = files.len() + failed.len();
    // A single failure of a single image is the error that the program ends with.
    notes.iter().chain(failed.iter().filter(|_| total > 1)).for_each(|text| eprint(text));
    if files.is_empty() {
        return outcome(&failed, total, &out);
    }
    let words = Words { first: "stopping after this image", lost: "this image is not written" };
    let (watch, stop) = watched(words, SaveSignal::None)?;
    let model = trained.load(&recipe, &watch)?;
    let how = scale(&recipe, args.test_box);
    watch.note(&format!("predict: {}", described(&recipe, &how)));
    let stage = Stage::new(&*watch, "predict", Some(files.len() as u64));
    let start = Instant::now();
    // Inputs that failed before the first image are not counted by `i`.
    let reached = |i: usize, failed: &[String]| {
        let done = total - files.len() + i - failed.len();
        format!("{done} of {total} images are done, in {}", out.display())
    };
    for (i, input) in files.iter().enumerate() {
        let (from, waiting) = (input.file.clone(), Waiting::new(&*watch, &stop));
        let image = waiting.read(&input.file, move || read_image(&from));
        if stop.requested() {
            drop(stage);
            return Err(Failure::Interrupted(reached(i, &failed)));
        }
        let segmented = image
            .map_err(Failure::from)
            .and_then(|image| checkpoint(how, &model, &input.file, image));
        let done = segmented
            .and_then(|(image, label)| Ok(write(args, &recipe, &image, &label, &input.stem)?));
        if let Err(error) = done {
            if ends_all(&error, &out) {
                drop(stage);
                return Err(Failure::Message(format!("{error}; {}", reached(i, &failed))));
            }
            let text = error.to_string();
            if total > 1 {
                watch.note(&text);
            }
            failed.push(text);
        }
        let rate = (i + 1) as f64 / start.elapsed().as_secs_f64();
        stage.at(i as u64 + 1, &format!("{rate:.2} images/s"));
    }
    drop(stage);
    outcome(&failed, total, &out)
}

/// Prints how many of `total` images are done; returns an error if some `failed`.
fn outcome(failed: &[String], total: usize, out: &Path) -> Result<(), Failure> {
    let done = total - failed.len();
    if done > 0 {
        print(&escaped(&format!("{done} images done, in {}", out.display())));
    }
    match failed {
        [] => Ok(()),
        [only] if total == 1 => Err(Failure::Message(only.clone())),
        [first, ..] => {
            let n = failed.len();
            Err(Failure::Message(format!("{n} of {total} images are not done, the first: {first}")))
        }
    }
}

/// Returns scale and windows for the images, with the box of the command line if there is one.
fn scale(recipe: &Recipe, test_box: Option<[usize; 2]>) -> Inference {
    let how = Inference::of_recipe(recipe);
    Inference { test_box: test_box.unwrap_or(how.test_box), ..how }
}

/// Describes scale and windows in one line, with the evaluation set that they come from.
fn described(recipe: &Recipe, how: &Inference) -> String {
    let scale = match how.test_box {
        [0, 0] => "images at their size".to_string(),
        [w, h] => format!("images fitted into {w}x{h}"),
    };
    let windows = match how.mode {
        EvalMode::Whole => "as a whole".to_string(),
        EvalMode::Slide => format!("in windows of {} every {} pixels", how.crop, how.stride),
    };
    let Some(first) = recipe.data.eval.first() else { return format!("{scale}, {windows}") };
    let of = |set| Inference::of_set(&recipe.eval, set);
    let as_set = match *how == of(first) {
        true => format!(", as evaluation set {}", first.set.name),
        false => String::new(),
    };
    let others = recipe.data.eval.iter().filter(|set| of(set) != of(first));
    let others: Vec<&str> = others.map(|set| set.set.name.as_str()).collect();
    let differ = match others.as_slice() {
        [] => String::new(),
        names => format!("; {} differ (--box, data.eval.0.crop)", names.join(", ")),
    };
    format!("{scale}, {windows}{as_set}{differ}")
}

fn is_cityscapes(recipe: &Recipe) -> bool {
    recipe.head.classes == Palette::cityscapes().names
}

/// Predicts the class of each pixel of `image`, which was read from `file`.
fn checkpoint(
    how: Inference,
    model: &Segmenter,
    file: &Path,
    image: Image,
) -> Result<(Image, LabelMap), Failure> {
    let label = predict(model, &image, how, image.h, image.w)
        .map_err(|e| Failure::Message(format!("{}: {e}", file.display())))?;
    Ok((image, label))
}

/// Whether an error affects all further images too: nothing more can be written to `out`.
fn ends_all(error: &Failure, out: &Path) -> bool {
    let (path, source) = match error {
        Failure::Train(TrainError::Write { path, source }) => (path.as_path(), source),
        Failure::Train(TrainError::File(error)) => (error.path.as_path(), &error.source),
        _ => return false,
    };
    let of_disk = source.raw_os_error() == Some(libc::EIO);
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem | ErrorKind::QuotaExceeded => true,
        // No permission to write into the folder of all results, or to create it.
        ErrorKind::PermissionDenied => path.parent() == Some(out) || out.starts_with(path),
        _ => of_disk,
    }
}

/// Writes the results whose names begin with `stem`.
fn write(
    args: &Args,
    recipe: &Recipe,
    image: &Image,
    label: &LabelMap,
    stem: &Path,
) -> Result<(), TrainError> {
    if let Some(dir) = stem.parent() {
        let fail = |source| TrainError::Write { path: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    let palette = Palette::for_names(&recipe.head.classes);
    let over = pictures::overlay(image, label, &palette, args.alpha);
    let [overlay, classes] = result_paths(stem);
    write_result_image(&overlay, &over)?;
    write_encoded(&classes, label, &palette, args.encoding)
}

fn write_encoded(
    path: &Path,
    label: &LabelMap,
    palette: &Palette,
    encoding: Encoding,
) -> Result<(), TrainError> {
    match encoding {
        Encoding::Palette => write_result_label(path, label, palette),
        Encoding::TrainIds => write_result_submission(path, label, pictures::Encoding::TrainIds),
        Encoding::CityscapesIds => {
            write_result_submission(path, label, pictures::Encoding::CityscapesIds)
        }
    }
}
