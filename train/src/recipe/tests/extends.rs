//! `extends`.

use super::*;

/// A folder with recipes, by file name and text.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

#[test]
fn a_recipe_extends_others() {
    let base = "name = 'base'\nabout = 'base'\nmodel.weights = 'w.pth'\naugment.crop = 256\n\
                rein.rank = 4\n[[data.eval]]\nname = 'a'\nimages = 'i'\nlabels = 'l'";
    let dir = folder(&[
        ("base.toml", base),
        ("over.toml", "rein.rank = 8\nmodel.method = 'freeze'"),
        ("own.toml", "extends = ['gtav', 'base.toml', 'over.toml']\naugment.crop = 128"),
    ]);
    let r =
        Recipe::from_file(&dir.path().join("own.toml"), &["train.batch=3".into()]).expect("valid");
    assert_eq!((r.name.as_str(), r.about.as_str()), ("own", ""));
    assert_eq!((r.rein.rank, r.model.method), (8, Method::Freeze));
    assert_eq!((r.augment.crop, r.eval.crop, r.train.batch), (128, 128, 3));
    assert_eq!(r.model.weights, dir.path().join("w.pth"));
    // Lists are replaced whole, the rest is inherited.
    let eval: Vec<&str> = r.data.eval.iter().map(|e| e.set.name.as_str()).collect();
    let train: Vec<&str> = r.data.train.iter().map(|set| set.name.as_str()).collect();
    assert_eq!((eval, train), (vec!["a"], vec!["gtav"]));
}

/// What followed other keys in a resolved recipe follows those of the recipe that extends it.
#[test]
fn an_extended_resolved_recipe_is_derived_anew() {
    let base = minimal(&["model.weights=random"]).to_toml().expect("TOML");
    let dir =
        folder(&[("base.toml", &base), ("own.toml", "extends = 'base.toml'\naugment.crop = 256")]);
    let r = Recipe::from_file(&dir.path().join("own.toml"), &[]).expect("valid");
    assert_eq!((r.eval.crop, r.eval.stride, r.model.image), (256, 171, 256));
}

#[test]
fn what_cannot_be_extended_is_named() {
    let dir = folder(&[
        ("self.toml", "extends = 'self.toml'"),
        ("gone.toml", "extends = 'nowhere.toml'"),
        ("typo.toml", "extends = 'gtav-dinov2-l-rien'"),
        ("type.toml", "extends = 3"),
        ("key.toml", "extends = 'wrong.toml'"),
        ("wrong.toml", "model.wieghts = 'x'"),
    ]);
    for (file, parts) in [
        ("self.toml", &["extends more than", "does one extend itself?"][..]),
        ("gone.toml", &["cannot read", "nowhere.toml"]),
        ("typo.toml", &["no recipe `gtav-dinov2-l-rien`", "did you mean `gtav-dinov2-l-rein`"]),
        ("type.toml", &["`extends` is", "the name of a recipe"]),
        ("key.toml", &["wrong.toml", "model.wieghts", "model.weights"]),
    ] {
        let error = Recipe::from_file(&dir.path().join(file), &[]).expect_err(file).to_string();
        for part in parts {
            assert!(error.contains(part), "{file}: {error}");
        }
    }
}
