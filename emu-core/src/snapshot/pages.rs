//! Guest memory in a snapshot: a bitmap of the pages that are stored, and those pages.

use crate::mem::GuestRam;

const PAGE: usize = 4096;

/// Most runs of pages in a file made to be mapped: each costs the host a mapping.
const MAX_RUNS: usize = 2048;

/// Pages that lie one after the other in memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// First page.
    pub first: u32,
    /// Number of pages.
    pub count: u32,
}

impl PageRun {
    /// First byte in memory.
    pub fn start(&self) -> usize {
        self.first as usize * PAGE
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.count as usize * PAGE
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Which pages of guest memory are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedMemory {
    /// Pages of guest memory.
    pub pages: u32,
    /// Stored pages in ascending order.
    pub runs: Vec<PageRun>,
}

impl PackedMemory {
    /// The pages of `ram` that are not all zero.
    pub fn scan(ram: &GuestRam) -> Self {
        let mut packed = Self { pages: (ram.len() / PAGE) as u32, runs: Vec::new() };
        for run in ram.maybe_used() {
            for page in run.first..run.first + run.count {
                let at = page as usize * PAGE;
                if !is_zero(&ram.as_slice()[at..at + PAGE]) {
                    packed.push(page);
                }
            }
        }
        packed
    }

    /// The same with small gaps closed, so that there are few enough runs to map each: zero pages are
    /// stored then, as holes where the host's file system has them.
    #[must_use]
    pub fn for_mapping(&self) -> Self {
        let mut gap = 4;
        loop {
            let mut packed = Self { pages: self.pages, runs: Vec::new() };
            for run in &self.runs {
                match packed.runs.last_mut() {
                    Some(last) if run.first - (last.first + last.count) <= gap => {
                        last.count = run.first + run.count - last.first;
                    }
                    _ => packed.runs.push(*run),
                }
            }
            if packed.runs.len() <= MAX_RUNS {
                return packed;
            }
            gap *= 2;
        }
    }

    fn push(&mut self, page: u32) {
        match self.runs.last_mut() {
            Some(last) if last.first + last.count == page => last.count += 1,
            _ => self.runs.push(PageRun { first: page, count: 1 }),
        }
    }

    /// From a bitmap, least significant bit first; `None` if a bit stands for a page that does not exist.
    pub fn from_bitmap(bitmap: &[u8], pages: u32) -> Option<Self> {
        let mut packed = Self { pages, runs: Vec::new() };
        for (n, byte) in bitmap.iter().enumerate() {
            if *byte == 0 {
                continue;
            }
            for bit in 0..8 {
                if byte >> bit & 1 != 0 {
                    let page = (n * 8 + bit) as u32;
                    if page >= pages {
                        return None;
                    }
                    packed.push(page);
                }
            }
        }
        Some(packed)
    }

    /// The bitmap, one bit per page.
    pub fn bitmap(&self) -> Vec<u8> {
        let mut bitmap = vec![0; (self.pages as usize).div_ceil(8)];
        for run in &self.runs {
            for page in run.first..run.first + run.count {
                if let Some(byte) = bitmap.get_mut(page as usize / 8) {
                    *byte |= 1 << (page % 8);
                }
            }
        }
        bitmap
    }

    /// Bytes of the stored pages.
    pub fn stored_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.len() as u64).sum()
    }

    /// Spreads packed pages, which lie at the beginning of `ram`, to where they belong, and clears what is
    /// between them. False, with memory in disorder, if they do not fit.
    #[must_use]
    pub fn spread(&self, ram: &mut [u8]) -> bool {
        let stored = self.stored_bytes() as usize;
        if stored > ram.len() || self.runs.last().is_some_and(|run| run.start() + run.len() > ram.len()) {
            return false;
        }
        // From the end: page n of the packed ones never belongs below page n of memory, so what is
        // overwritten has been moved already.
        let mut end = stored;
        for run in self.runs.iter().rev() {
            let from = end - run.len();
            if from != run.start() {
                ram.copy_within(from..end, run.start());
            }
            end = from;
        }
        let mut at = 0;
        for run in &self.runs {
            // Beyond the packed pages memory was clear before.
            let gap = at.min(stored)..run.start().min(stored);
            if let Some(gap) = ram.get_mut(gap) {
                gap.fill(0);
            }
            at = run.start() + run.len();
        }
        if let Some(rest) = ram.get_mut(at.min(stored)..stored) {
            rest.fill(0);
        }
        true
    }
}

/// True if all bytes are zero.
pub(super) fn is_zero(page: &[u8]) -> bool {
    // Most pages differ early; the rest is compared in blocks the compiler vectorises.
    page.chunks(256).all(|block| block.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(pages: &[u8]) -> GuestRam {
        let mut ram = GuestRam::new(pages.len() * PAGE).unwrap();
        for (n, &v) in pages.iter().enumerate() {
            ram.as_mut_slice()[n * PAGE + 4095] = v;
        }
        ram
    }

    #[test]
    fn packed_memory_bitmap_round_trips() {
        let packed = PackedMemory::scan(&ram(&[1, 0, 0, 2, 3, 0, 0, 0, 0, 4]));
        assert_eq!(packed.bitmap(), [0b0001_1001, 0b10]);
        assert_eq!(PackedMemory::from_bitmap(&packed.bitmap(), 10).unwrap(), packed);
        assert_eq!(PackedMemory::from_bitmap(&packed.bitmap(), 9), None);
        assert_eq!(packed.stored_bytes(), 4 * 4096);
    }

    #[test]
    fn packed_memory_spreads_in_place() {
        for pages in
            [&[1u8, 0, 0, 2, 3, 0, 0, 0, 0, 4][..], &[0, 0, 1], &[1, 2, 3], &[0, 0], &[0, 1, 0, 1, 0]]
        {
            let original = ram(pages);
            let packed = PackedMemory::scan(&original);
            let mut memory = vec![0; original.len()];
            let mut at = 0;
            for run in &packed.runs {
                memory[at..at + run.len()]
                    .copy_from_slice(&original.as_slice()[run.start()..run.start() + run.len()]);
                at += run.len();
            }
            assert!(packed.spread(&mut memory));
            assert!(memory == original.as_slice(), "{pages:?}");
        }
    }

    #[test]
    fn packed_memory_for_mapping_closes_small_gaps() {
        let packed = PackedMemory::scan(&ram(&[1, 0, 0, 2, 0, 0, 0, 0, 0, 4]));
        assert_eq!(
            packed.for_mapping().runs,
            [PageRun { first: 0, count: 4 }, PageRun { first: 9, count: 1 }]
        );
        let scattered = PackedMemory {
            pages: 1 << 19,
            runs: (0..10_000).map(|n| PageRun { first: n * 40, count: 1 }).collect(),
        };
        assert!(scattered.for_mapping().runs.len() <= MAX_RUNS);
    }
}
