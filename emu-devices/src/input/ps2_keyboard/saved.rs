//! State of the keyboard in snapshots: elements of the controller's array, and our own part.

use std::collections::VecDeque;

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{Expect, Ps2Keyboard, QUEUE};
use crate::input::i8042::saved::{queue, read_queue};

/// The keyboard's state as plain data.
#[derive(Debug)]
pub(in crate::input) struct SavedKeyboard {
    pub(in crate::input) scanning: bool,
    set: u8,
    leds: u8,
    expect: Expect,
    answers: Vec<u8>,
    data: Vec<u8>,
}

impl SavedKeyboard {
    /// The state of a keyboard.
    pub(in crate::input) fn capture(keyboard: &Ps2Keyboard) -> Self {
        let Ps2Keyboard { scanning, set, leds, expect, answers, data } = keyboard;
        Self {
            scanning: *scanning,
            set: *set,
            leds: *leds,
            expect: *expect,
            answers: answers.iter().copied().collect(),
            data: data.iter().copied().collect(),
        }
    }

    pub(in crate::input) fn apply(self, keyboard: &mut Ps2Keyboard) {
        *keyboard = Ps2Keyboard {
            scanning: self.scanning,
            set: if self.set == 1 { 1 } else { 2 },
            leds: self.leds & 7,
            expect: self.expect,
            answers: VecDeque::from(self.answers),
            data: VecDeque::from(self.data),
        };
    }

    /// v86's three flags for parameters: LEDs, scan code set, typematic rate.
    pub(in crate::input) fn expects(&self) -> [bool; 3] {
        [Expect::Leds, Expect::ScanCodeSet, Expect::Typematic].map(|expect| expect == self.expect)
    }

    /// Elements 7 and 10 to 12 of v86's array.
    pub(in crate::input) fn read_v86(&mut self, f: &Fields<'_>) -> Result<(), FieldError> {
        if f.is_empty() {
            return Ok(());
        }
        self.scanning = f.bool(7)?.unwrap_or(self.scanning);
        let [leds, set, typematic] =
            [f.bool(10)?, f.bool(11)?, f.bool(12)?].map(|flag| flag.unwrap_or(false));
        // In the order in which v86 looks at them.
        self.expect = if leds {
            Expect::Leds
        } else if set {
            Expect::ScanCodeSet
        } else if typematic {
            Expect::Typematic
        } else {
            Expect::Command
        };
        // v86's keyboard speaks set 1 whether the controller translates or not.
        self.set = 1;
        Ok(())
    }

    pub(in crate::input) fn into_extra(self) -> Value {
        values![self.set, self.leds, queue(self.answers), queue(self.data)]
    }

    pub(in crate::input) fn read_extra(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        self.set = f.u8(0)?.unwrap_or(self.set);
        self.leds = f.u8(1)?.unwrap_or(0);
        self.answers = read_queue(f, 2, QUEUE)?;
        self.data = read_queue(f, 3, QUEUE)?;
        Ok(())
    }
}
