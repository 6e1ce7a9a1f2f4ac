//! Disks, CD-ROM and floppy.

use emu_core::irq::IrqLine;
use emu_devices::block::backend::{BlockBackend, MemoryDisk};
use emu_devices::block::floppy::Floppy;
use emu_devices::block::ide::IdeController;

use super::Subject;
use super::script::Seeds;

fn disk(len: usize) -> Box<dyn BlockBackend> {
    Box::new(MemoryDisk::new(vec![0x5A; len]))
}

fn some(len: usize) -> Option<Box<dyn BlockBackend>> {
    Some(disk(len))
}

/// First bus master port.
const BM: u16 = IdeController::BUS_MASTER_BASE;

/// Registers of a command: features, count, LBA or CHS, device, command.
fn ata(s: &mut Seeds, base: u16, registers: [u8; 7]) -> &mut Seeds {
    let writes: Vec<_> = (base + 1..).zip(registers).collect();
    // Device first: the others are the selected device's.
    s.out(&[writes[5]]).out(&writes[..5]).out(&[writes[6]])
}

fn ide_seeds(s: &mut Seeds) {
    ata(s, 0x1F0, [0, 0, 0, 0, 0, 0xE0, 0xEC]).ins(0x1F0, 1, 128).save().ins(0x1F0, 1, 128).read(&[0x1F7]);
    // READ and WRITE SECTORS, MULTIPLE, EXT.
    ata(s.another(), 0x1F0, [0, 2, 1, 0, 0, 0xE0, 0x20]).ins(0x1F0, 2, 64).save().ins(0x1F0, 2, 200);
    ata(s.another(), 0x1F0, [0, 2, 5, 0, 0, 0xE0, 0x30])
        .outs(0x1F0, 1, &[7; 512])
        .save()
        .outs(0x1F0, 1, &[8; 700]);
    ata(s, 0x1F0, [0, 1, 5, 0, 0, 0xE0, 0x20]).ins(0x1F0, 2, 128).read(&[0x1F1, 0x1F7]);
    ata(s.another(), 0x1F0, [0, 8, 0, 0, 0, 0xE0, 0xC6]);
    ata(s, 0x1F0, [0, 8, 0, 0, 0, 0xE0, 0xC4]).ins(0x1F0, 1, 300).save();
    ata(s, 0x1F0, [0, 9, 1, 0, 0, 0xA0, 0xC5]).outs(0x1F0, 1, &[1; 1200]).read(&[0x1F7]);
    // DMA: a table of two entries.
    let table = [0u32.to_le_bytes(), [0, 2, 0, 0], 0x4000u32.to_le_bytes(), [0, 4, 0, 0x80]].concat();
    for (command, direction) in [(0xC8, 8), (0xCA, 0)] {
        s.another().ram(0x3000, &table).out32(BM + 4, 0x3000).out(&[(BM, direction), (BM + 2, 6)]);
        ata(s, 0x1F0, [0, 3, 1, 0, 0, 0xE0, command]).save().out(&[(BM, direction | 1)]).wait(1_000_000);
        s.read(&[BM + 2, 0x1F7]).out(&[(BM, direction)]);
    }
    for command in
        [0x10, 0x40, 0x70, 0x90, 0x91, 0xE0, 0xE1, 0xE7, 0xEF, 0xF8, 0xFE, 0xB0, 0x24, 0x25, 0x29, 0x35]
    {
        ata(s.another(), 0x1F0, [2, 1, 1, 1, 0, 0xF0, command]).read(&[0x1F7, 0x1F1]).save().ins(0x1F0, 0, 9);
    }
    s.another().out(&[(0x3F6, 6), (0x3F6, 0)]).wait(3_000_000).read(&[0x3F6, 0x1F7, 0x1F2, 0x1F4, 0x1F5]);
    // CD-ROM: packets.
    for packet in [
        [0u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0x03, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0],
        [0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0],
        [0x1B, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0x28, 0, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0],
        [0x43, 2, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0],
        [0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0, 0, 0],
        [0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 99, 0, 0, 0],
        [0xA8, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0],
        [0xBE, 0, 0, 0, 0, 1, 0, 0, 1, 0xF8, 0, 0],
        [0x46, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0],
    ] {
        ata(s.another(), 0x170, [0, 0, 0, 0, 4, 0xA0, 0xA0])
            .outs(0x170, 1, &packet)
            .read(&[0x177, 0x172, 0x174]);
        s.save().ins(0x170, 1, 512).host(0, &[4]).ins(0x170, 2, 512).read(&[0x177, 0x171]);
    }
    // The same with DMA.
    s.another().ram(0x3000, &table).out32(BM + 12, 0x3000).out(&[(BM + 8, 9)]);
    ata(s, 0x170, [1, 0, 0, 0, 0, 0xA0, 0xA0]).outs(0x170, 1, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    s.wait(1_000_000).save().read(&[BM + 10, 0x177]);
}

/// Two disks of odd sizes and a CD-ROM drive; the host changes the CD.
pub fn ide() -> Subject<IdeController> {
    Subject {
        ports: IdeController::PORTS.to_vec(),
        mmio: Vec::new(),
        make: |_| {
            let lines = [14, 15].map(IrqLine::wired_to);
            IdeController::new(lines, [some(700 * 512 + 9), some(4096)], some(9 * 2048))
        },
        host: |ide, _, _, _| u64::from(ide.has_cd()) | u64::from(ide.has_primary()) << 1,
        virtio: None,
        saved: true,
        seeds: ide_seeds,
    }
}

/// The same, with a CD that comes and goes, which snapshots know nothing of: nothing is saved.
pub fn ide_cd() -> Subject<IdeController> {
    Subject {
        host: |ide, board, kind, _| {
            let cd = (kind & 1 != 0).then(|| disk(usize::from(kind) * 1000));
            ide.change_cd(&mut board.ctx(), cd);
            ide.has_cd().into()
        },
        saved: false,
        ..ide()
    }
}

fn floppy_seeds(s: &mut Seeds) {
    const DATA: u16 = 0x3F5;
    let command = |s: &mut Seeds, bytes: &[u8]| bytes.iter().for_each(|b| _ = s.out(&[(DATA, *b)]));
    let start = |s: &mut Seeds| {
        s.dma(2, 0x4000, 1024).out(&[(0x3F2, 8), (0x3F2, 0x1C)]).wait(1_000_000);
        for _ in 0..4 {
            command(s, &[8]);
            s.read(&[DATA, DATA]);
        }
        command(s, &[3, 0xDF, 2]);
    };
    let commands: &[&[u8]] = &[
        &[7, 0],
        &[0x0F, 0, 5],
        &[0xE6, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF],
        &[0xC5, 0, 1, 0, 3, 2, 18, 0x1B, 0xFF],
        &[0x4D, 0, 2, 18, 0x54, 0xF6],
        &[0x4A, 0],
        &[4, 0],
        &[0x10],
        &[0x0E],
        &[0x13, 0, 0x57, 0],
        &[0x94],
        &[0x12, 1],
        &[0xE2, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF],
        &[0xD1, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF],
        &[0x18],
        &[0xFF],
    ];
    for bytes in commands {
        start(s.another());
        command(s, bytes);
        s.wait(2_000_000).save().wait(300_000_000).read(&[0x3F4]);
        s.read(&[DATA; 8]).out(&[(DATA, 8)]).read(&[DATA, DATA, 0x3F7]);
    }
    // Without DMA.
    start(s.another());
    command(s, &[3, 0xDF, 3]);
    command(s, &[0x46, 0, 0, 0, 1, 2, 1, 0x1B, 0xFF]);
    s.wait(100_000_000).read(&[0x3F4, DATA, DATA]).save().read(&[DATA, DATA, 0x3F4]);
}

/// A controller with a 1.44 MB disk.
pub fn floppy() -> Subject<Floppy> {
    Subject {
        ports: Floppy::PORTS.to_vec(),
        mmio: Vec::new(),
        make: |_| {
            let mut floppy = Floppy::new(IrqLine::wired_to(6));
            floppy.insert(0, disk(1_474_560), false).expect("a standard format");
            floppy
        },
        host: |floppy, _, kind, _| floppy.drive_type(usize::from(kind & 1)).into(),
        virtio: None,
        saved: true,
        seeds: floppy_seeds,
    }
}
