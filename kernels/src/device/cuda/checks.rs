//! Conditions for opening a GPU: its driver, its age, the environment.

use cudarc::driver::sys;

use super::error::words;
use crate::{KernelError, Result};

/// Oldest CUDA version of a driver: that of PTX 8.0, the version of the kernels.
const VERSION: i32 = 12_000;

/// Lowest compute capability of a GPU: the target of the PTX.
const CAPABILITY: (u32, u32) = (8, 0);

/// Environment variables that make NVIDIA's libraries round the operands of products in f32. They
/// do so whatever a program requests. Unset, empty and 0 leave products alone.
const ROUNDING: [&str; 2] = ["NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"];

/// Fails if a library was not found, since its bindings would panic.
pub(in crate::device) fn present(name: &str, found: bool) -> Result<()> {
    let what = format!(
        "the library {name} was not found on the loader's path (LD_LIBRARY_PATH has to be set \
         before the program starts)"
    );
    if found { Ok(()) } else { Err(KernelError::NoDevice(what)) }
}

/// Fails if the environment makes products in f32 inexact.
pub(in crate::device) fn exact(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let set = |name: &&str| variable(name).filter(|value| !["", "0"].contains(&value.trim()));
    match ROUNDING.iter().find_map(|name| Some((name, set(name)?))) {
        None => Ok(()),
        Some((name, value)) => Err(KernelError::NoDevice(format!(
            "the environment sets {name}={value}, with which cuBLASLt rounds the operands of \
             products in f32; unset it, or set it to 0"
        ))),
    }
}

/// Fails for a GPU that is too old for the kernels.
pub(in crate::device) fn capable(name: &str, compute: (u32, u32)) -> Result<()> {
    if compute >= CAPABILITY {
        return Ok(());
    }
    let ((major, minor), (needed, point)) = (compute, CAPABILITY);
    Err(KernelError::NoDevice(format!(
        "{name} has compute capability {major}.{minor}; the kernels need {needed}.{point} or newer \
         (Ampere, 2020)"
    )))
}

/// Returns the version of the driver. Fails for one that is too old for the kernels or for the
/// functions that are called here.
pub(in crate::device) fn recent() -> Result<i32> {
    let mut version = 0;
    // SAFETY: every driver has this function, and it needs no initialisation.
    unsafe { sys::cuDriverGetVersion(&mut version).result() }
        .map_err(|error| KernelError::NoDevice(words(error)))?;
    if version < VERSION {
        return Err(KernelError::NoDevice(format!(
            "the NVIDIA driver {}is of CUDA {}.{} and too old: 525 or newer (CUDA 12.0) is needed",
            crate::device::probe::kernel_module()
                .map_or(String::new(), |module| format!("{module} ")),
            version / 1000,
            version % 1000 / 10
        )));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_rounds_products_is_refused_by_name() {
        let with = |value: Option<&str>| {
            exact(|name| value.filter(|_| name == ROUNDING[0]).map(str::to_owned))
        };
        for harmless in [None, Some(""), Some("0"), Some(" 0 ")] {
            assert_eq!(with(harmless), Ok(()), "{harmless:?}");
        }
        for rounding in ["1", "2", "on", "00x"] {
            let text = with(Some(rounding)).unwrap_err().to_string();
            assert!(text.contains(&format!("{}={rounding}", ROUNDING[0])), "{text}");
        }
    }

    #[test]
    fn gpus_before_8_0_are_refused_by_name() {
        for compute in [(8, 0), (8, 6), (9, 0), (12, 0)] {
            assert_eq!(capable("X", compute), Ok(()));
        }
        for compute in [(7, 5), (7, 0), (6, 1)] {
            let text = capable("Tesla X", compute).unwrap_err().to_string();
            assert!(text.contains("Tesla X") && text.contains("need 8.0"), "{text}");
        }
    }
}
