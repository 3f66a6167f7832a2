//! Overrides without effect: a command refuses them instead of ignoring them.

use super::bearing::{Bearing, bearing, is_known};
use super::resolve::{path_of, pattern};
use super::{EvalMode, Recipe, RecipeError};

/// Command that overrides are passed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Resuming a run.
    Resume,
    /// Evaluation of a run, or of a recipe with trained weights.
    Eval {
        /// Whether it is a run.
        run: bool,
    },
    /// Prediction for images, by a run or by a recipe with trained weights.
    Predict {
        /// Whether it is a run.
        run: bool,
    },
}

/// Reads a recipe with `read` and refuses those `overrides` that have no effect on `command`.
///
/// # Errors
/// [`RecipeError::Override`] with the reason; errors of `read`.
pub fn acting<E: From<RecipeError>>(
    command: Command,
    overrides: &[String],
    read: impl FnOnce() -> Result<Recipe, E>,
) -> Result<Recipe, E> {
    let fail = |text: &String, what| RecipeError::Override { text: text.clone(), what };
    for text in overrides.iter().filter(|text| is_known(path_of(text))) {
        idle(path_of(text), command).map_or(Ok(()), |what| Err(fail(text, what)))?;
    }
    let recipe = read()?;
    for text in overrides {
        let what = no_window(&recipe, path_of(text), command);
        what.map_or(Ok(()), |what| Err(fail(text, what)))?;
    }
    Ok(recipe)
}

/// Reason why a key has no effect, from its influence.
fn idle(path: &str, command: Command) -> Option<String> {
    let bearing = bearing(path);
    let (run, pictures) = match command {
        Command::Resume if bearing == Bearing::Start => {
            return Some("it is only read when a run starts".into());
        }
        Command::Resume => return None,
        Command::Eval { run } => (run, false),
        Command::Predict { run } => (run, true),
    };
    let scale = ["box", "crop", "stride"].map(|leaf| format!("data.eval[].{leaf}"));
    let what = match bearing {
        Bearing::Network if run => "it belongs to what the run has learnt",
        Bearing::Start if run => "a run has weights of its own; --checkpoint chooses among them",
        _ if path.starts_with("data.train") => "it acts while a network is trained, not here",
        Bearing::Learning | Bearing::Course => "it acts while a network is trained, not here",
        Bearing::Label => "it changes nothing here",
        Bearing::Source if pictures && path == "data.root" => "predict reads no data set",
        Bearing::Test if pictures && path.starts_with("data.") => {
            if scale.contains(&pattern(path)) {
                return None;
            }
            "predict reads no data set"
        }
        _ => return None,
    };
    Some(what.into())
}

/// Reason why a key of windows or scale has no effect: no windows, or sets have their own.
fn no_window(recipe: &Recipe, path: &str, command: Command) -> Option<String> {
    let kind = pattern(path);
    let window = ["eval.crop", "eval.stride", "data.eval[].crop", "data.eval[].stride"];
    if recipe.eval.mode == EvalMode::Whole && window.contains(&kind.as_str()) {
        return Some("there are no windows, since eval.mode is whole".into());
    }
    let pictures = matches!(command, Command::Predict { .. });
    if pictures && kind.starts_with("data.eval[]") && !path.starts_with("data.eval.0.") {
        return Some("predict takes scale and window of data.eval.0".into());
    }
    let leaf = kind.strip_prefix("eval.").filter(|_| window.contains(&kind.as_str()))?;
    let sets = recipe.data.eval.len().min(if pictures { 1 } else { usize::MAX });
    let derived = |i: usize, leaf: &str| recipe.derived.contains(&format!("data.eval.{i}.{leaf}"));
    let acts = (0..sets).any(|i| derived(i, "crop") && derived(i, leaf));
    (sets > 0 && !acts).then(|| {
        format!("the evaluation sets have windows of their own; set data.eval.0.{leaf} and so on")
    })
}
