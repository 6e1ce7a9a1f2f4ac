//! The end of what the guest printed on its console. Nobody sees it unless something goes wrong.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vm::SerialSink;

/// Bytes kept.
const KEPT: usize = 4 << 10;

/// Lines shown.
const SHOWN: usize = 8;

/// Bytes waiting for a listener. When there are so many, the guest waits.
const QUEUE: usize = 64 << 10;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    listener: Option<SyncSender<u8>>,
}

/// The end of the console's output.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<State>>);

impl Tail {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that comes from now on. There is one listener, the latest.
    pub fn listen(&self) -> Receiver<u8> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.lock().listener = Some(sender);
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
        let Some(listener) = state.listener.clone() else { return };
        drop(state);
        if listener.send(byte).is_err() {
            self.lock().listener = None;
        }
    }

    fn flush(&mut self) {}
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
    }
}
