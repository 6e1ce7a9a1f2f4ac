//! Standard input on its way to the guest. One thread, blocked in `read` most of the time; it is
//! left behind when the session ends.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::ConsoleError;
use super::escape::{EscapeFilter, Typed};
use super::pacer::{Moment, POLL, Pacer};
use super::session::{Event, Input};
use crate::config::CtrlD;
use crate::vm::Guest;

/// Bytes handed to the machine at once; its queue takes that many or none.
const MESSAGE: usize = 256;

/// What the input thread works with.
pub(super) struct InputThread {
    pub guest: Arc<dyn Guest>,
    pub ctrl_d: CtrlD,
    /// Set when the session ends.
    pub ended: Arc<AtomicBool>,
    pub events: Box<dyn Fn(Event) + Send>,
    /// Looks at the guest.
    pub moment: Box<dyn Fn() -> Moment + Send>,
}

impl InputThread {
    /// Starts the thread.
    pub(super) fn start(self, input: Input) -> Result<(), ConsoleError> {
        let body = move || match input {
            Input::Terminal(reader) => self.terminal(reader),
            Input::Pipe(reader) => self.pipe(reader),
            Input::Nothing => {}
        };
        let thread = thread::Builder::new().name("console-input".to_owned()).spawn(body);
        thread.map(drop).map_err(ConsoleError::Thread)
    }

    fn terminal(&self, mut reader: Box<dyn Read + Send>) {
        let mut filter = EscapeFilter::new(self.ctrl_d);
        let mut buffer = [0; 4096];
        loop {
            let read = match read(&mut *reader, &mut buffer) {
                Ok([]) => return (self.events)(Event::InputFailed(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) => return (self.events)(Event::InputFailed(error)),
            };
            for typed in filter.feed(read) {
                match typed {
                    Typed::Bytes(bytes) => {
                        if !self.send(&bytes) {
                            return;
                        }
                    }
                    Typed::Command(command) => (self.events)(Event::Command(command)),
                    Typed::CtrlD => (self.events)(Event::CtrlD),
                }
            }
        }
    }

    fn pipe(&self, mut reader: Box<dyn Read + Send>) {
        let mut pacer = Pacer::default();
        let mut buffer = [0; super::pacer::PIECE];
        loop {
            let read = match read(&mut *reader, &mut buffer) {
                Ok([]) => return (self.events)(Event::InputEnd),
                Ok(read) => read,
                Err(error) => return (self.events)(Event::InputFailed(error)),
            };
            while !pacer.may_send((self.moment)()) {
                if self.ended.load(Ordering::Acquire) {
                    return;
                }
                thread::sleep(POLL);
            }
            if !self.send(read) {
                return;
            }
        }
    }

    /// False if the session has ended.
    fn send(&self, bytes: &[u8]) -> bool {
        for message in bytes.chunks(MESSAGE) {
            while !self.guest.type_bytes(message) {
                if self.ended.load(Ordering::Acquire) {
                    return false;
                }
                self.guest.wait_space(message.len());
            }
        }
        true
    }
}

fn read<'a>(reader: &mut dyn Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match reader.read(buffer) {
            Ok(n) => return Ok(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody else has set our input non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(error) => return Err(error),
        }
    }
}
