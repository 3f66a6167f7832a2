//! ResNets with both stems, with the statistics of the batch and with running ones.

use dressage_engine::{DType, Device, Tensor};
use dressage_models::backbone::{Backbone, ResNet, ResNetConfig, Stem};
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::convert_backbone;
use dressage_tests::Outcome;
use dressage_tests::compare::{Bound, Table};
use dressage_tests::fixture::{Fixture, Settings};

use crate::layout::{channels_first, channels_last, gradients, parameter_gradients_of};

fn config(fixture: &Fixture) -> Outcome<ResNetConfig> {
    let four = |key: &str| -> Outcome<[usize; 4]> {
        let sizes = fixture.json.sizes(key)?;
        sizes.try_into().map_err(|sizes| format!("{key} is {sizes:?}: four are needed").into())
    };
    let deep = fixture.json.word("stem_type") == "deep";
    let last = if deep { "weight.conv1.6.weight" } else { "weight.conv1.weight" };
    Ok(ResNetConfig {
        stem: if deep { Stem::Deep } else { Stem::Single },
        stem_width: fixture.shape(last)?[0],
        widths: four("ch")?,
        depths: four("layers")?,
        dilated: false,
        frozen_statistics: false,
    })
}

/// Name in the file of a parameter of the network.
fn theirs(config: &ResNetConfig, name: &str) -> String {
    let Some(rest) = name.strip_prefix("stem.").filter(|_| config.stem == Stem::Deep) else {
        return name.to_string();
    };
    rest.strip_prefix("7.").map_or(format!("conv1.{rest}"), |rest| format!("bn1.{rest}"))
}

/// Compares the maps of stem and stages, all gradients, and the statistics after the step: on the host
/// in f64 and f32, and on the virtual GPU.
pub fn resnet(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    resnet_at(fixture, table, None, DType::F64)?;
    for device in [None, Some(Device::virtual_gpu())] {
        resnet_at(fixture, table, device.as_ref(), DType::F32)?;
    }
    Ok(())
}

/// The values in f64.
fn wide(x: &Tensor) -> Outcome<Tensor> {
    let values: Vec<f64> = x.data::<f32>()?.iter().map(|&x| f64::from(x)).collect();
    Ok(Tensor::from_slice(&values, x.shape())?)
}

/// The values in f32, on the host.
fn narrow(x: &Tensor) -> Outcome<Tensor> {
    let x = x.detach().to_host()?;
    if x.dtype() != DType::F64 {
        return Ok(x);
    }
    let values: Vec<f32> = x.data::<f64>()?.iter().map(|&x| x as f32).collect();
    Ok(Tensor::from_slice(&values, x.shape())?)
}

fn resnet_at(
    fixture: &Fixture,
    table: &mut Table,
    device: Option<&Device>,
    dtype: DType,
) -> Outcome<()> {
    let config = config(fixture)?;
    let training = fixture.json.word("bn_mode") == "train";
    let weights = fixture.weights("weight.", "", &[]);
    let weights = convert_backbone(weights, &config.clone().into())?.renamed("backbone.", "");
    let scope = Scope::with_weights(dtype, Precision::F32, 0, weights, &[""]);
    let resnet = ResNet::new(&scope, config.clone())?;
    let params = scope.finish("the backbone", &[])?;
    let here = |x: Tensor| -> Outcome<Tensor> {
        match device {
            Some(device) => Ok(x.to_device(device, DType::F32)?),
            None if dtype == DType::F64 => wide(&x),
            None => Ok(x),
        }
    };
    if let Some(device) = device {
        params.values().try_for_each(|param| param.to_device(device, DType::F32))?;
    }
    let input = here(fixture.floats("input")?)?.leaf();
    let stem = resnet.reduced(&input, training)?;
    let levels = resnet.pyramid(stem.clone(), None, training)?;
    let mut pairs = Vec::new();
    let maps = levels.iter().enumerate().map(|(i, level)| (format!("stage.{i}"), &level.map));
    for (name, map) in maps.chain([("stem_after_maxpool".to_string(), &stem)]) {
        let (got, name_of) = (channels_first(&narrow(map)?)?, format!("output.{name}"));
        if training && dtype == DType::F32 {
            // Norms over a dozen values enlarge the rounding of small values.
            let want = fixture.floats(&name_of)?;
            let largest = want.data::<f32>()?.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
            table.within(&name_of, &got, &want, |_| Bound::abs(1e-4 * f64::from(largest)))?;
        } else {
            table.close(fixture, &name_of, &got)?;
        }
        let probe = channels_last(&fixture.floats(&format!("probe.{name}"))?)?;
        pairs.push((map.clone(), here(probe)?));
    }
    let recorded = fixture.names("output.").len();
    if pairs.len() != recorded {
        table.fail(format!("{} outputs, recorded {recorded}", pairs.len()));
    }
    let mut grads = gradients(&pairs)?;
    let host = |x: Option<Tensor>| x.map(|x| narrow(&x)).transpose();
    let got = host(grads.take(&input))?;
    table.gradient(fixture, "grad.input", got.as_ref())?;
    let names: Vec<String> = params.keys().map(|name| theirs(&config, name)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut own = params.values().map(|param| host(grads.take(&param.get())));
    let all = own.by_ref().collect::<Result<Vec<_>, _>>()?;
    let gradient = |name: &str| all[names.iter().position(|own| *own == name)?].clone();
    parameter_gradients_of(fixture, table, &names, "weight.", gradient)?;
    scope.batch_norms().iter().try_for_each(|norm| norm.move_running(None))?;
    let after = fixture.names("after.");
    for (name, param) in &params {
        let name = theirs(&config, name);
        if after.contains(&name) {
            table.close(fixture, &format!("after.{name}"), &narrow(&param.master())?)?;
        } else if training && param.kind().running {
            table.fail(format!("after.{name}: nothing is recorded"));
        }
    }
    // The whole backbone, as a network calls it.
    let whole = match training {
        true => return Ok(()),
        false => resnet.forward(&input, None)?,
    };
    let same = whole.iter().zip(&levels).all(|(whole, part)| {
        let bytes = |x: &Tensor| x.detach().to_host().map(|x| x.bytes().to_vec()).ok();
        bytes(&whole.map) == bytes(&part.map)
    });
    table.equal("forward", &[same], &[true]);
    Ok(())
}
