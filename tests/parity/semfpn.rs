//! The semantic FPN: neck and head in both modes, and inference with Rein's backbone.

use std::collections::BTreeMap;

use dressage_engine::{DType, Device, Param, RecomputePolicy, Tensor, backward, ops};
use dressage_models::adapter::{AdapterConfig, ReinConfig};
use dressage_models::backbone::{Level, PUBLISHED, VitConfig};
use dressage_models::objective::ObjectiveConfig;
use dressage_models::objective::semfpn::{SemFpn, SemFpnConfig};
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::StateDict;
use dressage_models::{Method, Segmenter, SegmenterConfig};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};
use dressage_train::evaluate::argmax;
use dressage_train::windows::slide as windows;

use crate::layout::{channels_first, channels_last, parameter_gradients_of};
use crate::slide::windows_of;

fn config(fixture: &Fixture) -> Outcome<SemFpnConfig> {
    let (neck, head) = (&fixture.json["neck"], &fixture.json["decode_head"]);
    Ok(SemFpnConfig {
        in_channels: (neck.sizes("in_channels")?.try_into())
            .map_err(|c| format!("{c:?}: four levels are needed"))?,
        neck: neck.size("out_channels")?,
        channels: head.size("channels")?,
        classes: head.size("num_classes")?,
        dropout: head.number("dropout_ratio")?,
    })
}

/// The weights, without the counters of batches.
fn weights(fixture: &Fixture) -> StateDict {
    let mut weights = fixture.weights("param.", "", &["backbone.mask_token"]);
    weights.retain(|name| !name.ends_with(".num_batches_tracked"));
    weights
}

/// Neck and head with recorded weights, on the host or on a device.
struct Network {
    semfpn: SemFpn,
    params: BTreeMap<String, Param>,
    device: Option<Device>,
}

impl Network {
    fn new(fixture: &Fixture, device: Option<Device>) -> Outcome<(Network, Scope)> {
        let root = Scope::with_weights(DType::F32, Precision::F32, 0, weights(fixture), &[""]);
        let semfpn = SemFpn::new(&root, config(fixture)?);
        let params = root.finish("the semantic FPN", &[])?;
        if let Some(device) = &device {
            params.values().try_for_each(|param| param.to_device(device, DType::F32))?;
        }
        Ok((Network { semfpn, params, device }, root))
    }

    fn here(&self, x: Tensor) -> Outcome<Tensor> {
        let dtype = x.dtype();
        Ok(self.device.as_ref().map_or(Ok(x.clone()), |device| x.to_device(device, dtype))?)
    }
}

fn host(x: &Tensor) -> Outcome<Tensor> {
    Ok(x.detach().to_host()?)
}

/// Compares neck, logits, loss, accuracy, all gradients and the statistics after the step, on the host
/// and on the virtual GPU.
pub fn neck_and_head(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    for device in [None, Some(Device::virtual_gpu())] {
        neck_and_head_at(fixture, table, device)?;
    }
    Ok(())
}

fn neck_and_head_at(fixture: &Fixture, table: &mut Table, device: Option<Device>) -> Outcome<()> {
    let (network, root) = Network::new(fixture, device)?;
    let training = fixture.json.word("mode") == "train";
    let mut feats = Vec::new();
    for i in 0..fixture.names("input.feat.").len() {
        let map = channels_last(&fixture.floats(&format!("input.feat.{i}"))?)?;
        feats.push(network.here(map)?.leaf());
    }
    let levels: Vec<Level> = feats.iter().cloned().map(Level::plain).collect();
    let maps = network.semfpn.neck(&levels)?;
    for (i, map) in maps.iter().enumerate() {
        table.close(fixture, &format!("output.neck.{i}"), &channels_first(&host(map)?)?)?;
    }
    let dropout = match fixture.has("input.dropout_keep") {
        true => Some(network.here(factors(fixture)?)?),
        false => None,
    };
    let logits = network.semfpn.head(&maps, training, dropout.as_ref())?;
    table.close(fixture, "output.seg_logits", &host(&logits)?)?;
    let shape = fixture.shape("input.gt_sem_seg")?.to_vec();
    let wide = fixture.integers("input.gt_sem_seg")?;
    let labels = wide.iter().map(|&v| u8::try_from(v)).collect::<Result<Vec<_>, _>>()?;
    let resized = ops::resize_maps(&logits, [shape[1], shape[2]])?;
    accuracy(fixture, table, &host(&resized)?, &wide)?;
    let labels = network.here(Tensor::from_slice(&labels, &shape)?)?;
    let loss = ops::pixel_loss(&resized, &labels, 1.0)?;
    table.close(fixture, "output.loss_ce", &host(&loss)?)?;
    let mut grads = backward(loss)?;
    for (i, feat) in feats.iter().enumerate() {
        let got = grads.take(feat).ok_or("no gradient of a map")?;
        let got = channels_first(&host(&got)?)?;
        table.gradient(fixture, &format!("grad.input.feat.{i}"), Some(&got))?;
    }
    let mut gradients = BTreeMap::new();
    for (name, param) in network.params.iter().filter(|(_, param)| param.trainable()) {
        if let Some(got) = grads.take(&param.get()) {
            gradients.insert(name.as_str(), host(&got)?);
        }
    }
    let names: Vec<&str> = network.params.keys().map(String::as_str).collect();
    parameter_gradients_of(fixture, table, &names, "", |name| gradients.remove(name))?;
    root.batch_norms().iter().try_for_each(|norm| norm.move_running(None))?;
    let recorded = fixture.names("output.after.");
    for name in recorded.iter().filter(|name| !name.ends_with(".num_batches_tracked")) {
        let param = network.params.get(name).ok_or_else(|| format!("there is no {name}"))?;
        table.close(fixture, &format!("output.after.{name}"), &host(&param.master())?)?;
    }
    Ok(())
}

/// Factors `[b, c]` of the recorded channel dropout.
fn factors(fixture: &Fixture) -> Outcome<Tensor> {
    let (keep, shape) =
        (fixture.integers("input.dropout_keep")?, fixture.shape("input.dropout_keep")?);
    let kept = 1.0 - config(fixture)?.dropout;
    let factors: Vec<f32> = keep.iter().map(|&k| (k as f64 / kept) as f32).collect();
    Ok(Tensor::from_slice(&factors, &shape[..2])?)
}

/// Compares the share of labelled pixels with the right class, in percent. One pixel may differ.
fn accuracy(fixture: &Fixture, table: &mut Table, logits: &Tensor, labels: &[i64]) -> Outcome<()> {
    let (classes, pixels) = (logits.dim(1), logits.dim(2) * logits.dim(3));
    let images = logits.data::<f32>()?.chunks_exact(classes * pixels);
    let chosen: Vec<_> = images.flat_map(|image| argmax(image, classes)).collect();
    let valid = labels.iter().filter(|label| **label != 255).count().max(1);
    let right = chosen.iter().zip(labels).filter(|(c, label)| i64::from(**c) == **label).count();
    let recorded = fixture.floats("output.acc_seg")?;
    let recorded = f64::from(recorded.data::<f32>()?[0]);
    let (got, pixel) = (100.0 * right as f64 / valid as f64, 100.0 / valid as f64);
    if (got - recorded).abs() > 1.01 * pixel {
        table.fail(format!("output.acc_seg: {got} instead of {recorded}"));
    }
    Ok(())
}

/// Compares the whole network with Rein at test time, on the host and on the virtual GPU.
pub fn slide(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    for device in [None, Some(Device::virtual_gpu())] {
        let mut model = Segmenter::new(network(fixture)?, DType::F32, 0, weights(fixture), &[""])?;
        if let Some(device) = &device {
            model.to_device(device, DType::F32)?;
        }
        let slide = &fixture.json["slide"];
        let [h, w] = fixed(slide.sizes("image")?)?;
        let grid = windows(h, w, slide.size("crop")?, slide.size("stride")?)?;
        windows_of(fixture, table, &model, &grid, fixed(slide.sizes("ori")?)?)?;
    }
    Ok(())
}

fn fixed(sizes: Vec<usize>) -> Outcome<[usize; 2]> {
    sizes.try_into().map_err(|sizes| format!("{sizes:?} is no height and width").into())
}

fn network(fixture: &Fixture) -> Outcome<SegmenterConfig> {
    let (backbone, reins) = (&fixture.json["backbone"], &fixture.json["reins"]);
    let (embed_dim, depth) = (backbone.size("embed")?, backbone.size("depth")?);
    let (patch, ratio) = (backbone.size("patch")?, backbone.number("mlp_ratio")?);
    let taps = fixture.json.sizes("out_indices")?;
    let vit = VitConfig {
        embed_dim,
        depth,
        heads: backbone.size("heads")?,
        patch,
        grid: backbone.size("img")? / patch,
        hidden: (embed_dim as f64 * ratio) as usize,
        taps: taps.try_into().map_err(|taps| format!("{taps:?}: four taps are needed"))?,
        ..PUBLISHED[0].vit()?.clone()
    };
    let rein = ReinConfig {
        patch,
        tokens: reins.size("token_length")?,
        rank: reins.size("lora_dim")?,
        link: reins.switch("link_token_to_query", true),
        ..ReinConfig::published(depth, embed_dim)
    };
    Ok(SegmenterConfig {
        backbone: vit.into(),
        adapter: Some(AdapterConfig::Rein(rein)),
        objective: ObjectiveConfig::SemFpn(config(fixture)?),
        method: Method::Rein,
        precision: Precision::F32,
        recompute: RecomputePolicy::None,
        merge: false,
    })
}
