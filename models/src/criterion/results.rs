//! What the phases hand on.

use dressage_engine::Tensor;

use crate::Result;

/// A matched query and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Image of the batch.
    pub image: usize,
    /// Query.
    pub query: usize,
    /// Class of its target.
    pub class: u8,
}

/// Divisor of the mask losses of one prediction: its `pairs`, an image of the `b` without any
/// counting as one.
pub(super) fn mask_count(pairs: &[Pair], b: usize) -> f64 {
    let mut matched = vec![0usize; b];
    pairs.iter().for_each(|pair| matched[pair.image] += 1);
    matched.into_iter().map(|n| n.max(1)).sum::<usize>().max(1) as f64
}

/// The matching of one prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerMatch {
    /// Costs `[q, g]` of each image, targets in ascending class order.
    pub costs: Vec<Vec<f32>>,
    /// Matched pairs by image, then query; the cheapest where an image has more targets than
    /// queries.
    pub pairs: Vec<Pair>,
}

/// Which query answers for which target, by prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The first one made before any decoder layer.
    pub layers: Vec<LayerMatch>,
}

/// What one prediction contributed.
#[derive(Debug, Clone)]
pub struct LayerLoss {
    /// Costs `[q, g]` of each image, targets in ascending class order.
    pub costs: Vec<Vec<f32>>,
    /// Matched pairs by image, then query.
    pub pairs: Vec<Pair>,
    /// Points the mask losses read: `[r, p, 2]` of the pairs on the host, absent without any; `[b
    /// s, p, 2]` of all slots on a device.
    pub points: Option<Tensor>,
}

/// The whole loss.
pub struct Loss {
    /// Sum of all terms, differentiable.
    pub total: Tensor,
    /// `[3 * layers]`, f32: weighted losses of each prediction: class, mask, dice.
    pub values: Tensor,
    /// By prediction, the first one made before any decoder layer.
    pub layers: Vec<LayerLoss>,
}

/// The losses of predictions on a device whose assignment the host need not know.
pub struct Terms {
    /// Sum of all terms, differentiable. `dressage_engine::backward` copies the number it starts
    /// from to the device; `backward_from` with one that lies there copies nothing.
    pub total: Tensor,
    /// `[3 * layers]`, f32: weighted losses of each prediction: class, mask, dice.
    pub values: Tensor,
    /// `[b s, p, 2]` by prediction: points that the mask losses read.
    pub points: Vec<Tensor>,
}

impl Loss {
    /// Terms under the reference's names ([`named_terms`]). Waits for the device if the values lie
    /// on one.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn named(&self) -> Result<Vec<(String, f32)>> {
        Ok(named_terms(self.values.to_host()?.data()?))
    }
}

/// Values `[3 * layers]` under the reference's names: the last prediction's are `loss_*`, earlier
/// ones' `d{i}.loss_*`.
pub fn named_terms(values: &[f32]) -> Vec<(String, f32)> {
    let last = (values.len() / 3).saturating_sub(1);
    let name = |i: usize, term: &str| match i {
        i if i == last => format!("loss_{term}"),
        i => format!("d{i}.loss_{term}"),
    };
    let term = |(i, v): (usize, &f32)| (name(i / 3, ["cls", "mask", "dice"][i % 3]), *v);
    values.iter().enumerate().map(term).collect()
}
