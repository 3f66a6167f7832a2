//! Writes the intact sample files as seeds for the fuzz targets, with one folder per target. Adds
//! word lists for the targets that read text.
//!
//!     cargo run --release -p dressage-tests --example seeds -- fuzz/corpus

use std::path::Path;

use dressage_tests::samples::{self, Form};
use dressage_tests::{Outcome, checkpoint};
use dressage_train::recipe::{EMBEDDED, Recipe, keys};

/// Command lines as words separated by spaces.
const COMMANDS: [&str; 22] = [
    "--help",
    "demo --out show --steps 3 --images 2 --seed 7 --threads 1",
    "train --list",
    "train --help-recipe",
    "train demo train.steps=2000 run.dir=runs/short --recompute block --threads 2",
    "train runs/demo --resume",
    "train gtav-dinov2-l-rein model.weights=w.pth --set data.root=/data --device cuda:1 --precision bf16",
    "eval runs/demo --checkpoint 4 data.eval.0.box=[64,32]",
    "eval gtav-dinov2-l-rein model.weights=w.pth model.checkpoint=rein.pth --out scores.json",
    "predict runs/demo photos/*.jpg --out pictures --alpha 0.7 --encoding train-ids --box 64x32",
    "predict demo a.png --set model.checkpoint=rein.pth --set eval.mode=whole",
    "weights inspect file.pth --json",
    "weights diff file.pth dinov2-s-reg",
    "weights convert in.pth out.safetensors --dtype bf16",
    "weights export runs/demo --checkpoint 3 --out rein.safetensors",
    "weights fingerprint file.pth --patch 14 --image 518",
    "params --size l",
    "plan gtav-dinov2-l-rein train.batch=8 train.recompute=block --each --buffers --json",
    "bench step backbone --model s,b --size 256,512 --batch 2 --iters 3 --warmup 0",
    "bench kernels --device cuda:0 --json out.json",
    "bench block --model l --peer python3 --rounds 2 --precision f32 --recompute cheap",
    "doctor --device virtual --kernels norm* --runs 0 --json",
];

/// Overrides of all kinds.
const OVERRIDES: &str = "train.lr=6e-5\nhead.classes=['a','b']\ndata.groups=[[0],[7,8]]\n\
    data.train.0.id_map={7=0,8=1}\ndata.eval.1.name=mist\ndata.eval.0.size=[64, 32]\n\
    model.taps=[0,1,2,3]\naugment.flip=false\nrun.dir=runs/x";

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("say which folder the seeds go to")?;
    let folder = Path::new(&folder);
    let write = |target: &str, name: &str, bytes: &[u8]| -> Outcome<()> {
        let folder = folder.join(target);
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
    write("unpickle", "torchscript.pkl", &checkpoint::torchscript_pickle(&entries))?;
    for recipe in EMBEDDED.iter() {
        let whole = Recipe::from_name(&recipe.name, &[])?.to_toml()?;
        let text = format!("{whole}\n---\nmodel.weights=random\n{OVERRIDES}");
        write("recipe", &recipe.name, text.as_bytes())?;
    }
    let whole = Recipe::from_name("demo", &[])?.to_toml()?;
    write("recipe", "every-key", whole.as_bytes())?;
    for (i, command) in COMMANDS.iter().enumerate() {
        write("command_line", &i.to_string(), command.replace(' ', "\n").as_bytes())?;
    }
    words(folder)
}

/// Writes keys and options as a word list of libFuzzer.
fn words(folder: &Path) -> Outcome<()> {
    let quoted = |words: Vec<String>| -> String {
        words.into_iter().map(|word| format!("\"{word}\"\n")).collect()
    };
    let keys = || keys::KEYS.iter().map(|key| key.path.replace("[]", ".0"));
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let paths = keys().flat_map(|path| [leaf(&path), path]).collect();
    std::fs::write(folder.join("recipe.dict"), quoted(paths))?;
    let options = COMMANDS.iter().flat_map(|line| line.split(' ')).map(str::to_owned);
    std::fs::write(folder.join("command_line.dict"), quoted(options.chain(keys()).collect()))?;
    Ok(())
}
