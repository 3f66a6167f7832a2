//! The whole network: backbone, adapter, head.

use std::collections::BTreeMap;
use std::sync::Arc;

use dressage_engine::memory::{self, Category, with_category};
use dressage_engine::{
    DType, Device, DryRun, MappedFile, Param, RecomputePolicy, Role, Tensor, no_grad,
    with_recompute_policy,
};
use serde::{Deserialize, Serialize};

use crate::adapter::{
    AdaptFormerConfig, Adapter, AdapterConfig, BlockSizes, DecomposedConfig, LoraConfig,
    ReinConfig, VptConfig,
};
use crate::backbone::{Backbone, BackboneConfig, Stage};
use crate::generator::Generator;
use crate::layers::BatchNorm;
use crate::objective::mask2former::criterion::CriterionConfig;
use crate::objective::mask2former::head::{HeadConfig, Queries};
use crate::objective::{Features, Objective, ObjectiveConfig, StepLoss};
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
    /// Frozen backbone, trained LoRA and head.
    Lora,
    /// Frozen backbone, trained AdaptFormer and head.
    Adaptformer,
    /// Frozen backbone, trained VPT-deep and head.
    Vpt,
    /// Frozen weights but for their smallest singular values, trained biases and head.
    Soma,
    /// Frozen weights but for two parts of their pivoted QR decomposition, trained head.
    RecycleLora,
    /// Frozen backbone but for its biases, trained head.
    Bitfit,
    /// Frozen backbone but for its norms, trained head.
    Norms,
}

impl Method {
    /// The published adapter of this method for a backbone, if it has one.
    pub fn adapter(self, backbone: &BackboneConfig) -> Option<AdapterConfig> {
        let (stages, patch) = (backbone.stages(), backbone.patch());
        // Only Rein knows of stages.
        let Stage { blocks: n, width: c } = *stages.first()?;
        // A backbone that is no transformer refuses adapters of its blocks.
        let none =
            || BlockSizes { layers: n, embed_dim: c, hidden: c, gated: false, qkv_bias: &[] };
        let blocks = || backbone.vit().map_or_else(none, BlockSizes::of);
        Some(match self {
            Method::Freeze | Method::Full | Method::Bitfit | Method::Norms => return None,
            Method::Rein => {
                AdapterConfig::Rein(ReinConfig { patch, ..ReinConfig::of_stages(stages) })
            }
            Method::Lora => AdapterConfig::Lora(LoraConfig::published(n, c)),
            Method::Adaptformer => AdapterConfig::AdaptFormer(AdaptFormerConfig::published(n, c)),
            Method::Vpt => AdapterConfig::Vpt(VptConfig { patch, ..VptConfig::published(n, c) }),
            Method::Soma => AdapterConfig::Decomposed(DecomposedConfig::soma(blocks())),
            Method::RecycleLora => AdapterConfig::Decomposed(DecomposedConfig::recycle(blocks())),
        })
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Method::Rein => "rein",
            Method::Freeze => "freeze",
            Method::Full => "full",
            Method::Lora => "lora",
            Method::Adaptformer => "adaptformer",
            Method::Vpt => "vpt",
            Method::Soma => "soma",
            Method::RecycleLora => "recycle-lora",
            Method::Bitfit => "bitfit",
            Method::Norms => "norms",
        })
    }
}

/// Sizes of a whole network.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmenterConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// The adapter of [`SegmenterConfig::method`].
    pub adapter: Option<AdapterConfig>,
    /// Head and loss.
    pub objective: ObjectiveConfig,
    /// Method of adaptation, which decides the trained parameters.
    pub method: Method,
    /// Storage type of frozen matrices.
    pub precision: Precision,
    /// Choice of the values that the forward pass saves.
    pub recompute: RecomputePolicy,
    /// Whether the adapter is added to the weights of the backbone, for prediction alone.
    pub merge: bool,
}

impl SegmenterConfig {
    /// Rein, if it is the adapter.
    pub fn rein(&self) -> Option<&ReinConfig> {
        self.adapter.as_ref()?.rein()
    }

    /// [`SegmenterConfig::rein`], to be changed.
    pub fn rein_mut(&mut self) -> Option<&mut ReinConfig> {
        self.adapter.as_mut()?.rein_mut()
    }

    /// The published head and adapter on `backbone`. The head takes Rein's queries if there are
    /// any.
    pub fn published(
        backbone: impl Into<BackboneConfig>,
        classes: usize,
        method: Method,
    ) -> SegmenterConfig {
        let backbone = backbone.into();
        let adapter = method.adapter(&backbone);
        let linked = adapter.as_ref().is_some_and(|adapter| adapter.rein().is_some());
        let source = if linked { Queries::Linked } else { Queries::Own };
        let head = HeadConfig::published(backbone.widths(), classes, source);
        let loss = CriterionConfig::published(classes);
        let objective = ObjectiveConfig::Mask2Former { head, loss };
        let (precision, recompute) = (Precision::F32, RecomputePolicy::None);
        let merge = false;
        SegmenterConfig { backbone, adapter, objective, method, precision, recompute, merge }
    }
}

/// Whether a parameter is neither changed by training nor computed by an adapter.
fn frozen(param: &Param) -> bool {
    let kind = param.kind();
    let computed = kind.buffer && kind.role == Role::Adapter;
    !param.trainable() && !kind.running && !computed
}

/// Backbone, adapter and objective.
type Modules = (Box<dyn Backbone>, Option<Box<dyn Adapter>>, Arc<dyn Objective>);

/// A segmentation network.
pub struct Segmenter {
    backbone: Box<dyn Backbone>,
    adapter: Option<Box<dyn Adapter>>,
    objective: Arc<dyn Objective>,
    method: Method,
    merges: bool,
    recompute: RecomputePolicy,
    params: BTreeMap<String, Param>,
    digests: Digests,
    /// Device of the parameters and the type of activations there.
    place: Option<(Device, DType)>,
    /// Mapped files whose weights are used in place, without a copy.
    files: Vec<Arc<MappedFile>>,
    /// Batch norms whose statistics training moves.
    batch_norms: Vec<Arc<BatchNorm>>,
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
        let (method, merges, unused) = (config.method, config.merge, Self::unused(&config));
        let (precision, recompute) = (config.precision, config.recompute);
        let root = Scope::with_weights(dtype, precision, seed, weights, strict);
        let (backbone, adapter, objective) = Self::modules(&root, config)?;
        let ignored: Vec<&str> = unused.iter().map(String::as_str).collect();
        let params = root.finish("the network", &ignored)?;
        let (digests, place, files) = (root.digests(), None, root.files());
        let batch_norms = root.batch_norms();
        Ok(Segmenter {
            backbone,
            adapter,
            objective,
            method,
            merges,
            recompute,
            params,
            digests,
            place,
            files,
            batch_norms,
        })
    }

    /// Checks that no file with weights in use was written to since it was opened. After such a
    /// write the network may have changed. There are such files only if the weights are used in
    /// place ([`StateDict::use_in_place`]).
    ///
    /// # Errors
    /// [`Read`](crate::ModelError::Read) with the file.
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
            if frozen(param) && old.device().is_none() && !self.digests.contains_key(name) {
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
        let linked = config.rein().is_some_and(|rein| rein.link);
        let link = ["transform.weight", "transform.bias", "merge.weight", "merge.bias"];
        let stages = config.backbone.stages().len();
        let modules = (0..stages).map(|i| if stages > 1 { format!("{i}.") } else { String::new() });
        let of_module = |i: String| link.map(|name| format!("backbone.reins.{i}{name}"));
        let link = modules.filter(|_| !linked).flat_map(of_module);
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
        let scope = root.sub("backbone");
        if let Some(adapter) = &config.adapter {
            config.backbone.takes(adapter)?;
        }
        match (config.method, &config.adapter) {
            (Method::Bitfit, _) => scope.tune(|name, _| name.ends_with("bias")),
            (Method::Norms, _) => scope.tune(|_, kind| kind.norm),
            (_, Some(adapter)) => adapter.announce(&scope, config.merge),
            _ => {}
        }
        let frozen = scope.role(Role::Backbone).trainable(config.method == Method::Full);
        let backbone = config.backbone.build(&frozen)?;
        let (widths, channels) = (backbone.widths(), config.objective.in_channels());
        if widths != channels {
            let text =
                format!("the backbone's maps have {widths:?} channels, the head {channels:?}");
            return Err(ModelError::Config(text));
        }
        let objective =
            config.objective.build(root, config.adapter.as_ref().and_then(AdapterConfig::rein))?;
        let scope = scope.role(Role::Adapter);
        let mut adapter = config.adapter.map(|adapter| adapter.build(&scope)).transpose()?;
        if let Some(adapter) = adapter.take_if(|_| config.merge) {
            adapter.merge(&scope)?;
        }
        Ok((backbone, adapter, objective))
    }

    /// The backbone.
    pub fn backbone(&self) -> &dyn Backbone {
        self.backbone.as_ref()
    }

    /// The adapter.
    pub fn adapter(&self) -> Option<&dyn Adapter> {
        self.adapter.as_deref()
    }

    /// Head and loss.
    pub fn objective(&self) -> &Arc<dyn Objective> {
        &self.objective
    }

    /// Method of adaptation, which decides the trained parameters.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Whether the adapter was added to the weights of the backbone.
    pub fn merges(&self) -> bool {
        self.merges
    }

    /// All parameters by reference key.
    pub fn params(&self) -> &BTreeMap<String, Param> {
        &self.params
    }

    /// Parameters the optimiser updates, by name.
    pub fn trainable(&self) -> Vec<Param> {
        self.params.values().filter(|p| p.trainable()).cloned().collect()
    }

    /// Parameters that a checkpoint has, by name: those of [`Segmenter::trainable`], running
    /// statistics, and constants that an adapter has computed.
    pub fn changing(&self) -> Vec<Param> {
        self.params.values().filter(|p| !frozen(p)).cloned().collect()
    }

    /// Fingerprint of the frozen weights that a checkpoint of the trained part belongs to. It is
    /// the same for every precision, because it is of the values before rounding.
    pub fn backbone_fingerprint(&self) -> String {
        fingerprint_with(self.params.values().filter(|p| frozen(p)), &self.digests)
    }

    /// Result of `f` on the features of `image` `[b, 3, h, w]` (normalised), differentiable.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch; errors of `f`.
    pub fn with_features<R>(
        &self,
        image: &Tensor,
        f: impl FnOnce(&Features) -> Result<R>,
    ) -> Result<R> {
        self.with_features_of(image, None, f)
    }

    fn with_features_of<R>(
        &self,
        image: &Tensor,
        generator: Option<&Generator>,
        f: impl FnOnce(&Features) -> Result<R>,
    ) -> Result<R> {
        with_recompute_policy(self.recompute, || {
            let step = self.adapter.as_ref().map(|adapter| adapter.step(generator)).transpose()?;
            let forward = |adapter| match generator {
                Some(generator) => self.backbone.train(image, adapter, generator),
                None => self.backbone.forward(image, adapter),
            };
            let levels = match self.method {
                // Nothing below the head trains, so nothing of it is saved for the backward pass.
                Method::Freeze => no_grad(|| forward(None))?,
                _ => forward(step.as_ref())?,
            };
            let queries = step.as_ref().and_then(|step| step.queries()).cloned();
            f(&Features { levels, queries, size: [image.dim(2), image.dim(3)] })
        })
    }

    /// Computes the predictions of a training step for `image` `[b, 3, h, w]` (normalised). Dropout
    /// draws from `generator`.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch.
    pub fn predict(
        &self,
        image: &Tensor,
        generator: &Generator,
        loss: &mut dyn StepLoss,
    ) -> Result<()> {
        self.with_features_of(image, Some(generator), |features| loss.predict(features))
    }

    /// Moves running statistics towards those of the batch of the last predictions. Nothing changes if
    /// `guard`, the loss on a device, is not finite.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn move_statistics(&self, guard: Option<&Tensor>) -> Result<()> {
        self.batch_norms.iter().try_for_each(|norm| norm.move_running(guard))
    }

    /// Whether training moves running statistics, which depend on the images computed at once.
    pub fn moves_statistics(&self) -> bool {
        !self.batch_norms.is_empty()
    }

    /// Class scores of `image` `[b, 3, h, w]`: `[b, k, h, w]`, f32.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch.
    pub fn scores(&self, image: &Tensor) -> Result<Tensor> {
        no_grad(|| self.with_features(image, |features| self.objective.scores(features)))
    }
}
