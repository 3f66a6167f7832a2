//! Appearance of the things in a scene: one set of colours per picture.
//!
//! Layout and style are drawn from separate generators, so the same (seed, index) has the same
//! labels in every domain.

use dressage_engine::Philox;

use super::Domain;
use super::canvas::{Rgb, mix, scale};

/// Purpose of the generator that picks colours.
const PURPOSE: u32 = 0x4C4F_4F4B;

/// Colours and light of one picture.
pub struct Style {
    pub domain: Domain,
    /// Seed of the textures.
    pub texture: u32,
    pub sky_top: Rgb,
    pub sky_low: Rgb,
    pub cloud: Rgb,
    pub cloud_cover: f32,
    pub asphalt: Rgb,
    pub marking: Rgb,
    pub kerb: Rgb,
    pub paving: Rgb,
    pub grass: Rgb,
    pub leaf: Rgb,
    pub trunk: Rgb,
    pub metal: Rgb,
    pub brick: Rgb,
    pub fence: Rgb,
    /// Side of the sun: -1 or 1.
    pub sun: f32,
    /// Additional brightness of sunlit walls.
    pub contrast: f32,
    walls: Vec<Rgb>,
    roofs: Vec<Rgb>,
    cars: Vec<Rgb>,
    clothes: Vec<Rgb>,
}

const fn rgb(hex: u32) -> Rgb {
    [(hex >> 16 & 255) as f32 / 255.0, (hex >> 8 & 255) as f32 / 255.0, (hex & 255) as f32 / 255.0]
}

fn list(hex: &[u32]) -> Vec<Rgb> {
    hex.iter().map(|&h| rgb(h)).collect()
}

/// Random number in [-1, 1).
fn signed(random: &mut Philox) -> f32 {
    random.uniform() as f32 * 2.0 - 1.0
}

impl Style {
    /// Colours of picture `index` in `domain`.
    pub fn new(seed: u64, index: u64, domain: Domain) -> Self {
        let mut random = Philox::new(seed, PURPOSE, index, domain as u64);
        let mut style = match domain {
            Domain::Palette => southern(),
            _ => northern(),
        };
        style.domain = domain;
        style.texture = random.next_u32();
        style.sun = if random.below(2) == 0 { -1.0 } else { 1.0 };
        style.jitter(&mut random);
        if domain == Domain::Night {
            style.contrast *= 0.15;
        }
        if matches!(domain, Domain::Fog | Domain::Rain | Domain::Snow) {
            style.overcast();
        }
        style
    }

    fn jitter(&mut self, random: &mut Philox) {
        self.cloud_cover = (self.cloud_cover + 0.2 * signed(random)).clamp(0.1, 0.8);
        let blue = 0.5 + 0.5 * signed(random);
        self.sky_top = mix(self.sky_top, self.sky_low, 0.35 * blue);
        let light = 1.0 + 0.06 * signed(random);
        for colour in [
            &mut self.asphalt,
            &mut self.kerb,
            &mut self.paving,
            &mut self.grass,
            &mut self.leaf,
            &mut self.trunk,
            &mut self.metal,
            &mut self.brick,
            &mut self.fence,
        ] {
            let own = light + 0.1 * signed(random);
            let shift = [0.03 * signed(random), 0.03 * signed(random), 0.03 * signed(random)];
            for c in 0..3 {
                colour[c] = (colour[c] * own + shift[c]).clamp(0.02, 1.0);
            }
        }
    }

    /// Sets a grey sky and soft light.
    fn overcast(&mut self) {
        self.contrast *= 0.3;
        self.cloud_cover = 0.9;
        self.sky_top = mix(self.sky_top, rgb(0xAEB6BD), 0.85);
        self.sky_low = mix(self.sky_low, rgb(0xD3D8DB), 0.85);
        self.cloud = mix(self.cloud, rgb(0xC2C8CD), 0.8);
    }

    /// Wall colour number `k`.
    pub fn wall(&self, k: u32) -> Rgb {
        vary(&self.walls, k)
    }

    /// Roof colour number `k`.
    pub fn roof(&self, k: u32) -> Rgb {
        vary(&self.roofs, k)
    }

    /// Car colour number `k`.
    pub fn car(&self, k: u32) -> Rgb {
        vary(&self.cars, k)
    }

    /// Colour of clothes number `k`.
    pub(crate) fn cloth(&self, k: u32) -> Rgb {
        vary(&self.clothes, k)
    }

    /// Brightness of a wall on side `side` of the street (-1 left, 1 right).
    pub(crate) fn wall_light(&self, side: f32) -> f32 {
        // The sun over the left roofs lights the walls on the right.
        1.0 - self.contrast * (0.5 + 0.5 * side * self.sun)
    }
}

/// Entry of `colours` picked by the low bits of `k`, its brightness by the high ones.
fn vary(colours: &[Rgb], k: u32) -> Rgb {
    let light = 0.86 + 0.22 * ((k >> 16) & 255) as f32 / 255.0;
    scale(colours[k as usize % colours.len()], light)
}

/// The source domain: plaster and brick, green trees, a blue sky.
fn northern() -> Style {
    Style {
        domain: Domain::Day,
        texture: 0,
        sky_top: rgb(0x5B9BD9),
        sky_low: rgb(0xCFE4F2),
        cloud: rgb(0xF7F9FB),
        cloud_cover: 0.4,
        asphalt: rgb(0x5F6266),
        marking: rgb(0xE9EAE6),
        kerb: rgb(0xB9B7B0),
        paving: rgb(0x9C9890),
        grass: rgb(0x7FA04C),
        leaf: rgb(0x4C7F38),
        trunk: rgb(0x5C4936),
        metal: rgb(0x6F7578),
        brick: rgb(0xA89B88),
        fence: rgb(0x6A5240),
        sun: 1.0,
        contrast: 0.3,
        walls: list(&[
            0xD9CDB6, 0xC9B08C, 0xB5745B, 0xE3DED2, 0x9FA6A9, 0xCBB9A3, 0xA25F4B, 0xBFC6B8,
        ]),
        roofs: list(&[0x8A4B3A, 0x5A5553, 0x6E4A40, 0x4C525A]),
        cars: list(&[
            0xB3262B, 0x2B4C8C, 0xE6E6E4, 0x2A2C30, 0x8D9499, 0x35624A, 0xC9A53A, 0x6B7FA3,
        ]),
        clothes: list(&[
            0x27364F, 0x8C2F39, 0x3F5B45, 0xD8D2C4, 0x2B2B2E, 0xC77B30, 0x5D7FA8, 0x70507A,
        ]),
    }
}

/// The colours of another city: ochre and pastel façades, pale concrete roads with yellow lines. It
/// has red paving, olive and rust leaves, and an evening sky.
fn southern() -> Style {
    Style {
        domain: Domain::Palette,
        texture: 0,
        sky_top: rgb(0x7A6FB0),
        sky_low: rgb(0xF6C79B),
        cloud: rgb(0xF3A98C),
        cloud_cover: 0.45,
        asphalt: rgb(0xA59A8B),
        marking: rgb(0xE8B93A),
        kerb: rgb(0xD9CBB2),
        paving: rgb(0xA9624C),
        grass: rgb(0xB39A4A),
        leaf: rgb(0xA0642C),
        trunk: rgb(0x4A3A36),
        metal: rgb(0x2F4A46),
        brick: rgb(0xD8BE90),
        fence: rgb(0x2F5D62),
        sun: 1.0,
        contrast: 0.42,
        walls: list(&[
            0xE8A35C, 0xD96C55, 0xF0D9A0, 0x86B5B0, 0xE7B7AE, 0xC7894A, 0xF3EBDD, 0x9A83B0,
        ]),
        roofs: list(&[0xC4623A, 0xB0532F, 0xD98A55, 0x8F6A55]),
        cars: list(&[
            0xE9C23B, 0x3AA6A0, 0xF2EFE6, 0xD95F3B, 0x6A3F7A, 0x7BB661, 0x1F3F5B, 0xE58FA0,
        ]),
        clothes: list(&[
            0xF1E3C6, 0xE0533D, 0x2A9D8F, 0xF4A261, 0x6D4C8C, 0x264653, 0xFFFFFF, 0xC9184A,
        ]),
    }
}
