//! Three steps of a small network of each family, on the host and on the virtual GPU.

mod common;

use std::path::Path;

use dressage_engine::Tensor;
use dressage_kernels::check::noise;
use dressage_models::Segmenter;
use dressage_train::recipe::{Model, Recipe};
use dressage_train::trainer::{Trainer, load};

/// Families, with the settings that make their networks small.
const FAMILIES: [(&str, &[&str]); 8] = [
    ("clip-l", &[]),
    ("mae-l", &[]),
    ("eva02-l", &[]),
    // Block 7 attends to the whole image, the others within one window that is mostly padding. Its
    // 196 tokens take long on the virtual GPU, so there is one head and one image.
    (
        "sam-h",
        &[
            "model.depth=8",
            "model.taps=[1, 3, 5, 7]",
            "model.embed_dim=16",
            "model.heads=1",
            "train.batch=1",
        ],
    ),
    ("dinov3-l", &[]),
    ("dinov3-l-plus", &[]),
    // Stages of 16, 32, 64 and 128 channels.
    (
        "convnext-l",
        &[
            "model.embed_dim=16",
            "model.stages=[1, 1, 2, 1]",
            "model.depth=5",
            "model.heads=1",
            "model.taps=[0, 1, 3, 4]",
        ],
    ),
    // The same, the last two dilated.
    (
        "resnet50",
        &[
            "model.embed_dim=16",
            "model.stages=[1, 1, 2, 1]",
            "model.depth=5",
            "model.heads=1",
            "model.taps=[0, 1, 3, 4]",
            "model.dilated=true",
        ],
    ),
];

const SMALL: [&str; 5] = [
    "augment.crop=32",
    "train.batch=2",
    "head.decoder_layers=1",
    "loss.points=32",
    "train.steps=3",
];

fn small(dir: &Path, more: &[&str]) -> Recipe {
    common::recipe(dir, &[&SMALL[..], more].concat())
}

/// Loss of each of `steps` steps, and the bytes of the checkpoint after the last one.
fn run(settings: &[&str], steps: usize) -> (Vec<f32>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("folder");
    let mut trainer = Trainer::new(small(dir.path(), settings), false).expect("trainer");
    let mut loader = trainer.loader().expect("loader");
    let losses = (0..steps).map(|_| trainer.step_with(&mut loader).expect("step").loss).collect();
    let saved = trainer.save().expect("saved");
    (losses, std::fs::read(saved).expect("checkpoint"))
}

/// Trains with the per-pixel head on both places and compares the losses.
fn three_steps(backbone: &str, method: &str, sizes: &[&str], twice: bool) {
    let own = [format!("model.backbone={backbone}"), format!("model.method={method}")];
    let own: Vec<&str> = own.iter().map(String::as_str).chain(sizes.iter().copied()).collect();
    let on = |place: &[&str]| run(&[place, &["head.kind=per-pixel"], &own].concat(), 3);
    let virtual_gpu = ["run.device=virtual", "run.precision=f32"];
    let (here, there) = (on(&["run.device=cpu"]), on(&virtual_gpu));
    let what = format!("{backbone}, {method}");
    if twice {
        let (again, once_more) = (on(&["run.device=cpu"]), on(&virtual_gpu));
        assert!(here == again && there == once_more, "{what}: two runs differ");
    }
    assert!(here.0[0] > 0.1, "{what}: {:?}", here.0);
    for (a, b) in here.0.iter().zip(&there.0) {
        assert!((a - b).abs() <= 2e-4 * a, "{what}: {:?} here, {:?} there", here.0, there.0);
    }
}

#[test]
fn rein_trains_on_every_family() {
    FAMILIES.iter().for_each(|(backbone, sizes)| three_steps(backbone, "rein", sizes, true));
}

/// Checks training of all weights, for a SAM without a block that attends to the whole image.
#[test]
fn every_family_trains_whole() {
    const WINDOWS: &[&str] =
        &["model.depth=4", "model.embed_dim=16", "model.heads=1", "train.batch=1"];
    for (backbone, sizes) in FAMILIES {
        let sizes = if backbone == "sam-h" { WINDOWS } else { sizes };
        three_steps(backbone, "full", sizes, false);
    }
    three_steps("eva02-l", "full", &["model.drop_path=0.5"], true);
}

/// Settings of adapters that fit the small networks.
const ADAPTERS: [(&str, &[&str]); 7] = [
    ("lora", &["lora.rank=2"]),
    ("adaptformer", &["adaptformer.bottleneck=4"]),
    ("vpt", &["vpt.prompts=3"]),
    ("soma", &["soma.rank=3", "soma.first_block=2"]),
    ("recycle-lora", &["recycle-lora.rank=4", "recycle-lora.second_rank=2"]),
    ("bitfit", &[]),
    ("norms", &[]),
];

#[test]
fn every_adapter_trains() {
    for (method, sizes) in ADAPTERS {
        three_steps("dinov2-s", method, sizes, method == "soma");
    }
    // Biases of queries and values alone, and a gated MLP.
    three_steps("eva02-l", "soma", ADAPTERS[3].1, false);
}

/// Checks resumed runs, and merged networks of a run and of an exported file.
#[test]
fn low_rank_factors_resume_and_merge() {
    for (method, sizes) in [ADAPTERS[0], ADAPTERS[3], ADAPTERS[4]] {
        let dir = tempfile::tempdir().expect("folder");
        let own = format!("model.method={method}");
        let settings = [&["train.lr=1e-2", "head.kind=per-pixel", &own][..], sizes].concat();
        let recipe = small(dir.path(), &settings);
        let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
        let mut loader = trainer.loader().expect("loader");
        let mut step = |trainer: &mut Trainer| trainer.step_with(&mut loader).expect("step").loss;
        step(&mut trainer);
        step(&mut trainer);
        trainer.save().expect("saved");
        let third = step(&mut trainer);
        drop(trainer);
        let mut resumed = Trainer::new(recipe.clone(), true).expect("resumed");
        let mut loader = resumed.loader().expect("loader");
        let again = resumed.step_with(&mut loader).expect("step").loss;
        assert_eq!(third.to_bits(), again.to_bits(), "{method}: {third} and {again}");
        drop(resumed);

        let run = &recipe.run.dir;
        let merged = Recipe {
            model: Model { merge_adapter: true, ..recipe.model.clone() },
            ..recipe.clone()
        };
        let image =
            Tensor::from_slice(&noise::<f32>(3 * 32 * 32, 5), &[1, 3, 32, 32]).expect("fits");
        let scores = |model: &Segmenter| {
            let scores = model.scores(&image).expect("scores");
            scores.data::<f32>().expect("f32").to_vec()
        };
        let apart = load(&recipe, run, 2).expect("loaded");
        let whole = load(&merged, run, 2).expect("merged");
        let (want, got) = (scores(&apart), scores(&whole));
        let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (a, b) in want.iter().zip(&got) {
            assert!((a - b).abs() <= 1e-5 * largest, "{method}: {a} apart, {b} merged");
        }
        assert!(!whole.params().keys().any(|name| name.contains("lora_")), "{method}");
        let refused = Trainer::new(merged, true).err().expect("refused").to_string();
        assert!(refused.contains("model.merge_adapter") && refused.contains("cannot train"));
    }
}

/// Checks the usual head too, whose queries come from Rein.
#[test]
fn every_family_runs_in_bf16() {
    for (backbone, sizes) in FAMILIES {
        let own = format!("model.backbone={backbone}");
        let (losses, _) = run(&[&["run.device=virtual", &own][..], sizes].concat(), 1);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{backbone}: {losses:?}");
    }
}
