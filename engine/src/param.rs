//! Parameters: named values that outlive the graph and are updated in place.

use std::sync::{Arc, RwLock};

use crate::{EngineError, Result, Tensor};

/// A named parameter, shared between the module that uses it and the optimiser that updates it.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    name: String,
    trainable: bool,
    value: RwLock<Tensor>,
}

impl Param {
    /// A parameter; a trainable one is a leaf of every graph it enters, a frozen one a constant.
    pub fn new(name: impl Into<String>, value: Tensor, trainable: bool) -> Param {
        let value = if trainable { value.leaf() } else { value.detach() };
        Param(Arc::new(Inner { name: name.into(), trainable, value: RwLock::new(value) }))
    }

    /// The name, as in the reference's state dict.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the optimiser updates it.
    pub fn trainable(&self) -> bool {
        self.0.trainable
    }

    /// The value now.
    pub fn get(&self) -> Tensor {
        match self.0.value.read() {
            Ok(value) => value.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// Lets `f` change the value; its place in the graph stays.
    ///
    /// # Errors
    /// Whatever `f` returns.
    pub fn update<R>(&self, f: impl FnOnce(&mut Tensor) -> Result<R>) -> Result<R> {
        match self.0.value.write() {
            Ok(mut value) => f(&mut value),
            Err(_) => Err(EngineError::Shared { op: "update" }),
        }
    }

    /// Replaces the value by one of the same shape and type.
    ///
    /// # Errors
    /// If shape or type differ.
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
            let origin = old.origin.clone();
            *old = value.clone().with_origin(origin);
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
