//! Calls of kernels on tensors, wherever these are.

use dressage_kernels::call::{Gpu, Host, Memory, Operation};
use dressage_kernels::device::{View, ViewMut};

use crate::{Element, Result, Tensor};

/// Memory whose operands come from tensors.
pub(crate) trait Place: Memory {
    /// The elements, for a call to read.
    fn read<T: Element>(x: &Tensor) -> Result<Self::In<'_, T>>;

    /// The elements, for a call to write.
    fn write<T: Element>(x: &mut Tensor) -> Result<Self::Out<'_, T>>;

    /// The elements to read of a tensor that may be left out.
    fn read_if<T: Element>(x: Option<&Tensor>) -> Result<Option<Self::In<'_, T>>> {
        x.map(Self::read).transpose()
    }

    /// The elements to write of a tensor that may be left out.
    fn write_if<T: Element>(x: Option<&mut Tensor>) -> Result<Option<Self::Out<'_, T>>> {
        x.map(Self::write).transpose()
    }
}

impl Place for Host {
    fn read<T: Element>(x: &Tensor) -> Result<&[T]> {
        x.data()
    }

    fn write<T: Element>(x: &mut Tensor) -> Result<&mut [T]> {
        x.data_mut()
    }
}

impl Place for Gpu {
    fn read<T: Element>(x: &Tensor) -> Result<View<'_, T>> {
        x.view()
    }

    fn write<T: Element>(x: &mut Tensor) -> Result<ViewMut<'_, T>> {
        x.view_mut()
    }
}

/// Name of the operation with these sizes.
pub(crate) fn name_of<O: Operation>(_sizes: &O) -> &'static str {
    O::NAME
}

/// Makes a call with these sizes where a tensor is stored. `$m` is bound to the memory there
/// ([`Place`]) and `$t` to the type of the tensor: f32 or f64 on the host, f32 or bf16 on a device.
/// Another type is an error.
macro_rules! call {
    ($x:expr, $s:expr, |$m:ident, $t:ident| $operands:expr) => {
        $crate::dtype::kernel!($crate::call::name_of($s), $x, $t,
            host => {
                type $m = dressage_kernels::call::Host;
                dressage_kernels::call::Call::run($operands, $s)
            },
            device => {
                type $m = dressage_kernels::call::Gpu;
                dressage_kernels::call::Launch::launch($operands, device, $s)
            },
        )
    };
}
pub(crate) use call;
