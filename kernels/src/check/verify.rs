//! Verifications of the kernels on a device: comparisons with the references of this crate.
//!
//! Each folder with kernels states its checks (`crate::check::checks`), or has a `verify.rs` with
//! two functions. Both are listed in [`all`]:
//!
//! * `verify` runs every kernel of the folder at small odd sizes, forward and backward, in each
//!   storage type, and compares the results with the reference in f64. A bound is derived from the
//!   arithmetic, never fitted. Two runs have to give the same bytes ([`Verification::twice`]).
//! * `timed` lists launches at sizes of a real network, with the operations and bytes that the work
//!   requires, whatever a kernel does beyond. They are timed on real devices only.
//!
//! The same functions serve the tests, the benches (`benches/device.rs`) and `dressage doctor`.
//! `tests/verify.rs` runs all of them on the virtual GPU, which also checks every access. Being
//! library code they neither panic nor print: a failed comparison is an [`Outcome`] with a failure.
//!
//! Each comparison has a name `KERNEL SHAPE: QUANTITY`, such as `layer_norm_bf16 [7, 13]: dx`. The
//! part before the colon is the case ([`Outcome::case`]).
//!
//! ```
//! use dressage_kernels::device::Device;
//! use dressage_kernels::check::verify;
//! let device = Device::virtual_gpu();
//! let norm = verify::all().into_iter().find(|kernels| kernels.name == "layer_norm");
//! for outcome in norm.expect("there is one").run(&device) {
//!     assert_eq!(outcome.failure, None);
//!     assert!(outcome.worst <= 1.0);
//! }
//! ```

pub mod cpu;

use std::fmt::Debug;

use crate::Result;
use crate::check::checks::Checked;
use crate::check::{noise, worst_error, worst_of};
use crate::device::{Buffer, Device, Float};
use crate::ops::{
    activation, adamw, add, attention, attention_mask, batch_norm, channel_scale, class_loss,
    conv2d, depthwise_conv, dropout, gather_rows, group_norm, layer_norm, linear, mask_loss,
    match_cost, matmul, max_pool, ms_deform_attn, patch_embed, pixel_loss, point_sample, reduce,
    rein, relative_position, residual, resize, rotary, row_width, semantic_scores, softmax, swiglu,
    token_link, transpose, uncertain_points, uniform,
};

/// Checks of the virtual GPU at every instruction of a kernel. A finding is an error of the launch.
pub const CHECKS: &str = "bounds of every buffer, alignment, bytes never written, races in shared \
                          and in global memory, copies under way, divergent barriers, absent \
                          lanes, floating-point atomics, unknown instructions, traps, deadlocks";

/// Result of one comparison of a kernel with its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the comparison: `KERNEL SHAPE: QUANTITY`.
    pub what: String,
    /// Values compared.
    pub values: usize,
    /// Worst error in units of the allowed one: at most 1 where the verification holds. Where
    /// equality is required it is 0 if found, infinite if not.
    pub worst: f64,
    /// Description of the failure, in a sentence.
    pub failure: Option<String>,
}

impl Outcome {
    /// The kernel and the sizes it ran at: `what` up to the colon.
    pub fn case(&self) -> &str {
        self.what.split_once(": ").map_or(&self.what, |(case, _)| case)
    }
}

/// Comparisons of the kernels of one folder on one device.
#[derive(Debug)]
pub struct Verification<'a> {
    device: &'a Device,
    outcomes: Vec<Outcome>,
}

impl<'a> Verification<'a> {
    /// Creates a verification without comparisons.
    pub fn new(device: &'a Device) -> Verification<'a> {
        Verification { device, outcomes: Vec::new() }
    }

    /// The device that the kernels run on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Outcomes of all comparisons, in order.
    pub(crate) fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }

    /// Compares each element of `got` with `want`. The allowed difference is the rounding of the
    /// element type plus `bound(i)` for the arithmetic before it.
    pub fn within<T: Float>(
        &mut self,
        what: &str,
        got: &[T],
        want: &[f64],
        bound: impl Fn(usize) -> f64,
    ) {
        if self.other_length(what, got.len(), want.len()) {
            return;
        }
        let (worst, failure) = worst_error(got, want, bound);
        self.note(what, got.len(), worst, failure);
    }

    /// [`Verification::within`] for values that were stored with a relative error of `rounding`.
    pub(crate) fn near(
        &mut self,
        what: &str,
        got: &[f64],
        want: &[f64],
        rounding: f64,
        bound: impl Fn(usize) -> f64,
    ) {
        if self.other_length(what, got.len(), want.len()) {
            return;
        }
        let (worst, failure) = worst_of(got.iter().copied(), want, rounding, bound);
        self.note(what, got.len(), worst, failure);
    }

    /// Compares for equality (of floating-point values; a NaN differs from everything).
    pub fn same<T: PartialEq + Debug>(&mut self, what: &str, got: &[T], want: &[T]) {
        if self.other_length(what, got.len(), want.len()) {
            return;
        }
        let other = (0..got.len()).find(|&i| got[i] != want[i]);
        let failure = other.map(|i| format!("element {i} is {:?}, not {:?}", got[i], want[i]));
        self.note(what, got.len(), other.map_or(0.0, |_| f64::INFINITY), failure);
    }

    /// Records whether a condition other than a comparison of numbers holds; `what` names it.
    pub fn holds(&mut self, what: &str, ok: bool) {
        let failure = (!ok).then(|| "does not hold".to_owned());
        self.note(what, 1, if ok { 0.0 } else { f64::INFINITY }, failure);
    }

    /// Runs kernels twice, records whether both results are equal, and returns the first.
    /// `case` is the kernel and its shape, without a colon.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn twice<R: PartialEq>(
        &mut self,
        case: &str,
        mut run: impl FnMut() -> Result<R>,
    ) -> Result<R> {
        let first = run()?;
        let second = run()?;
        self.holds(&format!("{case}: two runs give the same bytes"), first == second);
        Ok(first)
    }

    fn other_length(&mut self, what: &str, got: usize, want: usize) -> bool {
        if got != want {
            let failure = format!("{got} values came back, not {want}");
            self.note(what, got, f64::INFINITY, Some(failure));
        }
        got != want
    }

    fn note(&mut self, what: &str, values: usize, worst: f64, failure: Option<String>) {
        self.outcomes.push(Outcome { what: what.to_owned(), values, worst, failure });
    }
}

/// A launch (or the launches of one call) at sizes of a real network, to be timed.
pub struct Timed<'a> {
    /// The kernel, with its storage type: `layer_norm_fwd_bf16`.
    pub name: String,
    /// Its sizes.
    pub shape: String,
    /// Floating-point operations that the work requires.
    pub flops: u64,
    /// Bytes that it must read and write, each once.
    pub bytes: u64,
    /// Queues the work without waiting for it. Its inputs are on the device already.
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl<'a> Timed<'a> {
    /// Creates a timed launch; `run` requires `flops` operations and `bytes` bytes.
    pub fn new(
        name: impl Into<String>,
        shape: impl Into<String>,
        flops: usize,
        bytes: usize,
        run: impl FnMut() -> Result<()> + 'a,
    ) -> Timed<'a> {
        let (flops, bytes) = (flops as u64, bytes as u64);
        Timed { name: name.into(), shape: shape.into(), flops, bytes, run: Box::new(run) }
    }
}

impl Debug for Timed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timed({} {})", self.name, self.shape)
    }
}

/// Compares every kernel of a folder.
pub type Verify = fn(&mut Verification<'_>) -> Result<()>;

/// The kernels of one folder: their verification and their timed launches.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    /// Name of the folder.
    pub name: &'static str,
    /// Compares every kernel of the folder with its reference.
    pub verify: Verify,
    /// Launches to be timed; this call creates their operands.
    pub timed: for<'a> fn(&'a Device) -> Result<Vec<Timed<'a>>>,
}

impl Kernels {
    /// Checks and launches that an operation states.
    fn of<O: Checked>() -> Kernels {
        Kernels {
            name: O::NAME,
            verify: |verification| O::checks().on_device(verification),
            timed: |device| O::checks().launches(device),
        }
    }

    /// Outcomes of [`Kernels::verify`]. An error that ended it is the last outcome; on the virtual
    /// GPU every finding is such an error.
    pub fn run(&self, device: &Device) -> Vec<Outcome> {
        let mut verification = Verification::new(device);
        if let Err(error) = (self.verify)(&mut verification) {
            let what = format!("{}: runs to the end", self.name);
            verification.note(&what, 0, f64::INFINITY, Some(error.to_string()));
        }
        verification.into_outcomes()
    }
}

/// Summary of all outcomes of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary<'a> {
    /// The kernel, as named in its cases.
    pub kernel: &'a str,
    /// Shapes it was compared at, in order.
    pub shapes: Vec<&'a str>,
    /// Values compared.
    pub values: usize,
    /// Worst error in units of the allowed one.
    pub worst: f64,
    /// Whether all comparisons hold.
    pub holds: bool,
}

/// Summaries of the outcomes by kernel, in order of first appearance.
pub fn summary(outcomes: &[Outcome]) -> Vec<Summary<'_>> {
    let mut found: Vec<Summary<'_>> = Vec::new();
    for outcome in outcomes {
        let (kernel, shape) = outcome.case().split_once(' ').unwrap_or((outcome.case(), ""));
        let at = found.iter().position(|s| s.kernel == kernel).unwrap_or_else(|| {
            found.push(Summary { kernel, shapes: vec![], values: 0, worst: 0.0, holds: true });
            found.len() - 1
        });
        let summary = &mut found[at];
        if !shape.is_empty() && !summary.shapes.contains(&shape) {
            summary.shapes.push(shape);
        }
        summary.values += outcome.values;
        summary.worst = summary.worst.max(outcome.worst);
        summary.holds &= outcome.failure.is_none();
    }
    found
}

/// A buffer of deterministic numbers in (-1, 1), for launches to be timed.
///
/// # Errors
/// No room on the device, or a failure of it.
pub fn filled<T: Float>(
    device: &Device,
    name: &'static str,
    len: usize,
    seed: u64,
) -> Result<Buffer<T>> {
    let host: Vec<T> = noise::<f32>(len, seed).into_iter().map(T::of).collect();
    device.upload(name, &host)
}

/// All folders with kernels, by name, and the products of libraries.
pub fn all() -> Vec<Kernels> {
    vec![
        Kernels::of::<activation::Pointwise>(),
        add::checks::KERNELS,
        adamw::verify::KERNELS,
        Kernels::of::<attention_mask::AttentionMask>(),
        attention::checks::KERNELS,
        Kernels::of::<batch_norm::BatchNorm>(),
        Kernels::of::<channel_scale::ChannelScale>(),
        Kernels::of::<class_loss::ClassLoss>(),
        Kernels::of::<conv2d::Conv2d>(),
        Kernels::of::<depthwise_conv::DepthwiseConv>(),
        Kernels::of::<dropout::Dropout>(),
        Kernels::of::<gather_rows::GatherRows>(),
        Kernels::of::<group_norm::GroupNorm>(),
        Kernels::of::<layer_norm::LayerNorm>(),
        Kernels::of::<linear::Linear>(),
        Kernels::of::<mask_loss::MaskLoss>(),
        Kernels::of::<match_cost::MatchCost>(),
        matmul::verify::KERNELS,
        Kernels::of::<max_pool::MaxPool>(),
        Kernels::of::<ms_deform_attn::MsDeformAttn>(),
        Kernels::of::<patch_embed::PatchEmbed>(),
        Kernels::of::<pixel_loss::PixelLoss>(),
        Kernels { timed: point_sample::timed, ..Kernels::of::<point_sample::PointSample>() },
        reduce::verify::KERNELS,
        Kernels::of::<rein::Rein>(),
        Kernels::of::<relative_position::RelativePosition>(),
        Kernels::of::<residual::Residual>(),
        Kernels::of::<resize::Resize>(),
        Kernels::of::<rotary::Rotary>(),
        Kernels::of::<row_width::RowWidth>(),
        Kernels::of::<semantic_scores::SemanticScores>(),
        Kernels::of::<softmax::Softmax>(),
        Kernels::of::<swiglu::Swiglu>(),
        Kernels::of::<token_link::TokenLink>(),
        Kernels::of::<transpose::Transpose>(),
        Kernels {
            timed: uncertain_points::timed,
            ..Kernels::of::<uncertain_points::UncertainPoints>()
        },
        Kernels::of::<uniform::Uniform>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelError;

    fn failures(verification: Verification<'_>) -> Vec<String> {
        verification.into_outcomes().into_iter().filter_map(|o| o.failure).collect()
    }

    #[test]
    fn what_is_beyond_its_bound_fails() {
        let device = Device::virtual_gpu();
        let mut verification = Verification::new(&device);
        verification.within("k_f32 [2]: y", &[1.0f32, 2.0], &[1.0, 2.0], |_| 0.0);
        verification.within("k_f32 [2]: y", &[1.0f32, 2.0], &[1.0, 2.125], |_| 0.25);
        verification.same("k_f32 [3]: z", &[1, 2], &[1, 2]);
        verification.holds("k_bf16 [3]: fits", true);
        let outcomes = verification.into_outcomes();
        assert!(outcomes.iter().all(|o| o.failure.is_none()));
        assert!((outcomes[1].worst - 0.5).abs() < 1e-6, "{:?}", outcomes[1]);
        let [f32s, bf16s] = &summary(&outcomes)[..] else { panic!("two kernels") };
        assert_eq!((f32s.kernel, &f32s.shapes[..], f32s.values), ("k_f32", &["[2]", "[3]"][..], 6));
        assert_eq!((f32s.worst, bf16s.shapes.len()), (outcomes[1].worst, 1));
        let mut verification = Verification::new(&device);
        verification.within("a", &[1.0f32, 2.0], &[1.0, 2.25], |_| 0.125);
        verification.within("b", &[f32::NAN], &[0.0], |_| 1e9);
        verification.within("c", &[1.0f32], &[1.0, 1.0], |_| 1.0);
        verification.same("d", &[f32::NAN], &[f32::NAN]);
        verification.same("e", &[1], &[1, 2]);
        verification.holds("f", false);
        let mut flips = 0;
        let first = verification.twice("g", || {
            flips += 1;
            Ok(flips)
        });
        assert_eq!(first, Ok(1));
        let all = failures(verification);
        assert_eq!(all.len(), 7, "{all:?}");
        assert!(all[0].starts_with("element 1 is 2, not 2.25"), "{all:?}");
    }

    #[test]
    fn an_error_ends_a_verification_and_is_reported() {
        fn verify(verification: &mut Verification<'_>) -> Result<()> {
            verification.holds("broken [1]: starts", true);
            Err(KernelError::Size { op: "broken", what: "no such size".into() })
        }
        let broken = Kernels { name: "broken", verify, timed: |_| Ok(Vec::new()) };
        let outcomes = broken.run(&Device::virtual_gpu());
        assert_eq!(outcomes.len(), 2);
        assert_eq!(outcomes[1].failure.as_deref(), Some("broken: no such size"));
        assert!(summary(&outcomes).iter().any(|s| !s.holds));
    }
}
