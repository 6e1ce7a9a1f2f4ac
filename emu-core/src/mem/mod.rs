//! Physical memory: RAM, the physical map, page flags and the views translated code looks through.
//!
//! Writers other than the CPU (DMA, loaders, debuggers, snapshot restore) use the methods here;
//! they report code pages they hit, so that both engines drop what they decoded there.

mod map;
mod page_flags;
mod ram;

pub use map::{PageKind, PhysMap};
pub use page_flags::{CODE, LINE, PageFlags, line_mask};
pub use ram::GuestRam;

use crate::cpu::tlb::{Fill, Scalar, ViewStats, Views};

/// A write that hit code: the engine drops the blocks that overlap it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeWrite {
    /// Physical page number.
    pub pfn: u32,
    /// Lines written (see [`line_mask`]).
    pub lines: u64,
}

/// Physical memory of the machine.
pub struct Memory {
    ram: GuestRam,
    map: PhysMap,
    flags: PageFlags,
    pub(crate) views: Views,
    /// Writes to code since the engine looked last.
    code_writes: Vec<CodeWrite>,
    /// ANDed to every physical address before anything else (A20 gate).
    a20_mask: u32,
}

impl Memory {
    /// Zeroed RAM of `len` bytes (rounded up to whole pages).
    ///
    /// # Errors
    /// The host's error when it cannot provide the memory.
    pub fn new(len: usize) -> std::io::Result<Self> {
        let ram = GuestRam::new(len)?;
        let pages = ram.len() / 4096;
        Ok(Self {
            map: PhysMap::new(pages),
            flags: PageFlags::new(pages),
            views: Views::new(pages)?,
            code_writes: Vec::new(),
            a20_mask: u32::MAX,
            ram,
        })
    }

    /// The RAM itself, for readers.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Size of RAM in bytes.
    pub fn ram_len(&self) -> u64 {
        self.ram.len() as u64
    }

    /// Changes what lies at `start..start+len` and forgets cached translations.
    pub fn set_kind(&mut self, start: u64, len: u64, kind: PageKind) {
        self.map.set(start, len, kind);
        self.views.flush_all();
    }

    /// Kind of physical page number `pfn`.
    #[inline]
    pub fn kind(&self, pfn: u64) -> PageKind {
        self.map.kind(pfn)
    }

    /// Flags of physical pages.
    pub fn flags(&self) -> &PageFlags {
        &self.flags
    }

    /// Physical address mask of the A20 gate: `FFFF_FFFF` (open) or `FFEF_FFFF` (closed).
    pub fn a20_mask(&self) -> u32 {
        self.a20_mask
    }

    /// Opens or closes the A20 gate.
    pub fn set_a20(&mut self, open: bool) {
        let mask = if open { u32::MAX } else { !(1 << 20) };
        if mask != self.a20_mask {
            self.a20_mask = mask;
            self.views.flush_all();
        }
    }

    // ---- device side -------------------------------------------------------------------------

    /// Copies RAM to `out`. False (and `out` untouched) if the range is not all RAM.
    #[must_use]
    pub fn dma_read(&self, phys: u64, out: &mut [u8]) -> bool {
        match self.ram.get(phys, out.len()) {
            Some(src) => {
                out.copy_from_slice(src);
                true
            }
            None => false,
        }
    }

    /// Copies `data` to RAM. False (and nothing written) if the range is not all RAM.
    #[must_use]
    pub fn dma_write(&mut self, phys: u64, data: &[u8]) -> bool {
        match self.dma_slice_mut(phys, data.len()) {
            Some(dst) => {
                dst.copy_from_slice(data);
                true
            }
            None => false,
        }
    }

    /// RAM bytes for a device to read from.
    pub fn dma_slice(&self, phys: u64, len: usize) -> Option<&[u8]> {
        self.ram.get(phys, len)
    }

    /// RAM bytes for a device to write to; code in the range counts as overwritten.
    pub fn dma_slice_mut(&mut self, phys: u64, len: usize) -> Option<&mut [u8]> {
        self.ram.get(phys, len)?;
        self.note_write(phys, len as u64);
        self.ram.get_mut(phys, len)
    }

    /// Little-endian scalar from RAM, `None` outside RAM.
    pub fn dma_read_u16(&self, phys: u64) -> Option<u16> {
        let bytes = self.ram.get(phys, 2)?;
        Some(u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]))
    }

    /// Little-endian scalar from RAM, `None` outside RAM.
    pub fn dma_read_u32(&self, phys: u64) -> Option<u32> {
        let mut b = [0; 4];
        self.dma_read(phys, &mut b).then(|| u32::from_le_bytes(b))
    }

    /// Little-endian scalar from RAM, `None` outside RAM.
    pub fn dma_read_u64(&self, phys: u64) -> Option<u64> {
        let mut b = [0; 8];
        self.dma_read(phys, &mut b).then(|| u64::from_le_bytes(b))
    }

    // ---- code tracking -----------------------------------------------------------------------

    /// Reports a write to `phys..phys+len` that bypassed the CPU's write path.
    pub fn note_write(&mut self, phys: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = phys >> 12;
        let last = (phys + len - 1) >> 12;
        for pfn in first..=last {
            let pfn32 = pfn as u32;
            if self.flags.get(pfn32) & CODE == 0 {
                continue;
            }
            let start = phys.max(pfn << 12) - (pfn << 12);
            let end = (phys + len).min((pfn + 1) << 12) - (pfn << 12);
            let lines = line_mask(start as u32, (end - start) as u32);
            if self.flags.code_lines(pfn32) & lines != 0 {
                self.code_writes.push(CodeWrite { pfn: pfn32, lines });
            }
        }
    }

    /// True if code was overwritten since [`Memory::take_code_writes`].
    #[inline]
    pub fn has_code_writes(&self) -> bool {
        !self.code_writes.is_empty()
    }

    /// Takes the writes to code since the last call.
    pub fn take_code_writes(&mut self) -> Vec<CodeWrite> {
        std::mem::take(&mut self.code_writes)
    }

    /// An engine decoded code in `lines` of page `pfn`: writes there become slow in every view.
    pub fn mark_code(&mut self, pfn: u32, lines: u64) {
        if self.flags.add_code(pfn, lines) {
            self.views.protect_page(self.ram.base_addr(), pfn);
        }
    }

    /// Sets the lines of page `pfn` that still hold code after blocks were dropped.
    pub fn set_code_lines(&mut self, pfn: u32, lines: u64) {
        self.flags.set_code(pfn, lines);
    }

    // ---- physical scalar access for page walks and slow paths ----------------------------------

    /// 32-bit read of physical memory as the CPU's page walker does it; ones outside RAM.
    #[inline]
    pub(crate) fn walk_read32(&self, phys: u64) -> u32 {
        self.dma_read_u32(phys & u64::from(self.a20_mask)).unwrap_or(u32::MAX)
    }

    /// 32-bit write by the page walker (accessed and dirty bits).
    pub(crate) fn walk_write32(&mut self, phys: u64, value: u32) {
        let _ = self.dma_write(phys & u64::from(self.a20_mask), &value.to_le_bytes());
    }

    /// Makes a RAM page fast in the view of a class.
    pub(crate) fn fill_view(&mut self, user: bool, fill: Fill) {
        self.views.fill(&self.ram, user, fill);
    }

    /// Selects the view of a class; called whenever CPL may have changed.
    #[inline(always)]
    pub fn select_view(&mut self, user: bool) {
        self.views.select(user);
    }

    /// Reads a scalar if its page is fast and it does not cross the page.
    #[inline(always)]
    pub(crate) fn fast_read<T: Scalar>(&self, lin: u32) -> Option<T> {
        self.views.fast_read(lin)
    }

    /// Reads 8 bytes with supervisor rights, whatever class is selected, if that is fast.
    #[inline(always)]
    pub fn peek_system(&self, lin: u32) -> Option<u64> {
        self.views.fast_read_in(false, lin)
    }

    /// Writes a scalar if its page is fast and it does not cross the page; false = slow path.
    #[inline(always)]
    #[must_use]
    pub(crate) fn fast_write<T: Scalar>(&mut self, lin: u32, value: T) -> bool {
        self.views.fast_write(lin, value)
    }

    /// Reads a scalar through its write entry: the first half of a read-modify-write.
    #[inline(always)]
    pub(crate) fn fast_read_for_write<T: Scalar>(&self, lin: u32) -> Option<T> {
        self.views.fast_read_for_write(lin)
    }

    /// CPU-side scalar read of a RAM or ROM page by physical address (slow path).
    pub(crate) fn phys_read<T: Scalar>(&self, phys: u64) -> Option<T> {
        Some(T::from_le(self.ram.get(phys, size_of::<T>())?))
    }

    /// CPU-side scalar write of a RAM page by physical address (slow path); ROM ignores it.
    /// Code in the range counts as overwritten.
    pub(crate) fn phys_write<T: Scalar>(&mut self, phys: u64, value: T) {
        if self.kind(phys >> 12) != PageKind::Ram {
            return;
        }
        self.note_write(phys, size_of::<T>() as u64);
        if let Some(dst) = self.ram.get_mut(phys, size_of::<T>()) {
            value.to_le(dst);
        }
    }

    /// Bytes from `lin` to the end of its page, if writes there are fast.
    pub(crate) fn fast_write_run(&mut self, lin: u32) -> Option<&mut [u8]> {
        self.views.write_run(lin)
    }

    /// Forward copy of `len` bytes between two fast pages, byte by byte in effect (overlapping
    /// ranges propagate as REP MOVS with elements of `size` bytes does). False if a page is not fast, a range
    /// leaves its page, or elements overlap themselves.
    #[must_use]
    pub(crate) fn fast_copy_forward(&mut self, src: u32, dst: u32, len: u32, size: u32) -> bool {
        self.views.copy_forward(src, dst, len, size)
    }

    /// Host address of the view tables of the selected class (layout: [`crate::cpu::tlb`]), for
    /// translated code. Valid until the next change of class or flush.
    #[inline(always)]
    pub fn view_address(&self) -> usize {
        self.views.tables_address()
    }

    /// Counters of the views.
    pub fn view_stats(&self) -> ViewStats {
        self.views.stats
    }

    /// Forgets every cached translation.
    pub fn flush_views(&mut self) {
        self.views.flush_all();
    }

    /// Mutable RAM for loaders and snapshot restore; all code counts as overwritten.
    pub fn ram_mut(&mut self) -> &mut GuestRam {
        for pfn in 0..(self.ram.len() / 4096) as u32 {
            let lines = self.flags.code_lines(pfn);
            if lines != 0 {
                self.code_writes.push(CodeWrite { pfn, lines });
            }
        }
        &mut self.ram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_dma_write_to_code_line_is_reported_and_other_lines_are_not() {
        let mut mem = Memory::new(1 << 20).unwrap();
        mem.mark_code(2, line_mask(0x100, 16));
        assert!(mem.dma_write(0x2000, &[1; 64]));
        assert!(!mem.has_code_writes());
        assert!(mem.dma_write(0x20FE, &[1; 4]));
        assert_eq!(mem.take_code_writes(), vec![CodeWrite { pfn: 2, lines: 0b11 << 3 }]);
    }

    #[test]
    fn memory_dma_outside_ram_is_refused() {
        let mut mem = Memory::new(1 << 20).unwrap();
        assert!(!mem.dma_write((1 << 20) - 2, &[0; 4]));
        assert!(!mem.dma_write(u64::MAX - 1, &[0; 4]));
        assert_eq!(mem.dma_read_u32(1 << 20), None);
    }
}
