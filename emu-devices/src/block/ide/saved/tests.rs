use super::super::super::backend::{BlockBackend, MemoryDisk, SAVED_BLOCK};
use super::super::super::test_rig::{PRIMARY, Rig, SECONDARY, pattern};
use super::*;
use crate::device::{Device, ResetKind};
use crate::limits::{DISK_WINDOW, IDE_SAVED_TRANSFER};
use crate::snapshot_conformance;
use crate::testing::TestBoard;

const DISK: usize = 600 * 512;
const DISC: usize = 100 * 2048;

fn boxed(image: Vec<u8>) -> Box<dyn BlockBackend> {
    Box::new(MemoryDisk::new(image))
}

fn both() -> IdeController {
    let disks = [Some(boxed(pattern(DISK))), None];
    IdeController::new([PRIMARY, SECONDARY], disks, Some(boxed(pattern(DISC))))
}

/// A disk in the middle of a long write, a CD-ROM drive in the middle of a read.
fn exercise(ide: &mut IdeController, board: &mut TestBoard) {
    let mut rig = Rig { board: std::mem::take(board), ide: std::mem::replace(ide, both()) };
    rig.outb(0x3F6, 0);
    rig.outb(0x376, 0);
    rig.lba28(7, 1);
    rig.outb(0x1F7, CMD_WRITE);
    rig.write_bytes(0x1F0, &[0xA5; 512]);
    rig.outb(0x1F2, 4);
    rig.outb(0x1F7, CMD_SET_MULTIPLE);
    rig.outb(0x1F1, 3);
    rig.lba48(0x21, 30);
    rig.outb(0x1F7, CMD_WRITE_EXT);
    rig.write_bytes(0x1F0, &[0x5A; 8 * 512 + 100]);
    rig.outl(IdeController::BUS_MASTER_BASE + BM_PRD, 0x8765_4320);
    assert_eq!(rig.packet(&[0x4A]), Err(SENSE_INVALID_FIELD));
    rig.send_packet(&[PKT_READ_10, 0, 0, 0, 0, 2, 0, 0, 90], 0x8000, 0);
    rig.read_bytes(0x170, 0x8000 + 20);
    (*board, *ide) = (rig.board, rig.ide);
}

snapshot_conformance!(
    ide_snapshot_conformance,
    make: both,
    exercise: exercise,
    ignored: &[
        // Where the channel is.
        &[0, 2], &[0, 3], &[0, 5], &[0, 7], &[1, 2], &[1, 3], &[1, 5], &[1, 7],
        // Always 0.
        &[0, 0, 5], &[0, 0, 6], &[0, 0, 7], &[0, 0, 8], &[0, 1, 5], &[0, 1, 6], &[0, 1, 7], &[0, 1, 8],
        &[1, 0, 5], &[1, 0, 6], &[1, 0, 7], &[1, 0, 8], &[1, 1, 5], &[1, 1, 6], &[1, 1, 7], &[1, 1, 8],
        // Copies of bits of the device register.
        &[0, 0, 11], &[0, 1, 11], &[1, 0, 11], &[1, 1, 11], &[0, 0, 14], &[0, 1, 14], &[1, 0, 14], &[1, 1, 14],
        // Follows from what is connected.
        &[0, 0, 20], &[0, 1, 20], &[1, 0, 20], &[1, 1, 20],
    ],
);

fn restored(ide: IdeController, state: DeviceState) -> Rig {
    let mut rig = Rig { board: TestBoard::new(), ide };
    rig.board.power_up(&mut rig.ide, 4);
    rig.ide.restore(&mut rig.board.ctx(), state).unwrap();
    rig
}

fn save(rig: &mut Rig) -> DeviceState {
    rig.ide.save(&mut rig.board.ctx())
}

fn copy(state: &DeviceState, with_extra: bool) -> DeviceState {
    let extra = if with_extra { state.extra.clone() } else { Value::Null };
    DeviceState { v86: state.v86.clone(), extra }
}

fn at<'a>(value: &'a mut Value, path: &[usize]) -> &'a mut Value {
    path.iter().fold(value, |value, &n| match value {
        Value::Array(items) => &mut items[n],
        other => panic!("{other:?}"),
    })
}

/// The secondary channel as v86 0.5.462 saved it with an empty CD-ROM drive, while Linux' PACKET for
/// REQUEST SENSE waits for the packet.
fn linux() -> Value {
    values![
        values![
            1,
            0,
            0,
            18,
            0,
            0,
            0,
            0,
            0,
            160,
            0,
            0,
            1,
            true,
            0,
            0,
            Value::bytes(vec![0; 65536]),
            12,
            0,
            0,
            2048,
            128,
            0,
            88,
            0,
            160,
            12,
            0,
            Value::Null
        ],
        values![
            0,
            0,
            0,
            18,
            0,
            0,
            0,
            0,
            0,
            160,
            1,
            0,
            0,
            Value::Null,
            0,
            0,
            Value::bytes(vec![0; 65536]),
            0,
            0,
            0,
            512,
            128,
            0,
            80,
            0,
            -1,
            0,
            -1,
            Value::Null
        ],
        0x170,
        15,
        Value::Null,
        0x376,
        Value::Null,
        Value::text("ide1"),
        10,
        0,
        0,
        true,
        0,
    ]
}

#[test]
fn ide_array_of_v86_comes_back_and_the_packet_it_waits_for_is_taken() {
    let v86 = values![Value::Null, linux()];
    let mut rig =
        restored(IdeController::new([PRIMARY, SECONDARY], [None, None], None), DeviceState::v86(v86.clone()));
    let state = save(&mut rig);
    assert_eq!(state.v86, v86);
    let own = values![0, 0, 0, 0, 0, true];
    let absent = values![0, 0, 0, 0, 0, false];
    assert_eq!(state.extra, values![1, values![Value::Null, values![false, own, absent]]]);
    assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0x58, 1));
    rig.write_packet(&[PKT_REQUEST_SENSE, 0, 0, 0, 18]);
    assert_eq!((rig.inb(0x177), rig.inb(0x172), rig.inb(0x174)), (0x58, 2, 16));
    assert_eq!(rig.read_bytes(0x170, 18)[..3], [0xF0, 0, 0]);
    assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0x50, 3));
}

#[test]
fn ide_array_at_power_up_is_v86s() {
    let mut rig = Rig::new(Some(vec![0; 4096]), None);
    rig.board.power_up(&mut rig.ide, 4);
    let DeviceState { mut v86, .. } = save(&mut rig);
    let disk =
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 8, 512, 128, 63, 0x50, 0, -1, 0, -1, 0];
    for (n, expected) in disk.into_iter().enumerate() {
        let expected = match n {
            13 => Value::Bool(false),
            16 => Value::bytes(vec![0; 65536]),
            28 => values![Value::Array(vec![])],
            _ => Value::Int(expected),
        };
        assert_eq!(*at(&mut v86, &[0, 0, n]), expected, "element {n}");
    }
    let channel = [0x1F0, 14, -1, 0x3F6, -1, -1, 2, 0, 0];
    for (n, expected) in (2..).zip(channel).filter(|(_, expected)| *expected >= 0) {
        assert_eq!(*at(&mut v86, &[0, n]), Value::Int(expected), "element {n}");
    }
    assert_eq!(
        (at(&mut v86, &[0, 7]).clone(), at(&mut v86, &[0, 11]).clone()),
        (Value::text("ide0"), Value::Bool(true))
    );
    // The CD-ROM drive, as in a fresh v86.
    assert_eq!(*at(&mut v86, &[1, 0, 12]), Value::Int(1));
    assert_eq!(*at(&mut v86, &[1, 0, 23]), Value::Int(0x50));
    assert_eq!(*at(&mut v86, &[1, 0, 28]), Value::Null);
}

#[test]
fn ide_saved_in_a_read_goes_on_with_and_without_our_own_part() {
    for with_extra in [true, false] {
        let mut rig = Rig::new(Some(pattern(DISK)), None);
        rig.outb(0x3F6, 0);
        rig.outb(0x1F2, 100);
        rig.outb(0x1F7, CMD_SET_MULTIPLE);
        rig.lba48(7, 550);
        rig.outb(0x1F7, CMD_READ_MULTIPLE_EXT);
        let mut got = rig.read_bytes(0x1F0, 100 * 512 + 30);
        let mut state = save(&mut rig);
        // From the window on, v86 has all of it.
        assert_eq!(*at(&mut state.v86, &[0, 0, 17]), Value::Int(550 * 512));
        assert_eq!(*at(&mut state.v86, &[0, 0, 4]), Value::Int(100 * 512 + 30));
        assert_eq!(*at(&mut state.v86, &[0, 0, 26]), Value::Int(200 * 512));
        let mut rig = restored(both(), copy(&state, with_extra));
        assert!(!with_extra || rig.board.irq.is_high(PRIMARY), "the block's interrupt was not acknowledged");
        got.extend(rig.read_bytes(0x1F0, 550 * 512 - got.len()));
        assert_eq!(got, pattern(DISK)[7 * 512..557 * 512]);
        assert_eq!((rig.inb(0x1F7), rig.inb(0x1F2)), (0x50, 0));
    }
}

#[test]
fn ide_saved_in_a_write_goes_on_with_and_without_our_own_part() {
    for with_extra in [true, false] {
        let mut rig = Rig::new(Some(pattern(DISK)), None);
        rig.lba48(20, 400);
        rig.outb(0x1F7, CMD_WRITE_EXT);
        let data: Vec<u8> = pattern(400 * 512).iter().map(|b| !b).collect();
        let first = DISK_WINDOW + 5 * 512 + 8;
        rig.write_bytes(0x1F0, &data[..first]);
        let mut state = save(&mut rig);
        assert_eq!(*at(&mut state.v86, &[0, 0, 24]), Value::Int(20 * 512 + DISK_WINDOW as i64));
        assert_eq!(*at(&mut state.v86, &[0, 0, 17]), Value::Int((data.len() - DISK_WINDOW) as i64));
        let mut rig = restored(both(), copy(&state, with_extra));
        rig.write_bytes(0x1F0, &data[first..]);
        assert_eq!((rig.inb(0x1F7), rig.inb(0x1F2), rig.inb(0x1F3)), (0x50, 0, 420u16 as u8));
        rig.lba48(20, 400);
        rig.outb(0x1F7, CMD_READ_EXT);
        assert_eq!(rig.read_bytes(0x1F0, data.len()), data);
    }
}

#[test]
fn ide_saved_before_the_bus_master_starts_moves_the_data_afterwards() {
    for with_extra in [true, false] {
        let mut rig = Rig::new(None, Some(pattern(DISC)));
        rig.outb(0x376, 0);
        rig.send_packet(&[PKT_READ_10, 0, 0, 0, 0, 9, 0, 0, 2], 0, 1);
        let mut state = save(&mut rig);
        assert_eq!(*at(&mut state.v86, &[1, 0, 17]), Value::Int(4096));
        let mut rig = restored(both(), copy(&state, with_extra));
        for (addr, word) in [(0x1000, 0x2_0000u32), (0x1004, 0x8000_1000)] {
            assert!(rig.board.mem.dma_write(addr, &word.to_le_bytes()));
        }
        rig.outl(IdeController::BUS_MASTER_BASE + 8 + BM_PRD, 0x1000);
        rig.outb(IdeController::BUS_MASTER_BASE + 8, 9);
        assert_eq!(rig.board.mem.dma_slice(0x2_0000, 4096).unwrap(), &pattern(DISC)[9 * 2048..11 * 2048]);
        assert!(rig.board.irq.is_high(SECONDARY));
        assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0x50, 3));
    }
}

#[test]
fn ide_command_that_v86_left_busy_or_in_dma_is_carried_out() {
    // READ SECTORS while the host loads them.
    let mut rig = Rig::new(Some(pattern(DISK)), None);
    rig.outb(0x3F6, 0);
    rig.lba28(5, 2);
    let mut state = save(&mut rig);
    *at(&mut state.v86, &[0, 0, 23]) = 0xC0.into();
    *at(&mut state.v86, &[0, 0, 25]) = 0x20.into();
    let mut rig = restored(both(), copy(&state, false));
    assert!(rig.board.irq.is_high(PRIMARY));
    assert_eq!(rig.inb(0x1F7), 0x58);
    assert_eq!(rig.read_bytes(0x1F0, 1024), pattern(DISK)[5 * 512..7 * 512]);

    // READ DMA, bus master started.
    *at(&mut state.v86, &[0, 0, 23]) = 0x58.into();
    *at(&mut state.v86, &[0, 0, 25]) = 0xC8.into();
    *at(&mut state.v86, &[0, 9]) = 0x1000.into();
    *at(&mut state.v86, &[0, 10]) = 1.into();
    for started in [false, true] {
        *at(&mut state.v86, &[0, 12]) = if started { 9.into() } else { 8.into() };
        let mut rig = Rig { board: TestBoard::new(), ide: both() };
        rig.board.power_up(&mut rig.ide, 4);
        for (addr, word) in [(0x1000, 0x2_0000u32), (0x1004, 0x8000_0400)] {
            assert!(rig.board.mem.dma_write(addr, &word.to_le_bytes()));
        }
        rig.ide.restore(&mut rig.board.ctx(), copy(&state, false)).unwrap();
        assert_eq!(rig.board.irq.is_high(PRIMARY), started);
        if !started {
            assert_eq!(rig.inb(IdeController::BUS_MASTER_BASE + BM_STATUS), 1);
            rig.outb(IdeController::BUS_MASTER_BASE, 9);
        }
        assert_eq!(rig.board.mem.dma_slice(0x2_0000, 1024).unwrap(), &pattern(DISK)[5 * 512..7 * 512]);
        assert_eq!(rig.inb(IdeController::BUS_MASTER_BASE + BM_STATUS), BM_INTERRUPT);
    }

    // READ (10) while the host loads it.
    let mut rig = Rig::new(None, Some(pattern(DISC)));
    let mut state = save(&mut rig);
    let mut buffer = vec![0; 65536];
    buffer[..9].copy_from_slice(&[PKT_READ_10, 0, 0, 0, 0, 3, 0, 0, 1]);
    for (n, value) in [(16, Value::bytes(buffer)), (23, 0xD0.into()), (25, 0xA0.into()), (27, 0x28.into())] {
        *at(&mut state.v86, &[1, 0, n]) = value;
    }
    let mut rig = restored(both(), copy(&state, false));
    assert_eq!((rig.inb(0x177), rig.inb(0x174), rig.inb(0x175)), (0x58, 0, 8));
    assert_eq!(rig.read_bytes(0x170, 2048), pattern(DISC)[3 * 2048..4 * 2048]);
}

#[test]
fn ide_disk_of_blocks_changes_the_image_and_whole_disk_replaces_it() {
    let mut rig = Rig::new(Some(pattern(DISK)), None);
    rig.lba28(3, 1);
    rig.outb(0x1F7, CMD_WRITE);
    rig.write_bytes(0x1F0, &[0x11; 512]);
    let mut state = save(&mut rig);
    let block = Value::bytes([0x11; SAVED_BLOCK]);
    assert_eq!(*at(&mut state.v86, &[0, 0, 28]), values![vec![values![6, block.clone()], values![7, block]]]);
    let read = |rig: &mut Rig, lba| {
        rig.lba28(lba, 1);
        rig.outb(0x1F7, CMD_READ);
        rig.read_bytes(0x1F0, 512)
    };
    let mut rig = restored(both(), copy(&state, true));
    assert_eq!(read(&mut rig, 3), [0x11; 512]);
    assert_eq!(read(&mut rig, 4), pattern(DISK)[4 * 512..5 * 512]);

    // v86's form of a disk in memory, also where the machine has none.
    let image: Vec<u8> = (0..8 * 512).map(|n| (n / 512) as u8 + 1).collect();
    *at(&mut state.v86, &[0, 0, 28]) = values![image.len() as i64, Value::bytes(image.clone())];
    for ide in [both(), IdeController::new([PRIMARY, SECONDARY], [None, None], None)] {
        let mut rig = restored(ide, copy(&state, false));
        assert_eq!(read(&mut rig, 5), [6; 512]);
        rig.lba28(5, 1);
        rig.outb(0x1F7, CMD_WRITE);
        rig.write_bytes(0x1F0, &[0x99; 512]);
        let mut again = save(&mut rig);
        let mut expected = image.clone();
        expected[5 * 512..6 * 512].fill(0x99);
        assert_eq!(*at(&mut again.v86, &[0, 0, 28]), values![image.len() as i64, Value::bytes(expected)]);
        rig.ide.reset(&mut rig.board.ctx(), ResetKind::Cold);
        assert_eq!(read(&mut rig, 5), [0x99; 512], "it stays the machine's disk");
    }

    // Without the image, blocks are of no use.
    *at(&mut state.v86, &[0, 0, 28]) = values![Value::Array(vec![])];
    let mut rig = restored(IdeController::new([PRIMARY, SECONDARY], [None, None], None), copy(&state, false));
    assert_eq!(rig.inb(0x1F7), 0xFF);
}

#[test]
fn ide_image_that_is_no_image_is_refused_where_it_is() {
    let mut rig = Rig::new(Some(pattern(DISK)), None);
    let state = save(&mut rig);
    for (medium, path) in [
        (values![513, Value::bytes([0; 512])], vec![0, 0, 28, 0]),
        (values![512, Value::u16s(&[0; 256])], vec![0, 0, 28, 1]),
        (values![vec![values![1, Value::bytes([0; 255])]]], vec![0, 0, 28, 0, 0, 1]),
        (values![vec![values![-1, Value::bytes([0; 256])]]], vec![0, 0, 28, 0, 0, 0]),
    ] {
        let mut state = copy(&state, false);
        *at(&mut state.v86, &[0, 0, 28]) = medium;
        let mut rig = Rig { board: TestBoard::new(), ide: both() };
        assert_eq!(rig.ide.restore(&mut rig.board.ctx(), state).unwrap_err().path, path);
    }
}

#[test]
fn ide_disc_put_in_since_is_told_as_a_change_and_an_ejected_one_stays_out() {
    let mut rig = Rig::new(None, Some(pattern(DISC)));
    rig.outb(0x376, 0);
    assert_eq!(rig.packet(&[PKT_START_STOP, 0, 0, 0, 2]), Ok(vec![]));
    let state = save(&mut rig);
    let mut rig = restored(both(), copy(&state, true));
    assert!(!rig.ide.has_cd());
    assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_NO_MEDIUM));
    // From v86, whose guest knows of no disc.
    let mut rig = restored(both(), DeviceState::v86(values![Value::Null, linux()]));
    rig.outb(0x177, CMD_DEVICE_RESET);
    assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_NO_MEDIUM));
    assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_CHANGED));
    assert_eq!(rig.packet(&[PKT_READ_CAPACITY]).unwrap(), [0, 0, 0, 99, 0, 0, 8, 0]);
}

#[test]
fn ide_sense_and_change_survive() {
    let mut rig = Rig::new(None, None);
    rig.ide.change_cd(&mut rig.board.ctx(), Some(boxed(pattern(DISC))));
    rig.send_packet(&[PKT_TEST_UNIT_READY], 0xFFFE, 0);
    let mut state = save(&mut rig);
    assert_eq!(*at(&mut state.extra, &[1, 1, 1]), values![2, 0x3A, 1, 0, 0, false]);
    let mut rig = restored(both(), state);
    let sense = rig.packet(&[PKT_REQUEST_SENSE, 0, 0, 0, 18]).unwrap();
    assert_eq!((sense[2], sense[12]), SENSE_NO_MEDIUM);
    assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_CHANGED));
}

#[test]
fn ide_transfer_larger_than_what_is_saved_goes_on_from_the_medium() {
    let disc = || {
        let mut disc = MemoryDisk::with_len(Vec::new(), 48 << 20);
        disc.write(40 << 20, &[0xCD; 4]).unwrap();
        Some(Box::new(disc) as Box<dyn BlockBackend>)
    };
    let sectors = (44u32 << 20) / 2048;
    let mut rig =
        Rig { board: TestBoard::new(), ide: IdeController::new([PRIMARY, SECONDARY], [None, None], disc()) };
    let [a, b, c, d] = sectors.to_be_bytes();
    rig.send_packet(&[PKT_READ_12, 0, 0, 0, 0, 0, a, b, c, d], 0xF000, 0);
    rig.read_bytes(0x170, 0xF000);
    let mut state = save(&mut rig);
    assert_eq!(*at(&mut state.v86, &[1, 0, 17]), Value::Int(IDE_SAVED_TRANSFER as i64));
    let ide = IdeController::new([PRIMARY, SECONDARY], [None, None], disc());
    let mut rig = restored(ide, copy(&state, true));
    assert_eq!(save(&mut rig), state);
    let rest = rig.read_bytes(0x170, (44 << 20) - 0xF000);
    let at = (40 << 20) - 0xF000;
    assert_eq!((rest[at - 1], &rest[at..at + 4], rest[at + 4]), (0, &[0xCD; 4][..], 0));
    assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0x50, 3));
}

/// A channel as machines saved it until May 2025: drives have 28 elements.
fn old_channel(base: i64, cd: bool) -> Value {
    let mut channel = linux();
    for drive in [0, 1] {
        let Value::Array(elements) = at(&mut channel, &[drive]) else { panic!() };
        elements.truncate(28);
        elements[13] = (cd && drive == 0).into();
        elements[16] = Value::bytes([0; 12]);
        if !cd && drive == 0 {
            for (n, value) in [(0, 0), (1, 0), (12, 16), (19, 600), (20, 512), (22, 63), (23, 0x50), (25, -1)]
            {
                elements[n] = value.into();
            }
        }
    }
    *at(&mut channel, &[2]) = base.into();
    *at(&mut channel, &[5]) = (base | 0x204).into();
    channel
}

#[test]
fn ide_old_slot_of_a_cd_puts_the_drive_on_the_primary_channel() {
    let state = DeviceState::v86(IdeController::from_old_slots(old_channel(0x1F0, true), Value::Null));
    let ide = IdeController::new([PRIMARY, SECONDARY], [None, None], Some(boxed(pattern(DISC))));
    let mut rig = restored(ide, state);
    assert!(rig.ide.has_cd());
    rig.outb(0x3F6, 0);
    assert_eq!((rig.inb(0x1F7), rig.inb(0x1F2)), (0x58, 1));
    rig.write_bytes(0x1F0, &[PKT_READ_CAPACITY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(rig.board.irq.is_high(PRIMARY));
    assert_eq!(rig.read_bytes(0x1F0, 8), [0, 0, 0, 99, 0, 0, 8, 0]);
    assert_eq!(rig.inb(0x177), 0xFF);
    rig.ide.change_cd(&mut rig.board.ctx(), None);
    assert!(!rig.ide.has_cd());
}

#[test]
fn ide_old_slot_of_a_disk_is_the_primary_channel_with_the_machines_disk() {
    let v86 = IdeController::from_old_slots(Value::Null, old_channel(0x1F0, false));
    let mut rig = restored(both(), DeviceState::v86(v86));
    rig.lba28(599, 1);
    rig.outb(0x1F7, CMD_READ);
    assert_eq!(rig.read_bytes(0x1F0, 512), pattern(DISK)[599 * 512..]);
    assert_eq!(rig.inb(0x177), 0x59, "as after power-up");
}

#[test]
fn ide_old_slots_of_both_are_placed_by_their_ports_and_none_is_nothing() {
    let (cd, disk) = (old_channel(0x170, true), old_channel(0x1F0, false));
    assert_eq!(IdeController::from_old_slots(cd.clone(), disk.clone()), values![disk.clone(), cd]);
    let cd = old_channel(0x1F0, true);
    assert_eq!(IdeController::from_old_slots(cd.clone(), disk), values![cd, Value::Null]);
    assert_eq!(IdeController::from_old_slots(Value::Null, Value::Null), Value::Null);
    let nonsense = Value::text("x");
    assert_eq!(IdeController::from_old_slots(nonsense.clone(), Value::Null), values![nonsense, Value::Null]);
}
