//! The stand-in as programs see it. Each test starts a process with the library on the loader's
//! path, and checks how it ends and what the library prints.

mod capture;
mod delay;
mod facade;
mod graphs;
mod launches;
mod products;
mod rules;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Result of a process.
struct Ended {
    passed: bool,
    /// Lines that the library printed, without its name.
    messages: Vec<String>,
    text: String,
}

impl Ended {
    /// Asserts that the process passed and the library printed nothing.
    #[track_caller]
    fn quietly(self) {
        assert!(self.passed && self.messages.is_empty(), "{}", self.text);
    }

    /// Asserts that the process passed; returns the lines of the library.
    #[track_caller]
    fn well(self) -> Vec<String> {
        assert!(self.passed, "{}", self.text);
        self.messages
    }

    /// Asserts that the library ended the process with one sentence that contains these words.
    #[track_caller]
    fn undefined(self, words: &str) {
        let last = self.messages.last().map_or("", String::as_str);
        let ended = last.starts_with("undefined behaviour: ") && last.contains(words);
        assert!(!self.passed && ended, "{}", self.text);
    }
}

/// Returns the folder with the names that programs look for.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ptx-driver");
        let library = ptx_driver::built().expect("cargo builds the library before its tests");
        ptx_driver::link(&library, &folder).expect("links can be made");
        folder
    })
}

/// Variable with the name of the function that a child process runs.
const CHILD: &str = "PTX_DRIVER_TEST_CHILD";

/// A table of functions by their paths.
macro_rules! table {
    ($($module:ident :: $function:ident,)*) => {
        &[$((concat!(stringify!($module), "::", stringify!($function)), $module::$function),)*]
    };
}

/// Functions that run in processes of their own: the loader's path and the library's state belong
/// to a process.
const CHILDREN: &[(&str, fn())] = table![
    capture::child_replay,
    capture::child_forbidden,
    capture::child_threads,
    capture::child_unloaded,
    capture::child_freed_source,
    capture::child_freed_memory,
    delay::child_order,
    delay::child_changed,
    delay::child_freed,
    delay::child_unloaded,
    delay::child_events,
    facade::child_kernels,
    facade::child_products,
    facade::child_no_device,
    facade::child_memory,
    facade::child_fault,
    facade::child_threads,
    facade::child_unfused,
    graphs::child_step,
    graphs::child_retained,
    graphs::child_copies,
    launches::child_arguments,
    launches::child_limits,
    launches::child_ptx,
    products::child_meaning,
    products::child_epilogues,
    products::child_mask,
    products::child_refusals,
    products::child_wrong_epilogues,
    verify::child_verifications,
    rules::child_codes,
    rules::child_destroyed_stream,
    rules::child_destroyed_event,
    rules::child_wrong_kind,
    rules::child_no_handle,
    rules::child_leaks,
    rules::child_words,
];

/// Entry of a child process. In the parent process it checks that the table lists each function
/// once.
#[test]
fn child() {
    let Ok(name) = std::env::var(CHILD) else {
        let names: BTreeSet<&str> = CHILDREN.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), CHILDREN.len());
        return;
    };
    let found = CHILDREN.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no child {name}")).1();
}

/// Runs a function of [`CHILDREN`] in a process of its own.
fn run(test: &str, variables: &[(&str, &str)]) -> Ended {
    run_at(Some(folder()), test, variables)
}

/// Like [`run`], with another folder on the loader's path, or none.
fn run_at(folder: Option<&Path>, test: &str, variables: &[(&str, &str)]) -> Ended {
    let program = std::env::current_exe().expect("a test knows where it is");
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CHILD, test);
    command.env_remove("LD_LIBRARY_PATH").env_remove("CUDA_LAUNCH_BLOCKING");
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command.envs(variables.iter().copied());
    let output = command.output().expect("a test can be started");
    let (out, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("running 1 test"), "no process took {test}: {out}");
    assert!(!errors.contains("there is no child"), "{errors}");
    let messages = errors.lines().filter_map(|line| line.strip_prefix("ptx-driver: "));
    let messages = messages.map(str::to_owned).collect();
    Ended { passed: output.status.success(), messages, text: format!("{test}\n{out}\n{errors}") }
}
