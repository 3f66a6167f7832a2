//! Trees, poles and people.

use super::camera::Camera;
use super::canvas::{Canvas, Surface, chance, mix, noise, scale, smooth};
use super::layout::Item;
use super::style::Style;
use super::{BICYCLE, PERSON, POLE, RIDER, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION};

/// A share of 1 from eight of the bits, starting at `shift`.
pub fn part(bits: u32, shift: u32) -> f32 {
    (bits >> shift & 255) as f32 / 255.0
}

/// A crown of overlapping balls on a trunk.
pub fn tree(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let (x, z, bits) = (item.x, item.z, item.bits);
    let radius = 1.3 + 0.9 * part(bits, 8);
    let high = 2.0 + 2.0 * radius + 1.4 * part(bits, 0);
    let s = camera.scale(z);
    let foot = camera.project(x, 0.0, z);
    let crown = camera.project(x, high - radius, z);
    canvas.shadow([foot[0], foot[1]], [radius * 0.9 * s, 0.16 * radius * s], 0.45);
    let bark = |px: f32, py: f32| {
        let n = noise(px * 0.9, py * 0.25, bits);
        let side = ((px - foot[0]) / (0.16 * s)).clamp(-1.0, 1.0) * style.sun;
        Surface::from(scale(style.trunk, 0.85 + 0.4 * (n - 0.5) - 0.22 * side))
    };
    canvas.capsule(foot, crown, 0.15 * s, VEGETATION, z, bark);
    let leaf = mix(style.leaf, style.grass, 0.35 * part(bits, 16));
    let spread = radius * 0.62;
    for k in 0..9 {
        // From the back of the crown to the front, the last balls the brightest.
        let (a, b) = (chance(k, 1, bits) * 2.0 - 1.0, chance(k, 2, bits) * 2.0 - 1.0);
        let size = radius * (0.5 + 0.28 * chance(k, 3, bits));
        let centre = camera.project(x + a * spread, high - radius + b * spread * 0.8, z);
        let light = 0.72 + 0.05 * k as f32;
        ball(canvas, centre, size * s, z, style.sun, |n, lit| {
            let rgb = scale(leaf, light * (0.62 + 0.5 * lit + 0.45 * (n - 0.5)));
            Surface::from(rgb).up(0.75 * smooth(0.45, 0.8, lit))
        });
    }
}

/// Paints a leafy ball. `shade` gets the texture and how much the point faces the light, both 0 to
/// 1.
fn ball(
    canvas: &mut Canvas,
    centre: [f32; 2],
    radius: f32,
    z: f32,
    sun: f32,
    shade: impl Fn(f32, f32) -> Surface,
) {
    let seed = (centre[0] * 8.0) as i32 as u32 ^ (centre[1] * 8.0) as i32 as u32;
    let grain = 5.0 / radius.max(3.0);
    let distance = |x: f32, y: f32| {
        let (dx, dy) = (x - centre[0], y - centre[1]);
        let rough = noise(dx * grain + 40.0, dy * grain + 40.0, seed) - 0.5;
        (dx * dx + dy * dy).sqrt() - radius * (0.92 + 0.36 * rough)
    };
    let low = [centre[0] - radius * 1.1, centre[1] - radius * 1.1];
    let high = [centre[0] + radius * 1.1, centre[1] + radius * 1.1];
    canvas.fill(low, high, VEGETATION, z, distance, |x, y| {
        let (u, v) = ((x - centre[0]) / radius, (y - centre[1]) / radius);
        let lit = (0.5 - 0.42 * v + 0.2 * u * sun).clamp(0.0, 1.0);
        let leaves = 0.5 * noise(u * 7.0 + 50.0, v * 7.0 + 50.0, seed ^ 5)
            + 0.5 * noise(u * 17.0 + 80.0, v * 17.0 + 80.0, seed ^ 9);
        shade(leaves, lit)
    });
}

/// A low ball on the ground.
pub(crate) fn bush(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let size = 0.45 + 0.5 * part(item.bits, 0);
    let s = camera.scale(item.z);
    for k in 0..4 {
        let dx = (chance(k, 1, item.bits) - 0.5) * 1.8 * size;
        let centre = camera.project(item.x + dx, size * (0.55 + 0.2 * (k % 2) as f32), item.z);
        ball(canvas, centre, size * s * 0.8, item.z, style.sun, |n, lit| {
            let rgb = scale(style.leaf, 0.6 + 0.55 * lit + 0.4 * (n - 0.5));
            Surface::from(rgb).up(0.8 * smooth(0.4, 0.75, lit))
        });
    }
}

/// A street lamp with an arm over the road.
pub fn lamp(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let (x, z) = (item.x, item.z);
    let s = camera.scale(z);
    let arm = -item.x.signum() * 1.5;
    let metal = |shade: f32| move |_: f32, _: f32| Surface::from(scale(style.metal, shade));
    let (foot, top) = (camera.project(x, 0.0, z), camera.project(x, 6.2, z));
    canvas.shadow(foot, [0.4 * s, 0.08 * s], 0.4);
    canvas.capsule(foot, top, 0.07 * s, POLE, z, metal(1.0));
    canvas.capsule(foot, camera.project(x, 1.1, z), 0.11 * s, POLE, z, metal(0.85));
    let tip = camera.project(x + arm, 6.5, z);
    canvas.capsule(top, tip, 0.05 * s, POLE, z, metal(1.1));
    let head = [tip[0], tip[1] + 0.05 * s];
    canvas.ellipse(head, [0.38 * s, 0.13 * s], POLE, z, |_, y| {
        let under = smooth(head[1] - 0.02 * s, head[1] + 0.08 * s, y);
        let rgb = mix(style.metal, [0.95, 0.93, 0.85], under);
        Surface::from(rgb).emit(scale([1.6, 1.25, 0.75], under)).up(1.0 - under)
    });
}

/// Three lamps in a dark box on a pole.
pub(crate) fn traffic_light(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let (x, z) = (item.x, item.z);
    let s = camera.scale(z);
    let (foot, top) = (camera.project(x, 0.0, z), camera.project(x, 3.3, z));
    canvas.capsule(foot, top, 0.065 * s, POLE, z, |_, _| scale(style.metal, 0.8).into());
    let centre = camera.project(x, 2.85, z);
    let (half, tall) = ((0.19 * s).max(1.0), (0.52 * s).max(2.2));
    let (low, high) = ([centre[0] - half, centre[1] - tall], [centre[0] + half, centre[1] + tall]);
    canvas.rect(low, high, 0.08 * s, TRAFFIC_LIGHT, z, |_, _| {
        Surface::from([0.1, 0.11, 0.1]).up(0.1)
    });
    let on = item.bits % 5;
    for (k, rgb) in [[0.95, 0.12, 0.1], [1.0, 0.72, 0.1], [0.1, 0.85, 0.45]].into_iter().enumerate()
    {
        // Mostly red or green.
        let bright = k as u32 == [0, 0, 2, 2, 1][on as usize];
        let y = centre[1] + (k as f32 - 1.0) * 0.32 * s;
        let shown = if bright { rgb } else { scale(rgb, 0.22) };
        let emit = if bright { scale(rgb, 1.8) } else { [0.0; 3] };
        let radius = [0.12 * s, 0.12 * s];
        canvas.ellipse([centre[0], y], radius, TRAFFIC_LIGHT, z, |_, _| {
            Surface::from(shown).emit(emit)
        });
    }
}

/// A round, square, triangular or diamond sign on a pole.
pub fn sign(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let (x, z, bits) = (item.x, item.z, item.bits);
    let s = camera.scale(z);
    let (foot, top) = (camera.project(x, 0.0, z), camera.project(x, 2.9, z));
    canvas.capsule(foot, top, 0.04 * s, POLE, z, |_, _| style.metal.into());
    let c = camera.project(x, 2.5, z);
    let r = (0.38 * s).max(1.5);
    let (red, white) = ([0.8, 0.1, 0.12], [0.95, 0.95, 0.93]);
    let (blue, yellow) = ([0.1, 0.28, 0.68], [0.97, 0.78, 0.12]);
    let flat = |rgb: [f32; 3]| move |_: f32, _: f32| Surface::from(rgb).emit(scale(rgb, 0.3));
    let shape = |k: f32, points: &[[f32; 2]]| -> Vec<[f32; 2]> {
        points.iter().map(|p| [c[0] + p[0] * r * k, c[1] + p[1] * r * k]).collect()
    };
    let triangle = [[0.0, -1.0], [0.95, 0.7], [-0.95, 0.7]];
    let diamond = [[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
    let square = |k: f32| ([c[0] - r * k, c[1] - r * k], [c[0] + r * k, c[1] + r * k]);
    match bits % 5 {
        0 => {
            canvas.ellipse(c, [r, r], TRAFFIC_SIGN, z, flat(red));
            canvas.ellipse(c, [r * 0.7, r * 0.7], TRAFFIC_SIGN, z, flat(white));
        }
        1 => {
            canvas.polygon(&shape(1.1, &triangle), TRAFFIC_SIGN, z, flat(red));
            canvas.polygon(&shape(0.66, &triangle), TRAFFIC_SIGN, z, flat(white));
        }
        2 => {
            canvas.polygon(&shape(1.1, &diamond), TRAFFIC_SIGN, z, flat(white));
            canvas.polygon(&shape(0.85, &diamond), TRAFFIC_SIGN, z, flat(yellow));
        }
        3 => {
            let ((low, high), (a, b)) = (square(0.95), square(0.5));
            canvas.rect(low, high, r * 0.2, TRAFFIC_SIGN, z, flat(blue));
            canvas.rect(a, b, r * 0.1, TRAFFIC_SIGN, z, flat(white));
        }
        _ => {
            canvas.ellipse(c, [r, r], TRAFFIC_SIGN, z, flat(red));
            let bar = ([c[0] - r * 0.65, c[1] - r * 0.2], [c[0] + r * 0.65, c[1] + r * 0.2]);
            canvas.rect(bar.0, bar.1, 0.0, TRAFFIC_SIGN, z, flat(white));
        }
    }
}

/// Positions of the parts of a body.
struct Body<'a> {
    camera: &'a Camera,
    x: f32,
    z: f32,
    /// Height over 1.75 m.
    size: f32,
    class: u8,
    bits: u32,
}

impl Body<'_> {
    fn at(&self, x: f32, y: f32) -> [f32; 2] {
        self.camera.project(self.x + x * self.size, y * self.size, self.z)
    }

    fn limb(&self, canvas: &mut Canvas, from: [f32; 2], to: [f32; 2], width: f32, rgb: [f32; 3]) {
        let radius = width * self.size * self.camera.scale(self.z);
        let (a, b) = (self.at(from[0], from[1]), self.at(to[0], to[1]));
        let middle = self.at(0.0, 0.0)[0];
        canvas.capsule(a, b, radius, self.class, self.z, |px, _| {
            let side = ((px - middle) / (radius * 3.0).max(1.0)).clamp(-1.0, 1.0);
            Surface::from(scale(rgb, 1.0 - 0.16 * side)).up(0.05)
        });
    }

    fn head(&self, canvas: &mut Canvas, x: f32, y: f32) {
        let r = 0.12 * self.size * self.camera.scale(self.z);
        let skin = mix([0.93, 0.76, 0.63], [0.45, 0.3, 0.22], part(self.bits, 20));
        let hair = mix([0.1, 0.08, 0.07], [0.62, 0.47, 0.27], part(self.bits, 3));
        let c = self.at(x, y);
        canvas.ellipse(c, [r * 0.9, r * 1.12], self.class, self.z, |_, py| {
            mix(hair, skin, smooth(c[1] - 0.3 * r, c[1] + 0.1 * r, py)).into()
        });
    }
}

/// Paints a standing or walking person.
pub fn person(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let bits = item.bits;
    let size = 0.88 + 0.2 * part(bits, 0);
    let body = Body { camera, x: item.x, z: item.z, size, class: PERSON, bits };
    let (coat, legs) = (style.cloth(bits), scale(style.cloth(bits >> 5), 0.7));
    let stride = 0.05 + 0.2 * part(bits, 10);
    let s = camera.scale(item.z);
    canvas.shadow(body.at(0.0, 0.0), [0.45 * s, 0.1 * s], 0.5);
    for side in [-1.0, 1.0] {
        body.limb(canvas, [side * 0.09, 0.86], [side * stride, 0.06], 0.085, legs);
        body.limb(canvas, [side * stride, 0.05], [side * stride + 0.06, 0.04], 0.06, [0.12; 3]);
        let hand = [side * (0.22 + 0.5 * stride), 0.82];
        body.limb(canvas, [side * 0.2, 1.36], hand, 0.06, scale(coat, 0.88));
    }
    body.limb(canvas, [0.0, 1.3], [0.0, 0.92], 0.19, coat);
    body.limb(canvas, [-0.1, 1.38], [0.1, 1.38], 0.1, coat);
    body.head(canvas, 0.0, 1.62);
    if bits & 0x100 != 0 {
        let bag = scale(style.cloth(bits >> 9), 0.9);
        body.limb(canvas, [0.26, 0.98], [0.26, 0.8], 0.09, bag);
    }
}

/// Paints a bicycle from the side, with or without a rider.
pub fn bicycle(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item, ridden: bool) {
    let bits = item.bits;
    let body = Body { camera, x: item.x, z: item.z, size: 1.0, class: BICYCLE, bits };
    let s = camera.scale(item.z);
    let (frame, dark) = (style.car(bits >> 6), [0.09, 0.09, 0.1]);
    let turn = if bits & 16 == 0 { 1.0 } else { -1.0 };
    canvas.shadow(body.at(0.0, 0.0), [0.95 * s, 0.1 * s], 0.5);
    for wheel in [-0.52, 0.52] {
        let c = body.at(wheel, 0.34);
        let (outer, thick) = (0.34 * s, (0.035 * s).max(0.6));
        let ring = |x: f32, y: f32| {
            let (dx, dy) = (x - c[0], y - c[1]);
            ((dx * dx + dy * dy).sqrt() - outer).abs() - thick
        };
        let (low, high) = ([c[0] - outer - 1.0, c[1] - outer - 1.0], [c[0] + outer + 1.0; 2]);
        let high = [high[0], c[1] + outer + 1.0];
        canvas.fill(low, high, BICYCLE, item.z, ring, |_, _| dark.into());
    }
    for (a, b) in [
        ([-0.52, 0.34], [-0.18, 0.82]),
        ([-0.18, 0.82], [0.38, 0.8]),
        ([-0.05, 0.34], [0.38, 0.8]),
        ([-0.05, 0.34], [-0.18, 0.82]),
        ([-0.52, 0.34], [-0.05, 0.34]),
        ([0.52, 0.34], [0.36, 0.98]),
    ] {
        body.limb(canvas, [a[0] * turn, a[1]], [b[0] * turn, b[1]], 0.028, frame);
    }
    body.limb(canvas, [0.3 * turn, 1.0], [0.44 * turn, 1.0], 0.03, dark);
    body.limb(canvas, [-0.28 * turn, 0.9], [-0.1 * turn, 0.9], 0.045, dark);
    if ridden {
        let rider = Body { class: RIDER, ..body };
        let (coat, legs) = (style.cloth(bits >> 2), scale(style.cloth(bits >> 9), 0.7));
        let limbs = [
            ([-0.15, 0.95], [0.16, 0.68], 0.09, legs),
            ([0.16, 0.68], [-0.02, 0.3], 0.07, legs),
            ([-0.15, 1.0], [0.08, 1.42], 0.16, coat),
            ([0.1, 1.38], [0.38, 1.06], 0.06, scale(coat, 0.85)),
        ];
        for (a, b, width, rgb) in limbs {
            rider.limb(canvas, [a[0] * turn, a[1]], [b[0] * turn, b[1]], width, rgb);
        }
        rider.head(canvas, 0.17 * turn, 1.66);
    }
}
