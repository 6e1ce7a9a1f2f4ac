//! What every part of the network works with: the line, the sockets' poller, deadlines, policy, counters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::connector::Connector;
use super::hosts::Hosts;
use super::line::Line;
use super::packet::{
    EVERYBODY, FRAGMENT, IPV4, IcmpError, Ip, Ipv4Head, Mac, Segment, TCP, UDP, ethertype, protocol, quote,
    tcp_flag, write_icmp_error, write_udp,
};
use super::packet6::{IPV6, NEAR, write_error, write_head};
use super::policy::{Guard, Verdict};
use super::poller::{Poller, Timers};
use super::stats::Counters;
use super::{BROADCAST, GATEWAY, GATEWAY6, MTU};

/// Bytes of the largest datagram.
pub(super) const DATAGRAM: usize = 65535;

/// See the module.
pub(super) struct Io {
    pub(super) line: Line,
    pub(super) poller: Poller,
    pub(super) timers: Timers,
    pub(super) connector: Box<dyn Connector>,
    pub(super) guard: Guard,
    pub(super) hosts: Hosts,
    pub(super) counters: Arc<Counters>,
    /// The time of this turn.
    pub(super) now: Instant,
    /// For datagrams on their way.
    pub(super) buffer: Box<[u8]>,
    next_id: u64,
    packet_id: u16,
    random: u64,
}

impl Io {
    pub(super) fn new(
        line: Line,
        poller: Poller,
        connector: Box<dyn Connector>,
        guard: Guard,
        hosts: Hosts,
        counters: Arc<Counters>,
        now: Instant,
        seed: u64,
    ) -> Self {
        Self {
            line,
            poller,
            timers: Timers::default(),
            connector,
            guard,
            hosts,
            counters,
            now,
            buffer: vec![0; DATAGRAM].into_boxed_slice(),
            next_id: 0,
            packet_id: seed as u16,
            random: seed,
        }
    }

    /// A number for something new.
    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A random number, for initial sequence numbers (SplitMix64).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// What the policy says about a destination; counts denials.
    pub(super) fn check(&mut self, addr: IpAddr, port: Option<u16>) -> Verdict {
        let connector = &mut self.connector;
        let verdict = self.guard.check(addr, port, self.now, |addr| connector.is_own(addr));
        if verdict == Verdict::Deny {
            self.counters.denied.inc();
        }
        verdict
    }

    /// The card that gets packets for an address.
    fn card(&self, addr: IpAddr) -> Option<Mac> {
        match addr {
            IpAddr::V4(Ipv4Addr::BROADCAST | BROADCAST) => Some(EVERYBODY),
            // An NE2000 lets no multicast through; broadcasts reach whoever would have listened.
            IpAddr::V6(addr) if addr.is_multicast() => Some(EVERYBODY),
            addr => self.hosts.mac(addr),
        }
    }

    /// Sends a packet to a guest. `fill` writes its payload over zeros. Larger packets than the line takes are
    /// sent in fragments with IPv4, and not at all with IPv6. Nothing happens if nobody has the address.
    pub(super) fn send_ip(
        &mut self,
        src: impl Into<IpAddr>,
        dst: impl Into<IpAddr>,
        protocol: u8,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let dst = dst.into();
        let Some(mac) = self.card(dst) else { return };
        let (src, dst) = match (src.into(), dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                return self.send_ip6(mac, src, dst, protocol, 64, len, fill);
            }
            _ => return,
        };
        self.packet_id = self.packet_id.wrapping_add(1);
        let mut head = Ipv4Head { src, dst, protocol, id: self.packet_id, offset: 0, more: false };
        if IPV4 + len <= MTU {
            return self.line.send(mac, ethertype::IPV4, IPV4 + len, |packet| {
                head.write(packet, len);
                fill(packet.get_mut(IPV4..).unwrap_or_default());
            });
        }
        let mut payload = vec![0; len.min(DATAGRAM - IPV4)];
        fill(&mut payload);
        let count = payload.len().div_ceil(FRAGMENT);
        for (index, piece) in payload.chunks(FRAGMENT).enumerate() {
            head.offset = index * FRAGMENT;
            head.more = index + 1 < count;
            self.line.send(mac, ethertype::IPV4, IPV4 + piece.len(), |packet| {
                head.write(packet, piece.len());
                packet.get_mut(IPV4..).unwrap_or_default().copy_from_slice(piece);
            });
        }
    }

    fn send_ip6(
        &mut self,
        mac: Mac,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        protocol: u8,
        hops: u8,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        if IPV6 + len > MTU {
            return self.counters.limited.inc();
        }
        self.line.send(mac, ethertype::IPV6, IPV6 + len, |packet| {
            write_head(packet, src, dst, protocol, hops, len);
            fill(packet.get_mut(IPV6..).unwrap_or_default());
        });
    }

    /// Sends a message of neighbour discovery.
    pub(super) fn send_near(&mut self, src: Ipv6Addr, dst: IpAddr, len: usize, fill: impl FnOnce(&mut [u8])) {
        if let (Some(mac), IpAddr::V6(dst)) = (self.card(dst), dst) {
            self.send_ip6(mac, src, dst, protocol::ICMPV6, NEAR, len, fill);
        }
    }

    /// Sends a datagram to a guest.
    pub(super) fn send_udp(
        &mut self,
        src: impl Into<SocketAddr>,
        dst: impl Into<SocketAddr>,
        payload: &[u8],
    ) {
        let (src, dst) = (src.into(), dst.into());
        self.send_ip(src.ip(), dst.ip(), protocol::UDP, UDP + payload.len(), |datagram| {
            write_udp(datagram, src, dst, payload);
        });
    }

    /// Sends an ICMP error about a packet of the guest's (or a quotation of it). The gateway sends those about
    /// the way, the packet's destination those about itself.
    pub(super) fn send_error(&mut self, error: IcmpError, packet: &[u8]) {
        let about_target = matches!(error, IcmpError::PortUnreachable | IcmpError::ProtocolUnreachable);
        let quoted = quote(packet);
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            let addr = |at: usize| packet.get(at..).and_then(|bytes| bytes.first_chunk::<16>()).copied();
            let (Some(src), Some(dst)) = (addr(8), addr(24)) else { return };
            let (src, dst) = (Ipv6Addr::from(src), Ipv6Addr::from(dst));
            let from = if about_target { dst } else { GATEWAY6 };
            return self.send_ip(from, src, protocol::ICMPV6, 8 + quoted.len(), |message| {
                write_error(message, error, quoted, from.into(), src.into());
            });
        }
        let word = |at: usize| packet.get(at..).and_then(|bytes| bytes.first_chunk::<4>()).copied();
        let (Some(src), Some(dst)) = (word(12), word(16)) else { return };
        let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
        let from = if about_target { dst } else { GATEWAY };
        self.send_ip(from, src, protocol::ICMP, 8 + quoted.len(), |message| {
            write_icmp_error(message, error, quoted);
        });
    }

    /// Answers a TCP segment with a reset, unless it is one.
    pub(super) fn send_reset(&mut self, ip: &Ip<'_>, segment: &Segment) {
        if segment.flags & tcp_flag::RST != 0 {
            return;
        }
        self.send_ip(ip.dst, ip.src, protocol::TCP, TCP, |reset| segment.write_reset(reset, ip.dst, ip.src));
    }
}
