//! Verification of the fast f32 forms of the CPU against the references, and their timed calls.
//!
//! Everything follows from the checks that an operation states (`crate::check::checks`). The bound
//! is that of the reference's numbers, or a share of the largest value of a result.

use super::{Kernels, Timed, Verify};
use crate::Result;
use crate::call::Operation;
use crate::check::checks::Checked;
use crate::ops::activation::Pointwise;
use crate::ops::add::Add;
use crate::ops::attention::{Attention, PackedAttention};
use crate::ops::attention_mask::AttentionMask;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::channel_scale::ChannelScale;
use crate::ops::class_loss::ClassLoss;
use crate::ops::conv2d::Conv2d;
use crate::ops::depthwise_conv::DepthwiseConv;
use crate::ops::dropout::Dropout;
use crate::ops::gather_rows::GatherRows;
use crate::ops::group_norm::GroupNorm;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::mask_loss::MaskLoss;
use crate::ops::match_cost::MatchCost;
use crate::ops::max_pool::MaxPool;
use crate::ops::ms_deform_attn::MsDeformAttn;
use crate::ops::patch_embed::PatchEmbed;
use crate::ops::pixel_loss::PixelLoss;
use crate::ops::point_sample::PointSample;
use crate::ops::rein::Rein;
use crate::ops::relative_position::RelativePosition;
use crate::ops::residual::Residual;
use crate::ops::resize::Resize;
use crate::ops::rotary::Rotary;
use crate::ops::row_width::RowWidth;
use crate::ops::semantic_scores::SemanticScores;
use crate::ops::softmax::Softmax;
use crate::ops::swiglu::Swiglu;
use crate::ops::token_link::TokenLink;
use crate::ops::transpose::Transpose;
use crate::ops::uncertain_points::UncertainPoints;
use crate::ops::uniform::Uniform;

/// All operations with a CPU verification. None has launches to time on a device.
pub fn all() -> Vec<Kernels> {
    let verifications: Vec<(&'static str, Verify)> = vec![
        of::<Pointwise>(),
        of::<Add>(),
        (Attention::NAME, |verification| {
            Attention::checks().on_host(verification)?;
            PackedAttention::checks().on_host(verification)
        }),
        of::<AttentionMask>(),
        of::<BatchNorm>(),
        of::<ChannelScale>(),
        of::<ClassLoss>(),
        of::<Conv2d>(),
        of::<DepthwiseConv>(),
        of::<Dropout>(),
        of::<GatherRows>(),
        of::<GroupNorm>(),
        of::<LayerNorm>(),
        of::<Linear>(),
        of::<MaskLoss>(),
        of::<MatchCost>(),
        of::<MaxPool>(),
        of::<MsDeformAttn>(),
        of::<PatchEmbed>(),
        of::<PixelLoss>(),
        of::<PointSample>(),
        of::<Rein>(),
        of::<RelativePosition>(),
        of::<Residual>(),
        of::<Resize>(),
        of::<Rotary>(),
        of::<RowWidth>(),
        of::<SemanticScores>(),
        of::<Softmax>(),
        of::<Swiglu>(),
        of::<TokenLink>(),
        of::<Transpose>(),
        of::<UncertainPoints>(),
        of::<Uniform>(),
    ];
    let kernels = |(name, verify)| Kernels { name, verify, timed: |_| Ok(Vec::new()) };
    verifications.into_iter().map(kernels).collect()
}

/// Checks that an operation states, on the host.
fn of<O: Checked>() -> (&'static str, Verify) {
    (O::NAME, |verification| O::checks().on_host(verification))
}

/// Calls to be timed that an operation states.
fn calls_of<O: Checked>() -> (&'static str, Calls) {
    (O::NAME, || O::checks().calls())
}

/// Calls to be timed on the host; making them fills their operands.
pub type Calls = fn() -> Result<Vec<Timed<'static>>>;

/// Calls to be timed, by folder.
pub fn timed() -> Vec<(&'static str, Calls)> {
    vec![
        calls_of::<Add>(),
        calls_of::<AttentionMask>(),
        calls_of::<BatchNorm>(),
        calls_of::<ClassLoss>(),
        calls_of::<Conv2d>(),
        calls_of::<DepthwiseConv>(),
        calls_of::<Dropout>(),
        calls_of::<GatherRows>(),
        calls_of::<LayerNorm>(),
        calls_of::<Linear>(),
        calls_of::<MaskLoss>(),
        calls_of::<MatchCost>(),
        calls_of::<MaxPool>(),
        calls_of::<MsDeformAttn>(),
        calls_of::<PatchEmbed>(),
        calls_of::<PointSample>(),
        calls_of::<Rein>(),
        calls_of::<Resize>(),
        calls_of::<Rotary>(),
        calls_of::<SemanticScores>(),
        calls_of::<Softmax>(),
        calls_of::<Swiglu>(),
        calls_of::<UncertainPoints>(),
        calls_of::<Uniform>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn the_forms_of_the_cpu_hold() {
        for kernels in all() {
            let outcomes = kernels.run(&Device::dry_run());
            assert!(outcomes.len() > 1, "{}", kernels.name);
            for outcome in outcomes {
                assert_eq!(outcome.failure, None, "{}", outcome.what);
                println!("{}: {:.3}", outcome.what, outcome.worst);
            }
        }
    }

    #[test]
    fn every_call_to_be_timed_runs() {
        for (folder, calls) in timed() {
            let mut calls = crate::dry_run::dry_run(&mut Default::default(), calls).unwrap();
            assert!(calls.iter().all(|call| call.bytes > 0), "{folder}");
            let run = || calls.iter_mut().try_for_each(|call| (call.run)());
            crate::dry_run::dry_run(&mut Default::default(), run).unwrap();
        }
    }
}
