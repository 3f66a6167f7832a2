//! Time since the last checkpoint, by a clock that tests can replace.

use std::time::{Duration, Instant};

/// Clock that returns the time since some moment.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Period that restarts at each checkpoint.
pub(crate) struct CheckpointTimer {
    clock: Clock,
    /// `None` if it never ends.
    period: Option<Duration>,
    start: Duration,
}

impl CheckpointTimer {
    /// Makes a period of `minutes` by the system's clock; 0 never ends.
    pub fn new(minutes: f64) -> CheckpointTimer {
        let begin = Instant::now();
        let period = Duration::try_from_secs_f64(60.0 * minutes).ok();
        let period = period.filter(|period| !period.is_zero());
        CheckpointTimer { clock: Box::new(move || begin.elapsed()), period, start: Duration::ZERO }
    }

    /// Sets another clock and restarts the period.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        self.restart();
    }

    /// Restarts the period.
    pub fn restart(&mut self) {
        self.start = (self.clock)();
    }

    /// Whether the period is over.
    pub(crate) fn is_over(&self) -> bool {
        self.period.is_some_and(|period| (self.clock)().saturating_sub(self.start) >= period)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_period_ends_and_begins_anew() {
        let now = Arc::new(AtomicU64::new(0));
        let seen = now.clone();
        let mut timer = CheckpointTimer::new(10.0);
        timer.set_clock(Box::new(move || Duration::from_secs(seen.load(Ordering::Relaxed))));
        for (seconds, over) in [(599, false), (600, true), (1199, true)] {
            now.store(seconds, Ordering::Relaxed);
            assert_eq!(timer.is_over(), over, "after {seconds} s");
        }
        timer.restart();
        now.store(1798, Ordering::Relaxed);
        assert!(!timer.is_over());
        for minutes in [0.0, 1e300] {
            let mut never = CheckpointTimer::new(minutes);
            never.set_clock(Box::new(|| Duration::from_secs(1 << 40)));
            assert!(!never.is_over(), "{minutes}");
        }
    }
}
