use super::*;
use crate::data::{Ids, Table, read_image, read_label};

fn label() -> LabelMap {
    LabelMap { w: 4, h: 2, data: vec![0, 1, 2, 255, 18, 13, 10, 0] }
}

#[test]
fn label_files_come_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("label.png");
    let table = |name: &str| Table::new("t", &Ids::Named(name.into()), 19, None).unwrap();
    write_label(&path, &label(), &Palette::cityscapes()).unwrap();
    assert_eq!(read_label(&path, &table("train_ids")).unwrap(), label());
    // The same file shows the colours to anybody who just opens it.
    assert_eq!(read_image(&path).unwrap(), colourise(&label(), &Palette::cityscapes()));
    write_submission(&path, &label(), Encoding::TrainIds).unwrap();
    assert_eq!(read_label(&path, &table("train_ids")).unwrap(), label());
    write_submission(&path, &label(), Encoding::CityscapesIds).unwrap();
    assert_eq!(read_label(&path, &table("cityscapes")).unwrap(), label());
    assert_eq!(read_image(&path).unwrap().pixel(0, 1), [33; 3]);
    assert_eq!(read_image(&path).unwrap().pixel(3, 0), [0; 3]);
}

#[test]
fn writing_leaves_one_file_or_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.png");
    let image = Image { w: 2, h: 1, data: vec![1, 2, 3, 4, 5, 6] };
    write_image(&path, &image).unwrap();
    write_image(&path, &image).unwrap();
    assert_eq!(read_image(&path).unwrap(), image);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = write_image(&path.join("picture.png"), &image).unwrap_err();
    assert!(error.to_string().contains("picture.png"), "{error}");
}

#[test]
fn overlays_blend_and_leave_void_alone() {
    let image = Image { w: 4, h: 2, data: vec![100; 24] };
    let palette = Palette::cityscapes();
    assert_eq!(overlay(&image, &label(), &palette, 0.0), image);
    let half = overlay(&image, &label(), &palette, 0.5);
    assert_eq!(half.pixel(0, 0), [114, 82, 114]);
    assert_eq!(half.pixel(3, 0), [100; 3]);
}

#[test]
fn text_is_drawn_and_cut_at_the_edge() {
    let mut image = Image::new(30, 10);
    text(&mut image, 1, 1, "I", 1, [255; 3]);
    // The middle column of an I runs through all seven rows.
    let lit: Vec<usize> = (0..10).filter(|&y| image.pixel(3, y) == [255; 3]).collect();
    assert_eq!(lit, (1..8).collect::<Vec<_>>());
    text(&mut image, 25, 5, "WWW", 2, [9; 3]);
    assert_eq!(text_width("abc", 2), 34);
}

#[test]
fn a_sheet_holds_its_pictures_where_the_columns_say() {
    let red = Image { w: 3, h: 2, data: [200, 0, 0].repeat(6) };
    let blue = Image { w: 5, h: 4, data: [0, 0, 200].repeat(20) };
    let row = |caption: &str, images: Vec<Image>| SheetRow { caption: caption.into(), images };
    let sheet = Sheet {
        title: "Scenes".into(),
        columns: vec!["a".into(), "b".into()],
        rows: vec![row("day", vec![red.clone(), blue.clone()]), row("night", vec![blue, red])],
        text_scale: 1,
    };
    let page = sheet.compose();
    let count = |rgb| page.data.as_chunks::<3>().0.iter().filter(|&&p| p == rgb).count();
    assert_eq!((count([200, 0, 0]), count([0, 0, 200])), (12, 40));
    // Title 24, headings 16, caption 16 below the margin of 8; the second column starts after 8 +
    // 5 + 8.
    assert_eq!((page.pixel(8, 64), page.pixel(21, 64)), ([200, 0, 0], [0, 0, 200]));
    assert_eq!(Sheet::default().compose().data.len(), 16 * 8 * 3);
}
