//! Dry runs: memory use and kernel calls of a computation, found without computing.

use std::sync::Arc;

use dressage_kernels::dry_run::{Tally, dry_run};

use crate::memory::{Ledger, Usage, with_ledger_of_dry_run};

/// Memory account of a dry run.
///
/// Within [`DryRun::run`] operations check shapes, take and free buffers and record graph nodes as
/// usual. But buffers are address space without memory, and kernels return at once. Buffers go
/// through the same pool in the same order. The final account therefore equals that of the real
/// work to the byte, provided that no size depends on values: all values are zero. Small data such
/// as labels is really copied. Work handed to other threads is not part of a dry run. Work on a
/// device is an error, unless the device itself is a dry run ([`crate::Device::dry_run`]). In that
/// case the dry run stands for the host next to it.
pub struct DryRun {
    ledger: Arc<Ledger>,
    tally: Tally,
}

impl DryRun {
    /// Creates an empty account.
    #[allow(clippy::new_without_default)]
    pub fn new() -> DryRun {
        DryRun { ledger: Arc::new(Ledger::new()), tally: Tally::default() }
    }

    /// Runs `f` as a dry run. Its tensors may be used in the next call, but not outside.
    pub fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let ledger = Arc::clone(&self.ledger);
        with_ledger_of_dry_run(&ledger, || dry_run(&mut self.tally, f))
    }

    /// The current account.
    pub fn usage(&self) -> Usage {
        self.ledger.usage()
    }

    /// Kernel calls and the scratch memory that they take.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}
