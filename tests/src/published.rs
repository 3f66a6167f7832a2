//! Names and shapes of published files.

use std::path::Path;

use crate::Outcome;
use crate::checkpoint::Entry;
use crate::fixture::{Fixture, Settings};

/// The tensors of a state dict in `keys.json`, filled with zeros.
///
/// # Errors
/// If there is no such state dict.
pub fn recorded(network: &str) -> Outcome<Vec<Entry>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys.json");
    let fixture = Fixture::open(&path)?;
    let keys = fixture.json[network]["keys"].as_array();
    let entry = |key: &serde_json::Value| {
        let shape: Vec<u64> = key.sizes("shape")?.iter().map(|n| *n as u64).collect();
        Ok(Entry::zeros(key.word("key"), &shape))
    };
    keys.ok_or_else(|| format!("keys.json has no {network}"))?.iter().map(entry).collect()
}

/// Names under which the transformers library publishes a tensor of DINOv2. There are three for
/// queries, keys and values, which are parts of it along the first axis, else one.
pub fn hugging_face(name: &str) -> Vec<String> {
    const WORDS: [(&str, &str); 12] = [
        ("cls_token", "embeddings.cls_token"),
        ("mask_token", "embeddings.mask_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("register_tokens", "embeddings.register_tokens"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks.", "encoder.layer."),
        ("attn.proj", "attention.output.dense"),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
        ("mlp.w12", "mlp.weights_in"),
        ("mlp.w3", "mlp.weights_out"),
        ("norm.", "layernorm."),
    ];
    let theirs = WORDS.iter().fold(name.to_string(), |n, (ours, word)| n.replace(ours, word));
    match theirs.split_once("attn.qkv") {
        None => vec![theirs],
        Some((before, after)) => ["query", "key", "value"]
            .map(|part| format!("{before}attention.attention.{part}{after}"))
            .into(),
    }
}
