//! Types of the elements of a buffer.

use half::bf16;

use super::backend::Storage;

/// An element that a kernel may read or write.
pub trait Element: bytemuck::Pod + PartialEq + std::fmt::Debug + Send + Sync {}

macro_rules! element {
    ($($t:ty),*) => { $(impl Element for $t {})* };
}

element!(f32, f64, bf16, i32, u32, i64, u64, u8);

mod sealed {
    pub trait Sealed {
        const STORAGE: super::Storage;
    }
}
pub(super) use sealed::Sealed;

/// The storage types of activations; arithmetic on them is f32.
pub trait Float: Element + Sealed {
    /// Suffix of the names of kernels for this type.
    const SUFFIX: &'static str;
    /// Largest relative error of rounding to this type: half a unit in the last place of 1.
    const ROUNDING: f32;
    /// Nearest value of this type.
    fn of(x: f32) -> Self;
    /// The value as f32, exactly.
    fn f32(self) -> f32;
}

impl Sealed for f32 {
    const STORAGE: Storage = Storage::F32;
}

impl Sealed for bf16 {
    const STORAGE: Storage = Storage::Bf16;
}

impl Float for f32 {
    const SUFFIX: &'static str = "_f32";
    const ROUNDING: f32 = f32::EPSILON / 2.0;
    fn of(x: f32) -> f32 {
        x
    }
    fn f32(self) -> f32 {
        self
    }
}

impl Float for bf16 {
    const SUFFIX: &'static str = "_bf16";
    // Eight bits of significand, the leading one included.
    const ROUNDING: f32 = 1.0 / 256.0;
    fn of(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn f32(self) -> f32 {
        self.to_f32()
    }
}
