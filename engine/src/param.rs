//! Parameters: named values that outlive the graph and are updated in place.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::memory::{Category, with_category};
use crate::{DType, Device, EngineError, Result, Tensor};

/// A named parameter, shared between the module that uses it and the optimiser that updates it.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

/// Part of a model that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// The pre-trained network.
    Backbone,
    /// Additions to it that change its features.
    Adapter,
    /// Everything after it.
    #[default]
    Head,
}

/// Properties of a parameter that decide its learning rate and decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParamKind {
    /// Its part of the model.
    pub role: Role,
    /// Whether it is weight or bias of a normalisation layer.
    pub norm: bool,
    /// Whether it is a constant of the network that no optimiser updates, as PyTorch's buffers.
    pub buffer: bool,
    /// Whether it is a buffer that training steps move, as running statistics.
    pub running: bool,
}

struct Inner {
    name: String,
    trainable: bool,
    kind: ParamKind,
    values: RwLock<Values>,
}

/// The stored values of a parameter.
pub struct Values {
    /// The value; for a trained parameter, the one that the optimiser updates.
    pub value: Tensor,
    /// A bf16 copy of the value, which matrix products read. Only a trained matrix on a device with
    /// working type bf16 has it. Code that changes the value must write the copy too.
    pub working: Option<Tensor>,
}

impl Param {
    /// Creates a parameter. A trainable one is a leaf of every graph it enters, a frozen one a
    /// constant.
    pub fn new(name: impl Into<String>, value: Tensor, trainable: bool) -> Param {
        Param::of_kind(ParamKind::default(), name, value, trainable)
    }

    /// [`Param::new`] for a parameter of this kind.
    pub fn of_kind(
        kind: ParamKind,
        name: impl Into<String>,
        value: Tensor,
        trainable: bool,
    ) -> Param {
        let value = if trainable { value.leaf() } else { value.detach() };
        let values = RwLock::new(Values { value, working: None });
        Param(Arc::new(Inner { name: name.into(), trainable, kind, values }))
    }

    /// The name in the reference's state dict.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the optimiser updates it.
    pub fn trainable(&self) -> bool {
        self.0.trainable
    }

    /// Its part of the model, and whether it is of a norm.
    pub fn kind(&self) -> ParamKind {
        self.0.kind
    }

    fn read(&self) -> RwLockReadGuard<'_, Values> {
        self.0.values.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The current value as operations use it: the working copy if there is one.
    pub fn get(&self) -> Tensor {
        let values = self.read();
        match &values.working {
            // It is the same leaf, so its gradient is that of the value.
            Some(working) => working.clone().with_origin(values.value.origin.clone()),
            None => values.value.clone(),
        }
    }

    /// The current value in the type in which it is updated and stored.
    pub fn master(&self) -> Tensor {
        self.read().value.clone()
    }

    /// Locks all stored values for writing in place; other threads wait. An optimiser uses it to
    /// update many parameters in one launch.
    ///
    /// # Errors
    /// If another thread panicked while writing.
    pub fn write(&self) -> Result<RwLockWriteGuard<'_, Values>> {
        self.0.values.write().map_err(|_| EngineError::Shared { op: "update" })
    }

    /// Lets `f` change the value, which keeps its place in the graph. A working copy is updated
    /// too.
    ///
    /// # Errors
    /// Errors of `f`; a failure of the device.
    pub fn update<R>(&self, f: impl FnOnce(&mut Tensor) -> Result<R>) -> Result<R> {
        let mut values = self.write()?;
        let result = f(&mut values.value)?;
        let Values { value, working } = &mut *values;
        if let (Some(working), Some(device)) = (working, value.device()) {
            *working = with_category(Category::Weights, || {
                value.detach().to_device(device, working.dtype())
            })?;
        }
        Ok(result)
    }

    /// Moves the parameter to `device`, where activations have the type `working`, f32 or bf16. A
    /// parameter of at most one axis becomes f32 and a frozen matrix the working type. A trained
    /// matrix becomes f32 with a copy in the working type. The parameter keeps its place in the
    /// graph.
    ///
    /// # Errors
    /// A value of another type than f32 and bf16; no room on the device.
    pub fn to_device(&self, device: &Device, working: DType) -> Result<()> {
        let mut values = self.write()?;
        let old = values.value.clone();
        let place = |dtype| old.detach().to_device(device, dtype);
        let narrow = old.shape().len() > 1 && working == DType::Bf16;
        let new = with_category(Category::Weights, || {
            Ok::<_, EngineError>(match (narrow, self.trainable()) {
                (false, _) => Values { value: place(DType::F32)?, working: None },
                (true, false) => Values { value: place(DType::Bf16)?, working: None },
                (true, true) => {
                    Values { value: place(DType::F32)?, working: Some(place(DType::Bf16)?) }
                }
            })
        })?;
        *values = Values { value: new.value.with_origin(old.origin.clone()), ..new };
        Ok(())
    }

    /// Replaces the value by one of the same shape and type. A value in host memory is copied to
    /// the device of the old one.
    ///
    /// # Errors
    /// If shape or type differ, or if the value is on a device and the old one is not.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        self.update(|old| {
            if old.shape() != value.shape() || old.dtype() != value.dtype() {
                return Err(EngineError::Shape {
                    op: "set",
                    arg: "value",
                    expected: format!("{} {:?}", old.dtype(), old.shape()),
                    found: value.shape().to_vec(),
                });
            }
            let value = match old.device() {
                Some(device) => value.detach().to_device(device, old.dtype())?,
                None if value.device().is_some() => return Err(value.not_on_host("set")),
                None => value.clone(),
            };
            *old = value.with_origin(old.origin.clone());
            Ok(())
        })
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.trainable() { "trainable" } else { "frozen" };
        write!(f, "{} {:?} {kind}", self.name(), self.get().shape())
    }
}
