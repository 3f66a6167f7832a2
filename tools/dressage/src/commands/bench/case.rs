//! The measured parts and their sizes.

use clap::ValueEnum;
use dressage_engine::RecomputePolicy;
use dressage_models::backbone::{BackboneConfig, Ffn, PUBLISHED, Published, VitConfig};
use dressage_models::{Method, Precision};

use crate::failure::Failure;

/// Side of a patch in pixels, as in the published recipes.
pub const PATCH: usize = 16;

/// Name of a network of a few thousand weights, to try a device out.
pub const TINY: &str = "tiny";

/// Something to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A whole training step: Rein and Mask2Former on a frozen backbone
    Step,
    /// The backbone with Rein: forward, backward, inference
    Backbone,
    /// The frozen backbone alone, inference
    Forward,
    /// One frozen block: forward, and forward with the gradient of its input
    Block,
    /// Matrix products at the sizes of the network, and a copy
    Gemm,
    /// Layer norms of the backbone and of the pixel decoder
    Layernorm,
    /// Self-attention of a block
    Attention,
    /// Masked cross-attention of the head, and its masks
    #[value(name = "masked_attention")]
    MaskedAttention,
    /// Rein after one block, with the gradients of all its inputs
    Rein,
    /// Multi-scale deformable attention of the pixel decoder
    Deform,
    /// The six single operations above; with --device cuda all kernels
    #[value(alias = "kernel")]
    Kernels,
}

impl Part {
    /// The single operations.
    const KERNELS: [Part; 6] = [
        Part::Gemm,
        Part::Layernorm,
        Part::Attention,
        Part::MaskedAttention,
        Part::Rein,
        Part::Deform,
    ];

    /// Returns its name on the command line and in JSON.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// Returns the parts that are measured one by one.
    pub fn single(self) -> Vec<Part> {
        if self == Part::Kernels { Part::KERNELS.to_vec() } else { vec![self] }
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Case {
    /// The measured part.
    pub part: Part,
    /// Short name of a published backbone, or [`TINY`].
    pub model: String,
    /// The backbone, for images of `size`.
    pub config: BackboneConfig,
    /// Side of the images in pixels.
    pub size: usize,
    /// Images per batch.
    pub batch: usize,
    /// Timed runs.
    pub iters: usize,
    /// Untimed runs before those.
    pub warmup: usize,
    /// Type of the stored frozen matrices.
    pub precision: Precision,
    /// Recompute level of a step.
    pub recompute: RecomputePolicy,
    /// Method of adaptation of a step.
    pub method: Method,
}

impl Case {
    /// Returns a case of the backbone `model` at its published sizes: one image, one untimed run
    /// and one timed run.
    ///
    /// # Errors
    /// A size that is not a multiple of 32, or an unknown model.
    pub fn new(part: Part, model: &str, size: usize) -> Result<Case, Failure> {
        if size == 0 || !size.is_multiple_of(2 * PATCH) {
            let side = 2 * PATCH;
            return Err(Failure::Message(format!("--size {size}: must be a multiple of {side}")));
        }
        let config = match model {
            TINY => tiny(size / PATCH).into(),
            _ => published(model)?.at(PATCH, size / PATCH),
        };
        let (precision, recompute) = (Precision::F32, RecomputePolicy::None);
        let model = model.to_owned();
        let (batch, iters, warmup, method) = (1, 1, 1, Method::Rein);
        Ok(Case { part, model, config, size, batch, iters, warmup, precision, recompute, method })
    }

    /// Returns a title such as `block, ViT-L, 512 px`.
    pub fn title(&self) -> String {
        let network = match (published(&self.model), self.config.vit()) {
            (Ok(published), Some(_)) => format!("ViT-{}", published.size),
            (Ok(published), None) => published.title(),
            (Err(_), _) => format!("ViT-{TINY}"),
        };
        let mut title = format!("{}, {network}, {} px", self.part.name(), self.size);
        if self.method != Method::Rein {
            title += &format!(", {}", self.method);
        }
        if self.batch > 1 {
            title += &format!(", batch {}", self.batch);
        }
        if self.precision == Precision::Bf16 {
            title += ", bf16";
        }
        if self.recompute != RecomputePolicy::None {
            title += &format!(", recompute {}", self.recompute);
        }
        title
    }

    /// Returns the vision transformer, which parts of a network take.
    ///
    /// # Errors
    /// A backbone that is none.
    pub fn vit(&self) -> Result<&VitConfig, Failure> {
        self.config.vit().ok_or_else(|| {
            let (part, model) = (self.part.name(), &self.model);
            let what = format!("--model {model}: {part} takes vision transformers only");
            Failure::Message(format!("{what}; step, backbone and forward take any backbone"))
        })
    }

    /// Returns blocks, channels (of the first stage, if there are several) and attention heads.
    pub fn sizes(&self) -> [usize; 3] {
        let stages = self.config.stages();
        let width = stages.first().map_or(0, |stage| stage.width);
        let heads = self.config.vit().map_or(1, |vit| vit.heads);
        [stages.iter().map(|stage| stage.blocks).sum(), width, heads]
    }

    /// Returns the number of patches of an image.
    pub fn patches(&self) -> usize {
        (self.size / PATCH).pow(2)
    }

    /// Returns the sizes of the pixel decoder's levels, from the smallest.
    pub fn levels(&self) -> [(usize, usize); 3] {
        [32, 16, 8].map(|stride| (self.size / stride, self.size / stride))
    }

    /// Returns the options of a peer for the same work.
    ///
    /// # Errors
    /// A backbone whose MLP the peers do not have, or a method that they do not have.
    pub fn peer_options(&self) -> Result<Vec<String>, Failure> {
        if self.method != Method::Rein {
            let text = format!("--method {}: peers have rein; leave out --peer", self.method);
            return Err(Failure::Message(text));
        }
        let named = self.part == Part::Forward;
        if self.config.vit().is_some_and(|vit| vit.ffn != Ffn::Mlp)
            && !named
            && !Part::KERNELS.contains(&self.part)
        {
            let text = format!("--model {}: peers have no SwiGLU; leave out --peer", self.model);
            return Err(Failure::Message(text));
        }
        let [depth, width, heads] = self.sizes();
        let mut options = vec!["--part".into(), self.part.name()];
        options.extend(["--precision", "fp32", "--device", "cpu"].map(String::from));
        for (key, value) in [
            ("--size", self.size),
            ("--width", width),
            ("--depth", depth),
            ("--heads", heads),
            ("--batch", self.batch),
            ("--iters", self.iters),
            // The peers want at least one.
            ("--warmup", self.warmup.max(1)),
        ] {
            options.extend([key.to_owned(), value.to_string()]);
        }
        if let (true, Ok(published)) = (named, published(&self.model)) {
            options.extend(["--network", published.name].map(String::from));
        }
        if self.config.vit().is_none() {
            let stages = self.config.stages();
            let blocks: Vec<_> = stages.iter().map(|stage| stage.blocks.to_string()).collect();
            options.extend(["--stages".to_owned(), blocks.join(",")]);
        }
        if let BackboneConfig::ResNet(_) = self.config {
            options.push("--bottlenecks".into());
        }
        Ok(options)
    }

    /// Returns the options of this program for this case alone.
    pub fn own_options(&self, threads: usize) -> Vec<String> {
        let precision = if self.precision == Precision::Bf16 { "bf16" } else { "f32" };
        let mut options = vec!["bench".into(), self.part.name()];
        for (key, value) in [
            ("--model", self.model.clone()),
            ("--size", self.size.to_string()),
            ("--batch", self.batch.to_string()),
            ("--iters", self.iters.to_string()),
            ("--warmup", self.warmup.to_string()),
            ("--threads", threads.to_string()),
            ("--precision", precision.to_owned()),
            ("--recompute", self.recompute.to_string()),
            ("--method", self.method.to_string()),
        ] {
            options.extend([key.to_owned(), value]);
        }
        options
    }
}

/// Returns the published backbone of this short name.
///
/// # Errors
/// Any other name.
pub fn published(short: &str) -> Result<&'static Published, Failure> {
    PUBLISHED.iter().find(|published| published.short == short).ok_or_else(|| {
        let names = PUBLISHED.iter().map(|published| published.short).collect::<Vec<_>>();
        let names = names.join(", ");
        Failure::Message(format!("backbone size `{short}` is none of {names}"))
    })
}

/// Returns the backbone of [`TINY`]: four blocks of 24 channels.
fn tiny(grid: usize) -> VitConfig {
    let (embed_dim, depth, heads) = (24, 4, 2);
    VitConfig::dinov2(embed_dim, depth, heads, Ffn::Mlp).at(PATCH, grid)
}
