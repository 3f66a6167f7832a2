//! Layers that networks are built of.

use std::sync::{Arc, Mutex, PoisonError};

use dressage_engine::ops::BatchStatistics;
use dressage_engine::{Param, Tensor, ops};

use crate::Result;
use crate::adapter::scaled;
use crate::params::{Init, Scope};

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

    /// A layer without bias.
    pub fn unbiased(scope: &Scope, input: usize, output: usize, weight: Init) -> Linear {
        Linear { weight: scope.matrix("weight", &[output, input], weight), bias: None }
    }

    /// The bias, if there is one.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
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
        self.forward_with(x, self.bias.as_ref().map(Param::get).as_ref())
    }

    /// [`Linear::forward`] with another bias.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_with(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        Ok(ops::linear(x, &self.matrix()?, bias)?)
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
    pub fn forward_normed(&self, norm: &Norm, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.normed_with(norm, x, eps, self.bias.as_ref().map(Param::get).as_ref())
    }

    /// [`Linear::forward_normed`] with another bias.
    ///
    /// # Errors
    /// As [`Linear::forward_normed`].
    pub fn normed_with(
        &self,
        norm: &Norm,
        x: &Tensor,
        eps: f64,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (weight, shift) = (norm.weight.get(), norm.bias.get());
        let norm = ops::Norm { weight: &weight, bias: &shift, eps };
        Ok(ops::norm_linear(x, &norm, &self.matrix()?, bias)?)
    }

    /// `x + gamma (f(z) W^T + b)` over the last axis, without `gamma` if there is none.
    ///
    /// # Errors
    /// Axes whose lengths differ from the layer's.
    pub fn residual(
        &self,
        x: &Tensor,
        z: &Tensor,
        f: ops::Activated,
        gamma: Option<&Param>,
    ) -> Result<Tensor> {
        let [bias, gamma] = [self.bias.as_ref(), gamma].map(|param| param.map(Param::get));
        Ok(ops::linear_residual(x, z, f, &self.matrix()?, bias.as_ref(), gamma.as_ref())?)
    }

    /// Weight `[out, in]` and bias `[out]`, both times `factor`.
    ///
    /// # Errors
    /// Errors of the engine.
    pub fn scaled(&self, factor: f64) -> Result<(Tensor, Option<Tensor>)> {
        let bias = self.bias.as_ref().map(|bias| scaled(&bias.get(), factor)).transpose()?;
        Ok((scaled(&self.matrix()?, factor)?, bias))
    }

    /// The weight `[out, in]`.
    fn matrix(&self) -> Result<Tensor> {
        let weight = self.weight.get();
        Ok(ops::reshape(&weight, &[weight.dim(0), weight.dim(1)])?)
    }
}

/// Weight and bias of a normalisation over `c` channels, starting at one and zero.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Param,
    bias: Param,
}

impl Norm {
    /// Parameters `weight` and `bias` `[c]`.
    pub fn new(scope: &Scope, c: usize) -> Norm {
        let scope = scope.norm();
        Norm {
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

/// Placement of a convolution's kernel on its map.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Pixels from one position to the next.
    pub stride: usize,
    /// Rows and columns of zeros around the map.
    pub pad: usize,
    /// Pixels from one tap of the kernel to the next.
    pub dilation: usize,
}

impl Default for Placement {
    fn default() -> Placement {
        Placement { stride: 1, pad: 0, dilation: 1 }
    }
}

/// A convolution of channels-last maps, `weight` `[out, in, k, k]`.
#[derive(Debug, Clone)]
pub struct Conv {
    weight: Param,
    bias: Option<Param>,
    at: Placement,
}

impl Conv {
    /// A convolution with stride 1, padded to keep the size of an odd kernel. `shape` is `[out, in,
    /// k]`.
    pub fn new(scope: &Scope, shape: [usize; 3], weight: Init, bias: Option<Init>) -> Conv {
        let at = Placement { pad: shape[2] / 2, ..Placement::default() };
        Conv::placed(scope, shape, at, weight, bias)
    }

    /// [`Conv::new`] with another placement.
    pub fn placed(
        scope: &Scope,
        [output, input, k]: [usize; 3],
        at: Placement,
        weight: Init,
        bias: Option<Init>,
    ) -> Conv {
        Conv {
            weight: scope.param("weight", &[output, input, k, k], weight),
            bias: bias.map(|bias| scope.param("bias", &[output], bias)),
            at,
        }
    }

    /// The convolution of maps `[b, h, w, in]`.
    ///
    /// # Errors
    /// Maps of other channels, or smaller than the kernel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.as_ref().map(Param::get));
        let Placement { stride, pad, dilation } = self.at;
        Ok(ops::conv2d_dilated(x, &weight, bias.as_ref(), stride, pad, dilation)?)
    }
}

/// Batch norm over `c` channels with running statistics, eps 1e-5, momentum 0.1.
pub struct BatchNorm {
    norm: Norm,
    running_mean: Param,
    running_var: Param,
    /// Statistics of the step's batch, until the step moves the running ones.
    batch: Mutex<Option<BatchStatistics>>,
}

impl BatchNorm {
    const EPS: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    /// Parameters `weight`, `bias` and buffers `running_mean`, `running_var`, all `[c]`. Training moves
    /// the buffers unless `scope` is frozen.
    pub fn new(scope: &Scope, c: usize) -> Arc<BatchNorm> {
        let buffers = scope.norm();
        let norm = Arc::new(BatchNorm {
            norm: Norm::new(scope, c),
            running_mean: buffers.running("running_mean", c, Init::Constant(0.0)),
            running_var: buffers.running("running_var", c, Init::Constant(1.0)),
            batch: Mutex::new(None),
        });
        scope.add_batch_norm(&norm);
        norm
    }

    /// Normalises maps `[.., c]`: in training by the statistics of the batch, which are kept for
    /// [`BatchNorm::move_running`], else, or if the norm is frozen, by the running ones.
    ///
    /// # Errors
    /// Maps of other channels; a batch with one value of a channel.
    pub fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        let (weight, bias) = (self.norm.weight.get(), self.norm.bias.get());
        if !(training && self.running_mean.kind().running) {
            let (mean, var) = (self.running_mean.get(), self.running_var.get());
            return Ok(ops::batch_norm_by(x, [&weight, &bias], [&mean, &var], Self::EPS)?);
        }
        let (y, batch) = ops::batch_norm(x, &weight, &bias, Self::EPS)?;
        *self.batch.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
        Ok(y)
    }

    /// Moves the running statistics towards those of the last batch in training, once. Nothing
    /// changes if `guard`, the loss on a device, is not finite.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn move_running(&self, guard: Option<&Tensor>) -> Result<()> {
        let batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(batch) = batch else { return Ok(()) };
        let (mut mean, mut var) = (self.running_mean.write()?, self.running_var.write()?);
        let (mean, var) = (&mut mean.value, &mut var.value);
        Ok(batch.move_running(mean, var, Self::MOMENTUM, guard)?)
    }
}
