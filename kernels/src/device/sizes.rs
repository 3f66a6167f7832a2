//! Grids that several operations share, and checks of sizes and addresses.

use super::Grid;
use crate::{KernelError, Result};

/// Checks that a size is below 2^31, as kernels require. It is then the same number signed or not,
/// and the sum of two sizes, such as the end of a row split, does not wrap around.
///
/// # Errors
/// A larger size.
pub(crate) fn small(op: &'static str, name: &'static str, n: usize) -> Result<u32> {
    i32::try_from(n).map(i32::unsigned_abs).map_err(|_| KernelError::Size {
        op,
        what: format!("{name} is {n}; a GPU kernel takes up to 2147483647"),
    })
}

/// Fails unless each address is a multiple of 16. Used for kernels that move 16 bytes at a time for
/// all sizes.
///
/// # Errors
/// The name of the first misaligned operand.
pub(crate) fn aligned(op: &'static str, all: &[(&'static str, u64)]) -> Result<()> {
    match all.iter().find(|(_, address)| !address.is_multiple_of(16)) {
        None => Ok(()),
        Some((name, _)) => {
            let what = format!("{name} does not begin at a multiple of 16 bytes; copy it");
            Err(KernelError::Size { op, what })
        }
    }
}

/// Elements of a vector of `vectors.cuh`.
const VECTOR: usize = 8;

/// Threads of a block of `vectors.cuh` and `columns.cuh`, and of [`each`].
const THREADS: u32 = 256;

/// Rows of the 2-D tile of a block. Four for each of its warps pay for loading the data that
/// depends on the column.
const TILE_ROWS: usize = 32;

/// Largest number of blocks along y.
const MOST: usize = 65535;

/// Grid of a kernel with one thread for each of `n` items.
pub(crate) fn each(n: usize) -> Grid {
    Grid::line(n, THREADS as usize, THREADS)
}

/// Grid of a flat kernel over `n` elements.
pub(crate) fn flat(n: usize) -> Grid {
    Grid::line(n, VECTOR * THREADS as usize, THREADS)
}

/// Grid of a kernel in 2-D tiles over `[n, c]`, and the rows of a tile.
pub(crate) fn tile2d(n: usize, c: usize) -> (Grid, usize) {
    let rows = TILE_ROWS.max(n.div_ceil(MOST));
    let blocks = [c.div_ceil(32 * VECTOR), n.div_ceil(rows), 1];
    (Grid::new(blocks, [THREADS, 1, 1]), rows)
}

/// Split of a sum over rows, by the number of rows only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowSplit {
    /// Rows of each but the last.
    pub rows: usize,
    /// Number of parts.
    pub count: usize,
}

impl RowSplit {
    /// Splits `n` rows into at most 128 parts of at least 64 rows, eight for each warp. With eight
    /// blocks of columns, as for 256 channels, that is six blocks for each multiprocessor of an
    /// H200.
    pub fn of(n: usize) -> RowSplit {
        let rows = n.div_ceil(128).max(64);
        RowSplit { rows, count: n.div_ceil(rows) }
    }

    /// Grid of the first pass over `c` columns.
    pub fn grid(&self, c: usize) -> Grid {
        Grid::new([c.div_ceil(32), self.count, 1], [THREADS, 1, 1])
    }

    /// Additions on the path of one element through both passes, for error bounds. They are: rows
    /// of a warp, warps, splits of a warp, warps, and the previous value.
    pub fn depth(&self) -> f64 {
        (self.rows.div_ceil(8) + 8 + self.count.div_ceil(8) + 8 + 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn sizes_that_kernels_cannot_count_are_named() {
        assert_eq!(small("add", "n", (1 << 31) - 1), Ok((1 << 31) - 1));
        let error = small("add", "n", 1 << 31).unwrap_err();
        let want = "add: n is 2147483648; a GPU kernel takes up to 2147483647";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn operands_that_begin_between_accesses_are_named() {
        let device = Device::virtual_gpu();
        let x = device.zeros::<f32>("x", 8).unwrap();
        let address = |at: usize| x.view().slice(at..8).address();
        assert_eq!(aligned("add", &[("x", address(4)), ("y", 0)]), Ok(()));
        let error = aligned("add", &[("x", address(4)), ("y", address(3))]).unwrap_err();
        let want = "add: y does not begin at a multiple of 16 bytes; copy it";
        assert_eq!(error.to_string(), want);
    }
}
