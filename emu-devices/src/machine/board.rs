//! The motherboard: chips, their wires, and the bus the CPU sees.

use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::irq::{IrqLine, IrqLines, PIRQ_A};
use emu_core::mem::Memory;
use emu_core::time::{EventQueue, VmClock, VmTime};

use crate::bus::{MmioMap, MmioRange, PortMap};
use crate::coprocessor::CoprocessorError;
use crate::device::{Ctx, Device, DeviceId, IsaDma, Requests, ResetKind};
use crate::dma8237::Dma8237;
use crate::irqchip::ioapic::IoApic;
use crate::irqchip::lapic::LocalApic;
use crate::irqchip::pic8259::Pic8259Pair;
use crate::pci::PciBus;
use crate::vmware_port::VmwarePort;

/// Ids of the chips the board itself needs to reach; the others are numbered from 0.
pub(super) mod id {
    use crate::device::DeviceId;
    pub(in super::super) const PIC: DeviceId = 0xE0;
    pub(in super::super) const DMA: DeviceId = 0xE1;
    pub(in super::super) const PCI: DeviceId = 0xE2;
    pub(in super::super) const IOAPIC: DeviceId = 0xE3;
    pub(in super::super) const LAPIC: DeviceId = 0xE4;
    pub(in super::super) const VMWARE: DeviceId = 0xE5;
    pub(in super::super) const COPROCESSOR: DeviceId = 0xE6;
}

/// A device that is part of snapshots.
#[derive(Clone, Copy, Debug)]
pub(super) struct SavedDevice {
    pub(super) id: DeviceId,
    /// Element of v86's state array, for devices v86 has.
    pub(super) slot: Option<usize>,
    /// Name of what only we keep.
    pub(super) name: &'static str,
}

/// Input of the coprocessor's errors.
const COPROCESSOR_IRQ: IrqLine = IrqLine::wired_to(13);

/// The board.
pub struct Board {
    pub(super) devices: Vec<Box<dyn Device>>,
    /// What of the board is part of snapshots, in the order in which it is restored.
    pub(super) saved: Vec<SavedDevice>,
    pub(super) pic: Pic8259Pair,
    pub(super) dma: Dma8237,
    pub(super) pci: PciBus,
    pub(super) ioapic: IoApic,
    pub(super) lapic: LocalApic,
    pub(super) vmware: VmwarePort,
    pub(super) coprocessor: CoprocessorError,
    /// The APICs are wired to the CPU.
    pub(super) acpi: bool,
    /// IA32_APIC_BASE as last written (bit 11).
    pub(super) apic_enable: u64,
    pub(super) ports: PortMap,
    pub(super) mmio: MmioMap,
    pub(super) irq: IrqLines,
    /// Levels of all wires when the board looked last.
    wires: u32,
    /// Levels of the 16 ISA inputs after PCI routing.
    isa_level: u32,
    /// PCI interrupt routing may have changed.
    rerouted: bool,
    pub(super) events: EventQueue,
    pub(super) clock: VmClock,
    /// Devices by number: whether [`Device::takes_recent_time`].
    recent: Vec<bool>,
    /// Accesses of such devices.
    recent_accesses: u32,
    /// Deadline the engine's present budget was made for.
    pub(super) slice_deadline: VmTime,
    /// A device asked for an earlier one: the budget is too long.
    pub(super) sooner: bool,
    /// Calendar time minus guest time, refreshed once per slice.
    wall_offset: u64,
    pub(super) requests: Requests,
    pub(super) random: Box<dyn FnMut() -> u32 + Send>,
}

/// After so many accesses of devices that take a recent time, the clock is asked.
const RECENT_ACCESSES: u32 = 16;

/// Stands in for the DMA controller while the controller itself is accessed.
struct NoDma;

impl IsaDma for NoDma {
    fn remaining(&self, _: u8) -> usize {
        0
    }
    fn write_memory(&mut self, _: &mut Memory, _: u8, _: &[u8]) -> usize {
        0
    }
    fn read_memory(&mut self, _: &Memory, _: u8, _: &mut [u8]) -> usize {
        0
    }
}

impl Board {
    pub(super) fn new(clock: VmClock, acpi: bool, random: Box<dyn FnMut() -> u32 + Send>) -> Self {
        let mut board = Self {
            devices: Vec::new(),
            saved: Vec::new(),
            pic: Pic8259Pair::new(),
            dma: Dma8237::new(),
            pci: PciBus::new(),
            ioapic: IoApic::new(),
            lapic: LocalApic::new(),
            vmware: VmwarePort::new(),
            coprocessor: CoprocessorError::new(COPROCESSOR_IRQ),
            acpi,
            apic_enable: 0,
            ports: PortMap::new(),
            mmio: MmioMap::new(),
            irq: IrqLines::new(),
            wires: 0,
            isa_level: 0,
            rerouted: true,
            events: EventQueue::new(),
            clock,
            recent: Vec::new(),
            recent_accesses: 0,
            slice_deadline: VmTime::MAX,
            sooner: false,
            wall_offset: 0,
            requests: Requests::default(),
            random,
        };
        board.refresh_wall(0);
        board
    }

    /// See [`super::Machine::attach`].
    pub(super) fn attach(
        &mut self,
        mut device: Box<dyn Device>,
        ports: &[(u16, u16)],
        windows: &[(u64, u64)],
    ) -> bool {
        let id = match DeviceId::try_from(self.devices.len()) {
            Ok(id) if id < id::PIC => id,
            _ => return false,
        };
        let ranges: Vec<_> =
            windows.iter().map(|&(start, len)| MmioRange { start, len, device: id }).collect();
        if !self.mmio.claim_all(&ranges) {
            return false;
        }
        device.attach(id);
        self.push(device);
        for &(first, len) in ports {
            self.ports.claim(first, len, id);
        }
        true
    }

    /// Adds a device under the next number.
    pub(super) fn push(&mut self, device: Box<dyn Device>) {
        self.recent.push(device.takes_recent_time());
        self.devices.push(device);
    }

    /// Guest time after `retired` instructions.
    pub(super) fn now(&mut self, retired: u64) -> VmTime {
        self.clock.now(retired)
    }

    /// Guest time for an access of a device. Asking the host's clock costs as much as a whole access of a simple
    /// device, which a serial port has two or three of for every byte.
    fn time_for(&mut self, id: DeviceId, retired: u64) -> VmTime {
        if self.recent.get(usize::from(id)) != Some(&true) {
            return self.clock.now(retired);
        }
        self.recent_accesses = self.recent_accesses.wrapping_add(1);
        if self.recent_accesses.is_multiple_of(RECENT_ACCESSES) {
            self.clock.now(retired)
        } else {
            self.clock.recent(retired)
        }
    }

    /// Takes the host's calendar; once per slice is exact enough and saves a system call per access.
    pub(super) fn refresh_wall(&mut self, now: VmTime) {
        self.wall_offset = self.clock.wall_ns(now).wrapping_sub(now);
    }

    /// Calls `f` with a device and its context, then derives the interrupt levels.
    pub(super) fn access<R>(
        &mut self,
        mem: &mut Memory,
        cx: CpuContext,
        id: DeviceId,
        f: impl FnOnce(&mut dyn Device, &mut Ctx<'_>) -> R,
    ) -> Option<R> {
        let r = self.visit(mem, cx, id, f)?;
        self.rerouted |= id == id::PCI;
        self.sooner |= self.events.next_deadline().is_some_and(|at| at < self.slice_deadline);
        self.sync_irq();
        Some(r)
    }

    /// Calls `f` with a device and its context; the interrupt controllers see nothing of it.
    pub(super) fn visit<R>(
        &mut self,
        mem: &mut Memory,
        cx: CpuContext,
        id: DeviceId,
        f: impl FnOnce(&mut dyn Device, &mut Ctx<'_>) -> R,
    ) -> Option<R> {
        let now = self.time_for(id, cx.retired);
        let mut no_dma = NoDma;
        let (device, dma): (&mut dyn Device, &mut dyn IsaDma) = match id {
            id::PIC => (&mut self.pic, &mut self.dma),
            id::DMA => (&mut self.dma, &mut no_dma),
            id::PCI => (&mut self.pci, &mut self.dma),
            id::IOAPIC => (&mut self.ioapic, &mut self.dma),
            id::LAPIC => (&mut self.lapic, &mut self.dma),
            id::VMWARE => (&mut self.vmware, &mut self.dma),
            id::COPROCESSOR => (&mut self.coprocessor, &mut self.dma),
            n => (self.devices.get_mut(usize::from(n))?.as_mut(), &mut self.dma),
        };
        let mut ctx = Ctx {
            mem,
            irq: &mut self.irq,
            now,
            wall_ns: now.wrapping_add(self.wall_offset),
            events: &mut self.events,
            ports: &mut self.ports,
            dma,
            requests: &mut self.requests,
            cpu_vm86: cx.vm86,
        };
        Some(f(device, &mut ctx))
    }

    /// Copies changed interrupt wires to the controllers. The one place where levels are derived.
    pub(super) fn sync_irq(&mut self) {
        let rerouted = std::mem::take(&mut self.rerouted);
        let (rose, level) = match self.irq.take_changes() {
            Some((_, rose, level)) => (rose, level),
            // A wire that is high reaches another input when it is routed there.
            None if rerouted => (0, self.wires),
            None => {
                if self.acpi {
                    self.sync_apic();
                }
                return;
            }
        };
        self.wires = level;
        let mut isa = level & 0xFFFF;
        let mut edges = rose & 0xFFFF;
        for pirq in 0..4u8 {
            let bit = 1u32 << (PIRQ_A + pirq);
            // Bit 7 of a route disconnects the wire.
            let input = 1u32.checked_shl(u32::from(self.pci.pirq_route(pirq))).unwrap_or(0) & 0xFFFF;
            if level & bit != 0 {
                isa |= input;
            }
            if rose & bit != 0 {
                edges |= input;
            }
        }
        edges |= isa & !self.isa_level;
        let mut touched = (isa ^ self.isa_level) | edges;
        self.isa_level = isa;
        while touched != 0 {
            let n = touched.trailing_zeros() as u8;
            touched &= touched - 1;
            let (high, rise) = (isa >> n & 1 != 0, edges >> n & 1 != 0);
            self.pic.set_line(n, high, rise);
            if self.acpi {
                self.ioapic.set_line(n, high, rise);
            }
        }
        if self.acpi {
            self.sync_apic();
        }
    }

    /// Takes the wires as they are after devices were restored. The controllers know the levels they
    /// had; only what differs from those is news to them.
    pub(super) fn resync_irq(&mut self) {
        let _ = self.irq.take_changes();
        let level = self.irq.level();
        self.wires = level;
        self.rerouted = false;
        let mut isa = level & 0xFFFF;
        for pirq in 0..4u8 {
            if level & (1 << (PIRQ_A + pirq)) != 0 {
                isa |= 1u32.checked_shl(u32::from(self.pci.pirq_route(pirq))).unwrap_or(0) & 0xFFFF;
            }
        }
        self.isa_level = isa;
        for n in 0..16u8 {
            let high = isa >> n & 1 != 0;
            self.pic.set_line(n, high, high && !self.pic.line_level(n));
            if self.acpi {
                self.ioapic.set_line(n, high, high && !self.ioapic.line_level(n));
            }
        }
        if self.acpi {
            self.sync_apic();
        }
    }

    /// The 8259's INTR reaches the processor: directly, or through the local APIC's LINT0.
    #[inline]
    fn pic_interrupts(&self) -> bool {
        self.pic.output() && (!self.acpi || self.lapic.passes_ext_int())
    }

    fn sync_apic(&mut self) {
        while let Some(vector) = self.lapic.take_eoi() {
            self.ioapic.end_of_interrupt(vector);
        }
        while let Some(message) = self.ioapic.next_message() {
            self.lapic.deliver(message);
        }
    }

    /// Resets every chip and runs what firmware would have set up.
    pub(super) fn reset(&mut self, mem: &mut Memory, cx: CpuContext, kind: ResetKind) {
        let fixed = [id::PIC, id::DMA, id::PCI, id::IOAPIC, id::LAPIC, id::VMWARE, id::COPROCESSOR];
        for id in (0..self.devices.len() as DeviceId).chain(fixed) {
            let _ = self.access(mem, cx, id, |d, ctx| d.reset(ctx, kind));
        }
        self.apic_enable = 0;
        self.requests = Requests::default();
    }

    /// What SeaBIOS leaves behind that a kernel without firmware relies on: PCI interrupt routing,
    /// I/O ranges, level-triggered PCI interrupts.
    pub(super) fn firmware_setup(&mut self, mem: &mut Memory, cx: CpuContext) {
        let now = self.clock.now(cx.retired);
        let mut no_dma = NoDma;
        let mut ctx = Ctx {
            mem: &mut *mem,
            irq: &mut self.irq,
            now,
            wall_ns: now.wrapping_add(self.wall_offset),
            events: &mut self.events,
            ports: &mut self.ports,
            dma: &mut no_dma,
            requests: &mut self.requests,
            cpu_vm86: false,
        };
        self.pci.post_firmware_setup(&mut ctx);
        self.rerouted = true;
        const ELCR_SLAVE: u16 = 0x4D1;
        const IRQ_10_AND_11: u32 = 0x0C;
        self.port_out(mem, cx, ELCR_SLAVE, AccessSize::Byte, IRQ_10_AND_11);
    }

    /// Runs the devices whose deadline has come.
    pub(super) fn run_events(&mut self, mem: &mut Memory, cx: CpuContext) {
        let now = self.clock.now(cx.retired);
        // A device may ask for an immediate deadline again and again; the guest must still run.
        for _ in 0..64 {
            let Some(id) = self.events.pop_due(now) else { return };
            let _ = self.access(mem, cx, id, |d, ctx| d.on_event(ctx));
        }
    }

    /// The device with `id`, if it is of type `T`.
    pub(super) fn device_mut<T: Device>(&mut self, id: DeviceId) -> Option<&mut T> {
        self.devices.get_mut(usize::from(id))?.as_any().downcast_mut()
    }
}

impl SystemBus for Board {
    fn port_in(&mut self, mem: &mut Memory, cx: CpuContext, port: u16, size: AccessSize) -> u32 {
        let Some((id, home)) = self.ports.lookup(port) else { return size.ones() };
        let value = self.access(mem, cx, id, |d, ctx| d.port_read(ctx, home, size)).flatten();
        value.unwrap_or(size.ones()) & size.ones()
    }

    fn port_out(&mut self, mem: &mut Memory, cx: CpuContext, port: u16, size: AccessSize, value: u32) {
        if let Some((id, home)) = self.ports.lookup(port) {
            let value = value & size.ones();
            let _ = self.access(mem, cx, id, |d, ctx| d.port_write(ctx, home, size, value));
        }
    }

    fn port_in_block(
        &mut self,
        mem: &mut Memory,
        cx: CpuContext,
        port: u16,
        size: AccessSize,
        out: &mut [u8],
    ) -> usize {
        let Some((id, home)) = self.ports.lookup(port) else { return 0 };
        self.access(mem, cx, id, |d, ctx| d.port_read_block(ctx, home, size, out)).unwrap_or(0)
    }

    fn port_out_block(
        &mut self,
        mem: &mut Memory,
        cx: CpuContext,
        port: u16,
        size: AccessSize,
        data: &[u8],
    ) -> usize {
        let Some((id, home)) = self.ports.lookup(port) else { return 0 };
        self.access(mem, cx, id, |d, ctx| d.port_write_block(ctx, home, size, data)).unwrap_or(0)
    }

    fn mmio_read(&mut self, mem: &mut Memory, cx: CpuContext, phys: u64, size: AccessSize) -> u32 {
        let Some(id) = self.mmio.owner(phys) else { return size.ones() };
        let value = self.access(mem, cx, id, |d, ctx| d.mmio_read(ctx, phys, size)).flatten();
        value.unwrap_or(size.ones()) & size.ones()
    }

    fn mmio_write(&mut self, mem: &mut Memory, cx: CpuContext, phys: u64, size: AccessSize, value: u32) {
        if let Some(id) = self.mmio.owner(phys) {
            let value = value & size.ones();
            let _ = self.access(mem, cx, id, |d, ctx| d.mmio_write(ctx, phys, size, value));
        }
    }

    #[inline]
    fn interrupt_pending(&self) -> bool {
        self.pic_interrupts() || (self.acpi && self.lapic.output())
    }

    fn ack_interrupt(&mut self, _: &mut Memory, _: CpuContext) -> Option<u8> {
        // The PIC is asked first, as on v86.
        if self.pic_interrupts() {
            return self.pic.acknowledge();
        }
        if self.acpi && self.lapic.output() { self.lapic.acknowledge() } else { None }
    }

    #[inline]
    fn nmi_pending(&self) -> bool {
        self.acpi && self.lapic.nmi_pending()
    }

    fn take_nmi(&mut self) -> bool {
        self.acpi && self.lapic.take_nmi()
    }

    #[inline]
    fn must_exit(&self) -> bool {
        self.requests.any() || self.sooner
    }

    fn tsc(&mut self, cx: CpuContext) -> u64 {
        // 1 GHz: a tick per nanosecond of guest time, whatever the speed of emulation.
        self.clock.now(cx.retired)
    }

    fn apic_base(&self) -> Option<u64> {
        self.acpi.then_some(0xFEE0_0000 | self.apic_enable)
    }

    fn set_apic_base(&mut self, value: u64) {
        self.apic_enable = value & 0x800;
    }

    fn random(&mut self) -> u32 {
        (self.random)()
    }

    fn ferr(&mut self, asserted: bool) -> bool {
        let ignne = self.coprocessor.set_ferr(&mut self.irq, asserted);
        self.sync_irq();
        ignne
    }

    fn backdoor(&mut self, regs: [u32; 6]) -> Option<[u32; 6]> {
        let now = self.clock.now(0);
        self.vmware.backdoor(regs, now.wrapping_add(self.wall_offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_core::time::ClockSource;

    fn board(acpi: bool) -> (Board, Memory) {
        let clock = VmClock::new(ClockSource::Deterministic { ps_per_instruction: 1000, wall_start_ns: 0 });
        let mut board = Board::new(clock, acpi, Box::new(|| 4));
        PciBus::claim_ports(&mut board.ports, id::PCI);
        for &(first, len) in Pic8259Pair::PORTS {
            board.ports.claim(first, len, id::PIC);
        }
        (board, Memory::new(1 << 20).unwrap())
    }

    fn route_pirq_a(board: &mut Board, mem: &mut Memory, value: u32) {
        let cx = CpuContext::default();
        board.port_out(mem, cx, 0xCF8, AccessSize::Dword, 0x8000_0860);
        board.port_out(mem, cx, 0xCFC, AccessSize::Byte, value);
    }

    #[test]
    fn board_pirq_routed_elsewhere_while_high_moves_at_once() {
        let (mut board, mut mem) = board(false);
        route_pirq_a(&mut board, &mut mem, 0x0A);
        board.irq.set(IrqLine::wired_to(PIRQ_A), true);
        board.sync_irq();
        assert_eq!(board.isa_level, 1 << 10);
        route_pirq_a(&mut board, &mut mem, 0x0B);
        assert_eq!(board.isa_level, 1 << 11);
        route_pirq_a(&mut board, &mut mem, 0x80);
        assert_eq!(board.isa_level, 0, "disconnected");
    }

    #[test]
    fn board_8259_interrupts_only_where_the_local_apic_lets_it() {
        let (mut board, mut mem) = board(true);
        let cx = CpuContext::default();
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE)] {
            board.port_out(&mut mem, cx, port, AccessSize::Byte, value);
        }
        board.irq.set(IrqLine::wired_to(0), true);
        board.sync_irq();
        assert!(board.interrupt_pending(), "APIC disabled: virtual wire");
        let mut apic = |board: &mut Board, register: u64, value| {
            let _ = board.access(&mut mem, cx, id::LAPIC, |d, ctx| {
                d.mmio_write(ctx, 0xFEE0_0000 + register, AccessSize::Dword, value);
            });
        };
        apic(&mut board, 0xF0, 0x1FF);
        assert!(!board.interrupt_pending(), "LINT0 is masked");
        apic(&mut board, 0x350, 0x700);
        assert!(board.interrupt_pending(), "ExtINT");
        assert_eq!(board.ack_interrupt(&mut Memory::new(1 << 20).unwrap(), cx), Some(0x20));
    }
}
