//! What the image writes to its serial port, and when.

use std::time::Duration;

/// A kernel that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Its name.
    pub name: String,
    /// What it returned.
    pub checksum: u32,
    /// Host time from the last byte of its START line to the first byte after that.
    pub time: Duration,
}

/// Reads the serial output byte by byte.
#[derive(Default)]
pub struct Protocol {
    line: String,
    /// When the byte before this one ended a START line.
    started: Option<Duration>,
    /// Time of the kernel whose END line is being written.
    time: Option<Duration>,
    ended: Vec<Timed>,
}

/// Longer lines are not ours; nothing more of them is kept.
const MAX_LINE: usize = 256;

impl Protocol {
    /// The guest wrote `byte` at the host time `now`, counted from any moment.
    pub fn byte(&mut self, byte: u8, now: Duration) {
        if let Some(started) = self.started.take() {
            self.time = Some(now.saturating_sub(started));
        }
        if byte != b'\n' {
            if self.line.len() < MAX_LINE {
                self.line.push(char::from(byte));
            }
            return;
        }
        let line = std::mem::take(&mut self.line);
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["START", _] => self.started = Some(now),
            ["END", name, checksum] => {
                if let (Some(time), Ok(checksum)) = (self.time.take(), u32::from_str_radix(checksum, 16)) {
                    self.ended.push(Timed { name: (*name).to_owned(), checksum, time });
                }
            }
            _ => {}
        }
    }

    /// The kernels that have ended, in their order.
    pub fn into_ended(self) -> Vec<Timed> {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a text whose bytes come a second apart.
    fn feed(text: &str) -> Vec<Timed> {
        let mut protocol = Protocol::default();
        for (now, byte) in (0..).zip(text.bytes()) {
            protocol.byte(byte, Duration::from_secs(now));
        }
        protocol.into_ended()
    }

    #[test]
    fn kernel_is_timed_between_its_lines() {
        let ended = feed("START a\nEND a 0000beef\n");
        assert_eq!(ended, [Timed { name: "a".into(), checksum: 0xBEEF, time: Duration::from_secs(1) }]);
    }

    #[test]
    fn other_lines_are_ignored() {
        assert_eq!(feed("SeaBIOS (version 1)\r\n\nEND a 00000000\nSTART\nEND a x\nSTART a\n"), []);
        assert_eq!(feed("noise\nSTART a\nEND a 00000001\nSTART b\nEND b 00000002\n").len(), 2);
    }
}
