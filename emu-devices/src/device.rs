//! What a device is, and what it may touch while it is accessed.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLines;
use emu_core::mem::Memory;
use emu_core::snapshot::{FieldError, Value};
use emu_core::time::{EventId, EventQueue, VmTime};

use crate::bus::PortMap;

/// Index of a device on the board (assigned by `machine::builder`).
pub type DeviceId = u8;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Power was applied.
    Cold,
    /// The guest rebooted (keyboard controller, port CF9h, triple fault).
    Warm,
}

/// What devices ask of the machine. Looked at after each access; the engine returns at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Reset the machine.
    pub reset: bool,
    /// The guest switched the power off.
    pub power_off: bool,
    /// A test device ends the run with this status (multiboot port F4h).
    pub exit_code: Option<u8>,
}

impl Requests {
    /// True if something is asked for.
    #[inline]
    pub fn any(&self) -> bool {
        self.reset || self.power_off || self.exit_code.is_some()
    }
}

/// ISA DMA as a device sees it (implemented by the 8237 pair).
pub trait IsaDma {
    /// Bytes the controller still wants to move on `channel` (0 if masked).
    fn remaining(&self, channel: u8) -> usize;
    /// Device to memory. Returns the bytes moved.
    fn write_memory(&mut self, mem: &mut Memory, channel: u8, data: &[u8]) -> usize;
    /// Memory to device. Returns the bytes moved.
    fn read_memory(&mut self, mem: &Memory, channel: u8, out: &mut [u8]) -> usize;
}

/// What a device may touch while it is accessed.
pub struct Ctx<'a> {
    /// Guest memory (DMA).
    pub mem: &'a mut Memory,
    /// Interrupt wires.
    pub irq: &'a mut IrqLines,
    /// Guest time of this access, nanoseconds.
    pub now: VmTime,
    /// Calendar time of this access, nanoseconds since 1970-01-01 UTC.
    pub wall_ns: u64,
    /// Deadlines; use [`Ctx::schedule`].
    pub events: &'a mut EventQueue,
    /// Which ports belong to whom (PCI moves I/O ranges).
    pub ports: &'a mut PortMap,
    /// ISA DMA controllers.
    pub dma: &'a mut dyn IsaDma,
    /// Requests to the machine.
    pub requests: &'a mut Requests,
    /// True while the CPU is in virtual-8086 mode.
    pub cpu_vm86: bool,
}

impl Ctx<'_> {
    /// Calls the device's [`Device::on_event`] at guest time `at`. One deadline per device: a
    /// device with several timers schedules the earliest.
    pub fn schedule(&mut self, id: DeviceId, at: VmTime) {
        self.events.schedule(EventId::from(id), at);
    }

    /// [`Ctx::schedule`], but up to `slack` nanoseconds late will do while the machine is at rest.
    pub fn schedule_lazily(&mut self, id: DeviceId, at: VmTime, slack: VmTime) {
        self.events.schedule_lazily(EventId::from(id), at, slack);
    }

    /// [`Ctx::schedule`], or as soon as the CPU waits.
    pub fn schedule_impatiently(&mut self, id: DeviceId, at: VmTime) {
        self.events.schedule_impatiently(EventId::from(id), at);
    }

    /// Forgets the device's deadline.
    pub fn cancel(&mut self, id: DeviceId) {
        self.events.cancel(EventId::from(id));
    }
}

/// State of a device as snapshots hold it.
#[derive(Debug, Default, PartialEq)]
pub struct DeviceState {
    /// The array v86 has for this device, complete and in v86's units: v86 has to load it.
    pub v86: Value,
    /// What v86's array has no place for; `Null` if there is no such thing. Missing when the snapshot
    /// was made by v86, which is why everything in it must have a sensible default.
    pub extra: Value,
}

impl DeviceState {
    /// A device whose state v86's array describes completely.
    pub fn v86(array: Value) -> Self {
        Self { v86: array, extra: Value::Null }
    }
}

/// A device on the board.
///
/// Every port has handlers per width. A width without a handler behaves as an empty port: reads
/// float high, writes vanish (v86's rule, which some guests probe).
pub trait Device: std::any::Any + Send {
    /// Short name, the chip's part number where it has one.
    fn name(&self) -> &'static str;

    /// Told once, before anything else, which id the board gave the device.
    fn attach(&mut self, _id: DeviceId) {}

    /// Whether accesses may be given a time that is some accesses old: for devices that are accessed often and to
    /// which time is no more than a pace.
    fn takes_recent_time(&self) -> bool {
        false
    }

    /// Port read; `port` is the home port (see [`PortMap`]). `None` = nothing answers at this port and width.
    fn port_read(&mut self, _: &mut Ctx<'_>, _port: u16, _: AccessSize) -> Option<u32> {
        None
    }

    /// Port write. Ignored at ports and widths the device does not have.
    fn port_write(&mut self, _: &mut Ctx<'_>, _port: u16, _: AccessSize, _value: u32) {}

    /// Fills `out` from repeated reads of one port (REP INS). Returns the elements read; 0 = the
    /// device has no block transfer there.
    fn port_read_block(&mut self, _: &mut Ctx<'_>, _port: u16, _: AccessSize, _out: &mut [u8]) -> usize {
        0
    }

    /// Repeated writes to one port (REP OUTS). Returns the elements written.
    fn port_write_block(&mut self, _: &mut Ctx<'_>, _port: u16, _: AccessSize, _data: &[u8]) -> usize {
        0
    }

    /// Memory-mapped read at physical address `addr`. `None` floats high.
    fn mmio_read(&mut self, _: &mut Ctx<'_>, _addr: u64, _: AccessSize) -> Option<u32> {
        None
    }

    /// Memory-mapped write.
    fn mmio_write(&mut self, _: &mut Ctx<'_>, _addr: u64, _: AccessSize, _value: u32) {}

    /// The deadline set with [`Ctx::schedule`] has come.
    fn on_event(&mut self, _: &mut Ctx<'_>) {}

    /// Power-up or reboot.
    fn reset(&mut self, _: &mut Ctx<'_>, kind: ResetKind);

    /// What a snapshot holds of the device. Changes nothing: saving twice gives the same. `ctx` is for
    /// the time; guest time goes on where it was when the snapshot is restored.
    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        DeviceState::default()
    }

    /// Takes over a saved state. The device was reset (cold) just before; what the state does not say
    /// stays as it is. Sets deadlines and drives its interrupt wires anew; guest memory is already that
    /// of the snapshot.
    ///
    /// # Errors
    /// Which field is not as it must be. The machine is thrown away then.
    fn restore(&mut self, _: &mut Ctx<'_>, _state: DeviceState) -> Result<(), FieldError> {
        Ok(())
    }

    /// For tests and the host: the concrete device.
    fn as_any(&mut self) -> &mut dyn std::any::Any;
}
