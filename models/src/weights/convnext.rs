//! Norms of ConvNeXt's tapped maps, which files of a classifier have of the last map only (spec
//! backbones §4.7).

use dressage_engine::{DType, Tensor};

use super::StateDict;
use crate::backbone::ConvNextConfig;

/// Adds the norms of the first three maps as the identity, if the file has nothing of them.
pub(super) fn complete(dict: &mut StateDict, config: &ConvNextConfig) {
    let own = |name: &str| (0..3).any(|i| name.starts_with(&format!("norm{i}.")));
    if dict.names().any(|name| own(name)) {
        return;
    }
    for (i, &c) in config.widths[..3].iter().enumerate() {
        dict.insert(format!("norm{i}.weight"), Tensor::full(&[c], 1.0f32));
        dict.insert(format!("norm{i}.bias"), Tensor::zeros(DType::F32, &[c]));
    }
}
