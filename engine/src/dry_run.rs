//! Dry runs: how much memory a computation takes and what it calls, found out without computing.

use std::sync::Arc;

use dressage_kernels::dry_run::{Tally, dry_run};

use crate::memory::{Ledger, Usage, with_ledger_of_dry_run};

/// An account of its own for work that is only gone through.
///
/// Within [`DryRun::run`] operations check shapes, take and free buffers and leave nodes in the
/// graph as ever, but buffers are address space without memory behind it and kernels return at
/// once. Since buffers go through the same pool in the same order, the account in the end is that
/// of the real work to the byte, provided that no size depends on values: all values are zero.
/// Copies of small things, such as labels, are made. Work handed to other threads is not part of
/// a dry run. Work on a device is refused in one, unless the device is itself a dry run
/// ([`crate::Device::dry_run`]): then the dry run stands for the host beside it.
pub struct DryRun {
    ledger: Arc<Ledger>,
    tally: Tally,
}

impl DryRun {
    /// An empty account.
    #[allow(clippy::new_without_default)]
    pub fn new() -> DryRun {
        DryRun { ledger: Arc::new(Ledger::new()), tally: Tally::default() }
    }

    /// Goes through `f`. Tensors made in one call may be used in the next, but not outside.
    pub fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let ledger = Arc::clone(&self.ledger);
        with_ledger_of_dry_run(&ledger, || dry_run(&mut self.tally, f))
    }

    /// The account now.
    pub fn usage(&self) -> Usage {
        self.ledger.usage()
    }

    /// Kernels called and scratch memory they take.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}
