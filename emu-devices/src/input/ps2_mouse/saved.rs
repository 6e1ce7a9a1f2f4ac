//! State of the mouse in snapshots: elements of the controller's array, and our own part.

use std::collections::VecDeque;

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{BASIC_BUTTONS, DEFAULT_RATE, DEFAULT_RESOLUTION, Expect, Knock, Ps2Mouse, QUEUE};
use crate::input::i8042::saved::{queue, read_queue};

/// The mouse's state as plain data.
#[derive(Debug)]
pub(in crate::input) struct SavedMouse {
    pub(in crate::input) in_use: bool,
    pub(in crate::input) reporting: bool,
    pub(in crate::input) id: u8,
    pub(in crate::input) sample_rate: u8,
    pub(in crate::input) resolution: u8,
    pub(in crate::input) scaling_2_1: bool,
    pub(in crate::input) keeps_id: bool,
    knock: Knock,
    expect: Expect,
    pub(in crate::input) dx: i32,
    pub(in crate::input) dy: i32,
    wheel: i32,
    buttons: u8,
    reported_buttons: u8,
    answers: Vec<u8>,
    data: Vec<u8>,
}

impl SavedMouse {
    /// The state of a mouse.
    pub(in crate::input) fn capture(mouse: &Ps2Mouse) -> Self {
        let Ps2Mouse {
            in_use,
            reporting,
            id,
            sample_rate,
            resolution,
            scaling_2_1,
            keeps_id,
            knock,
            expect,
            dx,
            dy,
            wheel,
            buttons,
            reported_buttons,
            answers,
            data,
        } = mouse;
        Self {
            in_use: *in_use,
            reporting: *reporting,
            id: *id,
            sample_rate: *sample_rate,
            resolution: *resolution,
            scaling_2_1: *scaling_2_1,
            keeps_id: *keeps_id,
            knock: *knock,
            expect: *expect,
            dx: *dx,
            dy: *dy,
            wheel: *wheel,
            buttons: *buttons,
            reported_buttons: *reported_buttons,
            answers: answers.iter().copied().collect(),
            data: data.iter().copied().collect(),
        }
    }

    pub(in crate::input) fn apply(self, mouse: &mut Ps2Mouse) {
        *mouse = Ps2Mouse {
            in_use: self.in_use,
            reporting: self.reporting,
            id: if matches!(self.id, 3 | 4) { self.id } else { 0 },
            sample_rate: if self.sample_rate == 0 { DEFAULT_RATE } else { self.sample_rate },
            resolution: if matches!(self.resolution, 1 | 2 | 4 | 8) {
                self.resolution
            } else {
                DEFAULT_RESOLUTION
            },
            scaling_2_1: self.scaling_2_1,
            keeps_id: self.keeps_id,
            knock: self.knock,
            expect: self.expect,
            dx: self.dx,
            dy: self.dy,
            wheel: self.wheel,
            buttons: self.buttons & 0x1F,
            reported_buttons: self.reported_buttons & 0x1F,
            answers: VecDeque::from(self.answers),
            data: VecDeque::from(self.data),
        };
    }

    /// v86's flags for parameters: sample rate, resolution.
    pub(in crate::input) fn expects(&self) -> [bool; 2] {
        [Expect::SampleRate, Expect::Resolution].map(|expect| expect == self.expect)
    }

    /// The buttons v86 knows.
    pub(in crate::input) fn basic_buttons(&self) -> u8 {
        self.buttons & BASIC_BUTTONS
    }

    /// v86's number for the progress of the sample rate sequence.
    pub(in crate::input) fn detect_state(&self) -> i32 {
        match self.knock {
            Knock::None => 0,
            Knock::First => 1,
            Knock::Wheel => 2,
            Knock::FiveButtons => 3,
            Knock::Done => -1,
        }
    }

    /// Elements 0, 1, 3 to 5, 9, 13, 16 to 18 and 25 to 27 of v86's array.
    pub(in crate::input) fn read_v86(&mut self, f: &Fields<'_>) -> Result<(), FieldError> {
        self.reporting = f.bool(0)?.unwrap_or(self.reporting);
        self.in_use = f.bool(1)?.unwrap_or(self.in_use);
        // v86 collects fractions of a step. Casts from float saturate.
        self.dx = f.f64(3)?.map_or(self.dx, |dx| dx as i32);
        self.dy = f.f64(4)?.map_or(self.dy, |dy| dy as i32);
        if let Some(buttons) = f.u8(5)? {
            self.buttons = buttons & BASIC_BUTTONS;
            // v86 reports a click at once.
            self.reported_buttons = self.buttons;
        }
        let [rate, resolution] = [f.bool(9)?, f.bool(13)?].map(|flag| flag.unwrap_or(false));
        self.expect = if rate {
            Expect::SampleRate
        } else if resolution {
            Expect::Resolution
        } else {
            Expect::Command
        };
        self.sample_rate = f.u8(16)?.unwrap_or(self.sample_rate);
        self.resolution = f.u8(17)?.unwrap_or(self.resolution);
        self.scaling_2_1 = f.bool(18)?.unwrap_or(self.scaling_2_1);
        self.id = f.u8(25)?.unwrap_or(self.id);
        // Some versions kept another counter there.
        self.knock = match f.u32(26)?.map(|state| state as i32) {
            Some(1) => Knock::First,
            Some(2) => Knock::Wheel,
            Some(3) => Knock::FiveButtons,
            Some(-1) => Knock::Done,
            _ => Knock::None,
        };
        self.keeps_id = f.bool(27)?.unwrap_or(self.keeps_id);
        Ok(())
    }

    pub(in crate::input) fn into_extra(self) -> Value {
        values![self.wheel, self.buttons, self.reported_buttons, queue(self.answers), queue(self.data)]
    }

    pub(in crate::input) fn read_extra(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        self.wheel = f.u32(0)?.unwrap_or(0) as i32;
        self.buttons = f.u8(1)?.unwrap_or(self.buttons);
        self.reported_buttons = f.u8(2)?.unwrap_or(self.reported_buttons);
        self.answers = read_queue(f, 3, QUEUE)?;
        self.data = read_queue(f, 4, QUEUE)?;
        Ok(())
    }
}
