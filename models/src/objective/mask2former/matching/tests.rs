use super::*;

fn problem(queries: usize, targets: usize, costs: &[f32]) -> Costs<'_> {
    Costs { layer: 3, image: 1, queries, targets, costs }
}

fn solve(queries: usize, targets: usize, costs: &[f32]) -> Assignment {
    match_queries(problem(queries, targets, costs)).expect("finite costs")
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    dressage_kernels::check::noise(n, seed)
}

/// Least cost of assigning each of `n` rows a distinct column of `m`, by trying all.
fn brute_force(n: usize, m: usize, cost: &dyn Fn(usize, usize) -> f64) -> f64 {
    fn from(row: usize, n: usize, used: &mut Vec<bool>, cost: &dyn Fn(usize, usize) -> f64) -> f64 {
        if row == n {
            return 0.0;
        }
        let mut best = f64::INFINITY;
        for column in 0..used.len() {
            if !used[column] {
                used[column] = true;
                best = best.min(cost(row, column) + from(row + 1, n, used, cost));
                used[column] = false;
            }
        }
        best
    }
    from(0, n, &mut vec![false; m], cost)
}

/// Checks that pairs are one to one and complete, and that the prices prove the least total.
fn certify(queries: usize, targets: usize, costs: &[f32], a: &Assignment) {
    let pairs = a.pairs();
    assert_eq!(pairs.len(), queries.min(targets));
    assert!(pairs.windows(2).all(|w| w[0].0 < w[1].0), "a query is paired twice: {pairs:?}");
    let slack = 1e-9 * costs.iter().fold(1.0_f64, |s, c| s.max(f64::from(c.abs())));
    for q in 0..queries {
        for t in 0..targets {
            let reduced = f64::from(costs[q * targets + t]) - a.query_price[q] - a.target_price[t];
            assert!(reduced >= -slack, "query {q}, target {t}: reduced cost {reduced}");
            if a.query_of[t] == Some(q) {
                assert!(reduced <= slack, "chosen pair {q}, {t} has reduced cost {reduced}");
            }
        }
    }
    let larger = if targets <= queries { &a.query_price } else { &a.target_price };
    assert!(larger.iter().all(|&p| p <= slack), "a price of the larger side is positive");
    let prices: f64 = a.query_price.iter().chain(&a.target_price).sum();
    let bound = slack * (queries + targets) as f64;
    assert!((prices - a.total).abs() <= bound, "prices {prices}, total {}", a.total);
}

#[test]
fn agrees_with_brute_force_in_both_directions() {
    for queries in 1..=7 {
        for targets in 1..=5 {
            for seed in 0..6 {
                let mut costs =
                    noise(queries * targets, seed + 100 * (queries * 8 + targets) as u64);
                if seed % 2 == 1 {
                    // Few distinct values give many ties.
                    costs.iter_mut().for_each(|c| *c = (*c * 2.0).round());
                }
                let a = solve(queries, targets, &costs);
                let at = |q: usize, t: usize| f64::from(costs[q * targets + t]);
                let want = if targets <= queries {
                    brute_force(targets, queries, &|t, q| at(q, t))
                } else {
                    brute_force(queries, targets, &at)
                };
                assert!((a.total - want).abs() < 1e-9, "{queries}x{targets}: {} {want}", a.total);
                certify(queries, targets, &costs, &a);
            }
        }
    }
}

/// Spec mask2former §8.
#[test]
fn golden_example_of_the_reference() {
    let costs = [2.1937, 7.6307, 8.0287, 6.2519, 4.6173, 4.7991];
    let a = solve(3, 2, &costs);
    assert_eq!(a.query_of, [Some(0), Some(2)]);
    assert_eq!(a.pairs(), [(0, 0), (2, 1)]);
    assert!((a.total - (2.1937 + 4.7991)).abs() < 1e-6);
}

#[test]
fn prices_prove_large_problems() {
    for (queries, targets, scale) in
        [(100, 19, 1.0), (100, 100, 1e6), (19, 100, 1e-6), (301, 7, 40.0)]
    {
        let mut costs = noise(queries * targets, queries as u64);
        costs.iter_mut().for_each(|c| *c *= scale);
        certify(queries, targets, &costs, &solve(queries, targets, &costs));
    }
}

#[test]
fn greedy_choice_would_be_wrong() {
    // Query 0 is the cheapest for both targets; giving it to target 0 first costs 1 + 100.
    let a = solve(2, 2, &[1.0, 2.0, 3.0, 100.0]);
    assert_eq!(a.query_of, [Some(1), Some(0)]);
}

#[test]
fn ties_go_to_the_lowest_index() {
    let a = solve(6, 3, &[0.25; 18]);
    assert_eq!(a.query_of, [Some(0), Some(1), Some(2)]);
    let a = solve(2, 4, &[-1.0; 8]);
    assert_eq!(a.query_of, [Some(0), Some(1), None, None]);
}

#[test]
fn nothing_to_match() {
    let a = solve(100, 0, &[]);
    assert!(a.query_of.is_empty() && a.pairs().is_empty());
    assert_eq!(a.total, 0.0);
    assert_eq!(solve(0, 2, &[]).query_of, [None, None]);
}

#[test]
fn a_cost_that_is_no_number_is_named() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut costs = noise(12, 1);
        costs[7] = value;
        let error = match_queries(problem(4, 3, &costs)).expect_err("must be refused");
        let text = error.to_string();
        assert!(
            matches!(error, MatchError::NotFinite { layer: 3, image: 1, query: 2, target: 1, .. }),
            "{text}"
        );
        assert!(text.contains("query 2") && text.contains("image 1"), "{text}");
    }
}

#[test]
fn a_matrix_of_another_size_is_refused() {
    let error = match_queries(problem(4, 3, &[0.0; 11])).expect_err("must be refused");
    assert!(error.to_string().contains("11 elements"), "{error}");
}

#[test]
fn a_batch_gives_the_same_as_one_at_a_time() {
    let costs: Vec<Vec<f32>> = (0..20).map(|i| noise(30 * (i % 5), i as u64)).collect();
    let problems: Vec<_> = costs.iter().map(|c| problem(30, c.len() / 30, c)).collect();
    let all = match_all(&problems).expect("finite costs");
    for (one, p) in all.iter().zip(&problems) {
        assert_eq!(*one, match_queries(*p).expect("finite costs"));
    }
    let bad = [f32::NAN; 4];
    let mut problems = problems;
    problems.insert(2, Costs { layer: 7, image: 0, queries: 4, targets: 1, costs: &bad });
    problems.push(problem(4, 1, &bad));
    let error = match_all(&problems).expect_err("must be refused");
    assert!(matches!(error, MatchError::NotFinite { layer: 7, query: 0, .. }), "{error}");
}
