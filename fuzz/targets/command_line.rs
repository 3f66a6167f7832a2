//! Command lines, parsed and checked as far as that goes before any work.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dressage_fuzz::command_line(bytes));
