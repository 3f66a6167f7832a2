//! Checkpoints of the trained parts: adapter and head, optionally with the backbone.

use dressage_engine::Role;
use std::collections::BTreeMap;

use super::convert::BATCHES;
use super::{StateDict, convert_backbone};
use crate::adapter::is_adapter;
use crate::{Result, Segmenter, SegmenterConfig};

/// Whether a parameter is one of the backbone's own, under the reference's names.
pub fn is_backbone(name: &str) -> bool {
    name.starts_with("backbone.") && !is_adapter(name)
}

/// A head in a dictionary, with what its shapes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadIn {
    /// Mask2Former, or another head of queries.
    Mask2Former {
        /// Classes, without "no object".
        classes: Option<usize>,
        /// Channels of mask embeddings.
        mask_width: Option<usize>,
    },
    /// A semantic FPN with its neck.
    SemFpn {
        /// Classes.
        classes: usize,
        /// Channels of the neck.
        neck: usize,
        /// Channels of the head.
        channels: usize,
    },
    /// A 1x1 convolution to class logits.
    PerPixel {
        /// Classes.
        classes: usize,
        /// Channels of all taps together.
        channels: usize,
    },
}

impl HeadIn {
    /// Finds the head under the reference's names; `None` if there is none.
    pub fn of(dict: &StateDict) -> Option<HeadIn> {
        let shape = |name: &str| Some(dict.get(name)?.shape().to_vec());
        if let Some([classes, channels, 1, 1]) = shape("decode_head.conv_seg.weight").as_deref() {
            let (classes, channels) = (*classes, *channels);
            return Some(match shape("decode_head.scale_heads.0.0.conv.weight").as_deref() {
                Some([_, neck, ..]) => HeadIn::SemFpn { classes, neck: *neck, channels },
                _ => HeadIn::PerPixel { classes, channels },
            });
        }
        dict.names().any(|name| name.starts_with("decode_head.")).then(|| {
            let rows = |name: &str| shape(name).and_then(|shape| shape.first().copied());
            HeadIn::Mask2Former {
                classes: rows("decode_head.cls_embed.bias").map(|n| n.saturating_sub(1)),
                mask_width: rows("decode_head.mask_embed.4.bias"),
            }
        })
    }

    /// Classes, if the shapes say how many.
    pub fn classes(&self) -> Option<usize> {
        match self {
            HeadIn::Mask2Former { classes, .. } => *classes,
            HeadIn::SemFpn { classes, .. } | HeadIn::PerPixel { classes, .. } => Some(*classes),
        }
    }

    /// Name of the head for people.
    pub fn title(&self) -> &'static str {
        match self {
            HeadIn::Mask2Former { .. } => "Mask2Former head",
            HeadIn::SemFpn { .. } => "semantic FPN",
            HeadIn::PerPixel { .. } => "per-pixel head",
        }
    }
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
        dict.add(convert_backbone(backbone, &config.backbone)?);
    }
    dict.retain(|name| !name.ends_with(BATCHES));
    for unused in Segmenter::unused(config) {
        dict.take(&unused);
    }
    Ok((dict, wanted.into_iter().map(|(name, param)| (name, param.shape)).collect()))
}
