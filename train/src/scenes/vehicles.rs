//! Cars, trucks and buses as boxes in perspective. They are seen from behind on the right lane and
//! from the front on the left.

use super::camera::Camera;
use super::canvas::{Canvas, KEEP, Rgb, Surface, mix, scale, smooth};
use super::layout::{Item, ItemKind};
use super::style::Style;
use super::things::part;
use super::{BUS, CAR, TRUCK};

/// Sizes and colours of a vehicle.
struct Vehicle<'a> {
    camera: &'a Camera,
    style: &'a Style,
    x: f32,
    z: f32,
    class: u8,
    /// Half the width.
    half: f32,
    length: f32,
    paint: Rgb,
    /// Whether it comes towards the camera.
    oncoming: bool,
}

/// Paints a car, truck or bus.
pub(crate) fn paint(canvas: &mut Canvas, camera: &Camera, style: &Style, item: &Item) {
    let oncoming = item.x < 0.0;
    let bits = item.bits;
    let new = |class, half, length, paint| Vehicle {
        camera,
        style,
        x: item.x,
        z: item.z,
        class,
        half,
        length,
        paint,
        oncoming,
    };
    match item.kind {
        ItemKind::Bus => {
            let bus = new(BUS, 1.25, 11.0, style.car(bits % 3 + 5));
            bus.ground(canvas);
            bus.wheels(canvas, 0.48, &[2.0, 8.5]);
            bus.coach(canvas, 3.0);
        }
        ItemKind::Truck => {
            let truck = new(TRUCK, 1.2, 8.0, style.car(bits >> 4));
            truck.ground(canvas);
            truck.wheels(canvas, 0.48, &[1.5, 6.5]);
            truck.lorry(canvas, 2.9 + 0.4 * part(bits, 12));
        }
        _ => {
            let tall = 0.12 * part(bits, 12) + if bits & 0x4000 == 0 { 0.0 } else { 0.22 };
            let car = new(CAR, 0.88 + 0.04 * part(bits, 20), 4.3, style.car(bits));
            car.ground(canvas);
            car.wheels(canvas, 0.33, &[0.85, 3.45]);
            car.saloon(canvas, tall);
        }
    }
}

impl Vehicle<'_> {
    /// Pixel of a point `x` metres right of the middle, `y` up, `z` behind the near end.
    fn at(&self, x: f32, y: f32, z: f32) -> [f32; 2] {
        self.camera.project(self.x + x, y, self.z + z)
    }

    fn s(&self) -> f32 {
        self.camera.scale(self.z)
    }

    /// Visible flank: -1 the left one, 1 the right one, 0 none.
    fn flank(&self) -> f32 {
        let lateral = self.x + self.camera.middle(self.z);
        if lateral > self.half {
            -1.0
        } else if lateral < -self.half {
            1.0
        } else {
            0.0
        }
    }

    fn ground(&self, canvas: &mut Canvas) {
        let near = self.at(0.0, 0.0, -0.1);
        let far = self.at(0.0, 0.0, self.length);
        let centre = [0.5 * (near[0] + far[0]), near[1] - 0.35 * (near[1] - far[1])];
        let wide = self.half * self.s() * 1.25 + 0.5 * (near[0] - far[0]).abs();
        canvas.shadow(centre, [wide, 0.65 * (near[1] - far[1]) + 0.16 * self.s()], 0.8);
    }

    /// Paints wheels of radius `r` at these distances from the near end.
    fn wheels(&self, canvas: &mut Canvas, r: f32, along: &[f32]) {
        let (tyre, s) = ([0.06, 0.06, 0.07], self.s());
        for side in [-0.78, 0.78] {
            let c = self.at(side * self.half, 0.0, 0.05);
            let (low, high) =
                ([c[0] - 0.11 * s, c[1] - 0.7 * s * r / 0.33], [c[0] + 0.11 * s, c[1]]);
            canvas.rect(low, high, 0.04 * s, self.class, self.z, |_, _| tyre.into());
        }
        let flank = self.flank();
        for &z in along.iter().rev().filter(|_| flank != 0.0) {
            let x = flank * self.half;
            let (c, a, b) = (self.at(x, r, z), self.at(x, r, z - r), self.at(x, r, z + r));
            let radius = [0.5 * (a[0] - b[0]).abs(), r * self.camera.scale(self.z + z)];
            canvas.ellipse(c, radius, self.class, self.z + z, |_, _| tyre.into());
        }
    }

    /// Paints rims over the flank.
    fn rims(&self, canvas: &mut Canvas, r: f32, along: &[f32]) {
        let flank = self.flank();
        for &z in along.iter().rev().filter(|_| flank != 0.0) {
            let x = flank * self.half;
            let (c, a, b) = (self.at(x, r, z), self.at(x, r, z - r), self.at(x, r, z + r));
            let radius = [0.5 * (a[0] - b[0]).abs(), r * self.camera.scale(self.z + z)];
            canvas.ellipse(c, radius, self.class, self.z + z, |_, _| [0.05, 0.05, 0.06].into());
            let inner = [radius[0] * 0.55, radius[1] * 0.55];
            canvas.ellipse(c, inner, KEEP, 0.0, |_, _| [0.55, 0.56, 0.58].into());
        }
    }

    /// Paints a face across the street at `z`. `x` is -`low` to `low` at the bottom, `high` at the
    /// top.
    fn face(
        &self,
        canvas: &mut Canvas,
        y: [f32; 2],
        half: [f32; 2],
        z: [f32; 2],
        surface: Surface,
    ) {
        let corners = [
            self.at(-half[0], y[0], z[0]),
            self.at(half[0], y[0], z[0]),
            self.at(half[1], y[1], z[1]),
            self.at(-half[1], y[1], z[1]),
        ];
        canvas.polygon(&corners, self.class, self.z + z[0], |_, _| surface);
    }

    /// Paints a piece of the visible flank, corners as (distance from the near end, height, inset).
    fn side(&self, canvas: &mut Canvas, corners: [[f32; 3]; 4], surface: Surface) {
        let flank = self.flank();
        if flank == 0.0 {
            return;
        }
        let points = corners.map(|[z, y, inset]| self.at(flank * (self.half - inset), y, z));
        canvas.polygon(&points, self.class, self.z + 0.5 * self.length, |_, _| surface);
    }

    /// Light on the visible flank.
    fn flank_light(&self) -> f32 {
        self.style.wall_light(-self.flank()) * 0.92
    }

    /// Paints a pair of lamps at height `y`.
    fn lamps(&self, canvas: &mut Canvas, y: f32, size: [f32; 2]) {
        let s = self.s();
        let (rgb, emit) = if self.oncoming {
            ([0.97, 0.97, 0.9], [3.2, 3.0, 2.4])
        } else {
            ([0.72, 0.06, 0.06], [1.5, 0.09, 0.06])
        };
        for side in [-1.0, 1.0] {
            let c = self.at(side * (self.half - size[0] - 0.04), y, 0.0);
            let (low, high) = (
                [c[0] - size[0] * s, c[1] - size[1] * s],
                [c[0] + size[0] * s, c[1] + size[1] * s],
            );
            canvas.rect(low, high, size[1] * s, self.class, self.z, |_, _| {
                Surface::from(rgb).emit(emit)
            });
        }
    }

    fn glass(&self, light: f32) -> Surface {
        mix([0.1, 0.13, 0.16], self.style.sky_low, 0.25 * light).into()
    }

    fn saloon(&self, canvas: &mut Canvas, tall: f32) {
        let (belt, top) = (0.86, 1.42 + tall);
        let light = self.flank_light();
        let own = |k: f32| Surface::from(scale(self.paint, k));
        // Bonnet or boot reaches back to where the screen starts; a van's does not.
        let screen = if self.oncoming { 1.1 } else { 0.35 };
        let roof = screen + if tall > 0.2 { 0.35 } else { 0.6 };
        let (back, end) = (self.length - 0.9, self.length);
        let flank = [[0.0, 0.3, 0.0], [end, 0.3, 0.0], [end, belt - 0.1, 0.05], [0.0, belt, 0.03]];
        self.side(canvas, flank, own(light));
        let cabin =
            [[screen, belt, 0.04], [back, belt, 0.04], [back - 0.5, top, 0.2], [roof, top, 0.2]];
        self.side(canvas, cabin, own(light * 0.95));
        let pane = [
            [screen + 0.25, belt + 0.04, 0.05],
            [back - 0.2, belt + 0.04, 0.05],
            [back - 0.6, top - 0.1, 0.19],
            [roof + 0.12, top - 0.1, 0.19],
        ];
        self.side(canvas, pane, self.glass(light));
        let pillar = 0.5 * (screen + back);
        let post = [
            [pillar, belt, 0.04],
            [pillar + 0.12, belt, 0.04],
            [pillar + 0.12, top, 0.2],
            [pillar, top, 0.2],
        ];
        self.side(canvas, post, own(light * 0.8));
        self.rims(canvas, 0.33, &[0.85, 3.45]);
        self.ends(canvas, belt, top, screen, roof);
    }

    /// Paints the parts of a car across the street. These are deck, screen and roof edge, then the
    /// nose or tail below the belt line.
    fn ends(&self, canvas: &mut Canvas, belt: f32, top: f32, screen: f32, roof: f32) {
        let (s, z) = (self.s(), self.z);
        let own = |k: f32| Surface::from(scale(self.paint, k));
        // Deck between the face and the screen, then the screen with its frame.
        let half = self.half;
        self.face(
            canvas,
            [belt, belt + 0.05],
            [half - 0.04, half - 0.06],
            [0.0, screen],
            own(1.05).up(1.0),
        );
        let z_screen = [screen, roof];
        self.face(canvas, [belt, top], [half - 0.05, half - 0.2], z_screen, own(0.95).up(0.25));
        let frame = [belt + 0.05, top - 0.09];
        self.face(canvas, frame, [half - 0.14, half - 0.26], z_screen, self.glass(1.0));
        self.face(
            canvas,
            [top - 0.05, top],
            [half - 0.2, half - 0.22],
            [roof, roof],
            own(1.1).up(1.0),
        );
        let (low, high) = (self.at(-half, belt, 0.0), self.at(half, 0.28, 0.0));
        canvas.rect(low, high, 0.13 * s, self.class, z, |_, py| {
            let down = (py - low[1]) / (high[1] - low[1]).max(1.0);
            let dark = smooth(0.72, 0.85, down);
            let shine = 1.06 - 0.3 * down;
            Surface::from(mix(scale(self.paint, shine), [0.12, 0.12, 0.13], dark))
        });
        self.lamps(canvas, 0.68, [0.15, 0.08]);
        let (a, b) = (self.at(-0.26, 0.56, 0.0), self.at(0.26, 0.44, 0.0));
        canvas.rect(a, b, 0.0, self.class, z, |_, _| [0.9, 0.9, 0.86].into());
        if self.oncoming {
            let (a, b) = (self.at(-0.42, 0.76, 0.0), self.at(0.42, 0.6, 0.0));
            canvas.rect(a, b, 0.04 * s, self.class, z, |_, _| [0.1, 0.1, 0.11].into());
        }
    }

    fn coach(&self, canvas: &mut Canvas, top: f32) {
        let (s, light) = (self.s(), self.flank_light());
        let own = |k: f32| Surface::from(scale(self.paint, k));
        let end = self.length;
        self.side(
            canvas,
            [[0.0, 0.4, 0.0], [end, 0.4, 0.0], [end, top, 0.0], [0.0, top, 0.0]],
            own(light),
        );
        let mut z = 0.5;
        while z + 1.6 < end {
            let (a, b) = (z, z + 1.5);
            let pane = [[a, 1.3, 0.0], [b, 1.3, 0.0], [b, 2.4, 0.0], [a, 2.4, 0.0]];
            let inside = self.glass(light).emit([0.75, 0.68, 0.5]);
            self.side(canvas, pane, inside);
            z += 1.65;
        }
        self.rims(canvas, 0.48, &[2.0, 8.5]);
        let (low, high) = (self.at(-self.half, top, 0.0), self.at(self.half, 0.35, 0.0));
        canvas.rect(low, high, 0.16 * s, self.class, self.z, |_, py| {
            let down = (py - low[1]) / (high[1] - low[1]).max(1.0);
            own(1.05 - 0.25 * down).up(0.6 * smooth(0.05, 0.0, down))
        });
        let inside = self.glass(1.0).emit([0.6, 0.55, 0.42]);
        let (a, b) = (self.at(-1.1, 2.3, 0.0), self.at(1.1, 1.25, 0.0));
        canvas.rect(a, b, 0.1 * s, self.class, self.z, |_, _| inside);
        let (a, b) = (self.at(-0.7, 2.8, 0.0), self.at(0.7, 2.5, 0.0));
        canvas.rect(a, b, 0.0, self.class, self.z, |_, _| {
            Surface::from([0.16, 0.13, 0.06]).emit([0.7, 0.42, 0.08])
        });
        self.lamps(canvas, 0.75, [0.16, 0.1]);
    }

    fn lorry(&self, canvas: &mut Canvas, top: f32) {
        let (s, light) = (self.s(), self.flank_light());
        let end = self.length;
        let load = |k: f32| Surface::from(scale(mix(self.paint, [0.9, 0.9, 0.88], 0.55), k));
        let cab = if self.oncoming { [0.0, 2.0] } else { [end - 2.0, end] };
        let hold = if self.oncoming { [2.2, end] } else { [0.0, end - 2.2] };
        let quad = |z: [f32; 2], y: [f32; 2]| {
            [[z[0], y[0], 0.0], [z[1], y[0], 0.0], [z[1], y[1], 0.0], [z[0], y[1], 0.0]]
        };
        self.side(canvas, quad([0.0, end], [0.45, 0.8]), [0.16, 0.16, 0.17].into());
        self.side(canvas, quad(hold, [0.8, top]), load(light));
        self.side(canvas, quad(cab, [0.6, 2.5]), Surface::from(scale(self.paint, light)));
        self.side(canvas, quad([cab[0] + 0.4, cab[1] - 0.4], [1.5, 2.2]), self.glass(light));
        self.rims(canvas, 0.48, &[1.5, 6.5]);
        let half = self.half;
        if self.oncoming {
            self.face(canvas, [0.8, top], [half; 2], [2.2, 2.2], load(0.95));
            let (low, high) = (self.at(-half, 2.5, 0.0), self.at(half, 0.4, 0.0));
            canvas.rect(low, high, 0.12 * s, self.class, self.z, |_, _| self.paint.into());
            let (a, b) = (self.at(-1.05, 2.3, 0.0), self.at(1.05, 1.45, 0.0));
            canvas.rect(a, b, 0.08 * s, self.class, self.z, |_, _| self.glass(1.0));
        } else {
            let (low, high) = (self.at(-half, top, 0.0), self.at(half, 0.8, 0.0));
            let seam = 0.5 * (low[0] + high[0]);
            canvas.rect(low, high, 0.03 * s, self.class, self.z, |px, py| {
                let down = (py - low[1]) / (high[1] - low[1]).max(1.0);
                let door = 1.0 - 0.25 * smooth(0.03 * s + 0.5, 0.0, (px - seam).abs());
                load((1.02 - 0.12 * down) * door).up(0.8 * smooth(0.04, 0.0, down))
            });
            let (low, high) = (self.at(-half, 0.8, 0.0), self.at(half, 0.45, 0.0));
            canvas.rect(low, high, 0.0, self.class, self.z, |_, _| [0.14, 0.14, 0.15].into());
        }
        self.lamps(canvas, 0.66, [0.16, 0.08]);
    }
}
