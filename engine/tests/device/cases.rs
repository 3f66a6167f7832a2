//! The table of operations with a device kernel.

use dressage_engine::ops::Activated;
use dressage_engine::{DType, Result, Tensor, ops, recompute};
use dressage_kernels::rotary;

/// An operation under test.
pub struct Case {
    /// Operation and variant.
    pub name: &'static str,
    /// Shape of each differentiable input; parameters in f32 have at most one axis.
    pub inputs: Vec<Vec<usize>>,
    /// Largest allowed error in bf16, in units of 2^-8 of the largest value. It is the number of
    /// roundings of an element, each of at most half a unit. Roundings in a chain have random
    /// signs, so their error grows as the root of their number.
    pub roundings: f64,
    /// The operation.
    pub run: fn(&[Tensor]) -> Result<Tensor>,
}

fn case(
    name: &'static str,
    inputs: &[&[usize]],
    roundings: f64,
    run: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case { name, inputs: inputs.iter().map(|s| s.to_vec()).collect(), roundings, run }
}

pub fn products() -> Vec<Case> {
    vec![
        // Roundings of the bias and of its sum.
        case("linear", &[&[2, 3, 5], &[4, 5], &[4]], 2.0, |x| {
            ops::linear(&x[0], &x[1], Some(&x[2]))
        }),
        case("linear, no bias", &[&[7, 3], &[2, 3]], 1.0, |x| ops::linear(&x[0], &x[1], None)),
        // The gradient passes only where the result is positive.
        case("linear_relu", &[&[2, 3, 5], &[4, 5], &[4]], 2.0, |x| {
            ops::linear_relu(&x[0], &x[1], &x[2])
        }),
        // Roundings of the hidden layer and the result, and of the gradient between the layers.
        case("feed_forward", &[&[2, 3, 5], &[9, 5], &[9], &[4, 9], &[4]], 3.0, |x| {
            let layer = |i| ops::Layer { weight: &x[i], bias: &x[i + 1] };
            ops::feed_forward(&x[0], layer(1), layer(3))
        }),
        case("matmul", &[&[2, 3, 5], &[2, 5, 4]], 1.0, |x| ops::matmul(&x[0], &x[1], false, false)),
        case("matmul, b transposed", &[&[2, 3, 5], &[2, 4, 5]], 1.0, |x| {
            ops::matmul(&x[0], &x[1], false, true)
        }),
        case("matmul, a transposed", &[&[5, 3], &[5, 4]], 1.0, |x| {
            ops::matmul(&x[0], &x[1], true, false)
        }),
        // The gradients of two parts are added in one value.
        case("matmul, parts of one value", &[&[6, 5]], 2.0, |x| {
            ops::matmul(&ops::rows(&x[0], 0, 3)?, &ops::rows(&x[0], 3, 3)?, false, true)
        }),
        case("matmul, both transposed", &[&[5, 3], &[4, 5]], 1.0, |x| {
            ops::matmul(&x[0], &x[1], true, true)
        }),
    ]
}

/// x, weight and bias of a norm, weight and bias of a layer, layer scale.
const BLOCK: &[&[usize]] = &[&[2, 3, 8], &[8], &[8], &[8, 8], &[8], &[8]];

pub fn chains() -> Vec<Case> {
    vec![
        // Product, bias, norm, activation, sum, and as many backward; two gradients are added.
        case("linear, norm, gelu, residual", BLOCK, 4.0, |x| {
            let y = ops::linear(&x[0], &x[3], Some(&x[4]))?;
            let y = ops::layer_norm(&y, &x[1], &x[2], 1e-6)?;
            ops::residual(&x[0], &ops::gelu(&y)?, Some(&x[5]))
        }),
        case("a matrix and a bias that are used twice", BLOCK, 4.0, |x| {
            let y = ops::linear(&x[0], &x[3], Some(&x[4]))?;
            let y = ops::linear(&ops::relu(&y)?, &x[3], Some(&x[4]))?;
            ops::layer_norm(&ops::residual(&y, &x[0], Some(&x[5]))?, &x[1], &x[2], 1e-3)
        }),
        case("norm_linear and linear_residual, trained", BLOCK, 4.0, |x| {
            // Trained in every run, so that all runs use the same code path.
            let w = if x[3].tracked() { x[3].clone() } else { x[3].leaf() };
            let norm = ops::Norm { weight: &x[1], bias: &x[2], eps: 1e-5 };
            let y = ops::norm_linear(&x[0], &norm, &w, Some(&x[4]))?;
            ops::linear_residual(&x[0], &y, Activated::Gelu, &w, Some(&x[4]), Some(&x[5]))
        }),
        case("a norm with one parameter for both", &[&[3, 8], &[8]], 2.0, |x| {
            ops::gelu(&ops::layer_norm(&x[0], &x[1], &x[1], 1e-5)?)
        }),
        case("frozen layers between", &[&[2, 3, 8], &[8, 8], &[8]], 4.0, |x| {
            let (w, g) = (x[1].detach(), x[2].detach());
            let norm = ops::Norm { weight: &g, bias: &g, eps: 1e-5 };
            let y = ops::norm_linear(&x[0], &norm, &w, Some(&g))?;
            let y = ops::linear_residual(&x[0], &y, Activated::Gelu, &w, Some(&g), None)?;
            ops::linear(&y, &x[1], Some(&x[2]))
        }),
    ]
}

pub fn pointwise() -> Vec<Case> {
    vec![
        case("gelu", &[&[3, 17]], 1.0, |x| ops::gelu(&x[0])),
        case("quick_gelu", &[&[3, 17]], 1.0, |x| ops::quick_gelu(&x[0])),
        // The result is rounded before the backward pass reads it.
        case("softmax", &[&[3, 17]], 2.0, |x| ops::softmax(&x[0])),
        case("relu", &[&[3, 17]], 1.0, |x| ops::relu(&x[0])),
        case("swiglu", &[&[3, 10]], 1.0, |x| ops::swiglu(&x[0])),
        case("add", &[&[2, 3, 4], &[2, 3, 4]], 1.0, |x| ops::add(&x[0], &x[1])),
        case("add, a parameter", &[&[2, 3, 4], &[4]], 1.0, |x| ops::add(&x[0], &x[1])),
        case("add, rows of the same type", &[&[2, 3, 4], &[3, 4]], 1.0, |x| ops::add(&x[0], &x[1])),
        // The gradients are added: two roundings and that of their sum.
        case("add, to itself", &[&[3, 5]], 2.0, |x| {
            let y = ops::add(&x[0], &x[0])?;
            ops::add(&y, &ops::gelu(&x[0])?)
        }),
        case("residual", &[&[2, 3, 4], &[2, 3, 4]], 1.0, |x| ops::residual(&x[0], &x[1], None)),
        case("residual, layer scale", &[&[2, 3, 4], &[2, 3, 4], &[4]], 1.0, |x| {
            ops::residual(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}

pub fn norms_and_convolutions() -> Vec<Case> {
    vec![
        case("layer_norm", &[&[2, 3, 7], &[7], &[7]], 1.0, |x| {
            ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
        }),
        case("group_norm", &[&[2, 3, 2, 6], &[6], &[6]], 1.0, |x| {
            ops::group_norm(&x[0], &x[1], &x[2], 3, 1e-5)
        }),
        case("conv2d 3x3, pad 1", &[&[2, 4, 5, 3], &[2, 3, 3, 3], &[2]], 2.0, |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), 1, 1)
        }),
        case("conv2d 3x3, stride 2", &[&[1, 5, 6, 2], &[3, 2, 3, 3]], 2.0, |x| {
            ops::conv2d(&x[0], &x[1], None, 2, 1)
        }),
        case("conv2d 1x1", &[&[1, 3, 2, 4], &[3, 4, 1, 1], &[3]], 2.0, |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), 1, 0)
        }),
        case("patch_embed", &[&[2, 3, 4, 6], &[5, 3, 2, 2], &[5]], 2.0, |x| {
            ops::patch_embed(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}

pub fn copies_and_resampling() -> Vec<Case> {
    vec![
        case("reshape", &[&[2, 3, 4]], 1.0, |x| ops::reshape(&x[0], &[6, 4])),
        case("rows", &[&[5, 3]], 1.0, |x| ops::rows(&x[0], 1, 3)),
        case("concat", &[&[2, 3, 4], &[2, 1, 4]], 1.0, |x| ops::concat(&[&x[0], &x[1]], 1)),
        case("narrow", &[&[2, 5, 3]], 1.0, |x| ops::narrow(&x[0], 1, 2, 2)),
        case("broadcast", &[&[3, 2]], 1.0, |x| ops::broadcast(&x[0], 4)),
        case("prepend", &[&[1, 3], &[2, 4, 3]], 1.0, |x| ops::prepend(&x[0], &x[1])),
        case("a sum of parts", &[&[2, 4, 3]], 2.0, |x| {
            let front = ops::narrow(&x[0], 1, 0, 2)?;
            ops::add(&front, &ops::narrow(&x[0], 1, 1, 2)?)
        }),
        case("recompute, values captured", &[&[4, 5], &[5], &[5]], 4.0, |x| {
            let (w, b) = (x[1].clone(), x[2].clone());
            recompute(&x[..1], move |x| ops::gelu(&ops::layer_norm(&x[0], &w, &b, 1e-3)?))
        }),
        case("row_width, wider", &[&[2, 3, 5]], 1.0, |x| ops::row_width(&x[0], 8)),
        case("row_width, narrower", &[&[2, 3, 5]], 1.0, |x| ops::row_width(&x[0], 3)),
        case("resize by 4", &[&[1, 3, 2, 3]], 1.0, |x| ops::resize_by_factor(&x[0], 4.0)),
        case("resize by 0.5, odd", &[&[2, 5, 7, 2]], 1.0, |x| ops::resize_by_factor(&x[0], 0.5)),
        case("resize to a size", &[&[1, 5, 3, 2]], 1.0, |x| ops::resize_to(&x[0], 3, 7)),
        case("resize planar maps", &[&[2, 2, 3, 5]], 1.0, |x| ops::resize_maps(&x[0], [7, 4])),
        case("resize bicubic by factor", &[&[1, 4, 4, 3]], 1.0, |x| {
            ops::resize_bicubic_by_factor(&x[0], [2.1 / 4.0, 5.1 / 4.0], [2, 5])
        }),
        case("resize bicubic antialiased", &[&[1, 6, 5, 2]], 1.0, |x| {
            ops::resize_bicubic_antialiased(&x[0], 4, 7)
        }),
    ]
}

pub fn attention() -> Vec<Case> {
    vec![
        // Roundings of the probabilities, the result and its gradient.
        case("self_attention", &[&[2, 5, 3, 2, 32]], 3.0, |x| ops::self_attention(&x[0])),
        case("attention", &[&[2, 3, 64], &[2, 5, 64], &[2, 5, 64]], 3.0, |x| {
            ops::attention(&x[0], &x[1], &x[2], 2, None)
        }),
        // In addition the roundings of the padded operands.
        case("self_attention, heads of 12", &[&[2, 5, 3, 2, 12]], 4.0, |x| {
            ops::self_attention(&x[0])
        }),
        case("attention, heads of 8", &[&[2, 3, 16], &[2, 5, 16], &[2, 5, 16]], 4.0, |x| {
            ops::attention(&x[0], &x[1], &x[2], 2, None)
        }),
        case("attention, keys blocked", &[&[1, 3, 64], &[1, 4, 64], &[1, 4, 64]], 3.0, |x| {
            let blocked = [0u8, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0];
            let mut blocked = Tensor::from_slice(&blocked, &[1, 3, 4])?;
            if let Some(device) = x[0].device() {
                blocked = blocked.to_device(device, blocked.dtype())?;
            }
            ops::attention(&x[0], &x[1], &x[2], 2, Some(&blocked))
        }),
        case("attention, keys blocked, 64 channels", ONE_HEAD, 3.0, |x| {
            let blocked = Tensor::from_slice(&[0u8, 1, 0, 0, 0, 1, 1, 0, 0], &[1, 3, 3])?;
            let blocked = match x[0].device() {
                Some(device) => blocked.to_device(device, blocked.dtype())?,
                None => blocked,
            };
            ops::attention(&x[0], &x[1], &x[2], 1, Some(&blocked))
        }),
        // Rotated, rounded and then used in attention: a shared operand and an unshared one.
        case("rotary", &[&[2, 5, 3, 2, 32]], 4.0, |x| {
            let table = like(&x[0], &rotary::table([2, 2], 16, 32)?, &[4, 16, 2])?;
            let y = ops::rotary(x[0].clone(), &table, 1)?;
            ops::self_attention(&ops::rotary(y, &table, 1)?)
        }),
        // The relative terms are rounded before the softmax, so errors of scores count as well.
        case("relative attention", &[&[1, 6, 3, 2, 80], &[5, 80], &[3, 80]], 8.0, |x| {
            let rel = ops::relative_position(&x[0], &x[1], &x[2], [3, 2])?;
            ops::relative_attention(&x[0], &rel, [3, 2])
        }),
        // Heads narrower than those of the kernels add one more rounding of queries.
        case("relative attention, widened", &[&[1, 6, 3, 2, 20], &[5, 20], &[3, 20]], 8.0, |x| {
            let rel = ops::relative_position(&x[0], &x[1], &x[2], [3, 2])?;
            ops::relative_attention(&x[0], &rel, [3, 2])
        }),
        case("relative_position", &[&[1, 6, 3, 2, 80], &[5, 80], &[3, 80]], 1.0, |x| {
            ops::relative_position(&x[0], &x[1], &x[2], [3, 2])
        }),
        case("ms_deform_attn", &[&[1, 10, 2, 4], &[1, 10, 2, 2, 2, 2], &[1, 10, 2, 4]], 2.0, |x| {
            ops::ms_deform_attn(&x[0], &x[1], &x[2], &[(1, 2), (2, 4)])
        }),
        // Roundings of the probabilities, mixed features, product and result, and as many backward.
        case("rein", REIN, 3.0, |x| rein(x, true)),
        case("rein, no softmax", REIN, 3.0, |x| rein(x, false)),
        case("rein, 48 channels", REIN_48, 4.0, |x| rein(x, true)),
        case("rein, 48 channels, no softmax", REIN_48, 4.0, |x| rein(x, false)),
        case("token_link", &[&[3, 4, 8]], 1.0, |x| ops::token_link(&x[0])),
    ]
}

/// Queries, keys and values of one head of 64 channels.
const ONE_HEAD: &[&[usize]] = &[&[1, 3, 64], &[1, 3, 64], &[1, 3, 64]];

/// Features with one class row, five tokens, their values, W_f, b_f, scale.
const REIN: &[&[usize]] = &[&[2, 1 + 4, 64], &[5, 64], &[4, 64], &[64, 64], &[64], &[]];

/// [`REIN`] with a number of channels that has no kernel.
const REIN_48: &[&[usize]] = &[&[2, 1 + 4, 48], &[5, 48], &[4, 48], &[48, 48], &[48], &[]];

fn rein(x: &[Tensor], softmax: bool) -> Result<Tensor> {
    let parts = ops::ReinParts {
        tokens: x[1].clone(),
        values: x[2].clone(),
        weight: &x[3],
        bias: &x[4],
        scale: &x[5],
    };
    ops::rein(&x[0], &parts, 1, softmax)
}

/// Constants in the place of `x`: f32 on a device, the type of `x` on the host.
fn like(x: &Tensor, values: &[f64], shape: &[usize]) -> Result<Tensor> {
    let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let narrow = Tensor::from_slice(&narrow, shape)?;
    match (x.device(), x.dtype()) {
        (Some(device), _) => narrow.to_device(device, DType::F32),
        (None, DType::F64) => {
            let wide: Vec<f64> = values.iter().map(|&v| f64::from(v as f32)).collect();
            Tensor::from_slice(&wide, shape)
        }
        _ => Ok(narrow),
    }
}

/// An integer table in the place of `x`.
fn table(x: &Tensor, values: &[i32]) -> Result<Tensor> {
    let values = Tensor::from_slice(values, &[values.len()])?;
    match x.device() {
        Some(device) => values.to_device(device, DType::I32),
        None => Ok(values),
    }
}

/// Mask losses of three pairs; the last is padding, which the host does not get.
fn padded_mask_loss(x: &Tensor) -> Result<Tensor> {
    let t: Vec<f64> = (0..21).map(|i| f64::from(i % 4) / 4.0).collect();
    if x.device().is_none() {
        let pairs = ops::narrow(x, 0, 0, 2)?;
        return ops::mask_loss(&pairs, &like(x, &t[..14], &[2, 7])?, 3.0, [5.0, 2.0], 3);
    }
    let (num, pairs) = (like(x, &[3.0], &[1])?, like(x, &[1.0, 1.0, 0.0], &[3])?);
    ops::mask_loss_at(x, &like(x, &t, &[3, 7])?, &num, &pairs, [5.0, 2.0])
}

pub fn losses() -> Vec<Case> {
    vec![
        case("point_sample, points by image", &[&[4, 3, 2]], 1.0, |x| {
            let points = [0.31, 0.77, 0.02, 0.98, 0.5, 0.13, 0.999, 0.6];
            ops::point_sample(&x[0], &like(&x[0], &points, &[2, 2, 2])?, 4)
        }),
        case("gather_rows_at, one twice, padding", &[&[4, 3]], 2.0, |x| {
            ops::gather_rows_at(&x[0], &table(&x[0], &[2, -1, 0, 2, 4])?)
        }),
        case("mask_loss_at", &[&[3, 7]], 1.0, |x| padded_mask_loss(&x[0])),
        case("class_loss_at", &[&[2, 3, 4]], 1.0, |x| {
            let mut weights = Tensor::from_slice(&[1.0f32, 1.0, 1.0, 0.1], &[4])?;
            if let Some(device) = x[0].device() {
                weights = weights.to_device(device, DType::F32)?;
            }
            ops::class_loss_at(&x[0], &table(&x[0], &[3, 0, 3, 2, 3, 1])?, &weights, 2.0)
        }),
        case("total", &[&[3, 4], &[2], &[]], 1.0, |x| ops::total(&[&x[0], &x[1], &x[2]])),
        case("total of one", &[&[3, 4]], 1.0, |x| ops::total(&[&x[0]])),
        case("point_sample", &[&[2, 3, 4]], 1.0, |x| {
            // Inside, at the border and outside of the map.
            let points = [0.31, 0.77, 0.02, 0.98, 0.5, 0.13, 0.999, 0.6, 1.3, 0.5, 0.71, 0.42];
            ops::point_sample(&x[0], &like(&x[0], &points, &[2, 3, 2])?, 4)
        }),
        case("gather_rows, one twice", &[&[4, 3]], 2.0, |x| ops::gather_rows(&x[0], &[2, 0, 2], 5)),
        case("mask_rows", &[&[3, 4], &[2, 5, 4]], 1.0, |x| {
            ops::mask_rows(&x[0], &x[1], &[0, 1, 1], 4)
        }),
        case("mask_loss", &[&[3, 7]], 1.0, |x| {
            let t: Vec<f64> = (0..21).map(|i| f64::from(i % 4) / 4.0).collect();
            ops::mask_loss(&x[0], &like(&x[0], &t, &[3, 7])?, 3.0, [5.0, 2.0], 4)
        }),
        case("class_loss", &[&[2, 3, 4]], 1.0, |x| {
            ops::class_loss(&x[0], &[3, 0, 3, 2, 3, 1], &[1.0, 1.0, 1.0, 0.1], 2.0)
        }),
    ]
}
