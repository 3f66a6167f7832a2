//! What the operating system says about memory: how much is free, and how much this process has.
//! Linux tells; elsewhere the answer is `None`.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that this process can still take: what the machine has available, or less where a control
/// group limits it.
pub fn available() -> Option<usize> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    [machine, room_of_groups(Path::new("/sys/fs/cgroup"), &groups)].into_iter().flatten().min()
}

/// Bytes of this process in memory now.
pub fn resident() -> Option<usize> {
    status("VmRSS:")
}

/// Most bytes of this process that were in memory at once since it began.
pub fn peak_resident() -> Option<usize> {
    status("VmHWM:")
}

/// As [`peak_resident`], for another process that is still running or has not been waited for.
pub fn peak_resident_of(process: u32) -> Option<usize> {
    kib(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmHWM:")
}

fn status(key: &str) -> Option<usize> {
    kib(&fs::read_to_string("/proc/self/status").ok()?, key)
}

/// The number of a line such as `VmRSS:   1234 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The least room in the control groups of this process, version 2 or 1, mounted at `root`.
/// `groups` is `/proc/self/cgroup`. A container often sees its own group as the root.
fn room_of_groups(root: &Path, groups: &str) -> Option<usize> {
    let mut room = None;
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
        room = within.filter_map(|f| room_of(f, limit, current)).chain(room).min();
    }
    room
}

/// Limit less use; pages of files that were not touched lately make way and do not count as used.
fn room_of(group: &Path, limit: &str, current: &str) -> Option<usize> {
    let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<usize>().ok();
    let (limit, current) = (number(group.join(limit))?, number(group.join(current))?);
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let idle = ["total_inactive_file ", "inactive_file "];
    let idle = idle.iter().find_map(|key| {
        stat.lines().find_map(|line| line.strip_prefix(key))?.trim().parse::<usize>().ok()
    });
    Some(limit.saturating_sub(current.saturating_sub(idle.unwrap_or(0))))
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
    fn control_groups_limit_what_is_available() {
        let dir = tempfile::tempdir().expect("folder");
        let write = |group: &str, files: &[(&str, &str)]| {
            let group = dir.path().join(group);
            fs::create_dir_all(&group).expect("folder");
            files.iter().for_each(|(name, text)| fs::write(group.join(name), text).expect(name));
        };
        let room = |groups: &str| room_of_groups(dir.path(), groups);
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
