//! Weights files that change in use, have non-finite values, come in shards or have prefixed names.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dressage_engine::{DType, Tensor};
use dressage_models::Segmenter;
use dressage_models::weights::{ScalarType, Stored, write as write_tensors, write_safetensors};
use dressage_tests::checkpoint::{self, Entry};
use dressage_train::network::{self, build_within};
use dressage_train::recipe::Recipe;
use dressage_train::trainer::Trainer;
use dressage_train::{checkpoint as states, evaluate};

use crate::common::recipe;
use crate::fails_with;
use crate::weights::{backbone, write};

type Tensors = Vec<(String, Tensor)>;

/// The tiny recipe with weights from `path`, and `settings`.
fn on(dir: &Path, path: &Path, settings: &[&str]) -> Recipe {
    let weights = format!("model.weights={}", path.display());
    let mut all = vec![weights.as_str(), "model.method=freeze"];
    all.extend(settings);
    recipe(dir, &all)
}

fn load(dir: &Path, path: &Path) -> dressage_train::Result<Segmenter> {
    network::build(&on(dir, path, &[]))
}

/// Overwrites a file in place, like `cat other > file`, with a new modification time.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).expect("file");
    file.write_all(bytes).expect("written");
    file.set_modified(SystemTime::now() + Duration::from_secs(9)).expect("touched");
}

/// The bytes of a checkpoint after a few steps; `disturb` is called after the first.
fn trained(dir: &Path, weights: &Path, settings: &[&str], disturb: impl Fn()) -> Vec<u8> {
    let mut trainer = Trainer::new(on(dir, weights, settings), false).expect("trainer");
    let mut loader = trainer.loader().expect("loader");
    for step in 0..3 {
        if step == 1 {
            disturb();
        }
        trainer.step_with(&mut loader).expect("step");
    }
    let path = trainer.save().expect("saved");
    let bytes = fs::read(&path).expect("checkpoint");
    fs::remove_dir_all(dir.join("run")).expect("removed");
    bytes
}

#[test]
fn a_run_keeps_the_weights_that_it_began_with() {
    let dir = tempfile::tempdir().expect("folder");
    let path = write(dir.path(), &backbone(dir.path()));
    let whole = fs::read(&path).expect("file");
    let settings: [&[&str]; 2] = [&[], &["model.precision=bf16"]];
    for settings in settings {
        let run = |disturb: &dyn Fn()| {
            fs::write(&path, &whole).expect("written");
            trained(dir.path(), &path, settings, disturb)
        };
        let calm = run(&|| {});
        assert!(run(&|| overwrite(&path, &vec![0x3e; whole.len()])) == calm, "written over");
        let cut = || File::create(&path).map(|_| ()).expect("cut to nothing");
        assert!(run(&cut) == calm, "cut short");
        assert!(run(&|| fs::remove_file(&path).expect("removed")) == calm, "removed");
    }
}

#[test]
fn weights_that_no_memory_is_left_for_are_watched_in_their_file() {
    let dir = tempfile::tempdir().expect("folder");
    let path = write(dir.path(), &backbone(dir.path()));
    let whole = fs::read(&path).expect("file");
    let recipe = on(dir.path(), &path, &[]);
    let copied = network::build(&recipe).expect("copied");
    let model = build_within(&recipe, Some(0)).expect("in place");
    for (name, param) in copied.params() {
        assert_eq!(param.get().bytes(), model.params()[name].get().bytes(), "{name}");
    }
    let optimiser = network::optimiser(&recipe, &model).expect("optimiser");
    let image = dressage_train::Image { w: 64, h: 64, data: vec![9; 3 * 64 * 64] };
    let how = evaluate::Inference::of_recipe(&recipe);
    let save = || states::save(&dir.path().join("state"), &model, &optimiser, 0, &recipe);
    model.check_files().expect("nobody wrote to it");
    save().expect("saved");
    evaluate::predict(&model, &image, how, 64, 64).expect("labels");
    let before = fs::read(dir.path().join("state")).expect("state");
    overwrite(&path, &whole);
    let words = ["backbone.safetensors", "changed while it was in use"];
    fails_with(model.check_files(), &words);
    fails_with(save(), &words);
    fails_with(evaluate::predict(&model, &image, how, 64, 64).map(|_| ()), &words);
    assert!(fs::read(dir.path().join("state")).expect("state") == before, "what was saved stays");
    copied.check_files().expect("a copy needs no watching");
}

/// Writes tensors, with floats as `kind`.
fn write_as(path: &Path, tensors: &Tensors, kind: ScalarType) {
    let stored: Vec<(&String, Stored)> =
        tensors.iter().map(|(name, t)| (name, t.clone().into())).collect();
    let all = stored.iter().map(|(name, t)| (name.as_str(), t, kind)).collect();
    write_tensors(all, &[], &mut File::create(path).expect("file")).expect("written");
}

#[test]
fn values_that_are_no_numbers_are_refused_by_their_tensor() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("some.safetensors");
    for kind in [ScalarType::F32, ScalarType::F16, ScalarType::Bf16, ScalarType::F64] {
        for (name, value) in [
            ("blocks.2.mlp.fc1.weight", f32::NAN),
            ("norm.bias", f32::INFINITY),
            ("pos_embed", f32::NEG_INFINITY),
        ] {
            let mut tensors = backbone(dir.path());
            let tensor = &mut tensors.iter_mut().find(|(n, _)| n == name).expect("a name").1;
            let mut values = tensor.data::<f32>().expect("f32").to_vec();
            values[7] = value;
            *tensor = Tensor::from_slice(&values, tensor.shape()).expect("tensor");
            write_as(&path, &tensors, kind);
            let words = [name, "some.safetensors", "finite", "element 7"];
            fails_with(load(dir.path(), &path), &words);
            fails_with(build_within(&on(dir.path(), &path, &[]), Some(0)), &words);
        }
    }
    // The error names the tensor as in the file, even if the network does not use it.
    let mut tensors = backbone(dir.path());
    let unused = Tensor::full(&[1, 32], f32::NAN);
    tensors.push(("mask_token".into(), unused));
    write_as(&path, &tensors, ScalarType::F32);
    fails_with(load(dir.path(), &path), &["tensor mask_token holds NaN"]);
    let mut tensors = backbone(dir.path());
    let tensor = &mut tensors.iter_mut().find(|(n, _)| n == "norm.bias").expect("a name").1;
    *tensor = Tensor::full(tensor.shape(), 1e300f64);
    tensors.iter_mut().for_each(|(name, _)| *name = format!("model.{name}"));
    let stored: Vec<(&String, Stored)> =
        tensors.iter().map(|(name, t)| (name, t.clone().into())).collect();
    let all = stored.iter().map(|(name, t)| (name.as_str(), t, t.kind())).collect();
    write_tensors(all, &[], &mut File::create(&path).expect("file")).expect("written");
    let words = ["tensor model.norm.bias holds 1e300 at element 0", "beyond the range of f32"];
    fails_with(load(dir.path(), &path), &words);
    // The same for adapter and head.
    let model = load(dir.path(), &write(dir.path(), &backbone(dir.path()))).expect("network");
    let head = model.params().iter().filter(|(name, _)| name.starts_with("decode_head."));
    let mut tensors: Tensors = head.map(|(n, p)| (n.clone(), p.get().detach())).collect();
    let broken = "decode_head.mask_embed.4.weight";
    let tensor = &mut tensors.iter_mut().find(|(n, _)| n == broken).expect("a name").1;
    *tensor = Tensor::full(tensor.shape(), f32::NAN);
    write_as(&path, &tensors, ScalarType::F32);
    let checkpoint = format!("model.checkpoint={}", path.display());
    let settings = [checkpoint.as_str(), "model.method=freeze"];
    fails_with(
        network::build(&recipe(dir.path(), &settings)),
        &[broken, "some.safetensors", "NaN"],
    );
}

#[test]
fn advice_depends_on_whose_file_it_is() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("some.safetensors");
    // Without checksums, like files of other authors.
    write_as(&path, &backbone(dir.path()), ScalarType::F32);
    let bytes = fs::read(&path).expect("file");
    let mut unfinished = bytes.clone();
    unfinished[bytes.len() * 2 / 3..].fill(0);
    fs::write(&path, &unfinished).expect("written");
    let words = ["bytes are zeros", "not finished", "fetch or copy it again"];
    fails_with(load(dir.path(), &path), &words);
    fs::write(&path, &bytes[..1000]).expect("written");
    fails_with(load(dir.path(), &path), &["truncated", "fetch or copy it again"]);
    let own = format!("model.checkpoint={}", path.display());
    let error =
        fails_with(network::build(&recipe(dir.path(), &[&own])), &["truncated", "export or copy"]);
    assert!(!error.contains("fetch"), "{error}");
    let error = fails_with(states::open(&path).map(|_| ()), &["truncated"]);
    assert!(!error.contains("again"), "{error}");
    let none = dir.path().join("none.safetensors");
    let error = fails_with(load(dir.path(), &none), &["none.safetensors", "No such"]);
    assert!(!error.contains("again"), "{error}");
}

fn entries(tensors: &Tensors, name: impl Fn(&str) -> String) -> Vec<Entry> {
    let entry = |(own, t): &(String, Tensor)| {
        let shape: Vec<u64> = t.shape().iter().map(|n| *n as u64).collect();
        Entry::bytes(&name(own), checkpoint::ScalarType::F32, &shape, t.bytes().to_vec())
    };
    tensors.iter().map(entry).collect()
}

/// Checks that the network from a file has these weights.
fn same(dir: &Path, path: &Path, tensors: &Tensors) {
    let model = load(dir, path).unwrap_or_else(|e| panic!("{e}"));
    for (name, tensor) in tensors {
        let value = model.params()[&format!("backbone.{name}")].get();
        assert_eq!(value.bytes(), tensor.bytes(), "{name}");
    }
}

#[test]
fn wrappers_of_trainers_are_taken_off() {
    let dir = tempfile::tempdir().expect("folder");
    let tensors = backbone(dir.path());
    let chunked = |name: &str| {
        // Two blocks per chunk; the second number is not reset.
        let (head, rest) =
            name.strip_prefix("blocks.").map_or((name, None), |rest| ("", Some(rest)));
        let Some((n, rest)) = rest.and_then(|rest| rest.split_once('.')) else {
            return head.into();
        };
        format!("blocks.{}.{n}.{rest}", n.parse::<usize>().expect("a number") / 2)
    };
    type Name<'a> = &'a dyn Fn(&str) -> String;
    let compiled: Name = &|n| format!("module._orig_mod.{n}");
    let sharded: Name = &|n| {
        format!("_fsdp_wrapped_module.{}", n.replace("attn.", "_checkpoint_wrapped_module.attn."))
    };
    let lightning: Name = &|n| format!("model.backbone.{n}");
    let teacher: Name = &|n| format!("backbone.{}", chunked(n));
    let scalar = |name: &str| {
        Entry::bytes(name, checkpoint::ScalarType::I64, &[], 5u64.to_le_bytes().to_vec())
    };
    let extra =
        |name: &str| Entry::bytes(name, checkpoint::ScalarType::F32, &[1], vec![0, 0, 0, 63]);
    for (what, key, name, more) in [
        ("compiled", "model", compiled, vec![]),
        ("FSDP", "", sharded, vec![]),
        ("averaged", "", &|n: &str| format!("module.{n}"), vec![scalar("n_averaged")]),
        ("Lightning", "state_dict", lightning, vec![extra("criterion.weight")]),
        ("teacher", "teacher", teacher, vec![extra("dino_head.mlp.0.weight")]),
        ("EMA", "state_dict_ema", &|n: &str| n.to_string(), vec![]),
    ] {
        let mut all = entries(&tensors, name);
        all.extend(more);
        let path = dir.path().join("some.pth");
        let mut file = File::create(&path).expect("file");
        checkpoint::zip(&mut file, &all, key).unwrap_or_else(|e| panic!("{what}: {e}"));
        same(dir.path(), &path, &tensors);
        checkpoint::legacy(&mut File::create(&path).expect("file"), &all, key).expect("written");
        same(dir.path(), &path, &tensors);
    }
}

#[test]
fn names_of_nothing_known_are_shown() {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = backbone(dir.path());
    tensors.iter_mut().for_each(|(name, _)| *name = name.replace('.', "/"));
    let path = write(dir.path(), &tensors);
    let words = ["names is known", "blocks/0/attn/proj/bias", "but blocks.0.attn"];
    fails_with(load(dir.path(), &path), &words);
}

/// Writes the backbone in two shards with an index, to a folder of its own.
fn shards(dir: &Path, tensors: &Tensors) -> PathBuf {
    let folder = dir.join("hub");
    fs::create_dir_all(&folder).expect("folder");
    let mut map = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", i + 1);
        let mut file = File::create(folder.join(&name)).expect("file");
        write_safetensors(part, &[], &mut file).expect("written");
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
    }
    index(&folder, &serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}));
    folder
}

fn index(folder: &Path, text: &serde_json::Value) {
    let text = text.to_string();
    fs::write(folder.join("model.safetensors.index.json"), text).expect("written");
}

#[test]
fn shards_are_opened_by_their_index_or_folder() {
    let dir = tempfile::tempdir().expect("folder");
    let tensors = backbone(dir.path());
    let folder = shards(dir.path(), &tensors);
    let by_index = folder.join("model.safetensors.index.json");
    let [first, second] = [1, 2].map(|i| folder.join(format!("model-{i:05}-of-00002.safetensors")));
    same(dir.path(), &by_index, &tensors);
    same(dir.path(), &folder, &tensors);
    fails_with(
        load(dir.path(), &first),
        &["model-00001-of-00002", "part 1 of 2", "model.safetensors.index.json"],
    );
    let own = format!("model.checkpoint={}", first.display());
    fails_with(
        network::build(&recipe(dir.path(), &[&own])),
        &["model-00001-of-00002", "part 1 of 2"],
    );
    let text = fs::read(&by_index).expect("index");
    fs::remove_file(&by_index).expect("removed");
    same(dir.path(), &folder, &tensors);
    let error = fails_with(load(dir.path(), &first), &["part 1 of 2", "name the folder of all"]);
    assert!(!error.contains("index"), "{error}");
    fs::rename(&second, folder.join("away")).expect("renamed");
    fails_with(load(dir.path(), &folder), &["hub", "part 1 of 2", "missing"]);
    fs::write(&by_index, &text).expect("written");
    for path in [&folder, &by_index] {
        let words = ["index.json", "model-00002-of-00002.safetensors", "part 2 of 2", "is missing"];
        fails_with(load(dir.path(), path), &words);
    }
    // A shard without a tensor that the index places in it.
    fs::copy(&first, &second).expect("copied");
    fails_with(
        load(dir.path(), &folder),
        &["model-00002-of-00002.safetensors holds", "it does not"],
    );
    let outside = serde_json::json!({"weight_map": {"norm.bias": "../backbone.safetensors"}});
    write(dir.path(), &tensors);
    index(&folder, &outside);
    fails_with(
        load(dir.path(), &folder),
        &["../backbone.safetensors", "not a file in the same folder"],
    );
    fs::write(&by_index, "{\"weight_map\": {\"norm.bias\": \"mo").expect("written");
    fails_with(load(dir.path(), &folder), &["index.json", "fetch or copy it again"]);
}

#[test]
fn the_configuration_of_a_folder_is_compared_with_weights_and_recipe() {
    let dir = tempfile::tempdir().expect("folder");
    let tensors = backbone(dir.path());
    let folder = shards(dir.path(), &tensors);
    let config = |text: &str| fs::write(folder.join("config.json"), text).expect("written");
    config(
        r#"{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 16, "image_size": 64}"#,
    );
    same(dir.path(), &folder, &tensors);
    config(r#"{"hidden_size": 48, "num_hidden_layers": 5}"#);
    let words =
        ["config.json", "hidden_size is 48, the weights are of 32", "num_hidden_layers is 5"];
    fails_with(load(dir.path(), &folder), &words);
    config(r#"{"num_attention_heads": 4}"#);
    fails_with(load(dir.path(), &folder), &["declares 4 heads, the network has 2"]);
    config(r#"{"hidden_size": "#);
    fails_with(load(dir.path(), &folder), &["config.json", "not a configuration"]);
    config(r#"{"model_type": "dinov2", "mlp_ratio": 4.0, "use_swiglu_ffn": false}"#);
    same(dir.path(), &folder, &tensors);
    config("\u{feff}{\"hidden_size\": 32}");
    same(dir.path(), &folder, &tensors);
    for (text, word) in [
        (r#"{"model_type": "bert"}"#, "model_type is bert, the weights are of DINOv2"),
        (r#"{"mlp_ratio": 2}"#, "mlp_ratio 2 makes 64 channels in an MLP, the weights have 128"),
        (r#"{"use_swiglu_ffn": true}"#, "use_swiglu_ffn is true, the weights are of plain MLPs"),
    ] {
        config(text);
        fails_with(load(dir.path(), &folder), &["config.json", word]);
    }
    config(r#"{"model_type": "dpt", "backbone_config": {"model_type": "dinov2"}}"#);
    same(dir.path(), &folder, &tensors);
    let named = folder.join("config.json");
    let error = fails_with(load(dir.path(), &named), &["config.json", "name its folder"]);
    assert!(!error.contains("again"), "{error}");
}

#[test]
fn folders_and_pipes_are_no_files() {
    let dir = tempfile::tempdir().expect("folder");
    let folder = dir.path().join("empty");
    fs::create_dir(&folder).expect("folder");
    fails_with(load(dir.path(), &folder), &["empty", "without a file of weights"]);
    let tensors = backbone(dir.path());
    let path = write(dir.path(), &tensors);
    fs::copy(&path, folder.join("one.safetensors")).expect("copied");
    same(dir.path(), &folder, &tensors);
    fs::copy(&path, folder.join("two.safetensors")).expect("copied");
    fails_with(load(dir.path(), &folder), &["one.safetensors, two.safetensors", "name one"]);
    #[cfg(unix)]
    fails_with(load(dir.path(), Path::new("/dev/null")), &["/dev/null", "not a file"]);
    let zeros = Tensor::zeros(DType::F32, &[2]);
    let whole = folder.join("model-00001-of-00001.safetensors");
    write_safetensors(&[("a".into(), zeros)], &[], &mut File::create(&whole).expect("file"))
        .expect("written");
    fails_with(
        load(dir.path(), &whole),
        &["model-00001-of-00001", "none of its 1 names", "holds a,"],
    );
}
