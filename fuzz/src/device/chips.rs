//! Interrupt controllers, timers, serial and parallel ports, keyboard, sound, screen, PCI and ACPI.

use emu_core::irq::IrqLine;
use emu_devices::acpi::AcpiPm;
use emu_devices::audio::sb16::{SB16_IRQS, Sb16};
use emu_devices::audio::{AudioSink, Frame};
use emu_devices::coprocessor::CoprocessorError;
use emu_devices::dma8237::Dma8237;
use emu_devices::fw_cfg::FwCfg;
use emu_devices::input::i8042::I8042;
use emu_devices::irqchip::ApicMessage;
use emu_devices::irqchip::DeliveryMode;
use emu_devices::irqchip::ioapic::IoApic;
use emu_devices::irqchip::lapic::LocalApic;
use emu_devices::irqchip::pic8259::Pic8259Pair;
use emu_devices::parallel::{ParallelPort, PrinterSink};
use emu_devices::pci::{PciBus, config, devfn};
use emu_devices::serial::SerialSink;
use emu_devices::serial::uart16550::Uart16550;
use emu_devices::system_ports::SystemPorts;
use emu_devices::timer::cmos_rtc::CmosRtc;
use emu_devices::timer::pit8254::Pit8254;
use emu_devices::vga::Vga;
use emu_devices::vmware_port::VmwarePort;

use super::script::Seeds;
use super::{Host, Log, Subject, fold};

fn line(n: u8) -> IrqLine {
    IrqLine::wired_to(n)
}

fn chip<D>(
    ports: &[(u16, u16)],
    mmio: &[(u64, u64)],
    make: fn(&Log) -> D,
    host: Host<D>,
    seeds: fn(&mut Seeds),
) -> Subject<D> {
    Subject { ports: ports.to_vec(), mmio: mmio.to_vec(), make, host, virtio: None, saved: true, seeds }
}

impl SerialSink for Log {
    fn write(&mut self, byte: u8) {
        self.add(3, &[byte]);
    }
}

impl PrinterSink for Log {
    fn print(&mut self, byte: u8) {
        self.add(4, &[byte]);
    }
}

/// Sound of a length that does not depend on the pieces it comes in.
impl AudioSink for Log {
    fn play(&mut self, rate: u32, frames: &[Frame]) {
        assert!(rate > 0 && frames.len() <= 4096, "{} frames at {rate} Hz", frames.len());
        for [left, right] in frames {
            self.add(5, &left.to_le_bytes());
            self.add(6, &right.to_le_bytes());
        }
    }
}

/// A serial port.
pub fn uart16550() -> Subject<Uart16550> {
    chip(
        Uart16550::PORTS,
        &[],
        |log| Uart16550::new(line(4), Box::new(log.clone())),
        |uart, board, kind, data| match kind & 3 {
            0 => {
                uart.set_modem_inputs(&mut board.ctx(), kind >> 2);
                uart.modem_outputs().into()
            }
            1 => uart.pending_input() as u64 | u64::from(uart.is_listening()) << 32,
            _ => uart.receive(&mut board.ctx(), data) as u64,
        },
        |s| {
            let setup = [
                (0x3FB, 0x83),
                (0x3F8, 1),
                (0x3F9, 0),
                (0x3FB, 3),
                (0x3FA, 0xC7),
                (0x3FC, 0x0B),
                (0x3F9, 0xF),
            ];
            s.out(&setup).out(&[(0x3F8, b'a'), (0x3F8, b'b')]).host(2, b"hello, world").wait(100_000).save();
            s.read(&[0x3FA, 0x3F8, 0x3F8, 0x3FD, 0x3FE, 0x3FF]).wait(5_000_000).read(&[0x3FA, 0x3FD]);
            s.another()
                .out(&[(0x3FC, 0x1F), (0x3F9, 0xF), (0x3F8, 1)])
                .host(0xF0, &[])
                .read(&[0x3FE, 0x3FA])
                .host(1, &[]);
        },
    )
}

/// LPT1.
pub fn parallel() -> Subject<ParallelPort> {
    chip(
        ParallelPort::PORTS,
        &[],
        |log| {
            let mut port = ParallelPort::new(ParallelPort::LPT1, line(7));
            port.set_sink(Some(Box::new(log.clone())));
            port
        },
        |_, _, _, _| 0,
        |s| {
            s.out(&[(0x378, b'x'), (0x37A, 0x1D), (0x37A, 0x1C)]).save().read(&[0x379, 0x378, 0x37A]);
        },
    )
}

/// Both interrupt controllers; the host drives their inputs and acknowledges.
pub fn pic8259() -> Subject<Pic8259Pair> {
    chip(
        Pic8259Pair::PORTS,
        &[],
        |_| Pic8259Pair::new(),
        |pic, _, kind, _| {
            if kind & 0xC0 == 0 {
                return pic.acknowledge().map_or(0x100, u64::from) | u64::from(pic.output()) << 16;
            }
            let high = kind & 0x10 != 0;
            let rose = high && !pic.line_level(kind & 15);
            pic.set_line(kind & 15, high, rose || kind & 0x20 != 0 && high);
            pic.output().into()
        },
        |s| {
            let init: &[(u16, u8)] = &[
                (0x20, 0x11),
                (0x21, 0x20),
                (0x21, 4),
                (0x21, 1),
                (0xA0, 0x11),
                (0xA1, 0x28),
                (0xA1, 2),
                (0xA1, 1),
                (0x21, 0),
                (0xA1, 0),
            ];
            s.out(init)
                .host(0x50, &[])
                .host(0, &[])
                .save()
                .out(&[(0x20, 0x20)])
                .host(0x5A, &[])
                .host(0x40, &[]);
            s.host(0, &[]).out(&[(0xA0, 0x60), (0x20, 0x62)]).read(&[0x20, 0x21, 0xA0, 0x4D0, 0x4D1]);
            // Level-triggered inputs, polling, rotation, special masks.
            s.another().out(init).out(&[(0x4D1, 0x0C), (0x20, 0x0C)]).host(0x5B, &[]).read(&[0x20]).save();
            s.out(&[(0x20, 0xA0), (0x20, 0x6B), (0xA0, 0x68), (0x20, 0x80), (0xA0, 0xC3)]).host(0, &[]);
        },
    )
}

/// The timer.
pub fn pit8254() -> Subject<Pit8254> {
    chip(
        Pit8254::PORTS,
        &[],
        |_| Pit8254::new(line(0)),
        |pit, _, _, _| pit.speaker_period().map_or(0, u64::from),
        |s| {
            s.out(&[(0x43, 0x34), (0x40, 0xFF), (0x40, 0x0F)]).wait(3_500_000).save().wait(4_000_000);
            s.out(&[(0x43, 0), (0x43, 0xC2)]).read(&[0x40, 0x40, 0x61, 0x42]);
            for mode in 0..6 {
                s.another().out(&[(0x43, 0x30 | mode << 1), (0x40, 50), (0x40, 1), (0x61, 1)]).wait(200_000);
                s.save().out(&[(0x43, 0xB0 | mode << 1), (0x42, 9), (0x42, 0), (0x61, 3), (0x43, 0xE6)]);
                s.read(&[0x40, 0x42]).wait(1_000).read(&[0x61, 0x42]).host(0, &[]);
            }
        },
    )
}

/// Clock and CMOS memory.
pub fn cmos_rtc() -> Subject<CmosRtc> {
    chip(
        CmosRtc::PORTS,
        &[],
        |_| CmosRtc::new(line(8), Default::default()),
        |rtc, _, kind, _| u64::from(rtc.cell(kind & 127)) | u64::from(rtc.is_nmi_disabled()) << 8,
        |s| {
            s.out(&[(0x70, 0x0A), (0x71, 0x26), (0x70, 0x0B), (0x71, 0x72)]).wait(2_000_000).save();
            s.out(&[(0x70, 0x0C)]).read(&[0x71]).wait(1_000_000_000).out(&[(0x70, 0x0C)]).read(&[0x71]);
            s.another();
            for register in 0..14 {
                s.out(&[(0x70, register), (0x71, 0x12)]).read(&[0x71]);
            }
            s.out(&[(0x70, 0x0B), (0x71, 0x36), (0x70, 1), (0x71, 0xC0)])
                .wait(5_000_000_000)
                .save()
                .wait(60_000_000_000);
            s.out(&[(0x70, 0)]).read(&[0x71]).out(&[(0x70, 0x32)]).read(&[0x71]);
        },
    )
}

/// ISA DMA.
pub fn dma8237() -> Subject<Dma8237> {
    chip(
        Dma8237::PORTS,
        &[],
        |_| Dma8237::new(),
        |dma, board, kind, data| {
            use emu_devices::device::IsaDma;
            let mut out = vec![0; data.len()];
            match kind & 0x10 {
                0 => dma.write_memory(&mut board.mem, kind & 7, data) as u64,
                _ => dma.read_memory(&board.mem, kind & 7, &mut out) as u64 ^ fold(&out) << 16,
            }
        },
        |s| {
            s.out(&[
                (0x0C, 0),
                (0x04, 0),
                (0x04, 0x10),
                (0x05, 0xFF),
                (0x05, 1),
                (0x0B, 0x46),
                (0x81, 1),
                (0x0A, 2),
            ]);
            s.host(2, &[7; 300]).save().host(2, &[8; 400]).read(&[0x08, 4, 4, 5, 5]);
            s.another().out(&[
                (0xD8, 0),
                (0xC4, 0),
                (0xC4, 0x10),
                (0xC6, 0xFF),
                (0xC6, 0),
                (0xD6, 0x59),
                (0x8B, 2),
            ]);
            s.out(&[(0xD4, 1)]).host(0x15, &[0; 600]).save().host(5, &[3; 100]).read(&[0xD0, 0xC4]);
        },
    )
}

/// Keyboard and mouse.
pub fn i8042() -> Subject<I8042> {
    chip(
        I8042::PORTS,
        &[],
        |_| I8042::new(line(1), line(12)),
        |ps2, board, kind, data| {
            match (kind & 1, data) {
                (0, codes) => ps2.key(&mut board.ctx(), codes),
                (_, [dx, dy, wheel, buttons, ..]) => {
                    let step = |v: &u8| i32::from(*v as i8) << (kind >> 4);
                    ps2.mouse_event(&mut board.ctx(), step(dx), step(dy), step(wheel), *buttons);
                }
                _ => {
                    ps2.set_firmware_defaults();
                    // Firmware runs before the guest; here the lines have to follow.
                    ps2.key(&mut board.ctx(), &[]);
                }
            }
            0
        },
        |s| {
            s.out(&[(0x64, 0x60), (0x60, 0x47), (0x60, 0xF4)])
                .read(&[0x64, 0x60])
                .host(0, &[0x1E, 0x9E, 0xE0, 0x48]);
            s.save().wait(10_000_000).read(&[0x64, 0x60, 0x60, 0x60]);
            // Mouse: wheel, streaming; identify; keyboard: scan code sets, leds, typematic.
            s.another();
            for byte in [0xF3, 200, 0xF3, 100, 0xF3, 80, 0xF2, 0xF4, 0xE9] {
                s.out(&[(0x64, 0xD4), (0x60, byte)]).read(&[0x60, 0x60]);
            }
            s.host(1, &[5, 0xF0, 1, 3])
                .save()
                .host(0x41, &[5, 0xF0, 1, 0])
                .wait(20_000_000)
                .read(&[0x60, 0x60, 0x60, 0x60]);
            s.another();
            for byte in [0xFF, 0xF0, 2, 0xED, 7, 0xF3, 0x2B, 0xF2, 0xF0, 0, 0xEE] {
                s.out(&[(0x60, byte)]).wait(1_000_000).read(&[0x64, 0x60]);
            }
            s.out(&[(0x64, 0xAA), (0x64, 0xD0), (0x64, 0xD1), (0x60, 0xDD), (0x64, 0xFE)])
                .host(1, &[])
                .host(0, &[0x3A]);
        },
    )
}

/// The sound card.
pub fn sb16() -> Subject<Sb16> {
    chip(
        Sb16::PORTS,
        &[],
        |log| {
            let mut card = Sb16::new(SB16_IRQS.map(line));
            card.set_sink(Some(Box::new(log.clone())));
            card
        },
        |_, _, _, _| 0,
        |s| {
            let reset = [(0x226, 1), (0x226, 0)];
            let command = |s: &mut Seeds, bytes: &[u8]| bytes.iter().for_each(|b| _ = s.out(&[(0x22C, *b)]));
            s.ram(0x2000, &[0x55; 512]).dma(1, 0x2000, 512).out(&reset).read(&[0x22E, 0x22A]);
            command(s, &[0xD1, 0x40, 0xA5, 0x48, 0xFF, 0, 0x1C]);
            s.wait(10_000_000).read(&[0x22E]).save().wait(20_000_000).read(&[0x22F]);
            s.another().dma(5, 0x2000, 512).out(&reset);
            command(s, &[0x41, 0xAC, 0x44, 0xB6, 0x30, 0x3F, 0]);
            s.wait(5_000_000).save().wait(5_000_000);
            command(s, &[0xD5, 0xD6, 0xD9, 0xE1, 0xE0, 0x55, 0xE4, 1, 0xE8]);
            s.read(&[0x22A, 0x22A, 0x22A, 0x22A, 0x22F]);
            // ADPCM, direct output, silence, mixer, MPU-401.
            s.another().out(&reset);
            for bytes in [
                &[0x10, 0x80][..],
                &[0x74, 9, 0],
                &[0x80, 4, 0],
                &[0x17, 3, 0],
                &[0x20],
                &[0x24, 7, 0],
                &[0xF2],
            ] {
                command(s, bytes);
                s.wait(1_000_000).read(&[0x22E, 0x22A]);
            }
            for register in [0x00, 0x04, 0x22, 0x30, 0x80, 0x81, 0x82] {
                s.out(&[(0x224, register), (0x225, 0x22)]).read(&[0x225]);
            }
            s.out(&[(0x331, 0x3F), (0x330, 0x90), (0x388, 1), (0x389, 2)])
                .save()
                .read(&[0x330, 0x331, 0x388]);
        },
    )
}

/// The video card; the host looks at the screen.
pub fn vga() -> Subject<Vga> {
    chip(
        Vga::PORTS,
        &[(0xA_0000, 0x2_0000), (0xE000_0000, 0x4_0010)],
        |_| {
            let mut card = Vga::new(0);
            card.set_text_mode_3();
            card
        },
        |card, _, kind, _| match kind & 3 {
            0 => card.text_screen().iter().fold(0, |hash, line| hash ^ fold(line.as_bytes())),
            1 => {
                let mut pixels = Vec::new();
                let (width, height) = card.render(&mut pixels);
                assert_eq!(pixels.len(), width as usize * height as usize * 4);
                fold(pixels.get(..4096).unwrap_or(&pixels)) ^ u64::from(width) << 32
            }
            _ => card.is_graphics().into(),
        },
        |s| {
            s.store(0xB_8000, 0x0741_0742).host(0, &[]).save().host(1, &[]).load(0xB_8000).read(&[0x3DA]);
            // Mode 13h.
            s.another().out(&[
                (0x3C2, 0x63),
                (0x3C4, 4),
                (0x3C5, 0x0E),
                (0x3CE, 5),
                (0x3CF, 0x40),
                (0x3CE, 6),
                (0x3CF, 5),
            ]);
            s.out(&[
                (0x3D4, 0x13),
                (0x3D5, 0x28),
                (0x3D4, 0x14),
                (0x3D5, 0x40),
                (0x3D4, 0x17),
                (0x3D5, 0xA3),
            ]);
            s.read(&[0x3DA]).out(&[(0x3C0, 0x30), (0x3C0, 0x41), (0x3C0, 0x20)]).store(0xA_0000, 0x0102_0304);
            s.save().host(1, &[]).load(0xA_0000);
            // Planes and write modes.
            for mode in 0..4 {
                s.another().out(&[(0x3C4, 2), (0x3C5, 5), (0x3C4, 4), (0x3C5, 6), (0x3CE, 6), (0x3CF, 5)]);
                s.out(&[(0x3CE, 5), (0x3CF, mode | 8), (0x3CE, 8), (0x3CF, 0x5A), (0x3CE, 3), (0x3CF, 0x19)]);
                s.store(0xA_0010, 0x1234_5678).load(0xA_0010).save().load(0xA_0010).host(1, &[]);
            }
            // VBE 640x200 in each depth.
            for depth in [4u16, 8, 15, 16, 24, 32] {
                s.another();
                for (index, value) in [(4, 0), (1, 640), (2, 100), (3, depth), (4, 0x41), (6, 700), (9, 3)] {
                    s.out16(0x1CE, index).out16(0x1CF, value);
                }
                s.store(0xE000_0100, 0xFFEE_DDCC)
                    .host(1, &[])
                    .save()
                    .host(1, &[])
                    .out16(0x1CE, 5)
                    .out16(0x1CF, 1);
                s.store(0xA_0004, 5).load(0xE001_0004);
            }
        },
    )
}

/// Configuration space of all functions.
pub fn pci() -> Subject<PciBus> {
    chip(
        PciBus::PORTS,
        &[],
        |_| {
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
        },
        |bus, _, kind, _| {
            u64::from(bus.pirq_route(kind & 3)) | u64::from(bus.irq_for(kind, 1 + (kind & 3))) << 8
        },
        |s| {
            for function in [devfn::NE2000, devfn::VIRTIO_9P, devfn::PIIX4_PM, devfn::VGA, devfn::IDE, 0, 8] {
                s.another();
                for register in [0, 4, 8, 0x0C, 0x10, 0x14, 0x20, 0x30, 0x34, 0x3C, 0x40, 0x60, 0x80] {
                    let at = 0x8000_0000 | u32::from(function) << 8 | register;
                    s.out32(0xCF8, at).read_wide(0xCFC, 2).out32(0xCFC, u32::MAX).read_wide(0xCFC, 2);
                    s.out32(0xCFC, 0xC100 + register).read(&[0xCFD]).out16(0xCFE, 5);
                }
                s.save()
                    .read_wide(0xCFC, 2)
                    .host(function, &[])
                    .out32(0xCF8, 0x8000_0860)
                    .out(&[(0xCFC, 0x8B)]);
            }
        },
    )
}

/// ACPI power management.
pub fn acpi() -> Subject<AcpiPm> {
    chip(
        AcpiPm::PORTS,
        &[],
        |_| AcpiPm::new(line(9)),
        |pm, board, _, _| {
            pm.press_power_button(&mut board.ctx());
            0
        },
        |s| {
            s.out16(0xB002, 0x121)
                .wait(3_000_000_000)
                .read_wide(0xB000, 1)
                .save()
                .out16(0xB000, 1)
                .wait(2_000_000_000);
            s.host(0, &[]).read_wide(0xB008, 2).out(&[(0xAFE2, 0xFF), (0xAFE0, 1)]).out16(0xB004, 0x2001);
        },
    )
}

/// The IOAPIC; the host drives inputs, takes messages and ends interrupts.
pub fn ioapic() -> Subject<IoApic> {
    chip(
        &[],
        IoApic::MMIO,
        |_| IoApic::new(),
        |chip, _, kind, data| match kind & 0xC0 {
            0 => {
                chip.end_of_interrupt(data.first().copied().unwrap_or(kind));
                0
            }
            0x40 => {
                let mut hash = 0;
                for _ in 0..64 {
                    let Some(message) = chip.next_message() else { return hash };
                    hash = fold(format!("{hash}{message:?}").as_bytes());
                }
                panic!("messages without end");
            }
            _ => {
                let (input, high) = (kind & 31, kind & 0x20 != 0);
                let rose = high && !chip.line_level(input);
                chip.set_line(input, high, rose);
                chip.line_level(input).into()
            }
        },
        |s| {
            for (input, low) in [(1u32, 0x31u32), (2, 0x8032), (10, 0xA03A), (11, 0x1_0000), (20, 0x0433)] {
                s.another()
                    .store(0xFEC0_0000, 0x10 + 2 * input)
                    .store(0xFEC0_0010, low)
                    .store(0xFEC0_0000, 0x11 + 2 * input);
                s.store(0xFEC0_0010, 0x0100_0000)
                    .host(0xA0 | input as u8, &[])
                    .host(0x40, &[])
                    .save()
                    .load(0xFEC0_0010);
                s.host(0, &[low as u8]).host(0x40, &[]).host(0x80 | input as u8, &[]).host(0x40, &[]);
            }
        },
    )
}

/// The local APIC; the host delivers messages and acknowledges.
pub fn lapic() -> Subject<LocalApic> {
    chip(
        &[],
        LocalApic::MMIO,
        |_| LocalApic::new(),
        |chip, _, kind, data| {
            if kind & 1 != 0 {
                let vector = if chip.output() { chip.acknowledge() } else { None };
                let eoi = chip.take_eoi();
                return vector.map_or(0x100, u64::from)
                    | eoi.map_or(0x100, u64::from) << 16
                    | u64::from(chip.take_nmi()) << 32
                    | u64::from(chip.passes_ext_int()) << 33;
            }
            let [vector, mode, destination, level] =
                std::array::from_fn(|n| data.get(n).copied().unwrap_or(1));
            chip.deliver(ApicMessage {
                vector,
                delivery: DeliveryMode::from_register(u32::from(mode) << 8),
                destination,
                logical: level & 2 != 0,
                level: level & 1 != 0,
            });
            chip.output().into()
        },
        |s| {
            let at = |register: u64| 0xFEE0_0000 + register;
            s.store(at(0xF0), 0x1FF).store(at(0x3E0), 3).store(at(0x320), 0x2_0030).store(at(0x380), 50_000);
            s.wait(30_000_000)
                .save()
                .host(1, &[])
                .load(at(0x390))
                .wait(10_000_000)
                .load(at(0x100))
                .store(at(0xB0), 0);
            s.another()
                .store(at(0xF0), 0x1FF)
                .store(at(0x80), 0x20)
                .store(at(0xD0), 1 << 24)
                .store(at(0xE0), u32::MAX);
            for mode in 0..8 {
                s.host(0, &[0x31 + mode * 16, mode, 1, 3])
                    .host(1, &[])
                    .store(at(0x300), 0x4_0031 | u32::from(mode) << 8);
            }
            s.save()
                .host(1, &[])
                .store(at(0xB0), 0)
                .host(1, &[])
                .store(at(0x350), 0x700)
                .store(at(0x360), 0x400);
            s.load(at(0x280)).load(at(0x20)).load(at(0x180)).load(at(0x200));
        },
    )
}

/// Firmware configuration.
pub fn fw_cfg() -> Subject<FwCfg> {
    chip(
        FwCfg::PORTS,
        &[],
        |_| FwCfg::new(64 << 20),
        |_, _, _, _| 0,
        |s| {
            for key in [0u16, 3, 5, 0x19, 0x20, 0x8002] {
                s.out16(0x510, key).read(&[0x511, 0x511]).save().read(&[0x511, 0x511, 0x511]);
            }
        },
    )
}

/// POST code, system control port A, debug ports.
pub fn system_ports() -> Subject<SystemPorts> {
    chip(
        SystemPorts::PORTS,
        &[],
        |log| SystemPorts::new(Box::new(log.clone())),
        |ports, board, _, _| u64::from(ports.post_code()) | u64::from(board.mem.a20_mask()) << 8,
        |s| {
            s.out(&[(0x80, 5), (0x92, 0), (0xE9, b'x'), (0x402, b'y')])
                .save()
                .read(&[0x92, 0xB2])
                .host(0, &[]);
            s.out(&[(0x92, 3)]);
        },
    )
}

/// VMware's back door: the host moves the pointer, the guest asks with its registers.
pub fn vmware_port() -> Subject<VmwarePort> {
    chip(
        VmwarePort::PORTS,
        &[],
        |_| VmwarePort::new(),
        |port, board, kind, data| {
            let byte = |n: usize| data.get(n).copied().unwrap_or(0);
            let word = |n: usize| u16::from_le_bytes([byte(n), byte(n + 1)]);
            match kind & 3 {
                0 => port.pointer_moved(word(0), word(2)),
                1 => port.pointer_buttons(byte(0), i32::from(byte(1) as i8)),
                2 => port.pointer_moved_by(i32::from(word(0) as i16), i32::from(word(2) as i16) << 16),
                _ => {
                    let dword = |n: usize| u32::from(word(n)) | u32::from(word(n + 2)) << 16;
                    let magic = if kind & 4 == 0 { 0x564D_5868 } else { dword(12) };
                    let regs = [magic, dword(0), u32::from(word(4)), 0x5658, dword(6), 0];
                    return port.backdoor(regs, board.wall_ns).map_or(1, |regs| {
                        regs.iter().fold(2, |v, r| (v ^ u64::from(*r)).wrapping_mul(0x100_0000_01B3))
                    });
                }
            }
            port.is_absolute().into()
        },
        |s| {
            let ask = |s: &mut Seeds, command: u8, ebx: u32| {
                s.host(3, &[&ebx.to_le_bytes()[..], &[command, 0, 0, 0, 0, 0]].concat());
            };
            for command in [10u8, 17, 20, 23, 45, 46, 1, 0] {
                ask(s, command, 0);
            }
            for ebx in [0x4541_4552u32, 0x5342_4152, 0x4C45_5252, 0xF5] {
                ask(s, 41, ebx);
            }
            s.host(0, &[1, 2, 3, 4]).host(1, &[7, 1]).save().host(2, &[9, 0, 9, 0]);
            ask(s, 40, 0);
            ask(s, 39, 4);
            ask(s, 39, 1);
            s.another();
            ask(s, 39, 4);
        },
    )
}

/// The coprocessor's error latch; the host is the CPU's FERR# pin.
pub fn coprocessor() -> Subject<CoprocessorError> {
    chip(
        CoprocessorError::PORTS,
        &[],
        |_| CoprocessorError::new(line(13)),
        |chip, board, kind, _| chip.set_ferr(&mut board.irq, kind & 1 != 0).into(),
        |s| {
            s.host(1, &[]).save().out(&[(0xF0, 0)]).host(1, &[]).host(0, &[]).host(1, &[]);
        },
    )
}
