//! CUDA libraries and GPUs of this machine, for reports.
//!
//! Nothing here needs an open device, and nothing panics where something is missing: a library is
//! looked for before any call into it.

use std::path::{Path, PathBuf};

use cudarc::driver::{result as driver, sys};

use super::cuda::checks::present;
use super::cuda::error::words;
use super::cuda::library_search::Search;
use super::nvtx;
use crate::{KernelError, Result};

/// A library that is opened at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Name of the library.
    pub name: &'static str,
    /// Version, as the library reports it; `None` if no usable one was found.
    pub version: Option<String>,
    /// File it was loaded from, where the system reports it.
    pub path: Option<PathBuf>,
    /// File names on the loader's path, then folders, in the order in which they were tried.
    pub looked_for: Vec<String>,
    /// Libraries that were found but are unusable, with the reason.
    pub passed_over: Vec<String>,
    /// Functions that are missing without it.
    pub without: &'static str,
}

/// A GPU, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Number, counted from 0.
    pub ordinal: usize,
    /// Name of the product.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub compute: (u32, u32),
    /// Bytes of memory.
    pub memory: usize,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Highest clock of the multiprocessors in MHz.
    pub clock: Option<u32>,
    /// Highest clock of the memory in MHz.
    pub memory_clock: Option<u32>,
    /// Width of the memory bus in bits.
    pub bus: Option<u32>,
    /// Bytes of the L2 cache.
    pub l2: Option<u32>,
}

/// Looks for the driver, for cuBLASLt and for NVTX.
pub fn libraries() -> [Library; 3] {
    let candidates = |names: &[&str]| {
        names.iter().flat_map(|name| cudarc::get_lib_name_candidates(name)).collect()
    };
    // SAFETY: only tries to load the library; loading runs its initialisers only.
    let found = unsafe { sys::is_culib_present() };
    let driver = Library {
        name: "CUDA driver",
        version: found.then(driver_version),
        path: loaded("libcuda.so").filter(|_| found),
        looked_for: candidates(&["cuda", "nvcuda"]),
        passed_over: Vec::new(),
        without: "no GPU can be used",
    };
    let mut search = Search::new(found.then(driver_number).flatten());
    let library = search.next();
    let products = Library {
        name: "cuBLASLt",
        version: library.map(|library| library.dotted()),
        path: library.map(|library| library.path.clone()),
        looked_for: search.looked_for(),
        passed_over: search.passed_over,
        without: "no GPU can be used",
    };
    let found = nvtx::load();
    let ranges = Library {
        name: "NVTX",
        version: found.then(|| "found".to_owned()),
        path: loaded("libnvToolsExt").filter(|_| found),
        looked_for: candidates(&["nvToolsExt"]),
        passed_over: Vec::new(),
        without: "profilers do not show the parts of the network (CUDA 13 dropped it)",
    };
    [driver, products, ranges]
}

/// CUDA version of the driver, as the driver reports it. Only where the library is present.
fn driver_number() -> Option<i32> {
    let mut version = 0;
    // SAFETY: the library is present; the call needs no initialisation and writes one number.
    let found = unsafe { sys::cuDriverGetVersion(&mut version) };
    (found == sys::CUresult::CUDA_SUCCESS).then_some(version)
}

/// Version of the driver's kernel module, where the system reports it.
pub(super) fn kernel_module() -> Option<String> {
    let version = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(version.trim().to_owned())
}

/// Names of the NVIDIA GPUs in this machine, as far as the system reports them without CUDA.
pub fn installed() -> Vec<String> {
    installed_in(Path::new("/"))
}

fn installed_in(root: &Path) -> Vec<String> {
    let entries = |path: &str| std::fs::read_dir(root.join(path)).into_iter().flatten().flatten();
    let named = entries("proc/driver/nvidia/gpus").filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    });
    let named: Vec<String> = named.collect();
    if !named.is_empty() {
        return named;
    }
    // Without NVIDIA's driver: NVIDIA's display controllers (class 3) on the bus.
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    entries("sys/bus/pci/devices")
        .filter(|entry| read(entry.path().join("vendor")).trim() == "0x10de")
        .filter(|entry| read(entry.path().join("class")).starts_with("0x03"))
        .map(|entry| format!("NVIDIA GPU at {}", entry.file_name().to_string_lossy()))
        .collect()
}

/// `CUDA 13.0` with the version of the kernel module. Only where the library is present.
pub(super) fn driver_version() -> String {
    let mut text = match driver_number() {
        Some(version) => format!("CUDA {}.{}", version / 1000, version % 1000 / 10),
        None => "unknown".to_owned(),
    };
    if let Some(module) = kernel_module() {
        text += &format!(", driver {module}");
    }
    text
}

/// The file whose code is mapped at this address of the process.
pub(super) fn mapped(address: usize) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(from, to)| [from, to].map(|end| usize::from_str_radix(end, 16)));
        matches!(ends, Some([Ok(from), Ok(to)]) if (from..to).contains(&address))
    })?;
    line.find('/').map(|at| PathBuf::from(&line[at..]))
}

/// The file of a library that this process has loaded.
fn loaded(prefix: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    files.into_iter().find(named)
}

/// All GPUs.
///
/// # Errors
/// [`KernelError::NoDevice`] with what was looked for.
pub fn gpus() -> Result<Vec<Gpu>> {
    // SAFETY: only tries to load the library.
    present("libcuda.so of the NVIDIA driver", unsafe { sys::is_culib_present() })?;
    let none = |error| KernelError::NoDevice(words(error));
    driver::init().map_err(none)?;
    let count = driver::device::get_count().map_err(none)?;
    (0..count).map(|number| gpu(number).map_err(none)).collect()
}

/// The GPU of this number. Only after the driver was initialised.
pub(super) fn gpu(number: i32) -> std::result::Result<Gpu, driver::DriverError> {
    use sys::CUdevice_attribute as Of;
    let device = driver::device::get(number)?;
    // SAFETY: the device was just returned by the driver.
    let attribute = |which| unsafe { driver::device::get_attribute(device, which) };
    let size = |which| attribute(which).map(|value| value.unsigned_abs());
    let khz = |which| size(which).ok().filter(|&khz| khz > 0).map(|khz| khz / 1000);
    Ok(Gpu {
        ordinal: number.unsigned_abs() as usize,
        name: driver::device::get_name(device)?,
        compute: (
            size(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            size(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: as above.
        memory: unsafe { driver::device::total_mem(device) }?,
        multiprocessors: size(Of::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        clock: khz(Of::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        memory_clock: khz(Of::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
        bus: size(Of::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH).ok(),
        l2: size(Of::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).ok(),
    })
}

/// Version of the embedded PTX, such as `8.0`. Drivers that know only older versions refuse it.
pub fn ptx_version() -> &'static str {
    let lines = include_str!("../../ptx/add.ptx").lines();
    lines.filter_map(|line| line.strip_prefix(".version ")).map(str::trim).next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_ptx_is_read() {
        assert_eq!(ptx_version(), "8.0");
    }

    #[test]
    fn what_is_missing_is_reported() {
        for library in libraries() {
            assert!(library.looked_for.iter().any(|name| name.contains(".so")), "{library:?}");
            assert!(library.path.is_none() || library.version.is_some(), "{library:?}");
        }
        match gpus() {
            Ok(all) => assert!(all.iter().all(|gpu| gpu.memory > 0 && gpu.compute.0 > 0)),
            Err(error) => assert!(error.to_string().starts_with("no CUDA device: "), "{error}"),
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_loaded_library_is_found() {
        assert!(loaded("libc.so").is_some_and(|path| path.is_absolute()));
        assert_eq!(loaded("libnothing.so"), None);
        let here = mapped(a_loaded_library_is_found as fn() as usize);
        assert_eq!(here, std::env::current_exe().ok());
        assert_eq!(mapped(0), None);
    }

    #[cfg(unix)]
    #[test]
    fn gpus_are_seen_without_a_driver() {
        let root = std::env::temp_dir().join(format!("probe-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(installed_in(&root).is_empty());
        for (bus, vendor, class) in [
            ("01", "0x10de", "0x030200"),
            ("02", "0x10de", "0x040300"),
            ("03", "0x8086", "0x030000"),
        ] {
            write(&format!("sys/bus/pci/devices/{bus}/vendor"), &format!("{vendor}\n"));
            write(&format!("sys/bus/pci/devices/{bus}/class"), &format!("{class}\n"));
        }
        assert_eq!(installed_in(&root), ["NVIDIA GPU at 01"]);
        let information = "Model: \t\t NVIDIA H100\nIRQ: 1\n";
        write("proc/driver/nvidia/gpus/0000:01:00.0/information", information);
        assert_eq!(installed_in(&root), ["NVIDIA H100"]);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
