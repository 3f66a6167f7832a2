//! Global memory: named allocations with unused space between them, and a written flag for each
//! byte.
//!
//! Blocks run in parallel and write through shared references, so words are atomics with relaxed
//! order. A kernel without races between blocks gives bitwise equal results for any schedule.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::error::MemoryError;

/// First address of an allocation; the windows of shared and local memory are far below.
const START: u64 = 0x10_0000_0000;
/// Unused bytes after each allocation.
const GUARD: u64 = 4096;
/// Value of memory before it is written: NaN as f32, far out of range as an index.
const FILL: u32 = 0xFFFF_FFFF;

/// Alignment of allocations in bytes, as on a real device.
pub const ALIGNMENT: u64 = 256;

/// One allocation.
pub(crate) struct Allocation {
    pub name: String,
    pub base: u64,
    pub bytes: u64,
    words: Vec<AtomicU32>,
    /// Written flags: four bits per word, one per byte
    written: Vec<AtomicU8>,
}

impl Allocation {
    /// Returns the value at an offset that is a multiple of `width` (1, 2, 4 or 8 bytes).
    #[inline(always)]
    pub fn load(&self, offset: u64, width: u32) -> u64 {
        let word = (offset / 4) as usize;
        let low = u64::from(self.words[word].load(Relaxed));
        match width {
            4 => low,
            8 => low | u64::from(self.words[word + 1].load(Relaxed)) << 32,
            _ => low >> (8 * (offset & 3)) & ((1 << (8 * width)) - 1),
        }
    }

    /// Stores the low bytes of `value` and marks them as written.
    #[inline(always)]
    pub fn store(&self, offset: u64, width: u32, value: u64) {
        let word = (offset / 4) as usize;
        match width {
            4 => {
                self.words[word].store(value as u32, Relaxed);
                self.written[word].store(15, Relaxed);
            }
            8 => {
                self.words[word].store(value as u32, Relaxed);
                self.words[word + 1].store((value >> 32) as u32, Relaxed);
                self.written[word].store(15, Relaxed);
                self.written[word + 1].store(15, Relaxed);
            }
            _ => {
                let shift = 8 * (offset & 3) as u32;
                let mask = ((1u32 << (8 * width)) - 1) << shift;
                let part = (value as u32) << shift & mask;
                // Another block may write the neighbouring bytes.
                let set = |old: u32| Some(old & !mask | part);
                let _ = self.words[word].fetch_update(Relaxed, Relaxed, set);
                let bits = ((1u8 << width) - 1) << (offset & 3);
                self.written[word].fetch_or(bits, Relaxed);
            }
        }
    }

    /// Returns one whole word.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u32 {
        self.words[index].load(Relaxed)
    }

    /// Stores one whole word.
    #[inline(always)]
    pub fn set_word(&self, index: usize, value: u32) {
        self.words[index].store(value, Relaxed);
        self.written[index].store(15, Relaxed);
    }

    /// Whether `count` whole words were written.
    #[inline(always)]
    pub fn words_written(&self, index: usize, count: usize) -> bool {
        self.written[index..index + count].iter().all(|w| w.load(Relaxed) == 15)
    }

    /// Whether every byte was written.
    #[inline(always)]
    pub fn is_written(&self, offset: u64, width: u32) -> bool {
        let word = (offset / 4) as usize;
        match width {
            4 => self.written[word].load(Relaxed) == 15,
            8 => self.written[word].load(Relaxed) & self.written[word + 1].load(Relaxed) == 15,
            _ => {
                let bits = ((1u8 << width) - 1) << (offset & 3);
                self.written[word].load(Relaxed) & bits == bits
            }
        }
    }

    /// Updates one value atomically; returns the old one.
    pub fn update(&self, lock: &Mutex<()>, offset: u64, width: u32, f: impl Fn(u64) -> u64) -> u64 {
        if width == 4 {
            let word = &self.words[(offset / 4) as usize];
            let old = word.fetch_update(Relaxed, Relaxed, |v| Some(f(u64::from(v)) as u32));
            return u64::from(old.unwrap_or_else(|same| same));
        }
        // A panic in another thread leaves no broken state: the words are plain integers.
        let _guard = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old = self.load(offset, width);
        self.store(offset, width, f(old));
        old
    }
}

/// All allocations of a device.
pub(crate) struct Memory {
    /// Sorted by base
    pub list: Vec<Allocation>,
    next: u64,
    /// Locked by atomics wider than a word
    pub lock: Mutex<()>,
}

impl Memory {
    pub fn new() -> Self {
        Self { list: Vec::new(), next: START, lock: Mutex::new(()) }
    }

    pub fn alloc(&mut self, name: &str, bytes: usize) -> u64 {
        let base = self.next;
        let words = bytes.div_ceil(4) + 1;
        self.next = (base + bytes as u64 + GUARD).next_multiple_of(ALIGNMENT);
        self.list.push(Allocation {
            name: name.to_owned(),
            base,
            bytes: bytes as u64,
            words: (0..words).map(|_| AtomicU32::new(FILL)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
        });
        base
    }

    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let at = self.list.iter().position(|a| a.base == address);
        let at = at.ok_or(MemoryError::NotAStart { address })?;
        self.list.remove(at);
        Ok(())
    }

    /// Marks an allocation as never written, under another name.
    pub fn renew(&mut self, address: u64, name: &str) -> Result<(), MemoryError> {
        let found = self.list.iter_mut().find(|a| a.base == address);
        let found = found.ok_or(MemoryError::NotAStart { address })?;
        name.clone_into(&mut found.name);
        found.words.iter_mut().for_each(|word| *word.get_mut() = FILL);
        found.written.iter_mut().for_each(|bits| *bits.get_mut() = 0);
        Ok(())
    }

    /// Returns the index of the last allocation that starts at or before `address`.
    pub fn at_or_before(&self, address: u64) -> Option<usize> {
        self.list.partition_point(|a| a.base <= address).checked_sub(1)
    }

    /// Returns the allocation that contains all of `bytes`, and the offset in it.
    pub fn range(&self, address: u64, bytes: usize) -> Result<(&Allocation, u64), MemoryError> {
        let none = MemoryError::NoAllocation { address, bytes };
        let at = self.at_or_before(address).map(|i| &self.list[i]);
        let found = at.filter(|a| address - a.base <= a.bytes).ok_or(none)?;
        let offset = address - found.base;
        if (bytes as u64) > found.bytes - offset {
            let (name, length) = (found.name.clone(), found.bytes);
            return Err(MemoryError::OutOfRange { name, offset, bytes, length });
        }
        Ok((found, offset))
    }

    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (a, start) = self.range(address, data.len())?;
        let head = data.len().min((start.wrapping_neg() & 3) as usize);
        let (head, rest) = data.split_at(head);
        for (i, &byte) in head.iter().enumerate() {
            a.store(start + i as u64, 1, u64::from(byte));
        }
        let start = start + head.len() as u64;
        let (words, tail) = rest.as_chunks::<4>();
        for (i, word) in words.iter().enumerate() {
            a.store(start + 4 * i as u64, 4, u64::from(u32::from_le_bytes(*word)));
        }
        let start = start + 4 * words.len() as u64;
        for (i, &byte) in tail.iter().enumerate() {
            a.store(start + i as u64, 1, u64::from(byte));
        }
        Ok(())
    }

    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let (a, start) = self.range(address, out.len())?;
        let head = out.len().min((start.wrapping_neg() & 3) as usize);
        let (head, rest) = out.split_at_mut(head);
        for (i, byte) in head.iter_mut().enumerate() {
            *byte = a.load(start + i as u64, 1) as u8;
        }
        let start = start + head.len() as u64;
        let (words, tail) = rest.as_chunks_mut::<4>();
        for (i, word) in words.iter_mut().enumerate() {
            *word = (a.load(start + 4 * i as u64, 4) as u32).to_le_bytes();
        }
        let start = start + 4 * words.len() as u64;
        for (i, byte) in tail.iter_mut().enumerate() {
            *byte = a.load(start + i as u64, 1) as u8;
        }
        Ok(())
    }
}
