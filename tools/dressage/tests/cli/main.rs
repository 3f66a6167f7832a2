//! The program as a user sees it: messages, files and exit codes.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod device;
mod doctor;
mod inputs;
mod machine;
mod messages;
mod resume;
mod runs;
#[cfg(target_os = "linux")]
mod stand_in;

use std::path::Path;
use std::process::Command;

use dressage_train::data::{Table, read_image, read_label};
use dressage_train::pictures::write_image;
use dressage_train::scenes::{Domain, render};

use common::{TINY, done, dressage, err, refused};

#[test]
fn wrong_usage_is_distinguished_from_failure() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), args);
    refused(run(&["trian"]), 2, &["trian", "train"]);
    refused(run(&["train"]), 2, &["RECIPE"]);
    refused(run(&["train", "demo", "steps"]), 2, &["key=value"]);
    refused(run(&["predict", "runs/x", "a.png", "--alpha", "2"]), 2, &["from 0 to 1"]);
    refused(run(&["train", "demoo"]), 1, &["demoo", "did you mean `demo`"]);
    refused(run(&["train", "demo", "train.step=3"]), 1, &["did you mean `train.steps`"]);
    refused(run(&["train", "demo", "--set", "train.lr=fast"]), 1, &["train.lr", "a number"]);
    refused(run(&["train", "absent.toml"]), 1, &["absent.toml"]);
    // A terminal would execute control characters in a name.
    refused(run(&["train", "a\x1b[2J\n.toml"]), 1, &["a\\u{1b}[2J\\n.toml"]);
    refused(run(&["train", "/dev/zero"]), 1, &["/dev/zero", "not a recipe"]);
    refused(run(&["train", "demo", "--recompute", "all"]), 1, &["train.recompute", "cheap"]);
    let huge = ["train", "demo", "train.batch=64", "augment.crop=8192"];
    refused(run(&huge), 1, &["available", "train.batch", "run.check_memory=false"]);
    refused(run(&["train", "demo", "--resume"]), 1, &["no checkpoint to resume from"]);
    refused(run(&["train", "."]), 1, &["not the folder of a run"]);
    refused(run(&["eval", "runs/none"]), 1, &["runs/none", "no checkpoint"]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("folder").collect();
    assert!(left.is_empty(), "refusals leave nothing behind: {left:?}");
}

#[test]
fn help_names_every_command_recipe_and_key() {
    let dir = tempfile::tempdir().expect("folder");
    let help = done(dressage(dir.path(), &["--help"]));
    for command in ["demo", "train", "eval", "predict", "weights", "params", "doctor", "Exit codes"]
    {
        assert!(help.contains(command), "{command}");
    }
    let list = done(dressage(dir.path(), &["train", "--list"]));
    for recipe in dressage_train::recipe::EMBEDDED.iter() {
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(&recipe.name));
        let row = row.unwrap_or_else(|| panic!("{} is not listed", recipe.name));
        assert!(
            recipe.paper.is_empty() || recipe.paper.values().any(|n| row.ends_with(n)),
            "{row}"
        );
    }
    let keys = done(dressage(dir.path(), &["train", "--help-recipe"]));
    for key in dressage_train::recipe::keys::KEYS {
        let leaf = key.path.rsplit('.').next().expect("last part");
        assert!(keys.contains(&format!(" {leaf} ")), "{leaf}");
    }
}

#[test]
fn parameters_agree_with_the_paper() {
    let dir = tempfile::tempdir().expect("folder");
    let text = done(dressage(dir.path(), &["params", "--size", "l"]));
    for line in ["2,990,081      2.99      2.99 =", "20,579,796     20.58      20.6 ="] {
        assert!(text.contains(line), "{text}");
    }
    let with_paper = text.lines().filter(|line| line.split_whitespace().count() > 1);
    let agreeing = with_paper.filter(|line| line.ends_with('=')).count();
    assert_eq!(agreeing, 18, "{text}");
    let giant = done(dressage(dir.path(), &["params", "--size", "g"]));
    assert!(giant.contains("1,136,227,328") && giant.contains("6,359,041"), "{giant}");
    let all = done(dressage(dir.path(), &["params"]));
    for words in ["ViT-S", "4.51      4.51 =", "632.18    632.18 =", "304.24    304.24 =", "1.18 ="]
    {
        assert!(all.contains(words), "{words}: {all}");
    }
}

#[test]
fn a_run_is_trained_resumed_scored_and_applied() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), args);
    std::fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
    let stdout = done(run(&["train", "tiny.toml"]));
    for words in ["method rein", "train on  day, 4 images", "test on   fog, 1 images", "mIoU"] {
        assert!(stdout.contains(words), "{stdout}");
    }
    for words in ["none*    cheap    block", "activations ", "memory    process ", " planned, "] {
        assert!(stdout.contains(words), "{stdout}");
    }
    refused(run(&["train", "tiny.toml"]), 1, &["--resume", "run.dir"]);
    let longer = ["train", "runs/tiny", "--resume", "train.steps=5"];
    refused(run(&longer), 1, &["train.steps (before 3, now 5)", "--resume-changed"]);
    let stdout = done(run(&["train", "runs/tiny", "--resume-changed", "train.steps=5"]));
    assert!(
        stdout.contains("continuing after step 3") && stdout.contains("step-000005"),
        "{stdout}"
    );
    let log = std::fs::read_to_string(dir.path().join("runs/tiny/log.jsonl")).expect("log");
    let trained = log.lines().filter(|line| line.contains("\"kind\":\"train\"")).count();
    assert_eq!(trained, 5, "{log}");

    refused(run(&["eval", "runs/tiny", "--checkpoint", "4"]), 1, &["step 4", "there are 3, 5"]);
    let table = done(run(&["eval", "runs/tiny", "data.eval.1.name=mist"]));
    assert!(table.contains("mist") && table.contains("bicycle"), "{table}");
    let json = std::fs::read_to_string(dir.path().join("runs/tiny/eval.json")).expect("scores");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["step"], &json["sets"][1]["name"]), (&5.into(), &"mist".into()));
    assert!(json["mean"]["mIoU"].is_number(), "{json}");

    predictions(dir.path());
}

/// Predicts a folder with a subfolder, a pattern and encodings, and checks refusals.
fn predictions(dir: &Path) {
    let run = |args: &[&str]| dressage(dir, args);
    let (image, _) = render(1, 7, Domain::Day, 70, 40);
    std::fs::create_dir_all(dir.join("in/city")).expect("folder");
    for name in ["in/a.png", "in/city/b.png"] {
        write_image(&dir.join(name), &image).expect("written");
    }
    done(run(&["predict", "runs/tiny", "in", "--out", "out"]));
    for name in ["out/a", "out/city/b"] {
        let overlay = read_image(&dir.join(format!("{name}_overlay.png"))).expect("overlay");
        assert_eq!((overlay.w, overlay.h), (70, 40));
    }
    let classes = Table::new("test", &Default::default(), 19, None).expect("table");
    let read = |name: &str| read_label(&dir.join(name), &classes).expect("label").data;
    let label = read("out/a_label.png");
    assert_eq!(label.len(), 70 * 40);
    assert!(label.iter().all(|class| *class < 19));
    done(run(&["predict", "runs/tiny", "in/*.png", "--encoding", "train-ids", "--alpha", "0"]));
    assert_eq!(read("runs/tiny/predictions/a_label.png"), label);
    let plain = read_image(&dir.join("runs/tiny/predictions/a_overlay.png")).expect("overlay");
    assert_eq!(plain, image, "alpha 0 is the picture itself");

    refused(run(&["predict", "runs/tiny", "none.png"]), 1, &["none.png"]);
    refused(run(&["predict", "runs/tiny", "*.jpg"]), 1, &["no image", "*.jpg"]);
    std::fs::copy(dir.join("in/a.png"), dir.join("a.png")).expect("copied");
    done(run(&["predict", "runs/tiny", "in/a.png", "a.png", "--out", "both"]));
    assert_eq!(names_below(&dir.join("both")), 4, "an overlay and a label each");
    std::fs::write(dir.join("in/bad.png"), "no picture").expect("written");
    refused(
        run(&["predict", "runs/tiny", "in/bad.png"]),
        1,
        &["bad.png", "a text", "PNG and JPEG"],
    );
    malformed(dir);
}

/// Checks an image on which the decoder's AVX2 code panics: one sentence, as for any other error.
fn malformed(dir: &Path) {
    let picture = include_bytes!("../../../../tests/fixtures/hostile/idct.jpg");
    std::fs::write(dir.join("in/bad.jpg"), picture).expect("written");
    let output = dressage(dir, &["predict", "runs/tiny", "in/bad.jpg"]);
    if output.status.success() {
        assert!(!has_avx2(), "decoded, though AVX2 code panics on it");
        return;
    }
    let stderr = err(&output);
    let others = stderr.lines().filter(|line| !line.starts_with("predict: "));
    assert_eq!(others.count(), 1, "{stderr}");
    refused(output, 1, &["in/bad.jpg", "malformed"]);
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[test]
fn the_demo_needs_nothing_and_continues() {
    let dir = tempfile::tempdir().expect("folder");
    let args = ["demo", "--steps", "2", "--images", "1", "--out", "show"];
    let stdout = done(dressage(dir.path(), &args));
    for words in ["freeze", "rein", "palette", "mean unseen", "contact-sheet.png"] {
        assert!(stdout.contains(words), "{stdout}");
    }
    let show = dir.path().join("show");
    let sheet = read_image(&show.join("contact-sheet.png")).expect("sheet");
    assert!(sheet.w >= 4 * 256 && sheet.h >= 6 * 128, "{} x {}", sheet.w, sheet.h);
    let pictures = std::fs::read_dir(show.join("pictures")).expect("folder").count();
    assert_eq!(pictures, 6 * 4);
    // The same command finds everything done and prints the same; other settings need another
    // folder.
    let again = done(dressage(dir.path(), &args));
    let rows = |text: &str| {
        let scored = text.lines().filter(|l| l.starts_with("rein") || l.starts_with("freeze"));
        scored.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((rows(&again), rows(&stdout).len()), (rows(&stdout), 2));
    let other = ["demo", "--steps", "3", "--images", "1", "--out", "show"];
    refused(dressage(dir.path(), &other), 1, &["other settings", "--out"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_its_state_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_dressage"))
        .args(["train", "tiny.toml", "train.steps=100000000"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let log = dir.path().join("runs/tiny/log.jsonl");
    // The log has a line as soon as a step is done.
    let begin = std::time::Instant::now();
    while std::fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
        let ended = child.try_wait().expect("status");
        assert!(ended.is_none() && begin.elapsed().as_secs() < 60, "no step was done: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill").success());
    let status = child.wait().expect("ended");
    let mut words = String::new();
    let mut stream = child.stderr.take().expect("standard error");
    std::io::Read::read_to_string(&mut stream, &mut words).expect("words");
    assert_eq!(status.code(), Some(130), "{words}");
    assert!(words.contains("interrupted: step ") && words.contains("--resume"), "{words}");
    let steps = dressage_train::checkpoint::list(&dir.path().join("runs/tiny")).expect("list");
    assert_eq!(steps.len(), 1, "{words}");
}

/// Counts the files in a folder and its subfolders.
fn names_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("folder").map(|e| e.expect("entry").path());
    entries.map(|path| if path.is_dir() { names_below(&path) } else { 1 }).sum()
}
