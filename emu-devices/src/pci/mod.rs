//! PCI bus 0: configuration mechanism #1, the functions on it and their interrupt routing.
//!
//! | file | what |
//! | --- | --- |
//! | `bus` | ports CF8h-CFFh, the list of functions, moves of I/O regions |
//! | `config` | a function's 256-byte configuration space, its write rules, the device table |
//! | `host_bridge`, `isa_bridge` | 82441FX and PIIX3 ISA; PIRQ routing registers |
//! | `saved` | the bus in snapshots |
//! | `firmware` | the resource assignment SeaBIOS makes, for guests that boot without firmware |
//!
//! The write rules are v86's, which guests and snapshots rely on, not a real chipset's: 32-bit
//! writes never reach the command register, memory regions cannot move, and everything a chipset
//! would keep read-only (identification, for one) is plain storage.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bus;
pub mod config;
mod firmware;
mod host_bridge;
mod isa_bridge;
mod saved;
#[cfg(test)]
mod tests;

pub use bus::PciBus;
pub use config::{Bar, BarMove, PciFunction};
pub use host_bridge::host_bridge;
pub use isa_bridge::{isa_bridge, pirq, pirq_line};

/// Device and function numbers (device * 8 + function) of the machine's functions.
pub mod devfn {
    /// 82441FX host bridge.
    pub const HOST_BRIDGE: u8 = 0x00;
    /// PIIX3 ISA bridge.
    pub const ISA_BRIDGE: u8 = 0x08;
    /// NE2000 network card.
    pub const NE2000: u8 = 0x28;
    /// virtio-9p, the root file system.
    pub const VIRTIO_9P: u8 = 0x30;
    /// PIIX4 power management (only with ACPI).
    pub const PIIX4_PM: u8 = 0x38;
    /// virtio-net.
    pub const VIRTIO_NET: u8 = 0x50;
    /// virtio-balloon.
    pub const VIRTIO_BALLOON: u8 = 0x58;
    /// virtio-console.
    pub const VIRTIO_CONSOLE: u8 = 0x60;
    /// virtio-rng; v86 has nothing here.
    pub const VIRTIO_RNG: u8 = 0x68;
    /// A second virtio-9p: directories of the host. v86 has nothing here.
    pub const VIRTIO_SHARES: u8 = 0x70;
    /// VGA.
    pub const VGA: u8 = 0x90;
    /// PIIX3 IDE.
    pub const IDE: u8 = 0xF0;
}

/// Offsets of the standard configuration header.
pub(crate) mod reg {
    pub const COMMAND: u8 = 0x04;
    pub const BAR0: u8 = 0x10;
    pub const CIS: u8 = 0x28;
    pub const ROM: u8 = 0x30;
    pub const INTERRUPT_LINE: u8 = 0x3C;
    pub const INTERRUPT_PIN: u8 = 0x3D;
}
