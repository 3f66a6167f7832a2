//! Waiting for files that may never arrive: a pipe, a network folder that stalls.
//!
//! A read cannot be cancelled, so it runs on a thread of its own. The thread is abandoned when a
//! stop is requested.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::files::FileError;
use crate::interrupt::Interrupt;
use crate::runlog::Progress;
use crate::{Result, TrainError};

/// Interval at which a wait checks for a stop request.
const LOOK: Duration = Duration::from_millis(50);

/// Time after which the progress reporter learns what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reason why nothing was received.
#[derive(Debug, PartialEq)]
pub(crate) enum Missed {
    /// A stop was requested.
    Stopped,
    /// The sender has ended.
    Ended,
}

/// Stop request and progress reporter of a wait.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    progress: &'a dyn Progress,
    stop: &'a Interrupt,
    patience: Duration,
}

impl<'a> Waiting<'a> {
    /// Makes waits that `stop` ends. `progress` is notified of those that last half a minute.
    pub fn new(progress: &'a dyn Progress, stop: &'a Interrupt) -> Self {
        Self { progress, stop, patience: PATIENCE }
    }

    /// Receives the next value from `queue`; `what` describes it.
    pub(crate) fn receive<T>(
        &self,
        queue: &Receiver<T>,
        what: impl Fn() -> String,
    ) -> std::result::Result<T, Missed> {
        let begin = Instant::now();
        let mut noted = false;
        loop {
            match queue.recv_timeout(LOOK) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(Missed::Ended),
                Err(RecvTimeoutError::Timeout) if self.stop.requested() => {
                    return Err(Missed::Stopped);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !noted && begin.elapsed() >= self.patience {
                noted = true;
                let seconds = begin.elapsed().as_secs();
                self.progress.note(&format!("still waiting for {} after {seconds} s", what()));
            }
        }
    }

    /// Runs `read`, which reads `file` or files below it.
    ///
    /// # Errors
    /// Those of `read`; [`TrainError::Interrupted`] if a stop is requested meanwhile.
    pub fn read<T: Send + 'static>(
        &self,
        file: &Path,
        read: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = sync_channel(1);
        let work = move || {
            // Nobody receives any more after a stop.
            let _ = send.send(read());
        };
        let failed = |source| TrainError::Read { path: file.to_path_buf(), source };
        let thread = std::thread::Builder::new().name("read".into()).spawn(work);
        let thread = thread.map_err(|source| {
            let path = file.to_path_buf();
            FileError { action: "start a thread to read", path, source }
        })?;
        match self.receive(&receive, || file.display().to_string()) {
            Ok(value) => value,
            Err(Missed::Stopped) => Err(TrainError::Interrupted),
            Err(Missed::Ended) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => Err(failed(std::io::Error::other("its reader ended"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>, Interrupt);

    impl Progress for Notes {
        fn begin(&self, _stage: &str, _total: Option<u64>) {}
        fn at(&self, _position: u64, _rate: &str) {}
        fn end(&self) {}
        fn note(&self, text: &str) {
            self.0.lock().expect("unpoisoned").push(text.to_owned());
            self.1.request();
        }
    }

    #[test]
    fn what_is_there_is_read_and_errors_come_through() {
        let notes = Notes::default();
        let waiting = Waiting::new(&notes, &notes.1);
        assert_eq!(waiting.read(Path::new("a"), || Ok(7)).expect("read"), 7);
        let error = waiting.read::<()>(Path::new("a"), || Err(TrainError::Interrupted));
        assert!(matches!(error, Err(TrainError::Interrupted)));
        let panics = || waiting.read::<()>(Path::new("a"), || panic!("in the reader"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(notes.0.lock().expect("unpoisoned").is_empty());
    }

    /// The wait ends because its own note requests the stop: no clock decides.
    #[cfg(unix)]
    #[test]
    fn a_pipe_without_a_writer_is_named_and_abandoned() {
        let dir = tempfile::tempdir().expect("folder");
        let pipe = dir.path().join("0003.png");
        crate::files::tests::make_pipe(&pipe);
        let notes = Notes::default();
        let waiting = Waiting { patience: Duration::ZERO, ..Waiting::new(&notes, &notes.1) };
        let read = {
            let pipe = pipe.clone();
            move || Ok(std::fs::read(pipe).expect("pipe"))
        };
        let ended = waiting.read(&pipe, read);
        assert!(matches!(ended, Err(TrainError::Interrupted)));
        let notes = notes.0.into_inner().expect("unpoisoned");
        assert!(notes.len() == 1 && notes[0].contains("0003.png"), "{notes:?}");
        // The abandoned reader ends.
        drop(std::fs::OpenOptions::new().write(true).open(&pipe).expect("pipe"));
    }
}
