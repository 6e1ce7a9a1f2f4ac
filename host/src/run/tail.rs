//! The end of what the guest printed on its console. Nobody sees it unless something goes wrong.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rpc::Port;
use crate::vm::SerialSink;

/// Bytes kept.
const KEPT: usize = 4 << 10;

/// Lines shown.
const SHOWN: usize = 8;

/// Bytes waiting for a listener. When there are so many, the guest waits for one that has to hear everything.
const QUEUE: usize = 64 << 10;

/// Bytes waiting for a listener that may miss some.
const LOOSE_QUEUE: usize = 1 << 20;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    listener: Option<Listener>,
}

#[derive(Clone)]
struct Listener {
    sender: SyncSender<u8>,
    /// It must not miss anything.
    strict: bool,
}

/// The end of the console's output.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<State>>);

impl Tail {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that comes from now on. There is one listener, the latest.
    /// The guest waits for it.
    pub fn listen(&self) -> Receiver<u8> {
        self.add(QUEUE, true)
    }

    /// The same for one that need not listen all the time: what comes while too much is waiting is lost.
    pub fn listen_loosely(&self) -> Receiver<u8> {
        self.add(LOOSE_QUEUE, false)
    }

    fn add(&self, queue: usize, strict: bool) -> Receiver<u8> {
        let (sender, receiver) = sync_channel(queue);
        self.lock().listener = Some(Listener { sender, strict });
        receiver
    }

    /// What the machine's COM1 writes to.
    pub fn sink(&self) -> Box<dyn SerialSink> {
        Box::new(self.clone())
    }

    /// The last lines that are not empty.
    pub fn lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.lock().bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines.iter().skip(lines.len().saturating_sub(SHOWN)).map(|&line| line.to_owned()).collect()
    }
}

impl SerialSink for Tail {
    fn write(&mut self, byte: u8) {
        let mut state = self.lock();
        if state.bytes.len() == KEPT {
            state.bytes.pop_front();
        }
        state.bytes.push_back(byte);
        let Some(Listener { sender, strict }) = state.listener.clone() else { return };
        drop(state);
        let gone = match strict {
            true => sender.send(byte).is_err(),
            false => matches!(sender.try_send(byte), Err(TrySendError::Disconnected(_))),
        };
        if gone {
            self.lock().listener = None;
        }
    }

    /// One that has to hear everything talks to a shell, which has gone when the port closes.
    fn setup(&mut self, ier: u8, mcr: u8, divisor: u16) {
        if Port::from_registers(ier, mcr, divisor) == Some(Port::Closed) {
            let mut state = self.lock();
            state.listener = state.listener.take().filter(|listener| !listener.strict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines_within_bounds() {
        let tail = Tail::default();
        let mut sink = tail.sink();
        for line in 0..2000 {
            format!("line {line}\r\n\r\n").bytes().for_each(|byte| sink.write(byte));
        }
        let lines = tail.lines();
        assert_eq!(lines.len(), SHOWN);
        assert_eq!(lines.last().map(String::as_str), Some("line 1999"));
        assert!(tail.lock().bytes.len() <= KEPT);
        let heard = tail.listen();
        sink.write(b'x');
        assert_eq!(heard.recv(), Ok(b'x'));
        drop(heard);
        sink.write(b'y');
        assert!(tail.lock().listener.is_none());
        let heard = tail.listen();
        sink.write(b'w');
        sink.setup(5, 0x0b, 12);
        assert!(tail.lock().listener.is_some());
        sink.setup(0, 0, 0);
        assert_eq!(heard.iter().collect::<Vec<_>>(), b"w", "the shell has gone");
        let heard = tail.listen_loosely();
        sink.setup(0, 0, 0);
        (0..=LOOSE_QUEUE).for_each(|_| sink.write(b'z'));
        assert_eq!(heard.try_iter().count(), LOOSE_QUEUE, "the guest does not wait");
    }
}
