//! The machine as the rest of this crate sees it.
//!
//! Everything that depends on how a machine is configured, built and driven stands here: the
//! command line fills a [`VmSpec`], gets a [`Vm`] from [`build`], runs its [`Runner`] on the vCPU
//! thread and talks to the guest from other threads through its [`Guest`]. Tests of the console
//! put a scripted guest in its place.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use emu_core::engine::{Counter, CpuEngine};
use emu_core::interp::Interpreter;
use emu_core::time::ClockSource;
use emu_devices::machine::{
    BuildError, HostMessage, LoadError, Machine, MachineConfig, Mailbox, RestoreFailure, SERIAL_PORTS,
};
#[cfg(target_os = "linux")]
use emu_devices::net::{Cable, NetSink};
use emu_devices::serial::NullSink;
use emu_devices::virtio::p9::P9Handler;

pub use emu_devices::machine::{Boot, LinuxBoot, NetworkCard, StopReason};
pub use emu_devices::serial::SerialSink;

use crate::clock::{self, Random, SystemClock};
use crate::config::{ClockMode, Engine, Translator};
use crate::error::one_line;
#[cfg(target_os = "linux")]
use crate::net::{CardEnd, NetEnd};
use crate::rpc;
use crate::rpc::wire::Service;
use crate::snapshot::SnapshotFileError;
use crate::snapshot::locate::Opened;
use crate::snapshot::save::Capture;

/// Guest time per instruction with a deterministic clock: a processor of 250 million instructions
/// per second.
const PS_PER_INSTRUCTION: u64 = 4000;

/// Calendar time at power-on with a deterministic clock: 2024-01-01 00:00 UTC.
const DETERMINISTIC_EPOCH: Duration = Duration::from_secs(1_704_067_200);

/// Seed of everything random in deterministic runs.
const DETERMINISTIC_SEED: u64 = 86;

/// First half of the network card's address, as v86 has it.
const MAC_PREFIX: [u8; 3] = [0x00, 0x22, 0x15];

/// The vCPU thread's stack. Deep recursion would be a bug; a stack overflow would be its end.
pub const VCPU_STACK: usize = 8 << 20;

/// What a machine starts with.
pub enum Start {
    /// A kernel.
    Kernel {
        /// It, and what goes with it.
        boot: LinuxBoot,
        /// Where it comes from, for messages.
        origin: String,
    },
    /// A snapshot.
    Snapshot {
        /// It. Decides the size of guest RAM.
        opened: Box<Opened>,
        /// Gives what the guest reboots into, or says why there is nothing.
        reboot: Box<dyn FnMut() -> Result<Boot, String> + Send>,
    },
}

/// What [`build`] makes a machine of.
pub struct VmSpec {
    /// Guest RAM in bytes.
    pub memory_size: u64,
    /// A network card from a snapshot keeps its address.
    pub preserve_mac: bool,
    /// The network card; a snapshot has its own.
    pub network_card: NetworkCard,
    /// The network card gets a cable, whose other end is [`Vm::network`].
    pub network: bool,
    /// Or it gets this one ([`Network::card`]), and the network goes on as it is: the machine that had it was saved
    /// and has ended, and this one is restored from that.
    #[cfg(target_os = "linux")]
    pub cable: Option<CardEnd>,
    /// Video memory in bytes.
    pub vga_memory_size: u32,
    /// ACPI tables and power management.
    pub acpi: bool,
    /// COM1 to COM4 exist.
    pub uarts: [bool; SERIAL_PORTS],
    /// Highest standard CPUID leaf.
    pub cpuid_level: u32,
    /// What it starts with.
    pub start: Start,
    /// Server of the virtio-9p device.
    pub filesystem: Option<Box<dyn P9Handler>>,
    /// Server of the second virtio-9p device: directories of the host.
    pub shares: Option<Box<dyn P9Handler>>,
    /// Where guest time comes from.
    pub clock: ClockMode,
    /// What executes instructions.
    pub engine: Engine,
    /// How the translator works.
    pub translator: Translator,
    /// Gets what the guest sends on COM1.
    pub console: Box<dyn SerialSink>,
}

/// What a guest is doing, as seen from another thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStatus {
    /// Bytes sent to COM1 that the guest has not read.
    pub input_pending: usize,
    /// The guest has told COM1 that it wants input. Before that it may throw away what comes in.
    pub listening: bool,
    /// The CPU is halted and waits for an interrupt.
    pub halted: bool,
}

/// A running guest, for other threads than the vCPU's.
pub trait Guest: Send + Sync {
    /// Sends bytes to COM1. False if they do not fit now; wait and send them again.
    fn type_bytes(&self, bytes: &[u8]) -> bool;
    /// Waits until there may be space for that many bytes.
    fn wait_space(&self, bytes: usize);
    /// Asks the machine to stop. May be called again.
    fn stop(&self);
    /// Asks the machine to stop for a moment; [`Runner::run`] may be called again then.
    fn pause(&self);
    /// What the guest is doing.
    fn status(&self) -> GuestStatus;
}

/// A machine, owned by the vCPU thread.
pub trait Runner: Send {
    /// Runs until the machine stops.
    fn run(&mut self) -> StopReason;
    /// Instructions retired so far.
    fn retired(&self) -> u64;
    /// Everything that is counted.
    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }
    /// Hash of the machine's state: equal for equal deterministic runs.
    fn state_hash(&mut self) -> u64;
    /// Registers and whatever else explains a crash.
    fn report(&self) -> String;
    /// Why the guest could not reboot, after [`StopReason::RebootFailed`].
    fn reboot_error(&self) -> Option<String>;
    /// The machine's state, to be saved while it stands still.
    fn capture(&mut self) -> Box<dyn Capture + '_>;
    /// A copy of the machine's state, to be saved while it runs on.
    fn capture_copy(&mut self) -> Box<dyn Capture + Send>;
}

/// A machine and the way to talk to it.
pub struct Vm {
    /// For the vCPU thread.
    pub runner: Box<dyn Runner>,
    /// For everybody else.
    pub guest: Arc<dyn Guest>,
    /// The line to the service in the guest; deterministic runs and scripted guests have none.
    pub service: Option<Service>,
    /// The machine comes from a snapshot.
    pub restored: bool,
    /// The network card's cable, if that was asked for and the machine has a card.
    #[cfg(target_os = "linux")]
    pub network: Option<Network>,
}

/// A network card's cable that leads nowhere yet.
#[cfg(target_os = "linux")]
pub struct Network {
    /// The end for [`crate::net::UserNet::start`].
    pub end: NetEnd,
    /// The card's address.
    pub mac: [u8; 6],
    /// The card's end, for a machine that takes this one's place ([`VmSpec::cable`]).
    pub card: CardEnd,
}

/// Why no machine was built.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// This engine does not exist for this host.
    #[error("Cannot build the machine: engine {0}: not for this host")]
    Engine(&'static str),
    /// The host gives no executable memory.
    #[error("Cannot build the machine: no memory for translated code")]
    CodeCache(#[source] std::io::Error),
    /// There is no place for the names of translations.
    #[error("Cannot write the names of translations")]
    PerfMap(#[source] std::io::Error),
    /// The host has no random numbers.
    #[error("Cannot build the machine: no random numbers: {0}")]
    Random(getrandom::Error),
    /// The host has no descriptor left for the network card's cable.
    #[error("Cannot build the machine: no network")]
    Cable(#[source] std::io::Error),
    /// The kernel does not boot.
    #[error("Cannot boot the kernel: {origin}")]
    Kernel {
        /// Where it comes from.
        origin: String,
        /// What is wrong with it.
        source: LoadError,
    },
    /// The snapshot cannot be restored.
    #[error(transparent)]
    Snapshot(SnapshotFileError),
    /// Anything else.
    #[error("Cannot build the machine")]
    Build(#[source] BuildError),
}

impl VmError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(_) | Self::CodeCache(_) => Some("--engine interp is there".to_owned()),
            Self::Kernel { source: LoadError::NoRoom { .. }, .. } => {
                Some("give the guest more memory with --memory SIZE".to_owned())
            }
            Self::Build(BuildError::Memory(..)) => {
                Some("give the guest less memory with --memory SIZE".to_owned())
            }
            Self::Snapshot(error) => error.hint(),
            _ => None,
        }
    }
}

/// Calendar time for time stamps of files, since 1970-01-01 UTC. In deterministic runs it stands
/// still: the host's time would make them different.
pub fn wall_clock(clock: ClockMode) -> fn() -> Duration {
    match clock {
        ClockMode::Host => clock::wall,
        ClockMode::Deterministic => || DETERMINISTIC_EPOCH,
    }
}

/// Builds a machine.
///
/// # Errors
/// See [`VmError`].
pub fn build(spec: VmSpec) -> Result<Vm, VmError> {
    match spec.engine {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Engine::Jit => {
            let jit = translator(&spec.translator)?;
            build_with(spec, jit)
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        Engine::Jit => Err(VmError::Engine("jit")),
        // A host may forbid executable memory: then the interpreter has to do.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Engine::Auto => match translator(&spec.translator) {
            Ok(jit) => build_with(spec, jit),
            Err(error @ VmError::PerfMap(_)) => Err(error),
            Err(_) => build_with(spec, Interpreter::new()),
        },
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        Engine::Auto => build_with(spec, Interpreter::new()),
        Engine::Interp => build_with(spec, Interpreter::new()),
    }
}

/// The translating engine.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn translator(settings: &Translator) -> Result<emu_jit::Jit, VmError> {
    let mut jit = emu_jit::Jit::with_options(settings.options).map_err(VmError::CodeCache)?;
    if settings.perf_map {
        crate::perf_map::attach(&mut jit).map_err(VmError::PerfMap)?;
    }
    Ok(jit)
}

fn build_with<E: CpuEngine + Send + 'static>(spec: VmSpec, engine: E) -> Result<Vm, VmError> {
    let parts = assemble(spec, engine)?;
    Ok(Vm {
        runner: Box::new(parts.machine),
        guest: Arc::new(Remote(parts.mailbox)),
        service: parts.service,
        restored: parts.restored,
        #[cfg(target_os = "linux")]
        network: parts.network,
    })
}

/// A machine with the deterministic clock, for whoever drives it step by step.
///
/// # Errors
/// See [`VmError`].
pub fn build_deterministic<E: CpuEngine>(spec: VmSpec, engine: E) -> Result<Machine<E>, VmError> {
    let spec = VmSpec { clock: ClockMode::Deterministic, ..spec };
    Ok(assemble(spec, engine)?.machine)
}

/// The translating engine that a specification asks for.
///
/// # Errors
/// See [`VmError`].
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn build_translator(spec: &VmSpec) -> Result<emu_jit::Jit, VmError> {
    translator(&spec.translator)
}

/// What has been built.
struct Parts<E: CpuEngine> {
    machine: Machine<E>,
    service: Option<Service>,
    restored: bool,
    mailbox: Arc<Mailbox>,
    #[cfg(target_os = "linux")]
    network: Option<Network>,
}

fn assemble<E: CpuEngine>(spec: VmSpec, engine: E) -> Result<Parts<E>, VmError> {
    let (clock, mut random) = match spec.clock {
        ClockMode::Host => {
            (ClockSource::HostPaced(Box::new(SystemClock::new())), Random::system().map_err(VmError::Random)?)
        }
        ClockMode::Deterministic => {
            let clock = ClockSource::Deterministic {
                ps_per_instruction: PS_PER_INSTRUCTION,
                wall_start_ns: DETERMINISTIC_EPOCH.as_nanos() as u64,
            };
            (clock, Random::fixed(DETERMINISTIC_SEED))
        }
    };
    let [com1, com2, com3, com4] = spec.uarts;
    let mailbox = Mailbox::new();
    // A run that is to be the same every time talks to nobody.
    let fresh = spec.clock == ClockMode::Host;
    let (service, com2_sink) = match com2 && fresh {
        true => {
            let (service, sink) = rpc::wire::connect(&mailbox);
            (Some(service), Some(sink))
        }
        false => (None, com2.then(|| Box::new(NullSink) as Box<dyn SerialSink>)),
    };
    let silent = |exists: bool| exists.then(|| Box::new(NullSink) as Box<dyn SerialSink>);
    #[cfg(target_os = "linux")]
    let (connected, cable, ends) = {
        let mailbox = mailbox.clone();
        let wake = Arc::new(move || mailbox.wake_network());
        let plug = |card: CardEnd| Some(Box::new(CardCable(card)) as Box<dyn Cable>);
        match spec.cable {
            Some(card) => {
                card.rewire(wake);
                (true, plug(card), None)
            }
            None if spec.network => {
                let (card, end) = crate::net::cable(wake).map_err(VmError::Cable)?;
                (true, plug(card.clone()), Some((card, end)))
            }
            None => (false, None, None),
        }
    };
    #[cfg(not(target_os = "linux"))]
    let (connected, cable) = (spec.network, None);
    let (boot, restored) = match spec.start {
        Start::Kernel { boot, origin } => (Boot::Linux(boot), Err(origin)),
        Start::Snapshot { opened, reboot } => (Boot::Deferred(reboot), Ok(*opened)),
    };
    let config = MachineConfig {
        memory_size: spec.memory_size,
        vga_memory_size: spec.vga_memory_size,
        acpi: spec.acpi,
        serial: [com1.then_some(spec.console), com2_sink, silent(com3), silent(com4)],
        cpuid_level: spec.cpuid_level,
        boot,
        filesystem: spec.filesystem,
        clock,
        network_card: spec.network_card,
        network: cable,
        mac: mac(&mut random),
        // On a network of its own there is nobody to confuse it with, and the guest's driver goes on.
        preserve_mac: spec.preserve_mac || connected,
        shares: spec.shares,
        virtio_rng: true,
        random: Box::new(move || random.next_u32()),
    };
    let was_restored = restored.is_ok();
    let mut machine = match restored {
        Ok(opened) => {
            let Opened { path, compressed, reader, .. } = opened;
            Machine::restore(config, engine, mailbox.clone(), reader)
                .map_err(|error| restore_failed(error, path, compressed))?
        }
        Err(origin) => Machine::new(config, engine, mailbox.clone()).map_err(|error| match error {
            BuildError::Load(source) => VmError::Kernel { origin, source },
            error => VmError::Build(error),
        })?,
    };
    let card = machine.mac();
    let service =
        service.map(|guest| Service::new(guest, mailbox.clone()).with_network(connected && card.is_some()));
    #[cfg(target_os = "linux")]
    let network = ends.zip(card).map(|((card, end), mac)| Network { end, mac, card });
    Ok(Parts {
        machine,
        service,
        restored: was_restored,
        mailbox,
        #[cfg(target_os = "linux")]
        network,
    })
}

fn restore_failed(error: RestoreFailure, path: PathBuf, compressed: bool) -> VmError {
    match error {
        RestoreFailure::Build(error) => VmError::Build(error),
        RestoreFailure::Snapshot(source) => {
            VmError::Snapshot(SnapshotFileError::Read { path, compressed, source })
        }
    }
}

/// A new address for a network card.
fn mac(random: &mut Random) -> [u8; 6] {
    let [a, b, c] = MAC_PREFIX;
    let [d, e, f, _] = random.next_u32().to_le_bytes();
    [a, b, c, d, e, f]
}

impl<E: CpuEngine + Send> Runner for Machine<E> {
    fn run(&mut self) -> StopReason {
        Machine::run(self)
    }

    fn retired(&self) -> u64 {
        Machine::retired(self)
    }

    fn counters(&self) -> Vec<Counter> {
        Machine::counters(self)
    }

    fn state_hash(&mut self) -> u64 {
        Machine::state_hash(self)
    }

    fn report(&self) -> String {
        Machine::report(self)
    }

    fn reboot_error(&self) -> Option<String> {
        Machine::reboot_error(self).map(|error| one_line(error))
    }

    fn capture(&mut self) -> Box<dyn Capture + '_> {
        Box::new(Machine::snapshot(self))
    }

    fn capture_copy(&mut self) -> Box<dyn Capture + Send> {
        Box::new(Machine::snapshot(self).detach())
    }
}

/// The card's end of the cable.
#[cfg(target_os = "linux")]
struct CardCable(CardEnd);

#[cfg(target_os = "linux")]
impl NetSink for CardCable {
    fn send(&mut self, frame: &[u8]) {
        self.0.send(frame);
    }
}

#[cfg(target_os = "linux")]
impl Cable for CardCable {
    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        self.0.receive(deliver)
    }
}

struct Remote(Arc<Mailbox>);

impl Guest for Remote {
    fn type_bytes(&self, bytes: &[u8]) -> bool {
        self.0.send(HostMessage::Serial { port: 0, bytes: bytes.to_vec() })
    }

    fn wait_space(&self, bytes: usize) {
        self.0.wait_space(bytes);
    }

    fn stop(&self) {
        // Refused only by a machine that has stopped.
        let _ = self.0.send(HostMessage::Stop);
    }

    fn pause(&self) {
        let _ = self.0.send(HostMessage::Pause);
    }

    fn status(&self) -> GuestStatus {
        let status = self.0.status();
        GuestStatus { input_pending: status.serial_backlog, listening: status.listening, halted: status.idle }
    }
}
