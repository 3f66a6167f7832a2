//! A device that executes nothing: the façade checks and counts the requests.
//!
//! Addresses are handed out without memory behind them, reads return zeros, and a launch is done
//! when it is queued. A dry run of a training step of any size takes only the time of its calls. It
//! counts launches, products, waits and memory. Sizes must not depend on values, which are all
//! zero.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::backend::{Backend, GraphId, Product};
use super::{Grid, Kernel};
use crate::Result;

/// Granularity of reservations: that of the CUDA device, so that pools grow alike.
const GRANULARITY: usize = 512;

pub(super) struct DryRun {
    /// The next address; far from null, which means an absent operand.
    next: AtomicU64,
    graphs: AtomicU64,
}

impl DryRun {
    pub fn new() -> DryRun {
        DryRun { next: AtomicU64::new(1 << 40), graphs: AtomicU64::new(0) }
    }
}

impl Backend for DryRun {
    fn name(&self) -> String {
        "the dry run".into()
    }

    fn granularity(&self) -> usize {
        GRANULARITY
    }

    fn reserve(&self, _: &'static str, bytes: usize) -> Result<Option<u64>> {
        Ok(Some(self.next.fetch_add(bytes as u64, Relaxed)))
    }

    fn renew(&self, _: &'static str, address: u64, _: usize) -> Result<u64> {
        Ok(address)
    }

    fn release(&self, _: u64, _: usize) {}

    fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn zero(&self, _: u64, _: usize) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: u64, _: u64, _: usize) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _: &Kernel, _: &Grid, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn product(&self, _: &Product) -> Result<bool> {
        Ok(true)
    }

    fn fits(&self, _: &Product) -> Result<bool> {
        Ok(true)
    }

    fn begin_capture(&self) -> Result<()> {
        Ok(())
    }

    fn end_capture(&self, keep: bool) -> Result<Option<GraphId>> {
        Ok(keep.then(|| self.graphs.fetch_add(1, Relaxed)))
    }

    fn replay(&self, _: GraphId) -> Result<()> {
        Ok(())
    }

    fn is_dry_run(&self) -> bool {
        true
    }
}
