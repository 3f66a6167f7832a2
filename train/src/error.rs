//! Errors between the files of a data set and a trained network.

use std::path::PathBuf;

use dressage_kernels::cpu::allocate::OutOfMemory;

use crate::files::hint;
use crate::machine;

fn read_hint(source: &std::io::Error) -> &'static str {
    hint(source).unwrap_or("; check that it exists and that you may read it")
}

fn write_hint(source: &std::io::Error) -> &'static str {
    hint(source).unwrap_or("; check the free space and the rights of its folder")
}

/// An error that a user can act on. It names the file or value and, if there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or folder that cannot be read.
    #[error("cannot read {path}: {source}{}", read_hint(.source))]
    Read {
        /// File or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {path}: {source}{}", write_hint(.source))]
    Write {
        /// File.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A path that must be a regular file and is something else.
    #[error("{path} is {found}; only regular files are read, copy its content into one")]
    NoFile {
        /// File.
        path: PathBuf,
        /// Description of the file.
        found: &'static str,
    },
    /// A file that is not a picture of a supported form.
    #[error("cannot decode {path}: it is {found}, but only PNG and JPEG are read; {way}")]
    PictureForm {
        /// File.
        path: PathBuf,
        /// Form of the file, regardless of its name.
        found: &'static str,
        /// Advice for the user.
        way: &'static str,
    },
    /// A picture whose data are not valid.
    #[error("cannot decode {path}: {what}; the file is damaged or cut short, copy it again")]
    Decode {
        /// File.
        path: PathBuf,
        /// Message of the decoder.
        what: String,
    },
    /// A picture that is too large for the memory of the process.
    #[error("{path} takes {needed} to decode, but {available}; make the picture smaller")]
    Picture {
        /// File.
        path: PathBuf,
        /// Memory that decoding takes.
        needed: String,
        /// Available memory, in words.
        available: String,
    },
    /// A label file that is not a PNG picture.
    #[error("label {path} is {found}, but labels must be PNG; {way}")]
    LabelFile {
        /// File.
        path: PathBuf,
        /// Form of the file, regardless of its name.
        found: &'static str,
        /// Advice for the user.
        way: &'static str,
    },
    /// A label file without one class per pixel.
    #[error(
        "label {path} is a {found} picture; labels hold one index per pixel (grey or palette PNG)"
    )]
    LabelFormat {
        /// File.
        path: PathBuf,
        /// Colour type and depth found.
        found: String,
    },
    /// A pixel of a colour-coded label whose colour is no class.
    #[error(
        "label {path}, pixel ({x}, {y}): no class has the colour {rgb:?}; \
         store indices instead of colours"
    )]
    LabelColour {
        /// File.
        path: PathBuf,
        /// Column.
        x: usize,
        /// Row.
        y: usize,
        /// Colour found.
        rgb: [u8; 3],
    },
    /// Image and label of different sizes.
    #[error(
        "{label} is {label_w}x{label_h} but its image {image} is {image_w}x{image_h}; \
         remove the pair or export the label at the size of the image"
    )]
    SizeMismatch {
        /// Image file.
        image: PathBuf,
        /// Label file.
        label: PathBuf,
        /// Width of the image.
        image_w: usize,
        /// Height of the image.
        image_h: usize,
        /// Width of the label.
        label_w: usize,
        /// Height of the label.
        label_h: usize,
    },
    /// A label value that is no class.
    #[error(
        "label {path}, pixel ({x}, {y}): value {value} is neither a class (0 to {last}) nor 255; \
         set {key}.id_map to the table of ids that its labels use"
    )]
    LabelValue {
        /// File.
        path: PathBuf,
        /// Column.
        x: usize,
        /// Row.
        y: usize,
        /// Value found.
        value: u32,
        /// Highest class.
        last: usize,
        /// Key of the data set.
        key: String,
    },
    /// A folder without a single image of the data set.
    #[error("no file ending in {suffix:?} below {path}; check the folder and {key}.image_suffix")]
    EmptyFolder {
        /// Folder.
        path: PathBuf,
        /// Suffix that was searched for.
        suffix: String,
        /// Key of the data set.
        key: String,
    },
    /// Images whose labels do not exist.
    #[error(
        "{count} of {total} images have no label, the first is {image} (expected {label}); \
         check {key}.labels and {key}.label_suffix, or leave these images out with data.on_error=skip"
    )]
    MissingLabel {
        /// Images without a label.
        count: usize,
        /// Images found.
        total: usize,
        /// First image without a label.
        image: PathBuf,
        /// Expected path of its label.
        label: PathBuf,
        /// Key of the data set.
        key: String,
    },
    /// An image whose label does not exist.
    #[error("image {image} has no label {label}; check {key}.labels and {key}.label_suffix")]
    NoLabel {
        /// Image file.
        image: PathBuf,
        /// Expected path of its label.
        label: PathBuf,
        /// Key of the data set.
        key: String,
    },
    /// A sample that cannot be loaded, in a run that stops at such errors.
    #[error("{0}, or leave it out with data.on_error=skip")]
    Sample(Box<TrainError>),
    /// Data sets with pairs that cannot be used, or with nothing to learn from.
    #[error("{what}; {way}")]
    BadData {
        /// Sets, numbers and the first files with their faults.
        what: String,
        /// Advice for the user.
        way: String,
    },
    /// A table of ids that does not exist or does not fit.
    #[error("{key}.id_map: {what}")]
    IdTable {
        /// Key of the data set.
        key: String,
        /// The fault and advice for the user.
        what: String,
    },
    /// A pixel array of another length than its size says.
    #[error("{what} of {w}x{h} needs {expected} bytes, found {found}")]
    Raster {
        /// Name of the array.
        what: &'static str,
        /// Width.
        w: usize,
        /// Height.
        h: usize,
        /// Bytes that the size requires.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// A setting out of range.
    #[error("{setting}: {what}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Description of the error, in words and numbers.
        what: String,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {path}: {what}")]
    Checkpoint {
        /// File.
        path: PathBuf,
        /// Description of the error.
        what: String,
    },
    /// A damaged checkpoint of a run.
    #[error("{error}; {instead}")]
    Damaged {
        /// The fault.
        error: String,
        /// Advice for the user.
        instead: String,
    },
    /// Weights or moments that an update has made infinite or NaN.
    #[error("after step {step} {what}, so this state is not saved{instead}")]
    BrokenState {
        /// Steps done.
        step: u64,
        /// Tensor and value.
        what: String,
        /// State to continue from, with a separator in front.
        instead: String,
    },
    /// A resumed run with other settings.
    #[error(
        "{path}: these settings differ from those of the run: {changes}; leave these keys as they \
         were, or give --resume-changed to continue with the new values"
    )]
    ResumeChanged {
        /// Run folder.
        path: PathBuf,
        /// Keys with both values.
        changes: String,
    },
    /// A run folder that already has a run, or has none.
    #[error("{path}: {what}")]
    RunFolder {
        /// Folder.
        path: PathBuf,
        /// Description of the error and advice for the user.
        what: String,
    },
    /// A loss that is not finite.
    #[error(
        "step {step}: {what}; this step updated nothing, and the state before it is in {saved}; \
         continue from it with --resume --from before-nan and a lower train.lr (with \
         --resume-changed), or look at the samples {samples}"
    )]
    NotFinite {
        /// Step, counted from 1 as in the log.
        step: u64,
        /// Loss or cost, with its prediction and image.
        what: String,
        /// Checkpoint of the state before the step.
        saved: PathBuf,
        /// Samples of the step.
        samples: String,
    },
    /// A run that would not fit into the memory of the machine.
    #[error(
        "training needs {needed}, but {available} are available{limit}; {ways}; \
         run.check_memory=false starts anyway"
    )]
    Memory {
        /// Memory that the plan asks for.
        needed: String,
        /// Memory that the process can still take.
        available: String,
        /// Limit that this memory comes from, if it is known.
        limit: String,
        /// Settings that need less.
        ways: String,
    },
    /// Work whose dry run alone exceeds the address space of the process.
    #[error(
        "this needs more than {needed} of memory, but {available}; raise the limit, or make \
         batch, crop or window smaller where the command has them"
    )]
    AddressSpace {
        /// Memory up to the buffer that was refused.
        needed: String,
        /// Available memory, in words.
        available: String,
    },
    /// A buffer that the system refused.
    #[error(
        "no more memory{limit}: a buffer of {bytes} bytes was refused; raise the limit, or make \
         batch, crop or window smaller where the command has them"
    )]
    OutOfMemory {
        /// Requested bytes.
        bytes: usize,
        /// Limit that applies, if it is known.
        limit: String,
    },
    /// An inference that would not fit into the memory of the machine.
    #[error("the network needs {needed} for {what}, but {available}; {ways}")]
    Inference {
        /// Input of one forward pass, in words.
        what: String,
        /// Memory that it takes.
        needed: String,
        /// Available memory, in words.
        available: String,
        /// Settings that need less.
        ways: &'static str,
    },
    /// A device that cannot be used.
    #[error("{source}; run.device=cpu (--device cpu) works everywhere")]
    Device {
        /// Error of the device.
        source: dressage_kernels::KernelError,
    },
    /// A stop was requested.
    #[error("interrupted")]
    Interrupted,
    /// Error of the network.
    #[error(transparent)]
    Model(#[from] dressage_models::ModelError),
    /// Error of the engine.
    #[error(transparent)]
    Engine(#[from] dressage_engine::EngineError),
    /// Error of writing a file.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// Error of counting pixels.
    #[error(transparent)]
    Metric(#[from] crate::metrics::MetricError),
    /// Error of cutting windows.
    #[error(transparent)]
    Window(#[from] crate::windows::WindowError),
    /// Error of a recipe.
    #[error(transparent)]
    Recipe(#[from] crate::recipe::RecipeError),
    /// Error of the learning rate schedule.
    #[error(transparent)]
    Schedule(#[from] crate::schedule::ScheduleError),
    /// A worker thread of the loader that ended without an error.
    #[error("a data worker stopped unexpectedly while preparing step {step}")]
    WorkerEnded {
        /// Step whose sample did not arrive, counted from 1 as in the log.
        step: u64,
    },
}

impl From<dressage_kernels::KernelError> for TrainError {
    fn from(error: dressage_kernels::KernelError) -> TrainError {
        TrainError::Engine(error.into())
    }
}

impl From<OutOfMemory> for TrainError {
    fn from(refused: OutOfMemory) -> TrainError {
        let limit = machine::room().map(|room| format!(" {}", room.limit)).unwrap_or_default();
        TrainError::OutOfMemory { bytes: refused.bytes, limit }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, TrainError>;
