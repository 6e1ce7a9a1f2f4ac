//! One guest on a whole machine: a kernel or a ROM, its ports connected to files.

use std::fs::File;
use std::io::{self, BufWriter, LineWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use emu_core::engine::CpuEngine;
use emu_core::time::ClockSource;
use emu_devices::machine::{Boot, HostMessage, LinuxBoot, Machine, MachineConfig, Mailbox, StopReason};
use emu_devices::serial::SerialSink;
use emu_devices::testdev::{DebugPort, TestDevice};

use super::firmware;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Firmware, ends below 1 MiB.
    pub rom: Option<PathBuf>,
    /// bzImage, ELF or multiboot kernel.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
    /// RAM, bytes.
    pub memory: u64,
    /// Ports whose bytes go to files.
    pub ports: Vec<(u16, PathBuf)>,
    /// The test device of kvm-unit-tests, with its console at port F1h on standard output. The kernel finds
    /// interrupt controllers and timer as firmware leaves them.
    pub test_device: bool,
    /// Longest run in host seconds.
    pub seconds: u64,
}

struct Sink<W: Write>(W);

impl<W: Write + Send> SerialSink for Sink<W> {
    fn write(&mut self, byte: u8) {
        // Nobody to tell: a full disk shows as a truncated file.
        let _ = self.0.write_all(&[byte]);
    }

    fn flush(&mut self) {
        let _ = self.0.flush();
    }
}

fn stdout() -> Box<dyn SerialSink> {
    Box::new(Sink(LineWriter::new(io::stdout())))
}

fn load(file: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

/// Guest speed of the deterministic clock: 100 million instructions per second.
const PS_PER_INSTRUCTION: u64 = 10_000;
/// 2023-11-14.
const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// Runs it. The result says how it ended: `halted`, `exit N`, `crashed` with the registers, `timeout`,
/// `power-off` or `reboot-failed`.
///
/// # Errors
/// Files that cannot be read or written, and what keeps a machine from being built.
pub fn run<E: CpuEngine>(job: &Job, engine: E) -> io::Result<String> {
    let boot = match (&job.rom, &job.kernel) {
        (Some(rom), _) => Boot::Firmware { bios: load(rom)?, vga_bios: None },
        (None, Some(kernel)) => Boot::Linux(LinuxBoot {
            kernel: match job.test_device {
                true => firmware::with_setup(&load(kernel)?)?,
                false => load(kernel)?,
            },
            initrd: job.initrd.as_deref().map(load).transpose()?,
            cmdline: job.cmdline.clone(),
        }),
        (None, None) => return Err(io::Error::other("neither ROM nor kernel")),
    };
    let mut random = 1u32;
    let config = MachineConfig {
        memory_size: job.memory,
        vga_memory_size: 1 << 20,
        acpi: true,
        serial: [Some(stdout()), None, None, None],
        cpuid_level: 0x16,
        boot,
        filesystem: None,
        shares: None,
        clock: ClockSource::Deterministic { ps_per_instruction: PS_PER_INSTRUCTION, wall_start_ns: EPOCH_NS },
        random: Box::new(move || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random
        }),
        network_card: emu_devices::machine::NetworkCard::Ne2000,
        network: None,
        mac: [0, 0x22, 0x15, 1, 2, 3],
        preserve_mac: false,
        virtio_rng: false,
    };
    let mailbox = Mailbox::new();
    let mut machine = Machine::new(config, engine, mailbox.clone()).map_err(io::Error::other)?;
    for (port, file) in &job.ports {
        let sink = Sink(BufWriter::new(File::create(file)?));
        machine.attach(Box::new(DebugPort::new(Box::new(sink))), &[(*port, 1)], &[]);
    }
    if job.test_device {
        machine.attach(Box::new(TestDevice::new()), TestDevice::PORTS, TestDevice::MMIO);
        machine.attach(Box::new(DebugPort::new(stdout())), &[(0xF1, 1)], &[]);
    }
    let (done, wait) = mpsc::channel::<()>();
    let limit = Duration::from_secs(job.seconds);
    let watch = thread::spawn(move || {
        let timeout = wait.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        // Refused by a machine that has just stopped.
        timeout && mailbox.send(HostMessage::Stop)
    });
    let reason = machine.run();
    drop(done);
    let _ = watch.join();
    Ok(match reason {
        StopReason::PowerOff => "power-off".to_owned(),
        StopReason::Halted => "halted".to_owned(),
        StopReason::TripleFault => format!("crashed\n{}", machine.report()),
        StopReason::Stopped | StopReason::Paused => format!("timeout\n{}", machine.report()),
        StopReason::RebootFailed => "reboot-failed".to_owned(),
        StopReason::GuestExit(code) => format!("exit {code}"),
    })
}
