//! Command lines, parsed and checked without running a command.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dressage_fuzz::command_line(bytes));
