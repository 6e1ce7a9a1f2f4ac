//! Which chips the machine has, at which ports, on which interrupt inputs. Only here.

use emu_core::irq::IrqLine;
use emu_core::snapshot::slots;

use super::board::{Board, SavedDevice, id};
use super::config::{NetworkCard, SERIAL_PORTS, SHARES_TAG};
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
use crate::net::ne2000::Ne2000Pci;
use crate::net::{Cable, NoNetwork};
use crate::parallel::ParallelPort;
use crate::pci::{self, PciBus, devfn, pirq_line};
use crate::serial::uart16550::Uart16550;
use crate::serial::{NullSink, SerialSink};
use crate::system_ports::SystemPorts;
use crate::timer::cmos_rtc::{CmosConfig, CmosRtc};
use crate::timer::pit8254::Pit8254;
use crate::vga::Vga;
use crate::virtio::rng::EntropySource;
use crate::virtio::{
    ConsoleSink, Offload, P9Handler, Slot, VirtioBalloon, VirtioConsole, VirtioDevice, VirtioNet, VirtioP9,
    VirtioPci, VirtioRng,
};
use crate::vmware_port::VmwarePort;

/// Mount tag of the root file system.
const P9_TAG: &str = "host9p";

/// Largest payload of a virtio-net frame, as v86 has it.
const MTU: u16 = 1500;

/// Name of virtio-net in snapshots, where it has something that v86 has not.
pub(super) const VIRTIO_NET: &str = "virtio-net";

/// Name of the entropy device in snapshots.
pub(super) const VIRTIO_RNG: &str = "virtio-rng";

/// Nobody listens to the console.
struct NoConsole;

impl ConsoleSink for NoConsole {
    fn output(&mut self, _: u8, _: &[u8]) {}
}

/// What varies between machines.
pub(super) struct Parts {
    pub(super) vga_memory_size: u32,
    pub(super) serial: [Option<Box<dyn SerialSink>>; SERIAL_PORTS],
    pub(super) filesystem: Option<Box<dyn P9Handler>>,
    /// Directories of the host.
    pub(super) shares: Option<Box<dyn P9Handler>>,
    pub(super) network: Option<Box<dyn Cable>>,
    pub(super) mac: [u8; 6],
    /// A restored network card keeps the snapshot's address.
    pub(super) preserve_mac: bool,
    /// Port F4h exists.
    pub(super) debug_exit: bool,
    /// virtio functions besides the root file system.
    pub(super) virtio: VirtioParts,
}

/// virtio functions that not every machine has.
pub(super) struct VirtioParts {
    /// Entropy, with its source.
    pub(super) rng: Option<EntropySource>,
    /// Found in a snapshot of v86; nothing is connected to them.
    pub(super) console: bool,
    pub(super) balloon: bool,
    /// The network card; an NE2000 is none of them, but is chosen with them.
    pub(super) card: NetworkCard,
}

/// Where the network card is.
#[derive(Clone, Copy)]
pub(super) enum Nic {
    Ne2000(DeviceId),
    Virtio(DeviceId),
}

/// Where the machine finds the chips it talks to itself.
pub(super) struct Wiring {
    pub(super) uarts: [Option<DeviceId>; SERIAL_PORTS],
    pub(super) i8042: DeviceId,
    pub(super) vga: DeviceId,
    pub(super) p9: Option<DeviceId>,
    pub(super) nic: Option<Nic>,
}

/// The sound card shares inputs with LPT1 and others.
const SB16_SOURCE: u8 = 2;

/// First port and IRQ of COM1 to COM4; the ports that share an input are its sources 0 and 1.
const COM: [(u16, u8, u8); SERIAL_PORTS] = [(0x3F8, 4, 0), (0x2F8, 3, 0), (0x3E8, 4, 1), (0x2E8, 3, 1)];

/// The ports' places in snapshots.
const UARTS: [(usize, &str); SERIAL_PORTS] =
    [(slots::UART0, "uart0"), (slots::UART1, "uart1"), (slots::UART2, "uart2"), (slots::UART3, "uart3")];

fn claim_all(board: &mut Board, ports: &[(u16, u16)], id: DeviceId) {
    for &(first, len) in ports {
        board.ports.claim(first, len, id);
    }
}

fn add(board: &mut Board, mut device: Box<dyn Device>, ports: &[(u16, u16)]) -> DeviceId {
    let id = board.devices.len() as DeviceId;
    device.attach(id);
    board.push(device);
    claim_all(board, ports, id);
    id
}

/// Makes a device part of snapshots: `slot` of v86's state, `name` among what v86 has no place for.
fn saved(board: &mut Board, id: DeviceId, slot: impl Into<Option<usize>>, name: &'static str) {
    board.saved.push(SavedDevice { id, slot: slot.into(), name });
}

/// Puts a virtio device on the board.
fn add_virtio<D: VirtioDevice>(
    b: &mut Board,
    device: D,
    place: Slot,
    slot: impl Into<Option<usize>>,
    name: &'static str,
) -> DeviceId {
    let pci = VirtioPci::new(device, place);
    let (function, ports) = (pci.pci_function(), pci.port_ranges());
    let id = add(b, Box::new(pci), &ports);
    b.pci.add(place.devfn, function, id);
    saved(b, id, slot, name);
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
    // Ports follow PCI configuration, so that comes before what is behind it.
    saved(b, id::PCI, slots::PCI, "pci");
    saved(b, id::DMA, slots::DMA, "dma8237");
    saved(b, id::VMWARE, slots::VMWARE, "vmware_port");
    saved(b, id::COPROCESSOR, None, "coprocessor");
    saved(b, id::PIC, slots::PIC, "pic8259");
    saved(b, id::IOAPIC, slots::IOAPIC, "ioapic");
    saved(b, id::LAPIC, slots::LAPIC, "lapic");

    // legacy chips
    let pit = add(b, Box::new(Pit8254::new(irq(0))), Pit8254::PORTS);
    saved(b, pit, slots::PIT, "pit8254");
    let i8042 = add(b, Box::new(I8042::new(irq(1), irq(12))), I8042::PORTS);
    saved(b, i8042, slots::PS2, "i8042");
    let cmos = CmosConfig { memory_size: ram, ..CmosConfig::default() };
    let id = add(b, Box::new(CmosRtc::new(irq(8), cmos)), CmosRtc::PORTS);
    saved(b, id, slots::RTC, "cmos_rtc");
    let id = add(b, Box::new(SystemPorts::new(Box::new(NullSink))), SystemPorts::PORTS);
    saved(b, id, None, "system_ports");
    if parts.debug_exit {
        add(b, Box::new(DebugExit), DebugExit::PORTS);
    }
    let id = add(b, Box::new(FwCfg::new(ram)), FwCfg::PORTS);
    saved(b, id, slots::FW_CFG, "fw_cfg");
    let id = add(b, Box::new(Floppy::new(irq(6))), Floppy::PORTS);
    saved(b, id, slots::FLOPPY, "floppy");
    let id = add(b, Box::new(ParallelPort::new(ParallelPort::LPT1, irq(7))), ParallelPort::PORTS);
    saved(b, id, slots::LPT1, "lpt1");
    let id = add(b, Box::new(Sb16::new(SB16_IRQS.map(|n| IrqLine::shared(n, SB16_SOURCE)))), Sb16::PORTS);
    saved(b, id, slots::SB16, "sb16");
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
        let id = add(b, Box::new(uart), &[(base, 8)]);
        if let (Some(uart), Some((slot, name))) = (uarts.get_mut(n), UARTS.get(n)) {
            *uart = Some(id);
            saved(b, id, *slot, name);
        }
    }

    // PCI functions
    if b.acpi {
        let pm = add(b, Box::new(AcpiPm::new(irq(9))), AcpiPm::PORTS);
        b.pci.add(devfn::PIIX4_PM, pci::config::piix4_pm(), pm);
        saved(b, pm, slots::ACPI, "acpi");
    }
    let vga = add(b, Box::new(Vga::new(parts.vga_memory_size as usize)), Vga::PORTS);
    window(b, 0xA_0000, 0x2_0000, vga);
    window(b, u64::from(pci::config::VGA_LFB), u64::from(parts.vga_memory_size), vga);
    b.pci.add(devfn::VGA, pci::config::vga(parts.vga_memory_size), vga);
    saved(b, vga, slots::VGA, "vga");

    let card = parts.virtio.card;
    let cable = parts.network.unwrap_or_else(|| Box::new(NoNetwork));
    let nic = match card {
        NetworkCard::Ne2000 => {
            let mut nic = Ne2000Pci::new(pirq_line(devfn::NE2000, 1), parts.mac, cable);
            nic.set_preserve_mac(parts.preserve_mac);
            let nic = add(b, Box::new(nic), Ne2000Pci::PORTS);
            b.pci.add(devfn::NE2000, pci::config::ne2000(), nic);
            saved(b, nic, slots::NE2000, "ne2000");
            Some(Nic::Ne2000(nic))
        }
        NetworkCard::Virtio | NetworkCard::VirtioOffload => {
            let offload = if card == NetworkCard::Virtio { Offload::None } else { Offload::Tcp };
            let net = VirtioNet::new(parts.mac, MTU, offload, cable);
            Some(Nic::Virtio(add_virtio(b, net, Slot::NET, slots::VIRTIO_NET, VIRTIO_NET)))
        }
        NetworkCard::None => None,
    };

    let ide = IdeController::new([irq(14), irq(15)], [None, None], None);
    let has_primary = ide.has_primary();
    let ide = add(b, Box::new(ide), &IdeController::PORTS[usize::from(!has_primary) * 2..]);
    b.pci.add(devfn::IDE, pci::config::ide(has_primary), ide);
    saved(b, ide, slots::IDE, "ide");

    let p9 = parts.filesystem.map(|handler| {
        add_virtio(b, VirtioP9::new(P9_TAG, handler), Slot::P9, slots::VIRTIO_9P, "virtio-9p")
    });
    let virtio = parts.virtio;
    if virtio.console {
        let console = VirtioConsole::new(Box::new(NoConsole));
        add_virtio(b, console, Slot::CONSOLE, slots::VIRTIO_CONSOLE, "virtio-console");
    }
    if virtio.balloon {
        add_virtio(b, VirtioBalloon::new(), Slot::BALLOON, slots::VIRTIO_BALLOON, "virtio-balloon");
    }
    if let Some(source) = virtio.rng {
        add_virtio(b, VirtioRng::new(source), Slot::RNG, None, VIRTIO_RNG);
    }
    // Not saved: its files are the host's, and v86 has no such device.
    if let Some(handler) = parts.shares {
        let pci = VirtioPci::new(VirtioP9::new(SHARES_TAG, handler), Slot::SHARES);
        let (function, ports) = (pci.pci_function(), pci.port_ranges());
        let id = add(b, Box::new(pci), &ports);
        b.pci.add(Slot::SHARES.devfn, function, id);
    }
    (board, Wiring { uarts, i8042, vga, p9, nic })
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
