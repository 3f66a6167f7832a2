//! `--device`: accepted names, messages, and training, scoring and resuming on a device.

use std::path::Path;

use dressage_engine::Device;
use dressage_train::pictures::write_image;
use dressage_train::scenes::{Domain, render};

use crate::common::{TINY, done, dressage, err, refused};

fn recipe(dir: &Path) {
    std::fs::write(dir.join("tiny.toml"), TINY).expect("written");
}

#[test]
fn a_device_that_is_not_there_is_one_sentence() {
    let dir = tempfile::tempdir().expect("folder");
    recipe(dir.path());
    let run = |args: &[&str]| dressage(dir.path(), args);
    let nonsense = ["train", "tiny.toml", "--device", "nonsense"];
    refused(run(&nonsense), 1, &["run.device", "`nonsense`", "cuda:N", "virtual"]);
    refused(run(&["train", "tiny.toml", "run.precision=f64"]), 1, &["run.precision", "bf16"]);
    // No machine has so many.
    let far = run(&["train", "tiny.toml", "--device", "cuda:4096"]);
    refused(far, 1, &["no CUDA device", "--device cpu"]);
    assert!(!dir.path().join("runs").exists(), "a refusal leaves nothing behind");

    let stdout = done(run(&["train", "tiny.toml", "train.steps=1", "--device", "auto"]));
    let line = stdout.lines().find(|line| line.starts_with("device ")).expect("what was taken");
    match Device::cuda(0) {
        Ok(device) => assert!(line.contains(&device.name()), "{line}"),
        Err(why) => {
            assert!(line.contains("the CPU") && line.contains(&why.to_string()), "{line}");
            let output = run(&["eval", "runs/tiny", "--device", "auto"]);
            let noted = err(&output);
            done(output);
            assert!(noted.contains(&format!("on the CPU; {why}")), "{noted}");
            let words = [why.to_string(), "--device cpu".into()];
            let words = words.each_ref().map(String::as_str);
            let fresh = ["train", "tiny.toml", "run.dir=other", "--device", "cuda"];
            refused(run(&fresh), 1, &words);
            refused(run(&["eval", "runs/tiny", "--device", "cuda:0"]), 1, &words);
            let (image, _) = render(1, 7, Domain::Day, 40, 32);
            write_image(&dir.path().join("a.png"), &image).expect("written");
            refused(run(&["predict", "runs/tiny", "a.png", "--device", "cuda"]), 1, &words);
            assert!(!dir.path().join("other").exists(), "a refusal leaves nothing behind");
        }
    }
}

#[test]
fn the_virtual_gpu_trains_scores_predicts_and_hands_over() {
    let dir = tempfile::tempdir().expect("folder");
    recipe(dir.path());
    let run = |args: &[&str]| dressage(dir.path(), args);
    let stdout = done(run(&["train", "tiny.toml", "train.steps=2", "--device", "virtual"]));
    for words in
        ["device    the virtual GPU", "slow", "bf16", "mIoU", "reserved on the virtual GPU"]
    {
        assert!(stdout.contains(words), "{stdout}");
    }
    assert!(!stdout.contains("planned"), "the plan is one of the host: {stdout}");

    let eval = |place: &str| {
        let output = run(&["eval", "runs/tiny", "--device", place]);
        let noted = err(&output);
        (done(output), noted)
    };
    let (there, noted) = eval("virtual");
    assert!(there.contains("fog") && noted.contains("on the virtual GPU"), "{there}\n{noted}");
    let (here, noted) = eval("cpu");
    assert!(here.contains("fog") && !noted.contains("on the"), "{here}\n{noted}");

    let (image, _) = render(1, 7, Domain::Day, 40, 32);
    write_image(&dir.path().join("a.png"), &image).expect("written");
    done(run(&["predict", "runs/tiny", "a.png", "--out", "out", "--device", "virtual"]));
    assert!(dir.path().join("out/a_label.png").is_file());

    // Resumes the run on the host, and then on the device.
    for (steps, place) in [("train.steps=3", "cpu"), ("train.steps=4", "virtual")] {
        let stdout =
            done(run(&["train", "runs/tiny", "--resume-changed", steps, "--device", place]));
        assert!(stdout.contains("continuing after step"), "{stdout}");
    }
    let log = std::fs::read_to_string(dir.path().join("runs/tiny/log.jsonl")).expect("log");
    let trained = log.lines().filter(|line| line.contains("\"kind\":\"train\"")).count();
    assert_eq!(trained, 4, "{log}");
}
