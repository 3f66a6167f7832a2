//! Draws one after the other, and rows over threads in f32.

use rayon::prelude::*;

use super::{Fill, Philox, Uniform};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

/// Draws row `i` of all rows of all streams.
fn draw<U: Real>(s: &Uniform, step: u32, rows: Option<&[i32]>, i: usize, out: &mut [U]) {
    let (stream, i) = (i / s.rows, i % s.rows);
    let row = rows.map_or(i as i64, |rows| i64::from(rows[i]));
    let Ok(row) = u64::try_from(row) else {
        out.fill(U::ZERO);
        return;
    };
    let mut r = Philox::new(s.seed, s.purpose, s.first + stream as u64, u64::from(step));
    r.skip(row * s.draws as u64);
    out.fill_with(|| U::of(f64::from(r.uniform_f32())));
}

impl<M: Memory, T: Element> Call for Fill<'_, M, T> {
    type Op = Uniform;
    type At<'a, N: Memory, U: Element> = Fill<'a, N, U>;

    fn reference<U: Real>(s: &Uniform, Fill { step, rows, out }: Fill<'_, Host, U>) {
        let all = out.chunks_exact_mut(s.draws).enumerate();
        all.for_each(|(i, out)| draw(s, step[0] as u32, rows, i, out));
    }

    fn fast(s: &Uniform, Fill { step, rows, out }: Fill<'_, Host, f32>) {
        let all = out.par_chunks_exact_mut(s.draws).enumerate();
        all.for_each(|(i, out)| draw(s, step[0] as u32, rows, i, out));
    }
}
