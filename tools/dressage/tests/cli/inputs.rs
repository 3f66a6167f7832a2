//! Realistic folders: links, hidden files, broken and foreign images, labels that do not fit.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dressage_train::data::read_image;
use dressage_train::pictures::write_image;
use dressage_train::scenes::{Domain, render, write_dataset};

use crate::common::{TINY, done, err, out, refused};

/// Runs the program in `dir`, with its cache folder there too.
fn dressage(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dressage"))
        .args(args)
        .current_dir(dir)
        .env_remove("COLUMNS")
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .output()
        .expect("the program starts")
}

/// Returns a folder with a trained run of two steps.
fn trained() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
    let eval = "data.eval=[]";
    done(dressage(dir.path(), &["train", "tiny.toml", "train.steps=2", eval]));
    dir
}

fn picture(path: &Path, w: usize, h: usize) {
    fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    write_image(path, &render(1, 7, Domain::Day, w, h).0).expect("written");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_with_broken_and_foreign_files_is_done_but_for_them() {
    let dir = trained();
    let photos = dir.path().join("photos");
    for name in ["a.png", "city/b.png", "._a.png", "__MACOSX/a.png"] {
        picture(&photos.join(name), 40, 32);
    }
    let half = fs::read(photos.join("a.png")).expect("picture");
    fs::write(photos.join("cut.png"), &half[..half.len() / 2]).expect("written");
    fs::write(photos.join("named.jpg"), b"RIFF\x20\0\0\0WEBPVP8 ").expect("written");
    fs::write(photos.join("other.webp"), b"RIFF\x20\0\0\0WEBPVP8 ").expect("written");
    let output = dressage(dir.path(), &["predict", "runs/tiny", "photos", "--out", "out"]);
    let (stdout, stderr) = (out(&output), err(&output));
    assert!(stdout.contains("2 images done, in out"), "{stdout}");
    for words in ["photos/cut.png", "photos/named.jpg: it is a WebP picture", "other.webp"] {
        assert!(stderr.contains(words), "{stderr}");
    }
    refused(output, 1, &["2 of 4 images are not done, the first: "]);
    let results = dir.path().join("out");
    assert_eq!(names(&results), ["a_label.png", "a_overlay.png", "city"]);
    // A file that is named is processed or reported, whatever its name.
    done(dressage(dir.path(), &["predict", "runs/tiny", "photos/._a.png", "--out", "hidden"]));
    let pattern = ["predict", "runs/tiny", "photos/**/*.png", "none.png", "--out", "pattern"];
    let output = dressage(dir.path(), &pattern);
    assert!(out(&output).contains("2 images done"), "{}", err(&output));
    refused(output, 1, &["2 of 4 images", "none.png"]);
    assert!(dir.path().join("pattern/city/b_label.png").is_file());
}

#[test]
fn pictures_of_one_name_have_results_of_their_own_and_results_are_no_pictures() {
    let dir = trained();
    let mine = dir.path().join("mine");
    picture(&mine.join("0001.png"), 40, 32);
    image::open(mine.join("0001.png"))
        .expect("picture")
        .save(mine.join("0001.jpg"))
        .expect("saved");
    picture(&mine.join("0001.png.png"), 24, 24);
    picture(&mine.join("0002.png"), 40, 32);
    let predict = ["predict", "runs/tiny", "mine", "--out", "mine"];
    let first = done(dressage(dir.path(), &predict));
    assert!(first.contains("4 images done"), "{first}");
    let stems = ["0001.jpg", "0001.png", "0001.png.png", "0002"];
    for stem in stems {
        for end in ["overlay", "label"] {
            assert!(mine.join(format!("{stem}_{end}.png")).is_file(), "{stem} {:?}", names(&mine));
        }
    }
    let before = names(&mine);
    let encoded = [&predict[..], &["--encoding", "train-ids"]].concat();
    for args in [&predict[..], &encoded, &predict] {
        assert!(done(dressage(dir.path(), args)).contains("4 images done"));
        assert_eq!(names(&mine), before);
    }
    // A result never replaces a user's own file.
    let own = fs::read(mine.join("0002.png")).expect("picture");
    fs::write(mine.join("0002_label.png"), &own).expect("written");
    let output = dressage(dir.path(), &predict);
    assert!(out(&output).contains("4 images done"), "{}", out(&output));
    refused(output, 1, &["0002_label.png", "--out"]);
    assert!(fs::read(mine.join("0002_label.png")).expect("label") == own);
}

#[test]
fn files_of_one_name_in_several_folders_are_distinguished() {
    let dir = trained();
    for name in ["A/1.png", "B/1.png", "A/2.png", "1.png", "C/A/1.png"] {
        picture(&dir.path().join(name), 24, 24);
    }
    let predict = |inputs: &[&str], out: &str| {
        let args = [&["predict", "runs/tiny"], inputs, &["--out", out]].concat();
        done(dressage(dir.path(), &args))
    };
    let stdout = predict(&["A/1.png", "B/1.png", "A/2.png"], "files");
    assert!(stdout.contains("3 images done"), "{stdout}");
    let results = dir.path().join("files");
    assert_eq!(names(&results), ["2_label.png", "2_overlay.png", "A", "B"]);
    assert!(results.join("B/1_label.png").is_file());
    let stdout = predict(&["A", "B", "1.png", "C/A/1.png"], "folders");
    assert!(stdout.contains("5 images done"), "{stdout}");
    for stem in ["1", "2", "A/1", "B/1", "C/A/1"] {
        let label = dir.path().join(format!("folders/{stem}_label.png"));
        assert!(label.is_file(), "{stem} {:?}", names(&dir.path().join("folders")));
    }
}

#[test]
fn results_that_cannot_be_written_do_not_stop_the_others() {
    let dir = trained();
    let photos = dir.path().join("photos");
    let long = "l".repeat(240);
    for name in ["a", "sub/b", "c", long.as_str(), "z"] {
        picture(&photos.join(format!("{name}.png")), 24, 24);
    }
    let results = dir.path().join("out");
    fs::create_dir_all(results.join("c_label.png/in")).expect("folder");
    fs::write(results.join("sub"), "a file").expect("written");
    let output = dressage(dir.path(), &["predict", "runs/tiny", "photos", "--out", "out"]);
    let (stdout, stderr) = (out(&output), err(&output));
    assert!(stdout.contains("2 images done, in out"), "{stdout}{stderr}");
    for words in ["c_label.png", "out/sub", &long] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    refused(output, 1, &["3 of 5 images are not done"]);
    assert!(results.join("a_label.png").is_file() && results.join("z_label.png").is_file());
    let file = dressage(dir.path(), &["predict", "runs/tiny", "photos", "--out", "tiny.toml"]);
    refused(file, 1, &["tiny.toml is a file, not a folder"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_with_the_count_of_what_is_done() {
    let dir = trained();
    for name in ["a", "b", "c"] {
        picture(&dir.path().join(format!("photos/{name}.png")), 24, 24);
    }
    fs::create_dir(dir.path().join("out")).expect("folder");
    let full = dir.path().join("out/b_overlay.png");
    std::os::unix::fs::symlink("/dev/full", full).expect("link");
    let output = dressage(dir.path(), &["predict", "runs/tiny", "photos", "--out", "out"]);
    refused(output, 1, &["b_overlay.png", "1 of 3 images are done, in out"]);
    assert!(!dir.path().join("out/c_label.png").exists());
}

#[cfg(unix)]
#[test]
fn names_with_control_characters_are_escaped() {
    let dir = trained();
    for name in ["a\n\u{1b}[31m.png", "b.jfif", "c.JPE"] {
        let path = dir.path().join("photos").join(name);
        fs::create_dir_all(dir.path().join("photos")).expect("folder");
        fs::write(path, "no picture").expect("written");
    }
    let output = dressage(dir.path(), &["predict", "runs/tiny", "photos", "--out", "o\u{1b}ut"]);
    let stderr = err(&output);
    assert!(stderr.contains("a\\n\\u{1b}[31m.png") && !stderr.contains('\u{1b}'), "{stderr}");
    refused(output, 1, &["3 of 3 images are not done"]);
}

#[cfg(unix)]
#[test]
fn links_that_loop_and_pipes_block_nothing() {
    use std::os::unix::fs::symlink;
    let dir = trained();
    let photos = dir.path().join("photos");
    picture(&photos.join("street.png"), 40, 32);
    for (to, name) in [(".", "latest"), (".", "current"), ("..", "up"), ("street.png", "one.png")] {
        symlink(to, photos.join(name)).expect("link");
    }
    let pipe = photos.join("pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for input in ["photos", "photos/**/*.png"] {
        let output = dressage(dir.path(), &["predict", "runs/tiny", input, "--out", "out"]);
        assert!(err(&output).contains("pipe.png (not a regular file)"), "{}", err(&output));
        assert!(done(output).contains("1 images"));
    }
    assert_eq!(names(&dir.path().join("out")), ["street_label.png", "street_overlay.png"]);
    let output = dressage(dir.path(), &["predict", "runs/tiny", "photos/pipe.png"]);
    refused(output, 1, &["photos/pipe.png is a pipe"]);
}

#[test]
fn pictures_smaller_than_a_patch_are_segmented() {
    let dir = trained();
    for (w, h) in [(1, 1), (48, 7), (7, 400), (8, 8), (9, 8)] {
        picture(&dir.path().join(format!("small/{w}x{h}.png")), w, h);
    }
    let predict = ["predict", "runs/tiny", "small", "--out"];
    let ways: [&[&str]; 4] = [
        &["a"],
        &["b", "--set", "eval.mode=whole"],
        &["c", "--box", "1x1"],
        &["d", "--box", "9x3"],
    ];
    for way in ways {
        let stdout = done(dressage(dir.path(), &[&predict[..], way].concat()));
        assert!(stdout.contains("5 images done"), "{stdout}");
        let overlay = dir.path().join(way[0]).join("7x400_overlay.png");
        let overlay = read_image(&overlay).expect("overlay");
        assert_eq!((overlay.w, overlay.h), (7, 400));
    }
    let narrow = ["train", "tiny.toml", "augment.crop=8", "run.dir=narrow"];
    refused(dressage(dir.path(), &narrow), 1, &["augment.crop", "two patches (16)"]);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_unicode_are_done() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = trained();
    let name = |end: &[u8]| std::ffi::OsStr::from_bytes(&[b"stra\xDFe", end].concat()).to_owned();
    let file = dir.path().join("photos").join(name(b".png"));
    picture(&dir.path().join("photos/a.png"), 40, 32);
    fs::rename(dir.path().join("photos/a.png"), &file).expect("renamed");
    done(dressage(dir.path(), &["predict", "runs/tiny", "photos", "--out", "out"]));
    assert!(dir.path().join("out").join(name(b"_label.png")).is_file());
    let output = Command::new(env!("CARGO_BIN_EXE_dressage"))
        .args(["predict", "runs/tiny", "--out", "named"])
        .arg(&file)
        .current_dir(dir.path())
        .output()
        .expect("the program starts");
    done(output);
    assert!(dir.path().join("named").join(name(b"_overlay.png")).is_file());
}

/// Writes drawn pairs as files; returns the settings that train on them.
fn files(dir: &Path, count: usize) -> Vec<String> {
    fs::write(dir.join("tiny.toml"), TINY).expect("written");
    write_dataset(&dir.join("data"), 5, Domain::Day, count, (64, 32)).expect("files");
    let set = |name: &str| format!("[{{name='{name}',images='data/images',labels='data/labels'}}]");
    vec![format!("data.train={}", set("t")), format!("data.eval={}", set("v"))]
}

#[test]
fn wrong_pairs_are_reported_together_before_the_first_step_or_left_out() {
    let dir = tempfile::tempdir().expect("folder");
    let settings = files(dir.path(), 6);
    let train = |more: &[&str]| {
        let settings = settings.iter().map(String::as_str);
        let args: Vec<_> = ["train", "tiny.toml"].into_iter().chain(settings).collect();
        dressage(dir.path(), &[&args[..], more].concat())
    };
    let label = |i: usize| dir.path().join(format!("data/labels/day/{i:05}.png"));
    image::GrayImage::new(63, 32).save(label(1)).expect("written");
    let mut wrong = image::GrayImage::new(64, 32);
    wrong.put_pixel(3, 9, image::Luma([77]));
    wrong.save(label(3)).expect("written");
    fs::remove_file(label(4)).expect("removed");
    let words = [
        "3 of 6 pairs of data set \"t\"",
        "3 of 6 pairs of data set \"v\"",
        "00001.png is 63x32",
        "00003.png, pixel (3, 9): value 77",
        "00004.png has no label",
        "data.on_error=skip",
        "data.eval.0.id_map",
    ];
    refused(train(&[]), 1, &words);
    assert!(!dir.path().join("runs").exists(), "a refusal leaves nothing behind");
    let output = train(&["data.on_error=skip"]);
    let stderr = err(&output);
    assert!(stderr.contains("left out (data.on_error=skip): 3 of 6 pairs"), "{stderr}");
    let stdout = done(output);
    for words in ["train on  t, 3 images", "test on   v, 3 images", "6 pairs were left out"] {
        assert!(stdout.contains(words), "{stdout}");
    }
    (0..6).for_each(|i| wrong.save(label(i)).expect("written"));
    refused(train(&["data.on_error=skip", "run.dir=other"]), 1, &["6 of 6 pairs", "value 77"]);
    let scored = dressage(dir.path(), &["eval", "runs/tiny", "data.on_error=stop"]);
    refused(scored, 1, &["6 of 6 pairs of data set \"v\""]);
}

#[test]
fn labels_without_a_class_are_refused_and_the_advice_works() {
    let dir = tempfile::tempdir().expect("folder");
    let settings = files(dir.path(), 2);
    let label = |i: usize| dir.path().join(format!("data/labels/day/{i:05}.png"));
    let train = |more: &[&str]| {
        let settings = settings.iter().map(String::as_str);
        let args: Vec<_> = ["train", "tiny.toml"].into_iter().chain(settings).collect();
        dressage(dir.path(), &[&args[..], more].concat())
    };
    let output = train(&["data.train.0.id_map={ 40 = 0 }"]);
    refused(output, 1, &["no pixel in the 2 labels", "\"t\"", "data.train.0.id_map"]);
    let output = train(&["data.train.0.groups=[[40], [41]]", "head.classes=[\"a\", \"b\"]"]);
    refused(output, 1, &["data.train.0."]);
    // Ids of Cityscapes: the advice of the errors is followed literally.
    let ids = image::GrayImage::from_fn(64, 32, |x, _| image::Luma([if x > 9 { 33 } else { 7 }]));
    (0..2).for_each(|i| ids.save(label(i)).expect("written"));
    refused(train(&[]), 1, &["value 33", "data.train.0.id_map", "data.eval.0.id_map"]);
    let advice = ["data.train.0.id_map=cityscapes", "data.eval.0.id_map=cityscapes"];
    let output = train(&advice);
    let stderr = err(&output);
    done(output);
    assert!(stderr.contains("no training label has 17 of 19 classes: sidewalk, "), "{stderr}");
}
