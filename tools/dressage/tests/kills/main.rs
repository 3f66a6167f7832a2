//! Trainings that are killed, or asked to end, at any moment. Resumed until done, they leave the
//! bytes, the log and the scores of an undisturbed training. Linux only.
//!
//! A plain test run makes a few kills. `DRESSAGE_KILLS=200` makes that many at random moments and
//! one at each system call of each save; `DRESSAGE_CUTS=250` and `DRESSAGE_FLIPS=250` make that
//! many damaged checkpoints; with `-- --nocapture` the counts are printed.
#![cfg(target_os = "linux")]

#[cfg(target_env = "gnu")]
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod random;
mod run;

/// Returns the number in the variable `name`, or `few`.
fn count(name: &str, few: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")),
        Err(_) => few,
    }
}
