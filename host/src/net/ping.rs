//! Pings: of the gateway, which answers, and of the outside, through the host's unprivileged ICMP sockets
//! (ping(7), `net.ipv4.ping_group_range`). Where the host does not let us have them, the guest is told so;
//! no answer is ever made up.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::io::Io;
use super::packet::{ECHO, Echo, IcmpError, Ipv4, protocol, quote};
use super::policy::{Verdict, translate};
use super::poller::{Kind, Ready, Token};
use super::{GATEWAY, HOST};
use crate::limits::NET_PINGS;

/// How long a ping waits for an answer or another ping.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    guest: Ipv4Addr,
    remote: Ipv4Addr,
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
    pub(super) fn message(&mut self, io: &mut Io, ip: &Ipv4<'_>) {
        let Some(echo) = Echo::parse_request(ip.payload) else {
            // Answers and errors of the guest's: nobody here has asked.
            return io.counters.ignored.inc();
        };
        if ip.dst == GATEWAY || (ip.dst == HOST && io.check(HOST, None) == Verdict::Allow) {
            return io.send_ip(ip.dst, ip.src, protocol::ICMP, ECHO + echo.data.len(), |message| {
                echo.write(message, true);
            });
        }
        if ip.dst == HOST || io.check(ip.dst, None) == Verdict::Deny {
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
        echo.write(&mut message, false);
        io.counters.pings.inc();
        match rustix::net::send(&flow.socket, &message, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => io.counters.limited.inc(),
            Err(error) => self.broken(io, id, error),
        }
    }

    fn begin(&mut self, io: &mut Io, ip: &Ipv4<'_>, key: Key) -> Option<u64> {
        let to = *translate(std::net::SocketAddrV4::new(key.remote, 0)).ip();
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
                    let Some(reply) = Echo::parse_reply(buffer.get(..len).unwrap_or_default()) else {
                        continue;
                    };
                    // The host has put its own identifier in the place of the guest's.
                    let reply = Echo { id: flow.key.id, ..reply };
                    let Key { guest, remote, .. } = flow.key;
                    io.send_ip(remote, guest, protocol::ICMP, ECHO + reply.data.len(), |message| {
                        reply.write(message, true);
                    });
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

/// Tells the guest why there is no answer.
fn refuse(io: &mut Io, packet: &[u8], error: Option<Errno>) {
    match error {
        Some(Errno::ACCESS | Errno::PERM) => io.send_error(IcmpError::Prohibited, packet),
        Some(Errno::NETUNREACH) => io.send_error(IcmpError::NetUnreachable, packet),
        Some(Errno::HOSTUNREACH | Errno::CONNREFUSED) => io.send_error(IcmpError::HostUnreachable, packet),
        _ => io.counters.limited.inc(),
    }
}
