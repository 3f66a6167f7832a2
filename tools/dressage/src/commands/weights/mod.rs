//! `dressage weights`: inspects, compares and converts files of weights.

mod convert;
mod diff;
mod export;
mod fingerprint;
mod inspect;

use clap::Subcommand;
use dressage_kernels::cpu::simd::Choice;

use crate::failure::Failure;

/// Look into files of weights, compare, convert and export them
///
/// Files are safetensors, PyTorch's .pth in both of its forms, or TorchScript archives; the form is
/// detected from their bytes. Nothing in them is executed.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Diff(diff::Args),
    Convert(convert::Args),
    Export(export::Args),
    Fingerprint(fingerprint::Args),
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    super::start(0, Choice::Auto)?;
    match &args.command {
        Command::Inspect(args) => inspect::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Export(args) => export::run(args),
        Command::Fingerprint(args) => fingerprint::run(args),
    }
}
