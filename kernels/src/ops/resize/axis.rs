//! Tap tables: the inputs that each output of one axis reads, with their weights.

use std::sync::Arc;

use crate::{KernelError, Result};

/// Interpolation rule of one axis (spec backbones §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Two taps; the source coordinate is clamped to at least 0, the upper neighbour to the last
    /// index.
    Bilinear,
    /// Four taps of the cubic kernel with a = -0.75. Indices are clamped, the coordinate is not. No
    /// antialiasing.
    Bicubic,
    /// Cubic kernel with a = -0.5, stretched when the axis shrinks, weights normalised to sum 1.
    BicubicAntialias,
    /// One tap: the input pixel in which the output pixel begins.
    Nearest,
}

/// Distance between two neighbouring outputs in input pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// `n_in / n_out`: resampling to an output size.
    Size,
    /// `1 / f`: resampling by the scale factor `f`; the output size is then `floor(n_in * f)`.
    Factor(f64),
}

/// Sparse matrix `[n_out, n_in]` with a few entries per row.
///
/// Rows are padded to `width` entries with weight 0 and an index that the row reads anyway, so that
/// loops over all outputs need no branch. `count` is the number of real entries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taps {
    pub n_in: usize,
    pub n_out: usize,
    pub width: usize,
    pub count: Vec<u32>,
    /// `[n_out, width]`
    pub index: Vec<u32>,
    /// `[n_out, width]`
    pub weight: Vec<f64>,
    /// `[width, n_out]`: the layout for loops along the outputs.
    pub index_by_tap: Vec<u32>,
    /// `[width, n_out]`
    pub weight_by_tap: Vec<f32>,
}

impl Taps {
    fn new(n_in: usize, rows: &[Vec<(usize, f64)>]) -> Taps {
        let n_out = rows.len();
        let width = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let mut taps = Taps {
            n_in,
            n_out,
            width,
            count: rows.iter().map(|r| r.len() as u32).collect(),
            index: vec![0; n_out * width],
            weight: vec![0.0; n_out * width],
            index_by_tap: vec![0; n_out * width],
            weight_by_tap: vec![0.0; n_out * width],
        };
        for (j, row) in rows.iter().enumerate() {
            let last = row.last().map_or(0, |tap| tap.0);
            for k in 0..width {
                let (i, w) = row.get(k).copied().unwrap_or((last, 0.0));
                taps.index[j * width + k] = i as u32;
                taps.weight[j * width + k] = w;
                taps.index_by_tap[k * n_out + j] = i as u32;
                taps.weight_by_tap[k * n_out + j] = w as f32;
            }
        }
        taps
    }

    /// Input indices and weights of output `j`.
    pub fn row(&self, j: usize) -> (&[u32], &[f64]) {
        let row = j * self.width..j * self.width + self.count[j] as usize;
        (&self.index[row.clone()], &self.weight[row])
    }
}

/// Taps of one axis in both directions. Clones share the tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub(super) forward: Arc<Taps>,
    /// Transposed table, which the backward pass gathers with.
    pub(super) backward: Arc<Taps>,
    /// Parameters that determine both tables.
    pub(super) numbers: [u64; 4],
}

impl Axis {
    /// Taps that resample `n_in` inputs to `n_out` outputs. Coordinates and weights are computed in
    /// f64.
    ///
    /// # Errors
    /// A size of 0 or above 2^31, a factor that is not positive and finite, or one whose
    /// `floor(n_in * f)` is not `n_out`.
    pub fn new(n_in: usize, n_out: usize, mode: Mode, step: Step) -> Result<Axis> {
        let fail = |what: String| Err(KernelError::Size { op: "resize", what });
        if n_in == 0 || n_out == 0 || n_in.max(n_out) > i32::MAX as usize {
            return fail(format!("an axis of {n_in} cannot become one of {n_out}"));
        }
        let step = match step {
            Step::Size => n_in as f64 / n_out as f64,
            Step::Factor(f) => {
                if !(f.is_finite() && f > 0.0) {
                    return fail(format!("the scale factor is {f}"));
                }
                let want = (n_in as f64 * f).floor();
                if want != n_out as f64 {
                    return fail(format!("{n_in} times {f} gives {want} pixels, not {n_out}"));
                }
                1.0 / f
            }
        };
        Ok(Axis::tabulate(n_in, n_out, mode, step))
    }

    /// Taps for positive sizes and a distance of `step` input pixels between outputs.
    pub(crate) fn tabulate(n_in: usize, n_out: usize, mode: Mode, step: f64) -> Axis {
        let rows: Vec<_> = (0..n_out)
            .map(|j| {
                merge(match mode {
                    Mode::Bilinear => bilinear(n_in, step * (j as f64 + 0.5) - 0.5),
                    Mode::Bicubic => bicubic(n_in, step * (j as f64 + 0.5) - 0.5),
                    Mode::BicubicAntialias => antialias(n_in, step * (j as f64 + 0.5), step),
                    Mode::Nearest => vec![(((step * j as f64) as usize).min(n_in - 1), 1.0)],
                })
            })
            .collect();
        let mut columns = vec![Vec::new(); n_in];
        for (j, row) in rows.iter().enumerate() {
            for &(i, w) in row {
                columns[i].push((j, w));
            }
        }
        let numbers = [n_in as u64, n_out as u64, mode as u64, step.to_bits()];
        let (forward, backward) = (Taps::new(n_in, &rows), Taps::new(n_out, &columns));
        Axis { forward: forward.into(), backward: backward.into(), numbers }
    }

    /// Input length.
    pub fn n_in(&self) -> usize {
        self.forward.n_in
    }

    /// Output length.
    pub fn n_out(&self) -> usize {
        self.forward.n_out
    }

    /// Input indices and weights that output `j` reads, in ascending order of the index.
    ///
    /// # Panics
    /// If `j` is not below [`Axis::n_out`].
    pub fn taps(&self, j: usize) -> (&[u32], &[f64]) {
        self.forward.row(j)
    }
}

/// Adds the weights of taps that clamping moved to the same index and drops zero weights.
fn merge(taps: Vec<(usize, f64)>) -> Vec<(usize, f64)> {
    let mut merged: Vec<(usize, f64)> = Vec::with_capacity(taps.len());
    for (i, w) in taps {
        match merged.last_mut() {
            Some(last) if last.0 == i => last.1 += w,
            _ => merged.push((i, w)),
        }
    }
    merged.retain(|tap| tap.1 != 0.0);
    merged
}

fn bilinear(n: usize, u: f64) -> Vec<(usize, f64)> {
    let u = u.max(0.0);
    let i = (u.floor() as usize).min(n - 1);
    let t = u - i as f64;
    vec![(i, 1.0 - t), ((i + 1).min(n - 1), t)]
}

/// Cubic convolution kernel with parameter `a` at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

fn bicubic(n: usize, u: f64) -> Vec<(usize, f64)> {
    let i = u.floor();
    let clamp = |k: f64| k.clamp(0.0, (n - 1) as f64) as usize;
    (-1..=2).map(f64::from).map(|k| (clamp(i + k), cubic(i + k - u, -0.75))).collect()
}

fn antialias(n: usize, centre: f64, step: f64) -> Vec<(usize, f64)> {
    let stretch = step.max(1.0);
    let support = 2.0 * stretch;
    // The casts truncate towards zero, as the rule requires; negative values become 0.
    let first = (centre - support + 0.5) as usize;
    let end = ((centre + support + 0.5) as usize).min(n);
    let weight = |k: usize| cubic((k as f64 - centre + 0.5) / stretch, -0.5);
    let total: f64 = (first..end).map(weight).sum();
    (first..end).map(|k| (k, weight(k) / total)).collect()
}
