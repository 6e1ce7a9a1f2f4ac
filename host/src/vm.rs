//! The machine as the rest of this crate sees it.
//!
//! Everything that depends on how a machine is configured, built and driven stands here: the
//! command line fills a [`VmSpec`], gets a [`Vm`] from [`build`], runs its [`Runner`] on the vCPU
//! thread and talks to the guest from other threads through its [`Guest`]. Tests of the console
//! put a scripted guest in its place.

use std::sync::Arc;

use crate::config::{ClockMode, Engine};

/// What [`build`] makes a machine of.
pub struct VmSpec {
    /// Guest RAM in bytes.
    pub memory_size: u64,
    /// Video memory in bytes.
    pub vga_memory_size: u64,
    /// ACPI tables and power management.
    pub acpi: bool,
    /// COM1 to COM4 exist.
    pub uarts: [bool; 4],
    /// Highest standard CPUID leaf.
    pub cpuid_level: u32,
    /// bzImage, ELF or multiboot file.
    pub kernel: Vec<u8>,
    /// Initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Kernel command line.
    pub cmdline: String,
    /// Where guest time comes from.
    pub clock: ClockMode,
    /// What executes instructions.
    pub engine: Engine,
    /// Gets what the guest sends on COM1.
    pub console: Box<dyn SerialSink>,
}

/// Receiver of the bytes that a guest sends on a serial port. Called on the vCPU thread.
pub trait SerialSink: Send {
    /// One byte.
    fn write(&mut self, byte: u8);
    /// The guest has come to rest: what was written should be seen now.
    fn flush(&mut self);
}

/// Why a machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest switched the power off.
    PowerOff,
    /// The CPU halted with interrupts disabled; nothing can wake it. Linux ends so without ACPI.
    Halted,
    /// The CPU shut down after a triple fault.
    TripleFault,
    /// [`Guest::stop`] was called.
    Stopped,
    /// A test device ended the run with this status.
    GuestExit(u8),
}

/// What a guest is doing, as seen from another thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStatus {
    /// Bytes sent to COM1 that the guest has not read.
    pub input_pending: usize,
    /// The guest has told COM1 that it wants input (receive interrupt enabled, or it has read a
    /// byte). Before that, a UART's owner throws away what comes in.
    pub listening: bool,
    /// The CPU is halted and waits for an interrupt.
    pub halted: bool,
}

/// A running guest, for other threads than the vCPU's.
pub trait Guest: Send + Sync {
    /// Sends bytes to COM1. False if they do not fit now; wait and send them again.
    fn type_bytes(&self, bytes: &[u8]) -> bool;
    /// Waits until there may be space for [`Guest::type_bytes`].
    fn wait_space(&self);
    /// Asks the machine to stop. May be called again.
    fn stop(&self);
    /// What the guest is doing.
    fn status(&self) -> GuestStatus;
}

/// A machine, owned by the vCPU thread.
pub trait Runner: Send {
    /// Runs until the machine stops.
    fn run(&mut self) -> StopReason;
    /// Instructions retired so far.
    fn retired(&self) -> u64;
    /// Hash of everything the guest could observe.
    fn state_hash(&mut self) -> u64;
    /// Registers and whatever else explains a crash.
    fn report(&self) -> String;
}

/// A machine and the way to talk to it.
pub struct Vm {
    /// For the vCPU thread.
    pub runner: Box<dyn Runner>,
    /// For everybody else.
    pub guest: Arc<dyn Guest>,
}

/// Why no machine was built.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// This engine is not part of this version.
    #[error("Cannot build the machine: engine {0}: not built yet")]
    Engine(&'static str),
    /// The machine is not part of this version.
    #[error("Cannot build the machine: it is not part of this build")]
    NoMachine,
}

/// Builds a machine.
///
/// # Errors
/// See [`VmError`].
pub fn build(spec: VmSpec) -> Result<Vm, VmError> {
    match spec.engine {
        Engine::Jit => Err(VmError::Engine("jit")),
        Engine::Interp => Err(VmError::NoMachine),
    }
}
