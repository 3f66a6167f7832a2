//! Parameters of a network under construction. Each is requested by its reference key and is either
//! initialised or taken from weights.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{
    DType, Element, MappedFile, Param, ParamKind, Philox, Role, Tensor, hash_name,
};
use dressage_kernels::{Real, dry_run};
use half::bf16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::BatchNorm;
use crate::weights::{Digests, StateDict, Stored, digest, finite};
use crate::{ModelError, Result};

/// Initial values of a parameter for which no weights are given.
#[derive(Debug, Clone)]
pub enum Init {
    /// All one value.
    Constant(f64),
    /// Uniform in (-bound, bound).
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// These values.
    Values(Vec<f64>),
}

impl Init {
    /// U(±1/√fan_in): PyTorch's default for the weight and bias of a linear layer.
    pub fn default_linear(fan_in: usize) -> Init {
        Init::Uniform(1.0 / (fan_in as f64).sqrt())
    }

    /// U(±√(6/(fan_in+fan_out))).
    pub fn xavier_uniform(fan_in: usize, fan_out: usize) -> Init {
        Init::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
    }

    /// N(0, √(2/(fan_in+fan_out))).
    pub fn xavier_normal(fan_in: usize, fan_out: usize) -> Init {
        Init::Normal((2.0 / (fan_in + fan_out) as f64).sqrt())
    }

    /// U(±√(3/fan_in)): Kaiming uniform with a = 1.
    pub fn kaiming_uniform(fan_in: usize) -> Init {
        Init::Uniform((3.0 / fan_in as f64).sqrt())
    }

    /// Fills a tensor. The random stream depends on seed and name only, so the order of
    /// construction does not matter.
    fn fill<T: Element + Real>(&self, name: &str, seed: u64, shape: &[usize]) -> Tensor {
        const PURPOSE: u32 = 0x494E_4954;
        if dry_run::skip("init") {
            return Tensor::empty::<T>(shape);
        }
        let n = shape.iter().product();
        let mut r = Philox::new(seed ^ hash_name(name), PURPOSE, 0, 0);
        let values: Vec<T> = match self {
            Init::Constant(v) => vec![T::of(*v); n],
            Init::Uniform(bound) => {
                (0..n).map(|_| T::of((2.0 * r.uniform() - 1.0) * bound)).collect()
            }
            Init::Normal(std) => (0..n).map(|_| T::of(r.normal() * std)).collect(),
            Init::Values(v) => v.iter().map(|&x| T::of(x)).collect(),
        };
        Tensor::from_slice(&values, shape).unwrap_or_else(|_| Tensor::zeros(T::DTYPE, shape))
    }
}

/// Storage type of the matrices of frozen linear layers.
///
/// The arithmetic is f32 with either type. Bf16 halves the memory and rounds every weight to eight
/// significant bits, to nearest with ties to even. The relative error is at most 2^-8. Everything
/// else stays f32: trained parameters, norms, biases, layer scales, the patch kernel, position
/// tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits.
    Bf16,
}

impl Precision {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

/// A choice of parameters by name and kind.
type Select = Box<dyn Fn(&str, ParamKind) -> bool>;

struct State {
    dtype: DType,
    /// Storage type of frozen matrices.
    precision: Precision,
    /// Digests of the values that were rounded, by name.
    digests: Digests,
    seed: u64,
    source: StateDict,
    /// Names that begin with one of these must come from the source.
    strict: Vec<String>,
    params: BTreeMap<String, Param>,
    problems: Vec<String>,
    /// Error of the first parameter that could not be read, or has values that a network cannot
    /// use.
    failed: Option<ModelError>,
    /// Mapped files whose values are used in place.
    files: Vec<Arc<MappedFile>>,
    /// Weights that an adapter changes before they are rounded.
    held: BTreeSet<String>,
    /// Tells which parameters train although their scope is frozen.
    tuned: Vec<Select>,
    /// Batch norms whose statistics training moves.
    batch_norms: Vec<Arc<BatchNorm>>,
}

impl State {
    /// Reads the values of a parameter as floats and checks them. Nothing is read after the first
    /// problem, because the network will not be built.
    fn floats(&mut self, name: &str, stored: &Stored) -> Option<Tensor> {
        if !stored.kind().is_float() {
            self.problems.push(format!("{name} holds whole numbers, expected floats"));
        }
        if !self.problems.is_empty() || self.failed.is_some() {
            return None;
        }
        let read = stored.checked_float(self.dtype).and_then(|float| {
            float.map_or(Ok(None), |t| {
                finite(name, stored, self.source.origin(), &t).map(|()| Some(t))
            })
        });
        if let Some((_, pages)) = stored.in_place(self.dtype)
            && !self.files.iter().any(|file| Arc::ptr_eq(file, pages))
        {
            self.files.push(pages.clone());
        }
        read.unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }

    /// Rounds the held weights, whose changes are complete.
    fn round_held(&mut self) -> Result<()> {
        if self.precision == Precision::F32 {
            return Ok(());
        }
        for name in std::mem::take(&mut self.held) {
            let Some(param) = self.params.get(&name).filter(|param| !param.trainable()) else {
                continue;
            };
            let old = param.master();
            let Some(new) = with_category(Category::Weights, || narrowed(&old)) else { continue };
            if !dry_run::active() {
                self.digests.entry(name.clone()).or_insert_with(|| digest(&name, &old));
            }
            param.update(|value| {
                *value = new.detach();
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// A parameter without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamShape {
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Whether the optimiser updates it.
    pub trainable: bool,
    /// Its part of the model, and whether it is of a norm.
    pub kind: ParamKind,
}

impl ParamShape {
    /// All of `param` but its values.
    pub fn of(param: &Param) -> ParamShape {
        let shape = param.get().shape().to_vec();
        ParamShape { shape, trainable: param.trainable(), kind: param.kind() }
    }

    /// Number of its elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All parameters of a network by name.
pub type Shapes = BTreeMap<String, ParamShape>;

/// Collects the parameters of a network under construction.
#[derive(Clone)]
pub struct Scope {
    state: Rc<RefCell<State>>,
    prefix: String,
    trainable: bool,
    kind: ParamKind,
}

impl Scope {
    /// A root scope that initialises everything from `seed`. `dtype` is f32, or f64 for checks.
    pub fn new(dtype: DType, seed: u64) -> Scope {
        Scope::with_weights(dtype, Precision::F32, seed, StateDict::default(), &[])
    }

    /// A root scope that takes the parameters from `source` that it contains. Names that begin with
    /// one of `strict` must be in it, and none of its tensors may be left over ([`Scope::finish`]).
    /// Frozen matrices are stored in `precision`, unless the network is f64.
    pub fn with_weights(
        dtype: DType,
        precision: Precision,
        seed: u64,
        source: StateDict,
        strict: &[&str],
    ) -> Scope {
        let strict = strict.iter().map(|s| s.to_string()).collect();
        let state = State {
            dtype,
            precision,
            digests: Digests::new(),
            seed,
            source,
            strict,
            params: BTreeMap::new(),
            problems: Vec::new(),
            failed: None,
            files: Vec::new(),
            held: BTreeSet::new(),
            tuned: Vec::new(),
            batch_norms: Vec::new(),
        };
        let state = Rc::new(RefCell::new(state));
        Scope { state, prefix: String::new(), trainable: true, kind: ParamKind::default() }
    }

    /// Shapes of the parameters requested so far.
    ///
    /// # Errors
    /// As [`Scope::finish`].
    pub fn shapes(&self) -> Result<Shapes> {
        let params = self.finish("the network", &[])?;
        Ok(params.into_iter().map(|(name, p)| (name, ParamShape::of(&p))).collect())
    }

    /// Returns and clears the list of files whose values are used in place, without a copy.
    pub(crate) fn files(&self) -> Vec<Arc<MappedFile>> {
        std::mem::take(&mut self.state.borrow_mut().files)
    }

    /// Digests of the parameters that were rounded after reading, computed before the rounding.
    pub fn digests(&self) -> Digests {
        std::mem::take(&mut self.state.borrow_mut().digests)
    }

    /// The scope of a submodule.
    pub fn sub(&self, name: impl std::fmt::Display) -> Scope {
        let prefix = format!("{}{name}.", self.prefix);
        Scope { prefix, ..self.clone() }
    }

    /// The same scope with its parameters trainable or frozen.
    pub fn trainable(&self, trainable: bool) -> Scope {
        Scope { trainable, ..self.clone() }
    }

    /// The same scope in another part of the model.
    pub fn role(&self, role: Role) -> Scope {
        Scope { kind: ParamKind { role, ..self.kind }, ..self.clone() }
    }

    /// The same scope for the parameters of a normalisation layer.
    pub fn norm(&self) -> Scope {
        Scope { kind: ParamKind { norm: true, ..self.kind }, ..self.clone() }
    }

    /// Keeps the weight `name` unrounded until [`Scope::finish`]. Call it before the weight is
    /// requested.
    pub(crate) fn hold(&self, name: &str) {
        let name = format!("{}{name}", self.prefix);
        self.state.borrow_mut().held.insert(name);
    }

    /// Lets the parameters that `is_tuned` selects train even if their scope is frozen. It gets
    /// names within this scope. Call it before these are requested.
    pub(crate) fn tune(&self, is_tuned: impl Fn(&str, ParamKind) -> bool + 'static) {
        let prefix = self.prefix.clone();
        let within = move |name: &str, kind: ParamKind| {
            name.strip_prefix(&prefix).is_some_and(|name| is_tuned(name, kind))
        };
        self.state.borrow_mut().tuned.push(Box::new(within));
    }

    /// Whether the source has values for the parameter `name` that were not requested yet.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.state.borrow().source.get(&format!("{}{name}", self.prefix)).is_some()
    }

    /// The parameter `name` of this scope, requested before.
    pub(crate) fn requested(&self, name: &str) -> Result<Param> {
        let name = format!("{}{name}", self.prefix);
        let found = self.state.borrow().params.get(&name).cloned();
        found.ok_or_else(|| {
            ModelError::Config(format!("the adapter changes {name}, which the backbone has not"))
        })
    }

    /// Replaces the held weight `name` by `change` of its value. Its fingerprint stays that of the
    /// value that was read.
    pub(crate) fn change(
        &self,
        name: &str,
        change: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        if dry_run::active() {
            return Ok(());
        }
        let param = self.requested(name)?;
        let old = param.master();
        let record = || digest(param.name(), &old);
        self.state.borrow_mut().digests.entry(param.name().into()).or_insert_with(record);
        let new = with_category(Category::Weights, || change(&old))?;
        Ok(param.update(|value| {
            *value = new.detach();
            Ok(())
        })?)
    }

    /// Gives back parameters that [`Scope::finish`] has taken.
    #[cfg(test)]
    pub(crate) fn restore(&self, params: BTreeMap<String, Param>) {
        self.state.borrow_mut().params = params;
    }

    /// Removes a parameter from the network.
    pub(crate) fn remove(&self, param: &Param) {
        self.state.borrow_mut().params.remove(param.name());
    }

    /// Element type of the parameters.
    pub fn dtype(&self) -> DType {
        self.state.borrow().dtype
    }

    /// A parameter of this scope. Problems with the source are collected for [`Scope::finish`].
    pub fn param(&self, name: &str, shape: &[usize], init: Init) -> Param {
        self.param_in(Precision::F32, name, shape, init)
    }

    /// A constant of this scope that is stored with the parameters and never trained.
    pub fn buffer(&self, name: &str, shape: &[usize], init: Init) -> Param {
        let kind = ParamKind { buffer: true, ..self.kind };
        Scope { kind, trainable: false, ..self.clone() }.param(name, shape, init)
    }

    /// A running statistic `[c]` of this scope: a buffer, which training moves unless the scope is
    /// frozen.
    pub fn running(&self, name: &str, c: usize, init: Init) -> Param {
        let kind = ParamKind { running: self.trainable, ..self.kind };
        Scope { kind, ..self.clone() }.buffer(name, &[c], init)
    }

    /// Keeps a batch norm whose statistics training moves.
    pub(crate) fn add_batch_norm(&self, norm: &Arc<BatchNorm>) {
        if self.trainable {
            self.state.borrow_mut().batch_norms.push(norm.clone());
        }
    }

    /// Returns and clears the list of batch norms whose statistics training moves.
    pub fn batch_norms(&self) -> Vec<Arc<BatchNorm>> {
        std::mem::take(&mut self.state.borrow_mut().batch_norms)
    }

    /// The weight of a linear layer, stored in the scope's precision if it is frozen.
    pub fn matrix(&self, name: &str, shape: &[usize], init: Init) -> Param {
        let precision = self.state.borrow().precision;
        self.param_in(if self.trainable { Precision::F32 } else { precision }, name, shape, init)
    }

    fn param_in(&self, p: Precision, name: &str, shape: &[usize], init: Init) -> Param {
        let name = format!("{}{name}", self.prefix);
        let mut state = self.state.borrow_mut();
        let found = state.source.take(&name);
        let value = with_category(Category::Weights, || match found {
            Some(t) if t.shape() == shape => state.floats(&name, &t),
            Some(t) => {
                let problem = format!("{name} is {:?}, expected {shape:?}", t.shape());
                state.problems.push(problem);
                None
            }
            None if state.strict.iter().any(|s| name.starts_with(s.as_str())) => {
                state.problems.push(format!("{name} {shape:?} is missing"));
                None
            }
            None => Some(match state.dtype {
                DType::F64 => init.fill::<f64>(&name, state.seed, shape),
                _ => init.fill::<f32>(&name, state.seed, shape),
            }),
        });
        let mut value = value.unwrap_or_else(|| Tensor::zeros(state.dtype, shape));
        if p == Precision::Bf16
            && !state.held.contains(&name)
            && let Some(narrow) = with_category(Category::Weights, || narrowed(&value))
        {
            if !dry_run::active() {
                state.digests.insert(name.clone(), digest(&name, &value));
            }
            value = narrow;
        }
        let tuned = !self.kind.buffer && self.kind.role == Role::Backbone;
        let tuned = tuned && state.tuned.iter().any(|is_tuned| is_tuned(&name, self.kind));
        let trainable = self.trainable || tuned;
        let param = Param::of_kind(self.kind, name.clone(), value, trainable);
        state.params.insert(name, param.clone());
        param
    }

    /// All parameters by name. The error names `network`; `ignored` lists names that may be left
    /// over.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] with everything missing, left over or of another shape;
    /// [`ModelError::Damaged`] if values do not match the file's checksums;
    /// [`ModelError::NotFinite`]; a file that was changed while it was read.
    pub fn finish(&self, network: &str, ignored: &[&str]) -> Result<BTreeMap<String, Param>> {
        let mut state = self.state.borrow_mut();
        let left: Vec<String> = state
            .source
            .names()
            .filter(|n| !ignored.contains(&n.as_str()))
            .map(|n| format!("{n} is left over"))
            .collect();
        state.problems.extend(left);
        if state.problems.is_empty() {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            state.round_held()?;
            return Ok(std::mem::take(&mut state.params));
        }
        Err(ModelError::Mismatch {
            source_name: state.source.origin().to_string(),
            network: network.to_string(),
            difference: summary(&state.problems),
        })
    }
}

/// An f32 tensor rounded to bf16; `None` for any other.
fn narrowed(x: &Tensor) -> Option<Tensor> {
    let x32 = x.data::<f32>().ok()?;
    let mut y = Tensor::empty::<bf16>(x.shape());
    if dry_run::active() {
        return Some(y);
    }
    let out = y.data_mut::<bf16>().ok()?;
    out.par_iter_mut().zip(x32).for_each(|(y, x)| *y = bf16::from_f32(*x));
    Some(y)
}

/// The first few problems in full, the rest as a count.
pub(crate) fn summary(problems: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if problems.len() > SHOWN {
        text.push_str(&format!("; and {} more", problems.len() - SHOWN));
    }
    text
}
