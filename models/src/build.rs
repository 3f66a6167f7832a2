//! Construction of networks. Every parameter is requested by its reference key and is either
//! initialised or taken from weights.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Element, MappedFile, Param, Philox, Tensor, hash_name, ops};
use dressage_kernels::{Real, dry_run};
use half::bf16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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

struct State {
    dtype: DType,
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
}

/// Shape of each parameter by name, and whether it trains.
pub type Shapes = BTreeMap<String, (Vec<usize>, bool)>;

/// Collects the parameters of a network under construction.
#[derive(Clone)]
pub struct Scope {
    state: Rc<RefCell<State>>,
    prefix: String,
    trainable: bool,
}

impl Scope {
    /// A root scope that initialises everything from `seed`. `dtype` is f32, or f64 for checks.
    pub fn new(dtype: DType, seed: u64) -> Scope {
        Scope::with_weights(dtype, seed, StateDict::default(), &[])
    }

    /// A root scope that takes the parameters from `source` that it contains. Names that begin with
    /// one of `strict` must be in it, and none of its tensors may be left over ([`Scope::finish`]).
    pub fn with_weights(dtype: DType, seed: u64, source: StateDict, strict: &[&str]) -> Scope {
        let strict = strict.iter().map(|s| s.to_string()).collect();
        let state = State {
            dtype,
            precision: Precision::F32,
            digests: Digests::new(),
            seed,
            source,
            strict,
            params: BTreeMap::new(),
            problems: Vec::new(),
            failed: None,
            files: Vec::new(),
        };
        Scope { state: Rc::new(RefCell::new(state)), prefix: String::new(), trainable: true }
    }

    /// Shapes of the parameters requested so far.
    ///
    /// # Errors
    /// As [`Scope::finish`].
    pub fn shapes(&self) -> Result<Shapes> {
        let shape = |p: Param| (p.get().shape().to_vec(), p.trainable());
        let params = self.finish("the network", &[])?;
        Ok(params.into_iter().map(|(name, p)| (name, shape(p))).collect())
    }

    /// Sets the storage type of frozen matrices from now on, for this scope and all of its root. No
    /// effect on a network in f64.
    pub fn precision(self, precision: Precision) -> Scope {
        self.state.borrow_mut().precision = precision;
        self
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

    /// Element type of the parameters.
    pub fn dtype(&self) -> DType {
        self.state.borrow().dtype
    }

    /// A parameter of this scope. Problems with the source are collected for [`Scope::finish`].
    pub fn param(&self, name: &str, shape: &[usize], init: Init) -> Param {
        self.param_in(Precision::F32, name, shape, init)
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
            && let Some(narrow) = with_category(Category::Weights, || narrowed(&value))
        {
            if !dry_run::active() {
                state.digests.insert(name.clone(), digest(&name, &value));
            }
            value = narrow;
        }
        let param = Param::new(name.clone(), value, self.trainable);
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

/// A linear layer, `weight` `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// Weight and bias with the given initialisations.
    pub fn new(scope: &Scope, input: usize, output: usize, weight: Init, bias: Init) -> Linear {
        Linear {
            weight: scope.matrix("weight", &[output, input], weight),
            bias: Some(scope.param("bias", &[output], bias)),
        }
    }

    /// PyTorch's default initialisation, U(±1/√fan_in) for both.
    pub fn default_init(scope: &Scope, input: usize, output: usize) -> Linear {
        Linear::new(scope, input, output, Init::default_linear(input), Init::default_linear(input))
    }

    /// A 1×1 convolution: the weight is stored `[out, in, 1, 1]`.
    pub fn conv1x1(scope: &Scope, shape: [usize; 2], weight: Init, bias: Option<Init>) -> Linear {
        let [output, input] = shape;
        Linear {
            weight: scope.param("weight", &[output, input, 1, 1], weight),
            bias: bias.map(|b| scope.param("bias", &[output], b)),
        }
    }

    /// `x W^T + b` over the last axis of `x`.
    ///
    /// # Errors
    /// If the last axis has another length than the layer's input.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Param::get);
        Ok(ops::linear(x, &self.matrix()?, bias.as_ref())?)
    }

    /// `max(x W^T + b, 0)` over the last axis of `x`.
    ///
    /// # Errors
    /// If the last axis has another length than the layer's input.
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => Ok(ops::linear_relu(x, &self.matrix()?, &bias.get())?),
            None => Ok(ops::relu(&self.forward(x)?)?),
        }
    }

    /// Two layers with a ReLU between them, over the last axis of `x`.
    ///
    /// # Errors
    /// If a layer's input has another length than the axis before it.
    pub fn feed_forward(layers: &[Linear; 2], x: &Tensor) -> Result<Tensor> {
        let [first, second] = layers;
        let (Some(b1), Some(b2)) = (&first.bias, &second.bias) else {
            return second.forward(&first.forward_relu(x)?);
        };
        let (w1, b1, w2, b2) = (first.matrix()?, b1.get(), second.matrix()?, b2.get());
        let layer = |weight, bias| ops::Layer { weight, bias };
        Ok(ops::feed_forward(x, layer(&w1, &b1), layer(&w2, &b2))?)
    }

    /// `norm(x) W^T + b` over the last axis of `x`.
    ///
    /// # Errors
    /// If the last axis has another length than the layer's input.
    pub fn after_norm(&self, norm: &Affine, x: &Tensor, eps: f64) -> Result<Tensor> {
        let (weight, bias) = (norm.weight.get(), norm.bias.get());
        let norm = ops::Norm { weight: &weight, bias: &bias, eps };
        let bias = self.bias.as_ref().map(Param::get);
        Ok(ops::norm_linear(x, &norm, &self.matrix()?, bias.as_ref())?)
    }

    /// `x + gamma (f(z) W^T + b)` over the last axis.
    ///
    /// # Errors
    /// Axes whose lengths differ from the layer's.
    pub fn onto(&self, x: &Tensor, z: &Tensor, f: ops::Activated, gamma: &Param) -> Result<Tensor> {
        let (bias, gamma) = (self.bias.as_ref().map(Param::get), gamma.get());
        Ok(ops::linear_residual(x, z, f, &self.matrix()?, bias.as_ref(), Some(&gamma))?)
    }

    /// The weight `[out, in]`.
    fn matrix(&self) -> Result<Tensor> {
        let weight = self.weight.get();
        Ok(ops::reshape(&weight, &[weight.dim(0), weight.dim(1)])?)
    }
}

/// Weight and bias of a normalisation over `c` channels, starting at one and zero.
#[derive(Debug, Clone)]
pub struct Affine {
    weight: Param,
    bias: Param,
}

impl Affine {
    /// Parameters `weight` and `bias` `[c]`.
    pub fn new(scope: &Scope, c: usize) -> Affine {
        Affine {
            weight: scope.param("weight", &[c], Init::Constant(1.0)),
            bias: scope.param("bias", &[c], Init::Constant(0.0)),
        }
    }

    /// Layer norm over the last axis.
    ///
    /// # Errors
    /// If the last axis does not have `c` channels.
    pub fn layer_norm(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        Ok(ops::layer_norm(x, &self.weight.get(), &self.bias.get(), eps)?)
    }

    /// Group norm of channels-last maps `[b, h, w, c]`, eps 1e-5.
    ///
    /// # Errors
    /// If the channels do not divide into `groups`.
    pub fn group_norm(&self, x: &Tensor, groups: usize) -> Result<Tensor> {
        Ok(ops::group_norm(x, &self.weight.get(), &self.bias.get(), groups, 1e-5)?)
    }
}
