//! The gateway as an IPv6 router: advertisements of itself and its prefix, answers to who looks for it.
//!
//! There is no DHCPv6: guests make their addresses themselves. The gateway is a default router only while the host
//! has a way to the IPv6 internet, so that guests do not try in vain otherwise.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::io::Io;
use super::packet::Ip;
use super::packet6::{
    ALL_NODES, NEAR, NEIGHBOUR, NEIGHBOUR_SOLICITATION, ROUTER, ROUTER_SOLICITATION, is_intact, solicited,
    write_neighbour, write_router,
};
use super::poller::{Kind, Token};
use super::{GATEWAY6, GATEWAY6_LINK, HOST6};

/// Time between advertisements that nobody has asked for, while there are guests that speak IPv6.
const PERIOD: Duration = Duration::from_secs(600);

/// How long guests believe in the router without hearing of it, in seconds.
const LIFETIME: u16 = 1800;

/// See the module.
#[derive(Default)]
pub(super) struct Neighbours {
    timer: Option<Instant>,
}

impl Neighbours {
    /// A guest speaks IPv6. One that was restored does not ask for a router any more, and wants to hear of it
    /// before it forgets it.
    pub(super) fn heard(&mut self, io: &mut Io) {
        if self.timer.is_none() {
            let at = io.now + PERIOD;
            io.timers.by(Token::new(Kind::Neighbours, 0), &mut self.timer, at);
        }
    }

    /// It is time for an advertisement.
    pub(super) fn timer(&mut self, io: &mut Io) {
        self.timer = None;
        advertise(io, ALL_NODES);
        self.heard(io);
    }

    /// A message of ICMPv6. False if it is none of neighbour discovery that concerns the gateway.
    pub(super) fn message(&mut self, io: &mut Io, ip: &Ip<'_>, src: Ipv6Addr) -> bool {
        let Some([kind, 0]) = ip.payload.first_chunk::<2>() else { return false };
        if !matches!(*kind, ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION) || ip.ttl != NEAR {
            return false;
        }
        if !is_intact(ip) {
            io.counters.malformed.inc();
            return true;
        }
        // Who looks whether an address is free has none yet.
        let to = if src.is_unspecified() { ALL_NODES } else { src };
        if *kind == ROUTER_SOLICITATION {
            advertise(io, to);
            return true;
        }
        let Some(target) = solicited(ip.payload).filter(|target| is_ours(*target)) else { return false };
        let (from, to) = (IpAddr::V6(target), IpAddr::V6(to));
        io.send_near(target, to, NEIGHBOUR, |message| {
            write_neighbour(message, target, !src.is_unspecified(), from, to);
        });
        true
    }
}

fn is_ours(addr: Ipv6Addr) -> bool {
    [GATEWAY6, GATEWAY6_LINK, HOST6].contains(&addr)
}

fn advertise(io: &mut Io, to: Ipv6Addr) {
    let lifetime = if io.connector.has_ipv6() { LIFETIME } else { 0 };
    let (from, to) = (IpAddr::V6(GATEWAY6_LINK), IpAddr::V6(to));
    io.send_near(GATEWAY6_LINK, to, ROUTER, |message| write_router(message, lifetime, from, to));
}
