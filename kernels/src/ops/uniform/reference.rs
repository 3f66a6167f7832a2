//! Draws one after the other.

use super::{Fill, Philox, Uniform};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Fill<'_, M, T> {
    type Op = Uniform;
    type At<'a, N: Memory, U: Element> = Fill<'a, N, U>;

    fn reference<U: Real>(s: &Uniform, Fill { step, rows, out }: Fill<'_, Host, U>) {
        for (i, out) in out.chunks_exact_mut(s.draws).enumerate() {
            let (stream, i) = (i / s.rows, i % s.rows);
            let row = rows.map_or(i as i64, |rows| i64::from(rows[i]));
            let Ok(row) = u64::try_from(row) else {
                out.fill(U::ZERO);
                continue;
            };
            let sample = s.first + stream as u64;
            let mut r = Philox::new(s.seed, s.purpose, sample, u64::from(step[0] as u32));
            r.skip(row * s.draws as u64);
            out.fill_with(|| U::of(f64::from(r.uniform_f32())));
        }
    }
}
