//! PNG and JPEG, as images and as label maps.
//!
//! libFuzzer's hook ends the process at any panic, also at one that the product turns into an
//! error. The hook of this target ends it only at the other panics.
#![no_main]

use dressage_train::data::panics_are_contained;
use libfuzzer_sys::fuzz_target;

fn end_at_panics() {
    // Replaces libFuzzer's hook, which was set before.
    std::panic::set_hook(Box::new(|panic| {
        if !panics_are_contained() {
            eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
            std::process::abort();
        }
    }));
}

fuzz_target!(init: end_at_panics(), |bytes| dressage_fuzz::picture(bytes));
