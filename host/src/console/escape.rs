//! Tells what the user types to the guest from what is meant for env86.

use super::keys::{self, CTRL_A, CTRL_D, Command};
use crate::config::CtrlD;

/// What a piece of input means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the guest.
    Bytes(Vec<u8>),
    /// A command to env86.
    Command(Command),
    /// Ctrl-D, and it ends the session.
    CtrlD,
}

/// Finds commands in what is typed. Keeps a Ctrl-A at the end of one read for the next.
#[derive(Debug)]
pub struct EscapeFilter {
    ctrl_d: CtrlD,
    escaped: bool,
}

impl EscapeFilter {
    /// No Ctrl-A seen yet.
    pub fn new(ctrl_d: CtrlD) -> Self {
        Self { ctrl_d, escaped: false }
    }

    /// Takes what one read returned.
    ///
    /// If Ctrl-D ends the session, nothing of the read that contains it reaches the guest.
    pub fn feed(&mut self, input: &[u8]) -> Vec<Typed> {
        if self.ctrl_d == CtrlD::Exit && input.contains(&CTRL_D) {
            return vec![Typed::CtrlD];
        }
        let mut out = Vec::new();
        let mut bytes = Vec::new();
        for &byte in input {
            if !std::mem::take(&mut self.escaped) {
                match byte {
                    CTRL_A => self.escaped = true,
                    byte => bytes.push(byte),
                }
                continue;
            }
            match keys::command(byte) {
                Some(command) => {
                    if !bytes.is_empty() {
                        out.push(Typed::Bytes(std::mem::take(&mut bytes)));
                    }
                    out.push(Typed::Command(command));
                }
                None if byte == CTRL_A || byte.eq_ignore_ascii_case(&b'a') => bytes.push(CTRL_A),
                // No command: somebody used Ctrl-A for what it does in the guest's shell.
                None => bytes.extend([CTRL_A, byte]),
            }
        }
        if !bytes.is_empty() {
            out.push(Typed::Bytes(bytes));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> Typed {
        Typed::Bytes(text.to_vec())
    }

    #[test]
    fn control_characters_reach_the_guest() {
        let mut filter = EscapeFilter::new(CtrlD::Guest);
        assert_eq!(filter.feed(b"ls\x03\x1a\x04\r"), [bytes(b"ls\x03\x1a\x04\r")]);
    }

    #[test]
    fn commands_are_found_also_across_reads() {
        let mut filter = EscapeFilter::new(CtrlD::Guest);
        assert_eq!(filter.feed(b"a\x01hb\x01"), [bytes(b"a"), Typed::Command(Command::Help), bytes(b"b")]);
        assert_eq!(filter.feed(b"x"), [Typed::Command(Command::Quit)]);
        assert_eq!(filter.feed(b"x"), [bytes(b"x")]);
        assert_eq!(filter.feed(b""), []);
    }

    #[test]
    fn doubled_prefix_is_the_key_itself_and_other_keys_pass() {
        let mut filter = EscapeFilter::new(CtrlD::Guest);
        assert_eq!(filter.feed(b"\x01\x01x\x01ay\x01z"), [bytes(b"\x01x\x01y\x01z")]);
    }

    #[test]
    fn ctrl_d_ends_the_session_when_asked_and_takes_its_read_along() {
        let mut filter = EscapeFilter::new(CtrlD::Exit);
        assert_eq!(filter.feed(b"ls\r"), [bytes(b"ls\r")]);
        assert_eq!(filter.feed(b"ls\r\x04x"), [Typed::CtrlD]);
    }
}
