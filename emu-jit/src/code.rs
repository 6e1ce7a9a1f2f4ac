//! The code cache: one memory object mapped twice, at unrelated addresses, writable and executable.
//! No page is ever both.
#![allow(unsafe_code)] // maps memory that is executed

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use memmap2::{Mmap, MmapMut, MmapOptions};

/// Alignment of what is appended.
const ALIGN: usize = 16;

/// Bounded, append-only until it is reset as a whole. What runs often grows from the start, the rest from the end.
pub(crate) struct CodeCache {
    writable: MmapMut,
    executable: Mmap,
    used: usize,
    /// Where the code at the end begins.
    cold: usize,
    /// What a reset keeps: the shared routines at the start.
    kept: usize,
}

fn memory_object(len: usize) -> io::Result<File> {
    let create = |flags| {
        // SAFETY: the name is a C string; the call has no other requirements.
        unsafe { libc::memfd_create(c"env86-code".as_ptr(), flags) }
    };
    // Hosts may make memory objects non-executable by default; older kernels do not know the flag.
    let mut fd = create(libc::MFD_CLOEXEC | libc::MFD_EXEC);
    if fd < 0 {
        fd = create(libc::MFD_CLOEXEC);
    }
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just created and is owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    Ok(file)
}

impl CodeCache {
    /// An empty cache of `len` bytes.
    ///
    /// # Errors
    /// The host gives no memory, or none that may be executed.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let file = memory_object(len)?;
        let options = {
            let mut o = MmapOptions::new();
            o.len(len);
            o
        };
        // SAFETY: the object has no name that another process could open, and this process changes
        // it only through `writable`, which appends or patches between runs of the code.
        let (writable, executable) = unsafe { (options.map_mut(&file)?, options.map_exec(&file)?) };
        Ok(Self { writable, executable, used: 0, cold: len, kept: 0 })
    }

    /// Host address at which the next appended byte will be executed.
    pub(crate) fn next_address(&self) -> usize {
        self.address(self.used as u32)
    }

    /// Host address of a place in the cache.
    pub(crate) fn address(&self, at: u32) -> usize {
        self.executable.as_ptr() as usize + at as usize
    }

    /// Appends code. `None` if there is no room.
    pub(crate) fn append(&mut self, code: &[u8]) -> Option<u32> {
        let start = self.used;
        let end = start.checked_add(code.len())?;
        if end > self.cold {
            return None;
        }
        self.writable.get_mut(start..end)?.copy_from_slice(code);
        self.used = end.next_multiple_of(ALIGN);
        Some(start as u32)
    }

    /// What lies at a place.
    pub(crate) fn read(&self, at: u32, len: u32) -> Option<&[u8]> {
        self.executable.get(at as usize..at as usize + len as usize)
    }

    /// Where `len` bytes of rarely run code would go.
    pub(crate) fn cold_place(&self, len: usize) -> Option<u32> {
        let start = self.cold.checked_sub(len)?;
        (start >= self.used).then_some(start as u32)
    }

    /// Appends code of which the part from `hot` on runs rarely. Both places, or `None` if there is no room.
    pub(crate) fn append_both(&mut self, code: &[u8], hot: usize) -> Option<(u32, u32)> {
        let (hot, cold) = code.split_at_checked(hot)?;
        let start = self.room(hot.len(), cold.len())?;
        let entry = self.append(hot)?;
        self.patch(start, cold);
        self.cold = start as usize;
        Some((entry, start))
    }

    /// Where the cold part of code with these lengths would go, if there is room for both.
    pub(crate) fn room(&self, hot: usize, cold: usize) -> Option<u32> {
        let start = self.cold_place(cold)?;
        (self.used.checked_add(hot)? <= start as usize).then_some(start)
    }

    /// Replaces bytes of code that is not running.
    pub(crate) fn patch(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        self.writable[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes the 32-bit displacement at `at` lead to `to`.
    pub(crate) fn patch_branch(&mut self, at: u32, to: u32) {
        let distance = to.wrapping_sub(at.wrapping_add(4));
        self.patch(at, &distance.to_le_bytes());
    }

    /// What is there now survives resets.
    pub(crate) fn keep(&mut self) {
        self.kept = self.used;
    }

    /// Bytes that survive resets.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Drops everything that is not kept.
    pub(crate) fn reset(&mut self) {
        self.used = self.kept;
        self.cold = self.writable.len();
    }
}
