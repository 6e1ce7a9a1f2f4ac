//! When piped input may be sent to the guest, and when its end ends the session.
//!
//! A person waits for a prompt before typing; a pipe does not. Until a guest has opened its
//! serial port the UART throws input away, a getty flushes what came early, and Linux drops what
//! exceeds its terminal buffers (about 64 KiB). So the first bytes are held back until the guest
//! listens and has come to rest, and the following ones are sent in small pieces, each after the
//! guest has read the one before and rests again.
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

/// Rest of a guest that counts as waiting for its first input.
const SETTLE: Duration = Duration::from_millis(250);

/// Silence that counts as waiting for input, whatever the guest does: it may poll its UART.
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

/// How long a guest has been idle and silent.
///
/// A guest at rest wakes up for every timer tick, and is sometimes seen awake; one that works is
/// sometimes seen waiting for a device. So a moment awake takes back three moments of rest.
#[derive(Debug, Default)]
struct Rest {
    last: Option<Duration>,
    rested: Duration,
}

impl Rest {
    /// Takes the next look at the guest.
    fn observe(&mut self, at: Moment) -> Duration {
        let step = at.now.saturating_sub(self.last.replace(at.now).unwrap_or(at.now)).min(POLL * 2);
        self.rested = match at.status.halted {
            true => self.rested + step,
            false => self.rested.saturating_sub(step * 3),
        };
        self.rested = self.rested.min(at.silent);
        self.rested
    }

    fn disturb(&mut self) {
        *self = Self::default();
    }
}

/// Decides when the next piece is sent.
#[derive(Debug, Default)]
pub struct Pacer {
    rest: Rest,
    last_sent: Option<Duration>,
}

impl Pacer {
    /// True if a piece may be sent now; the caller then sends it. To be asked every [`POLL`].
    pub fn may_send(&mut self, at: Moment) -> bool {
        let may = match self.last_sent {
            None => {
                let rested = self.rest.observe(at);
                at.status.listening && rested >= SETTLE || at.silent >= GIVE_UP
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
    rest: Rest,
}

impl Drain {
    /// A guest is done after `linger` without activity.
    pub fn new(linger: Duration) -> Self {
        Self { linger, rest: Rest::default() }
    }

    /// True if the guest is done. To be asked every [`POLL`].
    pub fn is_done(&mut self, at: Moment) -> bool {
        let listening = at.status.listening || at.silent >= GIVE_UP;
        if at.status.input_pending > 0 || !listening {
            self.rest.disturb();
            return false;
        }
        self.rest.observe(at) >= self.linger && at.status.halted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTS: GuestStatus = GuestStatus { input_pending: 0, listening: true, halted: true };
    const WORKS: GuestStatus = GuestStatus { halted: false, ..RESTS };

    fn at(now_ms: u64, silent_ms: u64, status: GuestStatus) -> Moment {
        Moment { now: Duration::from_millis(now_ms), silent: Duration::from_millis(silent_ms), status }
    }

    /// First time in milliseconds at which `ask` agrees, asked every 10 ms for a minute.
    fn first(mut ask: impl FnMut(Moment) -> bool, moment: impl Fn(u64) -> Moment) -> Option<u64> {
        (0..6000).map(|i| i * 10).find(|now| ask(moment(*now)))
    }

    #[test]
    fn first_input_waits_until_the_guest_has_rested() {
        let mut pacer = Pacer::default();
        assert_eq!(first(|m| pacer.may_send(m), |now| at(now, 5000 + now, RESTS)), Some(250));
        let mut pacer = Pacer::default();
        let prints_until_1000 = |now: u64| at(now, now.saturating_sub(1000), RESTS);
        assert_eq!(first(|m| pacer.may_send(m), prints_until_1000), Some(1250));
    }

    #[test]
    fn first_input_waits_for_a_guest_that_listens() {
        let mut pacer = Pacer::default();
        let deaf_until_2000 = |now| at(now, now, GuestStatus { listening: now >= 2000, ..RESTS });
        assert_eq!(first(|m| pacer.may_send(m), deaf_until_2000), Some(2000));
    }

    #[test]
    fn first_input_is_held_back_while_the_guest_works() {
        let mut pacer = Pacer::default();
        // Every other look finds it waiting for a device.
        let working = |now| at(now, now, if now % 20 == 0 { RESTS } else { WORKS });
        assert_eq!(first(|m| pacer.may_send(m), working), Some(30_000));
        // One look in ten finds it handling a timer tick.
        let mut pacer = Pacer::default();
        let ticking = |now| at(now, now, if now % 100 == 90 { WORKS } else { RESTS });
        assert!(first(|m| pacer.may_send(m), ticking).is_some_and(|now| now < 1000));
    }

    #[test]
    fn next_input_waits_until_the_guest_has_read_and_rests() {
        let mut pacer = Pacer { last_sent: Some(Duration::ZERO), ..Pacer::default() };
        assert!(!pacer.may_send(at(10, 0, GuestStatus { input_pending: 1, ..RESTS })));
        assert!(!pacer.may_send(at(5000, 0, GuestStatus { input_pending: 1, ..WORKS })));
        assert!(!pacer.may_send(at(900, 0, WORKS)));
        assert!(pacer.may_send(at(1000, 0, WORKS)));
        assert!(pacer.may_send(at(1010, 0, RESTS)));
    }

    #[test]
    fn drained_guest_has_rested_since_the_end_of_input() {
        let mut drain = Drain::new(Duration::from_millis(300));
        let answers_at_100 = |now: u64| {
            let silent = if now < 100 { 900 + now } else { now - 100 };
            at(1000 + now, silent, if (50..=100).contains(&now) { WORKS } else { RESTS })
        };
        assert_eq!(first(|m| drain.is_done(m), answers_at_100), Some(400));
    }

    #[test]
    fn drained_guest_has_read_everything_and_is_not_at_work() {
        let mut drain = Drain::new(Duration::ZERO);
        assert!(!drain.is_done(at(0, 900, GuestStatus { input_pending: 1, ..RESTS })));
        assert!(!drain.is_done(at(1, 900, GuestStatus { listening: false, ..RESTS })));
        assert!(!drain.is_done(at(2, 900, WORKS)));
        assert!(drain.is_done(at(3, 900, RESTS)));
        let mut drain = Drain::new(Duration::from_millis(300));
        assert_eq!(first(|m| drain.is_done(m), |now| at(now, now, WORKS)), None);
    }
}
