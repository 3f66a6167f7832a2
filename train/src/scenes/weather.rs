//! Light and weather over a finished scene, which make the domains.

use super::camera::Camera;
use super::canvas::{Canvas, FAR, Rgb, band, chance, decay, hash, mix, noise, scale, smooth, tint};
use super::layout::{ItemKind, Layout};
use super::style::Style;
use super::{Domain, ROAD, SIDEWALK, SKY, VEGETATION};

/// Applies the domain of `style`.
pub fn apply(canvas: &mut Canvas, camera: &Camera, layout: &Layout, style: &Style) {
    match style.domain {
        Domain::Day => haze(canvas, style.sky_low, 0.0011),
        Domain::Palette => {
            haze(canvas, [0.98, 0.8, 0.62], 0.0022);
            grade(canvas, [1.07, 0.99, 0.9], 1.05);
        }
        Domain::Night => night(canvas, camera, layout, style),
        Domain::Fog => {
            grade(canvas, [0.97, 0.99, 1.02], 0.7);
            let light = chance(1, 1, style.texture);
            haze(canvas, scale([0.8, 0.82, 0.84], 0.94 + 0.1 * light), 0.026 + 0.03 * light);
            lamps_on(canvas, 0.45);
            glow(canvas, 0.5);
        }
        Domain::Rain => rain(canvas, camera, style),
        Domain::Snow => snow(canvas, style),
    }
}

/// Blends towards `rgb` with distance; `density` per metre.
fn haze(canvas: &mut Canvas, rgb: Rgb, density: f32) {
    for k in 0..canvas.rgb.len() {
        let t = 1.0 - decay(canvas.depth[k].min(FAR) * density);
        // A clear sky stays a sky in thin haze.
        let t = if canvas.label[k] == SKY && density < 0.01 { 0.0 } else { t };
        canvas.rgb[k] = mix(canvas.rgb[k], rgb, t);
        canvas.emit[k] = scale(canvas.emit[k], 1.0 - t);
    }
}

/// Tints everything and scales the distance of each colour from grey.
fn grade(canvas: &mut Canvas, colour: Rgb, saturation: f32) {
    for rgb in &mut canvas.rgb {
        let grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2];
        *rgb = tint(mix([grey; 3], *rgb, saturation), colour);
    }
}

/// Adds the light that things emit, at `strength`.
fn lamps_on(canvas: &mut Canvas, strength: f32) {
    for (rgb, emit) in canvas.rgb.iter_mut().zip(&canvas.emit) {
        for c in 0..3 {
            rgb[c] += emit[c] * strength;
        }
    }
}

/// Spreads light around its source: a blurred copy of the emitted light, at a quarter of the size.
fn glow(canvas: &mut Canvas, strength: f32) {
    let (w, h) = (canvas.w.div_ceil(4), canvas.h.div_ceil(4));
    let mut small = vec![[0.0f32; 3]; w * h];
    for y in 0..canvas.h {
        for x in 0..canvas.w {
            let emit = canvas.emit[y * canvas.w + x];
            for c in 0..3 {
                small[(y / 4) * w + x / 4][c] += emit[c] / 16.0;
            }
        }
    }
    let radius = (canvas.w / 128).max(1);
    for _ in 0..3 {
        small = box_blur(&small, w, h, radius, true);
        small = box_blur(&small, w, h, radius, false);
    }
    for y in 0..canvas.h {
        for x in 0..canvas.w {
            let (u, v) = ((x as f32 + 0.5) / 4.0 - 0.5, (y as f32 + 0.5) / 4.0 - 0.5);
            let light = between(&small, w, h, u, v);
            for c in 0..3 {
                canvas.rgb[y * canvas.w + x][c] += light[c] * strength;
            }
        }
    }
}

/// Bilinear value at column `u`, row `v`.
fn between(map: &[Rgb], w: usize, h: usize, u: f32, v: f32) -> Rgb {
    let (u, v) = (u.clamp(0.0, w as f32 - 1.0), v.clamp(0.0, h as f32 - 1.0));
    let (i, j) = (u as usize, v as usize);
    let (a, b) = ((i + 1).min(w - 1), (j + 1).min(h - 1));
    let top = mix(map[j * w + i], map[j * w + a], u - i as f32);
    mix(top, mix(map[b * w + i], map[b * w + a], u - i as f32), v - j as f32)
}

fn box_blur(map: &[Rgb], w: usize, h: usize, radius: usize, across: bool) -> Vec<Rgb> {
    let (length, lines) = if across { (w, h) } else { (h, w) };
    let at = |line: usize, k: usize| if across { line * w + k } else { k * w + line };
    let mut out = vec![[0.0f32; 3]; map.len()];
    let share = 1.0 / (2 * radius + 1) as f32;
    for line in 0..lines {
        for k in 0..length {
            let (low, high) = (k.saturating_sub(radius), (k + radius).min(length - 1));
            let mut sum = [0.0f32; 3];
            for j in low..=high {
                let v = map[at(line, j)];
                for c in 0..3 {
                    sum[c] += v[c];
                }
            }
            out[at(line, k)] = scale(sum, share);
        }
    }
    out
}

/// Grain of a sensor: the sum of two uniform numbers.
fn grain(canvas: &mut Canvas, seed: u32, amount: f32) {
    for y in 0..canvas.h {
        for x in 0..canvas.w {
            for c in 0..3 {
                let bits = hash(x as i32, y as i32, seed.wrapping_add(c as u32 * 77));
                let n = ((bits & 0xFFFF) + (bits >> 16)) as f32 / 65_535.0 - 1.0;
                canvas.rgb[y * canvas.w + x][c] += n * amount;
            }
        }
    }
}

fn night(canvas: &mut Canvas, camera: &Camera, layout: &Layout, style: &Style) {
    let ambient = 0.85 + 0.5 * chance(3, 3, style.texture);
    let lamps: Vec<[f32; 2]> = layout
        .items
        .iter()
        .filter(|item| item.kind == ItemKind::Lamp)
        .map(|item| [item.x - item.x.signum() * 1.5, item.z])
        .collect();
    for y in 0..canvas.h {
        for x in 0..canvas.w {
            let at = y * canvas.w + x;
            let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
            if canvas.label[at] == SKY {
                let low = smooth(0.0, camera.horizon, py);
                let sky = mix([0.015, 0.022, 0.05], [0.075, 0.07, 0.085], low * low);
                let grey = canvas.rgb[at][0];
                canvas.rgb[at] = scale(sky, (0.7 + 0.5 * grey) * ambient);
                continue;
            }
            let z = canvas.depth[at];
            let world_x = (px - camera.cx) * z / camera.f - camera.middle(z);
            let world_y = camera.height - (py - camera.horizon) * z / camera.f;
            let mut light = scale([0.13, 0.15, 0.22], ambient);
            for lamp in &lamps {
                let (dx, dz, dy) = (world_x - lamp[0], z - lamp[1], world_y - 6.3);
                let square = dx * dx + dz * dz + dy * dy;
                let strength = 52.0 / (52.0 + square);
                let strength = 1.5 * strength * strength * if dy > 0.3 { 0.3 } else { 1.0 };
                for c in 0..3 {
                    light[c] += [0.95, 0.72, 0.42][c] * strength;
                }
            }
            // Headlights of the own car: two overlapping cones, cut off above.
            let reach = decay(z / 15.0) * smooth(2.0, 5.0, z);
            let axis = world_x + camera.middle(z);
            let cone = smooth(0.3 * z + 2.4, 0.1 * z + 0.4, axis.abs());
            let cut = smooth(1.6, 0.5, world_y);
            let head = 1.1 * reach * cone * (0.12 + 0.88 * cut);
            for c in 0..3 {
                light[c] += [1.0, 0.96, 0.84][c] * head;
            }
            canvas.rgb[at] = tint(canvas.rgb[at], light);
        }
    }
    lamps_on(canvas, 0.8);
    glow(canvas, 1.5);
    grain(canvas, style.texture ^ 0x916, 0.03);
}

/// Mirrors row `y` in wet ground. It shows what is as far above the horizon as `y` is below it.
fn wet(canvas: &mut Canvas, camera: &Camera, style: &Style, strength: f32) {
    let source = canvas.rgb.clone();
    for y in 0..canvas.h {
        for x in 0..canvas.w {
            let at = y * canvas.w + x;
            if !matches!(canvas.label[at], ROAD | SIDEWALK) {
                continue;
            }
            let z = canvas.depth[at];
            let below = y as f32 - camera.horizon;
            let mut sum = [0.0f32; 3];
            for k in 0..5 {
                let ripple = noise(x as f32 * 0.11 + k as f32 * 9.0, z * 2.0, style.texture) - 0.5;
                let u =
                    (x as f32 + ripple * (3.0 + below * 0.05)).clamp(0.0, canvas.w as f32 - 1.0);
                let up = camera.horizon - below * (0.55 + 0.18 * k as f32);
                let v = up.clamp(0.0, canvas.h as f32 - 1.0);
                let v = source[v as usize * canvas.w + u as usize];
                for c in 0..3 {
                    sum[c] += v[c] * 0.2;
                }
            }
            let across = (x as f32 - camera.cx) * z / camera.f - camera.middle(z);
            let puddle = smooth(0.45, 0.7, noise(across * 0.45, z * 0.16, style.texture ^ 0x9D));
            let t = strength * (0.55 + 0.45 * puddle);
            canvas.rgb[at] = mix(scale(canvas.rgb[at], 0.72), sum, t);
        }
    }
}

fn rain(canvas: &mut Canvas, camera: &Camera, style: &Style) {
    grade(canvas, [0.74, 0.79, 0.85], 0.68);
    haze(canvas, [0.56, 0.6, 0.64], 0.009);
    lamps_on(canvas, 0.5);
    wet(canvas, camera, style, 0.52);
    glow(canvas, 0.7);
    // Streaks: short slanted lines, the long ones near.
    let count = canvas.w * canvas.h / 260;
    for k in 0..count as i32 {
        let at = |n: i32| chance(k, n, style.texture ^ 0x4A1);
        let near = at(1) * at(1);
        let length = (0.02 + 0.075 * near) * canvas.h as f32;
        let (x, y) = (at(2) * canvas.w as f32, at(3) * canvas.h as f32 * 1.1 - length);
        let slant = 0.16 + 0.06 * (at(4) - 0.5);
        for step in 0..length as i32 {
            let (px, py) = (x - slant * step as f32, y + step as f32);
            if px < 0.0 || py < 0.0 || px as usize >= canvas.w || py as usize >= canvas.h {
                continue;
            }
            let pixel = &mut canvas.rgb[py as usize * canvas.w + px as usize];
            *pixel = mix(*pixel, [0.86, 0.89, 0.92], 0.1 + 0.22 * near);
        }
    }
}

fn snow(canvas: &mut Canvas, style: &Style) {
    grade(canvas, [0.93, 0.96, 1.0], 0.72);
    for y in 0..canvas.h {
        for x in 0..canvas.w {
            let at = y * canvas.w + x;
            let n = noise(x as f32 * 0.2, y as f32 * 0.35, style.texture ^ 0x5E);
            let up = canvas.up[at];
            let edge = if canvas.label[at] == VEGETATION { 0.2 } else { 0.15 };
            let cover = smooth(edge, edge + 0.45, up + 0.25 * (n - 0.5));
            let shade = canvas.rgb[at][1].clamp(0.2, 0.7);
            let white = scale([0.9, 0.93, 0.98], 0.84 + 0.14 * n + 0.12 * (shade - 0.45));
            canvas.rgb[at] = mix(canvas.rgb[at], white, cover * 0.93);
        }
    }
    haze(canvas, [0.84, 0.87, 0.9], 0.009);
    lamps_on(canvas, 0.35);
    let unit = canvas.h as f32 / 256.0;
    for k in 0..(canvas.w * canvas.h / 340) as i32 {
        let at = |n: i32| chance(k, n, style.texture ^ 0xF1A);
        let near = at(1) * at(1) * at(1);
        let r = (0.55 + 2.3 * near) * unit;
        let centre = [at(2) * canvas.w as f32, at(3) * canvas.h as f32];
        let alpha = 0.85 - 0.5 * near;
        let (low, high) = ([centre[0] - r, centre[1] - r], [centre[0] + r, centre[1] + r]);
        for y in low[1].max(0.0) as usize..=(high[1] as usize).min(canvas.h - 1) {
            for x in low[0].max(0.0) as usize..=(high[0] as usize).min(canvas.w - 1) {
                let (dx, dy) = (x as f32 + 0.5 - centre[0], y as f32 + 0.5 - centre[1]);
                let inside = band((dx * dx + dy * dy).sqrt(), -9.0, r, 0.8 + r);
                let pixel = &mut canvas.rgb[y * canvas.w + x];
                *pixel = mix(*pixel, [0.97, 0.98, 1.0], alpha * inside);
            }
        }
    }
}
