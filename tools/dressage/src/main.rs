//! The program `dressage`; all of its code is in the library of this package.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: dressage::Allocator = dressage::Allocator;

fn main() -> ExitCode {
    dressage::main()
}
