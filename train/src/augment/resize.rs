//! Sizes, bilinear images and nearest-neighbour labels, bitwise equal to OpenCV on 8-bit data.
//!
//! Source: spec training-and-data §2.1, §2.6, §2.7. The picture is resized in two passes with
//! integer weights of 11 bits; floats would differ by one in about an eighth of the pixels. Only
//! the window that the crop keeps is computed.

use crate::{Image, LabelMap};

/// A rectangle in the resized picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Left column.
    pub x: usize,
    /// Top row.
    pub y: usize,
    /// Width.
    pub w: usize,
    /// Height.
    pub h: usize,
}

/// `int(v + 0.5)` for `v >= 0`.
fn round_half_up(v: f64) -> usize {
    (v + 0.5) as usize
}

/// Size `(h, w)` of `h x w` scaled to fit the box `(a, b)`, with its aspect ratio kept. The long
/// side fits the long side of the box, the short side the short one; the smaller factor wins. Spec
/// training-and-data §3.
pub(crate) fn fit_box(h: usize, w: usize, a: usize, b: usize) -> (usize, usize) {
    let long = a.max(b) as f64 / h.max(w) as f64;
    let short = a.min(b) as f64 / h.min(w) as f64;
    let g = long.min(short);
    (round_half_up(h as f64 * g), round_half_up(w as f64 * g))
}

/// Size `(h, w)` of an `h x w` picture with shorter edge `s` and longer edge at most `max_edge`.
/// The keep-ratio step of the published pipeline follows, which may remove a pixel. Spec
/// training-and-data §2.1.
pub(crate) fn resized_size(h: usize, w: usize, s: usize, max_edge: usize) -> (usize, usize) {
    let (hf, wf, sf) = (h as f64, w as f64, s as f64);
    let f = sf / hf.min(wf);
    let (mut nh, mut nw) = if h < w { (sf, f * wf) } else { (f * hf, sf) };
    let long = nh.max(nw);
    if long > max_edge as f64 {
        let g = max_edge as f64 / long;
        nh *= g;
        nw *= g;
    }
    let (h1, w1) = (round_half_up(nh), round_half_up(nw));
    let (oh, ow) = fit_box(h, w, h1, w1);
    (oh.max(1), ow.max(1))
}

/// The sixteen shortest edges a recipe draws from: 0.5 to 2.0 times the crop in tenths, rounded
/// down.
pub(crate) fn shortest_edges(crop: usize) -> Vec<usize> {
    (5..=20).map(|k| crop * k / 10).collect()
}

/// Two neighbours of an output index and their weights out of 2048.
#[derive(Clone, Copy)]
struct Tap {
    at: [usize; 2],
    weight: [i32; 2],
}

/// Position of output index `d` in the source: whole part and fraction. The fraction is f32 as in
/// the original.
fn source_position(d: usize, input: usize, output: usize) -> (isize, f32) {
    let x = ((d as f64 + 0.5) * (input as f64 / output as f64) - 0.5) as f32;
    let i = x.floor();
    (i as isize, x - i)
}

fn weights(a: f32) -> [i32; 2] {
    [((1.0 - a) * 2048.0).round_ties_even() as i32, (a * 2048.0).round_ties_even() as i32]
}

/// Tap of a column. Beyond the border the index is clamped and the fraction dropped.
fn column_tap(d: usize, input: usize, output: usize) -> Tap {
    let (i, a) = source_position(d, input, output);
    let last = input - 1;
    let (i, a) = match usize::try_from(i) {
        Err(_) => (0, 0.0),
        Ok(i) if i >= last => (last, 0.0),
        Ok(i) => (i, a),
    };
    Tap { at: [i, (i + 1).min(last)], weight: weights(a) }
}

/// Tap of a row. Beyond the border only the indices are clamped, and the fraction stays. The sums
/// differ from those of columns in their rounding.
fn row_tap(d: usize, input: usize, output: usize) -> Tap {
    let (i, a) = source_position(d, input, output);
    let clamp = |i: isize| i.clamp(0, input as isize - 1) as usize;
    Tap { at: [clamp(i), clamp(i + 1)], weight: weights(a) }
}

/// Resizes one source row at the columns of the window, scaled by 128 (11 bits less 4 dropped
/// ones).
fn horizontal(row: &[u8], taps: &[Tap], out: &mut [u16]) {
    for (tap, out) in taps.iter().zip(out.chunks_exact_mut(3)) {
        let left = &row[tap.at[0] * 3..][..3];
        let right = &row[tap.at[1] * 3..][..3];
        for c in 0..3 {
            let sum = i32::from(left[c]) * tap.weight[0] + i32::from(right[c]) * tap.weight[1];
            out[c] = (sum >> 4) as u16;
        }
    }
}

fn vertical(top: &[u16], bottom: &[u16], weight: [i32; 2], out: &mut [u8]) {
    let (b0, b1) = (weight[0] as u32, weight[1] as u32);
    for ((out, &s0), &s1) in out.iter_mut().zip(top).zip(bottom) {
        let sum = ((b0 * u32::from(s0)) >> 16) + ((b1 * u32::from(s1)) >> 16);
        *out = ((sum + 2) >> 2) as u8;
    }
}

/// The part `window` of `image` resized bilinearly to `h x w`. Equal sizes copy.
///
/// # Panics
/// If the window leaves the resized picture or the picture is empty.
pub(crate) fn bilinear_window(image: &Image, h: usize, w: usize, window: Window) -> Image {
    assert!(window.x + window.w <= w && window.y + window.h <= h, "window outside the picture");
    let mut out = Image::new(window.w, window.h);
    let line = window.w * 3;
    if (h, w) == (image.h, image.w) {
        for (y, row) in out.data.chunks_exact_mut(line.max(1)).enumerate() {
            row.copy_from_slice(&image.data[((window.y + y) * w + window.x) * 3..][..line]);
        }
        return out;
    }
    let taps: Vec<Tap> =
        (window.x..window.x + window.w).map(|d| column_tap(d, image.w, w)).collect();
    // The two source rows in use. If the picture grows, most rows serve several output rows.
    let mut rows = [vec![0u16; line], vec![0u16; line]];
    let mut cached = [usize::MAX; 2];
    for (y, out) in out.data.chunks_exact_mut(line.max(1)).enumerate() {
        let tap = row_tap(window.y + y, image.h, h);
        if cached[1] == tap.at[0] && cached[0] != tap.at[0] {
            rows.swap(0, 1);
            cached.swap(0, 1);
        }
        for k in 0..2 {
            if cached[k] != tap.at[k] {
                let row = &image.data[tap.at[k] * image.w * 3..][..image.w * 3];
                horizontal(row, &taps, &mut rows[k]);
                cached[k] = tap.at[k];
            }
        }
        vertical(&rows[0], &rows[1], tap.weight, out);
    }
    out
}

/// `image` resized bilinearly to `h x w`.
///
/// # Panics
/// If the picture is empty.
pub fn bilinear(image: &Image, h: usize, w: usize) -> Image {
    bilinear_window(image, h, w, Window { x: 0, y: 0, w, h })
}

/// `label` resized to `h x w`. An output pixel takes the value at `min(floor(d * in / out), in -
/// 1)`.
///
/// # Panics
/// If the map is empty.
pub fn nearest(label: &LabelMap, h: usize, w: usize) -> LabelMap {
    let index = |d: usize, input: usize, output: usize| {
        let ratio = input as f64 / output as f64;
        ((d as f64 * ratio) as usize).min(input - 1)
    };
    let columns: Vec<usize> = (0..w).map(|x| index(x, label.w, w)).collect();
    let mut out = LabelMap::new(w, h);
    for (y, out) in out.data.chunks_exact_mut(w.max(1)).enumerate() {
        let row = &label.data[index(y, label.h, h) * label.w..][..label.w];
        for (out, &x) in out.iter_mut().zip(&columns) {
            *out = row[x];
        }
    }
    out
}
