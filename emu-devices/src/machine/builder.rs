//! Which chips the machine has, at which ports, on which interrupt inputs. Only here.

use emu_core::irq::IrqLine;

use super::board::{Board, id};
use super::config::SERIAL_PORTS;
use crate::acpi::AcpiPm;
use crate::audio::sb16::{SB16_IRQS, Sb16};
use crate::block::floppy::Floppy;
use crate::block::ide::IdeController;
use crate::bus::MmioRange;
use crate::coprocessor::CoprocessorError;
use crate::debug_exit::DebugExit;
use crate::device::{Device, DeviceId};
use crate::dma8237::Dma8237;
use crate::fw_cfg::FwCfg;
use crate::input::i8042::I8042;
use crate::irqchip::ioapic::IoApic;
use crate::irqchip::lapic::LocalApic;
use crate::irqchip::pic8259::Pic8259Pair;
use crate::net::NoNetwork;
use crate::net::ne2000::Ne2000Pci;
use crate::parallel::ParallelPort;
use crate::pci::{self, PciBus, devfn, pirq_line};
use crate::serial::uart16550::Uart16550;
use crate::serial::{NullSink, SerialSink};
use crate::system_ports::SystemPorts;
use crate::timer::cmos_rtc::{CmosConfig, CmosRtc};
use crate::timer::pit8254::Pit8254;
use crate::vga::Vga;
use crate::virtio::{P9Handler, Slot, VirtioP9, VirtioPci};
use crate::vmware_port::VmwarePort;

/// Mount tag of the root file system.
const P9_TAG: &str = "host9p";

/// What varies between machines.
pub(super) struct Parts {
    pub(super) vga_memory_size: u32,
    pub(super) serial: [Option<Box<dyn SerialSink>>; SERIAL_PORTS],
    pub(super) filesystem: Option<Box<dyn P9Handler>>,
    pub(super) mac: [u8; 6],
    /// Port F4h exists.
    pub(super) debug_exit: bool,
}

/// Where the machine finds the chips it talks to itself.
pub(super) struct Wiring {
    pub(super) uarts: [Option<DeviceId>; SERIAL_PORTS],
    pub(super) i8042: DeviceId,
    pub(super) vga: DeviceId,
}

/// The sound card shares inputs with LPT1 and others.
const SB16_SOURCE: u8 = 2;

/// First port and IRQ of COM1 to COM4; the ports that share an input are its sources 0 and 1.
const COM: [(u16, u8, u8); SERIAL_PORTS] = [(0x3F8, 4, 0), (0x2F8, 3, 0), (0x3E8, 4, 1), (0x2E8, 3, 1)];

fn claim_all(board: &mut Board, ports: &[(u16, u16)], id: DeviceId) {
    for &(first, len) in ports {
        board.ports.claim(first, len, id);
    }
}

fn add(board: &mut Board, mut device: Box<dyn Device>, ports: &[(u16, u16)]) -> DeviceId {
    let id = board.devices.len() as DeviceId;
    device.attach(id);
    board.devices.push(device);
    claim_all(board, ports, id);
    id
}

fn window(board: &mut Board, start: u64, len: u64, device: DeviceId) {
    let added = board.mmio.claim(MmioRange { start, len, device });
    debug_assert!(added, "device windows must not overlap");
}

/// Puts every chip on the board.
pub(super) fn wire(mut board: Board, ram: u64, parts: Parts) -> (Board, Wiring) {
    let b = &mut board;
    let irq = IrqLine::wired_to;

    // chips the board holds itself
    b.pic.attach(id::PIC);
    claim_all(b, Pic8259Pair::PORTS, id::PIC);
    b.dma.attach(id::DMA);
    claim_all(b, Dma8237::PORTS, id::DMA);
    b.pci.attach(id::PCI);
    PciBus::claim_ports(&mut b.ports, id::PCI);
    b.vmware.attach(id::VMWARE);
    claim_all(b, VmwarePort::PORTS, id::VMWARE);
    claim_all(b, CoprocessorError::PORTS, id::COPROCESSOR);
    for &(start, len) in IoApic::MMIO {
        window(b, start, len, id::IOAPIC);
    }
    for &(start, len) in LocalApic::MMIO {
        window(b, start, len, id::LAPIC);
    }
    b.ioapic.attach(id::IOAPIC);
    b.lapic.attach(id::LAPIC);

    // legacy chips
    add(b, Box::new(Pit8254::new(irq(0))), Pit8254::PORTS);
    let i8042 = add(b, Box::new(I8042::new(irq(1), irq(12))), I8042::PORTS);
    let cmos = CmosConfig { memory_size: ram, ..CmosConfig::default() };
    add(b, Box::new(CmosRtc::new(irq(8), cmos)), CmosRtc::PORTS);
    add(b, Box::new(SystemPorts::new(Box::new(NullSink))), SystemPorts::PORTS);
    if parts.debug_exit {
        add(b, Box::new(DebugExit), DebugExit::PORTS);
    }
    add(b, Box::new(FwCfg::new(ram)), FwCfg::PORTS);
    add(b, Box::new(Floppy::new(irq(6))), Floppy::PORTS);
    add(b, Box::new(ParallelPort::new(ParallelPort::LPT1, irq(7))), ParallelPort::PORTS);
    add(b, Box::new(Sb16::new(SB16_IRQS.map(|n| IrqLine::shared(n, SB16_SOURCE)))), Sb16::PORTS);
    let mut uarts = [None; SERIAL_PORTS];
    for (n, sink) in parts.serial.into_iter().enumerate() {
        let Some((base, input, source)) = COM.get(n).copied() else { continue };
        // COM1 always exists.
        let sink = match sink {
            Some(sink) => sink,
            None if n == 0 => Box::new(NullSink),
            None => continue,
        };
        let uart = Uart16550::new(IrqLine::shared(input, source), sink);
        if let Some(slot) = uarts.get_mut(n) {
            *slot = Some(add(b, Box::new(uart), &[(base, 8)]));
        }
    }

    // PCI functions
    if b.acpi {
        let pm = add(b, Box::new(AcpiPm::new(irq(9))), AcpiPm::PORTS);
        b.pci.add(devfn::PIIX4_PM, pci::config::piix4_pm(), pm);
    }
    let vga = add(b, Box::new(Vga::new(parts.vga_memory_size as usize)), Vga::PORTS);
    window(b, 0xA_0000, 0x2_0000, vga);
    window(b, u64::from(pci::config::VGA_LFB), u64::from(parts.vga_memory_size), vga);
    b.pci.add(devfn::VGA, pci::config::vga(parts.vga_memory_size), vga);

    let nic = Ne2000Pci::new(pirq_line(devfn::NE2000, 1), parts.mac, Box::new(NoNetwork));
    let nic = add(b, Box::new(nic), Ne2000Pci::PORTS);
    b.pci.add(devfn::NE2000, pci::config::ne2000(), nic);

    let ide = IdeController::new([irq(14), irq(15)], [None, None], None);
    let has_primary = ide.has_primary();
    let ide = add(b, Box::new(ide), &IdeController::PORTS[usize::from(!has_primary) * 2..]);
    b.pci.add(devfn::IDE, pci::config::ide(has_primary), ide);

    if let Some(handler) = parts.filesystem {
        let p9 = VirtioPci::new(VirtioP9::new(P9_TAG, handler), Slot::P9);
        let function = p9.pci_function();
        let ports = p9.port_ranges();
        let p9 = add(b, Box::new(p9), &ports);
        b.pci.add(Slot::P9.devfn, function, p9);
    }
    (board, Wiring { uarts, i8042, vga })
}

/// Leaves VGA and keyboard as firmware would: text mode 3 with a font, scanning keys.
pub(super) fn firmware_defaults(board: &mut Board, wiring: &Wiring) {
    if let Some(keyboard) = board.device_mut::<I8042>(wiring.i8042) {
        keyboard.set_firmware_defaults();
    }
    if let Some(vga) = board.device_mut::<Vga>(wiring.vga) {
        vga.set_text_mode_3();
    }
}
