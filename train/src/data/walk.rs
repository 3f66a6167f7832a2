//! The files below a folder, each once, whatever links lead to it.
//!
//! Real files are found before links are followed, so a file keeps its own name if a link leads to
//! it as well. A folder is read once, by its real path, so loops of links end. Names that begin
//! with a dot and the folders that systems add are passed over. So are results of `dressage
//! predict` and everything that is not a regular file.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{FileType, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::pictures::is_result;

/// Folders that archives, cameras and file servers add.
const SYSTEM: [&str; 3] = ["__MACOSX", "@eaDir", "$RECYCLE.BIN"];

/// Result of [`walk`].
#[derive(Debug, Default)]
pub struct WalkResult {
    /// Wanted files, sorted. A link that leads nowhere is among them, so that reading it fails.
    pub files: Vec<PathBuf>,
    /// Wanted names that are pipes, sockets or devices.
    pub special: Vec<PathBuf>,
    /// Folders that cannot be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Links to files or folders that were already found.
    pub repeated: usize,
    /// Hidden files and folders.
    pub hidden: usize,
    /// Results of `dressage predict`.
    pub results: usize,
}

/// Finds the files below `folder` whose path is `wanted`, at most `depth` folders deep. Depth 1 is
/// the folder itself.
pub fn walk(folder: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool) -> WalkResult {
    let mut walk = Walk { depth, wanted, ..Walk::new(folder) };
    loop {
        if let Some((folder, depth)) = walk.folders.pop() {
            walk.read(folder, depth);
        } else if let Some((link, depth)) = walk.links.pop_first() {
            walk.follow(link, depth);
        } else {
            break;
        }
    }
    let mut found = walk.found;
    found.files.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    found.special.sort();
    found
}

struct Walk<'a> {
    depth: usize,
    wanted: &'a dyn Fn(&Path) -> bool,
    /// Real path of the folder where the walk began.
    root: PathBuf,
    /// Folders to read, with their depth.
    folders: Vec<(PathBuf, usize)>,
    /// Links to follow once no real folder is left.
    links: BTreeSet<(PathBuf, usize)>,
    /// Real paths of folders and of wanted files.
    seen: HashSet<PathBuf>,
    found: WalkResult,
}

impl Walk<'_> {
    fn new(folder: &Path) -> Self {
        Self {
            depth: 0,
            wanted: &|_| true,
            root: folder.canonicalize().unwrap_or_default(),
            folders: vec![(folder.into(), 1)],
            links: BTreeSet::new(),
            seen: HashSet::new(),
            found: WalkResult::default(),
        }
    }

    fn read(&mut self, folder: PathBuf, depth: usize) {
        let entries =
            folder.canonicalize().and_then(|real| Ok((std::fs::read_dir(&folder)?, real)));
        let (entries, real) = match entries {
            Ok(found) => found,
            Err(error) => return self.found.unreadable.push((folder, error)),
        };
        if !self.seen.insert(real.clone()) {
            self.found.repeated += 1;
            return;
        }
        for entry in entries {
            let kind = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
            let (path, kind) = match kind {
                Ok(found) => found,
                Err(error) => {
                    self.found.unreadable.push((folder.clone(), error));
                    continue;
                }
            };
            let name = path.file_name().unwrap_or_default();
            if is_hidden(name) {
                self.found.hidden += 1;
            } else if kind.is_symlink() {
                self.links.insert((path, depth));
            } else if kind.is_dir() {
                self.enter(path, depth);
            } else if (self.wanted)(&path) {
                let real = real.join(name);
                self.take(path, real, kind);
            }
        }
    }

    fn enter(&mut self, folder: PathBuf, depth: usize) {
        if depth < self.depth {
            self.folders.push((folder, depth + 1));
        }
    }

    fn follow(&mut self, link: PathBuf, depth: usize) {
        let target = link.metadata().and_then(|meta| Ok((meta.file_type(), link.canonicalize()?)));
        match target {
            // A folder that contains the first one would repeat its content, and everything around
            // it.
            Ok((kind, real)) if kind.is_dir() => match self.root.starts_with(&real) {
                true => self.found.repeated += 1,
                false => self.enter(link, depth),
            },
            Ok((kind, real)) if (self.wanted)(&link) => self.take(link, real, kind),
            Err(_) if (self.wanted)(&link) => self.found.files.push(link),
            _ => {}
        }
    }

    fn take(&mut self, path: PathBuf, real: PathBuf, kind: FileType) {
        if !kind.is_file() {
            self.found.special.push(path);
        } else if is_result(&path) {
            self.found.results += 1;
        } else if self.seen.insert(real) {
            self.found.files.push(path);
        } else {
            self.found.repeated += 1;
        }
    }
}

impl WalkResult {
    /// Describes the entries that were passed over: special files by name, links and results by
    /// number. `None` if there were none.
    pub fn passed_over(&self) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(first) = self.special.first() {
            let more = match self.special.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            parts.push(format!("{}{more} (not a regular file)", first.display()));
        }
        let mut count = |n: usize, one: &str, many: &str| {
            if n > 0 {
                parts.push(format!("{n} {}", if n == 1 { one } else { many }));
            }
        };
        count(
            self.repeated,
            "link to a place that is already searched",
            "links to places that are already searched",
        );
        count(self.results, "earlier result", "earlier results");
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Whether a name is hidden, or that of a folder that a system adds.
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || SYSTEM.iter().any(|known| name == *known)
}

/// Description of a path that is not a regular file.
pub fn special(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Some("a pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
