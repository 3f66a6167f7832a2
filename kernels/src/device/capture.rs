//! Graphs: work that is queued once and replayed many times.
//!
//! [`Device::capture`] records what a closure queues instead of running it. [`Device::replay`] runs
//! it, as one launch on a real device. Addresses, sizes and host values are those of the capture.
//! Values that change from replay to replay are therefore in buffers with fixed addresses, which
//! are written before a replay.
//!
//! * Nothing is reserved during a capture. The same work has to run before, until it reserves
//!   nothing ([`Usage`](super::Usage) counts reservations). Then its memory is in the pool and its
//!   kernels are loaded. One run may not suffice: a buffer that the first run keeps (the table of
//!   an update) can use a block that the run itself had used and dropped. Also, a real device
//!   rounds sizes to 512 bytes, so that more of them share blocks.
//! * The host does not wait, read or write during a capture. Data that is the same at every replay,
//!   such as a table of addresses, is written by [`Device::write_constant`].
//! * Memory that captured work takes belongs to a [`GraphMemory`] from then on, even after its
//!   buffers are dropped, because a replay writes to it again. Within the graph, and in later
//!   graphs of the same memory, it is reused as usual.
//! * Graphs of one memory are parts of one sequence: a buffer created in the first capture may be
//!   read in the second, and dropped there. So they are replayed in the order of their capture,
//!   beginning with the first; another order is refused.
//! * Other buffers that captured work touches stay reserved as long as the graph memory, even when
//!   they are dropped.
//!
//! ```
//! use dressage_kernels::call::{Gpu, Launch};
//! use dressage_kernels::ops::activation::{Activation, Forward, Pointwise};
//! use dressage_kernels::device::Device;
//! let device = Device::virtual_gpu();
//! let mut x = device.upload("x", &[-1.0f32, 2.0])?;
//! let mut y = device.zeros("y", 2)?;
//! let relu = Pointwise { f: Activation::Relu, n: 2 };
//! Forward::<Gpu, _> { x: x.view(), y: y.view_mut() }.launch(&device, &relu)?;
//! let memory = device.graph_memory();
//! let (graph, ()) = device.capture(&memory, || {
//!     Forward::<Gpu, _> { x: x.view(), y: y.view_mut() }.launch(&device, &relu)
//! })?;
//! device.write(x.view_mut(), &[3.0, -4.0])?;
//! device.replay(&graph)?;
//! assert_eq!(device.download(y.view())?, [3.0, 0.0]);
//! # Ok::<(), dressage_kernels::KernelError>(())
//! ```

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLockReadGuard};

use super::backend::GraphId;
use super::pool::MemoryId;
use super::{Device, Element, Kernel, ViewMut};
use crate::{KernelError, Result, check_count};

/// Memory of graphs that are replayed one after the other. Clones refer to the same memory. It
/// returns to the pool when its last clone and its last graph are dropped.
#[derive(Debug, Clone)]
pub struct GraphMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    device: Device,
    id: MemoryId,
    order: Mutex<Order>,
}

/// Order of the graphs of a memory, which are numbered from 0.
#[derive(Debug, Default)]
struct Order {
    captured: u32,
    replayed: Option<u32>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.device.pool().end_memory(self.id);
    }
}

/// A recorded sequence of launches, products, copies and zeroings.
#[derive(Debug)]
pub struct CapturedGraph {
    memory: Arc<Shared>,
    number: u32,
    id: GraphId,
    work: WorkCounts,
}

impl CapturedGraph {
    /// Kernels that a replay launches.
    pub fn launches(&self) -> u64 {
        self.work.launches
    }

    /// Matrix products that a replay computes.
    pub fn products(&self) -> u64 {
        self.work.products
    }
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        self.memory.device.0.backend.forget(self.id);
    }
}

/// Counts of the work of a graph.
#[derive(Debug, Clone, Copy, Default)]
struct WorkCounts {
    launches: u64,
    products: u64,
}

/// The capturing thread, and counts of the work recorded so far.
#[derive(Default)]
pub(super) struct Capture {
    /// Number of the capturing thread, 0 without one.
    thread: u64,
    launches: AtomicU64,
    products: AtomicU64,
}

/// Number of this thread, given at its first call, from 1.
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

/// Guard held while work is queued, so that no capture begins or ends meanwhile.
pub(super) struct Gate<'a>(RwLockReadGuard<'a, Capture>);

impl Gate<'_> {
    pub fn capturing(&self) -> bool {
        self.0.thread != 0
    }

    /// Counts a launch of this capture.
    pub(crate) fn count_launch(&self) {
        self.0.launches.fetch_add(1, Relaxed);
    }

    /// Counts a product of this capture.
    pub(crate) fn count_product(&self) {
        self.0.products.fetch_add(1, Relaxed);
    }
}

/// Ends a capture that was interrupted by an error or a panic.
struct Unfinished<'a>(&'a Device);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // Another error is already on its way.
        let _ = self.0.end_capture(false);
    }
}

impl Device {
    /// Creates an empty memory for graphs of this device.
    pub fn graph_memory(&self) -> GraphMemory {
        let id = self.0.memories.fetch_add(1, Relaxed);
        GraphMemory(Arc::new(Shared { device: self.clone(), id, order: Mutex::default() }))
    }

    /// Records what `work` queues on this device; nothing of it runs before [`Device::replay`].
    /// Also returns the value of `work`: buffers created in it contain the results of the latest
    /// replay.
    ///
    /// # Errors
    /// Those of `work`; another device's memory; a capture within a capture; a failure of the
    /// device. `work` may not make an allocation that the pool cannot serve, launch a kernel that
    /// was never launched before, copy from or to the host, or wait. Meanwhile other threads cannot
    /// queue work.
    pub fn capture<R, E: From<KernelError>>(
        &self,
        memory: &GraphMemory,
        work: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<(CapturedGraph, R), E> {
        let shared = &memory.0;
        self.owns("capture", shared.device.id())?;
        self.begin_capture(shared.id)?;
        let unfinished = Unfinished(self);
        let result = work()?;
        std::mem::forget(unfinished);
        let Some((id, work)) = self.end_capture(true)? else {
            return Err(KernelError::Capture("nothing was recorded".into()).into());
        };
        let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        let number = order.captured;
        order.captured += 1;
        Ok((CapturedGraph { memory: shared.clone(), number, id, work }, result))
    }

    /// Queues a captured graph.
    ///
    /// # Errors
    /// Another device's graph; a graph whose predecessor in its memory was not replayed last; a
    /// capture under way; a failure of the device; on the virtual device every fault and finding of
    /// a kernel.
    pub fn replay(&self, graph: &CapturedGraph) -> Result<()> {
        let shared = &graph.memory;
        self.owns("replay", shared.device.id())?;
        let _gate = self.beside_captures("replays")?;
        let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        let before = graph.number.checked_sub(1);
        if before.is_some() && before != order.replayed {
            return Err(KernelError::Capture(format!(
                "graph {} of its memory reads what graph {} wrote: replay that one first",
                graph.number,
                graph.number - 1
            )));
        }
        order.replayed = None;
        let inner = &self.0;
        inner.launches.fetch_add(graph.work.launches, Relaxed);
        inner.products.fetch_add(graph.work.products, Relaxed);
        inner.graphs.fetch_add(1, Relaxed);
        self.note(|counts| {
            counts.launches += graph.work.launches;
            counts.products += graph.work.products;
        });
        inner.backend.replay(graph.id)?;
        order.replayed = Some(graph.number);
        Ok(())
    }

    /// Copies `host` to the device as [`Device::write`] does, and may be captured. Every replay
    /// then copies the elements that `host` had at the capture. Used for tables of sizes and
    /// addresses.
    ///
    /// # Errors
    /// Different lengths; another device's memory; a failure of the device.
    pub fn write_constant<T: Element>(&self, to: ViewMut<'_, T>, host: &[T]) -> Result<()> {
        self.owns("write", to.id())?;
        check_count("write", "host", host.len(), to.len())?;
        if host.is_empty() {
            return Ok(());
        }
        let gate = self.gate(&[to.address()])?;
        let bytes = bytemuck::cast_slice(host);
        if gate.capturing() {
            return self.0.backend.record_write(to.address(), bytes);
        }
        drop(gate);
        self.put(to.address(), bytes)
    }

    /// Whether work that this thread queues is recorded instead of run.
    pub(crate) fn is_capturing(&self) -> bool {
        self.0.capture.read().unwrap_or_else(PoisonError::into_inner).thread == this_thread()
    }

    /// Returns the guard for queuing work that touches these addresses.
    pub(super) fn gate(&self, addresses: &[u64]) -> Result<Gate<'_>> {
        let capture = self.0.capture.read().unwrap_or_else(PoisonError::into_inner);
        if capture.thread != 0 {
            if capture.thread != this_thread() {
                return Err(KernelError::Capture(
                    "another thread captures a graph on this device; queue work before or after it"
                        .into(),
                ));
            }
            let mut pool = self.pool();
            addresses.iter().for_each(|&address| pool.hold(address));
        }
        Ok(Gate(capture))
    }

    /// Returns the guard for work that cannot be captured; `what` the host does, a verb.
    pub(super) fn beside_captures(&self, what: &str) -> Result<Gate<'_>> {
        let gate = self.gate(&[])?;
        if gate.capturing() {
            return Err(KernelError::Capture(format!(
                "the host {what} during a capture; do it before or after, with buffers that keep \
                 their addresses"
            )));
        }
        Ok(gate)
    }

    fn begin_capture(&self, memory: MemoryId) -> Result<()> {
        let mut capture = self.0.capture.write().unwrap_or_else(PoisonError::into_inner);
        if capture.thread != 0 {
            return Err(KernelError::Capture("a capture is under way on this device".into()));
        }
        self.0.backend.begin_capture()?;
        *capture = Capture { thread: this_thread(), ..Capture::default() };
        self.pool().capture(Some(memory));
        Ok(())
    }

    fn end_capture(&self, keep: bool) -> Result<Option<(GraphId, WorkCounts)>> {
        let mut capture = self.0.capture.write().unwrap_or_else(PoisonError::into_inner);
        let done = std::mem::take(&mut *capture);
        self.pool().capture(None);
        let id = self.0.backend.end_capture(keep)?;
        let (launches, products) = (done.launches.into_inner(), done.products.into_inner());
        Ok(id.map(|id| (id, WorkCounts { launches, products })))
    }
}

/// The error of a kernel that is launched for the first time during a capture.
pub(super) fn unloaded(kernel: &Kernel) -> KernelError {
    KernelError::Capture(format!(
        "{} was never launched and cannot be loaded during a capture: run the same work once \
         before",
        kernel.full_name()
    ))
}
