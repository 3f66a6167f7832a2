use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use image::{GrayImage, Luma, RgbImage};

use super::super::{ClassGroups, DatasetSpec, Ids};
use super::facts::image_facts;
use super::*;
use crate::runlog::Silent;

/// Six pairs of 12 x 8 pixels; the labels hold the classes 0 and 1.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for kind in ["images", "labels"] {
            fs::create_dir(folder.0.path().join(kind)).unwrap();
        }
        for i in 0..6 {
            RgbImage::new(12, 8).save(folder.image(i)).unwrap();
            folder.write(i, 12, 8, |x, _| u8::from(x > 5));
        }
        folder
    }

    fn image(&self, i: usize) -> PathBuf {
        self.0.path().join(format!("images/{i}.png"))
    }

    fn label(&self, i: usize) -> PathBuf {
        self.0.path().join(format!("labels/{i}.png"))
    }

    fn write(&self, i: usize, w: u32, h: u32, value: impl Fn(u32, u32) -> u8) {
        GrayImage::from_fn(w, h, |x, y| Luma([value(x, y)])).save(self.label(i)).unwrap();
    }

    fn spec(&self, ids: Ids) -> DatasetSpec {
        DatasetSpec {
            key: "data.train.0".into(),
            name: "t".into(),
            images: self.0.path().join("images"),
            labels: self.0.path().join("labels"),
            image_suffix: ".png".into(),
            label_suffix: ".png".into(),
            ids,
            classes: 3,
            groups: None,
        }
    }

    fn check(&self, ids: Ids, caches: Option<&Path>) -> SetCheck {
        let spec = self.spec(ids);
        let dataset = Dataset::scan(&spec).unwrap();
        let stop = Interrupt::default();
        check_set("data.train.0", &spec, &dataset, caches, &Silent, &stop).unwrap()
    }

    /// Sets the modification time of all files.
    fn date(&self, time: SystemTime) {
        for i in 0..6 {
            for path in [self.image(i), self.label(i)] {
                fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
            }
        }
    }
}

#[test]
fn a_whole_set_is_counted() {
    let check = Folder::new().check(Ids::default(), None);
    assert_eq!((check.pairs, check.usable(), check.void), (6, 6, 0));
    assert_eq!(check.classes, [6 * 48, 6 * 48, 0]);
    assert_eq!(check.values.into_iter().collect::<Vec<_>>(), [(0, 6 * 48), (1, 6 * 48)]);
    assert_eq!(check.sizes.into_iter().collect::<Vec<_>>(), [((12, 8), 6)]);
    assert_eq!(check.forms.into_iter().collect::<Vec<_>>(), [("PNG".to_owned(), 6)]);
}

#[test]
fn every_fault_is_found_and_named_with_its_file() {
    let folder = Folder::new();
    folder.write(0, 11, 8, |_, _| 1);
    folder.write(1, 12, 8, |x, y| if (x, y) == (4, 3) { 77 } else { 0 });
    fs::remove_file(folder.label(2)).unwrap();
    let bytes = fs::read(folder.image(3)).unwrap();
    fs::write(folder.image(3), &bytes[..bytes.len() - 5]).unwrap();
    fs::write(folder.image(4), b"RIFF\x20\0\0\0WEBPVP8 and more").unwrap();
    let check = folder.check(Ids::default(), None);
    assert_eq!(check.left_out(), [0, 1, 2, 3, 4]);
    let words: [&[&str]; 5] = [
        &["labels/0.png is 11x8", "images/0.png is 12x8"],
        &["labels/1.png", "pixel (4, 3)", "value 77", "0 to 2"],
        &["images/2.png", "no label", "labels/2.png"],
        &["images/3.png", "ends before"],
        &["images/4.png", "WebP"],
    ];
    for (fault, words) in check.faults.iter().zip(words) {
        words.iter().for_each(|word| assert!(fault.what.contains(word), "{fault:?}: {word}"));
        assert!(!fault.what.contains("copy it again"), "advice is given once: {fault:?}");
    }
    assert_eq!(check.faults.iter().filter(|fault| fault.value).count(), 1);
    let error = verdict(OnError::Stop, std::slice::from_ref(&check)).unwrap_err().to_string();
    for word in ["5 of 6 pairs", "\"t\"", "and 2 more", "data.on_error=skip", "data.train.0.id_map"]
    {
        assert!(error.contains(word), "{error}: {word}");
    }
    assert!(verdict(OnError::Skip, &[check]).is_ok());
}

#[test]
fn sizes_are_those_of_decoded_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture");
    let mut jpeg = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
    RgbImage::new(40, 24).write_with_encoder(encoder).unwrap();
    // Orientation 6: turned by a quarter.
    let exif =
        b"\xFF\xE1\0\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
    let film = [&turned[..], b"\0\0\0\x18ftypmp42 \xFF\xDA \xFF\xD8\xFF\xD9 and more"].concat();
    let long = [&turned[..], &[7; 100_000]].concat();
    for bytes in [jpeg, turned.clone(), film, long] {
        fs::write(&path, &bytes).unwrap();
        let facts = facts::image_facts(&path).unwrap();
        let image = super::super::read_image(&path).unwrap();
        assert_eq!((facts.w, facts.h), (image.w, image.h));
        assert_eq!(facts.form, "JPEG");
    }
    for cut in [3, 40, turned.len() / 2, turned.len() - 2] {
        fs::write(&path, &turned[..cut]).unwrap();
        assert!(facts::image_facts(&path).is_err(), "{cut}");
    }
}

#[test]
fn a_second_check_reads_no_file_again_and_sees_changes() {
    let (folder, caches) = (Folder::new(), tempfile::tempdir().unwrap());
    let check = |ids| folder.check(ids, Some(caches.path()));
    // Files that may change again within the resolution of the clock are not cached.
    let hour = Duration::from_secs(3600);
    folder.date(SystemTime::now() + hour);
    assert_eq!((check(Ids::default()).known, check(Ids::default()).known), (0, 0));
    folder.date(SystemTime::now() - hour);
    let first = check(Ids::default());
    let second = check(Ids::default());
    assert_eq!((first.known, second.known), (0, 12));
    assert_eq!(SetCheck { known: 0, ..second }, first);
    // Cached values are looked up in another table of ids.
    let other = check(Ids::Map([("7".to_owned(), 0)].into()));
    assert_eq!((other.known, other.is_void()), (12, true));
    folder.write(2, 12, 8, |_, _| 99);
    let changed = check(Ids::default());
    assert_eq!((changed.known, changed.left_out()), (11, vec![2]));
    // A damaged cache only costs time.
    for entry in fs::read_dir(caches.path()).unwrap() {
        fs::write(entry.unwrap().path(), b"{\"form\":1").unwrap();
    }
    assert_eq!(check(Ids::default()).known, 0);
    fs::remove_dir_all(caches.path()).unwrap();
    fs::write(caches.path(), "no folder").unwrap();
    assert_eq!(check(Ids::default()).known, 0);
}

#[test]
fn colours_and_wide_labels_are_judged_as_when_they_are_loaded() {
    let folder = Folder::new();
    RgbImage::from_pixel(12, 8, image::Rgb([128, 64, 128])).save(folder.label(0)).unwrap();
    RgbImage::from_fn(12, 8, |x, y| image::Rgb([x as u8, y as u8, 3]))
        .save(folder.label(1))
        .unwrap();
    let wide = image::ImageBuffer::from_fn(12, 8, |x, _| Luma([if x > 8 { 300u16 } else { 1 }]));
    wide.save(folder.label(2)).unwrap();
    folder.write(3, 12, 8, |x, y| if (x, y) == (9, 2) { 60 } else { (x == 9 && y > 5) as u8 * 50 });
    image::GrayAlphaImage::new(12, 8).save(folder.label(4)).unwrap();
    for ids in ["train_ids", "cityscapes", "gtav", "synthia"] {
        let spec = DatasetSpec { classes: 19, ..folder.spec(Ids::Named(ids.into())) };
        let dataset = Dataset::scan(&spec).unwrap();
        let stop = Interrupt::default();
        let check = check_set("data.eval.0", &spec, &dataset, None, &Silent, &stop).unwrap();
        for i in 0..6 {
            let loaded = dataset.load(i).err().map(|error| error.to_string());
            let found = check.faults.iter().find(|fault| fault.pair == i);
            match (loaded, found) {
                (None, None) => {}
                (Some(text), Some(fault)) => assert!(text.starts_with(&fault.what), "{text}"),
                (loaded, found) => panic!("{ids}, pair {i}: {loaded:?} and {found:?}"),
            }
        }
    }
}

#[test]
fn a_set_without_a_labelled_pixel_is_refused_with_its_values() {
    let folder = Folder::new();
    let check = folder.check(Ids::Map([("7".to_owned(), 0)].into()), None);
    for on_error in [OnError::Stop, OnError::Skip] {
        let error = verdict(on_error, std::slice::from_ref(&check)).unwrap_err().to_string();
        for word in ["no pixel", "6 labels", "0 (50.0 %), 1 (50.0 %)", "data.train.0.id_map"] {
            assert!(error.contains(word), "{error}: {word}");
        }
    }
}

#[test]
fn advice_on_ids_can_be_followed() {
    let folder = Folder::new();
    (0..6).for_each(|i| folder.write(i, 12, 8, |_, _| 7));
    let refused = |spec: &DatasetSpec| {
        let (dataset, stop) = (Dataset::scan(spec).unwrap(), Interrupt::default());
        let check = check_set("data.train.0", spec, &dataset, None, &Silent, &stop).unwrap();
        verdict(OnError::Stop, &[check]).unwrap_err().to_string()
    };
    let three = folder.spec(Ids::default());
    let text = refused(&three);
    assert!(!text.contains("cityscapes") && text.contains("classes from 0 to 2"), "{text}");
    let other = Ids::Map([("9".to_owned(), 0)].into());
    let text = refused(&DatasetSpec { classes: 19, ids: other, ..three.clone() });
    assert!(text.contains("data.train.0.id_map") && text.contains("cityscapes or {"), "{text}");
    // The ids have a class, and that is in no group.
    let groups = ClassGroups { names: vec!["a".into()], of: vec![255, 255, 0] };
    let ids = Ids::Map([("7".to_owned(), 1)].into());
    let text = refused(&DatasetSpec { ids, groups: Some(groups), ..three.clone() });
    assert!(
        text.contains("void in its groups: ") && text.contains("data.train.0.groups"),
        "{text}"
    );
    let ids = Ids::Named("cityscapes".into());
    let error = Dataset::scan(&DatasetSpec { ids, ..three }).unwrap_err().to_string();
    assert!(error.starts_with("data.train.0.id_map: class 3 "), "{error}");
    assert!(error.contains("from 0 to 2") && error.contains("data.train.0.groups"), "{error}");
}

/// A cut file may end in the two bytes that end a picture: those of its thumbnail.
#[test]
fn a_cut_jpeg_that_ends_like_a_whole_one_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jpg");
    RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]))
        .save(&path)
        .unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(image_facts(&path).is_ok());
    let half = [&whole[..whole.len() / 2], b"\xFF\x00"].concat();
    let segment = b"\xFF\xE2\0\x04\xFF\xD9";
    let start = whole.windows(2).position(|pair| pair == b"\xFF\xDA").unwrap();
    let within = [&whole[..start], segment].concat();
    let nested = [&half[..], &whole].concat();
    for bytes in [&half, &within, &nested] {
        fs::write(&path, bytes).unwrap();
        let error = image_facts(&path).unwrap_err().to_string();
        assert!(error.contains("ends before the end of the picture"), "{error}");
        assert!(super::super::read_image(&path).is_err());
    }
}

#[test]
fn a_run_that_stops_at_a_sample_names_the_way_on() {
    let folder = Folder::new();
    let dataset = Dataset::open(&folder.spec(Ids::default())).unwrap();
    fs::write(folder.image(1), "no picture").unwrap();
    let text = |set: &Dataset| set.load(1).unwrap_err().to_string();
    assert!(!text(&dataset).contains("on_error"), "{}", text(&dataset));
    let stopping = text(&dataset.stopping());
    assert!(stopping.ends_with(", or leave it out with data.on_error=skip"), "{stopping}");
}

#[test]
fn a_request_to_stop_is_heard() {
    let folder = Folder::new();
    let (spec, stop) = (folder.spec(Ids::default()), Interrupt::default());
    let dataset = Dataset::scan(&spec).unwrap();
    stop.request();
    let error = check_set("data.train.0", &spec, &dataset, None, &Silent, &stop).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted), "{error}");
}

#[test]
fn a_sample_that_went_away_is_replaced_by_the_next() {
    let folder = Folder::new();
    for i in 0..6 {
        RgbImage::from_pixel(12, 8, image::Rgb([i as u8; 3])).save(folder.image(i)).unwrap();
    }
    let dataset = Dataset::open(&folder.spec(Ids::default())).unwrap();
    let source = Replacing::new(Arc::new(dataset));
    let number = |i: usize| usize::from(source.load(i).unwrap().0.pixel(0, 0)[0]);
    let bytes = fs::read(folder.image(5)).unwrap();
    [1, 2, 5].iter().for_each(|i| fs::remove_file(folder.image(*i)).unwrap());
    assert_eq!([0, 1, 2, 3, 4, 5].map(number), [0, 3, 3, 3, 4, 0]);
    assert_eq!(source.replaced(), 3);
    assert!(source.sample_name(1).ends_with("3.png") && source.sample_name(0).ends_with("0.png"));
    fs::write(folder.image(5), bytes).unwrap();
    assert_eq!((number(5), source.replaced()), (5, 3));
    assert!(source.sample_name(5).ends_with("5.png"));
    [0, 3, 4, 5].iter().for_each(|i| fs::remove_file(folder.image(*i)).unwrap());
    let error = source.load(1).unwrap_err().to_string();
    assert!(error.contains("1.png"), "{error}");
}

/// Notes of a run for its user.
#[derive(Default)]
pub(super) struct Lines(pub Mutex<Vec<String>>);

impl Progress for Lines {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn at(&self, _position: u64, _rate: &str) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[test]
fn classes_that_no_label_has_and_pairs_left_out_are_noted() {
    let folder = Folder::new();
    folder.write(4, 12, 8, |_, _| 200);
    let settings = [
        "model.weights=random".to_owned(),
        "head.classes=['ground', 'box', 'sign']".to_owned(),
        "data.on_error=skip".to_owned(),
        format!("data.root={}", folder.0.path().display()),
        "data.train=[{name = 't', images = 'images', labels = 'labels'}]".to_owned(),
        "data.eval=[{name = 'v', images = 'images', labels = 'labels'}]".to_owned(),
    ];
    let recipe = Recipe::from_name("gtav-dinov2-s-rein", &settings).unwrap();
    let lines = Lines::default();
    let stop = Interrupt::default();
    let checked = check_recipe(&recipe, Which::All, &lines, &stop).unwrap();
    assert_eq!((checked.train[0].len(), checked.eval[0].len()), (5, 5));
    assert_eq!(checked.samples().unwrap().len(), 5);
    assert_eq!(checked.left_out(), LeftOut { pairs: 2, replaced: 0 });
    let lines = lines.0.into_inner().unwrap();
    let has = |word: &str| lines.iter().any(|line| line.contains(word));
    assert!(has("labels/4.png") && has("value 200"), "{lines:?}");
    assert!(has("no training label has 1 of 3 classes: sign"), "{lines:?}");
}
