//! Token link: the queries of all layers combined into one vector per token.
//!
//! ```text
//! out[i, 3 k]     = max over layers of q[:, i, k]
//! out[i, 3 k + 1] = mean over layers
//! out[i, 3 k + 2] = the last layer
//! ```
//! Backward: the gradient of the maximum goes to the first maximal layer, that of the mean to all
//! layers in equal parts, that of the last layer to the last layer.
//! Shapes: `q`, `dq` `[layers, m, c]`; `out`, `dout` `[m, 3 c]`, interleaved as the released merge
//! weights require. Saved for the backward pass: `q`. Cost: one read of `q`; it takes a few
//! microseconds per step, so all types share one implementation.
//!
//! On a GPU: one thread per element of `[m, c]` loops over the layers. 24 layers of 100 x 256 in
//! bf16 and their vectors are 1.4 MB, 0.3 us at 4.3 TB/s, twice that backward, so the launch
//! dominates.
//!
//! Source: Rein, eq. 9-10; spec backbones §5.1, peft-and-dgss §1.

mod checks;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Sizes of a token link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLink {
    /// Layers.
    pub layers: usize,
    /// Tokens per layer.
    pub m: usize,
    /// Channels per query.
    pub c: usize,
}

impl Operation for TokenLink {
    const NAME: &'static str = "token_link";

    fn check(&self) -> Result<()> {
        if self.layers == 0 {
            let what = "there are no layers".to_owned();
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        Ok(())
    }
}

/// Call that writes `out`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Queries of all layers, `[layers, m, c]`.
    pub q: M::In<'a, T>,
    /// Result, `[m, 3 c]`.
    pub out: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = TokenLink;

    fn list(&mut self, s: &TokenLink, w: &mut impl Walk<'a, M>) {
        w.reads("q", &mut self.q, s.layers * s.m * s.c);
        w.writes("out", &mut self.out, 3 * s.m * s.c);
    }
}

/// Call that writes `dq`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Queries of all layers, `[layers, m, c]`.
    pub q: M::In<'a, T>,
    /// Incoming gradient, `[m, 3 c]`.
    pub dout: M::In<'a, T>,
    /// Gradient of `q`, `[layers, m, c]`.
    pub dq: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = TokenLink;

    fn list(&mut self, s: &TokenLink, w: &mut impl Walk<'a, M>) {
        w.reads("q", &mut self.q, s.layers * s.m * s.c);
        w.reads("dout", &mut self.dout, 3 * s.m * s.c);
        w.writes("dq", &mut self.dq, s.layers * s.m * s.c);
    }
}
