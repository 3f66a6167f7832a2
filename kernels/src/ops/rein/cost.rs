//! Cost of both passes: arithmetic, and the scratch memory of a call and of each of its tasks.

use super::Rein;
use super::cpu::{ROWS, block_count};
use crate::cpu::tile::{PANEL, ROW_STEP, padded};
use crate::dry_run::Cost;

/// Requested gradients.
#[derive(Clone, Copy)]
pub struct Wants {
    pub df: bool,
    pub tokens: bool,
    pub values: bool,
    pub weight: bool,
    pub scale: bool,
}

impl Wants {
    const ALL: Wants = Wants { df: true, tokens: true, values: true, weight: true, scale: true };
}

/// Multiply-adds of a product with W_f, and of one with T or V.
fn products(s: &Rein) -> [usize; 2] {
    [s.b * s.n * s.c * s.c, s.b * s.n * s.m * s.c]
}

/// Cost of the forward pass: one product with W_f, one each with T and V.
pub fn forward(s: &Rein) -> Cost {
    let ([square, narrow], task) = (products(s), forward_task(s, ROWS).iter().sum());
    Cost { call: forward_call(s).iter().sum(), task, ..Cost::products(square + 2 * narrow) }
}

/// Scratch sizes of a forward call: packed tokens, values, weight.
pub(crate) fn forward_call(s: &Rein) -> [usize; 3] {
    let (cp, mp) = (padded(s.c), padded(s.m));
    [s.c * mp, (s.m - 1) * cp, s.c * cp]
}

/// Scratch sizes of a forward task: features, weights and result of a block of `rows` rows.
pub(crate) fn forward_task(s: &Rein, rows: usize) -> [usize; 3] {
    let (cp, mp) = (padded(s.c), padded(s.m));
    [rows * cp, rows * mp, rows * cp]
}

/// Cost of the backward pass with all gradients: it recomputes the products with T and V and adds
/// two with W_f and four with T and V.
pub fn backward(s: &Rein) -> Cost {
    let sums = sums_task(PANEL, HEIGHT).iter().sum();
    let task = backward_task(s, ROWS).iter().sum::<usize>().max(sums);
    let ([square, narrow], call) = (products(s), backward_call(s, Wants::ALL).iter().sum());
    Cost { call, task, ..Cost::products(2 * square + 6 * narrow) }
}

/// Scratch sizes of a backward call: packed tokens, values and weight; values and tokens as packed
/// for the backward pass; the inputs of the sums over patches (features, gradients, weights, score
/// gradients); and the contribution of each block to the gradient of the scale.
pub(crate) fn backward_call(s: &Rein, wants: Wants) -> [usize; 10] {
    let (c, cp, mp, blocks) = (s.c, padded(s.c), padded(s.m), block_count(s));
    let if_wanted = |yes: bool, len: usize| if yes { len } else { 0 };
    let (wide, narrow) = (blocks * ROWS * cp, blocks * ROWS * mp);
    [
        c * mp,
        (s.m - 1) * cp,
        c * cp,
        c * padded(s.m - 1),
        s.m * cp,
        if_wanted(wants.weight, wide),
        if_wanted(wants.values, wide),
        if_wanted(wants.values, narrow),
        if_wanted(wants.tokens, narrow),
        if_wanted(wants.scale, blocks),
    ]
}

/// Scratch sizes of a backward task: features, weights, gradients and score gradients of a block of
/// `rows` rows.
pub(crate) fn backward_task(s: &Rein, rows: usize) -> [usize; 6] {
    let (cp, mp, vp) = (padded(s.c), padded(s.m), padded(s.m - 1));
    [rows * cp, rows * mp, rows * cp, rows * cp, rows * vp, rows * mp]
}

/// Rows of a sum over patches per task: with as many columns they stay in the L1 cache.
pub const HEIGHT: usize = 64;

/// Scratch sizes of `n` by `h` sums: columns of both operands, the packed right one, and the sum.
pub(crate) fn sums_task(n: usize, h: usize) -> [usize; 4] {
    let (np, hp) = (padded(n), h.next_multiple_of(ROW_STEP));
    [ROWS * hp, ROWS * n, ROWS * np, hp * np]
}
