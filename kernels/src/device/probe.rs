//! What there is on this machine: the libraries of CUDA and its GPUs, for reports.
//!
//! Nothing here needs a device to be open, and nothing panics where something is missing: libraries
//! are looked for before a call is made into them.

use std::path::PathBuf;

use cudarc::cublaslt::sys as lt;
use cudarc::driver::{result as driver, sys};

use super::cuda::present;
use super::cuda_error::words;
use crate::{KernelError, Result};

/// A library that is opened at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// What it is.
    pub name: &'static str,
    /// Version, as it tells itself; `None` if it was not found.
    pub version: Option<String>,
    /// File it was loaded from, where the system tells.
    pub path: Option<PathBuf>,
    /// File names that were tried, in this order, on the loader's path.
    pub looked_for: Vec<String>,
}

/// A GPU, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Number, counted from 0.
    pub ordinal: usize,
    /// What it is sold as.
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
    /// Bits of the way to the memory.
    pub bus: Option<u32>,
    /// Bytes of the second cache.
    pub l2: Option<u32>,
}

/// Looks for the driver and for cuBLASLt.
pub fn libraries() -> [Library; 2] {
    let candidates = |names: &[&str]| {
        names.iter().flat_map(|name| cudarc::get_lib_name_candidates(name)).collect()
    };
    // SAFETY: tries to load the libraries, nothing else; loading runs their initialisers only.
    let (driver_found, lt_found) = unsafe { (sys::is_culib_present(), lt::is_culib_present()) };
    [
        Library {
            name: "CUDA driver",
            version: driver_found.then(driver_version),
            path: loaded("libcuda.so").filter(|_| driver_found),
            looked_for: candidates(&["cuda", "nvcuda"]),
        },
        Library {
            name: "cuBLASLt",
            version: lt_found.then(cublaslt_version),
            path: loaded("libcublasLt.so").filter(|_| lt_found),
            looked_for: candidates(&["cublasLt"]),
        },
    ]
}

/// `CUDA 13.0` with the version of the kernel's module. Only where the library is present.
fn driver_version() -> String {
    let mut version = 0;
    // SAFETY: the library is present; the call needs no initialisation and writes one number.
    let found = unsafe { sys::cuDriverGetVersion(&mut version) };
    let mut text = match found {
        sys::CUresult::CUDA_SUCCESS => format!("CUDA {}.{}", version / 1000, version % 1000 / 10),
        _ => "unknown".to_owned(),
    };
    if let Ok(module) = std::fs::read_to_string("/sys/module/nvidia/version") {
        text += &format!(", driver {}", module.trim());
    }
    text
}

/// Only where the library is present.
fn cublaslt_version() -> String {
    // SAFETY: the library is present; the call takes nothing and needs no context.
    let version = unsafe { lt::cublasLtGetVersion() };
    dotted(version)
}

/// Versions are written with two digits for each of the last two parts from 12 on, and were with
/// three digits together before.
fn dotted(version: usize) -> String {
    let [major, minor] = if version >= 100_000 { [10_000, 100] } else { [1000, 100] };
    format!("{}.{}.{}", version / major, version % major / minor, version % minor)
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
    // SAFETY: tries to load the library, nothing else.
    present("libcuda.so of the NVIDIA driver", unsafe { sys::is_culib_present() })?;
    let none = |error| KernelError::NoDevice(words(error));
    driver::init().map_err(none)?;
    let count = driver::device::get_count().map_err(none)?;
    (0..count).map(|number| gpu(number).map_err(none)).collect()
}

fn gpu(number: i32) -> std::result::Result<Gpu, driver::DriverError> {
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

/// Version of the PTX that is embedded, such as `8.0`: drivers that know an older one only refuse
/// it.
pub fn ptx_version() -> &'static str {
    let lines = include_str!("../../ptx/add.ptx").lines();
    lines.filter_map(|line| line.strip_prefix(".version ")).map(str::trim).next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(dotted(130_103), "13.1.3");
        assert_eq!(dotted(120_000), "12.0.0");
        assert_eq!(dotted(11_805), "11.8.5");
        assert_eq!(ptx_version(), "8.0");
    }

    #[test]
    fn what_is_missing_is_told() {
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
    }
}
