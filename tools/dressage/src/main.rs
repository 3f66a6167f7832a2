//! The program `dressage`; everything it does is in the library beside it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: dressage::Allocator = dressage::Allocator;

fn main() -> ExitCode {
    dressage::main()
}
