//! What the network's thread waits for: sockets and deadlines.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Whose socket or deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Cable,
    Tcp,
    Udp,
    Ping,
    Dns,
    TcpListener,
    UdpListener,
    UdpPeer,
    Probe,
    Neighbours,
}

const KINDS: [Kind; 10] = [
    Kind::Cable,
    Kind::Tcp,
    Kind::Udp,
    Kind::Ping,
    Kind::Dns,
    Kind::TcpListener,
    Kind::UdpListener,
    Kind::UdpPeer,
    Kind::Probe,
    Kind::Neighbours,
];

/// An owner and which of its things. Numbers are never used again, so that what comes late finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) id: u64,
}

impl Token {
    pub(super) fn new(kind: Kind, id: u64) -> Self {
        Self { kind, id }
    }

    fn pack(self) -> u64 {
        (self.kind as u64) << 56 | self.id & (u64::MAX >> 8)
    }

    fn unpack(data: u64) -> Option<Self> {
        let kind = *KINDS.get((data >> 56) as usize)?;
        Some(Self { kind, id: data & (u64::MAX >> 8) })
    }
}

/// What a socket has got ready. Events tell of changes: what is not used up stays ready.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
    /// There may be something to read.
    pub(super) read: bool,
    /// There may be room to write.
    pub(super) write: bool,
    /// The peer has sent its last byte, or the connection is broken.
    pub(super) end: bool,
}

impl Ready {
    /// Adds what an event tells.
    pub(super) fn merge(&mut self, other: Self) {
        self.read |= other.read;
        self.write |= other.write;
        self.end |= other.end;
    }
}

/// epoll(7), edge-triggered.
pub(super) struct Poller {
    epoll: OwnedFd,
}

/// Events taken at once.
const EVENTS: usize = 256;

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Tells of a descriptor from now on, until it is closed.
    pub(super) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), flags)?)
    }

    /// Tells of a descriptor as long as something can be read from it, until it is closed.
    pub(super) fn add_level(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN)?)
    }

    /// Waits until there is something or the time is over (none: for ever).
    pub(super) fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<(Token, Ready)>) {
        events.clear();
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut buffer = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let Ok((told, _)) = epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) else {
            return; // interrupted
        };
        for event in told {
            let (flags, data) = (event.flags, event.data);
            let any = |wanted: EventFlags| flags.intersects(wanted);
            let broken = EventFlags::ERR | EventFlags::HUP;
            let ready = Ready {
                read: any(EventFlags::IN | EventFlags::RDHUP | broken),
                write: any(EventFlags::OUT | broken),
                end: any(EventFlags::RDHUP | broken),
            };
            if let Some(token) = Token::unpack(data.u64()) {
                events.push((token, ready));
            }
        }
    }
}

/// Deadlines, at most one for each owner. An owner that does not need its deadline any more lets it come.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, Token)>,
}

impl Timers {
    /// Makes sure that `token` hears by `at`. `scheduled` is the owner's: its deadline in the queue.
    pub(super) fn by(&mut self, token: Token, scheduled: &mut Option<Instant>, at: Instant) {
        if let Some(earlier) = *scheduled {
            if earlier <= at {
                return;
            }
            self.queue.remove(&(earlier, token));
        }
        self.queue.insert((at, token));
        *scheduled = Some(at);
    }

    /// Forgets the deadline of an owner that goes away.
    pub(super) fn cancel(&mut self, token: Token, scheduled: Option<Instant>) {
        if let Some(at) = scheduled {
            self.queue.remove(&(at, token));
        }
    }

    /// The first deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out a deadline that has come. Its owner has none any more.
    pub(super) fn due(&mut self, now: Instant) -> Option<Token> {
        let (at, token) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn token_survives_the_kernel() {
        for (n, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
            let token = Token::new(kind, 1 << 40 | 5);
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }

    #[test]
    fn timers_come_in_order_and_once() {
        let (mut timers, start) = (Timers::default(), clock::now());
        let at = |ms| start + Duration::from_millis(ms);
        let token = |id| Token::new(Kind::Tcp, id);
        let (mut a, mut b, mut c) = (None, None, None);
        timers.by(token(1), &mut a, at(50));
        timers.by(token(2), &mut b, at(10));
        timers.by(token(3), &mut c, at(5));
        timers.by(token(1), &mut a, at(20));
        timers.by(token(1), &mut a, at(90));
        timers.cancel(token(3), c);
        assert_eq!((a, timers.next()), (Some(at(20)), Some(at(10))));
        assert_eq!(timers.due(at(9)), None);
        assert_eq!(timers.due(at(30)), Some(token(2)));
        assert_eq!(timers.due(at(30)), Some(token(1)));
        assert_eq!(timers.due(at(99)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn poller_tells_of_changes_once() {
        let mut poller = Poller::new().unwrap();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let token = Token::new(Kind::Udp, 3);
        poller.add(&a, token).unwrap();
        let mut events = Vec::new();
        poller.wait(Some(Duration::ZERO), &mut events);
        assert!(matches!(events[..], [(t, Ready { read: false, write: true, end: false })] if t == token));
        poller.wait(Some(Duration::ZERO), &mut events);
        assert!(events.is_empty());
        drop(b);
        poller.wait(None, &mut events);
        assert!(matches!(events[..], [(_, Ready { read: true, end: true, .. })]));
    }
}
