//! Values that a backward pass needs: kept in memory, or made again when they are needed.
//!
//! Within [`thrifty`] the result of an operation that is cheap to repeat remembers how it was
//! made, and an operation that saves it keeps that instead of the memory. What it is made from is
//! kept anyway, or made again in turn: a layer norm saves its input, so the layer after it need
//! not save the norm's output as well. The same kernel on the same values gives the same bits.

use std::cell::Cell;
use std::sync::Arc;

use dressage_kernels::device::{Phase, part, resume};

use crate::{Result, Tensor, no_grad, recompute};

/// How little is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thrift {
    /// Not what is cheap to make again.
    Cheap,
    /// Nor anything inside of a [`segment`].
    Segments,
}

/// Bytes below which a value on a device is kept all the same: all that the queries of a decoder
/// layer leave behind is a few megabytes, and to launch a kernel takes as long as to move ten.
const SMALL: usize = 1 << 20;

thread_local! {
    static THRIFT: Cell<Option<Thrift>> = const { Cell::new(None) };
}

/// How to make a value again.
pub(crate) type Remake = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Runs `f`, whose operations save no more than `thrift` allows.
pub fn thrifty<R>(thrift: Thrift, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Thrift>);
    impl Drop for Restore {
        fn drop(&mut self) {
            THRIFT.set(self.0);
        }
    }
    let _restore = Restore(THRIFT.replace(Some(thrift)));
    f()
}

/// Runs `f` on `inputs`, a part of a network that may be recomputed as a whole: within
/// [`Thrift::Segments`] as [`recompute`] does, otherwise plainly.
///
/// # Errors
/// Whatever `f` returns.
pub fn segment<F>(inputs: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    // What no gradient enters keeps nothing on the way to the first parameter that has one.
    let plain = THRIFT.get() != Some(Thrift::Segments) || !inputs.iter().any(Tensor::tracked);
    if plain { f(inputs) } else { recompute(inputs, f) }
}

/// A value for the backward pass.
#[derive(Clone)]
pub(crate) enum Kept {
    /// Its memory.
    Held(Tensor),
    /// How to make it.
    Again(Remake),
}

impl Kept {
    /// The value.
    pub(crate) fn get(&self) -> Result<Tensor> {
        match self {
            Kept::Held(x) => Ok(x.clone()),
            Kept::Again(make) => {
                let _again = resume(Phase::Again, &part());
                no_grad(|| make())
            }
        }
    }
}

impl Tensor {
    /// Lets those who save this value make it again with what `make` returns, if thrift is asked
    /// for. Whatever the closure captures stays in memory, so it is to capture only what is kept
    /// anyway.
    pub(crate) fn again<F>(self, make: impl FnOnce() -> F) -> Tensor
    where
        F: Fn() -> Result<Tensor> + Send + Sync + 'static,
    {
        let small = self.device().is_some() && self.len() * self.dtype().size() < SMALL;
        if THRIFT.get().is_none() || !self.tracked() || small {
            return self;
        }
        self.with_remake(Arc::new(make()))
    }

    /// This value for a backward pass.
    pub(crate) fn keep(&self) -> Kept {
        match &self.remake {
            Some(make) => Kept::Again(Arc::clone(make)),
            None => Kept::Held(self.detach()),
        }
    }
}
