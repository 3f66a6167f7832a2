//! Parameters: named values that outlive the graph and are updated in place.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::memory::{Category, with_category};
use crate::{DType, Device, EngineError, Result, Tensor};

/// A named parameter, shared between the module that uses it and the optimiser that updates it.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    name: String,
    trainable: bool,
    values: RwLock<Values>,
}

/// What is stored of a parameter.
pub struct Values {
    /// The value; of a trained parameter the one that updates go to.
    pub value: Tensor,
    /// The value in bf16, where products read that: of a trained matrix on a device whose working
    /// type is bf16. Whoever changes the value writes it too.
    pub working: Option<Tensor>,
}

impl Param {
    /// A parameter; a trainable one is a leaf of every graph it enters, a frozen one a constant.
    pub fn new(name: impl Into<String>, value: Tensor, trainable: bool) -> Param {
        let value = if trainable { value.leaf() } else { value.detach() };
        let values = RwLock::new(Values { value, working: None });
        Param(Arc::new(Inner { name: name.into(), trainable, values }))
    }

    /// The name, as in the reference's state dict.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the optimiser updates it.
    pub fn trainable(&self) -> bool {
        self.0.trainable
    }

    fn read(&self) -> RwLockReadGuard<'_, Values> {
        self.0.values.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The value now, as operations take it: the working copy if there is one.
    pub fn get(&self) -> Tensor {
        let values = self.read();
        match &values.working {
            // The same leaf: its gradient is the value's.
            Some(working) => working.clone().with_origin(values.value.origin.clone()),
            None => values.value.clone(),
        }
    }

    /// The value now in the type in which it is updated and stored.
    pub fn master(&self) -> Tensor {
        self.read().value.clone()
    }

    /// Everything that is stored, to be written in place; others wait meanwhile. For an optimiser
    /// that updates many parameters in one launch.
    ///
    /// # Errors
    /// If a thread panicked while it wrote.
    pub fn write(&self) -> Result<RwLockWriteGuard<'_, Values>> {
        self.0.values.write().map_err(|_| EngineError::Shared { op: "update" })
    }

    /// Lets `f` change the value; its place in the graph stays. A working copy follows.
    ///
    /// # Errors
    /// Whatever `f` returns; a failure of the device.
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

    /// Moves the parameter to `device`, where activations are stored as `working`, f32 or bf16. A
    /// parameter of at most one axis is f32 there, a frozen matrix of the working type; a trained
    /// matrix is f32 with a copy in the working type. Its place in the graph stays.
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

    /// Replaces the value by one of the same shape and type, which is brought to the device that
    /// the old one lies on.
    ///
    /// # Errors
    /// If shape or type differ, or if the value lies on a device and the old one does not.
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
