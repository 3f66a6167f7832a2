//! Files of PyTorch in all their forms.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dressage_fuzz::weights(bytes));
