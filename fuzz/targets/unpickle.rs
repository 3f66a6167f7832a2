//! The unpickler and the users of its values. The bytes are the pickle of an archive with the
//! storages of the sample files, once a plain one, once of TorchScript.
#![no_main]

use std::io::Cursor;

use dressage_tests::checkpoint::Archive;
use dressage_tests::samples;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for script in [false, true] {
        let mut out = Cursor::new(Vec::new());
        let mut archive = Archive::new(&mut out, "archive");
        archive.file("data.pkl", bytes).expect("written to memory");
        for (i, entry) in samples::entries().iter().enumerate() {
            archive.storage(&format!("data/{i}"), entry).expect("written to memory");
        }
        if script {
            archive.file("constants.pkl", b"\x80\x02).").expect("written to memory");
        }
        archive.finish().expect("written to memory");
        dressage_fuzz::weights(&out.into_inner());
    }
});
