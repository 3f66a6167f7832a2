//! Sky, road, sidewalks and the plants next to them.

use super::camera::Camera;
use super::canvas::{Canvas, FAR, Rgb, Surface, band, chance, cloudy, mix, noise, scale, smooth};
use super::layout::Layout;
use super::style::Style;
use super::{ROAD, SIDEWALK, SKY, TERRAIN};

/// Paints every pixel: sky above the horizon, ground below.
pub(crate) fn paint(canvas: &mut Canvas, camera: &Camera, layout: &Layout, style: &Style) {
    for y in 0..canvas.h {
        let row = y as f32 + 0.5;
        match camera.ground(row) {
            Some(z) => ground_row(canvas, camera, layout, style, y, z),
            None => sky_row(canvas, camera, style, y),
        }
    }
}

fn sky_row(canvas: &mut Canvas, camera: &Camera, style: &Style, y: usize) {
    let height = (camera.horizon - y as f32) / camera.horizon.max(1.0);
    let base = mix(style.sky_low, style.sky_top, smooth(0.0, 1.0, height));
    // Clouds are in a plane overhead, so they shrink towards the horizon.
    let distance = 1.0 / (height + 0.12);
    for x in 0..canvas.w {
        let u = (x as f32 - camera.cx) / camera.f * distance;
        let n = cloudy(u * 2.2 + 7.0, distance * 2.4, style.texture ^ 0xC10D);
        let cover = style.cloud_cover;
        let dense = smooth(0.78 - 0.6 * cover, 0.98 - 0.5 * cover, n) * smooth(0.02, 0.2, height);
        let lit = mix(scale(style.cloud, 0.86), style.cloud, smooth(0.4, 0.8, n));
        canvas.put(y * canvas.w + x, 1.0, SKY, FAR, mix(base, lit, dense * 0.9).into());
    }
}

fn ground_row(
    canvas: &mut Canvas,
    camera: &Camera,
    layout: &Layout,
    style: &Style,
    y: usize,
    z: f32,
) {
    let foot = z / camera.f;
    let foot_z = z * z / (camera.f * camera.height);
    let middle = camera.middle(z);
    for x in 0..canvas.w {
        let across = (x as f32 + 0.5 - camera.cx) * foot - middle;
        let (class, surface) = ground_point(layout, style, &Spot { across, z, foot, foot_z });
        canvas.put(y * canvas.w + x, 1.0, class, z, surface);
    }
}

/// Area of the ground that a pixel covers, in metres.
struct Spot {
    across: f32,
    z: f32,
    /// Width.
    foot: f32,
    /// Length.
    foot_z: f32,
}

/// Class and appearance of the ground at `spot`; edges between materials are blended over one
/// pixel.
fn ground_point(layout: &Layout, style: &Style, spot: &Spot) -> (u8, Surface) {
    let side = if spot.across < 0.0 { &layout.left } else { &layout.right };
    let out = spot.across.abs();
    let (class, mut surface) = material(layout, style, spot);
    for edge in [layout.road, layout.road + KERB, layout.road + side.walk] {
        let beyond = (out - edge) / spot.foot;
        if beyond.abs() < 0.5 {
            let step = if beyond < 0.0 { 0.02 } else { -0.02 };
            let across = (edge + step) * spot.across.signum();
            let (_, other) = material(layout, style, &Spot { across, ..*spot });
            surface.rgb = mix(surface.rgb, other.rgb, 0.5 - beyond.abs());
        }
    }
    surface.rgb = scale(surface.rgb, shadow(layout, style, spot.across, spot.z));
    (class, surface)
}

/// Width of the kerb in metres.
const KERB: f32 = 0.18;

fn material(layout: &Layout, style: &Style, spot: &Spot) -> (u8, Surface) {
    let side = if spot.across < 0.0 { &layout.left } else { &layout.right };
    let (across, z, out) = (spot.across, spot.z, spot.across.abs());
    let fine = (0.06 / spot.foot_z).min(1.0);
    let edge = layout.road;
    if out < edge {
        let gutter = band(out, edge - 0.16, edge, spot.foot);
        let rgb = scale(road(layout, style, spot, fine), 1.0 - 0.3 * gutter);
        (ROAD, Surface::from(rgb).up(road_snow(layout, across, z)))
    } else if out < edge + KERB {
        (SIDEWALK, Surface::from(style.kerb).up(0.6))
    } else if out < edge + side.walk {
        (SIDEWALK, Surface::from(paving(style, spot, fine)).up(0.85))
    } else {
        let tuft = noise(across * 3.0, z * 2.0, style.texture ^ 0x6A) - 0.5;
        let patch = noise(across * 0.35, z * 0.25, style.texture ^ 0x6B) - 0.5;
        let rgb = scale(style.grass, 1.0 + 0.35 * tuft * fine + 0.25 * patch);
        (TERRAIN, Surface::from(rgb).up(1.0))
    }
}

/// Snow on the road; wheel tracks stay free of it.
fn road_snow(layout: &Layout, across: f32, z: f32) -> f32 {
    let lane = layout.road * 0.5;
    let in_lane = (across.abs() - lane).abs();
    let track = smooth(0.55, 0.25, (in_lane - 0.75).abs());
    let patch = noise(across * 1.3, z * 0.35, layout.texture ^ 0x77);
    (0.5 * patch + 0.35) * (1.0 - 0.85 * track)
}

fn road(layout: &Layout, style: &Style, spot: &Spot, fine: f32) -> Rgb {
    let &Spot { across, z, foot, foot_z } = spot;
    let grain = chance((across * 30.0) as i32, (z * 30.0) as i32, style.texture) - 0.5;
    let patch = cloudy(across * 0.5, z * 0.15, style.texture ^ 0x21) - 0.5;
    let wear = noise(across * 1.4, z * 0.05, style.texture ^ 0x22) - 0.5;
    let mut rgb = scale(style.asphalt, 1.0 + 0.12 * grain * fine + 0.22 * patch + 0.12 * wear);
    // A repaired patch of darker asphalt.
    let repair = band(across, layout.repair[0], layout.repair[0] + 1.6, foot)
        * band(z, layout.repair[1], layout.repair[1] + 5.0, foot_z);
    rgb = scale(rgb, 1.0 - 0.18 * repair);
    let dash = (z + layout.phase) % 6.0;
    let mut paint = band(across, -0.07, 0.07, foot) * band(dash, 0.0, 3.0, foot_z);
    if layout.edge_line {
        let out = across.abs();
        paint = paint.max(band(out, layout.road - 0.5, layout.road - 0.38, foot));
    }
    if let Some(at) = layout.crossing {
        let stripe = (across + 40.0) % 1.0;
        let inside =
            band(z, at, at + 3.0, foot_z) * band(across.abs(), -1.0, layout.road - 0.3, foot);
        paint = paint.max(inside * band(stripe, 0.0, 0.5, foot));
        let stop = band(z, at - 1.6, at - 1.2, foot_z) * band(across, 0.1, layout.road - 0.3, foot);
        paint = paint.max(stop);
    }
    let worn = 0.75 + 0.25 * noise(across * 5.0, z * 3.0, style.texture ^ 0x23);
    mix(rgb, style.marking, paint * worn)
}

fn paving(style: &Style, spot: &Spot, fine: f32) -> Rgb {
    let &Spot { across, z, foot, foot_z } = spot;
    let (u, v) = ((across + 50.0) / 0.75, z / 0.75);
    let stone = chance(u as i32, v as i32, style.texture ^ 0x31) - 0.5;
    let visible = (0.3 / foot_z).min(1.0);
    let joint = band(u % 1.0, 0.0, 0.06, foot / 0.75).max(band(v % 1.0, 0.0, 0.06, foot_z / 0.75));
    let dirt = cloudy(across * 0.8, z * 0.4, style.texture ^ 0x32) - 0.5;
    let light = 1.0 + 0.14 * stone * visible + 0.16 * dirt - 0.25 * joint * visible.min(fine * 4.0);
    scale(style.paving, light)
}

/// Light left on the ground: houses on the sunny side shade part of the street.
fn shadow(layout: &Layout, style: &Style, across: f32, z: f32) -> f32 {
    let ragged = 1.4 * (noise(z * 0.12, 3.0, layout.texture ^ 0x5A) - 0.5);
    let reach = layout.road * (0.15 + 0.8 * layout.shadow) + ragged;
    let inside = smooth(-0.25, 0.25, across * style.sun - reach);
    1.0 - style.contrast * 1.1 * inside
}
