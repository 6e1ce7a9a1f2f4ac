//! What lies at each physical page: RAM, ROM or a device.

/// Kind of a 4 KiB physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// Read and written directly.
    Ram,
    /// Read directly, writes are ignored.
    Rom,
    /// Every access goes to the bus: devices, and holes that float high.
    Device,
}

/// Map of the physical address space. Everything that is neither RAM nor ROM is a device page.
pub struct PhysMap {
    kinds: Vec<PageKind>,
}

impl PhysMap {
    /// All of `ram_pages` pages are RAM, everything above is device space.
    pub fn new(ram_pages: usize) -> Self {
        Self { kinds: vec![PageKind::Ram; ram_pages] }
    }

    /// Marks the pages that overlap `start..start+len` (bytes). Pages above RAM stay device pages.
    pub fn set(&mut self, start: u64, len: u64, kind: PageKind) {
        let first = (start >> 12) as usize;
        let last = ((start + len).div_ceil(4096) as usize).min(self.kinds.len());
        if let Some(pages) = self.kinds.get_mut(first..last) {
            pages.fill(kind);
        }
    }

    /// Kind of physical page number `pfn`.
    #[inline]
    pub fn kind(&self, pfn: u64) -> PageKind {
        usize::try_from(pfn).ok().and_then(|p| self.kinds.get(p)).copied().unwrap_or(PageKind::Device)
    }
}
