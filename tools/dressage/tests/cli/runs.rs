//! Run folders that are copied, moved, in use or someone else's, and runs that a signal ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dressage_train::checkpoint;
use dressage_train::palette::Palette;
use dressage_train::pictures::{write_image, write_label};
use dressage_train::scenes::{Domain, render};

use crate::common::{TINY, done, dressage, err, refused};

/// Returns a folder with the recipe of a tiny network.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let (path, other) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &other);
        } else {
            fs::copy(&path, &other).expect("copied");
        }
    }
}

/// Returns every file below `dir` with its bytes.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.push((path.clone(), fs::read(&path).expect("file")));
        }
    }
    all.sort();
    all
}

fn steps(run: &Path) -> Vec<u64> {
    checkpoint::list(run).expect("list")
}

#[test]
fn a_copied_or_moved_run_is_one_of_its_own() {
    let dir = folder();
    let run = |args: &[&str]| dressage(dir.path(), args);
    let at = |name: &str| dir.path().join(name);
    done(run(&["train", "tiny.toml", "run.dir=a", "train.keep=1"]));
    copy(&at("a"), &at("b"));
    let before = contents(&at("a"));
    done(run(&["train", "b", "--resume-changed", "train.steps=5"]));
    assert!(contents(&at("a")) == before, "the original changed");
    assert_eq!(steps(&at("b")), [5]);
    refused(run(&["train", "b", "--resume", "run.dir=a"]), 1, &["run.dir=a", "copy the folder"]);
    done(run(&["eval", "b"]));
    assert!(at("b/eval.json").exists() && !at("a/eval.json").exists());

    fs::create_dir(at("far")).expect("folder");
    fs::rename(at("a"), at("far/c")).expect("moved");
    for name in ["far/c", "far/c/recipe.toml"] {
        refused(run(&["train", name]), 1, &["far/c", "--resume"]);
    }
    done(run(&["train", "far/c/recipe.toml", "--resume-changed", "train.steps=4"]));
    assert_eq!(steps(&at("far/c")), [4]);
    done(run(&["eval", "far/c/recipe.toml"]));
    done(dressage(&at("far/c"), &["train", ".", "--resume-changed", "train.steps=6", "run.dir=."]));
    assert_eq!(steps(&at("far/c")), [6]);
    assert!(!at("a").exists() && !at("runs").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn results_replace_no_file_of_the_run_and_are_not_lost_silently() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
    let run = |args: &[&str]| dressage(dir.path(), args);
    done(run(&["train", "tiny.toml", "train.eval_every=0", "data.eval=[]"]));
    let own = "runs/tiny/checkpoints/step-000003.safetensors";
    let bytes = std::fs::read(dir.path().join(own)).expect("checkpoint");
    refused(run(&["weights", "export", "runs/tiny", "--out", own]), 1, &[own, "--out"]);
    assert!(std::fs::read(dir.path().join(own)).expect("checkpoint") == bytes);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("device");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dressage"))
        .args(["weights", "inspect", own])
        .current_dir(dir.path())
        .stdout(full)
        .output()
        .expect("the program starts");
    refused(output, 1, &["standard output", "No space left"]);
}

#[test]
fn files_of_others_in_a_run_folder_are_not_touched() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("my")).expect("folder");
    let noted = format!("# my notes\n{TINY}");
    fs::write(at("my/recipe.toml"), &noted).expect("written");
    for (recipe, words) in [
        ("recipe.toml", ["recipe.toml", "by hand", "run.dir"]),
        (".", ["./recipe.toml", "not written by a run", "name the file"]),
    ] {
        refused(dressage(&at("my"), &["train", recipe, "run.dir=."]), 1, &words);
        assert_eq!(fs::read_to_string(at("my/recipe.toml")).expect("recipe"), noted);
    }
    assert_eq!(fs::read_dir(at("my")).expect("folder").count(), 1);

    let run = |args: &[&str]| dressage(dir.path(), args);
    done(run(&["train", "tiny.toml", "run.dir=r"]));
    fs::rename(at("r/checkpoints"), at("elsewhere")).expect("moved");
    let before = contents(&at("r"));
    for setting in ["train.steps=3", "train.steps=2"] {
        let output = run(&["train", "tiny.toml", "run.dir=r", setting]);
        refused(output, 1, &["log.jsonl", "checkpoints are gone", "run.dir"]);
        assert!(contents(&at("r")) == before);
    }
}

#[test]
fn a_first_try_that_failed_refuses_no_other() {
    let dir = folder();
    let run = |more: &[&str]| {
        let fixed = ["train", "tiny.toml", "run.dir=r"];
        dressage(dir.path(), &[&fixed[..], more].concat())
    };
    refused(run(&["model.weights=none.pth"]), 1, &["none.pth"]);
    let absent = "data.train=[{name = 'x', images = 'absent', labels = 'absent'}]";
    refused(run(&[absent]), 1, &["absent"]);
    refused(run(&["train.batch=4000", "augment.crop=4096"]), 1, &["available"]);
    assert!(!dir.path().join("r").exists(), "a refusal leaves no folder");
    // A folder in place of the log stands for a full disk.
    fs::create_dir_all(dir.path().join("r/log.jsonl")).expect("folder");
    refused(run(&[]), 1, &["log.jsonl"]);
    fs::remove_dir(dir.path().join("r/log.jsonl")).expect("removed");
    done(run(&["train.lr=0.01", "head.queries=24"]));
}

#[cfg(unix)]
mod unix {
    use super::*;

    /// A running program that ends with the test.
    struct Running(Child);

    impl Running {
        fn start(dir: &Path, args: &[&str]) -> Running {
            let mut command = Command::new(env!("CARGO_BIN_EXE_dressage"));
            command.args(args);
            Running::of(command, dir)
        }

        fn of(mut command: Command, dir: &Path) -> Running {
            command.current_dir(dir).stdout(Stdio::null());
            let errors = fs::File::create(dir.join("errors")).expect("file");
            Running(command.stderr(errors).spawn().expect("the program starts"))
        }

        fn send(&self, signal: &str) {
            let pid = self.0.id().to_string();
            let kill = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
            assert!(kill.expect("kill").success());
        }

        /// Waits until `holds` is true; the program must not end before.
        fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
            wait(what, || {
                let ended = self.0.try_wait().expect("status");
                assert!(ended.is_none(), "{what}: ended with {ended:?}");
                holds()
            });
        }

        /// Waits for the end; returns the exit code and the text on standard error.
        fn end(&mut self, dir: &Path) -> (Option<i32>, String) {
            let mut status = None;
            wait("the program ends", || {
                status = self.0.try_wait().expect("status");
                status.is_some()
            });
            let words = fs::read_to_string(dir.join("errors")).expect("words");
            (status.and_then(|status| status.code()), words)
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = (self.0.kill(), self.0.wait());
        }
    }

    /// Polls until `holds` is true. The time limit is for a program that hangs.
    fn wait(what: &str, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(120), "never: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn has_logged(run: &Path) -> bool {
        fs::metadata(run.join("log.jsonl")).is_ok_and(|log| log.len() > 0)
    }

    const ENDLESS: &str = "train.steps=100000000";

    #[test]
    fn a_second_training_in_a_folder_is_refused_while_the_first_lives() {
        let dir = folder();
        let run = dir.path().join("r");
        let mut first = Running::start(dir.path(), &["train", "tiny.toml", "run.dir=r", ENDLESS]);
        first.until("a step", || has_logged(&run));
        let recipe = fs::read(run.join("recipe.toml")).expect("recipe");
        let again = ["train", "tiny.toml", "run.dir=r", "train.seed=2"];
        let process = format!("process {}", first.0.id());
        refused(dressage(dir.path(), &again), 1, &["in use", &process, "run.dir"]);
        let resumed = [&again[..], &["--resume"]].concat();
        refused(dressage(dir.path(), &resumed), 1, &["in use", &process]);
        assert!(fs::read(run.join("recipe.toml")).expect("recipe") == recipe);
        // A dead process holds no lock; its log has lines, and they stay.
        first.send("KILL");
        first.end(dir.path());
        assert!(run.join("run.lock").exists() && steps(&run).is_empty());
        done(dressage(dir.path(), &again));
        assert_eq!(steps(&run), [3]);
        assert!(fs::metadata(run.join("log-1.jsonl")).expect("the old log").len() > 0);
        assert!(!run.join("run.lock").exists());
    }

    #[test]
    fn every_signal_that_asks_for_an_end_saves() {
        for (signal, code, setting) in [
            ("INT", 130, "train.save_signal=none"),
            ("TERM", 143, "train.save_signal=none"),
            ("HUP", 129, "train.save_signal=none"),
            ("USR1", 128 + libc::SIGUSR1, "train.save_signal=usr1"),
            ("USR2", 128 + libc::SIGUSR2, "train.save_signal=usr2"),
        ] {
            let dir = folder();
            let run = dir.path().join("runs/tiny");
            let args = ["train", "tiny.toml", ENDLESS, setting];
            let mut running = Running::start(dir.path(), &args);
            running.until("a step", || has_logged(&run));
            running.send(signal);
            let (found, words) = running.end(dir.path());
            assert_eq!(found, Some(code), "{signal}: {words}");
            assert!(words.contains(&format!("SIG{signal}: stopping")), "{words}");
            assert!(words.contains("interrupted: step ") && words.contains("--resume"), "{words}");
            assert_eq!(steps(&run).len(), 1, "{signal}");
        }
    }

    #[test]
    fn a_hang_up_that_is_ignored_stays_ignored() {
        let dir = folder();
        let run = dir.path().join("runs/tiny");
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_dressage");
        command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", program, "train", "tiny.toml"]);
        command.arg(ENDLESS);
        let mut running = Running::of(command, dir.path());
        running.until("a step", || has_logged(&run));
        running.send("HUP");
        let lines = || fs::metadata(run.join("log.jsonl")).expect("log").len();
        let before = lines();
        running.until("more steps", || lines() > before + 1000);
        running.send("TERM");
        assert_eq!(running.end(dir.path()).0, Some(143));
    }

    /// Scores go to a pipe that is never read, so the program blocks after its first signal.
    #[test]
    fn a_second_signal_ends_at_once_and_says_what_is_lost() {
        let dir = folder();
        done(dressage(dir.path(), &["train", "tiny.toml", "train.steps=1", "data.eval=[]"]));
        make_pipe(&dir.path().join("pipe"));
        let set = "data.eval=[{name = 'd', source = 'scenes', count = 1, size = [64, 32]}]";
        let args = ["eval", "runs/tiny", set, "--out", "pipe"];
        let mut running = Running::start(dir.path(), &args);
        let stderr = || fs::read_to_string(dir.path().join("errors")).expect("words");
        running.until("the score", || stderr().contains("done in"));
        running.send("TERM");
        running.until("the first is heard", || stderr().contains("SIGTERM: stopping"));
        // Two signals in quick succession count as one, so this is repeated until it counts.
        wait("the second ends it", || {
            running.0.try_wait().expect("status").is_some() || {
                running.send("TERM");
                false
            }
        });
        let (code, words) = running.end(dir.path());
        assert_eq!(code, Some(143), "{words}");
        assert!(words.contains("ended at once") && words.contains("not written"), "{words}");
    }

    /// A command that saves nothing, while it waits for a reader of its output.
    #[test]
    fn a_signal_ends_other_commands_with_a_sentence() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name).display().to_string();
        make_pipe(Path::new(&at("pipe")));
        done(dressage(dir.path(), &["train", "tiny.toml", "train.steps=1", "data.eval=[]"]));
        let args = ["weights", "export", "runs/tiny", "--out", "pipe"];
        let mut running = Running::start(dir.path(), &args);
        // The listening thread exists once its name is there.
        let tasks = PathBuf::from(format!("/proc/{}/task", running.0.id()));
        if tasks.exists() {
            running.until("it listens", || {
                let threads = fs::read_dir(&tasks).into_iter().flatten().flatten();
                let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
                threads.filter_map(|task| name(task).ok()).any(|name| name.trim() == "signals")
            });
            running.send("TERM");
            let (code, words) = running.end(dir.path());
            assert_eq!(code, Some(143), "{words}");
            assert!(words.contains("SIGTERM: ended at once"), "{words}");
        }
    }

    fn make_pipe(path: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
    }

    /// Opens a pipe for writing if a process waits to read from it.
    fn caught(pipe: &Path) -> Option<fs::File> {
        use rustix::fs::{Mode, OFlags, open};
        open(pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok().map(fs::File::from)
    }

    /// Writes two labelled images below `dir`; returns the setting that trains on them.
    fn pictures(dir: &Path) -> String {
        let (images, labels) = (dir.join("i"), dir.join("l"));
        for i in 0..2u64 {
            let (image, label) = render(1, i, Domain::Day, 64, 32);
            write_image(&images.join(format!("{i}.png")), &image).expect("written");
            let palette = Palette::cityscapes();
            write_label(&labels.join(format!("{i}.png")), &label, &palette).expect("written");
        }
        let [images, labels] = [images, labels].map(|path| path.display().to_string());
        format!("data.train=[{{name = 'f', images = '{images}', labels = '{labels}'}}]")
    }

    /// An image is replaced during the run by a pipe that never delivers data.
    #[test]
    fn a_picture_that_does_not_arrive_keeps_no_state_from_being_saved() {
        let dir = folder();
        let set = pictures(dir.path());
        let run = dir.path().join("runs/tiny");
        let args = ["train", "tiny.toml", ENDLESS, &set, "data.eval=[]"];
        let mut running = Running::start(dir.path(), &args);
        running.until("a step", || has_logged(&run));
        let pipe = dir.path().join("i/0.png");
        fs::remove_file(&pipe).expect("removed");
        make_pipe(&pipe);
        // While it is open, its reader blocks. A reader may also refuse a pipe.
        let (mut pipe_end, mut has_ended) = (None, false);
        wait("the pipe is met", || {
            pipe_end = caught(&pipe);
            has_ended = running.0.try_wait().expect("status").is_some();
            pipe_end.is_some() || has_ended
        });
        if !has_ended {
            running.send("INT");
        }
        let (code, words) = running.end(dir.path());
        assert_eq!(code, Some(if has_ended { 1 } else { 130 }), "{words}");
        assert!(!has_ended || words.contains("i/0.png"), "{words}");
        assert_eq!(steps(&run).len(), 1, "{words}");
    }

    fn limited(dir: &Path, limit: &str, args: &[&str]) -> Output {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_dressage");
        command.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh", program]).args(args);
        command.current_dir(dir).output().expect("the program starts")
    }

    #[test]
    fn limits_of_the_process_end_in_a_sentence() {
        let dir = folder();
        let args = ["train", "tiny.toml", "run.dir=r"];
        // 10 or 20 KiB, as shells differ: more than a recipe has and less than a checkpoint.
        let output = limited(dir.path(), "-f 20", &args);
        refused(output, 1, &["step-000003", "file sizes (ulimit -f)"]);
        assert!(steps(&dir.path().join("r")).is_empty());
        let rests = contents(&dir.path().join("r"));
        assert!(
            rests.iter().all(|(path, _)| path.extension().is_none_or(|end| end != "partial")),
            "{rests:?}"
        );
        done(dressage(dir.path(), &args));
        // From the smallest limit with which a program starts, and some more.
        let mut refusals = 0;
        for files in 4..12 {
            let output = limited(dir.path(), &format!("-n {files}"), &["eval", "r"]);
            let words = err(&output);
            let loads = !words.contains("error while loading shared libraries");
            match output.status.code() {
                Some(1) if loads => {
                    assert_eq!(words.lines().filter(|l| l.starts_with("error: ")).count(), 1);
                    assert!(words.contains("Too many open files"), "{files} files: {words}");
                    refusals += 1;
                }
                Some(0) => {}
                code => assert!(!loads, "{files} files: {code:?} {words}"),
            }
        }
        assert!(refusals > 0, "no limit was met");
        done(limited(dir.path(), "-n 64", &["eval", "r"]));
    }

    #[test]
    fn outputs_keep_links_pipes_and_devices() {
        use std::os::unix::fs::{FileTypeExt as _, symlink};

        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        let run = |args: &[&str]| done(dressage(dir.path(), args));
        run(&["train", "tiny.toml", "run.dir=r", "train.steps=1"]);
        run(&["weights", "export", "r", "--out", "whole.safetensors"]);
        let whole = fs::read(at("whole.safetensors")).expect("weights");
        fs::create_dir(at("far")).expect("folder");
        fs::write(at("far/real.safetensors"), "old").expect("written");
        symlink("far/real.safetensors", at("link.safetensors")).expect("link");
        symlink("far/new.safetensors", at("dangling.safetensors")).expect("link");
        symlink("/dev/null", at("null.safetensors")).expect("link");
        make_pipe(&at("pipe.safetensors"));
        for name in ["link", "dangling", "null"] {
            let out = format!("{name}.safetensors");
            for from in ["export r --out", "convert whole.safetensors"] {
                let args = from.split(' ').chain([&*out]);
                run(&["weights"].into_iter().chain(args).collect::<Vec<_>>());
            }
            assert!(at(&out).is_symlink(), "{name}");
        }
        for name in ["far/real.safetensors", "far/new.safetensors"] {
            assert!(fs::read(at(name)).expect("weights").len() >= whole.len() / 2, "{name}");
        }
        let device = fs::metadata("/dev/null").expect("device");
        assert!(device.file_type().is_char_device());
        let reader = std::thread::spawn({
            let pipe = at("pipe.safetensors");
            move || fs::read(pipe).expect("pipe")
        });
        run(&["weights", "export", "r", "--out", "pipe.safetensors"]);
        assert!(reader.join().expect("thread") == whole);
        let piped = dressage(dir.path(), &["weights", "export", "r", "--out", "/dev/stdout"]);
        assert!(piped.stdout == whole, "{}", err(&piped));

        symlink("far/scores.json", at("scores.json")).expect("link");
        run(&["eval", "r", "--out", "scores.json"]);
        assert!(at("scores.json").is_symlink() && at("far/scores.json").exists());
        let (image, _) = render(1, 7, Domain::Day, 64, 32);
        write_image(&at("a.png"), &image).expect("written");
        symlink("far", at("out")).expect("link");
        symlink("overlay.png", at("far/a_overlay.png")).expect("link");
        run(&["predict", "r", "a.png", "--out", "out"]);
        assert!(at("far/a_overlay.png").is_symlink() && at("far/overlay.png").exists());
        assert!(at("far/a_label.png").is_file());
    }
}
