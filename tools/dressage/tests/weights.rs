//! `dressage weights`, and trained weights without a run.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use dressage_models::backbone::PUBLISHED;
use dressage_models::counts;
use dressage_models::weights::{ScalarType, StateDict};
use serde_json::{Value, json};

use common::{TINY, done, dressage, refused};

/// Returns the path of a recorded checkpoint.
fn recorded(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/backbones");
    root.join(name).display().to_string()
}

#[test]
fn inspect_says_what_a_file_is() {
    let dir = tempfile::tempdir().expect("folder");
    let inspect = |name: &str| done(dressage(dir.path(), &["weights", "inspect", &recorded(name)]));
    let text = inspect("ckpt_zip_state_dict.pth");
    for words in [
        "PyTorch (zip), 6,333 bytes",
        "state_dict",
        "no known backbone",
        "10 (1 bf16, 1 bool, 1 f16, 5 f32, 1 f64, 1 i64)",
        "backbone.patch_embed.proj.weight   f32   [8, 3, 4, 4]",
        "backbone.bn.num_batches_tracked    i64   []",
    ] {
        assert!(text.contains(words), "{text} does not say {words:?}");
    }
    assert!(inspect("ckpt_legacy_flat.pth").contains("PyTorch (legacy)"));
    let text = inspect("ckpt_clip_torchscript.pt");
    for words in ["TorchScript archive", "CLIP ViT of ", "its authors' names", "backbone=clip-l"] {
        assert!(text.contains(words), "{text} does not say {words:?}");
    }
    let args = ["weights", "inspect", "--json", &recorded("ckpt_zip_model.pth")];
    let value: Value = serde_json::from_str(&done(dressage(dir.path(), &args))).expect("JSON");
    assert_eq!((&value["wrapper"], &value["backbone"]), (&json!(["model"]), &Value::Null));
    assert_eq!(value["tensors"].as_array().map(Vec::len), Some(10));
    assert_eq!(value["tensors"][0]["name"], "blocks.0.attn.qkv.bias");
    assert_eq!(value["tensors"][0]["type"], "bf16");
    refused(dressage(dir.path(), &["weights", "inspect", "none.pth"]), 1, &["none.pth"]);
    fs::write(dir.path().join("page.pth"), "<html>").expect("written");
    refused(
        dressage(dir.path(), &["weights", "inspect", "page.pth"]),
        1,
        &["page.pth", "web page"],
    );
}

#[test]
fn convert_keeps_values_and_narrows_where_asked() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), args);
    let input = recorded("ckpt_legacy_state_dict.pth");
    let fingerprint = |file: &str| {
        let stdout = done(run(&["weights", "fingerprint", file]));
        stdout.split_whitespace().next().map(str::to_owned).expect("a number")
    };
    assert!(done(run(&["weights", "convert", &input, "same.safetensors"])).contains("10 tensors"));
    assert_eq!(fingerprint("same.safetensors"), fingerprint(&input));
    assert_eq!(fingerprint("same.safetensors").len(), 16);
    assert_ne!(fingerprint("same.safetensors"), fingerprint(&recorded("ckpt_zip_flat.pth")));
    let whole = StateDict::open(Path::new(&input)).expect("opened");
    for (word, kind) in
        [("f32", ScalarType::F32), ("bf16", ScalarType::Bf16), ("f16", ScalarType::F16)]
    {
        let output = format!("{word}.safetensors");
        done(run(&["weights", "convert", &input, &output, "--dtype", word]));
        let dict = StateDict::open(&dir.path().join(&output)).expect("opened");
        for (name, tensor) in whole.iter() {
            let got = dict.get(name).unwrap_or_else(|| panic!("no {name}"));
            let want = if tensor.kind().is_float() { kind } else { tensor.kind() };
            assert_eq!((got.kind(), got.shape()), (want, tensor.shape()), "{name} as {word}");
            let (mut a, mut b) = (Vec::new(), Vec::new());
            got.write(want, &mut a).expect("values");
            tensor.write(want, &mut b).expect("values");
            assert_eq!(a, b, "{name} as {word}");
        }
    }
    refused(run(&["weights", "convert", "f32.safetensors", "./f32.safetensors"]), 1, &["itself"]);
    refused(run(&["weights", "convert", &input, "x", "--dtype", "i8"]), 2, &["i8", "bf16"]);
    refused(run(&["weights", "convert", &input, "f32.safetensors/x"]), 1, &["f32.safetensors"]);
}

#[test]
fn convert_writes_what_the_name_says_and_never_its_input() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), args);
    let input = recorded("ckpt_zip_flat.pth");
    for name in [
        "out.pth",
        "out.BIN",
        "out.pth.tar",
        "out.json",
        "out.gz",
        "out.onnx.txt",
        "out.safetensors.zip",
    ] {
        let words = ["only safetensors is written", "name the output out.safetensors"];
        refused(run(&["weights", "convert", &input, name]), 1, &words);
        assert!(!dir.path().join(name).exists(), "{name}");
    }
    let words = ["only safetensors is written", "name the output v1.2.safetensors"];
    refused(run(&["weights", "convert", &input, "v1.2"]), 1, &words);
    done(run(&["weights", "convert", &input, "plain"]));
    fs::copy(dir.path().join("plain"), dir.path().join("m-00001-of-00002.safetensors"))
        .expect("copied");
    let words =
        ["m-00001-of-00002.safetensors", "is part 1 of 2 of the weights", "name the folder"];
    let part = ["weights", "convert", "m-00001-of-00002.safetensors", "part.safetensors"];
    refused(run(&part), 1, &words);
    refused(run(&["weights", "diff", part[2], "dinov2-s"]), 1, &words);
    done(run(&["weights", "convert", &input, "own.safetensors"]));
    let before = fs::read(dir.path().join("own.safetensors")).expect("file");
    fs::hard_link(dir.path().join("own.safetensors"), dir.path().join("link.safetensors"))
        .expect("link");
    let itself = ["weights", "convert", "own.safetensors", "link.safetensors"];
    refused(run(&itself), 1, &["link.safetensors is the input itself"]);
    assert_eq!(fs::read(dir.path().join("link.safetensors")).expect("file"), before);
    // Half of a download is refused.
    let mut half = before.clone();
    let n = half.len();
    half[n / 2..].fill(0);
    fs::write(dir.path().join("half.safetensors"), &half).expect("written");
    let text = done(run(&["weights", "inspect", "half.safetensors"]));
    assert!(text.contains("warning") && text.contains("not finished"), "{text}");
    let error = run(&["weights", "convert", "half.safetensors", "x.safetensors"]);
    let words = common::err(&error);
    assert!(words.contains("not finished") && !words.contains("again"), "{words}");
    refused(error, 1, &["half.safetensors"]);
}

/// Writes a safetensors file of zeros, which is sparse on the disk.
fn zeros(path: &Path, shapes: &BTreeMap<String, Vec<usize>>) {
    let mut at = 0;
    let header: serde_json::Map<String, Value> = shapes
        .iter()
        .map(|(name, shape)| {
            let from = at;
            at += 4 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, at]});
            (name.clone(), entry)
        })
        .collect();
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).expect("file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len((8 + header.len() + at) as u64).expect("holes");
}

#[test]
fn diff_lists_what_differs_and_ends_with_one() {
    let dir = tempfile::tempdir().expect("folder");
    let shapes = counts::backbone(PUBLISHED[0].at(14, 37));
    let shapes = shapes.expect("network").into_iter();
    let mut shapes: BTreeMap<_, _> = shapes.map(|(name, param)| (name, param.shape)).collect();
    let file = dir.path().join("s.pth");
    let diff = |shapes: &BTreeMap<_, _>, backbone: &str| {
        zeros(&file, shapes);
        dressage(dir.path(), &["weights", "diff", "s.pth", backbone])
    };
    shapes.insert("mask_token".into(), vec![1, 384]);
    assert!(done(diff(&shapes, "dinov2-s")).contains("fits dinov2-s: 174 tensors"));
    let other = diff(&shapes, "dinov2-b");
    assert!(common::out(&other).contains("cls_token is [1, 1, 384], expected [1, 1, 768]"));
    refused(
        other,
        1,
        &["s.pth does not fit dinov2-b: 174 of another shape", "it holds DINOv2 ViT-S/14"],
    );
    refused(diff(&shapes, "dinov2-s-reg"), 1, &["does not fit dinov2-s-reg: 1 missing"]);
    refused(diff(&shapes, "dinov2-x"), 2, &["dinov2-x", "dinov2-l"]);
    shapes.remove("blocks.3.norm1.bias");
    shapes.insert("blocks.3.norm1.extra".into(), vec![2]);
    let output = diff(&shapes, "dinov2-s");
    let stdout = common::out(&output);
    let lines: Vec<_> = stdout.lines().collect();
    let want = ["blocks.3.norm1.bias [384] is missing", "blocks.3.norm1.extra [2] is left over"];
    assert_eq!(lines, want);
    refused(output, 1, &["1 missing, 1 left over"]);
    let clip = ["weights", "diff", &recorded("ckpt_clip_torchscript.pt"), "dinov2-s"];
    refused(dressage(dir.path(), &clip), 1, &["does not fit dinov2-s", "it holds CLIP ViT of 2"]);
}

/// Trains a run in `dir` and returns the exported file.
fn exported(dir: &Path) -> PathBuf {
    fs::write(dir.join("tiny.toml"), TINY).expect("written");
    done(dressage(dir, &["train", "tiny.toml"]));
    let stdout =
        done(dressage(dir, &["weights", "export", "runs/tiny", "--out", "out/rein.safetensors"]));
    assert!(stdout.contains("step 3"), "{stdout}");
    dir.join("out/rein.safetensors")
}

/// Returns the rows of a table of scores.
fn scores(stdout: &str) -> Vec<String> {
    stdout.lines().filter(|l| l.contains("mIoU") || l.contains("car")).map(str::to_owned).collect()
}

#[test]
fn an_exported_checkpoint_stands_for_its_run() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), args);
    let file = exported(dir.path());
    let dict = StateDict::open(&file).expect("exported");
    assert!(
        dict.names().all(|n| n.starts_with("decode_head.") || n.starts_with("backbone.reins."))
    );
    assert_eq!(dict.metadata().get("step").map(String::as_str), Some("3"));
    let text = done(run(&["weights", "inspect", "out/rein.safetensors"]));
    for words in ["Rein, 4 layers of 24 channels, 20 tokens of rank 4", "head, 19 classes"] {
        assert!(text.contains(words), "{text}");
    }

    let checkpoint = "model.checkpoint=out/rein.safetensors";
    let from_run = done(run(&["eval", "runs/tiny"]));
    let stdout = done(run(&["eval", "tiny.toml", checkpoint, "--out", "scores.json"]));
    assert_eq!((scores(&stdout), scores(&stdout).len() > 1), (scores(&from_run), true));
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(dir.path().join(name)).expect("scores");
        serde_json::from_str(&text).expect("JSON")
    };
    let (mine, runs) = (read("scores.json"), read("runs/tiny/eval.json"));
    assert_eq!((&mine["sets"], &mine["step"]), (&runs["sets"], &Value::Null));
    // The checkpoint of a run can be named as well as what was exported from it.
    let own = "model.checkpoint=runs/tiny/checkpoints/step-000003.safetensors";
    assert_eq!(scores(&done(run(&["eval", "tiny.toml", own]))), scores(&from_run));
    refused(run(&["eval", "tiny.toml"]), 1, &["tiny.toml", "model.checkpoint=FILE"]);
    refused(run(&["eval", "tiny.toml", checkpoint, "--checkpoint", "3"]), 1, &["run folders"]);

    let (image, _) =
        dressage_train::scenes::render(1, 7, dressage_train::scenes::Domain::Day, 70, 40);
    dressage_train::pictures::write_image(&dir.path().join("a.png"), &image).expect("written");
    done(run(&["predict", "tiny.toml", "a.png", "--set", checkpoint]));
    done(run(&["predict", "runs/tiny", "a.png", "--out", "of-run"]));
    let label =
        |folder: &str| fs::read(dir.path().join(folder).join("a_label.png")).expect("label");
    assert_eq!(label("predictions"), label("of-run"));

    // A second run starts from the end of the first one, and does not need the file to be resumed.
    let again = ["train", "tiny.toml", checkpoint, "run.dir=runs/more", "train.steps=1"];
    assert!(done(run(&again)).contains("rein.safetensors"));
    fs::remove_file(&file).expect("removed");
    done(run(&["train", "runs/more", "--resume-changed", "train.steps=2"]));
    done(run(&["eval", "runs/more"]));
}

#[test]
fn checkpoints_that_do_not_fit_the_recipe_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), args);
    exported(dir.path());
    let eval = |settings: &[&str]| {
        let checkpoint = "model.checkpoint=out/rein.safetensors";
        run(&[&["eval", "tiny.toml", checkpoint], settings].concat())
    };
    let name = "out/rein.safetensors";
    refused(eval(&["head.width=32"]), 1, &[name, "decode_head.", "is [20, 16], expected [20, 32]"]);
    refused(eval(&["model.method=freeze"]), 1, &[name, "backbone.reins.", "is left over"]);
    refused(
        eval(&["rein.rank=0"]),
        1,
        &[name, "backbone.reins.learnable_tokens [4, 20, 24] is missing"],
    );
    refused(eval(&["model.weights=out/rein.safetensors"]), 1, &[name, "without a backbone"]);
    let clip = format!("model.checkpoint={}", recorded("ckpt_clip_torchscript.pt"));
    refused(run(&["eval", "tiny.toml", &clip]), 1, &["CLIP", "belong in model.weights"]);
    refused(
        run(&["train", "tiny.toml", "run.dir=x", "model.checkpoint=none.pth"]),
        1,
        &["none.pth"],
    );
    refused(run(&["weights", "export", "runs/none"]), 1, &["runs/none", "no checkpoint"]);
    let args = ["weights", "diff", "out/rein.safetensors", "dinov2-s"];
    refused(run(&args), 1, &["does not fit Rein and head on dinov2-s, 19 classes"]);
}
