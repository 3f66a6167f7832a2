//! Memory that is handed out again without asking the device.
//!
//! Blocks are kept by their rounded size and reused for exactly that size. The sizes of a training
//! step repeat from step to step, so after the first one nothing is reserved any more; splitting
//! and merging blocks would save little and make the addresses depend on history. What is
//! dropped is reusable at once, since all work of a device runs in one order.

use std::collections::BTreeMap;

use super::backend::Backend;
use crate::{KernelError, Result};

/// Bytes of a device's pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub live: usize,
    /// Most that was in use at one time.
    pub peak: usize,
    /// Reserved from the device: in use or held for reuse.
    pub reserved: usize,
    /// Reservations made so far, which a steady state no longer makes.
    pub reservations: u64,
}

pub(super) struct Pool {
    granularity: usize,
    free: BTreeMap<usize, Vec<u64>>,
    usage: Usage,
}

impl Pool {
    pub fn new(granularity: usize) -> Pool {
        Pool { granularity, free: BTreeMap::new(), usage: Usage::default() }
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    pub fn reset_peak(&mut self) {
        self.usage.peak = self.usage.live;
    }

    /// Address of `bytes` bytes with undefined contents.
    pub fn take(&mut self, backend: &dyn Backend, name: &'static str, bytes: usize) -> Result<u64> {
        let size = self.rounded(bytes);
        let address = match self.free.get_mut(&size).and_then(Vec::pop) {
            Some(address) => backend.renew(name, address, size)?,
            None => self.reserve(backend, name, size)?,
        };
        self.usage.live += size;
        self.usage.peak = self.usage.peak.max(self.usage.live);
        Ok(address)
    }

    /// Takes back what [`Pool::take`] gave for so many bytes.
    pub fn give(&mut self, address: u64, bytes: usize) {
        let size = self.rounded(bytes);
        self.usage.live -= size;
        self.free.entry(size).or_default().push(address);
    }

    /// Gives everything that is not in use back to the device.
    pub fn trim(&mut self, backend: &dyn Backend) {
        for (size, addresses) in std::mem::take(&mut self.free) {
            for address in addresses {
                backend.release(address, size);
                self.usage.reserved -= size;
            }
        }
    }

    fn reserve(&mut self, backend: &dyn Backend, name: &'static str, size: usize) -> Result<u64> {
        let mut found = backend.reserve(name, size)?;
        if found.is_none() && !self.free.is_empty() {
            // Blocks of other sizes are held for reuse; kernels may still be at work on them.
            backend.wait()?;
            self.trim(backend);
            found = backend.reserve(name, size)?;
        }
        let Some(address) = found else {
            let (device, live) = (backend.name(), self.usage.live);
            return Err(KernelError::OutOfMemory { device, name, bytes: size, live });
        };
        self.usage.reserved += size;
        self.usage.reservations += 1;
        Ok(address)
    }

    /// An empty buffer has an address as well.
    fn rounded(&self, bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(self.granularity)
    }
}
