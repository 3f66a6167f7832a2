//! Element types of files.

use dressage_engine::DType;

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScalarType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// 16-bit brain float.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// Truth value, one byte, 0 or 1.
    Bool,
}

impl ScalarType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            ScalarType::F64 | ScalarType::I64 => 8,
            ScalarType::F32 | ScalarType::I32 => 4,
            ScalarType::F16 | ScalarType::Bf16 | ScalarType::I16 => 2,
            ScalarType::I8 | ScalarType::U8 | ScalarType::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, ScalarType::F64 | ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16)
    }

    /// The engine's type with the same bytes.
    pub(super) fn engine(self) -> Option<DType> {
        match self {
            ScalarType::F64 => Some(DType::F64),
            ScalarType::F32 => Some(DType::F32),
            ScalarType::Bf16 => Some(DType::Bf16),
            ScalarType::I32 => Some(DType::I32),
            ScalarType::U8 | ScalarType::Bool => Some(DType::U8),
            ScalarType::F16 | ScalarType::I64 | ScalarType::I16 | ScalarType::I8 => None,
        }
    }
}

impl From<DType> for ScalarType {
    fn from(dtype: DType) -> ScalarType {
        match dtype {
            DType::F64 => ScalarType::F64,
            DType::F32 => ScalarType::F32,
            DType::Bf16 => ScalarType::Bf16,
            DType::I32 => ScalarType::I32,
            DType::U8 => ScalarType::U8,
        }
    }
}

impl std::fmt::Display for ScalarType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ScalarType::F64 => "f64",
            ScalarType::F32 => "f32",
            ScalarType::F16 => "f16",
            ScalarType::Bf16 => "bf16",
            ScalarType::I64 => "i64",
            ScalarType::I32 => "i32",
            ScalarType::I16 => "i16",
            ScalarType::I8 => "i8",
            ScalarType::U8 => "u8",
            ScalarType::Bool => "bool",
        })
    }
}
