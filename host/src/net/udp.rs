//! Datagrams from the guests to the outside, and what comes back.
//!
//! Every conversation (the guest's address and port, the outside's address and port) has a connected socket of
//! the host, so that only answers from there come back, and the guest learns when nobody listens there.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::io::Io;
use super::packet::{IcmpError, Ip, Udp as Datagram, quote};
use super::policy::{Verdict, translate};
use super::poller::{Kind, Ready, Token};
use crate::limits::NET_UDP_FLOWS;

/// How long a conversation may be silent: one question and its answer; a question without an answer; both ways.
const BRIEF: Duration = Duration::from_secs(15);
const ONE_WAY: Duration = Duration::from_secs(30);
const BOTH_WAYS: Duration = Duration::from_secs(180);

/// Ports of protocols with one question and one answer: DNS, NTP, SNMP, mDNS.
const BRIEF_PORTS: [u16; 4] = [53, 123, 161, 5353];

/// Datagrams that one conversation receives before it is somebody else's turn.
const TURN: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    guest: SocketAddr,
    remote: SocketAddr,
}

struct Flow {
    key: Key,
    socket: OwnedFd,
    last: Instant,
    answered: bool,
    readable: bool,
    timer: Option<Instant>,
    /// The last packet's head, to be quoted if nobody listens.
    sent: Vec<u8>,
}

impl Flow {
    fn until(&self) -> Instant {
        let brief = BRIEF_PORTS.contains(&self.key.remote.port());
        self.last
            + match self.answered {
                _ if brief => BRIEF,
                true => BOTH_WAYS,
                false => ONE_WAY,
            }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Udp {
    flows: HashMap<u64, Flow>,
    keys: HashMap<Key, u64>,
    /// By time of the last datagram.
    oldest: BTreeSet<(Instant, u64)>,
    /// With something to read.
    queue: Vec<u64>,
}

impl Udp {
    /// Conversations there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// A datagram from a guest to the outside.
    pub(super) fn datagram(&mut self, io: &mut Io, ip: &Ip<'_>, datagram: &Datagram<'_>) {
        let key = Key {
            guest: SocketAddr::new(ip.src, datagram.src),
            remote: SocketAddr::new(ip.dst, datagram.dst),
        };
        let id = match self.keys.get(&key) {
            Some(id) => *id,
            None => match self.begin(io, ip, key) {
                Some(id) => id,
                None => return,
            },
        };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        self.oldest.remove(&(flow.last, id));
        flow.last = io.now;
        self.oldest.insert((io.now, id));
        flow.sent.clear();
        flow.sent.extend_from_slice(quote(ip.packet));
        match rustix::net::send(&flow.socket, datagram.payload, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => io.counters.limited.inc(),
            // What became of an earlier datagram; this one was not sent.
            Err(error) => self.broken(io, id, error),
        }
    }

    fn begin(&mut self, io: &mut Io, ip: &Ip<'_>, key: Key) -> Option<u64> {
        if key.guest.port() == 0 || key.remote.port() == 0 {
            io.counters.malformed.inc();
            return None;
        }
        if io.check(ip.dst, Some(key.remote.port())) == Verdict::Deny {
            io.send_error(IcmpError::PortUnreachable, ip.packet);
            return None;
        }
        while self.flows.len() >= NET_UDP_FLOWS {
            let (_, oldest) = *self.oldest.first()?;
            io.counters.limited.inc();
            self.remove(io, oldest);
        }
        let socket = match io.connector.udp(translate(key.remote)) {
            Ok(socket) => socket,
            Err(error) => {
                refuse(io, ip.packet, Errno::from_io_error(&error));
                return None;
            }
        };
        let id = io.new_id();
        let token = Token::new(Kind::Udp, id);
        if io.poller.add(&socket, token).is_err() {
            io.counters.limited.inc();
            return None;
        }
        let mut flow = Flow {
            key,
            socket,
            last: io.now,
            answered: false,
            readable: false,
            timer: None,
            sent: Vec::new(),
        };
        let until = flow.until();
        io.timers.by(token, &mut flow.timer, until);
        self.flows.insert(id, flow);
        self.keys.insert(key, id);
        self.oldest.insert((io.now, id));
        io.counters.udp_opened.inc();
        io.counters.set_udp_flows(self.flows.len());
        Some(id)
    }

    fn remove(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.keys.remove(&flow.key);
        self.oldest.remove(&(flow.last, id));
        io.timers.cancel(Token::new(Kind::Udp, id), flow.timer);
        io.counters.set_udp_flows(self.flows.len());
    }

    /// Nobody listens there, or nobody is there.
    fn broken(&mut self, io: &mut Io, id: u64, error: Errno) {
        if let Some(flow) = self.flows.get(&id) {
            let sent = flow.sent.clone();
            refuse(io, &sent, Some(error));
        }
        self.remove(io, id);
    }

    /// Something has happened to a conversation's socket.
    pub(super) fn event(&mut self, id: u64, ready: Ready) {
        if let Some(flow) = self.flows.get_mut(&id)
            && ready.read
            && !std::mem::replace(&mut flow.readable, true)
        {
            self.queue.push(id);
        }
    }

    /// Something can be read and the line has room for it.
    pub(super) fn is_busy(&self, io: &mut Io) -> bool {
        !self.queue.is_empty() && io.line.has_room()
    }

    /// Passes on what has come in, as far as there is room on the line; the rest waits at the host.
    pub(super) fn run(&mut self, io: &mut Io) {
        for id in std::mem::take(&mut self.queue) {
            let mut buffer = std::mem::take(&mut io.buffer);
            let outcome = self.receive(io, id, &mut buffer);
            io.buffer = buffer;
            match outcome {
                Ok(false) => {}
                Ok(true) => self.queue.push(id),
                Err(error) => self.broken(io, id, error),
            }
        }
    }

    /// True if there is more.
    fn receive(&mut self, io: &mut Io, id: u64, buffer: &mut [u8]) -> Result<bool, Errno> {
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(false) };
        for _ in 0..TURN {
            if !io.line.has_room() {
                return Ok(true);
            }
            match rustix::net::recv(&flow.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, len)) => {
                    self.oldest.remove(&(flow.last, id));
                    flow.last = io.now;
                    flow.answered = true;
                    self.oldest.insert((io.now, id));
                    io.send_udp(flow.key.remote, flow.key.guest, buffer.get(..len).unwrap_or_default());
                }
                Err(Errno::AGAIN) => {
                    flow.readable = false;
                    return Ok(false);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// A conversation's deadline has come.
    pub(super) fn timer(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.timer = None;
        let until = flow.until();
        if until <= io.now {
            self.remove(io, id);
        } else {
            io.timers.by(Token::new(Kind::Udp, id), &mut flow.timer, until);
        }
    }
}

/// Tells the guest what became of its datagram.
fn refuse(io: &mut Io, packet: &[u8], error: Option<Errno>) {
    match error {
        Some(Errno::CONNREFUSED) => io.send_error(IcmpError::PortUnreachable, packet),
        Some(Errno::NETUNREACH) => io.send_error(IcmpError::NetUnreachable, packet),
        Some(Errno::HOSTUNREACH) => io.send_error(IcmpError::HostUnreachable, packet),
        Some(Errno::ACCESS | Errno::PERM) => io.send_error(IcmpError::Prohibited, packet),
        _ => io.counters.limited.inc(),
    }
}
