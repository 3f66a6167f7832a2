//! Calls of operations, the same on the host and on a device.
//!
//! Each direction of an operation has one struct of operands, generic over the [`Memory`] that they
//! are in. [`Operands::list`] states them once, in the order of the kernel, with their lengths. All
//! else walks over that list: the length checks of both places, the arguments of a launch, and the
//! inputs, outputs and bytes of the checks in [`crate::check`].
//!
//! ```
//! use dressage_kernels::call::{Call, Gpu, Host, Launch};
//! use dressage_kernels::device::Device;
//! use dressage_kernels::ops::softmax::{Forward, Softmax};
//! let (s, x, mut y) = (Softmax { n: 1, c: 2 }, [1.0f32, 1.0], [0.0; 2]);
//! Forward::<Host, _> { x: &x, y: &mut y }.run(&s)?;
//! assert_eq!(y, [0.5, 0.5]);
//! let device = Device::virtual_gpu();
//! let (x, mut y) = (device.upload("x", &x)?, device.alloc::<f32>("y", 2)?);
//! Forward::<Gpu, _> { x: x.view(), y: y.view_mut() }.launch(&device, &s)?;
//! assert_eq!(device.download(y.view())?, [0.5, 0.5]);
//! # Ok::<(), dressage_kernels::KernelError>(())
//! ```

use crate::device::{Args, Device, Element, View, ViewMut};
use crate::dry_run::{self, Cost};
use crate::{Real, Result, Write, check_count};

/// A kind of memory that operands are in: [`Host`] or [`Gpu`].
pub trait Memory: Default + 'static {
    /// Whether it is the memory of a device, whose kernels may read operands that the host does not.
    const ON_DEVICE: bool;
    /// Elements to read.
    type In<'a, T: Element>: Copy + Default;
    /// Elements to write.
    type Out<'a, T: Element>: Default;
    /// Type of statistics, norm weights, biases and parameter gradients beside activations of type
    /// `T`: `T` itself on the host, f32 on a device.
    type Sum<T: Element>: Element;
    /// Number of elements of an input.
    fn count_in<T: Element>(x: &Self::In<'_, T>) -> usize;
    /// Number of elements of an output.
    fn count_out<T: Element>(x: &Self::Out<'_, T>) -> usize;
}

/// Memory of the host: operands are slices.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Memory for Host {
    const ON_DEVICE: bool = false;
    type In<'a, T: Element> = &'a [T];
    type Out<'a, T: Element> = &'a mut [T];
    type Sum<T: Element> = T;
    fn count_in<T: Element>(x: &&[T]) -> usize {
        x.len()
    }
    fn count_out<T: Element>(x: &&mut [T]) -> usize {
        x.len()
    }
}

/// Memory of a device: operands are views.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gpu;

impl Memory for Gpu {
    const ON_DEVICE: bool = true;
    type In<'a, T: Element> = View<'a, T>;
    type Out<'a, T: Element> = ViewMut<'a, T>;
    type Sum<T: Element> = f32;
    fn count_in<T: Element>(x: &View<'_, T>) -> usize {
        x.len()
    }
    fn count_out<T: Element>(x: &ViewMut<'_, T>) -> usize {
        x.len()
    }
}

/// A visitor of the operands of a call, which sees each once and may replace it.
pub trait Walk<'a, M: Memory> {
    /// Visits an operand of `len` elements that the call reads.
    fn reads<T: Element>(&mut self, name: &'static str, x: &mut M::In<'a, T>, len: usize);

    /// Visits an operand of `len` elements that the call writes or, with [`Write::Add`], adds to.
    fn stores<T: Element>(
        &mut self,
        name: &'static str,
        x: &mut M::Out<'a, T>,
        len: usize,
        write: Write,
    );

    /// Decides whether an optional operand takes part; by default it does if it is present.
    fn takes(&mut self, _name: &'static str, present: bool) -> bool {
        present
    }

    /// Visits an optional operand that takes no part.
    fn skips(&mut self) {}

    /// Visits the caller's choice between writing and adding.
    fn chooses(&mut self, _write: &mut Write) {}

    /// Visits an operand that the call overwrites.
    fn writes<T: Element>(&mut self, name: &'static str, x: &mut M::Out<'a, T>, len: usize) {
        self.stores(name, x, len, Write::Over);
    }

    /// Visits an operand that the call reads, if it is present.
    fn reads_if<T: Element>(
        &mut self,
        name: &'static str,
        x: &mut Option<M::In<'a, T>>,
        len: usize,
    ) {
        if self.takes(name, x.is_some()) {
            self.reads(name, x.get_or_insert_default(), len);
        } else {
            self.skips();
        }
    }

    /// Visits an operand that the call writes or adds to, if it is present.
    fn stores_if<T: Element>(
        &mut self,
        name: &'static str,
        x: &mut Option<M::Out<'a, T>>,
        len: usize,
        write: Write,
    ) {
        if self.takes(name, x.is_some()) {
            self.stores(name, x.get_or_insert_default(), len, write);
        } else {
            self.skips();
        }
    }
}

/// Sizes of an operation.
pub trait Operation: Clone + 'static {
    /// Name in messages.
    const NAME: &'static str;

    /// Refuses sizes that the operation cannot work with.
    ///
    /// # Errors
    /// The reason.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether there is nothing to compute.
    fn is_empty(&self) -> bool {
        false
    }
}

/// Operands of one direction of an operation, in one memory.
pub trait Operands<'a, M: Memory>: Default {
    /// The sizes.
    type Op: Operation;

    /// Lists the operands in the order of the kernel.
    fn list(&mut self, s: &Self::Op, w: &mut impl Walk<'a, M>);
}

/// One direction of an operation on the host: the definition of right, and a fast form.
///
/// A struct `Forward<'a, M, T>` implements it for all its parameters at once, and [`Call::At`] is
/// that struct with other ones.
pub trait Call: Sized {
    /// The sizes.
    type Op: Operation;
    /// The operands in another memory, or of another type.
    type At<'a, M: Memory, T: Element>: Operands<'a, M, Op = Self::Op>;

    /// Computes the definition of right.
    fn reference<T: Real>(s: &Self::Op, c: Self::At<'_, Host, T>);

    /// Computes the same fast, in f32.
    fn fast(s: &Self::Op, c: Self::At<'_, Host, f32>) {
        Self::reference(s, c);
    }

    /// Operations and scratch memory of the call on the host, as a dry run counts them.
    fn cost<T: Real>(_s: &Self::Op, _c: &Self::At<'_, Host, T>) -> Cost {
        Cost::default()
    }

    /// Checks the lengths and computes on the host: by the fast form in f32, else by the reference.
    ///
    /// # Errors
    /// Sizes that the operation refuses; a slice whose length does not match them.
    fn run<'a, T: Real>(self, s: &Self::Op) -> Result<()>
    where
        Self: Call<At<'a, Host, T> = Self>,
    {
        run::<T, Self>(s, self)
    }
}

/// [`Call::run`] for code that is generic over calls.
pub(crate) fn run<T: Real, C: Call>(s: &C::Op, mut c: C::At<'_, Host, T>) -> Result<()> {
    check::<Host, _>(s, &mut c)?;
    if !dry_run::skip_with(C::Op::NAME, || C::cost(s, &c)) && !s.is_empty() {
        T::compute::<C>(s, c);
    }
    Ok(())
}

/// One direction of an operation on a device.
pub trait Launch<'a>: Operands<'a, Gpu> {
    /// Queues the kernels.
    ///
    /// # Errors
    /// Sizes beyond those of a kernel; a failure of the device.
    ///
    /// # Safety
    /// The operands have the lengths that [`Operands::list`] states.
    unsafe fn enqueue(self, s: &Self::Op, device: &Device) -> Result<()>;

    /// Checks the lengths and queues the kernels.
    ///
    /// # Errors
    /// Sizes that the operation refuses; a view whose length does not match them; a failure of the
    /// device.
    fn launch(mut self, device: &Device, s: &Self::Op) -> Result<()> {
        check::<Gpu, _>(s, &mut self)?;
        // SAFETY: the lengths were checked.
        unsafe { self.enqueue(s, device) }
    }
}

/// Fails unless all operands have their lengths.
fn check<'a, M: Memory, C: Operands<'a, M>>(s: &C::Op, c: &mut C) -> Result<()> {
    s.check()?;
    let mut lengths = Lengths { op: C::Op::NAME, found: Ok(()) };
    c.list(s, &mut lengths);
    lengths.found
}

/// Comparison of each operand with its length, up to the first that differs.
struct Lengths {
    op: &'static str,
    found: Result<()>,
}

impl Lengths {
    fn expect(&mut self, name: &'static str, found: usize, expected: usize) {
        if self.found.is_ok() {
            self.found = check_count(self.op, name, found, expected);
        }
    }
}

impl<'a, M: Memory> Walk<'a, M> for Lengths {
    fn reads<T: Element>(&mut self, name: &'static str, x: &mut M::In<'a, T>, len: usize) {
        self.expect(name, M::count_in(x), len);
    }

    fn stores<T: Element>(
        &mut self,
        name: &'static str,
        x: &mut M::Out<'a, T>,
        len: usize,
        _write: Write,
    ) {
        self.expect(name, M::count_out(x), len);
    }
}

/// Arguments of a kernel that takes all operands of the call, in their order.
pub(crate) fn arguments<'a, C: Operands<'a, Gpu>>(
    sizes: &impl bytemuck::Pod,
    s: &C::Op,
    mut c: C,
) -> Args<'a> {
    let mut pack = Pack(Args::new(sizes));
    c.list(s, &mut pack);
    pack.0
}

/// Addition of each operand to the arguments of a kernel.
struct Pack<'a>(Args<'a>);

impl<'a> Walk<'a, Gpu> for Pack<'a> {
    fn reads<T: Element>(&mut self, _name: &'static str, x: &mut View<'a, T>, _len: usize) {
        self.0.add_read(*x);
    }

    fn stores<T: Element>(
        &mut self,
        _name: &'static str,
        x: &mut ViewMut<'a, T>,
        _len: usize,
        _write: Write,
    ) {
        self.0.add_write(std::mem::take(x));
    }

    fn skips(&mut self) {
        self.0.add_null();
    }
}
