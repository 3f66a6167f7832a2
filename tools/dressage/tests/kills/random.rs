//! Kills and signals at random moments.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::count;
use crate::run::{Training, reference};

/// Disturbances of one training; then it runs to its end.
const IN_A_ROW: usize = 3;

/// Returns a pseudo-random share of 1 for a counter by SplitMix64, which is good enough for
/// moments.
pub fn share(n: u64) -> f64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Starts or resumes the training and sends a signal after a while.
fn disturbed(training: &Training, signal: Signal, after: Duration) -> ExitStatus {
    let mut child = training.command().spawn().expect("the program starts");
    sleep(after);
    // The child has not been waited for, so its id cannot be reused by another process.
    kill(Pid::from_raw(child.id().try_into().expect("a number")), signal).expect("signal");
    child.wait().expect("ended")
}

/// Sends `n` signals, up to three to a training, and compares the result with an undisturbed one.
/// `ended` checks how the program may end.
fn chains(device: &'static str, signal: Signal, n: usize, ended: impl Fn(ExitStatus) -> bool) {
    let (want, took) = reference(device);
    let (mut sent, mut in_time, mut trainings) = (0, 0, 0);
    while sent < n {
        let training = Training::new(device);
        for _ in 0..IN_A_ROW.min(n - sent) {
            let status = disturbed(&training, signal, took.mul_f64(share(sent as u64)));
            sent += 1;
            if status.success() {
                break;
            }
            in_time += 1;
            assert!(ended(status), "{device}, {signal} number {sent}: {status}");
        }
        let found = training.finish();
        want.same(&found, &format!("{device}, after {signal} number {sent}"));
        if signal == Signal::SIGKILL {
            assert_eq!(found.names, want.names, "{device}, after kill {sent}");
        }
        trainings += 1;
    }
    println!("{device}: {sent} times {signal}, {in_time} before the end, {trainings} trainings");
}

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGKILL as i32)
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    chains("cpu", Signal::SIGKILL, count("DRESSAGE_KILLS", 9), killed);
}

#[test]
fn kills_at_random_moments_on_a_device_lose_nothing() {
    chains("virtual", Signal::SIGKILL, count("DRESSAGE_KILLS", 2), killed);
}

/// Returns a check for a saved run with its documented exit code, or a signal before the program
/// listens.
fn saved(signal: Signal) -> impl Fn(ExitStatus) -> bool {
    let number = signal as i32;
    move |status| status.code() == Some(128 + number) || status.signal() == Some(number)
}

/// The signals of Ctrl-C, of schedulers, and of a closed terminal.
#[test]
fn requests_to_end_at_random_moments_lose_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        chains("cpu", signal, count("DRESSAGE_KILLS", 3), saved(signal));
    }
}
