//! A random window in which no class takes more than its share.
//!
//! Source: spec training-and-data §2.2. A street scene is mostly road; windows of little else
//! teach little.

use super::resize::Window;
use crate::{IGNORE, LabelMap};
use dressage_engine::Philox;

/// Rejections after which the next window is used unchecked.
const TRIES: usize = 10;

/// Draws a window of at most `h x w` in `label`: row offset first, then column offset, each
/// uniform. A window is accepted if it has more than one class and the largest has less than `cap`
/// of the labelled pixels. After ten rejections the eleventh draw is used unchecked. With a `cap`
/// of 1 or more the first draw is used.
pub fn choose(label: &LabelMap, h: usize, w: usize, cap: f64, random: &mut Philox) -> Window {
    let mut window = draw(label, h, w, random);
    if cap >= 1.0 {
        return window;
    }
    for _ in 0..TRIES {
        if acceptable(label, window, cap) {
            break;
        }
        window = draw(label, h, w, random);
    }
    window
}

fn draw(label: &LabelMap, h: usize, w: usize, random: &mut Philox) -> Window {
    let y = random.below((label.h.saturating_sub(h) + 1) as u32) as usize;
    let x = random.below((label.w.saturating_sub(w) + 1) as u32) as usize;
    Window { x, y, w: w.min(label.w), h: h.min(label.h) }
}

/// Whether `window` has more than one class and none has `cap` of the labelled pixels or more.
pub(crate) fn acceptable(label: &LabelMap, window: Window, cap: f64) -> bool {
    let mut counts = [0u64; 256];
    for y in window.y..window.y + window.h {
        for &class in &label.data[y * label.w + window.x..][..window.w] {
            counts[class as usize] += 1;
        }
    }
    counts[IGNORE as usize] = 0;
    let present = counts.iter().filter(|&&n| n > 0).count();
    let sum: u64 = counts.iter().sum();
    let largest = counts.iter().copied().max().unwrap_or(0);
    present > 1 && (largest as f64 / sum as f64) < cap
}

/// The part `window` of `label`.
pub(crate) fn label_window(label: &LabelMap, window: Window) -> LabelMap {
    let mut out = LabelMap::new(window.w, window.h);
    for (y, row) in out.data.chunks_exact_mut(window.w.max(1)).enumerate() {
        row.copy_from_slice(&label.data[(window.y + y) * label.w + window.x..][..window.w]);
    }
    out
}
