//! The serial console of a machine.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::clock;
use crate::vm;

/// Bytes typed at once.
const PIECE: usize = 512;

/// The serial console of a [`super::Vm`]. What the guest prints waits to be read, up to a megabyte; beyond, it is
/// lost.
pub struct Console {
    guest: Arc<dyn vm::Guest>,
    output: Receiver<u8>,
}

impl Console {
    pub(super) fn new(guest: Arc<dyn vm::Guest>, output: Receiver<u8>) -> Self {
        Self { guest, output }
    }

    /// Types bytes. False if the guest has not taken all of them in this time.
    pub fn write(&mut self, bytes: &[u8], time: Duration) -> bool {
        let begin = clock::now();
        bytes.chunks(PIECE).all(|piece| {
            while !self.guest.type_bytes(piece) {
                if clock::now().saturating_duration_since(begin) >= time {
                    return false;
                }
                self.guest.wait_space(piece.len());
            }
            true
        })
    }

    /// What the guest has printed since the last time, without waiting.
    pub fn read(&mut self) -> Vec<u8> {
        self.output.try_iter().collect()
    }

    /// Waits until the guest has printed this, and gives what it has printed until then. `None` if it has not in
    /// this time; what it has printed is lost.
    pub fn wait_for(&mut self, text: &str, time: Duration) -> Option<Vec<u8>> {
        let begin = clock::now();
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            let left = time.checked_sub(clock::now().saturating_duration_since(begin))?;
            seen.push(self.output.recv_timeout(left).ok()?);
        }
        Some(seen)
    }
}
