//! Writes the intact sample files, as a start for the fuzz targets: one folder a target.
//!
//!     cargo run --release -p dressage-tests --example seeds -- fuzz/corpus

use std::path::Path;

use dressage_tests::samples::{self, Form};
use dressage_tests::{Outcome, checkpoint};

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("say which folder the seeds go to")?;
    let write = |target: &str, name: &str, bytes: &[u8]| -> Outcome<()> {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(name), bytes)?)
    };
    for sample in samples::all()? {
        let target = match sample.form {
            Form::Zip | Form::Legacy | Form::TorchScript => "container",
            Form::Safetensors => "safetensors",
            Form::Png | Form::Jpeg => "picture",
        };
        write(target, &format!("{}.{}", sample.name, sample.form.ending()), &sample.bytes)?;
    }
    let entries = samples::entries();
    let shard = |name: &str| format!("\"{name}\":\"model-00001-of-00002.safetensors\"");
    let map: Vec<String> = entries.iter().map(|entry| shard(&entry.name)).collect();
    let index = format!("{{\"metadata\":{{}},\"weight_map\":{{{}}}}}", map.join(","));
    write("container", "model.safetensors.index.json", index.as_bytes())?;
    write("unpickle", "flat.pkl", &checkpoint::zip_pickle(&entries, ""))?;
    write("unpickle", "wrapped.pkl", &checkpoint::zip_pickle(&entries, "state_dict"))?;
    write("unpickle", "torchscript.pkl", &checkpoint::torchscript_pickle(&entries))
}
