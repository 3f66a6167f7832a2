//! Kills before each system call of a save. The program is traced. The calls of the thread that
//! writes a checkpoint are counted from the moment at which it creates the file. Calls about memory
//! and other threads are not counted: they change no file, and their number varies.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::run::{Finished, Training};

/// A system call of a save: the save, and the number of counted calls of its thread before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    save: usize,
    call: usize,
}

/// End of a traced program.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    Killed,
}

/// A program whose system calls are traced.
struct Tracer {
    /// The program; threads have their own ids.
    program: Pid,
    saving: Option<Saving>,
    /// Number of calls of each save so far.
    saves: Vec<usize>,
    kill_at: Option<Moment>,
}

/// A save in progress.
struct Saving {
    thread: Pid,
    /// Whether the file has its final name already.
    renamed: bool,
}

/// A system call at its entry.
struct Entry {
    number: i64,
    arguments: [u64; 6],
}

/// Runs `command` and kills it at a moment, if one is given. Returns the number of calls of each
/// save, and the end.
fn traced(mut command: Command, kill_at: Option<Moment>) -> (Vec<usize>, End) {
    let ask = || ptrace::traceme().map_err(std::io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
    let mut child = command.spawn().expect("the program starts and may be traced");
    let program = Pid::from_raw(child.id().try_into().expect("a number"));
    // The first stop is that of exec.
    let first = waitpid(program, None).expect("the program");
    assert!(matches!(first, WaitStatus::Stopped(_, Signal::SIGTRAP)), "{first:?}");
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(program, options).expect("options");
    ptrace::syscall(program, None).expect("goes on");
    let mut tracer = Tracer { program, saving: None, saves: Vec::new(), kill_at };
    let end = tracer.watch();
    // The tracer has seen the end already, so this does not wait.
    let _ = child.wait();
    (tracer.saves, end)
}

impl Tracer {
    /// Follows the stops of the program until it has ended.
    fn watch(&mut self) -> End {
        loop {
            // Children of this thread only: other tests of the process have theirs.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let stop = waitpid(None, Some(flags)).expect("a stop of the program");
            let (thread, signal) = match stop {
                WaitStatus::Exited(thread, code) if thread == self.program => {
                    return End::Code(code);
                }
                WaitStatus::Signaled(thread, Signal::SIGKILL, _) if thread == self.program => {
                    return End::Killed;
                }
                WaitStatus::PtraceSyscall(thread) => {
                    if let Some(entry) = entry(thread) {
                        self.enter(thread, &entry);
                    }
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                // The first stop of a new thread.
                WaitStatus::Stopped(thread, Signal::SIGSTOP) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                _ => continue,
            };
            // A thread that was killed meanwhile is gone; its end is seen at the next stop.
            let _ = ptrace::syscall(thread, signal);
        }
    }

    /// Counts a call of a save, or kills the program before it.
    fn enter(&mut self, thread: Pid, entry: &Entry) {
        if self.saving.is_none() && makes_checkpoint(thread, entry) {
            self.saving = Some(Saving { thread, renamed: false });
            self.saves.push(0);
        }
        let Some(saving) = self.saving.as_mut().filter(|saving| saving.thread == thread) else {
            return;
        };
        if saving.renamed && is_later(entry.number) {
            self.saving = None;
            return;
        }
        if !is_of_files(entry.number) {
            return;
        }
        saving.renamed |= is_rename(entry.number);
        let (save, calls) = (self.saves.len() - 1, self.saves.last_mut().expect("a save"));
        if self.kill_at == Some(Moment { save, call: *calls }) {
            kill(self.program, Signal::SIGKILL).expect("killed");
        }
        *calls += 1;
    }
}

/// Returns the call that `thread` is about to make; `None` if it is returning from one.
fn entry(thread: Pid) -> Option<Entry> {
    let info = ptrace::syscall_info(thread).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kernel reports which part of the union it filled.
    let entry = unsafe { info.u.entry };
    Some(Entry { number: entry.nr as i64, arguments: entry.args })
}

/// Whether the call opens a checkpoint under its temporary name.
fn makes_checkpoint(thread: Pid, entry: &Entry) -> bool {
    if entry.number != libc::SYS_openat {
        return false;
    }
    let path = text_at(thread, entry.arguments[1]);
    path.contains("checkpoints/step-") && path.ends_with(".partial")
}

/// Reads the text at an address of the program.
fn text_at(thread: Pid, address: u64) -> String {
    let mut bytes = vec![0; 4096];
    let memory = File::open(format!("/proc/{thread}/mem")).expect("memory of the program");
    let n = memory.read_at(&mut bytes, address).unwrap_or(0);
    let end = bytes[..n].iter().position(|b| *b == 0).unwrap_or(n);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn is_rename(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_rename {
        return true;
    }
    [libc::SYS_renameat, libc::SYS_renameat2].contains(&number)
}

/// Whether a call belongs to the time after a save: the log, the next step, the end.
fn is_later(number: i64) -> bool {
    [libc::SYS_write, libc::SYS_exit_group].contains(&number)
}

/// Whether a call is about files, not about memory or other threads.
fn is_of_files(number: i64) -> bool {
    let others = [
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_madvise,
        libc::SYS_mprotect,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_rt_sigprocmask,
        libc::SYS_restart_syscall,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_getrandom,
        libc::SYS_clock_nanosleep,
    ];
    !others.contains(&number)
}

/// Kills before system calls of saves, once per training, and compares the result after resuming
/// with an undisturbed training. It tries all calls if `DRESSAGE_KILLS` is set, else `few` of them,
/// first and last included.
fn killed_in_saves(device: &'static str, few: usize) {
    let (want, all) = undisturbed(device);
    let moments = match std::env::var_os("DRESSAGE_KILLS") {
        Some(_) => all,
        None => (0..few).map(|i| all[i * (all.len() - 1) / (few - 1)]).collect(),
    };
    let mut by_save = BTreeMap::<usize, usize>::new();
    for moment in moments {
        let training = Training::new(device);
        let (_, end) = traced(training.command(), Some(moment));
        assert_eq!(end, End::Killed, "{device}, {moment:?}");
        let found = training.finish();
        want.same(&found, &format!("{device}, killed at {moment:?}"));
        assert_eq!(found.names, want.names, "{device}, killed at {moment:?}");
        *by_save.entry(moment.save).or_default() += 1;
    }
    println!("{device}: kills before system calls, by save: {by_save:?}");
}

/// Returns the results of a training that is traced but not disturbed, and every call of its saves.
fn undisturbed(device: &'static str) -> (Finished, Vec<Moment>) {
    let training = Training::new(device);
    let (saves, end) = traced(training.command(), None);
    assert_eq!(end, End::Code(0), "{device}: watched, but not disturbed");
    assert_eq!(saves.len(), 3, "{device}: saves after 2, 4 and 6 steps");
    // The file is created, written, synced to the disk and renamed; the third save removes the
    // first checkpoint.
    assert!(saves.iter().all(|calls| *calls >= 6) && saves[2] > saves[1], "{device}: {saves:?}");
    println!("{device}: system calls by save: {saves:?}");
    let calls = |(save, n): (usize, usize)| (0..n).map(move |call| Moment { save, call });
    (training.finished(), saves.into_iter().enumerate().flat_map(calls).collect())
}

#[test]
fn a_kill_at_any_system_call_of_a_save_loses_nothing() {
    killed_in_saves("cpu", 12);
}

#[test]
fn a_kill_at_any_system_call_of_a_save_on_a_device_loses_nothing() {
    killed_in_saves("virtual", 2);
}
