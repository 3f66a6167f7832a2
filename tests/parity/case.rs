//! A backbone with the weights of a fixture under the names of a published file.
//!
//! Weights go through the conversion of published files, and so do the recorded gradients, since
//! both have the same names and shapes.

use dressage_engine::{DType, Tensor, ops};
use dressage_models::Result;
use dressage_models::backbone::BackboneConfig;
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::{StateDict, convert_backbone};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::Fixture;

use crate::layout::{channels_first, channels_last, gradients};

/// A network with the weights of a fixture, and what its outputs are compared with.
pub struct Case<'a, N> {
    fixture: &'a Fixture,
    table: &'a mut Table,
    config: BackboneConfig,
    pub scope: Scope,
    pub net: N,
    /// Prefix of the weights in the fixture.
    prefix: &'static str,
    /// Outputs with their loss weights.
    pairs: Vec<(Tensor, Tensor)>,
    /// Parameters beside the network, with their names in the fixture.
    beside: Vec<(String, Tensor)>,
}

impl<'a, N> Case<'a, N> {
    /// The network that `build` makes of the converted weights. `prefix` is that of their names.
    pub fn new(
        fixture: &'a Fixture,
        table: &'a mut Table,
        config: BackboneConfig,
        prefix: &'static str,
        build: impl FnOnce(&Scope) -> Result<N>,
    ) -> Outcome<Case<'a, N>> {
        let dict = of_network(fixture.weights(prefix, "", &[]), &config)?;
        let scope = Scope::with_weights(DType::F32, Precision::F32, 0, dict, &[""]);
        let net = build(&scope)?;
        let (pairs, beside) = (Vec::new(), Vec::new());
        Ok(Case { fixture, table, config, scope, net, prefix, pairs, beside })
    }

    /// Compares an output and adds it to the loss.
    pub fn add(&mut self, name: &str, y: &Tensor) -> Outcome<()> {
        self.pair(&format!("output.{name}"), &format!("probe.{name}"), y)
    }

    /// [`Case::add`] with other names.
    pub fn pair(&mut self, output: &str, probe: &str, y: &Tensor) -> Outcome<()> {
        self.table.close(self.fixture, output, y)?;
        let probe = ops::reshape(&self.fixture.floats(probe)?, y.shape())?;
        self.pairs.push((y.clone(), probe));
        Ok(())
    }

    /// Adds a map `[b, h, w, c]` that is recorded as `[b, c, h, w]`.
    pub fn add_map(&mut self, name: &str, y: &Tensor) -> Outcome<()> {
        self.table.close(self.fixture, &format!("output.{name}"), &channels_first(y)?)?;
        let probe = channels_last(&self.fixture.floats(&format!("probe.{name}"))?)?;
        self.pairs.push((y.clone(), probe));
        Ok(())
    }

    /// A recorded parameter that the network does not have.
    pub fn leaf(&mut self, name: &str) -> Outcome<Tensor> {
        let leaf = self.fixture.floats(&format!("{}{name}", self.prefix))?.leaf();
        self.beside.push((name.into(), leaf.clone()));
        Ok(leaf)
    }

    /// Compares the gradients of inputs and parameters. `kept` says which recorded outputs are
    /// compared.
    pub fn finish(self, inputs: &[(&str, Tensor)], kept: impl Fn(&str) -> bool) -> Outcome<()> {
        let recorded = self.fixture.names("output.").iter().filter(|name| kept(name)).count();
        if self.pairs.len() != recorded {
            self.table.fail(format!("{} outputs, recorded {recorded}", self.pairs.len()));
        }
        let mut grads = gradients(&self.pairs)?;
        for (name, input) in inputs {
            self.table.gradient(self.fixture, name, grads.take(input).as_ref())?;
        }
        for (name, leaf) in &self.beside {
            let key = format!("grad.{}{name}", self.prefix.replace("param.", ""));
            self.table.gradient(self.fixture, &key, grads.take(leaf).as_ref())?;
        }
        // Gradients that are not recorded are filled in two ways and told apart by that.
        let [zeros, ones] = [0.0, 1.0].map(|fill| self.recorded(fill));
        let (zeros, ones) = (zeros?, ones?);
        for (name, param) in self.scope.finish("the network", &[])? {
            let (Some(want), Some(other)) = (zeros.get(&name), ones.get(&name)) else {
                self.table.fail(format!("{name}: no such tensor in the file"));
                continue;
            };
            let float = |t: &dressage_models::weights::Stored| t.to_float(DType::F32);
            let (Some(want), Some(other)) = (float(want)?, float(other)?) else { continue };
            if param.kind().buffer || want.data::<f32>()? != other.data::<f32>()? {
                continue;
            }
            let largest = want.data::<f32>()?.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            match grads.take(&param.get()) {
                Some(got) => self.table.close_to(&format!("grad.{name}"), &got, &want)?,
                None if largest == 0.0 => {}
                None => self.table.fail(format!("grad.{name}: no gradient arrived")),
            }
        }
        Ok(())
    }

    /// Recorded gradients under the names of the network; those that are not recorded are `fill`.
    fn recorded(&self, fill: f32) -> Outcome<StateDict> {
        let of = format!("grad.{}", self.prefix.replace("param.", ""));
        let mut dict = self.fixture.weights(self.prefix, "", &[]);
        let names: Vec<String> = dict.names().cloned().collect();
        for name in names {
            // A mask is part of the conversion, not of what is converted.
            if name.ends_with("bias_mask") {
                continue;
            }
            let shape = self.fixture.shape(&format!("{}{name}", self.prefix))?;
            let gradient = match self.fixture.floats(&format!("{of}{name}")) {
                Ok(gradient) => gradient,
                Err(_) => Tensor::full(shape, fill),
            };
            dict.insert(name, gradient);
        }
        of_network(dict, &self.config)
    }
}

/// What a file of the family would give the network, with what the reference adds to the network:
/// Rein, and the norms of ConvNeXt's maps.
fn of_network(mut weights: StateDict, config: &BackboneConfig) -> Outcome<StateDict> {
    let added = weights.part(|name| name.starts_with("reins.") || name.starts_with("out_norm"));
    let mut dict = converted(weights, config)?;
    let own = |name: String| name.strip_prefix("out_").map(str::to_owned).unwrap_or(name);
    dict.add(added.into_iter().map(|(name, tensor)| (own(name), tensor)));
    Ok(dict)
}

/// The weights as conversion of a published file gives them.
pub fn converted(weights: StateDict, config: &BackboneConfig) -> Outcome<StateDict> {
    Ok(convert_backbone(weights, config)?.renamed("backbone.", ""))
}

/// Prefixes of the weights in the two kinds of fixtures.
pub const WEIGHT: &str = "weight.";
pub const PARAM: &str = "param.";
