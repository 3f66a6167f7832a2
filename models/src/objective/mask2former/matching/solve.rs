//! Shortest augmenting paths over a matrix with at most as many rows as columns.

/// Result of [`solve`].
pub(super) struct Solution {
    /// `[n]`: column of each row.
    pub column_of: Vec<usize>,
    /// `[n]`.
    pub row_price: Vec<f64>,
    /// `[m]`: at most zero, zero for columns without a row.
    pub column_price: Vec<f64>,
}

/// Marks a column without a row.
const FREE: usize = usize::MAX;

/// State of the search, reused between rows to avoid allocations.
struct Search {
    /// `[m]`: row of each column.
    row_of: Vec<usize>,
    row_price: Vec<f64>,
    column_price: Vec<f64>,
    /// `[m]`: length of the shortest path known to each column.
    distance: Vec<f64>,
    /// `[m]`: previous column on that path; `FREE` if it comes directly from the entering row.
    before: Vec<usize>,
    /// `[m]`: whether the path to the column is final.
    done: Vec<bool>,
}

/// Assigns each of `n` rows a distinct column of `m >= n`, at the least sum of `cost(row, column)`.
pub(super) fn solve(n: usize, m: usize, cost: impl Fn(usize, usize) -> f64) -> Solution {
    debug_assert!(n <= m, "rows must be the smaller side");
    let mut search = Search {
        row_of: vec![FREE; m],
        row_price: vec![0.0; n],
        column_price: vec![0.0; m],
        distance: vec![0.0; m],
        before: vec![FREE; m],
        done: vec![false; m],
    };
    for row in 0..n {
        let end = search.shortest_path(row, &cost);
        search.flip(row, end);
    }
    let mut column_of = vec![0; n];
    for (column, &row) in search.row_of.iter().enumerate() {
        if row != FREE {
            column_of[row] = column;
        }
    }
    let Search { row_price, column_price, .. } = search;
    Solution { column_of, row_price, column_price }
}

impl Search {
    /// Grows shortest paths from `start` until one ends at a free column, and returns this column.
    /// Updates the prices so that all reduced costs stay at or above zero and those of the path are
    /// zero.
    fn shortest_path(&mut self, start: usize, cost: &impl Fn(usize, usize) -> f64) -> usize {
        self.distance.fill(f64::INFINITY);
        self.before.fill(FREE);
        self.done.fill(false);
        let (mut row, mut via, mut length) = (start, FREE, 0.0);
        let end = loop {
            let mut best = FREE;
            for column in 0..self.row_of.len() {
                if self.done[column] {
                    continue;
                }
                let reduced = cost(row, column) - self.row_price[row] - self.column_price[column];
                if length + reduced < self.distance[column] {
                    self.distance[column] = length + reduced;
                    self.before[column] = via;
                }
                // Strictly less, so that the lowest index wins a tie on every machine.
                if best == FREE || self.distance[column] < self.distance[best] {
                    best = column;
                }
            }
            self.done[best] = true;
            length = self.distance[best];
            if self.row_of[best] == FREE {
                break best;
            }
            (row, via) = (self.row_of[best], best);
        };
        self.row_price[start] += length;
        for column in 0..self.row_of.len() {
            if self.done[column] && column != end {
                self.row_price[self.row_of[column]] += length - self.distance[column];
                self.column_price[column] -= length - self.distance[column];
            }
        }
        end
    }

    /// Assigns each column of the path to the row before it.
    fn flip(&mut self, start: usize, end: usize) {
        let mut column = end;
        while self.before[column] != FREE {
            let before = self.before[column];
            self.row_of[column] = self.row_of[before];
            column = before;
        }
        self.row_of[column] = start;
    }
}
