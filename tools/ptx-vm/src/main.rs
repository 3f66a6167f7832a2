//! `ptx-vm check FILE...`: shows the content of PTX files and whether all their instruction forms
//! are known.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ptx_vm::Module;

#[derive(Parser)]
#[command(version, about = "A virtual GPU for PTX")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists kernels and the instruction forms that are not known; exit code 1 if there are any
    Check {
        /// PTX files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Command::Check { files } = Arguments::parse().command;
    let mut fine = true;
    for file in &files {
        match check(file) {
            Ok(known) => fine &= known,
            Err(message) => {
                eprintln!("ptx-vm: {message}");
                fine = false;
            }
        }
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the content of the file; returns whether all its forms are known.
fn check(file: &std::path::Path) -> Result<bool, String> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|e| format!("cannot read {name}: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not text"))?;
    let module = Module::parse(&name, &text).map_err(|e| e.to_string())?;
    println!("{name}: {} kernels", module.kernels().len());
    for kernel in module.kernels() {
        let [narrow, wide, masks] = kernel.registers;
        println!("  {}", kernel.name);
        println!(
            "    {} instructions, registers {narrow} x 32 + {wide} x 64 + {masks} predicates, \
             {} B static shared, {} B local{}",
            kernel.instructions,
            kernel.static_shared,
            kernel.local,
            kernel.max_threads.map_or(String::new(), |n| format!(", at most {n} threads")),
        );
        for p in &kernel.params {
            println!("    +{:<4} {} B, aligned {}: {}", p.offset, p.size, p.align, p.name);
        }
    }
    let unknown = module.unknown_forms();
    for u in &unknown {
        println!("  line {}: `{}` in {} is not known", u.line, u.form, u.kernel);
    }
    Ok(unknown.is_empty())
}
