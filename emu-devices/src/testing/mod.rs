//! A bare board for tests of single devices: everything a [`Ctx`] lends, and nothing wired.

pub mod mutation;
pub mod random;
pub mod scripted;
pub mod snapshot;

use emu_core::bus::AccessSize;
use emu_core::irq::{IrqLine, IrqLines};
use emu_core::mem::Memory;
use emu_core::time::{EventQueue, VmTime};

use crate::bus::PortMap;
use crate::device::{Ctx, Device, DeviceId, IsaDma, Requests, ResetKind};

/// RAM of a [`TestBoard`], bytes.
pub const TEST_RAM: usize = 2 << 20;

/// Calendar time at which a [`TestBoard`] starts: 2024-02-28 23:59:50 UTC.
pub const TEST_WALL_NS: u64 = 1_709_164_790 * 1_000_000_000;

/// Deadlines delivered one by one in [`TestBoard::advance`] before the rest comes late.
const PUNCTUAL_EVENTS: u32 = 20_000;

/// Calls of `on_event` at one instant after which a device counts as stuck.
const EVENTS_PER_INSTANT: u32 = 64;

/// A DMA controller without registers: each channel is a window of RAM set by the test.
#[derive(Clone, Debug, Default)]
pub struct LinearDma {
    /// `(address, bytes left)` by channel.
    pub channels: [(u64, usize); 8],
}

impl IsaDma for LinearDma {
    fn remaining(&self, channel: u8) -> usize {
        self.channels[usize::from(channel & 7)].1
    }

    fn write_memory(&mut self, mem: &mut Memory, channel: u8, data: &[u8]) -> usize {
        let (addr, left) = &mut self.channels[usize::from(channel & 7)];
        let n = data.len().min(*left);
        let _ = mem.dma_write(*addr, &data[..n]);
        *addr += n as u64;
        *left -= n;
        n
    }

    fn read_memory(&mut self, mem: &Memory, channel: u8, out: &mut [u8]) -> usize {
        let (addr, left) = &mut self.channels[usize::from(channel & 7)];
        let n = out.len().min(*left);
        let _ = mem.dma_read(*addr, &mut out[..n]);
        *addr += n as u64;
        *left -= n;
        n
    }
}

/// What a device may touch, without a machine around it.
pub struct TestBoard {
    /// RAM.
    pub mem: Memory,
    /// Interrupt wires.
    pub irq: IrqLines,
    /// Deadlines.
    pub events: EventQueue,
    /// Port owners (nothing claimed).
    pub ports: PortMap,
    /// ISA DMA.
    pub dma: LinearDma,
    /// What devices asked for.
    pub requests: Requests,
    /// Guest time, nanoseconds.
    pub now: VmTime,
    /// Calendar time, nanoseconds since 1970.
    pub wall_ns: u64,
}

impl Default for TestBoard {
    fn default() -> Self {
        Self::new()
    }
}

impl TestBoard {
    /// A board with [`TEST_RAM`] bytes of RAM at time 0.
    ///
    /// # Panics
    /// If the host has no memory left.
    pub fn new() -> Self {
        Self {
            mem: Memory::new(TEST_RAM).expect("memory for the test board"),
            irq: IrqLines::new(),
            events: EventQueue::new(),
            ports: PortMap::new(),
            dma: LinearDma::default(),
            requests: Requests::default(),
            now: 0,
            wall_ns: TEST_WALL_NS,
        }
    }

    /// What a device sees during an access now.
    pub fn ctx(&mut self) -> Ctx<'_> {
        Ctx {
            mem: &mut self.mem,
            irq: &mut self.irq,
            now: self.now,
            wall_ns: self.wall_ns,
            events: &mut self.events,
            ports: &mut self.ports,
            dma: &mut self.dma,
            requests: &mut self.requests,
            cpu_vm86: false,
        }
    }

    /// The same with another DMA controller.
    pub fn ctx_with_dma<'a>(&'a mut self, dma: &'a mut dyn IsaDma) -> Ctx<'a> {
        Ctx { dma, ..self.ctx() }
    }

    /// Names the device and powers it up.
    pub fn power_up(&mut self, device: &mut dyn Device, id: DeviceId) {
        device.attach(id);
        device.reset(&mut self.ctx(), ResetKind::Cold);
    }

    /// Port read as the CPU sees it: ports without an answer float high.
    pub fn port_in(&mut self, device: &mut dyn Device, port: u16, size: AccessSize) -> u32 {
        device.port_read(&mut self.ctx(), port, size).map_or(size.ones(), |v| v & size.ones())
    }

    /// 8-bit port read.
    pub fn inb(&mut self, device: &mut dyn Device, port: u16) -> u8 {
        self.port_in(device, port, AccessSize::Byte) as u8
    }

    /// 8-bit port write.
    pub fn outb(&mut self, device: &mut dyn Device, port: u16, value: u8) {
        device.port_write(&mut self.ctx(), port, AccessSize::Byte, u32::from(value));
    }

    /// True once per rising edge of a line since the last look at any line.
    pub fn take_rise(&mut self, line: IrqLine) -> bool {
        self.irq.take_changes().is_some_and(|(_, rose, _)| rose & (1 << line.number()) != 0)
    }

    /// Lets `ns` nanoseconds pass, delivering the device's deadlines when they come. A device with
    /// very many of them gets the rest late, as on a host that was busy.
    ///
    /// # Panics
    /// If the device sets a deadline in the past again and again.
    pub fn advance(&mut self, device: &mut dyn Device, ns: u64) {
        let end = self.now.saturating_add(ns);
        for _ in 0..PUNCTUAL_EVENTS {
            match self.events.next_deadline() {
                Some(at) if at <= end => self.move_to(at),
                _ => break,
            }
            self.deliver_due(device);
        }
        self.move_to(end);
        self.deliver_due(device);
    }

    /// Lets time pass in one step: every deadline in between is late.
    ///
    /// # Panics
    /// If the device sets a deadline in the past again and again.
    pub fn advance_at_once(&mut self, device: &mut dyn Device, ns: u64) {
        self.move_to(self.now.saturating_add(ns));
        self.deliver_due(device);
    }

    fn move_to(&mut self, at: VmTime) {
        let step = at.saturating_sub(self.now);
        self.now = self.now.max(at);
        self.wall_ns = self.wall_ns.saturating_add(step);
    }

    fn deliver_due(&mut self, device: &mut dyn Device) {
        for _ in 0..EVENTS_PER_INSTANT {
            if self.events.pop_due(self.now).is_none() {
                return;
            }
            device.on_event(&mut self.ctx());
        }
        panic!("{} sets deadlines in the past", device.name());
    }
}
