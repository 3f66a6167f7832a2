//! Results of one run, as JSON in the form that the peers write.
//!
//! ```text
//! {"args": .., "environment": .., PART: {"ms": {SPAN: {"median", "min", "max"}}, ..}}
//! {"args": .., "environment": .., PART: [{"name", "fwd_us": {..}, "bwd_us": {..} or null}, ..]}
//! ```
//! The first form is for whole networks, the second for single operations.

use serde_json::{Map, Value, json};

use super::case::{Case, Part};
use crate::failure::Failure;

/// Statistics of the times of several runs, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// Median.
    pub median: f64,
    /// Minimum.
    pub min: f64,
    /// Maximum.
    pub max: f64,
}

impl Stat {
    /// Computes the statistics of values.
    pub fn of(values: &[f64]) -> Stat {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let median = (at(n.saturating_sub(1) / 2) + at(n / 2)) / 2.0;
        Stat { median, min: at(0), max: at(n.saturating_sub(1)) }
    }

    /// Combines several runs: the median of medians, the minimum, the maximum.
    pub fn over(runs: &[Stat]) -> Stat {
        let of = |f: fn(&Stat) -> f64| Stat::of(&runs.iter().map(f).collect::<Vec<_>>());
        Stat { median: of(|s| s.median).median, min: of(|s| s.min).min, max: of(|s| s.max).max }
    }

    /// Returns the three values as JSON, each times `factor`.
    pub fn json(&self, factor: f64) -> Value {
        let [median, min, max] = [self.median, self.min, self.max].map(|v| v * factor);
        json!({"median": median, "min": min, "max": max})
    }

    /// Parses the output of [`Stat::json`].
    pub fn read(value: &Value, factor: f64) -> Option<Stat> {
        let of = |key: &str| Some(value.get(key)?.as_f64()? * factor);
        Some(Stat { median: of("median")?, min: of("min")?, max: of("max")? })
    }
}

/// A timed part of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// Its time in milliseconds.
    pub ms: Stat,
    /// Floating-point operations of its products; 0 if it has none or they are not counted.
    pub flops: f64,
    /// Bytes that it must read and write, each counted once; 0 if arithmetic bounds it.
    pub bytes: f64,
}

/// Results of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Timed parts, in order.
    pub spans: Vec<Span>,
    /// Peak memory of the process in bytes.
    pub peak: Option<usize>,
}

/// Suffix of the name of an operation for its backward pass.
pub const BACKWARD: &str = ", backward";

impl Figures {
    /// Returns the value of the part's key in JSON.
    fn part(&self, case: &Case) -> Value {
        let peak = self.peak.map(|bytes| bytes as f64 / f64::from(1 << 20));
        if matches!(case.part, Part::Step | Part::Backbone | Part::Forward | Part::Block) {
            let of = |f: fn(&Span) -> Value| {
                Value::Object(self.spans.iter().map(|s| (s.name.clone(), f(s))).collect())
            };
            let ms = of(|s| s.ms.json(1.0));
            return json!({"ms": ms, "flops": of(|s| json!(s.flops)), "peak_rss_mib": peak});
        }
        let backward = |name: &str| {
            let name = format!("{name}{BACKWARD}");
            self.spans.iter().find(|s| s.name == name)
        };
        let forward = self.spans.iter().filter(|s| !s.name.ends_with(BACKWARD));
        let row = |s: &Span| {
            let back = backward(&s.name);
            json!({
                "name": s.name,
                "fwd_us": s.ms.json(1e3),
                "bwd_us": back.map(|b| b.ms.json(1e3)),
                "fwd_tflops": s.flops / s.ms.median * 1e-9,
                "bwd_tflops": back.map(|b| b.flops / b.ms.median * 1e-9),
                "fwd_gbs": s.bytes / s.ms.median * 1e-6,
                "flops": s.flops,
                "bwd_flops": back.map(|b| b.flops),
                "bytes": s.bytes,
                "peak_rss_mib": peak,
            })
        };
        Value::Array(forward.map(row).collect())
    }

    /// Returns the content of a file of results.
    pub fn json(&self, case: &Case, threads: usize) -> Value {
        self.json_on("cpu", case, threads)
    }

    /// Returns the content of a file of results of another device.
    pub fn json_on(&self, device: &str, case: &Case, threads: usize) -> Value {
        let [depth, width, heads] = case.sizes();
        let args = json!({
            "part": case.part.name(), "precision": case.precision, "device": device,
            "batch": case.batch, "size": case.size, "depth": depth,
            "width": width, "heads": heads, "iters": case.iters,
            "warmup": case.warmup, "recompute": case.recompute, "model": case.model,
            "method": case.method.to_string(),
        });
        let environment = json!({
            "dressage": env!("CARGO_PKG_VERSION"), "threads": threads,
            "os": std::env::consts::OS, "arch": std::env::consts::ARCH,
            "vectors": dressage_kernels::cpu::simd::level().to_string(),
        });
        let mut all = Map::new();
        all.insert("args".into(), args);
        all.insert("environment".into(), environment);
        all.insert(case.part.name(), self.part(case));
        Value::Object(all)
    }

    /// Reads the results in a file that this program or a peer wrote.
    ///
    /// # Errors
    /// A file without times of the part.
    pub fn read(file: &Value, part: Part) -> Result<Figures, Failure> {
        let name = part.name();
        let own = [&file[&name], &file[&name][0]].map(|part| part["peak_rss_mib"].as_f64());
        let peak = own.into_iter().flatten().next().map(|mib| (mib * f64::from(1 << 20)) as usize);
        let mut found = Figures { spans: Vec::new(), peak };
        match &file[&name] {
            Value::Array(rows) => rows.iter().for_each(|row| found.read_row(row)),
            whole => {
                let times = whole["ms"].as_object().into_iter().flatten();
                for (name, ms) in times {
                    let flops = whole["flops"][name].as_f64().unwrap_or(0.0);
                    let span = |ms| Span { name: name.clone(), ms, flops, bytes: 0.0 };
                    found.spans.extend(Stat::read(ms, 1.0).map(span));
                }
            }
        }
        if found.spans.is_empty() {
            return Err(Failure::Message(format!("the program wrote no times for `{name}`")));
        }
        Ok(found)
    }

    /// Reads an operation, forward and backward.
    fn read_row(&mut self, row: &Value) {
        let name = row["name"].as_str().unwrap_or_default();
        let number = |key: &str| row[key].as_f64().unwrap_or(0.0);
        let (flops, bytes) = (number("flops"), number("bytes"));
        let forward = Stat::read(&row["fwd_us"], 1e-3);
        self.spans.extend(forward.map(|ms| Span { name: name.into(), ms, flops, bytes }));
        let flops = number("bwd_flops");
        let backward = |ms| Span { name: format!("{name}{BACKWARD}"), ms, flops, bytes: 0.0 };
        self.spans.extend(Stat::read(&row["bwd_us"], 1e-3).map(backward));
    }

    /// Returns the span to compare with `name`. This is the span of that name, else the fastest one
    /// whose name begins with it: a peer tries several ways for some operations.
    pub fn matching_span(&self, name: &str) -> Option<&Span> {
        if let Some(exact) = self.spans.iter().find(|s| s.name == name) {
            return Some(exact);
        }
        let (stem, back) = match name.strip_suffix(BACKWARD) {
            Some(stem) => (stem, true),
            None => (name, false),
        };
        let fits = |s: &&Span| s.name.starts_with(stem) && s.name.ends_with(BACKWARD) == back;
        let order = |a: &&Span, b: &&Span| a.ms.median.total_cmp(&b.ms.median);
        self.spans.iter().filter(fits).min_by(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, median: f64) -> Span {
        let ms = Stat { median, min: median - 1.0, max: median + 1.0 };
        Span { name: name.into(), ms, flops: 8e9, bytes: 0.0 }
    }

    #[test]
    fn statistics_of_runs() {
        let stat = Stat::of(&[3.0, 1.0, 2.0, 10.0]);
        assert_eq!(stat, Stat { median: 2.5, min: 1.0, max: 10.0 });
        let over = Stat::over(&[stat, Stat::of(&[0.5]), Stat::of(&[4.0])]);
        assert_eq!(over, Stat { median: 2.5, min: 0.5, max: 10.0 });
        assert!(Stat::of(&[]).median.is_nan());
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let case = |part| Case::new(part, "s", 64).expect("a case");
        let peak = Some(3 << 20);
        let whole = Figures { spans: vec![span("a", 4.0), span("b", 2.0)], peak };
        let json = whole.json(&case(Part::Block), 2);
        assert_eq!(json["block"]["peak_rss_mib"], 3.0);
        assert_eq!(Figures::read(&json, Part::Block).expect("figures"), whole);
        let spans = vec![span("x", 4.0), span("x, backward", 5.0), span("y", 2.0)];
        let rows = Figures { spans, peak };
        let json = rows.json(&case(Part::Gemm), 2);
        assert_eq!(json["gemm"][0]["bwd_us"]["median"], 5000.0);
        assert_eq!(json["gemm"][0]["fwd_tflops"], 2e-3 * 1e3);
        let read = Figures::read(&json, Part::Gemm).expect("figures");
        let close = |a: &Span, b: &Span| (a.ms.median - b.ms.median).abs() < 1e-9;
        assert_eq!(read.peak, peak);
        assert!(read.spans.iter().zip(&rows.spans).all(|(a, b)| a.name == b.name && close(a, b)));
        assert!(Figures::read(&json, Part::Step).is_err());
    }

    #[test]
    fn the_fastest_way_of_a_peer_counts() {
        let spans = vec![
            span("vit, math", 9.0),
            span("vit, math, backward", 1.0),
            span("vit, flash", 3.0),
            span("vit", 20.0),
        ];
        let mut peer = Figures { spans, peak: None };
        assert_eq!(peer.matching_span("vit").map(|s| s.ms.median), Some(20.0));
        peer.spans.pop();
        assert_eq!(peer.matching_span("vit").map(|s| s.ms.median), Some(3.0));
        assert_eq!(peer.matching_span("vit, backward").map(|s| s.ms.median), Some(1.0));
        assert!(peer.matching_span("sam").is_none());
    }
}
