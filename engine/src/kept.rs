//! Values that a backward pass needs: kept in memory, or made again when they are needed.
//!
//! Within [`thrifty`] the result of an operation that is cheap to repeat remembers how it was
//! made, and an operation that saves it keeps that instead of the memory. What it is made from is
//! kept anyway, or made again in turn: a layer norm saves its input, so the layer after it need
//! not save the norm's output as well. The same kernel on the same values gives the same bits.

use std::cell::Cell;
use std::sync::Arc;

use crate::{Result, Tensor, no_grad};

thread_local! {
    static THRIFTY: Cell<bool> = const { Cell::new(false) };
}

/// How to make a value again.
pub(crate) type Remake = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Runs `f`, whose operations do not save what is cheap to make again.
pub fn thrifty<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            THRIFTY.set(self.0);
        }
    }
    let _restore = Restore(THRIFTY.replace(true));
    f()
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
            Kept::Again(make) => no_grad(|| make()),
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
        if !THRIFTY.get() || !self.tracked() {
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
