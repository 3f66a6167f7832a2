//! Relative positions in plain loops: the reference implementation.

use super::{Forward, QueryGradient, RelativePosition, TableGradients, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;

/// Calls `f(query, index among its biases, table, row of the table)` for every element of `rel`.
fn each(s: &RelativePosition, mut f: impl FnMut(usize, usize, usize, usize)) {
    for i in 0..s.tokens() {
        for (table, axis) in s.axes().into_iter().enumerate() {
            let place = s.place(axis, i % (s.h * s.w));
            (0..axis.len).for_each(|k| f(i, axis.offset + k, table, place + axis.len - 1 - k));
        }
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = RelativePosition;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &RelativePosition, c: Forward<'_, Host, U>) {
        let Forward { qkv, rows, columns, rel } = c;
        each(s, |i, k, table, m| {
            let (q, row) = (&qkv[s.query(i)..][..s.d], &[rows, columns][table][m * s.d..][..s.d]);
            rel[i * s.width() + k] = q.iter().zip(row).map(|(&q, &r)| q * r).sum();
        });
    }

    fn fast(s: &RelativePosition, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }

    fn cost<U: Real>(s: &RelativePosition, _c: &Forward<'_, Host, U>) -> Cost {
        cpu::cost(s, 1)
    }
}

impl<M: Memory, T: Element> Call for QueryGradient<'_, M, T> {
    type Op = RelativePosition;
    type At<'a, N: Memory, U: Element> = QueryGradient<'a, N, U>;

    fn reference<U: Real>(s: &RelativePosition, c: QueryGradient<'_, Host, U>) {
        let QueryGradient { rows, columns, drel, dqkv } = c;
        each(s, |i, k, table, m| {
            // rel = q . row
            let (g, row) = (drel[i * s.width() + k], &[rows, columns][table][m * s.d..][..s.d]);
            dqkv[s.query(i)..][..s.d].iter_mut().zip(row).for_each(|(d, &r)| *d += g * r);
        });
    }

    fn fast(s: &RelativePosition, c: QueryGradient<'_, Host, f32>) {
        cpu::query_gradient(s, c);
    }

    fn cost<U: Real>(s: &RelativePosition, _c: &QueryGradient<'_, Host, U>) -> Cost {
        cpu::cost(s, 2)
    }
}

impl<M: Memory, T: Element> Call for TableGradients<'_, M, T> {
    type Op = RelativePosition;
    type At<'a, N: Memory, U: Element> = TableGradients<'a, N, U>;

    fn reference<U: Real>(s: &RelativePosition, c: TableGradients<'_, Host, U>) {
        let TableGradients { qkv, drel, drows, dcolumns } = c;
        let mut tables = [drows, dcolumns];
        each(s, |i, k, table, m| {
            let Some(d) = &mut tables[table] else { return };
            // rel = q . row
            let (g, q) = (drel[i * s.width() + k], &qkv[s.query(i)..][..s.d]);
            d[m * s.d..][..s.d].iter_mut().zip(q).for_each(|(d, &q)| *d += g * q);
        });
    }

    fn fast(s: &RelativePosition, c: TableGradients<'_, Host, f32>) {
        cpu::table_gradients(s, c);
    }

    fn cost<U: Real>(s: &RelativePosition, _c: &TableGradients<'_, Host, U>) -> Cost {
        cpu::cost(s, 2)
    }
}
