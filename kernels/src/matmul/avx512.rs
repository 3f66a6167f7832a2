//! The f32 product of our own for AVX-512.
//!
//! `C` is computed in register tiles of 14 rows by 32 columns: 28 accumulators, two registers for a row of `B`, one for
//! the element of `A` that meets it. Both operands are first copied to strips of that height and width, depth outermost,
//! so that a tile reads two streams of memory; transposed layouts are turned over on the way, 16 by 16 in registers.
//!
//! ```text
//! for column blocks, for blocks of depth:      pack B
//!     for row blocks:                          pack A
//!         for tasks of 8 x 8 tiles:            (threads)
//!             for pieces of depth that leave a strip of A in the second-level cache:
//!                 for tiles: C += A B
//! ```
//! Every element of `C` is a chain of fused multiply-adds in the order of depth, cut where `k` alone says; how tiles
//! are dealt to threads changes nothing.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::pack::{self, Strips};
use crate::scratch;

/// Rows of a register tile.
pub const ROWS: usize = 14;
/// Columns of a register tile.
pub const COLUMNS: usize = 32;
/// Tiles of a task in each direction.
const TASK: usize = 8;
/// Depth of a piece, at most; a block of depth has `PIECES` of them.
const DEPTH: usize = 512;
const PIECES: usize = 4;
/// Elements of a packed block of `A` and of `B`, about.
const BLOCK_A: usize = 1 << 21;
const BLOCK_B: usize = 1 << 22;

/// An operand: element `(i, j)` lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub struct Operand {
    pub at: *const f32,
    pub row: usize,
    pub column: usize,
}

/// What the first piece of depth finds in `C`.
#[derive(Clone, Copy)]
pub enum Start {
    /// Nothing: `C` is not read.
    Overwrite,
    /// The old contents.
    Add,
    /// One row, added to each row of `C`; `C` is not read.
    Row(*const f32),
}

/// `C = start + alpha A B`.
#[derive(Clone, Copy)]
pub struct Product {
    pub n: usize,
    pub m: usize,
    pub k: usize,
    pub alpha: f32,
    pub a: Operand,
    pub b: Operand,
    pub c: *mut f32,
    pub start: Start,
    /// Whether to use the threads of the pool.
    pub parallel: bool,
}

// SAFETY: threads write to disjoint tiles of `c` and read everything else; `run` is unsafe for the rest.
unsafe impl Sync for Product {}

/// Packed operands of one block.
#[derive(Clone, Copy)]
struct Packed {
    a: *mut f32,
    b: *mut f32,
}

// SAFETY: strips are written by one task each, before anybody reads them.
unsafe impl Sync for Packed {}

/// Where a block lies in the whole: first element and length in rows, columns and depth.
#[derive(Clone, Copy)]
struct Block {
    rows: (usize, usize),
    columns: (usize, usize),
    depth: (usize, usize),
    /// Depth of a piece.
    piece: usize,
}

/// Computes the product.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; the operands point to all elements that the sizes and strides reach; nobody else
/// touches `c`, whose rows follow one another without gaps. `k` is not 0.
pub unsafe fn run(p: &Product) {
    let piece = p.k.div_ceil(p.k.div_ceil(DEPTH));
    let deep = p.k.min(piece * PIECES);
    let wide = blocks_of(p.m, COLUMNS * TASK, BLOCK_B / deep);
    let high = blocks_of(p.n, ROWS * TASK, BLOCK_A / deep);
    let (len_a, len_b) =
        (high.next_multiple_of(ROWS) * deep, wide.next_multiple_of(COLUMNS) * deep);
    scratch::with(len_a + len_b + 32, |memory: &mut [f32]| {
        let memory = memory.as_mut_ptr();
        let b = memory.wrapping_add(memory.align_offset(64));
        let packed = Packed { a: b.wrapping_add(len_b.next_multiple_of(16)), b };
        for column in (0..p.m).step_by(wide) {
            for depth in (0..p.k).step_by(deep) {
                for row in (0..p.n).step_by(high) {
                    let block = Block {
                        rows: (row, high.min(p.n - row)),
                        columns: (column, wide.min(p.m - column)),
                        depth: (depth, deep.min(p.k - depth)),
                        piece,
                    };
                    // SAFETY: the block lies inside the operands and its strips inside the scratch memory.
                    unsafe { run_block(p, &block, packed, row == 0) };
                }
            }
        }
    });
}

/// A length that covers `size` in blocks of about `limit`, each a multiple of `unit` if there are several.
fn blocks_of(size: usize, unit: usize, limit: usize) -> usize {
    let limit = limit.max(unit);
    if size <= limit { size } else { size.div_ceil(size.div_ceil(limit)).next_multiple_of(unit) }
}

fn each(parallel: bool, count: usize, f: impl Fn(usize) + Sync) {
    if parallel && count > 1 {
        (0..count).into_par_iter().for_each(&f);
    } else {
        (0..count).for_each(f);
    }
}

/// Packs what has changed and multiplies.
///
/// # Safety
/// As [`run`]; `packed` has room for the strips of the block.
unsafe fn run_block(p: &Product, block: &Block, packed: Packed, pack_b: bool) {
    let ((row, rows), (column, columns)) = (block.rows, block.columns);
    let (depth, deep) = block.depth;
    let (strips_a, strips_b) = (rows.div_ceil(ROWS), columns.div_ceil(COLUMNS));
    let new_b = if pack_b { strips_b } else { 0 };
    let (packed, strips) = (&packed, strips_a + new_b);
    each(p.parallel, strips, |s| {
        // SAFETY: strip `s` starts inside the block and has its own place in the packed memory.
        unsafe {
            if let Some(s) = s.checked_sub(new_b) {
                let first = s * ROWS;
                let at = p.a.at.add((row + first) * p.a.row + depth * p.a.column);
                let strips = Strips { at, across: p.a.row, along: p.a.column, depth: deep };
                pack::strip::<ROWS>(&strips, ROWS.min(rows - first), packed.a.add(first * deep));
            } else {
                let first = s * COLUMNS;
                let at = p.b.at.add(depth * p.b.row + (column + first) * p.b.column);
                let strips = Strips { at, across: p.b.column, along: p.b.row, depth: deep };
                let count = COLUMNS.min(columns - first);
                pack::strip::<COLUMNS>(&strips, count, packed.b.add(first * deep));
            }
        }
    });
    let (mut high, mut wide) = (TASK, TASK);
    let tasks = |high: usize, wide: usize| strips_a.div_ceil(high) * strips_b.div_ceil(wide);
    // Smaller tasks where there would be too few to go round; tiles and their sums stay the same.
    let wanted = 4 * rayon::current_num_threads();
    while p.parallel && high * wide > 4 && tasks(high, wide) < wanted {
        if high > wide { high /= 2 } else { wide /= 2 }
    }
    let across = strips_b.div_ceil(wide);
    each(p.parallel, tasks(high, wide), |t| {
        let (i, j) = (t / across * high, t % across * wide);
        let (i, j) = (i..strips_a.min(i + high), j..strips_b.min(j + wide));
        // SAFETY: these strips have been packed, and no other task has these tiles.
        unsafe { run_task(p, block, packed, i, j) };
    });
}

/// Multiplies the strips `i` of `A` by the strips `j` of `B`.
///
/// # Safety
/// As [`run`]; the strips are packed; no other task writes to their tiles.
unsafe fn run_task(
    p: &Product,
    block: &Block,
    packed: &Packed,
    i: std::ops::Range<usize>,
    j: std::ops::Range<usize>,
) {
    let (depth, deep) = block.depth;
    for first in (0..deep).step_by(block.piece) {
        let start = if depth + first == 0 { p.start } else { Start::Add };
        for j in j.clone() {
            for i in i.clone() {
                let (row, column) = (i * ROWS, j * COLUMNS);
                let rows = ROWS.min(block.rows.1 - row);
                let columns = COLUMNS.min(block.columns.1 - column);
                let (row_c, column_c) = (block.rows.0 + row, block.columns.0 + column);
                // SAFETY: strips are `deep` long, and the tile lies inside `c`.
                unsafe {
                    let tile = Tile {
                        depth: block.piece.min(deep - first),
                        a: packed.a.add(row * deep + first * ROWS),
                        b: packed.b.add(column * deep + first * COLUMNS),
                        c: p.c.add(row_c * p.m + column_c),
                        stride: p.m,
                        columns,
                        alpha: p.alpha,
                        start: match start {
                            Start::Row(bias) => Start::Row(bias.add(column_c)),
                            other => other,
                        },
                    };
                    tile.run(rows);
                }
            }
        }
    }
}

/// One register tile and one piece of depth.
#[derive(Clone, Copy)]
struct Tile {
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    /// Elements from one row of `c` to the next.
    stride: usize,
    columns: usize,
    alpha: f32,
    start: Start,
}

impl Tile {
    /// # Safety
    /// As [`run`]; `a` and `b` point to `depth` rows of packed strips, `c` to `rows` rows of `columns` elements.
    unsafe fn run(self, rows: usize) {
        // SAFETY: the caller's promise; the count of rows is the one that `c` has.
        unsafe {
            match rows {
                1 => self.multiply::<1>(),
                2 => self.multiply::<2>(),
                3 => self.multiply::<3>(),
                4 => self.multiply::<4>(),
                5 => self.multiply::<5>(),
                6 => self.multiply::<6>(),
                7 => self.multiply::<7>(),
                8 => self.multiply::<8>(),
                9 => self.multiply::<9>(),
                10 => self.multiply::<10>(),
                11 => self.multiply::<11>(),
                12 => self.multiply::<12>(),
                13 => self.multiply::<13>(),
                _ => self.multiply::<ROWS>(),
            }
        }
    }

    /// # Safety
    /// As [`Tile::run`] with `R` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn multiply<const R: usize>(self) {
        // SAFETY: all reads and writes lie where the caller promises; masks keep columns inside `c`.
        unsafe {
            for r in 0..R {
                let row = self.c.add(r * self.stride).cast::<i8>();
                _mm_prefetch::<_MM_HINT_T0>(row);
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(64));
            }
            let mut sum = [[_mm512_setzero_ps(); 2]; R];
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.depth {
                let (b0, b1) = (_mm512_load_ps(b), _mm512_load_ps(b.add(16)));
                for r in 0..R {
                    let x = _mm512_set1_ps(*a.add(r));
                    sum[r][0] = _mm512_fmadd_ps(x, b0, sum[r][0]);
                    sum[r][1] = _mm512_fmadd_ps(x, b1, sum[r][1]);
                }
                (a, b) = (a.add(ROWS), b.add(COLUMNS));
            }
            let alpha = _mm512_set1_ps(self.alpha);
            let masks = [pack::mask(self.columns), pack::mask(self.columns.saturating_sub(16))];
            for r in 0..R {
                for half in 0..2 {
                    let c = self.c.add(r * self.stride).wrapping_add(16 * half);
                    let value = match self.start {
                        Start::Overwrite => _mm512_mul_ps(alpha, sum[r][half]),
                        Start::Add => {
                            let old = _mm512_maskz_loadu_ps(masks[half], c);
                            _mm512_fmadd_ps(alpha, sum[r][half], old)
                        }
                        Start::Row(bias) => {
                            let bias = bias.wrapping_add(16 * half);
                            let bias = _mm512_maskz_loadu_ps(masks[half], bias);
                            _mm512_fmadd_ps(alpha, sum[r][half], bias)
                        }
                    };
                    _mm512_mask_storeu_ps(c, masks[half], value);
                }
            }
        }
    }
}
