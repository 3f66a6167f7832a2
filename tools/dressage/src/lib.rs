//! The program `dressage`: trains, evaluates and applies segmentation networks on frozen
//! backbones.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1
//! failed, 2 wrong usage, 128 plus the signal number after a signal (the progress so far is saved).

mod allocator;
mod commands;
mod console;
mod failure;
mod lost_pages;
mod progress;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dressage_kernels::cpu::allocate;
use dressage_train::data::panics_are_contained;

pub use crate::allocator::Allocator;
use crate::console::eprint;
pub use crate::failure::Failure;

/// Fine-tune frozen vision transformers for segmentation that holds in domains never trained on.
///
/// Start with `dressage demo`: it needs no data, takes minutes and shows everything once. Then
/// write a recipe, or take one of those that `dressage train --list` names; train, score, look at
/// pictures:
///
///     dressage train gtav-dinov2-s-rein data.root=/data train.batch=2
///     dressage eval runs/gtav-dinov2-s-rein
///     dressage predict runs/gtav-dinov2-s-rein street.jpg --out pictures
#[derive(Parser)]
#[command(
    name = "dressage",
    version,
    max_term_width = 100,
    verbatim_doc_comment,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 128 + N ended by signal N after saving \
                  (130 after Ctrl-C)."
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
    /// Checks the recipe with its settings, and the sizes, before any work. Reads only recipes and
    /// the file names in run folders.
    ///
    /// # Errors
    /// The error that the command itself would return.
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
    use Command::{Demo, Eval, Predict, Train};

    if !matches!(command, Demo(_) | Train(_) | Eval(_) | Predict(_)) {
        signals::end_without_rest()?;
    }
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

/// Suppresses the standard message of panics that are reported as errors of an image.
fn hush_contained_panics() {
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panics_are_contained() {
            standard(panic);
        }
    }));
}

/// Stack size in bytes of the working thread, independent of the first thread's limit
/// (`ulimit -s`).
const STACK: usize = 8 << 20;

fn work() -> ExitCode {
    signals::report_file_limits();
    let command = Cli::parse().command;
    // The results of these commands are files.
    let has_files = matches!(command, Command::Train(_) | Command::Demo(_));
    let done = allocate::catch(|| run(command));
    let done = done.unwrap_or_else(|refused| Err(Failure::Train(refused.into())));
    let lost = console::lost_output().filter(|_| !has_files && done.is_ok());
    match lost.map_or(done, |why| {
        Err(Failure::Message(format!("cannot write to standard output: {why}")))
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint(&failure.line());
            ExitCode::from(failure.code())
        }
    }
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    allocator::spare_address_space();
    lost_pages::explain();
    hush_contained_panics();
    let thread = std::thread::Builder::new().name("main".into()).stack_size(STACK).spawn(work);
    match thread {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(error) => {
            eprint(&format!("error: {}", commands::no_thread(&error)));
            ExitCode::FAILURE
        }
    }
}
