//! Results for the kernels of one folder.

use dressage_kernels::KernelError;
use dressage_kernels::check::roofline::Roofline;
use dressage_kernels::check::verify::{self, Outcome, Timed};
use serde_json::{Value, json};

use crate::commands::bench::figures::Stat;

/// Verifications and times of one folder.
pub struct FolderResult {
    /// The folder.
    pub name: &'static str,
    /// All comparisons.
    pub outcomes: Vec<Outcome>,
    /// Times, only on a real GPU.
    pub times: Vec<Time>,
    /// Reason that the kernels were not timed.
    pub untimed: Option<String>,
}

/// Time of a kernel.
pub struct Time {
    /// The kernel.
    pub name: String,
    /// Its sizes.
    pub shape: String,
    /// Milliseconds.
    pub ms: Stat,
    flops: f64,
    bytes: f64,
}

/// Limit of a kernel's speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Rate of arithmetic.
    Arithmetic,
    /// Rate of memory.
    Memory,
}

impl Time {
    /// Returns the time of runs that took these seconds.
    pub fn new(timed: &Timed<'_>, seconds: &[f64]) -> Time {
        let ms: Vec<f64> = seconds.iter().map(|s| s * 1e3).collect();
        let (flops, bytes) = (timed.flops as f64, timed.bytes as f64);
        let (name, shape) = (timed.name.clone(), timed.shape.clone());
        Time { name, shape, ms: Stat::of(&ms), flops, bytes }
    }

    /// Parses the output of [`Time::json`].
    fn read(value: &Value) -> Option<Time> {
        let text = |key: &str| Some(value[key].as_str()?.to_owned());
        let number = |key: &str| value[key].as_f64();
        Some(Time {
            name: text("name")?,
            shape: text("shape")?,
            ms: Stat::read(&value["ms"], 1.0)?,
            flops: number("flops")?,
            bytes: number("bytes")?,
        })
    }

    /// Rate in 10^9 operations a second.
    pub fn gflops(&self) -> f64 {
        self.flops / self.ms.median * 1e-6
    }

    /// Rate in 10^9 bytes a second.
    pub fn gbytes(&self) -> f64 {
        self.bytes / self.ms.median * 1e-6
    }

    /// Returns the limit that bounds the kernel, and the share of it that is reached.
    pub fn share(&self, limit: &Roofline) -> (Bound, f64) {
        let (arithmetic, memory) = (self.gflops() / limit.gflops, self.gbytes() / limit.gbytes);
        match arithmetic > memory {
            true => (Bound::Arithmetic, arithmetic),
            false => (Bound::Memory, memory),
        }
    }

    fn json(&self, limit: Option<&Roofline>) -> Value {
        json!({
            "name": self.name,
            "shape": self.shape,
            "ms": self.ms.json(1.0),
            "flops": self.flops,
            "bytes": self.bytes,
            "tflops": self.gflops() * 1e-3,
            "gbytes_per_s": self.gbytes(),
            "of_the_limit": limit.map(|limit| self.share(limit).1),
        })
    }
}

impl FolderResult {
    /// Returns results without times.
    pub fn new(name: &'static str, outcomes: Vec<Outcome>) -> FolderResult {
        FolderResult { name, outcomes, times: Vec::new(), untimed: None }
    }

    /// Adds the times, or the reason that there are none.
    pub fn time(&mut self, times: Result<Vec<Time>, KernelError>) {
        match times {
            Ok(times) => self.times = times,
            Err(error) => self.untimed = Some(error.to_string()),
        }
    }

    /// Whether every comparison holds and every kernel that was to be timed ran.
    pub fn holds(&self) -> bool {
        let verified = !self.outcomes.is_empty() && self.failures().next().is_none();
        verified && self.untimed.is_none()
    }

    /// Returns the failed comparisons: what, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        let wrong = |o: &'_ Outcome| o.failure.is_some();
        let wrong = self.outcomes.iter().filter(move |o| wrong(o));
        wrong.map(|o| (o.what.as_str(), o.failure.as_deref().unwrap_or_default()))
    }

    /// Parses the output of [`FolderResult::json`] and [`FolderResult::outcomes_json`].
    pub fn read(name: &'static str, value: &Value) -> Option<FolderResult> {
        let outcome = |value: &Value| {
            Some(Outcome {
                what: value["what"].as_str()?.to_owned(),
                values: value["values"].as_u64()? as usize,
                worst: value["worst"].as_f64().unwrap_or(f64::INFINITY),
                failure: value["failure"].as_str().map(str::to_owned),
            })
        };
        let outcomes = value["outcomes"].as_array()?.iter().map(outcome).collect::<Option<_>>()?;
        let times = value["timed"].as_array()?.iter().map(Time::read).collect::<Option<_>>()?;
        let untimed = value["not_timed"].as_str().map(str::to_owned);
        Some(FolderResult { name, outcomes, times, untimed })
    }

    /// Returns every comparison as JSON.
    pub fn outcomes_json(&self) -> Value {
        let outcome = |o: &Outcome| {
            let (what, failure) = (&o.what, &o.failure);
            json!({"what": what, "values": o.values, "worst": o.worst, "failure": failure})
        };
        Value::Array(self.outcomes.iter().map(outcome).collect())
    }

    /// Returns the results as JSON; infinite errors are null.
    pub fn json(&self, limit: Option<&Roofline>) -> Value {
        let kernels = verify::summary(&self.outcomes);
        let kernels = kernels.iter().map(|s| {
            json!({
                "kernel": s.kernel, "shapes": s.shapes, "values": s.values,
                "worst": s.worst, "holds": s.holds,
            })
        });
        let failures = self.failures().map(|(what, why)| json!({"what": what, "why": why}));
        json!({
            "folder": self.name,
            "holds": self.holds(),
            "comparisons": self.outcomes.len(),
            "kernels": kernels.collect::<Vec<_>>(),
            "failures": failures.collect::<Vec<_>>(),
            "timed": self.times.iter().map(|t| t.json(limit)).collect::<Vec<_>>(),
            "not_timed": self.untimed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let outcome = |what: &str, worst: f64, failure: Option<&str>| Outcome {
            what: what.into(),
            values: 7,
            worst,
            failure: failure.map(str::to_owned),
        };
        let wrong = outcome("k_f32 [2]: y", f64::INFINITY, Some("element 1 is 2, not 3"));
        let mut found = FolderResult::new("k", vec![outcome("k_f32 [1]: y", 0.5, None), wrong]);
        found.time(Ok(vec![Time::new(&Timed::new("k", "[8]", 80, 16, || Ok(())), &[2e-3, 1e-3])]));
        let mut json = found.json(None);
        assert!(FolderResult::read("k", &json).is_none(), "without every comparison");
        json["outcomes"] = found.outcomes_json();
        let read = FolderResult::read("k", &json).expect("read");
        assert_eq!(read.outcomes, found.outcomes);
        assert_eq!((read.times.len(), read.times[0].ms), (1, found.times[0].ms));
        assert_eq!((read.holds(), read.untimed), (false, None));
    }
}
