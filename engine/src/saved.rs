//! Saved values: kept in memory for the backward pass, or recomputed when it needs them.
//!
//! Within [`with_recompute_policy`] the result of a cheap operation remembers how it was computed.
//! An operation that saves such a value keeps this recipe instead of the memory. The inputs of the
//! recipe are kept anyway or are recomputed in turn. For example a layer norm saves its input, so
//! the layer after it need not save the norm's output as well. The same kernel on the same values
//! gives the same bits.

use std::sync::Arc;

use dressage_kernels::device::{Phase, part, resume};

use crate::{Result, Tensor, ambient, no_grad, recompute};

/// Choice of the values that are recomputed instead of kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecomputePolicy {
    /// Recomputes values that are cheap to compute.
    Cheap,
    /// In addition recomputes everything inside of a [`checkpoint`].
    Checkpoints,
}

/// Size in bytes below which a value on a device is always kept. The queries of a decoder layer
/// save only a few megabytes in all, and a kernel launch takes as long as moving ten.
const SMALL: usize = 1 << 20;

/// Function that recomputes a value.
pub(crate) type RecomputeFn = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Runs `f` with `policy` for the values that its operations save.
pub fn with_recompute_policy<R>(policy: RecomputePolicy, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.policy = Some(policy), f)
}

/// Runs `f`, a part of a network, as an activation checkpoint if the policy asks for it. That is
/// [`recompute`] within [`RecomputePolicy::Checkpoints`], and a plain call otherwise.
///
/// # Errors
/// Errors of `f`.
pub fn checkpoint<F>(inputs: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    // If no input needs a gradient, `f` saves nothing before its first trainable parameter.
    let plain =
        policy() != Some(RecomputePolicy::Checkpoints) || !inputs.iter().any(Tensor::tracked);
    if plain { f(inputs) } else { recompute(inputs, f) }
}

/// The policy of this thread.
fn policy() -> Option<RecomputePolicy> {
    ambient::read(|ambient| ambient.policy)
}

/// A saved value of a backward pass.
#[derive(Clone)]
pub(crate) enum SavedValue {
    /// Kept in memory.
    Stored(Tensor),
    /// Recomputed when needed.
    Recomputed(RecomputeFn),
}

impl SavedValue {
    /// Returns the value, recomputed if necessary.
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
    /// Attaches a function from `make` that recomputes this value, if the policy asks for
    /// recomputation. Whatever the function captures stays in memory, so it should capture only
    /// what is kept anyway.
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

    /// Saves this value for a backward pass.
    pub(crate) fn save(&self) -> SavedValue {
        match &self.recompute_fn {
            Some(make) => SavedValue::Recomputed(Arc::clone(make)),
            None => SavedValue::Stored(self.detach()),
        }
    }
}
