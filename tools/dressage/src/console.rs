//! Text on standard output and standard error. A closed pipe (`| head`) must not end a training
//! run, so failed writes are not fatal; the first one on standard output is stored.

use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

/// Prints a result of one or several lines to standard output.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        // Only the first one is of interest.
        let _ = LOST.set(error.to_string());
    }
}

/// First failed write to standard output, other than to a closed pipe.
static LOST: OnceLock<String> = OnceLock::new();

/// Returns the reason that standard output lacks a result, such as a full disk.
pub fn lost_output() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Prints a result about a written file. It goes to standard error if the file itself is standard
/// output, such as `/dev/stdout` in a pipeline.
pub fn say_of(file: &Path, text: &str) {
    if is_standard_output(file) { eprint(text) } else { print(text) }
}

#[cfg(unix)]
fn is_standard_output(file: &Path) -> bool {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    let output = std::io::stdout().as_fd().try_clone_to_owned();
    let output = output.and_then(|fd| std::fs::File::from(fd).metadata());
    let same =
        |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    output.is_ok_and(|output| file.metadata().is_ok_and(|file| same(file, output)))
}

#[cfg(not(unix))]
fn is_standard_output(_: &Path) -> bool {
    false
}

/// Prints a line to standard error, with control characters escaped.
pub fn eprint(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", escaped(text));
}

/// Returns `text` on one line, with control characters escaped. Names of files may contain them,
/// and a terminal would execute them.
pub fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_debug()) } else { line.push(c) }
    }
    line
}

/// Prints a warning between two rules to standard error.
pub fn warn(text: &str) {
    let line = "!".repeat(width().min(100));
    [&line, &format!("WARNING: {text}"), &line].into_iter().for_each(|line| eprint(line));
}

/// Width of tables in columns: `COLUMNS` if a shell exports it and it is at least 40, else 100.
pub fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    columns.filter(|c| *c >= 40).unwrap_or(100)
}

/// Returns `n` with its digits in groups of three: `2,990,081`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as `7 s`, `3 min 05 s` or `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_name() {
        assert_eq!(
            escaped("gr\u{fc}n\n\u{1b}[2J\u{9b}1.png"),
            "gr\u{fc}n\\n\\u{1b}[2J\\u{9b}1.png"
        );
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(2_990_081), "2,990,081");
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(185.0), "3 min 05 s");
        assert_eq!(duration(7800.0), "2 h 10 min");
    }
}
