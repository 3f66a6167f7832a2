//! The fast path for loads and stores of whole words in global memory. It needs all lanes in one
//! allocation, alignment, and (for loads) written bytes. Other accesses take the general path,
//! which also finds the fault.

use super::Launched;
use super::access::At;
use super::state::State;
use super::vector::Row;
use super::warp::{Warp, lanes};
use crate::ast::Space;
use crate::program::{Access, Inst, Reg};

impl Warp {
    /// Executes the access if the fast path applies; returns whether it did.
    pub(crate) fn stream(
        &mut self,
        access: &Access,
        inst: &Inst,
        mask: u32,
        write: bool,
        launched: &Launched,
        state: &mut State,
    ) -> bool {
        let Reg::D(base) = access.base else { return false };
        let words = access.regs.len();
        let simple = access.space == Space::Global && access.width == 4 && words <= 4;
        if !simple || !access.regs.iter().all(|r| matches!(r, Reg::W(_))) {
            return false;
        }
        let bytes = 4 * words as u64;
        let addresses = self.r64[base as usize].map(|a| a.wrapping_add(access.offset as u64));
        let first = addresses[mask.trailing_zeros() as usize % 32];
        let list = &launched.memory.list;
        let known = list.get(state.last).filter(|a| first.wrapping_sub(a.base) < a.bytes);
        let a = match known {
            Some(a) => a,
            None => {
                let Some(at) = launched.memory.at_or_before(first) else { return false };
                state.last = at;
                &list[at]
            }
        };
        let Some(room) = a.bytes.checked_sub(bytes) else { return false };
        let mut wrong = false;
        let mut index = [0u32; 32];
        for lane in 0..32 {
            let offset = addresses[lane].wrapping_sub(a.base);
            let idle = mask >> lane & 1 == 0;
            wrong |= !idle && (offset > room || offset & (bytes - 1) != 0);
            index[lane] = (offset / 4) as u32;
        }
        // The index has 32 bits: word offsets beyond them do not fit.
        if wrong || a.bytes >= 1 << 34 {
            return false;
        }
        if !write && !lanes(mask).all(|lane| a.words_written(index[lane] as usize, words)) {
            return false;
        }
        for (k, &r) in access.regs.iter().enumerate() {
            let Reg::W(row) = r else { continue };
            let row = &mut self.r32[row as usize];
            let at = index.map(|i| i as usize + k);
            if write {
                lanes(mask).for_each(|lane| a.set_word(at[lane], row[lane]));
            } else {
                gather(row, mask, |lane| a.word(at[lane]));
            }
        }
        let mut track = std::mem::take(&mut state.track);
        for lane in lanes(mask) {
            let address = addresses[lane];
            track.add(Space::Global, At { lane, address, bytes: bytes as u32, write });
        }
        track.finish(self.index, inst.line, write, state);
        true
    }
}

#[inline]
fn gather(row: &mut Row, mask: u32, f: impl Fn(usize) -> u32) {
    if mask == u32::MAX {
        for lane in 0..32 {
            row[lane] = f(lane);
        }
    } else {
        lanes(mask).for_each(|lane| row[lane] = f(lane));
    }
}
