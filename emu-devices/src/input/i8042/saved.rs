//! State of keyboard controller, keyboard and mouse in snapshots: slot 53.
//!
//! | v86's array | here |
//! | --- | --- |
//! | 0, 1, 3-5, 9, 13, 16-18, 25-27 | mouse |
//! | 2, 6 | mouse and keyboard are there: always true |
//! | 7, 10-12 | keyboard |
//! | 8, 21, 22, 24 | what the next byte at port 60h is |
//! | 15, 20, 23 | last byte read, command byte, output port |
//!
//! Element 8 ("next byte is for the mouse") is only believed together with 9 or 13: v86 does not take
//! it back when the byte was the parameter of a mouse command, so that alone it mostly is a left-over,
//! and the moment between command D4h and its byte is short.
//!
//! v86 saves neither the bytes that wait nor the output buffer; those, and what else it does not have
//! (LEDs, scan code set, wheel and side buttons, command D2h), are in our own part.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{Expect, I8042, Source};
use crate::device::DeviceState;
use crate::input::ps2_keyboard::saved::SavedKeyboard;
use crate::input::ps2_mouse::saved::SavedMouse;

/// Layout of our own part.
const VERSION: i64 = 1;

/// By their numbers in our own part.
const EXPECTS: [Expect; 6] = [
    Expect::Keyboard,
    Expect::CommandByte,
    Expect::OutputPort,
    Expect::KeyboardEcho,
    Expect::MouseEcho,
    Expect::Mouse,
];

/// By their numbers in our own part.
const SOURCES: [Source; 6] = [
    Source::Controller,
    Source::ControllerAux,
    Source::KeyboardAnswer,
    Source::KeyboardData,
    Source::MouseAnswer,
    Source::MouseData,
];

/// Bytes, or nothing if there are none: v86 does not load a compressed file with many empty buffers.
pub(in crate::input) fn queue(bytes: Vec<u8>) -> Value {
    if bytes.is_empty() { Value::Null } else { Value::bytes(bytes) }
}

/// The same back. A byte that was announced may have been put back into a full queue of `max` bytes.
pub(in crate::input) fn read_queue(
    f: &mut Fields<'_>,
    index: usize,
    max: usize,
) -> Result<Vec<u8>, FieldError> {
    Ok(f.bytes_up_to(index, max + 1)?.unwrap_or_default())
}

fn number_of<T: PartialEq>(all: &[T], one: &T) -> u32 {
    all.iter().position(|other| other == one).map_or(0, |n| n as u32)
}

fn by_number<T: Copy>(all: &[T], f: &Fields<'_>, index: usize) -> Result<Option<T>, FieldError> {
    let Some(n) = f.u32(index)? else { return Ok(None) };
    all.get(n as usize).copied().map(Some).ok_or_else(|| FieldError::at(index, format!("{n} is unknown")))
}

/// The state of the three as plain data.
#[derive(Debug)]
pub(super) struct SavedI8042 {
    keyboard: SavedKeyboard,
    mouse: SavedMouse,
    ctr: u8,
    output_port: u8,
    expect: Expect,
    answer: Option<(u8, bool)>,
    output: Option<(u8, Source)>,
    aux: bool,
    last_read: u8,
}

impl SavedI8042 {
    /// The state of a controller and what is plugged into it.
    pub(super) fn capture(chip: &I8042) -> Self {
        let I8042 {
            keyboard_irq: _,
            mouse_irq: _,
            keyboard,
            mouse,
            ctr,
            output_port,
            expect,
            answer,
            output,
            aux,
            last_read,
        } = chip;
        Self {
            keyboard: SavedKeyboard::capture(keyboard),
            mouse: SavedMouse::capture(mouse),
            ctr: *ctr,
            output_port: *output_port,
            expect: *expect,
            answer: *answer,
            output: *output,
            aux: *aux,
            last_read: *last_read,
        }
    }

    /// Puts the state into a controller, whose interrupt lines are still those of before.
    pub(super) fn apply(self, chip: &mut I8042) {
        self.keyboard.apply(&mut chip.keyboard);
        self.mouse.apply(&mut chip.mouse);
        chip.ctr = self.ctr;
        chip.output_port = self.output_port;
        chip.expect = self.expect;
        chip.answer = self.answer;
        chip.output = self.output;
        // Which line the byte in the output buffer pulls.
        chip.aux = self.output.map_or(self.aux, |(_, source)| source.is_aux());
        chip.last_read = self.last_read;
    }

    pub(super) fn into_state(self) -> DeviceState {
        let Self { keyboard, mouse, ctr, output_port, expect, answer, output, aux, last_read } = self;
        let [leds, set, typematic] = keyboard.expects();
        let [rate, resolution] = mouse.expects();
        let v86 = values![
            mouse.reporting,
            mouse.in_use,
            true,
            mouse.dx,
            mouse.dy,
            mouse.basic_buttons(),
            true,
            keyboard.scanning,
            expect == Expect::Mouse,
            rate,
            leds,
            set,
            typematic,
            resolution,
            Value::Null,
            last_read,
            mouse.sample_rate,
            mouse.resolution,
            mouse.scaling_2_1,
            Value::Null,
            ctr,
            expect == Expect::MouseEcho,
            expect == Expect::CommandByte,
            output_port,
            expect == Expect::OutputPort,
            mouse.id,
            mouse.detect_state(),
            mouse.keeps_id,
        ];
        let extra = values![
            VERSION,
            keyboard.into_extra(),
            mouse.into_extra(),
            number_of(&EXPECTS, &expect),
            answer.map(|(byte, aux)| values![byte, aux]),
            output.map(|(byte, source)| values![byte, number_of(&SOURCES, &source)]),
            aux,
        ];
        DeviceState { v86, extra }
    }

    /// Takes over what a snapshot says.
    ///
    /// # Errors
    /// A field is of a wrong type.
    pub(super) fn read(&mut self, mut state: DeviceState) -> Result<(), FieldError> {
        if let Some(f) = Fields::of(&mut state.v86)? {
            self.read_v86(&f)?;
        }
        match Fields::of(&mut state.extra) {
            Ok(Some(mut f)) => self.read_extra(&mut f),
            other => other.map(|_| ()),
        }
        .map_err(FieldError::in_extra)
    }

    fn read_v86(&mut self, f: &Fields<'_>) -> Result<(), FieldError> {
        self.keyboard.read_v86(f)?;
        self.mouse.read_v86(f)?;
        for present in [2, 6] {
            f.bool(present)?;
        }
        self.last_read = f.u8(15)?.unwrap_or(self.last_read);
        self.ctr = f.u8(20)?.unwrap_or(self.ctr);
        self.output_port = f.u8(23)?.unwrap_or(self.output_port);
        let [mouse, mouse_echo, command_byte, output_port] =
            [f.bool(8)?, f.bool(21)?, f.bool(22)?, f.bool(24)?].map(|flag| flag.unwrap_or(false));
        // In the order in which v86 looks at them.
        self.expect = if command_byte {
            Expect::CommandByte
        } else if mouse_echo {
            Expect::MouseEcho
        } else if mouse && self.mouse.expects().contains(&true) {
            Expect::Mouse
        } else if output_port {
            Expect::OutputPort
        } else {
            Expect::Keyboard
        };
        Ok(())
    }

    fn read_extra(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        if f.i64(0)? != Some(VERSION) {
            return Err(FieldError::at(0, "unknown layout"));
        }
        f.array(1, |f| self.keyboard.read_extra(f))?;
        f.array(2, |f| self.mouse.read_extra(f))?;
        self.expect = by_number(&EXPECTS, f, 3)?.unwrap_or(self.expect);
        self.answer = f.array(4, |f| Ok(f.u8(0)?.zip(Some(f.bool(1)?.unwrap_or(false)))))?.flatten();
        self.output = f.array(5, |f| Ok(f.u8(0)?.zip(by_number(&SOURCES, f, 1)?)))?.flatten();
        self.aux = f.bool(6)?.unwrap_or(false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;

    use super::super::{COMMAND, DATA, STATUS_OUTPUT_FULL};
    use super::*;
    use crate::device::Device;
    use crate::testing::TestBoard;

    const IRQ1: IrqLine = IrqLine::wired_to(1);
    const IRQ12: IrqLine = IrqLine::wired_to(12);

    fn make() -> I8042 {
        I8042::new(IRQ1, IRQ12)
    }

    fn powered() -> (TestBoard, I8042) {
        let (mut board, mut chip) = (TestBoard::new(), make());
        board.power_up(&mut chip, 1);
        (board, chip)
    }

    fn restored(state: DeviceState) -> (TestBoard, I8042) {
        let (mut board, mut chip) = powered();
        chip.restore(&mut board.ctx(), state).unwrap();
        (board, chip)
    }

    fn drain(board: &mut TestBoard, chip: &mut I8042) -> Vec<u8> {
        let mut all = Vec::new();
        while board.inb(chip, COMMAND) & STATUS_OUTPUT_FULL != 0 {
            all.push(board.inb(chip, DATA));
        }
        all
    }

    fn send(board: &mut TestBoard, chip: &mut I8042, bytes: &[u8]) -> Vec<u8> {
        for &byte in bytes {
            board.outb(chip, DATA, byte);
        }
        drain(board, chip)
    }

    fn send_mouse(board: &mut TestBoard, chip: &mut I8042, bytes: &[u8]) -> Vec<u8> {
        for &byte in bytes {
            board.outb(chip, COMMAND, 0xD4);
            board.outb(chip, DATA, byte);
        }
        drain(board, chip)
    }

    fn exercise(chip: &mut I8042, board: &mut TestBoard) {
        board.outb(chip, COMMAND, 0x60);
        board.outb(chip, DATA, 0x07);
        board.outb(chip, COMMAND, 0xD1);
        board.outb(chip, DATA, 0xDF);
        // Wheel mouse that Windows NT resets, 2:1, reporting; the keyboard waits for its LEDs.
        send_mouse(board, chip, &[0xF3, 200, 0xF3, 100, 0xF3, 80, 0xE7, 0xE8, 3, 0xF3, 60, 0xF4]);
        send(board, chip, &[0xF0, 1, 0xED, 7, 0xF4, 0xED]);
        chip.mouse_event(&mut board.ctx(), 1000, -2000, 3, 0x09);
        chip.mouse_event(&mut board.ctx(), 1, 1, 0, 0x0A);
        chip.mouse_event(&mut board.ctx(), 20_000, 1, 0, 0x0A);
        chip.key(&mut board.ctx(), &[0x1E, 0x9E]);
        chip.mouse_event(&mut board.ctx(), 5, 5, 1, 0);
        chip.key(&mut board.ctx(), &[0x1F]);
        board.outb(chip, COMMAND, 0xD2);
    }

    crate::snapshot_conformance!(
        i8042_snapshot_conformance,
        make: make,
        exercise: exercise,
        ignored: &[],
    );

    /// As in the worked example of a minimal state: 25 elements.
    fn minimal() -> Value {
        values![
            false,
            false,
            true,
            0,
            0,
            0,
            true,
            false,
            false,
            false,
            false,
            false,
            false,
            false,
            Value::Null,
            0,
            100,
            4,
            false,
            Value::Null,
            5,
            false,
            false,
            0,
            false,
        ]
    }

    /// After a PC's firmware has run.
    fn after_firmware() -> Value {
        values![
            false,
            false,
            true,
            0,
            0,
            0,
            true,
            true,
            false,
            false,
            false,
            false,
            false,
            false,
            Value::Null,
            250,
            100,
            4,
            false,
            Value::Null,
            97,
            false,
            false,
            0,
            false,
            0,
            0,
            false,
        ]
    }

    fn set(array: &mut Value, index: usize, value: impl Into<Value>) {
        let Value::Array(items) = array else { panic!("no array") };
        items[index] = value.into();
    }

    #[test]
    fn i8042_saved_array_is_the_one_v86_expects() {
        let (mut board, mut chip) = powered();
        let Value::Array(fresh) = chip.save(&mut board.ctx()).v86 else { unreachable!() };
        let Value::Array(mut expected) = minimal() else { unreachable!() };
        expected.extend([Value::Int(0), Value::Int(0), Value::Bool(false)]);
        // Translation is on at power-up.
        expected[20] = Value::Int(0x45);
        assert_eq!(fresh, expected);

        send_mouse(&mut board, &mut chip, &[0xF3, 200, 0xF3, 100, 0xF3, 80, 0xE7, 0xE8, 3, 0xF4, 0xF3]);
        board.outb(&mut chip, COMMAND, 0xD4);
        let state = chip.save(&mut board.ctx());
        let expected = values![
            true,
            true,
            true,
            0,
            0,
            0,
            true,
            false,
            true,
            true,
            false,
            false,
            false,
            false,
            Value::Null,
            0xFA,
            80,
            8,
            true,
            Value::Null,
            0x45,
            false,
            false,
            0,
            false,
            3,
            -1,
            false,
        ];
        assert_eq!(state.v86, expected);
    }

    #[test]
    fn i8042_of_a_v86_guest_reports_keys_as_before() {
        let (mut board, mut chip) = restored(DeviceState::v86(after_firmware()));
        assert_eq!(chip.save(&mut board.ctx()).v86, after_firmware(), "unchanged");
        assert_eq!(board.inb(&mut chip, COMMAND), 0x10);
        assert_eq!(board.inb(&mut chip, DATA), 250, "the last byte again");
        chip.key(&mut board.ctx(), &[0x1E]);
        assert!(board.irq.is_high(IRQ1));
        assert_eq!(drain(&mut board, &mut chip), [0x1E]);
        assert!(!board.irq.is_high(IRQ1));
        assert_eq!(send(&mut board, &mut chip, &[0xF2]), [0xFA, 0xAB, 0x83]);
        assert_eq!(send_mouse(&mut board, &mut chip, &[0xF2]), [0xFA, 0]);
    }

    #[test]
    fn i8042_of_a_v86_guest_without_translation_speaks_set_1() {
        let mut array = after_firmware();
        set(&mut array, 20, 5);
        let (mut board, mut chip) = restored(DeviceState::v86(array));
        chip.key(&mut board.ctx(), &[0xE0, 0xC8]);
        assert_eq!(drain(&mut board, &mut chip), [0xE0, 0xC8]);
    }

    #[test]
    fn i8042_array_of_2021_has_no_wheel_mouse() {
        // 23 elements, without pending D1h and output port.
        let Value::Array(mut items) = after_firmware() else { unreachable!() };
        items.truncate(23);
        let (mut board, mut chip) = restored(DeviceState::v86(Value::Array(items)));
        let saved = chip.save(&mut board.ctx());
        assert_eq!(saved.v86, after_firmware());
        assert_eq!(send_mouse(&mut board, &mut chip, &[0xF2]), [0xFA, 0]);
        // And 25 elements, to which one version added a counter.
        let Value::Array(mut items) = minimal() else { unreachable!() };
        items.extend([Value::Int(3), Value::Int(77)]);
        let (mut board, mut chip) = restored(DeviceState::v86(Value::Array(items)));
        assert_eq!(send_mouse(&mut board, &mut chip, &[0xF2]), [0xFA, 3]);
    }

    #[test]
    fn i8042_half_finished_commands_of_a_v86_guest_are_finished() {
        // A mouse parameter, announced by D4h.
        let mut array = after_firmware();
        set(&mut array, 8, true);
        set(&mut array, 9, true);
        let (mut board, mut chip) = restored(DeviceState::v86(array.clone()));
        board.outb(&mut chip, DATA, 40);
        assert_eq!(board.inb(&mut chip, COMMAND), 0x31, "the mouse answers");
        assert_eq!(drain(&mut board, &mut chip), [0xFA]);
        let Value::Array(items) = chip.save(&mut board.ctx()).v86 else { unreachable!() };
        assert_eq!(items[16], Value::Int(40));
        // The left-over of it: the keyboard is meant.
        set(&mut array, 9, false);
        let (mut board, mut chip) = restored(DeviceState::v86(array));
        assert_eq!(send(&mut board, &mut chip, &[0xF2]), [0xFA, 0xAB, 0x83]);
        // The others.
        for (index, byte, answer) in [(10, 7, &[0xFA][..]), (11, 0, &[0xFA, 1]), (12, 0x20, &[0xFA])] {
            let mut array = after_firmware();
            set(&mut array, index, true);
            let (mut board, mut chip) = restored(DeviceState::v86(array));
            assert_eq!(send(&mut board, &mut chip, &[byte]), answer, "element {index}");
        }
        for (index, byte, command, answer) in [(22, 0x43, 0x20, 0x43), (24, 0xDD, 0xD0, 0xDD)] {
            let mut array = after_firmware();
            set(&mut array, index, true);
            let (mut board, mut chip) = restored(DeviceState::v86(array));
            assert_eq!(send(&mut board, &mut chip, &[byte]), []);
            board.outb(&mut chip, COMMAND, command);
            assert_eq!(drain(&mut board, &mut chip), [answer]);
        }
        let mut array = after_firmware();
        set(&mut array, 21, true);
        let (mut board, mut chip) = restored(DeviceState::v86(array));
        assert_eq!(send(&mut board, &mut chip, &[0x5A]), [0x5A]);
    }

    #[test]
    fn i8042_saved_with_bytes_waiting_goes_on_with_them() {
        let (mut board, mut chip) = powered();
        exercise(&mut chip, &mut board);
        let state = chip.save(&mut board.ctx());
        let (mut other, mut again) = restored(state);
        assert_eq!(other.irq.is_high(IRQ1), board.irq.is_high(IRQ1));
        assert_eq!(other.irq.is_high(IRQ12), board.irq.is_high(IRQ12));
        assert!(other.irq.is_high(IRQ1) || other.irq.is_high(IRQ12));
        // D2h was written: the byte comes back as the keyboard's, before everything that waits.
        for (board, chip) in [(&mut board, &mut chip), (&mut other, &mut again)] {
            board.outb(chip, DATA, 0x5A);
            assert_eq!((board.inb(chip, COMMAND), board.inb(chip, DATA)), (0x11, 0x5A));
        }
        let (left, right) = (drain(&mut board, &mut chip), drain(&mut other, &mut again));
        assert!(left.starts_with(&[0x1E, 0x9E]) && left.len() > 12, "{left:?}");
        assert_eq!(left, right);
        assert_eq!(again.keyboard().leds(), 7);
        // The parameter of EDh is still due.
        assert_eq!(send(&mut other, &mut again, &[0x02]), [0xFA]);
        assert_eq!(again.keyboard().leds(), 2);
        again.mouse_event(&mut other.ctx(), 0, 0, 1, 0x08);
        assert_eq!(drain(&mut other, &mut again).len(), 4, "the wheel mouse's packet");
    }
}
