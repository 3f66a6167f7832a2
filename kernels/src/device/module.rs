//! Embedded PTX and the kernels in it.

use super::Float;

/// PTX of one operation, embedded in the binary.
///
/// ```text
/// static PTX: Module = Module::new("layer_norm", include_str!("../../ptx/layer_norm.ptx"));
/// let kernel = PTX.kernel_of::<T>("layer_norm_fwd");       // layer_norm_fwd_bf16 for bf16
/// ```
#[derive(Debug)]
pub struct Module {
    name: &'static str,
    text: &'static str,
}

impl Module {
    /// Creates a module of the operation `name` from its PTX; names are unique.
    pub const fn new(name: &'static str, text: &'static str) -> Module {
        Module { name, text }
    }

    /// Name of the operation.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The PTX.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The kernel of this name.
    pub const fn kernel(&'static self, name: &'static str) -> Kernel {
        Kernel { module: self, name, suffix: "" }
    }

    /// The kernel of this name for elements of `T`.
    pub(crate) const fn kernel_of<T: Float>(&'static self, name: &'static str) -> Kernel {
        Kernel { module: self, name, suffix: T::SUFFIX }
    }
}

/// A kernel of a module. Its name is stored in two parts so that a launch creates no string.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    pub(super) module: &'static Module,
    name: &'static str,
    suffix: &'static str,
}

/// Identity of a kernel.
pub(super) type Key = (&'static str, &'static str, &'static str);

impl Kernel {
    pub(super) fn key(&self) -> Key {
        (self.module.name, self.name, self.suffix)
    }

    /// Name in the PTX.
    pub(crate) fn full_name(&self) -> String {
        [self.name, self.suffix].concat()
    }
}
