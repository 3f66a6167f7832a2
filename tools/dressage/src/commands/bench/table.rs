//! Tables in Markdown, ready to be copied into documents.

use dressage_kernels::check::roofline::Roofline;

use super::case::Case;
use super::figures::{Figures, Span, Stat};

/// Results of one case: a run of each program for each round.
pub struct Row<'a> {
    /// The case.
    pub case: &'a Case,
    /// Runs of this program.
    pub here: Vec<Figures>,
    /// Runs of the peer; empty if there is none.
    pub peer: Vec<Figures>,
}

/// Formats milliseconds with a readable number of digits.
fn ms(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.4}"),
    }
}

/// Formats a median with its spread.
fn spread(s: &Stat) -> String {
    format!("{} ({}-{})", ms(s.median), ms(s.min), ms(s.max))
}

/// Returns the rate of a span and its share of the machine's rate.
fn rate(span: &Span, median: f64, ceiling: &Roofline) -> [String; 2] {
    let per_second = |amount: f64| amount / median * 1e-6;
    let (flops, bytes) = (per_second(span.flops), per_second(span.bytes));
    let (arithmetic, memory) = (flops / ceiling.gflops, bytes / ceiling.gbytes);
    // The limit with the higher share bounds the span.
    let (rate, share) = if arithmetic >= memory {
        (format!("{flops:.0} GFLOP/s"), arithmetic)
    } else {
        (format!("{bytes:.1} GB/s"), memory)
    };
    match share > 0.0 {
        true => [rate, format!("{:.0} %", 100.0 * share)],
        false => ["".into(), "".into()],
    }
}

fn mib(bytes: usize) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Returns a row of a table.
pub fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// Returns the first two rows of a table.
pub fn titles(titles: &[&str]) -> String {
    let rule = vec!["---"; titles.len()].join("|");
    format!("| {} |\n|{rule}|\n", titles.join(" | "))
}

/// Returns the table of this program's runs.
pub fn alone(rows: &[Row<'_>], ceiling: &Roofline) -> String {
    let mut text = titles(&["what", "span", "ms: median (best-worst)", "rate", "of the limit"]);
    for row in rows {
        let found = row.here.iter();
        for span in found.clone().flat_map(|f| &f.spans) {
            let [rate, share] = rate(span, span.ms.median, ceiling);
            let cells = [row.case.title(), span.name.clone(), spread(&span.ms), rate, share];
            text += &line(&cells);
        }
        if let Some(peak) = found.filter_map(|f| f.peak).max() {
            let cells = [row.case.title(), "peak memory".into(), mib(peak)];
            text += &line(&[&cells[..], &["".into(), "".into()]].concat());
        }
    }
    text
}

/// Returns the table that compares runs of this program with those of a peer.
pub fn comparison(rows: &[Row<'_>], ceiling: &Roofline) -> String {
    let mut text = titles(&[
        "what",
        "span",
        "here, ms: median (best-worst)",
        "rate",
        "of the limit",
        "peer, ms",
        "peer / here: median",
        "best",
    ]);
    for row in rows {
        let Some(first) = row.here.first() else { continue };
        for span in &first.spans {
            let named = |f: &Figures| f.matching_span(&span.name).map(|s| s.ms);
            let here = Stat::over(&row.here.iter().filter_map(named).collect::<Vec<_>>());
            let theirs: Vec<Stat> = row.peer.iter().filter_map(named).collect();
            let [rate, share] = rate(span, here.median, ceiling);
            let mut cells = vec![row.case.title(), span.name.clone(), spread(&here), rate, share];
            match theirs.is_empty() {
                true => cells.extend(["", "", ""].map(String::from)),
                false => {
                    let peer = Stat::over(&theirs);
                    cells.push(spread(&peer));
                    cells.push(format!("{:.2}", peer.median / here.median));
                    cells.push(format!("{:.2}", peer.min / here.min));
                }
            }
            text += &line(&cells);
        }
        let peak = |runs: &[Figures]| runs.iter().filter_map(|f| f.peak).max();
        if let (Some(here), Some(peer)) = (peak(&row.here), peak(&row.peer)) {
            let ratio = format!("{:.2}", peer as f64 / here as f64);
            let empty = String::new();
            let (title, what) = (row.case.title(), "peak memory".to_owned());
            let (e, none) = (empty.clone(), empty.clone());
            text += &line(&[title, what, mib(here), e, none, mib(peer), ratio, empty]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::case::Part;
    use super::*;

    #[test]
    fn ratios_are_the_peers_time_by_ours() {
        let case = Case::new(Part::Block, "s", 64).expect("a case");
        let figures = |median: f64, peak: usize| Figures {
            spans: vec![Span {
                name: "inference".into(),
                ms: Stat { median, min: median / 2.0, max: 2.0 * median },
                flops: 1e9,
                bytes: 0.0,
            }],
            peak: Some(peak << 20),
        };
        let (here, peer) = (vec![figures(20.0, 10)], vec![figures(50.0, 40)]);
        let ceiling = Roofline { gflops: 100.0, gbytes: 10.0 };
        let rows = [Row { case: &case, here, peer }];
        let text = comparison(&rows, &ceiling);
        let spans = "| inference | 20.0 (10.0-40.0) | 50 GFLOP/s | 50 % | 50.0 (25.0-100) | 2.50 |";
        assert!(text.contains(spans), "{text}");
        assert!(text.contains("| peak memory | 10 MiB |  |  | 40 MiB | 4.00 |"), "{text}");
        assert!(alone(&rows, &ceiling).contains("| 20.0 (10.0-40.0) | 50 GFLOP/s | 50 % |"));
    }
}
