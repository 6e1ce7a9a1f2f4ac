//! A snapshot's file as `env86 snapshot show` reads it: described, and compared with itself.

#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use emu_devices::testing::mutation::{Base, bases};
use emu_devices::testing::random::Random;
use env86_fuzz::machines::restorable;
use host::snapshot::describe::load;
use host::snapshot::locate::open;
use host::snapshot::source::Stored;

static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&mut restorable));

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = (0..48u8).map(|n| vec![1 | n << 1, n, n ^ 0x33]).collect();
    seeds.extend(BASES.iter().map(|base| [&[0], &base.file()[..base.file().len().min(40_000)]].concat()));
    seeds
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let mut file = Vec::new();
    if kind & 1 == 0 {
        file.extend_from_slice(rest);
    } else {
        let seed = rest.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
        BASES[usize::from(*kind >> 1) % BASES.len()].mutate(&mut Random(seed), &mut file);
        for (to, byte) in file.iter_mut().skip(16).zip(rest.iter().skip(8)) {
            *to ^= byte;
        }
    }
    let opened = open(PathBuf::from("snapshot"), Stored::Bytes(Arc::new(file)));
    if let Ok(loaded) = opened.and_then(load) {
        let _ = loaded.describe();
        let _ = loaded.compare(&loaded);
    }
});
