//! Three steps of a small network of each family, on the host and on the virtual GPU.

mod common;

use std::path::Path;

use dressage_train::recipe::Recipe;
use dressage_train::trainer::Trainer;

/// Families, with the settings that make their networks small.
const FAMILIES: [(&str, &[&str]); 8] = [
    ("clip-l", &[]),
    ("mae-l", &[]),
    ("eva02-l", &[]),
    // Block 7 attends to the whole image, the others within one window that is mostly padding.
    ("sam-h", &["model.depth=8", "model.taps=[1, 3, 5, 7]"]),
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

/// Loss of each step, and the bytes of the checkpoint after the last one.
fn run(settings: &[&str]) -> (Vec<f32>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("folder");
    let mut trainer = Trainer::new(small(dir.path(), settings), false).expect("trainer");
    let mut loader = trainer.loader().expect("loader");
    let losses = (0..3).map(|_| trainer.step_with(&mut loader).expect("step").loss).collect();
    let saved = trainer.save().expect("saved");
    (losses, std::fs::read(saved).expect("checkpoint"))
}

fn three_steps(method: &str, head: &str) {
    for (backbone, sizes) in FAMILIES {
        let own = [
            format!("model.backbone={backbone}"),
            format!("model.method={method}"),
            format!("head.kind={head}"),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).chain(sizes.iter().copied()).collect();
        let on = |place: &[&str]| run(&[place, &own].concat());
        let virtual_gpu = ["run.device=virtual", "run.precision=f32"];
        let (here, there) = (on(&["run.device=cpu"]), on(&virtual_gpu));
        let what = format!("{backbone}, {method}");
        if method == "rein" {
            let (again, once_more) = (on(&["run.device=cpu"]), on(&virtual_gpu));
            assert!(here == again && there == once_more, "{what}: two runs differ");
        }
        assert!(here.0[0] > 0.1, "{what}: {:?}", here.0);
        for (a, b) in here.0.iter().zip(&there.0) {
            assert!((a - b).abs() <= 2e-4 * a, "{what}: {:?} here, {:?} there", here.0, there.0);
        }
    }
}

#[test]
fn rein_trains_on_every_family() {
    three_steps("rein", "per-pixel");
}

#[test]
fn every_family_trains_whole() {
    three_steps("full", "per-pixel");
}

/// Checks the usual head too, whose queries come from Rein.
#[test]
fn every_family_runs_in_bf16() {
    for (backbone, sizes) in FAMILIES {
        let own = format!("model.backbone={backbone}");
        let (losses, _) = run(&[&["run.device=virtual", &own][..], sizes].concat());
        assert!(losses.iter().all(|loss| loss.is_finite()), "{backbone}: {losses:?}");
    }
}
