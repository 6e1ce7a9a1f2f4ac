//! The expected bytes were read out of the v86 emulator (build 0.5.462): at power-up, and after
//! SeaBIOS 1.16 had run.

use emu_core::bus::AccessSize::{self, Byte, Dword, Word};
use emu_core::irq::{IrqLine, PIRQ_A};
use proptest::prelude::*;

use super::*;
use crate::device::{Device, ResetKind};
use crate::testing::TestBoard;

/// Owner of the NE2000's ports in these tests.
const NIC: u8 = 5;
const P9: u8 = 6;
const IDE: u8 = 7;
const OTHER: u8 = 8;

struct Machine {
    bench: TestBoard,
    bus: PciBus,
}

impl Machine {
    /// `acpi` and all virtio devices instead of the NE2000, or the reverse.
    fn new(virtio: bool, p9: bool, primary: bool) -> Self {
        let (mut bench, mut bus) = (TestBoard::new(), PciBus::new());
        let mut add = |at, function: PciFunction, owner| {
            for i in 0..6 {
                if let Some(Bar::Io { home, size, .. }) = function.bar(i) {
                    bench.ports.claim(home, size, owner);
                }
            }
            bus.add(at, function, owner);
        };
        if virtio {
            add(devfn::PIIX4_PM, config::piix4_pm(), OTHER);
            add(devfn::VIRTIO_NET, config::virtio("net", 1, 0xC600, 12), OTHER);
            add(devfn::VIRTIO_BALLOON, config::virtio("balloon", 5, 0xD600, 12), OTHER);
            add(devfn::VIRTIO_CONSOLE, config::virtio("console", 3, 0xB600, 12), OTHER);
        } else {
            add(devfn::NE2000, config::ne2000(), NIC);
        }
        if p9 {
            add(devfn::VIRTIO_9P, config::virtio("9p", 9, 0xA600, 256), P9);
        }
        add(devfn::VGA, config::vga(8 << 20), OTHER);
        add(devfn::IDE, config::ide(primary), IDE);
        Self { bench, bus }
    }

    fn env86() -> Self {
        Self::new(false, true, false)
    }

    fn out(&mut self, port: u16, size: AccessSize, value: u32) {
        self.bus.port_write(&mut self.bench.ctx(), port, size, value);
    }

    fn inp(&mut self, port: u16, size: AccessSize) -> Option<u32> {
        self.bus.port_read(&mut self.bench.ctx(), port, size)
    }

    fn select(&mut self, devfn: u8, offset: u8) {
        self.out(0xCF8, Dword, 0x8000_0000 | u32::from(devfn) << 8 | u32::from(offset));
    }

    fn read(&mut self, devfn: u8, offset: u8) -> u32 {
        self.select(devfn, offset);
        self.inp(0xCFC, Dword).unwrap()
    }

    fn write(&mut self, devfn: u8, offset: u8, size: AccessSize, value: u32) {
        self.select(devfn, offset & 0xFC);
        self.out(0xCFC + u16::from(offset & 3), size, value);
    }

    fn owner(&self, port: u16) -> Option<(u8, u16)> {
        self.bench.ports.lookup(port)
    }

    fn setup(&mut self) {
        self.bus.post_firmware_setup(&mut self.bench.ctx());
    }

    /// Compares a function with a dump; `hex` may leave out zeros at the end.
    fn assert_space(&self, devfn: u8, hex: &str) {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let mut expected = [0u8; 256];
        for (place, pair) in expected.iter_mut().zip(digits.chunks(2)) {
            *place = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        let space = self.bus.function(devfn).expect("function").space();
        for (offset, (got, want)) in space.iter().zip(expected).enumerate() {
            assert_eq!(*got, want, "function {devfn:02X}h, offset {offset:02X}h");
        }
    }
}

const HOST_BRIDGE: &str = "86803712 00000000 02000006 00000000 00000000 00000000 00000000 00000000 00000000
    00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
    00000000 00100000";
const VIRTIO_CAPABILITIES: &str = "09501001 00000000 00000000 40000000 09641402 01000000 00000000 10000000
    02000000 09741003 02000000 00000000 10000000 09841004 03000000 00000000";

#[test]
fn config_space_at_power_up_is_v86s() {
    let m = Machine::new(true, true, false);
    m.assert_space(0x00, HOST_BRIDGE);
    m.assert_space(0x08, "86800070 07000002 00000106 00008000");
    m.assert_space(
        0x30,
        &format!(
            "f41a4910 07051000 01000200 00000000 01a80000 01a90000 01a70000 01a60000 00000000 00000000 00000000
             f41a0900 00000000 40000000 00000000 00010000 {VIRTIO_CAPABILITIES} 00010000 09001405"
        ),
    );
    m.assert_space(
        0x38,
        "86801371 07008002 08008006 00008000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00000000 00000000 00000000 00000000 09010000",
    );
    m.assert_space(
        0x50,
        &format!(
            "f41a4110 07051000 01000200 00000000 01c80000 01c90000 01c70000 01c60000 00000000 00000000 00000000
             f41a0100 00000000 40000000 00000000 00010000 {VIRTIO_CAPABILITIES} 10000000 09001405"
        ),
    );
    m.assert_space(
        0x58,
        &format!(
            "f41a4510 07051000 01000200 00000000 01d80000 01d90000 01d70000 01d60000 00000000 00000000 00000000
             f41a0500 00000000 40000000 00000000 00010000 {VIRTIO_CAPABILITIES} 10000000 09001405"
        ),
    );
    m.assert_space(
        0x60,
        &format!(
            "f41a4310 07051000 01000200 00000000 01b80000 01b90000 01b70000 01b60000 00000000 00000000 00000000
             f41a0300 00000000 40000000 00000000 00010000 {VIRTIO_CAPABILITIES} 10000000 09001405"
        ),
    );
    m.assert_space(
        0x90,
        "34121111 03010000 00000003 00000000 080000e0 00000000 0000bffe 00000000 00000000 00000000 00000000
         f41a0011 0000befe",
    );
    m.assert_space(
        0xF0,
        "86801070 0500a002 00800101 00000000 01000000 01000000 71010000 77030000 01b40000 00000000 00000000
         4310d482 00000000 00000000 00000000 00010000",
    );
    let m = Machine::new(false, false, true);
    m.assert_space(
        0x28,
        "ec102980 03010000 00000002 00000000 01030000 00000000 00000000 00000000 00000000 00000000 00000000
         f41a0011 0000b8fe 00000000 00000000 00010000",
    );
    m.assert_space(
        0xF0,
        "86801070 0500a002 00800101 00000000 f1010000 f7030000 71010000 77030000 01b40000 00000000 00000000
         4310d482 00000000 00000000 00000000 00010000",
    );
}

#[test]
fn firmware_setup_with_everything_equals_seabios() {
    let mut m = Machine::new(true, true, false);
    m.setup();
    // SeaBIOS write-protects C0000h-FFFFFh before it boots from a disk (59h-5Fh = 10 11 11 11 11 11
    // 33); under a kernel loaded by an option ROM the registers stay as here.
    m.assert_space(
        0x00,
        "86803712 03010000 02000006 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00303333 33333333 00000000 00000000 00000000 00000000 00000a00",
    );
    m.assert_space(
        0x08,
        "86800070 07010002 00000106 00008000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00000000 00000000 0a0a0b0b",
    );
    m.assert_space(
        0x30,
        &format!(
            "f41a4910 07051000 01000200 00000000 01c10000 01c20000 11c20000 01c00000 00000000 00000000 00000000
             f41a0900 00000000 40000000 00000000 0a010000 {VIRTIO_CAPABILITIES} 00010000 09001405"
        ),
    );
    m.assert_space(
        0x38,
        "86801371 07018002 08008006 00008000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00000000 00000000 00000000 00000000 09010000 01b00000 00000000 00000000 00000000 00000000 00000000
         00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 01000000
         00000000 00000000 00000000 01b10000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
         00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000900",
    );
    m.assert_space(
        0x50,
        &format!(
            "f41a4110 07051000 01000200 00000000 41c10000 21c20000 31c20000 41c20000 00000000 00000000 00000000
             f41a0100 00000000 40000000 00000000 0a010000 {VIRTIO_CAPABILITIES} 10000000 09001405"
        ),
    );
    m.assert_space(
        0x58,
        &format!(
            "f41a4510 07051000 01000200 00000000 81c10000 51c20000 61c20000 71c20000 00000000 00000000 00000000
             f41a0500 00000000 40000000 00000000 0b010000 {VIRTIO_CAPABILITIES} 10000000 09001405"
        ),
    );
    m.assert_space(
        0x60,
        &format!(
            "f41a4310 07051000 01000200 00000000 c1c10000 81c20000 91c20000 a1c20000 00000000 00000000 00000000
             f41a0300 00000000 40000000 00000000 0b010000 {VIRTIO_CAPABILITIES} 10000000 09001405"
        ),
    );
    m.assert_space(
        0x90,
        "34121111 03010000 00000003 00000000 080000e0 00000000 00000000 00000000 00000000 00000000 00000000
         f41a0011 0000b0fe",
    );
    m.assert_space(
        0xF0,
        "86801070 0701a002 00800101 00000000 00000000 00000000 c1c20000 c9c20000 b1c20000 00000000 00000000
         4310d482 00000000 00000000 00000000 0a010000 00800080",
    );
}

#[test]
fn firmware_setup_of_the_env86_machine_equals_seabios() {
    let mut m = Machine::env86();
    m.setup();
    for (devfn, offset, value) in [
        (0x28, 0x10, 0x0000_C141),
        (0x28, 0x30, 0),
        (0x30, 0x10, 0xC101),
        (0x30, 0x14, 0xC161),
        (0x30, 0x18, 0xC171),
        (0x30, 0x1C, 0xC001),
        (0x30, 0x3C, 0x0000_010A),
        (0x30, 0x40, 0x0110_5009),
        (0xF0, 0x10, 0),
        (0xF0, 0x18, 0xC191),
        (0xF0, 0x1C, 0xC199),
        (0xF0, 0x20, 0xC181),
        (0x08, 0x60, 0x0B0B_0A0A),
    ] {
        assert_eq!(m.read(devfn, offset), value, "{devfn:02X}h, {offset:02X}h");
    }
    assert_eq!(m.read(0x00, 0x70), 0, "SMRAM is only touched with ACPI");
    // Ports follow, legacy ones stay.
    assert_eq!(m.owner(0xC000), Some((P9, 0xA600)));
    assert_eq!(m.owner(0xC0FF), Some((P9, 0xA6FF)));
    assert_eq!(m.owner(0xC100), Some((P9, 0xA800)));
    assert_eq!(m.owner(0xC15F), Some((NIC, 0x31F)));
    assert_eq!(m.owner(0xA800), None);
    assert_eq!(m.owner(0x300), Some((NIC, 0x300)));
    assert_eq!(m.owner(0xC197), Some((IDE, 0x177)));
    assert_eq!(m.owner(0x177), Some((IDE, 0x177)));
    // A second start changes nothing.
    let before = m.bus.function(0x30).unwrap().space().to_vec();
    m.setup();
    assert_eq!(m.bus.function(0x30).unwrap().space().to_vec(), before);
    assert_eq!(m.owner(0xC171), Some((P9, 0xA701)));
}

#[test]
fn firmware_setup_with_a_disk_equals_seabios() {
    let mut m = Machine::new(false, false, true);
    m.setup();
    let bars: Vec<u32> = (0..6).map(|i| m.read(0xF0, 0x10 + 4 * i)).collect();
    assert_eq!(bars, [0xC031, 0xC041, 0xC039, 0xC045, 0xC021, 0]);
    assert_eq!(m.read(0x28, 0x10), 0xC001);
    assert_eq!(m.owner(0xC040), Some((IDE, 0x3F6)));
    assert_eq!(m.owner(0xC041), None, "one port only");
}

#[test]
fn interrupts_end_where_seabios_routes_them() {
    let mut m = Machine::new(true, true, false);
    assert_eq!(m.bus.irq_for(devfn::VIRTIO_9P, 1), 0, "not programmed yet");
    m.setup();
    for (devfn, irq) in [
        (devfn::NE2000, 10),
        (devfn::VIRTIO_9P, 10),
        (devfn::VIRTIO_NET, 10),
        (devfn::VIRTIO_BALLOON, 11),
        (devfn::VIRTIO_CONSOLE, 11),
    ] {
        assert_eq!(m.bus.irq_for(devfn, 1), irq, "{devfn:02X}h");
        let wire = pirq_line(devfn, 1);
        assert_eq!(m.bus.pirq_route(wire.number() - PIRQ_A), irq);
    }
    assert_eq!([devfn::NE2000, devfn::VIRTIO_9P, devfn::VIRTIO_NET].map(|d| pirq(d, 1)), [0, 1, 1]);
    assert_ne!(pirq_line(devfn::VIRTIO_9P, 1), pirq_line(devfn::VIRTIO_NET, 1), "one wire, two sources");
    assert_eq!(pirq_line(devfn::VIRTIO_9P, 1), IrqLine::shared(25, 6));
    m.write(devfn::ISA_BRIDGE, 0x61, Byte, 5);
    assert_eq!(m.bus.irq_for(devfn::VIRTIO_9P, 1), 5);
}

#[test]
fn mechanism_reads_back_presence_instead_of_the_address() {
    let mut m = Machine::env86();
    assert_eq!(m.inp(0xCF8, Dword), Some(0));
    m.out(0xCF8, Dword, 0x8000_0000);
    assert_eq!(m.inp(0xCF8, Dword), Some(0x8000_0000));
    assert_eq!(m.inp(0xCFC, Dword), Some(0x1237_8086));
    m.out(0xCF8, Dword, 0x8000_4000);
    assert_eq!(m.inp(0xCF8, Dword), Some(0));
    assert_eq!(m.inp(0xCFC, Dword), Some(0xFFFF_FFFF));
    // Writes to nothing go nowhere; other busses are empty; the enable bit does not matter.
    m.out(0xCFC, Dword, 0);
    m.out(0xCFC, Byte, 0);
    m.out(0xCF8, Dword, 0x8001_0000);
    assert_eq!(m.inp(0xCFC, Dword), Some(0xFFFF_FFFF));
    m.out(0xCF8, Dword, 0);
    assert_eq!(m.inp(0xCFC, Dword), Some(0x1237_8086));
}

#[test]
fn mechanism_fetches_data_when_the_top_address_byte_is_written() {
    let mut m = Machine::env86();
    m.setup();
    m.select(devfn::ISA_BRIDGE, 0x60);
    assert_eq!(m.inp(0xCFC, Dword), Some(0x0B0B_0A0A));
    m.out(0xCF8, Byte, 0x04);
    assert_eq!(m.inp(0xCFC, Dword), Some(0x0B0B_0A0A));
    // A data write goes to the new address and does not refresh the latch either.
    m.out(0xCF8, Byte, 0x60);
    m.out(0xCFC, Byte, 5);
    assert_eq!(m.inp(0xCFC, Byte), Some(0x0A));
    m.out(0xCFB, Byte, 0x80);
    assert_eq!(m.inp(0xCFC, Dword), Some(0x0B0B_0A05));
    // The upper half of the address written as a word fetches too; the low bits are ignored.
    m.out(0xCF8, Word, 0x0803);
    m.out(0xCFA, Word, 0x8000);
    assert_eq!(m.inp(0xCFE, Word), Some(0x7000));
    assert_eq!(m.inp(0xCFF, Byte), Some(0x70));
}

#[test]
fn mechanism_answers_aligned_accesses_only() {
    let mut m = Machine::env86();
    m.select(0, 0);
    for (port, size) in [(0xCF9, Word), (0xCFB, Word), (0xCFA, Dword), (0xCFD, Word), (0xCFE, Dword)] {
        assert_eq!(m.inp(port, size), None, "{port:X}h {size:?}");
        m.out(port, size, 0);
    }
    assert_eq!(m.inp(0xCFA, Word), Some(0x8000));
    assert_eq!(m.inp(0xCFC, Word), Some(0x8086));
    assert_eq!(m.inp(0xCFD, Byte), Some(0x80));
    assert_eq!(m.read(0, 0), 0x1237_8086);
}

#[test]
fn command_register_takes_narrow_writes_only() {
    let mut m = Machine::env86();
    assert_eq!(m.read(devfn::NE2000, 4), 0x103);
    m.write(devfn::NE2000, 4, Dword, 0);
    assert_eq!(m.read(devfn::NE2000, 4), 0x103);
    m.write(devfn::NE2000, 4, Word, 0x100);
    assert_eq!(m.read(devfn::NE2000, 4), 0x100);
    m.write(devfn::NE2000, 6, Byte, 0x80);
    assert_eq!(m.read(devfn::NE2000, 4), 0x0080_0100);
}

#[test]
fn write_rules_depend_on_width_and_offset() {
    let mut m = Machine::env86();
    // Base address registers and CIS pointer ignore words, take bytes raw.
    m.write(devfn::NE2000, 0x10, Word, 0x1234);
    m.write(devfn::NE2000, 0x2A, Word, 0x1234);
    assert_eq!((m.read(devfn::NE2000, 0x10), m.read(devfn::NE2000, 0x28)), (0x301, 0));
    m.write(devfn::NE2000, 0x11, Byte, 0xD0);
    assert_eq!(m.read(devfn::NE2000, 0x10), 0xD001);
    assert_eq!(m.owner(0xD000), None, "a byte moves nothing");
    m.write(devfn::NE2000, 0x28, Dword, 0x1122_3344);
    assert_eq!(m.read(devfn::NE2000, 0x28), 0x1122_3344);
    // ROM: raw when narrow; 0 or the size and address of the VGA's when wide.
    m.write(devfn::NE2000, 0x30, Word, 0x5678);
    assert_eq!(m.read(devfn::NE2000, 0x30), 0xFEB8_5678);
    m.write(devfn::NE2000, 0x30, Dword, 0xFFFF_FFFF);
    assert_eq!(m.read(devfn::NE2000, 0x30), 0);
    m.write(devfn::VGA, 0x30, Dword, 0xFFFF_F800);
    assert_eq!(m.read(devfn::VGA, 0x30), 0xFFFF_0000);
    m.write(devfn::VGA, 0x30, Dword, 0x1234_0001);
    assert_eq!(m.read(devfn::VGA, 0x30), 0xFEB0_0000);
    // Registers without a region become 0; identification is storage.
    m.write(devfn::VGA, 0x18, Dword, 0xFFFF_FFFF);
    assert_eq!(m.read(devfn::VGA, 0x18), 0);
    m.write(devfn::VGA, 0x00, Dword, 0xDEAD_BEEF);
    assert_eq!(m.read(devfn::VGA, 0x00), 0xDEAD_BEEF);
    m.write(devfn::HOST_BRIDGE, 0xFE, Word, 0xABCD);
    assert_eq!(m.read(devfn::HOST_BRIDGE, 0xFC), 0xABCD_0000);
}

#[test]
fn host_bridge_attribute_registers_are_storage() {
    let mut m = Machine::env86();
    for (offset, value) in [(0x5A, 0x11), (0x5B, 0x11)] {
        m.write(devfn::HOST_BRIDGE, offset, Byte, value);
    }
    assert_eq!(m.read(devfn::HOST_BRIDGE, 0x58), 0x1111_1000);
}

#[test]
fn memory_region_reports_its_size_and_stays() {
    let mut m = Machine::env86();
    m.write(devfn::VGA, 0x10, Dword, 0xFFFF_FFFF);
    assert_eq!(m.read(devfn::VGA, 0x10), 0xFF80_0000);
    m.write(devfn::VGA, 0x10, Dword, 0xD000_0000);
    assert_eq!(m.read(devfn::VGA, 0x10), 0xE000_0008);
}

#[test]
fn io_region_size_probe_is_a_move_that_the_next_write_undoes() {
    let mut m = Machine::env86();
    m.write(devfn::NE2000, 0x10, Dword, 0xC001);
    assert_eq!(m.owner(0xC01F), Some((NIC, 0x31F)));
    m.write(devfn::NE2000, 0x10, Dword, 0xFFFF_FFFF);
    assert_eq!(m.read(devfn::NE2000, 0x10), 0xFFFF_FFE1);
    assert_eq!(m.owner(0xC000), None);
    assert_eq!(m.owner(0xFFE0), Some((NIC, 0x300)));
    m.write(devfn::NE2000, 0x10, Dword, 0xC001);
    assert_eq!(m.owner(0xFFE0), None);
    assert_eq!(m.owner(0xC000), Some((NIC, 0x300)));
    assert_eq!(m.owner(0x300), Some((NIC, 0x300)));
    // Below 1000h nothing is installed, and a region past the last port is cut.
    m.write(devfn::NE2000, 0x10, Dword, 0x0200);
    assert_eq!((m.owner(0x200), m.owner(0xC000)), (None, None));
    m.write(devfn::NE2000, 0x10, Dword, 0xFFF0);
    assert_eq!(m.owner(0xFFFF), Some((NIC, 0x30F)));
    assert_eq!(m.owner(0x0000), None);
}

#[test]
fn io_region_of_one_port_probes_as_ones() {
    let mut m = Machine::env86();
    m.write(devfn::IDE, 0x1C, Dword, 0xFFFF_FFFF);
    assert_eq!(m.read(devfn::IDE, 0x1C), 0xFFFF_FFFF);
    assert_eq!(m.owner(0xFFFE), Some((IDE, 0x376)));
    m.write(devfn::IDE, 0x1C, Dword, 0x0377);
    assert_eq!(m.owner(0xFFFE), None);
    assert_eq!(m.owner(0x376), Some((IDE, 0x376)));
}

#[test]
fn reset_control_resets_when_the_cpu_bit_rises_after_the_system_bit() {
    let mut m = Machine::env86();
    m.out(0xCF9, Byte, 0x06);
    assert!(!m.bench.requests.reset, "not armed");
    m.out(0xCF9, Byte, 0x02);
    m.out(0xCF8, Dword, 0x8000_0600);
    assert!(!m.bench.requests.reset, "an address is no reset");
    m.out(0xCF9, Byte, 0x02);
    m.out(0xCF9, Byte, 0x0E);
    assert!(m.bench.requests.reset);
}

#[test]
fn reset_cold_restores_power_up_and_warm_leaves_everything() {
    let mut m = Machine::env86();
    m.setup();
    m.select(devfn::VGA, 0);
    m.bus.reset(&mut m.bench.ctx(), ResetKind::Warm);
    assert_eq!(m.inp(0xCFC, Dword), Some(0x1111_1234));
    assert_eq!(m.owner(0xC100), Some((P9, 0xA800)));
    m.bus.reset(&mut m.bench.ctx(), ResetKind::Cold);
    assert_eq!(m.inp(0xCF8, Dword), Some(0));
    m.assert_space(0x00, HOST_BRIDGE);
    assert_eq!((m.owner(0xC100), m.owner(0xA800)), (None, Some((P9, 0xA800))));
    assert_eq!(m.read(devfn::NE2000, 0x10), 0x301);
}

#[test]
fn loaded_space_takes_the_ports_along() {
    let mut saved = Machine::env86();
    saved.setup();
    let mut m = Machine::env86();
    for devfn in [devfn::NE2000, devfn::VIRTIO_9P, devfn::IDE] {
        let space = *saved.bus.function(devfn).unwrap().space();
        assert!(m.bus.load(devfn, &space, &mut m.bench.ports));
        assert_eq!(m.bus.function(devfn).unwrap().space(), &space);
    }
    assert!((0..=0xFFFF).all(|p| m.owner(p) == saved.owner(p)));
    assert!(!m.bus.load(devfn::VIRTIO_NET, &[0; 256], &mut m.bench.ports));
}

#[test]
fn bus_without_a_function_has_an_empty_place() {
    let mut m = Machine::env86();
    assert_eq!(m.read(devfn::VIRTIO_NET, 0), 0xFFFF_FFFF);
    m.bus.add(devfn::VIRTIO_NET, config::ne2000(), NIC);
    m.bus.add(devfn::VIRTIO_NET, config::virtio("net", 1, 0xC600, 12), OTHER);
    assert_eq!(m.read(devfn::VIRTIO_NET, 0), 0x1041_1AF4, "the last one counts");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_accesses_never_panic_nor_move_legacy_ports(
        accesses in prop::collection::vec((0u16..8, 0u8..3, any::<bool>(), any::<u32>(), 0usize..9), 1..400),
    ) {
        let mut m = Machine::env86();
        let before: Vec<_> = (0..0x1000).map(|p| m.owner(p)).collect();
        for (port, size, write, value, target) in accesses {
            let size = [Byte, Word, Dword][usize::from(size)];
            // Every other time the address names a function that exists.
            let functions = [0u8, 0x08, 0x28, 0x30, 0x90, 0xF0];
            if let Some(&devfn) = functions.get(target) {
                m.select(devfn, value as u8 & 0x3C);
            }
            if write {
                m.out(0xCF8 + port, size, value);
            } else if let Some(v) = m.inp(0xCF8 + port, size) {
                prop_assert!(v <= size.ones());
            }
        }
        prop_assert!((0..0x1000).map(|p| m.owner(p)).eq(before));
        m.setup();
        prop_assert_eq!(m.owner(0xC140), Some((NIC, 0x300)));
        prop_assert_eq!(m.owner(0xC100), Some((P9, 0xA800)));
    }
}
