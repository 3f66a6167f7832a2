//! Tables in Markdown, ready to be copied into documents.

use std::fmt::Write as _;

use dressage_kernels::check::roofline::Roofline;
use dressage_kernels::check::verify::{self, Summary};

use super::found::{Bound, FolderResult, Time};
use crate::commands::bench::table::{line, titles};
use crate::console::grouped;

/// Maximum number of listed failures for each folder.
const LISTED: usize = 5;

/// Returns the table of worst errors.
pub fn verifications(found: &[FolderResult]) -> String {
    let mut text = titles(&["kernel", "shapes", "values", "worst error / bound", "holds"]);
    for Summary { kernel, shapes, values, worst, holds } in
        found.iter().flat_map(|found| verify::summary(&found.outcomes))
    {
        let holds = if holds { "yes" } else { "NO" };
        let cells = [kernel.into(), few(&shapes), grouped(values), format!("{worst:.3}")];
        text += &line(&[&cells[..], &[holds.into()]].concat());
    }
    for found in found {
        let all = found.failures().count();
        for (what, why) in found.failures().take(LISTED) {
            let _ = write!(text, "\n{what}: {why}");
        }
        if all > LISTED {
            let _ = write!(text, "\n{}: {} more", found.name, all - LISTED);
        }
        if let Some(why) = &found.untimed {
            let _ = write!(text, "\n{}: could not be timed: {why}", found.name);
        }
    }
    let comparisons: usize = found.iter().map(|f| f.outcomes.len()).sum();
    let right = found.iter().filter(|f| f.holds()).count();
    let _ = write!(
        text,
        "\n{comparisons} comparisons; the kernels of {right} of {} folders are right\n",
        found.len()
    );
    text
}

/// Returns the first shapes, and the number of the others.
fn few(shapes: &[&str]) -> String {
    match shapes {
        [] | [_] | [_, _] => shapes.join(", "),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn flops(gflops: f64) -> String {
    match gflops >= 1000.0 {
        true => format!("{:.1} TFLOP/s", gflops * 1e-3),
        false => format!("{gflops:.0} GFLOP/s"),
    }
}

/// Returns the table of times, rates and shares of the roofline.
pub fn times(found: &[FolderResult], limit: &Roofline) -> String {
    let mut text =
        format!("limits: arithmetic {}, a copy {:.0} GB/s\n", flops(limit.gflops), limit.gbytes);
    let times: Vec<&Time> = found.iter().flat_map(|found| &found.times).collect();
    if times.is_empty() {
        return text;
    }
    text += "\n";
    text += &titles(&["kernel", "shape", "us: median (best-worst)", "rate", "of the limit"]);
    for time in times {
        let us = |ms: f64| format!("{:.1}", ms * 1e3);
        let spread = format!("{} ({}-{})", us(time.ms.median), us(time.ms.min), us(time.ms.max));
        let (bound, share) = time.share(limit);
        let rate = match bound {
            Bound::Arithmetic => flops(time.gflops()),
            Bound::Memory => format!("{:.0} GB/s", time.gbytes()),
        };
        let share = format!("{:.0} %", 100.0 * share);
        text += &line(&[time.name.clone(), time.shape.clone(), spread, rate, share]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dressage_kernels::KernelError;
    use dressage_kernels::check::verify::{Outcome, Timed};

    fn outcome(what: &str, worst: f64, failure: Option<&str>) -> Outcome {
        Outcome { what: what.into(), values: 1000, worst, failure: failure.map(String::from) }
    }

    #[test]
    fn rates_are_compared_with_their_limits() {
        let limit = Roofline { gflops: 800e3, gbytes: 4000.0 };
        let time = |flops, bytes| {
            Time::new(&Timed::new("k", "[8]", flops, bytes, || Ok(())), &[2e-3, 1e-3, 4e-3])
        };
        let mut found = FolderResult::new("k", vec![outcome("k [8]: y", 0.25, None)]);
        found.time(Ok(vec![time(800_000_000_000, 1), time(1, 2_000_000_000)]));
        assert!(found.holds());
        let text = times(&[found], &limit);
        assert!(text.contains("| 2000.0 (1000.0-4000.0) | 400.0 TFLOP/s | 50 % |"), "{text}");
        assert!(text.contains("| 1000 GB/s | 25 % |"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = outcome("a [2]: y", f64::INFINITY, Some("element 1 is 2, not 3"));
        let a = FolderResult::new("a", vec![outcome("a [1]: y", 0.5, None), wrong]);
        let mut b = FolderResult::new("b", vec![outcome("b [1]: y", 0.5, None)]);
        b.time(Err(KernelError::Size { op: "b", what: "too large".into() }));
        assert!(!a.holds() && !b.holds());
        assert!(!FolderResult::new("c", Vec::new()).holds());
        let json = a.json(None);
        assert_eq!(json["kernels"][0]["worst"], serde_json::Value::Null);
        assert_eq!(json["failures"][0]["why"], "element 1 is 2, not 3");
        let text = verifications(&[a, b]);
        assert!(text.contains("| a | [1], [2] | 2,000 | inf | NO |"), "{text}");
        assert!(text.contains("\na [2]: y: element 1 is 2, not 3"), "{text}");
        assert!(text.contains("\nb: could not be timed: b: too large"), "{text}");
        assert!(text.contains("3 comparisons; the kernels of 0 of 2 folders"), "{text}");
    }
}
