//! Search for cuBLASLt: on the loader's path, in the folders of Python wheels and of CUDA toolkits.
//!
//! A machine with PyTorch often has it only in `site-packages/nvidia/cu13/lib` (wheels of CUDA 13)
//! or `site-packages/nvidia/cublas/lib` (of CUDA 12), where no loader looks.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::cublaslt::Library;
use crate::KernelError;

/// File names, the newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["cublasLt64_13.dll", "cublasLt64_12.dll"]
} else {
    &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]
};

/// The oldest CUDA version whose cuBLASLt is used.
const OLDEST: usize = 12;

/// Environment that decides where libraries are searched.
struct Surroundings<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    root: &'a Path,
}

impl Surroundings<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn paths(&self, name: &str) -> Vec<PathBuf> {
        (self.variable)(name).map_or(Vec::new(), |all| std::env::split_paths(&all).collect())
    }

    /// Folders that may hold the library, in the order of the search.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let mut add = |folder: PathBuf| {
            if folder.is_absolute() && folder.is_dir() && !folders.contains(&folder) {
                folders.push(folder);
            }
        };
        for site in self.sites() {
            let kinds = children(&site.join("nvidia"), "cu");
            kinds.into_iter().filter(|kind| is_wheel(kind)).for_each(|kind| add(kind.join("lib")));
        }
        self.path("CONDA_PREFIX").into_iter().for_each(|prefix| add(prefix.join("lib")));
        let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(|name| self.path(name));
        let local = self.root.join("usr/local");
        let toolkits = children(&local, "cuda").into_iter().chain([self.root.join("opt/cuda")]);
        for toolkit in named.chain(toolkits) {
            add(toolkit.join("lib64"));
            let targets = children(&toolkit.join("targets"), std::env::consts::ARCH);
            targets.into_iter().for_each(|target| add(target.join("lib")));
        }
        folders
    }

    /// Folders of Python packages: of active environments, of the `python3` on the path, and of the
    /// user.
    fn sites(&self) -> Vec<PathBuf> {
        let mut prefixes: Vec<PathBuf> = Vec::new();
        prefixes.extend(self.path("VIRTUAL_ENV"));
        prefixes.extend(self.path("CONDA_PREFIX"));
        let python = |folder: &PathBuf| folder.join("python3").is_file();
        if let Some(bin) = self.paths("PATH").into_iter().find(python) {
            prefixes.extend(bin.parent().map(Path::to_path_buf));
            // The interpreter of an environment is a link to that of its base.
            let base = bin.join("python3").canonicalize().ok();
            prefixes.extend(base.and_then(|base| Some(base.parent()?.parent()?.to_path_buf())));
        }
        let user = || self.path("HOME").map(|home| home.join(".local"));
        prefixes.extend(self.path("PYTHONUSERBASE").or_else(user));
        let mut sites = self.paths("PYTHONPATH");
        for prefix in prefixes {
            for lib in ["lib", "lib64", "local/lib"] {
                for version in children(&prefix.join(lib), "python3") {
                    sites.extend(["site-packages", "dist-packages"].map(|name| version.join(name)));
                }
            }
        }
        sites
    }
}

/// Whether a folder of NVIDIA's packages holds cuBLASLt: `cublas`, or `cu13` and its successors.
fn is_wheel(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let version = name.strip_prefix("cu").unwrap_or_default();
    name == "cublas" || !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
}

/// Folders in `parent` whose names start with `begin`, the highest version first.
fn children(parent: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.starts_with(begin).then(|| (numbers(&name), entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The numbers in a name: `[12, 8]` of `cuda-12.8`.
fn numbers(name: &str) -> Vec<u32> {
    let words = name.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    words.map(|word| word.parse().unwrap_or(u32::MAX)).collect()
}

/// A search that loads one library after the other until one is usable.
pub(in crate::device) struct Search {
    /// CUDA version of the driver, as the driver reports it.
    driver: Option<i32>,
    left: VecDeque<PathBuf>,
    folders: Vec<PathBuf>,
    seen: Vec<usize>,
    /// Libraries that were found but are unusable, with the reason.
    pub passed_over: Vec<String>,
}

impl Search {
    /// Starts a search for a driver of this version.
    pub fn new(driver: Option<i32>) -> Search {
        let variable = |name: &str| std::env::var_os(name);
        let root = Path::new(if cfg!(windows) { "\\" } else { "/" });
        Search::within(driver, Surroundings { variable: &variable, root }.folders())
    }

    fn within(driver: Option<i32>, folders: Vec<PathBuf>) -> Search {
        let mut left: VecDeque<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
        let files = folders.iter().flat_map(|folder| NAMES.iter().map(|name| folder.join(name)));
        left.extend(files.filter(|file| file.is_file()));
        Search { driver, left, folders, seen: Vec::new(), passed_over: Vec::new() }
    }

    /// Records why a library is unusable.
    pub fn pass_over(&mut self, library: &Library, why: &str) {
        self.passed_over.push(format!("{} ({}) {why}", library.path.display(), library.dotted()));
    }

    /// The next library that the driver can use.
    pub fn next(&mut self) -> Option<&'static Library> {
        while let Some(file) = self.left.pop_front() {
            let library = match Library::load(&file) {
                Ok(library) => library,
                Err(why) => {
                    // A bare name that the loader does not know is not reported.
                    if file.is_absolute() {
                        self.passed_over
                            .push(format!("{} cannot be loaded: {why}", file.display()));
                    }
                    continue;
                }
            };
            if self.seen.contains(&library.address()) {
                continue;
            }
            self.seen.push(library.address());
            match unfit(library.major(), self.driver) {
                None => return Some(library),
                Some(why) => self.pass_over(library, &why),
            }
        }
        None
    }

    /// Names and folders of the search, for reports.
    pub fn looked_for(&self) -> Vec<String> {
        let names = NAMES.iter().map(|name| (*name).to_owned());
        names.chain(self.folders.iter().map(|folder| folder.display().to_string())).collect()
    }

    /// The error of a search without a result.
    pub fn nothing(&self) -> KernelError {
        let none = match &self.folders[..] {
            [] => "no folder of Python wheels or of a CUDA toolkit was found".to_owned(),
            [one] => format!("nor in {}", one.display()),
            [first, rest @ ..] => {
                format!("nor in {} and {} more folders", first.display(), rest.len())
            }
        };
        let mut what = format!(
            "the library {} (of CUDA 12 or 13) was not found on the loader's path, {none}; \
             install a CUDA toolkit, or run `pip install nvidia-cublas`",
            NAMES[0]
        );
        if !self.passed_over.is_empty() {
            what = format!("no cuBLASLt that can be used: {}", self.passed_over.join("; "));
        }
        KernelError::NoDevice(what.replace('\n', " "))
    }
}

/// Reason why a library of one CUDA version is unusable with a driver of another.
fn unfit(major: usize, driver: Option<i32>) -> Option<String> {
    if major < OLDEST {
        return Some(format!("is too old: CUDA {OLDEST} or newer is needed"));
    }
    let driver = usize::try_from(driver?).ok()?;
    if major <= driver / 1000 {
        return None;
    }
    let number = match major {
        12 => " (525 or newer)",
        13 => " (580 or newer)",
        _ => "",
    };
    let has = format!("{}.{}", driver / 1000, driver % 1000 / 10);
    Some(format!("needs a driver of CUDA {major}{number}, this one is of CUDA {has}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary folder as the root of a file system; dropping it removes it.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let name = format!("library-search-{name}-{}", std::process::id());
            let root = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&root).unwrap();
            Root(root.canonicalize().unwrap())
        }

        fn folder(&self, path: &str) -> PathBuf {
            let folder = self.0.join(path);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn folders(root: &Root, variables: &[(&str, &Path)]) -> Vec<PathBuf> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        let variable = |name: &str| find(name).map(|(_, value)| value.as_os_str().to_owned());
        Surroundings { variable: &variable, root: &root.0 }.folders()
    }

    #[test]
    fn toolkits_are_found_newest_first() {
        let root = Root::new("toolkits");
        let old = root.folder("usr/local/cuda-12.8/lib64");
        let new = root.folder("usr/local/cuda-12.10/lib64");
        let named = root.folder("elsewhere/lib64");
        let home = root.0.join("elsewhere");
        assert_eq!(folders(&root, &[("CUDA_HOME", &home)]), [named, new, old]);
        assert!(folders(&Root::new("nothing"), &[]).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn wheels_of_every_python_are_found() {
        let root = Root::new("wheels");
        let base = root.folder("base/lib/python3.12/site-packages/nvidia/cublas/lib");
        root.folder("base/lib/python3.12/site-packages/nvidia/cudnn/lib");
        let bin = root.folder("base/bin");
        std::fs::write(bin.join("python3"), "").unwrap();
        let venv = root.folder("venv/lib/python3.12/site-packages/nvidia/cu13/lib");
        let venv_bin = root.folder("venv/bin");
        std::os::unix::fs::symlink(bin.join("python3"), venv_bin.join("python3")).unwrap();
        let user = root.folder("home/.local/lib/python3.11/site-packages/nvidia/cu13/lib");
        let conda = root.folder("conda/lib");
        let debian = root.folder("debian/local/lib/python3.13/dist-packages/nvidia/cublas/lib");
        let debian_bin = root.folder("debian/bin");
        std::fs::write(debian_bin.join("python3"), "").unwrap();
        let home = root.0.join("home");

        // Environment on the path, whose interpreter is a link to that of its base.
        let path = [("PATH", venv_bin.as_path()), ("HOME", &home)];
        assert_eq!(folders(&root, &path), [venv.clone(), base, user]);
        let active = [("VIRTUAL_ENV", root.0.join("venv")), ("CONDA_PREFIX", root.0.join("conda"))];
        let active = active.each_ref().map(|(name, path)| (*name, path.as_path()));
        assert_eq!(folders(&root, &active), [venv, conda]);
        assert_eq!(folders(&root, &[("PATH", &debian_bin)]), [debian]);
        let target = root.folder("target/nvidia/cu13/lib");
        assert_eq!(folders(&root, &[("PYTHONPATH", &root.0.join("target"))]), [target]);
    }

    #[test]
    fn what_the_driver_cannot_use_is_reported_with_the_driver_that_can() {
        assert_eq!(unfit(13, Some(13_000)), None);
        assert_eq!(unfit(12, Some(13_000)), None);
        assert_eq!(unfit(13, None), None);
        let why = unfit(13, Some(12_080)).unwrap();
        assert!(why.contains("580 or newer") && why.contains("CUDA 12.8"), "{why}");
        assert!(unfit(11, Some(13_000)).unwrap().contains("too old"));
    }

    #[test]
    fn damaged_files_are_passed_over() {
        let root = Root::new("damaged");
        let folder = root.folder("lib");
        std::fs::write(folder.join(NAMES[0]), "no library").unwrap();
        let mut search = Search::within(None, vec![folder.clone()]);
        // Libraries that the loader of this machine finds are not part of the test.
        search.left.retain(|file| file.is_absolute());
        assert!(search.next().is_none());
        let text = search.nothing().to_string();
        assert!(text.contains(&folder.display().to_string()), "{text}");
        assert!(text.contains("cannot be loaded") && !text.contains('\n'), "{text}");
    }
}
