//! env86's machine in this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};
use emu_core::engine::CpuEngine;
use emu_core::interp::Interpreter;
use emu_core::time::{ClockSource, HostTime};
use emu_devices::machine::{Boot, LinuxBoot, Machine, MachineConfig, Mailbox, StopReason};
use emu_devices::serial::SerialSink;

use super::protocol::{Protocol, Timed};
use super::{Engine, Sample};
use crate::clock::now;
use crate::image::{Image, RAM};

/// env86 with its interpreter.
pub struct Env86Interpreter;

impl Engine for Env86Interpreter {
    fn name(&self) -> &'static str {
        "env86 interpreter"
    }

    fn run(&mut self, image: &Image, kernel: usize) -> Result<Sample> {
        run(Interpreter::new(), &image.bytes, Some(kernel))?.only()
    }
}

/// env86 with translation to host code.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub struct Env86Jit;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Engine for Env86Jit {
    fn name(&self) -> &'static str {
        "env86 JIT"
    }

    fn run(&mut self, image: &Image, kernel: usize) -> Result<Sample> {
        run(emu_jit::Jit::new()?, &image.bytes, Some(kernel))?.only()
    }
}

/// What a machine did.
pub struct Run {
    /// The kernels that ended, in their order.
    pub ended: Vec<Timed>,
    /// Instructions of the whole run: the kernels, and some hundred that write lines.
    pub instructions: u64,
}

impl Run {
    /// The result of a run of one kernel.
    ///
    /// # Errors
    /// None or several have ended.
    pub fn only(self) -> Result<Sample> {
        let [Timed { checksum, time, .. }] = self.ended.as_slice() else {
            bail!("{} kernels have ended instead of one", self.ended.len());
        };
        Ok(Sample { seconds: time.as_secs_f64(), instructions: self.instructions, checksum: *checksum })
    }
}

/// Runs an image in a new machine: kernel number `kernel`, or all.
///
/// # Errors
/// The machine cannot be built, or stops for another reason than HLT.
pub fn run(engine: impl CpuEngine, image: &[u8], kernel: Option<usize>) -> Result<Run> {
    run_with_clock(engine, image, kernel, |start| ClockSource::HostPaced(Box::new(Clock { start })))
}

/// The same with a clock of the caller's choice, which is told when the machine starts.
///
/// # Errors
/// As above.
pub fn run_with_clock(
    engine: impl CpuEngine,
    image: &[u8],
    kernel: Option<usize>,
    clock: impl FnOnce(Instant) -> ClockSource,
) -> Result<Run> {
    let start = now();
    let protocol = Arc::new(Mutex::new(Protocol::default()));
    let sink = Stamper { start, protocol: protocol.clone() };
    let linux = LinuxBoot {
        kernel: image.to_vec(),
        initrd: None,
        cmdline: kernel.map(|n| n.to_string()).unwrap_or_default(),
    };
    let config = MachineConfig {
        memory_size: RAM,
        vga_memory_size: 8 << 20,
        acpi: false,
        serial: [Some(Box::new(sink)), None, None, None],
        cpuid_level: 2,
        boot: Boot::Linux(linux),
        filesystem: None,
        clock: clock(start),
        random: Box::new(|| 0),
        network_card: emu_devices::machine::NetworkCard::Ne2000,
        network: None,
        mac: [0x02, 0, 0, 0, 0, 1],
        preserve_mac: false,
        shares: None,
        virtio_rng: false,
    };
    let mut machine = Machine::new(config, engine, Mailbox::new())?;
    let reason = machine.run();
    if reason != StopReason::Halted {
        bail!("the machine stopped because of {reason:?}\n{}", machine.report());
    }
    let ended = std::mem::take(&mut *protocol.lock().unwrap_or_else(PoisonError::into_inner)).into_ended();
    Ok(Run { ended, instructions: machine.retired() })
}

/// Stamps serial output with the host's time.
struct Stamper {
    start: Instant,
    protocol: Arc<Mutex<Protocol>>,
}

impl SerialSink for Stamper {
    fn write(&mut self, byte: u8) {
        let elapsed = self.start.elapsed();
        self.protocol.lock().unwrap_or_else(PoisonError::into_inner).byte(byte, elapsed);
    }
}

/// Guest time follows the host's, as it does by default in `env86 boot`.
struct Clock {
    start: Instant,
}

impl HostTime for Clock {
    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn wall_ns(&self) -> u64 {
        self.monotonic_ns()
    }
}
