//! Inference on whole images, and scores over data sets (spec mask2former §5, training-and-data
//! §3, §6).

use std::sync::Arc;
use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{Tensor, isolated, no_grad, ops};
use dressage_models::Segmenter;
use rayon::prelude::*;

use crate::augment::normalise::image_into;
use crate::augment::resize::Window as Part;
use crate::augment::resize::bilinear_window;
use crate::data::Source;
use crate::interrupt::Interrupt;
use crate::metrics::{Confusion, Report, SetReport};
use crate::recipe::{Eval, EvalMode, EvalSet, OnError, Recipe};
use crate::runlog::{Progress, Stage};
use crate::windows::{ScoreMap, padded, slide, test_size, whole};
use crate::{Image, LabelMap, Result, TrainError};

/// How an image is cut and resized for the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inference {
    /// Sliding windows or one window.
    pub mode: EvalMode,
    /// Side of a window in pixels.
    pub crop: usize,
    /// Step of the windows in pixels.
    pub stride: usize,
    /// Windows computed together.
    pub batch: usize,
    /// Width and height of the box an image is fitted to; `[0, 0]` keeps its size.
    pub test_box: [usize; 2],
}

impl Inference {
    /// For a set of a recipe.
    pub fn of_set(eval: &Eval, set: &EvalSet) -> Inference {
        Inference {
            mode: eval.mode,
            crop: set.crop,
            stride: set.stride,
            batch: eval.batch,
            test_box: set.test_box,
        }
    }

    /// For images outside any set.
    pub fn of_recipe(eval: &Eval) -> Inference {
        let Eval { mode, crop, stride, batch } = *eval;
        Inference { mode, crop, stride, batch, test_box: [0, 0] }
    }
}

/// The class of every pixel of `image`, at a size of `h` x `w`: its own, or that of its label.
///
/// # Errors
/// Windows that do not fit; whatever the network refuses.
pub fn predict(
    model: &Segmenter,
    image: &Image,
    how: Inference,
    h: usize,
    w: usize,
) -> Result<LabelMap> {
    // On a thread of the pool, as a training step.
    rayon::scope(|_| isolated(|| predict_in_pool(model, image, how, h, w)))
}

fn predict_in_pool(
    model: &Segmenter,
    image: &Image,
    how: Inference,
    h: usize,
    w: usize,
) -> Result<LabelMap> {
    let scores = window_scores(model, image, how)?;
    let k = model.head().config().classes;
    let scores = no_grad(|| ops::resize_maps(&scores, [h, w]))?;
    Ok(LabelMap { w, h, data: argmax(scores.data::<f32>()?, k) })
}

/// Class with the highest score per pixel, the first of equals; `scores` is `[k, n]`.
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

/// Scores `[k, h, w]` of an image at test size: the average over its windows.
///
/// A device computes the scores of a group of windows and hands them over in one copy, 20 MB for
/// 19 classes at 512 px; they are added up here, in the same order and to the same bits as those of
/// the host.
fn window_scores(model: &Segmenter, image: &Image, how: Inference) -> Result<Tensor> {
    let k = model.head().config().classes;
    let (th, tw) = test_size(image.h, image.w, how.test_box[0], how.test_box[1]);
    let windows = match how.mode {
        EvalMode::Slide => slide(th, tw, how.crop, how.stride)?,
        EvalMode::Whole => vec![whole(th, tw)],
    };
    let patch = model.backbone().config().patch;
    let mut sum = ScoreMap::new(k, th, tw);
    for group in windows.chunks(how.batch.max(1)) {
        // All windows of an image have one size.
        let (h, w) = (padded(group[0].h(), patch), padded(group[0].w(), patch));
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
            sum.add(*window, scores, h, w)?;
        }
    }
    Ok(Tensor::from_slice(&sum.finish()?, &[k, th, tw])?)
}

/// Scores of one set; `stop` ends it early with [`TrainError::Interrupted`]. A sample that cannot be
/// read is left out and noted if `on_error` says so.
///
/// # Errors
/// A sample that cannot be read, or all of them; an interruption.
pub fn evaluate_set(
    model: &Segmenter,
    source: &dyn Source,
    set: &EvalSet,
    eval: &Eval,
    on_error: OnError,
    progress: &dyn Progress,
    stop: &Interrupt,
) -> Result<SetReport> {
    let how = Inference::of_set(eval, set);
    let mut counts = Confusion::new(model.head().config().classes)?;
    let stage =
        Stage::new(progress, &format!("evaluate {}", set.set.name), Some(source.len() as u64));
    let (start, mut left_out) = (Instant::now(), 0);
    for i in 0..source.len() {
        if stop.requested() {
            return Err(TrainError::Interrupted);
        }
        let (image, label) = match source.load(i) {
            Ok(sample) => sample,
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

/// Scores of all evaluation sets of a recipe, whose samples are in `sources`.
///
/// # Errors
/// As [`evaluate_set`].
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
        sets.push(evaluate_set(model, &**source, set, &recipe.eval, on_error, progress, stop)?);
    }
    Ok(Report::new(recipe.head.classes.clone(), sets)?)
}
