//! `mma.sync`, `ldmatrix`, `movmatrix`: fragments are spread over the lanes as the PTX manual's
//! figures show.

use super::Launched;
use super::access::{At, resolve};
use super::float::NAN32;
use super::shared::How;
use super::state::State;
use super::vector::two_ways;
use super::warp::{Warp, lanes};
use crate::ast::Space;
use crate::program::{Inst, Ldmatrix, Mma, MmaType};

/// Rows of A and D.
const M: usize = 16;
/// Columns of B and D.
const N: usize = 8;

/// Two elements of a 16-bit type as f32.
#[inline(always)]
fn unpack(ty: MmaType, v: u32) -> [f32; 2] {
    match ty {
        MmaType::Bf16 => [f32::from_bits(v << 16), f32::from_bits(v & 0xFFFF_0000)],
        MmaType::F16 => [
            half::f16::from_bits(v as u16).to_f32(),
            half::f16::from_bits((v >> 16) as u16).to_f32(),
        ],
        // The hardware reads the upper 19 bits.
        MmaType::Tf32 => [f32::from_bits(v & 0xFFFF_E000), 0.0],
    }
}

/// D = A B + C. Products are exact in f32; the sum runs over k in order, each step rounded once,
/// starting from C. Hardware sums in an order that is not documented.
#[inline(always)]
fn product(m: &Mma, w: &mut Warp) {
    let mut a = [[0f32; M]; 16];
    let mut b = [[0f32; N]; 16];
    let per = if m.ty == MmaType::Tf32 { 1 } else { 2 };
    for (k, &row) in m.a.iter().enumerate() {
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            let values = unpack(m.ty, w.r32[row as usize][lane]);
            for (e, &value) in values[..per].iter().enumerate() {
                a[thread * per + e + (k / 2) * 4 * per][group + (k % 2) * 8] = value;
            }
        }
    }
    for (k, &row) in m.b.iter().enumerate() {
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            let values = unpack(m.ty, w.r32[row as usize][lane]);
            for (e, &value) in values[..per].iter().enumerate() {
                b[thread * per + e + k * 4 * per][group] = value;
            }
        }
    }
    let mut d = [[0f32; N]; M];
    for (k, &row) in m.c.iter().enumerate() {
        for lane in 0..32 {
            let bits = w.r32[row as usize][lane];
            d[lane / 4 + (k / 2) * 8][lane % 4 * 2 + k % 2] = f32::from_bits(bits);
        }
    }
    for k in 0..m.k as usize {
        for i in 0..M {
            for j in 0..N {
                d[i][j] = a[k][i].mul_add(b[k][j], d[i][j]);
            }
        }
    }
    for (k, &row) in m.d.iter().enumerate() {
        for lane in 0..32 {
            let v = d[lane / 4 + (k / 2) * 8][lane % 4 * 2 + k % 2];
            w.r32[row as usize][lane] = if v.is_nan() { NAN32 } else { v.to_bits() };
        }
    }
}

two_ways!(
    /// A matrix product by the whole warp.
    mma, product, (m: &Mma, w: &mut Warp)
);

impl Warp {
    /// Lane `8 i + r` gives the address of row `r` of matrix `i`.
    pub(crate) fn ldmatrix(
        &mut self,
        load: &Ldmatrix,
        inst: &Inst,
        there: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        let mut rows = [[0u16; 8]; 32];
        let mut track = std::mem::take(&mut state.track);
        for lane in lanes(there).filter(|&lane| lane < load.d.len() * 8) {
            let (_, address) = resolve(load.space, self.address(load.base, load.offset, lane));
            let at = At { lane, address, bytes: 16, write: false };
            track.add(Space::Shared, at);
            if self.check_alignment(at, inst, launched, state).is_none() {
                continue;
            }
            let Some(from) = self.check_shared(at, inst, launched, state) else { continue };
            self.check_race(at, How::Read, inst, launched, state);
            let (pairs, _) = state.shared.bytes[from..from + 16].as_chunks::<2>();
            for (value, pair) in rows[lane].iter_mut().zip(pairs) {
                *value = u16::from_le_bytes(*pair);
            }
        }
        track.finish(self.index, inst.line, false, state);
        for (i, &d) in load.d.iter().enumerate() {
            for lane in lanes(there) {
                let (r, c) = (lane / 4, lane % 4 * 2);
                let pick = |r: usize, c: usize| u32::from(rows[8 * i + r][c]);
                let (low, high) = if load.trans {
                    (pick(c, r), pick(c + 1, r))
                } else {
                    (pick(r, c), pick(r, c + 1))
                };
                self.r32[d as usize][lane] = low | high << 16;
            }
        }
    }

    pub(crate) fn movmatrix(&mut self, d: u32, s: u32) {
        let source = self.r32[s as usize];
        let at = |r: usize, c: usize| source[r * 4 + c / 2] >> (16 * (c % 2)) & 0xFFFF;
        let out = std::array::from_fn(|lane| {
            let (r, c) = (lane / 4, lane % 4 * 2);
            at(c, r) | at(c + 1, r) << 16
        });
        self.r32[d as usize] = out;
    }
}
