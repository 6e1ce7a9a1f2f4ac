//! All TCP connections of the guests: from them to the outside, and from forwards to them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::cable::Frames;
use super::dns::Stream;
use super::endpoint::{CONNECT_TIMEOUT, Endpoint, Rings};
use super::flow::{Flow, Key, Outcome, Peer, Stage};
use super::io::Io;
use super::packet::{IcmpError, Ip, Segment, tcp_flag};
use super::policy::{Verdict, translate};
use super::poller::{Kind, Ready, Token};
use super::{GATEWAY, is_gateway};
use crate::limits::{NET_TCP_FLOWS, NET_TCP_PENDING};

/// First port from which the gateway connects to the guest (RFC 6335).
const FIRST_PORT: u16 = 49152;

/// See the module.
pub(super) struct Tcp {
    flows: HashMap<u64, Flow>,
    keys: HashMap<Key, u64>,
    /// Connections of the host being made, oldest first, with some that are not any more.
    pending: VecDeque<u64>,
    connecting: usize,
    /// To be worked on.
    queue: VecDeque<u64>,
    /// Waiting for room on the line.
    blocked: Vec<u64>,
    /// Forwards that wait until the guest is found.
    searching: Vec<u64>,
    /// Streams of DNS that have questions.
    asking: Vec<u64>,
    next_port: u16,
    epoch: Instant,
    /// See [`super::NetConfig::ahead`].
    ahead: Option<usize>,
    empty: Frames,
}

impl Tcp {
    pub(super) fn new(epoch: Instant, ahead: Option<usize>) -> Self {
        Self {
            flows: HashMap::new(),
            keys: HashMap::new(),
            pending: VecDeque::new(),
            connecting: 0,
            queue: VecDeque::new(),
            blocked: Vec::new(),
            searching: Vec::new(),
            asking: Vec::new(),
            next_port: FIRST_PORT,
            epoch,
            ahead,
            empty: Frames::default(),
        }
    }

    /// Connections there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// There is room for another connection.
    pub(super) fn has_room(&self) -> bool {
        self.flows.len() < NET_TCP_FLOWS
    }

    /// Rings of a new connection: many connections have to do with less.
    ///
    /// One byte less than a power of two: smoltcp takes the window in its SYN, which is not scaled, for a scaled
    /// one until it has sent another segment. A window of 65535 scaled must not be larger than the buffer then,
    /// or a guest that sends without waiting would write beyond it.
    fn rings(&self) -> Rings {
        let from_guest = match self.flows.len() {
            0..32 => (512 << 10) - 1,
            32..256 => (128 << 10) - 1,
            _ => (32 << 10) - 1,
        };
        Rings { from_guest, to_guest: self.ahead.map_or(from_guest, |ahead| ahead.clamp(1, from_guest)) }
    }

    /// A segment from a guest. `frame` is its number in the batch; without one it was put together from
    /// fragments.
    pub(super) fn segment(&mut self, io: &mut Io, ip: &Ip<'_>, frame: Option<usize>) {
        let Some(segment) = Segment::parse(ip).filter(|segment| segment.src != 0 && segment.dst != 0) else {
            return io.counters.malformed.inc();
        };
        let key =
            Key { guest: SocketAddr::new(ip.src, segment.src), remote: SocketAddr::new(ip.dst, segment.dst) };
        let Some(id) = self.keys.get(&key).copied() else { return self.stray(io, ip, &segment, key) };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        match &mut flow.stage {
            Stage::Open(_) => match frame {
                Some(frame) => {
                    flow.frames.push(frame);
                    self.enqueue(id);
                }
                None => self.work(io, id, None, Some(ip.packet)),
            },
            Stage::Connecting { syn, .. } => {
                if !Segment::is_intact(ip) {
                    io.counters.malformed.inc();
                } else if segment.flags & tcp_flag::RST != 0 {
                    self.remove(io, id);
                } else if segment.flags & tcp_flag::SYN != 0 {
                    // The guest asks again, or has given up and asks anew.
                    syn.clear();
                    syn.extend_from_slice(ip.packet);
                }
            }
            Stage::Searching { .. } => {}
        }
    }

    /// A segment that belongs to no connection.
    fn stray(&mut self, io: &mut Io, ip: &Ip<'_>, segment: &Segment, key: Key) {
        if !Segment::is_intact(ip) {
            return io.counters.malformed.inc();
        }
        if segment.flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) != tcp_flag::SYN {
            return io.send_reset(ip, segment);
        }
        if !self.has_room() {
            return io.counters.limited.inc();
        }
        if is_gateway(ip.dst) {
            if segment.dst != 53 {
                return io.send_reset(ip, segment);
            }
            let id = self.insert(io, Flow::new(key, Peer::Dns(Stream::default()), connecting(ip, io.now)));
            return self.open(io, id);
        }
        if io.check(ip.dst, Some(segment.dst)) == Verdict::Deny {
            return io.send_reset(ip, segment);
        }
        if self.connecting >= NET_TCP_PENDING {
            self.give_way(io);
        }
        match io.connector.tcp(translate(key.remote)) {
            Ok(fd) => {
                let id = self.insert(io, Flow::new(key, Peer::Host(fd), connecting(ip, io.now)));
                if self.pending.len() >= 2 * NET_TCP_PENDING {
                    self.pending.retain(|id| {
                        let flow = self.flows.get(id);
                        flow.is_some_and(|flow| matches!(flow.stage, Stage::Connecting { .. }))
                    });
                }
                self.pending.push_back(id);
                self.connecting += 1;
                self.watch(io, id);
            }
            Err(error) => refuse(io, ip.packet, &error),
        }
    }

    /// The oldest connection being made makes room for another one.
    fn give_way(&mut self, io: &mut Io) {
        while let Some(id) = self.pending.pop_front() {
            if self.flows.get(&id).is_some_and(|flow| matches!(flow.stage, Stage::Connecting { .. })) {
                io.counters.limited.inc();
                return self.remove(io, id);
            }
        }
    }

    fn insert(&mut self, io: &mut Io, flow: Flow) -> u64 {
        let id = io.new_id();
        self.keys.insert(flow.key, id);
        self.flows.insert(id, flow);
        io.counters.set_tcp_flows(self.flows.len());
        self.schedule(io, id);
        id
    }

    /// Registers a connection's socket.
    fn watch(&mut self, io: &mut Io, id: u64) {
        let Some(Flow { peer: Peer::Host(fd), .. }) = self.flows.get(&id) else { return };
        if io.poller.add(fd, Token::new(Kind::Tcp, id)).is_err() {
            io.counters.limited.inc();
            self.remove(io, id);
        }
    }

    fn remove(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.keys.remove(&flow.key);
        io.timers.cancel(Token::new(Kind::Tcp, id), flow.timer);
        io.counters.set_tcp_flows(self.flows.len());
        if matches!((&flow.stage, &flow.peer), (Stage::Connecting { .. }, Peer::Host(_))) {
            self.connecting = self.connecting.saturating_sub(1);
        }
        flow.leave();
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            self.queue.push_back(id);
        }
    }

    fn schedule(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(at) = flow.deadline(io.now) {
            io.timers.by(Token::new(Kind::Tcp, id), &mut flow.timer, at);
        }
    }

    /// The host's end is connected: the guest's end comes to life and gets the SYN.
    fn open(&mut self, io: &mut Io, id: u64) {
        let (rings, seed) = (self.rings(), io.random());
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let Some(endpoint) = Endpoint::listen(flow.key.remote, rings, self.epoch, io.now, seed) else {
            return self.remove(io, id);
        };
        if matches!(flow.peer, Peer::Host(_)) {
            self.connecting = self.connecting.saturating_sub(1);
            io.counters.tcp_opened.inc();
        }
        let stage = std::mem::replace(&mut flow.stage, Stage::Open(Box::new(endpoint)));
        if let Stage::Connecting { syn, .. } = stage {
            self.work(io, id, None, Some(&syn));
        }
    }

    /// A connection of the host could not be made.
    fn failed(&mut self, io: &mut Io, id: u64, error: &io::Error) {
        if let Some(Flow { stage: Stage::Connecting { syn, .. }, .. }) = self.flows.get(&id) {
            let syn = syn.clone();
            refuse(io, &syn, error);
        }
        self.remove(io, id);
    }

    /// Works on a connection now.
    fn work(&mut self, io: &mut Io, id: u64, batch: Option<&Frames>, packet: Option<&[u8]>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if !matches!(flow.stage, Stage::Open(_)) {
            flow.frames.clear();
            return;
        }
        let batch = batch.unwrap_or(&self.empty);
        // smoltcp checks what it believes of its peer with assertions. None is known that a guest can break;
        // should one be, it costs the guest this connection and not its network.
        let outcome = catch_unwind(AssertUnwindSafe(|| flow.work(io, batch, packet)));
        let outcome = outcome.unwrap_or(Outcome::Over);
        if let Peer::Dns(stream) = &flow.peer
            && stream.has_questions()
        {
            self.asking.push(id);
        }
        match outcome {
            Outcome::Rest => self.schedule(io, id),
            Outcome::Blocked => {
                if !std::mem::replace(&mut flow.blocked, true) {
                    self.blocked.push(id);
                }
            }
            Outcome::Again => self.enqueue(id),
            Outcome::Over => self.remove(io, id),
        }
    }

    /// Works on all connections for which something has happened; each once.
    pub(super) fn run(&mut self, io: &mut Io, batch: &Frames) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { return };
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.queued = false;
                self.work(io, id, Some(batch), None);
            }
        }
    }

    /// Breaks off all connections.
    pub(super) fn close(&mut self) {
        self.keys.clear();
        self.flows.drain().for_each(|(_, flow)| flow.leave());
    }

    /// There is more to do.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// There is room on the line again.
    pub(super) fn unblock(&mut self) {
        for id in std::mem::take(&mut self.blocked) {
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.blocked = false;
            }
            self.enqueue(id);
        }
    }

    /// Something has happened to a connection's socket.
    pub(super) fn event(&mut self, io: &mut Io, id: u64, ready: Ready) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.ready.merge(ready);
        let Peer::Host(fd) = &flow.peer else { return };
        if !matches!(flow.stage, Stage::Connecting { .. }) {
            return self.enqueue(id);
        }
        if !ready.write {
            return;
        }
        match sockopt::socket_error(fd) {
            Ok(Ok(())) => self.open(io, id),
            Ok(Err(error)) | Err(error) => self.failed(io, id, &error.into()),
        }
    }

    /// A connection's deadline has come.
    pub(super) fn timer(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.timer = None;
        match flow.stage {
            Stage::Open(_) => self.enqueue(id),
            Stage::Connecting { until, .. } | Stage::Searching { until } if until <= io.now => {
                io.counters.tcp_failed.inc();
                self.remove(io, id);
            }
            _ => self.schedule(io, id),
        }
    }

    /// A forward has accepted a connection for this port of the guest's. False if there is no room for it.
    pub(super) fn accept(&mut self, io: &mut Io, fd: OwnedFd, port: u16) -> bool {
        if !self.has_room() {
            io.counters.limited.inc();
            return false;
        }
        io.counters.tcp_accepted.inc();
        // The key is not final before the guest is found.
        let Some(local) = self.free_port(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)) else {
            return false;
        };
        let key = Key { guest: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), remote: local };
        let stage = Stage::Searching { until: io.now + CONNECT_TIMEOUT };
        let id = self.insert(io, Flow::new(key, Peer::Host(fd), stage));
        self.watch(io, id);
        self.reach(io, id);
        true
    }

    /// Connects to the guest, if it is known where it is.
    fn reach(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.get(&id) else { return };
        let Some(guest) = io.hosts.guest() else { return self.searching.push(id) };
        let (guest, old) = (SocketAddr::new(guest.into(), flow.key.guest.port()), flow.key);
        let Some(local) = self.free_port(guest) else { return self.remove(io, id) };
        let (rings, seed) = (self.rings(), io.random());
        let endpoint = Endpoint::connect(local, guest, rings, self.epoch, io.now, seed);
        let (Some(endpoint), Some(flow)) = (endpoint, self.flows.get_mut(&id)) else {
            return self.remove(io, id);
        };
        flow.key = Key { guest, remote: local };
        flow.stage = Stage::Open(Box::new(endpoint));
        self.keys.remove(&old);
        self.keys.insert(Key { guest, remote: local }, id);
        self.enqueue(id);
    }

    /// A port of the gateway's that is not connected to that place.
    fn free_port(&mut self, guest: SocketAddr) -> Option<SocketAddr> {
        for _ in FIRST_PORT..=u16::MAX {
            let remote = SocketAddr::new(GATEWAY.into(), self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.keys.contains_key(&Key { guest, remote }) {
                return Some(remote);
            }
        }
        None
    }

    /// Forwards wait for somebody to find the guest.
    pub(super) fn is_searching(&mut self) -> bool {
        let flows = &self.flows;
        self.searching.retain(|id| flows.contains_key(id));
        !self.searching.is_empty()
    }

    /// The guest was found.
    pub(super) fn found(&mut self, io: &mut Io) {
        for id in std::mem::take(&mut self.searching) {
            self.reach(io, id);
        }
    }

    /// Questions that came over TCP, with the connection they came from.
    pub(super) fn take_questions(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut questions = Vec::new();
        for id in std::mem::take(&mut self.asking) {
            if let Some(Flow { peer: Peer::Dns(stream), .. }) = self.flows.get_mut(&id) {
                questions.extend(stream.take_questions().map(|question| (id, question)));
            }
        }
        questions
    }

    /// An answer (or the news that there is none) for such a question.
    pub(super) fn answer(&mut self, id: u64, answer: Option<&[u8]>) {
        if let Some(Flow { peer: Peer::Dns(stream), .. }) = self.flows.get_mut(&id) {
            stream.answer(answer);
            self.enqueue(id);
        }
    }
}

fn connecting(ip: &Ip<'_>, now: Instant) -> Stage {
    Stage::Connecting { syn: ip.packet.to_vec(), until: now + CONNECT_TIMEOUT }
}

/// Tells the guest truthfully why there is no connection.
fn refuse(io: &mut Io, syn: &[u8], error: &io::Error) {
    let Some(ip) = Ip::parse(syn) else { return };
    let Some(segment) = Segment::parse(ip) else { return };
    io.counters.tcp_failed.inc();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => io.send_reset(&ip, &segment),
        Some(Errno::NETUNREACH) => io.send_error(IcmpError::NetUnreachable, syn),
        Some(Errno::HOSTUNREACH) => io.send_error(IcmpError::HostUnreachable, syn),
        Some(Errno::ACCESS | Errno::PERM) => io.send_error(IcmpError::Prohibited, syn),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => io.counters.limited.inc(),
        // No answer from there is no answer here.
        _ => {}
    }
}
