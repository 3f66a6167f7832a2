//! The state of the driver: devices, contexts, and their objects by handle.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use ptx_vm::{Gpu, Module};

use crate::code::{Code, Done, refuse};
use crate::fatal;
use crate::lt::Lt;
use crate::settings::Settings;
use crate::work::Work;

/// A handle: a number that points nowhere. A program that dereferences one fails at once. A
/// destroyed handle is never reused.
pub(crate) type Handle = usize;

/// Kinds of objects that have handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum HandleKind {
    Context = 1,
    Module,
    Function,
    Stream,
    Event,
    Graph,
    Executable,
    LtHandle,
    LtProduct,
    LtLayout,
    LtPreference,
}

const KINDS: [(HandleKind, &str); 11] = [
    (HandleKind::Context, "context"),
    (HandleKind::Module, "module"),
    (HandleKind::Function, "function"),
    (HandleKind::Stream, "stream"),
    (HandleKind::Event, "event"),
    (HandleKind::Graph, "graph"),
    (HandleKind::Executable, "executable graph"),
    (HandleKind::LtHandle, "cuBLASLt handle"),
    (HandleKind::LtProduct, "matmul descriptor"),
    (HandleKind::LtLayout, "matrix layout"),
    (HandleKind::LtPreference, "matmul preference"),
];

/// Tag of handles, above every address of a process, so that no pointer is mistaken for a handle.
const TAG: usize = 0x7d << 56;

impl HandleKind {
    pub fn name(self) -> &'static str {
        KINDS[self as usize - 1].1
    }
}

/// Objects of one kind.
#[derive(Debug)]
pub(crate) struct Table<T> {
    kind: HandleKind,
    alive: BTreeMap<Handle, T>,
    made: usize,
}

impl<T> Table<T> {
    fn new(kind: HandleKind) -> Table<T> {
        Table { kind, alive: BTreeMap::new(), made: 0 }
    }

    /// Stores an object under a new handle.
    pub fn add(&mut self, object: T) -> Handle {
        self.made += 1;
        let handle = TAG | (self.kind as usize) << 40 | self.made << 4;
        self.alive.insert(handle, object);
        handle
    }

    /// Returns the object, or the error of a null handle. A handle without a live object ends the
    /// process, since a real driver would read freed memory.
    pub fn get(&mut self, handle: Handle) -> Done<&mut T> {
        if !self.alive.contains_key(&handle) {
            self.not_alive(handle)?;
        }
        match self.alive.get_mut(&handle) {
            Some(object) => Ok(object),
            None => refuse(Code::INVALID_HANDLE, "the handle is null"),
        }
    }

    /// Removes the object.
    pub fn remove(&mut self, handle: Handle) -> Done<T> {
        self.get(handle)?;
        match self.alive.remove(&handle) {
            Some(object) => Ok(object),
            None => refuse(Code::INVALID_HANDLE, "the handle is null"),
        }
    }

    /// Returns the object if there is one.
    pub fn find(&self, handle: Handle) -> Option<&T> {
        self.alive.get(&handle)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.alive.values_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.alive.iter().map(|(&handle, object)| (handle, object))
    }

    /// Returns the name of the object in messages.
    pub fn name(&self, handle: Handle) -> String {
        format!("{} number {}", self.kind.name(), (handle & 0xff_ffff_ffff) >> 4)
    }

    pub fn len(&self) -> usize {
        self.alive.len()
    }

    /// Drops the objects of a context; returns their number.
    fn drop_of(&mut self, is: impl Fn(&T) -> bool) -> usize {
        let before = self.alive.len();
        self.alive.retain(|_, object| !is(object));
        before - self.alive.len()
    }

    fn not_alive(&self, handle: Handle) -> Done {
        let wanted = self.kind.name();
        if handle == 0 {
            return refuse(Code::INVALID_HANDLE, format!("the {wanted} is null"));
        }
        let kind = (handle ^ TAG) >> 40;
        let number = (handle & 0xff_ffff_ffff) >> 4;
        match KINDS.iter().find(|(known, _)| *known as usize == kind) {
            Some((known, _)) if *known == self.kind && number <= self.made => {
                fatal(&format!("{wanted} number {number} is used after it was destroyed"))
            }
            Some((_, name)) => fatal(&format!("{handle:#x} is given as a {wanted}, kind: {name}")),
            None => fatal(&format!("{handle:#x} is given as a {wanted} but is not one")),
        }
    }
}

/// Memory of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocation {
    pub bytes: u64,
    pub context: Handle,
}

#[derive(Debug)]
pub(crate) struct Loaded {
    pub module: Arc<Module>,
    pub context: Handle,
}

#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Handle of its module.
    pub from: Handle,
    pub module: Arc<Module>,
    /// Index of the kernel in its module.
    pub index: usize,
    /// Maximum dynamic shared memory of a launch.
    pub dynamic_most: u64,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub context: Handle,
    /// Whether it does not synchronise with the legacy stream.
    pub non_blocking: bool,
    pub queue: VecDeque<Work>,
    pub capture: Option<Capture>,
}

#[derive(Debug)]
pub(crate) struct Capture {
    /// `CUstreamCaptureMode`
    pub mode: u32,
    pub thread: std::thread::ThreadId,
    pub nodes: Vec<Work>,
    pub invalidated: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Event {
    pub context: Handle,
    pub timing: bool,
    /// Number of the last queued record, and its stream.
    pub recorded: u64,
    pub stream: Handle,
    /// Number of the last record that has run, and its time.
    pub passed: u64,
    pub at: Option<Instant>,
    /// Whether it was last recorded in a capturing stream.
    pub captured: bool,
}

#[derive(Debug)]
pub(crate) struct Graph {
    pub nodes: Arc<Vec<Work>>,
    pub context: Handle,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub device: usize,
    /// The legacy stream, which a null handle means.
    pub legacy: Handle,
}

#[derive(Debug, Default)]
pub(crate) struct Device {
    pub primary: Option<Handle>,
    pub retained: u32,
    /// Error of a kernel: every later call returns it until the process ends.
    pub failed: Option<Code>,
}

/// The driver of a process.
pub(crate) struct Driver {
    pub settings: Settings,
    pub initialised: bool,
    /// One virtual GPU for all devices, so that addresses are unique as on a real system.
    pub gpu: Gpu,
    pub used: u64,
    pub devices: Vec<Device>,
    pub contexts: Table<Context>,
    pub memory: BTreeMap<u64, Allocation>,
    /// Addresses and sizes of recently freed memory, for better messages.
    pub freed: VecDeque<(u64, u64)>,
    /// Page-locked memory of the host: size in bytes by address.
    pub pinned: BTreeMap<usize, usize>,
    pub modules: Table<Loaded>,
    pub functions: Table<Function>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub graphs: Table<Graph>,
    pub executables: Table<Graph>,
    pub lt: Lt,
    /// Leaks of destroyed contexts.
    pub leaked: Vec<String>,
}

impl Driver {
    pub fn new() -> Driver {
        let settings = Settings::read();
        let devices = (0..settings.devices).map(|_| Device::default()).collect();
        Driver {
            settings,
            initialised: false,
            gpu: Gpu::new(),
            used: 0,
            devices,
            contexts: Table::new(HandleKind::Context),
            memory: BTreeMap::new(),
            freed: VecDeque::new(),
            pinned: BTreeMap::new(),
            modules: Table::new(HandleKind::Module),
            functions: Table::new(HandleKind::Function),
            streams: Table::new(HandleKind::Stream),
            events: Table::new(HandleKind::Event),
            graphs: Table::new(HandleKind::Graph),
            executables: Table::new(HandleKind::Executable),
            lt: Lt {
                handles: Table::new(HandleKind::LtHandle),
                products: Table::new(HandleKind::LtProduct),
                layouts: Table::new(HandleKind::LtLayout),
                preferences: Table::new(HandleKind::LtPreference),
                algorithms: Vec::new(),
            },
            leaked: Vec::new(),
        }
    }

    /// Returns the stream of a handle in a context: null and 1 are the legacy stream.
    pub fn stream(&mut self, context: Handle, handle: Handle) -> Done<Handle> {
        if handle <= 1 {
            return Ok(self.contexts.get(context)?.legacy);
        }
        if handle == 2 {
            return refuse(Code::NOT_SUPPORTED, "streams of threads are not modelled here");
        }
        let of = self.streams.get(handle)?.context;
        if of != context {
            return refuse(Code::INVALID_HANDLE, "the stream is of another context");
        }
        Ok(handle)
    }

    /// Checks that one allocation contains `bytes` bytes at an address.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` if none does.
    pub fn holds(&self, address: u64, bytes: u64, what: &str) -> Done {
        let none = |why: String| refuse(Code::INVALID_VALUE, why);
        let below = self.memory.range(..=address).next_back();
        let Some((&start, found)) = below.filter(|(start, a)| address - *start < a.bytes) else {
            let inside = |&&(start, bytes): &&(u64, u64)| (start..start + bytes).contains(&address);
            let freed = self.freed.iter().rev().find(inside);
            let was = freed.map_or("", |_| ", which was freed");
            return none(format!("{what} {address:#x} is in no allocation{was}"));
        };
        if bytes > found.bytes - (address - start) {
            return none(format!(
                "{bytes} bytes at {what} {address:#x}, which is offset {} of an allocation of {}",
                address - start,
                found.bytes
            ));
        }
        Ok(())
    }

    /// Whether one page-locked allocation contains all of `bytes` bytes of the host.
    pub fn is_pinned(&self, host: usize, bytes: usize) -> bool {
        let below = self.pinned.range(..=host).next_back();
        below.is_some_and(|(start, size)| host - start < *size && bytes <= size - (host - start))
    }

    /// Destroys a context; lists what was left in it.
    pub fn destroy(&mut self, context: Handle) -> Done {
        self.synchronize_context(context)?;
        let freed: Vec<u64> = self.in_context(context);
        let bytes: u64 = freed.iter().map(|address| self.memory[address].bytes).sum();
        let mut left = Vec::new();
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                left.push(format!("{what}: {count}"));
            }
        };
        note(freed.len(), &format!("allocations ({bytes} bytes)"));
        for address in freed {
            self.free(address);
        }
        note(self.modules.drop_of(|m| m.context == context), "modules");
        let legacy = self.contexts.get(context)?.legacy;
        self.streams.remove(legacy)?;
        note(self.streams.drop_of(|s| s.context == context), "streams");
        note(self.events.drop_of(|e| e.context == context), "events");
        note(self.graphs.drop_of(|g| g.context == context), "graphs");
        note(self.executables.drop_of(|g| g.context == context), "executable graphs");
        let modules = &self.modules;
        self.functions.drop_of(|f| modules.find(f.from).is_none());
        let name = self.contexts.name(context);
        let device = self.contexts.remove(context)?.device;
        self.devices[device].primary = None;
        if !left.is_empty() {
            self.leaked.push(format!("{name} was released with {}", left.join(", ")));
        }
        Ok(())
    }

    fn in_context(&self, context: Handle) -> Vec<u64> {
        let of = self.memory.iter().filter(|(_, a)| a.context == context);
        of.map(|(&address, _)| address).collect()
    }

    /// Frees memory that is known to be allocated.
    pub fn free(&mut self, address: u64) {
        let Some(allocation) = self.memory.remove(&address) else { return };
        self.used -= rounded(allocation.bytes);
        self.freed.push_back((address, allocation.bytes));
        if self.freed.len() > 1024 {
            self.freed.pop_front();
        }
        // The table above has the same allocations as the virtual GPU.
        let _ = self.gpu.free(ptx_vm::Address(address));
    }

    /// Returns the leaks, one sentence each.
    pub fn leaks(&self) -> Vec<String> {
        let mut found = self.leaked.clone();
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                found.push(format!("{what} until the process ended: {count}"));
            }
        };
        note(self.contexts.len(), "contexts never released");
        note(self.memory.len(), "allocations of device memory never freed");
        note(self.pinned.len(), "page-locked allocations never freed");
        note(self.modules.len(), "modules never unloaded");
        // A context has one stream of its own.
        note(self.streams.len() - self.contexts.len(), "streams never destroyed");
        note(self.events.len(), "events never destroyed");
        note(self.graphs.len(), "graphs never destroyed");
        note(self.executables.len(), "executable graphs never destroyed");
        note(self.lt.handles.len(), "cuBLASLt handles never destroyed");
        note(self.lt.products.len(), "matmul descriptors never destroyed");
        note(self.lt.layouts.len(), "matrix layouts never destroyed");
        note(self.lt.preferences.len(), "matmul preferences never destroyed");
        found
    }
}

/// Rounds a size up: the driver allocates in units of 512 bytes.
pub(crate) fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(512)
}
