//! Errors of the driver, in words.

use std::ffi::CStr;

use cudarc::driver::{DriverError, sys};

use crate::KernelError;
use crate::device::Kernel;

/// Description of an error by the driver. Only for errors that the driver itself returned, since
/// the driver is asked for the text.
pub(in crate::device) fn words(error: DriverError) -> String {
    let text = |found: std::result::Result<&CStr, DriverError>| {
        found.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// Whether the error is of a kernel that ran earlier. Kernels run asynchronously, so the first call
/// after the failure reports it, and every call after that.
pub(in crate::device) fn is_of_a_kernel(error: DriverError) -> bool {
    use sys::CUresult as Is;
    matches!(
        error.0,
        Is::CUDA_ERROR_ECC_UNCORRECTABLE
            | Is::CUDA_ERROR_CONTAINED
            | Is::CUDA_ERROR_ILLEGAL_ADDRESS
            | Is::CUDA_ERROR_LAUNCH_TIMEOUT
            | Is::CUDA_ERROR_ASSERT
            | Is::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Is::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Is::CUDA_ERROR_MISALIGNED_ADDRESS
            | Is::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Is::CUDA_ERROR_INVALID_PC
            | Is::CUDA_ERROR_LAUNCH_FAILED
    )
}

/// The error of a kernel that ran earlier; `latest` was launched last.
pub(in crate::device) fn of_a_kernel(
    device: &str,
    error: DriverError,
    latest: Option<&Kernel>,
) -> KernelError {
    let latest = latest.map_or("none yet".into(), Kernel::full_name);
    let what = format!(
        "a kernel failed, the last one launched ({latest}) or an earlier one: {}; this process can \
         no longer use the device; CUDA_LAUNCH_BLOCKING=1 shows which kernel it was",
        words(error)
    );
    KernelError::Device { device: device.into(), action: "continue", what }
}
