//! PNG and JPEG, as pictures and as label maps.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dressage_fuzz::picture(bytes));
