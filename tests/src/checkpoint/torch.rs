//! The three formats of PyTorch's own files.

use std::collections::BTreeMap;
use std::io;

use super::pickle::Storage;
use super::{Archive, Entry, Out, Pickle, end, put};

/// Row-major strides of a shape.
fn strides(shape: &[u64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as i64;
    }
    strides
}

fn tensor(pickle: Pickle, entry: &Entry, key: String, sixth: bool) -> Pickle {
    // The number of stored elements. It differs from that of the shape only in tests of such files.
    let count = (entry.written() / entry.kind.size()) as i64;
    let sizes: Vec<i64> = entry.shape.iter().map(|n| *n as i64).collect();
    let storage = Storage { class: entry.kind.storage(), key, count, sixth };
    pickle.tensor(&storage, 0, &sizes, &strides(&entry.shape))
}

/// The dict of all entries, inside another dict under `wrapper` unless that is empty.
fn state_dict(entries: &[Entry], wrapper: &str, sixth: bool) -> Vec<u8> {
    let mut pickle = Pickle::new();
    if !wrapper.is_empty() {
        pickle = pickle.raw(b"}").memoise().raw(b"(").text(wrapper);
    }
    pickle = pickle.ordered_dict().raw(b"(");
    for (i, entry) in entries.iter().enumerate() {
        pickle = tensor(pickle.text(&entry.name), entry, key(i, sixth), sixth);
    }
    pickle = pickle.raw(b"u");
    if !wrapper.is_empty() {
        pickle = pickle.text("epoch").int(3).raw(b"u");
    }
    pickle.stop()
}

/// Key of a storage: its number in an archive, a memory address in the legacy format.
fn key(i: usize, sixth: bool) -> String {
    let address = 94_224_136_472_544 + 64 * i;
    if sixth { address.to_string() } else { i.to_string() }
}

/// The pickle of a zip checkpoint.
pub fn zip_pickle(entries: &[Entry], wrapper: &str) -> Vec<u8> {
    state_dict(entries, wrapper, false)
}

/// Writes a zip checkpoint, with the state dict under the key `wrapper` unless that is empty.
///
/// # Errors
/// Errors of `out`; more than 4 GiB in all.
pub fn zip(out: &mut dyn Out, entries: &[Entry], wrapper: &str) -> io::Result<()> {
    zip_into(Archive::new(out, "archive"), entries, wrapper)
}

/// [`zip`] without wrapper and checksums, which `torch.save` can leave out.
///
/// # Errors
/// Errors of [`zip`].
pub fn zip_unsummed(out: &mut dyn Out, entries: &[Entry]) -> io::Result<()> {
    zip_into(Archive::new(out, "archive").unsummed(), entries, "")
}

fn zip_into(mut archive: Archive<'_>, entries: &[Entry], wrapper: &str) -> io::Result<()> {
    archive.file("data.pkl", &zip_pickle(entries, wrapper))?;
    archive.file(".format_version", b"1")?;
    archive.file(".storage_alignment", b"64")?;
    archive.file("byteorder", b"little")?;
    for (i, entry) in entries.iter().enumerate() {
        archive.storage(&format!("data/{i}"), entry)?;
    }
    archive.file("version", b"3\n")?;
    archive.file(".data/serialization_id", b"0636067801829271110608846325436829580614")?;
    archive.finish()
}

/// Writes a checkpoint of the legacy format, with the state dict under the key `wrapper` unless
/// that is empty.
///
/// # Errors
/// Errors of `out`.
pub fn legacy(out: &mut dyn Out, entries: &[Entry], wrapper: &str) -> io::Result<()> {
    const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    out.write_all(&Pickle::new().raw(&MAGIC).stop())?;
    out.write_all(&Pickle::new().int(1001).stop())?;
    let sizes = [("short", 2), ("int", 4), ("long", 4)];
    let mut machine = Pickle::new().raw(b"}").memoise().raw(b"(").text("protocol_version");
    machine = machine.int(1001).text("little_endian").raw(&[0x88]).text("type_sizes");
    machine = machine.raw(b"}").memoise().raw(b"(");
    machine = sizes.iter().fold(machine, |p, (word, n)| p.text(word).int(*n));
    out.write_all(&machine.raw(b"uu").stop())?;
    out.write_all(&state_dict(entries, wrapper, true))?;
    let keys = Pickle::new().raw(b"]").memoise().raw(b"(");
    let keys = (0..entries.len()).fold(keys, |p, i| p.text(&key(i, true)));
    out.write_all(&keys.raw(b"e").stop())?;
    for entry in entries {
        out.write_all(&(entry.written() / entry.kind.size()).to_le_bytes())?;
        put(out, entry)?;
    }
    end(out)
}

/// A module: its own tensors (each with the number of its storage) and its submodules.
#[derive(Default)]
struct Module<'a> {
    own: Vec<(&'a str, usize)>,
    inner: BTreeMap<&'a str, Module<'a>>,
}

fn tree(entries: &[Entry]) -> Module<'_> {
    let mut root = Module::default();
    for (i, entry) in entries.iter().enumerate() {
        let mut path: Vec<&str> = entry.name.split('.').collect();
        let last = path.pop().unwrap_or_default();
        let module = path.into_iter().fold(&mut root, |m, step| m.inner.entry(step).or_default());
        module.own.push((last, i));
    }
    root
}

/// Writes a module. Class names are mangled, so that those of one name differ.
fn module(pickle: Pickle, entries: &[Entry], module: &Module, number: &mut usize) -> Pickle {
    let class = match *number {
        0 => "__torch__".to_string(),
        n => format!("__torch__.torch.nn.modules.container.___torch_mangle_{n}"),
    };
    *number += 1;
    let mut pickle = pickle.global(&class, "Net").raw(b")\x81}(");
    for (name, i) in &module.own {
        pickle = tensor(pickle.text(name), &entries[*i], i.to_string(), false);
    }
    pickle = pickle.text("training").raw(&[0x89]).text("_is_full_backward_hook").raw(b"N");
    for (name, inner) in &module.inner {
        pickle = self::module(pickle.text(name), entries, inner, number);
    }
    pickle.raw(b"ub").memoise()
}

/// The pickle of a TorchScript archive.
pub fn torchscript_pickle(entries: &[Entry]) -> Vec<u8> {
    module(Pickle::new(), entries, &tree(entries), &mut 0).stop()
}

/// Writes an archive like that of a scripted module whose tensors have dotted names.
///
/// # Errors
/// Errors of `out`; more than 4 GiB in all.
pub fn torchscript(out: &mut dyn Out, entries: &[Entry]) -> io::Result<()> {
    let mut archive = Archive::new(out, "archive");
    for (i, entry) in entries.iter().enumerate() {
        archive.storage(&format!("data/{i}"), entry)?;
    }
    archive.file("data.pkl", &torchscript_pickle(entries))?;
    archive.file("code/__torch__.py", b"class Net(Module):\n  __parameters__ = []\n")?;
    archive.file("constants.pkl", b"\x80\x02).")?;
    archive.file("version", b"3\n")?;
    archive.file("byteorder", b"little")?;
    archive.finish()
}
