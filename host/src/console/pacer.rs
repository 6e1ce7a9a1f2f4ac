//! When piped input may be sent to the guest, and when its end ends the session.
//!
//! A person waits for a prompt before typing; a pipe does not. Until a guest has opened its
//! serial port the UART throws input away, a getty flushes what came early, and Linux drops what
//! exceeds its terminal buffer. So the first bytes are held back until the guest listens and has
//! come to rest, and the following ones are sent in small pieces, each after the guest has read
//! the one before and rests again.
//!
//! After the last byte the session goes on until the guest has read everything and has then been
//! idle and silent for a moment (`--linger`). A command that sleeps longer than that without
//! printing anything is cut off; a script that ends with `poweroff` is not affected.

use std::time::Duration;

use crate::vm::GuestStatus;

/// Bytes sent at once.
pub const PIECE: usize = 1 << 10;

/// How often the guest is looked at.
pub const POLL: Duration = Duration::from_millis(10);

/// Silence of a halted guest that counts as waiting for input.
const SETTLE: Duration = Duration::from_millis(250);

/// Silence of a busy guest that counts as waiting for input: it may poll its UART.
const SETTLE_BUSY: Duration = Duration::from_secs(2);

/// Silence after which a guest counts as listening although it never enabled receive interrupts.
const GIVE_UP: Duration = Duration::from_secs(30);

/// A guest that does not come to rest gets its next piece after this time.
const NEXT_BUSY: Duration = Duration::from_secs(1);

/// What is known about the guest at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Time since the session began.
    pub now: Duration,
    /// Time since the guest last printed something.
    pub silent: Duration,
    /// Its state.
    pub status: GuestStatus,
}

impl Moment {
    fn listening(&self) -> bool {
        self.status.listening || self.silent >= GIVE_UP
    }
}

/// Decides when the next piece is sent.
#[derive(Debug, Default)]
pub struct Pacer {
    last_sent: Option<Duration>,
}

impl Pacer {
    /// True if a piece may be sent now; the caller then sends it.
    pub fn may_send(&mut self, at: Moment) -> bool {
        let may = match self.last_sent {
            None => {
                let settle = if at.status.halted { SETTLE } else { SETTLE_BUSY };
                at.listening() && at.silent >= settle
            }
            Some(last) => {
                let rests = at.status.halted || at.now.saturating_sub(last) >= NEXT_BUSY;
                at.status.input_pending == 0 && rests
            }
        };
        if may {
            self.last_sent = Some(at.now);
        }
        may
    }
}

/// Decides when a guest that gets no more input is done.
#[derive(Debug)]
pub struct Drain {
    linger: Duration,
    idle_since: Option<Duration>,
}

impl Drain {
    /// A guest is done after `linger` without activity.
    pub fn new(linger: Duration) -> Self {
        Self { linger, idle_since: None }
    }

    /// True if the guest is done. To be asked every [`POLL`]: one moment of activity counts.
    pub fn is_done(&mut self, at: Moment) -> bool {
        let idle = at.status.halted && at.status.input_pending == 0 && at.listening();
        if !idle {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(at.now);
        at.now.saturating_sub(since).min(at.silent) >= self.linger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENING: GuestStatus = GuestStatus { input_pending: 0, listening: true, halted: true };

    fn at(now_ms: u64, silent_ms: u64, status: GuestStatus) -> Moment {
        Moment { now: Duration::from_millis(now_ms), silent: Duration::from_millis(silent_ms), status }
    }

    #[test]
    fn first_input_waits_for_a_guest_that_listens_and_rests() {
        let mut pacer = Pacer::default();
        assert!(!pacer.may_send(at(0, 1000, GuestStatus { listening: false, ..LISTENING })));
        assert!(!pacer.may_send(at(1, 100, LISTENING)));
        assert!(!pacer.may_send(at(2, 1000, GuestStatus { halted: false, ..LISTENING })));
        assert!(pacer.may_send(at(3, 250, LISTENING)));
    }

    #[test]
    fn first_input_reaches_guests_that_poll_after_a_while() {
        let busy = GuestStatus { halted: false, ..LISTENING };
        assert!(Pacer::default().may_send(at(0, 2000, busy)));
        let deaf = GuestStatus { halted: false, listening: false, input_pending: 0 };
        assert!(!Pacer::default().may_send(at(0, 29_000, deaf)));
        assert!(Pacer::default().may_send(at(0, 30_000, deaf)));
    }

    #[test]
    fn next_input_waits_until_the_guest_has_read_and_rests() {
        let mut pacer = Pacer::default();
        assert!(pacer.may_send(at(0, 300, LISTENING)));
        assert!(!pacer.may_send(at(10, 0, GuestStatus { input_pending: 1, ..LISTENING })));
        assert!(!pacer.may_send(at(5000, 0, GuestStatus { input_pending: 1, halted: false, ..LISTENING })));
        assert!(!pacer.may_send(at(900, 0, GuestStatus { halted: false, ..LISTENING })));
        assert!(pacer.may_send(at(1000, 0, GuestStatus { halted: false, ..LISTENING })));
        assert!(pacer.may_send(at(1010, 0, LISTENING)));
    }

    #[test]
    fn drained_guest_has_been_idle_and_silent_since_the_end_of_input() {
        let mut drain = Drain::new(Duration::from_millis(300));
        assert!(!drain.is_done(at(1000, 900, LISTENING)), "it has had no time to react");
        assert!(!drain.is_done(at(1200, 1100, LISTENING)));
        assert!(!drain.is_done(at(1250, 0, GuestStatus { halted: false, ..LISTENING })));
        assert!(!drain.is_done(at(1290, 40, LISTENING)));
        assert!(!drain.is_done(at(1580, 299, LISTENING)));
        assert!(drain.is_done(at(1600, 350, LISTENING)));
    }

    #[test]
    fn drained_guest_has_read_everything() {
        let mut drain = Drain::new(Duration::ZERO);
        assert!(!drain.is_done(at(0, 900, GuestStatus { input_pending: 1, ..LISTENING })));
        assert!(!drain.is_done(at(1, 900, GuestStatus { listening: false, ..LISTENING })));
        assert!(drain.is_done(at(2, 900, LISTENING)));
    }
}
