//! Relative positions in plain loops: the reference implementation.

use super::RelativePosition;
use crate::Real;

/// Calls `f(query, index among its biases, table, row of the table)` for every element of `rel`.
fn each<T: Real>(
    s: &RelativePosition,
    tables: [&[T]; 2],
    mut f: impl FnMut(usize, usize, usize, usize),
) {
    for i in 0..s.b * s.heads * s.h * s.w {
        for (table, axis) in s.axes().into_iter().enumerate() {
            let place = s.place(axis, i % (s.h * s.w));
            debug_assert_eq!(tables[table].len(), (2 * axis.len - 1) * s.d);
            (0..axis.len).for_each(|k| f(i, axis.offset + k, table, place + axis.len - 1 - k));
        }
    }
}

pub fn forward<T: Real>(s: &RelativePosition, qkv: &[T], tables: [&[T]; 2], rel: &mut [T]) {
    each(s, tables, |i, k, table, m| {
        let (q, row) = (&qkv[s.query(i)..][..s.d], &tables[table][m * s.d..][..s.d]);
        rel[i * s.width() + k] = q.iter().zip(row).map(|(&q, &r)| q * r).sum();
    });
}

pub fn backward<T: Real>(
    s: &RelativePosition,
    qkv: &[T],
    tables: [&[T]; 2],
    drel: &[T],
    mut dqkv: Option<&mut [T]>,
    mut dtables: [Option<&mut [T]>; 2],
) {
    each(s, tables, |i, k, table, m| {
        // rel = q . row
        let (g, at) = (drel[i * s.width() + k], s.query(i));
        if let Some(d) = &mut dqkv {
            let row = &tables[table][m * s.d..][..s.d];
            d[at..at + s.d].iter_mut().zip(row).for_each(|(d, &r)| *d += g * r);
        }
        if let Some(d) = &mut dtables[table] {
            let q = &qkv[at..at + s.d];
            d[m * s.d..][..s.d].iter_mut().zip(q).for_each(|(d, &q)| *d += g * q);
        }
    });
}
