//! Blocked f32 product: operands are packed block by block into cache and multiplied by register
//! tiles.
//!
//! ```text
//! for rows of the left operand        as many as leave its strips some 8 MiB
//!   for a block of depth              up to 1280 steps
//!     pack the left operand's strips  in parallel, shared by all tasks
//!     for panels, for rows            in parallel: a task packs its panels into L2 ...
//!       for strips, for panels        ... and streams the strips past them
//!         tile, then finish
//! ```
//! A panel of 32 columns and 1024 steps takes 128 KiB and stays in L2. The strips come from L3 at
//! two bytes per cycle, and results are accessed once per block of depth. Tasks are whole tiles,
//! and every element is summed block by block in order of depth. So results are bitwise equal for
//! any number of threads and any split of the work.

use std::ops::Range;

use rayon::prelude::*;

use super::finish::{Finish, TileRange};
use super::left::{Left, PackSizes};
use super::micro::{LINE, Shape, TILE, shape, tile};
use super::right::Right;
use crate::cpu::scratch::{Shared, aligned, take, with_scratch};
use crate::cpu::simd::{self, Level};
use crate::dry_run::Cost;

/// Maximum steps of depth in a block.
pub(super) const DEPTH: usize = 1280;
/// Maximum elements of packed strips.
const STRIPS: usize = 1 << 21;
/// Approximate elements of the panels of a task.
const PANELS: usize = 1 << 16;
/// Minimum multiply-adds per task.
const TASK: usize = 1 << 18;

/// A product `[n, k] x [k, m]`.
#[derive(Clone, Copy)]
pub(crate) struct Blocked<'a> {
    pub n: usize,
    pub m: usize,
    pub k: usize,
    pub left: Left<'a>,
    pub right: Right<'a>,
    pub finish: Finish<'a>,
}

/// Rows and steps of depth that are packed at a time.
fn blocks(n: usize, k: usize, shape: &Shape) -> (usize, usize) {
    let depth = k.div_ceil(k.div_ceil(DEPTH).max(1)).next_multiple_of(LINE).max(LINE);
    let rows = (STRIPS / depth).next_multiple_of(shape.rows);
    (rows.min(n.next_multiple_of(shape.rows)), depth)
}

/// Cost of a product `[n, k] x [k, m]`; the scratch memory may be slightly too high.
pub(crate) fn cost(n: usize, m: usize, k: usize) -> Cost {
    let shape = shape(simd::level());
    let (rows, depth) = blocks(n, k, &shape);
    let panels = m.next_multiple_of(shape.columns) * depth;
    let panels = panels.min(PANELS.max(shape.columns * depth));
    let task = panels + shape.rows * depth + LINE;
    Cost { call: rows * depth + LINE, task, ..Cost::products(n * m * k) }
}

impl Blocked<'_> {
    /// Writes `out` `[n, m]`, or adds to it if the finish says so.
    pub fn run(&self, out: &mut [f32]) {
        self.run_at(simd::level(), out);
    }

    /// As [`Blocked::run`], with the tiles of a given level, which the CPU must support.
    pub(super) fn run_at(&self, level: Level, out: &mut [f32]) {
        if self.n == 0 || self.m == 0 {
            return;
        }
        let shape = shape(level);
        let (out, threads) = (Shared::new(out), rayon::current_num_threads());
        let (rows, depth) = blocks(self.n, self.k, &shape);
        for row in (0..self.n).step_by(rows) {
            for from in (0..self.k.max(1)).step_by(depth) {
                let (row_end, to) = (self.n.min(row + rows), self.k.min(from + depth));
                let b = Block::new(level, row..row_end, from..to, self.m, threads);
                self.block(&b, &out);
            }
        }
    }

    fn block(&self, b: &Block, out: &Shared<'_>) {
        let tasks = (0..b.across * b.strips.div_ceil(b.down)).into_par_iter();
        // With one task across, each strip is packed when needed, and is then in L1 or L2.
        if b.across == 1 {
            tasks.for_each(|task| self.task(b, task, None, out));
            return;
        }
        with_scratch(b.strips * b.strip_size() + LINE, |strips| {
            let strips = &mut aligned(strips)[..b.strips * b.strip_size()];
            let few = TASK.div_ceil(16 * b.strip_size());
            strips
                .par_chunks_exact_mut(b.strip_size())
                .enumerate()
                .with_min_len(few)
                .for_each(|(i, strip)| self.pack_strip(b, i, strip));
            let strips = &*strips;
            tasks.for_each(|task| self.task(b, task, Some(strips), out));
        });
    }

    fn pack_strip(&self, b: &Block, i: usize, strip: &mut [f32]) {
        if b.steps.is_empty() {
            strip.fill(0.0);
            return;
        }
        let sizes = PackSizes { n: self.n, k: self.k, strip: b.shape.rows };
        self.left.pack(sizes, b.strip_rows(i), b.steps.clone(), strip);
    }

    fn pack_panel(&self, b: &Block, columns: Range<usize>, panel: &mut [f32]) {
        if b.steps.is_empty() {
            panel.fill(0.0);
            return;
        }
        let sizes = (self.m, self.k);
        self.right.pack(sizes, columns, b.steps.clone(), b.shape.columns, panel);
    }

    /// Multiplies some panels by some strips; packs the strips if they are not packed yet.
    fn task(&self, b: &Block, task: usize, strips: Option<&[f32]>, out: &Shared<'_>) {
        let (width, size) = (b.shape.columns, b.depth * b.shape.columns);
        let (across, down) = (task % b.across, task / b.across);
        let first = across * b.panels * width;
        let count = b.panels.min((self.m - first).div_ceil(width));
        let columns = |j: usize| first + j * width..self.m.min(first + (j + 1) * width);
        with_scratch(count * size + b.strip_size() + LINE, |memory| {
            let mut memory = aligned(memory);
            let panels = take(&mut memory, count * size);
            let own = take(&mut memory, b.strip_size());
            for (j, panel) in panels.chunks_exact_mut(size).enumerate() {
                self.pack_panel(b, columns(j), panel);
            }
            let mut sums = [0.0; TILE];
            for i in down * b.down..b.strips.min((down + 1) * b.down) {
                let strip = match strips {
                    Some(strips) => &strips[i * b.strip_size()..][..b.strip_size()],
                    None => {
                        self.pack_strip(b, i, own);
                        &*own
                    }
                };
                for (j, panel) in panels.chunks_exact(size).enumerate() {
                    let at = self.place(b, i, columns(j));
                    tile(b.level, at.rows, strip, panel, &mut sums);
                    // SAFETY: a tile belongs to one task, and blocks run one after the other.
                    unsafe { self.finish.store(at, width, &sums, out) };
                }
            }
        });
    }

    fn place(&self, b: &Block, strip: usize, columns: Range<usize>) -> TileRange {
        let rows = b.strip_rows(strip);
        TileRange {
            row: rows.start,
            rows: rows.len(),
            column: columns.start,
            columns: columns.len(),
            m: self.m,
            first: b.steps.start == 0,
            last: b.steps.end == self.k,
        }
    }
}

/// Block of rows and depth, and its split into tasks.
struct Block {
    level: Level,
    shape: Shape,
    rows: Range<usize>,
    steps: Range<usize>,
    /// Steps, zero-padded to a whole line.
    depth: usize,
    /// Strips of all tasks.
    strips: usize,
    /// Strips and panels of one task, and tasks side by side.
    down: usize,
    panels: usize,
    across: usize,
}

impl Block {
    /// Splits a block into enough tasks for all threads to finish at about the same time, but none
    /// too small. The number of tasks decides only which thread computes a tile, not the positions
    /// of tiles and blocks of depth.
    fn new(
        level: Level,
        rows: Range<usize>,
        steps: Range<usize>,
        m: usize,
        threads: usize,
    ) -> Self {
        let shape = shape(level);
        let depth = steps.len().next_multiple_of(LINE).max(LINE);
        let (strips, all) = (rows.len().div_ceil(shape.rows), m.div_ceil(shape.columns));
        let tasks = match threads {
            1 => 1,
            _ => (8 * threads).min(rows.len() * m * depth / TASK).max(1),
        };
        // Splitting the longer side causes less repeated packing of the other side.
        let wanted = if rows.len() < m { all / tasks } else { all };
        let panels = wanted.min(PANELS / (depth * shape.columns)).max(1);
        let across = all.div_ceil(panels);
        let down = strips.div_ceil(tasks.div_ceil(across).min(strips.div_ceil(4)));
        Self { level, shape, rows, steps, depth, strips, down, panels, across }
    }

    /// Elements per packed strip.
    fn strip_size(&self) -> usize {
        self.shape.rows * self.depth
    }

    /// Rows of strip `i`.
    fn strip_rows(&self, i: usize) -> Range<usize> {
        let first = self.rows.start + i * self.shape.rows;
        first..self.rows.end.min(first + self.shape.rows)
    }
}
