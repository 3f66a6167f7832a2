//! Mask and pixel embeddings of another width than the features.
//!
//! The tests cover values, gradients, names of parameters, and whole runs, also with more classes
//! than queries.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::recipe;
use dressage_engine::{DType, Param, Tensor, backward_from_all};
use dressage_kernels::check::{noise, relative_error};
use dressage_models::backbone::Level;
use dressage_models::objective::mask2former::head::{Head, HeadConfig, Queries};
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::StateDict;
use dressage_models::{Segmenter, counts};
use dressage_train::interrupt::Interrupt;
use dressage_train::network;
use dressage_train::runlog::Silent;
use dressage_train::trainer::{Trainer, load};

/// Channels of the backbone and of the features.
const IN: usize = 12;
const WIDTH: usize = 32;

/// Tensors with the mask width as first axis.
const LAST: [&str; 4] = [
    "mask_embed.4.weight",
    "mask_embed.4.bias",
    "pixel_decoder.mask_feature.weight",
    "pixel_decoder.mask_feature.bias",
];

fn config(mask_width: usize) -> HeadConfig {
    HeadConfig {
        dim: WIDTH,
        mask_width,
        queries: 6,
        heads: 2,
        groups: 8,
        encoder_layers: 1,
        encoder_ffn: 16,
        decoder_layers: 2,
        decoder_ffn: 16,
        ..HeadConfig::published([IN; 4], 9, Queries::Own)
    }
}

struct Made {
    head: Head,
    params: BTreeMap<String, Param>,
}

fn made(mask_width: usize, dtype: DType, weights: StateDict) -> Made {
    let scope = Scope::with_weights(dtype, Precision::F32, 3, weights, &[]);
    let head = Head::new(&scope, config(mask_width)).expect("sizes fit");
    Made { head, params: scope.finish("the head", &[]).expect("weights fit") }
}

fn pyramid(dtype: DType) -> Vec<Level> {
    let level = |(i, side): (usize, usize)| {
        let shape = [2, side, side, IN];
        let n = shape.iter().product();
        let map = match dtype {
            DType::F64 => Tensor::from_slice(&noise::<f64>(n, i as u64), &shape),
            _ => Tensor::from_slice(&noise::<f32>(n, i as u64), &shape),
        };
        Level::plain(map.expect("map"))
    };
    [16, 8, 4, 2].into_iter().enumerate().map(level).collect()
}

/// Mask logits and class logits of all predictions.
fn outputs(head: &Head, dtype: DType) -> Vec<Tensor> {
    let output = head.forward(&pyramid(dtype), None, false).expect("predictions");
    output.predictions.into_iter().flat_map(|p| [p.mask, p.cls]).collect()
}

/// The weights of a head with rows of [`LAST`] cut off or zero rows added.
fn reshaped(params: &BTreeMap<String, Param>, rows: usize) -> StateDict {
    let mut dict = StateDict::new("reshaped");
    for (name, param) in params {
        let value = param.get().detach();
        if !LAST.contains(&name.as_str()) {
            dict.insert(name.clone(), value);
            continue;
        }
        let mut shape = value.shape().to_vec();
        let row: usize = shape[1..].iter().product();
        let mut data = value.data::<f32>().expect("f32").to_vec();
        data.resize(rows * row, 0.0);
        shape[0] = rows;
        dict.insert(name.clone(), Tensor::from_slice(&data, &shape).expect("reshaped"));
    }
    dict
}

fn floats(x: &Tensor) -> Vec<f64> {
    x.detach().data::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect()
}

fn gradients(made: &Made) -> BTreeMap<String, Vec<f64>> {
    let weighted = outputs(&made.head, DType::F32).into_iter().enumerate();
    let weighted = weighted.map(|(i, y)| {
        let dy = Tensor::from_slice(&noise::<f32>(y.len(), 50 + i as u64), y.shape());
        (y, dy.expect("gradient"))
    });
    let mut grads = backward_from_all(weighted.collect()).expect("gradients");
    let take =
        |(name, param): (&String, &Param)| Some((name.clone(), floats(&grads.take(&param.get())?)));
    made.params.iter().filter_map(take).collect()
}

/// Checks that zero rows add nothing to the product. A head with them must equal the narrower one,
/// in values and in all gradients that both have.
#[test]
fn rows_of_zeros_change_nothing() {
    for (narrow, wide) in [(20, WIDTH), (WIDTH, 48), (7, 64)] {
        let narrow_head = made(narrow, DType::F32, StateDict::default());
        let wide_head = made(wide, DType::F32, reshaped(&narrow_head.params, wide));
        for name in LAST {
            assert_eq!(narrow_head.params[name].get().dim(0), narrow, "{name}");
            assert_eq!(wide_head.params[name].get().dim(0), wide, "{name}");
        }
        let pairs = outputs(&narrow_head.head, DType::F32);
        for (a, b) in pairs.iter().zip(&outputs(&wide_head.head, DType::F32)) {
            assert_eq!(a.shape(), b.shape());
            let error = relative_error(&floats(b), &floats(a));
            assert!(error <= 2e-6, "{narrow} and {wide}: {error:.1e}");
        }
        let (a, b) = (gradients(&narrow_head), gradients(&wide_head));
        assert!(a.keys().eq(b.keys()));
        for (name, a) in &a {
            let error = relative_error(&b[name][..a.len()], a);
            assert!(error <= 2e-5, "{narrow} and {wide}, {name}: {error:.1e}");
        }
    }
}

/// Compares gradients of the layers that produce the embeddings with central differences in f64.
#[test]
fn gradients_are_those_of_central_differences() {
    const STEP: f64 = 1e-5;
    let made = made(20, DType::F64, StateDict::default());
    let weight = |i: usize, n: usize| noise::<f64>(n, 50 + i as u64);
    let objective = || -> f64 {
        let outputs = outputs(&made.head, DType::F64);
        let one = |(i, y): (usize, &Tensor)| -> f64 {
            let y = y.detach();
            let y = y.data::<f64>().expect("f64");
            y.iter().zip(weight(i, y.len())).map(|(a, b)| a * b).sum()
        };
        outputs.iter().enumerate().map(one).sum()
    };
    let weighted = outputs(&made.head, DType::F64).into_iter().enumerate();
    let weighted = weighted.map(|(i, y)| {
        let dy = Tensor::from_slice(&weight(i, y.len()), y.shape()).expect("gradient");
        (y, dy)
    });
    let mut grads = backward_from_all(weighted.collect()).expect("gradients");
    for name in LAST.into_iter().chain(["mask_embed.2.weight"]) {
        let param = &made.params[name];
        let found = grads.take(&param.get()).expect("a gradient");
        let found = found.data::<f64>().expect("f64").to_vec();
        let largest = found.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let start = param.get().data::<f64>().expect("f64").to_vec();
        for at in [0, start.len() / 3, start.len() - 1] {
            let mut sides = [1.0, -1.0].map(|sign| {
                let mut moved = start.clone();
                moved[at] += sign * STEP;
                let moved = Tensor::from_slice(&moved, param.get().shape()).expect("moved");
                param.set(&moved).expect("set");
                objective()
            });
            sides[0] = (sides[0] - sides[1]) / (2.0 * STEP);
            let error = (sides[0] - found[at]).abs() / largest;
            assert!(error <= 1e-6, "{name}, {at}: {} and {}", sides[0], found[at]);
        }
        let start = Tensor::from_slice(&start, param.get().shape()).expect("start");
        param.set(&start).expect("set back");
    }
}

/// Checks that names are those of the reference and only four tensors change with the width.
#[test]
fn only_the_layers_that_make_masks_change_their_shape() {
    let dir = tempfile::tempdir().expect("folder");
    let config =
        |settings: &[&str]| network::config(&recipe(dir.path(), settings)).expect("a network");
    let shapes = |settings: &[&str]| Segmenter::shapes(config(settings)).expect("shapes");
    let (plain, other) = (shapes(&[]), shapes(&["head.mask_width=24"]));
    assert!(plain.keys().eq(other.keys()));
    for (name, param) in &other {
        let mut want = plain[name].shape.clone();
        if name.strip_prefix("decode_head.").is_some_and(|n| LAST.contains(&n)) {
            want[0] = 24;
        }
        assert_eq!(param.shape, want, "{name}");
    }
    let head = |settings: &[&str]| counts::network(config(settings)).expect("counted").head;
    assert_eq!(head(&[]) - head(&["head.mask_width=24"]), 2 * 8 * (WIDTH + 1));
}

const ODD: [&str; 4] =
    ["head.queries=8", "head.mask_width=24", "train.steps=3", "augment.cat_max_ratio=1"];

fn trained(dir: &Path, threads: usize) -> Vec<u8> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    pool.install(|| {
        let mut trainer = Trainer::new(recipe(dir, &ODD), false).expect("trainer");
        let outcome = trainer.run(&Silent, &Interrupt::default()).expect("trained");
        std::fs::read(outcome.checkpoint).expect("checkpoint")
    })
}

/// Checks a run with 19 classes, eight queries and masks of 24 channels. It must give the same
/// bytes on any number of threads, and its weights must load into another network.
#[test]
fn a_run_gives_the_same_bytes_and_its_weights_load() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
    assert!(trained(first.path(), 1) == trained(second.path(), 3), "threads changed the bytes");
    let run = first.path().join("run");
    let recipe_of_run = recipe(first.path(), &ODD);
    let model = load(&recipe_of_run, &run, 3).expect("loaded");
    let file = run.join("checkpoints/step-000003.safetensors");
    let checkpoint = format!("model.checkpoint={}", file.display());
    let settings = [&ODD[..], &[checkpoint.as_str()]].concat();
    let again = network::build(&recipe(second.path(), &settings)).expect("built");
    let image = Tensor::from_slice(&noise::<f32>(3 * 64 * 64, 1), &[1, 3, 64, 64]).expect("image");
    let [a, b] = [&model, &again].map(|m| m.scores(&image).expect("scores"));
    assert_eq!((a.shape(), floats(&a)), (&[1, 19, 64, 64][..], floats(&b)));
    let other = [checkpoint.as_str(), "head.queries=8"];
    let error = network::build(&recipe(second.path(), &other)).err().expect("refused").to_string();
    let words = "decode_head.mask_embed.4.bias is [24], expected [32]";
    assert!(error.contains(words), "{error}");
}
