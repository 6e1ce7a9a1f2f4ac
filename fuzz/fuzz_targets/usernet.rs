//! The user-mode network: a guest's frames, and time.

#![no_main]

use std::net::Ipv6Addr;
use std::time::Duration;

use emu_devices::net::NetSink;
use env86_fuzz::input::{Input, Seed};
use host::net::{DryNet, GATEWAY, GATEWAY_MAC, GATEWAY6, GATEWAY6_LINK, GUEST, HOST6, SUBNET6};

const VM: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Steps of one input.
const MAX_STEPS: usize = 300;

/// What a frame is made of.
mod form {
    /// Ethernet's head is the input's too.
    pub const RAW: u8 = 1;
    /// ARP instead of IPv4.
    pub const ARP: u8 = 2;
    /// The IPv4 header is made here.
    pub const IP: u8 = 4;
    /// Checksums are made right.
    pub const MEND: u8 = 8;
    /// A TCP segment continues the connection that was heard of last.
    pub const CONTINUE: u8 = 16;
    /// The network gets its turn.
    pub const TURN: u8 = 32;
    /// Time passes.
    pub const TIME: u8 = 64;
    /// The header of an IPv6 packet is made here.
    pub const IP6: u8 = 128;
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let sum = bytes.chunks(2).fold(start, |sum, word| {
        let word = u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Header, protocol and payload of an IPv4 packet that is as long as it says.
fn split(packet: &mut [u8]) -> Option<(&mut [u8], u8, &mut [u8])> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let len = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if header < 20 || len < header || packet.len() < len {
        return None;
    }
    let protocol = packet[9];
    let (header, payload) = packet[..len].split_at_mut(header);
    Some((header, protocol, payload))
}

/// The checksum of a payload, with the place it belongs to.
fn payload_checksum(header: &[u8], protocol: u8, payload: &[u8]) -> Option<(usize, u16)> {
    let pseudo = header[12..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let pseudo = pseudo.sum::<u32>() + u32::from(protocol) + payload.len() as u32;
    let (at, start) = match protocol {
        1 => (2, 0),
        6 => (16, pseudo),
        17 => (6, pseudo),
        _ => return None,
    };
    (payload.len() >= at + 2).then(|| (at, checksum(payload, (start & 0xffff) + (start >> 16))))
}

fn mend(packet: &mut [u8]) -> Option<()> {
    let (header, protocol, payload) = split(packet)?;
    header[10..12].fill(0);
    let sum = checksum(header, 0);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let at = payload_checksum(header, protocol, payload)?.0;
    payload[at..at + 2].fill(0);
    let (_, sum) = payload_checksum(header, protocol, payload)?;
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// The checksum of an IPv6 packet's payload, with the place it belongs to.
fn payload_checksum6(packet: &[u8]) -> Option<(usize, u16)> {
    let payload = packet.get(40..)?;
    let at = match packet[6] {
        6 => 16,
        17 => 6,
        58 => 2,
        _ => return None,
    };
    let words = packet[8..40].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let pseudo = words.sum::<u32>() + u32::from(packet[6]) + payload.len() as u32;
    (payload.len() >= at + 2).then(|| (at, checksum(payload, (pseudo & 0xffff) + (pseudo >> 16))))
}

fn mend6(packet: &mut [u8]) -> Option<()> {
    let at = 40 + payload_checksum6(packet)?.0;
    packet[at..at + 2].fill(0);
    let (_, sum) = payload_checksum6(packet)?;
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// A packet of IPv6 from one of the guest's addresses.
fn packet6(protocol: u8, to: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    let own = if to & 1 == 0 { SUBNET6 } else { Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0) };
    let from = Ipv6Addr::from(u128::from(own) | 0x2_00ff_fe00_0001);
    let to = match to >> 1 {
        0 => GATEWAY6,
        1 => GATEWAY6_LINK,
        2 => HOST6,
        3 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
        4 => Ipv6Addr::from(u128::from(SUBNET6) | u128::from(to)),
        n => Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0, 0, n.into()),
    };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([protocol, hops]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(body);
    packet
}

/// Ports and numbers with which the guest goes on.
#[derive(Default)]
struct Heard {
    from: [u8; 4],
    ports: [u8; 4],
    sequence: u32,
    ack: u32,
}

impl Heard {
    /// Checks a frame from the network.
    fn listen(&mut self, frame: &[u8]) {
        assert!((14..=1514).contains(&frame.len()), "a frame of {} bytes", frame.len());
        assert_eq!(frame[6..12], GATEWAY_MAC);
        if frame[12..14] == [0x86, 0xdd] {
            let packet = &frame[14..];
            assert_eq!(packet.len(), 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])));
            let (_, sum) = payload_checksum6(packet).expect("a known protocol");
            assert_eq!(sum, 0, "the checksum of protocol {}", packet[6]);
        }
        if frame[12..14] != [8, 0] {
            return;
        }
        let mut packet = frame[14..].to_vec();
        let (header, protocol, payload) = split(&mut packet).expect("a packet");
        assert_eq!(checksum(header, 0), 0, "a header's checksum");
        if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
            return; // a fragment
        }
        let (_, sum) = payload_checksum(header, protocol, payload).expect("a known protocol");
        assert_eq!(sum, 0, "the checksum of protocol {protocol}");
        if protocol == 6 {
            let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            let control = u32::from(payload[13] & 1 != 0) + u32::from(payload[13] & 2 != 0);
            let data = payload.len() as u32 - u32::from(payload[12] >> 4) * 4;
            self.from.copy_from_slice(&header[12..16]);
            self.ports = [payload[2], payload[3], payload[0], payload[1]];
            self.sequence = word(8);
            self.ack = word(4).wrapping_add(control + data);
        }
    }

    /// Makes a segment fit.
    fn go_on(&self, packet: &mut [u8]) -> Option<()> {
        packet.get_mut(16..20)?.copy_from_slice(&self.from);
        let (_, protocol, payload) = split(packet)?;
        if protocol == 6 && payload.len() >= 20 {
            payload[..4].copy_from_slice(&self.ports);
            payload[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            payload[8..12].copy_from_slice(&self.ack.to_be_bytes());
        }
        Some(())
    }
}

/// The frame of a step.
fn frame(form: u8, input: &mut Input<'_>, heard: &Heard) -> Vec<u8> {
    let len = usize::from(input.u16() & 0x7ff);
    let mut frame = Vec::new();
    if form & form::RAW == 0 {
        frame.extend(GATEWAY_MAC);
        frame.extend(VM);
        frame.extend(match form & (form::ARP | form::IP6) {
            0 => [8, 0],
            form::ARP => [8, 6],
            _ => [0x86, 0xdd],
        });
    }
    if form & form::IP6 != 0 {
        let (protocol, to) = (input.u8(), input.u8());
        // Neighbours are as near as can be.
        let hops = if protocol == 58 && to & 128 == 0 { 255 } else { 64 };
        let mut packet = packet6(protocol, to, hops, input.bytes(len));
        if form & form::MEND != 0 {
            mend6(&mut packet);
        }
        frame.extend(packet);
        return frame;
    }
    if form & form::IP != 0 {
        let (protocol, to) = (input.u8(), input.u8());
        let to = match to {
            0 => GATEWAY.octets(),
            1..128 => [192, 168, 127, to],
            _ => [203, 0, 113, to],
        };
        let body = input.bytes(len);
        frame.extend([0x45, 0]);
        frame.extend((20 + body.len() as u16).to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        frame.extend(GUEST.octets());
        frame.extend(to);
        frame.extend(body);
    } else {
        frame.extend(input.bytes(len));
    }
    if let Some(packet) = frame.get_mut(14..) {
        if form & form::CONTINUE != 0 {
            heard.go_on(packet);
        }
        if form & form::MEND != 0 {
            mend(packet);
        }
    }
    frame
}

fn seeds() -> Vec<Vec<u8>> {
    let ip = form::IP | form::MEND | form::TURN;
    let ip6 = form::IP6 | form::MEND | form::TURN;
    let step = |form: u8, protocol: u8, to: u8, body: &[u8]| {
        Seed::new().u8(form).u16(body.len() as u16).u8(protocol).u8(to).bytes(body).0
    };
    let segment = |flags: u8, data: &[u8]| {
        let head = [4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        [&head, data].concat()
    };
    let datagram = |from: u16, to: u16, data: &[u8]| {
        let words = [from, to, 8 + data.len() as u16, 0].map(u16::to_be_bytes);
        [words.as_flattened(), data].concat()
    };
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04host\x05env86\x08internal\0\0\x01\0\x01";
    let forwarded = b"\0\x08\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\x03org\0\0\x01\0\x01";
    let mut dhcp = vec![0; 240];
    dhcp[..3].copy_from_slice(&[1, 1, 6]);
    dhcp[28..34].copy_from_slice(&VM);
    dhcp[236..].copy_from_slice(&[99, 130, 83, 99]);
    dhcp.extend([53, 1, 1, 255]);
    let go_on = ip | form::CONTINUE;
    let connection = [
        step(ip, 6, 200, &segment(2, b"")),
        step(go_on, 6, 200, &segment(16, b"")),
        step(go_on, 6, 200, &segment(24, b"hello")),
        step(go_on, 6, 200, &segment(17, b"")),
        step(go_on, 6, 200, &segment(16, b"")),
    ];
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(VM);
    arp.extend(GUEST.octets());
    arp.extend([0; 6]);
    arp.extend(GATEWAY.octets());
    vec![
        Seed::new().u8(form::ARP | form::TURN).u16(arp.len() as u16).bytes(&arp).0,
        connection.concat(),
        [connection[0].clone(), step(ip | form::TIME, 6, 200, &segment(4, b""))].concat(),
        step(ip, 17, 0, &datagram(5000, 53, question)),
        step(ip, 17, 0, &datagram(5000, 53, forwarded)),
        step(ip, 17, 0, &datagram(68, 67, &dhcp)),
        step(ip, 17, 200, &datagram(5000, 7, b"datagram")),
        step(ip, 1, 0, &[8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3]),
        step(ip, 1, 200, &[8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3]),
        step(ip, 47, 200, &[0; 8]),
        step(ip6, 58, 7, &[133, 0, 0, 0, 0, 0, 0, 0]),
        step(ip6, 58, 0, &[&[135, 0, 0, 0, 0, 0, 0, 0], &GATEWAY6.octets()[..]].concat()),
        step(ip6, 58, 0, &[128, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3]),
        step(ip6, 58, 40, &[128, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3]),
        step(ip6, 17, 0, &datagram(5000, 53, question)),
        step(ip6, 17, 40, &datagram(5000, 7, b"datagram")),
        step(ip6, 6, 40, &segment(2, b"")),
        step(ip6, 44, 40, &[0; 8]),
    ]
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let input = &mut Input::new(data);
    let (mut net, mut card) = DryNet::new(VM).expect("descriptors");
    let mut heard = Heard::default();
    let mut now = Duration::ZERO;
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let form = input.u8();
        card.send(&frame(form, input, &heard));
        if form & form::TIME != 0 {
            now += Duration::from_millis(1 << (input.u8() & 15));
        }
        if form & (form::TURN | form::TIME) != 0 {
            net.turn(now);
            assert!(net.is_bounded());
            card.receive(&mut |frame| {
                heard.listen(frame);
                true
            });
        }
    }
    net.turn(now);
    assert!(net.is_bounded());
});
