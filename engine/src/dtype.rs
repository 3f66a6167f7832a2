//! Element types.

use half::bf16;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: the working type on the CPU.
    F32,
    /// 64-bit float: gradient checks.
    F64,
    /// 16-bit brain float: storage of frozen weights, and of activations on a device.
    Bf16,
    /// 32-bit signed integer: indices.
    I32,
    /// Byte: labels and masks.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }

    /// Name of the type, as in `f32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::U8 => "u8",
        }
    }

    /// Type of sums over values of this type: statistics and gradients of parameters.
    pub fn of_sums(self) -> DType {
        match self {
            DType::Bf16 => DType::F32,
            other => other,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that can be a tensor's element.
pub trait Element: dressage_kernels::device::Element {
    /// The tag of this type.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

/// A float type that the host arithmetic supports, as tensor element.
pub trait HostFloat: Element + dressage_kernels::Real {}
impl HostFloat for f32 {}
impl HostFloat for f64 {}

/// Runs `$body` with `$t` bound to f32 or f64, the type of a host tensor. Another type, or a tensor
/// on a device, is an error of `$op`.
#[macro_export]
macro_rules! floats {
    ($op:expr, $tensor:expr, $t:ident => $body:expr) => {
        match ($tensor.device(), $tensor.dtype()) {
            (Some(device), _) => {
                Err($crate::EngineError::NoDeviceForm { op: $op, device: device.name() })
            }
            (None, $crate::DType::F32) => {
                type $t = f32;
                $body
            }
            (None, $crate::DType::F64) => {
                type $t = f64;
                $body
            }
            (None, found) => {
                Err($crate::EngineError::Type { op: $op, expected: "f32 or f64", found })
            }
        }
    };
}

/// Runs the kernel for the place where a tensor is stored. The `host` arm binds `$t` to f32 or f64.
/// The other arm binds `$t` to f32 or bf16 and `$device` to the device. Another type is an error of
/// `$op`.
macro_rules! kernel {
    ($op:expr, $x:expr, $t:ident, host => $host:expr, $device:ident => $launch:expr $(,)?) => {
        match ($x.device(), $x.dtype()) {
            (None, $crate::DType::F32) => {
                #[allow(dead_code)]
                type $t = f32;
                $host.map_err($crate::EngineError::from)
            }
            (None, $crate::DType::F64) => {
                #[allow(dead_code)]
                type $t = f64;
                $host.map_err($crate::EngineError::from)
            }
            (Some($device), $crate::DType::F32) => {
                #[allow(dead_code)]
                type $t = f32;
                $launch.map_err($crate::EngineError::from)
            }
            (Some($device), $crate::DType::Bf16) => {
                #[allow(dead_code)]
                type $t = half::bf16;
                $launch.map_err($crate::EngineError::from)
            }
            (place, found) => {
                let expected = if place.is_some() { "f32 or bf16" } else { "f32 or f64" };
                Err($crate::EngineError::Type { op: $op, expected, found })
            }
        }
    };
}
pub(crate) use kernel;
