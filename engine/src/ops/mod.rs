//! Differentiable operations, with one file per operation or family.
//!
//! Each operation has a shape check, a kernel call and a backward pass. It creates its results
//! where its operands are. Host kernels take f32 and f64; operations that run only on the host use
//! [`crate::floats`]. Device kernels take f32 and bf16, as `device.rs` says. An operation without a
//! device kernel returns an error that names it if a tensor is on a device.

mod activation;
mod add;
mod attention;
mod batch_norm;
mod cast;
mod channel_scale;
mod conv;
mod deform;
mod dropout;
mod feed_forward;
mod fused;
mod gather;
mod join;
mod linear;
mod losses;
mod masks;
mod matching;
mod matmul;
mod max_pool;
mod norm;
mod pixel_loss;
mod points;
mod position;
mod rein;
mod reorder;
mod resize;
mod row_width;
mod softmax;
mod transpose;
mod view;

pub use activation::{gelu, quick_gelu, relu, swiglu};
pub use add::{add, residual};
pub use attention::{attention, self_attention};
pub use batch_norm::{BatchStatistics, batch_norm, batch_norm_by};
pub use cast::cast;
pub use channel_scale::channel_scale;
pub use conv::{conv2d, conv2d_dilated, depthwise_conv, patch_embed};
pub use deform::ms_deform_attn;
pub use dropout::{Dropout, dropout};
pub use feed_forward::{Layer, feed_forward};
pub use fused::{Activated, Norm, linear_residual, norm_linear};
pub use gather::gather_rows_at;
pub use join::{broadcast, concat, gather_rows, narrow, prepend};
pub use linear::{linear, linear_relu};
pub use losses::{class_loss, class_loss_at, mask_loss, total};
pub use masks::{attention_mask, sine_position};
pub use matching::{
    LabelMasks, Matching, match_cost, sample_labels, semantic_scores, uncertain_points,
};
pub use matmul::matmul;
pub use max_pool::max_pool;
pub use norm::{group_norm, layer_norm};
pub use pixel_loss::pixel_loss;
pub use points::{mask_rows, point_sample};
pub use position::{relative_attention, relative_position, rotary};
pub use rein::{ReinParts, rein, token_link};
pub use reorder::reorder_rows;
pub use resize::{
    resize_bicubic, resize_bicubic_antialiased, resize_bicubic_by_factor, resize_by_factor,
    resize_maps, resize_nearest, resize_to,
};
pub use row_width::row_width;
pub use softmax::softmax;
pub use transpose::transpose;
pub use view::{reshape, rows};

use crate::{EngineError, Result, Tensor};

/// Fails unless `x` has exactly this shape.
pub(crate) fn expect_shape(
    op: &'static str,
    arg: &'static str,
    x: &Tensor,
    shape: &[usize],
) -> Result<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(EngineError::Shape { op, arg, expected: format!("{shape:?}"), found: x.shape().to_vec() })
}

/// Error that says in words which shape was expected.
pub(crate) fn shape_error(
    op: &'static str,
    arg: &'static str,
    expected: impl Into<String>,
    x: &Tensor,
) -> EngineError {
    EngineError::Shape { op, arg, expected: expected.into(), found: x.shape().to_vec() }
}
