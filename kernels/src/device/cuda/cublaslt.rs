//! cuBLASLt, loaded at run time from a file that is chosen here.
//!
//! The bindings of `cudarc` load the first file that the loader finds, once per process. Here
//! several can be tried: a library that is too new for the driver is of no use, and that of the
//! Python wheels is not on the loader's path. The types are those of `cudarc`.

use std::ffi::{c_int, c_void};
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys as lt;

/// A status other than success (`cublasStatus_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) struct Status(pub u32);

impl Status {
    pub const INVALID_VALUE: Status = Status(7);
    pub const NOT_SUPPORTED: Status = Status(15);
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            1 => "NOT_INITIALIZED",
            3 => "ALLOC_FAILED",
            7 => "INVALID_VALUE",
            8 => "ARCH_MISMATCH",
            11 => "MAPPING_ERROR",
            13 => "EXECUTION_FAILED",
            14 => "INTERNAL_ERROR",
            15 => "NOT_SUPPORTED",
            16 => "LICENSE_ERROR",
            other => return write!(f, "cuBLASLt status {other}"),
        };
        write!(f, "CUBLAS_STATUS_{name}")
    }
}

pub(in crate::device) type Done<T> = Result<T, Status>;

/// Result of a call, from the status that the library returns.
pub(in crate::device) fn done(status: u32) -> Done<()> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

/// Declares the functions of the library by their names and types.
macro_rules! calls {
    ($($field:ident = $symbol:literal: fn($($kind:ty),*) -> $back:ty;)*) => {
        /// Functions of the library, with the types of `cublasLt.h`.
        pub(in crate::device) struct Calls {
            $(pub $field: unsafe extern "C" fn($($kind),*) -> $back,)*
        }

        impl Calls {
            /// # Safety
            /// The library is a cuBLASLt and is never unloaded.
            unsafe fn of(library: &libloading::Library) -> Result<Calls, libloading::Error> {
                Ok(Calls {
                    // SAFETY: the types are those of the header; the caller guarantees the rest.
                    $($field: *unsafe {
                        library.get::<unsafe extern "C" fn($($kind),*) -> $back>($symbol)?
                    },)*
                })
            }
        }
    };
}

calls! {
    version = b"cublasLtGetVersion\0": fn() -> usize;
    create = b"cublasLtCreate\0": fn(*mut lt::cublasLtHandle_t) -> u32;
    destroy = b"cublasLtDestroy\0": fn(lt::cublasLtHandle_t) -> u32;
    create_product = b"cublasLtMatmulDescCreate\0":
        fn(*mut lt::cublasLtMatmulDesc_t, lt::cublasComputeType_t, lt::cudaDataType) -> u32;
    destroy_product = b"cublasLtMatmulDescDestroy\0": fn(lt::cublasLtMatmulDesc_t) -> u32;
    set_product = b"cublasLtMatmulDescSetAttribute\0": fn(
        lt::cublasLtMatmulDesc_t, lt::cublasLtMatmulDescAttributes_t, *const c_void, usize
    ) -> u32;
    create_layout = b"cublasLtMatrixLayoutCreate\0":
        fn(*mut lt::cublasLtMatrixLayout_t, lt::cudaDataType, u64, u64, i64) -> u32;
    destroy_layout = b"cublasLtMatrixLayoutDestroy\0": fn(lt::cublasLtMatrixLayout_t) -> u32;
    set_layout = b"cublasLtMatrixLayoutSetAttribute\0": fn(
        lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayoutAttribute_t, *const c_void, usize
    ) -> u32;
    create_preference = b"cublasLtMatmulPreferenceCreate\0":
        fn(*mut lt::cublasLtMatmulPreference_t) -> u32;
    destroy_preference = b"cublasLtMatmulPreferenceDestroy\0":
        fn(lt::cublasLtMatmulPreference_t) -> u32;
    set_preference = b"cublasLtMatmulPreferenceSetAttribute\0": fn(
        lt::cublasLtMatmulPreference_t,
        lt::cublasLtMatmulPreferenceAttributes_t,
        *const c_void,
        usize
    ) -> u32;
    choose = b"cublasLtMatmulAlgoGetHeuristic\0": fn(
        lt::cublasLtHandle_t,
        lt::cublasLtMatmulDesc_t,
        lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatmulPreference_t,
        c_int,
        *mut lt::cublasLtMatmulHeuristicResult_t,
        *mut c_int
    ) -> u32;
    multiply = b"cublasLtMatmul\0": fn(
        lt::cublasLtHandle_t,
        lt::cublasLtMatmulDesc_t,
        *const c_void,
        *const c_void,
        lt::cublasLtMatrixLayout_t,
        *const c_void,
        lt::cublasLtMatrixLayout_t,
        *const c_void,
        *const c_void,
        lt::cublasLtMatrixLayout_t,
        *mut c_void,
        lt::cublasLtMatrixLayout_t,
        *const lt::cublasLtMatmulAlgo_t,
        *mut c_void,
        usize,
        lt::cudaStream_t
    ) -> u32;
}

/// A loaded cuBLASLt. It stays loaded until the process ends.
pub(in crate::device) struct Library {
    pub calls: Calls,
    /// File it was loaded from if the system reports it, else the name.
    pub path: PathBuf,
    /// Version as `cublasLtGetVersion` returns it.
    pub version: usize,
}

impl Library {
    /// Loads a file; the system's loader searches for a bare name.
    ///
    /// # Errors
    /// Message of the loader.
    pub fn load(file: &Path) -> Result<&'static Library, String> {
        static LOADED: Mutex<Vec<&'static Library>> = Mutex::new(Vec::new());
        // SAFETY: loading runs the initialisers of the file, which is named as a cuBLASLt.
        let library = unsafe { libloading::Library::new(file) }.map_err(|e| e.to_string())?;
        // SAFETY: the library is leaked below if it is used.
        let calls = unsafe { Calls::of(&library) }.map_err(|e| e.to_string())?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = loaded.iter().find(|known| known.address() == calls.create as usize) {
            return Ok(known);
        }
        // SAFETY: the call takes no arguments and needs no context.
        let version = unsafe { (calls.version)() };
        let mapped = || crate::device::probe::mapped(calls.create as usize);
        let path = if file.is_absolute() { None } else { mapped() };
        let path = path.unwrap_or_else(|| file.to_path_buf());
        std::mem::forget(library);
        let new: &'static Library = Box::leak(Box::new(Library { calls, path, version }));
        loaded.push(new);
        Ok(new)
    }

    /// Identity of a loaded library.
    pub fn address(&self) -> usize {
        self.calls.create as usize
    }

    /// Major CUDA version that the library belongs to.
    pub fn major(&self) -> usize {
        parts(self.version).0
    }

    /// Version such as `13.1.3`.
    pub fn dotted(&self) -> String {
        let (major, minor, patch) = parts(self.version);
        format!("{major}.{minor}.{patch}")
    }
}

/// Splits a version number. From 12 on the last two parts have two digits each; before, they had
/// three digits together.
fn parts(version: usize) -> (usize, usize, usize) {
    let [major, minor] = if version >= 100_000 { [10_000, 100] } else { [1000, 100] };
    (version / major, version % major / minor, version % minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parts(130_103), (13, 1, 3));
        assert_eq!(parts(120_000), (12, 0, 0));
        assert_eq!(parts(11_805), (11, 8, 5));
    }

    #[test]
    fn a_file_that_is_no_library_is_reported() {
        let dir = std::env::temp_dir().join(format!("cublaslt-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("libcublasLt.so.12");
        std::fs::write(&file, "no library").unwrap();
        let Err(why) = Library::load(&file) else { panic!("loaded") };
        assert!(!why.is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(Library::load(Path::new("libcublasLt-of-nobody.so")).is_err());
    }

    #[test]
    fn statuses_have_names() {
        assert_eq!(Status::NOT_SUPPORTED.to_string(), "CUBLAS_STATUS_NOT_SUPPORTED");
        assert_eq!(Status(99).to_string(), "cuBLASLt status 99");
        assert_eq!((done(0), done(7)), (Ok(()), Err(Status::INVALID_VALUE)));
    }
}
