//! PS/2 mouse with wheel and five buttons (IntelliMouse protocols).
//!
//! Answers are those of v86's mouse: a status request (E9h) answers a data packet.

pub(super) mod saved;

use std::collections::VecDeque;

const ACKNOWLEDGE: u8 = 0xFA;
const SELF_TEST_PASSED: u8 = 0xAA;

/// Movement is collected into one packet while this many bytes wait.
const BACKLOG: usize = 16;
/// Button changes are queued up to this many bytes.
const QUEUE: usize = 1024;

/// Left, right and middle button: they are in every packet.
const BASIC_BUTTONS: u8 = 0x07;
const X_NEGATIVE: u8 = 1 << 4;
const Y_NEGATIVE: u8 = 1 << 5;
const ALWAYS_ONE: u8 = 1 << 3;

/// Samples per second at power-up.
const DEFAULT_RATE: u8 = 100;
/// Counts per millimetre at power-up.
const DEFAULT_RESOLUTION: u8 = 4;

/// Largest movement of a packet: nine bits with sign.
const MAX_STEP: i32 = 255;

/// Meaning of the next byte from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Command,
    SampleRate,
    Resolution,
}

/// Progress of the sample rate sequences that switch the protocol on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Knock {
    #[default]
    None,
    /// 200
    First,
    /// 200, 100
    Wheel,
    /// 200, 200
    FiveButtons,
    /// The wheel was just switched on: 60 now is Windows NT's driver, which resets the mouse
    /// afterwards and does not expect it to forget.
    Done,
}

/// The mouse.
#[derive(Clone, Debug)]
pub struct Ps2Mouse {
    /// The guest has reset or enabled it. v86 drops movement before; here only snapshots need it.
    in_use: bool,
    reporting: bool,
    /// 0, 3 (wheel) or 4 (wheel and five buttons).
    id: u8,
    sample_rate: u8,
    /// Counts per millimetre.
    resolution: u8,
    scaling_2_1: bool,
    keeps_id: bool,
    knock: Knock,
    expect: Expect,
    dx: i32,
    dy: i32,
    wheel: i32,
    buttons: u8,
    reported_buttons: u8,
    /// Answers to commands; they go before packets.
    pub(crate) answers: VecDeque<u8>,
    /// Packets.
    pub(crate) data: VecDeque<u8>,
}

impl Default for Ps2Mouse {
    fn default() -> Self {
        Self::new()
    }
}

impl Ps2Mouse {
    /// Powered up: not reporting.
    pub fn new() -> Self {
        Self {
            in_use: false,
            reporting: false,
            id: 0,
            sample_rate: DEFAULT_RATE,
            resolution: DEFAULT_RESOLUTION,
            scaling_2_1: false,
            keeps_id: false,
            knock: Knock::None,
            expect: Expect::Command,
            dx: 0,
            dy: 0,
            wheel: 0,
            buttons: 0,
            reported_buttons: 0,
            answers: VecDeque::new(),
            data: VecDeque::new(),
        }
    }

    /// True if the guest listens.
    pub fn is_reporting(&self) -> bool {
        self.reporting
    }

    /// Movement since the last call (right and up are positive), wheel steps (towards the user is
    /// positive) and the buttons now: bit 0 left, 1 right, 2 middle, 3 and 4 the side buttons.
    pub fn event(&mut self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        self.buttons = buttons & 0x1F;
        if self.reporting {
            self.dx = self.dx.saturating_add(dx);
            self.dy = self.dy.saturating_add(dy);
            self.wheel = self.wheel.saturating_add(wheel);
            self.make_packets();
        }
    }

    /// Queues packets for what has happened, if there is room.
    pub(crate) fn make_packets(&mut self) {
        while self.reporting {
            let click = self.buttons != self.reported_buttons;
            let moved = self.dx != 0 || self.dy != 0 || (self.wheel != 0 && self.id != 0);
            let room = if click { QUEUE - 4 } else { BACKLOG };
            if !(click || moved) || self.data.len() > room {
                return;
            }
            let packet = self.packet();
            self.data.extend(packet.into_iter().take(self.packet_len()));
        }
    }

    fn packet_len(&self) -> usize {
        if self.id == 0 { 3 } else { 4 }
    }

    /// Takes as much of the movement as fits in one packet.
    fn packet(&mut self) -> [u8; 4] {
        let take = |sum: &mut i32, low: i32, high: i32| {
            let step = (*sum).clamp(low, high);
            *sum -= step;
            step
        };
        let dx = take(&mut self.dx, -MAX_STEP, MAX_STEP);
        let dy = take(&mut self.dy, -MAX_STEP, MAX_STEP);
        let wheel = take(&mut self.wheel, -8, 7) as u8;
        if self.id == 0 {
            self.wheel = 0;
        }
        self.reported_buttons = self.buttons;
        let mut first = ALWAYS_ONE | (self.buttons & BASIC_BUTTONS);
        if dx < 0 {
            first |= X_NEGATIVE;
        }
        if dy < 0 {
            first |= Y_NEGATIVE;
        }
        let fourth = if self.id == 4 { (wheel & 0x0F) | ((self.buttons & 0x18) << 1) } else { wheel };
        [first, dx as u8, dy as u8, fourth]
    }

    /// A byte from the host.
    pub fn command(&mut self, byte: u8) {
        self.answers.clear();
        self.data.clear();
        self.answers.push_back(ACKNOWLEDGE);
        match std::mem::take(&mut self.expect) {
            Expect::Command => self.start_command(byte),
            Expect::SampleRate => self.set_sample_rate(byte),
            Expect::Resolution => self.resolution = if byte <= 3 { 1 << byte } else { DEFAULT_RESOLUTION },
        }
    }

    fn start_command(&mut self, byte: u8) {
        match byte {
            0xE6 => self.scaling_2_1 = false,
            0xE7 => self.scaling_2_1 = true,
            0xE8 => self.expect = Expect::Resolution,
            0xE9 | 0xEB => {
                let packet = self.packet();
                self.answers.extend(packet.into_iter().take(self.packet_len()));
            }
            0xF2 => self.answers.push_back(self.id),
            0xF3 => self.expect = Expect::SampleRate,
            0xF4 => {
                self.in_use = true;
                self.reporting = true;
                self.forget_movement();
            }
            0xF5 => self.reporting = false,
            0xF6 => self.set_defaults(),
            0xFF => {
                self.in_use = true;
                self.answers.extend([SELF_TEST_PASSED, 0x00]);
                self.set_defaults();
                if !self.keeps_id {
                    self.id = 0;
                }
            }
            _ => {}
        }
    }

    fn set_defaults(&mut self) {
        self.reporting = false;
        self.sample_rate = DEFAULT_RATE;
        self.resolution = DEFAULT_RESOLUTION;
        self.scaling_2_1 = false;
        self.forget_movement();
    }

    fn forget_movement(&mut self) {
        self.dx = 0;
        self.dy = 0;
        self.wheel = 0;
        self.reported_buttons = self.buttons;
    }

    fn set_sample_rate(&mut self, rate: u8) {
        self.sample_rate = if rate == 0 { DEFAULT_RATE } else { rate };
        if self.knock == Knock::Done {
            self.keeps_id = rate == 60;
        }
        self.knock = match (self.knock, rate) {
            (Knock::First, 200) => Knock::FiveButtons,
            (Knock::First, 100) => Knock::Wheel,
            (Knock::Wheel, 80) => {
                self.id = 3;
                Knock::Done
            }
            (Knock::FiveButtons, 80) => {
                self.id = 4;
                Knock::Done
            }
            (_, 200) => Knock::First,
            _ => Knock::None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(mouse: &mut Ps2Mouse, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for b in bytes {
            mouse.command(*b);
            all.extend(mouse.answers.drain(..));
        }
        all
    }

    fn knock(mouse: &mut Ps2Mouse, rates: [u8; 3]) {
        for rate in rates {
            assert_eq!(answers(mouse, &[0xF3, rate]), [0xFA, 0xFA]);
        }
    }

    #[test]
    fn mouse_answers_match_the_reference() {
        let mut m = Ps2Mouse::new();
        assert_eq!(answers(&mut m, &[0xF2]), [0xFA, 0x00]);
        assert_eq!(answers(&mut m, &[0xFF]), [0xFA, 0xAA, 0x00]);
        assert_eq!(answers(&mut m, &[0xE9]), [0xFA, 0x08, 0x00, 0x00]);
        assert_eq!(answers(&mut m, &[0xE8, 0x03, 0xE7, 0xE6]), [0xFA; 4]);
    }

    #[test]
    fn mouse_becomes_a_wheel_mouse_then_a_five_button_mouse() {
        let mut m = Ps2Mouse::new();
        knock(&mut m, [200, 100, 80]);
        assert_eq!(answers(&mut m, &[0xF2]), [0xFA, 3]);
        knock(&mut m, [200, 200, 80]);
        assert_eq!(answers(&mut m, &[0xF2]), [0xFA, 4]);
        answers(&mut m, &[0xF4]);
        m.event(0, 0, -1, 0x08);
        assert_eq!(m.data, [0x08, 0, 0, 0x1F]);
        answers(&mut m, &[0xFF]);
        assert_eq!(answers(&mut m, &[0xF2]), [0xFA, 0]);
    }

    #[test]
    fn mouse_keeps_its_id_for_windows_nt() {
        let mut m = Ps2Mouse::new();
        knock(&mut m, [200, 100, 80]);
        answers(&mut m, &[0xF3, 60, 0xFF]);
        assert_eq!(answers(&mut m, &[0xF2]), [0xFA, 3]);
    }

    #[test]
    fn mouse_packets_have_signs_and_carry_large_movement_over() {
        let mut m = Ps2Mouse::new();
        m.event(50, 50, 0, 0);
        answers(&mut m, &[0xF4]);
        assert!(m.data.is_empty(), "nothing is sent or kept before it is enabled");
        m.event(-300, 10, 0, 0x01);
        assert_eq!(m.data, [0x19, 0x01, 10, 0x19, (-45i8) as u8, 0]);
    }

    #[test]
    fn mouse_collects_movement_but_not_clicks_while_nobody_reads() {
        let mut m = Ps2Mouse::new();
        answers(&mut m, &[0xF4]);
        for _ in 0..100 {
            m.event(1, 0, 0, 0);
        }
        assert!(m.data.len() <= BACKLOG + 3);
        let sent: i32 = m.data.iter().skip(1).step_by(3).map(|b| i32::from(*b)).sum();
        assert_eq!(sent + m.dx, 100);
        let before = m.data.len();
        m.event(0, 0, 0, 1);
        m.event(0, 0, 0, 0);
        assert_eq!(m.data.len(), before + 6);
        for i in 0..5000 {
            m.event(i32::MAX, i32::MIN, i32::MAX, i as u8);
        }
        assert!(m.data.len() <= QUEUE);
    }
}
