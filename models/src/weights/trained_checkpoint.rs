//! Checkpoints of the trained parts: adapter and head, optionally with the backbone.

use dressage_engine::Role;
use std::collections::BTreeMap;

use super::convert::BATCHES;
use super::{StateDict, convert_backbone};
use crate::adapter::is_adapter;
use crate::{Method, Result, Segmenter, SegmenterConfig};

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
    /// Two transposed convolutions.
    Deconv {
        /// Classes.
        classes: usize,
        /// Channels between the layers.
        width: usize,
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
                _ if shape("decode_head.project.weight").is_some() => {
                    HeadIn::Deconv { classes, width: channels }
                }
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
            HeadIn::SemFpn { classes, .. }
            | HeadIn::Deconv { classes, .. }
            | HeadIn::PerPixel { classes, .. } => Some(*classes),
        }
    }

    /// Name of the head for people.
    pub fn title(&self) -> &'static str {
        match self {
            HeadIn::Mask2Former { .. } => "Mask2Former head",
            HeadIn::SemFpn { .. } => "semantic FPN",
            HeadIn::Deconv { .. } => "head of transposed convolutions",
            HeadIn::PerPixel { .. } => "per-pixel head",
        }
    }
}

/// A checkpoint that fits a network.
pub struct Fitted {
    /// Its tensors.
    pub dict: StateDict,
    /// Shapes that it must fill: all of the network's, or those of the trained part.
    pub wanted: BTreeMap<String, Vec<usize>>,
    /// Whether the backbone is in it.
    pub whole: bool,
}

/// Fits a checkpoint under the reference's names to the network of `config`. A backbone in it is
/// resized as on load, and tensors that the network does not use are dropped. Without a backbone it
/// must have adapter, head and what else of the backbone trains.
///
/// # Errors
/// Sizes of the network that do not fit together; a backbone of a family without a network.
pub fn fitted(mut dict: StateDict, config: &SegmenterConfig) -> Result<Fitted> {
    // Merging removes the adapter from the network, not from its file.
    let mut wanted = Segmenter::shapes(SegmenterConfig { merge: false, ..config.clone() })?;
    let tuned = |name: &String| config.method != Method::Full && wanted[name].trainable;
    let whole =
        dict.names().any(|name| is_backbone(name) && !(wanted.contains_key(name) && tuned(name)));
    if whole {
        let backbone = dict.part(is_backbone).renamed("backbone.", "");
        dict.add(convert_backbone(backbone, &config.backbone)?);
    } else {
        wanted.retain(|_, param| param.kind.role != Role::Backbone || param.trainable);
    }
    dict.retain(|name| !name.ends_with(BATCHES));
    for unused in Segmenter::unused(config) {
        dict.take(&unused);
    }
    let wanted = wanted.into_iter().map(|(name, param)| (name, param.shape)).collect();
    Ok(Fitted { dict, wanted, whole })
}
