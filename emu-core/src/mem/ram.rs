//! Guest RAM: one host mapping, accessed by checked scalar and slice operations.
//!
//! This module and [`crate::cpu::tlb`] are the only places of the crate that touch guest memory
//! through raw pointers. RAM is kept as a list of 2 MiB chunks, each with its own backing, so that
//! a snapshot file can later be mapped copy-on-write under some of them (decision D5) without
//! changing the address of any byte.
#![allow(unsafe_code)] // guest memory is shared with translated code through host addresses

use memmap2::{MmapMut, MmapOptions};

/// Bytes of one backing chunk.
pub const CHUNK_SIZE: usize = 2 << 20;

/// What lies under a 2 MiB chunk of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private zero pages of this process.
    Anonymous,
    /// A private (copy-on-write) mapping of a snapshot file.
    PrivateFile,
}

/// Guest RAM from physical address 0 up to its size.
pub struct GuestRam {
    map: MmapMut,
    base: *mut u8,
    len: usize,
    chunks: Vec<Backing>,
}

// SAFETY: `base` points into `map`, which this value owns; nothing else is shared.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Allocates `len` bytes of zeroed RAM (rounded up to whole pages by the caller's contract:
    /// `len` must be a multiple of 4096).
    ///
    /// # Errors
    /// The host's error when the address space cannot be reserved.
    pub fn new(len: usize) -> std::io::Result<Self> {
        let len = len.next_multiple_of(4096);
        let mut map = MmapOptions::new().len(len.max(4096)).map_anon()?;
        let base = map.as_mut_ptr();
        Ok(Self { map, base, len, chunks: vec![Backing::Anonymous; len.div_ceil(CHUNK_SIZE)] })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a machine without RAM.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Backing of the chunk that contains physical address `phys`.
    pub fn backing(&self, phys: usize) -> Option<Backing> {
        self.chunks.get(phys / CHUNK_SIZE).copied()
    }

    /// Host address of physical address 0. Only the TLB may turn it into pointers.
    pub(crate) fn base_addr(&self) -> u64 {
        self.base as u64
    }

    /// The whole of RAM.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `base..base+len` is the mapping owned by `self`; `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    /// The whole of RAM, writable. Callers must go through [`super::Memory`] when code pages matter.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `base..base+len` is the mapping owned by `self`; `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }

    /// Bytes `start..start+len` if they lie in RAM.
    pub fn get(&self, start: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(start).ok()?;
        self.as_slice().get(start..start.checked_add(len)?)
    }

    /// Bytes `start..start+len` if they lie in RAM, writable.
    pub fn get_mut(&mut self, start: u64, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(start).ok()?;
        self.as_mut_slice().get_mut(start..start.checked_add(len)?)
    }

    /// Zeroes all of RAM in place (its host address never changes: views cache it).
    pub fn clear(&mut self) {
        self.as_mut_slice().fill(0);
        debug_assert_eq!(self.map.as_ptr().cast_mut(), self.base);
    }
}
