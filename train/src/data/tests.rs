use std::collections::BTreeMap;
use std::path::Path;

use super::*;

fn write_png(
    path: &Path,
    w: u32,
    h: u32,
    colour: png::ColorType,
    depth: png::BitDepth,
    data: &[u8],
) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, w, h);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        // Every entry another colour than its index, so that an expanded palette would show.
        encoder.set_palette(
            (0..1u32 << depth as u32).flat_map(|k| [255 - k as u8, 9, 77]).collect::<Vec<u8>>(),
        );
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
}

fn spec(root: &Path) -> DatasetSpec {
    DatasetSpec {
        key: "data.train.0".into(),
        name: "toy".into(),
        images: root.join("images"),
        labels: root.join("labels"),
        image_suffix: "_rgb.png".into(),
        label_suffix: "_label.png".into(),
        ids: Ids::default(),
        classes: 19,
        groups: None,
    }
}

/// Five 8 x 6 pairs in two subfolders. The red channel and the label are the number of the sample.
fn toy(root: &Path) -> DatasetSpec {
    use png::{BitDepth::Eight, ColorType};
    for k in 0..5u8 {
        let folder = ["a", "b"][k as usize % 2];
        let mut rgb = vec![k * 10; 8 * 6 * 3];
        rgb[0] = k;
        let mut label = vec![k; 48];
        label[..24].fill(18 - k);
        let name = format!("{folder}/frame{k}");
        write_png(&root.join(format!("images/{name}_rgb.png")), 8, 6, ColorType::Rgb, Eight, &rgb);
        let path = root.join(format!("labels/{name}_label.png"));
        write_png(&path, 8, 6, ColorType::Grayscale, Eight, &label);
    }
    spec(root)
}

fn table(name: &str) -> Table {
    Table::new("toy", &Ids::Named(name.into()), 19, None).unwrap()
}

#[test]
fn pairs_are_found_and_sorted() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&toy(dir.path())).unwrap();
    let names: Vec<String> = (0..5).map(|k| dataset.sample_name(k)).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!((names.len(), &names), (5, &sorted));
    assert!(names[0].ends_with("a/frame0_rgb.png") && names[3].ends_with("b/frame1_rgb.png"));
    let (image, label) = dataset.load(3).unwrap();
    assert_eq!(
        (image.w, image.h, image.pixel(0, 0), image.pixel(1, 0)),
        (8, 6, [1, 10, 10], [10; 3])
    );
    assert_eq!((label.data[0], label.data[47]), (17, 1));
}

#[test]
fn label_indices_of_every_depth_are_raw() {
    use png::{BitDepth::*, ColorType::*};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("label.png");
    let read = || read_label(&path, &table("train_ids")).unwrap().data;
    for colour in [Indexed, Grayscale] {
        write_png(&path, 5, 2, colour, One, &[0b1011_0000, 0b0100_1000]);
        assert_eq!(read(), [1, 0, 1, 1, 0, 0, 1, 0, 0, 1]);
        write_png(&path, 3, 2, colour, Two, &[0b0110_1100, 0b0001_0000]);
        assert_eq!(read(), [1, 2, 3, 0, 1, 0]);
        write_png(&path, 3, 2, colour, Four, &[0x1F, 0x70, 0xA0, 0x30]);
        assert_eq!(read(), [1, 15, 7, 10, 0, 3]);
        write_png(&path, 3, 1, colour, Eight, &[18, 0, 255]);
        assert_eq!(read(), [18, 0, 255]);
    }
    write_png(&path, 2, 1, Grayscale, Sixteen, &[0, 7, 0, 255]);
    assert_eq!(read(), [7, 255]);
}

#[test]
fn pictures_become_rgb() {
    use png::{BitDepth::*, ColorType::*};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.png");
    let read = || read_image(&path).unwrap().data;
    write_png(&path, 2, 1, Indexed, Eight, &[0, 3]);
    assert_eq!(read(), [255, 9, 77, 252, 9, 77]);
    write_png(&path, 2, 1, Grayscale, Eight, &[5, 200]);
    assert_eq!(read(), [5, 5, 5, 200, 200, 200]);
    write_png(&path, 1, 1, GrayscaleAlpha, Eight, &[5, 128]);
    assert_eq!(read(), [5, 5, 5]);
    write_png(&path, 1, 1, Rgb, Sixteen, &[12, 255, 13, 0, 14, 128]);
    assert_eq!(read(), [12, 13, 14]);
}

#[test]
fn named_tables_follow_their_data_sets() {
    let class = |name: &str, value| table(name).class(value);
    assert_eq!(class("cityscapes", 7), Some(0));
    assert_eq!(class("cityscapes", 33), Some(18));
    assert_eq!(class("gtav", 4), Some(255));
    assert_eq!(class("mapillary", 46), Some(7));
    assert_eq!(class("mapillary", 45), Some(5));
    assert_eq!(class("mapillary", 0), Some(255));
    assert_eq!(class("synthia", 21), Some(3));
    assert_eq!(class("urbansyn", 19), Some(255));
    assert_eq!(class("urbansyn", 20), None);
    assert_eq!((class("train_ids", 18), class("train_ids", 19)), (Some(18), None));
    for name in ["cityscapes", "mapillary", "synthia"] {
        let mut found: Vec<u8> = (0..256).filter_map(|v| class(name, v)).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, (0..19).chain([255]).collect::<Vec<u8>>(), "{name}");
    }
    let error = Table::new("toy", &Ids::Named("cityscape".into()), 19, None).unwrap_err();
    assert!(error.to_string().contains("did you mean \"cityscapes\""), "{error}");
}

#[test]
fn explicit_maps_and_groups() {
    let ids = Ids::Map(BTreeMap::from([("40".into(), 1), ("7".into(), 0), ("9".into(), 2)]));
    let groups = ClassGroups { names: vec!["flat".into(), "rest".into()], of: vec![0, 1, 255] };
    let table = Table::new("toy", &ids, 3, Some(&groups)).unwrap();
    let classes = [7, 40, 9, 8].map(|v| table.class(v));
    assert_eq!(classes, [Some(0), Some(1), Some(255), Some(255)]);
    assert_eq!(table.names(), ["flat", "rest"]);
    let short = ClassGroups { names: vec![], of: vec![0] };
    assert!(Table::new("toy", &ids, 3, Some(&short)).is_err());
    assert!(Table::new("toy", &ids, 2, None).unwrap_err().to_string().contains("class 2"));
    let words = Ids::Map(BTreeMap::from([("road".into(), 1)]));
    assert!(Table::new("toy", &words, 3, None).unwrap_err().to_string().contains("road"));
}

#[test]
fn specs_are_read_from_toml() {
    let text =
        "name = 'x'\nimages = 'i'\nlabels = 'l'\nimage_suffix = '.png'\nlabel_suffix = '.png'\n";
    let plain: DatasetSpec = toml::from_str(text).unwrap();
    assert_eq!((plain.ids, plain.classes), (Ids::default(), 19));
    let named: DatasetSpec = toml::from_str(&format!("{text}ids = 'gtav'")).unwrap();
    assert_eq!(named.ids, Ids::Named("gtav".into()));
    let map: DatasetSpec =
        toml::from_str(&format!("{text}classes = 2\nids = {{ 3 = 1 }}")).unwrap();
    assert_eq!(map.ids, Ids::Map(BTreeMap::from([("3".into(), 1)])));
    assert!(toml::from_str::<DatasetSpec>(&format!("{text}colour = 1")).is_err());
}

#[test]
fn colour_labels_and_synthia_files() {
    use png::{BitDepth::*, ColorType::*};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("label.png");
    write_png(&path, 3, 1, Rgb, Eight, &[128, 64, 128, 0, 0, 142, 111, 74, 0]);
    assert_eq!(read_label(&path, &table("gtav")).unwrap().data, [0, 13, 255]);
    let error = read_label(&path, &table("train_ids")).unwrap_err().to_string();
    assert!(error.contains("label.png") && error.contains("Rgb 8-bit"), "{error}");
    write_png(&path, 2, 1, Rgb, Eight, &[128, 64, 128, 1, 2, 3]);
    let error = read_label(&path, &table("gtav")).unwrap_err().to_string();
    assert!(error.contains("(1, 0)") && error.contains("[1, 2, 3]"), "{error}");
    write_png(&path, 1, 1, Rgb, Sixteen, &[0, 8, 1, 2, 3, 4]);
    assert_eq!(read_label(&path, &table("synthia")).unwrap().data, [13]);
}

/// A JPEG file, optionally with an EXIF segment that asks for a quarter turn.
fn jpeg(turned: bool) -> Vec<u8> {
    let data: Vec<u8> = (0..32 * 16).flat_map(|k| [if k % 32 < 16 { 250 } else { 5 }; 3]).collect();
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.encode(&data, 32, 16, image::ExtendedColorType::Rgb8).unwrap();
    if turned {
        // One big-endian directory with one entry: tag 0x0112 (orientation), type short, value 6.
        let mut app = b"\xFF\xE1\x00\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01".to_vec();
        app.extend(b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
        bytes.splice(2..2, app);
    }
    bytes
}

#[test]
fn exif_orientation_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.jpg");
    std::fs::write(&path, jpeg(false)).unwrap();
    let plain = read_image(&path).unwrap();
    assert_eq!((plain.w, plain.h), (32, 16));
    std::fs::write(&path, jpeg(true)).unwrap();
    let turned = read_image(&path).unwrap();
    assert_eq!((turned.w, turned.h), (16, 32));
    // Orientation 6: the bright left half ends up on top.
    assert!(turned.pixel(8, 2)[0] > 200 && turned.pixel(8, 30)[0] < 50);
}

/// The decoder would fill up a short JPEG file with grey.
#[test]
fn a_jpeg_that_was_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.jpg");
    let bytes = jpeg(true);
    for cut in [3, bytes.len() / 2, bytes.len() - 20, bytes.len() - 2] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = read_image(&path).unwrap_err().to_string();
        assert!(error.contains("picture.jpg"), "{cut}: {error}");
    }
}

/// Data that cameras and phones append to a picture are ignored; a cut picture is refused.
#[test]
fn data_behind_the_end_of_a_jpeg_change_nothing() {
    let whole = jpeg(true);
    let path = Path::new("picture.jpg");
    let plain = decode_image(path, &whole).unwrap();
    let behind: [&[u8]; 6] = [
        b"\0\0\0\x18ftypmp42\0\0\0\0 \xFF\xDA \xFF\xD8\xFF\xD9 \xFF\xDA",
        &whole,
        &[0; 5000],
        b"\xFF\xD9",
        b"\xFF\xD8\xFF\xDA",
        b"\0\0\x01\x08\x0E\0\0\0Image_UTC_Data1234SEFH",
    ];
    for data in behind {
        let bytes = [&whole[..], data].concat();
        assert!(decode_image(path, &bytes).unwrap() == plain, "{data:?}");
        for cut in [whole.len() - 10, whole.len() - 2] {
            if data != b"\xFF\xD9" {
                let bytes = [&whole[..cut], data].concat();
                assert!(decode_image(path, &bytes).is_err(), "{cut}: {data:?}");
            }
        }
    }
    // A thumbnail of its own in the header, and fill bytes before markers.
    let size = (whole.len() as u16 + 8).to_be_bytes();
    let thumbnail = [b"\xFF\xFF\xFF\xE1", &size[..], b"Exif\0\0", &jpeg(false)[..]].concat();
    let thumbnail = [thumbnail, vec![0; whole.len() - jpeg(false).len()]].concat();
    let bytes = [&jpeg(false)[..2], &thumbnail, &jpeg(false)[2..]].concat();
    let straight = decode_image(path, &jpeg(false)).unwrap();
    assert!(decode_image(path, &bytes).unwrap() == straight);
    for cut in [20, bytes.len() / 2, bytes.len() - 2] {
        assert!(decode_image(path, &bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn files_of_another_form_are_named_as_what_they_are() {
    let error_of =
        |bytes: &[u8]| decode_image(Path::new("photo.jpg"), bytes).unwrap_err().to_string();
    let webp = error_of(b"RIFF\x20\0\0\0WEBPVP8 and so on");
    for word in ["photo.jpg", "a WebP picture", "PNG and JPEG are read", "convert it"] {
        assert!(webp.contains(word), "{webp}");
    }
    assert!(!webp.contains("damaged") && !webp.contains("copy it again"), "{webp}");
    let pointer = error_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n");
    assert!(pointer.contains("git lfs pull"), "{pointer}");
    let page = error_of(b"\n<!DOCTYPE html>\n<html><title>404</title></html>");
    assert!(page.contains("web page") && page.contains("download"), "{page}");
    assert!(error_of(b"").contains("empty"));
    assert!(error_of(&[0; 4096]).contains("zeros"));
    let mut lossless = jpeg(false);
    let at = lossless.windows(2).position(|m| m == [0xFF, 0xC0]).unwrap();
    lossless[at + 1] = 0xC9;
    let text = error_of(&lossless);
    assert!(text.contains("arithmetic coding") && text.contains("convert it"), "{text}");
}

/// Sets the size fields of a header to `w` x `h`, for a PNG also the checksum.
fn promise(bytes: &mut [u8], w: u32, h: u32) {
    if bytes.starts_with(&[0xFF, 0xD8]) {
        let at = bytes.windows(2).position(|m| m == [0xFF, 0xC0]).unwrap();
        bytes[at + 5..at + 7].copy_from_slice(&(h as u16).to_be_bytes());
        bytes[at + 7..at + 9].copy_from_slice(&(w as u16).to_be_bytes());
    } else {
        bytes[16..20].copy_from_slice(&w.to_be_bytes());
        bytes[20..24].copy_from_slice(&h.to_be_bytes());
        let crc = bytes[12..29].iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xEDB8_8320 * (c & 1)))
        });
        bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    }
}

/// Such a picture would take up to 2^62 bytes.
#[test]
fn headers_that_promise_more_than_the_file_holds_are_refused() {
    use png::{BitDepth::*, ColorType::*};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.png");
    let refused = |result: Result<()>| {
        let error = result.unwrap_err().to_string();
        // The decoders themselves refuse what no machine could address.
        let named = error.contains("promises") || error.contains("limit");
        assert!(named && error.contains("picture."), "{error}");
    };
    write_png(&path, 5, 2, Grayscale, Eight, &[0; 10]);
    let whole = std::fs::read(&path).unwrap();
    for (w, h) in [(i32::MAX as u32, i32::MAX as u32), (1 << 20, 1 << 20), (100_000, 1)] {
        let mut bytes = whole.clone();
        promise(&mut bytes, w, h);
        std::fs::write(&path, bytes).unwrap();
        refused(read_image(&path).map(|_| ()));
        refused(read_label(&path, &table("train_ids")).map(|_| ()));
    }
    let path = dir.path().join("picture.jpg");
    let mut bytes = jpeg(false);
    promise(&mut bytes, 65535, 65535);
    std::fs::write(&path, bytes).unwrap();
    refused(read_image(&path).map(|_| ()));
}

/// A blank picture with one bit per pixel is the smallest file for its size.
#[test]
fn blank_pictures_are_not_taken_for_empty_promises() {
    use png::{BitDepth::One, ColorType::Grayscale};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blank.png");
    write_png(&path, 4096, 2048, Grayscale, One, &[0; 4096 * 2048 / 8]);
    let file = std::fs::metadata(&path).unwrap().len();
    assert!(file < 4096 * 2048 / 1024, "{file} bytes");
    assert!(read_image(&path).unwrap().data.iter().all(|v| *v == 0));
    assert!(read_label(&path, &table("train_ids")).unwrap().data.iter().all(|v| *v == 0));
}

/// Every fault of a data set gives an error that names the file.
#[test]
fn broken_data_sets_are_explained() {
    use png::{BitDepth::Eight, ColorType};
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let spec = toy(root);
    let expect = |result: Result<()>, words: &[&str]| {
        let text = result.unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{text:?} lacks {word:?}");
        }
    };
    let open = |spec: &DatasetSpec| Dataset::open(spec).map(|_| ());
    let load = |spec: &DatasetSpec| Dataset::open(spec).unwrap().load(0).map(|_| ());
    let label = root.join("labels/a/frame0_label.png");
    let image = root.join("images/a/frame0_rgb.png");

    write_png(&label, 8, 6, ColorType::Grayscale, Eight, &[vec![3; 10], vec![19; 38]].concat());
    let words = ["frame0_label.png", "pixel (2, 1)", "value 19", "0 to 18", "data.train.0.id_map"];
    expect(load(&spec), &words);
    write_png(&label, 8, 5, ColorType::Grayscale, Eight, &[3; 40]);
    expect(load(&spec), &["frame0_label.png is 8x5", "frame0_rgb.png is 8x6"]);
    std::fs::write(&label, b"\xFF\xD8 not a PNG").unwrap();
    expect(load(&spec), &["frame0_label.png", "JPEG", "changes the values", "PNG again"]);
    std::fs::write(&label, b"RIFF\x20\0\0\0WEBPVP8 ").unwrap();
    expect(load(&spec), &["frame0_label.png", "a WebP picture", "PNG"]);
    let bytes = std::fs::read(&image).unwrap();
    for cut in [0, 5, 20, bytes.len() - 20] {
        std::fs::write(&image, &bytes[..cut]).unwrap();
        expect(load(&spec), &["frame0_rgb.png", "copy it again"]);
    }
    std::fs::remove_file(&image).unwrap();
    let dataset = Dataset::open(&toy(root)).unwrap();
    std::fs::remove_file(&image).unwrap();
    expect(dataset.load(0).map(|_| ()), &["frame0_rgb.png", "cannot read"]);
    std::fs::remove_file(root.join("labels/b/frame1_label.png")).unwrap();
    std::fs::remove_file(root.join("labels/b/frame3_label.png")).unwrap();
    expect(
        open(&spec),
        &["2 of 4 images", "frame1_rgb.png", "frame1_label.png", "data.train.0.label_suffix"],
    );
    expect(
        open(&DatasetSpec { image_suffix: ".tif".into(), ..spec.clone() }),
        &["\".tif\"", "images", "data.train.0.image_suffix"],
    );
    expect(open(&DatasetSpec { images: root.join("none"), ..spec }), &["none", "cannot read"]);
}
