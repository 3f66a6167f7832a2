//! The whole network: backbone, adapter, head.

use std::collections::BTreeMap;
use std::sync::Arc;

use dressage_engine::memory::{self, Category, with_category};
use dressage_engine::{
    DType, Device, DryRun, Element, MappedFile, Param, RecomputePolicy, Role, Tensor, no_grad,
    with_recompute_policy,
};
use dressage_kernels::device::Float;
use dressage_kernels::ops::resize::{Axis, AxisGpu, Mode, Step};
use dressage_kernels::ops::semantic_scores::SemanticScores;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Rein, ReinConfig};
use crate::backbone::{Backbone, BackboneConfig};
use crate::head::{Head, HeadConfig, HeadOutput, Queries};
use crate::params::{Precision, Scope, Shapes};
use crate::weights::{Digests, StateDict, digest, fingerprint_with};
use crate::{ModelError, Result, weights};

/// Method of adapting a backbone. It decides which parameters train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Frozen backbone, trained Rein and head.
    #[default]
    Rein,
    /// Frozen backbone, trained head.
    Freeze,
    /// Everything trains.
    Full,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Method::Rein => "rein",
            Method::Freeze => "freeze",
            Method::Full => "full",
        })
    }
}

/// Sizes of a whole network.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmenterConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Rein, for [`Method::Rein`].
    pub rein: Option<ReinConfig>,
    /// The head.
    pub head: HeadConfig,
    /// Method of adaptation, which decides the trained parameters.
    pub method: Method,
    /// Storage type of frozen matrices.
    pub precision: Precision,
    /// Choice of the values that the forward pass saves.
    pub recompute: RecomputePolicy,
}

impl SegmenterConfig {
    /// The published head and adapter on `backbone`. The head takes Rein's queries if there are
    /// any.
    pub fn published(
        backbone: impl Into<BackboneConfig>,
        classes: usize,
        method: Method,
    ) -> SegmenterConfig {
        let backbone = backbone.into();
        let rein = (method == Method::Rein).then(|| ReinConfig {
            patch: backbone.patch(),
            ..ReinConfig::published(backbone.depth(), backbone.width())
        });
        let source = if rein.is_some() { Queries::Linked } else { Queries::Own };
        let head = HeadConfig::published(backbone.width(), classes, source);
        let (precision, recompute) = (Precision::F32, RecomputePolicy::None);
        SegmenterConfig { backbone, rein, head, method, precision, recompute }
    }
}

/// Backbone, adapter and head.
type Modules = (Box<dyn Backbone>, Option<Rein>, Head);

/// A segmentation network.
pub struct Segmenter {
    backbone: Box<dyn Backbone>,
    rein: Option<Rein>,
    head: Head,
    method: Method,
    recompute: RecomputePolicy,
    params: BTreeMap<String, Param>,
    digests: Digests,
    /// Device of the parameters and the type of activations there.
    place: Option<(Device, DType)>,
    /// Mapped files whose weights are used in place, without a copy.
    files: Vec<Arc<MappedFile>>,
}

impl Segmenter {
    /// Builds the network. `weights` contains parameters under the reference's keys (`backbone.*`,
    /// `backbone.reins.*`, `decode_head.*`). Names that begin with one of `strict` must be in it;
    /// others that are missing are initialised from `seed`.
    ///
    /// # Errors
    /// Sizes that do not fit together; weights that are missing, left over or of another shape.
    pub fn new(
        config: SegmenterConfig,
        dtype: DType,
        seed: u64,
        weights: StateDict,
        strict: &[&str],
    ) -> Result<Segmenter> {
        let (method, unused) = (config.method, Self::unused(&config));
        let (precision, recompute) = (config.precision, config.recompute);
        let root = Scope::with_weights(dtype, precision, seed, weights, strict);
        let (backbone, rein, head) = Self::modules(&root, config)?;
        let ignored: Vec<&str> = unused.iter().map(String::as_str).collect();
        let params = root.finish("the network", &ignored)?;
        let (digests, place, files) = (root.digests(), None, root.files());
        Ok(Segmenter { backbone, rein, head, method, recompute, params, digests, place, files })
    }

    /// Checks that no file with weights in use was written to since it was opened. After such a
    /// write the network may have changed. There are such files only if the weights are used in
    /// place ([`StateDict::use_in_place`]).
    ///
    /// # Errors
    /// [`ModelError::Read`] with the file.
    pub fn check_files(&self) -> Result<()> {
        self.files.iter().try_for_each(|pages| weights::unchanged(pages))
    }

    /// Moves all parameters to `device`, where activations and matrices are stored as `working`,
    /// f32 or bf16 ([`Param::to_device`]). No copy stays in host memory.
    ///
    /// # Errors
    /// No room on the device; a failure of the device.
    pub fn to_device(&mut self, device: &Device, working: DType) -> Result<()> {
        for (name, param) in &self.params {
            let old = param.master();
            // The fingerprint is of the values before rounding, which are not available later.
            if !param.trainable() && old.device().is_none() && !self.digests.contains_key(name) {
                self.digests.insert(name.clone(), digest(name, &old));
            }
            param.to_device(device, working)?;
        }
        memory::trim();
        self.files.clear();
        self.place = Some((device.clone(), working));
        Ok(())
    }

    /// Device of the parameters; `None` for the host.
    pub fn device(&self) -> Option<&Device> {
        self.place.as_ref().map(|(device, _)| device)
    }

    /// Copies an image in host memory to the network's device, in the type of activations there.
    ///
    /// # Errors
    /// No room on the device.
    pub fn image(&self, image: Tensor) -> Result<Tensor> {
        match &self.place {
            Some((device, working)) => {
                Ok(with_category(Category::Data, || image.to_device(device, *working))?)
            }
            None => Ok(image),
        }
    }

    /// Names of the reference that this network does not use. These are the backbone's and, if the
    /// link is off, its two layers, which the reference keeps.
    pub fn unused(config: &SegmenterConfig) -> Vec<String> {
        let linked = config.rein.as_ref().is_some_and(|r| r.link);
        let link = ["transform.weight", "transform.bias", "merge.weight", "merge.bias"];
        let link = link.iter().filter(|_| !linked).map(|n| format!("backbone.reins.{n}"));
        let backbone = config.backbone.unused().iter().map(|n| format!("backbone.{n}"));
        backbone.chain(link).collect()
    }

    /// Shapes of all parameters of a network, without building it.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn shapes(config: SegmenterConfig) -> Result<Shapes> {
        DryRun::new().run(|| {
            let root = Scope::new(DType::F32, 0);
            Self::modules(&root, config)?;
            root.shapes()
        })
    }

    fn modules(root: &Scope, config: SegmenterConfig) -> Result<Modules> {
        if let Some(rein) = &config.rein
            && rein.link
            && rein.tokens != config.head.queries
        {
            return Err(ModelError::Config(format!(
                "linked Rein makes one query per token: {} tokens, but the head has {} queries",
                rein.tokens, config.head.queries
            )));
        }
        let scope = root.sub("backbone");
        let frozen = scope.role(Role::Backbone).trainable(config.method == Method::Full);
        let backbone = config.backbone.build(&frozen)?;
        let (widths, channels) = (backbone.widths(), config.head.in_channels);
        if widths != [channels; 4] {
            let text = format!("the backbone's maps have {widths:?} channels, the head {channels}");
            return Err(ModelError::Config(text));
        }
        let adapter = scope.sub("reins").role(Role::Adapter);
        let rein = config.rein.map(|rein| Rein::new(&adapter, rein)).transpose()?;
        let head = Head::new(&root.sub("decode_head"), config.head)?;
        Ok((backbone, rein, head))
    }

    /// The backbone.
    pub fn backbone(&self) -> &dyn Backbone {
        self.backbone.as_ref()
    }

    /// The adapter.
    pub fn rein(&self) -> Option<&Rein> {
        self.rein.as_ref()
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Method of adaptation, which decides the trained parameters.
    pub fn method(&self) -> Method {
        self.method
    }

    /// All parameters by reference key.
    pub fn params(&self) -> &BTreeMap<String, Param> {
        &self.params
    }

    /// Parameters the optimiser updates, by name.
    pub fn trainable(&self) -> Vec<Param> {
        self.params.values().filter(|p| p.trainable()).cloned().collect()
    }

    /// Fingerprint of the frozen weights that a checkpoint of the trained part belongs to. It is
    /// the same for every precision, because it is of the values before rounding.
    pub fn backbone_fingerprint(&self) -> String {
        fingerprint_with(self.params.values().filter(|p| !p.trainable()), &self.digests)
    }

    /// Predictions for `image` `[b, 3, h, w]` (normalised), differentiable.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch.
    pub fn forward(&self, image: &Tensor, last_only: bool) -> Result<HeadOutput> {
        with_recompute_policy(self.recompute, || self.predict(image, last_only))
    }

    fn predict(&self, image: &Tensor, last_only: bool) -> Result<HeadOutput> {
        let step = self.rein.as_ref().map(Adapter::step).transpose()?;
        let levels = match self.method {
            // Nothing below the head trains, so nothing of it is saved for the backward pass.
            Method::Freeze => no_grad(|| self.backbone.forward(image, None))?,
            _ => self.backbone.forward(image, step.as_ref())?,
        };
        self.head.forward(&levels, step.as_ref().and_then(|step| step.queries()), last_only)
    }

    /// Class scores of `image` `[b, 3, h, w]`: `[b, k, h, w]`, not normalised over classes (spec
    /// mask2former §5).
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch.
    pub fn scores(&self, image: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let output = self.forward(image, true)?;
            let Some(last) = output.predictions.last() else {
                return Err(ModelError::Config("the head made no prediction".into()));
            };
            semantic_scores(&last.cls, &last.mask, [image.dim(2), image.dim(3)])
        })
    }
}

/// Scores `[b, k, h, w]` in f32 from class and mask logits. Class logits are `[b, q, k + 1]`; mask
/// logits are `[b, q, h', w']` and are resized before the sigmoid.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 or, on a device, bf16.
pub fn semantic_scores(cls: &Tensor, mask: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let (b, k) = (cls.dim(0), cls.last_dim() - 1);
    let axes = [(mask.dim(2), size[0]), (mask.dim(3), size[1])];
    let [y, x] = axes.map(|(from, to)| Axis::new(from, to, Mode::Bilinear, Step::Size));
    let axes = [y?, x?];
    let mut scores = Tensor::empty_on(cls.device(), DType::F32, &[b, k, size[0], size[1]])?;
    match (cls.device(), cls.dtype()) {
        (None, _) => scores_on_host(cls, mask, &axes, &mut scores)?,
        (Some(device), DType::Bf16) => {
            scores_on::<half::bf16>(device, cls, mask, &axes, &mut scores)?;
        }
        (Some(device), _) => scores_on::<f32>(device, cls, mask, &axes, &mut scores)?,
    }
    Ok(scores)
}

/// Numbers of elements of one image in class logits and masks, and the sizes of its scores.
fn per_image(cls: &Tensor, mask: &Tensor) -> (usize, usize, SemanticScores) {
    let (q, k) = (cls.dim(1), cls.last_dim() - 1);
    (q * (k + 1), q * mask.dim(2) * mask.dim(3), SemanticScores { q, k })
}

fn scores_on_host(
    cls: &Tensor,
    mask: &Tensor,
    [y, x]: &[Axis; 2],
    scores: &mut Tensor,
) -> Result<()> {
    let (c, m, kernel) = per_image(cls, mask);
    let n = scores.len() / cls.dim(0).max(1);
    let out = scores.data_mut::<f32>()?;
    let (cls, mask) = (cls.data::<f32>()?, mask.data::<f32>()?);
    for (i, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
        kernel.upsampled(y, x, &cls[i * c..][..c], &mask[i * m..][..m], out)?;
    }
    Ok(())
}

fn scores_on<T: Float + Element>(
    device: &Device,
    cls: &Tensor,
    mask: &Tensor,
    axes: &[Axis; 2],
    scores: &mut Tensor,
) -> Result<()> {
    let (b, (c, m, kernel)) = (cls.dim(0), per_image(cls, mask));
    let n = scores.len() / b.max(1);
    let [y, x] = [AxisGpu::new(device, &axes[0])?, AxisGpu::new(device, &axes[1])?];
    let (cls, mask) = (cls.view::<T>()?, mask.view::<T>()?);
    let mut out = scores.view_mut::<f32>()?;
    for i in 0..b {
        let (cls, mask) = (cls.slice(i * c..(i + 1) * c), mask.slice(i * m..(i + 1) * m));
        let out = out.reborrow().slice(i * n..(i + 1) * n);
        kernel.upsampled_gpu(device, &y, &x, cls, mask, out)?;
    }
    Ok(())
}
