//! A training that is killed, or asked to end, at any moment: resumed until it is done, it leaves
//! the bytes, the log and the scores of one that nobody disturbed. Linux only.
//!
//! A few kills belong to the test command. `DRESSAGE_KILLS=200` asks for so many at random moments
//! and one at each system call of each save, `DRESSAGE_CUTS=250` and `DRESSAGE_FLIPS=250` for so
//! many damaged checkpoints;
//! with `-- --nocapture` the counts are printed.
#![cfg(target_os = "linux")]

#[cfg(target_env = "gnu")]
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod random;
mod run;

/// The number in the variable `name`, or `few`.
fn count(name: &str, few: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")),
        Err(_) => few,
    }
}
