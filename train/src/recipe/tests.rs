use dressage_engine::{ParamKind, Role};
use std::collections::BTreeMap;

use super::*;
use crate::data::{self, Ids};
use crate::scenes::Domain;

mod extends;

const MINIMAL: &str = r#"
[model]
weights = "w.pth"
[[data.train]]
name = "a"
images = "i"
labels = "l"
"#;

fn resolve(text: &str, overrides: &[&str]) -> Result<Recipe, RecipeError> {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    resolve::resolve("mine", "mine.toml", Path::new("/recipes"), text, &overrides)
}

fn minimal(overrides: &[&str]) -> Recipe {
    resolve(MINIMAL, overrides).expect("valid recipe")
}

fn refused(text: &str, overrides: &[&str], parts: &[&str]) {
    let error = resolve(text, overrides).expect_err("must be refused").to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn defaults_are_the_published_setting() {
    let r = minimal(&[]);
    assert_eq!((r.train.steps, r.train.batch, r.train.lr), (40_000, 4, 1e-4));
    assert_eq!((r.eval.crop, r.eval.stride), (512, 341));
    assert_eq!((r.model.embed_dim, r.model.depth, r.model.ffn), (1024, 24, 4096));
    assert_eq!((r.model.taps.as_slice(), r.rein.tokens), ([7, 11, 15, 23].as_slice(), 100));
    // The list of spec training-and-data §2.1.
    let edges = [256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024];
    assert_eq!(r.augment.short_edges(), edges);
    assert_eq!((r.augment.max_long_edge, r.classes()), (2048, 19));
    assert_eq!(r.schedule().expect("valid").lr(39_999), 0.0);
}

#[test]
fn defaults_follow_backbone_crop_and_queries() {
    let r = minimal(&["augment.crop=1024", "model.backbone=dinov2-b", "head.queries=60"]);
    assert_eq!((r.model.image, r.eval.crop, r.eval.stride), (1024, 1024, 683));
    let edges =
        [512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536, 1638, 1740, 1843, 1945, 2048];
    assert_eq!(r.augment.short_edges(), edges);
    assert_eq!((r.augment.max_long_edge, r.rein.tokens), (4096, 60));
    assert_eq!((r.model.embed_dim, r.model.heads, r.model.ffn), (768, 12, 3072));
    assert_eq!(r.model.taps, [2, 5, 8, 11]);
    let r = minimal(&["model.backbone=custom", "model.embed_dim=48", "model.heads=3"]);
    assert_eq!((r.model.ffn, r.model.depth), (192, 12));
    let r = minimal(&["model.backbone=custom", "model.embed_dim=48", "model.ffn_form=swiglu"]);
    assert_eq!((r.model.ffn, r.model.ffn_form), (128, Ffn::Swiglu));
    let r = minimal(&["model.backbone=dinov2-g", "model.taps=[5, 15, 25, 39]"]);
    assert_eq!((r.model.embed_dim, r.model.depth, r.model.heads), (1536, 40, 24));
    assert_eq!((r.model.ffn, r.model.ffn_form), (4096, Ffn::Swiglu));
    assert_eq!(r.model.taps, [5, 15, 25, 39]);
    assert_eq!(minimal(&["model.backbone=dinov2-g"]).model.taps, [9, 19, 29, 39]);
    let r = minimal(&["head.width=128"]);
    assert_eq!((r.head.width, r.head.mask_width), (128, 128));
    assert_eq!(minimal(&["head.mask_width=40"]).head.mask_width, 40);
    assert_eq!(minimal(&[]).head.mask_width, 256);
    let r = minimal(&["augment.crop=256", "eval.stride=200"]);
    assert_eq!((r.eval.crop, r.eval.stride), (256, 200));
}

#[test]
fn the_published_recipes_at_512_and_1024_differ() {
    let recipe = |name| Recipe::from_name(name, &[]).expect(name);
    for name in ["gtav-dinov2-l-rein", "citys-dinov2-l-rein", "gtav-dinov2-g-rein"] {
        let t = recipe(name).train;
        assert_eq!((t.lr, t.batch, t.warm_up_steps, t.steps), (1e-4, 4, 0, 40_000), "{name}");
    }
    let r = recipe("acdc-dinov2-l-rein");
    let t = &r.train;
    assert_eq!((t.lr, t.batch, t.warm_up_steps, t.steps), (6e-5, 8, 10_000, 40_000));
    assert_eq!((t.warm_up_start, r.augment.crop, r.model.image), (1e-6, 1024, 1024));
    // Spec training-and-data §1.3.
    let schedule = r.schedule().expect("valid");
    let at = |step: u64| 6e-5 * (1e-6 + (1.0 - 1e-6) * step as f64 / 9999.0);
    assert!((schedule.lr(5000) - at(5000)).abs() < 1e-15);
    assert_eq!(schedule.lr(39_999), 0.0);
}

#[test]
fn a_resolved_recipe_reads_back_as_itself() {
    for recipe in EMBEDDED.iter() {
        let r = Recipe::from_name(&recipe.name, &[]).expect(&recipe.name);
        let text = r.to_toml().expect("TOML");
        let again = resolve::resolve("x", "x", Path::new("/other"), &text, &[]).expect("valid");
        assert_eq!(again, r, "{}", recipe.name);
    }
}

/// Two evaluation sets, of which the second has a window of its own.
const TWO: &[&str] = &[
    "augment.crop=96",
    "data.eval=[{name='a', images='i', labels='l'}, {name='b', images='i', labels='l', crop=64}]",
];

#[test]
fn what_nobody_set_follows_overrides_of_a_resolved_recipe() {
    let base = minimal(TWO);
    let windows = |r: &Recipe| r.data.eval.iter().map(|e| [e.crop, e.stride]).collect::<Vec<_>>();
    assert_eq!(windows(&base), [[96, 64], [64, 43]]);
    let text = base.to_toml().expect("TOML");
    let groups: Vec<[usize; 1]> = (0..19).map(|id| [18 - id]).collect();
    let groups = format!("data.groups={groups:?}");
    for overrides in [
        &["eval.crop=48"][..],
        &["eval.stride=20"],
        &["eval.crop=48", "eval.stride=16"],
        &["data.eval.0.crop=32"],
        &["data.eval.0.stride=32", "eval.crop=64"],
        &["data.eval.2.name=c", "data.eval.2.images=i", "data.eval.2.labels=l", "eval.crop=64"],
        &["data.eval=[{name='c', images='i', labels='l'}]"],
        &["augment.crop=64"],
        &["augment.crop=64", "eval.crop=32"],
        &["head.queries=60"],
        &["model.backbone=dinov2-b"],
        &["model.backbone=custom", "model.embed_dim=48", "model.heads=3"],
        &[&groups],
        &["train.lr=0.5"],
    ] {
        let want = minimal(&[TWO, overrides].concat());
        let found = resolve(&text, overrides).expect("valid");
        assert_eq!(found, want, "{overrides:?}");
        // And once more.
        let text = found.to_toml().expect("TOML");
        let more = &["eval.crop=80", "rein.rank=8"][..];
        let want = minimal(&[TWO, overrides, more].concat());
        assert_eq!(resolve(&text, more).expect("valid"), want, "{overrides:?}, {more:?}");
    }
    assert_eq!(windows(&resolve(&text, &["eval.crop=48"]).expect("valid")), [[48, 32], [64, 43]]);
}

#[test]
fn overrides_that_do_nothing_are_refused_with_the_reason() {
    let own = "data.eval=[{name='b', images='i', labels='l', crop=64}]";
    let check = |base: &[&str], command, text: &str| {
        let read = || resolve(MINIMAL, &[base, &[text]].concat());
        acting(command, &[text.to_owned()], read).map(|_| ()).map_err(|e| e.to_string())
    };
    let (resume, eval, predict) =
        (Command::Resume, Command::Eval { run: true }, Command::Predict { run: true });
    let (score, apply) = (Command::Eval { run: false }, Command::Predict { run: false });
    for (base, command, text, word) in [
        (TWO, eval, "train.lr=1", "trained, not here"),
        (TWO, eval, "model.depth=25", "learnt"),
        (TWO, eval, "head.classes=['a']", "learnt"),
        (TWO, eval, "train.step=1", "did you mean `train.steps`"),
        (TWO, eval, "augment.crop=64", "learnt"),
        (TWO, predict, "augment.flip=false", "trained, not here"),
        (TWO, eval, "data.train.0.images=x", "trained, not here"),
        (TWO, eval, "run.workers=3", "trained, not here"),
        (TWO, eval, "model.checkpoint=x", "--checkpoint"),
        (TWO, eval, "name=x", "nothing here"),
        (TWO, predict, "data.root=x", "no data set"),
        (TWO, predict, "data.eval.0.images=x", "no data set"),
        (TWO, predict, "data.eval.1.crop=32", "data.eval.0"),
        (TWO, score, "loss.points=3", "trained, not here"),
        (&[own], eval, "eval.crop=32", "set data.eval.0.crop"),
        (&[own], eval, "eval.stride=32", "set data.eval.0.stride"),
        (&[own], apply, "eval.crop=32", "set data.eval.0.crop"),
        (&[own], resume, "eval.crop=32", "set data.eval.0.crop"),
        (&["eval.mode=whole", own], eval, "data.eval.0.crop=32", "whole"),
        (TWO, resume, "model.checkpoint=x", "when a run starts"),
    ] {
        let error = check(base, command, text).expect_err(text);
        assert!(error.contains(text) && error.contains(word), "{error:?} lacks {word:?}");
    }
    for (base, command, text) in [
        (TWO, eval, "eval.crop=64"),
        (TWO, predict, "eval.stride=16"),
        (TWO, predict, "data.eval.0.box=[64, 32]"),
        (TWO, predict, "eval.mode=whole"),
        (&[own], eval, "data.eval.0.stride=8"),
        (&[own], eval, "data.eval.1={name='c', images='i', labels='l'}"),
        (&[], predict, "eval.crop=64"),
        (TWO, eval, "model.weights=w"),
        (TWO, eval, "data.root=d"),
        (TWO, predict, "run.device=cpu"),
        (TWO, score, "model.checkpoint=x"),
        (TWO, apply, "head.decoder_layers=2"),
        (TWO, resume, "train.lr=1"),
        (TWO, resume, "train.keep=1"),
    ] {
        check(base, command, text).expect(text);
    }
}

#[test]
fn the_catalogue_and_the_structs_have_the_same_keys() {
    fn paths(value: &toml::Value, at: &str, all: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) if at.ends_with("id_map") => assert!(!table.is_empty()),
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    paths(value, &at, all);
                }
                return;
            }
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                return paths(&list[0], &format!("{at}[]"), all);
            }
            _ => {}
        }
        all.push(at.to_owned());
    }
    let r = Recipe::from_name("tracks", &[]).expect("valid");
    let mut written = Vec::new();
    paths(&toml::Value::try_from(&r).expect("TOML"), "", &mut written);
    let mut known: Vec<_> = keys::KEYS.iter().map(|key| key.path.to_owned()).collect();
    written.sort_unstable();
    known.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn overrides_reach_every_place() {
    let r = minimal(&[
        "train.lr=6e-5",
        "train.steps = 10",
        "model.method=freeze",
        "name=2024-01-01",
        "about=\"two words\"",
        "data.train.0.images=other",
        "data.train.1.name=b",
        "data.train.1.images=bi",
        "data.train.1.labels=bl",
        "data.eval=[{name='e', images='ei', labels='el', box=[64, 32]}]",
        "data.eval.0.crop=256",
        "data.train.1.id_map={7=0, 8=1}",
        "augment.flip=false",
        "model.taps=[1, 2, 3, 4]",
    ]);
    assert_eq!((r.train.lr, r.train.steps, r.model.method), (6e-5, 10, Method::Freeze));
    assert_eq!((r.name.as_str(), r.about.as_str()), ("2024-01-01", "two words"));
    assert_eq!(r.data.train[0].images, Path::new("other"));
    assert_eq!(r.data.train[1].image_suffix, ".png");
    let listed = BTreeMap::from([("7".to_owned(), 0), ("8".to_owned(), 1)]);
    assert_eq!(r.data.train[1].id_map, Ids::Map(listed));
    let e = &r.data.eval[0];
    assert_eq!((e.set.name.as_str(), e.test_box, e.crop, e.stride), ("e", [64, 32], 256, 171));
    assert!(!r.augment.flip);
    assert_eq!(minimal(&["train.lr=1"]).train.lr, 1.0);
}

#[test]
fn paths_are_relative_to_where_they_are_written() {
    let text = MINIMAL.replace("[[data.train]]", "[data]\nroot = \"d\"\n[data.train]");
    let r = resolve(&text, &["run.dir=out"]).expect("valid");
    assert_eq!(r.model.weights, Path::new("/recipes/w.pth"));
    assert_eq!(r.data.folders(&r.data.train[0]).0, Path::new("/recipes/d/i"));
    assert_eq!(r.run.dir, std::env::current_dir().expect("folder").join("out"));
    let r = minimal(&["data.train.0.labels=/abs", "model.weights=random"]);
    assert_eq!(r.data.folders(&r.data.train[0]).0, Path::new("/recipes/i"));
    assert_eq!(r.data.folders(&r.data.train[0]).1, Path::new("/abs"));
    assert_eq!((r.weights(), r.name.as_str()), (None, "mine"));
    assert!(r.run.dir.ends_with("runs/mine"));
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    let at = |line: &str| format!("{MINIMAL}\n{line}");
    refused(
        &at("[train]\nsteps = 5\nwarmup_steps = 3"),
        &[],
        &["mine.toml", "`train.warmup_steps`", "did you mean `train.warm_up_steps`"],
    );
    refused(&at("imagesuffix = \"x\""), &[], &["`data.train.0.imagesuffix`", "image_suffix`"]);
    refused(
        MINIMAL,
        &["optimizer.lr=1"],
        &["override `optimizer.lr=1`", "did you mean `train.lr`"],
    );
    refused(MINIMAL, &["trian.steps=1"], &["`trian.steps`", "`train.steps`"]);
    refused(MINIMAL, &["hed.colour_of_paint=1"], &["`hed"]);
    refused(&at("[train.lr]\nx = 1"), &[], &["`train.lr`", "must be a number"]);
    let error = Recipe::find("trakcs", &[]).expect_err("must be refused").to_string();
    assert!(error.contains("`tracks`") && error.contains("train --list"), "{error}");
}

#[test]
fn wrong_types_are_named() {
    let at = |line: &str| format!("{MINIMAL}\n{line}");
    refused(
        &at("[train]\nsteps = \"many\""),
        &[],
        &["mine.toml", "`train.steps`", "\"many\"", "whole"],
    );
    refused(&at("[train]\nsteps = -1"), &[], &["`train.steps` is -1"]);
    refused(MINIMAL, &["train=3"], &["`train` is 3", "a table"]);
    refused(MINIMAL, &["model.method=rien"], &["`model.method`", "did you mean `rein`"]);
    refused(MINIMAL, &["model.backbone=resnet"], &["one of dinov2-s"]);
    refused(MINIMAL, &["data.train.0.id_map=cityscape"], &["did you mean `cityscapes`"]);
    refused(MINIMAL, &["data.train.0.id_map={x=1}"], &["data.train.0.id_map"]);
    refused(MINIMAL, &["augment.flip=yes"], &["`augment.flip`", "true or false"]);
    refused(MINIMAL, &["data.groups=[0, 1]"], &["`data.groups`", "list of lists"]);
    refused(MINIMAL, &["train.lr"], &["key=value"]);
    refused(MINIMAL, &["data.train.images=x"], &["data.train"]);
    refused(MINIMAL, &["data.train.5.images=x"], &["`data.train` has 1 entries"]);
    refused(MINIMAL, &["model.taps=[1,2"], &["not valid TOML"]);
    refused("x = = 1", &[], &["mine.toml", "line 1"]);
}

#[test]
fn senseless_values_are_named() {
    refused("", &[], &["`model.weights` is not set"]);
    refused("[model]\nweights = \"random\"", &[], &["`data.train`"]);
    for (change, parts) in [
        ("rein.tokens=50", ["`rein.tokens` is 50", "head.queries (100)"]),
        ("augment.crop=500", ["is 500", "multiple of model.patch (16)"]),
        ("model.taps=[3, 2, 5, 8]", ["model.taps", "rising"]),
        ("model.taps=[3, 4, 5, 24]", ["model.taps", "below 24"]),
        ("train.warm_up_steps=50000", ["train.warm_up_steps", "40000"]),
        ("train.lr=nan", ["`train.lr` is NaN", "0 or more"]),
        ("train.beta2=1.0", ["train.beta2", "below 1"]),
        ("eval.stride=600", ["eval.stride", "gaps"]),
        ("head.mask_width=0", ["`head.mask_width` is 0", "1 or more"]),
        ("data.groups=[[0], [1]]", ["2 groups", "19 names"]),
        ("data.train.0.source=scenes", ["data.train.0.count", "1 or more"]),
        ("train.batch=0", ["train.batch", "is 0"]),
        ("augment.ratios=[0.0]", ["augment.ratios", "[0]"]),
        ("loss.importance=1.5", ["loss.importance", "between 0 and 1"]),
    ] {
        refused(MINIMAL, &[change], &parts);
    }
    let twice = "[[0, 1], [1]]";
    let change = format!("data.groups={twice}");
    refused(MINIMAL, &["head.classes=['a','b']", &change], &["the id 1 twice"]);
}

#[test]
fn grouped_ids_make_a_class_table() {
    let r = Recipe::from_name("tracks", &[]).expect("valid");
    let spec = r.data.spec(&r.data.eval[2].set, &r.head.classes);
    let groups = spec.groups.as_ref().expect("groups");
    let want = [0, 1, 2, 2, 3, 4, 5, 5, 6, 6, 7, 255, 255, 8, 8, 8, 255, 255, 255];
    assert_eq!((groups.of.as_slice(), spec.classes, r.classes()), (want.as_slice(), 19, 9));
    assert_eq!(groups.names, r.head.classes);
    let table = data::Table::new("t", &spec.ids, spec.classes, spec.groups.as_ref());
    let table = table.expect("the loader takes it");
    assert_eq!(
        [table.class(3), table.class(11), table.class(255)],
        [Some(2), Some(255), Some(255)]
    );
    let plain = minimal(&[]);
    let spec = plain.data.spec(&plain.data.train[0], &plain.head.classes);
    assert_eq!((spec.groups, spec.classes), (None, 19));
}

#[test]
fn the_demo_opens_without_a_file() {
    let r = Recipe::from_name("demo", &[]).expect("valid");
    let open = |set: &Set| r.data.open(set, &r.head.classes, r.train.seed).expect("scenes");
    let (train, night) = (open(&r.data.train[0]), open(&r.data.eval[1].set));
    assert_eq!((train.len(), train.class_names()), (200, r.head.classes.as_slice()));
    assert_eq!(night.sample_name(3), "night/01003");
    let (image, label) = night.load(3).expect("drawn");
    assert_eq!((image.w, image.h, label.data.len()), (256, 128, 256 * 128));
    let missing = minimal(&[]);
    let error = missing.data.open(&missing.data.train[0], &missing.head.classes, 0).err();
    assert!(error.is_some_and(|e| e.to_string().contains("/recipes")), "the folder is named");
}

#[test]
fn words_that_other_modules_define_are_theirs() {
    for name in defaults::ID_MAPS {
        let table = data::Table::new("t", &Ids::Named((*name).to_owned()), 19, None);
        assert!(table.is_ok(), "{name} is no table of ids");
    }
    assert_eq!(defaults::DOMAINS, Domain::ALL.map(Domain::name));
    let settings = minimal(&["augment.flip=false"]).augment.pipeline();
    let published = augment::Augment { flip: false, ..augment::Augment::published(512) };
    assert_eq!(settings, published);
    assert_eq!(augment::Augment::published(1024).shortest_edges, {
        minimal(&["augment.crop=1024"]).augment.short_edges()
    });
}

#[test]
fn embedded_recipes_say_what_they_are() {
    for recipe in EMBEDDED.iter() {
        let r = Recipe::find(&recipe.name, &[]).expect(&recipe.name);
        assert_eq!(r.name, recipe.name);
        assert!(!r.about.is_empty() && recipe.about() == r.about, "{}", recipe.name);
        assert!(!r.data.eval.is_empty(), "{}", recipe.name);
    }
    let acdc = Recipe::from_name("acdc-dinov2-l-rein", &[]).expect("valid");
    let s = acdc.schedule().expect("valid");
    // Spec training-and-data §1.3.
    assert!((s.lr(0) - 6e-11).abs() < 1e-24 && s.lr(10_000) == 6e-5 && s.lr(39_999) == 0.0);
    assert_eq!(acdc.data.eval.iter().filter(|e| e.in_mean).count(), 4);
    let full = Recipe::from_name("gtav-dinov2-l-full", &[]).expect("valid").groups();
    let backbone = ParamKind { role: Role::Backbone, ..ParamKind::default() };
    assert_eq!(full.setting("backbone.pos_embed", backbone).lr_mult, 0.1);
}

#[test]
fn a_file_names_itself_and_its_run() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("night.toml");
    std::fs::write(&path, MINIMAL).expect("written");
    let r =
        Recipe::find(&path.display().to_string(), &["train.steps=7".to_owned()]).expect("valid");
    assert_eq!((r.name.as_str(), r.train.steps), ("night", 7));
    assert_eq!(r.model.weights, dir.path().join("w.pth"));
    assert_eq!(r.checkpoint(), None);
    let text = format!("{MINIMAL}\n[rein]\nrank = 8\n")
        .replace("[model]", "[model]\ncheckpoint = \"rein.pth\"");
    std::fs::write(&path, text).expect("written");
    let r = Recipe::from_file(&path, &[]).expect("valid");
    assert_eq!(r.checkpoint(), Some(dir.path().join("rein.pth").as_path()));
    let error = Recipe::from_file(&dir.path().join("none.toml"), &[]).expect_err("no such file");
    assert!(error.to_string().contains("none.toml"), "{error}");
}

/// Messages show a recipe in one short line, whatever it contains.
#[test]
fn messages_stay_short_and_in_one_line() {
    let long = "x".repeat(100_000);
    let many = |entry: &str| vec![entry; 20_000].join(",");
    let texts = [
        format!("{MINIMAL}\n[train]\n{long} = 1"),
        format!("{MINIMAL}\n[train]\n\"a\\u001b[2J\\n\" = 1"),
        format!("{MINIMAL}\n[model]\ntaps = [{}]", many("3")).replacen("[model]", "[modem]", 1),
        format!("{MINIMAL}\n[augment]\nratios = [{}]", many("0.0")),
        format!("{MINIMAL}\n[run]\ndevice = \"{long}\""),
        format!("name = \"{long}\"\n{MINIMAL}\n[train]\nsteps = 0"),
        format!("{MINIMAL}\n[train]\nlr = \"{long}\""),
        format!("{MINIMAL}\n{}.a = 1", vec!["a"; 50_000].join(".")),
        format!("x = {}{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("{MINIMAL}\nx = \"\n{long}"),
    ];
    let short = |error: String| {
        assert!(error.chars().count() < 500, "{} characters", error.chars().count());
        assert!(!error.chars().any(char::is_control), "{error:?}");
    };
    for text in &texts {
        short(resolve(text, &[]).expect_err("must be refused").to_string());
    }
    for change in [format!("{long}=1"), format!("train.lr={long}"), "train.lr\n\x07=1".to_owned()] {
        short(resolve(MINIMAL, &[&change]).expect_err("must be refused").to_string());
    }
    let names = (0..20_000).map(|i| format!("[[data.eval]]\nname='{i}'\nimages='i'\nlabels='l'\n"));
    let text = format!("{MINIMAL}{}", names.collect::<String>());
    assert_eq!(resolve(&text, &[]).expect("many sets").data.eval.len(), 20_000);
}

#[test]
fn the_help_lists_every_key_within_its_width() {
    let help = keys::help(72);
    for key in keys::KEYS {
        let leaf = key.path.rsplit('.').next().unwrap_or_default();
        assert!(help.contains(&format!("  {leaf} ")), "{leaf} is missing");
    }
    let words_fit = help.lines().all(|line| line.chars().count() <= 72);
    assert!(words_fit && help.contains("[[data.eval]]"), "{help}");
}

/// A mistyped digit is refused, and causes no overflow and no failed allocation.
#[test]
fn sizes_beyond_reason_are_refused() {
    let huge = ["1000000000000", "9223372036854775807"];
    for key in ["train.batch", "augment.crop", "model.depth", "model.ffn", "model.registers"]
        .into_iter()
        .chain(["head.queries", "head.encoder_ffn", "head.decoder_layers", "head.deform_points"])
        .chain([
            "head.mask_width",
            "loss.points",
            "run.threads",
            "run.workers",
            "eval.batch",
            "rein.rank",
        ])
    {
        for n in huge {
            let error = resolve(MINIMAL, &[&format!("{key}={n}")]).expect_err(key).to_string();
            assert!(error.contains(key) && error.contains(n), "{key}: {error}");
        }
    }
    refused(MINIMAL, &["train.batch=4097"], &["train.batch", "4097", "at most 4096"]);
    refused(MINIMAL, &["loss.oversample=1e300"], &["loss.oversample", "between 1 and 1024"]);
    let scenes = ["data.train.0.source=scenes", "data.train.0.count=1000000000000"];
    refused(MINIMAL, &scenes, &["data.train.0.count", "at most"]);
    let wide =
        ["data.train.0.source=scenes", "data.train.0.count=1", "data.train.0.size=[99999,2]"];
    refused(MINIMAL, &wide, &["data.train.0.size", "99999"]);
    minimal(&["train.batch=4096", "augment.crop=16384", "model.depth=1024"]);
}
