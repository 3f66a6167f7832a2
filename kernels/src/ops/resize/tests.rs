use super::{Axis, Forward, Mode, Resize, Step};
use crate::call::{Call, Host};
use crate::check::noise;

const MODES: [Mode; 4] = [Mode::Bilinear, Mode::Bicubic, Mode::BicubicAntialias, Mode::Nearest];

/// Input, output, step: identity, one pixel on either side, up, down, primes, the run-time step of
/// DINOv2.
const AXES: [(usize, usize, Step); 9] = [
    (5, 5, Step::Size),
    (1, 4, Step::Size),
    (7, 1, Step::Size),
    (3, 7, Step::Size),
    (13, 5, Step::Size),
    (4, 16, Step::Factor(4.0)),
    (7, 3, Step::Factor(0.5)),
    (37, 32, Step::Size),
    (37, 32, Step::Factor(32.1 / 37.0)),
];

fn axis(n_in: usize, n_out: usize, mode: Mode, step: Step) -> Axis {
    Axis::new(n_in, n_out, mode, step).unwrap()
}

#[test]
fn weights_of_an_output_sum_to_one() {
    for mode in MODES {
        for (i, o, step) in AXES {
            let a = axis(i, o, mode, step);
            for j in 0..o {
                let total: f64 = a.taps(j).1.iter().sum();
                assert!((total - 1.0).abs() < 1e-12, "{mode:?} {i}->{o}, output {j}: {total}");
            }
        }
    }
}

#[test]
fn bicubic_halfway_taps_are_those_of_the_spec() {
    // 8 -> 4 samples at 2 j + 0.5: halfway, and output 1 is clear of both borders.
    let a = axis(8, 4, Mode::Bicubic, Step::Size);
    assert_eq!(a.taps(1), (&[1, 2, 3, 4][..], &[-0.09375, 0.59375, 0.59375, -0.09375][..]));
    // Output 0 reads -1, 0, 1, 2 of which -1 is clamped to 0.
    assert_eq!(a.taps(0), (&[0, 1, 2][..], &[0.5, 0.59375, -0.09375][..]));
}

#[test]
fn halving_is_the_mean_of_pairs() {
    for n in [8, 9] {
        let a = axis(n, n / 2, Mode::Bilinear, Step::Factor(0.5));
        for j in 0..n / 2 {
            assert_eq!(a.taps(j), (&[2 * j as u32, 2 * j as u32 + 1][..], &[0.5, 0.5][..]));
        }
    }
}

#[test]
fn a_scale_factor_moves_the_samples() {
    // Spec backbones §3.2: step 37/32.1 instead of 37/32.
    let a = axis(37, 32, Mode::Bilinear, Step::Factor(32.1 / 37.0));
    let u: f64 = 37.0 / 32.1 * 20.5 - 0.5;
    let (index, weight) = a.taps(20);
    assert_eq!(index, [u as u32, u as u32 + 1]);
    assert!((weight[1] - u.fract()).abs() < 1e-12);
}

#[test]
fn same_size_is_the_identity() {
    for mode in [Mode::Bilinear, Mode::Bicubic] {
        let a = axis(6, 6, mode, Step::Size);
        for j in 0..6 {
            assert_eq!(a.taps(j), (&[j as u32][..], &[1.0][..]));
        }
    }
}

#[test]
fn strips_of_rows_have_the_bits_of_the_whole() {
    for (h, ho, step) in AXES {
        let (n, c, wo) = (3, 1, 9);
        let (y, x) = (axis(h, ho, Mode::Bilinear, step), axis(5, wo, Mode::Bilinear, Step::Size));
        let s = Resize { n, c, y, x };
        let maps = noise::<f32>(s.input_len(), 1);
        let mut whole = vec![f32::NAN; s.output_len()];
        Forward::<Host, _> { x: &maps, y: &mut whole }.run(&s).unwrap();
        for from in 0..ho {
            let rows = from..ho.min(from + 2);
            let read = rows.clone().flat_map(|oy| s.y.taps(oy).0.to_vec());
            let first = read.clone().min().unwrap() as usize;
            let n_rows = read.max().unwrap() as usize + 1 - first;
            let strip: Vec<f32> = maps
                .chunks(h * 5)
                .flat_map(|map| map[first * 5..][..n_rows * 5].to_vec())
                .collect();
            let mut out = vec![f32::NAN; n * rows.len() * wo];
            s.forward_rows(rows.clone(), &strip, (first, n_rows), &mut out).unwrap();
            let part = |map: &[f32]| map[from * wo..rows.end * wo].to_vec();
            let want: Vec<f32> = whole.chunks(ho * wo).flat_map(part).collect();
            assert_eq!(out, want, "{h} to {ho}, rows {rows:?}");
            let less: Vec<f32> = maps.chunks(h * 5).flat_map(|map| map[..5].to_vec()).collect();
            if n_rows > 1 {
                assert!(s.forward_rows(rows, &less, (first, 1), &mut out).is_err());
            }
        }
    }
}

#[test]
fn impossible_sizes_are_refused() {
    assert!(Axis::new(0, 4, Mode::Bilinear, Step::Size).is_err());
    assert!(Axis::new(4, 0, Mode::Bilinear, Step::Size).is_err());
    assert!(Axis::new(4, 8, Mode::Bilinear, Step::Factor(f64::NAN)).is_err());
    let error = Axis::new(7, 4, Mode::Bilinear, Step::Factor(0.5)).unwrap_err();
    assert_eq!(error.to_string(), "resize: 7 times 0.5 gives 3 pixels, not 4");
}
