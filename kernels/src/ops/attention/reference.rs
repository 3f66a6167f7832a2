//! Attention in plain loops: the reference implementation.

use super::{
    Attention, Backward, Forward, Inputs, PackedAttention, PackedBackward, PackedForward, cpu,
};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Attention;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Attention, c: Forward<'_, Host, U>) {
        forward(s, s.inputs([c.q, c.k, c.v], c.blocked), c.out, c.lse);
    }

    fn fast(s: &Attention, c: Forward<'_, Host, f32>) {
        cpu::forward(s, s.inputs([c.q, c.k, c.v], c.blocked), c.out, c.lse);
    }

    fn cost<U: Real>(s: &Attention, _c: &Forward<'_, Host, U>) -> Cost {
        cpu::forward_cost(s)
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Attention;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Attention, c: Backward<'_, Host, U>) {
        let inputs = s.inputs([c.q, c.k, c.v], c.blocked);
        backward(s, inputs, c.lse, c.dout, [c.dq, c.dk, c.dv], None);
    }

    fn fast(s: &Attention, c: Backward<'_, Host, f32>) {
        let inputs = s.inputs([c.q, c.k, c.v], c.blocked);
        cpu::backward(s, inputs, c.lse, c.dout, [c.dq, c.dk, c.dv]);
    }

    fn cost<U: Real>(s: &Attention, _c: &Backward<'_, Host, U>) -> Cost {
        cpu::backward_cost(s)
    }
}

impl<M: Memory, T: Element> Call for PackedForward<'_, M, T> {
    type Op = PackedAttention;
    type At<'a, N: Memory, U: Element> = PackedForward<'a, N, U>;

    fn reference<U: Real>(s: &PackedAttention, c: PackedForward<'_, Host, U>) {
        forward(&s.separate(), s.inputs(c.qkv, c.rel), c.out, c.lse);
    }

    fn fast(s: &PackedAttention, c: PackedForward<'_, Host, f32>) {
        cpu::forward(&s.separate(), s.inputs(c.qkv, c.rel), c.out, c.lse);
    }

    fn cost<U: Real>(s: &PackedAttention, _c: &PackedForward<'_, Host, U>) -> Cost {
        cpu::forward_cost(&s.separate())
    }
}

impl<M: Memory, T: Element> Call for PackedBackward<'_, M, T> {
    type Op = PackedAttention;
    type At<'a, N: Memory, U: Element> = PackedBackward<'a, N, U>;

    fn reference<U: Real>(s: &PackedAttention, c: PackedBackward<'_, Host, U>) {
        let inputs = s.inputs(c.qkv, c.rel);
        backward_packed(&s.separate(), inputs, c.lse, c.dout, c.dqkv, c.drel);
    }

    fn fast(s: &PackedAttention, c: PackedBackward<'_, Host, f32>) {
        let inputs = s.inputs(c.qkv, c.rel);
        cpu::backward_packed(&s.separate(), inputs, c.lse, c.dout, c.dqkv, c.drel);
    }

    fn cost<U: Real>(s: &PackedAttention, _c: &PackedBackward<'_, Host, U>) -> Cost {
        cpu::backward_cost(&s.separate())
    }
}

/// Scores of one query with every key; `None` where the key is blocked.
fn scores<T: Real>(
    s: &Attention,
    x: &Inputs<'_, T>,
    image: usize,
    head: usize,
    i: usize,
) -> Vec<Option<T>> {
    let scale = T::ONE / T::of(s.d as f64).sqrt();
    let (q, blocked) = (x.q.row(s, image, head, i), x.blocked_row(s, image, i));
    let relative = x.relative_row(s, image, head, i);
    let score = |j: usize| {
        let k = x.k.row(s, image, head, j);
        let score = q.iter().zip(k).map(|(&q, &k)| q * k).sum::<T>() * scale;
        relative.map_or(score, |(rows, columns)| {
            let w = columns.len();
            score + rows[j / w] + columns[j % w]
        })
    };
    (0..s.nk).map(|j| blocked.is_none_or(|b| b[j] == 0).then(|| score(j))).collect()
}

/// Calls `f(image, head, i)` for every query of every head.
fn each_query(s: &Attention, mut f: impl FnMut(usize, usize, usize)) {
    for image in 0..s.b {
        for head in 0..s.heads {
            for i in 0..s.nq {
                f(image, head, i);
            }
        }
    }
}

pub(super) fn forward<T: Real>(s: &Attention, x: Inputs<'_, T>, out: &mut [T], lse: &mut [T]) {
    out.fill(T::ZERO);
    each_query(s, |image, head, i| {
        let scores = scores(s, &x, image, head, i);
        let Some(top) = scores.iter().flatten().copied().reduce(T::max) else {
            lse[(image * s.heads + head) * s.nq + i] = T::of(f64::INFINITY);
            return;
        };
        let total: T = scores.iter().flatten().map(|&z| (z - top).exp()).sum();
        lse[(image * s.heads + head) * s.nq + i] = top + total.ln();
        let at = s.rows(s.nq).at(s, image, head, i);
        for (j, z) in scores.into_iter().enumerate() {
            let Some(z) = z else { continue };
            let p = (z - top).exp() / total;
            for (o, &v) in out[at..at + s.d].iter_mut().zip(x.v.row(s, image, head, j)) {
                *o += p * v;
            }
        }
    });
}

fn backward<T: Real>(
    s: &Attention,
    x: Inputs<'_, T>,
    lse: &[T],
    dout: &[T],
    d: [Option<&mut [T]>; 3],
    mut drel: Option<&mut [T]>,
) {
    let scale = T::ONE / T::of(s.d as f64).sqrt();
    let [mut dq, mut dk, mut dv] = d;
    let all = [dq.as_deref_mut(), dk.as_deref_mut(), dv.as_deref_mut(), drel.as_deref_mut()];
    all.into_iter().flatten().for_each(|d| d.fill(T::ZERO));
    let add = |to: &mut [T], factor: T, from: &[T]| {
        to.iter_mut().zip(from).for_each(|(t, &f)| *t += factor * f);
    };
    each_query(s, |image, head, i| {
        let query = (image * s.heads + head) * s.nq + i;
        let lse = lse[query];
        let at_q = s.rows(s.nq).at(s, image, head, i);
        let g = &dout[at_q..at_q + s.d];
        // p = exp(s - lse)
        let p: Vec<T> = scores(s, &x, image, head, i)
            .into_iter()
            .map(|z| z.map_or(T::ZERO, |z| (z - lse).exp()))
            .collect();
        // out = p v
        let dp: Vec<T> = (0..s.nk)
            .map(|j| g.iter().zip(x.v.row(s, image, head, j)).map(|(&g, &v)| g * v).sum())
            .collect();
        let mean: T = p.iter().zip(&dp).map(|(&p, &dp)| p * dp).sum();
        for j in 0..s.nk {
            let at_k = s.rows(s.nk).at(s, image, head, j);
            let ds = p[j] * (dp[j] - mean);
            if let Some(d) = &mut dv {
                add(&mut d[at_k..at_k + s.d], p[j], g);
            }
            // s = q . k / sqrt(d) + rel[y] + rel[h + x]
            if let (Some(d), Some(r)) = (&mut drel, &x.relative) {
                let ([h, w], d) = (r.grid, &mut d[query * r.len()..]);
                d[j / w] += ds;
                d[h + j % w] += ds;
            }
            if let Some(d) = &mut dq {
                add(&mut d[at_q..at_q + s.d], ds * scale, x.k.row(s, image, head, j));
            }
            if let Some(d) = &mut dk {
                add(&mut d[at_k..at_k + s.d], ds * scale, x.q.row(s, image, head, i));
            }
        }
    });
}

fn backward_packed<T: Real>(
    s: &Attention,
    x: Inputs<'_, T>,
    lse: &[T],
    dout: &[T],
    dqkv: &mut [T],
    drel: Option<&mut [T]>,
) {
    let mut parts = [0, 1, 2].map(|_| vec![T::ZERO; dout.len()]);
    let [dq, dk, dv] = &mut parts;
    backward(s, x, lse, dout, [Some(dq), Some(dk), Some(dv)], drel);
    dqkv.copy_from_slice(&interleave(s, parts.each_ref().map(|part| &part[..])));
}

/// Packs queries, keys and values, or their gradients.
pub(super) fn interleave<T: Copy>(s: &Attention, parts: [&[T]; 3]) -> Vec<T> {
    let c = s.width();
    let token = |t: usize| parts.into_iter().flat_map(move |part| &part[t * c..(t + 1) * c]);
    (0..s.b * s.nq).flat_map(token).copied().collect()
}
