//! The nineteen Cityscapes classes, their colours, and their ids in other files and on servers.
//!
//! Source: spec training-and-data §4.

use crate::IGNORE;

/// A semantic class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Name as in the Cityscapes paper.
    pub name: &'static str,
    /// Red, green, blue.
    pub colour: [u8; 3],
    /// Id in `*_labelIds.png` files and on the Cityscapes server.
    pub id: u8,
}

const fn class(name: &'static str, colour: [u8; 3], id: u8) -> Class {
    Class { name, colour, id }
}

/// Cityscapes classes, indexed by trainId.
pub const CITYSCAPES: [Class; 19] = [
    class("road", [128, 64, 128], 7),
    class("sidewalk", [244, 35, 232], 8),
    class("building", [70, 70, 70], 11),
    class("wall", [102, 102, 156], 12),
    class("fence", [190, 153, 153], 13),
    class("pole", [153, 153, 153], 17),
    class("traffic light", [250, 170, 30], 19),
    class("traffic sign", [220, 220, 0], 20),
    class("vegetation", [107, 142, 35], 21),
    class("terrain", [152, 251, 152], 22),
    class("sky", [70, 130, 180], 23),
    class("person", [220, 20, 60], 24),
    class("rider", [255, 0, 0], 25),
    class("car", [0, 0, 142], 26),
    class("truck", [0, 0, 70], 27),
    class("bus", [0, 60, 100], 28),
    class("train", [0, 80, 100], 31),
    class("motorcycle", [0, 0, 230], 32),
    class("bicycle", [119, 11, 32], 33),
];

/// Colours in colour-coded labels that stand for no class. The colours of pole groups and licence
/// plates are those of poles and cars and count as such.
pub const VOID_COLOURS: [[u8; 3]; 10] = [
    [0, 0, 0],
    [111, 74, 0],
    [81, 0, 81],
    [250, 170, 160],
    [230, 150, 140],
    [180, 165, 180],
    [150, 100, 100],
    [150, 120, 90],
    [0, 0, 90],
    [0, 0, 110],
];

/// Names and colours to show results; [`IGNORE`] and indices beyond the last class are black.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Palette {
    /// Name per class.
    pub names: Vec<String>,
    /// Colour per class.
    pub colours: Vec<[u8; 3]>,
}

impl Palette {
    /// The nineteen Cityscapes classes.
    pub fn cityscapes() -> Self {
        Self {
            names: CITYSCAPES.iter().map(|c| c.name.to_owned()).collect(),
            colours: CITYSCAPES.iter().map(|c| c.colour).collect(),
        }
    }

    /// Colours for any names: the Cityscapes colour of a known name, else well spread hues.
    pub fn for_names(names: &[String]) -> Self {
        let known = |name: &String| {
            let class = CITYSCAPES.iter().find(|c| c.name.eq_ignore_ascii_case(name));
            class.map(|c| c.colour)
        };
        let colours = names.iter().enumerate().map(|(k, n)| known(n).unwrap_or_else(|| spread(k)));
        Self { names: names.to_vec(), colours: colours.collect() }
    }

    /// Colour of `class`.
    pub fn colour(&self, class: u8) -> [u8; 3] {
        self.colours.get(class as usize).copied().unwrap_or([0; 3])
    }
}

/// Colour number `k`: the hue advances by the golden section, brightness alternates.
fn spread(k: usize) -> [u8; 3] {
    let hue = (k * 111 + 17) % 180;
    let value = [230, 170, 120][k % 3];
    let hsv = [hue as u8, 190, value];
    crate::augment::photometric::hsv_to_rgb(hsv, crate::augment::photometric::Finish::Nearest)
}

/// Cityscapes id of a trainId; 0 ("unlabeled") for anything else.
pub(crate) fn id_of_train_id(train_id: u8) -> u8 {
    CITYSCAPES.get(train_id as usize).map_or(0, |c| c.id)
}

/// TrainId of a Cityscapes id; [`IGNORE`] for the ids that are not evaluated.
pub(crate) fn train_id_of_id(id: u8) -> u8 {
    CITYSCAPES.iter().position(|c| c.id == id).map_or(IGNORE, |k| k as u8)
}

/// TrainId of a Cityscapes colour, [`IGNORE`] for a void colour, `None` for a colour of no class.
pub(crate) fn train_id_of_colour(rgb: [u8; 3]) -> Option<u8> {
    let class = CITYSCAPES.iter().position(|c| c.colour == rgb).map(|k| k as u8);
    class.or_else(|| VOID_COLOURS.contains(&rgb).then_some(IGNORE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_colours_invert() {
        for k in 0..19u8 {
            assert_eq!(train_id_of_id(id_of_train_id(k)), k);
            assert_eq!(train_id_of_colour(CITYSCAPES[k as usize].colour), Some(k));
        }
        let evaluated = (0..=255).filter(|&id| train_id_of_id(id) != IGNORE).count();
        assert_eq!(evaluated, 19);
        assert_eq!((id_of_train_id(255), train_id_of_id(0)), (0, 255));
        assert_eq!(train_id_of_colour([81, 0, 81]), Some(IGNORE));
        assert_eq!(train_id_of_colour([1, 2, 3]), None);
    }

    #[test]
    fn unknown_names_get_distinct_colours() {
        let names: Vec<String> = (0..12).map(|k| format!("class {k}")).collect();
        let palette = Palette::for_names(&names);
        for a in 0..12 {
            for b in 0..a {
                assert_ne!(palette.colours[a], palette.colours[b], "{a} {b}");
            }
        }
        let known = Palette::for_names(&["Road".into(), "tram".into()]);
        assert_eq!(known.colour(0), CITYSCAPES[0].colour);
        assert_eq!(known.colour(IGNORE), [0; 3]);
    }
}
