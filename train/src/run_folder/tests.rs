use super::*;

const WRITTEN_LINE: &str = "{\"kind\":\"train\",\"step\":3}\n";

fn recipe(dir: &Path, more: &[&str]) -> Recipe {
    let run = format!("run.dir={}", dir.join("run").display());
    let fixed = ["model.weights=random", "train.checkpoint_every=5", "data.eval=[]"];
    let sets = "data.train=[{name = 'day', source = 'scenes', count = 2}]".to_owned();
    let all = fixed.iter().chain(more).map(|s| s.to_string());
    let all: Vec<String> = [run, sets].into_iter().chain(all).collect();
    Recipe::from_name("demo", &all).expect("recipe")
}

/// A folder in which a run of `recipe` has begun and saved nothing, with this log.
fn begun(recipe: &Recipe, log: &str) {
    let dir = &recipe.run.dir;
    let folder = RunFolder::open(dir, false).expect("free");
    fs::create_dir_all(checkpoint::folder(dir)).expect("folder");
    assert_eq!(folder.write_recipe(recipe).expect("written"), None);
    fs::write(dir.join(LOG), log).expect("written");
}

#[track_caller]
fn refused(dir: &Path, words: &[&str]) {
    let error = RunFolder::open(dir, false).map(|_| ()).expect_err("not free").to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} lacks {word:?}");
    }
    assert!(!dir.join(LOCK).exists(), "the refusal left the lock");
}

#[test]
fn a_start_that_came_to_nothing_refuses_no_other_and_loses_no_line() {
    let dir = tempfile::tempdir().expect("folder");
    let first = recipe(dir.path(), &[]);
    begun(&first, WRITTEN_LINE);
    let other = recipe(dir.path(), &["train.lr=0.5", "head.queries=50"]);
    let run = &other.run.dir;
    for n in 1..3 {
        let folder = RunFolder::open(run, false).expect("free again");
        assert_eq!(folder.write_recipe(&other).expect("written"), None);
        let aside = folder.set_log_aside().expect("renamed");
        assert_eq!(aside, Some(run.join(format!("log-{n}.jsonl"))));
        assert_eq!(fs::read_to_string(aside.expect("path")).expect("log"), WRITTEN_LINE);
        fs::write(run.join(LOG), WRITTEN_LINE).expect("written");
    }
    assert!(holds(run, &other).expect("compared") && !holds(run, &first).expect("compared"));
}

#[test]
fn files_of_somebody_else_are_refused_and_stay() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[]);
    let run = &recipe.run.dir;
    fs::create_dir(run).expect("folder");
    for text in ["# my notes\nabout = \"mine\"\n", "", "no TOML"] {
        fs::write(run.join(RECIPE), text).expect("written");
        refused(run, &["recipe.toml", "by hand", "run.dir"]);
        assert_eq!(fs::read_to_string(run.join(RECIPE)).expect("recipe"), text);
    }
    fs::remove_file(run.join(RECIPE)).expect("removed");
    fs::write(run.join(LOG), WRITTEN_LINE).expect("written");
    refused(run, &["log.jsonl", "checkpoints are gone", "run.dir"]);
    fs::remove_file(run.join(LOG)).expect("removed");
    // A recipe that a run wrote and somebody changed.
    begun(&recipe, "");
    let text = fs::read_to_string(run.join(RECIPE)).expect("recipe");
    fs::write(run.join(RECIPE), text.replace("seed = 42", "seed = 43")).expect("written");
    refused(run, &["changed by hand"]);
    fs::write(run.join(RECIPE), text).expect("written");
    RunFolder::open(run, false).expect("as it was");
}

#[test]
fn the_log_of_a_run_that_has_saved_is_not_replaced() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[]);
    let run = &recipe.run.dir;
    let at = |kind: &str, step: u64| format!("{{\"kind\":\"{kind}\",\"step\":{step}}}\n");
    begun(&recipe, "");
    for (log, is_free) in [
        // Left by a kill while the first checkpoint is written.
        (at("train", 5) + &at("memory", 5), true),
        (at("eval", 4), true),
        (at("train", 6), false),
        (at("eval", 5), false),
        ("somebody's notes\n".to_owned(), false),
    ] {
        fs::write(run.join(LOG), &log).expect("written");
        assert_eq!(RunFolder::open(run, false).is_ok(), is_free, "{log}");
        assert_eq!(fs::read_to_string(run.join(LOG)).expect("log"), log);
    }
    fs::write(run.join(LOG), at("train", 1)).expect("written");
    fs::remove_dir(checkpoint::folder(run)).expect("removed");
    refused(run, &["checkpoints are gone"]);
}

#[test]
fn a_recipe_changed_by_hand_stays_next_to_the_one_of_the_resumed_run() {
    let dir = tempfile::tempdir().expect("folder");
    let (recipe, other) = (recipe(dir.path(), &[]), recipe(dir.path(), &["train.steps=7"]));
    let run = &recipe.run.dir;
    begun(&recipe, "");
    fs::write(checkpoint::path_of(run, 1), "x").expect("written");
    let path = run.join(RECIPE);
    let noted = fs::read_to_string(&path).expect("recipe") + "# why\n";
    fs::write(&path, &noted).expect("written");
    let folder = RunFolder::open(run, true).expect("a run");
    assert_eq!(folder.write_recipe(&recipe).expect("the same values"), None);
    assert_eq!(fs::read_to_string(&path).expect("recipe"), noted);
    let aside = folder.write_recipe(&other).expect("written").expect("another name");
    assert_eq!(fs::read_to_string(aside).expect("recipe"), noted);
    assert!(holds(run, &other).expect("compared"));
    assert!(is_as_written(&fs::read_to_string(&path).expect("recipe")));
}

#[test]
fn a_folder_is_a_run_wherever_it_is() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[]);
    begun(&recipe, "");
    let moved = dir.path().join("elsewhere");
    fs::rename(&recipe.run.dir, &moved).expect("moved");
    assert_eq!(recipe_of(&moved, &[]).expect("recipe").run.dir, moved);
    let at = |path: &Path| vec![format!("run.dir={}", path.display())];
    assert_eq!(recipe_of(&moved, &at(&moved)).expect("the same").run.dir, moved);
    let error = recipe_of(&moved, &at(&recipe.run.dir)).expect_err("another").to_string();
    assert!(error.contains("run.dir=") && error.contains("copy the folder"), "{error}");
    assert_eq!(find(&moved), Some(&*moved));
    assert_eq!(find(&moved.join(RECIPE)), Some(&*moved));
    assert_eq!(find(dir.path()), None);
    // A recipe that a user wrote is not that of a run.
    fs::write(dir.path().join(RECIPE), "about = \"mine\"\n").expect("written");
    assert_eq!(find(&dir.path().join(RECIPE)), None);
}

#[test]
fn rests_are_removed_and_files_of_others_are_not() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = recipe(dir.path(), &[]);
    let run = &recipe.run.dir;
    begun(&recipe, "");
    let saved = checkpoint::path_of(run, 1);
    fs::write(&saved, "x").expect("written");
    let rest = |path: PathBuf| PathBuf::from(format!("{}.partial", path.display()));
    let rests = [saved, run.join(RECIPE), run.join(LOG), run.join("weights-step-000001.pth")];
    rests.iter().cloned().for_each(|path| fs::write(rest(path), "x").expect("written"));
    let own = rest(run.join("dinov2.pth"));
    fs::write(&own, "x").expect("written");
    drop(RunFolder::open(run, true).expect("a run"));
    assert!(own.exists());
    for path in rests {
        assert!(!rest(path.clone()).exists(), "{}", path.display());
    }
}

#[test]
fn asking_leaves_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let run = dir.path().join("runs/none");
    assert!(RunFolder::open(&run, true).is_err());
    drop(RunFolder::open(&run, false).expect("free"));
    assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 0);
}
