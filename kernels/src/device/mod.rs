//! The façade over a GPU: buffers, copies, launches of embedded PTX, matrix products.
//!
//! Three backends implement it. `cuda` is a real device, used through the driver that is loaded at
//! run time. `virtual_gpu` executes the same PTX with the same grids and arguments on the CPU and
//! checks every access. `dry_run` executes nothing. All code above is the same for each.
//!
//! Conventions that every kernel of this crate keeps:
//!
//! * Work is queued in order on one stream. A dropped buffer returns to the pool at once and may be
//!   reused: work queued earlier runs earlier.
//! * Only [`Device::read`], [`Device::download`], [`Device::wait`] and [`Device::time`] wait for
//!   queued work; [`Device::counters`] counts these waits. (Releasing memory waits too, uncounted.)
//! * Queued work can be recorded once and run many times: [`Device::capture`]. During a capture the
//!   host neither copies nor waits, and only free blocks of the pool are handed out.
//! * A kernel's first parameter is a `#[repr(C)]` struct of sizes without padding, the others are
//!   pointers: see [`Args`]. An absent operand is a null pointer.
//! * Activations and their gradients are stored as f32 or bf16 ([`Float`]); parameters of one axis
//!   (norm weights, biases, layer scales), statistics and all parameter gradients are f32. All
//!   arithmetic is f32.
//! * There are no floating-point atomics. Sums run in an order that depends on the sizes only, so
//!   the same input gives the same bytes.
//!
//! ```
//! use dressage_kernels::call::{Gpu, Launch};
//! use dressage_kernels::ops::activation::{Activation, Forward, Pointwise};
//! use dressage_kernels::device::Device;
//! let device = Device::virtual_gpu();
//! let x = device.upload("x", &[-1.0f32, 0.0, 2.0])?;
//! let mut y = device.alloc("y", 3)?;
//! let relu = Pointwise { f: Activation::Relu, n: 3 };
//! Forward::<Gpu, _> { x: x.view(), y: y.view_mut() }.launch(&device, &relu)?;
//! assert_eq!(device.download(y.view())?, [0.0, 0.0, 2.0]);
//! # Ok::<(), dressage_kernels::KernelError>(())
//! ```

mod backend;
mod buffer;
mod capture;
#[cfg(test)]
mod capture_tests;
mod constant;
mod cuda;
mod dry_run;
mod element;
mod launch;
mod module;
mod nvtx;
mod pool;
pub mod probe;
mod product;
mod ranges;
pub(crate) mod sizes;
#[cfg(test)]
mod tests;
mod trace;
mod virtual_gpu;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use backend::Backend;
pub use buffer::{Buffer, View, ViewMut};
use capture::Capture;
pub use capture::{CapturedGraph, GraphMemory};
pub use constant::Constant;
pub use element::{Element, Float};
pub use launch::{Args, Grid};
pub use module::{Kernel, Module};
use pool::Pool;
pub use pool::Usage;
pub use product::Epilogue;
pub use ranges::{Phase, ProfileScope, Range, part, range, resume};
pub use trace::{Counts, LiveBuffer, Trace};

use crate::{KernelError, Result, check_count};

/// A GPU, real or virtual. Clones refer to the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    id: u32,
    backend: Box<dyn Backend>,
    pool: Mutex<Pool>,
    tables: Mutex<constant::Tables>,
    /// `None` for a real device.
    trace: Option<Mutex<trace::Writer>>,
    capture: RwLock<Capture>,
    /// Graph memories created so far.
    memories: AtomicU32,
    launches: AtomicU64,
    products: AtomicU64,
    waits: AtomicU64,
    graphs: AtomicU64,
}

/// Counts of the requests to a device so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kernels launched, including those of replayed graphs.
    pub launches: u64,
    /// Matrix products, including those of replayed graphs.
    pub products: u64,
    /// Times that the host waited for the device.
    pub waits: u64,
    /// Graphs replayed.
    pub graphs: u64,
}

/// Work of the kernels of a virtual device so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Instructions, counted once per lane.
    pub instructions: u64,
    /// Bytes of global memory that lanes requested.
    pub global_bytes: u64,
    /// Bytes moved for these requests, in sectors of 32 bytes for each warp and instruction. Caches
    /// are ignored.
    pub global_bytes_moved: u64,
    /// Extra passes over shared memory.
    pub bank_conflicts: u64,
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

impl Device {
    /// Opens CUDA device `ordinal`, counted from 0 as in the driver.
    ///
    /// # Errors
    /// [`KernelError::NoDevice`] if there is no driver library, no GPU, no such number or no
    /// cuBLASLt library; it says what was looked for.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        let device = Device::new(Box::new(cuda::Cuda::open(ordinal)?), None);
        nvtx::load();
        Ok(device)
    }

    /// A virtual device whose products have no epilogues.
    #[cfg(test)]
    pub(crate) fn virtual_without_epilogues() -> Device {
        Device::new(Box::new(virtual_gpu::VirtualGpu::without_epilogues()), None)
    }

    /// A device that executes PTX on the CPU. It reports every access that would fail on a real
    /// device, with line, block, warp and lane.
    pub fn virtual_gpu() -> Device {
        let trace = trace::Writer::new(false);
        Device::new(Box::new(virtual_gpu::VirtualGpu::new()), Some(trace))
    }

    /// A device without memory that executes nothing and counts everything: see
    /// [`Device::trace`].
    pub fn dry_run() -> Device {
        Device::new(Box::new(dry_run::DryRun::new()), Some(trace::Writer::new(true)))
    }

    fn new(backend: Box<dyn Backend>, trace: Option<trace::Writer>) -> Device {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pool = Mutex::new(Pool::new(backend.granularity()));
        let (tables, launches, products, waits, graphs) = Default::default();
        let (capture, memories) = Default::default();
        let id = NEXT.fetch_add(1, Relaxed);
        let trace = trace.map(Mutex::new);
        Device(Arc::new(Inner {
            id,
            backend,
            pool,
            tables,
            trace,
            capture,
            memories,
            launches,
            products,
            waits,
            graphs,
        }))
    }

    /// Number of this device among those that the process opened.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Name of the device.
    pub fn name(&self) -> String {
        self.0.backend.name()
    }

    /// Launches, products, waits and replays since the device was opened.
    pub fn counters(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let inner = &self.0;
        Counters {
            launches: of(&inner.launches),
            products: of(&inner.products),
            waits: of(&inner.waits),
            graphs: of(&inner.graphs),
        }
    }

    /// Work of the kernels so far; `None` on a real device, which does not count.
    pub fn work(&self) -> Option<Work> {
        self.0.backend.work()
    }

    /// Trace since the device was opened or [`Device::restart_trace`] was called. `None` on a real
    /// device, which has a profiler for that.
    pub fn trace(&self) -> Option<Trace> {
        self.0.trace.as_ref().map(|trace| lock(trace).read())
    }

    /// Restarts the trace.
    pub fn restart_trace(&self) {
        self.in_trace(trace::Writer::restart);
    }

    /// Fused products that run unfused because the library refuses them, one line each.
    pub fn unfused(&self) -> Vec<String> {
        self.0.backend.unfused()
    }

    /// Model, driver and library of a real device with their versions; `None` for others. A kernel
    /// gives equal results only where these are equal.
    pub fn software(&self) -> Option<String> {
        self.0.backend.software()
    }

    /// Bytes that can still be reserved; `None` where the device does not report them. Other users
    /// of the device may take them.
    pub fn free_memory(&self) -> Option<usize> {
        self.0.backend.free_memory()
    }

    /// Whether this is a [`Device::dry_run`]: nothing is executed and all values are zero.
    pub fn is_dry_run(&self) -> bool {
        self.0.backend.is_dry_run()
    }

    /// Bytes in use, their high-water mark, and bytes kept for reuse.
    pub fn usage(&self) -> Usage {
        Usage { pinned: self.0.backend.pinned(), ..self.pool().usage() }
    }

    /// Resets the high-water mark to the present use.
    pub fn reset_peak(&self) {
        self.pool().reset_peak();
    }

    /// A buffer of `len` elements whose contents are undefined; `name` appears in errors.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]; during a capture [`KernelError::Capture`] if the pool has no
    /// free block of the size.
    pub fn alloc<T: Element>(&self, name: &'static str, len: usize) -> Result<Buffer<T>> {
        let address = self.take(name, len * size_of::<T>())?;
        Ok(Buffer::new(self.clone(), address, len))
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]; a failure of the device.
    pub fn zeros<T: Element>(&self, name: &'static str, len: usize) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(name, len)?;
        self.zero(buffer.view_mut())?;
        Ok(buffer)
    }

    /// A buffer with the elements of `host`.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]; a failure of the device.
    pub fn upload<T: Element>(&self, name: &'static str, host: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(name, host.len())?;
        self.write(buffer.view_mut(), host)?;
        Ok(buffer)
    }

    /// Copies `host` to the device; `host` may be changed as soon as this returns.
    ///
    /// # Errors
    /// Different lengths; another device's memory; a capture under way; a failure of the device.
    pub fn write<T: Element>(&self, to: ViewMut<'_, T>, host: &[T]) -> Result<()> {
        self.owns("write", to.id())?;
        check_count("write", "host", host.len(), to.len())?;
        if host.is_empty() {
            return Ok(());
        }
        self.put(to.address(), bytemuck::cast_slice(host))
    }

    /// Waits for everything queued before and copies the elements to `host`.
    ///
    /// # Errors
    /// Different lengths; another device's memory; a capture under way; a failure of the device,
    /// also one of a kernel launched before.
    pub fn read<T: Element>(&self, from: View<'_, T>, host: &mut [T]) -> Result<()> {
        self.owns("read", from.id())?;
        check_count("read", "host", host.len(), from.len())?;
        if host.is_empty() {
            return Ok(());
        }
        let _gate = self.beside_captures("reads")?;
        self.0.waits.fetch_add(1, Relaxed);
        self.note(|counts| {
            counts.waits += 1;
            counts.downloads += 1;
            counts.downloaded += size_of_val(host) as u64;
        });
        self.0.backend.read(from.address(), bytemuck::cast_slice_mut(host))
    }

    /// Waits for everything queued before and returns the elements.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn download<T: Element>(&self, from: View<'_, T>) -> Result<Vec<T>> {
        let mut host = vec![T::zeroed(); from.len()];
        self.read(from, &mut host)?;
        Ok(host)
    }

    /// Sets all bits to zero.
    ///
    /// # Errors
    /// Another device's memory; a failure of the device.
    pub fn zero<T: Element>(&self, to: ViewMut<'_, T>) -> Result<()> {
        self.owns("zero", to.id())?;
        if to.is_empty() {
            return Ok(());
        }
        let bytes = to.len() * size_of::<T>();
        let gate = self.gate(&[to.address()])?;
        self.note_copy(&gate, bytes);
        self.0.backend.zero(to.address(), bytes)
    }

    /// Copies within the device.
    ///
    /// # Errors
    /// Different lengths; another device's memory; a failure of the device.
    pub fn copy<T: Element>(&self, from: View<'_, T>, to: ViewMut<'_, T>) -> Result<()> {
        self.owns("copy", from.id())?;
        self.owns("copy", to.id())?;
        check_count("copy", "from", from.len(), to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        let bytes = to.len() * size_of::<T>();
        let gate = self.gate(&[from.address(), to.address()])?;
        self.note_copy(&gate, bytes);
        self.0.backend.copy(from.address(), to.address(), bytes)
    }

    /// Waits until everything queued before is done.
    ///
    /// # Errors
    /// A capture under way; a failure of the device, also one of a kernel launched before.
    pub fn wait(&self) -> Result<()> {
        let _gate = self.beside_captures("waits")?;
        self.0.waits.fetch_add(1, Relaxed);
        self.note(|counts| counts.waits += 1);
        self.0.backend.wait()
    }

    /// Seconds that the device takes for the work that `work` queues. Waits for its end. A real
    /// device measures between two events of its stream, so neither earlier work nor the host's
    /// waiting counts. A virtual device executes the work while `work` runs.
    ///
    /// # Errors
    /// Those of `work`; a capture under way; a failure of the device.
    pub fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        // Released at once: the calls in `work` pass the gate themselves.
        drop(self.beside_captures("waits")?);
        self.0.waits.fetch_add(1, Relaxed);
        self.note(|counts| counts.waits += 1);
        self.0.backend.time(&mut work)
    }

    /// Returns memory kept for reuse to the device.
    ///
    /// # Errors
    /// A capture under way; a failure of the device.
    pub fn trim(&self) -> Result<()> {
        let _gate = self.beside_captures("releases memory")?;
        let mut pool = self.pool();
        self.0.backend.wait()?;
        pool.trim(self.0.backend.as_ref());
        Ok(())
    }

    /// Queues a kernel launch. A grid without blocks queues nothing.
    ///
    /// # Errors
    /// An argument on another device; a grid that no device accepts; PTX that the device refuses;
    /// on the virtual device every fault and finding of the kernel, with its place.
    ///
    /// # Safety
    /// `args` are the kernel's parameters in order and type. With them and `grid` the kernel stays
    /// within the memory behind them. (The virtual device checks this; a real one does not.)
    pub unsafe fn launch(&self, kernel: &Kernel, grid: &Grid, args: &Args<'_>) -> Result<()> {
        if let Some(&device) = args.devices().iter().find(|&&id| id != self.0.id) {
            return Err(self.stranger("launch", device));
        }
        grid.check(kernel)?;
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let gate = self.gate(args.addresses())?;
        if gate.capturing() {
            gate.count_launch();
        } else {
            self.0.launches.fetch_add(1, Relaxed);
            self.in_trace(|trace| trace.launched(kernel.key()));
        }
        self.0.backend.launch(kernel, grid, args.bytes())
    }

    fn take(&self, name: &'static str, bytes: usize) -> Result<u64> {
        let _gate = self.gate(&[])?;
        let address = self.pool().take(self.0.backend.as_ref(), name, bytes)?;
        self.in_trace(|trace| trace.took(name, address, bytes));
        Ok(address)
    }

    fn put(&self, to: u64, bytes: &[u8]) -> Result<()> {
        let _gate = self.beside_captures("writes")?;
        self.note(|counts| {
            counts.uploads += 1;
            counts.uploaded += bytes.len() as u64;
        });
        self.0.backend.write(to, bytes)
    }

    fn give_back(&self, address: u64) {
        self.in_trace(|trace| trace.gave(address));
        self.pool().give(address);
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.0.pool)
    }

    fn in_trace(&self, f: impl FnOnce(&mut trace::Writer)) {
        if let Some(trace) = &self.0.trace {
            f(&mut lock(trace));
        }
    }

    fn note(&self, f: impl FnOnce(&mut Counts)) {
        self.in_trace(|trace| trace.note(f));
    }

    fn note_copy(&self, gate: &capture::Gate<'_>, bytes: usize) {
        if !gate.capturing() {
            self.note(|counts| {
                counts.copies += 1;
                counts.copied += bytes as u64;
            });
        }
    }

    fn owns(&self, op: &'static str, id: u32) -> Result<()> {
        if id == self.0.id { Ok(()) } else { Err(self.stranger(op, id)) }
    }

    fn stranger(&self, op: &'static str, id: u32) -> KernelError {
        let what = format!("an argument is on device number {id}, not on {}", self.name());
        KernelError::Size { op, what }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inner {
    fn drop(&mut self) {
        let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
        let tables = self.tables.get_mut().unwrap_or_else(PoisonError::into_inner);
        tables.drain().into_iter().for_each(|address| pool.give(address));
        pool.trim(self.backend.as_ref());
    }
}
