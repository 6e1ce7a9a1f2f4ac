//! Segment registers, descriptors and the checks of segmented accesses (SDM vol. 3, chapter 3 and 5).

/// Segment register numbers as ModRM encodes them.
#[allow(missing_docs)]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Attribute bits: bits 8-23 of a descriptor's second dword, without limit 19:16.
pub mod attr {
    /// Accessed (code and data).
    pub const ACCESSED: u16 = 1 << 0;
    /// Data: writable. Code: readable.
    pub const RW: u16 = 1 << 1;
    /// Data: expand-down. Code: conforming.
    pub const DC: u16 = 1 << 2;
    /// Code segment.
    pub const CODE: u16 = 1 << 3;
    /// Code or data (not a system descriptor).
    pub const S: u16 = 1 << 4;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Default operation size / big.
    pub const DB: u16 = 1 << 14;
    /// Limit counts 4 KiB pages.
    pub const G: u16 = 1 << 15;
}

/// A segment register with its descriptor cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Linear base.
    pub base: u32,
    /// Last valid offset (granularity applied).
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// See [`attr`]; 0 = unusable (null selector).
    pub attr: u16,
}

impl Segment {
    /// Real-mode or VM86 segment: base is selector * 16, 64 KiB, read/write data, DPL as given.
    pub const fn real(selector: u16, dpl: u16) -> Self {
        Self { base: (selector as u32) << 4, limit: 0xFFFF, selector, attr: 0x93 | dpl << 5 }
    }

    /// Unusable segment with a (null) selector.
    pub const fn null(selector: u16) -> Self {
        Self { base: 0, limit: 0, selector, attr: 0 }
    }

    /// From a descriptor's two dwords.
    pub const fn from_descriptor(selector: u16, low: u32, high: u32) -> Self {
        let base = (low >> 16) | (high & 0xFF) << 16 | (high & 0xFF00_0000);
        let raw = (low & 0xFFFF) | (high & 0x000F_0000);
        let limit = if high & 0x0080_0000 != 0 { raw << 12 | 0xFFF } else { raw };
        Self { base, limit, selector, attr: ((high >> 8) & 0xF0FF) as u16 }
    }

    /// Usable (not null).
    pub const fn is_present(&self) -> bool {
        self.attr & attr::P != 0
    }

    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attr >> 5) & 3) as u8
    }

    /// Code segment (of a non-system descriptor).
    pub const fn is_code(&self) -> bool {
        self.attr & (attr::S | attr::CODE) == attr::S | attr::CODE
    }

    /// D/B bit.
    pub const fn is_big(&self) -> bool {
        self.attr & attr::DB != 0
    }

    /// System descriptor type (bits 3:0).
    pub const fn system_type(&self) -> u8 {
        (self.attr & 15) as u8
    }

    /// Data may be read through it.
    pub const fn is_readable(&self) -> bool {
        self.attr & (attr::CODE | attr::RW) != attr::CODE && self.is_present()
    }

    /// Data may be written through it.
    pub const fn is_writable(&self) -> bool {
        self.attr & (attr::CODE | attr::RW) == attr::RW && self.is_present()
    }

    /// True if `offset..offset+size` lies inside the segment (size >= 1).
    pub const fn contains(&self, offset: u32, size: u32) -> bool {
        let (last, wraps) = offset.overflowing_add(size - 1);
        if self.attr & (attr::CODE | attr::DC) == attr::DC {
            // expand-down: valid above the limit, up to 64 KiB or 4 GiB
            let top = if self.is_big() { u32::MAX } else { 0xFFFF };
            !wraps && offset > self.limit && last <= top
        } else {
            !wraps && last <= self.limit
        }
    }

    /// Base 0 and every offset allowed: accesses need no check in the directions the type permits.
    pub const fn is_flat(&self) -> bool {
        self.base == 0 && self.limit == u32::MAX && self.attr & (attr::CODE | attr::DC) != attr::DC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_descriptor_fields_are_unpacked() {
        let s = Segment::from_descriptor(0x10, 0x0000_FFFF, 0x00CF_9300);
        assert_eq!((s.base, s.limit, s.attr), (0, u32::MAX, 0xC093));
        assert!(s.is_flat() && s.is_writable() && s.is_big());
        let s = Segment::from_descriptor(0x28, 0x5678_0067, 0x1200_8934);
        assert_eq!((s.base, s.limit, s.system_type()), (0x1234_5678, 0x67, 9));
    }

    #[test]
    fn segment_expand_down_limits() {
        let mut s = Segment::real(0, 0);
        s.attr |= attr::DC;
        s.limit = 0xFFF;
        assert!(!s.contains(0xFFF, 1));
        assert!(s.contains(0x1000, 4));
        assert!(s.contains(0xFFFC, 4));
        assert!(!s.contains(0xFFFD, 4));
        s.attr |= attr::DB;
        assert!(s.contains(0xFFFF_FFFC, 4));
        assert!(!s.contains(0xFFFF_FFFD, 4));
    }

    #[test]
    fn segment_access_ending_at_4_gib_is_inside_a_flat_segment() {
        let s = Segment { base: 0, limit: u32::MAX, selector: 0, attr: 0xC093 };
        assert!(s.contains(0xFFFF_FFFC, 4));
        assert!(!s.contains(0xFFFF_FFFD, 4));
    }
}
