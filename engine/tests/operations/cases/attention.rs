//! Attention of all kinds, rotary and relative positions, Rein.

use dressage_engine::{DType, Result, Tensor, ops};
use dressage_kernels::ops::rotary::{self, Pairs};

use super::{Case, case, exact, like, on_host};

pub fn all() -> Vec<Case> {
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
            ops::attention(&x[0], &x[1], &x[2], 2, Some(&flags(&x[0], &blocked, [1, 3, 4])?))
        }),
        case("attention, keys blocked, 64 channels", ONE_HEAD, 3.0, |x| {
            let blocked = [0u8, 1, 0, 0, 0, 1, 1, 0, 0];
            ops::attention(&x[0], &x[1], &x[2], 1, Some(&flags(&x[0], &blocked, [1, 3, 3])?))
        }),
        // Rotated, rounded and then used in attention: a shared operand and an unshared one.
        case("rotary", &[&[2, 5, 3, 2, 32]], 4.0, |x| {
            let table = like(&x[0], &rotary::table([2, 2], 16, 32)?, &[4, 16, 2])?;
            let y = ops::rotary(x[0].clone(), &table, 1, Pairs::Neighbours)?;
            ops::self_attention(&ops::rotary(y, &table, 1, Pairs::Halves)?)
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
        exact("token_link", &[&[3, 4, 8]], 1.0, |x| ops::token_link(&x[0])),
        // Widths that fill no vector.
        on_host("self_attention, heads of 4", &[&[2, 5, 3, 2, 4]], |x| ops::self_attention(&x[0])),
        on_host("attention, heads of 3", &[&[2, 3, 6], &[2, 5, 6], &[2, 5, 6]], |x| {
            ops::attention(&x[0], &x[1], &x[2], 2, None)
        }),
        on_host(
            "attention, keys blocked, heads of 2",
            &[&[1, 3, 4], &[1, 4, 4], &[1, 4, 4]],
            |x| {
                let blocked = [0u8, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0];
                ops::attention(&x[0], &x[1], &x[2], 2, Some(&flags(&x[0], &blocked, [1, 3, 4])?))
            },
        ),
        on_host("ms_deform_attn, 3 channels", DEFORM_3, |x| {
            ops::ms_deform_attn(&x[0], &x[1], &x[2], &[(1, 2), (2, 4)])
        }),
        on_host("rotary, heads of 4", &[&[2, 5, 3, 2, 4]], |x| {
            let table = like(&x[0], &rotary::table([2, 2], 16, 4)?, &[4, 2, 2])?;
            let y = ops::rotary(x[0].clone(), &table, 1, Pairs::Neighbours)?;
            ops::self_attention(&ops::rotary(y, &table, 1, Pairs::Halves)?)
        }),
        on_host("relative_position, heads of 4", RELATIVE_4, |x| {
            ops::relative_position(&x[0], &x[1], &x[2], [3, 2])
        }),
        on_host("relative attention, heads of 4", RELATIVE_4, |x| {
            let rel = ops::relative_position(&x[0], &x[1], &x[2], [3, 2])?;
            ops::relative_attention(&x[0], &rel, [3, 2])
        }),
        on_host("rein, 6 channels", REIN_6, |x| rein(x, true)),
        on_host("rein, 6 channels, no softmax", REIN_6, |x| rein(x, false)),
        on_host("token_link, 5 channels", &[&[3, 4, 5]], |x| ops::token_link(&x[0])),
    ]
}

/// Queries, keys and values of one head of 64 channels.
const ONE_HEAD: &[&[usize]] = &[&[1, 3, 64], &[1, 3, 64], &[1, 3, 64]];

/// Features with one class row, five tokens, their values, W_f, b_f, scale.
const REIN: &[&[usize]] = &[&[2, 1 + 4, 64], &[5, 64], &[4, 64], &[64, 64], &[64], &[]];

/// [`REIN`] with a number of channels that has no kernel.
const REIN_48: &[&[usize]] = &[&[2, 1 + 4, 48], &[5, 48], &[4, 48], &[48, 48], &[48], &[]];

/// As [`REIN`], of channels that fill no vector.
const REIN_6: &[&[usize]] = &[&[2, 1 + 4, 6], &[5, 6], &[4, 6], &[6, 6], &[6], &[]];

/// Queries, keys and values of heads of four channels, and the tables of both axes.
const RELATIVE_4: &[&[usize]] = &[&[2, 6, 3, 2, 4], &[5, 4], &[3, 4]];

/// Values of three channels, offsets, weights.
const DEFORM_3: &[&[usize]] = &[&[1, 10, 2, 3], &[1, 10, 2, 2, 2, 2], &[1, 10, 2, 4]];

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

/// Flags of blocked keys where `x` is stored.
fn flags(x: &Tensor, blocked: &[u8], shape: [usize; 3]) -> Result<Tensor> {
    let flags = Tensor::from_slice(blocked, &shape)?;
    match x.device() {
        Some(device) => flags.to_device(device, DType::U8),
        None => Ok(flags),
    }
}
