//! Per-page facts about physical memory that make a write slow.

/// Flags and code-line masks of RAM pages.
pub struct PageFlags {
    flags: Vec<u8>,
    /// One bit per 64-byte line of a page that holds decoded or translated code. Indexed by page
    /// number; only read when [`CODE`] is set.
    code_lines: Vec<u64>,
}

/// The page contains decoded or translated code.
pub const CODE: u8 = 1 << 0;

/// Bytes of a code line (one bit of a line mask).
pub const LINE: u32 = 64;

/// Mask of the lines that `offset..offset+len` of a page touches (clipped to the page).
pub fn line_mask(offset: u32, len: u32) -> u64 {
    if len == 0 {
        return 0;
    }
    let first = offset / LINE;
    let last = (offset + len - 1).min(4095) / LINE;
    let n = last - first + 1;
    let ones = if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
    ones << first
}

impl PageFlags {
    pub(super) fn new(pages: usize) -> Self {
        Self { flags: vec![0; pages], code_lines: vec![0; pages] }
    }

    /// Flags of page `pfn` (0 outside RAM).
    #[inline]
    pub fn get(&self, pfn: u32) -> u8 {
        self.flags.get(pfn as usize).copied().unwrap_or(0)
    }

    /// Lines of page `pfn` that hold code.
    #[inline]
    pub fn code_lines(&self, pfn: u32) -> u64 {
        self.code_lines.get(pfn as usize).copied().unwrap_or(0)
    }

    /// Adds code lines; true if the page had none before.
    pub(super) fn add_code(&mut self, pfn: u32, lines: u64) -> bool {
        let (Some(flags), Some(mask)) =
            (self.flags.get_mut(pfn as usize), self.code_lines.get_mut(pfn as usize))
        else {
            return false;
        };
        *mask |= lines;
        let fresh = *flags & CODE == 0;
        *flags |= CODE;
        fresh
    }

    /// Replaces the code lines of a page; 0 means that the page no longer holds code.
    pub(super) fn set_code(&mut self, pfn: u32, lines: u64) {
        if let (Some(flags), Some(mask)) =
            (self.flags.get_mut(pfn as usize), self.code_lines.get_mut(pfn as usize))
        {
            *mask = lines;
            *flags = if lines == 0 { *flags & !CODE } else { *flags | CODE };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_mask_covers_first_and_last_line() {
        assert_eq!(line_mask(0, 1), 1);
        assert_eq!(line_mask(63, 2), 0b11);
        assert_eq!(line_mask(4095, 1), 1 << 63);
        assert_eq!(line_mask(0, 4096), u64::MAX);
        assert_eq!(line_mask(4000, 400), 0b11 << 62);
        assert_eq!(line_mask(5, 0), 0);
    }
}
