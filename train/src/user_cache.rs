//! Cache folder of the user, for results that can be computed again.

use std::ffi::OsString;
use std::path::PathBuf;

/// Folder `dressage` below `XDG_CACHE_HOME`, `~/.cache` or `LOCALAPPDATA`; `None` if none is known.
pub(crate) fn folder() -> Option<PathBuf> {
    folder_by(|name| std::env::var_os(name))
}

fn folder_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    cache.or_else(|| folder("LOCALAPPDATA")).map(|cache| cache.join("dressage"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_folders_count() {
        let of = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
            folder_by(|name| find(name).map(|(_, value)| OsString::from(value)))
        };
        let path = |text: &str| Some(PathBuf::from(text));
        let home = ("HOME", "/home/a");
        assert_eq!(of(&[home]), path("/home/a/.cache/dressage"));
        assert_eq!(of(&[("XDG_CACHE_HOME", "/c"), home]), path("/c/dressage"));
        let relative = ("XDG_CACHE_HOME", "c");
        assert_eq!(of(&[relative, home]), path("/home/a/.cache/dressage"));
        assert_eq!(of(&[]), None);
    }
}
