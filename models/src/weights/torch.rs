//! PyTorch's own files: zip and legacy `.pth`, TorchScript archives (spec backbones §6.1-6.3).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dressage_engine::MappedFile;

use super::archive_entry::{ArchiveEntry, differs};
use super::container::{Contents, Fault, FileResult};
use super::pickle::{self, StorageType, StridedView, Tree, Value};
use super::stored::row_major;
use super::wrappers::Unwrapped;
use super::zip::Archive;
use super::{Container, Stored, TENSOR_BYTES, shown, wrappers};

/// Maximum number of axes of a tensor; no tensor of a network has more than five.
const AXES: usize = 16;

/// Maximum depth of nested modules in a TorchScript archive.
const DEPTH: usize = 64;

/// Maximum number of attributes that a walk over a TorchScript archive visits.
const VISITS: usize = 1 << 20;

/// Reads an archive written by `torch.save` or `torch.jit.save`.
pub fn archive(map: &Arc<MappedFile>) -> FileResult<Contents> {
    let archive = Archive::open(map)?;
    let mut roots = archive.names().filter_map(|name| match name.strip_suffix("data.pkl") {
        Some(root) if root.is_empty() || root.ends_with('/') => Some(root),
        _ => None,
    });
    let (root, more) = (roots.next(), roots.next());
    let Some(root) = root.filter(|_| more.is_none()) else {
        return Err("is a zip archive, but not one of PyTorch: it should hold one data.pkl".into());
    };
    let entry = |name: &str| archive.get(&format!("{root}{name}"));
    if let Some(order) = entry("byteorder")
        && order?.trim_ascii() != b"little"
    {
        return Err("was written on a big-endian machine, which is not supported".into());
    }
    let script = entry("constants.pkl").is_some();
    let pickled = entry("data.pkl").unwrap_or_else(|| Err(Fault::damaged("holds no data.pkl")))?;
    let tree = pickle::read(pickled).map_err(Fault::damaged)?;
    // One entry for all tensors that share a storage.
    let members = RefCell::new(HashMap::new());
    let locate = |key: &str| {
        let name = format!("{root}data/{key}");
        let (Some(range), Some(sum)) = (archive.range(&name), archive.sum(&name)) else {
            return Err(Fault::damaged(format!("the archive has no entry data/{}", shown(key))));
        };
        let range = range?;
        let mut members = members.borrow_mut();
        let member = members.entry(key.to_string()).or_insert_with(|| {
            let (pages, range, good) = (map.clone(), range.clone(), AtomicBool::new(false));
            Arc::new(ArchiveEntry { name, pages, range, sum, good, differs })
        });
        Ok(StoragePlace { range, member: Some(member.clone()) })
    };
    let found = if script { modules(&tree)? } else { dictionary(&tree)? };
    let container = if script { Container::TorchScript } else { Container::Zip };
    collect(map, &tree, container, found, &locate)
}

/// The number that legacy files begin with, 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Reads a file written by `torch.save` before 1.6: five pickles, then the storages.
pub fn legacy(map: &Arc<MappedFile>) -> FileResult<Contents> {
    let mut at = 0;
    let mut next = || {
        let tree = pickle::read(&map[at..]).map_err(Fault::damaged)?;
        at += tree.len;
        Ok::<_, Fault>(tree)
    };
    let magic = next()?;
    if magic.bytes(magic.root) != Some(&MAGIC) {
        return Err("is a pickle, but not one of PyTorch; save it with torch.save".into());
    }
    let protocol = next()?;
    if protocol.root != Value::Int(1001) {
        return Err("has an unknown version of PyTorch's old format; save it again".into());
    }
    let system = next()?;
    let little = system.pairs(system.root).into_iter().flatten();
    let mut little = little.filter(|(k, _)| system.text(*k).as_deref() == Some("little_endian"));
    if little.next().is_some_and(|(_, v)| *v != Value::Bool(true)) {
        return Err("was written on a big-endian machine, which is not supported".into());
    }
    let (tree, keys) = (next()?, next()?);
    let storages = places(map, at, &tree, &keys)?;
    let locate = |key: &str| {
        let range = storages.get(key).cloned();
        let place = range.map(|range| StoragePlace { range, member: None });
        place.ok_or_else(|| Fault::damaged("the file is cut short before its values"))
    };
    let found = dictionary(&tree)?;
    collect(map, &tree, Container::Legacy, found, &locate)
}

/// Place of a storage, and its archive entry.
struct StoragePlace {
    range: Range<usize>,
    member: Option<Arc<ArchiveEntry>>,
}

/// Places of the storages of a legacy file, from byte `at` on. Storages beyond the end of the file
/// are left out.
fn places(
    map: &[u8],
    mut at: usize,
    tree: &Tree<'_>,
    keys: &Tree<'_>,
) -> FileResult<HashMap<String, Range<usize>>> {
    let named = tree.storages().iter().filter_map(|s| Some((tree.key(s.key)?, s.element)));
    let sizes: HashMap<_, StorageType> = named.collect();
    let list =
        keys.items(keys.root).ok_or_else(|| Fault::damaged("has no list of its storages"))?;
    let mut places = HashMap::new();
    for key in list {
        let key = keys.key(*key).ok_or_else(|| Fault::damaged("has a storage without a name"))?;
        let Some(element) = sizes.get(key.as_ref()) else {
            return Err(format!(
                "holds the storage {}, which belongs to no tensor or is of an unknown type, so \
                 the data after it cannot be found; save the checkpoint again",
                shown(&key)
            )
            .into());
        };
        let count =
            map.get(at..).and_then(|b| b.first_chunk::<8>()).map(|b| u64::from_le_bytes(*b));
        let bytes = count.and_then(|n| usize::try_from(n).ok()?.checked_mul(element.size));
        let end = bytes.and_then(|n| n.checked_add(at + 8)).filter(|end| *end <= map.len());
        let Some(end) = end else { break };
        places.insert(key.into_owned(), at + 8..end);
        at = end;
    }
    Ok(places)
}

/// Tensors that were found, by name, and other objects.
#[derive(Default)]
struct FoundTensors {
    views: Vec<(String, StridedView)>,
    wrapper: Vec<String>,
    /// Names and classes of objects that were skipped.
    skipped: Vec<(String, String)>,
}

impl FoundTensors {
    fn skip(&mut self, name: &str, class: String) {
        const LISTED: usize = 64;
        if self.skipped.len() < LISTED {
            self.skipped.push((shown(name), shown(&class)));
        }
    }
}

/// The tensors of a pickled state dict.
fn dictionary(tree: &Tree<'_>) -> FileResult<FoundTensors> {
    let Unwrapped { dict, passed: wrapper, other_entries } = wrappers::unwrapped(tree, tree.root);
    let Some(pairs) = tree.pairs(dict) else {
        return Err(match tree.class_of(dict) {
            Some(class) => format!(
                "holds an object of class {}, not a dictionary of tensors; save the model's \
                 state_dict() instead of the model",
                shown(&class)
            ),
            None => "holds no dictionary of tensors".to_string(),
        }
        .into());
    };
    let mut found = FoundTensors { wrapper, ..Default::default() };
    for (other, taken) in other_entries {
        found.skip(&other, format!("other weights; those under {taken} are used"));
    }
    for (key, value) in pairs {
        let Some(name) = tree.key(*key) else { continue };
        match (tree.view(*value), tree.class_of(*value)) {
            (Some(view), _) => found.views.push((name.into_owned(), view)),
            (None, Some(class)) => found.skip(&name, class),
            (None, None) => {}
        }
    }
    if found.views.is_empty() {
        return Err(without_tensors(tree, dict, &found.wrapper).into());
    }
    Ok(found)
}

/// Message for a dictionary without tensors under the keys `passed`.
fn without_tensors(tree: &Tree<'_>, dict: Value, passed: &[String]) -> String {
    let under = match passed {
        [] => String::new(),
        keys => format!(" under {}", keys.join(" > ")),
    };
    let keys = wrappers::keys(tree, dict);
    if keys.is_empty() {
        return format!(
            "holds a dictionary{under} without a named tensor; save the model's state_dict()"
        );
    }
    let holders = wrappers::holders(tree, dict);
    let holders = wrappers::first_of(holders.iter().map(|(key, _)| key.clone()), holders.len());
    let what = match holders.as_str() {
        "" => "save the model's state_dict() by itself".to_string(),
        holders => format!("save the dictionary of weights by itself ({holders} hold tensors)"),
    };
    // The message has no room for all of them.
    let looked_for = wrappers::WRAPPERS[..6].join(", ");
    format!("holds no tensors{under} or in {looked_for}, ...; its keys are {keys}; {what}")
}

/// The tensors of a tree of TorchScript modules, with names joined by dots.
fn modules(tree: &Tree<'_>) -> FileResult<FoundTensors> {
    let Some(attributes) = tree.attributes(tree.root) else {
        return Err("is a TorchScript archive without a module at its root".into());
    };
    let mut found = FoundTensors::default();
    // Names of the outer modules, and their remaining attributes.
    let mut path = vec![(String::new(), attributes.iter())];
    let (mut visits, mut letters) = (0, 0);
    while let Some((prefix, attributes)) = path.last_mut() {
        let Some((key, value)) = attributes.next() else {
            path.pop();
            continue;
        };
        let Some(name) = tree.text(*key) else { continue };
        let name = format!("{prefix}{name}");
        visits += 1;
        letters += name.len();
        if path.len() >= DEPTH || visits > VISITS || letters > tree.len * 8 + (1 << 16) {
            return Err(format!(
                "nests its modules too deeply or in a circle, at {}; no network does that",
                shown(&name)
            )
            .into());
        }
        match (tree.view(*value), tree.attributes(*value), tree.class_of(*value)) {
            (Some(view), ..) => found.views.push((name, view)),
            (None, Some(inner), _) => path.push((format!("{name}."), inner.iter())),
            (None, None, Some(class)) => found.skip(&name, class),
            (None, None, None) => {}
        }
    }
    match found.views.is_empty() {
        true => Err("is a TorchScript archive without a single tensor".into()),
        false => Ok(found),
    }
}

/// Checks every tensor against the actual bytes of its storage.
fn collect(
    map: &Arc<MappedFile>,
    tree: &Tree<'_>,
    container: Container,
    mut found: FoundTensors,
    locate: &dyn Fn(&str) -> FileResult<StoragePlace>,
) -> FileResult<Contents> {
    let mut tensors = BTreeMap::new();
    let mut total = 0usize;
    for (name, view) in std::mem::take(&mut found.views) {
        let of = |fault: Fault| Fault {
            cause: format!("tensor {}: {}", shown(&name), fault.cause),
            ..fault
        };
        match stored(map, tree, &view, locate).map_err(of)? {
            Some(tensor) => {
                total = total.saturating_add(tensor.len().saturating_mul(tensor.kind().size()));
                if total > map.len().saturating_mul(TENSOR_BYTES) {
                    return Err(of(Fault::damaged(format!(
                        "the shapes up to here ask for more than {TENSOR_BYTES} times the file's \
                         {} bytes",
                        map.len()
                    ))));
                }
                tensors.insert(name, tensor);
            }
            None => found.skip(&name, "a tensor of complex or quantised numbers".into()),
        }
    }
    let FoundTensors { wrapper, skipped, .. } = found;
    Ok(Contents { container, tensors, wrapper, skipped, metadata: BTreeMap::new() })
}

/// One tensor; `None` if its element type is not supported.
fn stored(
    map: &Arc<MappedFile>,
    tree: &Tree<'_>,
    view: &StridedView,
    locate: &dyn Fn(&str) -> FileResult<StoragePlace>,
) -> FileResult<Option<Stored>> {
    let storage = tree.storage(view);
    let Some(kind) = storage.element.kind else { return Ok(None) };
    let key = tree.key(storage.key).ok_or("its storage has no name")?;
    let StoragePlace { range, member } = locate(&key)?;
    let size = kind.size() as u64;
    let there = range.len() as u64 / size;
    let declared = storage.start.checked_add(storage.count);
    if declared.is_none_or(|n| n > there) {
        return Err(Fault::damaged(format!(
            "its storage has {there} elements of type {kind}, {} were declared",
            storage.count
        )));
    }
    let shape = axes(tree, view.size, "shape")?;
    let strides = axes(tree, view.stride, "strides")?;
    if shape.len() != strides.len() {
        return Err(Fault::damaged("it has a shape and strides of different lengths"));
    }
    let offset = u64::try_from(view.offset).map_err(|_| "it begins before its storage")?;
    if last(offset, &shape, &strides).is_none_or(|last| last > storage.count) {
        return Err(Fault::damaged(format!(
            "shape {shape:?} reaches beyond the {} elements of its storage",
            storage.count
        )));
    }
    let empty = shape.contains(&0);
    let start = if empty { 0 } else { (storage.start + offset) * size };
    let strides = if empty { row_major(&shape) } else { strides };
    let stored = Stored::mapped(map, kind, range.start + start as usize, shape, strides);
    Ok(Some(stored.inside(member)))
}

/// Index after the last element of a view; `None` if numbers overflow.
fn last(offset: u64, shape: &[usize], strides: &[usize]) -> Option<u64> {
    let elements = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis))?;
    elements.checked_mul(8)?;
    if elements == 0 {
        return Some(0);
    }
    let axes = shape.iter().zip(strides);
    axes.map(|(n, stride)| ((n - 1) as u64).checked_mul(*stride as u64))
        .try_fold(offset, |at, step| at.checked_add(step?))?
        .checked_add(1)
}

fn axes(tree: &Tree<'_>, tuple: Value, what: &str) -> FileResult<Vec<usize>> {
    let items = tree.items(tuple).filter(|items| items.len() <= AXES);
    let size = |v: &Value| match v {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    let sizes = items.and_then(|items| items.iter().map(size).collect());
    sizes.ok_or_else(|| Fault::damaged(format!("its {what} is not a list of sizes")))
}
