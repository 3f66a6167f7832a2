//! Inference on whole images, and scores over data sets (spec mask2former §5, training-and-data
//! §3, §6).

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dressage_engine::memory::{self, Category, with_category};
use dressage_engine::{DryRun, Tensor, isolated};
use dressage_kernels::cpu::{allocate, scratch};
use dressage_models::Segmenter;
use rayon::prelude::*;

use crate::augment::normalise::image_into;
use crate::augment::resize::Window as Part;
use crate::augment::resize::bilinear_window;
use crate::classes::Classes;
use crate::data::Source;
use crate::interrupt::Interrupt;
use crate::metrics::{Confusion, Report, SetReport};
use crate::plan::{in_dry_run, mib};
use crate::recipe::{Eval, EvalMode, EvalSet, OnError, Recipe};
use crate::runlog::{Progress, Stage};
use crate::wait::Waiting;
use crate::windows::{ScoreMap, Window, padded, slide, test_size, whole};
use crate::{Image, LabelMap, Result, TrainError, machine};

/// Settings for cutting and resizing an image for the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inference {
    /// Sliding windows or one window.
    pub mode: EvalMode,
    /// Side of a window in pixels.
    pub crop: usize,
    /// Step of the windows in pixels.
    pub stride: usize,
    /// Windows per forward pass.
    pub batch: usize,
    /// Width and height of the box that an image is fitted to; `[0, 0]` keeps its size.
    pub test_box: [usize; 2],
}

impl Inference {
    /// Settings for an evaluation set of a recipe.
    pub fn of_set(eval: &Eval, set: &EvalSet) -> Inference {
        Inference {
            mode: eval.mode,
            crop: set.crop,
            stride: set.stride,
            batch: eval.batch,
            test_box: set.test_box,
        }
    }

    /// Settings for images outside any set: those of the first evaluation set, if there is one.
    pub fn of_recipe(recipe: &Recipe) -> Inference {
        let Eval { mode, crop, stride, batch, .. } = recipe.eval;
        match recipe.data.eval.first() {
            Some(set) => Inference::of_set(&recipe.eval, set),
            None => Inference { mode, crop, stride, batch, test_box: [0, 0] },
        }
    }
}

/// Predicts the class of every pixel of `image`, at size `h` x `w`: its own or its label's.
///
/// Score memory covers the rows of one window, whatever the height of the image.
///
/// # Errors
/// Windows that do not fit; too little memory; errors of the network.
pub fn predict(
    model: &Segmenter,
    image: &Image,
    how: Inference,
    h: usize,
    w: usize,
) -> Result<LabelMap> {
    // On a thread of the pool, as a training step.
    let found = || rayon::scope(|_| isolated(|| predict_in_pool(model, image, how, h, w)));
    let labels = allocate::catch(found)??;
    // If the weights file changed meanwhile, the result is not valid.
    model.check_files()?;
    Ok(labels)
}

fn predict_in_pool(
    model: &Segmenter,
    image: &Image,
    how: Inference,
    h: usize,
    w: usize,
) -> Result<LabelMap> {
    let k = model.objective().classes();
    let (th, tw) = test_size(image.h, image.w, how.test_box[0], how.test_box[1]);
    let windows = match how.mode {
        EvalMode::Slide => slide(th, tw, how.crop, how.stride)?,
        EvalMode::Whole => vec![whole(th, tw)],
    };
    // All windows of an image have one size. The row above them is kept to interpolate from it.
    let rows = windows.first().map_or(0, |window| window.h() + 1);
    let patch = model.backbone().multiple();
    let group = Group::new(&windows, how.batch.max(1), patch);
    check_room(model, group, k * rows.min(th) * tw)?;
    let mut map = ScoreMap::of_rows(k, th, tw, rows);
    let mut classes = Classes::new(k, [th, tw], [h, w])?;
    window_scores(model, image, &windows, group, [th, tw], |window, scores| {
        if window.y0 > map.finished() {
            advance(&mut map, &mut classes, window.y0)?;
        }
        Ok(map.add(window, scores, group.h, group.w)?)
    })?;
    advance(&mut map, &mut classes, th)?;
    Ok(classes.label())
}

/// Computes the classes that the rows above `end` decide, and drops their scores. No later window
/// covers these rows.
fn advance(map: &mut ScoreMap, classes: &mut Classes, end: usize) -> Result<()> {
    map.finish_rows(end)?;
    classes.take(map)?;
    map.drop_rows(classes.needs());
    Ok(())
}

/// Windows of one forward pass.
#[derive(Clone, Copy)]
struct Group {
    n: usize,
    /// Height, padded to whole patches.
    h: usize,
    /// Width, padded to whole patches.
    w: usize,
}

impl Group {
    fn new(windows: &[Window], batch: usize, patch: usize) -> Group {
        let [h, w] = windows.first().map_or([0; 2], |window| [window.h(), window.w()]);
        Group { n: batch.min(windows.len()), h: padded(h, patch), w: padded(w, patch) }
    }
}

/// Number of scores of an image from which its memory is planned beforehand.
const LARGE: usize = 1 << 26;

/// Fails if a group of windows and `map` scores do not fit into host memory. A device reports this
/// itself.
fn check_room(model: &Segmenter, group: Group, map: usize) -> Result<()> {
    let k = model.objective().classes();
    if model.device().is_some() || map.max(k * group.n * group.h * group.w) < LARGE {
        return Ok(());
    }
    let mut dry_run = DryRun::new();
    let scored = in_dry_run(&mut dry_run, || {
        let batch = Tensor::empty::<f32>(&[group.n, 3, group.h, group.w]);
        model.scores(&batch)?;
        Ok(())
    });
    let too_large = |needed: String, available: String| {
        Err(TrainError::Inference {
            what: format!("{} windows of {}x{} pixels at once", group.n, group.w, group.h),
            needed,
            available,
            ways: "set eval.mode=slide, or lower eval.crop, eval.batch or the box that images \
                   are fitted to",
        })
    };
    match scored {
        Err(TrainError::AddressSpace { needed, available }) => {
            return too_large(format!("more than {needed}"), available);
        }
        other => other?,
    }
    let Some(room) = machine::room() else { return Ok(()) };
    let planned = dry_run.usage().system_bytes + dry_run.tally().scratch(machine::threads(0));
    let needed = planned + map * size_of::<f32>();
    // Buffers of earlier images are reused.
    let usage = memory::usage();
    let free = room.bytes + usage.system_bytes - usage.total() + scratch::allocated();
    if needed <= free {
        return Ok(());
    }
    too_large(mib(needed), format!("{} are available {}", mib(free), room.limit))
}

/// Class with the highest score per pixel, the first on ties; `scores` is `[k, n]`.
pub fn argmax(scores: &[f32], k: usize) -> Vec<u8> {
    let n = scores.len() / k.max(1);
    let best = |i: usize| {
        let mut top = 0;
        for c in 1..k {
            if scores[c * n + i] > scores[top * n + i] {
                top = c;
            }
        }
        top as u8
    };
    (0..n).into_par_iter().map(best).collect()
}

/// Passes the scores `[k, h, w]` of each window of an image at test size to `found`, in order.
///
/// A device computes the scores of a group of windows and copies them to the host at once, 20 MB
/// for 19 classes at 512 px. The host sums them in the same order, so the result is bitwise equal.
fn window_scores(
    model: &Segmenter,
    image: &Image,
    windows: &[Window],
    Group { n, h, w }: Group,
    [th, tw]: [usize; 2],
    mut found: impl FnMut(Window, &[f32]) -> Result<()>,
) -> Result<()> {
    let k = model.objective().classes();
    for group in windows.chunks(n.max(1)) {
        let mut batch =
            with_category(Category::Data, || Tensor::empty::<f32>(&[group.len(), 3, h, w]));
        for (window, out) in group.iter().zip(batch.data_mut::<f32>()?.chunks_exact_mut(3 * h * w))
        {
            let part = Part { x: window.x0, y: window.y0, w: window.w(), h: window.h() };
            image_into(&bilinear_window(image, th, tw, part), h, w, out);
        }
        let scores = model.scores(&model.image(batch)?)?.to_host()?;
        let each = scores.data::<f32>()?.chunks_exact(k * h * w);
        for (window, scores) in group.iter().zip(each) {
            found(*window, scores)?;
        }
    }
    Ok(())
}

/// Computes the scores of one set; `stop` ends it early with [`TrainError::Interrupted`]. A sample
/// that cannot be read is left out and noted if `on_error` says so.
///
/// # Errors
/// A sample that cannot be read, or all of them; an interruption.
pub(crate) fn evaluate_set(
    model: &Segmenter,
    source: &Arc<dyn Source>,
    set: &EvalSet,
    eval: &Eval,
    on_error: OnError,
    progress: &dyn Progress,
    stop: &Interrupt,
) -> Result<SetReport> {
    let how = Inference::of_set(eval, set);
    let mut counts = Confusion::new(model.objective().classes())?;
    let stage =
        Stage::new(progress, &format!("evaluate {}", set.set.name), Some(source.len() as u64));
    let (start, mut left_out) = (Instant::now(), 0);
    for i in 0..source.len() {
        if stop.requested() {
            return Err(TrainError::Interrupted);
        }
        let (from, name) = (Arc::clone(source), source.sample_name(i));
        let waiting = Waiting::new(progress, stop);
        let (image, label) = match waiting.read(Path::new(&name), move || from.load(i)) {
            Ok(sample) => sample,
            Err(TrainError::Interrupted) => return Err(TrainError::Interrupted),
            Err(error) if on_error == OnError::Skip && left_out + 1 < source.len() => {
                left_out += 1;
                progress.note(&format!("left out (data.on_error=skip): {error}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = predict(model, &image, how, label.h, label.w)?;
        counts.add(&label.data, &found.data)?;
        let rate = (i + 1) as f64 / start.elapsed().as_secs_f64();
        stage.at(i as u64 + 1, &format!("{rate:.2} images/s"));
    }
    Ok(SetReport::new(&set.set.name, set.test_box, source.len() - left_out, set.in_mean, &counts))
}

/// Computes the scores of all evaluation sets of a recipe, whose samples are in `sources`.
///
/// # Errors
/// As `evaluate_set`.
pub fn evaluate(
    model: &Segmenter,
    recipe: &Recipe,
    sources: &[Arc<dyn Source>],
    progress: &dyn Progress,
    stop: &Interrupt,
) -> Result<Report> {
    let mut sets = Vec::new();
    let on_error = recipe.data.on_error;
    for (set, source) in recipe.data.eval.iter().zip(sources) {
        sets.push(evaluate_set(model, source, set, &recipe.eval, on_error, progress, stop)?);
    }
    Ok(Report::new(recipe.head.classes.clone(), sets)?)
}
