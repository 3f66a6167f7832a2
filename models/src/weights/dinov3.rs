//! What files of DINOv3 lack or have beyond names: masks of biases, periods (spec dinov3 §3, §4).

use dressage_engine::{DType, Tensor};
use dressage_kernels::ops::rotary::periods;

use super::convert::misfit;
use super::names::OFFICIAL;
use super::{StateDict, Stored};
use crate::Result;
use crate::backbone::{QkvBias, VitConfig};

/// Name of the periods of the rotation, which the files of its authors have.
const PERIODS: &str = "rope_embed.periods";

/// Completes the tensors of a file to those of the network.
///
/// The authors' files have a mask that hides the bias of the keys, and periods that were rounded to
/// bf16. Others have neither; their periods are computed. A file without any bias of queries, keys
/// and values has zeros.
///
/// # Errors
/// A bias without its mask, or with a mask that is not 1, 0, 1 for queries, keys and values.
pub(super) fn complete(dict: &mut StateDict, config: &VitConfig, names: &str) -> Result<()> {
    if names != OFFICIAL {
        let computed: Vec<f32> =
            periods(config.embed_dim / config.heads.max(1)).iter().map(|&p| p as f32).collect();
        dict.insert(PERIODS, Tensor::from_slice(&computed, &[computed.len()])?);
    }
    if config.qkv_bias != QkvBias::MaskedKey {
        return Ok(());
    }
    let bias = |i: usize| format!("blocks.{i}.attn.qkv.bias");
    let none = (0..config.depth).all(|i| dict.get(&bias(i)).is_none());
    for i in 0..config.depth {
        if names == OFFICIAL {
            masked(dict, &bias(i))?;
        } else if none {
            dict.insert(bias(i), Tensor::zeros(DType::F32, &[3 * config.embed_dim]));
        }
    }
    Ok(())
}

/// Multiplies a bias with its mask. A missing bias is found when the network is built.
fn masked(dict: &mut StateDict, name: &str) -> Result<()> {
    let mask_name = format!("{name}_mask");
    let (Some(bias), mask) = (dict.take(name), dict.take(&mask_name)) else { return Ok(()) };
    let Some(mask) = mask else {
        return Err(misfit(dict, format!("{mask_name} is missing")));
    };
    let floats = |stored: &Stored| stored.checked_float(DType::F32);
    let (Some(values), Some(mask)) = (floats(&bias)?, floats(&mask)?) else {
        dict.insert(name, bias);
        return Ok(());
    };
    let third = mask.len() / 3;
    let expected = (0..mask.len()).map(|i| if i / third.max(1) == 1 { 0.0 } else { 1.0 });
    if mask.shape() != values.shape() || !mask.data::<f32>()?.iter().copied().eq(expected) {
        let difference = format!("{mask_name} is not 1, 0 and 1 for queries, keys and values");
        return Err(misfit(dict, difference));
    }
    let mut kept = values.data::<f32>()?.to_vec();
    kept[third..2 * third].fill(0.0);
    dict.insert(name, Tensor::from_slice(&kept, values.shape())?);
    Ok(())
}
