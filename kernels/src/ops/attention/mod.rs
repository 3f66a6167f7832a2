//! Attention that never stores the matrix of all scores.
//!
//! ```text
//! s[i, j] = q[i] . k[j] / sqrt(d)                -inf where blocked[i, j]
//! p       = softmax_j(s)        out = p v        lse[i] = ln(sum_j exp(s[i, j]))
//! ```
//! Backward, per head, with `p = exp(s - lse)` recomputed block by block:
//! ```text
//! dv = p^T dout        dp = dout v^T        ds = p (dp - sum_j(p dp))
//! dq = ds k / sqrt(d)                       dk = ds^T q / sqrt(d)
//! ```
//! Two forms share one core. Packed: `qkv` and `dqkv` `[b, t, 3, heads, d]`, as written by one
//! linear layer. Separate: `q`, `out` `[b, nq, heads * d]`, `k`, `v` `[b, nk, heads * d]`, with an
//! optional mask `blocked` `[b, nq, nk]` of 0 and 1 that all heads share. `lse` is `[b, heads,
//! nq]`.
//!
//! Relative positions apply to packed tokens that are the cells of a grid `[h, w]` row by row.
//! `rel` `[b, heads, t, h + w]` holds one bias per grid row and one per grid column, added to the
//! scores of their keys: `s[i, (y, x)] += rel[i, y] + rel[i, h + x]` (`relative_position` computes
//! it). Its gradient is the sum of `ds` over a row or a column:
//! ```text
//! drel[i, y] = sum_x ds[i, (y, x)]        drel[i, h + x] = sum_y ds[i, (y, x)]
//! ```
//! A query with all keys blocked gives zeros and an `lse` of +inf, and has no gradient.
//!
//! Saved for the backward pass: the inputs and `lse`. Neither the matrix nor `out` is saved: a
//! block of rows sees all keys at once and computes `sum_j(p dp)` itself. Cost: `4 b heads nq nk d`
//! FLOP forward, `10 b heads nq nk d` backward, all in products whose operands are in cache. On a
//! device the backward pass also reads `out` and computes the scores
//! twice: `14 b heads nq nk d` FLOP. docs/kernels.md has the shapes, floors and limits.
//! Source: spec backbones §2.3; relative positions: §4.5; blocked keys: spec mask2former §3.4.

mod bounds;
pub(crate) mod checks;
mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;

pub use gpu::WIDTHS;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Real, Result, Write};

/// Sizes of the separate form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Images.
    pub b: usize,
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub d: usize,
    /// Queries.
    pub nq: usize,
    /// Keys.
    pub nk: usize,
    /// Whether there is a mask of blocked keys.
    pub masked: bool,
}

/// Sizes of the packed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedAttention {
    /// Images.
    pub b: usize,
    /// Tokens: queries and keys.
    pub t: usize,
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub d: usize,
    /// Rows and columns of the grid of tokens, if there are relative positions.
    pub grid: Option<[usize; 2]>,
}

impl Operation for Attention {
    const NAME: &'static str = "attention";

    fn check(&self) -> Result<()> {
        if self.width() > 0 {
            return Ok(());
        }
        let what = format!("{} heads of {} channels are empty", self.heads, self.d);
        Err(KernelError::Size { op: Self::NAME, what })
    }
}

impl Operation for PackedAttention {
    const NAME: &'static str = Attention::NAME;

    fn check(&self) -> Result<()> {
        if let Some([h, w]) = self.grid
            && h.checked_mul(w) != Some(self.t)
        {
            let what = format!("{} tokens are not a grid of {h} rows of {w}", self.t);
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        self.separate().check()
    }
}

/// Call that writes `out` and `lse`. On a device, here and in all others, `d` is one of [`WIDTHS`],
/// and `q`, `k` and `v` begin at multiples of 16 bytes.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Queries, `[b, nq, heads * d]`.
    pub q: M::In<'a, T>,
    /// Keys, `[b, nk, heads * d]`.
    pub k: M::In<'a, T>,
    /// Values, `[b, nk, heads * d]`.
    pub v: M::In<'a, T>,
    /// Mask, `[b, nq, nk]`, 1 where a key is blocked.
    pub blocked: Option<M::In<'a, u8>>,
    /// Result, `[b, nq, heads * d]`.
    pub out: M::Out<'a, T>,
    /// Log-sum-exp of each row, `[b, heads, nq]`.
    pub lse: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Attention;

    fn list(&mut self, s: &Attention, w: &mut impl Walk<'a, M>) {
        w.reads("q", &mut self.q, s.queries());
        w.reads("k", &mut self.k, s.keys());
        w.reads("v", &mut self.v, s.keys());
        list_mask(s, &mut self.blocked, w);
        w.writes("out", &mut self.out, s.queries());
        w.writes("lse", &mut self.lse, s.rows_of_scores());
    }
}

/// Lists the mask; one without need is refused.
fn list_mask<'a, M: Memory>(
    s: &Attention,
    blocked: &mut Option<M::In<'a, u8>>,
    w: &mut impl Walk<'a, M>,
) {
    if s.masked || blocked.is_some() {
        let len = if s.masked { s.b * s.nq * s.nk } else { 0 };
        w.reads("blocked", blocked.get_or_insert_default(), len);
    }
}

/// Call that writes `dq`, `dk` and `dv`; each is optional.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Queries, `[b, nq, heads * d]`.
    pub q: M::In<'a, T>,
    /// Keys, `[b, nk, heads * d]`.
    pub k: M::In<'a, T>,
    /// Values, `[b, nk, heads * d]`.
    pub v: M::In<'a, T>,
    /// Mask, `[b, nq, nk]`, 1 where a key is blocked.
    pub blocked: Option<M::In<'a, u8>>,
    /// Result of the forward pass, `[b, nq, heads * d]`; read only on a device.
    pub out: Option<M::In<'a, T>>,
    /// Log-sum-exp of each row, `[b, heads, nq]`.
    pub lse: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[b, nq, heads * d]`.
    pub dout: M::In<'a, T>,
    /// Gradient of `q`, `[b, nq, heads * d]`.
    pub dq: Option<M::Out<'a, T>>,
    /// Gradient of `k`, `[b, nk, heads * d]`.
    pub dk: Option<M::Out<'a, T>>,
    /// Gradient of `v`, `[b, nk, heads * d]`.
    pub dv: Option<M::Out<'a, T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Attention;

    fn list(&mut self, s: &Attention, w: &mut impl Walk<'a, M>) {
        w.reads("q", &mut self.q, s.queries());
        w.reads("k", &mut self.k, s.keys());
        w.reads("v", &mut self.v, s.keys());
        list_mask(s, &mut self.blocked, w);
        if M::ON_DEVICE {
            w.reads("out", self.out.get_or_insert_default(), s.queries());
        }
        w.reads("lse", &mut self.lse, s.rows_of_scores());
        w.reads("dout", &mut self.dout, s.queries());
        w.stores_if("dq", &mut self.dq, s.queries(), Write::Over);
        w.stores_if("dk", &mut self.dk, s.keys(), Write::Over);
        w.stores_if("dv", &mut self.dv, s.keys(), Write::Over);
    }
}

/// Call that writes `out` and `lse` in the packed form.
#[derive(Default)]
pub struct PackedForward<'a, M: Memory, T: Element> {
    /// Relative positions, `[b, heads, t, h + w]`, if there is a grid; on a device `d` is then 80.
    pub rel: Option<M::In<'a, T>>,
    /// Queries, keys and values, `[b, t, 3, heads, d]`.
    pub qkv: M::In<'a, T>,
    /// Result, `[b, t, heads * d]`.
    pub out: M::Out<'a, T>,
    /// Log-sum-exp of each row, `[b, heads, t]`.
    pub lse: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for PackedForward<'a, M, T> {
    type Op = PackedAttention;

    fn list(&mut self, s: &PackedAttention, w: &mut impl Walk<'a, M>) {
        if s.grid.is_some() || self.rel.is_some() {
            w.reads("rel", self.rel.get_or_insert_default(), s.biases());
        }
        let core = s.separate();
        w.reads("qkv", &mut self.qkv, 3 * core.queries());
        w.writes("out", &mut self.out, core.queries());
        w.writes("lse", &mut self.lse, core.rows_of_scores());
    }
}

/// Call that writes `dqkv` and, if there is a grid, `drel`.
#[derive(Default)]
pub struct PackedBackward<'a, M: Memory, T: Element> {
    /// Relative positions, `[b, heads, t, h + w]`, if there is a grid.
    pub rel: Option<M::In<'a, T>>,
    /// Queries, keys and values, `[b, t, 3, heads, d]`.
    pub qkv: M::In<'a, T>,
    /// Result of the forward pass, `[b, t, heads * d]`; read only on a device.
    pub out: Option<M::In<'a, T>>,
    /// Log-sum-exp of each row, `[b, heads, t]`.
    pub lse: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[b, t, heads * d]`.
    pub dout: M::In<'a, T>,
    /// Gradient of `qkv`, `[b, t, 3, heads, d]`.
    pub dqkv: M::Out<'a, T>,
    /// Gradient of `rel`, `[b, heads, t, h + w]`.
    pub drel: Option<M::Out<'a, T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for PackedBackward<'a, M, T> {
    type Op = PackedAttention;

    fn list(&mut self, s: &PackedAttention, w: &mut impl Walk<'a, M>) {
        if s.grid.is_some() || self.rel.is_some() {
            w.reads("rel", self.rel.get_or_insert_default(), s.biases());
        }
        let core = s.separate();
        w.reads("qkv", &mut self.qkv, 3 * core.queries());
        if M::ON_DEVICE {
            w.reads("out", self.out.get_or_insert_default(), core.queries());
        }
        w.reads("lse", &mut self.lse, core.rows_of_scores());
        w.reads("dout", &mut self.dout, core.queries());
        w.writes("dqkv", &mut self.dqkv, 3 * core.queries());
        if s.grid.is_some() || self.drel.is_some() {
            w.writes("drel", self.drel.get_or_insert_default(), s.biases());
        }
    }
}

/// Location of the rows of one head in a slice.
#[derive(Debug, Clone, Copy)]
struct Rows {
    start: usize,
    image: usize,
    token: usize,
}

impl Rows {
    /// First element of a row.
    fn at(&self, s: &Attention, image: usize, head: usize, token: usize) -> usize {
        self.start + image * self.image + token * self.token + head * s.d
    }
}

/// Operand and the location of its rows.
#[derive(Debug, Clone, Copy)]
struct HeadView<'a, T> {
    x: &'a [T],
    rows: Rows,
}

impl<'a, T: Real> HeadView<'a, T> {
    fn row(&self, s: &Attention, image: usize, head: usize, token: usize) -> &'a [T] {
        &self.x[self.rows.at(s, image, head, token)..][..s.d]
    }
}

/// Inputs of an attention.
#[derive(Debug, Clone, Copy)]
struct Inputs<'a, T> {
    q: HeadView<'a, T>,
    k: HeadView<'a, T>,
    v: HeadView<'a, T>,
    blocked: Option<&'a [u8]>,
    relative: Option<Relative<'a, T>>,
}

/// Biases of relative positions, and the grid of the keys.
#[derive(Debug, Clone, Copy)]
struct Relative<'a, T> {
    rel: &'a [T],
    grid: [usize; 2],
}

impl<'a, T: Real> Relative<'a, T> {
    /// Biases per query.
    fn len(&self) -> usize {
        self.grid[0] + self.grid[1]
    }

    /// Biases of the query with this index in `[b, heads, t]`: those of the rows and of the
    /// columns.
    fn row(&self, query: usize) -> (&'a [T], &'a [T]) {
        self.rel[query * self.len()..][..self.len()].split_at(self.grid[0])
    }
}

impl<'a, T: Real> Inputs<'a, T> {
    /// Relative positions of a query, if used.
    fn relative_row(
        &self,
        s: &Attention,
        image: usize,
        head: usize,
        i: usize,
    ) -> Option<(&'a [T], &'a [T])> {
        self.relative.map(|r| r.row((image * s.heads + head) * s.nq + i))
    }

    /// Row of the mask, if used.
    fn blocked_row(&self, s: &Attention, image: usize, i: usize) -> Option<&'a [u8]> {
        self.blocked.map(|x| &x[(image * s.nq + i) * s.nk..][..s.nk])
    }
}

impl Attention {
    /// Number of pairs of a query and a key, over all heads and images.
    fn scores(&self) -> usize {
        self.b * self.heads * self.nq * self.nk
    }

    /// Channels of all heads.
    fn width(&self) -> usize {
        self.heads * self.d
    }

    /// Rows of a slice `[b, n, heads * d]`.
    fn rows(&self, n: usize) -> Rows {
        Rows { start: 0, image: n * self.width(), token: self.width() }
    }

    /// Rows of the `part`-th third of `[b, t, 3, heads, d]`.
    fn packed_rows(&self, part: usize) -> Rows {
        let c = self.width();
        Rows { start: part * c, image: self.nq * 3 * c, token: 3 * c }
    }

    /// Elements of `q`.
    fn queries(&self) -> usize {
        self.b * self.nq * self.width()
    }

    /// Elements of `k`.
    fn keys(&self) -> usize {
        self.b * self.nk * self.width()
    }

    /// Rows of scores: queries of all heads and images.
    fn rows_of_scores(&self) -> usize {
        self.b * self.heads * self.nq
    }

    fn inputs<'a, T: Real>(
        &self,
        [q, k, v]: [&'a [T]; 3],
        blocked: Option<&'a [u8]>,
    ) -> Inputs<'a, T> {
        let view = |x, n| HeadView { x, rows: self.rows(n) };
        let (q, k, v) = (view(q, self.nq), view(k, self.nk), view(v, self.nk));
        Inputs { q, k, v, blocked, relative: None }
    }
}

impl PackedAttention {
    /// The sizes of the separate form.
    fn separate(&self) -> Attention {
        let PackedAttention { b, t, heads, d, .. } = *self;
        Attention { b, heads, d, nq: t, nk: t, masked: false }
    }

    /// Elements of `rel`.
    fn biases(&self) -> usize {
        self.grid.map_or(0, |[h, w]| self.b * self.heads * self.t * (h + w))
    }

    fn inputs<'a, T: Real>(&self, qkv: &'a [T], rel: Option<&'a [T]>) -> Inputs<'a, T> {
        let s = self.separate();
        let [q, k, v] = [0, 1, 2].map(|part| HeadView { x: qkv, rows: s.packed_rows(part) });
        let relative = rel.zip(self.grid).map(|(rel, grid)| Relative { rel, grid });
        Inputs { q, k, v, blocked: None, relative }
    }
}
