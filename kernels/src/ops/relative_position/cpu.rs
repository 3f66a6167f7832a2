//! Relative positions in f32: inner products of queries and table rows, split over threads.

use rayon::prelude::*;

use super::{Forward, QueryGradient, RelativePosition, TableGradients};
use crate::call::Host;
use crate::cpu::simd;
use crate::cpu::simd::madd;
use crate::dry_run::Cost;
use crate::simd;

simd! {
    /// `out[k] = q . table[last - k]`
    fn products<FMA>(q: &[f32], table: &[f32], out: &mut [f32]) {
        for (o, row) in out.iter_mut().rev().zip(table.chunks_exact(q.len())) {
            *o = simd::dot::<FMA>(q, row);
        }
    }

    /// `dq += sum_k g[k] table[last - k]`
    fn add_rows<FMA>(g: &[f32], table: &[f32], dq: &mut [f32]) {
        for (g, row) in g.iter().rev().zip(table.chunks_exact(dq.len())) {
            for (d, r) in dq.iter_mut().zip(row) {
                *d = madd::<FMA>(*g, *r, *d);
            }
        }
    }

    fn add_scaled<FMA>(g: f32, x: &[f32], to: &mut [f32]) {
        for (t, x) in to.iter_mut().zip(x) {
            *t = madd::<FMA>(g, *x, *t);
        }
    }
}

/// Cost of `times` inner products per bias.
pub fn cost(s: &RelativePosition, times: usize) -> Cost {
    Cost::products(times * s.biases() * s.d)
}

pub fn forward(s: &RelativePosition, c: Forward<'_, Host, f32>) {
    let Forward { qkv, rows, columns, rel } = c;
    rel.par_chunks_exact_mut(s.width()).enumerate().for_each(|(i, rel)| {
        let q = &qkv[s.query(i)..][..s.d];
        for (axis, table) in s.axes().into_iter().zip([rows, columns]) {
            let place = s.place(axis, i % (s.h * s.w));
            let out = &mut rel[axis.offset..][..axis.len];
            products(q, &table[place * s.d..][..axis.len * s.d], out);
        }
    });
}

pub fn query_gradient(s: &RelativePosition, c: QueryGradient<'_, Host, f32>) {
    let QueryGradient { rows, columns, drel, dqkv } = c;
    let n = s.h * s.w;
    dqkv.par_chunks_exact_mut(3 * s.heads * s.d).enumerate().for_each(|(token, d)| {
        for (head, dq) in d[..s.heads * s.d].chunks_exact_mut(s.d).enumerate() {
            let i = (token / n * s.heads + head) * n + token % n;
            for (axis, table) in s.axes().into_iter().zip([rows, columns]) {
                let place = s.place(axis, token % n);
                let g = &drel[i * s.width() + axis.offset..][..axis.len];
                add_rows(g, &table[place * s.d..][..axis.len * s.d], dq);
            }
        }
    });
}

pub fn table_gradients(s: &RelativePosition, c: TableGradients<'_, Host, f32>) {
    let TableGradients { qkv, drel, drows, dcolumns } = c;
    let n = s.h * s.w;
    for (axis, d) in s.axes().into_iter().zip([drows, dcolumns]) {
        let Some(d) = d else { continue };
        // A task owns a row of the table and handles the queries in order.
        d.par_chunks_exact_mut(s.d).enumerate().for_each(|(m, d)| {
            for i in 0..s.tokens() {
                let end = s.place(axis, i % n) + axis.len - 1;
                if end < m || end - m >= axis.len {
                    continue;
                }
                let g = drel[i * s.width() + axis.offset + end - m];
                add_scaled(g, &qkv[s.query(i)..][..s.d], d);
            }
        });
    }
}
