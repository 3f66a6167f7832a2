//! Influence of each key: whether a run may be resumed with another value, and whether the key acts
//! on a network that is trained already.
//!
//! A resumed run is to give what it would have given without a break. So whatever bears on the
//! weights is refused, the number of steps included, since the learning rate of every step follows
//! from it. What bears on scores alone may change, and the log says so. The rest changes no result.

use super::keys::{KEYS, Key};
use super::resolve::pattern;

/// Influence of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// Structure of the network and meaning of its classes.
    Network,
    /// Course of learning: data, augmentation, losses, optimiser, schedule.
    Learning,
    /// How numbers are stored on the way, which changes them a little.
    Precision,
    /// How a trained network is tested, and at which scale and window it is applied.
    Test,
    /// Where files lie. The content of weights is compared; data may have moved.
    Source,
    /// Where and with how many threads the work is done.
    Work,
    /// The course of a training: intervals, memory, workers.
    Course,
    /// Start of a run; not read afterwards.
    Start,
    /// Names for people and for the run folder.
    Label,
}

impl Bearing {
    /// Whether another value would make a resumed run another run.
    pub fn on_weights(self) -> bool {
        matches!(self, Self::Network | Self::Learning | Self::Precision)
    }

    /// Whether another value is worth a line in the log of a resumed run.
    pub fn on_scores(self) -> bool {
        matches!(self, Self::Test | Self::Source)
    }
}

use Bearing::{Course, Label, Learning, Network, Precision, Source, Start, Test, Work};

/// Keys, or beginnings of keys, with what they decide; the first that fits counts.
const TABLE: &[(&str, Bearing)] = &[
    ("name", Label),
    ("about", Label),
    ("derived", Label),
    ("model.weights", Source),
    ("model.checkpoint", Start),
    ("model.precision", Precision),
    ("model.", Network),
    ("rein.", Network),
    ("head.", Network),
    ("data.root", Source),
    ("data.groups", Network),
    ("data.train[].images", Source),
    ("data.train[].labels", Source),
    ("data.eval", Test),
    // What it leaves out at the start would have refused the run, so past steps are the same.
    ("data.on_error", Test),
    // The position table and the windows follow it.
    ("augment.crop", Network),
    // Of initial weights too.
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
