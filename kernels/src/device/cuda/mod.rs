//! A real device, through the driver that is loaded at run time.
//!
//! The bindings panic where a library is absent; formatting their error type panics too. So no
//! library is used before [`present`] has found it. The order is: driver library, its version (the
//! bindings also panic where an old driver lacks a function), initialisation, number of devices.
//! cuBLASLt has bindings of its own ([`cublaslt`]). Everything runs on one stream.
//!
//! Kernels run asynchronously. When one fails, the next call to the driver returns its error,
//! whatever that call is for; [`of_a_kernel`] says so.

pub(super) mod checks;
mod cublaslt;
pub(super) mod error;
mod events;
mod graph;
pub(super) mod library_search;
mod pinned;
mod product;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result as driver, sys};

use self::checks::{capable, exact, present, recent};
use self::error::{is_of_a_kernel, of_a_kernel, words};
use self::graph::CudaGraphs;
use self::library_search::Search;
use self::pinned::Staging;
use self::product::Products;
use crate::device::backend::{Backend, GraphId, Product};
use crate::device::capture::unloaded;
use crate::device::module::Key;
use crate::device::{Grid, Kernel};
use crate::{KernelError, Result};

/// Granularity of reservations: the driver hands out pieces of at least this size anyway.
const GRANULARITY: usize = 512;

/// Dynamic shared memory that a kernel has without a request.
const SHARED_UNASKED: usize = 48 << 10;

/// Bytes of the driver's log about PTX that it refuses.
const LOG: usize = 8 << 10;

pub(super) struct Cuda {
    name: String,
    /// Description of libraries and architecture.
    software: String,
    loaded: Mutex<Loaded>,
    products: Mutex<Products>,
    graphs: CudaGraphs,
    staging: Mutex<Option<Staging>>,
    stream: sys::CUstream,
    context: Context,
}

/// The primary context of a device, retained.
struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. `Drop` cannot report an error; the driver cleans up
        // with the process.
        let _ = unsafe { driver::primary_ctx::release(self.device) };
    }
}

// SAFETY: any thread may use the handles of the driver and of cuBLASLt once the context is current
// there; every method makes it current first. Page-locked memory has one owner.
unsafe impl Send for Cuda {}
// SAFETY: as above; state on this side of the driver is behind a mutex.
unsafe impl Sync for Cuda {}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<Key, Function>,
    latest: Option<Kernel>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory requested so far.
    shared: usize,
}

impl Cuda {
    /// Opens device number `ordinal`.
    ///
    /// # Errors
    /// [`KernelError::NoDevice`] with what was looked for.
    pub fn open(ordinal: usize) -> Result<Cuda> {
        exact(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))?;
        // SAFETY: only tries to load the library; loading runs its initialisers only.
        present("libcuda.so of the NVIDIA driver", unsafe { sys::is_culib_present() })?;
        let none = |error| KernelError::NoDevice(words(error));
        let version = recent()?;
        driver::init().map_err(none)?;
        let count = driver::device::get_count().map_err(none)?;
        let number = i32::try_from(ordinal).ok().filter(|&number| number < count);
        let Some(number) = number else {
            let what = format!("number {ordinal} of {count}; they are counted from 0");
            return Err(KernelError::NoDevice(what));
        };
        let gpu = crate::device::probe::gpu(number).map_err(none)?;
        capable(&gpu.name, gpu.compute)?;
        let mut search = Search::new(Some(version));
        let library = search.next().ok_or_else(|| search.nothing())?;
        let device = driver::device::get(number).map_err(none)?;
        // SAFETY: the device exists; the context is released when the value is dropped.
        let handle = unsafe { driver::primary_ctx::retain(device) }.map_err(none)?;
        let context = Context { device, handle };
        // SAFETY: the context was just retained.
        unsafe { driver::ctx::set_current(handle) }.map_err(none)?;
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(none)?;
        let name = format!("{} (number {ordinal})", gpu.name);
        let products = Products::open(&name, library, &mut search).inspect_err(|_| {
            // SAFETY: just created, nothing is queued.
            let _ = unsafe { driver::stream::destroy(stream) };
        })?;
        let (major, minor) = gpu.compute;
        let software = format!(
            "{}, compute capability {major}.{minor}, {}, cuBLASLt {}",
            gpu.name,
            crate::device::probe::driver_version(),
            products.library().dotted()
        );
        let (loaded, graphs, staging) = Default::default();
        let products = Mutex::new(products);
        Ok(Cuda { name, software, loaded, products, graphs, staging, stream, context })
    }

    fn products(&self) -> MutexGuard<'_, Products> {
        self.products.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str) -> impl Fn(DriverError) -> KernelError + '_ {
        move |error| {
            if is_of_a_kernel(error) {
                return of_a_kernel(&self.name, error, self.loaded().latest.as_ref());
            }
            KernelError::Device { device: self.name.clone(), action, what: words(error) }
        }
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { driver::ctx::set_current(self.context.handle) }.map_err(self.failed("be used"))
    }

    /// Calls `copy` with the staging memory, which the first call reserves.
    fn staged<T>(&self, copy: impl FnOnce(&mut Staging) -> Result<T>) -> Result<T> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        copy(match &mut *staging {
            Some(staging) => staging,
            none => {
                let reserved = Staging::new().map_err(self.failed("reserve page-locked memory"))?;
                none.insert(reserved)
            }
        })
    }

    /// The kernel's handle, with room for the grid's dynamic shared memory.
    fn function(&self, kernel: &Kernel, grid: &Grid) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded();
        let latest = loaded.latest;
        let refused = |error| self.refused(kernel, grid, latest, error);
        let mut function = match loaded.functions.get(&kernel.key()) {
            Some(&function) => function,
            None if self.graphs.recording() => return Err(unloaded(kernel)),
            None => {
                let module = self.module(&mut loaded, kernel, grid)?;
                let name = CString::new(kernel.full_name())
                    .map_err(|_| grid.refused(kernel, "its name holds a zero byte"))?;
                // SAFETY: the module stays loaded as long as the context.
                let handle = unsafe { driver::module::get_function(module, name) };
                Function { handle: handle.map_err(refused)?, shared: SHARED_UNASKED }
            }
        };
        if grid.shared > function.shared {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = grid.shared as i32;
            // SAFETY: the handle is of a loaded function.
            unsafe { driver::function::set_function_attribute(function.handle, attribute, bytes) }
                .map_err(refused)?;
            function.shared = grid.shared;
        }
        loaded.functions.insert(kernel.key(), function);
        loaded.latest = Some(*kernel);
        Ok(function.handle)
    }

    /// The error of a call for a launch; it may be that of an earlier kernel.
    fn refused(
        &self,
        kernel: &Kernel,
        grid: &Grid,
        latest: Option<Kernel>,
        error: DriverError,
    ) -> KernelError {
        if is_of_a_kernel(error) {
            return of_a_kernel(&self.name, error, latest.as_ref());
        }
        grid.refused(kernel, words(error))
    }

    /// Returns the module for this device; the first call translates its PTX.
    fn module(&self, loaded: &mut Loaded, kernel: &Kernel, grid: &Grid) -> Result<sys::CUmodule> {
        let source = kernel.module;
        if let Some(&module) = loaded.modules.get(source.name()) {
            return Ok(module);
        }
        let text = CString::new(source.text())
            .map_err(|_| grid.refused(kernel, "the PTX holds a zero byte"))?;
        let mut log = vec![0u8; LOG];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The driver expects the size as the value of a pointer.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        let mut module = null_mut();
        // SAFETY: the text ends in a zero byte; the log is as long as stated; both outlive the
        // call.
        let loading = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options, values).result()
        };
        loading.map_err(|error| {
            if is_of_a_kernel(error) {
                return of_a_kernel(&self.name, error, loaded.latest.as_ref());
            }
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG);
            let log = String::from_utf8_lossy(&log[..end]);
            let what = format!("the driver refuses {}.ptx: {} {log}", source.name(), words(error));
            grid.refused(kernel, what.trim_end())
        })?;
        loaded.modules.insert(source.name(), module);
        Ok(module)
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn granularity(&self) -> usize {
        GRANULARITY
    }

    fn reserve(&self, _: &'static str, bytes: usize) -> Result<Option<u64>> {
        self.enter()?;
        // SAFETY: nothing reads the memory before it is written.
        match unsafe { driver::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(self.failed("reserve memory")(error)),
        }
    }

    fn renew(&self, _: &'static str, address: u64, _: usize) -> Result<u64> {
        Ok(address)
    }

    fn release(&self, address: u64, _: usize) {
        // No error can be reported here: the memory is freed with the context.
        if self.enter().is_ok() {
            // SAFETY: the pool releases each address once; the driver waits for work on it.
            let _ = unsafe { driver::free_sync(address) };
        }
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        self.staged(|staging| {
            // SAFETY: the façade has checked the length; the stream lives as long as `self`.
            unsafe { staging.write(to, bytes, self.stream) }.map_err(self.failed("write"))
        })
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        self.staged(|staging| {
            // SAFETY: as above.
            unsafe { staging.read(from, bytes, self.stream) }.map_err(self.failed("read"))
        })
    }

    fn zero(&self, to: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the façade has checked the length.
        unsafe { driver::memset_d8_async(to, 0, bytes, self.stream) }.map_err(self.failed("zero"))
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the façade has checked both lengths.
        unsafe { driver::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(self.failed("copy"))
    }

    fn wait(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { driver::stream::synchronize(self.stream) }.map_err(self.failed("finish its work"))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.enter()?;
        // SAFETY: the context is current, and the stream lives as long as `self`.
        unsafe { events::time(self.stream, work, &self.failed("time its work")) }
    }

    fn launch(&self, kernel: &Kernel, grid: &Grid, params: &[u8]) -> Result<()> {
        self.enter()?;
        let latest = self.loaded().latest;
        let function = self.function(kernel, grid)?;
        let mut bytes = params.len();
        let mut extra = [
            sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as *mut c_void,
            params.as_ptr().cast_mut().cast(),
            sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as *mut c_void,
            (&raw mut bytes).cast(),
            sys::CU_LAUNCH_PARAM_END_AS_INT as usize as *mut c_void,
        ];
        let [bx, by, bz] = grid.blocks.map(|n| n as u32);
        let [tx, ty, tz] = grid.threads;
        let (shared, stream) = (grid.shared as u32, self.stream);
        // SAFETY: the caller of `Device::launch` guarantees the kernel's arguments; the driver
        // copies them before it returns.
        unsafe {
            let extra = extra.as_mut_ptr();
            let no_list = null_mut();
            sys::cuLaunchKernel(function, bx, by, bz, tx, ty, tz, shared, stream, no_list, extra)
        }
        .result()
        .map_err(|error| self.refused(kernel, grid, latest, error))
    }

    fn free_memory(&self) -> Option<usize> {
        self.enter().ok()?;
        driver::mem_get_info().ok().map(|(free, _)| free)
    }

    fn product(&self, product: &Product) -> Result<bool> {
        self.enter()?;
        let found = self.products().run(product, self.stream);
        let Err(error) = found else { return found };
        // cuBLASLt's error does not say that a kernel failed before; the driver's does.
        if self.graphs.recording() { Err(error) } else { Err(self.wait().err().unwrap_or(error)) }
    }

    fn fits(&self, product: &Product) -> Result<bool> {
        self.enter()?;
        self.products().fit(product)
    }

    fn unfused(&self) -> Vec<String> {
        self.products().unfused()
    }

    fn software(&self) -> Option<String> {
        Some(self.software.clone())
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { self.graphs.begin(self.stream) }.map_err(self.failed("begin a capture"))
    }

    fn end_capture(&self, keep: bool) -> Result<Option<GraphId>> {
        self.enter()?;
        // SAFETY: the façade ends a capture on the thread that began it.
        unsafe { self.graphs.end(self.stream, keep) }.map_err(self.failed("capture this work"))
    }

    fn record_write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the façade has checked the length.
        unsafe { self.graphs.write(to, bytes, self.stream) }.map_err(self.failed("capture a copy"))
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        self.enter()?;
        // SAFETY: the graph's memory is reserved as long as the graph lives.
        let launched = unsafe { self.graphs.replay(graph, self.stream) };
        let none = || KernelError::Capture(format!("there is no graph {graph}"));
        launched.ok_or_else(none)?.map_err(self.failed("launch a graph"))
    }

    fn forget(&self, graph: GraphId) {
        // No error can be reported here: the graph is freed with the context.
        if self.enter().is_ok() {
            // SAFETY: the façade forgets a graph once.
            unsafe { self.graphs.forget(graph, self.stream) };
        }
    }

    fn pinned(&self) -> usize {
        let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if staging.is_some() { Staging::BYTES } else { 0 }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // `Drop` cannot report errors; the driver cleans up with the process.
        if self.enter().is_err() {
            return;
        }
        // SAFETY: the stream is alive. Nothing is destroyed while kernels run.
        let _ = unsafe { driver::stream::synchronize(self.stream) };
        // SAFETY: no capture is under way, since that borrows the device.
        unsafe { self.graphs.close(self.stream) };
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut staging) = staging.take() {
            staging.close();
        }
        let products = self.products.get_mut().unwrap_or_else(PoisonError::into_inner);
        products.close();
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nothing uses the handles any more; the context is released after them.
        unsafe {
            for &module in loaded.modules.values() {
                let _ = driver::module::unload(module);
            }
            let _ = driver::stream::destroy(self.stream);
        }
    }
}
