//! Selection of rows in plain loops: the reference implementation, and all that the host needs.

use super::{Backward, Forward, GatherRows};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl GatherRows {
    /// Row of an index; `None` for padding.
    fn row(&self, index: i32) -> Option<usize> {
        usize::try_from(index).ok().filter(|&row| row < self.n)
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = GatherRows;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &GatherRows, Forward { x, indices, y }: Forward<'_, Host, U>) {
        for (y, &index) in y.chunks_exact_mut(s.c).zip(indices) {
            match s.row(index) {
                Some(row) => y.copy_from_slice(&x[row * s.c..][..s.c]),
                None => y.fill(U::ZERO),
            }
        }
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = GatherRows;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &GatherRows, Backward { indices, dy, dx }: Backward<'_, Host, U>) {
        dx.fill(U::ZERO);
        for (dy, &index) in dy.chunks_exact(s.c).zip(indices) {
            if let Some(row) = s.row(index) {
                dx[row * s.c..][..s.c].iter_mut().zip(dy).for_each(|(d, g)| *d += *g);
            }
        }
    }
}
