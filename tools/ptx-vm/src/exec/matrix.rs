//! `mma.sync`, `ldmatrix`, `movmatrix`, with fragments spread over the lanes as in the PTX manual's
//! figures.

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
/// Maximum columns of A, rows of B.
const K: usize = 16;

/// Unpacks the registers of A into its elements; each register contains `PER` of them.
#[inline(always)]
fn fill_a<const PER: usize>(
    m: &Mma,
    w: &Warp,
    a: &mut [[f32; M]; K],
    unpack: impl Fn(u32) -> [f32; 2],
) {
    for (k, &row) in m.a.iter().enumerate() {
        let row = w.r32[row as usize];
        let (right, down) = (k / 2 * 4 * PER, k % 2 * 8);
        for lane in 0..32 {
            let values = unpack(row[lane]);
            for e in 0..PER {
                a[(right + lane % 4 * PER + e) % K][lane / 4 + down] = values[e];
            }
        }
    }
}

/// Unpacks the registers of B into its elements.
#[inline(always)]
fn fill_b<const PER: usize>(
    m: &Mma,
    w: &Warp,
    b: &mut [[f32; N]; K],
    unpack: impl Fn(u32) -> [f32; 2],
) {
    for (k, &row) in m.b.iter().enumerate() {
        let row = w.r32[row as usize];
        for lane in 0..32 {
            let values = unpack(row[lane]);
            for e in 0..PER {
                b[(k * 4 * PER + lane % 4 * PER + e) % K][lane / 4] = values[e];
            }
        }
    }
}

/// Computes D = A B + C. Products are exact in f32; the sum runs over k in order from C, and each
/// step is rounded once. The order of the hardware is not documented.
#[inline(always)]
fn product(m: &Mma, w: &mut Warp) {
    let mut a = [[0f32; M]; K];
    let mut b = [[0f32; N]; K];
    match m.ty {
        MmaType::Bf16 => {
            let unpack = |v: u32| [f32::from_bits(v << 16), f32::from_bits(v & 0xFFFF_0000)];
            fill_a::<2>(m, w, &mut a, unpack);
            fill_b::<2>(m, w, &mut b, unpack);
        }
        MmaType::F16 => {
            let one = |v: u32| half::f16::from_bits(v as u16).to_f32();
            let unpack = |v: u32| [one(v), one(v >> 16)];
            fill_a::<2>(m, w, &mut a, unpack);
            fill_b::<2>(m, w, &mut b, unpack);
        }
        MmaType::Tf32 => {
            // The hardware reads the upper 19 bits.
            let unpack = |v: u32| [f32::from_bits(v & 0xFFFF_E000), 0.0];
            fill_a::<1>(m, w, &mut a, unpack);
            fill_b::<1>(m, w, &mut b, unpack);
        }
    }
    let mut d = [[0f32; N]; M];
    for (k, &row) in m.c.iter().enumerate() {
        let row = w.r32[row as usize];
        for lane in 0..32 {
            d[lane / 4 + (k / 2 % 2) * 8][lane % 4 * 2 + k % 2] = f32::from_bits(row[lane]);
        }
    }
    let depth = (m.k as usize).min(K);
    // Eight rows at a time, so that their sums stay in registers.
    for rows in [0, 8] {
        let mut sums = [[0f32; N]; 8];
        sums.copy_from_slice(&d[rows..rows + 8]);
        for k in 0..depth {
            for i in 0..8 {
                for j in 0..N {
                    sums[i][j] = a[k][rows + i].mul_add(b[k][j], sums[i][j]);
                }
            }
        }
        d[rows..rows + 8].copy_from_slice(&sums);
    }
    for (k, &row) in m.d.iter().enumerate() {
        for lane in 0..32 {
            let v = d[lane / 4 + (k / 2) * 8][lane % 4 * 2 + k % 2];
            w.r32[row as usize][lane] = if v.is_nan() { NAN32 } else { v.to_bits() };
        }
    }
}

two_ways!(
    /// Executes a matrix product of the whole warp.
    mma, product, (m: &Mma, w: &mut Warp)
);

impl Warp {
    /// Executes `ldmatrix`: lane `8 i + r` gives the address of row `r` of matrix `i`.
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
