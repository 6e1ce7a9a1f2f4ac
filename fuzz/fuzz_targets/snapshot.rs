//! Bytes are a snapshot, or a seed for damaging a valid one: the first byte tells.

#![no_main]

use std::sync::{Arc, LazyLock};

use emu_core::time::ClockSource;
use emu_devices::machine::{Boot, MachineConfig};
use emu_devices::p9::Server;
use emu_devices::p9::fs::Time;
use emu_devices::testing::mutation::{Base, bases, exercise};
use emu_devices::testing::random::Random;
use host::fs::blobs::MemoryBlobs;
use host::fs::overlay::{Overlay, OverlayOptions};
use libfuzzer_sys::fuzz_target;

fn config() -> MachineConfig {
    let options = OverlayOptions::new(Box::new(Time::default), Box::new(|_| {}));
    let files = Overlay::empty(Arc::new(MemoryBlobs::new("fuzz")), options);
    MachineConfig {
        memory_size: 2 << 20,
        vga_memory_size: 256 << 10,
        acpi: true,
        serial: [None, None, None, None],
        cpuid_level: 22,
        boot: Boot::Deferred(Box::new(|| Err("there is nothing to boot".to_owned()))),
        filesystem: Some(Box::new(Server::new(Box::new(files)))),
        clock: ClockSource::Deterministic {
            ps_per_instruction: 100_000,
            wall_start_ns: 1_700_000_000_000_000_000,
        },
        random: Box::new(|| 0x1234_5678),
        mac: [0, 0x22, 0x15, 1, 2, 3],
        preserve_mac: false,
        shares: None,
        virtio_rng: true,
    }
}

static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&mut config));

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind & 1 == 0 {
        let _ = exercise(rest, kind & 2 != 0, &mut config);
        return;
    }
    let seed = rest.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
    let mut file = Vec::new();
    BASES[usize::from(*kind >> 2) % BASES.len()].mutate(&mut Random(seed), &mut file);
    // What follows the seed goes over the damaged file, from the end of its header on.
    for (to, byte) in file.iter_mut().skip(16).zip(rest.iter().skip(8)) {
        *to ^= byte;
    }
    let _ = exercise(&file[..], kind & 2 != 0, &mut config);
});
