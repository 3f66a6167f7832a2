//! Comparison of weights with a network.

use std::collections::BTreeMap;

use super::{StateDict, wrappers};
use crate::{ModelError, Result};

/// Name and sizes.
pub type Shaped = (String, Vec<usize>);

/// Differences between weights and a network; all lists are sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Parameters that the weights lack.
    pub missing: Vec<Shaped>,
    /// Tensors that the network lacks.
    pub left_over: Vec<Shaped>,
    /// Names in both, with the shape in the weights and the one in the network.
    pub reshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Names in both whose tensors are integers.
    pub integers: Vec<String>,
}

impl Difference {
    /// Compares `weights` with the shapes of a network. Names are those of the file.
    pub fn of(weights: &StateDict, network: &BTreeMap<String, Vec<usize>>) -> Difference {
        let mut difference = Difference::default();
        for (name, want) in network {
            let in_file = || weights.name_in_file(name);
            match weights.get(name) {
                None => difference.missing.push((in_file(), want.clone())),
                Some(t) if t.shape() != want.as_slice() => {
                    let found = t.shape().to_vec();
                    difference.reshaped.push((in_file(), found, want.clone()));
                }
                Some(t) if !t.kind().is_float() => difference.integers.push(in_file()),
                Some(_) => {}
            }
        }
        let others = weights.iter().filter(|(name, _)| !network.contains_key(*name));
        let in_file = |name| weights.name_in_file(name);
        difference.left_over.extend(others.map(|(name, t)| (in_file(name), t.shape().to_vec())));
        difference
    }

    /// Whether the weights fill the network exactly.
    pub fn is_empty(&self) -> bool {
        self.lines().is_empty()
    }

    /// One line for each difference.
    pub fn lines(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|(n, s)| format!("{n} {s:?} is missing"));
        let reshaped =
            self.reshaped.iter().map(|(n, a, b)| format!("{n} is {a:?}, expected {b:?}"));
        let integers =
            self.integers.iter().map(|n| format!("{n} holds whole numbers, expected floats"));
        let left = self.left_over.iter().map(|(n, s)| format!("{n} {s:?} is left over"));
        missing.chain(reshaped).chain(integers).chain(left).collect()
    }

    /// Returns an error of `weights` unless there is no difference.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] if there is a difference.
    pub fn none(&self, weights: &StateDict, network: &str) -> Result<()> {
        let lines = self.lines();
        if lines.is_empty() {
            return Ok(());
        }
        Err(ModelError::Mismatch {
            source_name: weights.origin().to_string(),
            network: network.to_string(),
            difference: self.strangers(weights).unwrap_or_else(|| crate::params::summary(&lines)),
        })
    }

    /// Message for weights that have few names in common with the network. A list of all missing
    /// names would not show which names the weights have.
    pub fn strangers(&self, weights: &StateDict) -> Option<String> {
        let (n, missing) = (weights.len(), self.missing.len());
        let known = n.checked_sub(self.left_over.len())?;
        if missing <= known || self.left_over.len() <= known {
            return None;
        }
        let found = wrappers::first_of(self.left_over.iter().map(|(name, _)| name.clone()), n);
        let wanted = wrappers::first_of(self.missing.iter().map(|(name, _)| name.clone()), missing);
        let known = if known == 0 { "none".to_string() } else { known.to_string() };
        Some(format!(
            "{known} of its {n} names is known; it holds {found}, but {wanted} were expected"
        ))
    }
}

#[cfg(test)]
mod tests {
    use dressage_engine::{DType, Tensor};

    use super::*;

    #[test]
    fn every_kind_of_difference_is_named() {
        let mut weights = StateDict::new("some.pth");
        weights.insert("same", Tensor::zeros(DType::F32, &[2, 3]));
        weights.insert("turned", Tensor::zeros(DType::F32, &[3, 2]));
        weights.insert("more", Tensor::zeros(DType::F32, &[1]));
        weights.insert("counts", Tensor::zeros(DType::I32, &[4]));
        let network =
            [("same", vec![2, 3]), ("turned", vec![2, 3]), ("gone", vec![5]), ("counts", vec![4])];
        let network: BTreeMap<_, _> = network.map(|(name, shape)| (name.to_string(), shape)).into();
        let difference = Difference::of(&weights, &network);
        let text = difference.none(&weights, "the network").expect_err("they differ").to_string();
        assert_eq!(
            text,
            "some.pth does not fit the network: gone [5] is missing; turned is [3, 2], expected \
             [2, 3]; counts holds whole numbers, expected floats; more [1] is left over"
        );
        let mut strange = StateDict::new("some.pth");
        strange.insert("layers.0.weight", Tensor::zeros(DType::F32, &[2, 3]));
        let error = Difference::of(&strange, &network).none(&strange, "it").expect_err("strangers");
        assert_eq!(
            error.to_string(),
            "some.pth does not fit it: none of its 1 names is known; it holds layers.0.weight, \
             but counts, gone, same, turned were expected"
        );
        weights = StateDict::new("some.pth");
        weights.insert("same", Tensor::zeros(DType::F32, &[2, 3]));
        let network = [("same".to_string(), vec![2, 3])].into();
        assert!(Difference::of(&weights, &network).is_empty());
    }
}
