//! Headers of safetensors: the bytes are the header and the rest. A valid length is put in front,
//! since hardly any mutation of a length fits.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    dressage_fuzz::weights(bytes);
    let Some((cut, rest)) = bytes.split_at_checked(8) else { return };
    // A length that fits is used unchanged.
    let length = u64::from_le_bytes(cut.try_into().expect("eight bytes")) % (rest.len() as u64 + 1);
    dressage_fuzz::weights(&[&length.to_le_bytes(), rest].concat());
});
