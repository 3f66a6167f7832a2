//! Weights in and out.

mod convert;
mod fingerprint;
mod safetensors;

use std::collections::BTreeMap;
use std::path::Path;

use dressage_engine::{DType, Element, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

pub use convert::{dinov2, resize_patch_kernel, resize_pos_embed};
pub use fingerprint::{Digests, digest, fingerprint, fingerprint_with};
pub use safetensors::write_safetensors;

use crate::Result;

/// A tensor as a file holds it.
#[derive(Debug, Clone)]
pub enum Stored {
    /// In a type the engine works with.
    Tensor(Tensor),
    /// 16-bit floats with their shape, to be widened.
    Half(Vec<u16>, Vec<usize>),
    /// 64-bit integers with their shape (labels and indices in recorded data).
    I64(Vec<i64>, Vec<usize>),
}

impl Stored {
    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        match self {
            Stored::Tensor(t) => t.shape(),
            Stored::Half(_, shape) | Stored::I64(_, shape) => shape,
        }
    }

    /// The values as f32 or f64; `None` for integers.
    pub fn to_float(&self, dtype: DType) -> Option<Tensor> {
        match (self, dtype) {
            (Stored::Tensor(t), want) if t.dtype() == want => Some(t.clone()),
            (Stored::Tensor(t), DType::F32) => match t.dtype() {
                DType::F64 => map(t.data::<f64>().ok()?, t.shape(), |v| v as f32),
                DType::Bf16 => map(t.data::<bf16>().ok()?, t.shape(), bf16::to_f32),
                _ => None,
            },
            (Stored::Tensor(t), DType::F64) => match t.dtype() {
                DType::F32 => map(t.data::<f32>().ok()?, t.shape(), f64::from),
                DType::Bf16 => map(t.data::<bf16>().ok()?, t.shape(), bf16::to_f64),
                _ => None,
            },
            (Stored::Half(v, s), DType::F32) => map(v, s, |x| f16::from_bits(x).to_f32()),
            (Stored::Half(v, s), DType::F64) => map(v, s, |x| f16::from_bits(x).to_f64()),
            _ => None,
        }
    }
}

fn map<A: Copy + Sync, B: Element>(
    x: &[A],
    shape: &[usize],
    f: impl Fn(A) -> B + Sync,
) -> Option<Tensor> {
    let mut y = Tensor::empty::<B>(shape);
    y.data_mut::<B>().ok()?.par_iter_mut().zip(x).for_each(|(y, x)| *y = f(*x));
    Some(y)
}

/// Named tensors, as a checkpoint holds them.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    origin: String,
    tensors: BTreeMap<String, Stored>,
    metadata: BTreeMap<String, String>,
}

impl StateDict {
    /// An empty dictionary; `origin` names it in errors.
    pub fn new(origin: impl Into<String>) -> StateDict {
        StateDict { origin: origin.into(), ..Default::default() }
    }

    /// Reads a safetensors file, memory-mapped.
    ///
    /// # Errors
    /// A missing, truncated or malformed file, or an element type that is not supported.
    pub fn open(path: &Path) -> Result<StateDict> {
        safetensors::open(path)
    }

    /// Where the tensors come from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The file's own notes.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// Takes a tensor out.
    pub fn take(&mut self, name: &str) -> Option<Stored> {
        self.tensors.remove(name)
    }

    /// Puts a tensor in, replacing one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Stored) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Tensors whose name begins with `prefix`, the prefix replaced by `with`.
    pub fn renamed(self, prefix: &str, with: &str) -> StateDict {
        let tensors = self
            .tensors
            .into_iter()
            .filter_map(|(k, v)| k.strip_prefix(prefix).map(|rest| (format!("{with}{rest}"), v)))
            .collect();
        StateDict { tensors, ..self }
    }

    /// Adds all tensors of `other`.
    pub fn extend(&mut self, other: StateDict) {
        if self.origin.is_empty() {
            self.origin = other.origin;
        } else if !other.origin.is_empty() {
            self.origin = format!("{} with {}", self.origin, other.origin);
        }
        self.tensors.extend(other.tensors);
    }
}
