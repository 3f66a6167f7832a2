//! Brightness, contrast, saturation and hue, each in 8 bits and each by its own coin.
//!
//! Source: spec training-and-data §2.4 and §2.5. Every sub-step ends in 8 bits as in the published
//! pipeline, so two conversions to HSV and back lose as much precision as there. Hue is 0 to 179
//! (two degrees a step), the others 0 to 255.

use std::sync::LazyLock;

use crate::Image;
use dressage_engine::Philox;

/// Draws and applies the distortion in place. Order of draws: brightness coin, [its amount], mode,
/// then in mode 1 contrast coin, [its factor]; saturation coin, [its factor]; hue coin, [its
/// shift]; in mode 0 contrast coin, [its factor]. A bracketed draw happens only if its coin is 1.
pub(crate) fn distort(image: &mut Image, random: &mut Philox) {
    if coin(random) {
        shift(image, 1.0, (-32.0 + 64.0 * random.uniform()) as f32);
    }
    let contrast_first = coin(random);
    if contrast_first {
        contrast(image, random);
    }
    if coin(random) {
        saturate(image, (0.5 + random.uniform()) as f32);
    }
    if coin(random) {
        rotate_hue(image, random.below(36) as i32 - 18);
    }
    if !contrast_first {
        contrast(image, random);
    }
}

fn coin(random: &mut Philox) -> bool {
    random.below(2) == 1
}

fn contrast(image: &mut Image, random: &mut Philox) {
    if coin(random) {
        shift(image, (0.5 + random.uniform()) as f32, 0.0);
    }
}

/// `trunc(clamp(v * alpha + beta, 0, 255))` for each of the 256 values.
fn conversion(alpha: f32, beta: f32) -> [u8; 256] {
    std::array::from_fn(|v| (v as f32 * alpha + beta).clamp(0.0, 255.0) as u8)
}

/// `v <- trunc(clamp(v * alpha + beta, 0, 255))` on all channels.
pub fn shift(image: &mut Image, alpha: f32, beta: f32) {
    let table = conversion(alpha, beta);
    for v in &mut image.data {
        *v = table[*v as usize];
    }
}

/// Multiplies the saturation by `alpha`.
pub(crate) fn saturate(image: &mut Image, alpha: f32) {
    let table = conversion(alpha, 0.0);
    through_hsv(image, |[h, s, v]| [h, table[s as usize], v]);
}

/// Adds `steps` (of two degrees) to the hue, modulo 180.
pub(crate) fn rotate_hue(image: &mut Image, steps: i32) {
    let table: [u8; 180] = std::array::from_fn(|h| (h as i32 + steps).rem_euclid(180) as u8);
    through_hsv(image, |[h, s, v]| [table[h as usize], s, v]);
}

/// Pixels that OpenCV converts back at once; see [`Finish`].
const GROUP: usize = 32;

/// Applies `change` in HSV, both conversions in 8 bits.
fn through_hsv(image: &mut Image, change: impl Fn([u8; 3]) -> [u8; 3]) {
    let floored = image.w / GROUP * GROUP;
    for row in image.data.chunks_exact_mut((image.w * 3).max(1)) {
        let (groups, rest) = row.as_chunks_mut::<3>().0.split_at_mut(floored);
        for rgb in groups {
            *rgb = hsv_to_rgb(change(rgb_to_hsv(*rgb)), Finish::Floor);
        }
        for rgb in rest {
            *rgb = hsv_to_rgb(change(rgb_to_hsv(*rgb)), Finish::Nearest);
        }
    }
}

/// `round(x / i)` with 12 fractional bits for the divisions of the forward conversion; entry 0 is
/// 0.
fn division_table(numerator: f64) -> [i32; 256] {
    std::array::from_fn(
        |i| {
            if i == 0 { 0 } else { (numerator / i as f64).round_ties_even() as i32 }
        },
    )
}

static SATURATION_DIVISION: LazyLock<[i32; 256]> = LazyLock::new(|| division_table(255.0 * 4096.0));
static HUE_DIVISION: LazyLock<[i32; 256]> = LazyLock::new(|| division_table(180.0 * 4096.0 / 6.0));

/// 8-bit HSV of an 8-bit colour, exact.
pub(crate) fn rgb_to_hsv(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb.map(i32::from);
    let v = r.max(g).max(b);
    let d = v - r.min(g).min(b);
    let s = (d * SATURATION_DIVISION[v as usize] + 2048) >> 12;
    let sector = if v == r {
        g - b
    } else if v == g {
        b - r + 2 * d
    } else {
        r - g + 4 * d
    };
    let h = (sector * HUE_DIVISION[d as usize] + 2048) >> 12;
    [if h < 0 { h + 180 } else { h } as u8, s as u8, v as u8]
}

/// Rounding of a float channel to a byte in the conversion back from HSV.
///
/// OpenCV's vector loop takes 32 pixels of a row at a time and truncates. The rest of the row goes
/// through its scalar loop, which rounds. Crops of 512 or 1024 pixels are truncated throughout; in
/// a narrower picture the last `w % 32` columns differ. Both rules were compared with OpenCV 5.0
/// (AVX2) on all 11.8 million HSV values without a mismatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Truncation, as in whole groups of 32 pixels.
    Floor,
    /// Rounding to the nearest, as in the rest of a row.
    Nearest,
}

/// 8-bit colour of an 8-bit HSV value with a hue below 180.
///
/// `1 - s f` is rounded once, as by a fused multiply-add: the product of two f32 is exact in f64.
pub(crate) fn hsv_to_rgb(hsv: [u8; 3], finish: Finish) -> [u8; 3] {
    let h = f32::from(hsv[0]) * (6.0 / 180.0);
    let s = f32::from(hsv[1]) * (1.0 / 255.0);
    let v = f32::from(hsv[2]) * (1.0 / 255.0);
    let sector = h as u32;
    let f = h - sector as f32;
    let less = |f: f32| (1.0 - f64::from(s) * f64::from(f)) as f32;
    let (p, q, t) = (v * (1.0 - s), v * less(f), v * less(1.0 - f));
    let rgb = match sector {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    };
    match finish {
        Finish::Floor => rgb.map(|x| (255.0 * x) as u8),
        Finish::Nearest => rgb.map(|x| (255.0 * x).round_ties_even() as u8),
    }
}
