//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dressage_train::runlog::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{duration, eprint, escaped};

/// Longest time between plain lines.
const SILENCE: Duration = Duration::from_secs(30);

/// Shortest time between plain lines.
const BREATH: Duration = Duration::from_secs(3);

/// Progress reporter on standard error.
#[derive(Default)]
pub struct Watch {
    terminal: bool,
    stage: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    total: Option<u64>,
    start: Instant,
    /// Position before the first report: a resumed run does not begin at 0.
    first: Option<u64>,
    position: u64,
    rate: String,
    /// `None` off a terminal.
    bar: Option<ProgressBar>,
    last_line: Instant,
    tenths: u64,
}

impl Watch {
    /// Returns a reporter that shows bars if standard error is a terminal.
    pub fn new() -> Watch {
        Watch { terminal: std::io::stderr().is_terminal(), stage: Mutex::new(None) }
    }

    /// Returns the stage and its position, such as ` in train at 37`; empty between stages.
    pub fn reached(&self) -> String {
        let text = |stage: &Stage| format!(" in {} at {}", stage.name, stage.position);
        self.stage().as_ref().map(text).unwrap_or_default()
    }

    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        // A panic in another thread must not stop the reports.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    let style = ProgressStyle::with_template(match total {
        Some(_) => "{prefix:.bold} {bar:28.cyan/dim} {pos}/{len}  {elapsed}  {wide_msg}",
        None => "{prefix:.bold} {spinner} {pos}  {elapsed}  {wide_msg}",
    });
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(escaped(name));
    // The bar's own thread would end the program if no thread can be started. Without it the bar
    // moves only with the work.
    if std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok()) {
        bar.enable_steady_tick(Duration::from_millis(500));
    }
    bar
}

impl Stage {
    /// Rate and time left: `0.8 s/step, 3 min 05 s left`.
    fn text(&self) -> String {
        let done = self.position - self.first.unwrap_or(self.position);
        let left = self.total.and_then(|total| {
            let per_step = self.start.elapsed().as_secs_f64() / done as f64;
            (done > 0 && total > self.position).then(|| per_step * (total - self.position) as f64)
        });
        let left = left.map(|s| format!("{} left", duration(s)));
        let parts = [Some(self.rate.clone()).filter(|r| !r.is_empty()), left];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Prints a line at each tenth of the total, and after [`SILENCE`] without one.
    fn line(&mut self) {
        let tenths = match self.total {
            Some(total) if total > 0 => self.position * 10 / total,
            _ => 0,
        };
        let quiet = self.last_line.elapsed();
        if quiet < BREATH || (tenths == self.tenths && quiet < SILENCE) {
            return;
        }
        (self.tenths, self.last_line) = (tenths, Instant::now());
        let total = self.total.map(|t| format!("/{t}")).unwrap_or_default();
        eprint(&format!("{}: {}{total}, {}", self.name, self.position, self.text()));
    }
}

impl Progress for Watch {
    fn begin(&self, stage: &str, total: Option<u64>) {
        let now = Instant::now();
        let bar = self.terminal.then(|| bar(stage, total));
        if bar.is_none() {
            let of = total.map(|t| format!("{t} to do")).unwrap_or_else(|| "started".into());
            eprint(&format!("{stage}: {of}"));
        }
        *self.stage() = Some(Stage {
            name: stage.to_owned(),
            total,
            start: now,
            first: None,
            position: 0,
            rate: String::new(),
            bar,
            last_line: now,
            tenths: 0,
        });
    }

    fn at(&self, position: u64, rate: &str) {
        let mut guard = self.stage();
        let Some(stage) = guard.as_mut() else { return };
        if stage.first.is_none() {
            stage.first = Some(position.saturating_sub(1));
            let total = stage.total.unwrap_or(0).max(1);
            stage.tenths = position.saturating_sub(1) * 10 / total;
        }
        stage.position = position;
        rate.clone_into(&mut stage.rate);
        match &stage.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(stage.text());
            }
            None => stage.line(),
        }
    }

    fn end(&self) {
        let Some(stage) = self.stage().take() else { return };
        match &stage.bar {
            Some(bar) => {
                bar.set_message(stage.rate.clone());
                bar.abandon();
            }
            None => {
                let took = duration(stage.start.elapsed().as_secs_f64());
                let rate = Some(&stage.rate).filter(|r| !r.is_empty());
                let rate = rate.map(|r| format!(", {r}")).unwrap_or_default();
                eprint(&format!("{}: {} done in {took}{rate}", stage.name, stage.position));
            }
        }
    }

    fn note(&self, text: &str) {
        match self.stage().as_ref().and_then(|stage| stage.bar.as_ref()) {
            Some(bar) => bar.suspend(|| eprint(text)),
            None => eprint(text),
        }
    }
}
