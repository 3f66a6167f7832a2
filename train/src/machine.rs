//! Memory as the operating system reports it: free memory, and memory of this process. Linux
//! reports it; elsewhere the answer is `None`.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use serde::Serialize;

use crate::plan::mib;

/// Limit on the memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Limit {
    /// Free memory of the machine.
    Machine,
    /// Limit of a control group in bytes.
    Group(usize),
    /// Limit of address space in bytes (`ulimit -v`).
    AddressSpace(usize),
    /// Limit of writable memory in bytes (`ulimit -d`).
    Data(usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Limit::Machine => f.write_str("in the memory of this machine"),
            Limit::Group(bytes) => write!(f, "within the control group's limit of {}", mib(bytes)),
            Limit::AddressSpace(bytes) => {
                write!(f, "within the limit of {} of address space (ulimit -v)", mib(bytes))
            }
            Limit::Data(bytes) => {
                write!(f, "within the limit of {} of data (ulimit -d)", mib(bytes))
            }
        }
    }
}

/// Memory that this process can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: usize,
    /// Limit that these bytes come from.
    pub limit: Limit,
}

/// Address space that is left for the stacks of threads and the allocator.
const SPARE: usize = 16 << 20;

/// Smallest room of all limits of this process.
pub fn room() -> Option<Room> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kib(&text, "MemAvailable:"));
    let machine = machine.map(|bytes| Room { bytes, limit: Limit::Machine });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = room_of_groups(Path::new("/sys/fs/cgroup"), &groups);
    let [space, data] = rooms_of_process();
    [machine, group, space, data].into_iter().flatten().min_by_key(|room| room.bytes)
}

/// Room within the resource limits of the process.
fn rooms_of_process() -> [Option<Room>; 2] {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let room = |(limit, spare): (Option<usize>, usize), key, of: fn(usize) -> Limit| {
        let limit = limit?;
        let bytes = limit.saturating_sub(kib(&text, key)?).saturating_sub(spare);
        Some(Room { bytes, limit: of(limit) })
    };
    let [space, data] = limits();
    [room((space, SPARE), "VmSize:", Limit::AddressSpace), room((data, 0), "VmData:", Limit::Data)]
}

/// Limits of address space and data, in bytes.
#[cfg(unix)]
pub fn limits() -> [Option<usize>; 2] {
    use rustix::process::{Resource, getrlimit};
    [Resource::As, Resource::Data]
        .map(|what| getrlimit(what).current.and_then(|bytes| usize::try_from(bytes).ok()))
}

/// Limits of address space and data: unknown on this system.
#[cfg(not(unix))]
pub fn limits() -> [Option<usize>; 2] {
    [None; 2]
}

/// Bytes that this process can still take. This is what the machine has available, or less if a
/// control group or a limit of the process is smaller.
pub fn available() -> Option<usize> {
    room().map(|room| room.bytes)
}

/// Most threads per core: more of them only wait for each other.
const PER_CORE: usize = 8;

/// Number of threads to start if `wanted` are requested: at most a few per core.
pub fn threads(wanted: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if wanted == 0 { cores } else { wanted.min(PER_CORE * cores) }
}

/// Resident bytes of this process.
pub fn resident() -> Option<usize> {
    status("VmRSS:")
}

/// Peak resident bytes of this process.
pub fn peak_resident() -> Option<usize> {
    status("VmHWM:")
}

/// Peak resident bytes of another process that is still running or has not been waited for.
pub fn peak_resident_of(process: u32) -> Option<usize> {
    kib(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmHWM:")
}

fn status(key: &str) -> Option<usize> {
    kib(&fs::read_to_string("/proc/self/status").ok()?, key)
}

/// Parses the number of a line such as `VmRSS:   1234 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// Smallest room in the control groups of this process, version 2 or 1, mounted at `root`. `groups`
/// is `/proc/self/cgroup`. A container often sees its own group as the root.
fn room_of_groups(root: &Path, groups: &str) -> Option<Room> {
    let mut room: Option<Room> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let old = controllers.split(',').any(|c| c == "memory");
        let [base, limit, current] = match (controllers.is_empty(), old) {
            (true, _) => ["", "memory.max", "memory.current"],
            (_, true) => ["memory", "memory.limit_in_bytes", "memory.usage_in_bytes"],
            _ => continue,
        };
        let base = root.join(base);
        let folder = base.join(path.trim_start_matches('/'));
        let within = folder.ancestors().take_while(|f| f.starts_with(&base));
        let rooms = within.filter_map(|f| room_of(f, limit, current)).chain(room);
        room = rooms.min_by_key(|room| room.bytes);
    }
    room
}

/// Limit less use. Inactive pages of files can be reclaimed and do not count as used.
fn room_of(group: &Path, limit: &str, current: &str) -> Option<Room> {
    let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<usize>().ok();
    let (limit, current) = (number(group.join(limit))?, number(group.join(current))?);
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let idle = ["total_inactive_file ", "inactive_file "];
    let idle = idle.iter().find_map(|key| {
        stat.lines().find_map(|line| line.strip_prefix(key))?.trim().parse::<usize>().ok()
    });
    let bytes = limit.saturating_sub(current.saturating_sub(idle.unwrap_or(0)));
    Some(Room { bytes, limit: Limit::Group(limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let text = "VmPeak:\t  200 kB\nVmHWM:\t     123 kB\nVmRSS: 7 kB\n";
        assert_eq!(kib(text, "VmHWM:"), Some(123 * 1024));
        assert_eq!((kib(text, "VmRSS:"), kib(text, "VmSwap:")), (Some(7 * 1024), None));
        if cfg!(target_os = "linux") {
            let (now, peak) = (resident().expect("VmRSS"), peak_resident().expect("VmHWM"));
            assert!(now > 100 << 10 && peak >= now / 2, "{now} {peak}");
            assert!(available().expect("MemAvailable") > 1 << 20);
        }
    }

    #[test]
    fn threads_are_no_more_than_the_cores_can_use() {
        let cores = threads(0);
        assert_eq!((threads(1), threads(usize::MAX)), (1, PER_CORE * cores));
        assert_eq!(threads(cores + 1), cores + 1);
    }

    #[test]
    fn control_groups_limit_what_is_available() {
        let dir = tempfile::tempdir().expect("folder");
        let write = |group: &str, files: &[(&str, &str)]| {
            let group = dir.path().join(group);
            fs::create_dir_all(&group).expect("folder");
            files.iter().for_each(|(name, text)| fs::write(group.join(name), text).expect(name));
        };
        let room = |groups: &str| {
            let room = room_of_groups(dir.path(), groups)?;
            assert!(matches!(room.limit, Limit::Group(1000 | 90)), "{room:?}");
            Some(room.bytes)
        };
        assert_eq!(room("0::/\n"), None);
        write("a/b", &[("memory.max", "max\n"), ("memory.current", "10\n")]);
        assert_eq!(room("0::/a/b\n"), None, "no limit");
        write("a", &[("memory.max", "1000\n"), ("memory.current", "700\n")]);
        write("a", &[("memory.stat", "anon 400\ninactive_file 300\n")]);
        assert_eq!(room("0::/a/b\n"), Some(600), "that of a parent");
        write("memory/x", &[("memory.limit_in_bytes", "90"), ("memory.usage_in_bytes", "100")]);
        assert_eq!(room("5:cpu,memory:/x\n0::/a/b\n"), Some(0), "version 1 is full");
    }
}
