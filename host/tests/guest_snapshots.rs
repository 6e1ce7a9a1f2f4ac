//! A snapshot that v86 made of a Linux guest is restored and saved again without the guest running in
//! between: what is written has to be what was read, but for what the list below gives a reason for.
//!
//! The image comes from `cargo xtask test`, which names it in `ENV86_FIXTURES`.

use std::fs::File;
use std::path::{Path, PathBuf};

use emu_core::mem::GuestRam;
use emu_core::snapshot::{State, Value, slots};
use emu_devices::p9::{Server, fs::Time};
use host::config::{BootConfig, BootOptions};
use host::fs::overlay::OverlayOptions;
use host::image::{Image, tree};
use host::progress::Progress;
use host::snapshot::locate::{self, Opened};
use host::snapshot::output::SparseFile;
use host::vm::{self, Boot, SerialSink, Start, Vm, VmSpec};

/// Where a snapshot may differ from the one it was restored from, and why. A place is a slot and the indexes
/// below it; `*` is any index, and `length` stands for zeros at the end of an array that only one of them has.
type Exceptions = &'static [(&'static str, &'static str)];

/// In any snapshot.
const TIMES: Exceptions = &[
    ("47.2", "the RTC's time goes on while the guest does not run"),
    ("47.3", "the host's time of the RTC's last update"),
    ("58.7.*", "the PIT's start times are those of the clock of whoever saves"),
    ("58.8.*", "the PIT's counters are told at the moment of saving, rounded to ticks"),
];

/// In a snapshot of v86.
const OF_V86: Exceptions = &[
    ("1.7", "v86 has no null LDTR"),
    ("1.9", "v86 does not set the accessed bit of code segments"),
    ("1.10", "v86 does not set the accessed bit of stack segments"),
    ("1.13", "access rights of GS, which is null: v86 keeps the old ones"),
    ("1.14", "v86 keeps no access rights of TR"),
    ("1.15", "v86 keeps no access rights of LDTR"),
    ("2.5", "base of GS, which is null: v86 keeps the old one"),
    ("3.5", "limit of GS, which is null: v86 keeps the old one"),
    ("18", "scratch value of v86's decoder"),
    ("19", "scratch value of v86's decoder"),
    ("26", "EFLAGS with the arithmetic flags, which the next four and slot 86 make"),
    ("27", "which flags are not yet computed: ours are"),
    ("28", "operand of flags not yet computed"),
    ("30", "operand size of flags not yet computed"),
    ("86", "result of flags not yet computed"),
    ("38", "scratch value of v86's interpreter"),
    ("41.6", "bits of DR6 that are always set"),
    ("41.7", "bit of DR7 that is always set"),
    ("45.6.*", "the 9p server's reply buffer, in which nothing waits"),
    ("45.7", "length of the last 9p reply"),
    ("45.8.*.3", "names that v86 keeps for messages"),
    ("45.9.0.*.1", "an empty file has no content file"),
    ("45.9.0.*.3", "an empty file has no content file to be read from"),
    ("45.9.2.*.1.length", "v86 has spare space after a file that grew"),
    ("47.10", "update-ended flag of the RTC: its clock has gone on"),
    ("50", "v86 wants ACPI's state even in a machine without it"),
    ("52.36", "phase of the VGA's retrace bits, of which v86 counts the reads"),
    ("52.39.length", "zeros at the end of the frame buffer are left out"),
    ("52.61", "what v86 derives from video memory"),
    ("58.0.*", "counter 1, whose mode was never set"),
    ("58.3.*", "counter 1, whose mode was never set"),
    ("80", "v86 wants the states of ports that do not exist"),
    ("81", "v86 wants the states of ports that do not exist"),
    ("82", "v86 wants the state of a virtio-console that does not exist"),
    ("83", "v86 wants the state of a virtio-net that does not exist"),
    ("84", "v86 wants the state of a virtio-balloon that does not exist"),
    ("192", "what v86 has no slot for"),
];

/// In a snapshot of ours.
const OF_ENV86: Exceptions = &[
    ("192.2.0.1.1", "guest time in nanoseconds goes on for some of them while the machine is built"),
    ("192.2.9.1.3", "the second that the RTC shows"),
];

/// CF, PF, AF, ZF, SF and OF.
const ARITHMETIC_FLAGS: i64 = 0x8D5;

struct Silent;

impl SerialSink for Silent {
    fn write(&mut self, _: u8) {}
}

fn fixture() -> PathBuf {
    let fixtures = std::env::var_os("ENV86_FIXTURES").expect("`cargo xtask test` runs this test");
    Path::new(&fixtures).join("mini-state")
}

/// State array and memory of a snapshot.
fn load(opened: Opened) -> (State, GuestRam) {
    let mut ram = GuestRam::new(opened.reader.memory_size().unwrap() as usize).unwrap();
    let state = opened.reader.load(Some(&mut ram)).unwrap();
    (state, ram)
}

/// The machine of a snapshot, which has not run yet.
fn restore(image: &Image, opened: Opened) -> Vm {
    let (config, _) = BootConfig::resolve(&BootOptions::default(), image, true).unwrap();
    let options = OverlayOptions::new(Box::new(Time::default), Box::new(|text| panic!("{text}")));
    let files = tree::open_empty(image, options).unwrap();
    let reboot = || -> Result<Boot, String> { Err("nothing to boot".to_owned()) };
    vm::build(VmSpec {
        memory_size: config.memory_size,
        preserve_mac: true,
        network_card: config.network_card,
        network: false,
        #[cfg(target_os = "linux")]
        cable: None,
        vga_memory_size: config.vga_memory_size,
        acpi: config.acpi,
        uarts: config.uarts,
        cpuid_level: config.cpuid_level,
        start: Start::Snapshot { opened: Box::new(opened), reboot: Box::new(reboot) },
        filesystem: Some(Box::new(Server::new(Box::new(files)))),
        shares: None,
        clock: config.clock,
        engine: config.engine,
        translator: config.translator,
        console: Box::new(Silent),
    })
    .unwrap()
}

/// Saves the machine into a file and reads that.
fn save(mut vm: Vm, file: &Path) -> (State, GuestRam) {
    let mut out = SparseFile::new(File::create(file).unwrap());
    vm.runner.capture().write(&mut out, true).unwrap();
    out.finish().unwrap();
    load(locate::open_file(file).unwrap())
}

fn brief(value: &Value) -> String {
    let text = format!("{value:?}");
    text.chars().take(100).collect()
}

/// Collects the places at which two values differ, and how.
fn compare(before: &Value, after: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match (before, after) {
        (Value::Array(a), Value::Array(b)) | (Value::Map(a), Value::Map(b)) => {
            for index in 0..a.len().max(b.len()) {
                let at = |values: &[Value]| values.get(index).cloned().unwrap_or_default();
                compare(&at(a), &at(b), &format!("{place}.{index}"), found);
            }
        }
        (Value::Typed(a), Value::Typed(b)) if a.kind == b.kind => {
            let size = a.kind.size();
            let (short, long) = (a.data.len().min(b.data.len()), a.data.len().max(b.data.len()));
            if short != long {
                let rest = if a.data.len() == long { &a.data[short..] } else { &b.data[short..] };
                let end = if rest.iter().all(|byte| *byte == 0) { "length" } else { "end" };
                found.push((format!("{place}.{end}"), format!("{} -> {} bytes", a.data.len(), b.data.len())));
            }
            for (index, (a, b)) in a.data.chunks(size).zip(b.data.chunks(size)).enumerate() {
                if a != b {
                    found.push((format!("{place}.{index}"), format!("{a:02x?} -> {b:02x?}")));
                }
            }
        }
        (a, b) if a != b => found.push((place.to_owned(), format!("{} -> {}", brief(a), brief(b)))),
        _ => {}
    }
}

/// Most differences of one slot that a failure lists.
const MAX_LISTED: usize = 40;

/// `pattern` stands for `place` or for something that it is part of.
fn covers(pattern: &str, place: &str) -> bool {
    let mut parts = place.split('.');
    pattern.split('.').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
}

/// Differences between two snapshots that are not to be expected.
fn unexpected(before: &State, after: &State, exceptions: Exceptions) -> Vec<String> {
    let mut found = Vec::new();
    for slot in 0..before.len().max(after.len()) {
        // How memory is packed is not what is in it.
        if slot != slots::PACKED_MEMORY && slot != slots::MEMORY_BITMAP {
            let mut here = Vec::new();
            compare(before.get(slot), after.get(slot), &slot.to_string(), &mut here);
            here.retain(|(place, _)| {
                !exceptions.iter().chain(TIMES).any(|(pattern, _)| covers(pattern, place))
            });
            here.truncate(MAX_LISTED);
            found.extend(here);
        }
    }
    found.into_iter().map(|(place, how)| format!("{place}: {how}")).collect()
}

fn integer(state: &State, slot: usize) -> i64 {
    match state.get(slot) {
        Value::Int(n) => *n,
        other => panic!("slot {slot} is {other:?}"),
    }
}

#[test]
fn snapshot_that_is_only_loaded_and_saved_stays_the_same() {
    let image = Image::open(&fixture(), &Progress::hidden()).unwrap();
    let open = || locate::find(&image, None).unwrap().unwrap().open(&image).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));

    let (of_v86, memory_of_v86) = load(open());
    let (ours, our_memory) = save(restore(&image, open()), &first);
    let found = unexpected(&of_v86, &ours, OF_V86);
    assert!(found.is_empty(), "{found:#?}");
    let flags = integer(&of_v86, slots::EFLAGS) ^ integer(&ours, slots::EFLAGS);
    assert_eq!(flags & !ARITHMETIC_FLAGS, 0);
    let pages = memory_of_v86.as_slice().chunks(4096).zip(our_memory.as_slice().chunks(4096));
    let changed: Vec<usize> = pages.enumerate().filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
    assert_eq!((memory_of_v86.len(), changed), (our_memory.len(), vec![]));

    let (again, memory_again) = save(restore(&image, locate::open_file(&first).unwrap()), &second);
    let found = unexpected(&ours, &again, OF_ENV86);
    assert!(found.is_empty(), "{found:#?}");
    assert!(memory_again.as_slice() == our_memory.as_slice());
}
