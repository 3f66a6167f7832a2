use super::{Pairs, Rotary, Rotate, Turn, centred_table, periods, table};
use crate::call::{Call, Host};
use crate::check::{central_differences, noise, weighted_sum};

const SIZE: Rotary = Rotary {
    b: 2,
    t: 7,
    heads: 3,
    d: 8,
    skip: 1,
    cells: 6,
    pairs: Pairs::Neighbours,
    turn: Turn::Forward,
};

fn rotate(s: &Rotary, qkv: &mut [f64], table: &[f64], turn: Turn) {
    Rotate::<Host, _> { qkv, table }.run(&Rotary { turn, ..*s }).unwrap();
}

fn angles(s: &Rotary) -> Vec<f64> {
    let turn = |x: f64| [(5.0 * x).cos(), (5.0 * x).sin()];
    noise::<f64>((s.t - s.skip) * s.d / 2, 9).into_iter().flat_map(turn).collect()
}

#[test]
fn the_gradient_is_the_inverse_rotation() {
    for pairs in [Pairs::Neighbours, Pairs::Halves] {
        let (s, table) = (Rotary { pairs, ..SIZE }, angles(&SIZE));
        let x = noise::<f64>(s.b * s.t * 3 * s.heads * s.d, 1);
        let dy = noise::<f64>(x.len(), 2);
        let mut dx = dy.clone();
        rotate(&s, &mut dx, &table, Turn::Back);
        central_differences("rotary", std::slice::from_ref(&x), &[dx], |x| {
            let mut y = x[0].clone();
            rotate(&s, &mut y, &table, Turn::Forward);
            weighted_sum(&y, &dy)
        });
    }
}

/// Values of spec dinov3 §3: the upper left patch of a grid of 2 by 2, heads of 64 channels.
#[test]
fn angles_of_halves_are_those_of_the_authors() {
    let periods = periods(64);
    assert_eq!((periods.len(), periods[0]), (16, 1.0));
    assert!((periods[15] - 74.98942).abs() < 1e-5);
    let table = centred_table([2, 2], &periods);
    assert_eq!(table.len(), 4 * 64);
    let pi = std::f64::consts::PI;
    let fifth = -pi / 3.162_277_660_168;
    for (pair, angle) in [(0, -pi), (4, fifth), (16, -pi), (20, fifth)] {
        let [cos, sin] = [table[2 * pair], table[2 * pair + 1]];
        assert!((cos - angle.cos()).abs() < 1e-9 && (sin - angle.sin()).abs() < 1e-9);
    }
}

#[test]
fn tokens_behind_the_patches_stay() {
    let s = Rotary { cells: 4, ..SIZE };
    let table = angles(&Rotary { t: 5, ..s });
    let row = 3 * s.heads * s.d;
    let x = noise::<f64>(s.b * s.t * row, 1);
    let mut y = x.clone();
    rotate(&s, &mut y, &table, Turn::Forward);
    for token in 0..s.b * s.t {
        let same = x[token * row..][..row] == y[token * row..][..row];
        assert_eq!(same, !(1..5).contains(&(token % s.t)), "token {token}");
    }
}

#[test]
fn values_and_the_first_tokens_stay() {
    let (s, table) = (SIZE, angles(&SIZE));
    let row = s.heads * s.d;
    let x = noise::<f64>(s.b * s.t * 3 * row, 1);
    let mut y = x.clone();
    rotate(&s, &mut y, &table, Turn::Forward);
    for (i, (x, y)) in x.iter().zip(&y).enumerate() {
        let (token, part) = (i / (3 * row) % s.t, i / row % 3);
        assert_eq!(x == y, token < s.skip || part == 2, "element {i}");
    }
    rotate(&s, &mut y, &table, Turn::Back);
    assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-14));
}

/// Checks the purpose of the rotation: the score of a query and a key depends only on their
/// distance.
#[test]
fn scores_depend_on_distance_alone() {
    let (d, grid) = (8, [3, 5]);
    let table = table(grid, 16, d).unwrap();
    let (q, k) = (noise::<f64>(d, 1), noise::<f64>(d, 2));
    let turned = |x: &[f64], cell: usize| {
        let s = Rotary { b: 1, t: 1, heads: 1, d, skip: 0, cells: 1, ..SIZE };
        let mut qkv = [x, x, x].concat();
        rotate(&s, &mut qkv, &table[cell * d..][..d], Turn::Forward);
        qkv[..d].to_vec()
    };
    let score = |i: usize, j: usize| weighted_sum(&turned(&q, i), &turned(&k, j));
    // One row down and two columns to the right, from two positions.
    assert!((score(0, 7) - score(6, 13)).abs() < 1e-13);
    assert!((score(0, 7) - score(0, 8)).abs() > 1e-3);
}

#[test]
fn the_table_is_that_of_the_formula() {
    // Spec backbones §4.4: 16 frequencies per axis at d = 64, t = j / 32 * 16.
    let table = table([32, 32], 16, 64).unwrap();
    let at = |cell: usize, pair: usize| table[(cell * 32 + pair) * 2..][..2].to_vec();
    let angle = |x: f64| vec![x.cos(), x.sin()];
    assert_eq!(at(0, 5), angle(0.0));
    // Row 3, column 6.
    let cell = 3 * 32 + 6;
    assert_eq!(at(cell, 0), angle(1.5));
    assert_eq!(at(cell, 16), angle(3.0));
    let f = 10_000f64.powf(-2.0 * 5.0 / 32.0);
    let [cos, sin] = [at(cell, 21)[0], at(cell, 21)[1]];
    assert!((cos - (3.0 * f).cos()).abs() < 1e-15 && (sin - (3.0 * f).sin()).abs() < 1e-15);
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let says = |s: Rotary, sentence: &str| {
        let error = Rotate::<Host, f32>::default().run(&s).unwrap_err();
        assert_eq!(error.to_string(), sentence);
    };
    says(Rotary { d: 3, ..SIZE }, "rotary: heads of 3 channels do not divide into pairs");
    says(Rotary { skip: 8, ..SIZE }, "rotary: cannot rotate 6 tokens behind 8 of 7");
    let error = table([2, 2], 16, 6).unwrap_err().to_string();
    assert_eq!(error, "rotary: heads of 6 channels do not divide into pairs for two axes");
}
