//! Houses, walls and fences along the street, and the town on the horizon.
//!
//! A house shows two faces: the long one along the street and the one turned to the camera. Both
//! compute the wall coordinates of a pixel exactly, so windows are drawn in metres and follow the
//! perspective.

use super::camera::Camera;
use super::canvas::{Canvas, Rgb, Surface, band, chance, cloudy, mix, noise, scale};
use super::layout::{Layout, Plot, PlotKind};
use super::style::Style;
use super::{BUILDING, FENCE, VEGETATION, WALL};

/// Height of a floor in metres.
const FLOOR: f32 = 3.1;

/// Width of a window with the wall up to the next.
const BAY: f32 = 2.5;

/// Paints the far end of the street: roofs and tree tops against the sky.
pub(crate) fn skyline(canvas: &mut Canvas, camera: &Camera, layout: &Layout, style: &Style) {
    let z = 190.0;
    let ground = camera.project(0.0, 0.0, z)[1] + 1.0;
    let step = 7.0;
    for k in -60..60 {
        let bits = super::canvas::hash(k, 0, layout.texture);
        let x = k as f32 * step;
        if bits % 100 < 55 {
            let high = 7.0 + (bits >> 8 & 15) as f32;
            let (a, b) = (camera.project(x, high, z), camera.project(x + step * 1.3, 0.0, z));
            let rgb = mix(style.wall(bits >> 4), style.sky_low, 0.35);
            canvas.rect(a, [b[0], ground], 0.0, BUILDING, z, |_, _| Surface::from(rgb).up(0.1));
        } else {
            let high = 4.0 + (bits >> 8 & 7) as f32;
            let rgb = mix(style.leaf, style.sky_low, 0.3);
            let [cx, top] = camera.project(x + step * 0.5, high, z);
            let radius = [step * 0.9 * camera.scale(z), ground - top];
            let shade = |px: f32, py: f32| {
                let n = noise(px * 0.6, py * 0.6, layout.texture);
                Surface::from(scale(rgb, 0.8 + 0.4 * n)).up(0.3)
            };
            let clipped = |x: f32, y: f32| {
                let (u, v) = ((x - cx) / radius[0], (y - ground) / radius[1]);
                (((u * u + v * v).sqrt() - 1.0) * radius[1]).max(y - ground)
            };
            let (low, high) = ([cx - radius[0], top], [cx + radius[0], ground]);
            canvas.fill(low, high, VEGETATION, z, clipped, shade);
        }
    }
}

/// Paints the content of `plot`.
pub(crate) fn paint(
    canvas: &mut Canvas,
    camera: &Camera,
    layout: &Layout,
    style: &Style,
    plot: &Plot,
) {
    match plot.kind {
        PlotKind::House { floors } => house(canvas, camera, style, plot, floors),
        PlotKind::Wall => {
            let high = 1.8 + (plot.bits & 7) as f32 * 0.12;
            let shade = |u, v, foot| brick(style, plot, u, v, foot);
            upright(canvas, camera, plot, plot.front, [0.0, high], WALL, &shade);
        }
        PlotKind::Garden => {
            let high = 1.1 + (plot.bits & 7) as f32 * 0.1;
            let shade = |u: f32, v: f32, foot: [f32; 2]| fence(style, layout, u, v, high, foot);
            upright(canvas, camera, plot, plot.front, [0.0, high], FENCE, &shade);
        }
        PlotKind::Park => {}
    }
}

/// Paints a plane along the street at `x` metres from its middle, from height `y[0]` to `y[1]`.
/// `shade` gets the metres along and up and the metres that a pixel covers.
fn upright(
    canvas: &mut Canvas,
    camera: &Camera,
    plot: &Plot,
    x: f32,
    y: [f32; 2],
    class: u8,
    shade: &dyn Fn(f32, f32, [f32; 2]) -> Surface,
) {
    let x = plot.side * x;
    // A plane behind the camera's axis plane would project backwards.
    let near = plot.near.max(1.5);
    if plot.far <= near {
        return;
    }
    // Straight between its ends, as a wall is; the curve of the road moves only the ends.
    let (a, b) = (x + camera.middle(near), x + camera.middle(plot.far));
    let point = |z: f32, lateral: f32, y: f32| {
        let s = camera.scale(z);
        [camera.cx + lateral * s, camera.horizon + (camera.height - y) * s]
    };
    let corners = [
        point(near, a, y[0]),
        point(plot.far, b, y[0]),
        point(plot.far, b, y[1]),
        point(near, a, y[1]),
    ];
    // lateral = a + slope (z - near) and lateral = z t with t = (px - cx) / f.
    let slope = (b - a) / (plot.far - near);
    let distance = |px: f32| {
        let t = (px - camera.cx) / camera.f;
        let below = t - slope;
        let z = (a - slope * near) / if below.abs() < 1e-4 { 1e-4 } else { below };
        if z.is_finite() && z > 0.0 { z.clamp(near, plot.far) } else { plot.far }
    };
    canvas.polygon(&corners, class, near, |px, py| {
        let z = distance(px);
        let up = camera.height - (py - camera.horizon) * z / camera.f;
        let foot = [z * z / (camera.f * (a - slope * near).abs().max(0.5)), z / camera.f];
        Surface { depth: z, ..shade(z - plot.near, up, foot) }
    });
}

fn house(canvas: &mut Canvas, camera: &Camera, style: &Style, plot: &Plot, floors: u32) {
    let high = floors as f32 * FLOOR + 0.8;
    let front = plot.front;
    let gabled = plot.bits & 3 != 0;
    let roof = style.roof(plot.bits >> 5);
    let near = plot.near.max(1.5);
    if gabled {
        roof_slope(canvas, camera, plot, high, roof, style.wall_light(plot.side));
    }
    // The face towards the camera, seen where the next house is lower or missing.
    if plot.near > 1.5 {
        let far_side = front + 11.0;
        let light = 0.8 - 0.1 * style.contrast;
        let a = camera.project(plot.side * front, high, near);
        let b = camera.project(plot.side * far_side, 0.0, near);
        let (low, top) = ([a[0].min(b[0]), a[1]], [a[0].max(b[0]), b[1]]);
        let foot = [near / camera.f; 2];
        let paint = |px: f32, py: f32| {
            let u = (px - a[0]).abs() * foot[0];
            let v = high - (py - a[1]) * foot[1];
            facade(style, plot, [u, v], high, foot, light, 1)
        };
        if gabled {
            let ridge = camera.project(plot.side * (front + 4.5), high + 2.8, near);
            let end = camera.project(plot.side * (front + 9.0), high, near);
            let wall = scale(style.wall(plot.bits), light);
            canvas.polygon(&[a, ridge, end], BUILDING, near, |_, _| wall.into());
        }
        canvas.rect(low, top, 0.0, BUILDING, near, paint);
    }
    let light = style.wall_light(plot.side);
    let shade = |u: f32, v: f32, foot| facade(style, plot, [u, v], high, foot, light, 0);
    upright(canvas, camera, plot, front, [0.0, high], BUILDING, &shade);
}

fn roof_slope(canvas: &mut Canvas, camera: &Camera, plot: &Plot, high: f32, roof: Rgb, light: f32) {
    let (near, far) = (plot.near.max(1.5), plot.far);
    let (eave, ridge) = (plot.side * (plot.front - 0.3), plot.side * (plot.front + 4.5));
    let corners = [
        camera.project(eave, high, near),
        camera.project(eave, high, far),
        camera.project(ridge, high + 2.8, far),
        camera.project(ridge, high + 2.8, near),
    ];
    let pitch = camera.scale(0.5 * (near + far)) * 0.3;
    canvas.polygon(&corners, BUILDING, near, |px, py| {
        let tile = noise(px / pitch.max(1.0), py / pitch.max(1.0), plot.bits) - 0.5;
        Surface::from(scale(roof, light * (1.0 + 0.2 * tile))).up(1.0)
    });
}

/// A wall with windows: `u` metres along, `v` metres up.
fn facade(
    style: &Style,
    plot: &Plot,
    [u, v]: [f32; 2],
    high: f32,
    foot: [f32; 2],
    light: f32,
    face: i32,
) -> Surface {
    let bits = plot.bits;
    let stain = noise(u * 0.7, v * 0.6, style.texture ^ bits) - 0.5;
    let soot = 0.14 * (1.0 - v / 1.2).clamp(0.0, 1.0);
    let wall = scale(style.wall(bits), light * (1.0 + 0.16 * stain - soot));
    let trim = mix(wall, scale([1.0, 0.98, 0.94], light), 0.55);
    let (bay, floor) = ((u / BAY).floor(), (v / FLOOR).floor());
    let (du, dv) = (u - bay * BAY, v - floor * FLOOR);
    let ground = floor < 1.0;
    let shop = ground && bits >> 9 & 1 == 1;
    let k = chance(bay as i32, floor as i32 + 31 * face, bits);
    let door = ground && !shop && (bay as i32 + face) % 4 == (bits >> 12 & 3) as i32;
    // Left, right, sill, lintel of the opening.
    let (left, right, sill, lintel) = match (shop, door) {
        (true, _) => (0.2, 2.3, 0.5, 2.5),
        (_, true) => (0.75, 1.75, 0.0, 2.3),
        _ => (0.65, 1.85, 0.95, 2.45),
    };
    if v > high - 0.5 {
        // Cornice.
        let shadow = band(v, high - 0.5, high - 0.42, foot[1]);
        return Surface::from(scale(trim, 1.0 - 0.3 * shadow)).up(0.2);
    }
    let frame = 0.12;
    let hole = band(du, left, right, foot[0]) * band(dv, sill, lintel, foot[1]);
    let around = band(du, left - frame, right + frame, foot[0])
        * band(dv, sill - frame, lintel + frame, foot[1]);
    let mut rgb = mix(wall, trim, around);
    let ledge = band(dv, 0.0, 0.14, foot[1]) * if floor >= 1.0 { 0.5 } else { 0.0 };
    rgb = mix(rgb, trim, ledge);
    let awning = if shop { band(dv, 2.5, 2.85, foot[1]) } else { 0.0 };
    rgb = mix(rgb, scale(style.cloth(bits >> 14), light), awning);
    // The lower part of a pane mirrors houses, the upper part the sky.
    let pane = mix([0.13, 0.16, 0.2], style.sky_low, 0.12 + 0.4 * k * band(dv, 1.6, 3.0, 0.8));
    let curtain = if k > 0.7 && !shop { 0.35 } else { 0.0 };
    let glass = mix(pane, [0.85, 0.82, 0.75], curtain);
    let wood = scale(style.roof(bits >> 7), 0.7 * light);
    let inside = if door { wood } else { scale(glass, 0.6 + 0.4 * light) };
    let bar = band(du, (left + right) * 0.5 - 0.04, (left + right) * 0.5 + 0.04, foot[0]);
    rgb = mix(rgb, inside, hole);
    rgb = mix(rgb, trim, hole * bar * if door || shop { 0.0 } else { 0.8 });
    let lit = !door && (k * 7.3).fract() < if shop { 0.75 } else { 0.38 };
    let warm = [1.0, 0.72 + 0.15 * k, 0.36 + 0.3 * k];
    let emit = if lit { scale(warm, 0.85 * hole * (0.6 + 0.4 * k)) } else { [0.0; 3] };
    Surface::from(rgb).emit(emit).up(0.25 * ledge + 0.6 * awning)
}

fn brick(style: &Style, plot: &Plot, u: f32, v: f32, foot: [f32; 2]) -> Surface {
    let row = (v / 0.24).floor();
    let shift = if row as i32 % 2 == 0 { 0.0 } else { 0.3 };
    let (bu, bv) = ((u + shift) / 0.6, v / 0.24);
    let tone = chance(bu.floor() as i32, row as i32, style.texture ^ plot.bits) - 0.5;
    let joint =
        band(bu.fract(), 0.0, 0.1, foot[0] / 0.6).max(band(bv.fract(), 0.0, 0.16, foot[1] / 0.24));
    let clear = (0.12 / foot[1]).min(1.0);
    let stain = cloudy(u * 0.5, v, style.texture) - 0.5;
    let light = style.wall_light(plot.side) * (1.0 + 0.25 * stain + 0.2 * tone * clear);
    let top = if v > 1.72 { 1.12 } else { 1.0 };
    Surface::from(scale(style.brick, light * top * (1.0 - 0.22 * joint * clear))).up(if v > 1.72 {
        0.8
    } else {
        0.05
    })
}

fn fence(style: &Style, layout: &Layout, u: f32, v: f32, high: f32, foot: [f32; 2]) -> Surface {
    let slat = (u / 0.22).fract();
    let body = band(slat, 0.12, 0.88, foot[0] / 0.22);
    let rail = band(v, 0.25, 0.36, foot[1]).max(band(v, high - 0.36, high - 0.25, foot[1]));
    let grain = chance((u / 0.22) as i32, 5, layout.texture) - 0.5;
    let rgb = scale(style.fence, 1.0 + 0.22 * grain - 0.18 * rail);
    let behind = scale(style.grass, 0.45);
    Surface::from(mix(behind, rgb, body.max(rail))).up(if v > high - 0.1 { 0.7 } else { 0.0 })
}
