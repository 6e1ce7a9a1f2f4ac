//! PS/2 keyboard.
//!
//! Answers are those of v86's keyboard: reset answers FAh AAh 00h, echo and resend FAh. The scan
//! code set matters only while the controller does not translate; with translation software sees
//! set 1 whatever it selected.

pub(super) mod saved;

use std::collections::VecDeque;

use super::scancode;

/// Scan code bytes kept while nobody reads.
pub(crate) const QUEUE: usize = 1024;

const ACKNOWLEDGE: u8 = 0xFA;
const SELF_TEST_PASSED: u8 = 0xAA;

/// Meaning of the next byte from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Command,
    Leds,
    ScanCodeSet,
    Typematic,
}

/// The keyboard.
#[derive(Clone, Debug)]
pub struct Ps2Keyboard {
    scanning: bool,
    set: u8,
    leds: u8,
    expect: Expect,
    /// Answers to commands; they go before scan codes.
    pub(crate) answers: VecDeque<u8>,
    /// Scan codes.
    pub(crate) data: VecDeque<u8>,
}

impl Default for Ps2Keyboard {
    fn default() -> Self {
        Self::new()
    }
}

impl Ps2Keyboard {
    /// Powered up: not scanning.
    pub fn new() -> Self {
        Self {
            scanning: false,
            set: 2,
            leds: 0,
            expect: Expect::Command,
            answers: VecDeque::new(),
            data: VecDeque::new(),
        }
    }

    /// True if keys are reported.
    pub fn is_scanning(&self) -> bool {
        self.scanning
    }

    /// Switches scanning on as firmware leaves it.
    pub fn start_scanning(&mut self) {
        self.scanning = true;
    }

    /// LEDs the guest has set: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// Keys, as set 1 codes. Dropped while not scanning or when the queue has no room for all.
    pub fn key(&mut self, set1: &[u8], translated: bool) {
        // Set 2 needs at most twice the space.
        let room = QUEUE.saturating_sub(self.data.len()) / 2;
        if !self.scanning || set1.len() > room {
            return;
        }
        for byte in set1 {
            if translated || self.set == 1 {
                self.data.push_back(*byte);
            } else {
                scancode::push_set2(*byte, |b| self.data.push_back(b));
            }
        }
    }

    /// A byte from the host.
    pub fn command(&mut self, byte: u8, translated: bool) {
        self.answers.clear();
        self.answers.push_back(ACKNOWLEDGE);
        match std::mem::take(&mut self.expect) {
            Expect::Command => self.start_command(byte),
            Expect::Leds => self.leds = byte & 7,
            Expect::ScanCodeSet => match byte {
                0 => self.answers.push_back(if translated { 1 } else { self.set }),
                1 | 2 => self.set = byte,
                _ => {}
            },
            Expect::Typematic => {}
        }
    }

    fn start_command(&mut self, byte: u8) {
        match byte {
            0xED => self.expect = Expect::Leds,
            0xF0 => self.expect = Expect::ScanCodeSet,
            0xF2 => self.answers.extend([0xAB, 0x83]),
            0xF3 => self.expect = Expect::Typematic,
            0xF4 => {
                self.data.clear();
                self.scanning = true;
            }
            0xF5 => {
                self.data.clear();
                self.scanning = false;
            }
            0xF6 => {
                self.data.clear();
                self.set = 2;
            }
            0xFF => {
                self.data.clear();
                self.set = 2;
                self.leds = 0;
                self.answers.extend([SELF_TEST_PASSED, 0x00]);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(keyboard: &mut Ps2Keyboard, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for b in bytes {
            keyboard.command(*b, true);
            all.extend(keyboard.answers.drain(..));
        }
        all
    }

    #[test]
    fn keyboard_answers_match_the_reference() {
        let mut k = Ps2Keyboard::new();
        assert_eq!(answers(&mut k, &[0xF2]), [0xFA, 0xAB, 0x83]);
        assert_eq!(answers(&mut k, &[0xFF]), [0xFA, 0xAA, 0x00]);
        assert_eq!(answers(&mut k, &[0xEE]), [0xFA]);
        assert_eq!(answers(&mut k, &[0xF0, 0x00]), [0xFA, 0xFA, 0x01]);
        assert_eq!(answers(&mut k, &[0xED, 0x07]), [0xFA, 0xFA]);
        assert_eq!(k.leds(), 7);
    }

    #[test]
    fn keyboard_drops_keys_until_scanning_is_enabled() {
        let mut k = Ps2Keyboard::new();
        k.key(&[0x1E], true);
        assert!(k.data.is_empty());
        answers(&mut k, &[0xF4]);
        k.key(&[0x1E, 0x9E], true);
        assert_eq!(k.data, [0x1E, 0x9E]);
        answers(&mut k, &[0xED, 0x00]);
        assert_eq!(k.data.len(), 2, "setting LEDs loses no key");
    }

    #[test]
    fn keyboard_untranslated_speaks_set_2_unless_told_otherwise() {
        let mut k = Ps2Keyboard::new();
        answers(&mut k, &[0xF4]);
        k.key(&[0x1E, 0x9E], false);
        assert_eq!(k.data, [0x1C, 0xF0, 0x1C]);
        answers(&mut k, &[0xF4, 0xF0, 0x01]);
        k.key(&[0x9E], false);
        assert_eq!(k.data, [0x9E]);
    }

    #[test]
    fn keyboard_queue_is_bounded_and_keeps_sequences_whole() {
        let mut k = Ps2Keyboard::new();
        k.start_scanning();
        for _ in 0..5000 {
            k.key(&[0xE0, 0x48, 0xE0, 0xC8], true);
        }
        assert!(k.data.len() <= QUEUE);
        assert_eq!(k.data.len() % 4, 0);
    }
}
