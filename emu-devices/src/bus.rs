//! Which device answers at which port and physical address.

use crate::device::DeviceId;

/// No device: the port is empty.
const EMPTY: u8 = 0xFF;

/// Owner of each of the 65,536 I/O ports, and the port number the owner knows it by.
///
/// A device always sees the port numbers it claimed at power-up (its *home* ports): when PCI moves
/// an I/O region, the moved ports are mapped back to the home ports here, so no device has to know
/// its base address.
pub struct PortMap {
    entries: Box<[PortEntry]>,
}

#[derive(Clone, Copy)]
struct PortEntry {
    device: u8,
    home: u16,
}

const NOBODY: PortEntry = PortEntry { device: EMPTY, home: 0 };

impl Default for PortMap {
    fn default() -> Self {
        Self::new()
    }
}

impl PortMap {
    /// All ports empty.
    pub fn new() -> Self {
        Self { entries: vec![NOBODY; 0x1_0000].into_boxed_slice() }
    }

    /// Gives `len` ports from `first` to `device`; they are its home ports.
    pub fn claim(&mut self, first: u16, len: u16, device: DeviceId) {
        for port in first..=first.saturating_add(len.saturating_sub(1)) {
            self.set(port, PortEntry { device, home: port });
        }
    }

    /// Empties `len` ports from `first`.
    pub fn release(&mut self, first: u16, len: u16) {
        for i in 0..len {
            self.set(first.wrapping_add(i), NOBODY);
        }
    }

    /// Owner of a port and the home port it stands for.
    #[inline]
    pub fn lookup(&self, port: u16) -> Option<(DeviceId, u16)> {
        let e = self.entries.get(usize::from(port))?;
        (e.device != EMPTY).then_some((e.device, e.home))
    }

    /// Moves a PCI I/O region of `len` ports whose home is `home`. Ports below 1000h are never
    /// touched, so legacy addresses stay alive beside the relocated ones.
    pub fn move_range(&mut self, from: u16, to: u16, len: u16, home: u16, device: DeviceId) {
        for i in 0..len {
            let old = from.wrapping_add(i);
            if old >= 0x1000 && self.lookup(old) == Some((device, home.wrapping_add(i))) {
                self.set(old, NOBODY);
            }
        }
        for i in 0..len {
            let new = to.wrapping_add(i);
            if new >= 0x1000 {
                self.set(new, PortEntry { device, home: home.wrapping_add(i) });
            }
        }
    }

    fn set(&mut self, port: u16, entry: PortEntry) {
        if let Some(e) = self.entries.get_mut(usize::from(port)) {
            *e = entry;
        }
    }
}

/// A device's window in physical address space.
#[derive(Clone, Copy, Debug)]
pub struct MmioRange {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Owner.
    pub device: DeviceId,
}

/// Device windows by physical address; windows do not overlap.
#[derive(Default)]
pub struct MmioMap {
    ranges: Vec<MmioRange>,
}

impl MmioMap {
    /// No windows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a window. Returns false if it overlaps an existing one (nothing is added then).
    #[must_use]
    pub fn claim(&mut self, range: MmioRange) -> bool {
        let end = range.start.saturating_add(range.len);
        if self.ranges.iter().any(|r| r.start < end && range.start < r.start.saturating_add(r.len)) {
            return false;
        }
        self.ranges.push(range);
        true
    }

    /// Adds windows. Returns false if one overlaps another (none is added then).
    #[must_use]
    pub fn claim_all(&mut self, ranges: &[MmioRange]) -> bool {
        let before = self.ranges.len();
        let added = ranges.iter().all(|range| self.claim(*range));
        if !added {
            self.ranges.truncate(before);
        }
        added
    }

    /// Owner of an address. The first byte of an access decides.
    pub fn owner(&self, addr: u64) -> Option<DeviceId> {
        self.ranges.iter().find(|r| addr >= r.start && addr - r.start < r.len).map(|r| r.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_map_move_keeps_legacy_ports_and_maps_back_to_home() {
        let mut map = PortMap::new();
        map.claim(0x300, 32, 4);
        map.move_range(0x300, 0xC000, 32, 0x300, 4);
        assert_eq!(map.lookup(0x300), Some((4, 0x300)));
        assert_eq!(map.lookup(0xC01F), Some((4, 0x31F)));
        map.move_range(0xC000, 0xD000, 32, 0x300, 4);
        assert_eq!(map.lookup(0xC000), None);
        assert_eq!(map.lookup(0xD001), Some((4, 0x301)));
        assert_eq!(map.lookup(0x300), Some((4, 0x300)));
    }

    #[test]
    fn mmio_map_refuses_overlap() {
        let mut map = MmioMap::new();
        assert!(map.claim(MmioRange { start: 0xA0000, len: 0x20000, device: 1 }));
        assert!(!map.claim(MmioRange { start: 0xBFFFF, len: 1, device: 2 }));
        assert_eq!(map.owner(0xBFFFF), Some(1));
        assert_eq!(map.owner(0xC0000), None);
    }
}
