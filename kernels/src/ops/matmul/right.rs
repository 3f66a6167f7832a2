//! Right operand: f32 or bf16, in either storage order, packed into panels.

use std::ops::Range;

use half::bf16;

use super::micro::LINE;
use super::square::transpose;
use crate::simd;

/// Elements of a right operand; bf16 is converted to f32 while it is packed.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Right operand `[k, m]`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub values: Values<'a>,
    /// Whether it is stored `[m, k]`.
    pub transposed: bool,
}

simd! {
    fn widen<FMA>(x: &[bf16], out: &mut [f32]) {
        let _ = FMA;
        for (o, x) in out.iter_mut().zip(x) {
            *o = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

impl Right<'_> {
    /// Packs columns `columns` and depth `depth` into a panel of `width` columns, with zeros beyond
    /// the edges of the operand. The depth is padded to whole lines. `m` and `k` are the sizes of
    /// the operand.
    pub fn pack(
        &self,
        (m, k): (usize, usize),
        columns: Range<usize>,
        depth: Range<usize>,
        width: usize,
        panel: &mut [f32],
    ) {
        if self.transposed {
            self.turn(k, columns, depth, width, panel);
            return;
        }
        let used = columns.len();
        for (row, p) in panel.chunks_exact_mut(width).zip(depth.clone()) {
            let from = p * m + columns.start;
            match self.values {
                Values::F32(x) => row[..used].copy_from_slice(&x[from..from + used]),
                Values::Bf16(x) => widen(&x[from..from + used], &mut row[..used]),
            }
            row[used..].fill(0.0);
        }
        panel[depth.len() * width..].fill(0.0);
    }

    /// As [`Right::pack`] for an operand stored `[m, k]`.
    fn turn(
        &self,
        k: usize,
        columns: Range<usize>,
        depth: Range<usize>,
        width: usize,
        panel: &mut [f32],
    ) {
        let mut rows = [0.0; LINE * LINE];
        for (p, lines) in depth.clone().step_by(LINE).zip(panel.chunks_exact_mut(LINE * width)) {
            let deep = LINE.min(depth.end - p);
            for j in (0..width).step_by(LINE) {
                let wide = LINE.min(columns.len().saturating_sub(j)).min(width - j);
                let from = (columns.start + j) * k + p;
                if let (Values::F32(x), LINE, LINE) = (self.values, deep, wide) {
                    transpose(&x[from..], k, &mut lines[j..], width);
                    continue;
                }
                rows.fill(0.0);
                for (i, row) in rows.chunks_exact_mut(LINE).take(wide).enumerate() {
                    let from = from + i * k;
                    match self.values {
                        Values::F32(x) => row[..deep].copy_from_slice(&x[from..from + deep]),
                        Values::Bf16(x) => widen(&x[from..from + deep], &mut row[..deep]),
                    }
                }
                let wide = LINE.min(width - j);
                if wide == LINE {
                    transpose(&rows, LINE, &mut lines[j..], width);
                    continue;
                }
                for (l, line) in lines.chunks_exact_mut(width).enumerate() {
                    for (i, o) in line[j..j + wide].iter_mut().enumerate() {
                        *o = rows[i * LINE + l];
                    }
                }
            }
        }
    }
}
