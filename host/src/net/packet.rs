//! Headers: Ethernet, ARP, IPv4, UDP, ICMP. Reading checks everything and never fails but with `None`;
//! writing fills buffers of the right size.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::packet6;
use super::{GATEWAY_MAC, MTU};

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(super) const IPV4: usize = 20;
/// Bytes of an UDP header.
pub(super) const UDP: usize = 8;

/// Ethernet's types.
pub(super) mod ethertype {
    pub(in crate::net) const IPV4: u16 = 0x0800;
    pub(in crate::net) const ARP: u16 = 0x0806;
    pub(in crate::net) const IPV6: u16 = 0x86dd;
}

/// IP's protocols.
pub(super) mod protocol {
    pub(in crate::net) const ICMP: u8 = 1;
    pub(in crate::net) const TCP: u8 = 6;
    pub(in crate::net) const UDP: u8 = 17;
    pub(in crate::net) const ICMPV6: u8 = 58;
}

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Everybody on the wire.
pub(super) const EVERYBODY: Mac = [0xff; 6];

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn addr(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| (*octets).into())
}

pub(super) fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(space) = buffer.get_mut(at..at + bytes.len()) {
        space.copy_from_slice(bytes);
    }
}

/// A frame's head and what it carries.
pub(super) struct Ethernet<'a> {
    pub(super) dst: Mac,
    pub(super) src: Mac,
    pub(super) ethertype: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        Some(Self {
            dst: *frame.first_chunk()?,
            src: *frame.get(6..)?.first_chunk()?,
            ethertype: be16(frame, 12)?,
            payload: frame.get(ETHERNET..)?,
        })
    }
}

/// Writes a frame's head, from the gateway.
pub(super) fn write_ethernet(frame: &mut [u8], dst: Mac, ethertype: u16) {
    put(frame, 0, &dst);
    put(frame, 6, &GATEWAY_MAC);
    put(frame, 12, &ethertype.to_be_bytes());
}

/// An ARP packet for IPv4 on Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) request: bool,
    pub(super) sender_mac: Mac,
    pub(super) sender: Ipv4Addr,
    pub(super) target_mac: Mac,
    pub(super) target: Ipv4Addr,
}

/// Bytes of an ARP packet.
pub(super) const ARP: usize = 28;

impl Arp {
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        if *packet.first_chunk::<6>()? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let request = match be16(packet, 6)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        Some(Self {
            request,
            sender_mac: *packet.get(8..)?.first_chunk()?,
            sender: addr(packet, 14)?,
            target_mac: *packet.get(18..)?.first_chunk()?,
            target: addr(packet, 24)?,
        })
    }

    pub(super) fn write(&self, packet: &mut [u8]) {
        put(packet, 0, &[0, 1, 8, 0, 6, 4, 0, if self.request { 1 } else { 2 }]);
        put(packet, 8, &self.sender_mac);
        put(packet, 14, &self.sender.octets());
        put(packet, 18, &self.target_mac);
        put(packet, 24, &self.target.octets());
    }
}

/// The sum of the internet checksum (RFC 1071), not folded.
fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(4);
    let mut sum = 0_u64;
    for chunk in &mut chunks {
        sum += u64::from(u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let mut last = [0; 4];
    put(&mut last, 0, chunks.remainder());
    sum + u64::from(u32::from_be_bytes(last))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Internet checksum of some bytes: zero if their checksum is among them and right.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    fold(sum(bytes))
}

fn addr_sum(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(addr) => sum(&addr.octets()),
        IpAddr::V6(addr) => sum(&addr.octets()),
    }
}

/// Checksum of TCP, UDP and ICMPv6, with the pseudo header of either version.
pub(super) fn transport_checksum(
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    protocol: u8,
    bytes: &[u8],
) -> u16 {
    let pseudo = addr_sum(src.into()) + addr_sum(dst.into()) + u64::from(protocol) + bytes.len() as u64;
    fold(pseudo + sum(bytes))
}

/// A whole packet of either version, as conversations see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    /// TTL, or hop limit.
    pub(super) ttl: u8,
    pub(super) payload: &'a [u8],
    /// All of it, without what padded the frame.
    pub(super) packet: &'a [u8],
}

impl<'a> Ip<'a> {
    /// Reads a packet of the version that it says it has.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            6 => packet6::parse(bytes),
            _ => Ipv4::parse(bytes).map(|ip| Self::from(&ip)),
        }
    }
}

impl<'a> From<&Ipv4<'a>> for Ip<'a> {
    fn from(ip: &Ipv4<'a>) -> Self {
        let Ipv4 { src, dst, protocol, ttl, payload, packet, .. } = *ip;
        Self { src: src.into(), dst: dst.into(), protocol, ttl, payload, packet }
    }
}

impl<'a> From<&Ip<'a>> for Ip<'a> {
    fn from(ip: &Ip<'a>) -> Self {
        *ip
    }
}

/// An IPv4 packet (RFC 791).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ipv4<'a> {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) id: u16,
    /// Place of a fragment's payload.
    pub(super) offset: usize,
    /// More fragments follow.
    pub(super) more: bool,
    pub(super) payload: &'a [u8],
    /// All of it, without what padded the frame.
    pub(super) packet: &'a [u8],
}

impl<'a> Ipv4<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let header = usize::from(first & 0xf) * 4;
        let len = usize::from(be16(bytes, 2)?);
        if first >> 4 != 4 || header < IPV4 || len < header {
            return None;
        }
        let packet = bytes.get(..len)?;
        if checksum(packet.get(..header)?) != 0 {
            return None;
        }
        let fragment = be16(packet, 6)?;
        Some(Self {
            src: addr(packet, 12)?,
            dst: addr(packet, 16)?,
            protocol: *packet.get(9)?,
            ttl: *packet.get(8)?,
            id: be16(packet, 4)?,
            offset: usize::from(fragment & 0x1fff) * 8,
            more: fragment & 0x2000 != 0,
            payload: packet.get(header..)?,
            packet,
        })
    }

    pub(super) fn is_fragment(&self) -> bool {
        self.more || self.offset > 0
    }
}

/// What goes into an IPv4 header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ipv4Head {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) id: u16,
    /// Place of a fragment's payload, a multiple of eight.
    pub(super) offset: usize,
    pub(super) more: bool,
}

impl Ipv4Head {
    /// Writes the header of a packet with that payload; what is not written has to be zero.
    pub(super) fn write(&self, packet: &mut [u8], payload: usize) {
        let len = u16::try_from(IPV4 + payload).unwrap_or(u16::MAX);
        let fragment = (self.offset / 8) as u16 | if self.more { 0x2000 } else { 0 };
        put(packet, 0, &[0x45, 0]);
        put(packet, 2, &len.to_be_bytes());
        put(packet, 4, &self.id.to_be_bytes());
        put(packet, 6, &fragment.to_be_bytes());
        put(packet, 8, &[64, self.protocol, 0, 0]);
        put(packet, 12, &self.src.octets());
        put(packet, 16, &self.dst.octets());
        let sum = checksum(packet.get(..IPV4).unwrap_or_default());
        put(packet, 10, &sum.to_be_bytes());
    }
}

/// A UDP datagram (RFC 768).
pub(super) struct Udp<'a> {
    pub(super) src: u16,
    pub(super) dst: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Udp<'a> {
    pub(super) fn parse(ip: impl Into<Ip<'a>>) -> Option<Self> {
        let ip = ip.into();
        let len = usize::from(be16(ip.payload, 4)?);
        let datagram = ip.payload.get(..len)?;
        // IPv6 knows no datagram without one (RFC 8200, 8.1).
        let summed = be16(datagram, 6)? != 0 || ip.src.is_ipv6();
        if summed && transport_checksum(ip.src, ip.dst, protocol::UDP, datagram) != 0 {
            return None;
        }
        Some(Self { src: be16(datagram, 0)?, dst: be16(datagram, 2)?, payload: datagram.get(UDP..)? })
    }
}

/// Writes a datagram: header, payload and checksum.
pub(super) fn write_udp(
    datagram: &mut [u8],
    src: impl Into<SocketAddr>,
    dst: impl Into<SocketAddr>,
    payload: &[u8],
) {
    let (src, dst) = (src.into(), dst.into());
    let len = u16::try_from(UDP + payload.len()).unwrap_or(u16::MAX);
    put(datagram, 0, &src.port().to_be_bytes());
    put(datagram, 2, &dst.port().to_be_bytes());
    put(datagram, 4, &len.to_be_bytes());
    put(datagram, UDP, payload);
    let sum = match transport_checksum(src.ip(), dst.ip(), protocol::UDP, datagram) {
        0 => 0xffff_u16, // zero would mean that there is none
        sum => sum,
    };
    put(datagram, 6, &sum.to_be_bytes());
}

/// What a packet could not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IcmpError {
    NetUnreachable,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    /// Administratively prohibited (RFC 1812).
    Prohibited,
    TimeExceeded,
}

impl IcmpError {
    /// Type and code of ICMP.
    fn code(self) -> [u8; 2] {
        match self {
            Self::NetUnreachable => [3, 0],
            Self::HostUnreachable => [3, 1],
            Self::ProtocolUnreachable => [3, 2],
            Self::PortUnreachable => [3, 3],
            Self::Prohibited => [3, 13],
            Self::TimeExceeded => [11, 0],
        }
    }
}

/// As much of a packet as an ICMP error quotes: header and eight bytes at least (RFC 792), and not more than
/// keeps the error small.
pub(super) fn quote(packet: &[u8]) -> &[u8] {
    packet.get(..packet.len().min(128)).unwrap_or_default()
}

/// Writes an ICMP error about a quoted packet.
pub(super) fn write_icmp_error(message: &mut [u8], error: IcmpError, quoted: &[u8]) {
    put(message, 0, &error.code());
    put(message, 8, quoted);
    let sum = checksum(message);
    put(message, 2, &sum.to_be_bytes());
}

/// Bytes of an ICMP echo's head.
pub(super) const ECHO: usize = 8;

/// An ICMP echo.
pub(super) struct Echo<'a> {
    pub(super) id: u16,
    pub(super) sequence: u16,
    pub(super) data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// A request with a right checksum.
    pub(super) fn parse_request(ip: &Ip<'a>) -> Option<Self> {
        match ip.protocol {
            protocol::ICMP if checksum(ip.payload) == 0 => Self::parse(ip.payload, 8),
            protocol::ICMPV6 if packet6::is_intact(ip) => Self::parse(ip.payload, packet6::ECHO_REQUEST),
            _ => None,
        }
    }

    /// A reply that comes from the host's kernel.
    pub(super) fn parse_reply(message: &'a [u8], v6: bool) -> Option<Self> {
        Self::parse(message, if v6 { packet6::ECHO_REPLY } else { 0 })
    }

    fn parse(message: &'a [u8], kind: u8) -> Option<Self> {
        if *message.first_chunk()? != [kind, 0] {
            return None;
        }
        Some(Self { id: be16(message, 4)?, sequence: be16(message, 6)?, data: message.get(ECHO..)? })
    }

    /// Writes a request or a reply with these contents.
    pub(super) fn write(&self, message: &mut [u8], reply: bool) {
        put(message, 0, &[if reply { 0 } else { 8 }, 0, 0, 0]);
        put(message, 4, &self.id.to_be_bytes());
        put(message, 6, &self.sequence.to_be_bytes());
        put(message, ECHO, self.data);
        let sum = checksum(message);
        put(message, 2, &sum.to_be_bytes());
    }

    /// The same of ICMPv6.
    pub(super) fn write6(&self, message: &mut [u8], reply: bool, src: IpAddr, dst: IpAddr) {
        put(message, 0, &[if reply { packet6::ECHO_REPLY } else { packet6::ECHO_REQUEST }, 0, 0, 0]);
        put(message, 4, &self.id.to_be_bytes());
        put(message, 6, &self.sequence.to_be_bytes());
        put(message, ECHO, self.data);
        packet6::seal(message, src, dst);
    }
}

/// What has to be known of a TCP segment before it is given to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) src: u16,
    pub(super) dst: u16,
    pub(super) sequence: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    /// What it takes of the sequence.
    pub(super) len: u32,
}

/// TCP's flags.
pub(super) mod tcp_flag {
    pub(in crate::net) const FIN: u8 = 1;
    pub(in crate::net) const SYN: u8 = 2;
    pub(in crate::net) const RST: u8 = 4;
    pub(in crate::net) const ACK: u8 = 16;
}

/// Bytes of a TCP header without options.
pub(super) const TCP: usize = 20;

impl Segment {
    pub(super) fn parse<'a>(ip: impl Into<Ip<'a>>) -> Option<Self> {
        let segment = ip.into().payload;
        let word = |at| Some(u32::from(be16(segment, at)?) << 16 | u32::from(be16(segment, at + 2)?));
        let header = usize::from(*segment.get(12)? >> 4) * 4;
        if header < TCP || segment.len() < header {
            return None;
        }
        let flags = *segment.get(13)?;
        let control = u32::from(flags & tcp_flag::SYN != 0) + u32::from(flags & tcp_flag::FIN != 0);
        Some(Self {
            src: be16(segment, 0)?,
            dst: be16(segment, 2)?,
            sequence: word(4)?,
            ack: word(8)?,
            flags,
            len: (segment.len() - header) as u32 + control,
        })
    }

    /// A right checksum. Connections check it themselves.
    pub(super) fn is_intact(ip: &Ip<'_>) -> bool {
        transport_checksum(ip.src, ip.dst, protocol::TCP, ip.payload) == 0
    }

    /// Writes the reset that answers this segment (RFC 9293, 3.10.7.1); `from` is whom the segment was for.
    pub(super) fn write_reset(&self, reset: &mut [u8], from: IpAddr, to: IpAddr) {
        let (sequence, ack, flags) = if self.flags & tcp_flag::ACK != 0 {
            (self.ack, 0, tcp_flag::RST)
        } else {
            (0, self.sequence.wrapping_add(self.len), tcp_flag::RST | tcp_flag::ACK)
        };
        put(reset, 0, &self.dst.to_be_bytes());
        put(reset, 2, &self.src.to_be_bytes());
        put(reset, 4, &sequence.to_be_bytes());
        put(reset, 8, &ack.to_be_bytes());
        put(reset, 12, &[5 << 4, flags]);
        let sum = transport_checksum(from, to, protocol::TCP, reset);
        put(reset, 16, &sum.to_be_bytes());
    }
}

/// Largest payload of a fragment that fits into a frame.
pub(super) const FRAGMENT: usize = (MTU - IPV4) / 8 * 8;

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use proptest::prelude::*;

    use super::*;

    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 127, 2), 1234);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(8, 8, 4, 4), 53);

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV4 + UDP + payload.len()];
        let head =
            Ipv4Head { src: *A.ip(), dst: *B.ip(), protocol: protocol::UDP, id: 7, offset: 0, more: false };
        head.write(&mut packet, UDP + payload.len());
        write_udp(&mut packet[IPV4..], A, B, payload);
        packet
    }

    #[test]
    fn packet_datagram_is_read_as_written() {
        let mut packet = datagram(b"odd");
        packet.extend([0; 20]); // a short frame's padding
        let ip = Ipv4::parse(&packet).unwrap();
        assert_eq!((ip.src, ip.dst, ip.protocol, ip.ttl, ip.id), (*A.ip(), *B.ip(), 17, 64, 7));
        assert!(!ip.is_fragment());
        let udp = Udp::parse(&ip).unwrap();
        assert_eq!((udp.src, udp.dst, udp.payload), (1234, 53, b"odd".as_slice()));
    }

    #[test]
    fn packet_single_bit_errors_are_found() {
        let packet = datagram(b"some bytes of payload");
        for bit in 0..packet.len() * 8 {
            let mut packet = packet.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            let intact = Ipv4::parse(&packet).and_then(|ip| Udp::parse(&ip).map(|udp| udp.payload.len()));
            assert_eq!(intact, None, "bit {bit}");
        }
    }

    #[test]
    fn packet_without_udp_checksum_is_accepted() {
        let mut packet = datagram(b"x");
        packet[IPV4 + 6..IPV4 + 8].fill(0);
        assert!(Udp::parse(&Ipv4::parse(&packet).unwrap()).is_some());
    }

    #[test]
    fn packet_arp_is_read_as_written() {
        let arp = Arp {
            request: true,
            sender_mac: [1; 6],
            sender: *A.ip(),
            target_mac: [0; 6],
            target: [192, 168, 127, 1].into(),
        };
        let mut packet = [0; ARP];
        arp.write(&mut packet);
        assert_eq!(Arp::parse(&packet), Some(arp));
        packet[1] = 2;
        assert_eq!(Arp::parse(&packet), None);
    }

    #[test]
    fn packet_reset_answers_syn_and_ack() {
        let syn = Segment { src: 1, dst: 2, sequence: u32::MAX, ack: 0, flags: tcp_flag::SYN, len: 1 };
        let mut reset = [0; TCP];
        syn.write_reset(&mut reset, (*B.ip()).into(), (*A.ip()).into());
        assert_eq!(reset[..16], [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x14, 0, 0]);
        let ack = Segment { src: 1, dst: 2, sequence: 5, ack: 9, flags: tcp_flag::ACK, len: 3 };
        let mut reset = [0; TCP];
        ack.write_reset(&mut reset, (*B.ip()).into(), (*A.ip()).into());
        assert_eq!(reset[..16], [0, 2, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 4, 0, 0]);
        assert_eq!(transport_checksum(*B.ip(), *A.ip(), protocol::TCP, &reset), 0);
    }

    proptest! {
        #[test]
        fn packet_reading_never_fails_badly(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Ethernet::parse(&bytes);
            let _ = Arp::parse(&bytes);
            let (src, dst) = ((*A.ip()).into(), (*B.ip()).into());
            for protocol in [protocol::ICMP, protocol::ICMPV6] {
                let ip = Ip { src, dst, protocol, ttl: 1, payload: &bytes, packet: &bytes };
                let _ = Echo::parse_request(&ip);
            }
            let ip = Ip { src, dst, protocol: 0, ttl: 1, payload: &bytes, packet: &bytes };
            let _ = Ip::parse(&bytes);
            let _ = Udp::parse(ip);
            let _ = Segment::parse(ip);
            let _ = Ipv4::parse(&bytes);
        }

        #[test]
        fn packet_checksum_is_the_sum_of_words(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut words = bytes.clone();
            words.resize(bytes.len().next_multiple_of(2), 0);
            let sum = words.chunks(2).fold(0_u32, |sum, w| {
                let sum = sum + u32::from(u16::from_be_bytes([w[0], w[1]]));
                (sum & 0xffff) + (sum >> 16)
            });
            prop_assert_eq!(checksum(&bytes), !(sum as u16));
        }
    }
}
