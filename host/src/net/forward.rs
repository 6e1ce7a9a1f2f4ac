//! Ports of the host that lead to the guest. The guest sees the gateway as its peer.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::config::{Forward, Protocol};
use super::connector::prepare_tcp;
use super::io::Io;
use super::poller::{Kind, Token};
use super::tcp::Tcp;
use super::{BoundForward, GATEWAY, NetError};
use crate::limits::{NET_FORWARDS, NET_UDP_FLOWS};

/// How long a client of an UDP forward may be silent.
const SILENCE: Duration = Duration::from_secs(180);

/// Pause after the host could not accept a connection.
const RETRY: Duration = Duration::from_secs(1);

/// Connections and datagrams taken from one port before it is somebody else's turn.
const TURN: usize = 64;

/// First port of the gateway's that stands for a client of an UDP forward.
const FIRST_PORT: u16 = 49152;

struct Listener {
    socket: TcpListener,
    guest: u16,
    id: u64,
    /// There may be connections to accept.
    ready: bool,
    timer: Option<Instant>,
}

struct Port {
    socket: UdpSocket,
    guest: u16,
    ready: bool,
}

/// A client of an UDP forward.
struct Client {
    /// Index of the forward.
    port: usize,
    addr: SocketAddr,
    /// Port of the gateway's that stands for it.
    local: u16,
    last: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Forwards {
    listeners: Vec<Listener>,
    ports: Vec<Port>,
    clients: HashMap<u16, Client>,
    locals: HashMap<(usize, SocketAddr), u16>,
    /// By time of the last datagram.
    oldest: BTreeSet<(Instant, u16)>,
    next_local: u16,
    timer: Option<Instant>,
    /// A datagram came, and nobody knows where the guest is.
    searching: bool,
}

/// Sockets of forwards that listen.
pub(super) struct Bound {
    pub(super) forwards: Vec<BoundForward>,
    sockets: Vec<Socket>,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Begins to listen.
pub(super) fn bind(forwards: &[Forward]) -> Result<Bound, NetError> {
    if forwards.len() > NET_FORWARDS {
        return Err(NetError::TooMany("forwarded ports"));
    }
    let mut bound = Bound { forwards: Vec::new(), sockets: Vec::new() };
    for forward in forwards {
        let open = || -> io::Result<(Socket, SocketAddr)> {
            Ok(match forward.protocol {
                Protocol::Tcp => {
                    let socket = TcpListener::bind(forward.host)?;
                    socket.set_nonblocking(true)?;
                    let addr = socket.local_addr()?;
                    (Socket::Tcp(socket), addr)
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind(forward.host)?;
                    socket.set_nonblocking(true)?;
                    let addr = socket.local_addr()?;
                    (Socket::Udp(socket), addr)
                }
            })
        };
        let (socket, host) = open().map_err(|source| NetError::Listen {
            addr: forward.host,
            protocol: forward.protocol,
            source,
        })?;
        bound.sockets.push(socket);
        bound.forwards.push(BoundForward { protocol: forward.protocol, host, guest: forward.guest });
    }
    Ok(bound)
}

impl Forwards {
    pub(super) fn new(io: &mut Io, bound: Bound) -> io::Result<Self> {
        let mut this = Self { next_local: FIRST_PORT, ..Self::default() };
        for (socket, forward) in bound.sockets.into_iter().zip(bound.forwards) {
            match socket {
                Socket::Tcp(socket) => {
                    let id = this.listeners.len() as u64;
                    io.poller.add(&socket, Token::new(Kind::TcpListener, id))?;
                    let (guest, ready, timer) = (forward.guest, false, None);
                    this.listeners.push(Listener { socket, guest, id, ready, timer });
                }
                Socket::Udp(socket) => {
                    io.poller.add(&socket, Token::new(Kind::UdpListener, this.ports.len() as u64))?;
                    this.ports.push(Port { socket, guest: forward.guest, ready: false });
                }
            }
        }
        Ok(this)
    }

    /// Clients of UDP forwards.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Somebody connects, or tries to again.
    pub(super) fn tcp_event(&mut self, id: u64, timer: bool) {
        if let Some(listener) = usize::try_from(id).ok().and_then(|id| self.listeners.get_mut(id)) {
            listener.ready = true;
            if timer {
                listener.timer = None;
            }
        }
    }

    /// A datagram has come.
    pub(super) fn udp_event(&mut self, id: u64) {
        if let Some(port) = usize::try_from(id).ok().and_then(|id| self.ports.get_mut(id)) {
            port.ready = true;
        }
    }

    /// There is something that can be taken.
    pub(super) fn is_busy(&self, io: &mut Io, tcp: &Tcp) -> bool {
        let waiting = |listener: &Listener| listener.ready && listener.timer.is_none();
        (tcp.has_room() && self.listeners.iter().any(waiting))
            || (self.ports.iter().any(|port| port.ready) && io.line.has_room())
    }

    /// A datagram waits for somebody to find the guest.
    pub(super) fn take_searching(&mut self) -> bool {
        std::mem::take(&mut self.searching)
    }

    /// Takes connections and datagrams as far as there is room for them; the rest waits at the host.
    pub(super) fn run(&mut self, io: &mut Io, tcp: &mut Tcp) {
        for listener in &mut self.listeners {
            if !listener.ready || listener.timer.is_some() {
                continue;
            }
            for _ in 0..TURN {
                if !tcp.has_room() {
                    break;
                }
                match listener.socket.accept() {
                    Ok((stream, _)) => {
                        if stream.set_nonblocking(true).is_ok() {
                            let fd = OwnedFd::from(stream);
                            prepare_tcp(&fd);
                            tcp.accept(io, fd, listener.guest);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.ready = false;
                        break;
                    }
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                        ) => {}
                    Err(_) => {
                        // No descriptor, or no memory: there may be some later.
                        io.counters.limited.inc();
                        let token = Token::new(Kind::TcpListener, listener.id);
                        io.timers.by(token, &mut listener.timer, io.now + RETRY);
                        break;
                    }
                }
            }
        }
        let mut buffer = std::mem::take(&mut io.buffer);
        for index in 0..self.ports.len() {
            self.receive(io, index, &mut buffer);
        }
        io.buffer = buffer;
    }

    fn receive(&mut self, io: &mut Io, index: usize, buffer: &mut [u8]) {
        for _ in 0..TURN {
            let Some(port) = self.ports.get_mut(index) else { return };
            if !port.ready || !io.line.has_room() {
                return;
            }
            let (len, addr) = match port.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    port.ready = false;
                    return;
                }
                // What became of an answer.
                Err(_) => continue,
            };
            let Some(guest) = io.hosts.guest() else {
                self.searching = true;
                continue;
            };
            let to = SocketAddrV4::new(guest, port.guest);
            if let Some(local) = self.local(io, index, addr) {
                io.send_udp(SocketAddrV4::new(GATEWAY, local), to, buffer.get(..len).unwrap_or_default());
            }
        }
    }

    /// The port of the gateway's that stands for a client.
    fn local(&mut self, io: &mut Io, port: usize, addr: SocketAddr) -> Option<u16> {
        if let Some(local) = self.locals.get(&(port, addr)).copied() {
            self.touch(local, io.now);
            return Some(local);
        }
        while self.clients.len() >= NET_UDP_FLOWS {
            let (_, oldest) = *self.oldest.first()?;
            io.counters.limited.inc();
            self.remove(oldest);
        }
        let mut free = None;
        for _ in 0..=self.clients.len() {
            let local = self.next_local;
            self.next_local = local.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.clients.contains_key(&local) {
                free = Some(local);
                break;
            }
        }
        let local = free?;
        self.clients.insert(local, Client { port, addr, local, last: io.now });
        self.locals.insert((port, addr), local);
        self.oldest.insert((io.now, local));
        io.timers.by(Token::new(Kind::UdpPeer, 0), &mut self.timer, io.now + SILENCE);
        Some(local)
    }

    fn touch(&mut self, local: u16, now: Instant) {
        if let Some(client) = self.clients.get_mut(&local) {
            self.oldest.remove(&(client.last, local));
            client.last = now;
            self.oldest.insert((now, local));
        }
    }

    fn remove(&mut self, local: u16) {
        if let Some(client) = self.clients.remove(&local) {
            self.locals.remove(&(client.port, client.addr));
            self.oldest.remove(&(client.last, client.local));
        }
    }

    /// The guest answers a client that this port of the gateway's stands for. False if it stands for nobody.
    pub(super) fn answer(&mut self, io: &mut Io, from: SocketAddr, local: u16, payload: &[u8]) -> bool {
        let Some(client) = self.clients.get(&local) else { return false };
        let Some(port) = self.ports.get(client.port).filter(|port| port.guest == from.port()) else {
            return false;
        };
        // Nobody listens any more, or the host is busy: datagrams get lost.
        if port.socket.send_to(payload, client.addr).is_err() {
            io.counters.limited.inc();
        }
        self.touch(local, io.now);
        true
    }

    /// Clients that have been silent for long are forgotten.
    pub(super) fn peer_timer(&mut self, io: &mut Io) {
        self.timer = None;
        while let Some((last, local)) = self.oldest.first().copied() {
            if last + SILENCE > io.now {
                io.timers.by(Token::new(Kind::UdpPeer, 0), &mut self.timer, last + SILENCE);
                return;
            }
            self.remove(local);
        }
    }
}
