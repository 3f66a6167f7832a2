use super::*;
use crate::data::{Dataset, DatasetSpec, Ids, Source};

const W: usize = 160;
const H: usize = 96;

/// FNV-1a over bytes.
fn fingerprint(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}

#[test]
fn domains_share_labels_and_differ_in_pictures() {
    for index in 0..4 {
        let (day, label) = render(7, index, Domain::Day, W, H);
        for domain in &Domain::ALL[1..] {
            let (image, other) = render(7, index, *domain, W, H);
            assert_eq!(label, other, "{domain:?} {index}");
            let difference: u64 =
                day.data.iter().zip(&image.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            assert!(difference / (W * H * 3) as u64 > 8, "{domain:?} {index}: {difference}");
        }
    }
}

/// The bytes of one scene, recorded once: another machine, compiler or thread must draw the same. A
/// change to the drawing changes them, and must say so by changing these numbers.
#[test]
fn the_bytes_are_those_recorded() {
    let found = Domain::ALL.map(|domain| fingerprint(&render(1, 40, domain, W, H).0.data));
    let label = fingerprint(&render(1, 40, Domain::Day, W, H).1.data);
    assert_eq!(label, 10_560_791_970_648_961_900);
    let recorded = [
        17_549_212_251_656_520_860,
        11_606_766_487_825_700_014,
        9_094_296_910_719_818_777,
        381_806_320_162_516_131,
        13_403_867_668_597_784_117,
        3_686_403_203_965_790_196,
    ];
    assert_eq!(found, recorded);
}

#[test]
fn scenes_differ_from_each_other_and_repeat_exactly() {
    let all: Vec<u64> =
        (0..8).map(|k| fingerprint(&render(1, k, Domain::Day, W, H).0.data)).collect();
    for a in 0..8 {
        for b in 0..a {
            assert_ne!(all[a], all[b], "{a} {b}");
        }
    }
    assert_eq!(render(1, 3, Domain::Rain, W, H), render(1, 3, Domain::Rain, W, H));
    assert_ne!(render(2, 3, Domain::Day, W, H).1, render(1, 3, Domain::Day, W, H).1);
}

/// Over a few dozen scenes every drawn class occurs, the large ones in nearly every scene, and
/// void stays rare.
#[test]
fn every_class_occurs() {
    let mut scenes = [0usize; 256];
    let mut pixels = [0usize; 256];
    let count = 60;
    for index in 0..count {
        let (_, label) = render(11, index, Domain::Day, W, H);
        let mut seen = [0usize; 256];
        label.data.iter().for_each(|&class| seen[class as usize] += 1);
        for class in 0..256 {
            scenes[class] += usize::from(seen[class] > 0);
            pixels[class] += seen[class];
        }
    }
    for class in [ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, POLE, TERRAIN] {
        assert!(scenes[class as usize] > 45, "class {class} in {}", scenes[class as usize]);
    }
    for class in [WALL, FENCE, TRAFFIC_LIGHT, TRAFFIC_SIGN, PERSON, RIDER, TRUCK, BUS, BICYCLE] {
        assert!(scenes[class as usize] > 5, "class {class} in {}", scenes[class as usize]);
    }
    assert_eq!(pixels[16] + pixels[17], 0, "trains and motorcycles are not drawn");
    let total = count as usize * W * H;
    assert!(pixels[IGNORE as usize] > 0 && pixels[IGNORE as usize] < total / 20);
    assert!((19..255).all(|class| pixels[class] == 0));
    assert!(pixels[ROAD as usize] > total / 10 && pixels[ROAD as usize] < total / 2);
}

/// Labels match the shapes: in a foggy picture far pixels are paler than near ones of the same
/// class.
#[test]
fn fog_follows_distance() {
    let mut wins = 0;
    for index in 0..10 {
        let (image, label) = render(3, index, Domain::Fog, W, H);
        let mean = |rows: std::ops::Range<usize>| {
            let pixels = rows.flat_map(|y| (0..W).map(move |x| (x, y)));
            let road = pixels.filter(|&(x, y)| label.data[y * W + x] == ROAD);
            let values: Vec<f64> = road.map(|(x, y)| f64::from(image.pixel(x, y)[1])).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        wins += usize::from(mean(50..60) > mean(80..96) + 5.0);
    }
    assert!(wins >= 8, "{wins}");
}

#[test]
fn any_size_can_be_drawn() {
    for (w, h) in [(1, 1), (7, 3), (33, 65), (128, 128)] {
        for domain in Domain::ALL {
            let (image, label) = render(5, 1, domain, w, h);
            assert_eq!((image.data.len(), label.data.len()), (w * h * 3, w * h));
        }
    }
}

#[test]
fn written_scenes_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    write_dataset(dir.path(), 9, Domain::Snow, 2, (64, 40)).unwrap();
    let dataset = Dataset::open(&DatasetSpec {
        key: "data.train.0".into(),
        name: "scenes".into(),
        images: dir.path().join("images"),
        labels: dir.path().join("labels"),
        image_suffix: ".png".into(),
        label_suffix: ".png".into(),
        ids: Ids::default(),
        classes: 19,
        groups: None,
    })
    .unwrap();
    let drawn = SceneSource::new(9, 0, 2, Domain::Snow, (64, 40));
    assert_eq!(dataset.len(), 2);
    assert_eq!(dataset.class_names(), drawn.class_names());
    for index in 0..2 {
        assert_eq!(dataset.load(index).unwrap(), drawn.load(index).unwrap());
    }
    let names: Vec<_> = Domain::ALL.iter().map(|d| Domain::from_name(d.name())).collect();
    assert_eq!(names, Domain::ALL.map(Some));
}

#[test]
fn classes_can_be_taken_together() {
    use crate::data::ClassGroups;
    let plain = SceneSource::new(3, 5, 2, Domain::Fog, (64, 48));
    let mut of = vec![IGNORE; 19];
    (of[ROAD as usize], of[SIDEWALK as usize], of[SKY as usize]) = (0, 0, 1);
    let names = vec!["ground".to_owned(), "sky".to_owned()];
    let merged = SceneSource::new(3, 5, 2, Domain::Fog, (64, 48));
    let merged = merged.grouped(ClassGroups { names: names.clone(), of });
    assert_eq!(merged.class_names(), names);
    let ((image, fine), (same, coarse)) =
        (plain.load(1).expect("drawn"), merged.load(1).expect("drawn"));
    assert_eq!(image, same);
    for (fine, coarse) in fine.data.iter().zip(&coarse.data) {
        let expected = match *fine {
            ROAD | SIDEWALK => 0,
            SKY => 1,
            _ => IGNORE,
        };
        assert_eq!(*coarse, expected, "{fine}");
    }
    assert!(coarse.data.contains(&0) && coarse.data.contains(&1));
}
