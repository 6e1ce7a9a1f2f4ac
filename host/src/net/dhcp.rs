//! The gateway's DHCP server (RFC 2131).
//!
//! The VM's card always gets 192.168.127.2; other cards on the same cable get what is free, and keep it while
//! they renew it. A card that asks for an address it had before (a restored guest) gets it if it is free.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::hosts::Hosts;
use super::packet::Mac;
use super::{BROADCAST, GATEWAY, GUEST, MTU, SUBNET};

/// How long an address is lent.
const LEASE: Duration = Duration::from_secs(3600);
/// How long an offer holds.
const OFFER: Duration = Duration::from_secs(60);
/// How long an address stays unused after somebody found that it is taken.
const DECLINED: Duration = Duration::from_secs(600);

/// First and last address to lend, by their last bytes.
const POOL: std::ops::RangeInclusive<u8> = 2..=252;

/// Bytes of the fixed part of a message, the options' cookie included.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Messages are at least that long.
const SHORTEST: usize = 300;

/// Types of messages.
mod message {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const DECLINE: u8 = 4;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const RELEASE: u8 = 7;
    pub(super) const INFORM: u8 = 8;
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// None: nobody's, but not to be used.
    mac: Option<Mac>,
    until: Instant,
}

/// See the module.
pub(super) struct Dhcp {
    guest_mac: Mac,
    leases: [Option<Lease>; 256],
}

/// A reply and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) to: Ipv4Addr,
    pub(super) message: Vec<u8>,
}

/// What a message says.
struct Request<'a> {
    bytes: &'a [u8],
    kind: u8,
    mac: Mac,
    /// The client's address, if it has one.
    client: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let at = |at: usize| bytes.get(at..)?.first_chunk::<4>();
        // A request from Ethernet.
        if *at(0)?.first_chunk::<3>()? != [1, 1, 6] || *at(236)? != COOKIE {
            return None;
        }
        let (mut kind, mut requested, mut server) = (None, None, None);
        let mut options = bytes.get(FIXED..)?;
        while let Some((code, rest)) = options.split_first() {
            match code {
                0 => options = rest,
                255 => break,
                code => {
                    let (len, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(usize::from(*len))?;
                    let addr = value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
                    match code {
                        50 => requested = addr,
                        53 => kind = value.first().copied(),
                        54 => server = addr,
                        _ => {}
                    }
                    options = rest;
                }
            }
        }
        Some(Self {
            bytes,
            kind: kind?,
            mac: *bytes.get(28..)?.first_chunk()?,
            client: (*at(12)?).into(),
            requested,
            server,
        })
    }
}

fn numbered(last: u8) -> Ipv4Addr {
    let [a, b, c, _] = SUBNET.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// The last byte of an address of the pool.
fn number(addr: Ipv4Addr) -> Option<u8> {
    let [.., last] = addr.octets();
    (addr == numbered(last) && POOL.contains(&last)).then_some(last)
}

impl Dhcp {
    pub(super) fn new(guest_mac: Mac) -> Self {
        Self { guest_mac, leases: [None; 256] }
    }

    fn lease(&self, last: u8) -> Option<Lease> {
        self.leases.get(usize::from(last)).copied().flatten()
    }

    fn lend(&mut self, last: u8, mac: Option<Mac>, until: Instant) {
        if let Some(place) = self.leases.get_mut(usize::from(last)) {
            *place = Some(Lease { mac, until });
        }
    }

    /// The address may be lent to that card.
    fn is_free(&self, last: u8, mac: Mac, hosts: &Hosts, now: Instant) -> bool {
        let addr = numbered(last);
        if addr == GUEST && self.guest_mac != [0; 6] && self.guest_mac != mac {
            return false;
        }
        let taken = self.lease(last).is_some_and(|lease| lease.mac != Some(mac) && now < lease.until);
        !taken && !hosts.is_used(addr, mac, now)
    }

    /// The address for a card that has asked for none, or for `wanted`.
    fn choose(&self, mac: Mac, wanted: Option<Ipv4Addr>, hosts: &Hosts, now: Instant) -> Option<u8> {
        let free = |last: &u8| self.is_free(*last, mac, hosts, now);
        let own = POOL.into_iter().find(|last| self.lease(*last).is_some_and(|lease| lease.mac == Some(mac)));
        let [.., guest] = GUEST.octets();
        let usual = (mac == self.guest_mac).then_some(guest);
        let wanted = wanted.and_then(number);
        [usual, own, wanted].into_iter().flatten().find(free).or_else(|| POOL.into_iter().find(free))
    }

    /// Handles a message. Returns the reply, if there is one, and whether it grants a lease.
    pub(super) fn handle(&mut self, bytes: &[u8], hosts: &Hosts, now: Instant) -> Option<(Reply, bool)> {
        let request = Request::parse(bytes)?;
        let (mac, for_us) = (request.mac, request.server.is_none_or(|server| server == GATEWAY));
        if !super::hosts::is_card(mac) {
            return None;
        }
        match request.kind {
            message::DISCOVER => {
                let last = self.choose(mac, request.requested, hosts, now)?;
                let until = now + OFFER;
                if self.lease(last).is_none_or(|lease| lease.mac != Some(mac) || lease.until < until) {
                    self.lend(last, Some(mac), until);
                }
                Some((request.reply(message::OFFER, Some(numbered(last))), false))
            }
            message::REQUEST if for_us => {
                let wanted = request.requested.unwrap_or(request.client);
                match number(wanted).filter(|last| self.is_free(*last, mac, hosts, now)) {
                    Some(last) => {
                        self.lend(last, Some(mac), now + LEASE);
                        Some((request.reply(message::ACK, Some(wanted)), true))
                    }
                    None => Some((request.reply(message::NAK, None), false)),
                }
            }
            message::DECLINE if for_us => {
                let last = number(request.requested?)?;
                if self.lease(last)?.mac == Some(mac) {
                    self.lend(last, None, now + DECLINED);
                }
                None
            }
            message::RELEASE if for_us => {
                let last = number(request.client)?;
                if self.lease(last)?.mac == Some(mac) {
                    *self.leases.get_mut(usize::from(last))? = None;
                }
                None
            }
            message::INFORM => Some((request.reply(message::ACK, None), false)),
            _ => None,
        }
    }
}

impl Request<'_> {
    fn reply(&self, kind: u8, lease: Option<Ipv4Addr>) -> Reply {
        let mut reply = vec![0; FIXED];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(space) = reply.get_mut(at..at + bytes.len()) {
                space.copy_from_slice(bytes);
            }
        };
        let same = |range: std::ops::Range<usize>| self.bytes.get(range).unwrap_or_default();
        put(0, &[2, 1, 6]);
        put(4, same(4..8)); // transaction
        put(10, same(10..12)); // flags
        if kind != message::NAK {
            put(12, &self.client.octets());
            put(16, &lease.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        }
        put(24, same(24..28)); // relay
        put(28, same(28..44)); // the client's card
        put(236, &COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            reply.extend([code, value.len() as u8]);
            reply.extend(value);
        };
        if kind != message::NAK {
            option(1, &[255, 255, 255, 0]);
            option(3, &GATEWAY.octets());
            option(6, &GATEWAY.octets());
            option(26, &(MTU as u16).to_be_bytes());
            option(28, &BROADCAST.octets());
            if lease.is_some() {
                option(51, &(LEASE.as_secs() as u32).to_be_bytes());
            }
        }
        option(53, &[kind]);
        option(54, &GATEWAY.octets());
        reply.push(255);
        reply.resize(reply.len().max(SHORTEST), 0);
        let unicast = kind == message::ACK && !self.client.is_unspecified();
        Reply { to: if unicast { self.client } else { Ipv4Addr::BROADCAST }, message: reply }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const VM: Mac = [0, 0x22, 0x15, 1, 2, 3];

    fn card(n: u8) -> Mac {
        [0, 0x22, 0x15, 0, 0, n]
    }

    fn message(kind: u8, mac: Mac, client: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&[9, 8, 7, 6]);
        bytes[12..16].copy_from_slice(&client.octets());
        bytes[28..34].copy_from_slice(&mac);
        bytes[236..240].copy_from_slice(&COOKIE);
        for (code, value) in [(53, [kind].as_slice())].iter().chain(options) {
            bytes.extend([*code, value.len() as u8]);
            bytes.extend(*value);
        }
        bytes.push(255);
        bytes
    }

    struct Server(Dhcp, Hosts, Instant);

    impl Server {
        fn new() -> Self {
            Self(Dhcp::new(VM), Hosts::new(VM), clock::now())
        }

        /// Type and address of the reply.
        fn ask(
            &mut self,
            kind: u8,
            mac: Mac,
            client: [u8; 4],
            options: &[(u8, &[u8])],
        ) -> Option<(u8, [u8; 4])> {
            let bytes = message(kind, mac, client.into(), options);
            let (reply, _) = self.0.handle(&bytes, &self.1, self.2)?;
            let reply = reply.message;
            let at = FIXED + reply[FIXED..].windows(3).position(|w| w[..2] == [53, 1]).unwrap();
            Some((reply[at + 2], reply[16..20].try_into().unwrap()))
        }

        fn lease(&mut self, mac: Mac) -> Option<u8> {
            let (_, offered) = self.ask(message::DISCOVER, mac, [0; 4], &[])?;
            let options: [(u8, &[u8]); 2] = [(50, &offered), (54, &GATEWAY.octets())];
            let (kind, addr) = self.ask(message::REQUEST, mac, [0; 4], &options)?;
            assert_eq!((kind, addr), (message::ACK, offered));
            Some(addr[3])
        }
    }

    #[test]
    fn dhcp_offer_has_the_documented_options() {
        let mut server = Server::new();
        let bytes = message(message::DISCOVER, VM, Ipv4Addr::UNSPECIFIED, &[]);
        let (reply, granted) = server.0.handle(&bytes, &server.1, server.2).unwrap();
        assert!(!granted);
        assert_eq!(reply.to, Ipv4Addr::BROADCAST);
        assert_eq!(reply.message.len(), 300);
        assert_eq!(reply.message[..8], [2, 1, 6, 0, 9, 8, 7, 6]);
        assert_eq!(reply.message[16..20], [192, 168, 127, 2]);
        assert_eq!(reply.message[28..34], VM);
        let options = [
            1, 4, 255, 255, 255, 0, 3, 4, 192, 168, 127, 1, 6, 4, 192, 168, 127, 1, 26, 2, 5, 220, 28, 4,
            192, 168, 127, 255, 51, 4, 0, 0, 14, 16, 53, 1, 2, 54, 4, 192, 168, 127, 1, 255,
        ];
        assert_eq!(reply.message[FIXED..FIXED + options.len()], options);
    }

    #[test]
    fn dhcp_vm_gets_2_and_others_what_is_free() {
        let mut server = Server::new();
        assert_eq!(server.lease(card(1)), Some(3));
        assert_eq!(server.lease(card(2)), Some(4));
        assert_eq!(server.lease(VM), Some(2));
        assert_eq!(server.lease(card(1)), Some(3), "renewed");
        assert_eq!(server.lease(VM), Some(2));
    }

    #[test]
    fn dhcp_pool_is_exhausted_and_recycled() {
        let mut server = Server::new();
        let given: Vec<u8> = (0..=255).filter_map(|n| server.lease(card(n))).collect();
        assert_eq!(given, (3..=252).collect::<Vec<_>>());
        assert_eq!(server.lease(VM), Some(2));
        assert_eq!(server.lease([2, 0, 0, 0, 0, 1]), None, "silent");
        assert_eq!(server.ask(message::RELEASE, card(7), [192, 168, 127, 10], &[]), None);
        assert_eq!(server.lease([2, 0, 0, 0, 0, 1]), Some(10));
        server.2 += LEASE;
        assert_eq!(server.lease([2, 0, 0, 0, 0, 2]), Some(3), "expired");
    }

    #[test]
    fn dhcp_request_for_a_foreign_address_is_refused() {
        let mut server = Server::new();
        assert_eq!(server.lease(card(1)), Some(3));
        for addr in [[192, 168, 127, 3], [192, 168, 127, 1], [192, 168, 127, 254], [10, 0, 0, 5], [0; 4]] {
            let nak = server.ask(message::REQUEST, VM, [0; 4], &[(50, &addr)]);
            assert_eq!(nak, Some((message::NAK, [0; 4])), "{addr:?}");
        }
        let other =
            server.ask(message::REQUEST, VM, [0; 4], &[(50, &[192, 168, 127, 2]), (54, &[10, 0, 0, 1])]);
        assert_eq!(other, None, "another server was chosen");
    }

    #[test]
    fn dhcp_restored_guest_keeps_its_address() {
        let mut server = Server::new();
        let reboot = server.ask(message::REQUEST, card(9), [0; 4], &[(50, &[192, 168, 127, 77])]);
        assert_eq!(reboot, Some((message::ACK, [192, 168, 127, 77])));
        let bytes = message(message::REQUEST, card(9), [192, 168, 127, 77].into(), &[]);
        let (renewed, granted) = server.0.handle(&bytes, &server.1, server.2).unwrap();
        assert!(granted);
        assert_eq!(renewed.to, Ipv4Addr::new(192, 168, 127, 77));
    }

    #[test]
    fn dhcp_used_and_declined_addresses_are_not_lent() {
        let mut server = Server::new();
        server.1.heard([192, 168, 127, 3].into(), card(50), server.2);
        assert_eq!(server.lease(card(1)), Some(4));
        assert_eq!(server.ask(message::DECLINE, card(1), [0; 4], &[(50, &[192, 168, 127, 4])]), None);
        assert_eq!(server.lease(card(1)), Some(5));
        let inform = server.ask(message::INFORM, card(2), [192, 168, 127, 200], &[]);
        assert_eq!(inform, Some((message::ACK, [0; 4])));
    }

    proptest! {
        #[test]
        fn dhcp_any_message_is_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..320), shape: bool) {
            if shape {
                for (place, byte) in bytes.iter_mut().zip(message(1, VM, Ipv4Addr::UNSPECIFIED, &[])).take(FIXED) {
                    *place = byte;
                }
            }
            let mut server = Server::new();
            let _ = server.0.handle(&bytes, &server.1, server.2);
        }
    }
}
