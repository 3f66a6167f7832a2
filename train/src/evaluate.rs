//! Inference on whole images, and scores over data sets (spec mask2former §5, training-and-data §3, §6).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{Tensor, no_grad, ops};
use dressage_models::Segmenter;
use rayon::prelude::*;

use crate::augment::normalise::{self, MEAN};
use crate::augment::resize::bilinear;
use crate::data::Source;
use crate::metrics::{Confusion, SetReport};
use crate::recipe::{Eval, EvalMode, EvalSet, Recipe};
use crate::runlog::{Progress, Stage};
use crate::windows::{ScoreMap, Window, padded, slide, test_size, whole};
use crate::{Image, LabelMap, Result, TrainError, network};

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

/// The class of every pixel of `image`, at its own size.
///
/// # Errors
/// Windows that do not fit; whatever the network refuses.
pub fn predict(model: &Segmenter, image: &Image, how: Inference) -> Result<LabelMap> {
    predict_at(model, image, how, image.h, image.w)
}

/// As [`predict`], at a size of `h` x `w`: that of the label.
fn predict_at(
    model: &Segmenter,
    image: &Image,
    how: Inference,
    h: usize,
    w: usize,
) -> Result<LabelMap> {
    let (th, tw) = test_size(image.h, image.w, how.test_box[0], how.test_box[1]);
    let fitted = bilinear(image, th, tw);
    let scores = window_scores(model, &fitted, how)?;
    let k = model.head().config().classes;
    let scores = no_grad(|| ops::resize_maps(&scores, [h, w]))?;
    Ok(LabelMap { w, h, data: argmax(scores.data::<f32>()?, k) })
}

/// Class with the highest score per pixel, the first of equals; `scores` is `[k, n]`.
fn argmax(scores: &[f32], k: usize) -> Vec<u8> {
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
fn window_scores(model: &Segmenter, image: &Image, how: Inference) -> Result<Tensor> {
    let k = model.head().config().classes;
    let windows = match how.mode {
        EvalMode::Slide => slide(image.h, image.w, how.crop, how.stride)?,
        EvalMode::Whole => vec![whole(image.h, image.w)],
    };
    let patch = model.backbone().config().patch;
    let mut sum = ScoreMap::new(k, image.h, image.w);
    for group in windows.chunks(how.batch.max(1)) {
        // All windows of an image have one size.
        let (h, w) = (padded(group[0].h(), patch), padded(group[0].w(), patch));
        let batch = with_category(Category::Data, || window_batch(image, group, h, w))?;
        let scores = model.scores(&batch)?;
        let each = scores.data::<f32>()?.chunks_exact(k * h * w);
        for (window, scores) in group.iter().zip(each) {
            sum.add(*window, scores, h, w)?;
        }
    }
    Ok(Tensor::from_slice(&sum.finish()?, &[k, image.h, image.w])?)
}

/// Normalised windows `[b, 3, h, w]`, padded with the mean colour.
fn window_batch(image: &Image, windows: &[Window], h: usize, w: usize) -> Result<Tensor> {
    let mut batch = Tensor::full(&[windows.len(), 3, h, w], 0.0f32);
    let size = 3 * h * w;
    for (window, out) in windows.iter().zip(batch.data_mut::<f32>()?.chunks_exact_mut(size)) {
        for (c, plane) in out.chunks_exact_mut(h * w).enumerate() {
            for y in 0..window.h() {
                for x in 0..window.w() {
                    let value = image.pixel(window.x0 + x, window.y0 + y)[c];
                    plane[y * w + x] = normalise::value(value, c);
                }
            }
        }
    }
    debug_assert_eq!(MEAN.len(), 3);
    Ok(batch)
}

/// Scores of one set; `stop` ends it early with [`TrainError::Interrupted`].
///
/// # Errors
/// A sample that cannot be read; an interruption.
pub fn evaluate_set(
    model: &Segmenter,
    source: &dyn Source,
    set: &EvalSet,
    eval: &Eval,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<SetReport> {
    let how = Inference::of_set(eval, set);
    let mut counts = Confusion::new(model.head().config().classes)?;
    let stage = Stage::new(progress, &format!("evaluate {}", set.set.name), Some(source.len() as u64));
    let start = Instant::now();
    for i in 0..source.len() {
        if stop.load(Ordering::Relaxed) {
            return Err(TrainError::Interrupted);
        }
        let (image, label) = source.load(i)?;
        let found = predict_at(model, &image, how, label.h, label.w)?;
        counts.add(&label.data, &found.data)?;
        let rate = (i + 1) as f64 / start.elapsed().as_secs_f64();
        stage.at(i as u64 + 1, &format!("{rate:.2} images/s"));
    }
    Ok(SetReport::new(&set.set.name, set.test_box, source.len(), set.in_mean, &counts))
}

/// Scores of all evaluation sets of a recipe.
///
/// # Errors
/// As [`evaluate_set`].
pub fn evaluate(
    model: &Segmenter,
    recipe: &Recipe,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<crate::metrics::Report> {
    let mut sets = Vec::new();
    for set in &recipe.data.eval {
        let source = network::eval_source(recipe, &set.set)?;
        sets.push(evaluate_set(model, &*source, set, &recipe.eval, progress, stop)?);
    }
    Ok(crate::metrics::Report::new(recipe.head.classes.clone(), sets)?)
}
