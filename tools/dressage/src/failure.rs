//! The error that a command ends with.

use dressage_train::TrainError;
use dressage_train::files::FileError;
use dressage_train::recipe::RecipeError;

use crate::console::escaped;
use crate::signals;

/// Reason that a command failed or was interrupted, as one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Error of the libraries.
    #[error(transparent)]
    Train(TrainError),
    /// Error of this program.
    #[error("{0}")]
    Message(String),
    /// A signal ended the command; the text says what is saved.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    /// Returns the last message of the program. Control characters are escaped: names of files and
    /// keys may contain them, and a terminal would execute them.
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
