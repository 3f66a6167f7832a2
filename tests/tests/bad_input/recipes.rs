//! Recipes that cannot be run.

use dressage_train::recipe::Recipe;

use crate::common::recipe;
use crate::fails_with;

#[test]
fn slips_in_a_file_are_named_with_what_was_meant() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("mine.toml");
    let head = "[model]\nweights = 'random'\n[[data.train]]\nname = 'x'\nsource = 'scenes'\n\
                count = 5\n";
    let cases: [(&str, &[&str]); 9] = [
        ("[train]\nstep = 5", &["unknown key `train.step`", "did you mean `train.steps`"]),
        ("[trian]\nsteps = 5", &["unknown key `trian.steps`", "did you mean `train.steps`"]),
        ("[augment]\nphotometic = true", &["`augment.photometic`", "`augment.photometric`"]),
        ("[optim]\nlr = 1e-4", &["unknown key `optim.lr`", "did you mean `train.lr`"]),
        ("[train]\nlr = 'fast'", &["`train.lr` is \"fast\"", "a number"]),
        ("[train]\nbatch = -2", &["`train.batch` is -2", "0 or more"]),
        ("[head]\nqueries = 10.5", &["`head.queries` is 10.5", "whole number"]),
        ("[eval]\nmode = 'slyde'", &["`eval.mode`", "whole", "did you mean `slide`"]),
        ("train = 3", &["`train` is 3", "a table"]),
    ];
    for (text, words) in cases {
        // A key outside of any table must come first.
        std::fs::write(&file, format!("{text}\n{head}")).expect("written");
        let error = fails_with(Recipe::from_file(&file, &[]), words);
        assert!(error.contains("mine.toml"), "{error:?} does not name the file");
    }
    std::fs::write(&file, head).expect("written");
    Recipe::from_file(&file, &[]).expect("the rest is a recipe");
}

#[test]
fn text_that_is_no_toml_is_shown_with_its_line() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("mine.toml");
    std::fs::write(&file, "[train]\nsteps = 5\nbatch = = 2\n").expect("written");
    let error = Recipe::from_file(&file, &[]).expect_err("no TOML").to_string();
    assert!(error.contains("mine.toml") && error.contains("line 3"), "{error}");
    std::fs::write(&file, [0xFF, 0xFE, 0x00]).expect("written");
    fails_with(Recipe::from_file(&file, &[]), &["mine.toml", "UTF-8"]);
    fails_with(
        Recipe::from_file(&dir.path().join("none.toml"), &[]),
        &["none.toml", "No such file"],
    );
    fails_with(
        Recipe::find("gtav-dinov2-l-rien", &[]),
        &["`gtav-dinov2-l-rien`", "did you mean `gtav-dinov2-l-rein`"],
    );
}

#[test]
fn values_that_make_no_sense_are_refused_before_anything_is_built() {
    let dir = tempfile::tempdir().expect("folder");
    let good = recipe(dir.path(), &[]);
    let file = dir.path().join("tiny.toml");
    let cases: [(&str, &[&str]); 8] = [
        ("augment.crop=70", &["`augment.crop` is 70", "model.patch (16)"]),
        ("model.heads=3", &["`model.embed_dim` is 32", "model.heads (3)"]),
        ("model.taps=[0,1,2,9]", &["`model.taps`", "below 4"]),
        ("rein.tokens=30", &["`rein.tokens` is 30", "head.queries (20)"]),
        ("head.mask_width=0", &["`head.mask_width` is 0"]),
        ("train.lr=-1", &["`train.lr` is -1"]),
        ("train.stpes=4", &["override `train.stpes=4`", "`train.steps`"]),
        ("train.steps", &["override `train.steps`", "key=value"]),
    ];
    for (setting, words) in cases {
        fails_with(Recipe::from_file(&file, &[setting.to_string()]), words);
    }
    assert!(!good.run.dir.exists(), "a refused recipe leaves no folder");
}
