//! The part of cuBLASLt. Descriptors are as in NVIDIA's documentation of cuBLAS; products are
//! computed with plain loops on the host.
//!
//! Matrices are column-major unless a layout says otherwise; element `(i, j)` of a column-major
//! matrix is at `i + j * ld`. `D = epilogue(alpha op(A) op(B) + beta C)` with `op(A)` of `[m, k]`,
//! `op(B)` of `[k, n]`, `C` and `D` of `[m, n]`.

mod arithmetic;
mod attributes;
mod check;
mod entry;
mod heuristic;
mod product;

pub(crate) use product::Product;

use crate::code::{Code, Done, Refused};
use crate::entry::{always, current};
use crate::report_line;
use crate::state::{Driver, Handle, Table};

/// `cublasStatus_t`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub u32);

impl Status {
    pub const SUCCESS: Status = Status(0);
    pub const NOT_INITIALIZED: Status = Status(1);
    pub const INVALID_VALUE: Status = Status(7);
    pub const EXECUTION_FAILED: Status = Status(13);
    pub const NOT_SUPPORTED: Status = Status(15);

    fn name(self) -> &'static str {
        match self {
            Status::SUCCESS => "CUBLAS_STATUS_SUCCESS",
            Status::NOT_INITIALIZED => "CUBLAS_STATUS_NOT_INITIALIZED",
            Status::INVALID_VALUE => "CUBLAS_STATUS_INVALID_VALUE",
            Status::EXECUTION_FAILED => "CUBLAS_STATUS_EXECUTION_FAILED",
            _ => "CUBLAS_STATUS_NOT_SUPPORTED",
        }
    }
}

/// Result of a call; a refusal has a message, and an empty one is not printed.
pub(crate) type Answer<T = ()> = Result<T, (Status, String)>;

pub(crate) fn invalid<T>(why: impl Into<String>) -> Answer<T> {
    Err((Status::INVALID_VALUE, why.into()))
}

pub(crate) fn unsupported<T>(why: impl Into<String>) -> Answer<T> {
    Err((Status::NOT_SUPPORTED, why.into()))
}

/// Supported values of `cudaDataType`.
pub(crate) const F32: u32 = 0;
pub(crate) const BF16: u32 = 14;

/// Returns the bytes of an element.
pub(crate) fn width(kind: u32) -> u64 {
    if kind == BF16 { 2 } else { 4 }
}

/// Object of `cublasLtMatmulDescCreate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Description {
    pub compute: u32,
    pub scale: u32,
    pub pointer_mode: i32,
    /// `cublasOperation_t` of A, B and C.
    pub operation: [i32; 3],
    pub fill_mode: i32,
    pub epilogue: u32,
    pub bias: u64,
    pub bias_stride: i64,
    pub bias_kind: i32,
    pub aux: u64,
    pub aux_ld: i64,
    pub aux_stride: i64,
    pub aux_kind: i32,
}

/// Object of `cublasLtMatrixLayoutCreate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub kind: u32,
    pub order: i32,
    pub rows: u64,
    pub columns: u64,
    pub ld: i64,
    pub batch: i32,
    pub stride: i64,
}

/// Object of `cublasLtMatmulPreferenceCreate`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preference {
    pub workspace: u64,
    /// Guaranteed alignment of A, B, C and D in bytes.
    pub alignment: [u32; 4],
}

/// Descriptors for which an algorithm was chosen.
#[derive(Debug, Clone)]
pub(crate) struct Algorithm {
    pub description: Description,
    pub layouts: [Layout; 4],
    pub alignment: [u32; 4],
    /// Alignment of the bias vector and of the auxiliary matrix.
    pub epilogue_alignment: [u64; 2],
    pub workspace: u64,
}

/// State of the library.
pub(crate) struct Lt {
    pub handles: Table<()>,
    pub products: Table<Description>,
    pub layouts: Table<Layout>,
    pub preferences: Table<Preference>,
    pub algorithms: Vec<Algorithm>,
}

/// The frame of the exported functions.
fn frame(name: &str, body: impl FnOnce(&mut Driver) -> Answer) -> u32 {
    let mut status = Status::SUCCESS;
    always(name, |driver| {
        if !driver.initialised || current() == 0 {
            status = Status::NOT_INITIALIZED;
            report_line(&format!(
                "{name}: {}: no context is current on this thread",
                status.name()
            ));
        } else if let Err((found, why)) = body(driver) {
            status = found;
            if !why.is_empty() {
                report_line(&format!("{name}: {}: {why}", found.name()));
            }
        }
        Ok(())
    });
    status.0
}

/// Converts a refusal of the driver to one of the library.
fn of_driver<T>(done: Done<T>) -> Answer<T> {
    done.map_err(|Refused { code, why }| match code {
        Code::INVALID_VALUE | Code::INVALID_HANDLE | Code::INVALID_CONTEXT => {
            (Status::INVALID_VALUE, why)
        }
        _ if why.is_empty() => (Status::EXECUTION_FAILED, code.name()),
        _ => (Status::EXECUTION_FAILED, why),
    })
}

/// Checks that a handle of the library is alive.
fn handle(driver: &mut Driver, handle: Handle) -> Answer {
    if handle == 0 {
        return Err((Status::NOT_INITIALIZED, "the handle is null".into()));
    }
    of_driver(driver.lt.handles.get(handle)).map(|_| ())
}
