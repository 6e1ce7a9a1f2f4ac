//! The PCI transport: four regions of ports, notification, interrupts.

use std::any::Any;

use emu_core::bus::AccessSize;
use emu_core::irq::{IrqLine, IrqLines};
use emu_core::mem::Memory;
use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use crate::bus::PortMap;
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};
use crate::pci::{Bar, PciFunction, config, pirq_line};

use super::Slot;
use super::queue::{Chain, Interrupts, QueueError};
use super::saved::{SavedCore, VERSION, own_fields};
use super::spec::{common, feature, isr, status};
use super::state::{Action, QueueSpec, VirtioState};

/// Ports between the regions of a function.
const REGION: u16 = 0x100;
/// ISR: one byte.
const ISR_WIDTHS: [u8; 1] = [1];
/// Ports of one notification address.
const NOTIFY_UNIT: u16 = 2;

/// A virtio device without its transport.
pub trait VirtioDevice: Send + 'static {
    /// Model name.
    fn name(&self) -> &'static str;

    /// Type, one of [`super::spec::kind`].
    fn device_id(&self) -> u16;

    /// Offered features.
    fn features(&self) -> u64;

    /// Queues in order.
    fn queues(&self) -> &'static [QueueSpec];

    /// Widths in bytes (1, 2 or 4) of the device configuration's fields in order, 256 bytes at
    /// most. Empty: there is none.
    fn config_widths(&self) -> &'static [u8] {
        &[]
    }

    /// Value of the configuration field at `offset`.
    fn config_read(&self, _offset: u16) -> u32 {
        0
    }

    /// Write of the whole configuration field at `offset`. Most are read-only.
    fn config_write(&mut self, _offset: u16, _value: u32) {}

    /// The driver says that it made chains available in queue `q` (which exists).
    fn notify(&mut self, q: u16, queues: &mut Queues<'_>);

    /// The driver reset the device, or the machine was reset.
    fn reset(&mut self) {}

    /// With EVENT_IDX: interrupts come when the driver wants them, not for every chain as on v86.
    fn exact_interrupts(&self) -> bool {
        false
    }

    /// Where registers and queues are in the device's saved state.
    fn core_place(&self) -> CorePlace {
        CorePlace::Own(1)
    }

    /// State for a snapshot, with `core`, the registers and queues, at [`VirtioDevice::core_place`].
    fn save(&mut self, core: Value) -> DeviceState {
        DeviceState { v86: Value::Null, extra: values![VERSION, core] }
    }

    /// Takes over a saved state, but for registers and queues, which are taken over afterwards.
    ///
    /// # Errors
    /// See [`Device::restore`].
    fn restore(&mut self, _state: &mut DeviceState) -> Result<(), FieldError> {
        Ok(())
    }
}

/// Element of a saved state that has registers and queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorePlace {
    /// Of v86's array.
    V86(usize),
    /// Of our own state: v86 has no such device.
    Own(usize),
}

/// The queues as a device sees them while it works.
///
/// Errors of the driver need no attention: the transport sets DEVICE_NEEDS_RESET, and the queues
/// look empty from then on.
pub struct Queues<'a> {
    state: &'a mut VirtioState,
    mem: &'a mut Memory,
    irq: &'a mut IrqLines,
    line: IrqLine,
    /// Chains that may still be taken. Rings that overlap each other could otherwise make
    /// themselves work for ever.
    budget: usize,
    exact_interrupts: bool,
}

impl<'a> Queues<'a> {
    fn new(
        state: &'a mut VirtioState,
        mem: &'a mut Memory,
        irq: &'a mut IrqLines,
        line: IrqLine,
        exact_interrupts: bool,
    ) -> Self {
        let mut this = Self { state, mem, irq, line, budget: 0, exact_interrupts };
        this.renew_budget();
        this
    }

    /// Lets as many chains be taken as the queues have entries, whatever was taken before: for devices whose
    /// work does not come from the guest.
    pub fn renew_budget(&mut self) {
        self.budget = self.state.queues.iter().map(|q| usize::from(q.size)).sum();
    }

    /// The driver uses queue `q`, and nothing is wrong with it.
    pub fn is_live(&self, q: u16) -> bool {
        let wanted = status::DRIVER_OK;
        self.state.status & (wanted | status::NEEDS_RESET) == wanted
            && self.state.queues.get(usize::from(q)).is_some_and(|q| q.in_use())
    }

    /// Entries of queue `q`.
    pub fn size(&self, q: u16) -> u16 {
        self.state.queues.get(usize::from(q)).map_or(0, |q| q.size)
    }

    /// Undoes the last `count` takings from queue `q`; none of those chains was given back.
    pub fn put_back(&mut self, q: u16, count: u16) {
        if let Some(queue) = self.state.queues.get_mut(usize::from(q)) {
            queue.put_back(count);
        }
    }

    /// Guest memory.
    pub fn mem(&self) -> &Memory {
        self.mem
    }

    /// Guest memory, for [`Chain::write`].
    pub fn mem_mut(&mut self) -> &mut Memory {
        self.mem
    }

    /// True if the driver accepted `feature`.
    pub fn negotiated(&self, feature: u64) -> bool {
        self.state.negotiated(feature)
    }

    /// True if queue `q` has a chain to take.
    pub fn has_chain(&mut self, q: u16) -> bool {
        if self.budget == 0 || self.state.status & status::NEEDS_RESET != 0 {
            return false;
        }
        let pending = self.state.queues.get(usize::from(q)).map_or(Ok(0), |q| q.pending(self.mem));
        self.check(pending).is_some_and(|n| n > 0)
    }

    /// Takes the next chain of queue `q`.
    pub fn pop(&mut self, q: u16) -> Option<Chain> {
        if !self.has_chain(q) {
            return None;
        }
        self.budget -= 1;
        let indirect = self.state.negotiated(feature::INDIRECT_DESC);
        let popped = self.state.queues.get_mut(usize::from(q))?.pop(self.mem, indirect);
        self.check(popped)?
    }

    /// Gives a chain back; [`Queues::flush`] shows it to the driver.
    pub fn push(&mut self, q: u16, chain: Chain) {
        let Some(queue) = self.state.queues.get_mut(usize::from(q)) else { return };
        let staged = queue.stage(self.mem, &chain);
        let _ = self.check(staged);
    }

    /// Shows the chains that were given back to the driver, and interrupts it if it wants that.
    pub fn flush(&mut self, q: u16) {
        let events = match (self.state.negotiated(feature::EVENT_IDX), self.exact_interrupts) {
            (false, _) => Interrupts::Flag,
            (true, false) => Interrupts::Always,
            (true, true) => Interrupts::Index,
        };
        let Some(queue) = self.state.queues.get_mut(usize::from(q)) else { return };
        let published = queue.publish(self.mem, events);
        if self.check(published) == Some(true) {
            self.state.isr |= isr::QUEUE;
            self.irq.set(self.line, true);
        }
    }

    /// [`Queues::push`] and [`Queues::flush`].
    pub fn complete(&mut self, q: u16, chain: Chain) {
        self.push(q, chain);
        self.flush(q);
    }

    /// With EVENT_IDX: asks the driver to notify of the next chain in `q`. Without, it does anyway.
    pub fn notify_on_next(&mut self, q: u16) {
        if self.state.negotiated(feature::EVENT_IDX)
            && let Some(queue) = self.state.queues.get(usize::from(q))
        {
            let done = queue.notify_on_next(self.mem);
            let _ = self.check(done);
        }
    }

    /// The device configuration changed.
    pub fn config_changed(&mut self) {
        if self.state.config_change() {
            self.irq.set(self.line, true);
        }
    }

    fn check<T>(&mut self, result: Result<T, QueueError>) -> Option<T> {
        if result.is_err() && self.state.status & status::NEEDS_RESET == 0 {
            self.state.status |= status::NEEDS_RESET;
            self.config_changed();
        }
        result.ok()
    }
}

/// A virtio function: transport and device.
pub struct VirtioPci<D> {
    device: D,
    pub(crate) state: VirtioState,
    slot: Slot,
    line: IrqLine,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Puts `device` into `slot`.
    pub fn new(device: D, slot: Slot) -> Self {
        let state = VirtioState::new(device.features(), device.queues());
        Self { device, state, slot, line: pirq_line(slot.devfn, 1) }
    }

    /// Place on the bus and home ports.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Configuration space for [`crate::pci::PciBus::add`].
    pub fn pci_function(&self) -> PciFunction {
        let config = self.device.config_widths().iter().map(|&w| u16::from(w)).sum();
        config::virtio(self.device.name(), self.device.device_id(), self.slot.ports, config)
    }

    /// Home ports: first, number.
    pub fn port_ranges(&self) -> Vec<(u16, u16)> {
        let function = self.pci_function();
        let range = |bar| match bar {
            Bar::Io { home, size, .. } => Some((home, size)),
            Bar::Memory { .. } => None,
        };
        (0..6).filter_map(|i| function.bar(i)).filter_map(range).collect()
    }

    /// Gives the function its home ports.
    pub fn claim_ports(&self, ports: &mut PortMap, id: DeviceId) {
        for (first, len) in self.port_ranges() {
            ports.claim(first, len, id);
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, for settings that do not concern the driver.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Registers and queues.
    pub fn state(&self) -> &VirtioState {
        &self.state
    }

    /// Lets the host side work with device and queues (input from outside).
    pub fn with<R>(&mut self, ctx: &mut Ctx<'_>, f: impl FnOnce(&mut D, &mut Queues<'_>) -> R) -> R {
        let exact = self.device.exact_interrupts();
        f(&mut self.device, &mut Queues::new(&mut self.state, ctx.mem, ctx.irq, self.line, exact))
    }

    fn reset_all(&mut self, ctx: &mut Ctx<'_>) {
        self.state.reset();
        self.device.reset();
        ctx.irq.set(self.line, false);
    }

    /// Region and offset of a home port.
    fn locate(&self, port: u16) -> Option<(Region, u16)> {
        let offset = port.checked_sub(self.slot.ports)?;
        let region = match offset / REGION {
            0 => Region::Device,
            1 => Region::Isr,
            2 => Region::Common,
            3 => Region::Notify,
            _ => return None,
        };
        Some((region, offset % REGION))
    }

    fn notify_addresses(&self) -> u16 {
        self.device.queues().iter().map(|q| q.notify_off.saturating_add(1)).max().unwrap_or(0)
    }

    /// True if `offset` is the first port of a notification address.
    fn is_notify_address(&self, offset: u16) -> bool {
        offset.is_multiple_of(NOTIFY_UNIT) && offset / NOTIFY_UNIT < self.notify_addresses()
    }

    fn read_isr(&mut self, ctx: &mut Ctx<'_>) -> u32 {
        ctx.irq.set(self.line, false);
        u32::from(std::mem::take(&mut self.state.isr))
    }
}

#[derive(Clone, Copy)]
enum Region {
    Device,
    Isr,
    Common,
    Notify,
}

/// Field that contains `offset`: its start and width.
fn field(widths: &[u8], offset: u16) -> Option<(u16, u8)> {
    let mut start = 0u16;
    for &width in widths {
        let end = start.saturating_add(u16::from(width));
        if offset < end {
            return Some((start, width));
        }
        start = end;
    }
    None
}

/// What an access of `size` at `offset` sees of the field at `start`, given its value. Fields
/// answer in their own width and bytewise; 16-bit ones also to a 32-bit read, alone. Everything
/// else finds an empty port.
fn part(value: u32, (start, width): (u16, u8), offset: u16, size: AccessSize) -> Option<u32> {
    let within = u32::from(offset.wrapping_sub(start));
    match (size, width) {
        (AccessSize::Byte, _) => Some((value >> (8 * (within & 3))) & 0xFF),
        (AccessSize::Word, 2) | (AccessSize::Dword, 2 | 4) if within == 0 => Some(value),
        _ => None,
    }
}

/// True if a write of `size` at `offset` is one of the whole field at `start`.
fn writes_field((start, width): (u16, u8), offset: u16, size: AccessSize) -> bool {
    offset == start && size.bytes() == u32::from(width)
}

impl<D: VirtioDevice> Device for VirtioPci<D> {
    fn name(&self) -> &'static str {
        self.device.name()
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        let (region, offset) = self.locate(port)?;
        match region {
            Region::Common => {
                let f = field(&common::WIDTHS, offset)?;
                part(self.state.read(f.0), f, offset, size)
            }
            Region::Notify => {
                let start = offset - offset % NOTIFY_UNIT;
                if !self.is_notify_address(start) {
                    return None;
                }
                part(0xFFFF, (start, NOTIFY_UNIT as u8), offset, size)
            }
            Region::Isr => {
                // Only an access that is answered may acknowledge the interrupt.
                let f = field(&ISR_WIDTHS, offset)?;
                part(0, f, offset, size)?;
                Some(self.read_isr(ctx))
            }
            Region::Device => {
                let f = field(self.device.config_widths(), offset)?;
                let value = part(self.device.config_read(f.0), f, offset, size)?;
                self.state.config_was_read();
                Some(value)
            }
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let Some((region, offset)) = self.locate(port) else { return };
        match region {
            Region::Common => {
                let Some(f) = field(&common::WIDTHS, offset) else { return };
                if !writes_field(f, offset, size) {
                    return;
                }
                match self.state.write(f.0, value) {
                    Action::None => {}
                    Action::Reset => self.reset_all(ctx),
                    Action::ConfigInterrupt => self.with(ctx, |_, queues| queues.config_changed()),
                }
            }
            Region::Notify => {
                // The value names the queue; the address only has to be one of them.
                let queue = value & 0xFFFF;
                if size == AccessSize::Word
                    && self.is_notify_address(offset)
                    && (queue as usize) < self.state.queues.len()
                {
                    self.with(ctx, |device, queues| device.notify(queue as u16, queues));
                }
            }
            Region::Isr => {}
            Region::Device => {
                if let Some(f) = field(self.device.config_widths(), offset)
                    && writes_field(f, offset, size)
                {
                    self.device.config_write(f.0, value);
                }
            }
        }
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        self.reset_all(ctx);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        // Slot and line are the board's.
        let Self { device, state, slot: _, line: _ } = self;
        device.save(SavedCore::capture(state).to_value())
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, mut saved: DeviceState) -> Result<(), FieldError> {
        let Self { device, state, slot: _, line } = self;
        let core = match device.core_place() {
            CorePlace::V86(at) => match Fields::of(&mut saved.v86)? {
                Some(mut fields) => fields.array(at, |f| SavedCore::read(f, state))?,
                None => None,
            },
            CorePlace::Own(at) => own_fields(&mut saved.extra)
                .and_then(|fields| match fields {
                    Some(mut fields) => fields.array(at, |f| SavedCore::read(f, state)),
                    None => Ok(None),
                })
                .map_err(FieldError::in_extra)?,
        };
        device.restore(&mut saved)?;
        if let Some(core) = core {
            core.apply(state, ctx.mem);
        }
        ctx.irq.set(*line, state.isr != 0);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
