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
//! device ([`Attention::forward_gpu`]) the backward pass also reads `out` and computes the scores
//! twice: `14 b heads nq nk d` FLOP. docs/kernels.md has the shapes, floors and limits.
//! Source: spec backbones §2.3; relative positions: §4.5; blocked keys: spec mask2former §3.4.

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;
mod verify_bounds;

pub use gpu::{SavedGpu, WIDTHS};

use crate::{KernelError, Real, Result, check_count, check_len, dry_run, f32s, f32s_mut};

const OP: &str = "attention";

/// Sizes of an attention.
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

    fn f32(self) -> HeadView<'a, f32> {
        HeadView { x: f32s(self.x), rows: self.rows }
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
    fn f32(self) -> Inputs<'a, f32> {
        let relative = self.relative.map(|r| Relative { rel: f32s(r.rel), grid: r.grid });
        let (q, k, v) = (self.q.f32(), self.k.f32(), self.v.f32());
        Inputs { q, k, v, blocked: self.blocked, relative }
    }

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
    /// Writes `out` and `lse` in the separate form.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, or heads without channels.
    pub fn forward<T: Real>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        blocked: Option<&[u8]>,
        out: &mut [T],
        lse: &mut [T],
    ) -> Result<()> {
        let inputs = self.separate(q, k, v, blocked)?;
        self.run_forward(inputs, out, lse)
    }

    /// Writes `out` and `lse` in the packed form, where queries and keys are the same tokens.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, `nq` other than `nk`, or heads without
    /// channels.
    pub fn forward_packed<T: Real>(&self, qkv: &[T], out: &mut [T], lse: &mut [T]) -> Result<()> {
        let inputs = self.packed(qkv)?;
        self.run_forward(inputs, out, lse)
    }

    /// Writes `out` and `lse` in the packed form with relative positions.
    ///
    /// `rel` is `[b, heads, t, h + w]`; the tokens form a grid `[h, w]`.
    ///
    /// # Errors
    /// As [`Attention::forward_packed`]; a grid whose size differs from the number of tokens.
    pub fn forward_relative<T: Real>(
        &self,
        qkv: &[T],
        rel: &[T],
        grid: [usize; 2],
        out: &mut [T],
        lse: &mut [T],
    ) -> Result<()> {
        self.run_forward(self.with_relative(qkv, rel, grid)?, out, lse)
    }

    /// Writes `dq`, `dk` and `dv` in the separate form; each is optional.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, or heads without channels.
    pub fn backward<T: Real>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        blocked: Option<&[u8]>,
        lse: &[T],
        dout: &[T],
        dq: Option<&mut [T]>,
        dk: Option<&mut [T]>,
        dv: Option<&mut [T]>,
    ) -> Result<()> {
        let inputs = self.separate(q, k, v, blocked)?;
        self.check_saved(lse, dout)?;
        for (name, d, n) in [("dq", &dq, self.nq), ("dk", &dk, self.nk), ("dv", &dv, self.nk)] {
            if let Some(d) = d {
                check_len(OP, name, d, self.b * n * self.width())?;
            }
        }
        if dry_run::skip_with(OP, || cpu::backward_cost(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            let d = [dq, dk, dv].map(|d| d.map(f32s_mut));
            cpu::backward(self, inputs.f32(), f32s(lse), f32s(dout), d);
        } else {
            reference::backward(self, inputs, lse, dout, [dq, dk, dv], None);
        }
        Ok(())
    }

    /// Writes `dqkv` in the packed form.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, `nq` other than `nk`, or heads without
    /// channels.
    pub fn backward_packed<T: Real>(
        &self,
        qkv: &[T],
        lse: &[T],
        dout: &[T],
        dqkv: &mut [T],
    ) -> Result<()> {
        self.run_packed(self.packed(qkv)?, qkv.len(), lse, dout, dqkv, None)
    }

    /// Writes `dqkv` and `drel` in the packed form with relative positions.
    ///
    /// # Errors
    /// As [`Attention::forward_relative`].
    pub fn backward_relative<T: Real>(
        &self,
        qkv: &[T],
        rel: &[T],
        grid: [usize; 2],
        lse: &[T],
        dout: &[T],
        dqkv: &mut [T],
        drel: &mut [T],
    ) -> Result<()> {
        let inputs = self.with_relative(qkv, rel, grid)?;
        check_len(OP, "drel", drel, rel.len())?;
        self.run_packed(inputs, qkv.len(), lse, dout, dqkv, Some(drel))
    }

    fn run_packed<T: Real>(
        &self,
        inputs: Inputs<'_, T>,
        len: usize,
        lse: &[T],
        dout: &[T],
        dqkv: &mut [T],
        drel: Option<&mut [T]>,
    ) -> Result<()> {
        self.check_saved(lse, dout)?;
        check_len(OP, "dqkv", dqkv, len)?;
        if dry_run::skip_with(OP, || cpu::backward_cost(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            let (dqkv, drel) = (f32s_mut(dqkv), drel.map(f32s_mut));
            cpu::backward_packed(self, inputs.f32(), f32s(lse), f32s(dout), dqkv, drel);
        } else {
            reference::backward_packed(self, inputs, lse, dout, dqkv, drel);
        }
        Ok(())
    }

    fn run_forward<T: Real>(
        &self,
        inputs: Inputs<'_, T>,
        out: &mut [T],
        lse: &mut [T],
    ) -> Result<()> {
        check_len(OP, "out", out, self.b * self.nq * self.width())?;
        check_len(OP, "lse", lse, self.b * self.heads * self.nq)?;
        if dry_run::skip_with(OP, || cpu::forward_cost(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, inputs.f32(), f32s_mut(out), f32s_mut(lse));
        } else {
            reference::forward(self, inputs, out, lse);
        }
        Ok(())
    }

    fn check_saved<T: Real>(&self, lse: &[T], dout: &[T]) -> Result<()> {
        check_len(OP, "lse", lse, self.b * self.heads * self.nq)?;
        check_len(OP, "dout", dout, self.b * self.nq * self.width())
    }

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

    fn separate<'a, T: Real>(
        &self,
        q: &'a [T],
        k: &'a [T],
        v: &'a [T],
        blocked: Option<&'a [u8]>,
    ) -> Result<Inputs<'a, T>> {
        self.check_heads()?;
        check_len(OP, "q", q, self.b * self.nq * self.width())?;
        check_len(OP, "k", k, self.b * self.nk * self.width())?;
        check_len(OP, "v", v, self.b * self.nk * self.width())?;
        if let Some(blocked) = blocked {
            check_len(OP, "blocked", blocked, self.b * self.nq * self.nk)?;
        }
        let view = |x, n| HeadView { x, rows: self.rows(n) };
        Ok(Inputs {
            q: view(q, self.nq),
            k: view(k, self.nk),
            v: view(v, self.nk),
            blocked,
            relative: None,
        })
    }

    fn packed<'a, T: Real>(&self, qkv: &'a [T]) -> Result<Inputs<'a, T>> {
        self.check_heads()?;
        if self.nq != self.nk {
            let what = format!("packed form with {} queries and {} keys", self.nq, self.nk);
            return Err(KernelError::Size { op: OP, what });
        }
        check_len(OP, "qkv", qkv, self.b * self.nq * 3 * self.width())?;
        let [q, k, v] = [0, 1, 2].map(|part| HeadView { x: qkv, rows: self.packed_rows(part) });
        Ok(Inputs { q, k, v, blocked: None, relative: None })
    }

    fn with_relative<'a, T: Real>(
        &self,
        qkv: &'a [T],
        rel: &'a [T],
        grid: [usize; 2],
    ) -> Result<Inputs<'a, T>> {
        self.check_grid(rel.len(), grid)?;
        Ok(Inputs { relative: Some(Relative { rel, grid }), ..self.packed(qkv)? })
    }

    fn check_grid(&self, rel: usize, [h, w]: [usize; 2]) -> Result<()> {
        if h.checked_mul(w) != Some(self.nk) {
            let what = format!("{} tokens are not a grid of {h} rows of {w}", self.nk);
            return Err(KernelError::Size { op: OP, what });
        }
        check_count(OP, "rel", rel, self.b * self.heads * self.nq * (h + w))
    }

    fn check_heads(&self) -> Result<()> {
        if self.width() > 0 {
            return Ok(());
        }
        let what = format!("{} heads of {} channels are empty", self.heads, self.d);
        Err(KernelError::Size { op: OP, what })
    }
}
