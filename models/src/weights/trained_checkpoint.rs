//! Checkpoints of the trained parts: adapter and head, optionally with the backbone.

use dressage_engine::Role;
use std::collections::BTreeMap;

use super::{StateDict, convert_backbone};
use crate::backbone::BackboneConfig;
use crate::{Result, Segmenter, SegmenterConfig};

/// Whether a parameter is one of the backbone's own, under the reference's names.
pub fn is_backbone(name: &str) -> bool {
    name.starts_with("backbone.") && !name.starts_with("backbone.reins.")
}

/// Whether a dictionary contains a segmentation head.
pub fn has_head(dict: &StateDict) -> bool {
    dict.names().any(|name| name.starts_with("decode_head."))
}

/// Fits a checkpoint under the reference's names to the network of `config`. A backbone in it is
/// resized as on load, and tensors that the network does not use are dropped. Also returns the
/// shapes that it must fill: all of the network's, or those of adapter and head if the file has no
/// backbone.
///
/// # Errors
/// Sizes of the network that do not fit together; a backbone of a family without a network.
pub fn fitted(
    mut dict: StateDict,
    config: &SegmenterConfig,
) -> Result<(StateDict, BTreeMap<String, Vec<usize>>)> {
    let mut wanted = Segmenter::shapes(config.clone())?;
    let backbone = dict.part(is_backbone);
    if backbone.is_empty() {
        wanted.retain(|_, param| param.kind.role != Role::Backbone);
    } else {
        let backbone = backbone.renamed("backbone.", "");
        let BackboneConfig::Vit(vit) = &config.backbone;
        dict.add(convert_backbone(backbone, vit.patch, vit.grid)?);
    }
    for unused in Segmenter::unused(config) {
        dict.take(&unused);
    }
    Ok((dict, wanted.into_iter().map(|(name, param)| (name, param.shape)).collect()))
}
