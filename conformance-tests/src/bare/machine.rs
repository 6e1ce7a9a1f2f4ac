//! Runs programs on our machine.

use std::sync::{Arc, Mutex, PoisonError};

use emu_core::engine::CpuEngine;
use emu_core::time::ClockSource;
use emu_devices::machine::{Boot, LinuxBoot, Machine, MachineConfig, Mailbox, StopReason};
use emu_devices::serial::SerialSink;

/// RAM of the machines programs run on, MiB.
pub const RAM_MIB: u64 = 16;
/// Guest time after which a program counts as stuck, nanoseconds.
const LONG: u64 = 300_000_000;

/// Last line of a run that ended by the exit port.
pub const END_EXIT: &str = "[exit]";
/// Last line of a run that ended by a triple fault.
pub const END_SHUTDOWN: &str = "[shutdown]";

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl SerialSink for Sink {
    fn write(&mut self, byte: u8) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(byte);
    }
}

/// Runs an image. Returns what it printed, and a line that says how it ended.
///
/// # Errors
/// Text: the machine cannot be built.
pub fn run(engine: impl CpuEngine, image: Vec<u8>) -> Result<String, String> {
    let sink = Sink::default();
    let config = MachineConfig {
        memory_size: RAM_MIB << 20,
        vga_memory_size: 256 << 10,
        acpi: true,
        serial: [Some(Box::new(sink.clone())), None, None, None],
        cpuid_level: 2,
        boot: Boot::Linux(LinuxBoot { kernel: image, ..LinuxBoot::default() }),
        filesystem: None,
        shares: None,
        clock: ClockSource::Deterministic { ps_per_instruction: 1000, wall_start_ns: 0 },
        random: Box::new(|| 0),
        network_card: emu_devices::machine::NetworkCard::Ne2000,
        network: None,
        mac: [2, 0, 0, 0, 0, 1],
        preserve_mac: false,
        virtio_rng: false,
    };
    let mut machine = Machine::new(config, engine, Mailbox::new()).map_err(|error| error.to_string())?;
    let end = machine.run_until(LONG);
    let mut text =
        String::from_utf8_lossy(&sink.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    match end {
        Some(StopReason::GuestExit(0)) => text.push_str(END_EXIT),
        Some(StopReason::TripleFault) => text.push_str(END_SHUTDOWN),
        other => text.push_str(&format!("[{other:?}]\n{}", machine.report())),
    }
    text.push('\n');
    Ok(text)
}
