//! Dry runs: the calls and memory of a computation, counted without computing.
//!
//! Within [`dry_run()`] a kernel checks its arguments, counts itself with its arithmetic and
//! scratch memory, and returns. It reads and writes nothing. A whole training step takes
//! milliseconds that way, on memory that is reserved but never touched.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static TALLY: RefCell<Option<Tally>> = const { RefCell::new(None) };
}

/// Counts of a dry run so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls by name of the kernel.
    pub calls: BTreeMap<&'static str, u64>,
    /// Floating-point operations of products; a multiply-add counts as two. Operations of one pass
    /// over memory are left out: memory limits them.
    pub flops: u64,
    /// Most scratch memory that one call takes for itself, in bytes.
    pub call_scratch: usize,
    /// Most scratch memory that one of its tasks takes in addition, in bytes.
    pub task_scratch: usize,
}

impl Tally {
    /// Scratch memory of a pool of `threads` threads, in bytes. Buffers are kept for the next call,
    /// and sooner or later every thread runs the largest task.
    pub fn scratch(&self, threads: usize) -> usize {
        self.call_scratch + threads * self.task_scratch
    }
}

/// Runs `f` as a dry run on this thread and adds its counts to `tally`.
pub fn dry_run<R>(tally: &mut Tally, f: impl FnOnce() -> R) -> R {
    /// Ends the dry run even if `f` panics.
    struct End<'a>(&'a mut Tally, Option<Tally>);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            if let Some(tally) = TALLY.replace(self.1.take()) {
                *self.0 = tally;
            }
        }
    }
    let outer = TALLY.replace(Some(std::mem::take(tally)));
    let _end = End(tally, outer);
    f()
}

/// Runs `f` in no dry run.
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    /// Goes on with the dry run even if `f` panics.
    struct Resume(Option<Tally>);
    impl Drop for Resume {
        fn drop(&mut self) {
            TALLY.set(self.0.take());
        }
    }
    let _resume = Resume(TALLY.take());
    f()
}

/// Whether this thread is within a dry run.
pub fn active() -> bool {
    TALLY.with_borrow(Option::is_some)
}

/// Cost of one kernel call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Floating-point operations, as in [`Tally::flops`].
    pub flops: usize,
    /// Scratch memory of the call itself, in f32 elements.
    pub call: usize,
    /// Scratch memory of each of its tasks, in f32 elements.
    pub task: usize,
}

impl Cost {
    /// Cost of products with so many multiply-adds in total, without scratch memory.
    pub fn products(multiply_adds: usize) -> Cost {
        Cost { flops: 2 * multiply_adds, ..Cost::default() }
    }
}

/// Counts a call of an operation that takes one pass over memory. Returns true within a dry run,
/// where nothing else is to be done.
pub fn skip(kernel: &'static str) -> bool {
    skip_with(kernel, Cost::default)
}

/// Counts a call as [`skip`] does, with its cost.
pub(crate) fn skip_with(kernel: &'static str, cost: impl FnOnce() -> Cost) -> bool {
    TALLY.with_borrow_mut(|tally| {
        let Some(tally) = tally else { return false };
        let Cost { flops, call, task } = cost();
        tally.flops += flops as u64;
        *tally.calls.entry(kernel).or_default() += 1;
        tally.call_scratch = tally.call_scratch.max(call * size_of::<f32>());
        tally.task_scratch = tally.task_scratch.max(task * size_of::<f32>());
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Write;
    use crate::call::{Call, Host};
    use crate::ops::matmul::MatMul;
    use crate::ops::patch_embed::{Forward, PatchEmbed};

    #[test]
    fn a_dry_run_checks_and_counts_and_computes_nothing() {
        let mut c = [7.0f32; 2];
        let mut tally = Tally::default();
        dry_run(&mut tally, || {
            assert!(active());
            outside(|| assert!(!active()));
            assert!(active());
            let product = MatMul::new(1, 2, 3);
            for _ in 0..3 {
                product.run(1.0, &[1.0; 3], &[1.0; 6], Write::Over, &mut c).unwrap();
            }
            assert!(product.run(1.0, &[1.0; 4], &[1.0; 6], Write::Over, &mut c).is_err());
            let patches = PatchEmbed { b: 1, channels: 3, h: 4, w: 4, p: 2, c: 1 };
            let (x, weight, mut y) = ([1.0f32; 48], [1.0; 12], [0.0; 4]);
            let c = Forward::<Host, _> { x: &x, weight: &weight, bias: None, y: &mut y };
            c.run(&patches).unwrap();
        });
        assert!(!active());
        assert_eq!(c, [7.0; 2]);
        assert_eq!(tally.calls, BTreeMap::from([("matmul", 3), ("patch_embed", 1)]));
        assert_eq!((tally.scratch(4), tally.task_scratch), (48 * 4, 0));
        assert_eq!(tally.flops, 3 * 12 + 2 * 4 * 12);
        MatMul::new(1, 2, 3).run(1.0, &[1.0f32; 3], &[1.0; 6], Write::Over, &mut c).unwrap();
        assert_eq!(c, [3.0; 2]);
    }
}
