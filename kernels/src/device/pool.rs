//! Pool of device memory that is reused without asking the device.
//!
//! Blocks are kept by their rounded size and reused for exactly that size. The sizes of a training
//! step repeat from step to step, so nothing is reserved after the first one. Splitting and merging
//! blocks would save little and make the addresses depend on history. A dropped buffer is reusable
//! at once, since all work of a device runs in one order.
//!
//! During the capture of a graph the pool hands out free blocks only, and these then belong to the
//! graph's memory. A dropped block returns there, for this graph and later ones of that memory; it
//! returns to the pool only when the memory ends. Other blocks that captured work touches are kept
//! as well but never reused: a replay touches them again.

use std::collections::{BTreeMap, HashMap};

use super::backend::Backend;
use crate::{KernelError, Result};

/// Bytes of a device's pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub live: usize,
    /// Most bytes in use at one time.
    pub peak: usize,
    /// Bytes reserved from the device: in use or kept for reuse.
    pub reserved: usize,
    /// Reservations so far; a steady state makes none.
    pub reservations: u64,
    /// Bytes not in use, but kept for the replays of graphs.
    pub graphs: usize,
    /// Page-locked host memory for copies: reserved at the first copy, never more. It does not
    /// include constants of graphs ([`Device::write_constant`](super::Device::write_constant)).
    pub pinned: usize,
}

/// Number of a graph memory among those of its device.
pub(super) type MemoryId = u32;

/// Free blocks by size.
type Free = BTreeMap<usize, Vec<u64>>;

pub(super) struct Pool {
    granularity: usize,
    free: Free,
    blocks: BTreeMap<u64, Block>,
    memories: HashMap<MemoryId, Free>,
    capturing: Option<MemoryId>,
    usage: Usage,
}

/// A reservation.
struct Block {
    size: usize,
    state: State,
    /// The graph memory that the block belongs to.
    home: Option<MemoryId>,
    /// Other graph memories whose graphs touch the block.
    holders: Vec<MemoryId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In use as a buffer.
    Live,
    /// In the pool's free list.
    Free,
    /// No longer a buffer, but graphs touch it.
    Captured,
}

impl Pool {
    pub fn new(granularity: usize) -> Pool {
        let (free, blocks, memories) = Default::default();
        Pool { granularity, free, blocks, memories, capturing: None, usage: Usage::default() }
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    pub fn reset_peak(&mut self) {
        self.usage.peak = self.usage.live;
    }

    /// Returns the address of `bytes` bytes with undefined contents.
    pub fn take(&mut self, backend: &dyn Backend, name: &'static str, bytes: usize) -> Result<u64> {
        let size = self.rounded(bytes);
        let address = match self.capturing {
            Some(memory) => self.take_captured(memory, backend, name, size)?,
            None => match pop(&mut self.free, size) {
                Some(address) => self.renew(backend, name, address, size)?,
                None => self.reserve(backend, name, size)?,
            },
        };
        self.usage.live += size;
        self.usage.peak = self.usage.peak.max(self.usage.live);
        Ok(address)
    }

    fn take_captured(
        &mut self,
        memory: MemoryId,
        backend: &dyn Backend,
        name: &'static str,
        size: usize,
    ) -> Result<u64> {
        let own = pop(self.memories.entry(memory).or_default(), size);
        let address = if let Some(address) = own {
            self.usage.graphs -= size;
            address
        } else if let Some(address) = pop(&mut self.free, size) {
            self.renew(backend, name, address, size)?
        } else {
            return Err(KernelError::Capture(format!(
                "the pool holds no free block of {size} bytes for {name}, and nothing can be \
                 reserved during a capture: run the same work before, until it reserves nothing"
            )));
        };
        backend.record_renewal(name, address);
        if let Some(block) = self.blocks.get_mut(&address) {
            block.state = State::Live;
            block.home = Some(memory);
        }
        Ok(address)
    }

    /// Takes back a block of [`Pool::take`].
    pub fn give(&mut self, address: u64) {
        let Some(block) = self.blocks.get_mut(&address) else { return };
        self.usage.live -= block.size;
        block.state = State::Captured;
        self.usage.graphs += block.size;
        self.settle(address);
    }

    /// Puts a block that is no longer a buffer where it may be reused.
    fn settle(&mut self, address: u64) {
        let Some(block) = self.blocks.get_mut(&address) else { return };
        if block.state != State::Captured || !block.holders.is_empty() {
            return;
        }
        let size = block.size;
        if let Some(memory) = block.home {
            self.memories.entry(memory).or_default().entry(size).or_default().push(address);
            return;
        }
        block.state = State::Free;
        self.usage.graphs -= size;
        self.free.entry(size).or_default().push(address);
    }

    /// Assigns the blocks of the following calls to this graph memory, until a call with `None`.
    pub fn capture(&mut self, memory: Option<MemoryId>) {
        self.capturing = memory;
    }

    /// Keeps the block at this address for the replays of the graph being captured.
    pub fn hold(&mut self, address: u64) {
        let Some(memory) = self.capturing else { return };
        let Some((&base, block)) = self.blocks.range_mut(..=address).next_back() else { return };
        let within = address - base < block.size as u64;
        if within && block.home != Some(memory) && !block.holders.contains(&memory) {
            block.holders.push(memory);
        }
    }

    /// Ends a graph memory: none of its graphs is replayed any more.
    pub(crate) fn end_memory(&mut self, memory: MemoryId) {
        self.memories.remove(&memory);
        let mut idle = Vec::new();
        for (&address, block) in &mut self.blocks {
            let before = block.holders.len();
            block.holders.retain(|&holder| holder != memory);
            let was_home = block.home == Some(memory);
            if was_home {
                block.home = None;
            }
            // With another home it is in that one's list already, unless this memory was a holder.
            if was_home || block.holders.len() < before {
                idle.push(address);
            }
        }
        for address in idle {
            self.settle(address);
        }
    }

    /// Returns all free blocks to the device.
    pub fn trim(&mut self, backend: &dyn Backend) {
        for (size, addresses) in std::mem::take(&mut self.free) {
            for address in addresses {
                backend.release(address, size);
                self.blocks.remove(&address);
                self.usage.reserved -= size;
            }
        }
    }

    /// Prepares a free block for another purpose.
    fn renew(
        &mut self,
        backend: &dyn Backend,
        name: &'static str,
        old: u64,
        size: usize,
    ) -> Result<u64> {
        let address = backend.renew(name, old, size)?;
        self.blocks.remove(&old);
        self.insert(address, size);
        Ok(address)
    }

    fn insert(&mut self, address: u64, size: usize) {
        let block = Block { size, state: State::Live, home: None, holders: Vec::new() };
        self.blocks.insert(address, block);
    }

    fn reserve(&mut self, backend: &dyn Backend, name: &'static str, size: usize) -> Result<u64> {
        let mut found = backend.reserve(name, size)?;
        if found.is_none() && !self.free.is_empty() {
            // Free blocks of other sizes are returned first; kernels may still be using them.
            backend.wait()?;
            self.trim(backend);
            found = backend.reserve(name, size)?;
        }
        let Some(address) = found else {
            let (device, live) = (backend.name(), self.usage.live);
            return Err(KernelError::OutOfMemory { device, name, bytes: size, live });
        };
        self.insert(address, size);
        self.usage.reserved += size;
        self.usage.reservations += 1;
        Ok(address)
    }

    /// Rounds up; an empty buffer has an address as well.
    fn rounded(&self, bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(self.granularity)
    }
}

fn pop(free: &mut Free, size: usize) -> Option<u64> {
    free.get_mut(&size).and_then(Vec::pop)
}
