//! Loads and stores of every space, with their checks.

use super::Launched;
use super::shared::{Conflict, How, Who};
use super::state::{Site, State};
use super::warp::{Warp, lanes};
use crate::ast::Space;
use crate::memory::Allocation;
use crate::program::{Access, Inst, LOCAL_WINDOW, PARAM_WINDOW, Reg, SHARED_WINDOW, WINDOW};
use crate::report::FindingKind;

/// Whether a generic address is in a space.
pub(crate) fn is_in(address: u64, space: Space) -> bool {
    space_of(address) == if space == Space::Const { Space::Global } else { space }
}

fn space_of(address: u64) -> Space {
    match address {
        a if (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&a) => Space::Shared,
        a if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&a) => Space::Local,
        a if (PARAM_WINDOW..PARAM_WINDOW + WINDOW).contains(&a) => Space::Param,
        _ => Space::Global,
    }
}

/// Returns the space of an address, and the address in it.
pub(crate) fn resolve(space: Space, address: u64) -> (Space, u64) {
    match space {
        Space::Generic => match space_of(address) {
            Space::Shared => (Space::Shared, address - SHARED_WINDOW),
            Space::Local => (Space::Local, address - LOCAL_WINDOW),
            Space::Param => (Space::Param, address - PARAM_WINDOW),
            other => (other, address),
        },
        Space::Const => (Space::Global, address),
        other => (other, address),
    }
}

/// One lane's access.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub lane: usize,
    pub address: u64,
    /// All bytes, vectors included
    pub bytes: u32,
    pub write: bool,
}

impl Warp {
    /// Returns the address of a lane.
    #[inline]
    pub(crate) fn address(&self, base: Reg, offset: i64, lane: usize) -> u64 {
        match base {
            // 32-bit addresses wrap within the shared window.
            Reg::W(row) => u64::from(self.r32[row as usize][lane].wrapping_add(offset as u32)),
            _ => self.get(base, lane).wrapping_add(offset as u64),
        }
    }

    /// Returns the space and place of a lane's access.
    #[inline]
    fn place(&self, access: &Access, lane: usize, write: bool) -> (Space, At) {
        let address = self.address(access.base, access.offset, lane);
        let (space, address) = resolve(access.space, address);
        let bytes = access.width * access.regs.len() as u32;
        (space, At { lane, address, bytes, write })
    }

    pub(crate) fn load(
        &mut self,
        access: &Access,
        inst: &Inst,
        mask: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        if self.stream(access, inst, mask, false, launched, state) {
            return;
        }
        let mut track = std::mem::take(&mut state.track);
        for lane in lanes(mask) {
            let (space, at) = self.place(access, lane, false);
            track.add(space, at);
            let mut values = [0u64; 8];
            if self.read((space, at), access.width, &mut values, inst, launched, state).is_none() {
                values = [0; 8];
            }
            for (&r, &value) in access.regs.iter().zip(&values) {
                let value = match (access.signed, r) {
                    (true, Reg::W(_)) => super::int::sext(value, access.width * 8) as u32 as u64,
                    (true, _) => super::int::sext(value, access.width * 8) as u64,
                    _ => value,
                };
                self.set(r, lane, value);
            }
        }
        track.finish(self.index, inst.line, false, state);
    }

    pub(crate) fn store(
        &mut self,
        access: &Access,
        inst: &Inst,
        mask: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        if self.stream(access, inst, mask, true, launched, state) {
            return;
        }
        let mut track = std::mem::take(&mut state.track);
        for lane in lanes(mask) {
            let (space, at) = self.place(access, lane, true);
            track.add(space, at);
            let mut values = [0u64; 8];
            for (value, &r) in values.iter_mut().zip(&access.regs) {
                *value = self.get(r, lane);
            }
            let values = &values[..access.regs.len()];
            self.write((space, at), access.width, values, inst, launched, state);
        }
        track.finish(self.index, inst.line, true, state);
    }

    /// Reads elements; `None` if the access is not possible, which is then reported.
    fn read(
        &mut self,
        (space, at): (Space, At),
        width: u32,
        values: &mut [u64; 8],
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<()> {
        self.check_alignment(at, inst, launched, state)?;
        let count = (at.bytes / width) as usize;
        match space {
            Space::Shared => {
                let from = self.check_shared(at, inst, launched, state)?;
                self.check_race(at, How::Read, inst, launched, state);
                read_bytes(&state.shared.bytes[from..], width, &mut values[..count]);
            }
            Space::Local => {
                let from = self.check_local(at, inst, launched, state)?;
                read_bytes(&self.local[from..], width, &mut values[..count]);
            }
            Space::Param => {
                let from = at.address as usize;
                let end = from.checked_add(at.bytes as usize)?;
                let Some(data) = launched.params.get(from..end) else {
                    self.outside(at, None, inst, launched, state);
                    return None;
                };
                read_bytes(data, width, &mut values[..count]);
            }
            _ => {
                let a = self.check_global(at, inst, launched, state)?;
                let offset = at.address - a.base;
                for (k, value) in values[..count].iter_mut().enumerate() {
                    *value = a.load(offset + k as u64 * u64::from(width), width);
                }
            }
        }
        Some(())
    }

    fn write(
        &mut self,
        (space, at): (Space, At),
        width: u32,
        values: &[u64],
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<()> {
        self.check_alignment(at, inst, launched, state)?;
        match space {
            Space::Shared => {
                let from = self.check_shared(at, inst, launched, state)?;
                let mut data = [0; 64];
                let data = &mut data[..at.bytes as usize];
                write_bytes(data, width, values);
                let range = from..from + data.len();
                let same = state.shared.bytes[range.clone()] == *data;
                let how = if same { How::WriteSame } else { How::Write };
                self.check_race(at, how, inst, launched, state);
                state.shared.bytes[range].copy_from_slice(data);
            }
            Space::Local => {
                let from = self.check_local(at, inst, launched, state)?;
                write_bytes(&mut self.local[from..], width, values);
            }
            Space::Param => self.outside(at, None, inst, launched, state),
            _ => {
                let a = self.check_global(at, inst, launched, state)?;
                let offset = at.address - a.base;
                for (k, &value) in values.iter().enumerate() {
                    a.store(offset + k as u64 * u64::from(width), width, value);
                }
            }
        }
        Some(())
    }

    #[inline]
    pub(crate) fn check_alignment(
        &self,
        at: At,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<()> {
        if at.address & u64::from(at.bytes - 1) == 0 {
            return Some(());
        }
        let site = Site { lane: at.lane, address: Some(at.address), place: None };
        state.report(launched, self, inst, FindingKind::Misaligned, site, || {
            format!("an access of {0} bytes needs an address that is a multiple of {0}", at.bytes)
        });
        None
    }

    #[cold]
    fn outside(
        &self,
        at: At,
        place: Option<(String, u64, u64)>,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) {
        let verb = if at.write { "writes" } else { "reads" };
        let near = place.as_ref().map(|(name, offset, _)| (name.clone(), *offset));
        let site = Site { lane: at.lane, address: Some(at.address), place: near };
        state.report(launched, self, inst, FindingKind::OutOfBounds, site, || match place {
            Some((name, offset, size)) => format!(
                "{verb} {} bytes at offset {offset} of `{name}`, which holds {size} bytes",
                at.bytes
            ),
            None => format!("{verb} {} bytes where nothing is allocated", at.bytes),
        });
    }

    /// Returns the allocation that contains the access; bytes that are read must have been written.
    #[inline]
    pub(crate) fn check_global<'a>(
        &self,
        at: At,
        inst: &Inst,
        launched: &Launched<'a>,
        state: &mut State,
    ) -> Option<&'a Allocation> {
        let list = &launched.memory.list;
        let holds = |a: &Allocation| {
            at.address >= a.base && at.address - a.base + u64::from(at.bytes) <= a.bytes
        };
        let found = match list.get(state.last).filter(|a| holds(a)) {
            Some(a) => a,
            None => {
                let near = launched.memory.at_or_before(at.address);
                let a = near.map(|i| &list[i]);
                let Some(a) = a.filter(|a| holds(a)) else {
                    // Only an address shortly after an allocation is reported with its name.
                    let near = a.filter(|a| at.address - a.base < a.bytes + (1 << 20));
                    let place = near.map(|a| (a.name.clone(), at.address - a.base, a.bytes));
                    self.outside(at, place, inst, launched, state);
                    return None;
                };
                state.last = near.unwrap_or(0);
                a
            }
        };
        if !at.write {
            let offset = at.address - found.base;
            let width = at.bytes.min(4);
            let parts = at.bytes / width;
            let written =
                (0..parts).all(|k| found.is_written(offset + u64::from(k * width), width));
            if !written {
                let place = Some((found.name.clone(), offset));
                self.unwritten(at, place, inst, launched, state);
            }
        }
        Some(found)
    }

    #[cold]
    fn unwritten(
        &self,
        at: At,
        place: Option<(String, u64)>,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) {
        let name = place.as_ref().map_or(String::new(), |(name, _)| format!(" of `{name}`"));
        let site = Site { lane: at.lane, address: Some(at.address), place };
        state.report(launched, self, inst, FindingKind::Uninitialised, site, || {
            format!("reads {} bytes{name} that nobody has written", at.bytes)
        });
    }

    /// Returns the offset of a shared access that is inside one variable.
    #[inline]
    pub(crate) fn check_shared(
        &self,
        at: At,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<usize> {
        let (from, end) = (at.address, at.address.checked_add(u64::from(at.bytes))?);
        let program = launched.program;
        let dynamic = program.shared_bytes;
        let in_dynamic = from >= dynamic && end <= dynamic + u64::from(launched.dynamic_shared);
        let in_static =
            || program.shared.iter().any(|v| from >= v.offset && end <= v.offset + v.size);
        if !in_dynamic && !in_static() {
            let place = self.near_shared(from, launched);
            self.outside(at, place, inst, launched, state);
            return None;
        }
        let range = from as usize..end as usize;
        if at.write {
            state.shared.written[range].fill(true);
        } else if !state.shared.written[range].iter().all(|&w| w) {
            let place = self.near_shared(from, launched).map(|(name, by, _)| (name, by));
            self.unwritten(at, place, inst, launched, state);
        }
        Some(from as usize)
    }

    /// Records a shared access that is in bounds; reports races and copies in flight.
    #[inline]
    pub(crate) fn check_race(
        &self,
        at: At,
        how: How,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) {
        let (from, bytes) = (at.address as usize, at.bytes as usize);
        let who = self.who(at.lane, inst.line);
        let conflict = state.shared.access(who, from, bytes, how);
        if let Some(conflict) = conflict {
            self.race(at, how, conflict, inst, launched, state);
        }
        if state.shared.in_flight[from..from + bytes].iter().any(|&n| n > 0) {
            let place = self.near_shared(at.address, launched).map(|(name, by, _)| (name, by));
            let site = Site { lane: at.lane, address: Some(at.address), place };
            let verb = if how == How::Read { "reads" } else { "writes" };
            state.report(launched, self, inst, FindingKind::CopyInFlight, site, || {
                format!("{verb} {bytes} bytes whose cp.async has not been waited for")
            });
        }
    }

    /// Describes this lane for the shadow of shared memory.
    pub(crate) fn who(&self, lane: usize, line: u32) -> Who {
        Who { warp: self.index, lane, syncs: self.syncs, line }
    }

    #[cold]
    pub(crate) fn race(
        &self,
        at: At,
        how: How,
        other: Conflict,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) {
        let place = self.near_shared(other.address, launched).map(|(name, by, _)| (name, by));
        let site = Site { lane: at.lane, address: Some(other.address), place };
        state.report(launched, self, inst, FindingKind::SharedRace, site, || {
            let verb = if how == How::Read { "reads" } else { "writes" };
            let did = if other.wrote { "wrote" } else { "read" };
            let own = other.warp == self.index;
            let missing = if own { "barrier or __syncwarp" } else { "barrier" };
            format!(
                "{verb} what warp {} lane {} {did} at line {}, with no {missing} in between",
                other.warp, other.lane, other.line
            )
        });
    }

    /// Returns name, offset and size of the shared variable at or before an address.
    pub(crate) fn near_shared(
        &self,
        address: u64,
        launched: &Launched,
    ) -> Option<(String, u64, u64)> {
        let program = launched.program;
        if address >= program.shared_bytes {
            let name = match program.dynamic_name.as_str() {
                "" => "dynamic shared memory".to_owned(),
                name => name.to_owned(),
            };
            let size = u64::from(launched.dynamic_shared);
            return Some((name, address - program.shared_bytes, size));
        }
        let found = program.shared.iter().rev().find(|v| v.offset <= address)?;
        Some((found.name.clone(), address - found.offset, found.size))
    }

    fn check_local(
        &mut self,
        at: At,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<usize> {
        let size = launched.program.local_bytes;
        let inside = at.address.checked_add(u64::from(at.bytes)).is_some_and(|end| end <= size);
        if !inside {
            let place = Some(("local memory".to_owned(), at.address, size));
            self.outside(at, place, inst, launched, state);
            return None;
        }
        let from = at.lane * size as usize + at.address as usize;
        let range = from..from + at.bytes as usize;
        if at.write {
            self.local_written[range].fill(true);
        } else if !self.local_written[range].iter().all(|&w| w) {
            let place = Some(("local memory".to_owned(), at.address));
            self.unwritten(at, place, inst, launched, state);
        }
        Some(from)
    }
}

fn read_bytes(data: &[u8], width: u32, values: &mut [u64]) {
    let width = width as usize;
    for (value, bytes) in values.iter_mut().zip(data.chunks_exact(width)) {
        *value = match *bytes {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            _ => bytes.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)),
        };
    }
}

fn write_bytes(data: &mut [u8], width: u32, values: &[u64]) {
    let width = width as usize;
    for (value, bytes) in values.iter().zip(data.chunks_exact_mut(width)) {
        bytes.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}
