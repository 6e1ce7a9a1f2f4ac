//! What a machine is made of.

use emu_core::time::ClockSource;

use super::loader::LinuxBoot;
use crate::net::Cable;
use crate::serial::SerialSink;
use crate::virtio::p9::P9Handler;

/// Serial ports of a PC.
pub const SERIAL_PORTS: usize = 4;

/// How the machine starts.
pub enum Boot {
    /// A kernel is loaded directly; no firmware runs.
    Linux(LinuxBoot),
    /// A BIOS image is copied so that it ends at 0FFFFFh, and the CPU starts in it.
    Firmware {
        /// System BIOS, at most 256 KiB.
        bios: Vec<u8>,
        /// VGA BIOS, copied to C0000h, at most 64 KiB.
        vga_bios: Option<Vec<u8>>,
    },
    /// Nothing is loaded until the guest reboots: a machine whose snapshot is restored. The function then
    /// gives what to boot, or says why there is nothing.
    Deferred(Box<dyn FnMut() -> Result<Boot, String> + Send>),
}

/// The machine's network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkCard {
    /// NE2000 with a PCI RTL8029, v86's usual one.
    #[default]
    Ne2000,
    /// virtio-net as v86 has it.
    Virtio,
    /// virtio-net that takes over checksums and TCP segmentation from the guest. v86 restores its snapshots, but
    /// the guest's driver has to be loaded anew then.
    VirtioOffload,
    /// There is none.
    None,
}

/// Everything that defines a machine.
pub struct MachineConfig {
    /// RAM in bytes; see [`ram_size`] for the values that exist.
    pub memory_size: u64,
    /// Video memory in bytes.
    pub vga_memory_size: u32,
    /// ACPI PM block, local APIC and IOAPIC.
    pub acpi: bool,
    /// Which of COM1-COM4 exist (COM1 always does) and where their output goes.
    pub serial: [Option<Box<dyn SerialSink>>; SERIAL_PORTS],
    /// Highest standard CPUID leaf.
    pub cpuid_level: u32,
    /// What runs.
    pub boot: Boot,
    /// Serves the virtio-9p device (tag `host9p`); `None` = no such device.
    pub filesystem: Option<Box<dyn P9Handler>>,
    /// Serves a second virtio-9p device (tag [`SHARES_TAG`]): directories of the host, which are no part of
    /// snapshots. A restored guest finds it when it scans the PCI bus again. `None` = no such device.
    pub shares: Option<Box<dyn P9Handler>>,
    /// Guest time.
    pub clock: ClockSource,
    /// RDRAND.
    pub random: Box<dyn FnMut() -> u32 + Send>,
    /// The network card. A restored machine has that of the snapshot.
    pub network_card: NetworkCard,
    /// What its cable leads to; `None`: it is not plugged in.
    pub network: Option<Box<dyn Cable>>,
    /// Address of the network card.
    pub mac: [u8; 6],
    /// A restored network card keeps the address of the snapshot instead of `mac`.
    pub preserve_mac: bool,
    /// A virtio-rng device gives the guest entropy. A restored machine has one if the snapshot does.
    pub virtio_rng: bool,
}

/// Mount tag of the device that serves directories of the host.
pub const SHARES_TAG: &str = "hostshare";

/// Smallest RAM of a machine.
const MIN_RAM: u64 = 1 << 20;
/// Largest RAM: device space begins at 2 GiB.
const MAX_RAM: u64 = (2 << 30) - RAM_STEP;
const RAM_STEP: u64 = 128 << 10;

/// RAM size v86 gives a machine that asks for `wanted` bytes: whole 128 KiB, 1 MiB to 2 GiB - 128 KiB.
pub fn ram_size(wanted: u64) -> u64 {
    wanted.clamp(MIN_RAM, MAX_RAM).next_multiple_of(RAM_STEP)
}

/// Video memory size v86 gives: a power of two from 256 KiB to 256 MiB.
pub fn vga_size(wanted: u32) -> u32 {
    wanted.clamp(256 << 10, 256 << 20).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_size_is_rounded_up_and_bounded() {
        assert_eq!(ram_size(0), 1 << 20);
        assert_eq!(ram_size((64 << 20) + 1), (64 << 20) + RAM_STEP);
        assert_eq!(ram_size(u64::MAX), MAX_RAM);
        assert_eq!(vga_size(1), 256 << 10);
        assert_eq!(vga_size((8 << 20) - 5), 8 << 20);
        assert_eq!(vga_size(u32::MAX), 256 << 20);
    }
}
