//! Operands of a call for checks and measurements: their values by name, and buffers for them.

use std::collections::BTreeMap;

use super::bounded::Bounded;
use crate::call::{Call, Gpu, Host, Memory, Operands as _, Walk};
use crate::device::{Buffer, Device, Element, View, ViewMut};
use crate::{Result, Write};

/// Values of operands by name, exactly as they are stored. The outputs of one call may be the inputs
/// of the next.
pub(crate) type Values = BTreeMap<&'static str, Vec<f64>>;

/// Values of an operand of some length that none are known of.
pub(super) type Draw<'a> = &'a dyn Fn(&'static str, usize) -> Vec<f64>;

/// Way to make a call: optional operands that are left out, and the treatment of old contents.
#[derive(Debug, Clone, Default)]
pub(super) struct Variant {
    pub without: Vec<&'static str>,
    pub write: Write,
    /// Operand that is one element too short.
    pub short: Option<&'static str>,
    /// Elements before each input in its buffer.
    pub offset: usize,
}

impl Variant {
    fn len(&self, name: &'static str, len: usize) -> usize {
        if self.short == Some(name) { len.saturating_sub(1) } else { len }
    }
}

/// Memory that the checks can make buffers in.
pub(super) trait Store {
    type Memory: Memory;
    type Buffer;
    /// A buffer with this content.
    fn put(&self, name: &'static str, bytes: &[u8]) -> Result<Self::Buffer>;
    /// A buffer for a call to write.
    fn room(&self, name: &'static str, bytes: usize) -> Result<Self::Buffer>;
    fn bytes(&self, buffer: &Self::Buffer) -> Result<Vec<u8>>;
    /// The elements behind `offset` of them.
    fn input<T: Element>(
        buffer: &Self::Buffer,
        offset: usize,
    ) -> <Self::Memory as Memory>::In<'_, T>;
    fn output<T: Element>(buffer: &mut Self::Buffer) -> <Self::Memory as Memory>::Out<'_, T>;
}

/// Host memory that is aligned for every type.
pub(super) struct Words {
    words: Vec<u64>,
    bytes: usize,
}

impl Words {
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.bytes]
    }
}

impl Store for Host {
    type Memory = Host;
    type Buffer = Words;

    fn put(&self, name: &'static str, bytes: &[u8]) -> Result<Words> {
        let mut words = self.room(name, bytes.len())?;
        words.bytes_mut().copy_from_slice(bytes);
        Ok(words)
    }

    fn room(&self, _name: &'static str, bytes: usize) -> Result<Words> {
        // Not a number in every floating-point type: what is overwritten must not be read.
        Ok(Words { words: vec![u64::MAX; bytes.div_ceil(8)], bytes })
    }

    fn bytes(&self, buffer: &Words) -> Result<Vec<u8>> {
        Ok(buffer.bytes().to_vec())
    }

    fn input<T: Element>(buffer: &Words, offset: usize) -> &[T] {
        &bytemuck::cast_slice(buffer.bytes())[offset..]
    }

    fn output<T: Element>(buffer: &mut Words) -> &mut [T] {
        bytemuck::cast_slice_mut(buffer.bytes_mut())
    }
}

impl Store for &Device {
    type Memory = Gpu;
    type Buffer = Buffer<u8>;

    fn put(&self, name: &'static str, bytes: &[u8]) -> Result<Buffer<u8>> {
        self.upload(name, bytes)
    }

    fn room(&self, name: &'static str, bytes: usize) -> Result<Buffer<u8>> {
        self.alloc(name, bytes)
    }

    fn bytes(&self, buffer: &Buffer<u8>) -> Result<Vec<u8>> {
        self.download(buffer.view())
    }

    fn input<T: Element>(buffer: &Buffer<u8>, offset: usize) -> View<'_, T> {
        let all = buffer.view().cast();
        all.slice(offset..all.len())
    }

    fn output<T: Element>(buffer: &mut Buffer<u8>) -> ViewMut<'_, T> {
        buffer.view_mut().cast()
    }
}

/// Operands without memory, to be listed.
fn empty<'a, M: Memory, T: Element, C: Call>() -> C::At<'a, M, T> {
    Default::default()
}

/// Buffers of the operands of a call, in their order.
pub(super) struct Operands<S: Store> {
    store: S,
    variant: Variant,
    buffers: Vec<S::Buffer>,
}

impl<S: Store> Operands<S> {
    /// Creates the operands of `C` in type `T`: with `values` where there are some, else with drawn
    /// ones, which are added to `values` as they are stored.
    pub fn new<T: Element, C: Call>(
        store: S,
        s: &C::Op,
        values: &mut Values,
        draw: Draw<'_>,
        variant: &Variant,
    ) -> Result<Self> {
        let (buffers, found) = (Vec::new(), Ok(()));
        let mut allocate = Allocate { store: &store, values, draw, variant, buffers, found };
        empty::<S::Memory, T, C>().list(s, &mut allocate);
        let Allocate { buffers, found, .. } = allocate;
        found?;
        Ok(Operands { store, variant: variant.clone(), buffers })
    }

    /// The operands for one call.
    pub fn bind<T: Element, C: Call>(&mut self, s: &C::Op) -> C::At<'_, S::Memory, T> {
        let mut c = empty::<S::Memory, T, C>();
        let (buffers, variant) = (self.buffers.iter_mut(), &self.variant);
        c.list(s, &mut Bind::<S> { buffers, variant });
        c
    }

    /// What the call wrote.
    pub fn outputs<T: Element, C: Call>(&self, s: &C::Op) -> Result<Vec<Output>> {
        let (buffers, outputs) = (self.buffers.iter(), Vec::new());
        let (store, variant) = (&self.store, &self.variant);
        let mut collect = Collect { store, variant, buffers, outputs, found: Ok(()) };
        empty::<S::Memory, T, C>().list(s, &mut collect);
        collect.found?;
        Ok(collect.outputs)
    }
}

struct Allocate<'v, S: Store> {
    store: &'v S,
    values: &'v mut Values,
    draw: Draw<'v>,
    variant: &'v Variant,
    buffers: Vec<S::Buffer>,
    found: Result<()>,
}

impl<S: Store> Allocate<'_, S> {
    fn push(&mut self, buffer: Result<S::Buffer>) {
        match buffer {
            Ok(buffer) => self.buffers.push(buffer),
            Err(error) => self.found = Err(error),
        }
    }

    fn filled<T: Element>(&mut self, name: &'static str, len: usize, offset: usize) {
        let values = self.values.entry(name).or_insert_with(|| (self.draw)(name, len));
        // An earlier call may have had this operand in a wider type.
        values.iter_mut().for_each(|x| *x = T::from_f64(*x).to_f64());
        let len = self.variant.len(name, len).min(values.len());
        let before = std::iter::repeat_n(T::default(), offset);
        let values: Vec<T> = before.chain(values[..len].iter().map(|&x| T::from_f64(x))).collect();
        self.push(self.store.put(name, bytemuck::cast_slice(&values)));
    }
}

impl<'a, S: Store> Walk<'a, S::Memory> for Allocate<'_, S> {
    fn reads<T: Element>(
        &mut self,
        name: &'static str,
        _x: &mut <S::Memory as Memory>::In<'a, T>,
        len: usize,
    ) {
        self.filled::<T>(name, len, self.variant.offset);
    }

    fn stores<T: Element>(
        &mut self,
        name: &'static str,
        _x: &mut <S::Memory as Memory>::Out<'a, T>,
        len: usize,
        write: Write,
    ) {
        match write {
            Write::Add => self.filled::<T>(name, len, 0),
            Write::Over => {
                let bytes = size_of::<T>() * self.variant.len(name, len);
                self.push(self.store.room(name, bytes));
            }
        }
    }

    fn takes(&mut self, name: &'static str, _present: bool) -> bool {
        !self.variant.without.contains(&name)
    }

    fn chooses(&mut self, write: &mut Write) {
        *write = self.variant.write;
    }
}

struct Bind<'b, S: Store> {
    buffers: std::slice::IterMut<'b, S::Buffer>,
    variant: &'b Variant,
}

impl<'b, S: Store> Walk<'b, S::Memory> for Bind<'b, S> {
    fn reads<T: Element>(
        &mut self,
        _name: &'static str,
        x: &mut <S::Memory as Memory>::In<'b, T>,
        _len: usize,
    ) {
        if let Some(buffer) = self.buffers.next() {
            *x = S::input(buffer, self.variant.offset);
        }
    }

    fn stores<T: Element>(
        &mut self,
        _name: &'static str,
        x: &mut <S::Memory as Memory>::Out<'b, T>,
        _len: usize,
        _write: Write,
    ) {
        if let Some(buffer) = self.buffers.next() {
            *x = S::output(buffer);
        }
    }

    fn takes(&mut self, name: &'static str, _present: bool) -> bool {
        !self.variant.without.contains(&name)
    }

    fn chooses(&mut self, write: &mut Write) {
        *write = self.variant.write;
    }
}

/// Values that a call wrote.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    pub name: &'static str,
    pub values: Vec<f64>,
    /// Relative error of the storage type.
    pub rounding: f64,
    /// Bounds of the errors of [`Bounded`] values; empty for other types.
    pub bounds: Vec<f64>,
}

struct Collect<'v, S: Store> {
    store: &'v S,
    variant: &'v Variant,
    buffers: std::slice::Iter<'v, S::Buffer>,
    outputs: Vec<Output>,
    found: Result<()>,
}

impl<'a, S: Store> Walk<'a, S::Memory> for Collect<'_, S> {
    fn reads<T: Element>(
        &mut self,
        _name: &'static str,
        _x: &mut <S::Memory as Memory>::In<'a, T>,
        _len: usize,
    ) {
        self.buffers.next();
    }

    fn stores<T: Element>(
        &mut self,
        name: &'static str,
        _x: &mut <S::Memory as Memory>::Out<'a, T>,
        _len: usize,
        _write: Write,
    ) {
        let Some(buffer) = self.buffers.next() else { return };
        match self.store.bytes(buffer) {
            Ok(bytes) => {
                let values: Vec<T> = bytemuck::pod_collect_to_vec(&bytes);
                let bounds = match bytemuck::try_cast_slice::<T, Bounded>(&values) {
                    Ok(all) if size_of::<T>() == size_of::<Bounded>() => {
                        all.iter().map(|x| x.error()).collect()
                    }
                    _ => Vec::new(),
                };
                let values = values.into_iter().map(T::to_f64).collect();
                let rounding = f64::from(T::ROUNDING);
                self.outputs.push(Output { name, values, rounding, bounds });
            }
            Err(error) => self.found = Err(error),
        }
    }

    fn takes(&mut self, name: &'static str, _present: bool) -> bool {
        !self.variant.without.contains(&name)
    }

    fn chooses(&mut self, write: &mut Write) {
        *write = self.variant.write;
    }
}

/// An operand as a call lists it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub name: &'static str,
    pub len: usize,
    /// Bytes that a call moves: twice its size if it is added to.
    pub moved: usize,
    pub optional: bool,
    /// `None` for an input.
    pub write: Option<Write>,
}

/// Operands of `C` in memory `M` and type `T`.
pub(super) fn list<M: Memory, T: Element, C: Call>(s: &C::Op, variant: &Variant) -> Vec<Operand> {
    let mut list = List { variant, operands: Vec::new(), optional: false };
    empty::<M, T, C>().list(s, &mut list);
    list.operands
}

struct List<'v> {
    variant: &'v Variant,
    operands: Vec<Operand>,
    optional: bool,
}

impl List<'_> {
    fn push<T>(&mut self, name: &'static str, len: usize, write: Option<Write>) {
        let times = if write == Some(Write::Add) { 2 } else { 1 };
        let (moved, optional) = (times * len * size_of::<T>(), std::mem::take(&mut self.optional));
        self.operands.push(Operand { name, len, moved, optional, write });
    }
}

impl<'a, M: Memory> Walk<'a, M> for List<'_> {
    fn reads<T: Element>(&mut self, name: &'static str, _x: &mut M::In<'a, T>, len: usize) {
        self.push::<T>(name, len, None);
    }

    fn stores<T: Element>(
        &mut self,
        name: &'static str,
        _x: &mut M::Out<'a, T>,
        len: usize,
        write: Write,
    ) {
        self.push::<T>(name, len, Some(write));
    }

    fn takes(&mut self, name: &'static str, _present: bool) -> bool {
        self.optional = !self.variant.without.contains(&name);
        self.optional
    }

    fn chooses(&mut self, write: &mut Write) {
        *write = self.variant.write;
    }
}
