//! Graphs of the virtual device: a list of queued steps, run in order with all checks.
//!
//! A kernel's parameters are kept as they were at the launch. Memory that changed its purpose
//! during the capture is marked as unwritten at that place of every replay. So a kernel that reads
//! the data of an earlier owner, or of the replay before, is found each time.

use std::collections::HashMap;
use std::sync::Arc;

use ptx_vm::{Address, Gpu};

use super::{State, failed};
use crate::device::backend::{GraphId, Product};
use crate::device::capture::unloaded;
use crate::device::{Grid, Kernel};
use crate::{KernelError, Result};

/// A queued operation.
#[derive(Debug)]
pub(in crate::device) enum Step {
    Renew { name: &'static str, address: u64 },
    Write { to: u64, bytes: Box<[u8]> },
    Zero { to: u64, bytes: usize },
    Copy { from: u64, to: u64, bytes: usize },
    Launch { kernel: Kernel, grid: Grid, params: Box<[u8]> },
    Product(Product),
}

/// The graphs of a device and the one being recorded.
#[derive(Default)]
pub(in crate::device) struct VirtualGraphs {
    recording: Option<Vec<Step>>,
    done: HashMap<GraphId, Arc<[Step]>>,
    next: GraphId,
}

impl VirtualGraphs {
    pub fn begin(&mut self) {
        self.recording = Some(Vec::new());
    }

    pub fn end(&mut self, keep: bool) -> Option<GraphId> {
        let steps = self.recording.take()?;
        if !keep {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.done.insert(id, steps.into());
        Some(id)
    }

    pub fn recording(&mut self) -> Option<&mut Vec<Step>> {
        self.recording.as_mut()
    }

    pub fn get(&self, id: GraphId) -> Result<Arc<[Step]>> {
        let none = || KernelError::Capture(format!("there is no graph {id}"));
        self.done.get(&id).cloned().ok_or_else(none)
    }

    pub(crate) fn forget(&mut self, id: GraphId) {
        self.done.remove(&id);
    }
}

impl State {
    /// Runs a step, or records it during a capture.
    pub fn queue(&mut self, step: Step) -> Result<()> {
        let State { graphs, launched, .. } = self;
        let Some(steps) = graphs.recording() else { return self.run(&step) };
        match &step {
            // A real device would have to load the kernel, which it does not do during a capture.
            Step::Launch { kernel, .. } if !launched.contains(&kernel.key()) => {
                Err(unloaded(kernel))
            }
            _ => {
                steps.push(step);
                Ok(())
            }
        }
    }

    pub fn run(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Renew { name, address } => {
                self.gpu.renew(Address(*address), name).map_err(failed("reuse memory"))
            }
            Step::Write { to, bytes } => {
                self.gpu.write(Address(*to), bytes).map_err(failed("write"))
            }
            Step::Zero { to, bytes } => {
                self.gpu.fill(Address(*to), 0, *bytes).map_err(failed("zero"))
            }
            Step::Copy { from, to, bytes } => copy(&mut self.gpu, *from, *to, *bytes),
            Step::Launch { kernel, grid, params } => self.launch(kernel, grid, params),
            Step::Product(product) => self.product(product),
        }
    }
}

fn copy(gpu: &mut Gpu, from: u64, to: u64, bytes: usize) -> Result<()> {
    let mut between = vec![0; bytes];
    gpu.read(Address(from), &mut between).map_err(failed("copy"))?;
    gpu.write(Address(to), &between).map_err(failed("copy"))
}
