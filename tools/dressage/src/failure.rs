//! Why a command ends without its result.

use dressage_train::TrainError;
use dressage_train::files::FileError;
use dressage_train::recipe::RecipeError;

use crate::console::escaped;
use crate::signals;

/// An end that is no success; the text is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// From the libraries.
    #[error(transparent)]
    Train(TrainError),
    /// From this program.
    #[error("{0}")]
    Message(String),
    /// A signal asked for the end; the text says what is saved.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    /// The sentence that the program ends with. Control characters are escaped: names of files and
    /// keys may hold any, and a terminal would obey them.
    pub fn line(&self) -> String {
        let text = match self {
            Failure::Interrupted(what) => format!("interrupted: {what}"),
            other => format!("error: {other}"),
        };
        escaped(&text)
    }

    /// Exit code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Train(_) | Failure::Message(_) => 1,
            Failure::Interrupted(_) => signals::exit_code(),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Interrupted => Failure::Interrupted("nothing was written".into()),
            other => Failure::Train(other),
        }
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Self {
        Failure::Train(error.into())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Failure::Train(error.into())
    }
}

impl From<dressage_models::ModelError> for Failure {
    fn from(error: dressage_models::ModelError) -> Self {
        Failure::Train(error.into())
    }
}

impl From<dressage_engine::EngineError> for Failure {
    fn from(error: dressage_engine::EngineError) -> Self {
        Failure::Train(error.into())
    }
}
