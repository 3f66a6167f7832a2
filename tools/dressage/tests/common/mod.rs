//! Running the program, and a recipe small enough for a test.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program in `dir`.
pub fn dressage(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dressage"))
        .args(args)
        .current_dir(dir)
        .env_remove("COLUMNS")
        .output()
        .expect("the program starts")
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Asserts success and an output without control characters; the message has the program's output.
pub fn done(output: Output) -> String {
    let (stdout, stderr) = (out(&output), err(&output));
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    for text in [&stdout, &stderr] {
        let control = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(control, None, "{text:?}");
    }
    stdout
}

/// Asserts failure with `code` and one sentence that contains all of `words`.
#[track_caller]
pub fn refused(output: Output, code: i32, words: &[&str]) {
    let text = err(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

/// Recipe with four blocks of 24 channels and two drawn sets.
pub const TINY: &str = r#"
about = "A network of a few thousand weights"

[model]
backbone = "custom"
weights = "random"
method = "rein"
embed_dim = 24
depth = 4
heads = 2
patch = 8
taps = [0, 1, 2, 3]

[head]
width = 16
queries = 20
heads = 2
encoder_layers = 1
encoder_ffn = 16
decoder_layers = 1
decoder_ffn = 16
norm_groups = 4

[rein]
rank = 4

[loss]
points = 32

[augment]
crop = 32
ratios = [1.0]

[train]
steps = 3
batch = 1
log_every = 1

[run]
device = "cpu"
threads = 1
workers = 1

[[data.train]]
name = "day"
source = "scenes"
count = 4
size = [64, 32]

[[data.eval]]
name = "day"
source = "scenes"
count = 2
first = 100
size = [64, 32]

[[data.eval]]
name = "fog"
source = "scenes"
count = 1
first = 100
size = [64, 32]
domain = "fog"
"#;
