//! No sequence of accesses, deadlines and resets makes a device panic (overflow checks are on in
//! test builds), hang on a deadline in the past, or answer more than it was asked for.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_devices as dev;
use emu_devices::device::{Device, ResetKind};
use emu_devices::testing::TestBoard;
use proptest::prelude::*;

/// A device under test: how to build it and where it answers.
struct Subject {
    ports: &'static [(u16, u16)],
    mmio: &'static [(u64, u64)],
    make: fn() -> Box<dyn Device>,
}

/// `test_name => port ranges, memory windows, constructor;` one device per line, in alphabetical
/// order.
macro_rules! subjects {
    ($($name:ident => $ports:expr, $mmio:expr, $make:expr;)*) => {
        $(
            #[test]
            fn $name() {
                run(&Subject { ports: $ports, mmio: $mmio, make: || Box::new($make) });
            }
        )*
    };
}

subjects! {
    acpi => dev::acpi::AcpiPm::PORTS, &[], dev::acpi::AcpiPm::new(line(9));
    cmos_rtc => dev::timer::cmos_rtc::CmosRtc::PORTS, &[], dev::timer::cmos_rtc::CmosRtc::new(line(8), Default::default());
    coprocessor => dev::coprocessor::CoprocessorError::PORTS, &[], dev::coprocessor::CoprocessorError::new(line(13));
    debug_exit => dev::debug_exit::DebugExit::PORTS, &[], dev::debug_exit::DebugExit;
    dma8237 => dev::dma8237::Dma8237::PORTS, &[], dev::dma8237::Dma8237::new();
    floppy => dev::block::floppy::Floppy::PORTS, &[], floppy_with_disk();
    fw_cfg => dev::fw_cfg::FwCfg::PORTS, &[], dev::fw_cfg::FwCfg::new(64 << 20);
    i8042 => dev::input::i8042::I8042::PORTS, &[], dev::input::i8042::I8042::new(line(1), line(12));
    ide_disk => dev::block::ide::IdeController::PORTS, &[], ide(true);
    ide_empty => dev::block::ide::IdeController::PORTS, &[], ide(false);
    ioapic => &[], dev::irqchip::ioapic::IoApic::MMIO, dev::irqchip::ioapic::IoApic::new();
    lapic => &[], dev::irqchip::lapic::LocalApic::MMIO, dev::irqchip::lapic::LocalApic::new();
    ne2000 => dev::net::ne2000::Ne2000Pci::PORTS, &[], dev::net::ne2000::Ne2000Pci::new(line(10), [0, 0x22, 0x15, 1, 2, 3], Box::new(dev::net::NoNetwork));
    parallel => dev::parallel::ParallelPort::PORTS, &[], dev::parallel::ParallelPort::new(0x378, line(7));
    pci => dev::pci::PciBus::PORTS, &[], pci_bus();
    pic8259 => dev::irqchip::pic8259::Pic8259Pair::PORTS, &[], dev::irqchip::pic8259::Pic8259Pair::new();
    pit8254 => dev::timer::pit8254::Pit8254::PORTS, &[], dev::timer::pit8254::Pit8254::new(line(0));
    sb16 => dev::audio::sb16::Sb16::PORTS, &[], sb16_with_sink();
    system_ports => dev::system_ports::SystemPorts::PORTS, &[], dev::system_ports::SystemPorts::new(sink());
    test_device => dev::testdev::TestDevice::PORTS, dev::testdev::TestDevice::MMIO, dev::testdev::TestDevice::new();
    uart16550 => dev::serial::uart16550::Uart16550::PORTS, &[], dev::serial::uart16550::Uart16550::new(line(4), sink());
    vga => dev::vga::Vga::PORTS, &[(0xA0000, 0x20000), (0xE000_0000, 0x4_0010)], drawn_vga();
    vmware_port => dev::vmware_port::VmwarePort::PORTS, &[], dev::vmware_port::VmwarePort::new();
    virtio_9p => &[(0xA600, 0x100), (0xA700, 16), (0xA800, 64), (0xA900, 16)], &[], virtio(dev::virtio::VirtioP9::new("host9p", Box::new(Nobody)), dev::virtio::Slot::P9);
    virtio_balloon => &[(0xD600, 16), (0xD700, 16), (0xD800, 64), (0xD900, 16)], &[], virtio(dev::virtio::VirtioBalloon::new(), dev::virtio::Slot::BALLOON);
    virtio_console => &[(0xB600, 16), (0xB700, 16), (0xB800, 64), (0xB900, 16)], &[], virtio(dev::virtio::VirtioConsole::new(Box::new(Nobody)), dev::virtio::Slot::CONSOLE);
    virtio_net => &[(0xC600, 16), (0xC700, 16), (0xC800, 64), (0xC900, 16)], &[], virtio(dev::virtio::VirtioNet::new([0; 6], 1500, dev::virtio::Offload::Tcp, Box::new(dev::net::NoNetwork)), dev::virtio::Slot::NET);
    virtio_rng => &[(0xE700, 16), (0xE800, 64), (0xE900, 16)], &[], virtio(dev::virtio::VirtioRng::new(Box::new(|out| out.fill(4))), dev::virtio::Slot::RNG);
}

fn line(n: u8) -> IrqLine {
    IrqLine::wired_to(n)
}

fn sink() -> Box<dyn dev::serial::SerialSink> {
    Box::new(dev::serial::NullSink)
}

fn disk(len: usize) -> Box<dyn dev::block::backend::BlockBackend> {
    Box::new(dev::block::backend::MemoryDisk::new(vec![0x5A; len]))
}

fn floppy_with_disk() -> dev::block::floppy::Floppy {
    let mut floppy = dev::block::floppy::Floppy::new(line(6));
    floppy.insert(0, disk(1_474_560), false).expect("a standard format");
    floppy
}

/// With two disks and a CD, interrupts on, or with nothing at all.
fn ide(full: bool) -> dev::block::ide::IdeController {
    let some = |len| full.then(|| disk(len));
    dev::block::ide::IdeController::new(
        [line(14), line(15)],
        [some(700 * 512 + 9), some(4096)],
        some(9 * 2048),
    )
}

fn sb16_with_sink() -> dev::audio::sb16::Sb16 {
    struct Deaf;
    impl dev::audio::AudioSink for Deaf {
        fn play(&mut self, rate: u32, frames: &[dev::audio::Frame]) {
            assert!(rate > 0 && frames.len() <= 4096);
        }
    }
    let mut card = dev::audio::sb16::Sb16::new(dev::audio::sb16::SB16_IRQS.map(line));
    card.set_sink(Some(Box::new(Deaf)));
    card
}

/// Draws the picture at every (spurious) event, so that the renderer meets the registers in every
/// state.
struct Drawn(dev::vga::Vga);

fn drawn_vga() -> Drawn {
    let mut card = dev::vga::Vga::new(0);
    card.set_text_mode_3();
    Drawn(card)
}

impl Device for Drawn {
    fn name(&self) -> &'static str {
        "vga"
    }
    fn port_read(&mut self, ctx: &mut dev::device::Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        self.0.port_read(ctx, port, size)
    }
    fn port_write(&mut self, ctx: &mut dev::device::Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        self.0.port_write(ctx, port, size, value);
    }
    fn mmio_read(&mut self, ctx: &mut dev::device::Ctx<'_>, addr: u64, size: AccessSize) -> Option<u32> {
        self.0.mmio_read(ctx, addr, size)
    }
    fn mmio_write(&mut self, ctx: &mut dev::device::Ctx<'_>, addr: u64, size: AccessSize, value: u32) {
        self.0.mmio_write(ctx, addr, size, value);
    }
    fn on_event(&mut self, _: &mut dev::device::Ctx<'_>) {
        let mut pixels = Vec::new();
        let (width, height) = self.0.render(&mut pixels);
        assert_eq!(pixels.len(), width as usize * height as usize * 4);
        assert!(self.0.text_screen().len() <= 4096);
    }
    fn reset(&mut self, ctx: &mut dev::device::Ctx<'_>, kind: ResetKind) {
        self.0.reset(ctx, kind);
    }
    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

fn virtio<D: dev::virtio::VirtioDevice>(device: D, slot: dev::virtio::Slot) -> dev::virtio::VirtioPci<D> {
    dev::virtio::VirtioPci::new(device, slot)
}

/// A bus with every function of the device table.
fn pci_bus() -> dev::pci::PciBus {
    use dev::pci::{PciBus, config, devfn};
    let mut bus = PciBus::new();
    for (at, function) in [
        (devfn::NE2000, config::ne2000()),
        (devfn::VIRTIO_9P, config::virtio("virtio-9p", 9, 0xA600, 256)),
        (devfn::PIIX4_PM, config::piix4_pm()),
        (devfn::VGA, config::vga(8 << 20)),
        (devfn::IDE, config::ide(true)),
    ] {
        bus.add(at, function, 1);
    }
    bus
}

/// The other end of virtio-9p and virtio-console.
struct Nobody;

impl dev::virtio::P9Handler for Nobody {
    fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, _: usize) {
        reply.extend_from_slice(request);
    }
    fn reset(&mut self) {}
}

impl dev::virtio::ConsoleSink for Nobody {
    fn output(&mut self, _: u8, _: &[u8]) {}
}

#[derive(Clone, Debug)]
enum Op {
    Read { pick: u16, size: AccessSize },
    Write { pick: u16, size: AccessSize, value: u32 },
    ReadBlock { pick: u16, size: AccessSize, elements: usize },
    WriteBlock { pick: u16, size: AccessSize, data: Vec<u8> },
    MmioRead { pick: u32, size: AccessSize },
    MmioWrite { pick: u32, size: AccessSize, value: u32 },
    Advance { ns: u64 },
    AdvanceAtOnce { ns: u64 },
    SpuriousEvent,
    StepWallClock { ns: i64 },
    Reset { kind: ResetKind },
}

fn size() -> impl Strategy<Value = AccessSize> {
    prop_oneof![4 => Just(AccessSize::Byte), 1 => Just(AccessSize::Word), 1 => Just(AccessSize::Dword)]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..256, 1 => any::<u32>(), 1 => prop_oneof![Just(0), Just(u32::MAX)]]
}

fn duration() -> impl Strategy<Value = u64> {
    prop_oneof![0..2_000u64, 0..2_000_000u64, 0..3_000_000_000u64, 0..1_000_000_000_000_000u64]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (any::<u16>(), size()).prop_map(|(pick, size)| Op::Read { pick, size }),
        40 => (any::<u16>(), size(), value()).prop_map(|(pick, size, value)| Op::Write { pick, size, value }),
        2 => (any::<u16>(), size(), 0..600usize)
            .prop_map(|(pick, size, elements)| Op::ReadBlock { pick, size, elements }),
        2 => (any::<u16>(), size(), prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(pick, size, data)| Op::WriteBlock { pick, size, data }),
        10 => (any::<u32>(), size()).prop_map(|(pick, size)| Op::MmioRead { pick, size }),
        20 => (any::<u32>(), size(), value())
            .prop_map(|(pick, size, value)| Op::MmioWrite { pick, size, value }),
        6 => duration().prop_map(|ns| Op::Advance { ns }),
        6 => duration().prop_map(|ns| Op::AdvanceAtOnce { ns }),
        1 => Just(Op::SpuriousEvent),
        1 => any::<i64>().prop_map(|ns| Op::StepWallClock { ns }),
        1 => prop_oneof![Just(ResetKind::Cold), Just(ResetKind::Warm)].prop_map(|kind| Op::Reset { kind }),
    ]
}

/// The `pick`-th port of the ranges, counting round.
fn port(ranges: &[(u16, u16)], pick: u16) -> Option<u16> {
    let total: u32 = ranges.iter().map(|&(_, len)| u32::from(len)).sum();
    let mut index = u32::from(pick).checked_rem(total)?;
    for &(first, len) in ranges {
        if index < u32::from(len) {
            return Some(first + index as u16);
        }
        index -= u32::from(len);
    }
    None
}

/// An address in the windows; small windows and the beginning of large ones are hit often.
fn address(windows: &[(u64, u64)], pick: u32) -> Option<u64> {
    let window = usize::try_from(pick >> 28).unwrap().checked_rem(windows.len())?;
    let (start, len) = windows[window];
    let offset = u64::from(pick & 0x0FFF_FFFF);
    Some(start + offset % if pick & 0x0800_0000 == 0 { len.min(0x1000) } else { len })
}

fn apply(board: &mut TestBoard, device: &mut dyn Device, subject: &Subject, op: &Op) {
    match op {
        Op::Read { pick, size } => {
            if let Some(port) = port(subject.ports, *pick) {
                let value = device.port_read(&mut board.ctx(), port, *size).unwrap_or(0);
                assert_eq!(value & !size.ones(), 0, "port {port:#x} answered wider than {size:?}");
            }
        }
        Op::Write { pick, size, value } => {
            if let Some(port) = port(subject.ports, *pick) {
                device.port_write(&mut board.ctx(), port, *size, value & size.ones());
            }
        }
        Op::ReadBlock { pick, size, elements } => {
            if let Some(port) = port(subject.ports, *pick) {
                let mut out = vec![0; elements * size.bytes() as usize];
                let n = device.port_read_block(&mut board.ctx(), port, *size, &mut out);
                assert!(n <= *elements);
            }
        }
        Op::WriteBlock { pick, size, data } => {
            if let Some(port) = port(subject.ports, *pick) {
                let elements = data.len() / size.bytes() as usize;
                let whole = &data[..elements * size.bytes() as usize];
                let n = device.port_write_block(&mut board.ctx(), port, *size, whole);
                assert!(n <= elements);
            }
        }
        Op::MmioRead { pick, size } => {
            if let Some(addr) = address(subject.mmio, *pick) {
                let value = device.mmio_read(&mut board.ctx(), addr, *size).unwrap_or(0);
                assert_eq!(value & !size.ones(), 0, "address {addr:#x} answered wider than {size:?}");
            }
        }
        Op::MmioWrite { pick, size, value } => {
            if let Some(addr) = address(subject.mmio, *pick) {
                device.mmio_write(&mut board.ctx(), addr, *size, value & size.ones());
            }
        }
        Op::Advance { ns } => board.advance(device, *ns),
        Op::AdvanceAtOnce { ns } => board.advance_at_once(device, *ns),
        Op::SpuriousEvent => device.on_event(&mut board.ctx()),
        Op::StepWallClock { ns } => board.wall_ns = board.wall_ns.saturating_add_signed(*ns),
        Op::Reset { kind } => device.reset(&mut board.ctx(), *kind),
    }
}

fn run(subject: &Subject) {
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..300))| {
        let mut board = TestBoard::new();
        board.dma.channels = [(0x1000, 0x8000); 8];
        let mut device = (subject.make)();
        board.power_up(device.as_mut(), 5);
        for op in &ops {
            apply(&mut board, device.as_mut(), subject, op);
        }
    });
}
