//! Influence of each key. It decides whether a run may be resumed with another value, and whether
//! the key affects a network that is already trained.
//!
//! A resumed run must give the result that it would have given without a break. So changes that
//! affect the weights are refused. The number of steps is among them, since the learning rate of
//! every step follows from it. Keys that affect scores only may change, and the log says so. The
//! rest changes no result.

use super::keys::{KEYS, Key};
use super::resolve::pattern;

/// Influence of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// Structure of the network and meaning of its classes.
    Network,
    /// Course of learning: data, augmentation, losses, optimiser, schedule.
    Learning,
    /// Storage precision of intermediate values, which changes them a little.
    Precision,
    /// Test of a trained network, and the scale and window at which it is applied.
    Test,
    /// Location of files. The content of weights is compared; data may have moved.
    Source,
    /// Place and number of threads of the work.
    Work,
    /// Course of training: intervals, memory, workers.
    Course,
    /// Start of a run; not read afterwards.
    Start,
    /// Names for people and for the run folder.
    Label,
}

impl Bearing {
    /// Whether another value changes the weights of a resumed run.
    pub(crate) fn on_weights(self) -> bool {
        matches!(self, Self::Network | Self::Learning | Self::Precision)
    }

    /// Whether another value is worth a line in the log of a resumed run.
    pub(crate) fn on_scores(self) -> bool {
        matches!(self, Self::Test | Self::Source)
    }
}

use Bearing::{Course, Label, Learning, Network, Precision, Source, Start, Test, Work};

/// Keys, or prefixes of keys, with their influence; the first match counts.
const TABLE: &[(&str, Bearing)] = &[
    ("name", Label),
    ("about", Label),
    ("derived", Label),
    ("model.weights", Source),
    ("model.checkpoint", Start),
    ("model.precision", Precision),
    ("model.merge_adapter", Test),
    ("model.drop_path", Learning),
    ("model.", Network),
    ("rein.", Network),
    ("lora.dropout", Learning),
    ("lora.", Network),
    ("adaptformer.dropout", Learning),
    ("adaptformer.", Network),
    ("vpt.", Network),
    ("soma.", Network),
    ("recycle-lora.second_lr_mult", Learning),
    ("recycle-lora.", Network),
    ("head.", Network),
    ("data.root", Source),
    ("data.groups", Network),
    ("data.train[].images", Source),
    ("data.train[].labels", Source),
    ("data.eval", Test),
    // Past steps are the same: a file that it leaves out would have stopped the run at the start.
    ("data.on_error", Test),
    // The position table and the windows follow it.
    ("augment.crop", Network),
    // It is the seed of initial weights too.
    ("train.seed", Network),
    ("train.recompute", Course),
    ("train.save_signal", Course),
    ("train.eval_every", Course),
    ("train.checkpoint_every", Course),
    ("train.checkpoint_minutes", Course),
    ("train.keep", Course),
    ("train.log_every", Course),
    ("eval.", Test),
    ("run.dir", Label),
    ("run.device", Work),
    ("run.threads", Work),
    ("run.cpu", Work),
    ("run.precision", Precision),
    ("run.", Course),
    // Data, augmentation, losses, optimiser, schedule; and keys that are not listed here.
    ("", Learning),
];

/// The key at a path, or the first one of the section at it.
fn first_key(path: &str) -> Option<&'static Key> {
    let path = pattern(path);
    KEYS.iter().find(|key| {
        let rest = key.path.strip_prefix(path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// Whether a key or a section is at a path.
pub(super) fn is_known(path: &str) -> bool {
    first_key(path).is_some()
}

/// Influence of the key at a path, or of the first key of a section.
pub(super) fn bearing(path: &str) -> Bearing {
    let path = first_key(path).map_or(path, |key| key.path);
    TABLE.iter().find(|(start, _)| path.starts_with(start)).map_or(Learning, |(_, found)| *found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_decides_a_key_of_the_catalogue() {
        for (i, (start, _)) in TABLE.iter().enumerate() {
            let earlier = |path: &str| TABLE[..i].iter().any(|(other, _)| path.starts_with(other));
            let mut keys = KEYS.iter().map(|key| key.path);
            assert!(keys.any(|path| path.starts_with(start) && !earlier(path)), "{start:?}");
        }
    }

    #[test]
    fn sections_and_entries_have_the_bearing_of_their_keys() {
        for (path, want) in [
            ("data.eval", Test),
            ("data.eval.3", Test),
            ("data.eval.3.crop", Test),
            ("data.train", Learning),
            ("data.train.0.images", Source),
            ("data.train.0.id_map", Learning),
            ("train.lr", Learning),
            ("train.steps", Learning),
            ("head.classes", Network),
            ("eval.crop", Test),
            ("run.workers", Course),
            ("run.precision", Precision),
        ] {
            assert_eq!(bearing(path), want, "{path}");
        }
    }
}
