//! The stand-in, as programs meet it: each test starts a process of its own with the library on the
//! loader's path, and looks at how it ends and what the library says.

mod capture;
mod delay;
mod facade;
mod graphs;
mod launches;
mod products;
mod proofs;
mod rules;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// How a process ended.
struct Ended {
    passed: bool,
    /// What the library said, without its name.
    said: Vec<String>,
    text: String,
}

impl Ended {
    /// The process passed and the library had nothing to say.
    #[track_caller]
    fn quietly(self) {
        assert!(self.passed && self.said.is_empty(), "{}", self.text);
    }

    /// The process passed.
    #[track_caller]
    fn well(self) -> Vec<String> {
        assert!(self.passed, "{}", self.text);
        self.said
    }

    /// The library ended the process with one sentence, in which these words are.
    #[track_caller]
    fn undefined(self, words: &str) {
        let last = self.said.last().map_or("", String::as_str);
        let ended = last.starts_with("undefined behaviour: ") && last.contains(words);
        assert!(!self.passed && ended, "{}", self.text);
    }
}

/// The folder with the names that programs look for.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ptx-driver");
        let library = ptx_driver::built().expect("cargo builds the library before its tests");
        ptx_driver::link(&library, &folder).expect("links can be made");
        folder
    })
}

/// Runs an ignored test of this program in a process of its own.
fn run(test: &str, variables: &[(&str, &str)]) -> Ended {
    run_at(Some(folder()), test, variables)
}

/// As [`run`], with another folder on the loader's path, or none.
fn run_at(folder: Option<&Path>, test: &str, variables: &[(&str, &str)]) -> Ended {
    let program = std::env::current_exe().expect("a test knows where it is");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env_remove("LD_LIBRARY_PATH").env_remove("CUDA_LAUNCH_BLOCKING");
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command.envs(variables.iter().copied());
    let output = command.output().expect("a test can be started");
    let (out, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("running 1 test"), "there is no test {test}: {out}");
    let said = errors.lines().filter_map(|line| line.strip_prefix("ptx-driver: "));
    let said = said.map(str::to_owned).collect();
    Ended { passed: output.status.success(), said, text: format!("{test}\n{out}\n{errors}") }
}
