//! Headers of IPv6 (RFC 8200), ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861). Packets with extension headers
//! are read as packets of that protocol, which nobody here speaks: fragments and the like are not taken.

use std::net::{IpAddr, Ipv6Addr};

use super::packet::{IcmpError, Ip, be16, protocol, put, transport_checksum};
use super::{GATEWAY_MAC, GATEWAY6, MTU, SUBNET6};

/// Bytes of a header.
pub(super) const IPV6: usize = 40;

/// Types of ICMPv6.
pub(super) const ECHO_REQUEST: u8 = 128;
pub(super) const ECHO_REPLY: u8 = 129;
pub(super) const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// All nodes of the link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Hop limit of neighbour discovery: a router would have made it less.
pub(super) const NEAR: u8 = 255;

fn addr(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| (*octets).into())
}

/// Reads a packet.
pub(super) fn parse(bytes: &[u8]) -> Option<Ip<'_>> {
    if bytes.first()? >> 4 != 6 {
        return None;
    }
    let packet = bytes.get(..IPV6 + usize::from(be16(bytes, 4)?))?;
    Some(Ip {
        src: addr(packet, 8)?.into(),
        dst: addr(packet, 24)?.into(),
        protocol: *packet.get(6)?,
        ttl: *packet.get(7)?,
        payload: packet.get(IPV6..)?,
        packet,
    })
}

/// Writes the header of a packet with that payload over zeros.
pub(super) fn write_head(
    packet: &mut [u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    protocol: u8,
    hops: u8,
    payload: usize,
) {
    put(packet, 0, &[0x60]);
    put(packet, 4, &u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes());
    put(packet, 6, &[protocol, hops]);
    put(packet, 8, &src.octets());
    put(packet, 24, &dst.octets());
}

/// A right checksum of ICMPv6.
pub(super) fn is_intact(ip: &Ip<'_>) -> bool {
    transport_checksum(ip.src, ip.dst, protocol::ICMPV6, ip.payload) == 0
}

/// Writes the checksum of a message of ICMPv6, where there are zeros.
pub(super) fn seal(message: &mut [u8], src: IpAddr, dst: IpAddr) {
    let sum = transport_checksum(src, dst, protocol::ICMPV6, message);
    put(message, 2, &sum.to_be_bytes());
}

/// Type and code of an error.
fn code(error: IcmpError) -> [u8; 2] {
    match error {
        IcmpError::NetUnreachable => [1, 0],
        IcmpError::Prohibited => [1, 1],
        IcmpError::HostUnreachable => [1, 3],
        IcmpError::PortUnreachable => [1, 4],
        IcmpError::TimeExceeded => [3, 0],
        IcmpError::ProtocolUnreachable => [4, 1],
    }
}

/// Writes an error about a quoted packet.
pub(super) fn write_error(message: &mut [u8], error: IcmpError, quoted: &[u8], src: IpAddr, dst: IpAddr) {
    put(message, 0, &code(error));
    if error == IcmpError::ProtocolUnreachable {
        put(message, 4, &6_u32.to_be_bytes()); // where the header names the protocol
    }
    put(message, 8, quoted);
    seal(message, src, dst);
}

/// Whom a neighbour solicitation looks for.
pub(super) fn solicited(message: &[u8]) -> Option<Ipv6Addr> {
    addr(message, 8).filter(|target| !target.is_multicast())
}

/// Bytes of [`write_neighbour`]'s message.
pub(super) const NEIGHBOUR: usize = 32;

/// Writes the answer to a neighbour solicitation: `target` is here.
pub(super) fn write_neighbour(
    message: &mut [u8],
    target: Ipv6Addr,
    solicited: bool,
    src: IpAddr,
    dst: IpAddr,
) {
    put(message, 0, &[NEIGHBOUR_ADVERTISEMENT]);
    // Router, solicited, override.
    put(message, 4, &[0x80 | if solicited { 0x40 } else { 0 } | 0x20]);
    put(message, 8, &target.octets());
    put(message, 24, &[2, 1]);
    put(message, 26, &GATEWAY_MAC);
    seal(message, src, dst);
}

/// Bytes of [`write_router`]'s message.
pub(super) const ROUTER: usize = 16 + 8 + 8 + 32 + 24;

/// How long the prefix and addresses made of it are good, in seconds: a VM may stand still for days.
const PREFIX_GOOD: u32 = 30 * 24 * 3600;

/// Writes a router advertisement. A router of no lifetime is none: only the prefix is told.
pub(super) fn write_router(message: &mut [u8], lifetime: u16, src: IpAddr, dst: IpAddr) {
    put(message, 0, &[ROUTER_ADVERTISEMENT]);
    put(message, 4, &[64, 0]); // hop limit; no DHCPv6
    put(message, 6, &lifetime.to_be_bytes());
    put(message, 16, &[1, 1]);
    put(message, 18, &GATEWAY_MAC);
    put(message, 24, &[5, 1]);
    put(message, 28, &(MTU as u32).to_be_bytes());
    put(message, 32, &[3, 4, 64, 0xc0]); // on the link, and to make addresses of
    put(message, 36, &PREFIX_GOOD.to_be_bytes());
    put(message, 40, &PREFIX_GOOD.to_be_bytes());
    put(message, 48, &SUBNET6.octets());
    put(message, 64, &[25, 3]); // DNS servers (RFC 8106)
    put(message, 68, &PREFIX_GOOD.to_be_bytes());
    put(message, 72, &GATEWAY6.octets());
    seal(message, src, dst);
}
