//! Signals: the first one requests a stop that saves the state, a second one ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::SaveSignal;
use dressage_train::runlog::Progress as _;

use crate::console::eprint;
use crate::failure::Failure;
use crate::progress::Watch;

/// Time within which repeated signals count as one request. Programs such as `timeout` send a
/// signal to the process and then to its group.
const ECHO: Duration = Duration::from_millis(300);

/// The first signal received, 0 before.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Returns the exit code after a signal: 128 plus its number.
pub fn exit_code() -> u8 {
    const INTERRUPT: i32 = 2;
    let signal = match FIRST.load(Ordering::SeqCst) {
        0 => INTERRUPT,
        signal => signal,
    };
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Messages about signals.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// Message at the first signal.
    pub first: &'static str,
    /// Message at the signal that ends the program at once: what is not saved.
    pub lost: &'static str,
}

/// Returns a progress reporter and a stop request that a signal sets. A second signal ends the
/// program at once, unless one of the two is `save`: a scheduler sends that one early and another
/// one later.
///
/// # Errors
/// A system that refuses signal handlers.
pub fn watched(words: Words, save: SaveSignal) -> Result<(Arc<Watch>, Interrupt), Failure> {
    let (watch, stop) = (Arc::new(Watch::new()), Interrupt::default());
    listen(words, save, Arc::clone(&watch), stop.clone()).map_err(|e| cannot_listen(&e))?;
    Ok((watch, stop))
}

fn cannot_listen(error: &std::io::Error) -> Failure {
    let hint = dressage_train::files::hint(error).unwrap_or_default();
    Failure::Message(format!("cannot listen for signals: {error}{hint}"))
}

#[cfg(unix)]
fn listen(
    words: Words,
    save: SaveSignal,
    watch: Arc<Watch>,
    stop: Interrupt,
) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};

    let early = match save {
        SaveSignal::None => None,
        SaveSignal::Usr1 => Some(SIGUSR1),
        SaveSignal::Usr2 => Some(SIGUSR2),
    };
    // Under `nohup` closing the terminal must not end the program.
    let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let all = [SIGINT, SIGTERM, SIGXCPU].into_iter().chain(hang_up).chain(early);
    let mut signals = signal_hook::iterator::Signals::new(all)?;
    let mut asked_at = None;
    let listener = move || {
        for signal in signals.forever() {
            // The system repeats SIGXCPU every second.
            let is_early = Some(signal) == early || signal == SIGXCPU;
            let since = |at: Instant| at.elapsed() > ECHO;
            if stop.request() {
                FIRST.store(signal, Ordering::SeqCst);
                watch.note(&format!("{}: {}", name(signal), words.first));
            } else if !is_early && asked_at.is_some_and(since) {
                end_at_once(signal, &format!("{}: {}", watch.reached(), words.lost));
            }
            if !is_early && asked_at.is_none() {
                asked_at = Some(Instant::now());
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listener)?;
    Ok(())
}

#[cfg(unix)]
fn end_at_once(signal: i32, more: &str) -> ! {
    dressage_train::files::remove_unfinished();
    eprint(&format!("{}: ended at once{more}", name(signal)));
    std::process::exit(128 + signal);
}

/// Makes a signal end the program at once, for commands without a state. Unfinished files are
/// removed.
///
/// # Errors
/// A system that refuses signal handlers.
pub fn end_without_rest() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

        let listened = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
        let signals = signal_hook::iterator::Signals::new(listened);
        let listener = |mut signals: signal_hook::iterator::Signals| {
            std::thread::Builder::new().name("signals".into()).spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    end_at_once(signal, "");
                }
            })
        };
        signals.and_then(listener).map_err(|e| cannot_listen(&e))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn listen(
    words: Words,
    _save: SaveSignal,
    watch: Arc<Watch>,
    stop: Interrupt,
) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use std::sync::atomic::AtomicBool;

    const LOOK: Duration = Duration::from_millis(50);
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the program.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&seen))?;
        signal_hook::flag::register(signal, Arc::clone(&seen))?;
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while !seen.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
        }
        stop.request();
        watch.note(&format!("{}; once more ends at once: {}", words.first, words.lost));
    })?;
    Ok(())
}

/// Whether the parent process set this signal to be ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: with no new action the call only writes the present one to `now`, which is a plain
    // struct that may be all zeros.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        let found = libc::sigaction(signal, std::ptr::null(), &mut now);
        found == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(unix)]
fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) return an error. By default the
/// system ends the program without a message.
pub fn report_file_limits() {
    #[cfg(unix)]
    {
        // The handler only sets a flag. If it cannot be installed, the default action stays.
        let unused = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let _ = signal_hook::flag::register(libc::SIGXFSZ, unused);
    }
}
