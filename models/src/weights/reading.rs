//! Reading of files that may change during use, and the order of elements in them.

use std::io;

use dressage_engine::MappedFile;

use crate::ModelError;

/// Copies bytes of a file. An error names the file.
pub(super) fn read_at(pages: &MappedFile, at: usize, out: &mut [u8]) -> io::Result<()> {
    pages.read_at(at, out).map_err(|error| lost(pages, &error))
}

/// Checks that a file was not written to since it was opened.
pub(super) fn unchanged(pages: &MappedFile) -> io::Result<()> {
    match pages.unchanged() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let cause = "was changed while it was in use; start again when nobody writes to it";
            let path = pages.path().to_path_buf();
            Err(io::Error::other(ModelError::Read { path, cause: cause.into() }))
        }
        Err(error) => Err(lost(pages, &error)),
    }
}

fn lost(pages: &MappedFile, error: &io::Error) -> io::Error {
    let cause = match error.kind() {
        io::ErrorKind::UnexpectedEof => "was cut short while it was read".into(),
        _ => format!("cannot be read: {error}"),
    };
    io::Error::new(error.kind(), ModelError::Read { path: pages.path().to_path_buf(), cause })
}

/// The error that [`read_at`] or [`unchanged`] wrapped.
pub(super) fn of_reading(error: io::Error) -> ModelError {
    error.downcast().unwrap_or_else(|other| ModelError::Config(other.to_string()))
}

/// Walks a strided view in row-major order. Contiguous last axes form one piece.
pub(super) fn strided_runs(
    bytes: &[u8],
    size: usize,
    shape: &[usize],
    strides: &[usize],
    f: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    let (mut run, mut outer) = (1, shape.len());
    while outer > 0 && (shape[outer - 1] == 1 || strides[outer - 1] == run) {
        outer -= 1;
        run *= shape[outer];
    }
    let mut index = vec![0; outer];
    let mut at = 0;
    loop {
        f(&bytes[at * size..(at + run) * size])?;
        let mut axis = outer;
        loop {
            if axis == 0 {
                return Ok(());
            }
            axis -= 1;
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
}
