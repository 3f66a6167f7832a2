//! Signals: the first one asks for an end that saves, another one ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use dressage_train::interrupt::Interrupt;
use dressage_train::recipe::SaveSignal;
use dressage_train::runlog::Progress as _;

use crate::console::eprint;
use crate::failure::Failure;
use crate::progress::Watch;

/// Programs such as `timeout` send a signal to the process and again to its group; that is one
/// request, not two.
const ECHO: Duration = Duration::from_millis(300);

/// The signal that somebody sent first, 0 before.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Exit code of a program that a signal ended: 128 and its number.
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
    /// At the first one.
    pub first: &'static str,
    /// At the one that ends the program at once: what is not saved.
    pub lost: &'static str,
}

/// Someone to watch, and a request to stop that a signal sets. A second signal ends the program at
/// once, but for one that follows `save`: a scheduler sends that one early and another later.
///
/// # Errors
/// A system that lets no signal be listened for.
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
    // Under `nohup` the end of a terminal is to end nothing.
    let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let all = [SIGINT, SIGTERM, SIGXCPU].into_iter().chain(hang_up).chain(early);
    let mut signals = signal_hook::iterator::Signals::new(all)?;
    let mut asked_at = None;
    let listener = move || {
        for signal in signals.forever() {
            // The system repeats that of spent processor time every second.
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

/// For commands without a state: a signal ends them at once, without half a file.
///
/// # Errors
/// A system that lets no signal be listened for.
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
        // Whoever asks again is not listened to any more: the second one ends the program.
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

/// Whether whoever started the program had it ignore a signal.
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

/// Lets a write beyond the limit of file sizes (`ulimit -f`) fail with its reason; by default the
/// system ends the program without a word.
pub fn report_file_limits() {
    #[cfg(unix)]
    {
        // A handler that does nothing but set a flag; if it cannot be set, things are as before.
        let unused = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let _ = signal_hook::flag::register(libc::SIGXFSZ, unused);
    }
}
