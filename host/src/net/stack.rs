//! The network itself: takes frames and events, finds whose they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::cable::Frames;
use super::dhcp::Dhcp;
use super::forward::{Bound, Forwards};
use super::hosts::{Hosts, is_card, is_guest, is_guest6};
use super::io::Io;
use super::names::Names;
use super::neighbours::Neighbours;
use super::packet::{
    ARP, Arp, EVERYBODY, Ethernet, IcmpError, Ip, Ipv4, Mac, Udp as Datagram, ethertype, protocol,
};
use super::packet6;
use super::ping::Pings;
use super::poller::{Kind, Ready, Token};
use super::reassembly::Reassembly;
use super::resolver::{Client, Resolver};
use super::tcp::Tcp;
use super::udp::Udp;
use super::{BROADCAST, GATEWAY, GATEWAY_MAC, HOST, is_gateway, is_host};

/// Searches for a guest that was restored: at its usual address, and everywhere.
const ANNOUNCEMENTS: u32 = 2;

/// Pause between two searches for the guest.
const SEARCH: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Stack {
    pub(super) io: Io,
    pub(super) tcp: Tcp,
    pub(super) udp: Udp,
    pub(super) pings: Pings,
    pub(super) resolver: Resolver,
    pub(super) forwards: Forwards,
    pub(super) reassembly: Reassembly,
    dhcp: Dhcp,
    neighbours: Neighbours,
    batch: Frames,
    events: Vec<(Token, Ready)>,
    /// When the guest is searched for again, and how often it was.
    search: Option<Instant>,
    searches: u32,
    /// A datagram waits for the guest.
    wanted: bool,
    /// Searches that nobody has to wait for.
    announcements: u32,
}

impl Stack {
    pub(super) fn new(
        mut io: Io,
        guest_mac: Mac,
        announce: bool,
        ahead: Option<usize>,
        names: Names,
        bound: Bound,
    ) -> io::Result<Self> {
        io.poller.add_level(io.line.event(), Token::new(Kind::Cable, 0))?;
        let forwards = Forwards::new(&mut io, bound)?;
        let mut search = None;
        if announce {
            // At once: nothing else would wake the thread.
            io.timers.by(Token::new(Kind::Probe, 0), &mut search, io.now);
        }
        // smoltcp's time zero means "now".
        let epoch = io.now.checked_sub(Duration::from_secs(1)).unwrap_or(io.now);
        Ok(Self {
            io,
            tcp: Tcp::new(epoch, ahead),
            udp: Udp::default(),
            pings: Pings::default(),
            resolver: Resolver::new(names),
            forwards,
            reassembly: Reassembly::default(),
            dhcp: Dhcp::new(guest_mac),
            neighbours: Neighbours::default(),
            batch: Frames::default(),
            events: Vec::new(),
            search,
            searches: 0,
            wanted: false,
            announcements: if announce { ANNOUNCEMENTS } else { 0 },
        })
    }

    /// Waits for something to do, but no longer than `at_most`.
    pub(super) fn wait(&mut self, at_most: Option<Duration>) {
        let busy = self.tcp.is_busy()
            || self.udp.is_busy(&mut self.io)
            || self.forwards.is_busy(&mut self.io, &self.tcp)
            || !self.io.line.prepare_sleep();
        let deadline = [self.io.timers.next(), self.io.line.deadline()].into_iter().flatten().min();
        let left = deadline.map(|at| at.saturating_duration_since(crate::clock::now()));
        let timeout = if busy { Some(Duration::ZERO) } else { [left, at_most].into_iter().flatten().min() };
        let mut events = std::mem::take(&mut self.events);
        self.io.poller.wait(timeout, &mut events);
        self.events = events;
        self.io.line.awake();
    }

    /// Does what there is to do.
    pub(super) fn turn(&mut self, now: Instant) {
        self.io.now = now;
        let mut events = std::mem::take(&mut self.events);
        for (token, ready) in events.drain(..) {
            self.event(token, ready);
        }
        self.events = events;
        while let Some(token) = self.io.timers.due(now) {
            self.timer(token);
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.io.line.take(&mut batch, now);
        for index in 0..batch.len() {
            if let Some(frame) = batch.get(index) {
                self.frame(frame, index);
            }
        }
        if self.io.line.has_room() {
            self.tcp.unblock();
        }
        self.tcp.run(&mut self.io, &batch);
        self.batch = batch;
        for (flow, question) in self.tcp.take_questions() {
            self.resolver.ask(&mut self.io, Client::Tcp(flow), &question);
        }
        for (flow, answer) in std::mem::take(&mut self.resolver.answers) {
            self.tcp.answer(flow, answer.as_deref());
        }
        self.udp.run(&mut self.io);
        self.forwards.run(&mut self.io, &mut self.tcp);
        self.find_guest();
        self.io.line.flush();
    }

    fn event(&mut self, token: Token, ready: Ready) {
        let io = &mut self.io;
        match token.kind {
            Kind::Cable => io.line.clear_event(),
            Kind::Tcp => self.tcp.event(io, token.id, ready),
            Kind::Udp => self.udp.event(token.id, ready),
            Kind::Ping => self.pings.event(io, token.id, ready),
            Kind::Dns => self.resolver.event(io, token.id, ready),
            Kind::TcpListener => self.forwards.tcp_event(token.id, false),
            Kind::UdpListener => self.forwards.udp_event(token.id),
            Kind::UdpPeer | Kind::Probe | Kind::Neighbours => {}
        }
    }

    fn timer(&mut self, token: Token) {
        let io = &mut self.io;
        match token.kind {
            Kind::Tcp => self.tcp.timer(io, token.id),
            Kind::Udp => self.udp.timer(io, token.id),
            Kind::Ping => self.pings.timer(io, token.id),
            Kind::Dns => self.resolver.timer(io, token.id),
            Kind::TcpListener => self.forwards.tcp_event(token.id, true),
            Kind::UdpPeer => self.forwards.peer_timer(io),
            Kind::Probe => self.search = None,
            Kind::Neighbours => self.neighbours.timer(io),
            Kind::Cable | Kind::UdpListener => {}
        }
    }

    /// Forwards that do not know where the guest is ask everybody.
    fn find_guest(&mut self) {
        self.wanted |= self.forwards.take_searching();
        if self.io.hosts.guest().is_some() {
            self.wanted = false;
            self.announcements = 0;
            self.searches = 0;
            return self.tcp.found(&mut self.io);
        }
        if self.search.is_some() || !(self.wanted || self.announcements > 0 || self.tcp.is_searching()) {
            return;
        }
        self.wanted = false;
        self.announcements = self.announcements.saturating_sub(1);
        self.searches = self.searches.saturating_add(1);
        for target in Hosts::candidates(self.searches > 1) {
            self.send_arp(
                EVERYBODY,
                Arp { request: true, sender_mac: GATEWAY_MAC, sender: GATEWAY, target_mac: [0; 6], target },
            );
        }
        let at = self.io.now + SEARCH;
        self.io.timers.by(Token::new(Kind::Probe, 0), &mut self.search, at);
    }

    fn send_arp(&mut self, to: Mac, arp: Arp) {
        self.io.line.send(to, ethertype::ARP, ARP, |packet| arp.write(packet));
    }

    /// A frame from a guest, with its number in the batch.
    fn frame(&mut self, frame: &[u8], index: usize) {
        let Some(ethernet) = Ethernet::parse(frame) else { return self.io.counters.malformed.inc() };
        if !is_card(ethernet.src) {
            return self.io.counters.spoofed.inc();
        }
        if ethernet.dst != GATEWAY_MAC && ethernet.dst[0] & 1 == 0 {
            return self.io.counters.ignored.inc(); // for somebody else
        }
        match ethernet.ethertype {
            ethertype::IPV4 => match Ipv4::parse(ethernet.payload) {
                Some(ip) => self.packet(&ip, ethernet.src, index),
                None => self.io.counters.malformed.inc(),
            },
            ethertype::IPV6 => match packet6::parse(ethernet.payload) {
                Some(ip) => self.packet6(&ip, ethernet.src, index),
                None => self.io.counters.malformed.inc(),
            },
            ethertype::ARP => match Arp::parse(ethernet.payload) {
                Some(arp) => self.arp(&arp, ethernet.src),
                None => self.io.counters.malformed.inc(),
            },
            _ => self.io.counters.ignored.inc(),
        }
    }

    fn arp(&mut self, arp: &Arp, mac: Mac) {
        // Who looks whether an address is free has none yet (RFC 5227).
        let probe = arp.request && arp.sender.is_unspecified();
        let now = self.io.now;
        if arp.sender_mac != mac || !(probe || self.io.hosts.heard(arp.sender, mac, now)) {
            return self.io.counters.spoofed.inc();
        }
        if arp.request && [GATEWAY, HOST].contains(&arp.target) {
            self.send_arp(
                mac,
                Arp {
                    request: false,
                    sender_mac: GATEWAY_MAC,
                    sender: arp.target,
                    target_mac: mac,
                    target: arp.sender,
                },
            );
        }
    }

    fn packet(&mut self, ip: &Ipv4<'_>, mac: Mac, index: usize) {
        let now = self.io.now;
        let nobody = ip.src.is_unspecified() && ip.protocol == protocol::UDP;
        if !nobody && !self.io.hosts.heard(ip.src, mac, now) {
            return self.io.counters.spoofed.inc();
        }
        if !ip.is_fragment() {
            return self.whole(ip, mac, Some(index));
        }
        if nobody {
            return self.io.counters.ignored.inc();
        }
        if let Some(packet) = self.reassembly.add(ip, now)
            && let Some(ip) = Ipv4::parse(&packet)
        {
            self.whole(&ip, mac, None);
        }
    }

    /// A packet that is no fragment.
    fn whole(&mut self, ip: &Ipv4<'_>, mac: Mac, index: Option<usize>) {
        let io = &mut self.io;
        let everybody = ip.dst.is_broadcast() || ip.dst == BROADCAST;
        if ip.protocol == protocol::UDP && (everybody || ip.dst == GATEWAY) {
            let Some(datagram) = Datagram::parse(ip) else { return io.counters.malformed.inc() };
            return self.for_gateway(ip, &datagram, mac);
        }
        // Nothing answers what is sent to many, or to nobody.
        if everybody || ip.dst.is_multicast() || ip.dst.is_unspecified() || ip.dst.is_loopback() {
            return io.counters.denied.inc();
        }
        if !is_guest(ip.src) {
            return io.counters.spoofed.inc();
        }
        self.conversation(&Ip::from(ip), index);
    }

    /// A packet of IPv6.
    fn packet6(&mut self, ip: &Ip<'_>, mac: Mac, index: usize) {
        let io = &mut self.io;
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip.src, ip.dst) else { return };
        if !src.is_unspecified() && !io.hosts.heard6(src, mac, io.now) {
            return io.counters.spoofed.inc();
        }
        self.neighbours.heard(io);
        if ip.protocol == protocol::ICMPV6 && self.neighbours.message(io, ip, src) {
            return;
        }
        if dst.is_multicast() || src.is_unspecified() {
            // Reports of who listens to which group, and what neighbours tell each other.
            return io.counters.ignored.inc();
        }
        if ip.protocol == protocol::UDP && is_gateway(ip.dst) {
            let Some(datagram) = Datagram::parse(ip) else { return io.counters.malformed.inc() };
            if datagram.dst == 53 {
                let client = Client::Udp(SocketAddr::new(ip.src, datagram.src), ip.dst);
                return self.resolver.ask(io, client, datagram.payload);
            }
            io.counters.denied.inc();
            return io.send_error(IcmpError::PortUnreachable, ip.packet);
        }
        // Addresses of the link lead nowhere else.
        if !is_guest6(src) && !is_gateway(ip.dst) {
            return io.counters.denied.inc();
        }
        self.conversation(ip, Some(index));
    }

    /// A whole packet to the outside, or to a service of the gateway's.
    fn conversation(&mut self, ip: &Ip<'_>, index: Option<usize>) {
        let io = &mut self.io;
        if ip.ttl <= 1 && !is_gateway(ip.dst) && !is_host(ip.dst) {
            return io.send_error(IcmpError::TimeExceeded, ip.packet);
        }
        match (ip.protocol, ip.src) {
            (protocol::TCP, _) => self.tcp.segment(io, ip, index),
            (protocol::UDP, _) => match Datagram::parse(ip) {
                Some(datagram) => self.udp.datagram(io, ip, &datagram),
                None => io.counters.malformed.inc(),
            },
            (protocol::ICMP, IpAddr::V4(_)) | (protocol::ICMPV6, IpAddr::V6(_)) => self.pings.message(io, ip),
            _ => {
                io.counters.ignored.inc();
                io.send_error(IcmpError::ProtocolUnreachable, ip.packet);
            }
        }
    }

    /// A datagram for the gateway, or for everybody.
    fn for_gateway(&mut self, ip: &Ipv4<'_>, datagram: &Datagram<'_>, mac: Mac) {
        let io = &mut self.io;
        if datagram.dst == 67 {
            return self.dhcp(datagram.payload, mac);
        }
        if ip.dst != GATEWAY || ip.src.is_unspecified() {
            return io.counters.denied.inc();
        }
        let from = SocketAddr::from((ip.src, datagram.src));
        if datagram.dst == 53 {
            return self.resolver.ask(io, Client::Udp(from, GATEWAY.into()), datagram.payload);
        }
        if !self.forwards.answer(io, from, datagram.dst, datagram.payload) {
            io.counters.denied.inc();
            io.send_error(IcmpError::PortUnreachable, ip.packet);
        }
    }

    fn dhcp(&mut self, message: &[u8], mac: Mac) {
        let io = &mut self.io;
        if message.get(28..34).is_some_and(|sender| sender != mac) {
            return io.counters.spoofed.inc();
        }
        let Some((reply, granted)) = self.dhcp.handle(message, &io.hosts, io.now) else {
            return io.counters.ignored.inc();
        };
        if granted {
            io.counters.dhcp_acks.inc();
            if let Some(addr) = reply.message.get(16..).and_then(|bytes| bytes.first_chunk::<4>()) {
                io.hosts.heard(Ipv4Addr::from(*addr), mac, io.now);
            }
        }
        let (from, to) = (SocketAddrV4::new(GATEWAY, 67), SocketAddrV4::new(reply.to, 68));
        io.send_udp(from, to, &reply.message);
    }

    /// Breaks off all connections.
    pub(super) fn close(&mut self) {
        self.tcp.close();
    }
}
