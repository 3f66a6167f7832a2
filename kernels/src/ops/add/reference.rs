//! Addition and column sums in plain loops: the reference implementation.

use super::{Add, Backward, Forward, ParameterForward, cpu};
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::{Real, Write};

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Add;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Add, Forward { a, b, y }: Forward<'_, Host, U>) {
        for i in 0..s.n {
            for j in 0..s.inner {
                y[i * s.inner + j] = a[i * s.inner + j] + b[j];
            }
        }
    }

    fn fast(s: &Add, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for ParameterForward<'_, M, T> {
    type Op = Add;
    type At<'a, N: Memory, U: Element> = ParameterForward<'a, N, U>;

    fn reference<U: Real>(s: &Add, c: ParameterForward<'_, Host, U>) {
        Forward::<Host, U>::reference(s, Forward { a: c.a, b: c.b, y: c.y });
    }

    fn fast(s: &Add, c: ParameterForward<'_, Host, f32>) {
        cpu::forward(s, Forward { a: c.a, b: c.b, y: c.y });
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Add;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Add, Backward { dy, write, db }: Backward<'_, Host, U>) {
        if write == Write::Over {
            db.fill(U::ZERO);
        }
        for i in 0..s.n {
            for j in 0..s.inner {
                // y[i, j] = a[i, j] + b[j]
                db[j] += dy[i * s.inner + j];
            }
        }
    }

    fn fast(s: &Add, Backward { dy, write, db }: Backward<'_, Host, f32>) {
        if write == Write::Over {
            db.fill(0.0);
        }
        cpu::add_column_sums(s.inner, dy, db);
    }
}
