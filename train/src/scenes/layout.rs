//! Places of all things in a scene: drawn once per (seed, index), the same in every domain.

use dressage_engine::Philox;

use super::camera::Camera;

/// Purpose of the generator that places things.
const PURPOSE: u32 = 0x504C_4143;

/// One side of the street.
pub struct Side {
    /// Width of the sidewalk with its kerb.
    pub walk: f32,
    /// Plots of land along it, nearest first.
    pub plots: Vec<Plot>,
}

/// A piece of land next to the street.
pub struct Plot {
    /// -1 left, 1 right.
    pub side: f32,
    /// Start, in metres ahead.
    pub near: f32,
    /// End, in metres ahead.
    pub far: f32,
    /// Distance of its front from the middle of the road.
    pub front: f32,
    /// Kind of the plot.
    pub kind: PlotKind,
    /// Random bits for details.
    pub bits: u32,
}

/// Kinds of plots.
#[derive(Clone, Copy, PartialEq)]
pub enum PlotKind {
    /// A house with this many floors.
    House { floors: u32 },
    /// Grass, bushes and trees behind a fence.
    Garden,
    /// A brick wall with trees behind.
    Wall,
    /// Open grass with trees.
    Park,
}

/// A single thing.
pub struct Item {
    /// Metres right of the middle of the road.
    pub x: f32,
    /// Metres ahead.
    pub z: f32,
    /// Kind of the thing.
    pub kind: ItemKind,
    /// Random bits for details.
    pub bits: u32,
}

/// Kinds of things.
#[derive(Clone, Copy, PartialEq)]
pub enum ItemKind {
    Tree,
    Bush,
    Lamp,
    TrafficLight,
    Sign,
    Person,
    Car,
    Truck,
    Bus,
    Bicycle,
    Rider,
}

/// The geometry of a scene.
pub struct Layout {
    /// Half the width of the road.
    pub road: f32,
    pub left: Side,
    pub right: Side,
    /// Corner of a repaired patch: across, ahead.
    pub repair: [f32; 2],
    /// Start of the first dash of the middle line.
    pub phase: f32,
    pub edge_line: bool,
    /// Start of a pedestrian crossing.
    pub crossing: Option<f32>,
    /// Reach of the shadow of the houses, 0 to 1.
    pub shadow: f32,
    /// Seed of textures that belong to the place, not to its style.
    pub texture: u32,
    /// Height of the bonnet of the own car as a share of the picture, if it is in view.
    pub bonnet: Option<f32>,
    /// Things, farthest first.
    pub items: Vec<Item>,
}

/// Generator with methods for ranges.
struct Draw(Philox);

impl Draw {
    fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.uniform() as f32
    }

    fn chance(&mut self, p: f32) -> bool {
        (self.0.uniform() as f32) < p
    }

    fn side(&mut self) -> f32 {
        if self.chance(0.5) { -1.0 } else { 1.0 }
    }
}

impl Layout {
    /// Places everything for picture `index`, seen in a `w x h` picture.
    pub fn new(seed: u64, index: u64, w: usize, h: usize) -> (Self, Camera) {
        let mut draw = Draw(Philox::new(seed, PURPOSE, index, 0));
        let (wf, hf) = (w as f32, h as f32);
        let road = draw.range(3.4, 5.2);
        let camera = Camera {
            f: draw.range(0.72, 0.9) * wf,
            cx: wf * draw.range(0.44, 0.56),
            horizon: hf * draw.range(0.42, 0.5),
            height: draw.range(1.4, 1.75),
            offset: road * draw.range(0.2, 0.5),
            curve: draw.range(-0.0018, 0.0018),
        };
        let mut items = Vec::new();
        let left = side(&mut draw, -1.0, road, &mut items);
        let right = side(&mut draw, 1.0, road, &mut items);
        let crossing = draw.chance(0.45).then(|| draw.range(9.0, 24.0));
        street(&mut draw, road, [left.walk, right.walk], crossing, &mut items);
        traffic(&mut draw, road, &mut items);
        items.sort_by(|a, b| b.z.total_cmp(&a.z));
        let layout = Self {
            road,
            left,
            right,
            repair: [draw.range(-road, road - 1.6), draw.range(5.0, 25.0)],
            phase: draw.range(0.0, 6.0),
            edge_line: draw.chance(0.5),
            crossing,
            shadow: draw.range(-0.6, 0.9),
            texture: draw.0.next_u32(),
            bonnet: draw.chance(0.3).then(|| draw.range(0.05, 0.1)),
            items,
        };
        (layout, camera)
    }

    /// Plots of both sides, farthest first.
    pub fn plots(&self) -> Vec<&Plot> {
        let mut plots: Vec<&Plot> = self.left.plots.iter().chain(&self.right.plots).collect();
        plots.sort_by(|a, b| b.near.total_cmp(&a.near));
        plots
    }
}

fn side(draw: &mut Draw, side: f32, road: f32, items: &mut Vec<Item>) -> Side {
    let walk = draw.range(1.8, 3.6);
    let verge = if draw.chance(0.5) { draw.range(0.6, 3.0) } else { 0.0 };
    let town = draw.range(0.35, 0.85);
    let storeys = draw.range(2.0, 5.5);
    let mut plots = Vec::new();
    let mut near = draw.range(2.0, 6.0);
    while near < 130.0 {
        let roll = draw.range(0.0, 1.0);
        let kind = if roll < town {
            let floors = (storeys + draw.range(-1.2, 1.8)).max(1.0) as u32;
            PlotKind::House { floors }
        } else if roll < town + (1.0 - town) * 0.35 {
            PlotKind::Garden
        } else if roll < town + (1.0 - town) * 0.6 {
            PlotKind::Wall
        } else {
            PlotKind::Park
        };
        let far = near + draw.range(9.0, 20.0);
        let house = matches!(kind, PlotKind::House { .. });
        let step = if house { draw.range(0.0, 0.9) } else { 0.0 };
        let front = road + walk + verge + step;
        plots.push(Plot { side, near, far, front, kind, bits: draw.0.next_u32() });
        if !house {
            plant(draw, side, front, near, far, items);
        }
        near = far + if draw.chance(0.3) { draw.range(1.5, 5.0) } else { 0.0 };
    }
    Side { walk, plots }
}

/// Places trees and bushes behind the front of a plot.
fn plant(draw: &mut Draw, side: f32, front: f32, near: f32, far: f32, items: &mut Vec<Item>) {
    let mut z = near + draw.range(0.5, 3.0);
    while z < far {
        let tree = draw.chance(0.6);
        let kind = if tree { ItemKind::Tree } else { ItemKind::Bush };
        let x = side * (front + draw.range(0.8, if tree { 6.0 } else { 2.5 }));
        items.push(Item { x, z, kind, bits: draw.0.next_u32() });
        z += draw.range(1.5, 4.5);
    }
}

/// Places things and people on the sidewalks.
fn street(
    draw: &mut Draw,
    road: f32,
    walks: [f32; 2],
    crossing: Option<f32>,
    items: &mut Vec<Item>,
) {
    let lamps = draw.side();
    let mut z = draw.range(7.0, 16.0);
    while z < 110.0 {
        items.push(Item {
            x: lamps * (road + 0.6),
            z,
            kind: ItemKind::Lamp,
            bits: draw.0.next_u32(),
        });
        z += draw.range(17.0, 24.0);
    }
    let alley = if draw.chance(0.5) { draw.range(7.0, 11.0) } else { 0.0 };
    for (k, side) in [-1.0, 1.0].into_iter().enumerate() {
        let mut z = draw.range(11.0, 22.0);
        while alley > 0.0 && z < 100.0 {
            let x = side * (road + 0.9);
            items.push(Item { x, z, kind: ItemKind::Tree, bits: draw.0.next_u32() | 1 });
            z += alley * draw.range(0.9, 1.6);
        }
        let people = draw.range(0.0, 5.0) as usize;
        for _ in 0..people {
            let x = side * (road + draw.range(0.5, walks[k] - 0.3));
            let z = draw.range(5.5, 15.0) + draw.range(0.0, 16.0);
            items.push(Item { x, z, kind: ItemKind::Person, bits: draw.0.next_u32() });
        }
        let signs = draw.range(0.0, 3.0) as usize;
        for _ in 0..signs {
            let z = draw.range(9.0, 32.0);
            let x = side * (road + 0.4);
            items.push(Item { x, z, kind: ItemKind::Sign, bits: draw.0.next_u32() });
        }
        if draw.chance(0.35) {
            let (x, z) = (side * (road + walks[k] - 0.5), draw.range(8.0, 18.0));
            items.push(Item { x, z, kind: ItemKind::Bicycle, bits: draw.0.next_u32() });
        }
        let at = crossing.map(|at| at + 3.5).or_else(|| draw.chance(0.3).then_some(26.0));
        if let Some(z) = at {
            let x = side * (road + 0.35);
            items.push(Item { x, z, kind: ItemKind::TrafficLight, bits: draw.0.next_u32() });
        }
    }
    if let Some(at) = crossing {
        for _ in 0..draw.range(0.0, 3.0) as usize {
            let (x, z) = (draw.range(-road, road), at + draw.range(0.4, 2.6));
            items.push(Item { x, z, kind: ItemKind::Person, bits: draw.0.next_u32() });
        }
    }
}

/// Places moving and parked vehicles, with room between them.
fn traffic(draw: &mut Draw, road: f32, items: &mut Vec<Item>) {
    for lane in [-1.0f32, 1.0] {
        let mut z = draw.range(9.0, 34.0);
        while z < 110.0 {
            let roll = draw.range(0.0, 1.0);
            let kind = match roll {
                r if r < 0.74 => ItemKind::Car,
                r if r < 0.84 => ItemKind::Truck,
                r if r < 0.92 => ItemKind::Bus,
                _ => ItemKind::Rider,
            };
            let large = matches!(kind, ItemKind::Truck | ItemKind::Bus);
            // Large vehicles close by would hide the street.
            if !(large && z < 16.0) {
                let x = lane * road * 0.5 + draw.range(-0.25, 0.25);
                items.push(Item { x, z, kind, bits: draw.0.next_u32() });
            }
            z += draw.range(14.0, 38.0);
        }
        if road > 4.3 && draw.chance(0.6) {
            let mut z = draw.range(9.0, 25.0);
            let end = z + draw.range(10.0, 50.0);
            while z < end {
                let x = lane * (road - 0.95);
                items.push(Item { x, z, kind: ItemKind::Car, bits: draw.0.next_u32() });
                z += draw.range(5.5, 9.0);
            }
        }
    }
}
