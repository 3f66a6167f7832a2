//! Attention masks in plain loops: the reference implementation.

use super::{AttentionMask, Forward, THRESHOLD, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::ops::resize;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = AttentionMask;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &AttentionMask, c: Forward<'_, Host, U>) {
        let Forward { logits, used, mut raw } = c;
        let (row, map, keys) = (s.row(), logits.len() / s.n, used.len() / s.n);
        let mut values = vec![U::ZERO; keys];
        for (i, (logits, used)) in logits.chunks(map).zip(used.chunks_mut(keys)).enumerate() {
            let resized = resize::Forward { x: logits, y: &mut values[..] };
            resize::Forward::<Host, U>::reference(&row, resized);
            for (used, v) in used.iter_mut().zip(&values) {
                *used = u8::from(*v < U::of(THRESHOLD));
            }
            if let Some(raw) = &mut raw {
                raw[i * keys..(i + 1) * keys].copy_from_slice(used);
            }
            cpu::reset(used);
        }
    }

    fn fast(s: &AttentionMask, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}
