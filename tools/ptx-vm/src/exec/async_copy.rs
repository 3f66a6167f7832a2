//! `cp.async`: the data is read when the copy is issued, and written only when it is waited for. So
//! a kernel that waits too little reads old bytes.

use super::Launched;
use super::access::{At, resolve};
use super::shared::How;
use super::state::State;
use super::warp::{Copy, Warp, lanes};
use crate::ast::Space;
use crate::program::{CpAsync, Inst, NONE, Reg};

impl Warp {
    pub(crate) fn copy_async(
        &mut self,
        copy: &CpAsync,
        inst: &Inst,
        mask: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        let mut track = std::mem::take(&mut state.track);
        for lane in lanes(mask) {
            let (_, dst) = resolve(Space::Shared, self.address(copy.dst, copy.dst_offset, lane));
            let mut size = match copy.size {
                Reg::None => copy.bytes,
                r => (self.get(r, lane) as u32).min(copy.bytes),
            };
            if let Some((p, negated)) = copy.ignore {
                let ignored = (self.masks[p as usize] >> lane & 1 == 1) != negated;
                size = if ignored { 0 } else { size };
            }
            let mut data = [0; 16];
            let src = self.address(copy.src, copy.src_offset, lane);
            if size > 0 {
                let at = At { lane, address: src, bytes: copy.bytes, write: false };
                track.add(Space::Global, At { bytes: size, ..at });
                let aligned = self.check_alignment(at, inst, launched, state).is_some();
                let at = At { bytes: size, ..at };
                if !aligned || self.source(at, &mut data, inst, launched, state).is_none() {
                    continue;
                }
            }
            let at = At { lane, address: dst, bytes: copy.bytes, write: true };
            track.add(Space::Shared, at);
            if self.check_alignment(at, inst, launched, state).is_none() {
                continue;
            }
            if self.check_shared(at, inst, launched, state).is_none() {
                continue;
            }
            let who = self.who(lane, inst.line);
            let conflict = state.shared.access(who, dst as usize, copy.bytes as usize, How::Write);
            if let Some(conflict) = conflict {
                self.race(at, How::Write, conflict, inst, launched, state);
            }
            let range = dst as usize..dst as usize + copy.bytes as usize;
            state.shared.in_flight[range].iter_mut().for_each(|n| *n = n.saturating_add(1));
            self.copies.push(Copy {
                lane: lane as u8,
                bytes: copy.bytes as u8,
                dst: dst as u32,
                data,
                group: self.committed[lane],
                line: inst.line,
            });
        }
        track.finish(self.index, inst.line, false, state);
    }

    /// Reads the source: whole words, or byte by byte for any other size.
    fn source(
        &self,
        at: At,
        data: &mut [u8; 16],
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<()> {
        if matches!(at.bytes, 4 | 8 | 16) {
            let a = self.check_global(at, inst, launched, state)?;
            let offset = at.address - a.base;
            for k in (0..at.bytes as usize).step_by(4) {
                let word = a.load(offset + k as u64, 4) as u32;
                data[k..k + 4].copy_from_slice(&word.to_le_bytes());
            }
            return Some(());
        }
        for k in 0..at.bytes {
            let part = At { address: at.address + u64::from(k), bytes: 1, ..at };
            let a = self.check_global(part, inst, launched, state)?;
            data[k as usize] = a.load(part.address - a.base, 1) as u8;
        }
        Some(())
    }

    /// Writes the copies that the lanes wait for: all but the last `open` groups.
    pub(crate) fn wait_copies(&mut self, open: u32, mask: u32, state: &mut State) {
        let copies = std::mem::take(&mut self.copies);
        for copy in copies {
            let lane = usize::from(copy.lane);
            // `wait_all` includes copies that were never committed.
            let due = open == NONE
                || u64::from(copy.group) + u64::from(open) < u64::from(self.committed[lane]);
            if mask >> lane & 1 == 0 || !due {
                self.copies.push(copy);
                continue;
            }
            let (from, bytes) = (copy.dst as usize, usize::from(copy.bytes));
            // For later reads the write happens now; earlier reads were reported as reads of bytes
            // in flight.
            let _ = state.shared.access(self.who(lane, copy.line), from, bytes, How::Write);
            state.shared.bytes[from..from + bytes].copy_from_slice(&copy.data[..bytes]);
            for n in &mut state.shared.in_flight[from..from + bytes] {
                *n = n.saturating_sub(1);
            }
        }
    }
}
