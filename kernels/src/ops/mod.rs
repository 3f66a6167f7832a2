//! The operations, one folder each. `cuda/` has the headers that their CUDA sources share.

#![allow(clippy::too_many_arguments, reason = "a kernel's operands are its arguments")]

pub mod activation;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod attention_mask;
pub mod batch_norm;
pub mod channel_scale;
pub mod class_loss;
pub mod conv2d;
pub mod depthwise_conv;
pub mod gather_rows;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod mask_loss;
pub mod match_cost;
pub mod matmul;
pub mod max_pool;
pub mod ms_deform_attn;
pub mod patch_embed;
pub mod pixel_loss;
pub mod point_sample;
pub mod reduce;
pub mod rein;
pub mod relative_position;
pub mod residual;
pub mod resize;
pub mod rotary;
pub mod row_width;
pub mod semantic_scores;
pub mod sine_position;
pub mod softmax;
pub mod swiglu;
pub mod token_link;
pub mod transpose;
pub mod uncertain_points;
pub mod uniform;
