//! Bytes are a snapshot, or a seed for damaging a valid one: the first byte tells. What can be restored
//! runs for a moment, is saved, restored again and runs once more.

#![no_main]

use std::sync::{Arc, LazyLock};

use emu_devices::testing::mutation::{Base, bases, exercise};
use emu_devices::testing::random::Random;
use env86_fuzz::machines::restorable;
use host::snapshot::source::Stored;

static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&mut restorable));

/// Longest damaged snapshot that is compressed: compressing takes longer than all the rest.
const MAX_COMPRESSED: usize = 1 << 20;

/// Takes the bytes from where they are, or through the decompressor.
fn restore(bytes: &[u8], draw: bool, compressed: bool) {
    if !compressed {
        let _ = exercise(bytes, draw, &mut restorable);
    } else if let Ok(source) = Stored::Bytes(Arc::new(bytes.to_vec())).into_source() {
        let _ = exercise(source, draw, &mut restorable);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = (0..64u8).map(|n| vec![1 | n << 2, n, n ^ 0x55, 7]).collect();
    for base in BASES.iter() {
        let mut packed = vec![4];
        packed.extend(zstd::encode_all(base.file(), 3).unwrap_or_default());
        seeds.push(packed);
        // Its header and info block; the machine's memory is missing.
        let start = base.file().len().min(40_000);
        seeds.push([&[2], &base.file()[..start]].concat());
    }
    seeds
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let draw = kind & 2 != 0;
    if kind & 1 == 0 {
        return restore(rest, draw, kind & 4 != 0);
    }
    let seed = rest.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
    let mut file = Vec::new();
    BASES[usize::from(*kind >> 2) % BASES.len()].mutate(&mut Random(seed), &mut file);
    // What follows the seed goes over the damaged file, from the end of its header on.
    for (to, byte) in file.iter_mut().skip(16).zip(rest.iter().skip(8)) {
        *to ^= byte;
    }
    match zstd::encode_all(&file[..], 1) {
        Ok(packed) if kind & 0x80 != 0 && file.len() <= MAX_COMPRESSED => restore(&packed, draw, true),
        _ => restore(&file, draw, false),
    }
});
