//! Values that a backward pass needs: kept in memory, or made again when they are needed.
//!
//! Within [`with_recompute_policy`] the result of an operation that is cheap to repeat remembers
//! how it was made, and an operation that saves it keeps that instead of the memory. What it is
//! made from is kept anyway, or made again in turn: a layer norm saves its input, so the layer
//! after it need not save the norm's output as well. The same kernel on the same values gives the
//! same bits.

use std::sync::Arc;

use dressage_kernels::device::{Phase, part, resume};

use crate::{Result, Tensor, ambient, no_grad, recompute};

/// How little is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecomputePolicy {
    /// Not what is cheap to make again.
    Cheap,
    /// Nor anything inside of a [`checkpoint`].
    Checkpoints,
}

/// Bytes below which a value on a device is kept all the same: all that the queries of a decoder
/// layer leave behind is a few megabytes, and to launch a kernel takes as long as to move ten.
const SMALL: usize = 1 << 20;

/// How to make a value again.
pub(crate) type RecomputeFn = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Runs `f`, whose operations save no more than `policy` allows.
pub fn with_recompute_policy<R>(policy: RecomputePolicy, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.policy = Some(policy), f)
}

/// Runs `f` on `inputs`, a part of a network that may be recomputed as a whole: within
/// [`RecomputePolicy::Checkpoints`] as [`recompute`] does, otherwise plainly.
///
/// # Errors
/// Whatever `f` returns.
pub fn checkpoint<F>(inputs: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    // What no gradient enters keeps nothing on the way to the first parameter that has one.
    let plain =
        policy() != Some(RecomputePolicy::Checkpoints) || !inputs.iter().any(Tensor::tracked);
    if plain { f(inputs) } else { recompute(inputs, f) }
}

/// The policy in force.
fn policy() -> Option<RecomputePolicy> {
    ambient::read(|ambient| ambient.policy)
}

/// A value for the backward pass.
#[derive(Clone)]
pub(crate) enum SavedValue {
    /// Its memory.
    Stored(Tensor),
    /// How to make it.
    Recomputed(RecomputeFn),
}

impl SavedValue {
    /// The value.
    pub(crate) fn get(&self) -> Result<Tensor> {
        match self {
            SavedValue::Stored(x) => Ok(x.clone()),
            SavedValue::Recomputed(make) => {
                let _recompute = resume(Phase::Recompute, &part());
                no_grad(|| make())
            }
        }
    }
}

impl Tensor {
    /// Lets those who save this value make it again with what `make` returns, if recomputation is
    /// asked for. Whatever the closure captures stays in memory, so it is to capture only what is
    /// kept anyway.
    pub(crate) fn recomputable<F>(self, make: impl FnOnce() -> F) -> Tensor
    where
        F: Fn() -> Result<Tensor> + Send + Sync + 'static,
    {
        let small = self.device().is_some() && self.len() * self.dtype().size() < SMALL;
        if policy().is_none() || !self.tracked() || small {
            return self;
        }
        self.with_recompute(Arc::new(make()))
    }

    /// This value for a backward pass.
    pub(crate) fn save(&self) -> SavedValue {
        match &self.recompute_fn {
            Some(make) => SavedValue::Recomputed(Arc::clone(make)),
            None => SavedValue::Stored(self.detach()),
        }
    }
}
