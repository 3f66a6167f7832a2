//! Learning rate and weight decay multipliers of each trainable tensor.
//!
//! Every tensor is its own group. A list of name parts is tried, longest part first (equal lengths
//! alphabetically). The first one that the tensor's dotted name contains decides alone. Without a
//! match, the weight and bias of a norm layer (group, layer or batch norm) do not decay; everything
//! else, including biases, decays in full. Source: spec training-and-data §1.4.

use dressage_engine::{ParamKind, Role};
pub use dressage_models::Method;

/// Multipliers of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Multiplier of the step's learning rate.
    pub lr_mult: f64,
    /// Multiplier of the optimiser's weight decay.
    pub decay_mult: f64,
}

/// A name part and its setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Part of a parameter's name.
    pub key: String,
    /// Setting of names that contain it.
    pub setting: Setting,
}

/// The rules of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroups {
    /// Rules, longest key first.
    rules: Vec<Rule>,
    /// Decay multiplier of norm layers that no rule matches.
    norm_decay_mult: f64,
    /// Learning rate multiplier of the backbone's own weights.
    backbone_lr_mult: f64,
    /// Learning rate multiplier of adapters.
    adapter_lr_mult: f64,
}

impl ParamGroups {
    /// Sorts the rules; an empty key would match every name and is dropped.
    pub fn new(mut rules: Vec<Rule>, norm_decay_mult: f64) -> Self {
        rules.retain(|rule| !rule.key.is_empty());
        rules.sort_by(|a, b| b.key.len().cmp(&a.key.len()).then_with(|| a.key.cmp(&b.key)));
        Self { rules, norm_decay_mult, backbone_lr_mult: 1.0, adapter_lr_mult: 1.0 }
    }

    /// The published list of a method. Only `Freeze` exempts `query_feat` from decay. The list of
    /// `Full` is that of `Rein`, so its class token, positions and layer scales decay.
    pub fn of(method: Method) -> Self {
        let keys: &[&str] = match method {
            Method::Freeze => &["query_embed", "query_feat", "level_embed", "norm"],
            _ => &["norm", "query_embed", "level_embed", "learnable_tokens", "reins.scale"],
        };
        let setting = Setting { lr_mult: 1.0, decay_mult: 0.0 };
        let rules = keys.iter().map(|key| Rule { key: (*key).to_owned(), setting }).collect();
        Self::new(rules, 0.0)
    }

    /// Multiplies the learning rate of the backbone's own weights (not Rein's) by `mult`, whatever
    /// rule matches. The paper trains `Full` with 0.1; its published configuration leaves that out.
    /// A rule with the key `backbone` would also override the rule that exempts norms from decay,
    /// so this is a separate factor.
    pub(crate) fn with_backbone_lr_mult(mut self, mult: f64) -> Self {
        self.backbone_lr_mult = mult;
        self
    }

    /// Multiplies the learning rate of everything that trains within a frozen backbone by `mult`:
    /// the adapter and the backbone's own biases or norms.
    pub(crate) fn with_adapter_lr_mult(mut self, mult: f64) -> Self {
        (self.adapter_lr_mult, self.backbone_lr_mult) = (mult, mult);
        self
    }

    /// Multiplies the learning rate of RecycleLoRA's second branch by `mult`.
    pub(crate) fn with_second_lr_mult(mut self, mult: f64) -> Self {
        let setting = Setting { lr_mult: mult, decay_mult: 1.0 };
        self.rules.push(Rule { key: ".second.lora_".into(), setting });
        self.rules = Self::new(self.rules, 0.0).rules;
        self
    }

    /// Setting of the parameter `name` of this kind.
    pub fn setting(&self, name: &str, kind: ParamKind) -> Setting {
        let hit = self.rules.iter().find(|rule| name.contains(&rule.key));
        let decay_mult = if kind.norm { self.norm_decay_mult } else { 1.0 };
        let mut setting = hit.map_or(Setting { lr_mult: 1.0, decay_mult }, |rule| rule.setting);
        setting.lr_mult *= match kind.role {
            Role::Backbone => self.backbone_lr_mult,
            Role::Adapter => self.adapter_lr_mult,
            Role::Head => 1.0,
        };
        setting
    }
}

#[cfg(test)]
mod tests {
    use dressage_models::backbone::published::named;
    use dressage_models::objective::ObjectiveConfig;
    use dressage_models::objective::mask2former::head::Queries;
    use dressage_models::params::Shapes;
    use dressage_models::{Segmenter, SegmenterConfig};

    use super::*;

    /// Parameters of ViT-S and a published head under `method`, with and without linked queries.
    fn network(method: Method) -> Shapes {
        let backbone = named("dinov2-s").expect("a known name").at(14, 16);
        let config = SegmenterConfig::published(backbone, 19, method);
        let mut own = config.clone();
        if let ObjectiveConfig::Mask2Former { head, .. } = &mut own.objective {
            head.source = Queries::Own;
        }
        if let Some(rein) = own.rein_mut() {
            rein.link = false;
        }
        let mut shapes = Segmenter::shapes(config).expect("shapes");
        shapes.extend(Segmenter::shapes(own).expect("shapes"));
        shapes
    }

    /// A part of the lists that the reference's optimiser builder makes.
    #[test]
    fn published_lists() {
        let shared = [
            ("decode_head.pixel_decoder.input_convs.0.conv.weight", true),
            ("decode_head.pixel_decoder.input_convs.0.conv.bias", true),
            ("decode_head.pixel_decoder.input_convs.0.gn.weight", false),
            ("decode_head.pixel_decoder.encoder.layers.1.norms.0.bias", false),
            ("decode_head.pixel_decoder.encoder.layers.1.self_attn.sampling_offsets.bias", true),
            ("decode_head.pixel_decoder.level_encoding.weight", true),
            ("decode_head.pixel_decoder.output_convs.0.gn.bias", false),
            ("decode_head.transformer_decoder.layers.0.cross_attn.attn.in_proj_bias", true),
            ("decode_head.transformer_decoder.post_norm.weight", false),
            ("decode_head.level_embed.weight", false),
            ("decode_head.query_embed.weight", false),
            ("decode_head.cls_embed.bias", true),
            ("decode_head.mask_embed.4.weight", true),
        ];
        let rein = [
            ("backbone.reins.scale", false),
            ("backbone.reins.learnable_tokens_a", false),
            ("backbone.reins.learnable_tokens_b", false),
            ("backbone.reins.mlp_token2feat.weight", true),
            ("backbone.reins.merge.bias", true),
            ("decode_head.querys2feat.weight", true),
        ];
        let full = [
            ("backbone.cls_token", true),
            ("backbone.pos_embed", true),
            ("backbone.blocks.3.norm1.weight", false),
            ("backbone.blocks.3.ls1.gamma", true),
            ("backbone.blocks.3.attn.qkv.bias", true),
            ("decode_head.query_feat.weight", true),
        ];
        let check = |method: Method, list: &[(&str, bool)]| {
            let (network, groups) = (network(method), ParamGroups::of(method));
            for (name, decay) in shared.iter().chain(list) {
                let param = &network[*name];
                assert!(param.trainable, "{method:?} {name}");
                let decays = groups.setting(name, param.kind).decay_mult == 1.0;
                assert_eq!(decays, *decay, "{method:?} {name}");
            }
        };
        check(Method::Rein, &rein);
        check(Method::Freeze, &[("decode_head.query_feat.weight", false)]);
        check(Method::Full, &full);
        let (rein, freeze) = (network(Method::Rein), network(Method::Freeze));
        assert!(full[..5].iter().all(|(name, _)| !freeze[*name].trainable));
        assert!(full[..5].iter().all(|(name, _)| !rein[*name].trainable));
        assert!(!freeze.keys().any(|name| name.contains("reins")));
        // Whole tokens are none of the published sizes.
        let tokens = ParamKind { role: Role::Adapter, ..ParamKind::default() };
        let tokens =
            ParamGroups::of(Method::Rein).setting("backbone.reins.learnable_tokens", tokens);
        assert_eq!(tokens.decay_mult, 0.0);
    }

    #[test]
    fn the_longest_key_decides_alone() {
        let rule = |key: &str, lr_mult: f64, decay_mult: f64| Rule {
            key: key.to_owned(),
            setting: Setting { lr_mult, decay_mult },
        };
        let rules =
            vec![rule("head", 2.0, 0.5), rule("head.norm", 3.0, 1.0), rule("aaaa", 5.0, 1.0)];
        let groups = ParamGroups::new(rules, 0.0);
        let at = |name: &str, norm: bool| {
            let s = groups.setting(name, ParamKind { norm, ..ParamKind::default() });
            (s.lr_mult, s.decay_mult)
        };
        assert_eq!(at("head.norm.weight", true), (3.0, 1.0));
        assert_eq!(at("head.weight", true), (2.0, 0.5));
        assert_eq!(at("head.aaaa", false), (5.0, 1.0), "equal length: alphabetical");
        assert_eq!(at("tail.weight", true), (1.0, 0.0));
        assert_eq!(at("tail.weight", false), (1.0, 1.0));
    }

    #[test]
    fn a_slow_backbone_keeps_its_decay() {
        let groups = ParamGroups::of(Method::Full).with_backbone_lr_mult(0.1);
        let kind = |role| ParamKind { role, ..ParamKind::default() };
        let norm = ParamKind { norm: true, ..kind(Role::Backbone) };
        let norm = groups.setting("backbone.blocks.0.norm1.weight", norm);
        assert_eq!((norm.lr_mult, norm.decay_mult), (0.1, 0.0));
        assert_eq!(groups.setting("backbone.pos_embed", kind(Role::Backbone)).decay_mult, 1.0);
        assert_eq!(groups.setting("backbone.reins.scale", kind(Role::Adapter)).lr_mult, 1.0);
        assert_eq!(groups.setting("decode_head.cls_embed.bias", kind(Role::Head)).lr_mult, 1.0);
    }

    /// All tensors of the three full-size configurations, if the recorded lists are available.
    #[test]
    fn recorded_groups() {
        for (file, json) in crate::recorded("schedule.json") {
            for (config, recorded) in json["param_groups"].as_object().expect("configs") {
                let tensors = recorded["groups"].as_array().expect("groups");
                let has = |part: &str| {
                    tensors.iter().any(|t| t["name"].as_str().is_some_and(|n| n.contains(part)))
                };
                let method = match (has("reins"), has("backbone.")) {
                    (true, _) => Method::Rein,
                    (false, true) => Method::Full,
                    (false, false) => Method::Freeze,
                };
                let (optimizer, network) = (&recorded["optimizer"], network(method));
                for tensor in tensors {
                    let name = tensor["name"].as_str().expect("name");
                    // Sets may have more blocks than this network; those are alike.
                    let Some(param) = network.get(name) else { continue };
                    let setting = ParamGroups::of(method).setting(name, param.kind);
                    let lr = optimizer["lr"].as_f64().expect("lr") * setting.lr_mult;
                    let decay = optimizer["weight_decay"].as_f64().expect("decay");
                    let decay = decay * setting.decay_mult;
                    assert_eq!(tensor["lr"].as_f64(), Some(lr), "{file} {config} {name}");
                    assert_eq!(tensor["weight_decay"].as_f64(), Some(decay), "{config} {name}");
                    assert!(param.trainable, "{config}: {name} does not train");
                }
            }
        }
    }
}
