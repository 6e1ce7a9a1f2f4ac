//! The software TLB: one directly indexed table per address-space view.
//!
//! A view belongs to one CPL class (supervisor or user) of the current address space. Its read and
//! write tables have one entry per linear page, so a translation is one load; there are no tags and
//! no conflicts. Translated code indexes the same tables (see `docs/engine.md`).
//!
//! ```text
//! fast entry   host address of the page - guest linear page + 1   (bit 0 set)
//! slow entry   0: not cached, or every access has to be looked at (devices, code pages, ROM writes,
//!              pages that are not dirty yet)
//! code entry   physical page number + 1, 0 = not cached
//! ```
//!
//! The class is fixed by the view and the direction by the table, so no permission bit is tested on
//! the fast path. A read fills only the read entry; the first write takes the slow path, which sets
//! the dirty bit.
#![allow(unsafe_code)] // turns table entries into host pointers: the core of every memory access

use memmap2::{MmapMut, MmapOptions};

use crate::mem::GuestRam;

/// Linear pages of a 32-bit address space.
const PAGES: usize = 1 << 20;
/// Above this many cached pages a flush replaces the table instead of clearing entries.
const MAX_FILLED: usize = 16_384;
/// Reverse map: page has no fast write entry.
const NO_WRITER: u32 = 0;
/// Reverse map: more than one linear page may write it.
const MANY_WRITERS: u32 = u32::MAX;

/// Layout of a view's tables; translated code relies on it.
#[repr(C)]
struct Tables {
    read: [u64; PAGES],
    write: [u64; PAGES],
    code: [u32; PAGES],
}

/// Distance of the write entries from the read entries, for translated code.
pub const WRITE_TABLE: usize = std::mem::offset_of!(Tables, write);
/// Distance of the code entries (4 bytes each) from the read entries, for translated code.
pub const CODE_TABLE: usize = std::mem::offset_of!(Tables, code);

const _: () = assert!(std::mem::offset_of!(Tables, read) == 0);

/// One address-space view.
struct View {
    map: MmapMut,
    tables: *mut Tables,
    /// Linear pages with at least one entry, not global.
    filled: Vec<u32>,
    /// Linear pages with at least one entry that survive a CR3 load.
    filled_global: Vec<u32>,
    /// One bit per 4 MiB: an entry there stems from a large page (INVLPG drops all of it).
    large: [u64; 16],
}

impl View {
    fn new() -> std::io::Result<Self> {
        let mut map = MmapOptions::new().len(size_of::<Tables>()).map_anon()?;
        let tables = map.as_mut_ptr().cast::<Tables>();
        Ok(Self { map, tables, filled: Vec::new(), filled_global: Vec::new(), large: [0; 16] })
    }

    #[inline(always)]
    fn tables(&self) -> &Tables {
        // SAFETY: `tables` points to a live, zero-initialised, suitably aligned (page) mapping of
        // the right size owned by `self.map`; every bit pattern is a valid `Tables`.
        unsafe { &*self.tables }
    }

    #[inline(always)]
    fn tables_mut(&mut self) -> &mut Tables {
        // SAFETY: as in `tables`, and `&mut self` is exclusive.
        unsafe { &mut *self.tables }
    }

    fn clear_page(&mut self, lin_page: u32) {
        let p = lin_page as usize & (PAGES - 1);
        let t = self.tables_mut();
        t.read[p] = 0;
        t.write[p] = 0;
        t.code[p] = 0;
    }

    fn note_fill(&mut self, lin_page: u32, global: bool, large: bool) {
        let p = lin_page as usize & (PAGES - 1);
        let t = self.tables();
        if t.read[p] == 0 && t.write[p] == 0 && t.code[p] == 0 {
            let list = if global { &mut self.filled_global } else { &mut self.filled };
            list.push(lin_page);
            // INVLPG leaves its page listed, so refills repeat it; a guest must not grow the list.
            if list.len() > PAGES {
                list.sort_unstable();
                list.dedup();
            }
        }
        if large {
            self.large[p >> 16] |= 1 << ((p >> 10) & 63);
        }
    }

    fn flush_non_global(&mut self) {
        if self.filled.len() > MAX_FILLED {
            return self.flush_all();
        }
        for page in std::mem::take(&mut self.filled) {
            self.clear_page(page);
        }
    }

    fn flush_all(&mut self) {
        if self.filled.len() + self.filled_global.len() > MAX_FILLED {
            // A fresh anonymous mapping is all slow entries, and cheaper than many scattered stores.
            // On failure (host out of address space) the entries are cleared one by one instead.
            if let Ok(mut map) = MmapOptions::new().len(size_of::<Tables>()).map_anon() {
                self.tables = map.as_mut_ptr().cast::<Tables>();
                self.map = map;
                self.filled.clear();
                self.filled_global.clear();
            }
        }
        for page in std::mem::take(&mut self.filled) {
            self.clear_page(page);
        }
        for page in std::mem::take(&mut self.filled_global) {
            self.clear_page(page);
        }
        self.large = [0; 16];
    }

    fn invlpg(&mut self, lin_page: u32) {
        let p = lin_page as usize & (PAGES - 1);
        let bit = 1u64 << ((p >> 10) & 63);
        if self.large[p >> 16] & bit != 0 {
            let first = (p & !0x3FF) as u32;
            for page in first..first + 1024 {
                self.clear_page(page);
            }
            self.large[p >> 16] &= !bit;
        } else {
            self.clear_page(lin_page);
        }
    }
}

/// What a fill makes fast.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// Linear page number.
    pub lin_page: u32,
    /// Physical page number; must be a RAM page.
    pub pfn: u32,
    /// Writes become fast too.
    pub write: bool,
    /// Reads become fast.
    pub read: bool,
    /// The translation survives CR3 loads.
    pub global: bool,
    /// The translation stems from a 2 or 4 MiB page.
    pub large: bool,
}

/// The views of the machine: supervisor and user class of the current address space.
pub struct Views {
    views: [View; 2],
    current: usize,
    /// Tables of the selected view: what every access starts from.
    selected: *mut Tables,
    /// Physical page -> linear page with a fast write entry (+1), [`NO_WRITER`] or [`MANY_WRITERS`].
    writers: Vec<u32>,
    /// Counts changes that may have removed a code entry; compared for equality only.
    pub(crate) generation: u64,
    /// Counters.
    pub(crate) stats: ViewStats,
}

/// What happened to the views; all deterministic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewStats {
    /// Pages made fast for data, or executable.
    pub fills: u64,
    /// Entries dropped because the address space changed.
    pub dropped: u64,
    /// Loads of CR3.
    pub switches: u64,
    /// Times everything was dropped.
    pub flushes: u64,
    /// INVLPG.
    pub invalidations: u64,
    /// Physical pages that became slow to write.
    pub protections: u64,
}

// SAFETY: the raw table pointers point into mappings owned by the same value.
unsafe impl Send for Views {}

impl Views {
    /// Empty views for a machine with `ram_pages` pages of RAM.
    pub(crate) fn new(ram_pages: usize) -> std::io::Result<Self> {
        let views = [View::new()?, View::new()?];
        Ok(Self {
            selected: views[0].tables,
            views,
            current: 0,
            writers: vec![NO_WRITER; ram_pages],
            generation: 0,
            stats: ViewStats::default(),
        })
    }

    /// Selects the class: user (CPL 3) or supervisor.
    #[inline(always)]
    pub fn select(&mut self, user: bool) {
        self.current = usize::from(user);
        self.selected = self.views[self.current].tables;
    }

    /// Host address of the selected tables, for translated code. Valid until the next change of class
    /// or flush.
    #[inline(always)]
    pub fn tables_address(&self) -> usize {
        self.selected as usize
    }

    /// Class that is selected.
    #[inline(always)]
    pub fn is_user(&self) -> bool {
        self.current == 1
    }

    #[inline(always)]
    fn cur(&self) -> &Tables {
        // SAFETY: `selected` is the table pointer of one of `self.views` (kept so by `select` and
        // `flush_all`), which own their mappings; see `View::tables`.
        unsafe { &*self.selected }
    }

    /// Fast read entry for a linear address, 0 if slow.
    #[inline(always)]
    pub(crate) fn read_entry(&self, lin: u32) -> u64 {
        self.cur().read[(lin >> 12) as usize]
    }

    /// Fast write entry for a linear address, 0 if slow.
    #[inline(always)]
    pub(crate) fn write_entry(&self, lin: u32) -> u64 {
        self.cur().write[(lin >> 12) as usize]
    }

    /// Physical page number + 1 of an executable linear page, 0 if not cached.
    #[inline(always)]
    pub(crate) fn code_entry(&self, lin: u32) -> u32 {
        self.cur().code[(lin >> 12) as usize]
    }

    /// Makes a page of `ram` fast in the view of `user`. Pages outside RAM are ignored.
    ///
    /// `ram` must be the one RAM these views serve (both are fields of [`crate::mem::Memory`]).
    pub(crate) fn fill(&mut self, ram: &GuestRam, user: bool, fill: Fill) {
        if (u64::from(fill.pfn) + 1) << 12 > ram.len() as u64 {
            return;
        }
        self.stats.fills += 1;
        let ram_base = ram.base_addr();
        let view = &mut self.views[usize::from(user)];
        view.note_fill(fill.lin_page, fill.global, fill.large);
        let host = ram_base + (u64::from(fill.pfn) << 12);
        let entry = host.wrapping_sub(u64::from(fill.lin_page) << 12) | 1;
        let p = fill.lin_page as usize & (PAGES - 1);
        let t = view.tables_mut();
        if fill.read {
            t.read[p] = entry;
        }
        if fill.write {
            t.write[p] = entry;
            if let Some(w) = self.writers.get_mut(fill.pfn as usize) {
                let me = fill.lin_page + 1;
                *w = if *w == NO_WRITER || *w == me { me } else { MANY_WRITERS };
            }
        }
    }

    /// Caches that a linear page is executable and where it lies.
    pub(crate) fn fill_code(&mut self, user: bool, lin_page: u32, pfn: u32, global: bool, large: bool) {
        self.stats.fills += 1;
        let view = &mut self.views[usize::from(user)];
        view.note_fill(lin_page, global, large);
        view.tables_mut().code[lin_page as usize & (PAGES - 1)] = pfn + 1;
    }

    /// All write entries of physical page `pfn` become slow.
    pub(crate) fn protect_page(&mut self, ram_base: u64, pfn: u32) {
        let Some(w) = self.writers.get_mut(pfn as usize) else { return };
        let writer = std::mem::replace(w, NO_WRITER);
        if writer == NO_WRITER {
            return;
        }
        self.stats.protections += 1;
        let host = ram_base + (u64::from(pfn) << 12);
        for view in &mut self.views {
            if writer == MANY_WRITERS {
                let pages: Vec<u32> = view.filled.iter().chain(&view.filled_global).copied().collect();
                let t = view.tables_mut();
                for page in pages {
                    let e = &mut t.write[page as usize & (PAGES - 1)];
                    if *e == host.wrapping_sub(u64::from(page) << 12) | 1 {
                        *e = 0;
                    }
                }
            } else {
                view.tables_mut().write[(writer - 1) as usize & (PAGES - 1)] = 0;
            }
        }
    }

    /// CR3 load: drops everything that is not global.
    pub fn flush_non_global(&mut self) {
        self.generation += 1;
        self.stats.switches += 1;
        self.stats.dropped += self.views.iter().map(|v| v.filled.len() as u64).sum::<u64>();
        self.views.iter_mut().for_each(View::flush_non_global);
        self.select(self.is_user());
    }

    /// Drops everything.
    pub fn flush_all(&mut self) {
        self.generation += 1;
        self.stats.flushes += 1;
        self.views.iter_mut().for_each(View::flush_all);
        self.writers.fill(NO_WRITER);
        // A flush may have replaced tables.
        self.select(self.is_user());
    }

    /// INVLPG: drops a page in all views, global or not.
    pub fn invlpg(&mut self, lin: u32) {
        self.generation += 1;
        self.stats.invalidations += 1;
        self.views.iter_mut().for_each(|v| v.invlpg(lin >> 12));
    }
}

impl Views {
    /// Reads a scalar if its page is fast for reading and it does not cross the page.
    #[inline(always)]
    pub(crate) fn fast_read<T: Scalar>(&self, lin: u32) -> Option<T> {
        Self::load(self.read_entry(lin), lin)
    }

    /// Reads a scalar in the view of a class if its page is fast for reading and it does not cross the page.
    #[inline(always)]
    pub(crate) fn fast_read_in<T: Scalar>(&self, user: bool, lin: u32) -> Option<T> {
        Self::load(self.views[usize::from(user)].tables().read[(lin >> 12) as usize], lin)
    }

    /// Reads a scalar if its page is fast for *writing* (first half of a read-modify-write).
    #[inline(always)]
    pub(crate) fn fast_read_for_write<T: Scalar>(&self, lin: u32) -> Option<T> {
        Self::load(self.write_entry(lin), lin)
    }

    #[inline(always)]
    fn load<T: Scalar>(entry: u64, lin: u32) -> Option<T> {
        if entry == 0 || lin & 0xFFF > 0x1000 - size_of::<T>() as u32 {
            return None;
        }
        let host = (entry - 1).wrapping_add(u64::from(lin)) as *const T;
        // SAFETY: a fast entry is the page's host address minus its linear address plus 1, set only
        // by `fill` for a page of the RAM these views serve, which lives as long as they do
        // (`Memory` owns both); the access stays in the page; any bit pattern is a valid scalar.
        Some(unsafe { host.read_unaligned() })
    }

    /// Writes a scalar if its page is fast for writing and it does not cross the page.
    #[inline(always)]
    pub(crate) fn fast_write<T: Scalar>(&mut self, lin: u32, value: T) -> bool {
        let entry = self.write_entry(lin);
        if entry == 0 || lin & 0xFFF > 0x1000 - size_of::<T>() as u32 {
            return false;
        }
        let host = (entry - 1).wrapping_add(u64::from(lin)) as *mut T;
        // SAFETY: as in `load`; the entry is a write entry, and `&mut self` of the `Memory` that
        // owns RAM and views excludes other references to RAM.
        unsafe { host.write_unaligned(value) };
        true
    }

    /// Bytes from `lin` to the end of its page, writable.
    pub(crate) fn write_run(&mut self, lin: u32) -> Option<&mut [u8]> {
        let entry = self.write_entry(lin);
        if entry == 0 {
            return None;
        }
        let host = (entry - 1).wrapping_add(u64::from(lin)) as *mut u8;
        // SAFETY: as in `fast_write`; the run ends with the page; the borrow is exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(host, 0x1000 - (lin as usize & 0xFFF)) })
    }

    /// Forward copy of elements of `size` bytes inside one source and one destination page, in order. False
    /// if a page is not fast, a range leaves its page, or elements overlap themselves.
    pub(crate) fn copy_forward(&mut self, src: u32, dst: u32, len: u32, size: u32) -> bool {
        let (from, to) = (self.read_entry(src), self.write_entry(dst));
        let room = 0x1000 - (src & 0xFFF).max(dst & 0xFFF);
        if from == 0 || to == 0 || len > room {
            return false;
        }
        let from = (from - 1).wrapping_add(u64::from(src)) as *const u8;
        let to = (to - 1).wrapping_add(u64::from(dst)) as *mut u8;
        let len = len as usize;
        let distance = (to as usize).wrapping_sub(from as usize);
        if distance != 0 && distance < size as usize {
            // Whole elements differ from single bytes.
            return false;
        }
        if distance == 0 || distance >= len {
            // SAFETY: both runs lie in RAM pages (see `load`), `len` stays in both pages. `copy`
            // allows overlap; with the destination before the source, or no overlap, moving all
            // at once equals moving byte by byte upwards.
            unsafe { std::ptr::copy(from, to, len) };
        } else {
            for i in 0..len {
                // SAFETY: as above; upward byte order repeats the first `distance` bytes.
                unsafe { to.add(i).write(from.add(i).read()) };
            }
        }
        true
    }
}

/// Integers the guest loads and stores.
pub trait Scalar: Copy + private::Sealed {
    /// From exactly `size_of::<Self>()` little-endian bytes (fewer read as 0).
    fn from_le(bytes: &[u8]) -> Self;
    /// To little-endian bytes; `out` must have `size_of::<Self>()` bytes (excess is dropped).
    fn to_le(self, out: &mut [u8]);
}

mod private {
    pub trait Sealed {}
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl private::Sealed for $t {}
        impl Scalar for $t {
            #[inline]
            fn from_le(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                for (d, s) in b.iter_mut().zip(bytes) { *d = *s; }
                <$t>::from_le_bytes(b)
            }
            #[inline]
            fn to_le(self, out: &mut [u8]) {
                for (d, s) in out.iter_mut().zip(self.to_le_bytes()) { *d = s; }
            }
        }
    )*};
}

scalar!(u8, u16, u32, u64, u128);
