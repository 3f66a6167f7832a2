//! The program `dressage`: trains, evaluates and applies segmentation networks on frozen
//! backbones.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1
//! failed, 2 wrong usage, 130 interrupted (what was reached is saved).

mod commands;
mod console;
mod failure;
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dressage_train::data::panics_are_contained;

use crate::console::complain;
pub use crate::failure::Failure;

/// Fine-tune frozen vision transformers for segmentation that holds in domains never trained on.
///
/// Start with `dressage demo`: it needs no data, takes minutes and shows everything once. Then
/// write a recipe, or take one of those that `dressage train --list` names; train, score, look at
/// pictures:
///
///     dressage train gtav-s-rein data.root=/data train.batch=2
///     dressage eval runs/gtav-s-rein
///     dressage predict runs/gtav-s-rein street.jpg --out pictures
#[derive(Parser)]
#[command(
    name = "dressage",
    version,
    max_term_width = 100,
    verbatim_doc_comment,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted after saving."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(commands::demo::Args),
    Train(commands::train::Args),
    Eval(commands::eval::Args),
    Predict(commands::predict::Args),
    Weights(commands::weights::Args),
    Params(commands::params::Args),
    Plan(commands::plan::Args),
    Bench(commands::bench::Args),
    Doctor(commands::doctor::Args),
}

impl Cli {
    /// Checks what is known before any work: the recipe with its settings, and sizes. Reads recipes
    /// and the names in run folders, nothing else.
    ///
    /// # Errors
    /// What the command itself would end with.
    pub fn check(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Train(args) => args.recipe().map(drop),
            Command::Eval(args) => args.trained().map(drop),
            Command::Predict(args) => args.trained().map(drop),
            Command::Plan(args) => args.recipe().map(drop),
            Command::Bench(args) => args.check(),
            Command::Demo(_) | Command::Weights(_) | Command::Params(_) | Command::Doctor(_) => {
                Ok(())
            }
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => commands::demo::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Predict(args) => commands::predict::run(&args),
        Command::Weights(args) => commands::weights::run(&args),
        Command::Params(args) => commands::params::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
    }
}

/// Leaves the standard words out for panics that end as an error about a picture.
fn hush_contained_panics() {
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panics_are_contained() {
            standard(panic);
        }
    }));
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    hush_contained_panics();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.line());
            ExitCode::from(failure.code())
        }
    }
}
