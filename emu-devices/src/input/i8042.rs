//! 8042 keyboard controller with keyboard and mouse.
//!
//! IBM PS/2 technical reference; status and answers as v86 shows them (no system flag, input buffer
//! never full). Choices:
//!
//! * An answer of the controller goes before everything else, an answer of a device before scan
//!   codes and packets. A byte that was announced but not read steps back; nothing is lost.
//! * "Disabled" holds back scan codes and packets, never answers.
//! * Command byte bit 6 (translation) is on at power-up, so that software that runs without
//!   firmware sees set 1 as it expects. Without it the keyboard speaks the set it was told to.
//! * The A20 bit of the output port has no effect: A20 is always open.

pub(super) mod saved;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;

use self::saved::SavedI8042;
use super::ps2_keyboard::Ps2Keyboard;
use super::ps2_mouse::Ps2Mouse;
use crate::device::{Ctx, Device, DeviceState, ResetKind};

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_AUX: u8 = 1 << 5;

const CTR_KEYBOARD_IRQ: u8 = 1 << 0;
const CTR_MOUSE_IRQ: u8 = 1 << 1;
const CTR_KEYBOARD_DISABLED: u8 = 1 << 4;
const CTR_MOUSE_DISABLED: u8 = 1 << 5;
const CTR_TRANSLATE: u8 = 1 << 6;
const CTR_POWER_UP: u8 = CTR_TRANSLATE | 0x05;
/// As PC firmware leaves it: keyboard with interrupt, mouse off.
const CTR_FIRMWARE: u8 = CTR_TRANSLATE | CTR_MOUSE_DISABLED | CTR_KEYBOARD_IRQ;

/// Output port bit 0: 1 to 0 resets the machine.
const OUTPUT_RESET: u8 = 1 << 0;

/// What the next byte written to port 60h is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    /// A command for the keyboard.
    #[default]
    Keyboard,
    CommandByte,
    OutputPort,
    /// To be read back as if it came from the keyboard.
    KeyboardEcho,
    /// To be read back as if it came from the mouse.
    MouseEcho,
    Mouse,
}

/// Where the byte in the output buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Controller,
    ControllerAux,
    KeyboardAnswer,
    KeyboardData,
    MouseAnswer,
    MouseData,
}

impl Source {
    fn is_aux(self) -> bool {
        matches!(self, Self::ControllerAux | Self::MouseAnswer | Self::MouseData)
    }
}

/// The controller and what is plugged into it.
#[derive(Clone, Debug)]
pub struct I8042 {
    keyboard_irq: IrqLine,
    mouse_irq: IrqLine,
    keyboard: Ps2Keyboard,
    mouse: Ps2Mouse,
    /// Command byte.
    ctr: u8,
    output_port: u8,
    expect: Expect,
    /// Answer of the controller itself.
    answer: Option<(u8, bool)>,
    /// Byte waiting to be read (output buffer full).
    output: Option<(u8, Source)>,
    /// The last announced byte came from the mouse.
    aux: bool,
    last_read: u8,
}

impl I8042 {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(DATA, 1), (COMMAND, 1)];

    /// Powered up.
    pub fn new(keyboard_irq: IrqLine, mouse_irq: IrqLine) -> Self {
        Self {
            keyboard_irq,
            mouse_irq,
            keyboard: Ps2Keyboard::new(),
            mouse: Ps2Mouse::new(),
            ctr: CTR_POWER_UP,
            output_port: 0,
            expect: Expect::Keyboard,
            answer: None,
            output: None,
            aux: false,
            last_read: 0,
        }
    }

    /// Leaves controller and keyboard as firmware would; for guests started without any.
    pub fn set_firmware_defaults(&mut self) {
        self.ctr = CTR_FIRMWARE;
        self.keyboard.start_scanning();
    }

    /// Keys, as set 1 codes (see [`super::scancode`]).
    pub fn key(&mut self, ctx: &mut Ctx<'_>, scancodes: &[u8]) {
        self.keyboard.key(scancodes, self.ctr & CTR_TRANSLATE != 0);
        self.update(ctx);
    }

    /// Mouse movement, wheel and buttons (see [`Ps2Mouse::event`]).
    pub fn mouse_event(&mut self, ctx: &mut Ctx<'_>, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        self.mouse.event(dx, dy, wheel, buttons);
        self.update(ctx);
    }

    /// The keyboard.
    pub fn keyboard(&self) -> &Ps2Keyboard {
        &self.keyboard
    }

    /// The mouse.
    pub fn mouse(&self) -> &Ps2Mouse {
        &self.mouse
    }

    /// Takes the announced byte back to where it came from.
    fn step_back(&mut self) {
        match self.output.take() {
            Some((byte, Source::KeyboardAnswer)) => self.keyboard.answers.push_front(byte),
            Some((byte, Source::KeyboardData)) => self.keyboard.data.push_front(byte),
            Some((byte, Source::MouseAnswer)) => self.mouse.answers.push_front(byte),
            Some((byte, Source::MouseData)) => self.mouse.data.push_front(byte),
            // The controller has one answer at a time.
            Some((_, Source::Controller | Source::ControllerAux)) | None => {}
        }
    }

    fn next_output(&mut self) -> Option<(u8, Source)> {
        if let Some((byte, aux)) = self.answer.take() {
            return Some((byte, if aux { Source::ControllerAux } else { Source::Controller }));
        }
        if let Some(byte) = self.keyboard.answers.pop_front() {
            return Some((byte, Source::KeyboardAnswer));
        }
        if let Some(byte) = self.mouse.answers.pop_front() {
            return Some((byte, Source::MouseAnswer));
        }
        if self.ctr & CTR_KEYBOARD_DISABLED == 0
            && let Some(byte) = self.keyboard.data.pop_front()
        {
            return Some((byte, Source::KeyboardData));
        }
        if self.ctr & CTR_MOUSE_DISABLED == 0 {
            self.mouse.make_packets();
            return self.mouse.data.pop_front().map(|byte| (byte, Source::MouseData));
        }
        None
    }

    /// Announces the next byte if the output buffer is free, and drives the lines.
    fn update(&mut self, ctx: &mut Ctx<'_>) {
        if self.output.is_none() {
            self.output = self.next_output();
            if let Some((_, source)) = self.output {
                self.aux = source.is_aux();
                // A new byte is a new edge.
                self.drive(ctx, false);
            }
        }
        self.drive(ctx, self.output.is_some());
    }

    fn drive(&self, ctx: &mut Ctx<'_>, full: bool) {
        ctx.irq.set(self.keyboard_irq, full && !self.aux && self.ctr & CTR_KEYBOARD_IRQ != 0);
        ctx.irq.set(self.mouse_irq, full && self.aux && self.ctr & CTR_MOUSE_IRQ != 0);
    }

    fn status(&self) -> u8 {
        let full = if self.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
        let aux = if self.aux { STATUS_AUX } else { 0 };
        STATUS_UNLOCKED | full | aux
    }

    fn read_data(&mut self) -> u8 {
        if let Some((byte, _)) = self.output.take() {
            self.last_read = byte;
        }
        self.last_read
    }

    fn answer(&mut self, byte: u8, aux: bool) {
        self.step_back();
        self.answer = Some((byte, aux));
    }

    fn write_command(&mut self, ctx: &mut Ctx<'_>, command: u8) {
        self.expect = Expect::Keyboard;
        match command {
            0x20 => self.answer(self.ctr, false),
            0x60 => self.expect = Expect::CommandByte,
            0xA7 => self.ctr |= CTR_MOUSE_DISABLED,
            0xA8 => self.ctr &= !CTR_MOUSE_DISABLED,
            // Tests: mouse port and keyboard port answer 0, the controller 55h.
            0xA9 | 0xAB => self.answer(0x00, false),
            0xAA => self.answer(0x55, false),
            0xAD => self.ctr |= CTR_KEYBOARD_DISABLED,
            0xAE => self.ctr &= !CTR_KEYBOARD_DISABLED,
            0xD0 => self.answer(self.output_port, false),
            0xD1 => self.expect = Expect::OutputPort,
            0xD2 => self.expect = Expect::KeyboardEcho,
            0xD3 => self.expect = Expect::MouseEcho,
            0xD4 => self.expect = Expect::Mouse,
            0xFE => ctx.requests.reset = true,
            _ => {}
        }
    }

    fn write_data(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        match std::mem::take(&mut self.expect) {
            Expect::CommandByte => self.ctr = value,
            Expect::OutputPort => {
                if self.output_port & !value & OUTPUT_RESET != 0 {
                    ctx.requests.reset = true;
                }
                self.output_port = value;
            }
            Expect::KeyboardEcho => self.answer(value, false),
            Expect::MouseEcho => self.answer(value, true),
            Expect::Keyboard => {
                self.step_back();
                self.keyboard.command(value, self.ctr & CTR_TRANSLATE != 0);
            }
            Expect::Mouse => {
                self.step_back();
                self.mouse.command(value);
            }
        }
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        match (port, size) {
            (DATA, AccessSize::Byte) => {
                let value = self.read_data();
                self.update(ctx);
                Some(u32::from(value))
            }
            (COMMAND, AccessSize::Byte) => Some(u32::from(self.status())),
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        match (port, size) {
            (DATA, AccessSize::Byte) => self.write_data(ctx, value as u8),
            (COMMAND, AccessSize::Byte) => self.write_command(ctx, value as u8),
            _ => return,
        }
        self.update(ctx);
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        *self = Self::new(self.keyboard_irq, self.mouse_irq);
        self.update(ctx);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        SavedI8042::capture(self).into_state()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        let mut saved = SavedI8042::capture(self);
        saved.read(state)?;
        saved.apply(self);
        self.update(ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;

    const IRQ1: IrqLine = IrqLine::wired_to(1);
    const IRQ12: IrqLine = IrqLine::wired_to(12);

    struct Bench {
        board: TestBoard,
        dev: I8042,
    }

    impl Bench {
        fn new() -> Self {
            let mut board = TestBoard::new();
            let mut dev = I8042::new(IRQ1, IRQ12);
            board.power_up(&mut dev, 1);
            Self { board, dev }
        }

        fn command(&mut self, command: u8) {
            self.board.outb(&mut self.dev, COMMAND, command);
        }

        fn data(&mut self, value: u8) {
            self.board.outb(&mut self.dev, DATA, value);
        }

        fn mouse(&mut self, value: u8) {
            self.command(0xD4);
            self.data(value);
        }

        fn status(&mut self) -> u8 {
            self.board.inb(&mut self.dev, COMMAND)
        }

        fn read(&mut self) -> u8 {
            self.board.inb(&mut self.dev, DATA)
        }

        /// Everything that waits.
        fn drain(&mut self) -> Vec<u8> {
            let mut all = Vec::new();
            while self.status() & STATUS_OUTPUT_FULL != 0 {
                all.push(self.read());
            }
            all
        }

        fn key(&mut self, codes: &[u8]) {
            self.dev.key(&mut self.board.ctx(), codes);
        }
    }

    #[test]
    fn i8042_controller_answers_match_the_reference() {
        let mut b = Bench::new();
        assert_eq!(b.status(), 0x10);
        for (command, answer) in [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00), (0xD0, 0x00)] {
            b.command(command);
            assert_eq!(b.drain(), [answer], "command {command:#x}");
        }
        b.command(0x60);
        b.data(0x61);
        b.command(0x20);
        assert_eq!(b.drain(), [0x61]);
        // Empty: the last byte again.
        assert_eq!(b.read(), 0x61);
        assert_eq!(b.board.port_in(&mut b.dev, DATA, AccessSize::Word), 0xFFFF);
    }

    #[test]
    fn i8042_keyboard_and_mouse_probes_match_the_reference() {
        let mut b = Bench::new();
        for (byte, answer) in [(0xF2, &[0xFA, 0xAB, 0x83][..]), (0xFF, &[0xFA, 0xAA, 0x00]), (0xEE, &[0xFA])]
        {
            b.data(byte);
            assert_eq!(b.drain(), answer);
        }
        b.data(0xF0);
        assert_eq!(b.drain(), [0xFA]);
        b.data(0x00);
        assert_eq!(b.drain(), [0xFA, 0x01]);
        for (byte, answer) in
            [(0xF2, &[0xFA, 0x00][..]), (0xFF, &[0xFA, 0xAA, 0x00]), (0xE9, &[0xFA, 0x08, 0x00, 0x00])]
        {
            b.mouse(byte);
            assert_eq!(b.status(), 0x31);
            assert_eq!(b.drain(), answer);
        }
    }

    #[test]
    fn i8042_passes_the_linux_mouse_port_probe() {
        let mut b = Bench::new();
        b.command(0x60);
        b.data(0x74 | CTR_MOUSE_DISABLED); // both off, no interrupts
        b.command(0xD3);
        b.data(0x5A);
        assert_eq!(b.status() & STATUS_AUX, STATUS_AUX);
        assert_eq!(b.read(), 0x5A);
        b.command(0xA7);
        b.command(0x20);
        assert_eq!(b.read() & CTR_MOUSE_DISABLED, CTR_MOUSE_DISABLED);
        b.command(0xA8);
        b.command(0x20);
        assert_eq!(b.read() & CTR_MOUSE_DISABLED, 0);
        // Delivery of IRQ 12.
        b.command(0x60);
        b.data(0x47);
        b.command(0xD3);
        b.data(0xA5);
        assert!(b.board.irq.is_high(IRQ12));
        assert_eq!(b.read(), 0xA5);
        assert!(!b.board.irq.is_high(IRQ12));
        // No multiplexer: its magic sequence comes back unchanged.
        for byte in [0xF0, 0x56, 0xA4] {
            b.command(0xD3);
            b.data(byte);
            assert_eq!(b.read(), byte);
        }
    }

    #[test]
    fn i8042_each_scan_code_is_an_edge_of_irq_1() {
        let mut b = Bench::new();
        b.data(0xF4);
        b.drain();
        let _ = b.board.irq.take_changes();
        b.key(&[0x1E, 0x9E]);
        assert!(b.board.take_rise(IRQ1));
        assert_eq!(b.read(), 0x1E);
        assert!(b.board.take_rise(IRQ1));
        assert_eq!(b.read(), 0x9E);
        assert!(!b.board.take_rise(IRQ1));
        assert!(!b.board.irq.is_high(IRQ1));
    }

    #[test]
    fn i8042_answers_go_before_keys_and_keys_are_kept() {
        let mut b = Bench::new();
        b.data(0xF4);
        b.drain();
        b.key(&[0x1E, 0x9E]);
        b.command(0x20);
        assert_eq!(b.read(), 0x45);
        b.data(0xED);
        assert_eq!(b.read(), 0xFA);
        b.data(0x02);
        assert_eq!(b.drain(), [0xFA, 0x1E, 0x9E]);
        assert_eq!(b.dev.keyboard().leds(), 2);
    }

    #[test]
    fn i8042_disabled_interfaces_hold_data_back() {
        let mut b = Bench::new();
        b.data(0xF4);
        b.mouse(0xF4);
        b.drain();
        b.command(0xAD);
        b.command(0xA7);
        b.key(&[0x1E]);
        b.dev.mouse_event(&mut b.board.ctx(), 1, 1, 0, 0);
        assert_eq!(b.status() & STATUS_OUTPUT_FULL, 0);
        b.command(0xAE);
        assert_eq!(b.drain(), [0x1E]);
        b.command(0xA8);
        assert_eq!(b.status(), 0x31);
        assert_eq!(b.drain(), [0x08, 1, 1]);
    }

    #[test]
    fn i8042_untranslated_keyboard_speaks_set_2() {
        let mut b = Bench::new();
        b.command(0x60);
        b.data(0x05);
        b.data(0xF4);
        b.drain();
        b.key(&[0x9E]);
        assert_eq!(b.drain(), [0xF0, 0x1C]);
    }

    #[test]
    fn i8042_interrupt_enabled_late_is_asserted_for_a_waiting_byte() {
        let mut b = Bench::new();
        b.command(0x60);
        b.data(0x44);
        b.data(0xF2);
        assert!(!b.board.irq.is_high(IRQ1));
        b.command(0x60);
        b.data(0x45);
        assert!(b.board.irq.is_high(IRQ1));
    }

    #[test]
    fn i8042_resets_by_command_and_by_output_port() {
        let mut b = Bench::new();
        b.command(0xFE);
        assert!(b.board.requests.reset);
        b.board.requests.reset = false;
        // Reading it first gives 0; setting A20 from that must not reset.
        for value in [0x02, 0xDF, 0xDD] {
            b.command(0xD1);
            b.data(value);
            assert!(!b.board.requests.reset);
        }
        b.command(0xD1);
        b.data(0xDE);
        assert!(b.board.requests.reset);
    }

    #[test]
    fn i8042_firmware_defaults_report_keys_without_a_driver() {
        let mut b = Bench::new();
        b.dev.set_firmware_defaults();
        b.key(&[0x1E]);
        assert_eq!(b.drain(), [0x1E]);
        b.command(0x20);
        assert_eq!(b.drain(), [0x61]);
    }
}
