//! A head of two transposed convolutions (spec after-rein §2): a 1x1 convolution on the concatenated
//! taps, twice a 2x2 transposed convolution with stride 2 and GELU, a 1x1 convolution to logits.
//!
//! The source gives neither widths nor activations; those here are a choice. Logits are four times
//! as fine as the taps, are resized to the image and compared with its labels as in the per-pixel
//! head. Keys: `decode_head.{project,upsample.0,upsample.1,conv_seg}.{weight,bias}`.

use dressage_engine::{Param, Tensor, ops, range};

use super::Features;
use super::pixel_step::{Mode, PixelHead, classify, concatenated};
use crate::Result;
use crate::layers::Linear;
use crate::params::{Init, Scope};

/// Sizes of the head.
#[derive(Debug, Clone, PartialEq)]
pub struct DeconvConfig {
    /// Channels of each of the backbone's maps.
    pub in_channels: Vec<usize>,
    /// Channels between the layers.
    pub width: usize,
    /// Classes k.
    pub classes: usize,
}

/// A 2x2 transposed convolution with stride 2.
///
/// ```text
/// y[b, 2r + i, 2s + j, o] = bias[o] + sum_c x[b, r, s, c] weight[c, o, i, j]
/// ```
/// No two pixels of `x` reach the same pixel of `y`, so it is a linear layer with four results a
/// pixel, whose rows are put in their places.
struct Upsample {
    /// `[in, out, 2, 2]`, as PyTorch has it.
    weight: Param,
    /// `[out]`.
    bias: Param,
}

impl Upsample {
    /// PyTorch's initialisation, whose fan is that of the output.
    fn new(scope: &Scope, input: usize, output: usize) -> Upsample {
        let init = Init::default_linear(4 * output);
        Upsample {
            weight: scope.param("weight", &[input, output, 2, 2], init.clone()),
            bias: scope.param("bias", &[output], init),
        }
    }

    /// `[b, 2h, 2w, out]` of `x` `[b, h, w, in]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, bias) = (x.dim(0), x.dim(1), x.dim(2), self.bias.get());
        let (input, output) = (x.last_dim(), bias.len());
        let flat = ops::reshape(&self.weight.get(), &[input, 4 * output])?;
        let rows = ops::transpose(&flat)?;
        // From [out, 2, 2] to [2, 2, out].
        let rows = permuted(&rows, [1, output, 4, 1])?;
        let bias = ops::concat(&[&bias, &bias, &bias, &bias], 0)?;
        let y = ops::linear(x, &rows, Some(&bias))?;
        let pixels = ops::reshape(&y, &[b * h * w * 4, output])?;
        // From [b h, w, 2, 2] to [b h, 2, w, 2].
        let pixels = permuted(&pixels, [b * h, w, 2, 2])?;
        Ok(ops::reshape(&pixels, &[b, 2 * h, 2 * w, output])?)
    }
}

/// Rows `[n m k l, ..]` in the order `[n, k, m, l]`.
fn permuted(x: &Tensor, [n, m, k, l]: [usize; 4]) -> Result<Tensor> {
    let place = |[n, m, k, l]: [usize; 4]| {
        let rows = (0..n).flat_map(move |i| (0..k).map(move |q| (i, q)));
        let rows = rows.flat_map(move |(i, q)| (0..m).map(move |p| (i * m + p) * k + q));
        rows.flat_map(move |row| (0..l).map(move |r| (row * l + r) as i32)).collect::<Vec<_>>()
    };
    let table = |values: Vec<i32>| -> Result<Tensor> {
        Ok(Tensor::from_slice(&values, &[values.len()])?.constant_beside(x)?)
    };
    let (order, back) = (table(place([n, m, k, l]))?, table(place([n, k, m, l]))?);
    Ok(ops::reorder_rows(x, &order, &back)?)
}

/// The head with its loss.
pub struct Deconv {
    config: DeconvConfig,
    project: Linear,
    upsample: [Upsample; 2],
    conv_seg: Linear,
}

impl Deconv {
    /// Gets every parameter from `scope`, the reference's `decode_head.`.
    pub fn new(scope: &Scope, config: DeconvConfig) -> Deconv {
        let (width, input) = (config.width, config.in_channels.iter().sum());
        let init = Init::default_linear(input);
        let classifier = (Init::Normal(0.01), Some(Init::Constant(0.0)));
        let upsample = scope.sub("upsample");
        Deconv {
            project: Linear::conv1x1(
                &scope.sub("project"),
                [width, input],
                init.clone(),
                Some(init),
            ),
            upsample: [0, 1].map(|i| Upsample::new(&upsample.sub(i), width, width)),
            conv_seg: Linear::conv1x1(
                &scope.sub("conv_seg"),
                [config.classes, width],
                classifier.0,
                classifier.1,
            ),
            config,
        }
    }
}

impl PixelHead for Deconv {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn logits(&self, features: &Features, _mode: Mode<'_>) -> Result<Tensor> {
        let _range = range("head.deconv");
        let maps = concatenated(features, &self.config.in_channels)?;
        let mut x = self.project.forward(&maps)?;
        for upsample in &self.upsample {
            x = ops::gelu(&upsample.forward(&x)?)?;
        }
        classify(&self.conv_seg, &x)
    }
}

#[cfg(test)]
mod tests {
    use dressage_engine::DType;
    use dressage_kernels::check::noise;

    use super::*;

    /// The formula, pixel by pixel.
    #[test]
    fn upsampling_is_a_transposed_convolution() {
        let [b, h, w, input, output] = [2, 3, 5, 4, 3];
        let scope = Scope::new(DType::F64, 3);
        let layer = Upsample::new(&scope, input, output);
        let values = noise::<f64>(b * h * w * input, 1);
        let x = Tensor::from_slice(&values, &[b, h, w, input]).expect("fits");
        let y = layer.forward(&x).expect("computed");
        assert_eq!(y.shape(), [b, 2 * h, 2 * w, output]);
        let (weight, bias) = (layer.weight.get(), layer.bias.get());
        let (weight, bias) = (weight.data::<f64>().expect("f64"), bias.data::<f64>().expect("f64"));
        for (at, found) in y.data::<f64>().expect("f64").iter().enumerate() {
            let (o, column) = (at % output, at / output % (2 * w));
            let (row, image) = (at / output / (2 * w) % (2 * h), at / output / (4 * h * w));
            let pixel = (image * h + row / 2) * w + column / 2;
            let term = |c: usize| {
                let tap = ((c * output + o) * 2 + row % 2) * 2 + column % 2;
                values[pixel * input + c] * weight[tap]
            };
            let want = bias[o] + (0..input).map(term).sum::<f64>();
            assert!((found - want).abs() < 1e-13, "{at}: {found} is not {want}");
        }
    }
}
