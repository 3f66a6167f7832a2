//! Damaged checkpoints, passed to every command that reads one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use dressage_train::pictures::write_image;
use dressage_train::scenes::{Domain, render};

use crate::common::{TINY, done, dressage, refused};
use crate::count;
use crate::random::share;

const NAME: &str = "runs/tiny/checkpoints/step-000003.safetensors";

/// A trained run and an image.
struct Trained {
    dir: tempfile::TempDir,
    intact: Vec<u8>,
}

impl Trained {
    fn new() -> Trained {
        let dir = tempfile::tempdir().expect("folder");
        fs::write(dir.path().join("tiny.toml"), TINY).expect("recipe");
        done(dressage(dir.path(), &["train", "tiny.toml", "data.eval=[]"]));
        let (image, _) = render(1, 7, Domain::Day, 64, 32);
        write_image(&dir.path().join("a.png"), &image).expect("picture");
        let intact = fs::read(dir.path().join(NAME)).expect("checkpoint");
        Trained { dir, intact }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    /// Runs every command that reads a checkpoint.
    fn commands(&self) -> [Output; 4] {
        let scenes = "data.eval=[{name='day',source='scenes',count=1,size=[32,32]}]";
        let run = |args: &[&str]| dressage(self.dir.path(), args);
        [
            run(&["train", "runs/tiny", "--resume-changed", "train.steps=4"]),
            run(&["eval", "runs/tiny", scenes]),
            run(&["predict", "runs/tiny", "a.png"]),
            run(&["weights", "export", "runs/tiny"]),
        ]
    }

    /// Asserts that all commands refuse `bytes` in a sentence that names the file, and that the run
    /// is unchanged.
    fn all_refuse(&self, bytes: &[u8], how: &str) {
        fs::write(self.path(), bytes).expect("damaged");
        for output in self.commands() {
            assert_eq!(output.status.code(), Some(1), "{how}: accepted");
            refused(output, 1, &["step-000003.safetensors"]);
        }
        let left = fs::read(self.path()).expect("the checkpoint is left");
        assert!(left == bytes, "{how}: the checkpoint was written over");
        assert_eq!(files(&self.dir.path().join("runs/tiny/checkpoints")), 1, "{how}");
    }
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).expect("folder").count()
}

#[test]
fn checkpoints_cut_short_are_refused_by_every_command() {
    let trained = Trained::new();
    let n = count("DRESSAGE_CUTS", 6);
    for i in 0..n {
        // The first cuts are at the ends: an empty file, a part of the header's length, one byte
        // missing.
        let length = match i {
            0 => 0,
            1 => 7,
            2 => trained.intact.len() - 1,
            _ => (share(i as u64) * trained.intact.len() as f64) as usize,
        };
        trained.all_refuse(&trained.intact[..length], &format!("cut to {length} bytes"));
    }
    println!("{n} cuts, each refused by four commands");
    fs::write(trained.path(), &trained.intact).expect("mended");
    trained.commands().into_iter().for_each(|output| drop(done(output)));
}

#[test]
fn checkpoints_with_a_flipped_bit_are_refused_by_every_command() {
    let trained = Trained::new();
    let n = count("DRESSAGE_FLIPS", 6);
    let bits = 8 * trained.intact.len();
    for i in 0..n {
        // Every third bit is in the header, which is a small part of the file.
        let within = if i % 3 == 0 { 8 * header(&trained.intact) } else { bits };
        let bit = (share(1000 + i as u64) * within as f64) as usize;
        let mut damaged = trained.intact.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        trained.all_refuse(&damaged, &format!("bit {bit} flipped"));
    }
    println!("{n} flips, each refused by four commands");
}

/// Returns the number of bytes before the tensors of a safetensors file.
fn header(file: &[u8]) -> usize {
    let (length, _) = file.split_first_chunk::<8>().expect("a length");
    8 + usize::try_from(u64::from_le_bytes(*length)).expect("a length")
}
