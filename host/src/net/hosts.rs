//! Who is on the wire: addresses and the cards they belong to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::packet::Mac;
use super::{GATEWAY, GATEWAY_MAC, GATEWAY6, GATEWAY6_LINK, GUEST, HOST, HOST6, SUBNET, SUBNET6};
use crate::limits::NET_NEIGHBOURS;

/// While its owner was heard within this time, an address cannot be taken by another card.
const OWNED: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct Owner {
    mac: Mac,
    heard: Instant,
}

/// Everybody on the wire. As large as the subnet, whatever is sent; of IPv6 addresses those heard last.
pub(super) struct Hosts {
    owners: [Option<Owner>; 256],
    owners6: Vec<(Ipv6Addr, Owner)>,
    guest_mac: Mac,
    /// Last byte of the address that the VM's card used last.
    guest: Option<u8>,
    /// Last byte of the address that was used last by anybody.
    anybody: Option<u8>,
}

/// An address that somebody on the wire may have.
pub(super) fn is_guest(addr: Ipv4Addr) -> bool {
    let [a, b, c, last] = addr.octets();
    let [x, y, z, _] = SUBNET.octets();
    [a, b, c] == [x, y, z] && last != 0 && last != 255 && addr != GATEWAY && addr != HOST
}

/// The same for IPv6: not the first of the subnet, which means any router (RFC 4291, 2.6.1).
pub(super) fn is_guest6(addr: Ipv6Addr) -> bool {
    addr.octets().starts_with(&SUBNET6.octets()[..8]) && ![SUBNET6, GATEWAY6, HOST6].contains(&addr)
}

/// An address with which cards talk to their neighbours only.
fn is_link(addr: Ipv6Addr) -> bool {
    addr.is_unicast_link_local() && addr != GATEWAY6_LINK
}

/// An address a card may have: of one card, and not the gateway's.
pub(super) fn is_card(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6] && mac != GATEWAY_MAC
}

fn numbered(last: u8) -> Ipv4Addr {
    let [a, b, c, _] = SUBNET.octets();
    Ipv4Addr::new(a, b, c, last)
}

impl Hosts {
    pub(super) fn new(guest_mac: Mac) -> Self {
        Self { owners: [None; 256], owners6: Vec::new(), guest_mac, guest: None, anybody: None }
    }

    /// A card has used an address as its own. False if it may not: then nothing of it counts.
    pub(super) fn heard(&mut self, addr: Ipv4Addr, mac: Mac, now: Instant) -> bool {
        if !is_guest(addr) || !is_card(mac) {
            return false;
        }
        let [.., last] = addr.octets();
        let Some(place) = self.owners.get_mut(usize::from(last)) else { return false };
        if let Some(owner) = place
            && owner.mac != mac
            && now.saturating_duration_since(owner.heard) < OWNED
        {
            return false;
        }
        *place = Some(Owner { mac, heard: now });
        self.anybody = Some(last);
        if mac == self.guest_mac {
            self.guest = Some(last);
        }
        true
    }

    /// The same for IPv6. The address that was silent for longest gives way.
    pub(super) fn heard6(&mut self, addr: Ipv6Addr, mac: Mac, now: Instant) -> bool {
        if !(is_guest6(addr) || is_link(addr)) || !is_card(mac) {
            return false;
        }
        if let Some((_, owner)) = self.owners6.iter_mut().find(|(owned, _)| *owned == addr) {
            if owner.mac != mac && now.saturating_duration_since(owner.heard) < OWNED {
                return false;
            }
            *owner = Owner { mac, heard: now };
            return true;
        }
        if self.owners6.len() >= NET_NEIGHBOURS {
            let oldest = self.owners6.iter().enumerate().min_by_key(|(_, (_, owner))| owner.heard);
            if let Some(index) = oldest.map(|(index, _)| index) {
                self.owners6.swap_remove(index);
            }
        }
        self.owners6.push((addr, Owner { mac, heard: now }));
        true
    }

    /// IPv6 addresses that are known.
    pub(super) fn neighbours(&self) -> usize {
        self.owners6.len()
    }

    /// The card that has an address.
    pub(super) fn mac(&self, addr: impl Into<IpAddr>) -> Option<Mac> {
        let addr = match addr.into() {
            IpAddr::V4(addr) => addr,
            IpAddr::V6(addr) => {
                let owner = self.owners6.iter().find(|(owned, _)| *owned == addr);
                return owner.map(|(_, owner)| owner.mac);
            }
        };
        let [.., last] = addr.octets();
        let owner = self.owners.get(usize::from(last)).copied().flatten();
        owner.filter(|_| is_guest(addr)).map(|owner| owner.mac)
    }

    /// Another card than `mac` has used the address lately.
    pub(super) fn is_used(&self, addr: Ipv4Addr, mac: Mac, now: Instant) -> bool {
        let [.., last] = addr.octets();
        let owner = self.owners.get(usize::from(last)).copied().flatten();
        owner.is_some_and(|owner| owner.mac != mac && now.saturating_duration_since(owner.heard) < OWNED)
    }

    /// The VM's address as far as it was heard: the one with which its card spoke last, else the one with which
    /// any card did.
    pub(super) fn guest(&self) -> Option<Ipv4Addr> {
        self.guest.or(self.anybody).map(numbered)
    }

    /// Where the VM is looked for: first at its usual address, then everywhere.
    pub(super) fn candidates(everywhere: bool) -> impl Iterator<Item = Ipv4Addr> {
        let rest = (1..=254).map(numbered).filter(|addr| is_guest(*addr) && *addr != GUEST);
        std::iter::once(GUEST).chain(rest.take(if everywhere { 254 } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const VM: Mac = [0, 0x22, 0x15, 1, 2, 3];
    const OTHER: Mac = [0, 0x22, 0x15, 9, 9, 9];

    #[test]
    fn hosts_address_belongs_to_who_uses_it() {
        let (mut hosts, start) = (Hosts::new(VM), clock::now());
        assert!(hosts.heard(GUEST, VM, start));
        assert!(!hosts.heard(GUEST, OTHER, start + Duration::from_secs(29)));
        assert_eq!(hosts.mac(GUEST), Some(VM));
        assert!(hosts.is_used(GUEST, OTHER, start) && !hosts.is_used(GUEST, VM, start));
        assert!(hosts.heard(GUEST, OTHER, start + Duration::from_secs(30)), "the owner is silent");
        assert_eq!(hosts.mac(GUEST), Some(OTHER));
    }

    #[test]
    fn hosts_addresses_that_are_nobodys_are_refused() {
        let (mut hosts, now) = (Hosts::new(VM), clock::now());
        for addr in [GATEWAY, HOST, SUBNET, numbered(255), [10, 0, 0, 1].into(), [0, 0, 0, 0].into()] {
            assert!(!hosts.heard(addr, VM, now), "{addr}");
        }
        for mac in [GATEWAY_MAC, [0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            assert!(!hosts.heard(GUEST, mac, now), "{mac:?}");
        }
    }

    #[test]
    fn hosts_guest_is_where_its_card_spoke_last() {
        let (mut hosts, now) = (Hosts::new(VM), clock::now());
        assert_eq!(hosts.guest(), None);
        hosts.heard(numbered(9), OTHER, now);
        assert_eq!(hosts.guest(), Some(numbered(9)));
        hosts.heard(numbered(77), VM, now);
        hosts.heard(numbered(9), OTHER, now);
        assert_eq!(hosts.guest(), Some(numbered(77)));
    }

    #[test]
    fn hosts_candidates_are_all_addresses_once() {
        assert_eq!(Hosts::candidates(false).collect::<Vec<_>>(), [GUEST]);
        let all: Vec<_> = Hosts::candidates(true).collect();
        assert_eq!(all.len(), 252);
        assert!(all.iter().all(|addr| is_guest(*addr)));
    }
}
