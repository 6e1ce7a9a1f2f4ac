//! Guest RAM: one host mapping, accessed by checked scalar and slice operations.
//!
//! This module and [`crate::cpu::tlb`] are the only places of the crate that touch guest memory
//! through raw pointers. RAM is one host mapping whose address never changes: views and translated
//! code cache it. Pages of a snapshot file can be mapped copy-on-write in its place (decision D5).
#![allow(unsafe_code)] // guest memory is shared with translated code through host addresses

use std::fs::File;
use std::io;

use memmap2::{MmapMut, MmapOptions};

use crate::snapshot::{PackedMemory, PageRun};

/// Size of a page, of the guest's and of the host's.
const PAGE: usize = 4096;

/// Guest RAM from physical address 0 up to its size.
pub struct GuestRam {
    map: MmapMut,
    base: *mut u8,
    len: usize,
    /// Bytes that are mapped from a snapshot file, private to this process once written.
    file_backed: usize,
}

// SAFETY: `base` points into `map`, which this value owns; nothing else is shared.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Allocates `len` bytes of zeroed RAM (rounded up to whole pages by the caller's contract:
    /// `len` must be a multiple of 4096).
    ///
    /// # Errors
    /// The host's error when the address space cannot be reserved.
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.next_multiple_of(PAGE);
        let mut map = MmapOptions::new().len(len.max(PAGE)).map_anon()?;
        let base = map.as_mut_ptr();
        Ok(Self { map, base, len, file_backed: 0 })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a machine without RAM.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that lie on pages of a snapshot file.
    pub fn file_backed(&self) -> usize {
        self.file_backed
    }

    /// Maps stored pages of a snapshot, which begin at `offset` of `file`, copy-on-write where they
    /// belong. RAM must be clear. The pages are read when they are touched: nobody may change or shorten
    /// the file afterwards (replacing it by another one is fine).
    ///
    /// # Errors
    /// The pages do not fit, the file is shorter, or the host refuses; some runs may be mapped then,
    /// with the right contents.
    #[cfg(unix)]
    pub fn map_file(&mut self, file: &File, offset: u64, packed: &PackedMemory) -> io::Result<()> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};

        let end = packed.runs.last().map_or(0, |run| run.start() + run.len());
        let length = file.metadata()?.len();
        if end > self.len || !offset.is_multiple_of(PAGE as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if offset.checked_add(packed.stored_bytes()).is_none_or(|stored| stored > length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if rustix::param::page_size() != PAGE {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut at = offset;
        for run in &packed.runs {
            // SAFETY: the range lies inside the mapping this value owns (runs ascend and the last one
            // ends at or before `len`), so only our own pages are replaced, by private ones with the
            // same access; the address stays valid and nothing else changes.
            unsafe {
                mmap(
                    self.base.add(run.start()).cast(),
                    run.len(),
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                    file,
                    at,
                )?;
            }
            at += run.len() as u64;
            self.file_backed += run.len();
        }
        Ok(())
    }

    /// Mapping needs a Unix host.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub fn map_file(&mut self, _: &File, _: u64, _: &PackedMemory) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Pages that may contain something other than zeros.
    pub(crate) fn maybe_used(&self) -> Vec<PageRun> {
        vec![PageRun { first: 0, count: (self.len / PAGE) as u32 }]
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[cfg(unix)]
    #[test]
    fn ram_mapped_from_a_file_is_read_and_written_without_changing_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        for n in 2..5u8 {
            file.write_all(&[n; 4096]).unwrap();
        }
        let file = File::open(&path).unwrap();
        let packed = PackedMemory {
            pages: 16,
            runs: vec![PageRun { first: 1, count: 2 }, PageRun { first: 9, count: 1 }],
        };
        let mut ram = GuestRam::new(16 * 4096).unwrap();
        let base = ram.base_addr();
        ram.map_file(&file, 4096, &packed).unwrap();
        assert_eq!((ram.base_addr(), ram.file_backed()), (base, 3 * 4096));
        let byte = |ram: &GuestRam, page: usize| ram.as_slice()[page * 4096 + 7];
        assert_eq!([0, 1, 2, 3, 9, 10].map(|page| byte(&ram, page)), [0, 2, 3, 0, 4, 0]);
        ram.as_mut_slice()[4096..8192].fill(0xEE);
        assert_eq!(byte(&ram, 1), 0xEE);
        assert_eq!(std::fs::read(&path).unwrap()[4096], 2);
        assert!(ram.map_file(&file, 8192, &packed).is_err(), "the file is too short");
        ram.clear();
        assert_eq!(byte(&ram, 2), 0);
    }
}
