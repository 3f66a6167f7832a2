//! Epilogue of the blocked product: operations on the sums of a tile as they are stored.

use super::micro::{TILE, load};
use crate::cpu::scratch::Shared;
use crate::cpu::simd::madd;
use crate::ops::activation::gelu_slope;
use crate::simd;

/// Function from the finished sum `v` to the stored element.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// `alpha v`, added to the old element or replacing it.
    Scale { alpha: f32, add: bool },
    /// `v + bias`.
    Bias(&'a [f32]),
    /// `x + gamma (v + bias)`, x `[n, m]`; without gamma 1, without bias 0.
    Residual { x: &'a [f32], gamma: Option<&'a [f32]>, bias: Option<&'a [f32]> },
    /// `v gelu'(u)`, u `[n, m]`.
    GeluSlope(&'a [f32]),
}

/// Position of a tile in `[n, m]`, and the block of depth of its sums.
#[derive(Clone, Copy)]
pub struct TileRange {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
    /// Row length of the whole result.
    pub m: usize,
    pub first: bool,
    pub last: bool,
}

impl Finish<'_> {
    /// Stores a tile whose rows are `width` apart. Until the last block of depth, `out` has the
    /// partial sums.
    ///
    /// # Safety
    /// No other thread may access the tile's elements of `out` meanwhile.
    pub unsafe fn store(&self, at: TileRange, width: usize, tile: &[f32; TILE], out: &Shared<'_>) {
        store(self, at, width, tile, out);
    }
}

simd! {
    fn store<FMA>(f: &Finish, at: TileRange, width: usize, tile: &[f32; TILE], out: &Shared) {
        match width {
            32 => rows::<FMA, 32>(f, at, tile, out),
            16 => rows::<FMA, 16>(f, at, tile, out),
            _ => rows::<FMA, 8>(f, at, tile, out),
        }
    }
}

/// Operation on a row of a tile. It is a trait and not a closure for the reason given in
/// [`super::left`].
trait Change<const W: usize> {
    /// Returns the new row from the sums `v` of this block and `old` of the previous blocks. The
    /// row begins at element `from` of the result.
    fn row<const FMA: bool>(&self, from: usize, v: [f32; W], old: [f32; W]) -> [f32; W];
}

struct Scale(f32);
impl<const W: usize> Change<W> for Scale {
    #[inline(always)]
    fn row<const FMA: bool>(&self, _: usize, mut v: [f32; W], old: [f32; W]) -> [f32; W] {
        for j in 0..W {
            v[j] = madd::<FMA>(self.0, v[j], old[j]);
        }
        v
    }
}

/// `v + old + c`.
struct Sum<const W: usize>([f32; W]);
impl<const W: usize> Change<W> for Sum<W> {
    #[inline(always)]
    fn row<const FMA: bool>(&self, _: usize, mut v: [f32; W], old: [f32; W]) -> [f32; W] {
        for j in 0..W {
            v[j] = v[j] + old[j] + self.0[j];
        }
        v
    }
}

/// Residual connection, with vectors for the columns of the tile.
struct Onto<'a, const W: usize> {
    x: &'a [f32],
    columns: usize,
    gamma: [f32; W],
    bias: [f32; W],
}
impl<const W: usize> Change<W> for Onto<'_, W> {
    #[inline(always)]
    fn row<const FMA: bool>(&self, from: usize, mut v: [f32; W], old: [f32; W]) -> [f32; W] {
        let x = load::<W>(&self.x[from..from + self.columns]);
        for j in 0..W {
            v[j] = madd::<FMA>(self.gamma[j], v[j] + old[j] + self.bias[j], x[j]);
        }
        v
    }
}

struct Slope<'a> {
    u: &'a [f32],
    columns: usize,
}
impl<const W: usize> Change<W> for Slope<'_> {
    #[inline(always)]
    fn row<const FMA: bool>(&self, from: usize, mut v: [f32; W], old: [f32; W]) -> [f32; W] {
        let u = load::<W>(&self.u[from..from + self.columns]);
        for j in 0..W {
            v[j] = (v[j] + old[j]) * gelu_slope::<FMA>(u[j]);
        }
        v
    }
}

/// Applies `change` to the rows of a tile and stores them. `out` is read only if `add` is set;
/// otherwise zeros are used.
#[inline(always)]
fn each<const FMA: bool, const W: usize>(
    at: TileRange,
    add: bool,
    tile: &[f32; TILE],
    out: &Shared<'_>,
    change: impl Change<W>,
) {
    for (i, v) in tile.chunks_exact(W).take(at.rows).enumerate() {
        let from = (at.row + i) * at.m + at.column;
        // SAFETY: as guaranteed by the caller of `Finish::store`.
        let out = unsafe { out.piece(from, at.columns) };
        let old = if add { load(out) } else { [0.0; W] };
        let y = change.row::<FMA>(from, load(v), old);
        match out.first_chunk_mut() {
            Some(out) => *out = y,
            None => out.copy_from_slice(&y[..at.columns]),
        }
    }
}

#[inline(always)]
fn rows<const FMA: bool, const W: usize>(
    f: &Finish<'_>,
    at: TileRange,
    tile: &[f32; TILE],
    out: &Shared<'_>,
) {
    let columns = at.column..at.column + at.columns;
    let add = !at.first;
    match *f {
        Finish::Scale { alpha, add: onto } => {
            each::<FMA, W>(at, add || onto, tile, out, Scale(alpha));
        }
        _ if !at.last => each::<FMA, W>(at, add, tile, out, Sum([0.0; W])),
        Finish::Bias(bias) => each::<FMA, W>(at, add, tile, out, Sum(load(&bias[columns]))),
        Finish::Residual { x, gamma, bias } => {
            let gamma = match gamma {
                Some(gamma) => load(&gamma[columns.clone()]),
                None => [1.0; W],
            };
            let bias = match bias {
                Some(bias) => load(&bias[columns]),
                None => [0.0; W],
            };
            let onto = Onto { x, columns: at.columns, gamma, bias };
            each::<FMA, W>(at, add, tile, out, onto);
        }
        Finish::GeluSlope(u) => {
            each::<FMA, W>(at, add, tile, out, Slope { u, columns: at.columns });
        }
    }
}
