//! A machine that was saved and restored goes on exactly as one that was not.

mod machine_support;

use emu_core::interp::Interpreter;
use emu_core::snapshot::{Limits, Reader, SnapshotError, State, Value};
use emu_devices::machine::{Boot, LinuxBoot, Machine, MachineConfig, Mailbox, NetworkCard, RestoreFailure};
use machine_support::random::{Parrot, Random, program};
use machine_support::{config, machine};

/// Random guests saved at some moment.
const RUNS: u64 = 400;
/// Guest time until then and after, nanoseconds.
const BEFORE_NS: u64 = 500_000;
const AFTER_NS: u64 = 400_000;

/// A machine whose random numbers do not depend on its past.
fn plain(image: Vec<u8>, acpi: bool) -> MachineConfig {
    let mut config = config(image);
    config.acpi = acpi;
    config.random = Box::new(|| 0x1234_5678);
    config.filesystem = Some(Box::new(Parrot));
    config.serial = [None, Some(Box::new(emu_devices::serial::NullSink)), None, None];
    config.virtio_rng = true;
    config
}

fn save(machine: &mut Machine<Interpreter>, mappable: bool) -> Vec<u8> {
    let mut file = Vec::new();
    machine.snapshot().write(&mut file, mappable).expect("writing to memory");
    file
}

/// A machine from a snapshot that boots `image` when it reboots.
fn restore(file: &[u8], image: &[u8], acpi: bool) -> Result<Machine<Interpreter>, RestoreFailure> {
    let mut config = plain(Vec::new(), acpi);
    let kernel = image.to_vec();
    config.boot = Boot::Deferred(Box::new(move || {
        Ok(Boot::Linux(LinuxBoot { kernel: kernel.clone(), ..LinuxBoot::default() }))
    }));
    let reader = Reader::open(file, Limits::default())?;
    Machine::restore(config, Interpreter::new(), Mailbox::new(), reader)
}

fn state(file: &[u8]) -> State {
    Reader::open(file, Limits::default()).and_then(|reader| reader.load(None)).expect("what was just written")
}

/// First difference between two states, as text.
fn difference(a: &State, b: &State) -> Option<String> {
    fn inside(path: String, a: &Value, b: &Value) -> Option<String> {
        match (a, b) {
            (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
                x.iter().zip(y).enumerate().find_map(|(n, (a, b))| inside(format!("{path}[{n}]"), a, b))
            }
            (Value::Typed(x), Value::Typed(y)) if x.kind == y.kind && x.data.len() == y.data.len() => {
                let at = x.data.iter().zip(&y.data).position(|(a, b)| a != b)?;
                Some(format!("{path} byte {at}: {:#x} and {:#x}", x.data[at], y.data[at]))
            }
            (a, b) => (a != b).then(|| format!("{path}: {a:?} and {b:?}")),
        }
    }
    (0..a.len().max(b.len())).find_map(|slot| inside(format!("slot {slot}"), a.get(slot), b.get(slot)))
}

#[test]
fn restored_random_guests_go_on_as_if_nothing_had_been() {
    let mut compared = 0;
    for seed in 0..RUNS {
        let mut r = Random(seed + 50_000);
        let acpi = seed % 2 == 1;
        let image = program(&mut r);
        let mut original = machine(plain(image.clone(), acpi));
        if original.run_until(BEFORE_NS - r.below(300_000) as u64).is_some() {
            continue;
        }
        let file = save(&mut original, seed % 3 == 0);
        let mut copy = restore(&file, &image, acpi).unwrap_or_else(|error| panic!("guest {seed}: {error}"));
        if let Some(what) = difference(&state(&file), &state(&save(&mut copy, seed % 3 == 0))) {
            panic!("guest {seed}: restored and saved again it differs in {what}");
        }
        let end = original.now() + AFTER_NS;
        let (first, second) = (original.run_until(end), copy.run_until(end));
        assert_eq!(first, second, "guest {seed}");
        let (first, second) = (save(&mut original, false), save(&mut copy, false));
        if let Some(what) = difference(&state(&first), &state(&second)) {
            panic!("guest {seed}: later it differs in {what}");
        }
        assert_eq!(original.state_hash(), copy.state_hash(), "guest {seed}");
        compared += 1;
    }
    assert!(compared > RUNS / 2, "most were compared: {compared}");
}

#[test]
fn restored_machine_has_the_network_card_of_the_snapshot() {
    use NetworkCard::{Ne2000, None, Virtio, VirtioOffload};
    for card in [Ne2000, Virtio, VirtioOffload, None] {
        let mut r = Random(9);
        let image = program(&mut r);
        let mut config = plain(image.clone(), false);
        config.network_card = card;
        let mut original = machine(config);
        let _ = original.run_until(BEFORE_NS);
        let file = save(&mut original, false);
        // Its own configuration says NE2000.
        let mut copy = restore(&file, &image, false).unwrap();
        assert_eq!(copy.mac(), original.mac(), "{card:?}");
        assert_eq!(copy.mac().is_none(), card == None);
        let again = save(&mut copy, false);
        assert_eq!(difference(&state(&file), &state(&again)), Option::None, "{card:?}");
    }
}

#[test]
fn snapshot_of_a_detached_copy_is_the_same_file() {
    let mut r = Random(7);
    let mut m = machine(plain(program(&mut r), false));
    let _ = m.run_until(BEFORE_NS);
    let direct = save(&mut m, true);
    let mut detached = m.snapshot().detach();
    let _ = m.run_until(2 * BEFORE_NS);
    let mut copied = Vec::new();
    detached.write(&mut copied, true).unwrap();
    assert!(direct == copied);
}

#[test]
fn snapshot_slots_of_unknown_devices_are_written_back() {
    let mut r = Random(3);
    let mut m = machine(plain(program(&mut r), false));
    let mut state = state(&save(&mut m, false));
    let parallel = emu_core::values![1, 2, 3, Value::Null];
    state.set(91, parallel.clone());
    state.set(123, emu_core::values![Value::bytes([1, 2, 3]), "future".len() as u32]);
    let mut file = Vec::new();
    let ram = vec![0; 2 << 20];
    let memory = emu_core::snapshot::PackedMemory { pages: 512, runs: Vec::new() };
    emu_core::snapshot::write(&mut file, &mut state, &memory, |run| &ram[run.start()..][..run.len()], false)
        .unwrap();
    let again = self::state(&save(&mut restore(&file, &[], false).unwrap(), false));
    assert_eq!(again.get(91), &parallel);
    let Value::Array(items) = again.get(123) else { panic!("slot 123 is gone") };
    let Value::Typed(typed) = &items[0] else { panic!("{items:?}") };
    assert_eq!(typed.data, [1, 2, 3]);
}

#[test]
fn snapshots_with_a_wrong_slot_name_it() {
    let mut r = Random(3);
    let mut m = machine(plain(program(&mut r), true));
    let file = save(&mut m, false);
    let whole = state(&file);
    let memory = emu_core::snapshot::PackedMemory { pages: 512, runs: Vec::new() };
    for wrong in (0..whole.len()).filter(|slot| !whole.get(*slot).is_null()) {
        let mut state = state(&file);
        // Not read: caches of v86, and what our own slot replaces.
        if matches!(wrong, 4 | 18 | 19 | 25 | 38 | 77 | 78 | 80..=84) {
            continue;
        }
        state.set(wrong, Value::text("nonsense"));
        let mut file = Vec::new();
        emu_core::snapshot::write(&mut file, &mut state, &memory, |_| &[], false).unwrap();
        match restore(&file, &[], true).map(drop) {
            Err(RestoreFailure::Snapshot(SnapshotError::Field { slot, offset, .. })) => {
                assert_eq!(slot, wrong);
                assert!(offset > 16, "slot {slot}");
            }
            other => panic!("slot {wrong}: {other:?}"),
        }
    }
}
