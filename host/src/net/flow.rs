//! One TCP connection: the guest's end of it, the host's end, and what goes from one to the other.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use smoltcp::socket::tcp::State;

use super::cable::Frames;
use super::connector;
use super::dns::Stream;
use super::endpoint::{Endpoint, Packets};
use super::io::Io;
use super::packet::ethertype;
use super::poller::Ready;

/// Who is on both ends, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) guest: SocketAddr,
    /// The outside, or the gateway.
    pub(super) remote: SocketAddr,
}

/// The other end.
pub(super) enum Peer {
    /// A connection of the host.
    Host(OwnedFd),
    /// The gateway's DNS server.
    Dns(Stream),
}

/// How far a connection is.
pub(super) enum Stage {
    /// The host connects. The guest's SYN waits for the outcome.
    Connecting { syn: Vec<u8>, until: Instant },
    /// A forward has accepted a connection, and nobody knows where the guest is.
    Searching { until: Instant },
    /// The guest's end exists.
    Open(Box<Endpoint>),
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing, before something happens.
    Rest,
    /// It waits for room on the line.
    Blocked,
    /// It has more to do; others first.
    Again,
    /// It is over.
    Over,
}

/// See the module.
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) peer: Peer,
    pub(super) stage: Stage,
    pub(super) ready: Ready,
    /// Frames of the current batch.
    pub(super) frames: Vec<usize>,
    /// It is in the list of those to be worked on.
    pub(super) queued: bool,
    /// It is in the list of those that wait for room on the line.
    pub(super) blocked: bool,
    /// Its place in the timers.
    pub(super) timer: Option<Instant>,
    established: bool,
    /// The host's end has sent its last byte, and the guest was told.
    host_done: bool,
    /// The guest has sent its last byte, and the host's end was told.
    guest_done: bool,
    /// Both are done; the guest may not have the last acknowledgement yet.
    leave_at: Option<Instant>,
}

/// Exchanges between the two ends before other connections get their turn.
const ROUNDS: usize = 8;

/// How long a finished connection waits for the guest to ask again for its last acknowledgement.
const LINGER: Duration = Duration::from_millis(100);

/// Why a connection broke on the host's side.
struct Broken;

impl Flow {
    pub(super) fn new(key: Key, peer: Peer, stage: Stage) -> Self {
        Self {
            key,
            peer,
            stage,
            ready: Ready::default(),
            frames: Vec::new(),
            queued: false,
            blocked: false,
            timer: None,
            established: false,
            host_done: false,
            guest_done: false,
            leave_at: None,
        }
    }

    /// Works on an open connection. `packet` is a packet for it that is no frame of the batch.
    pub(super) fn work(&mut self, io: &mut Io, batch: &Frames, mut packet: Option<&[u8]>) -> Outcome {
        let Some(mac) = io.hosts.mac(self.key.guest.ip()) else {
            return Outcome::Over; // it was heard when the connection began
        };
        for _ in 0..ROUNDS {
            let Stage::Open(endpoint) = &mut self.stage else { return Outcome::Rest };
            let mut packets = Packets {
                line: &mut io.line,
                mac,
                ethertype: if self.key.guest.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 },
                batch,
                frames: self.frames.drain(..),
                packet: packet.take(),
                blocked: false,
            };
            endpoint.poll(io.now, &mut packets);
            let blocked = packets.blocked;
            drop(packets);
            if let Some(outcome) = self.look(io.now, blocked) {
                return outcome;
            }
            match self.exchange() {
                Ok(true) => {}
                Ok(false) if blocked => return Outcome::Blocked,
                Ok(false) => return Outcome::Rest,
                Err(Broken) => {
                    // One more round sends the reset.
                    if let Stage::Open(endpoint) = &mut self.stage {
                        endpoint.socket().abort();
                    }
                    self.established = false;
                }
            }
        }
        Outcome::Again
    }

    /// Looks at what has become of the guest's end.
    fn look(&mut self, now: Instant, blocked: bool) -> Option<Outcome> {
        let Stage::Open(endpoint) = &mut self.stage else { return Some(Outcome::Over) };
        let socket = endpoint.socket();
        match socket.state() {
            // A reset on its way.
            State::Closed if blocked && socket.remote_endpoint().is_some() => Some(Outcome::Blocked),
            State::Closed | State::Listen => Some(Outcome::Over),
            State::SynSent | State::SynReceived => {
                Some(if blocked { Outcome::Blocked } else { Outcome::Rest })
            }
            State::TimeWait if self.guest_done && self.host_done => {
                let leave_at = *self.leave_at.get_or_insert(now + LINGER);
                (leave_at <= now).then_some(Outcome::Over)
            }
            _ => {
                if !std::mem::replace(&mut self.established, true) {
                    endpoint.established();
                }
                None
            }
        }
    }

    /// Moves bytes. True if something has moved.
    fn exchange(&mut self) -> Result<bool, Broken> {
        let Stage::Open(endpoint) = &mut self.stage else { return Ok(false) };
        let socket = endpoint.socket();
        let fd = match &mut self.peer {
            Peer::Host(fd) => fd,
            Peer::Dns(stream) => return Ok(stream.exchange(socket)),
        };
        let mut moved = false;
        while self.ready.write && socket.can_recv() {
            let sent = socket.recv(|bytes| match rustix::net::send(&*fd, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => (sent, Ok(sent)),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(sent)) => moved |= sent > 0,
                Ok(Err(Errno::AGAIN)) => self.ready.write = false,
                Ok(Err(Errno::INTR)) => {}
                _ => return Err(Broken),
            }
        }
        if !self.guest_done && !socket.may_recv() {
            self.guest_done = true;
            moved = true;
            rustix::net::shutdown(&*fd, Shutdown::Write).map_err(|_| Broken)?;
        }
        while self.ready.read && !self.host_done && socket.can_send() {
            let received = socket.send(|space| {
                let room = space.len();
                match rustix::net::recv(&*fd, space, RecvFlags::empty()) {
                    Ok((_, received)) => (received, Ok((received, room))),
                    Err(error) => (0, Err(error)),
                }
            });
            match received {
                Ok(Ok((0, _))) => {
                    socket.close();
                    self.host_done = true;
                    moved = true;
                }
                Ok(Ok((received, room))) => {
                    moved = true;
                    // Less than there was room for: there is no more, and the end would have been told.
                    self.ready.read = received == room || self.ready.end;
                }
                Ok(Err(Errno::AGAIN)) => self.ready.read = false,
                Ok(Err(Errno::INTR)) => {}
                _ => return Err(Broken),
            }
        }
        Ok(moved)
    }

    /// When an open connection wants to be worked on again.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.stage {
            Stage::Connecting { until, .. } | Stage::Searching { until } => Some(*until),
            Stage::Open(endpoint) => {
                let wanted = endpoint.poll_at(now);
                // Whatever it is, it is not that urgent.
                let wanted = wanted.map(|at| at.max(now + Duration::from_millis(1)));
                [wanted, self.leave_at].into_iter().flatten().min()
            }
        }
    }

    /// Ends the connection on the host's side: as it ended on the guest's.
    pub(super) fn leave(self) {
        if let Peer::Host(fd) = self.peer
            && !(self.guest_done && self.host_done)
        {
            connector::reset(fd);
        }
    }
}
