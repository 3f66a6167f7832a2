//! Requests to a device by part and by kernel, and the buffers in use at the peak.
//!
//! The virtual device and the dry run keep a trace; a real device does not, since it has a
//! profiler. The dry run also records each buffer, which shows what the peak consists of.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;

use super::module::Key;
use super::ranges::{ProfileScope, profile_scope};

/// Counts of the requests of one part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kernels launched.
    pub launches: u64,
    /// Matrix products.
    pub products: u64,
    /// Floating-point operations of the products, a multiply-add counting as two.
    pub flops: u64,
    /// Buffers taken from the pool.
    pub allocations: u64,
    /// Bytes of these buffers.
    pub allocated: u64,
    /// Copies and fills within the device.
    pub copies: u64,
    /// Bytes that they write.
    pub copied: u64,
    /// Copies from the host.
    pub uploads: u64,
    /// Bytes of these copies.
    pub uploaded: u64,
    /// Copies to the host, which waits for each of them.
    pub downloads: u64,
    /// Bytes of these copies.
    pub downloaded: u64,
    /// Times that the host waited.
    pub waits: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.launches += other.launches;
        self.products += other.products;
        self.flops += other.flops;
        self.allocations += other.allocations;
        self.allocated += other.allocated;
        self.copies += other.copies;
        self.copied += other.copied;
        self.uploads += other.uploads;
        self.uploaded += other.uploaded;
        self.downloads += other.downloads;
        self.downloaded += other.downloaded;
        self.waits += other.waits;
    }
}

/// Buffers of one size that were in use at the peak.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveBuffer {
    /// Scope in which they were allocated.
    pub scope: ProfileScope,
    /// Name under which they were allocated.
    pub name: &'static str,
    /// Bytes of each.
    pub bytes: usize,
}

/// Requests to a device since the trace began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Counts by part.
    pub parts: BTreeMap<ProfileScope, Counts>,
    /// Launches by part and name of the kernel.
    pub kernels: BTreeMap<(ProfileScope, String), u64>,
    /// Buffers in use at the peak with their number; empty on a device that does not record them.
    pub at_peak: BTreeMap<LiveBuffer, usize>,
    /// Bytes of these buffers.
    pub peak: usize,
}

impl Trace {
    /// Sum over all parts.
    pub fn total(&self) -> Counts {
        let mut sum = Counts::default();
        self.parts.values().for_each(|part| sum += *part);
        sum
    }

    /// Launches by kernel.
    pub fn by_kernel(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for ((_, kernel), n) in &self.kernels {
            *all.entry(kernel.as_str()).or_default() += n;
        }
        all
    }
}

/// A buffer taken or given back.
enum Event {
    Taken(u64, LiveBuffer),
    Given(u64),
}

/// A trace that is being written.
#[derive(Default)]
pub(super) struct Writer {
    parts: BTreeMap<ProfileScope, Counts>,
    kernels: BTreeMap<(ProfileScope, Key), u64>,
    memory: Option<Memory>,
}

/// History of the memory, from which the buffers at the peak are found.
#[derive(Default)]
struct Memory {
    /// Buffers in use when the trace began, by address.
    before: BTreeMap<u64, LiveBuffer>,
    events: Vec<Event>,
    /// Bytes of the buffers in use, by address.
    sizes: HashMap<u64, usize>,
    live: usize,
    peak: usize,
    /// Number of events up to the peak.
    peak_at: usize,
}

impl Writer {
    /// Creates a trace with or without the buffers.
    pub fn new(with_memory: bool) -> Writer {
        Writer { memory: with_memory.then(Memory::default), ..Writer::default() }
    }

    /// Restarts the trace; buffers in use stay known.
    pub fn restart(&mut self) {
        let memory = self.memory.take().map(|memory| {
            let before = memory.buffers(memory.events.len());
            let (live, sizes) = (memory.live, memory.sizes);
            Memory { before, sizes, live, peak: live, ..Memory::default() }
        });
        *self = Writer { memory, ..Writer::default() };
    }

    /// Adds to the counts of the current part.
    pub fn note(&mut self, f: impl FnOnce(&mut Counts)) {
        f(self.parts.entry(profile_scope()).or_default());
    }

    pub fn launched(&mut self, kernel: Key) {
        self.note(|counts| counts.launches += 1);
        *self.kernels.entry((profile_scope(), kernel)).or_default() += 1;
    }

    pub fn took(&mut self, name: &'static str, address: u64, bytes: usize) {
        self.note(|counts| {
            counts.allocations += 1;
            counts.allocated += bytes as u64;
        });
        if let Some(memory) = &mut self.memory {
            memory
                .events
                .push(Event::Taken(address, LiveBuffer { scope: profile_scope(), name, bytes }));
            memory.sizes.insert(address, bytes);
            memory.live += bytes;
            if memory.live > memory.peak {
                (memory.peak, memory.peak_at) = (memory.live, memory.events.len());
            }
        }
    }

    pub fn gave(&mut self, address: u64) {
        if let Some(memory) = &mut self.memory {
            memory.events.push(Event::Given(address));
            memory.live -= memory.sizes.remove(&address).unwrap_or(0);
        }
    }

    /// The trace so far.
    pub fn read(&self) -> Trace {
        let name = |(_, name, suffix): &Key| [*name, *suffix].concat();
        let kernels = self.kernels.iter().map(|((scope, key), n)| ((scope.clone(), name(key)), *n));
        let mut trace =
            Trace { parts: self.parts.clone(), kernels: kernels.collect(), ..Trace::default() };
        if let Some(memory) = &self.memory {
            trace.peak = memory.peak;
            for buffer in memory.buffers(memory.peak_at).into_values() {
                *trace.at_peak.entry(buffer).or_default() += 1;
            }
        }
        trace
    }
}

impl Memory {
    /// Buffers in use after the first `events`.
    fn buffers(&self, events: usize) -> BTreeMap<u64, LiveBuffer> {
        let mut live = self.before.clone();
        for event in &self.events[..events] {
            match event {
                Event::Taken(address, buffer) => {
                    live.insert(*address, buffer.clone());
                }
                Event::Given(address) => {
                    live.remove(address);
                }
            }
        }
        live
    }
}
