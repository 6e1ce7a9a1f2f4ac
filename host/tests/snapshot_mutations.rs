//! Damaged snapshots: no panic, no hang, no memory beyond the limits, and whatever was accepted can be
//! saved and restored again.
//!
//! `ENV86_MUTATIONS=1000000 cargo test --release -p host --test snapshot_mutations -- --nocapture` does as
//! many as wanted; `ENV86_MUTATION_SEED=n` does the one with that number again.

#![allow(unsafe_code, reason = "a global allocator that counts")]
#![allow(clippy::disallowed_methods, reason = "measures how long restoring takes")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emu_core::time::ClockSource;
use emu_devices::machine::{Boot, MachineConfig};
use emu_devices::p9::Server;
use emu_devices::p9::fs::Time;
use emu_devices::serial::NullSink;
use emu_devices::testing::mutation::{Base, Outcome, bases, exercise};
use emu_devices::testing::random::Random;
use host::fs::blobs::MemoryBlobs;
use host::fs::overlay::{Overlay, OverlayOptions};
use host::snapshot::source::Stored;

/// Without ENV86_MUTATIONS.
const MUTATIONS: u64 = 2000;
/// Heap that one snapshot may take at a time, in bytes, guest memory aside. A session's reply buffer has up
/// to 16 MiB, in memory, in the state and in the file.
const MAX_HEAP: isize = 128 << 20;
/// The bar is five seconds for a file of any size; these are small.
const MAX_TIME: Duration = Duration::from_secs(5);
/// No more is learned from more failures.
const MAX_FAILURES: usize = 20;

thread_local! {
    static IN_USE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting bytes per thread.
struct Counting;

fn count(change: isize) {
    // Threads that end free after their counters are gone.
    let _ = IN_USE.try_with(|in_use| {
        let now = in_use.get() + change;
        in_use.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: everything is the system allocator's; counting touches nothing but numbers of this thread, whose
// cells are constant-initialised and so do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FILES: &str = r#"{"fsroot":[
    ["etc",4096,100,16877,1,2,[
        ["motd",5,200,33188,0,0,"hello"],
        ["large",20000,200,33261,0,0,"large"],
        ["missing",5,200,33188,0,0,"missing"]
    ]],
    ["lib",3,100,41471,0,0,"etc"]
],"version":3,"size":24113}"#;

fn overlay() -> Overlay {
    let mut blobs = MemoryBlobs::new("test");
    blobs.insert("hello", b"hello".to_vec());
    blobs.insert("large", vec![7; 20_000]);
    let options = OverlayOptions::new(Box::new(|| Time { sec: 1_700_000_000, nsec: 7 }), Box::new(|_| {}));
    Overlay::from_fs_json(FILES.as_bytes(), "fs.json", Arc::new(blobs), options).unwrap()
}

fn config(acpi: bool, files: bool) -> MachineConfig {
    MachineConfig {
        memory_size: 2 << 20,
        vga_memory_size: 256 << 10,
        acpi,
        serial: [None, Some(Box::new(NullSink)), None, None],
        cpuid_level: 22,
        boot: Boot::Deferred(Box::new(|| Err("there is nothing to boot".to_owned()))),
        filesystem: files.then(|| Box::new(Server::new(Box::new(overlay()))) as _),
        clock: ClockSource::Deterministic {
            ps_per_instruction: 100_000,
            wall_start_ns: 1_700_000_000_000_000_000,
        },
        random: Box::new(|| 0x1234_5678),
        network_card: emu_devices::machine::NetworkCard::Ne2000,
        network: None,
        mac: [0, 0x22, 0x15, 1, 2, 3],
        preserve_mac: acpi,
        shares: None,
        virtio_rng: acpi,
    }
}

#[derive(Default)]
struct Tally {
    refused: u64,
    ran: u64,
    unsaved: u64,
    slowest: (Duration, u64),
    largest: (isize, u64),
    reasons: BTreeMap<String, u64>,
    failures: Vec<String>,
}

fn bases_of_all_kinds() -> Vec<(bool, Base)> {
    [false, true]
        .into_iter()
        .flat_map(|acpi| bases(&mut || config(acpi, true)).into_iter().map(move |base| (acpi, base)))
        .collect()
}

/// One mutation, by its number.
fn one(bases: &[(bool, Base)], seed: u64, file: &mut Vec<u8>) -> Outcome {
    let mut r = Random(seed);
    let (acpi, base) = &bases[r.below(bases.len())];
    base.mutate(&mut r, file);
    // Machines that differ from those that saved.
    let acpi = *acpi != r.one_in(16);
    let files = !r.one_in(16);
    let config = &mut || config(acpi, files);
    // Drawing takes longer than all the rest.
    let draw = r.one_in(8);
    if r.one_in(64) {
        let mut packed = zstd::encode_all(&file[..], 1).unwrap();
        if r.one_in(2) {
            let at = r.below(packed.len());
            packed[at] ^= 1 << r.below(8);
        }
        return match Stored::Bytes(Arc::new(packed)).into_source() {
            Ok(source) => exercise(source, draw, config),
            Err(error) => Outcome::Refused(error.to_string()),
        };
    }
    exercise(&file[..], draw, config)
}

fn run(bases: &[(bool, Base)], next: &AtomicU64, end: u64, tally: &Mutex<Tally>) {
    let mut file = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || tally.lock().unwrap().failures.len() >= MAX_FAILURES {
            return;
        }
        let before = IN_USE.get();
        PEAK.set(before);
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| one(bases, seed, &mut file)));
        let (time, heap) = (start.elapsed(), PEAK.get() - before);
        let mut tally = tally.lock().unwrap();
        match outcome {
            Ok(Outcome::Refused(reason)) => {
                tally.refused += 1;
                assert!(reason.len() < 2000, "seed {seed}: {reason}");
                // Messages differ in numbers.
                let kind: String = reason.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
                *tally.reasons.entry(kind).or_default() += 1;
            }
            Ok(Outcome::Ran) => tally.ran += 1,
            Ok(Outcome::Unsaved(_)) => tally.unsaved += 1,
            Err(_) => tally.failures.push(format!("seed {seed} panicked")),
        }
        tally.slowest = tally.slowest.max((time, seed));
        tally.largest = tally.largest.max((heap, seed));
        if time > MAX_TIME {
            tally.failures.push(format!("seed {seed} took {time:?}"));
        }
        if heap > MAX_HEAP {
            tally.failures.push(format!("seed {seed} took {heap} bytes"));
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn damaged_snapshots_neither_panic_nor_hang_nor_take_all_memory() {
    let bases = bases_of_all_kinds();
    let (first, end) = match variable("ENV86_MUTATION_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, variable("ENV86_MUTATIONS").unwrap_or(MUTATIONS)),
    };
    let (next, tally) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| run(&bases, &next, end, &tally));
        }
    });
    let tally = tally.into_inner().unwrap();
    let Tally { refused, ran, unsaved, slowest, largest, reasons, failures } = &tally;
    println!("{refused} refused in {} ways, {ran} ran, {unsaved} ran but were not saved", reasons.len());
    println!(
        "slowest {:?} (seed {}), largest {} bytes (seed {})",
        slowest.0, slowest.1, largest.0, largest.1
    );
    let mut common: Vec<_> = reasons.iter().collect();
    common.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    common.iter().take(12).for_each(|(reason, count)| println!("{count:8} {reason}"));
    assert!(failures.is_empty(), "{failures:#?}");
    if end - first >= MUTATIONS {
        // Else this tests nothing: both ways must be common, and errors of many kinds.
        assert!(*refused > end / 10 && *ran > end / 10, "{refused} refused, {ran} ran");
        assert!(reasons.len() > 100, "{reasons:?}");
    }
}

#[test]
fn undamaged_snapshots_of_the_same_guests_run() {
    for (acpi, base) in bases_of_all_kinds() {
        assert_eq!(exercise(base.file(), true, &mut || config(acpi, true)), Outcome::Ran);
    }
}
