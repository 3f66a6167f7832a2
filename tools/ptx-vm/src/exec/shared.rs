//! Shared memory of a block.

use super::Launched;

/// Memory and its marks.
pub(crate) struct Shared {
    pub bytes: Vec<u8>,
    /// Bytes somebody wrote
    pub written: Vec<bool>,
    /// Copies under way to each byte
    pub in_flight: Vec<u8>,
}

impl Shared {
    pub fn new(launched: &Launched) -> Self {
        let size = launched.program.shared_bytes as usize + launched.dynamic_shared as usize;
        Self { bytes: vec![0; size], written: vec![false; size], in_flight: vec![0; size] }
    }

    pub fn start(&mut self) {
        self.bytes.fill(0xFF);
        self.written.fill(false);
        self.in_flight.fill(0);
    }

    /// The warps of a mask have met at a barrier.
    pub fn synchronise(&mut self, _warps: u32) {}

    /// A warp has ended.
    pub fn exit(&mut self, _warp: usize) {}
}
