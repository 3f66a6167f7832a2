//! Memory of a training step: nothing new from the system after the first few, and nothing for
//! frozen parts.

mod common;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use common::recipe;
use dressage_engine::memory::{self, CATEGORIES, Category, usage, usage_on};
use dressage_engine::{DType, Gradients, Param, Tensor, backward};
use dressage_models::backbone::Vit;
use dressage_models::objective::Targets;
use dressage_models::params::Scope;
use dressage_models::{Generator, Method, Segmenter};
use dressage_train::data::Batch;
use dressage_train::network;
use dressage_train::recipe::Recipe;
use dressage_train::trainer::Trainer;

/// The account belongs to the process, so only one test at a time may use memory.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    memory::trim();
    memory::reset_peak();
    guard
}

fn live_bytes(category: Category) -> usize {
    let at = CATEGORIES.iter().position(|c| *c == category).expect("category");
    usage().bytes[at]
}

/// Classes of each image.
fn classes(batch: &Batch) -> Vec<usize> {
    let of = |map: &[u8]| map.iter().filter(|v| **v != 255).collect::<BTreeSet<_>>().len();
    batch.labels.chunks_exact(batch.h * batch.w).map(of).collect()
}

/// Checks that a step at each recompute level takes exactly the planned bytes, after a few steps.
fn as_planned(settings: &[&str]) {
    let _alone = alone();
    for level in ["none", "cheap", "block"] {
        memory::trim();
        let dir = tempfile::tempdir().expect("folder");
        let level = format!("train.recompute={level}");
        let mut all = vec![level.as_str(), "augment.ratios=[]", "train.steps=100"];
        all.extend(settings);
        let (before, start) = (usage().system_bytes, usage().total());
        memory::reset_peak();
        let mut trainer = Trainer::new(recipe(dir.path(), &all), false).expect("trainer");
        let planned = trainer.plan().expect("plan").chosen().expect("a level").needs;
        // Every class in every image, as the plan assumes.
        let (b, s) = (2, 64);
        let labels = (0..b * s * s).map(|i| (i % 19) as u8).collect();
        let (images, names) = (vec![0.5; b * 3 * s * s], vec!["drawn".into(); b]);
        let batch = Batch { step: 0, b, h: s, w: s, images, labels, names };
        for _ in 0..5 {
            trainer.step_on(&batch).expect("step");
        }
        let found = usage();
        let what = format!("{settings:?}, {level}");
        assert_eq!(found.peak - start, planned.tensors(), "{what}");
        assert_eq!(found.system_bytes - before - (found.peak - start), planned.pool, "{what}");
        assert_eq!(found.at_peak.iter().sum::<usize>(), found.peak, "{what}");
        assert_eq!(found.at_peak[1], planned.optimiser, "{what}");
        assert_eq!(found.at_peak[3], planned.activations, "{what}");
    }
}

#[test]
fn rein_takes_what_was_planned() {
    as_planned(&["model.method=rein"]);
    as_planned(&["model.method=rein", "model.precision=bf16"]);
    // More classes than queries, masks narrower than features.
    as_planned(&["model.method=rein", "head.queries=8", "head.mask_width=24"]);
}

#[test]
fn options_of_the_update_take_what_was_planned() {
    as_planned(&[
        "train.batch=1",
        "train.accumulate=2",
        "train.clip_norm=0.1",
        "train.ema.rate=0.1",
    ]);
}

#[test]
fn a_trained_backbone_takes_what_was_planned() {
    as_planned(&["model.method=full", "model.registers=2"]);
}

#[test]
fn a_frozen_backbone_takes_what_was_planned() {
    as_planned(&["model.method=freeze", "model.ffn_form=swiglu"]);
}

/// Checks that a batch with fewer classes takes the same or less.
#[test]
fn real_batches_stay_within_the_plan() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("folder");
    let mut trainer =
        Trainer::new(recipe(dir.path(), &["train.steps=100"]), false).expect("trainer");
    let planned = trainer.plan().expect("plan").chosen().expect("a level").needs;
    let mut loader = trainer.loader().expect("loader");
    for _ in 0..5 {
        trainer.step_with(&mut loader).expect("step");
    }
    let found = usage();
    assert!(found.peak <= planned.tensors(), "{} of {planned:?}", found.peak);
    assert!(found.peak > planned.tensors() * 9 / 10, "{} of {planned:?}", found.peak);
}

fn steady(method: &str) {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[&format!("model.method={method}"), "train.steps=100"]);
    let mut trainer = Trainer::new(recipe, false).expect("trainer");
    let mut loader = trainer.loader().expect("loader");
    let mut found = BTreeSet::new();
    let mut seen = Vec::new();
    for _ in 0..15 {
        let batch = loader.next_batch().expect("batch");
        found.extend(classes(&batch));
        memory::reset_peak();
        trainer.step_on(&batch).expect("step");
        let usage = usage();
        seen.push((usage.from_system, usage.peak, usage.total()));
    }
    assert!(found.len() >= 4, "the scenes hardly differ in their classes: {found:?}");
    let (first, rest) = (seen[4], &seen[5..]);
    for (i, now) in rest.iter().enumerate() {
        let step = i + 6;
        assert_eq!(now.0, first.0, "{method}: step {step} took buffers from the system: {seen:?}");
        assert!(now.1 <= first.1, "{method}: the peak of step {step} grew: {seen:?}");
        assert_eq!(now.2, first.2, "{method}: step {step} left something behind: {seen:?}");
    }
}

#[test]
fn steps_with_rein_reuse_their_memory() {
    steady("rein");
}

#[test]
fn steps_with_a_frozen_backbone_reuse_their_memory() {
    steady("freeze");
}

#[test]
fn steps_with_everything_trained_reuse_their_memory() {
    steady("full");
}

/// A network whose backbone is far larger than its head, with taps up to its last block.
fn wide(method: &str, depth: usize) -> (tempfile::TempDir, Recipe) {
    let dir = tempfile::tempdir().expect("folder");
    let settings = [
        format!("model.method={method}"),
        format!("model.depth={depth}"),
        format!("model.taps={:?}", [1, 2, 3, 4].map(|i| i * depth / 4 - 1)),
        "model.embed_dim=160".to_string(),
        "train.batch=1".to_string(),
    ];
    let recipe = recipe(dir.path(), &settings.each_ref().map(String::as_str));
    (dir, recipe)
}

fn image(recipe: &Recipe) -> (Tensor, Tensor) {
    let trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    let batch = trainer.loader().expect("loader").next_batch().expect("batch");
    let (b, h, w) = (batch.b, batch.h, batch.w);
    let image = Tensor::from_slice(&batch.images, &[b, 3, h, w]).expect("image");
    (image, Tensor::from_slice(&batch.labels, &[b, h, w]).expect("labels"))
}

/// Gradients of one step, after its graph is freed.
fn gradients(recipe: &Recipe, model: &Segmenter) -> Gradients {
    let (image, labels) = image(recipe);
    let objective = model.objective();
    let mut loss = objective.clone().step_loss(None, image.dim(0), 1).expect("loss");
    let generator = Generator::new(None, 1).expect("generator");
    model.predict(&image, &generator, &mut *loss).expect("forward");
    let targets = Targets::new(labels, objective.classes()).expect("targets");
    loss.costs(&targets, None).expect("costs");
    loss.decide(&targets).expect("assignment");
    let loss = loss.losses(&targets).expect("loss");
    backward(loss.total).expect("backward")
}

fn bytes(model: &Segmenter, trainable: bool) -> usize {
    let params = model.params().values().filter(|p| p.trainable() == trainable);
    params.map(|p| 4 * p.get().len()).sum()
}

#[test]
fn only_what_trains_has_gradients() {
    let _alone = alone();
    for method in ["rein", "freeze", "full"] {
        let (_dir, recipe) = wide(method, 4);
        let model = network::build(&recipe).expect("network");
        let (trained, frozen) = (bytes(&model, true), bytes(&model, false));
        memory::trim();
        assert_eq!(live_bytes(Category::Gradients), 0);
        let mut grads = gradients(&recipe, &model);
        let live_bytes = live_bytes(Category::Gradients);
        let untold = |p: &&Param| grads.take(&p.get()).is_none();
        let trainable = model.trainable();
        let without: Vec<&Param> = trainable.iter().filter(untold).collect();
        let names: Vec<_> = without.iter().map(|p| p.name()).collect();
        match method {
            // The taps come before the last norm of the backbone.
            "full" => assert_eq!(names, ["backbone.norm.bias", "backbone.norm.weight"]),
            _ => assert!(names.is_empty(), "{method}: no gradient arrived at {names:?}"),
        }
        let least = trained - without.iter().map(|p| 4 * p.get().len()).sum::<usize>();
        // Buffers may be a quarter larger than requested, and have at least one cache line.
        let most = trained + trained / 4 + 128 * model.params().len();
        assert!((least..most).contains(&live_bytes), "{method}: {live_bytes} bytes for {least}");
        match method {
            "full" => assert_eq!(frozen, 0),
            // A gradient of the backbone would exceed the bound above.
            _ => assert!(frozen > 2 * (most - trained), "{method}: {frozen} bytes are frozen"),
        }
    }
}

/// Bytes that a forward pass saves for its backward pass.
fn saved_by_forward(method: &str, depth: usize) -> usize {
    let (_dir, recipe) = wide(method, depth);
    let model = network::build(&recipe).expect("network");
    let (image, _labels) = image(&recipe);
    memory::trim();
    let before = live_bytes(Category::Activations);
    let head = model.objective().mask2former().expect("Mask2Former");
    let output = model.with_features(&image, |f| head.forward(f, false)).expect("forward");
    let saved = live_bytes(Category::Activations) - before;
    drop(output);
    saved
}

#[test]
fn a_frozen_backbone_keeps_nothing_of_its_blocks() {
    let _alone = alone();
    let [shallow, deep] = [4, 8].map(|depth| saved_by_forward("freeze", depth) as f64);
    assert!(deep < 1.02 * shallow, "frozen: {shallow} bytes with 4 blocks, {deep} with 8");
    let [shallow, deep] = [4, 8].map(|depth| saved_by_forward("full", depth) as f64);
    assert!(deep > 1.2 * shallow, "trained: {shallow} bytes with 4 blocks, {deep} with 8");
}

/// The backbone of a recipe, alone.
fn vit(recipe: &Recipe) -> Vit {
    let backbone = network::config(recipe).expect("sizes").backbone;
    let config = backbone.vit().expect("a ViT").clone();
    let scope = Scope::new(DType::F32, 1).trainable(recipe.model.method == Method::Full);
    Vit::new(&scope, config).expect("backbone")
}

/// Bytes that the first block saves in addition to its output, and whether the output is tracked.
fn saved_by_first_block(method: &str) -> (usize, bool) {
    let (_dir, recipe) = wide(method, 4);
    let vit = vit(&recipe);
    let (image, _labels) = image(&recipe);
    let (x, rows, columns) = vit.embed(&image).expect("tokens");
    let pass = vit.pass(&x, rows, columns).expect("grid");
    let copy = x.deep_copy().unwrap();
    memory::trim();
    let before = live_bytes(Category::Activations);
    let copied = { (copy.deep_copy().unwrap(), live_bytes(Category::Activations) - before).1 };
    memory::trim();
    let y = pass.block(0, &x, None).expect("block");
    (live_bytes(Category::Activations) - before - copied, y.tracked())
}

#[test]
fn nothing_below_the_first_rein_layer_is_saved() {
    let _alone = alone();
    let (saved, tracked) = saved_by_first_block("rein");
    assert_eq!((saved, tracked), (0, false));
    let (saved, tracked) = saved_by_first_block("full");
    assert!(saved > 0 && tracked, "a trained block keeps what its gradient needs, found {saved}");
    // Gradients flow from the first layer's output on; Rein learns through them.
    let (_dir, recipe) = wide("rein", 4);
    let model = network::build(&recipe).expect("network");
    let vit = vit(&recipe);
    let (x, rows, columns) = vit.embed(&image(&recipe).0).expect("tokens");
    let step = model.adapter().expect("Rein").step(None).expect("tokens");
    let pass = vit.pass(&x, rows, columns).expect("grid");
    let refined = pass.block(0, &x, Some(&step)).expect("block");
    assert!(!x.tracked() && refined.tracked());
}

/// Checks that a network on a device takes no host memory. It is built from random numbers or from
/// a mapped file.
#[test]
fn weights_on_a_device_leave_the_host() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("folder");
    let host = Trainer::new(recipe(dir.path(), &[]), false).expect("trainer");
    assert!(
        live_bytes(Category::Weights) >= bytes(host.model(), true) + bytes(host.model(), false)
    );
    drop(host);
    assert_eq!(live_bytes(Category::Weights), 0);
    memory::trim();
    let there = recipe(dir.path(), &["run.device=virtual"]);
    let trainer = Trainer::new(there, false).expect("trainer");
    assert_eq!((live_bytes(Category::Weights), live_bytes(Category::Optimiser)), (0, 0));
    assert_eq!(usage().system_bytes, usage().total(), "freed buffers went back to the system");
    let device = trainer.place().device().expect("a device");
    let at = CATEGORIES.iter().position(|c| *c == Category::Weights).expect("category");
    // Trained parameters have an f32 master, and trained matrices a bf16 copy as well.
    assert!(usage_on(device).bytes[at] > bytes(trainer.model(), true));
}
