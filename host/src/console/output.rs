//! Guest output on its way to standard output.
//!
//! The vCPU thread only appends to a queue; a thread of its own writes. After the first byte that
//! thread waits for up to [`GATHER`] for more, unless the guest comes to rest, 4 KiB are there, or a line ends and
//! nothing was written lately. So a screenful costs a few system calls, an echoed key none of the user's patience,
//! and who takes the time between two lines takes the guest's.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::ConsoleError;
use super::exit_on::Matcher;
use crate::clock;
use crate::limits::OUTPUT_QUEUE;
use crate::vm::SerialSink;

/// How long output is gathered before it is written.
const GATHER: Duration = Duration::from_millis(2);

/// This much output is written without waiting for more.
const ENOUGH: usize = 4 << 10;

/// Pause before writing again to an output that is non-blocking and full.
const RETRY: Duration = Duration::from_millis(5);

/// What the output thread reports.
#[derive(Debug)]
pub enum OutputEvent {
    /// The `--exit-on` text was printed.
    PatternFound,
    /// Standard output takes no more.
    Failed(io::Error),
}

/// The queue between vCPU thread and output thread.
pub struct Output {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, or the end came.
    filled: Condvar,
    /// The queue was taken, or nobody has to wait any more.
    taken: Condvar,
}

struct Queue {
    bytes: Vec<u8>,
    /// Write now.
    urgent: bool,
    /// Nothing more will come.
    closed: bool,
    /// Do not wait for space: throw away what does not fit.
    released: bool,
    /// Everything was written, or nothing more can be.
    finished: bool,
    /// When the guest last printed something.
    last: Instant,
    /// When something was last taken to be written.
    taken_at: Option<Instant>,
    /// The last byte written did not end a line.
    mid_line: bool,
}

impl Output {
    /// Starts the output thread. `events` is called on it.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn start(
        writer: Box<dyn Write + Send>,
        exit_on: Option<Vec<u8>>,
        events: impl Fn(OutputEvent) + Send + 'static,
    ) -> Result<Self, ConsoleError> {
        let queue = Queue {
            bytes: Vec::new(),
            urgent: false,
            closed: false,
            released: false,
            finished: false,
            last: clock::now(),
            taken_at: None,
            mid_line: false,
        };
        let shared =
            Arc::new(Shared { queue: Mutex::new(queue), filled: Condvar::new(), taken: Condvar::new() });
        let for_thread = shared.clone();
        thread::Builder::new()
            .name("console-output".to_owned())
            .spawn(move || {
                let mut matcher = exit_on.map(Matcher::new);
                for_thread.write_all(writer, &mut matcher, &events);
                for_thread.lock().finished = true;
                for_thread.taken.notify_all();
            })
            .map_err(ConsoleError::Thread)?;
        Ok(Self { shared })
    }

    /// The end that the machine writes to.
    pub fn sink(&self) -> Box<dyn SerialSink> {
        Box::new(Sink(self.shared.clone()))
    }

    /// Time since the guest last printed something (or since the start).
    pub fn silent_for(&self) -> Duration {
        clock::now().saturating_duration_since(self.shared.lock().last)
    }

    /// True if what was written last does not end a line.
    pub fn is_mid_line(&self) -> bool {
        self.shared.lock().mid_line
    }

    /// From now on the machine never waits for the terminal.
    pub fn release(&self) {
        self.shared.lock().released = true;
        self.shared.taken.notify_all();
    }

    /// Nothing more will be queued. Waits until everything is written, but not longer than
    /// `patience`: a terminal may be stopped. Returns false if something was left.
    pub fn finish(&self, patience: Duration) -> bool {
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.filled.notify_all();
        let deadline = clock::now() + patience;
        while !queue.finished {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.taken.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Shared {
    /// The queue is consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(
        &self,
        mut writer: Box<dyn Write + Send>,
        matcher: &mut Option<Matcher>,
        events: &dyn Fn(OutputEvent),
    ) {
        let mut batch = Vec::new();
        while self.take(&mut batch) {
            if let Err(error) = write_all(&mut *writer, &batch) {
                let mut queue = self.lock();
                queue.released = true;
                queue.bytes = Vec::new();
                drop(queue);
                self.taken.notify_all();
                events(OutputEvent::Failed(error));
                return;
            }
            self.lock().mid_line = batch.last().is_some_and(|byte| *byte != b'\n');
            if matcher.as_mut().is_some_and(|matcher| matcher.feed(&batch)) {
                *matcher = None;
                events(OutputEvent::PatternFound);
            }
        }
    }

    /// Waits for output and swaps it into `batch`. False at the end.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        let mut queue = self.lock();
        while queue.bytes.is_empty() {
            if queue.closed {
                return false;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.urgent && !queue.closed {
            let urgent = |queue: &mut Queue| !queue.urgent && !queue.closed;
            let woken = self.filled.wait_timeout_while(queue, GATHER, urgent);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut queue.bytes, batch);
        queue.urgent = false;
        queue.taken_at = Some(clock::now());
        drop(queue);
        self.taken.notify_all();
        true
    }
}

/// Writes and flushes everything, also to a terminal that somebody else has set non-blocking.
fn write_all(writer: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    let mut flushed = false;
    while !flushed {
        let result = match bytes {
            [] => writer.flush().map(|()| flushed = true),
            _ => match writer.write(bytes) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
    }
    Ok(())
}

struct Sink(Arc<Shared>);

impl SerialSink for Sink {
    fn write(&mut self, byte: u8) {
        let shared = &self.0;
        let mut queue = shared.lock();
        while queue.bytes.len() >= OUTPUT_QUEUE {
            if queue.released || queue.finished {
                return;
            }
            queue = shared.taken.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.finished {
            return;
        }
        queue.bytes.push(byte);
        let len = queue.bytes.len();
        // The clock is not read for each byte of a batch: it is written within milliseconds.
        let is_line = byte == b'\n' && !queue.urgent;
        let wake = len == 1 || len == ENOUGH || is_line;
        if wake {
            queue.last = clock::now();
            let since = |at| queue.last.saturating_duration_since(at);
            queue.urgent |= len == ENOUGH || is_line && queue.taken_at.is_none_or(|at| since(at) >= GATHER);
        }
        drop(queue);
        if wake {
            shared.filled.notify_all();
        }
    }

    fn flush(&mut self) {
        let mut queue = self.0.lock();
        if !queue.bytes.is_empty() && !queue.urgent {
            queue.urgent = true;
            drop(queue);
            self.0.filled.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A writer that hands each write to the test, and waits while nobody takes it.
    struct Handed(mpsc::SyncSender<Vec<u8>>);
    impl Write for Handed {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.send(buf.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Output, mpsc::Receiver<Vec<u8>>, mpsc::Receiver<OutputEvent>) {
        let (writes_in, writes) = mpsc::sync_channel(0);
        let (events_in, events) = mpsc::channel();
        let output = Output::start(Box::new(Handed(writes_in)), None, move |event| {
            let _ = events_in.send(event);
        });
        (output.unwrap(), writes, events)
    }

    fn print(sink: &mut dyn SerialSink, text: &[u8]) {
        text.iter().for_each(|&byte| sink.write(byte));
    }

    #[test]
    fn output_arrives_whole_and_in_order() {
        let (output, writes, _events) = start();
        let text: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let mut sink = output.sink();
        let expected = text.clone();
        let printer = thread::spawn(move || print(&mut *sink, &text));
        let mut seen = Vec::new();
        let mut count = 0;
        while seen.len() < expected.len() {
            seen.extend(writes.recv_timeout(PATIENCE).unwrap());
            count += 1;
        }
        printer.join().unwrap();
        assert_eq!(seen, expected);
        assert!(count < 1000, "{count} writes for 100,000 bytes");
        assert!(output.finish(PATIENCE));
    }

    #[test]
    fn first_line_after_a_pause_does_not_wait_for_more() {
        let (output, writes, _events) = start();
        // One byte, so that the writer cannot come in between.
        output.sink().write(b'\n');
        let queue = output.shared.lock();
        assert!(queue.urgent || queue.bytes.is_empty());
        drop(queue);
        assert_eq!(writes.recv_timeout(PATIENCE).unwrap(), b"\n");
    }

    #[test]
    fn guest_waits_for_a_full_queue_and_goes_on_when_released() {
        let (output, writes, _events) = start();
        let mut sink = output.sink();
        let (done_in, done) = mpsc::channel();
        thread::spawn(move || {
            // One queue is taken by the writer at most, the second one fills up.
            print(&mut *sink, &vec![b'x'; 3 * OUTPUT_QUEUE]);
            done_in.send(()).unwrap();
        });
        while output.shared.lock().bytes.len() < OUTPUT_QUEUE {
            thread::yield_now();
        }
        assert!(done.try_recv().is_err());
        output.release();
        done.recv_timeout(PATIENCE).unwrap();
        assert!(!output.finish(Duration::ZERO), "the writer is still stuck");
        drop(writes);
    }

    #[test]
    fn pattern_is_reported_once_and_after_it_was_written() {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(buf);
                Ok(buf.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let at_event = kept.clone();
        let (events_in, events) = mpsc::channel();
        let report = move |_| events_in.send(at_event.0.lock().unwrap().clone()).unwrap();
        let output = Output::start(Box::new(kept.clone()), Some(b"login:".to_vec()), report).unwrap();
        let mut sink = output.sink();
        print(&mut *sink, b"alpine log");
        sink.flush();
        while kept.0.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        print(&mut *sink, b"in: ");
        let written = events.recv_timeout(PATIENCE).unwrap();
        assert!(written.starts_with(b"alpine login:"));
        print(&mut *sink, b"login: login:");
        assert!(output.finish(PATIENCE));
        assert_eq!(*kept.0.lock().unwrap(), b"alpine login: login: login:");
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn broken_pipe_is_reported_and_stops_nobody() {
        let (output, writes, events) = start();
        drop(writes);
        let mut sink = output.sink();
        print(&mut *sink, b"x");
        match events.recv_timeout(PATIENCE) {
            Ok(OutputEvent::Failed(error)) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
            other => panic!("{other:?}"),
        }
        print(&mut *sink, &vec![b'x'; 2 * OUTPUT_QUEUE]);
        assert!(output.finish(PATIENCE));
    }
}
