//! A network without thread and outside, driven by hand: for fuzzing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::cable::{CardEnd, cable};
use super::config::NetConfig;
use super::connector::Connector;
use super::stack::Stack;
use super::stats::{Counters, NetStats};
use super::user_net::build;
use super::{NetError, Policy, Rule};
use crate::clock;
use crate::limits::{
    NET_DNS_QUERIES, NET_NEIGHBOURS, NET_PINGS, NET_REASSEMBLIES, NET_TCP_FLOWS, NET_UDP_FLOWS,
};

/// Other ends that are kept; older ones hang up.
const KEPT: usize = 32;

/// An outside of local sockets: some connections fail, the others say something and listen to nothing.
#[derive(Default)]
struct Nowhere {
    asked: u32,
    streams: VecDeque<UnixStream>,
    datagrams: VecDeque<UnixDatagram>,
}

impl Nowhere {
    fn datagram(&mut self, payload: &[u8]) -> io::Result<OwnedFd> {
        self.asked = self.asked.wrapping_add(1);
        if self.asked.is_multiple_of(5) {
            return Err(Errno::NETUNREACH.into());
        }
        let (here, there) = UnixDatagram::pair()?;
        here.set_nonblocking(true)?;
        there.set_nonblocking(true)?;
        there.send(payload)?;
        self.datagrams.push_back(there);
        if self.datagrams.len() > KEPT {
            self.datagrams.pop_front();
        }
        Ok(here.into())
    }
}

impl Connector for Nowhere {
    fn tcp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        self.asked = self.asked.wrapping_add(1);
        match self.asked % 8 {
            0 => return Err(Errno::CONNREFUSED.into()),
            1 => return Err(Errno::HOSTUNREACH.into()),
            _ => {}
        }
        let (here, mut there) = UnixStream::pair()?;
        here.set_nonblocking(true)?;
        there.set_nonblocking(true)?;
        there.write_all(&[b'x'; 3000])?;
        self.streams.push_back(there);
        if self.streams.len() > KEPT {
            self.streams.pop_front();
        }
        Ok(here.into())
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        self.datagram(&[b'x'; 2000])
    }

    fn ping(&mut self, _: IpAddr) -> io::Result<OwnedFd> {
        self.datagram(&[0, 0, 0, 0, 1, 2, 3, 4, 5])
    }

    fn is_own(&mut self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => addr.octets().ends_with(&[99]),
            IpAddr::V6(addr) => addr.octets().ends_with(&[99]),
        }
    }

    fn has_ipv6(&mut self) -> bool {
        true
    }
}

/// See the module.
pub struct DryNet {
    stack: Stack,
    start: Instant,
}

impl DryNet {
    /// A network with the given Ethernet address for the VM's card, whose end of the cable comes with it.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(guest_mac: [u8; 6]) -> Result<(Self, CardEnd), NetError> {
        let (card, end) = cable(Arc::new(|| {})).map_err(NetError::Host)?;
        let policy =
            Policy { allow: Rule::parse("*.example.org").into_iter().collect(), ..Policy::default() };
        let dns_servers = Some(vec![SocketAddr::from(([203, 0, 113, 1], 53))]);
        let config = NetConfig { guest_mac, policy, dns_servers, host_access: true, ..NetConfig::default() };
        let counters = Arc::new(Counters::default());
        let (stack, _) = build(config, end, Box::new(Nowhere::default()), counters, 86)?;
        Ok((Self { stack, start: clock::now() }, card))
    }

    /// Lets the network do what there is to do at that time after its start. Never waits.
    pub fn turn(&mut self, at: Duration) {
        self.stack.wait(Some(Duration::ZERO));
        self.stack.turn(self.start + at);
    }

    /// What it has done.
    pub fn stats(&self) -> NetStats {
        self.stack.io.counters.snapshot()
    }

    /// No table is larger than its limit.
    pub fn is_bounded(&self) -> bool {
        let stack = &self.stack;
        stack.tcp.len() <= NET_TCP_FLOWS
            && stack.udp.len() <= NET_UDP_FLOWS
            && stack.forwards.clients() <= NET_UDP_FLOWS
            && stack.pings.len() <= NET_PINGS
            && stack.resolver.len() <= NET_DNS_QUERIES
            && stack.reassembly.len() <= NET_REASSEMBLIES
            && stack.io.hosts.neighbours() <= NET_NEIGHBOURS
    }
}

#[cfg(test)]
mod tests {
    use emu_devices::net::NetSink;

    use super::*;

    #[test]
    fn dry_net_answers_and_stays_bounded() {
        let (mut net, mut card) = DryNet::new([2, 0, 0, 0, 0, 1]).unwrap();
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 168, 127, 2]);
        frame.extend([0, 0, 0, 0, 0, 0, 192, 168, 127, 1]);
        card.send(&frame);
        net.turn(Duration::ZERO);
        assert_eq!(card.receive(&mut |_| true), 1);
        assert_eq!(net.stats().rx_frames, 1);
        assert!(net.is_bounded());
    }
}
