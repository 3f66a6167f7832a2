//! Values that are not finite.

use std::io;
use std::path::Path;

use dressage_engine::Tensor;

use super::Stored;
use super::elements::decode;
use super::reading::of_reading;
use crate::{ModelError, Result};

impl Stored {
    /// The first float that is not finite, in row-major order, and its value.
    ///
    /// # Errors
    /// As [`Stored::to_float`].
    pub fn first_not_finite(&self) -> Result<Option<(usize, f64)>> {
        let mut found = None;
        let read = self.each_value(&mut |from, values| {
            let at = values.iter().position(|v| !v.is_finite());
            found = found.or(at.map(|at| (from + at, values[at])));
        });
        read.map_err(of_reading)?;
        Ok(found)
    }

    /// The float at index `at` in row-major order, in the precision of the file.
    fn value_at(&self, at: usize) -> Result<f64> {
        let mut found = f64::NAN;
        let read = self.each_value(&mut |from, values| {
            let value = at.checked_sub(from).and_then(|at| values.get(at));
            found = value.copied().unwrap_or(found);
        });
        read.map_err(of_reading)?;
        Ok(found)
    }

    /// Calls `f` with pieces of the floats in row-major order, each with the index of its first
    /// float.
    fn each_value(&self, f: &mut dyn FnMut(usize, &[f64])) -> io::Result<()> {
        const PIECE: usize = 1 << 15;
        if !self.kind().is_float() {
            return Ok(());
        }
        let (mut values, mut from) = (Vec::new(), 0);
        self.each_run(&mut |run| {
            for run in run.chunks(PIECE * self.kind().size()) {
                values.resize(run.len() / self.kind().size(), 0.0);
                decode(self.kind(), run, &mut values);
                f(from, &values);
                from += values.len();
            }
            Ok(())
        })
    }
}

/// Checks that all of `floats`, which were read from `stored`, are finite. `name` and `origin` are
/// used in the error if the file has no name for the tensor, or no path.
///
/// # Errors
/// [`ModelError::NotFinite`]; a file that cannot be read.
pub(crate) fn finite(name: &str, stored: &Stored, origin: &str, floats: &Tensor) -> Result<()> {
    let Some((at, _)) = floats.first_not_finite() else { return Ok(()) };
    let (part, at) = stored.part_at(at);
    Err(ModelError::NotFinite {
        path: part.path().map_or_else(|| origin.into(), Path::to_path_buf),
        tensor: part.own_name().unwrap_or(name).to_string(),
        shape: part.shape().to_vec(),
        at,
        value: part.value_at(at)?,
    })
}
