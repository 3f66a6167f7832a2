//! Grids that several operations share, and sizes in the 32 bits that kernels count with.

use super::Grid;
use crate::{KernelError, Result};

/// A size as the kernels take it.
///
/// # Errors
/// It needs more than 32 bits.
pub(crate) fn small(op: &'static str, name: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| KernelError::Size {
        op,
        what: format!("{name} is {n}; a GPU kernel counts it in 32 bits"),
    })
}

/// Elements of a strip of `strips.cuh`.
const STRIP: usize = 8;

/// Threads of a block of `strips.cuh` and `columns.cuh`.
const THREADS: u32 = 256;

/// Rows of a sheet that a block takes: four for each of its warps, which pays for loading what
/// depends on the column.
const SHEET_ROWS: usize = 32;

/// Most blocks along y.
const MOST: usize = 65535;

/// Grid of a flat kernel over `n` elements.
pub(crate) fn flat(n: usize) -> Grid {
    Grid::line(n, STRIP * THREADS as usize, THREADS)
}

/// Grid of a sheet kernel over `[n, c]` and the rows of a piece.
pub(crate) fn sheet(n: usize, c: usize) -> (Grid, usize) {
    let rows = SHEET_ROWS.max(n.div_ceil(MOST));
    let blocks = [c.div_ceil(32 * STRIP), n.div_ceil(rows), 1];
    (Grid::new(blocks, [THREADS, 1, 1]), rows)
}

/// How a sum over rows is cut: by the number of rows alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Rows of a piece.
    pub rows: usize,
    /// Pieces.
    pub count: usize,
}

impl Pieces {
    /// Pieces of at least 64 rows, eight for each warp, and at most 128 pieces: with eight blocks
    /// of columns, as 256 channels have, that is six blocks for each multiprocessor of an H200.
    pub fn of(n: usize) -> Pieces {
        let rows = n.div_ceil(128).max(64);
        Pieces { rows, count: n.div_ceil(rows) }
    }

    /// Grid of the first pass over `c` columns.
    pub fn grid(&self, c: usize) -> Grid {
        Grid::new([c.div_ceil(32), self.count, 1], [THREADS, 1, 1])
    }

    /// Additions on the way of one element through both passes, for error bounds: rows of a warp,
    /// warps, pieces of a warp, warps, and what was there.
    pub fn depth(&self) -> f64 {
        (self.rows.div_ceil(8) + 8 + self.count.div_ceil(8) + 8 + 1) as f64
    }
}
