use super::UncertainPoints;
use crate::Real;
use crate::check::noise;

/// Makes the same selection by a full sort.
fn by_sorting<T: Real>(s: &UncertainPoints, logits: &[T], points: &[T], random: &[T]) -> Vec<T> {
    let mut out = Vec::new();
    for i in 0..s.r {
        let row = &logits[i * s.n_over..][..s.n_over];
        let mut order: Vec<usize> = (0..s.n_over).collect();
        order.sort_by(|&a, &b| row[a].abs().partial_cmp(&row[b].abs()).unwrap().then(a.cmp(&b)));
        order.truncate(s.keep);
        order.sort_unstable();
        for j in order {
            out.extend_from_slice(&points[(i * s.n_over + j) * 2..][..2]);
        }
        out.extend_from_slice(&random[i * s.n_rand * 2..][..s.n_rand * 2]);
    }
    out
}

fn check<T: Real>(s: UncertainPoints) {
    // Rounded, so that many candidates tie.
    let logits: Vec<T> =
        noise::<T>(s.r * s.n_over, 1).iter().map(|v| (*v * T::of(50.0)).floor()).collect();
    let points = noise::<T>(s.r * s.n_over * 2, 2);
    let random = noise::<T>(s.r * s.n_rand * 2, 3);
    let mut out = vec![T::of(9.0); s.r * (s.keep + s.n_rand) * 2];
    s.select(&logits, &points, &random, &mut out).unwrap();
    assert_eq!(out, by_sorting(&s, &logits, &points, &random));
}

#[test]
fn keeps_what_a_full_sort_keeps() {
    for (r, n_over, keep, n_rand) in
        [(1, 1, 1, 0), (3, 7, 0, 2), (2, 13, 13, 1), (3, 101, 25, 9), (2, 37632, 9408, 3136)]
    {
        let s = UncertainPoints { r, n_over, keep, n_rand };
        check::<f32>(s);
        check::<f64>(s);
    }
}

#[test]
fn a_nan_is_selected_last() {
    let s = UncertainPoints { r: 1, n_over: 3, keep: 2, n_rand: 0 };
    let points = [0.1f32, 0.1, 0.2, 0.2, 0.3, 0.3];
    let mut out = [0.0; 4];
    s.select(&[f32::NAN, 5.0, -f32::INFINITY], &points, &[], &mut out).unwrap();
    assert_eq!(out, [0.2, 0.2, 0.3, 0.3]);
}

#[test]
fn keeping_more_than_there_are_is_refused() {
    let s = UncertainPoints { r: 1, n_over: 1, keep: 2, n_rand: 0 };
    let error = s.select(&[0.0f32], &[0.0; 2], &[], &mut [0.0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "uncertain_points: 2 of 1 points cannot be kept");
}
