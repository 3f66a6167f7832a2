//! Runs that are resumed, scored and applied with settings other than those of their training.

use std::path::Path;

use dressage_train::data::read_image;
use dressage_train::pictures::write_image;
use dressage_train::scenes::{Domain, render};

use super::common::{TINY, done, dressage, err, out, refused};

fn trained(dir: &Path) {
    std::fs::write(dir.join("tiny.toml"), TINY).expect("written");
    done(dressage(dir, &["train", "tiny.toml"]));
}

/// Runs `eval` and returns the scores that it writes.
fn scores(dir: &Path, args: &[&str]) -> serde_json::Value {
    done(dressage(dir, &[&["eval"], args, &["--out", "scores.json"]].concat()));
    let text = std::fs::read_to_string(dir.join("scores.json")).expect("scores");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["sets"].clone()
}

#[test]
fn the_window_of_a_run_can_be_set() {
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path();
    trained(dir);
    let checkpoint = "model.checkpoint=runs/tiny/checkpoints/step-000003.safetensors";
    for window in ["eval.crop=64", "eval.crop=24", "eval.stride=8", "data.eval.0.crop=16"] {
        let own = scores(dir, &["runs/tiny", window]);
        assert_eq!(own, scores(dir, &["tiny.toml", checkpoint, window]), "{window}");
        assert_ne!(own, scores(dir, &["runs/tiny"]), "{window}");
    }
    let (image, _) = render(1, 7, Domain::Day, 90, 48);
    write_image(&dir.join("a.png"), &image).expect("written");
    let predict = |trained: &[&str], more: &[&str]| {
        let args = [&["predict"], trained, &["a.png", "--out", "p"], more].concat();
        let output = dressage(dir, &args);
        let stderr = err(&output);
        done(output);
        (read_image(&dir.join("p/a_label.png")).expect("label"), stderr)
    };
    let recipe = ["tiny.toml", "--set", checkpoint];
    for (more, words) in [
        (&[][..], "images at their size, in windows of 32 every 21 pixels, as evaluation set day"),
        (&["--set", "eval.crop=24"], "windows of 24 every 16 pixels, as evaluation set day"),
        (&["--set", "eval.crop=40"], "windows of 40 every 27 pixels"),
        (&["--set", "data.eval.0.box=[64,32]"], "fitted into 64x32"),
        (&["--box", "64x32"], "fitted into 64x32, in windows of 32 every 21 pixels"),
        (&["--set", "eval.mode=whole"], "as a whole"),
    ] {
        let (own, stderr) = predict(&["runs/tiny"], more);
        assert!(stderr.contains(words), "{stderr:?} lacks {words:?}");
        assert!(own == predict(&recipe, more).0, "{more:?}");
    }
    let differs = predict(&["runs/tiny"], &["--set", "data.eval.0.crop=40"]).1;
    assert!(differs.contains("; fog differ (--box"), "{differs}");
}

#[test]
fn overrides_that_do_nothing_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path();
    trained(dir);
    let log = || std::fs::read(dir.join("runs/tiny/log.jsonl")).expect("log");
    let before = log();
    for (args, words) in [
        (&["eval", "runs/tiny", "train.lr=1"][..], ["`train.lr=1`", "not here"]),
        (&["eval", "runs/tiny", "head.classes=[\"a\"]"], ["head.classes", "learnt"]),
        (&["eval", "runs/tiny", "model.depth=5"], ["model.depth", "learnt"]),
        (&["predict", "runs/tiny", "x.png", "--set", "data.root=."], ["data.root", "no data set"]),
        (&["train", "runs/tiny", "--resume", "model.checkpoint=x"], ["model.checkpoint", "starts"]),
        (&["train", "runs/tiny", "--resume", "train.batch=2"], ["train.batch (before 1", "now 2"]),
        (&["train", "runs/tiny", "--from", "2"], ["no checkpoint of step 2", "there are 3"]),
        (&["train", "runs/tiny", "--from", "before-nan"], ["runs/tiny", "before-nan"]),
    ] {
        refused(dressage(dir, args), 1, &words);
        assert!(log() == before, "{args:?}");
    }
    refused(dressage(dir, &["train", "runs/tiny", "--from", "last"]), 2, &["before-nan"]);
}

#[test]
fn a_damaged_checkpoint_and_a_broken_run_are_reported() {
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path();
    std::fs::write(dir.join("tiny.toml"), TINY).expect("written");
    let run = |args: &[&str]| dressage(dir, args);
    done(run(&["train", "tiny.toml", "train.checkpoint_every=2"]));
    let path = dir.join("runs/tiny/checkpoints/step-000003.safetensors");
    let mut bytes = std::fs::read(&path).expect("checkpoint");
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&path, bytes).expect("written");
    let words = ["step-000003.safetensors", "tensor ", "checksum", "step 2"];
    let name = |option| [&words[..], &[option]].concat();
    refused(run(&["eval", "runs/tiny"]), 1, &name("--checkpoint 2"));
    refused(run(&["predict", "runs/tiny", "tiny.toml"]), 1, &name("--checkpoint 2"));
    refused(run(&["weights", "export", "runs/tiny"]), 1, &name("--checkpoint 2"));
    refused(run(&["train", "runs/tiny", "--resume"]), 1, &name("--resume --from 2"));
    done(run(&["weights", "export", "runs/tiny", "--checkpoint", "2"]));
    let averaged = ["weights", "export", "runs/tiny", "--checkpoint", "2", "--averaged"];
    refused(run(&averaged), 1, &["step-000002", "no averaged weights", "train.ema.rate"]);
    let stdout = done(run(&["train", "runs/tiny", "--from", "2"]));
    assert!(stdout.contains("continuing after step 2"), "{stdout}");
    done(run(&["eval", "runs/tiny"]));

    let far = ["train.lr=1e300", "train.lr_min=1e300", "train.checkpoint_every=1", "train.keep=1"];
    let broken = run(&[&["train", "tiny.toml", "run.dir=broken"], &far[..]].concat());
    assert!(!out(&broken).contains("is trained"), "{}", out(&broken));
    refused(broken, 1, &["after step 1 ", "not saved", "lower train.lr"]);
    let written = std::fs::read_dir(dir.join("broken/checkpoints"));
    assert_eq!(written.map_or(0, Iterator::count), 0, "a broken state is not written");
}
