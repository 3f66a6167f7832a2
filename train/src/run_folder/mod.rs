//! Run folder: the process that trains in it, and the files that may be replaced.
//!
//! A run folder is self-contained. Its `recipe.toml` does not store its location, so a copied or
//! moved folder is a run like any other. The first line of that file has a checksum of the other
//! lines. So a file that somebody else wrote or changed is recognised and never replaced.

mod folder_lock;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use folder_lock::LOCK;

use crate::recipe::{Recipe, RecipeError};
use crate::runlog::{has_foreign_lines, read_log};
use crate::{Result, TrainError, checkpoint, files};

/// Name of the resolved recipe in a run folder.
pub const RECIPE: &str = "recipe.toml";

/// Name of the log in a run folder.
pub const LOG: &str = "log.jsonl";

/// Beginning of the first line of a recipe that a run wrote.
const WRITTEN: &str = "# Written by dressage ";

/// Text before the checksum in that line.
const CHECKSUM: &str = "; checksum ";

/// A run folder that this process trains in.
pub struct RunFolder {
    dir: PathBuf,
    folder_lock: Arc<folder_lock::FolderLock>,
}

impl RunFolder {
    /// Locks `dir` for this process until the value is dropped. Leftovers of interrupted writes are
    /// removed. If nothing is written, no folder stays behind.
    ///
    /// # Errors
    /// [`TrainError::RunFolder`] for a folder that another process trains in. With `resume` also
    /// for one without a checkpoint; for a new run also for one that already has a run, or files of
    /// somebody else.
    pub fn open(dir: &Path, resume: bool) -> Result<RunFolder> {
        let refuse = |what: String| Err(TrainError::RunFolder { path: dir.to_path_buf(), what });
        if resume && !dir.exists() {
            return refuse("holds no checkpoint to resume from".into());
        }
        let folder =
            RunFolder { dir: dir.to_path_buf(), folder_lock: folder_lock::FolderLock::of(dir)? };
        match (checkpoint::list(dir)?.is_empty(), resume) {
            // Opening the state reports what there is instead.
            (true, true) => {}
            (false, false) => {
                let what = "holds checkpoints of an earlier run; continue it with --resume, or \
                            choose another run.dir";
                return refuse(what.into());
            }
            (true, false) => folder.check_free()?,
            // Both are read later, and reading a pipe would never end.
            (false, true) => {
                [RECIPE, LOG].iter().try_for_each(|name| text_of(&dir.join(name)).map(drop))?
            }
        }
        files::sweep(dir, |name| {
            let of_runs = [RECIPE, LOG, "eval.json", "weights-step-"];
            of_runs.iter().any(|begin| name.starts_with(begin))
        })?;
        files::sweep(&checkpoint::folder(dir), |_| true)?;
        Ok(folder)
    }

    /// Warning for the user who starts a run here, if any.
    pub fn note(&self) -> Option<String> {
        let dir = self.dir.display();
        let text = format!(
            "the file system of {dir} has no locks: make sure that nothing else trains there"
        );
        (!self.folder_lock.is_locked()).then_some(text)
    }

    /// Refuses files other than those of an earlier start that saved nothing.
    fn check_free(&self) -> Result<()> {
        let refuse = |what: String| Err(TrainError::RunFolder { path: self.dir.clone(), what });
        let written = match text_of(&self.dir.join(RECIPE))? {
            Some(text) if !is_as_written(&text) => {
                return refuse(format!(
                    "holds a {RECIPE} that was written or changed by hand, which the run would \
                     replace; choose another run.dir, or give the file another name"
                ));
            }
            other => other,
        };
        if text_of(&self.dir.join(LOG))?.is_none_or(|log| log.is_empty()) {
            return Ok(());
        }
        // A run creates the folder of its checkpoints before it logs anything.
        let has_checkpoints = checkpoint::folder(&self.dir).is_dir();
        match written {
            Some(recipe) if has_checkpoints && !has_saved(&self.dir.join(LOG), &recipe) => Ok(()),
            _ => refuse(format!(
                "holds the {LOG} of a run whose checkpoints are gone; put them back, give the log \
                 another name, or choose another run.dir"
            )),
        }
    }

    /// Writes the recipe of the run. A recipe that somebody changed by hand to other values is kept
    /// under another name, which is returned.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn write_recipe(&self, recipe: &Recipe) -> Result<Option<PathBuf>> {
        let (path, text) = (self.dir.join(RECIPE), stored(recipe)?);
        let mut aside = None;
        if let Some(old) = text_of(&path)?.filter(|old| !is_as_written(old)) {
            if same_values(&old, &text) {
                return Ok(None);
            }
            let other = free_name(&path);
            files::write_bytes(&other, old.as_bytes())?;
            aside = Some(other);
        }
        files::write_bytes(&path, text.as_bytes())?;
        Ok(aside)
    }

    /// Copies the log, `always` or if it has lines that the run did not write. Such lines and those
    /// of later steps would be lost. Returns the name of the copy.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(crate) fn copy_log(&self, always: bool) -> Result<Option<PathBuf>> {
        let path = self.dir.join(LOG);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TrainError::Read { path, source }),
        };
        if text.is_empty() || !(always || has_foreign_lines(&text)) {
            return Ok(None);
        }
        let copy = free_name(&path);
        files::write_bytes(&copy, &text)?;
        Ok(Some(copy))
    }

    /// Renames the state before a bad loss of an earlier start. Returns the new name.
    ///
    /// # Errors
    /// A file that cannot be renamed.
    pub(crate) fn set_before_nan_aside(&self) -> Result<Option<PathBuf>> {
        let path = checkpoint::before_nan(&self.dir);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let other = free_name(&path);
        fs::rename(&path, &other).map_err(|source| TrainError::Write { path, source })?;
        Ok(Some(other))
    }

    /// Renames the log of a start that saved nothing. Returns the new name.
    ///
    /// # Errors
    /// A file that cannot be renamed.
    pub(crate) fn set_log_aside(&self) -> Result<Option<PathBuf>> {
        let path = self.dir.join(LOG);
        if text_of(&path)?.is_none_or(|log| log.is_empty()) {
            return Ok(None);
        }
        let other = free_name(&path);
        fs::rename(&path, &other).map_err(|source| TrainError::Write { path, source })?;
        Ok(Some(other))
    }
}

/// Reads the recipe of the run in `dir`, with `overrides`. Its run folder is `dir`, wherever the
/// folder was when the file was written.
///
/// # Errors
/// As [`Recipe::from_file`]; an override that names another run folder.
pub fn recipe_of(dir: &Path, overrides: &[String]) -> Result<Recipe> {
    let path = dir.join(RECIPE);
    let mut recipe = Recipe::from_file(&path, overrides)?;
    let here = std::path::absolute(dir)
        .map_err(|source| TrainError::Read { path: dir.to_path_buf(), source })?;
    let names_dir = |text: &&String| {
        let key = text.split('=').next().unwrap_or_default().trim();
        key == "run.dir" || key == "run"
    };
    if let Some(text) = overrides.iter().rfind(names_dir) {
        let stored = Recipe::from_file(&path, &[])?.run.dir;
        let given = &recipe.run.dir;
        let moves = text.trim_start().starts_with("run.dir") || *given != stored;
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if moves && real(given) != real(&here) {
            let what = format!(
                "the run of {} is in that folder; to go on elsewhere, copy the folder and name \
                 the copy",
                dir.display()
            );
            return Err(RecipeError::Override { text: text.clone(), what }.into());
        }
    }
    recipe.run.dir = here;
    Ok(recipe)
}

/// Finds the run folder that `path` stands for: the folder itself, or that of its `recipe.toml`. A
/// run folder has a recipe that a run wrote, or a recipe and checkpoints.
pub fn find(path: &Path) -> Option<&Path> {
    let is_run = |dir: &Path| {
        let file = dir.join(RECIPE);
        let written = || fs::read_to_string(&file).is_ok_and(|text| text.starts_with(WRITTEN));
        file.is_file() && (written() || checkpoint::list(dir).is_ok_and(|steps| !steps.is_empty()))
    };
    if path.is_dir() {
        return Some(path).filter(|dir| is_run(dir));
    }
    let dir = path.parent().filter(|_| path.file_name().is_some_and(|name| name == RECIPE))?;
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    Some(dir).filter(|dir| is_run(dir))
}

/// Whether `path` is a file that the run in `dir` needs: recipe, log, lock or checkpoint.
pub fn is_own_file(dir: &Path, path: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let Some(path) = real(path) else { return false };
    let is_named = |name: &&str| real(&dir.join(name)).as_deref() == Some(path.as_path());
    let checkpoints = real(&checkpoint::folder(dir));
    [RECIPE, LOG, LOCK].iter().any(is_named)
        || checkpoints.is_some_and(|folder| path.parent() == Some(folder.as_path()))
}

/// Whether the run in `dir` was started with `recipe`.
///
/// # Errors
/// A recipe that TOML cannot express.
pub fn holds(dir: &Path, recipe: &Recipe) -> Result<bool> {
    let text = stored(recipe)?;
    Ok(fs::read_to_string(dir.join(RECIPE)).is_ok_and(|old| same_values(&old, &text)))
}

/// Text of a run's recipe, without its run folder.
fn stored(recipe: &Recipe) -> Result<String> {
    let mut recipe = recipe.clone();
    recipe.run.dir = PathBuf::new();
    let text = recipe.to_toml()?;
    let (version, sum) = (env!("CARGO_PKG_VERSION"), crc32fast::hash(text.as_bytes()));
    Ok(format!("{WRITTEN}{version}{CHECKSUM}{sum:08x}\n{text}"))
}

/// Whether a text is unchanged since [`stored`] made it.
fn is_as_written(text: &str) -> bool {
    let Some((head, rest)) = text.split_once('\n') else { return false };
    let sum = head.strip_prefix(WRITTEN).and_then(|head| head.split_once(CHECKSUM));
    sum.is_some_and(|(_, sum)| sum == format!("{:08x}", crc32fast::hash(rest.as_bytes())))
}

/// Whether two recipes have the same values, apart from run folder and data workers.
fn same_values(a: &str, b: &str) -> bool {
    let parsed = |text: &str| {
        let mut table: toml::Table = toml::from_str(text).ok()?;
        if let Some(toml::Value::Table(run)) = table.get_mut("run") {
            // Their number may have been chosen for the machine.
            ["dir", "workers"].iter().for_each(|key| drop(run.remove(*key)));
        }
        Some(table)
    };
    parsed(a).is_some_and(|a| Some(a) == parsed(b))
}

/// Whether a log shows that a state was saved. It does with scores at the first checkpoint or
/// later, or with steps after it. A log that is not valid counts as such.
fn has_saved(path: &Path, recipe: &str) -> bool {
    let table: toml::Table = toml::from_str(recipe).unwrap_or_default();
    let number = |key: &str| table.get("train")?.get(key)?.as_integer().filter(|n| *n > 0);
    let first = number("checkpoint_every").into_iter().chain(number("steps")).min().unwrap_or(0);
    let is_before = |line: &serde_json::Value| {
        let last = if line["kind"] == "eval" { first - 1 } else { first };
        line["step"].as_i64().is_some_and(|step| step <= last)
    };
    !read_log(path).is_ok_and(|lines| lines.iter().all(is_before))
}

/// Reads the text of a file; `None` if there is none.
fn text_of(path: &Path) -> Result<Option<String>> {
    let failed = |source| TrainError::Read { path: path.to_path_buf(), source };
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            Err(failed(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")))
        }
        Ok(_) => {
            let bytes = fs::read(path).map_err(failed)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Returns `log-1.jsonl` for `log.jsonl`, or the next free name.
fn free_name(path: &Path) -> PathBuf {
    let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, end) = (part(path.file_stem()), part(path.extension()));
    let named = |n: u32| path.with_file_name(format!("{stem}-{n}.{end}"));
    let mut n = 1;
    while fs::symlink_metadata(named(n)).is_ok() {
        n += 1;
    }
    named(n)
}

#[cfg(test)]
mod tests;
