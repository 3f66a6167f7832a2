//! Element types of files.

use dressage_engine::DType;

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
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

impl Kind {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 => 8,
            Kind::F32 | Kind::I32 => 4,
            Kind::F16 | Kind::Bf16 | Kind::I16 => 2,
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Kind::F64 | Kind::F32 | Kind::F16 | Kind::Bf16)
    }

    /// The engine's type with the same bytes.
    pub(super) fn engine(self) -> Option<DType> {
        match self {
            Kind::F64 => Some(DType::F64),
            Kind::F32 => Some(DType::F32),
            Kind::Bf16 => Some(DType::Bf16),
            Kind::I32 => Some(DType::I32),
            Kind::U8 | Kind::Bool => Some(DType::U8),
            Kind::F16 | Kind::I64 | Kind::I16 | Kind::I8 => None,
        }
    }
}

impl From<DType> for Kind {
    fn from(dtype: DType) -> Kind {
        match dtype {
            DType::F64 => Kind::F64,
            DType::F32 => Kind::F32,
            DType::Bf16 => Kind::Bf16,
            DType::I32 => Kind::I32,
            DType::U8 => Kind::U8,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::F64 => "f64",
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Bf16 => "bf16",
            Kind::I64 => "i64",
            Kind::I32 => "i32",
            Kind::I16 => "i16",
            Kind::I8 => "i8",
            Kind::U8 => "u8",
            Kind::Bool => "bool",
        })
    }
}
