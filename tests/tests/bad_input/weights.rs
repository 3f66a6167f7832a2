//! Weights files that are damaged or belong to another network.

use std::fs;
use std::path::{Path, PathBuf};

use dressage_engine::{DType, Tensor};
use dressage_models::Result;
use dressage_models::weights::{StateDict, write_safetensors};
use dressage_train::network;

use crate::common::recipe;
use crate::fails_with;

type Tensors = Vec<(String, Tensor)>;

/// The backbone of the tiny recipe under its published names.
pub fn backbone(dir: &Path) -> Tensors {
    let model = network::build(&recipe(dir, &["train.seed=9"])).expect("network");
    let mut tensors = Tensors::new();
    for (name, param) in model.params() {
        match name.strip_prefix("backbone.") {
            Some(own) if !own.starts_with("reins.") => {
                tensors.push((own.to_string(), param.get().detach()));
            }
            _ => {}
        }
    }
    tensors
}

pub fn write(dir: &Path, tensors: &Tensors) -> PathBuf {
    let path = dir.join("backbone.safetensors");
    let mut file = fs::File::create(&path).expect("file");
    write_safetensors(tensors, &[], &mut file).expect("written");
    path
}

/// Builds the tiny network from a weights file.
fn load(dir: &Path, weights: &Path) -> dressage_train::Result<dressage_models::Segmenter> {
    network::build(&recipe(dir, &[&format!("model.weights={}", weights.display())]))
}

#[test]
fn an_intact_file_is_taken_as_it_is() {
    let dir = tempfile::tempdir().expect("folder");
    let tensors = backbone(dir.path());
    let model = load(dir.path(), &write(dir.path(), &tensors)).expect("network");
    for (name, tensor) in &tensors {
        let value = model.params()[&format!("backbone.{name}")].get();
        assert_eq!(value.bytes(), tensor.bytes(), "{name}");
    }
}

/// Loads the tensors after `change`; the error must name the file and contain `words`.
fn refused(change: impl FnOnce(&mut Tensors), words: &[&str]) {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = backbone(dir.path());
    change(&mut tensors);
    let path = write(dir.path(), &tensors);
    let error = fails_with(load(dir.path(), &path), words);
    assert!(error.contains(path.to_str().expect("path")), "{error:?} does not name the file");
}

fn set(tensors: &mut Tensors, name: &str, value: Tensor) {
    let slot = tensors.iter_mut().find(|(n, _)| n == name);
    slot.unwrap_or_else(|| panic!("no {name}")).1 = value;
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(DType::F32, shape)
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let missing = "blocks.2.attn.qkv.weight";
    refused(|t| t.retain(|(n, _)| n != missing), &[missing, "[96, 32] is missing"]);
    refused(|t| t.retain(|(n, _)| n != "pos_embed"), &["pos_embed [1, 17, 32] is missing"]);
    let more = "blocks.4.norm1.weight";
    refused(|t| t.push((more.into(), zeros(&[32]))), &[more, "left over"]);
    refused(|t| set(t, "norm.weight", zeros(&[33])), &["norm.weight is [33], expected [32]"]);
    let kernel = "patch_embed.proj.weight";
    refused(|t| set(t, kernel, zeros(&[32, 3, 16, 15])), &[kernel, "[32, 3, 16, 15]"]);
    refused(|t| set(t, "pos_embed", zeros(&[1, 18, 32])), &["pos_embed", "[1, 18, 32]", "square"]);
    let numbers = || Tensor::zeros(DType::I32, &[32]);
    refused(|t| set(t, "norm.bias", numbers()), &["norm.bias", "whole numbers"]);
    let table = Tensor::zeros(DType::I32, &[1, 17, 32]);
    refused(|t| set(t, "pos_embed", table), &["pos_embed", "whole numbers"]);
}

#[test]
fn a_wholly_different_network_is_summed_up() {
    refused(
        |t| t.iter_mut().for_each(|(name, _)| *name = name.replace("attn", "attention")),
        &["blocks.0.attn", "is missing", "and", "more"],
    );
}

fn opened(bytes: &[u8]) -> (PathBuf, Result<StateDict>) {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("some.safetensors");
    fs::write(&path, bytes).expect("written");
    (path.clone(), StateDict::open(&path))
}

fn damaged(bytes: &[u8], words: &[&str]) {
    let (path, result) = opened(bytes);
    let error = fails_with(result, words);
    assert!(error.contains(path.to_str().expect("path")), "{error:?} does not name the file");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_was_cut() {
    let dir = tempfile::tempdir().expect("folder");
    let bytes = fs::read(write(dir.path(), &backbone(dir.path()))).expect("file");
    damaged(&[], &["empty"]);
    damaged(&bytes[..7], &["only the start of one"]);
    damaged(&bytes[..8], &["only the start of one"]);
    for keep in [20, 1000, bytes.len() / 2, bytes.len() - 1] {
        damaged(&bytes[..keep], &["truncated"]);
    }
    let longer = [bytes.as_slice(), b"and more"].concat();
    damaged(&longer, &["safetensors"]);
    opened(&bytes).1.expect("whole");
}

/// A file with this header, followed by `data` bytes.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn files_of_another_kind_are_refused() {
    let noise: Vec<u8> =
        (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    damaged(&noise, &["neither safetensors nor a PyTorch file"]);
    damaged(b"<!DOCTYPE html><html>404 not found</html>", &["web page"]);
    let (_, pointer) = opened(b"version https://git-lfs.github.com/spec/v1\noid");
    let error = fails_with(pointer, &["Git LFS", "git lfs pull"]);
    assert!(!error.contains("again"), "{error}");
    damaged(b"PK\x03\x04 and then a zip archive", &["directory at the end"]);
    damaged(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", &["ends too early"]);
    damaged(b"\x80\x04K\x01.", &["a pickle, but not one of PyTorch"]);
    damaged(&with_header("{no JSON at all", 64), &["not a valid safetensors file"]);
}

#[test]
fn headers_that_promise_too_much_are_refused_without_taking_the_memory() {
    let header = |n: u64| [n.to_le_bytes().as_slice(), b"{\"a\":"].concat();
    damaged(&header(u64::MAX), &["neither safetensors nor"]);
    damaged(&header(100_000_001), &["neither safetensors nor"]);
    damaged(&header(90_000_000), &["truncated"]);
    let n = 1u64 << 40;
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{n}],"data_offsets":[0,{}]}}}}"#, 4 * n);
    damaged(&with_header(&header, 64), &["truncated"]);
    let header = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,64]}}}}"#,
        u64::MAX / 2
    );
    damaged(&with_header(&header, 64), &["tensor a", "does not make the bytes 0 to 64"]);
    let header = r#"{"a":{"dtype":"F32","shape":[20],"data_offsets":[0,64]}}"#;
    damaged(&with_header(header, 64), &["tensor a", "does not make the bytes 0 to 64"]);
    let header = r#"{"a":{"dtype":"F8_E4M3","shape":[64],"data_offsets":[0,64]}}"#;
    damaged(&with_header(header, 64), &["tensor a", "F8_E4M3", "not supported"]);
}

#[test]
fn a_path_that_leads_nowhere_is_named() {
    let dir = tempfile::tempdir().expect("folder");
    fails_with(
        load(dir.path(), &dir.path().join("none.safetensors")),
        &["none.safetensors", "No such", "model.weights=FILE"],
    );
    fails_with(load(dir.path(), dir.path()), &[dir.path().to_str().expect("path")]);
}
