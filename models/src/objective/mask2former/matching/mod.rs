//! Exact minimum-cost assignment of queries to targets on the CPU.
//!
//! ```text
//! minimise  sum over pairs (q, t) of cost[q, t]
//! ```
//! over all ways to pair every member of the smaller side with a distinct member of the larger
//! side. The smaller side is usually the targets: at most 19, compared with 100 queries. Source:
//! spec mask2former §4.3, step 4.
//!
//! Method: shortest augmenting paths with prices (Jonker and Volgenant 1987, without their column
//! reduction). One row of the smaller side enters at a time. Dijkstra's scan finds the cheapest
//! path of reduced costs `cost - price - price` to a free column, and the pairs along it are
//! flipped. The time is O(n^2 m) for n <= m: 100 queries and 19 targets read at most 19,000 reduced
//! costs. An auction or a greedy pass would be shorter, but not exact.
//!
//! The prices prove the result. No pair has a negative reduced cost, and every chosen pair has
//! zero. The larger side's prices are at most zero, and zero where nothing was paired. So no other
//! assignment can be cheaper.
//!
//! Costs are f32 and all arithmetic is f64 additions and comparisons, so every platform finds the
//! same pairs. Among equally cheap columns the scan takes the lowest index; with all costs equal,
//! target `t` gets query `t`.

mod solve;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

/// Reason why there is no assignment.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MatchError {
    /// A cost that is NaN or infinite: its prediction left the range of f32.
    #[error(
        "matching: cost of query {query} and target {target} is {value} \
         (prediction {layer}, image {image} of the batch)"
    )]
    NotFinite {
        /// Prediction, 0 = before the first decoder layer.
        layer: usize,
        /// Image of the batch.
        image: usize,
        /// Row.
        query: usize,
        /// Column.
        target: usize,
        /// The cost found.
        value: f32,
    },
    /// A cost matrix whose number of elements is not queries times targets.
    #[error(
        "matching: costs of prediction {layer}, image {image} have {found} elements, \
         {queries} queries and {targets} targets need {}", queries * targets
    )]
    Length {
        /// Prediction.
        layer: usize,
        /// Image of the batch.
        image: usize,
        /// Rows.
        queries: usize,
        /// Columns.
        targets: usize,
        /// Elements found.
        found: usize,
    },
}

/// The costs of one prediction for one image.
#[derive(Debug, Clone, Copy)]
pub struct Costs<'a> {
    /// Prediction, 0 = before the first decoder layer; used in errors only.
    pub layer: usize,
    /// Image of the batch; used in errors only.
    pub image: usize,
    /// Rows.
    pub queries: usize,
    /// Columns.
    pub targets: usize,
    /// `[queries, targets]`, row-major.
    pub costs: &'a [f32],
}

/// The cheapest assignment and the prices that prove it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// `[targets]`: the query of each target; `None` only where there are more targets than
    /// queries.
    pub query_of: Vec<Option<usize>>,
    /// Sum of the chosen costs.
    pub total: f64,
    /// `[queries]`. With [`Assignment::target_price`], `query_price[q] + target_price[t] <= cost[q,
    /// t]` for all pairs, up to rounding, with equality for the chosen pairs.
    pub query_price: Vec<f64>,
    /// `[targets]`.
    pub target_price: Vec<f64>,
}

impl Assignment {
    /// The `(query, target)` pairs by ascending query, the order of the losses (spec mask2former
    /// §4.4).
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(usize, usize)> =
            self.query_of.iter().enumerate().filter_map(|(t, q)| q.map(|q| (q, t))).collect();
        pairs.sort_unstable();
        pairs
    }
}

/// Pairs queries with targets at the least total cost. Without targets nothing is paired.
///
/// # Errors
/// [`MatchError::Length`]; [`MatchError::NotFinite`] with the first such cost in row-major order.
pub(crate) fn match_queries(problem: Costs<'_>) -> Result<Assignment, MatchError> {
    let Costs { layer, image, queries, targets, costs } = problem;
    if Some(costs.len()) != queries.checked_mul(targets) {
        let found = costs.len();
        return Err(MatchError::Length { layer, image, queries, targets, found });
    }
    if let Some(i) = costs.iter().position(|c| !c.is_finite()) {
        let (query, target, value) = (i / targets, i % targets, costs[i]);
        return Err(MatchError::NotFinite { layer, image, query, target, value });
    }
    let mut query_of = vec![None; targets];
    let solution = if targets <= queries {
        let s = solve::solve(targets, queries, |t, q| f64::from(costs[q * targets + t]));
        for (t, &q) in s.column_of.iter().enumerate() {
            query_of[t] = Some(q);
        }
        solve::Solution { row_price: s.column_price, column_price: s.row_price, ..s }
    } else {
        let s = solve::solve(queries, targets, |q, t| f64::from(costs[q * targets + t]));
        for (q, &t) in s.column_of.iter().enumerate() {
            query_of[t] = Some(q);
        }
        s
    };
    let total = query_of.iter().enumerate();
    let total = total.filter_map(|(t, q)| q.map(|q| f64::from(costs[q * targets + t]))).sum();
    let (query_price, target_price) = (solution.row_price, solution.column_price);
    Ok(Assignment { query_of, total, query_price, target_price })
}

/// [`match_queries`] for all predictions and images of a step, on all threads of the current pool.
///
/// # Errors
/// The error of the first failing problem in list order, whatever the order of the threads.
pub(crate) fn match_all(problems: &[Costs<'_>]) -> Result<Vec<Assignment>, MatchError> {
    let results: Vec<_> = problems.par_iter().map(|p| match_queries(*p)).collect();
    results.into_iter().collect()
}
