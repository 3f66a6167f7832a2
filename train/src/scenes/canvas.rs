//! Canvas of a scene: colour, emitted light, distance, snow and class per pixel.
//!
//! Shapes are signed distances in pixels (negative inside). The picture is blended by coverage, so
//! edges are smooth; class and distance switch at half coverage, so labels are hard. Only
//! additions, products, comparisons, `floor` and `sqrt` are used: the same seed gives the same
//! bytes on every machine.

/// Red, green, blue, 0 to 1 and beyond for light.
pub type Rgb = [f32; 3];

/// Class that leaves the label below unchanged: shadows, markings, lamps on cars.
pub const KEEP: u8 = 254;

/// Appearance of a point of a shape.
#[derive(Debug, Clone, Copy)]
pub struct Surface {
    /// Colour under white light.
    pub rgb: Rgb,
    /// Light that it emits at night.
    pub emit: Rgb,
    /// Amount of snow that stays on it, 0 to 1.
    pub up: f32,
    /// Opacity.
    pub alpha: f32,
    /// Distance of this point if it differs from that of the shape, else 0.
    pub depth: f32,
}

impl From<Rgb> for Surface {
    fn from(rgb: Rgb) -> Self {
        Self { rgb, emit: [0.0; 3], up: 0.0, alpha: 1.0, depth: 0.0 }
    }
}

impl Surface {
    /// The same surface with snow.
    pub fn up(self, up: f32) -> Self {
        Self { up, ..self }
    }

    /// The same surface with light `emit`.
    pub fn emit(self, emit: Rgb) -> Self {
        Self { emit, ..self }
    }

    /// The same surface with opacity `alpha`.
    pub fn alpha(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }
}

/// The picture under construction.
pub struct Canvas {
    pub w: usize,
    pub h: usize,
    pub rgb: Vec<Rgb>,
    pub emit: Vec<Rgb>,
    pub up: Vec<f32>,
    /// Distance in metres.
    pub depth: Vec<f32>,
    pub label: Vec<u8>,
}

/// Distance of the sky.
pub const FAR: f32 = 2000.0;

impl Canvas {
    pub fn new(w: usize, h: usize) -> Self {
        let n = w * h;
        Self {
            w,
            h,
            rgb: vec![[0.0; 3]; n],
            emit: vec![[0.0; 3]; n],
            up: vec![0.0; n],
            depth: vec![FAR; n],
            label: vec![crate::IGNORE; n],
        }
    }

    /// Blends `surface` of `class` at `depth` over pixel `at` with `coverage`.
    pub fn put(&mut self, at: usize, coverage: f32, class: u8, depth: f32, surface: Surface) {
        let a = coverage * surface.alpha;
        self.rgb[at] = mix(self.rgb[at], surface.rgb, a);
        self.emit[at] = mix(self.emit[at], surface.emit, a);
        if class == KEEP {
            return;
        }
        self.up[at] += (surface.up - self.up[at]) * a;
        if coverage >= 0.5 {
            self.label[at] = class;
            self.depth[at] = if surface.depth > 0.0 { surface.depth } else { depth };
        }
    }

    /// Paints the shape `distance` (pixels, at pixel centres) inside the box from `low` to `high`.
    pub fn fill(
        &mut self,
        low: [f32; 2],
        high: [f32; 2],
        class: u8,
        depth: f32,
        distance: impl Fn(f32, f32) -> f32,
        shade: impl Fn(f32, f32) -> Surface,
    ) {
        let start = |v: f32| (v - 1.0).max(0.0) as usize;
        let end = |v: f32, most: usize| ((v + 2.0).max(0.0) as usize).min(most);
        for y in start(low[1])..end(high[1], self.h) {
            for x in start(low[0])..end(high[0], self.w) {
                let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
                let coverage = (0.5 - distance(px, py)).clamp(0.0, 1.0);
                if coverage > 0.0 {
                    self.put(y * self.w + x, coverage, class, depth, shade(px, py));
                }
            }
        }
    }

    /// Paints a convex polygon of any orientation.
    pub fn polygon(
        &mut self,
        points: &[[f32; 2]],
        class: u8,
        depth: f32,
        shade: impl Fn(f32, f32) -> Surface,
    ) {
        let n = points.len();
        let area: f32 = (0..n)
            .map(|k| {
                let (a, b) = (points[k], points[(k + 1) % n]);
                a[0] * b[1] - a[1] * b[0]
            })
            .sum();
        let sign = if area >= 0.0 { 1.0 } else { -1.0 };
        let mut edges = [[0.0f32; 3]; 8];
        for k in 0..n.min(8) {
            let (a, b) = (points[k], points[(k + 1) % n]);
            let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
            let scale = sign / (dx * dx + dy * dy).sqrt().max(1e-6);
            edges[k] = [dy * scale, -dx * scale, (dx * a[1] - dy * a[0]) * scale];
        }
        let edges = &edges[..n.min(8)];
        let (mut low, mut high) = ([f32::MAX; 2], [f32::MIN; 2]);
        for p in points {
            for axis in 0..2 {
                low[axis] = low[axis].min(p[axis]);
                high[axis] = high[axis].max(p[axis]);
            }
        }
        let distance =
            |x: f32, y: f32| edges.iter().fold(f32::MIN, |d, e| d.max(e[0] * x + e[1] * y + e[2]));
        self.fill(low, high, class, depth, distance, shade);
    }

    /// Paints an upright rectangle with corners of radius `round`.
    pub(crate) fn rect(
        &mut self,
        low: [f32; 2],
        high: [f32; 2],
        round: f32,
        class: u8,
        depth: f32,
        shade: impl Fn(f32, f32) -> Surface,
    ) {
        let centre = [(low[0] + high[0]) * 0.5, (low[1] + high[1]) * 0.5];
        let half = [(high[0] - low[0]) * 0.5, (high[1] - low[1]) * 0.5];
        let round = round.min(half[0]).min(half[1]).max(0.0);
        let distance = |x: f32, y: f32| {
            let dx = (x - centre[0]).abs() - half[0] + round;
            let dy = (y - centre[1]).abs() - half[1] + round;
            let (ox, oy) = (dx.max(0.0), dy.max(0.0));
            (ox * ox + oy * oy).sqrt() + dx.max(dy).min(0.0) - round
        };
        self.fill(low, high, class, depth, distance, shade);
    }

    /// Paints an upright ellipse.
    pub fn ellipse(
        &mut self,
        centre: [f32; 2],
        radius: [f32; 2],
        class: u8,
        depth: f32,
        shade: impl Fn(f32, f32) -> Surface,
    ) {
        let (rx, ry) = (radius[0].max(0.3), radius[1].max(0.3));
        let distance = |x: f32, y: f32| {
            let (u, v) = ((x - centre[0]) / rx, (y - centre[1]) / ry);
            let r = (u * u + v * v).sqrt();
            // First-order distance: the implicit value over the length of its gradient.
            let (gu, gv) = (u / rx, v / ry);
            (r - 1.0) * r / (gu * gu + gv * gv).sqrt().max(1e-6)
        };
        let low = [centre[0] - rx, centre[1] - ry];
        self.fill(low, [centre[0] + rx, centre[1] + ry], class, depth, distance, shade);
    }

    /// Paints a thick line with round ends.
    pub(crate) fn capsule(
        &mut self,
        a: [f32; 2],
        b: [f32; 2],
        radius: f32,
        class: u8,
        depth: f32,
        shade: impl Fn(f32, f32) -> Surface,
    ) {
        // Thinner than a pixel would vanish: a pole far away keeps this width.
        let radius = radius.max(0.5);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let square = (dx * dx + dy * dy).max(1e-6);
        let distance = |x: f32, y: f32| {
            let t = (((x - a[0]) * dx + (y - a[1]) * dy) / square).clamp(0.0, 1.0);
            let (ex, ey) = (x - a[0] - t * dx, y - a[1] - t * dy);
            (ex * ex + ey * ey).sqrt() - radius
        };
        let low = [a[0].min(b[0]) - radius, a[1].min(b[1]) - radius];
        let high = [a[0].max(b[0]) + radius, a[1].max(b[1]) + radius];
        self.fill(low, high, class, depth, distance, shade);
    }

    /// Paints a soft dark spot that changes no label: the shadow under something.
    pub fn shadow(&mut self, centre: [f32; 2], radius: [f32; 2], strength: f32) {
        let (rx, ry) = (radius[0].max(0.5), radius[1].max(0.5));
        let low = [centre[0] - rx, centre[1] - ry];
        let shade = |x: f32, y: f32| {
            let (u, v) = ((x - centre[0]) / rx, (y - centre[1]) / ry);
            let fade = (1.0 - u * u - v * v).clamp(0.0, 1.0);
            Surface::from([0.03, 0.03, 0.05]).alpha(strength * (fade * 2.0).min(1.0))
        };
        self.fill(low, [centre[0] + rx, centre[1] + ry], KEEP, 0.0, |_, _| -1.0, shade);
    }
}

/// `a` at `t = 0`, `b` at `t = 1`.
pub fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
}

/// `rgb` times `k`.
pub fn scale(rgb: Rgb, k: f32) -> Rgb {
    [rgb[0] * k, rgb[1] * k, rgb[2] * k]
}

/// Channel-wise product.
pub(crate) fn tint(a: Rgb, b: Rgb) -> Rgb {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2]]
}

/// 0 below `low`, 1 above `high`, smooth between.
pub fn smooth(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Share of `[x - foot / 2, x + foot / 2]` that is in `[low, high]`.
pub(crate) fn band(x: f32, low: f32, high: f32, foot: f32) -> f32 {
    let foot = foot.max(1e-4);
    (((x + foot * 0.5).min(high) - (x - foot * 0.5).max(low)) / foot).clamp(0.0, 1.0)
}

/// `exp(-x)` for `x >= 0`, from products only.
pub fn decay(x: f32) -> f32 {
    let mut y = (1.0 - x / 32.0).max(0.0);
    for _ in 0..5 {
        y *= y;
    }
    y
}

/// Random bits of a lattice point.
pub fn hash(x: i32, y: i32, seed: u32) -> u32 {
    let mut v = (x as u32).wrapping_mul(0x8DA6_B343) ^ (y as u32).wrapping_mul(0xD816_3841) ^ seed;
    v = (v ^ (v >> 15)).wrapping_mul(0x2C1B_3C6D);
    v = (v ^ (v >> 12)).wrapping_mul(0x297A_2D39);
    v ^ (v >> 15)
}

/// Random number in [0, 1) of a lattice point.
pub fn chance(x: i32, y: i32, seed: u32) -> f32 {
    (hash(x, y, seed) >> 8) as f32 / 16_777_216.0
}

/// Largest integer not above `x`. Processors without SSE4.1 have no instruction for it, so
/// `f32::floor` is not used.
fn floor(x: f32) -> i32 {
    let cut = x as i32;
    cut - i32::from(cut as f32 > x)
}

/// Value noise in [0, 1): smooth between random lattice values.
pub fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (i, j) = (floor(x), floor(y));
    let (u, v) = (x - i as f32, y - j as f32);
    let (u, v) = (u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v));
    let (a, b) = (chance(i, j, seed), chance(i + 1, j, seed));
    let (c, d) = (chance(i, j + 1, seed), chance(i + 1, j + 1, seed));
    let (top, bottom) = (a + (b - a) * u, c + (d - c) * u);
    top + (bottom - top) * v
}

/// Three octaves of [`noise`], in [0, 1).
pub(crate) fn cloudy(x: f32, y: f32, seed: u32) -> f32 {
    0.55 * noise(x, y, seed)
        + 0.3 * noise(x * 2.1, y * 2.1, seed ^ 0x51)
        + 0.15 * noise(x * 4.3, y * 4.3, seed ^ 0xA7)
}
