//! Shard indexes and folder configurations: bounds on their cost, whatever they contain.

use std::fs;

use dressage_models::weights::{OPEN_BASE, OPEN_BYTES, StateDict};
use dressage_tests::samples::written;
use dressage_tests::{checkpoint, samples};

use crate::{memory, sentence};

/// An intact index of the sample tensors, all in one shard.
fn intact() -> String {
    let pairs: Vec<String> =
        samples::entries().iter().map(|e| format!("\"{}\":\"a.safetensors\"", e.name)).collect();
    format!("{{\"metadata\":{{\"total_size\":1}},\"weight_map\":{{{}}}}}", pairs.join(","))
}

/// Possible texts of an index or a configuration.
fn texts() -> Vec<Vec<u8>> {
    let intact = intact().into_bytes();
    let mut texts: Vec<Vec<u8>> = (0..intact.len()).map(|n| intact[..n].to_vec()).collect();
    for at in 0..intact.len() {
        for bit in [0, 3, 7] {
            let mut flipped = intact.clone();
            flipped[at] ^= 1 << bit;
            texts.push(flipped);
        }
    }
    let map = |inner: String| format!("{{\"weight_map\":{{{inner}}}}}").into_bytes();
    let many =
        |n: usize, f: &dyn Fn(usize) -> String| map((0..n).map(f).collect::<Vec<_>>().join(","));
    texts.push(many(20_000, &|i| format!("\"{i}\":\"\"")));
    texts.push(many(20_000, &|i| format!("\"{i}\":\"{i}\"")));
    texts.push(many(20_000, &|_| "\"\":\"\"".into()));
    texts.push(map(format!("\"{}\":\"x\"", "n".repeat(1 << 20))));
    texts.push(map(format!("\"x\":\"{}\"", "n".repeat(1 << 20))));
    texts.push([b"{\"weight_map\":".as_slice(), &[b'['; 1 << 18]].concat());
    texts.push([b"{".as_slice(), &b"\"a\":{".repeat(1 << 16)].concat());
    let sizes = (0..20_000).map(|i| format!("\"a{i}\":[[],[],[]]")).collect::<Vec<_>>();
    texts.push(
        format!("{{\"patch_size\":[{}],{}}}", "[],".repeat(5000) + "[]", sizes.join(",")).into(),
    );
    texts
}

#[test]
fn indexes_and_configurations_end_in_one_sentence() {
    let _alone = memory::alone();
    let dir = tempfile::tempdir().expect("folder");
    let shard = written(|out| checkpoint::safetensors(out, &samples::entries())).expect("written");
    fs::write(dir.path().join("a.safetensors"), &shard).expect("written");
    let index = dir.path().join("model.safetensors.index.json");
    let config = dir.path().join("config.json");
    let (mut opened, mut refused) = (0, 0);
    for text in texts() {
        for path in [&index, &config] {
            fs::write(path, &text).expect("written");
            let read = if path == &index { index.as_path() } else { dir.path() };
            memory::begin();
            let result = StateDict::open(read);
            let (taken, bytes) = (memory::taken(), text.len() + shard.len());
            assert!(taken <= OPEN_BYTES * bytes + OPEN_BASE, "{taken} bytes for {bytes}");
            match result {
                Ok(dict) => {
                    opened += 1;
                    assert!(dict.len() <= samples::entries().len());
                }
                Err(error) => {
                    refused += 1;
                    sentence(&error.to_string(), dir.path());
                }
            }
            fs::remove_file(path).expect("removed");
        }
    }
    println!("indexes and configurations: {opened} opened, {refused} refused");
    assert!(opened > 100 && refused > 1000, "{opened} {refused}");
}
