//! A function's configuration space: bytes, base address registers and write rules; the device
//! table.

use super::reg;

/// Power-up base of the linear frame buffer (it cannot move).
pub const VGA_LFB: u32 = 0xE000_0000;
/// Where the VGA BIOS image is visible when there is one.
pub const VGA_ROM: u32 = 0xFEB0_0000;
/// Bytes the VGA function's ROM register decodes.
const VGA_ROM_SIZE: u32 = 0x1_0000;

/// Memory region, prefetchable (flag bits of a base address register).
const PREFETCHABLE: u32 = 0x8;
/// I/O region (flag bit of a base address register).
const IO: u32 = 0x1;

/// A base address register that a function implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// I/O ports; the guest moves them.
    Io {
        /// Power-up address: the ports by which the owning device knows itself.
        home: u16,
        /// Number of ports, a power of two.
        size: u16,
        /// Where the ports are now (may differ from the stored register, which 8-bit writes
        /// change without a move).
        mapped: u16,
    },
    /// Memory that stays where it is.
    Memory {
        /// Power-up value of the register, flag bits included.
        value: u32,
        /// Bytes, a power of two.
        size: u32,
    },
}

/// An I/O region that has to follow its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarMove {
    /// Old base.
    pub from: u16,
    /// New base.
    pub to: u16,
    /// Number of ports.
    pub len: u16,
    /// Base the owning device knows.
    pub home: u16,
}

/// One PCI function.
#[derive(Clone, Debug)]
pub struct PciFunction {
    name: &'static str,
    pub(crate) space: [u8; 256],
    power_up: [u8; 256],
    bars: [Option<Bar>; 6],
    /// Address and size of an expansion ROM.
    rom: Option<(u32, u32)>,
}

impl PciFunction {
    /// A function without regions; `ids` are vendor and device.
    pub fn new(name: &'static str, ids: [u16; 2]) -> Self {
        let f = Self { name, space: [0; 256], power_up: [0; 256], bars: [None; 6], rom: None };
        f.word(0x00, ids[0]).word(0x02, ids[1])
    }

    // ---- construction --------------------------------------------------------------------------

    /// Presets bytes from `offset` on (clipped at 256).
    #[must_use]
    pub fn bytes(mut self, offset: u8, bytes: &[u8]) -> Self {
        for (place, value) in self.space.iter_mut().skip(usize::from(offset)).zip(bytes) {
            *place = *value;
        }
        self.power_up = self.space;
        self
    }

    #[must_use]
    fn word(self, offset: u8, value: u16) -> Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    #[must_use]
    fn dword(self, offset: u8, value: u32) -> Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    /// Command and status registers.
    #[must_use]
    pub fn command_status(self, command: u16, status: u16) -> Self {
        self.word(reg::COMMAND, command).word(reg::COMMAND + 2, status)
    }

    /// Base class, subclass, programming interface; revision.
    #[must_use]
    pub fn class(self, [base, sub, interface]: [u8; 3], revision: u8) -> Self {
        self.bytes(0x08, &[revision, interface, sub, base])
    }

    /// Subsystem vendor and device.
    #[must_use]
    pub fn subsystem(self, vendor: u16, device: u16) -> Self {
        self.word(0x2C, vendor).word(0x2E, device)
    }

    /// Interrupt pin (1 = INTA#).
    #[must_use]
    pub fn interrupt_pin(self, pin: u8) -> Self {
        self.bytes(reg::INTERRUPT_PIN, &[pin])
    }

    /// I/O region `index` (0-5) of `size` ports (a power of two) that the device knows by `home`.
    #[must_use]
    pub fn io_bar(mut self, index: u8, home: u16, size: u16) -> Self {
        if let Some(bar) = self.bars.get_mut(usize::from(index)) {
            *bar = Some(Bar::Io { home, size, mapped: home });
        }
        self.dword(bar_offset(index), u32::from(home) | IO)
    }

    /// Memory region `index` (0-5) of `size` bytes (a power of two); `value` has the flag bits.
    #[must_use]
    pub fn memory_bar(mut self, index: u8, value: u32, size: u32) -> Self {
        if let Some(bar) = self.bars.get_mut(usize::from(index)) {
            *bar = Some(Bar::Memory { value, size });
        }
        self.dword(bar_offset(index), value)
    }

    // ---- access --------------------------------------------------------------------------------

    /// Part number or model.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// All 256 bytes.
    pub fn space(&self) -> &[u8; 256] {
        &self.space
    }

    /// Base address register `index` (0-5) if the function implements it.
    pub fn bar(&self, index: u8) -> Option<Bar> {
        self.bars.get(usize::from(index)).copied().flatten()
    }

    /// A byte.
    pub fn read8(&self, offset: u8) -> u8 {
        self.space.get(usize::from(offset)).copied().unwrap_or(0)
    }

    /// The double word that contains `offset`.
    pub fn read32(&self, offset: u8) -> u32 {
        let base = offset & 0xFC;
        u32::from_le_bytes([base, base | 1, base | 2, base | 3].map(|o| self.read8(o)))
    }

    /// 8-bit write: stored everywhere, regions do not move.
    pub fn write8(&mut self, offset: u8, value: u8) {
        self.store(offset, &[value]);
    }

    /// 16-bit write at an even offset: stored, but ignored from the base address registers to the
    /// CIS pointer.
    pub fn write16(&mut self, offset: u8, value: u16) {
        if !(reg::BAR0..reg::CIS + 4).contains(&offset) {
            self.store(offset & 0xFE, &value.to_le_bytes());
        }
    }

    /// 32-bit write at a multiple of 4. Command and status are not reached by it. Returns the move
    /// of an I/O region that the caller has to carry out.
    pub fn write32(&mut self, offset: u8, value: u32) -> Option<BarMove> {
        match offset & 0xFC {
            reg::COMMAND => None,
            o @ reg::BAR0..reg::CIS => self.write_bar((o - reg::BAR0) >> 2, value),
            reg::ROM => {
                let stored = match self.rom {
                    Some((_, size)) if value | 0x7FF == u32::MAX => size.wrapping_neg(),
                    Some((address, _)) => address,
                    None => 0,
                };
                self.store(reg::ROM, &stored.to_le_bytes());
                None
            }
            o => {
                self.store(o, &value.to_le_bytes());
                None
            }
        }
    }

    /// All ones in the address bits asks for the size; it moves an I/O region to the top of the
    /// port space until the next write, as any other value moves it.
    fn write_bar(&mut self, index: u8, value: u32) -> Option<BarMove> {
        let (stored, moved) = match self.bars.get_mut(usize::from(index)).and_then(Option::as_mut) {
            None => (0, None),
            Some(&mut Bar::Memory { value: fixed, size }) => {
                let probe = value | 3 | size.wrapping_sub(1) == u32::MAX;
                (if probe { size.wrapping_neg() } else { fixed }, None)
            }
            Some(Bar::Io { home, size, mapped }) => {
                let mask = u32::from(*size).wrapping_sub(1);
                let stored = if value | 3 | mask == u32::MAX { !mask | IO } else { value | IO };
                let to = (stored & !IO) as u16;
                let from = std::mem::replace(mapped, to);
                (stored, Some(BarMove { from, to, len: *size, home: *home }))
            }
        };
        self.store(bar_offset(index), &stored.to_le_bytes());
        moved
    }

    /// Back to the power-up contents. Returns the moves that bring the I/O regions home.
    pub fn reset(&mut self) -> Vec<BarMove> {
        let power_up = self.power_up;
        self.load(&power_up)
    }

    /// Replaces all 256 bytes, as restoring a snapshot does. Returns the moves that bring the I/O
    /// regions to the addresses in them.
    pub fn load(&mut self, space: &[u8; 256]) -> Vec<BarMove> {
        self.space = *space;
        let mut moves = Vec::new();
        for index in 0..6 {
            let value = self.read32(bar_offset(index));
            if let Some(Some(Bar::Io { home, size, mapped })) = self.bars.get_mut(usize::from(index))
                && value & IO != 0
            {
                let to = (value & !IO) as u16;
                let from = std::mem::replace(mapped, to);
                moves.push(BarMove { from, to, len: *size, home: *home });
            }
        }
        moves
    }

    /// Moves I/O region `index` without touching its register, as restoring a snapshot does where
    /// the two differ. Returns the move; `None` if there is no such region.
    pub(super) fn map_io(&mut self, index: u8, to: u16) -> Option<BarMove> {
        match self.bars.get_mut(usize::from(index))?.as_mut()? {
            Bar::Io { home, size, mapped } => {
                let from = std::mem::replace(mapped, to);
                Some(BarMove { from, to, len: *size, home: *home })
            }
            Bar::Memory { .. } => None,
        }
    }

    fn store(&mut self, offset: u8, bytes: &[u8]) {
        for (place, value) in self.space.iter_mut().skip(usize::from(offset)).zip(bytes) {
            *place = *value;
        }
    }
}

/// Offset of base address register `index`.
pub(super) const fn bar_offset(index: u8) -> u8 {
    reg::BAR0 + ((index & 7) << 2)
}

// ---- device table --------------------------------------------------------------------------------

/// NE2000 card (RTL8029).
pub fn ne2000() -> PciFunction {
    PciFunction::new("RTL8029", [0x10EC, 0x8029])
        .command_status(0x0103, 0)
        .class([0x02, 0x00, 0x00], 0)
        .io_bar(0, 0x300, 32)
        .subsystem(0x1AF4, 0x1100)
        .dword(reg::ROM, 0xFEB8_0000)
        .interrupt_pin(1)
}

/// VGA with a linear frame buffer of `memory` bytes (a power of two). The third base address
/// register holds a value at power-up, but has no region behind it.
pub fn vga(memory: u32) -> PciFunction {
    let mut f = PciFunction::new("VGA", [0x1234, 0x1111])
        .command_status(0x0103, 0)
        .class([0x03, 0x00, 0x00], 0)
        .memory_bar(0, VGA_LFB | PREFETCHABLE, memory)
        .dword(bar_offset(2), 0xFEBF_0000)
        .subsystem(0x1AF4, 0x1100)
        .dword(reg::ROM, 0xFEBE_0000);
    f.rom = Some((VGA_ROM, VGA_ROM_SIZE));
    f
}

/// PIIX3 IDE. The secondary channel always exists; without a primary one its two registers read 1
/// and have no region.
pub fn ide(has_primary: bool) -> PciFunction {
    let f = PciFunction::new("82371SB IDE", [0x8086, 0x7010])
        .command_status(0x0005, 0x02A0)
        .class([0x01, 0x01, 0x80], 0)
        .subsystem(0x1043, 0x82D4)
        .interrupt_pin(1)
        .io_bar(2, 0x170, 8)
        .io_bar(3, 0x376, 1)
        .io_bar(4, 0xB400, 16);
    if has_primary {
        f.io_bar(0, 0x1F0, 8).io_bar(1, 0x3F6, 1)
    } else {
        f.dword(bar_offset(0), IO).dword(bar_offset(1), IO)
    }
}

/// PIIX4 power management function; present with ACPI. Its ports do not depend on registers here.
pub fn piix4_pm() -> PciFunction {
    PciFunction::new("82371AB PM", [0x8086, 0x7113])
        .command_status(0x0007, 0x0280)
        .class([0x06, 0x80, 0x00], 8)
        .bytes(0x0E, &[0x80])
        .bytes(reg::INTERRUPT_LINE, &[9])
        .interrupt_pin(1)
}

/// A virtio 1.0 function: `kind` is the virtio device type, `ports` the base of its four home
/// regions (device configuration, ISR, common configuration and notification, 256 ports apart),
/// `config_size` the size of its device configuration in bytes (0 = none).
///
/// The class is "unclassified, subclass 2": v86 has the bytes of 02.00 swapped, and guests find
/// virtio functions by their IDs anyway.
pub fn virtio(name: &'static str, kind: u16, ports: u16, config_size: u16) -> PciFunction {
    let mut f = PciFunction::new(name, [0x1AF4, 0x1040 + (kind & 0x3F)])
        .command_status(0x0507, 0x0010)
        .class([0x00, 0x02, 0x00], 1)
        .subsystem(0x1AF4, kind)
        .bytes(0x34, &[0x40])
        .interrupt_pin(1);
    // (type, register, home, ports, multiplier of the notify capability)
    let mut regions =
        vec![(1u8, 0u8, 0x200, 64u16, None), (2, 1, 0x300, 16, Some(2u32)), (3, 2, 0x100, 16, None)];
    if config_size > 0 {
        regions.push((4, 3, 0, config_size.clamp(16, 256).next_power_of_two(), None));
    }
    let mut at = 0x40u8;
    for (kind, bar, region, size, multiplier) in regions {
        let len = if multiplier.is_some() { 20 } else { 16 };
        f = f
            .io_bar(bar, ports.wrapping_add(region), size)
            .bytes(at, &[0x09, at + len, len, kind, bar])
            .dword(at + 12, u32::from(size));
        if let Some(m) = multiplier {
            f = f.dword(at + 16, m);
        }
        at += len;
    }
    // PCI configuration access capability: the last one, storage without effect.
    f.bytes(at, &[0x09, 0x00, 20, 5])
}
