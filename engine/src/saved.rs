//! Saved values: kept in memory for the backward pass, or recomputed when it needs them.
//!
//! Within [`with_recompute_policy`] the result of a cheap operation remembers how it was computed.
//! An operation that saves such a value keeps this recipe instead of the memory. The inputs of the
//! recipe are kept anyway or are recomputed in turn. For example a layer norm saves its input, so
//! the layer after it need not save the norm's output as well. The same kernel on the same values
//! gives the same bits.

use std::sync::Arc;

use dressage_kernels::device::{Phase, part, resume};
use serde::{Deserialize, Serialize};

use crate::{Result, Tensor, ambient, no_grad, recompute};

/// Choice of the values that the forward pass saves for the backward pass. The others are
/// recomputed, bitwise equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecomputePolicy {
    /// Saves every value that the backward pass needs.
    #[default]
    None,
    /// Recomputes values that one pass over memory restores (norms, sums, activations). In a
    /// frozen block it also recomputes the wide middle of the MLP, which costs one matrix product.
    /// A frozen block with Rein and hidden width 4c saves 6 of 10 maps `[t, c]`.
    Cheap,
    /// In addition saves of each [`checkpoint`] its inputs only.
    Block,
}

impl RecomputePolicy {
    /// All policies, from the most memory to the least.
    pub const ALL: [RecomputePolicy; 3] =
        [RecomputePolicy::None, RecomputePolicy::Cheap, RecomputePolicy::Block];
}

impl std::fmt::Display for RecomputePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RecomputePolicy::None => "none",
            RecomputePolicy::Cheap => "cheap",
            RecomputePolicy::Block => "block",
        })
    }
}

/// Size in bytes below which a value on a device is always kept. The queries of a decoder layer
/// save only a few megabytes in all, and a kernel launch takes as long as moving ten.
const SMALL: usize = 1 << 20;

/// Function that recomputes a value.
pub(crate) type RecomputeFn = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Runs `f` with `policy` for the values that its operations save.
pub fn with_recompute_policy<R>(policy: RecomputePolicy, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.policy = policy, f)
}

/// Runs `f`, a part of a network, as an activation checkpoint if the policy asks for it. That is
/// [`recompute`] within [`RecomputePolicy::Block`], and a plain call otherwise.
///
/// # Errors
/// Errors of `f`.
pub fn checkpoint<F>(inputs: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    // If no input needs a gradient, `f` saves nothing before its first trainable parameter.
    let plain = policy() != RecomputePolicy::Block || !inputs.iter().any(Tensor::tracked);
    if plain { f(inputs) } else { recompute(inputs, f) }
}

/// The policy of this thread.
fn policy() -> RecomputePolicy {
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
        if policy() == RecomputePolicy::None || !self.tracked() || small {
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
