//! Recipes with overrides, resolved and checked.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dressage_fuzz::recipe(bytes));
