use emu_core::bus::AccessSize;

use super::*;
use crate::device::Device;
use crate::testing::TestBoard;

const MIB: usize = 1 << 20;

fn make() -> Vga {
    Vga::new(MIB)
}

fn powered() -> (TestBoard, Vga) {
    let (mut board, mut card) = (TestBoard::new(), make());
    board.power_up(&mut card, 1);
    (board, card)
}

fn restored(state: DeviceState) -> (TestBoard, Vga) {
    let (mut board, mut card) = powered();
    card.restore(&mut board.ctx(), state).unwrap();
    (board, card)
}

fn dispi(board: &mut TestBoard, card: &mut Vga, index: u32, value: u32) {
    card.port_write(&mut board.ctx(), PORT_DISPI_INDEX, AccessSize::Word, index);
    card.port_write(&mut board.ctx(), PORT_DISPI_DATA, AccessSize::Word, value);
}

fn read_dispi(board: &mut TestBoard, card: &mut Vga, index: u32) -> u32 {
    card.port_write(&mut board.ctx(), PORT_DISPI_INDEX, AccessSize::Word, index);
    board.port_in(card, PORT_DISPI_DATA, AccessSize::Word)
}

fn elements(state: DeviceState) -> Vec<Value> {
    let Value::Array(items) = state.v86 else { panic!("no array") };
    items
}

/// Compares element by element (whole arrays are too long to print).
fn assert_same(left: &[Value], right: &[Value], except: &[usize]) {
    assert_eq!(left.len(), right.len());
    let different = (0..left.len()).find(|at| !except.contains(at) && left[*at] != right[*at]);
    assert_eq!(different, None, "the first element that differs");
}

/// Every register with a value of its own, and something in all memories.
fn exercise(card: &mut Vga, board: &mut TestBoard) {
    card.set_text_mode_3();
    board.advance(card, 7_000_000);
    for (port, indexes) in [(PORT_SEQ_INDEX, 1..5u32), (PORT_GC_INDEX, 0..9), (PORT_CRTC_INDEX, 0..0x19)] {
        for index in indexes {
            let value = index * 7 + 0x21;
            card.port_write(&mut board.ctx(), port, AccessSize::Word, value << 8 | index);
        }
    }
    board.inb(card, PORT_STATUS);
    for index in 0..0x15 {
        board.outb(card, PORT_ATTR, index);
        board.outb(card, PORT_ATTR, index + 0x40);
    }
    board.outb(card, PORT_ATTR, 0x33);
    for (port, value) in [(PORT_MISC_WRITE, 0xE3), (PORT_DAC_MASK, 0x7F), (PORT_DAC_WRITE, 9)] {
        board.outb(card, port, value);
    }
    for value in 0..40 {
        board.outb(card, PORT_DAC_DATA, value);
    }
    board.outb(card, PORT_DAC_READ, 5);
    board.inb(card, PORT_DAC_DATA);
    for (plane, byte) in [(0, 0x11), (0xFFFF, 0x22), (0x2_8000, 0x33), (0x3_FFFF, 0x44)] {
        card.planes.bytes[plane] = byte;
    }
    card.planes.latch = 0x8899_AABB;
    for (index, value) in
        [(0, 0xB0C4), (1, 320), (2, 200), (3, 16), (4, 0x61), (8, 3), (9, 5), (5, 0x8001), (1, 512)]
    {
        dispi(board, card, index, value);
    }
    // The last byte that was written is 0.
    card.mmio_write(&mut board.ctx(), LFB_BASE + 0x3_0000, AccessSize::Dword, 0x0055_AA55);
}

crate::snapshot_conformance!(
    vga_snapshot_conformance,
    make: make,
    exercise: exercise,
    ignored: &[],
);

#[test]
fn vga_saved_array_is_the_one_v86_expects() {
    let (mut board, mut card) = powered();
    let fresh = elements(card.save(&mut board.ctx()));
    let z = || Value::Int(0);
    let expected = values![
        1 << 20,
        0,
        14,
        15,
        80,
        25,
        Value::bytes(vec![0; 262_144]),
        0,
        0,
        false,
        Value::i32s(&[0; 256]),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        false,
        32,
        0,
        0,
        0,
        0,
        0,
        Value::bytes([0; 16]),
        -1,
        15,
        0,
        -1,
        0,
        0,
        0,
        255,
        0,
        255,
        0,
        0,
        0,
        Value::bytes([]),
        Value::Null,
        -1,
        0,
        0,
        0,
        0,
        Value::bytes([0; 25]),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        32,
        z(),
        z(),
        z(),
        z(),
        z(),
        z(),
        Value::Null,
        255,
        0,
        false,
    ];
    let Value::Array(expected) = expected else { panic!("no array") };
    assert_same(&fresh, &expected, &[]);

    exercise(&mut card, &mut board);
    let items = elements(card.save(&mut board.ctx()));
    assert_eq!(items.len(), 65);
    let number = |at: usize| match &items[at] {
        Value::Int(n) => *n,
        Value::Bool(b) => i64::from(*b),
        other => panic!("{at}: {other:?}"),
    };
    let expect = [
        (0, 1 << 20),
        (1, 0x838A),
        (2, 0x67),
        (3, 0x6E),
        (7, 0),
        (8, 0x757C),
        (9, 1),
        (11, -0x7766_5545),
        (12, 0x2F),
        (13, 0x52),
        (14, 0x4B),
        (15, 512),
        (16, 200),
        (17, 0xC2),
        (18, 1),
        (19, 16),
        (20, i64::from(0x8001_0000u32 as i32)),
        (21, 5 * 512 + 3),
        (22, 0x18),
        (23, 27 + 40),
        (24, 16),
        (26, 4),
        (27, 0x2F),
        (28, 0x3D),
        (29, 8),
        (30, 0x3D),
        (31, 0x44),
        (32, 0x36),
        (33, 0x59),
        (34, 0x60),
        (35, 0xE3),
        (37, 1),
        (38, 0x61),
        (41, 0x13),
        (42, 0xA6),
        (43, 0x21),
        (44, 0x28),
        (45, 0x757C),
        (47, 0x28),
        (48, 0x2F),
        (51, 0xAD),
        (52, 0x59),
        (53, 0xA6),
        (54, 0x20),
        (55, 0x50),
        (56, 0x52),
        (57, 3),
        (58, 0x54),
        (59, 0x28),
        (62, 0x7F),
        (63, 0x36),
        (64, 1),
    ];
    for (at, value) in expect {
        assert_eq!(number(at), value, "element {at}");
    }
    let Value::Typed(memory) = &items[39] else { panic!("no memory") };
    assert_eq!((memory.data.len(), memory.data[0x3_0002]), (0x3_0003, 0x55));
    assert_eq!((&items[40], &items[61]), (&Value::Null, &Value::Null));
}

/// A v86 in text mode 3 as its BIOS leaves it, with "v86" at the left of the second row.
fn text_mode(board: &mut TestBoard) -> Vec<Value> {
    let mut card = make();
    board.power_up(&mut card, 1);
    card.set_text_mode_3();
    for (n, byte) in (0..).zip(*b"v86") {
        card.mmio_write(&mut board.ctx(), 0xB80A0 + 2 * n, AccessSize::Word, 0x1700 | u32::from(byte));
    }
    let mut items = elements(card.save(&mut board.ctx()));
    items[39] = Value::bytes(vec![0; MIB]);
    items[36] = Value::Int(4);
    items[61] = Value::bytes(vec![0; 524_288]);
    items
}

#[test]
fn vga_of_a_v86_guest_shows_the_text_and_the_registers() {
    let (mut board, _) = powered();
    let (mut board, mut card) = restored(DeviceState::v86(Value::Array(text_mode(&mut board))));
    // Unchanged but for the status phase, the cache, and zeros at the end of the frame buffer.
    let saved = elements(card.save(&mut board.ctx()));
    assert_same(&saved, &text_mode(&mut board), &[36, 39, 61]);
    assert_eq!((&saved[39], &saved[61]), (&Value::bytes([]), &Value::Null));
    assert!(card.take_changed(), "the host has to draw");
    assert_eq!(card.text_screen()[..3], ["", "v86", ""]);
    assert_eq!(card.picture_size(), (720, 400));
    for (index, value) in [(0x01, 0x4F), (0x09, 0x4F), (0x12, 0x8F), (0x13, 0x28), (0x07, 0x1F)] {
        board.outb(&mut card, PORT_CRTC_INDEX, index);
        assert_eq!(board.inb(&mut card, PORT_CRTC_DATA), value, "CRTC {index:#x}");
    }
    assert_eq!(card.mmio_read(&mut board.ctx(), 0xB80A0, AccessSize::Dword), Some(0x1738_1776));
    assert_eq!(board.inb(&mut card, PORT_MISC_READ), 0x67);
}

#[test]
fn vga_of_a_v86_guest_in_an_extended_mode_goes_on_in_it() {
    let (mut board, mut card) = powered();
    for (index, value) in [(1, 320), (2, 200), (3, 32), (4, 0x41)] {
        dispi(&mut board, &mut card, index, value);
    }
    let mut items = elements(card.save(&mut board.ctx()));
    let mut memory = vec![0; MIB];
    memory[4 * (10 * 320 + 7)..][..4].copy_from_slice(&[1, 2, 3, 0]);
    memory[MIB - 1] = 9;
    let at = memory.as_ptr();
    (items[39], items[21], items[20]) = (Value::bytes(memory), (10 * 320 + 7).into(), (3 << 16).into());
    // Another size of the video memory is the other machine's.
    items[0] = Value::Int(2 << 20);
    let (mut board, mut card) = restored(DeviceState::v86(Value::Array(items)));
    assert_eq!(card.vbe.memory.as_ptr(), at, "moved, not copied");
    assert_eq!(card.picture_size(), (320, 200));
    let mut picture = Vec::new();
    card.render(&mut picture);
    assert_eq!(picture[..8], [3, 2, 1, 255, 0, 0, 0, 255]);
    let registers = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10].map(|index| read_dispi(&mut board, &mut card, index));
    assert_eq!(registers, [0xB0C5, 320, 200, 32, 0x41, 3, 320, 7, 10, 16]);
    // All of it is cleared by the next mode.
    dispi(&mut board, &mut card, 4, 1);
    assert!(card.vbe.memory.iter().all(|byte| *byte == 0));
}

#[test]
fn vga_array_from_before_2022_has_its_planes_in_the_frame_buffer() {
    for sixth in [Value::Null, values![values![0, 0, 720, 400, 0, 0]]] {
        let (mut board, _) = powered();
        let mut items = text_mode(&mut board);
        items[39] = std::mem::replace(&mut items[6], sixth);
        items[40] = true.into();
        items.truncate(61);
        let (_, card) = restored(DeviceState::v86(Value::Array(items)));
        assert_eq!(card.text_screen()[1], "v86");
        assert_eq!((card.regs.dac_mask, card.regs.char_map), (0xFF, 0));
        let mut picture = Vec::new();
        card.render(&mut picture);
        assert!(picture.chunks(4).any(|pixel| pixel[0] != 0), "the font is there");
    }
}

#[test]
fn vga_arrays_of_62_to_64_elements_have_defaults() {
    for len in 62..=64 {
        let (mut board, _) = powered();
        let mut items = text_mode(&mut board);
        (items[62], items[63]) = (0x3F.into(), 0x04.into());
        items.truncate(len);
        let (_, card) = restored(DeviceState::v86(Value::Array(items)));
        let expected = (if len > 62 { 0x3F } else { 0xFF }, if len > 63 { 4 } else { 0 });
        assert_eq!((card.regs.dac_mask, card.regs.char_map), expected);
        assert_eq!(card.text_screen()[1], "v86");
    }
}

#[test]
fn vga_frame_buffer_may_be_shorter_but_not_longer() {
    let (mut board, _) = powered();
    for (len, fits) in [(0, true), (5, true), (MIB, true), (MIB + 1, false)] {
        let mut items = text_mode(&mut board);
        items[39] = Value::bytes(vec![7; len]);
        let (mut board, mut card) = powered();
        let result = card.restore(&mut board.ctx(), DeviceState::v86(Value::Array(items)));
        assert_eq!(result.is_ok(), fits, "{len} bytes");
        match result {
            Ok(()) => {
                assert_eq!(card.memory_size(), MIB);
                assert_eq!(card.vbe.memory.iter().filter(|byte| **byte == 7).count(), len);
            }
            Err(error) => assert_eq!(error.path, [39]),
        }
    }
}

#[test]
fn vga_saved_in_the_middle_of_register_pairs_goes_on() {
    let (mut board, mut card) = powered();
    exercise(&mut card, &mut board);
    let expected: Vec<u8> = {
        let mut picture = Vec::new();
        card.render(&mut picture);
        picture
    };
    let state = card.save(&mut board.ctx());
    let (mut board, mut card) = restored(state);
    let mut picture = Vec::new();
    card.render(&mut picture);
    assert_eq!(picture, expected);
    // The mode was 320 wide when it was set; the width register says something else since.
    assert_eq!(card.picture_size(), (320, 200));
    // Second byte of an attribute pair, rest of a color.
    board.outb(&mut card, PORT_ATTR, 0x0E);
    assert_eq!(card.regs.panning, 0x0E);
    let color = card.regs.palette[5];
    board.inb(&mut card, PORT_DAC_DATA);
    board.inb(&mut card, PORT_DAC_DATA);
    assert_eq!((card.regs.dac_read, card.regs.palette[5]), (18, color));
    let registers = [0, 8, 9].map(|index| read_dispi(&mut board, &mut card, index));
    assert_eq!(registers, [0xB0C4, 3, 5]);
}

#[test]
fn vga_switch_off_that_was_put_off_is_carried_out_after_a_restore() {
    let (mut board, mut card) = powered();
    card.set_text_mode_3();
    for (index, value) in [(1, 320), (2, 200), (3, 8), (4, 1)] {
        dispi(&mut board, &mut card, index, value);
    }
    card.port_write(&mut board.ctx(), PORT_DISPI_INDEX, AccessSize::Word, 4);
    let mut ctx = board.ctx();
    ctx.cpu_vm86 = true;
    card.port_write(&mut ctx, PORT_DISPI_DATA, AccessSize::Word, 0);
    let state = card.save(&mut board.ctx());
    let (mut board, mut card) = restored(DeviceState::v86(state.v86));
    assert!(card.is_graphics());
    board.outb(&mut card, PORT_ATTR, 0x10);
    board.outb(&mut card, PORT_ATTR, 0x08);
    assert!(!card.is_graphics());
}

#[test]
fn vga_absurd_sizes_are_bounded_and_can_be_drawn() {
    let (mut board, _) = powered();
    for (graphics, extended, max_scan) in
        [(false, false, 0), (false, false, 31), (true, false, 0), (true, true, 0), (false, true, 31)]
    {
        let mut items = text_mode(&mut board);
        (items[9], items[18], items[34]) = (graphics.into(), extended.into(), max_scan.into());
        for at in [4, 5, 15, 16] {
            items[at] = Value::Int(0xFFFF);
        }
        // Registers that make no sense leave the sizes as they are.
        items[48] = 0.into();
        let extra = values![1, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF];
        let (_, card) = restored(DeviceState { v86: Value::Array(items), extra });
        let (width, height) = card.picture_size();
        assert!(width <= VGA_MAX_WIDTH && height <= MAX_ROWS_OF_PIXELS, "{width} x {height}");
        let mut picture = Vec::new();
        card.render(&mut picture);
        assert_eq!(picture.len(), usize::from(width) * usize::from(height) * 4);
    }
}
