//! Attention without the matrix of all pairs in memory.
//!
//! ```text
//! s[i, j] = q[i] . k[j] / sqrt(d)                -inf where blocked[i, j]
//! p       = softmax_j(s)        out = p v        lse[i] = ln(sum_j exp(s[i, j]))
//! ```
//! Backward, per head, with `p = exp(s - lse)` formed again block by block:
//! ```text
//! dv = p^T dout        dp = dout v^T        ds = p (dp - sum_j(p dp))
//! dq = ds k / sqrt(d)                       dk = ds^T q / sqrt(d)
//! ```
//! Two forms share one core. Packed: `qkv` and `dqkv` `[b, t, 3, heads, d]`, as one linear layer
//! writes them. Separate: `q`, `out` `[b, nq, heads * d]`, `k`, `v` `[b, nk, heads * d]`, with an
//! optional `blocked` `[b, nq, nk]` of 0 and 1 that all heads share. `lse` is `[b, heads, nq]`.
//! A row that is blocked everywhere gives zeros and an `lse` of +inf, and has no gradient.
//!
//! Saved for the backward pass: the inputs and `lse`; neither the matrix nor `out`, because a
//! block of rows meets all keys at once and so finds `sum_j(p dp)` itself. Cost: `4 b heads nq nk
//! d` FLOP forward, `10 b heads nq nk d` backward, all of it in products of operands that lie in
//! cache. On a device ([`Attention::forward_gpu`]) the backward pass also reads `out` and forms the
//! scores twice, `14 b heads nq nk d` FLOP; shapes, floors and limits are in docs/kernels.md.
//! Source: spec backbones §2.3; blocked keys: spec mask2former §3.4.

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;

pub use gpu::{BLOCKED_WIDTHS, SavedGpu, WIDTHS};

use crate::{KernelError, Real, Result, check_len, f32s, f32s_mut, outline};

const OP: &str = "attention";

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Images.
    pub b: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub d: usize,
    /// Queries.
    pub nq: usize,
    /// Keys.
    pub nk: usize,
}

/// Where the rows of one head lie in a slice.
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

/// An operand and the places of its rows.
#[derive(Debug, Clone, Copy)]
struct View<'a, T> {
    x: &'a [T],
    rows: Rows,
}

impl<'a, T: Real> View<'a, T> {
    fn row(&self, s: &Attention, image: usize, head: usize, token: usize) -> &'a [T] {
        &self.x[self.rows.at(s, image, head, token)..][..s.d]
    }

    fn f32(self) -> View<'a, f32> {
        View { x: f32s(self.x), rows: self.rows }
    }
}

/// Everything an attention reads.
#[derive(Debug, Clone, Copy)]
struct Inputs<'a, T> {
    q: View<'a, T>,
    k: View<'a, T>,
    v: View<'a, T>,
    blocked: Option<&'a [u8]>,
}

impl<'a, T: Real> Inputs<'a, T> {
    fn f32(self) -> Inputs<'a, f32> {
        Inputs { q: self.q.f32(), k: self.k.f32(), v: self.v.f32(), blocked: self.blocked }
    }

    /// Row of the mask, if there is one.
    fn blocked_row(&self, s: &Attention, image: usize, i: usize) -> Option<&'a [u8]> {
        self.blocked.map(|x| &x[(image * s.nq + i) * s.nk..][..s.nk])
    }
}

impl Attention {
    /// Separate form: writes `out` and `lse`.
    ///
    /// # Errors
    /// A slice of another length than the sizes say, or heads without channels.
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

    /// Packed form, where queries and keys are the same tokens: writes `out` and `lse`.
    ///
    /// # Errors
    /// A slice of another length than the sizes say, `nq` other than `nk`, or heads without
    /// channels.
    pub fn forward_packed<T: Real>(&self, qkv: &[T], out: &mut [T], lse: &mut [T]) -> Result<()> {
        let inputs = self.packed(qkv)?;
        self.run_forward(inputs, out, lse)
    }

    /// Separate form: writes `dq`, `dk` and `dv`; each may be left out.
    ///
    /// # Errors
    /// A slice of another length than the sizes say, or heads without channels.
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
        if outline::skips_with(OP, || cpu::backward_cost(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            let d = [dq, dk, dv].map(|d| d.map(f32s_mut));
            cpu::backward(self, inputs.f32(), f32s(lse), f32s(dout), d);
        } else {
            reference::backward(self, inputs, lse, dout, [dq, dk, dv]);
        }
        Ok(())
    }

    /// Packed form: writes `dqkv`.
    ///
    /// # Errors
    /// A slice of another length than the sizes say, `nq` other than `nk`, or heads without
    /// channels.
    pub fn backward_packed<T: Real>(
        &self,
        qkv: &[T],
        lse: &[T],
        dout: &[T],
        dqkv: &mut [T],
    ) -> Result<()> {
        let inputs = self.packed(qkv)?;
        self.check_saved(lse, dout)?;
        check_len(OP, "dqkv", dqkv, qkv.len())?;
        if outline::skips_with(OP, || cpu::backward_cost(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            let dqkv = f32s_mut(dqkv);
            cpu::backward_packed(self, inputs.f32(), f32s(lse), f32s(dout), dqkv);
        } else {
            reference::backward_packed(self, inputs, lse, dout, dqkv);
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
        if outline::skips_with(OP, || cpu::forward_cost(self)) {
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

    /// Pairs of a query and a key, over all heads and images.
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
        let view = |x, n| View { x, rows: self.rows(n) };
        Ok(Inputs { q: view(q, self.nq), k: view(k, self.nk), v: view(v, self.nk), blocked })
    }

    fn packed<'a, T: Real>(&self, qkv: &'a [T]) -> Result<Inputs<'a, T>> {
        self.check_heads()?;
        if self.nq != self.nk {
            let what = format!("packed, but {} queries and {} keys", self.nq, self.nk);
            return Err(KernelError::Size { op: OP, what });
        }
        check_len(OP, "qkv", qkv, self.b * self.nq * 3 * self.width())?;
        let [q, k, v] = [0, 1, 2].map(|part| View { x: qkv, rows: self.packed_rows(part) });
        Ok(Inputs { q, k, v, blocked: None })
    }

    fn check_heads(&self) -> Result<()> {
        if self.width() > 0 {
            return Ok(());
        }
        let what = format!("{} heads of {} channels hold nothing", self.heads, self.d);
        Err(KernelError::Size { op: OP, what })
    }
}
