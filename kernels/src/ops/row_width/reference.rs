//! Change of the row width in plain loops: the reference implementation, and the only one of the
//! host.

use super::{Resize, RowWidth};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Resize<'_, M, T> {
    type Op = RowWidth;
    type At<'a, N: Memory, U: Element> = Resize<'a, N, U>;

    fn reference<U: Real>(s: &RowWidth, Resize { x, y }: Resize<'_, Host, U>) {
        let factor = U::of(f64::from(s.factor));
        for (row, y) in y.chunks_exact_mut(s.to).enumerate() {
            let scale = if row % s.period < s.scaled { factor } else { U::ONE };
            let x = &x[row * s.from..][..s.from];
            let values = x.iter().map(|&x| scale * x).chain(std::iter::repeat(U::ZERO));
            y.iter_mut().zip(values).for_each(|(y, value)| *y = value);
        }
    }
}
