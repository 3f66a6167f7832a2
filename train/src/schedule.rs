//! The learning rate of each step, and other values that change with the steps.
//!
//! ```text
//! warm-up   lr(i) = lr * (start + (1 - start) * x)
//! poly      lr(i) = (lr - floor) * (1 - x)^power + floor          x = (i - begin) / (end - begin - 1)
//! cosine    lr(i) = (lr - floor) * (1 + cos(pi x)) / 2 + floor
//! ```
//! `i` counts from 0. A segment acts from `begin` on and keeps its last value from `end - 1` on.
//! The divisor is one less than the number of steps, so the last of 40,000 steps runs at exactly
//! the floor. Segments act one after the other in the order of the list. Source: spec
//! training-and-data §1.3. The reference multiplies from step to step instead, which differs from
//! these formulas by rounding only (below 1e-11 of the value over 40,000 steps).
//!
//! Powers and cosines come from the `libm` crate, not from the platform, so that a rate is bitwise
//! equal everywhere.

/// One piece of a schedule; it acts on steps `begin..end`, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Segment {
    /// Straight line from `start` times the rate up to the rate.
    WarmUp {
        /// Factor at step `begin`.
        start: f64,
        /// First step.
        begin: u64,
        /// One past the last step.
        end: u64,
    },
    /// Polynomial decay from the rate down to `floor`.
    Poly {
        /// Exponent, 0.9 in all published recipes.
        power: f64,
        /// Rate from step `end - 1` on (`eta_min`).
        floor: f64,
        /// First step.
        begin: u64,
        /// One past the last step.
        end: u64,
    },
    /// Half a cosine from the rate to `floor`, which may be above it.
    Cosine {
        /// Rate from step `end - 1` on.
        floor: f64,
        /// First step.
        begin: u64,
        /// One past the last step.
        end: u64,
    },
}

/// What one update takes from the schedules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate before the multipliers of the parameter groups.
    pub lr: f64,
    /// Weight decay before these multipliers.
    pub weight_decay: f64,
    /// Rate of the average of the weights; 1 makes it equal to them.
    pub average: f64,
}

/// A schedule that cannot be followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A segment without steps: its end is not after its begin.
    #[error("learning rate: segment {index} begins at step {begin} and ends at step {end}")]
    Empty {
        /// Position in the list.
        index: usize,
        /// First step.
        begin: u64,
        /// One past the last step.
        end: u64,
    },
    /// A segment that begins before the previous one in the list ends.
    #[error(
        "learning rate: segment {index} begins at step {begin}, the one before it ends at {end}"
    )]
    Overlap {
        /// Position in the list.
        index: usize,
        /// Its first step.
        begin: u64,
        /// End of the segment before it.
        end: u64,
    },
    /// A value that is negative or not finite.
    #[error("learning rate: {what} is {value}, it must be finite and not negative")]
    Number {
        /// Name of the value.
        what: &'static str,
        /// The value.
        value: f64,
    },
}

/// A base rate and the segments that act on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    base: f64,
    segments: Vec<Segment>,
}

impl Schedule {
    /// Creates a schedule of segments that follow each other in time.
    ///
    /// # Errors
    /// An empty or overlapping segment; a value that is negative or not finite.
    pub fn new(base: f64, segments: Vec<Segment>) -> Result<Self, ScheduleError> {
        check("lr", base)?;
        let mut last_end = 0;
        for (index, segment) in segments.iter().enumerate() {
            let (begin, end) = match *segment {
                Segment::WarmUp { start, begin, end } => {
                    check("start factor", start)?;
                    (begin, end)
                }
                Segment::Poly { power, floor, begin, end } => {
                    check("power", power)?;
                    check("floor", floor)?;
                    (begin, end)
                }
                Segment::Cosine { floor, begin, end } => {
                    check("floor", floor)?;
                    (begin, end)
                }
            };
            if end <= begin {
                return Err(ScheduleError::Empty { index, begin, end });
            }
            if begin < last_end {
                return Err(ScheduleError::Overlap { index, begin, end: last_end });
            }
            last_end = end;
        }
        Ok(Self { base, segments })
    }

    /// The published form: `warm_up` steps from `start` times `base`, then poly decay to `floor`
    /// at step `steps - 1`. Without warm-up the decay begins at once; a warm-up as long as the run
    /// leaves no decay.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn poly(
        base: f64,
        steps: u64,
        power: f64,
        floor: f64,
        warm_up: u64,
        start: f64,
    ) -> Result<Self, ScheduleError> {
        let mut segments = Vec::with_capacity(2);
        if warm_up > 0 {
            segments.push(Segment::WarmUp { start, begin: 0, end: warm_up });
        }
        if warm_up < steps {
            segments.push(Segment::Poly { power, floor, begin: warm_up, end: steps });
        }
        Self::new(base, segments)
    }

    /// Half a cosine over all steps, from `base` to `floor` at step `steps - 1`.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn cosine(base: f64, steps: u64, floor: f64) -> Result<Self, ScheduleError> {
        Self::new(base, vec![Segment::Cosine { floor, begin: 0, end: steps }])
    }

    /// Learning rate of step `i` (from 0).
    pub fn lr(&self, i: u64) -> f64 {
        self.segments.iter().fold(self.base, |lr, segment| segment.apply(lr, i))
    }
}

impl Segment {
    fn apply(&self, lr: f64, i: u64) -> f64 {
        match *self {
            Self::WarmUp { start, begin, end } => match progress(i, begin, end) {
                Some(x) if x < 1.0 => lr * (start + (1.0 - start) * x),
                _ => lr,
            },
            Self::Poly { power, floor, begin, end } => match progress(i, begin, end) {
                Some(x) if x < 1.0 => (lr - floor) * libm::pow(1.0 - x, power) + floor,
                Some(_) => floor,
                None => lr,
            },
            Self::Cosine { floor, begin, end } => match progress(i, begin, end) {
                Some(x) if x < 1.0 => {
                    (lr - floor) * (0.5 * (1.0 + libm::cos(std::f64::consts::PI * x))) + floor
                }
                Some(_) => floor,
                None => lr,
            },
        }
    }
}

/// Share of the segment done at step `i`. It is 0 at its first step, 1 from its last step on, and
/// `None` before it.
fn progress(i: u64, begin: u64, end: u64) -> Option<f64> {
    if i < begin {
        return None;
    }
    // A segment of one step is at 0 in that step and at 1 from the next step on.
    if i == begin {
        return Some(0.0);
    }
    Some(if i >= end - 1 { 1.0 } else { (i - begin) as f64 / (end - begin - 1) as f64 })
}

fn check(what: &'static str, value: f64) -> Result<(), ScheduleError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(ScheduleError::Number { what, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64, what: &str) {
        // The recorded values were multiplied up over as many as 40,000 steps.
        assert!((got - want).abs() <= 1e-11 * want.abs(), "{what}: {got:e}, recorded {want:e}");
    }

    /// Spec training-and-data §1.3, digits from the reference's schedulers.
    #[test]
    fn published_recipe_at_512() {
        let s = Schedule::poly(1e-4, 40_000, 0.9, 0.0, 0, 1e-6).expect("valid");
        assert_eq!(s.lr(0), 1e-4);
        close(s.lr(1), 9.999774994093593e-5, "1");
        close(s.lr(20_000), 5.358746735001765e-5, "20000");
        close(s.lr(39_998), 7.213661837130281e-9, "39998");
        assert_eq!((s.lr(39_999), s.lr(50_000)), (0.0, 0.0));
    }

    #[test]
    fn published_recipe_at_1024() {
        let s = Schedule::poly(6e-5, 40_000, 0.9, 0.0, 10_000, 1e-6).expect("valid");
        close(s.lr(0), 6e-11, "0");
        close(s.lr(500), 3.000357029702974e-6, "500");
        assert_eq!((s.lr(9_999), s.lr(10_000)), (6e-5, 6e-5));
        close(s.lr(10_001), 5.999819993699674e-5, "10001");
        close(s.lr(39_998), 5.607317533304592e-9, "39998");
        assert_eq!(s.lr(39_999), 0.0);
    }

    #[test]
    fn floor_power_and_short_segments() {
        let s = Schedule::poly(1.0, 5, 2.0, 0.2, 0, 0.0).expect("valid");
        close(s.lr(2), 0.8 * 0.25 + 0.2, "middle");
        assert_eq!(s.lr(4), 0.2);
        let s = Schedule::poly(1.0, 1, 0.9, 0.1, 0, 0.0).expect("valid");
        assert_eq!((s.lr(0), s.lr(1)), (1.0, 0.1));
        let s = Schedule::poly(1.0, 10, 0.9, 0.0, 10, 0.5).expect("valid");
        assert_eq!((s.lr(0), s.lr(9), s.lr(30)), (0.5, 1.0, 1.0));
        let s = Schedule::new(1.0, vec![Segment::WarmUp { start: 0.5, begin: 3, end: 5 }]);
        let s = s.expect("valid");
        assert_eq!([s.lr(2), s.lr(3), s.lr(4)], [1.0, 0.5, 1.0]);
        let s = Schedule::poly(1.0, 10, 0.0, 0.0, 0, 0.0).expect("valid");
        assert_eq!((s.lr(8), s.lr(9)), (1.0, 0.0));
    }

    /// The annealing of weight decay in SoMA's recipe (spec after-rein §1).
    #[test]
    fn half_a_cosine() {
        let s = Schedule::cosine(0.05, 40_001, 1e-5).expect("valid");
        assert_eq!((s.lr(0), s.lr(40_000), s.lr(50_000)), (0.05, 1e-5, 1e-5));
        close(s.lr(20_000), 0.5 * (0.05 + 1e-5), "middle");
        close(s.lr(10_000), 1e-5 + 0.04999 * 0.5 * (1.0 + 0.5f64.sqrt()), "a quarter");
        let s = Schedule::cosine(0.05, 7, 0.05).expect("valid");
        assert!((0..9).all(|i| s.lr(i) == 0.05), "a constant");
    }

    #[test]
    fn impossible_schedules_are_refused() {
        let warm = Segment::WarmUp { start: 0.0, begin: 5, end: 5 };
        assert!(matches!(Schedule::new(1.0, vec![warm]), Err(ScheduleError::Empty { .. })));
        let a = Segment::WarmUp { start: 0.0, begin: 0, end: 10 };
        let b = Segment::Poly { power: 1.0, floor: 0.0, begin: 9, end: 20 };
        let error = Schedule::new(1.0, vec![a, b]).expect_err("overlap");
        assert!(error.to_string().contains("segment 1 begins at step 9"), "{error}");
        assert!(Schedule::poly(-1.0, 5, 0.9, 0.0, 0, 0.0).is_err());
        assert!(Schedule::poly(f64::NAN, 5, 0.9, 0.0, 0, 0.0).is_err());
        assert!(Schedule::poly(1.0, 5, 0.9, f64::INFINITY, 0, 0.0).is_err());
    }

    /// Checks every schedule of the reference's configs, if the recorded values are available.
    #[test]
    fn recorded_schedules() {
        for (file, json) in crate::recorded("schedule.json") {
            let schedules = json["schedules"].as_object().expect("schedules");
            assert!(!schedules.is_empty(), "{file}: no schedule");
            for (name, recorded) in schedules {
                let segments = recorded["param_scheduler"].as_array().expect("list");
                let segments = segments.iter().map(segment).collect();
                let base = recorded["base_lr"].as_f64().expect("number");
                let schedule = Schedule::new(base, segments).expect("valid");
                for (i, lr) in recorded["lr"].as_object().expect("values") {
                    let got = schedule.lr(i.parse().expect("step"));
                    close(got, lr.as_f64().expect("rate"), &format!("{file} {name} step {i}"));
                }
            }
        }
    }

    fn segment(json: &serde_json::Value) -> Segment {
        let (begin, end) = (json["begin"].as_u64(), json["end"].as_u64());
        let (begin, end) = (begin.expect("begin"), end.expect("end"));
        let number = |key: &str| json[key].as_f64().expect("number");
        match json["type"].as_str() {
            Some("LinearLR") => Segment::WarmUp { start: number("start_factor"), begin, end },
            Some("PolyLR") => {
                Segment::Poly { power: number("power"), floor: number("eta_min"), begin, end }
            }
            other => panic!("unknown scheduler {other:?}"),
        }
    }
}
