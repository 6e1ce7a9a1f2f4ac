//! How other threads talk to a running machine: a bounded queue, and what the machine tells back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::SERIAL_PORTS;

/// A message to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMessage {
    /// Bytes for a serial port (0 = COM1).
    Serial {
        /// Port number, 0-3.
        port: u8,
        /// What arrives at its receiver.
        bytes: Vec<u8>,
    },
    /// Raw set-1 scan codes for the keyboard.
    Keyboard(Vec<u8>),
    /// Stop running; [`super::Machine::run`] returns `Stopped`.
    Stop,
    /// Stop for a while; [`super::Machine::run`] returns `Paused` and may be called again.
    Pause,
}

impl HostMessage {
    fn weight(&self) -> usize {
        match self {
            Self::Serial { bytes, .. } | Self::Keyboard(bytes) => bytes.len().max(1),
            Self::Stop | Self::Pause => 0,
        }
    }
}

/// Payload bytes that may wait in a mailbox; senders wait beyond that. A larger message is never
/// taken: divide it.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024;

#[derive(Default)]
struct Queue {
    messages: VecDeque<HostMessage>,
    bytes: usize,
    /// Something came since the machine looked last.
    fresh: bool,
    closed: bool,
}

/// The mailbox. Shared by reference counting; nothing in it blocks the machine.
#[derive(Default)]
pub struct Mailbox {
    queue: Mutex<Queue>,
    changed: Condvar,
    space: Condvar,
    /// Something waits in the queue: looked at between slices without locking.
    pending: AtomicBool,
    /// Frames wait in the network card's cable.
    network: AtomicBool,
    idle: AtomicBool,
    listening: AtomicBool,
    backlog: AtomicUsize,
    retired: AtomicU64,
}

/// What the machine last said about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineStatus {
    /// The CPU waits in HLT.
    pub idle: bool,
    /// The guest has switched COM1's receive interrupt on: a program reads the port.
    pub listening: bool,
    /// Serial input bytes the guest has not read yet, including those still in the mailbox.
    pub serial_backlog: usize,
    /// Instructions completed.
    pub retired: u64,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once the machine is gone.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Queues a message. False if the queue is full or the machine is gone.
    #[must_use]
    pub fn send(&self, message: HostMessage) -> bool {
        let mut q = self.lock();
        let weight = message.weight();
        if q.closed || (weight > 0 && q.bytes + weight > MAX_QUEUED_BYTES) {
            return false;
        }
        q.bytes += weight;
        q.fresh = true;
        q.messages.push_back(message);
        self.pending.store(true, Ordering::Release);
        self.changed.notify_all();
        true
    }

    /// Says that frames wait in the network card's cable: the machine fetches them, and wakes up for it.
    pub fn wake_network(&self) {
        // Whoever set it before has woken the machine.
        if !self.network.swap(true, Ordering::AcqRel) {
            // With the lock, so that it does not come between the machine's look and its sleep.
            let _queue = self.lock();
            self.changed.notify_all();
        }
    }

    /// Waits until a message of `bytes` payload fits (or the machine is gone).
    pub fn wait_space(&self, bytes: usize) {
        let mut q = self.lock();
        while !q.closed && q.bytes > 0 && q.bytes + bytes > MAX_QUEUED_BYTES {
            q = self.space.wait(q).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the machine last said.
    pub fn status(&self) -> MachineStatus {
        let queued = self.lock().bytes;
        MachineStatus {
            idle: self.idle.load(Ordering::Acquire),
            listening: self.listening.load(Ordering::Acquire),
            serial_backlog: self.backlog.load(Ordering::Acquire) + queued,
            retired: self.retired.load(Ordering::Acquire),
        }
    }

    // ---- machine side ------------------------------------------------------------------------

    #[inline]
    pub(super) fn has_messages(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// True once after [`Mailbox::wake_network`].
    #[inline]
    pub(super) fn take_network(&self) -> bool {
        self.network.load(Ordering::Relaxed) && self.network.swap(false, Ordering::AcqRel)
    }

    /// Takes the messages that fit into `room` bytes per serial port; the others, in their order,
    /// stay and go on counting.
    pub(super) fn take(&self, mut room: [usize; SERIAL_PORTS]) -> Vec<HostMessage> {
        let mut q = self.lock();
        let (mut taken, mut kept) = (Vec::new(), VecDeque::new());
        for message in std::mem::take(&mut q.messages) {
            if let HostMessage::Serial { port, bytes } = &message
                && let Some(room) = room.get_mut(usize::from(*port))
            {
                if bytes.len() > *room {
                    // Later messages must not overtake this one.
                    *room = 0;
                    kept.push_back(message);
                    continue;
                }
                *room -= bytes.len();
            }
            taken.push(message);
        }
        q.bytes = kept.iter().map(HostMessage::weight).sum();
        q.messages = kept;
        q.fresh = false;
        self.pending.store(!q.messages.is_empty(), Ordering::Release);
        self.space.notify_all();
        taken
    }

    /// Sleeps until a message arrives or `timeout` passes.
    pub(super) fn wait(&self, timeout: Duration) {
        let q = self.lock();
        if !q.fresh && !q.closed && !self.network.load(Ordering::Acquire) {
            let _ = self.changed.wait_timeout(q, timeout);
        }
    }

    pub(super) fn publish(&self, status: MachineStatus) {
        self.backlog.store(status.serial_backlog, Ordering::Release);
        self.retired.store(status.retired, Ordering::Release);
        self.listening.store(status.listening, Ordering::Release);
        self.idle.store(status.idle, Ordering::Release);
    }

    /// No more messages are taken; waiting senders are released.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.space.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: [usize; SERIAL_PORTS] = [MAX_QUEUED_BYTES; SERIAL_PORTS];

    #[test]
    fn mailbox_refuses_more_than_its_bound_and_takes_again_after_draining() {
        let m = Mailbox::new();
        let big = HostMessage::Serial { port: 0, bytes: vec![0; MAX_QUEUED_BYTES] };
        assert!(m.send(big.clone()));
        assert!(!m.send(HostMessage::Serial { port: 0, bytes: vec![1] }));
        assert!(m.send(HostMessage::Stop), "Stop always fits");
        assert_eq!(m.take(ROOM).len(), 2);
        assert!(m.send(big));
    }

    #[test]
    fn mailbox_refuses_a_message_that_could_never_fit() {
        let m = Mailbox::new();
        assert!(!m.send(HostMessage::Keyboard(vec![0; MAX_QUEUED_BYTES + 1])));
        m.wait_space(MAX_QUEUED_BYTES + 1);
    }

    #[test]
    fn mailbox_holds_serial_input_without_room_back_in_order_and_lets_others_pass() {
        let m = Mailbox::new();
        let serial = |port, len| HostMessage::Serial { port, bytes: vec![port; len] };
        for message in [serial(0, 10), serial(0, 1), serial(1, 1), HostMessage::Keyboard(vec![1])] {
            assert!(m.send(message));
        }
        assert_eq!(m.take([9, 9, 9, 9]), [serial(1, 1), HostMessage::Keyboard(vec![1])]);
        assert_eq!(m.status().serial_backlog, 11);
        assert!(m.has_messages());
        assert_eq!(m.take([10, 0, 0, 0]), [serial(0, 10)]);
        assert_eq!(m.take([1, 0, 0, 0]), [serial(0, 1)]);
        assert!(!m.has_messages());
    }

    #[test]
    fn mailbox_network_wakes_once_and_keeps_the_machine_from_sleeping() {
        let m = Mailbox::new();
        assert!(!m.take_network());
        m.wake_network();
        m.wake_network();
        m.wait(Duration::from_secs(3600));
        assert!(m.take_network());
        assert!(!m.take_network());
    }

    #[test]
    fn mailbox_closed_releases_and_refuses_senders() {
        let m = Mailbox::new();
        m.close();
        m.wait_space(1 << 30);
        assert!(!m.send(HostMessage::Stop));
    }
}
