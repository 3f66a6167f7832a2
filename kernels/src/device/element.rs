//! Types of the elements of a buffer.

use half::bf16;

use super::backend::Storage;

/// An element that a kernel may read or write.
pub trait Element: bytemuck::Pod + Default + PartialEq + std::fmt::Debug + Send + Sync {
    /// Largest relative error of rounding to this type: half a unit in the last place of 1; 0 for
    /// whole numbers.
    const ROUNDING: f32;
    /// Nearest value of this type, for checks that know types at run time only.
    fn from_f64(x: f64) -> Self;
    /// The value as f64; exact up to 53 bits.
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($rounding:expr, $($t:ty),*) => {
        $(impl Element for $t {
            const ROUNDING: f32 = $rounding;
            fn from_f64(x: f64) -> $t {
                x as $t
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
        })*
    };
}

element!(f32::EPSILON / 2.0, f32);
element!((f64::EPSILON / 2.0) as f32, f64);
element!(0.0, i32, u32, i64, u64, u8);

impl Element for bf16 {
    // Eight bits of significand, the leading one included.
    const ROUNDING: f32 = 1.0 / 256.0;
    fn from_f64(x: f64) -> bf16 {
        bf16::from_f32(x as f32)
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

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
    fn of(x: f32) -> f32 {
        x
    }
    fn f32(self) -> f32 {
        self
    }
}

impl Float for bf16 {
    const SUFFIX: &'static str = "_bf16";
    fn of(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn f32(self) -> f32 {
        self.to_f32()
    }
}
