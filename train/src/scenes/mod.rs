//! Drawn street scenes with exact labels, for training before any data set has been downloaded.
//!
//! A scene is a function of (seed, index). It is laid out in metres, projected through a pinhole
//! camera and painted back to front; the same shapes write the label. The domains share geometry
//! and labels and differ in colours, light and weather only. Training on [`Domain::Day`] and
//! testing on the others is a small case of domain generalisation.
//!
//! Only basic arithmetic is used, so the bytes are the same on every machine.

mod buildings;
mod camera;
mod canvas;
mod ground;
mod layout;
mod source;
mod style;
#[cfg(test)]
mod tests;
mod things;
mod vehicles;
mod weather;

pub use source::{SceneSource, write_dataset};

use canvas::{Canvas, Surface};
use layout::{ItemKind, Layout};
use style::Style;

use crate::{IGNORE, Image, LabelMap};

const ROAD: u8 = 0;
const SIDEWALK: u8 = 1;
const BUILDING: u8 = 2;
const WALL: u8 = 3;
const FENCE: u8 = 4;
const POLE: u8 = 5;
const TRAFFIC_LIGHT: u8 = 6;
const TRAFFIC_SIGN: u8 = 7;
const VEGETATION: u8 = 8;
const TERRAIN: u8 = 9;
const SKY: u8 = 10;
const PERSON: u8 = 11;
const RIDER: u8 = 12;
const CAR: u8 = 13;
const TRUCK: u8 = 14;
const BUS: u8 = 15;
const BICYCLE: u8 = 18;

/// Appearance of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// Daylight: the domain to train on.
    Day = 0,
    /// Street lamps, lit windows, headlights, sensor grain.
    Night = 1,
    /// Everything fades with distance.
    Fog = 2,
    /// Wet mirroring ground, streaks, little colour.
    Rain = 3,
    /// White ground and roofs, flakes.
    Snow = 4,
    /// Another city: other colours for everything.
    Palette = 5,
}

impl Domain {
    /// All domains, the one to train on first.
    pub const ALL: [Domain; 6] =
        [Domain::Day, Domain::Night, Domain::Fog, Domain::Rain, Domain::Snow, Domain::Palette];

    /// Lower-case name, as in recipes and folder names.
    pub fn name(self) -> &'static str {
        match self {
            Domain::Day => "day",
            Domain::Night => "night",
            Domain::Fog => "fog",
            Domain::Rain => "rain",
            Domain::Snow => "snow",
            Domain::Palette => "palette",
        }
    }

    /// The domain of that name.
    pub fn from_name(name: &str) -> Option<Domain> {
        Domain::ALL.into_iter().find(|domain| domain.name() == name)
    }
}

/// Draws scene `index` of `seed` in `domain`, `w x h` pixels, with Cityscapes trainIds as labels.
pub fn render(seed: u64, index: u64, domain: Domain, w: usize, h: usize) -> (Image, LabelMap) {
    let (layout, camera) = Layout::new(seed, index, w, h);
    let style = Style::new(seed, index, domain);
    let mut canvas = Canvas::new(w, h);
    ground::paint(&mut canvas, &camera, &layout, &style);
    buildings::skyline(&mut canvas, &camera, &layout, &style);
    for plot in layout.plots() {
        buildings::paint(&mut canvas, &camera, &layout, &style, plot);
    }
    for item in &layout.items {
        match item.kind {
            ItemKind::Tree => things::tree(&mut canvas, &camera, &style, item),
            ItemKind::Bush => things::bush(&mut canvas, &camera, &style, item),
            ItemKind::Lamp => things::lamp(&mut canvas, &camera, &style, item),
            ItemKind::TrafficLight => things::traffic_light(&mut canvas, &camera, &style, item),
            ItemKind::Sign => things::sign(&mut canvas, &camera, &style, item),
            ItemKind::Person => things::person(&mut canvas, &camera, &style, item),
            ItemKind::Bicycle => things::bicycle(&mut canvas, &camera, &style, item, false),
            ItemKind::Rider => things::bicycle(&mut canvas, &camera, &style, item, true),
            ItemKind::Car | ItemKind::Truck | ItemKind::Bus => {
                vehicles::paint(&mut canvas, &camera, &style, item);
            }
        }
    }
    weather::apply(&mut canvas, &camera, &layout, &style);
    if let Some(share) = layout.bonnet {
        bonnet(&mut canvas, share, &style);
    }
    finish(canvas)
}

/// Paints the bonnet of the own car at the lower edge; it has no class.
fn bonnet(canvas: &mut Canvas, share: f32, style: &Style) {
    let (w, h) = (canvas.w as f32, canvas.h as f32);
    let dark = if style.domain == Domain::Night { 0.25 } else { 1.0 };
    let centre = [w * 0.5, h * (1.35 - share)];
    let shade = |_: f32, y: f32| {
        let t = canvas::smooth(h * (1.0 - share), h, y);
        let rgb = canvas::mix([0.34, 0.36, 0.39], [0.1, 0.105, 0.115], t);
        Surface::from(canvas::scale(rgb, dark))
    };
    canvas.ellipse(centre, [w * 0.72, h * 0.35], IGNORE, 0.0, shade);
}

fn finish(canvas: Canvas) -> (Image, LabelMap) {
    let (w, h) = (canvas.w, canvas.h);
    let byte = |v: f32| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    let data = canvas.rgb.iter().flat_map(|rgb| rgb.map(byte)).collect();
    (Image { w, h, data }, LabelMap { w, h, data: canvas.label })
}
