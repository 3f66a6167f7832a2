//! Element types.

use half::bf16;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: the working type on the CPU.
    F32,
    /// 64-bit float: gradient checks.
    F64,
    /// 16-bit brain float: storage of frozen weights.
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
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::U8 => "u8",
        })
    }
}

/// A Rust type that can be a tensor's element.
pub trait Element: bytemuck::Pod + Send + Sync {
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

/// A float the arithmetic is written for, as tensor element.
pub trait Float: Element + dressage_kernels::Real {}
impl Float for f32 {}
impl Float for f64 {}

/// Runs `$body` with `$t` bound to f32 or f64 according to a tensor's type; another type is an
/// error of `$op`.
#[macro_export]
macro_rules! floats {
    ($op:expr, $tensor:expr, $t:ident => $body:expr) => {
        match $tensor.dtype() {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            found => Err($crate::EngineError::Type { op: $op, expected: "f32 or f64", found }),
        }
    };
}
