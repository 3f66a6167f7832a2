//! The choice of an algorithm. There is only one; it stores the descriptors that it was chosen for.

use super::check::{Epilogue, check};
use super::{Algorithm, Answer, Description, Layout, Lt, Preference, invalid};

/// Workspace that the algorithm uses if allowed. It is overwritten, so that a workspace that is too
/// short or in use elsewhere is found.
const WORKSPACE: u64 = 64 << 10;

/// First word of a `cublasLtMatmulAlgo_t` of this library.
const MARK: u64 = u64::from_ne_bytes(*b"ptx-algo");

/// `cublasLtMatmulAlgo_t`: opaque; programs copy it.
pub(super) type Opaque = [u64; 8];

/// `cublasLtMatmulHeuristicResult_t`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct HeuristicResult {
    algorithm: Opaque,
    workspace: usize,
    state: u32,
    waves: f32,
    reserved: [i32; 4],
}

impl HeuristicResult {
    pub(super) fn algorithm(&self) -> &Opaque {
        &self.algorithm
    }
}

impl Lt {
    /// Chooses an algorithm for descriptors.
    pub(super) fn choose(
        &mut self,
        description: Description,
        layouts: [Layout; 4],
        preference: &Preference,
    ) -> Answer<HeuristicResult> {
        check(&description, &layouts)?;
        let epilogue = Epilogue::of(description.epilogue)?;
        // The pointers' own alignment counts, as the documentation of the attributes says.
        let aligned = |used: bool, address: u64| {
            if used && address != 0 { 1 << address.trailing_zeros().min(4) } else { 16 }
        };
        let epilogue_alignment = [
            aligned(epilogue.vector(), description.bias),
            aligned(epilogue.matrix(), description.aux),
        ];
        let workspace = preference.workspace.min(WORKSPACE);
        let alignment = preference.alignment;
        let chosen = Algorithm { description, layouts, alignment, epilogue_alignment, workspace };
        self.algorithms.push(chosen);
        let mut algorithm = [0; 8];
        (algorithm[0], algorithm[1]) = (MARK, self.algorithms.len() as u64);
        let workspace = workspace as usize;
        Ok(HeuristicResult { algorithm, workspace, state: 0, waves: 1.0, reserved: [0; 4] })
    }

    /// Returns the descriptors for which an algorithm was chosen.
    pub(super) fn chosen(&self, algorithm: &Opaque) -> Answer<&Algorithm> {
        let number = (algorithm[1] as usize).wrapping_sub(1);
        match self.algorithms.get(number) {
            Some(found) if algorithm[0] == MARK => Ok(found),
            _ => invalid("the algorithm is none that cublasLtMatmulAlgoGetHeuristic gave"),
        }
    }
}

impl Algorithm {
    /// Whether the algorithm was chosen for these descriptors; pointers may differ.
    pub(super) fn is_for(&self, product: &Description, layouts: &[Layout; 4]) -> bool {
        let (bias, aux) = (self.description.bias, self.description.aux);
        self.layouts == *layouts && self.description == Description { bias, aux, ..*product }
    }
}
