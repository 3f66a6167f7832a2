use std::fs;
use std::path::Path;

use super::*;

fn tree(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
}

fn names(root: &Path, found: &WalkResult) -> Vec<String> {
    let below = |path: &std::path::PathBuf| path.strip_prefix(root).unwrap().display().to_string();
    found.files.iter().map(below).collect()
}

fn pictures(root: &Path) -> WalkResult {
    walk(root, usize::MAX, &|path| path.extension().is_some_and(|end| end == "png"))
}

#[test]
fn hidden_files_and_folders_of_systems_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join(".hidden itself");
    let files = [
        "b.png",
        "a/c.png",
        "a/._c.png",
        "a/.ipynb_checkpoints/c-checkpoint.png",
        "__MACOSX/a/c.png",
        "@eaDir/b.png/THUMB.png",
        ".git/x.png",
        "note.txt",
    ];
    tree(&root, &files);
    let found = pictures(&root);
    assert_eq!(names(&root, &found), ["a/c.png", "b.png"]);
    assert_eq!((found.hidden, found.passed_over()), (5, None));
    let flat = walk(&root, 1, &|_| true);
    assert_eq!(names(&root, &flat), ["b.png", "note.txt"]);
}

#[cfg(unix)]
#[test]
fn files_are_found_once_whatever_links_lead_to_them() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("photos");
    tree(&root, &["z/street.png", "y/tree.png"]);
    tree(dir.path(), &["elsewhere/far.png", "beside.png"]);
    let links = [
        (".", "latest"),
        (".", "current"),
        ("..", "up"),
        ("/", "all"),
        ("../z", "y/other"),
        ("../y", "z/other"),
        ("z/street.png", "again.png"),
        ("nowhere.png", "lost.png"),
        ("nowhere", "lost"),
        ("self", "self"),
        ("../elsewhere", "more"),
    ];
    for (to, name) in links {
        symlink(to, root.join(name)).unwrap();
    }
    let found = pictures(&root);
    let want = ["lost.png", "more/far.png", "y/tree.png", "z/street.png"];
    assert_eq!(names(&root, &found), want);
    assert_eq!(found.repeated, 7, "{found:?}");
    assert!(found.passed_over().unwrap().contains("7 links"));
    // Many folders that all lead to each other.
    for i in 0..12 {
        tree(&root, &[&format!("many/{i}/{i}.png")]);
        (0..12).for_each(|j| {
            symlink(format!("../{j}"), root.join(format!("many/{i}/to {j}"))).unwrap();
        });
    }
    assert_eq!(names(&root, &pictures(&root)).len(), 4 + 12);
}

#[cfg(unix)]
#[test]
fn sockets_and_links_to_devices_are_named() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), &["a.png"]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s.png")).unwrap();
    symlink("/dev/zero", dir.path().join("z.png")).unwrap();
    let found = pictures(dir.path());
    assert_eq!(names(dir.path(), &found), ["a.png"]);
    let text = found.passed_over().unwrap();
    assert!(text.contains("s.png and 1 more (not a regular file)"), "{text}");
    for (name, word) in [("s.png", "a socket"), ("z.png", "a device"), (".", "a folder")] {
        let error = super::super::read_image(&dir.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("regular"), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn names_need_not_be_unicode() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let name = |end: &[u8]| OsStr::from_bytes(&[b"stra\xDFe", end].concat()).to_owned();
    let (images, labels) = (dir.path().join("images"), dir.path().join("labels"));
    fs::create_dir(&images).unwrap();
    fs::create_dir(&labels).unwrap();
    image::RgbImage::new(4, 4).save(images.join("a.png")).unwrap();
    image::GrayImage::new(4, 4).save(labels.join("a.png")).unwrap();
    fs::rename(images.join("a.png"), images.join(name(b"_rgb.png"))).unwrap();
    fs::rename(labels.join("a.png"), labels.join(name(b"_id.png"))).unwrap();
    let dataset = super::super::Dataset::open(&super::super::DatasetSpec {
        key: "data.train.0".into(),
        name: "t".into(),
        images,
        labels: labels.clone(),
        image_suffix: "_rgb.png".into(),
        label_suffix: "_id.png".into(),
        ids: Default::default(),
        classes: 2,
        groups: None,
    })
    .unwrap();
    assert_eq!(dataset.pairs()[0].label, labels.join(name(b"_id.png")));
    assert_eq!(super::super::Source::load(&dataset, 0).unwrap().0.w, 4);
}
