//! Cache of facts about the files of a folder, which makes the next check quick.
//!
//! Each folder has one file below `$XDG_CACHE_HOME/dressage` or `~/.cache/dressage`. An entry is
//! valid as long as length and modification time of its file stay the same. It stores the content
//! of a file and not its meaning, so tables of ids may change. A cache that is damaged or cannot be
//! written costs time and nothing else.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::facts::ImageFacts;
use crate::data::LabelFacts;
use crate::files;

/// Version of the format of entries.
const FORM: u32 = 2;

/// Age below which files are not cached: they may change again within the resolution of the clock.
const YOUNG: Duration = Duration::from_secs(2);

/// Facts about a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Facts {
    Image(ImageFacts),
    Label(LabelFacts),
}

/// Length of a file and its modification time in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    length: u64,
    changed: u64,
}

/// Entries of one folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cache {
    form: u32,
    folder: PathBuf,
    entries: HashMap<String, (Stamp, Facts)>,
    #[serde(skip)]
    file: Option<PathBuf>,
    #[serde(skip)]
    grown: bool,
}

impl Cache {
    /// Opens the cache of the files of a `kind` below `folder` among those in `caches`. It is empty
    /// if none can be read.
    pub fn open(caches: Option<&Path>, folder: &Path, kind: &str) -> Cache {
        let mut hasher = DefaultHasher::new();
        folder.hash(&mut hasher);
        let file = caches.map(|dir| dir.join(format!("{kind}-{:016x}.json", hasher.finish())));
        let read = || -> Option<Cache> {
            let bytes = std::fs::read(file.as_ref()?).ok()?;
            let cache: Cache = serde_json::from_slice(&bytes).ok()?;
            (cache.form == FORM && cache.folder == folder).then_some(cache)
        };
        let empty = || Cache {
            form: FORM,
            folder: folder.into(),
            entries: HashMap::new(),
            file: None,
            grown: false,
        };
        let cache = read().unwrap_or_else(empty);
        Cache { file, ..cache }
    }

    /// Facts about `path`, if the file is unchanged.
    pub fn get(&self, path: &Path, stamp: Stamp) -> Option<&Facts> {
        let (known, facts) = self.entries.get(path.to_str()?)?;
        (*known == stamp).then_some(facts)
    }

    /// Adds facts about `path`, unless the file is young or its name is not Unicode.
    pub fn add(&mut self, path: &Path, stamp: Stamp, facts: Facts) {
        let now = nanoseconds(SystemTime::now());
        let young = now.saturating_sub(stamp.changed) < YOUNG.as_nanos() as u64;
        let Some(path) = path.to_str().filter(|_| !young) else { return };
        self.entries.insert(path.to_owned(), (stamp, facts));
        self.grown = true;
    }

    /// Writes the cache if it has grown.
    pub fn store(&self) {
        let Some(file) = self.file.as_ref().filter(|_| self.grown) else { return };
        if let Ok(bytes) = serde_json::to_vec(self) {
            // Without it, the next check only takes longer.
            let _ = files::write_bytes(file, &bytes);
        }
    }
}

impl Stamp {
    /// The current stamp of a file; `None` if it cannot be read.
    pub fn of(path: &Path) -> Option<Stamp> {
        let meta = path.metadata().ok()?;
        Some(Stamp { length: meta.len(), changed: nanoseconds(meta.modified().ok()?) })
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}
