//! Work of a stream: queued, captured or run.
//!
//! Without `PTX_DRIVER_DELAY` a stream runs queued work at once; with it, at the next call that
//! waits. Running work early is always allowed, so a wait runs all work that might have to come
//! before.

use std::sync::Arc;
use std::time::Instant;

use ptx_vm::{Address, Fault, FindingKind, Launch, Module};

use crate::code::{Code, Done, refuse};
use crate::lt::Product;
use crate::state::{Driver, Handle};
use crate::{fatal, report_line};

/// One operation of a stream.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    Launch(Arc<KernelLaunch>),
    /// Copy to the device, from bytes that were copied aside.
    Write {
        to: u64,
        bytes: Arc<Vec<u8>>,
    },
    /// Copy to the device, from page-locked memory that is read when the copy runs. `seen` is its
    /// content when the copy was queued; the program must not change it meanwhile.
    WritePinned {
        to: u64,
        from: usize,
        bytes: usize,
        seen: Option<Arc<Vec<u8>>>,
    },
    /// Copy to the host.
    Read {
        from: u64,
        to: usize,
        bytes: usize,
        pinned: bool,
    },
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    Record {
        event: Handle,
        number: u64,
    },
    Wait {
        event: Handle,
        number: u64,
    },
    Product(Arc<Product>),
}

/// A launch with its arguments.
#[derive(Debug)]
pub(crate) struct KernelLaunch {
    pub module: Arc<Module>,
    pub index: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: Vec<u8>,
}

impl Driver {
    /// Queues work in a stream, or adds it to the graph that the stream captures.
    pub fn enqueue(&mut self, stream: Handle, work: Work) -> Done {
        let legacy = self.is_legacy(stream)?;
        if let Some(capture) = &mut self.streams.get(stream)?.capture {
            if capture.invalidated {
                let why = "the capture of the stream was ended by an earlier error";
                return refuse(Code::STREAM_CAPTURE_INVALIDATED, why);
            }
            capture.nodes.push(work);
            return Ok(());
        }
        let of = self.streams.get(stream)?.context;
        let blocking = !self.streams.get(stream)?.non_blocking;
        if legacy {
            self.implicit_wait(of)?;
        } else if blocking {
            let legacy = self.contexts.get(of)?.legacy;
            self.flush(legacy)?;
        }
        self.streams.get(stream)?.queue.push_back(work);
        if self.settings.delay { Ok(()) } else { self.flush(stream) }
    }

    fn is_legacy(&mut self, stream: Handle) -> Done<bool> {
        let context = self.streams.get(stream)?.context;
        Ok(self.contexts.get(context)?.legacy == stream)
    }

    /// Waits for all blocking streams, as the legacy stream does; none of them may be capturing.
    pub fn implicit_wait(&mut self, context: Handle) -> Done {
        let mut blocking = Vec::new();
        for (handle, stream) in self.streams.iter() {
            if stream.context != context || stream.non_blocking {
                continue;
            }
            if stream.capture.is_some() {
                let why = "the legacy stream would have to wait for a stream that captures";
                return refuse(Code::STREAM_CAPTURE_IMPLICIT, why);
            }
            blocking.push(handle);
        }
        blocking.into_iter().try_for_each(|stream| self.flush(stream))
    }

    /// Runs everything queued in a stream.
    pub fn flush(&mut self, stream: Handle) -> Done {
        while let Some(work) = self.streams.get(stream)?.queue.pop_front() {
            self.perform(stream, &work)?;
        }
        Ok(())
    }

    /// Runs everything queued in a context.
    pub fn synchronize_context(&mut self, context: Handle) -> Done {
        let all: Vec<Handle> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(h, _)| h).collect();
        all.into_iter().try_for_each(|stream| self.flush(stream))
    }

    /// Runs a stream up to a record of an event.
    pub fn pass(&mut self, event: Handle, number: u64) -> Done {
        while self.events.find(event).is_some_and(|event| event.passed < number) {
            let stream = self.events.get(event)?.stream;
            let Some(work) = self.streams.find(stream).and_then(|s| s.queue.front().cloned())
            else {
                // The stream was destroyed, and that ran its work.
                break;
            };
            self.streams.get(stream)?.queue.pop_front();
            self.perform(stream, &work)?;
        }
        Ok(())
    }

    /// Runs one operation; a failure becomes the error of the device.
    pub fn perform(&mut self, stream: Handle, work: &Work) -> Done {
        let context = self.streams.get(stream)?.context;
        let device = self.contexts.get(context)?.device;
        match *work {
            Work::Record { event, number } => {
                if let Ok(event) = self.event_if_alive(event) {
                    (event.passed, event.at) = (number, Some(Instant::now()));
                }
                return Ok(());
            }
            Work::Wait { event, number } => return self.pass(event, number),
            _ => {}
        }
        if self.devices[device].failed.is_some() {
            return Ok(());
        }
        if let Err((code, why)) = self.execute(work) {
            report_line(&format!("the device fails with {}: {why}", code.name()));
            self.devices[device].failed = Some(code);
        }
        Ok(())
    }

    /// Returns an event, which may be destroyed before its record has run.
    fn event_if_alive(&mut self, event: Handle) -> Result<&mut crate::state::Event, ()> {
        match self.events.find(event) {
            Some(_) => self.events.get(event).map_err(|_| ()),
            None => Err(()),
        }
    }

    fn execute(&mut self, work: &Work) -> Result<(), (Code, String)> {
        let illegal =
            |error: ptx_vm::MemoryError| (Code::ILLEGAL_ADDRESS, format!("a copy: {error}"));
        match work {
            Work::Launch(kernel) => self.run(kernel),
            Work::Write { to, bytes } => self.gpu.write(Address(*to), bytes).map_err(illegal),
            &Work::WritePinned { to, from, bytes, ref seen } => {
                if !self.is_pinned(from, bytes) {
                    fatal("page-locked memory was freed before a copy from it ran");
                }
                // SAFETY: the page-locked allocation contains the bytes. The program must not write
                // them meanwhile, as with a real driver.
                let now = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
                if seen.as_ref().is_some_and(|seen| seen.as_slice() != now) {
                    fatal(&format!(
                        "page-locked memory was changed before a copy of {bytes} bytes from it to \
                         {to:#x} ran; wait for an event behind the copy first"
                    ));
                }
                self.gpu.write(Address(to), now).map_err(illegal)
            }
            &Work::Read { from, to, bytes, pinned } => {
                if pinned && !self.is_pinned(to, bytes) {
                    fatal("page-locked memory was freed before a copy to it ran");
                }
                let mut between = vec![0; bytes];
                self.gpu.read(Address(from), &mut between).map_err(illegal)?;
                // SAFETY: as with a real driver, the program must keep the bytes alive until it
                // waits.
                unsafe {
                    std::ptr::copy_nonoverlapping(between.as_ptr(), to as *mut u8, bytes);
                }
                Ok(())
            }
            &Work::Copy { from, to, bytes } => {
                let mut between = vec![0; bytes];
                self.gpu.read(Address(from), &mut between).map_err(illegal)?;
                self.gpu.write(Address(to), &between).map_err(illegal)
            }
            Work::Fill { to, pattern, count } => {
                let bytes = pattern.repeat(*count);
                self.gpu.write(Address(*to), &bytes).map_err(illegal)
            }
            Work::Product(product) => product.run(&mut self.gpu),
            Work::Record { .. } | Work::Wait { .. } => Ok(()),
        }
    }

    /// Runs a kernel. An error code of the findings becomes the error of the device; all of them
    /// are printed.
    fn run(&mut self, kernel: &KernelLaunch) -> Result<(), (Code, String)> {
        let name = &kernel.module.kernels()[kernel.index].name;
        let begins = |with: &Option<String>| with.as_ref().is_some_and(|it| name.starts_with(it));
        if begins(&self.settings.fails) {
            let why = format!("{name} fails, as PTX_DRIVER_FAIL asks for");
            return Err((Code::ILLEGAL_ADDRESS, why));
        }
        if begins(&self.settings.skips) {
            return Ok(());
        }
        let launch = Launch {
            grid: kernel.grid,
            block: kernel.block,
            dynamic_shared: kernel.dynamic_shared,
            params: &kernel.params,
        };
        let report = self.gpu.launch(&kernel.module, name, &launch).map_err(|fault| {
            let code = match &fault {
                Fault::Stopped(finding) => code_of(finding.kind),
                _ => Code::LAUNCH_FAILED,
            };
            (code, fault.to_string())
        })?;
        let Some(first) = report.findings.first() else { return Ok(()) };
        for finding in &report.findings[1..] {
            report_line(&format!("also found: {finding}"));
        }
        // Faults that stop a real device take precedence over those that it does not notice.
        let noticed = report.findings.iter().map(|finding| code_of(finding.kind));
        let code = noticed.min_by_key(|&code| code == Code::LAUNCH_FAILED);
        Err((code.unwrap_or(Code::LAUNCH_FAILED), first.to_string()))
    }
}

/// Returns the error code of a fault. A real device does not notice races and unwritten bytes; here
/// they end the kernel.
fn code_of(kind: FindingKind) -> Code {
    match kind {
        FindingKind::OutOfBounds => Code::ILLEGAL_ADDRESS,
        FindingKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FindingKind::UnknownInstruction => Code::ILLEGAL_INSTRUCTION,
        FindingKind::InstructionLimit | FindingKind::Deadlock => Code::LAUNCH_TIMEOUT,
        _ => Code::LAUNCH_FAILED,
    }
}
