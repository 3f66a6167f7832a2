//! The two pixel arrays of everything before the network.

use crate::{IGNORE, Result, TrainError};

/// RGB picture, 8 bits per channel, rows top to bottom, channels interleaved: `[h, w, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub w: usize,
    /// Height in pixels.
    pub h: usize,
    /// `h * w * 3` bytes.
    pub data: Vec<u8>,
}

/// Class of each pixel, `[h, w]`; [`IGNORE`] if it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Width in pixels.
    pub w: usize,
    /// Height in pixels.
    pub h: usize,
    /// `h * w` classes.
    pub data: Vec<u8>,
}

impl Image {
    /// A black picture.
    pub fn new(w: usize, h: usize) -> Self {
        Self { w, h, data: vec![0; w * h * 3] }
    }

    /// Takes ownership of `data`, `[h, w, 3]`.
    ///
    /// # Errors
    /// [`TrainError::Raster`] when `data` has another length.
    pub(crate) fn from_data(w: usize, h: usize, data: Vec<u8>) -> Result<Self> {
        check_len("image", w, h, 3, data.len())?;
        Ok(Self { w, h, data })
    }

    /// Red, green and blue at column `x`, row `y`.
    ///
    /// # Panics
    /// When the pixel is outside the picture.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.w + x) * 3;
        [self.data[at], self.data[at + 1], self.data[at + 2]]
    }

    /// Sets the pixel at column `x`, row `y`.
    ///
    /// # Panics
    /// When the pixel is outside the picture.
    pub(crate) fn set_pixel(&mut self, x: usize, y: usize, rgb: [u8; 3]) {
        let at = (y * self.w + x) * 3;
        self.data[at..at + 3].copy_from_slice(&rgb);
    }
}

impl LabelMap {
    /// A map without any label: all [`IGNORE`].
    pub fn new(w: usize, h: usize) -> Self {
        Self { w, h, data: vec![IGNORE; w * h] }
    }

    /// Takes ownership of `data`, `[h, w]`.
    ///
    /// # Errors
    /// [`TrainError::Raster`] when `data` has another length.
    pub(crate) fn from_data(w: usize, h: usize, data: Vec<u8>) -> Result<Self> {
        check_len("label map", w, h, 1, data.len())?;
        Ok(Self { w, h, data })
    }
}

fn check_len(what: &'static str, w: usize, h: usize, c: usize, found: usize) -> Result<()> {
    let expected = w * h * c;
    if found == expected { Ok(()) } else { Err(TrainError::Raster { what, w, h, expected, found }) }
}
