//! Whole machines: the smallest there are, with a deterministic clock.

use emu_core::time::ClockSource;
use emu_devices::machine::{Boot, MachineConfig};
use emu_devices::p9::Server;
use host::fs::overlay::Overlay;

use crate::files;

/// A machine that boots `boot`, with a root file system that is empty.
pub fn config(boot: Boot) -> MachineConfig {
    let files = Overlay::empty(files::blobs(), files::options());
    MachineConfig {
        memory_size: 2 << 20,
        vga_memory_size: 256 << 10,
        acpi: true,
        serial: [None, None, None, None],
        cpuid_level: 22,
        boot,
        filesystem: Some(Box::new(Server::new(Box::new(files)))),
        clock: ClockSource::Deterministic {
            ps_per_instruction: 100_000,
            wall_start_ns: 1_700_000_000_000_000_000,
        },
        random: Box::new(|| 0x1234_5678),
        network_card: emu_devices::machine::NetworkCard::Ne2000,
        network: None,
        mac: [0, 0x22, 0x15, 1, 2, 3],
        preserve_mac: false,
        shares: None,
        virtio_rng: true,
    }
}

/// A machine for snapshots: nothing to boot.
pub fn restorable() -> MachineConfig {
    config(Boot::Deferred(Box::new(|| Err("there is nothing to boot".to_owned()))))
}
