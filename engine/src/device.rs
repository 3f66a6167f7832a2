//! Tensors in the memory of a device.
//!
//! The same model code runs on the host and on a device. An operation creates its results where its
//! operands are ([`Tensor::empty_like`]) and calls the kernel for that place (`kernel!`). No data
//! moves implicitly. The types on a device are:
//!
//! * activations and matrices: the working type, f32 or bf16;
//! * parameters of at most one axis, statistics, gradients of parameters: f32.
//!
//! An intermediate gradient has the type of its value; the gradient of a leaf is f32.
//!
//! To support devices, an operation creates its results with `empty_like` and `empty_sums`, calls
//! its kernels through `kernel!` and gets a row in `tests/operations/cases.rs`.

use crate::dtype::kernel;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dressage_kernels::device::{Buffer, Device, View, ViewMut};
use dressage_kernels::dry_run;
use dressage_kernels::ops::add;
use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::memory::{Category, Usage, current_category};
use crate::tensor::Storage;
use crate::{DType, Element, EngineError, Result, Tensor, forbid_gradient};

/// Device memory that is booked under a category.
pub(crate) struct DeviceBuffer {
    memory: Buffer<u8>,
    category: Category,
}

/// Memory accounts by device number.
static ACCOUNTS: Mutex<BTreeMap<u32, Usage>> = Mutex::new(BTreeMap::new());

fn accounts() -> MutexGuard<'static, BTreeMap<u32, Usage>> {
    // Every change is complete before anything can panic.
    ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceBuffer {
    fn take(device: &Device, bytes: usize) -> Result<DeviceBuffer> {
        if dry_run::active() && !device.is_dry_run() {
            return Err(EngineError::NotInDryRun { device: device.name() });
        }
        let category = current_category();
        let memory = device.alloc(category.name(), bytes)?;
        accounts().entry(device.id()).or_default().book(category, bytes);
        Ok(DeviceBuffer { memory, category })
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Some(usage) = accounts().get_mut(&self.memory.device().id()) {
            usage.unbook(self.category, self.memory.len());
        }
    }
}

/// The memory account of the tensors on a device, like [`crate::memory::usage`] for the host.
/// `from_system` and `system_bytes` are those of the device's pool, which also provides the
/// workspace of kernels.
pub fn usage_on(device: &Device) -> Usage {
    let usage = accounts().get(&device.id()).copied().unwrap_or_default();
    let pool = device.usage();
    Usage { from_system: pool.reservations, system_bytes: pool.reserved, ..usage }
}

/// Starts a new measurement of the peak on a device.
pub fn reset_peak_on(device: &Device) {
    accounts().entry(device.id()).or_default().reset_peak();
}

impl Tensor {
    /// The device that holds the elements; `None` for host memory.
    pub fn device(&self) -> Option<&Device> {
        match &*self.storage {
            Storage::Device(buffer) => Some(buffer.memory.device()),
            Storage::Table(table) => Some(table.device()),
            _ => None,
        }
    }

    /// Creates a tensor with undefined content on `device`, or in host memory for `None`. The
    /// caller writes all elements.
    ///
    /// # Errors
    /// No room on the device; a real device within a dry run.
    pub fn empty_on(device: Option<&Device>, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        Self::with_capacity_on(device, dtype, shape, 0)
    }

    /// [`Tensor::empty_on`] in a buffer with room for `capacity` elements
    /// ([`Tensor::with_capacity`]).
    ///
    /// # Errors
    /// No room on the device.
    pub fn with_capacity_on(
        device: Option<&Device>,
        dtype: DType,
        shape: &[usize],
        capacity: usize,
    ) -> Result<Tensor> {
        let Some(device) = device else {
            return Ok(Tensor::with_capacity(dtype, shape, capacity));
        };
        let bytes = shape.iter().product::<usize>().max(capacity) * dtype.size();
        let storage = Storage::Device(DeviceBuffer::take(device, bytes)?);
        Ok(Tensor::in_storage(storage, dtype, shape))
    }

    /// A constant that the device caches by `name`, `numbers` and type. On the first request `make`
    /// is called for its elements, in f32 in host memory.
    ///
    /// # Errors
    /// Errors of `make`; a type other than f32 and bf16; no room on the device.
    pub(crate) fn table(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        (name, numbers): (&'static str, &[u64]),
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let bytes = || {
            let host = make()?;
            let x = host.data::<f32>()?;
            match dtype {
                DType::F32 => Ok(bytemuck::cast_slice(x).to_vec()),
                DType::Bf16 => {
                    let mut narrow = vec![bf16::ZERO; x.len()];
                    narrow.convert_from_f32_slice(x);
                    Ok(bytemuck::cast_slice(&narrow).to_vec())
                }
                found => Err(EngineError::Type { op: name, expected: "f32 or bf16", found }),
            }
        };
        let numbers = [numbers, &[dtype.size() as u64]].concat();
        let table = device.constant(name, &numbers, bytes)?;
        Ok(Tensor::in_storage(Storage::Table(table), dtype, shape))
    }

    /// Creates a tensor of the same type in the same place. The caller writes all elements.
    ///
    /// # Errors
    /// No room on the device.
    pub fn empty_like(&self, shape: &[usize]) -> Result<Tensor> {
        Self::empty_on(self.device(), self.dtype(), shape)
    }

    /// [`Tensor::empty_like`] with the type of sums over this tensor ([`DType::of_sums`]).
    ///
    /// # Errors
    /// No room on the device.
    pub fn empty_sums(&self, shape: &[usize]) -> Result<Tensor> {
        Self::empty_on(self.device(), self.dtype().of_sums(), shape)
    }

    /// [`Tensor::empty_on`] with all bits zero.
    ///
    /// # Errors
    /// No room on the device; a failure of the device.
    pub fn zeros_on(device: Option<&Device>, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let Some(device) = device else { return Ok(Tensor::zeros(dtype, shape)) };
        let mut zeros = Self::empty_on(Some(device), dtype, shape)?;
        device.zero(zeros.raw_mut("zeros")?)?;
        Ok(zeros)
    }

    /// A constant copy on `device` with elements of type `dtype`. Converts between f32 and bf16,
    /// with rounding to bf16. Shares the memory if the tensor is already there in that type.
    ///
    /// # Errors
    /// Any other conversion; a value that needs a gradient; no room on the device.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        forbid_gradient("to_device", "tensor", self)?;
        match self.device() {
            Some(here) if here == device => return self.cast_on(device, dtype),
            Some(_) => return self.to_host()?.to_device(device, dtype),
            None => {}
        }
        match (self.dtype(), dtype) {
            (found, wanted) if found == wanted => {
                let mut copy = Self::empty_on(Some(device), dtype, self.shape())?;
                device.write(copy.raw_mut("to_device")?, self.bytes())?;
                Ok(copy)
            }
            (DType::F32, DType::Bf16) => {
                let mut narrow = vec![bf16::ZERO; self.len()];
                if !dry_run::skip("narrow") {
                    narrow.convert_from_f32_slice(self.data()?);
                }
                upload(device, &narrow, self.shape())
            }
            (DType::Bf16, DType::F32) => {
                let mut wide = vec![0.0f32; self.len()];
                if !dry_run::skip("widen") {
                    self.data::<bf16>()?.convert_to_f32_slice(&mut wide);
                }
                upload(device, &wide, self.shape())
            }
            (found, wanted) => {
                Err(EngineError::Type { op: "to_device", expected: wanted.name(), found })
            }
        }
    }

    /// Overwrites the elements of a device tensor with `data`, at the same address. It is for data
    /// that changes from step to step while the launches that read it stay the same. Does not wait.
    ///
    /// # Errors
    /// If the tensor has another type or number of elements, is in host memory or shares its memory
    /// with another; a failure of the device.
    pub fn overwrite<T: Element>(&mut self, data: &[T]) -> Result<()> {
        self.expect_type::<T>("overwrite")?;
        let Some(device) = self.device().cloned() else {
            return Err(EngineError::OnHost { op: "overwrite" });
        };
        Ok(device.write(self.raw_mut("overwrite")?.cast::<T>(), data)?)
    }

    /// Copies `from`, which is where this tensor is and has its type, to the elements from `start`
    /// on. Does not wait.
    ///
    /// # Errors
    /// Fewer elements than needed; another type or place; a failure of the device.
    pub fn copy_into(&mut self, start: usize, from: &Tensor) -> Result<()> {
        let (op, to) = ("copy_into", start..start + from.len());
        if to.end > self.len() || from.dtype() != self.dtype() {
            let expected = format!("at most {} elements of {}", self.len() - start, self.dtype());
            return Err(EngineError::Shape {
                op,
                arg: "from",
                expected,
                found: from.shape().to_vec(),
            });
        }
        kernel!(op, self, T,
            host => {
                self.data_mut::<T>()?[to].copy_from_slice(from.data()?);
                Ok::<_, EngineError>(())
            },
            device => {
                let device = device.clone();
                device.copy(from.view::<T>()?, self.view_mut()?.slice(to))
            },
        )
    }

    /// [`Tensor::overwrite`] with the elements of a host tensor of the same shape. Elements of f32
    /// are rounded if this tensor is bf16.
    ///
    /// # Errors
    /// Errors of [`Tensor::overwrite`]; another shape.
    pub fn overwrite_from(&mut self, host: &Tensor) -> Result<()> {
        if self.shape() != host.shape() {
            return Err(EngineError::Shape {
                op: "overwrite",
                arg: "host",
                expected: format!("{:?}", self.shape()),
                found: host.shape().to_vec(),
            });
        }
        match (host.dtype(), self.dtype()) {
            (DType::F32, DType::Bf16) => {
                let mut narrow = vec![bf16::ZERO; host.len()];
                narrow.convert_from_f32_slice(host.data()?);
                self.overwrite(&narrow)
            }
            (DType::F32, _) => self.overwrite(host.data::<f32>()?),
            (found, _) => Err(EngineError::Type { op: "overwrite", expected: "f32", found }),
        }
    }

    /// Device address of the elements; `None` in host memory. A captured graph keeps its memory for
    /// itself, so the address shows whether a tensor has moved since the capture.
    pub fn address(&self) -> Option<u64> {
        self.device()?;
        self.raw("address").ok().map(|view| view.address())
    }

    /// The same bits as elements of another type of equal size, in shared memory. Used for tables
    /// that hold both indices and weights.
    ///
    /// # Errors
    /// A type of another size; a value that needs a gradient.
    pub fn bits_as(&self, dtype: DType) -> Result<Tensor> {
        forbid_gradient("bits_as", "tensor", self)?;
        if dtype.size() != self.dtype().size() {
            let expected = dtype.name();
            return Err(EngineError::Type { op: "bits_as", expected, found: self.dtype() });
        }
        Ok(self.part(0, self.shape()).with_dtype(dtype))
    }

    /// A constant copy in host memory, of the same type. Waits for the device once. Shares the
    /// memory if the tensor is already there.
    ///
    /// # Errors
    /// A value that needs a gradient; a failure of the device or of a kernel launched earlier.
    pub fn to_host(&self) -> Result<Tensor> {
        forbid_gradient("to_host", "tensor", self)?;
        let Some(device) = self.device() else { return Ok(self.detach()) };
        let mut copy = Tensor::empty_of(self.dtype(), self.shape());
        device.read(self.raw("to_host")?, copy.owned_mut_bytes())?;
        Ok(copy)
    }

    /// The elements as `dtype` on their device, outside the graph. Converts between f32 and bf16;
    /// for the same type it shares the memory.
    pub(crate) fn cast_on(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        if self.dtype() == dtype {
            return Ok(self.detach());
        }
        let mut y = Self::empty_on(Some(device), dtype, self.shape())?;
        match (self.dtype(), dtype) {
            (DType::F32, DType::Bf16) => {
                add::cast_gpu(device, self.view::<f32>()?, y.view_mut::<bf16>()?)?;
            }
            (DType::Bf16, DType::F32) => {
                add::cast_gpu(device, self.view::<bf16>()?, y.view_mut::<f32>()?)?;
            }
            (found, wanted) => {
                return Err(EngineError::Type { op: "cast", expected: wanted.name(), found });
            }
        }
        Ok(y)
    }

    /// The elements, for kernels to read.
    ///
    /// # Errors
    /// If the tensor has another type or is in host memory.
    pub fn view<T: Element>(&self) -> Result<View<'_, T>> {
        self.expect_type::<T>("view")?;
        Ok(self.raw("view")?.cast())
    }

    /// The elements, for kernels to write.
    ///
    /// # Errors
    /// If the tensor has another type, is in host memory or shares its memory with another.
    pub fn view_mut<T: Element>(&mut self) -> Result<ViewMut<'_, T>> {
        self.expect_type::<T>("view_mut")?;
        Ok(self.raw_mut("view_mut")?.cast())
    }

    fn raw(&self, op: &'static str) -> Result<View<'_, u8>> {
        match &*self.storage {
            Storage::Device(buffer) => Ok(buffer.memory.view().slice(self.span())),
            Storage::Table(table) => Ok(table.view().slice(self.span())),
            _ => Err(EngineError::OnHost { op }),
        }
    }

    fn raw_mut(&mut self, op: &'static str) -> Result<ViewMut<'_, u8>> {
        let span = self.span();
        self.recompute_fn = None;
        if self.device().is_none() {
            return Err(EngineError::OnHost { op });
        }
        match std::sync::Arc::get_mut(&mut self.storage) {
            Some(Storage::Device(buffer)) => Ok(buffer.memory.view_mut().slice(span)),
            _ => Err(EngineError::Shared { op }),
        }
    }

    /// Copies the elements into `to`, which is on the same device.
    pub(crate) fn copy_on_device(&self, to: &mut Tensor) -> Result<()> {
        let Some(device) = self.device() else { return Err(EngineError::OnHost { op: "copy" }) };
        Ok(device.copy(self.raw("copy")?, to.raw_mut("copy")?)?)
    }

    /// Error of an access that needs host memory.
    pub(crate) fn not_on_host(&self, op: &'static str) -> EngineError {
        let device = self.device().map(Device::name).unwrap_or_default();
        EngineError::OnDevice { op, device }
    }
}

impl Tensor {
    /// A constant copy of host elements on `device` as `dtype`, like [`Tensor::to_device`]. It can
    /// be captured in a graph: every replay copies the elements seen at capture. It suits values
    /// that depend on sizes alone, not values that change from step to step.
    ///
    /// # Errors
    /// A tensor on a device; a conversion other than f32 to bf16; a value that needs a gradient; no
    /// room on the device.
    pub fn constant_on(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        forbid_gradient("constant_on", "tensor", self)?;
        if self.device().is_some() {
            return Err(self.not_on_host("constant_on"));
        }
        let mut copy = Self::empty_on(Some(device), dtype, self.shape())?;
        let to = copy.raw_mut("constant_on")?;
        match (self.dtype(), dtype) {
            (found, wanted) if found == wanted => device.write_constant(to, self.bytes())?,
            (DType::F32, DType::Bf16) => {
                let mut narrow = vec![bf16::ZERO; self.len()];
                narrow.convert_from_f32_slice(self.data()?);
                device.write_constant(to.cast(), &narrow)?;
            }
            (found, wanted) => {
                let expected = wanted.name();
                return Err(EngineError::Type { op: "constant_on", expected, found });
            }
        }
        Ok(copy)
    }
}

impl Tensor {
    /// The tensor, or its constant copy on the device of `like` ([`Tensor::constant_on`]).
    ///
    /// # Errors
    /// As [`Tensor::constant_on`].
    pub fn constant_beside(self, like: &Tensor) -> Result<Tensor> {
        match like.device() {
            Some(device) => self.constant_on(device, self.dtype()),
            None => Ok(self),
        }
    }
}

fn upload<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Result<Tensor> {
    let mut y = Tensor::empty_on(Some(device), T::DTYPE, shape)?;
    device.write(y.view_mut()?, data)?;
    Ok(y)
}
