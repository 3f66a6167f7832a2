//! Results of the phases.

use dressage_engine::Tensor;

use crate::Result;

/// A matched query and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchedPair {
    /// Image of the batch.
    pub image: usize,
    /// Query.
    pub query: usize,
    /// Class of its target.
    pub class: u8,
}

/// Divisor of the mask losses of one prediction: the number of its `pairs`. Each of the `b` images
/// without pairs counts as one.
pub(super) fn mask_count(pairs: &[MatchedPair], b: usize) -> f64 {
    let mut matched = vec![0usize; b];
    pairs.iter().for_each(|pair| matched[pair.image] += 1);
    matched.into_iter().map(|n| n.max(1)).sum::<usize>().max(1) as f64
}

/// The matching of one prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerMatch {
    /// Costs `[q, g]` of each image, targets in ascending class order.
    pub costs: Vec<Vec<f32>>,
    /// Matched pairs by image, then query. If an image has more targets than queries, the cheapest
    /// pairs.
    pub pairs: Vec<MatchedPair>,
}

/// Assignment of queries to targets, by prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Matching of each prediction; the first prediction is made before any decoder layer.
    pub layers: Vec<LayerMatch>,
}

/// Contribution of one prediction.
#[derive(Debug, Clone)]
pub struct LayerLoss {
    /// Costs `[q, g]` of each image, targets in ascending class order.
    pub costs: Vec<Vec<f32>>,
    /// Matched pairs by image, then query.
    pub pairs: Vec<MatchedPair>,
    /// Points that the mask losses read. On the host `[r, p, 2]` of the pairs, absent without
    /// pairs; on a device `[b s, p, 2]` of all slots.
    pub points: Option<Tensor>,
}

/// The whole loss.
pub struct Loss {
    /// Sum of all terms, differentiable.
    pub total: Tensor,
    /// `[3 * layers]`, f32: weighted class, mask and dice loss of each prediction.
    pub values: Tensor,
    /// Contribution of each prediction; the first prediction is made before any decoder layer.
    pub layers: Vec<LayerLoss>,
}

/// Losses of predictions for a table of matched pairs.
pub struct Terms {
    /// Sum of all terms, differentiable. `dressage_engine::backward` copies its initial gradient to
    /// the device; `backward_from` with one on the device copies nothing.
    pub total: Tensor,
    /// `[3 * layers]`, f32: weighted class, mask and dice loss of each prediction.
    pub values: Tensor,
    /// Points that the mask losses of each prediction read: `[r, p, 2]` of the pairs on the host,
    /// absent without pairs; `[b s, p, 2]` of all slots on a device.
    pub points: Vec<Option<Tensor>>,
}

impl Loss {
    /// Terms under the reference's names ([`named_terms`]). Waits for the device if the values are
    /// on one.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn named(&self) -> Result<Vec<(String, f32)>> {
        Ok(named_terms(self.values.to_host()?.data()?))
    }
}

/// Names of the reference for the terms of `layers` predictions: `loss_*` for the last one,
/// `d{i}.loss_*` for earlier ones.
pub(crate) fn term_names(layers: usize) -> Vec<String> {
    let name = |i: usize, term: &str| match i + 1 {
        n if n == layers => format!("loss_{term}"),
        _ => format!("d{i}.loss_{term}"),
    };
    (0..layers).flat_map(|i| ["cls", "mask", "dice"].map(|term| name(i, term))).collect()
}

/// Values `[3 * layers]` under the names of `term_names`.
pub fn named_terms(values: &[f32]) -> Vec<(String, f32)> {
    term_names(values.len() / 3).into_iter().zip(values.iter().copied()).collect()
}
