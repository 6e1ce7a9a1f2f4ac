//! Pings: of the gateway, which answers, and of the outside, through the host's unprivileged ICMP sockets
//! (ping(7), `net.ipv4.ping_group_range`). Where the host does not let us have them, the guest is told so;
//! no answer is ever made up.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::io::Io;
use super::packet::{ECHO, Echo, IcmpError, Ip, protocol, quote};
use super::policy::{Verdict, translate};
use super::poller::{Kind, Ready, Token};
use super::{is_gateway, is_host};
use crate::limits::NET_PINGS;

/// How long a ping waits for an answer or another ping.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    guest: IpAddr,
    remote: IpAddr,
    id: u16,
}

struct Flow {
    key: Key,
    socket: OwnedFd,
    last: Instant,
    timer: Option<Instant>,
    sent: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Pings {
    flows: HashMap<u64, Flow>,
    keys: HashMap<Key, u64>,
}

impl Pings {
    /// Destinations and identifiers there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// An ICMP message from a guest.
    pub(super) fn message(&mut self, io: &mut Io, ip: &Ip<'_>) {
        let Some(echo) = Echo::parse_request(ip) else {
            // Answers and errors of the guest's: nobody here has asked.
            return io.counters.ignored.inc();
        };
        if is_gateway(ip.dst) || (is_host(ip.dst) && io.check(ip.dst, None) == Verdict::Allow) {
            return reply(io, ip.dst, ip.src, &echo);
        }
        if is_host(ip.dst) || io.check(ip.dst, None) == Verdict::Deny {
            return io.send_error(IcmpError::Prohibited, ip.packet);
        }
        let key = Key { guest: ip.src, remote: ip.dst, id: echo.id };
        let id = match self.keys.get(&key) {
            Some(id) => *id,
            None => match self.begin(io, ip, key) {
                Some(id) => id,
                None => return,
            },
        };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.last = io.now;
        flow.sent.clear();
        flow.sent.extend_from_slice(quote(ip.packet));
        let mut message = vec![0; ECHO + echo.data.len()];
        match ip.dst {
            IpAddr::V4(_) => echo.write(&mut message, false),
            IpAddr::V6(_) => echo.write6(&mut message, false, ip.src, ip.dst),
        }
        io.counters.pings.inc();
        match rustix::net::send(&flow.socket, &message, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => io.counters.limited.inc(),
            Err(error) => self.broken(io, id, error),
        }
    }

    fn begin(&mut self, io: &mut Io, ip: &Ip<'_>, key: Key) -> Option<u64> {
        let to = translate(SocketAddr::new(key.remote, 0)).ip();
        let socket = match io.connector.ping(to) {
            Ok(socket) => socket,
            Err(error) => {
                refuse(io, ip.packet, Errno::from_io_error(&error));
                return None;
            }
        };
        if self.flows.len() >= NET_PINGS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.last).map(|(id, _)| *id)?;
            io.counters.limited.inc();
            self.remove(io, oldest);
        }
        let id = io.new_id();
        let token = Token::new(Kind::Ping, id);
        if io.poller.add(&socket, token).is_err() {
            io.counters.limited.inc();
            return None;
        }
        let mut timer = None;
        io.timers.by(token, &mut timer, io.now + PATIENCE);
        self.flows.insert(id, Flow { key, socket, last: io.now, timer, sent: Vec::new() });
        self.keys.insert(key, id);
        Some(id)
    }

    fn remove(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.keys.remove(&flow.key);
        io.timers.cancel(Token::new(Kind::Ping, id), flow.timer);
    }

    fn broken(&mut self, io: &mut Io, id: u64, error: Errno) {
        if let Some(flow) = self.flows.get(&id) {
            let sent = flow.sent.clone();
            refuse(io, &sent, Some(error));
        }
        self.remove(io, id);
    }

    /// Something has happened to a ping's socket.
    pub(super) fn event(&mut self, io: &mut Io, id: u64, _: Ready) {
        let mut buffer = std::mem::take(&mut io.buffer);
        let outcome = self.receive(io, id, &mut buffer);
        io.buffer = buffer;
        if let Err(error) = outcome {
            self.broken(io, id, error);
        }
    }

    fn receive(&mut self, io: &mut Io, id: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        loop {
            match rustix::net::recv(&flow.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, len)) => {
                    let v6 = flow.key.remote.is_ipv6();
                    let Some(echo) = Echo::parse_reply(buffer.get(..len).unwrap_or_default(), v6) else {
                        continue;
                    };
                    // The host has put its own identifier in the place of the guest's.
                    reply(io, flow.key.remote, flow.key.guest, &Echo { id: flow.key.id, ..echo });
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A ping's deadline has come.
    pub(super) fn timer(&mut self, io: &mut Io, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.timer = None;
        let until = flow.last + PATIENCE;
        if until <= io.now {
            self.remove(io, id);
        } else {
            io.timers.by(Token::new(Kind::Ping, id), &mut flow.timer, until);
        }
    }
}

/// Sends a guest an answer.
fn reply(io: &mut Io, from: IpAddr, to: IpAddr, echo: &Echo<'_>) {
    let len = ECHO + echo.data.len();
    match from {
        IpAddr::V4(_) => io.send_ip(from, to, protocol::ICMP, len, |message| echo.write(message, true)),
        IpAddr::V6(_) => {
            io.send_ip(from, to, protocol::ICMPV6, len, |message| echo.write6(message, true, from, to));
        }
    }
}

/// Tells the guest why there is no answer.
fn refuse(io: &mut Io, packet: &[u8], error: Option<Errno>) {
    match error {
        Some(Errno::ACCESS | Errno::PERM) => io.send_error(IcmpError::Prohibited, packet),
        Some(Errno::NETUNREACH) => io.send_error(IcmpError::NetUnreachable, packet),
        Some(Errno::HOSTUNREACH | Errno::CONNREFUSED) => io.send_error(IcmpError::HostUnreachable, packet),
        _ => io.counters.limited.inc(),
    }
}
