//! Frames that nobody should send.

use proptest::prelude::*;

use super::*;
use crate::limits::NET_UDP_FLOWS;
use crate::net::packet::{Ipv4, checksum, transport_checksum};

/// Frames of all kinds, to be damaged.
fn frames() -> Vec<Vec<u8>> {
    let outside = "203.0.113.5:80".parse().unwrap();
    let mut arp = vec![0xff; 6];
    arp.extend(VM);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(VM);
    arp.extend(GUEST.octets());
    arp.extend([0; 6]);
    arp.extend(GATEWAY.octets());
    let mut echo = vec![0; 16];
    crate::net::packet::Echo { id: 1, sequence: 1, data: &[0; 8] }.write(&mut echo, false);
    let mut dhcp = vec![0; 260];
    dhcp[..3].copy_from_slice(&[1, 1, 6]);
    dhcp[28..34].copy_from_slice(&VM);
    dhcp[236..244].copy_from_slice(&[99, 130, 83, 99, 53, 1, 3, 255]);
    let dns = crate::net::dns::tests::query(1, "host.env86.internal", 1);
    vec![
        arp,
        ip_frame(GUEST, GATEWAY, 1, &echo),
        ip_frame(GUEST, [203, 0, 113, 5].into(), 1, &echo),
        udp_frame(68, SocketAddrV4::new(GATEWAY, 67), &dhcp),
        udp_frame(5000, SocketAddrV4::new(GATEWAY, 53), &dns),
        udp_frame(5000, outside, b"datagram"),
        tcp_frame(1000, outside, 1, 2),
        tcp_frame(1000, outside, 2, 16),
        tcp_frame(1000, outside, 2, 17),
        tcp_frame(1001, SocketAddrV4::new(GATEWAY, 53), 1, 2),
        tcp_frame(1001, SocketAddrV4::new(GATEWAY, 53), 2, 24),
        ip_frame(GUEST, [203, 0, 113, 5].into(), 47, &[0; 30]),
    ]
}

/// Makes checksums right again, so that damage gets further.
pub(super) fn mend(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(ETHERNET..) else { return };
    let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    if header < IPV4 || packet.len() < header {
        return;
    }
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let Some(ip) = Ipv4::parse(packet) else { return };
    let (src, dst, protocol, len) = (ip.src, ip.dst, ip.protocol, ip.payload.len());
    let payload = &mut packet[header..header + len];
    let at = match protocol {
        1 => 2,
        6 => 16,
        17 => 6,
        _ => return,
    };
    if payload.len() < at + 2 {
        return;
    }
    payload[at..at + 2].fill(0);
    let sum = if protocol == 1 { checksum(payload) } else { transport_checksum(src, dst, protocol, payload) };
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_damaged_frames_are_survived(
        script in proptest::collection::vec(
            (0..12_usize, proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4), any::<bool>(), 0..200_usize),
            1..60,
        ),
    ) {
        let mut rig = Rig::new(NetConfig { dns_servers: Some(Vec::new()), ..NetConfig::default() });
        let (addr, server) = server(0, echo);
        rig.outside.place("203.0.113.5:80", addr);
        server.join().unwrap();
        let samples = frames();
        for (which, damage, intact, cut) in script {
            let mut frame = samples[which].clone();
            for (at, byte) in damage {
                let len = frame.len();
                frame[usize::from(at) % len] = byte;
            }
            if cut < 100 {
                frame.truncate(frame.len().saturating_sub(cut));
            }
            if intact {
                mend(&mut frame);
            }
            rig.send(&frame);
            if cut % 4 == 0 {
                rig.turn_quickly();
                rig.frames();
            }
        }
        rig.turn_quickly();
        // It is still there.
        rig.frames();
        rig.send(&samples[4]);
        prop_assert!(!rig.answers().is_empty() || rig.stats().spoofed > 0);
    }

    #[test]
    fn hostile_random_frames_are_survived(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 34..120), 1..40),
    ) {
        let mut rig = Rig::new(NetConfig::default());
        for mut frame in frames {
            frame[..6].copy_from_slice(&GATEWAY_MAC);
            frame[6] &= 0xfe;
            rig.send(&frame);
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14] = 0x45;
            mend(&mut frame);
            rig.send(&frame);
        }
        rig.turn_quickly();
        prop_assert_eq!(rig.outside.asked().len(), 0);
    }
}

#[test]
fn hostile_segments_to_an_open_connection_are_survived() {
    let mut rig = Rig::new(NetConfig::default());
    let (addr, server) = server(1, |mut stream| {
        let _ = stream.read(&mut [0; 10]);
    });
    let to = rig.outside.place("203.0.113.5:80", addr);
    rig.send(&tcp_frame(1000, to, 1, 2));
    rig.until(|rig| !rig.frames().is_empty());
    let mut random = 1_u64;
    for n in 0..20_000_u32 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut frame = tcp_frame(1000, to, (random >> 32) as u32 >> (n % 32), (random >> 16) as u8 & !4);
        frame[ETHERNET + IPV4 + 8..ETHERNET + IPV4 + 12].copy_from_slice(&(random as u32).to_be_bytes());
        frame[ETHERNET + IPV4 + 14..ETHERNET + IPV4 + 16].copy_from_slice(&(n as u16).to_be_bytes());
        mend(&mut frame);
        rig.send(&frame);
        if n % 64 == 0 {
            rig.turn_quickly();
            rig.frames();
        }
    }
    rig.turn_quickly();
    assert!(rig.stack.tcp.len() <= 1);
    rig.stack.close();
    server.join().unwrap();
}

#[test]
fn hostile_data_beyond_the_window_is_not_taken() {
    let mut rig = Rig::new(NetConfig::default());
    let (addr, server) = server(1, |stream| {
        // Nothing is read until the end.
        let mut events = [rustix::event::PollFd::new(&stream, rustix::event::PollFlags::RDHUP)];
        rustix::event::poll(&mut events, None).unwrap();
    });
    let to = rig.outside.place("203.0.113.5:80", addr);
    let mut syn = tcp_frame(1000, to, 0, 2);
    // With window scaling.
    syn.extend([3, 3, 7, 0]);
    syn[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&44_u16.to_be_bytes());
    syn[ETHERNET + IPV4 + 12] = 0x60;
    mend(&mut syn);
    rig.send(&syn);
    let mut answer = Vec::new();
    rig.until(|rig| {
        answer.extend(rig.frames());
        !answer.is_empty()
    });
    let sequence: [u8; 4] = answer[0][ETHERNET + IPV4 + 4..][..4].try_into().unwrap();
    let ack = (u32::from_be_bytes(sequence) + 1).to_be_bytes();
    // All at once, before anything can be acknowledged.
    for n in 0..690_u32 {
        let mut frame = tcp_frame(1000, to, 1 + n * 1400, 16);
        frame[ETHERNET + IPV4 + 8..ETHERNET + IPV4 + 12].copy_from_slice(&ack);
        frame.extend([7; 1400]);
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&1440_u16.to_be_bytes());
        mend(&mut frame);
        rig.send(&frame);
    }
    assert_eq!(rig.card.dropped(), 0);
    for _ in 0..5 {
        rig.turn_quickly();
    }
    assert_eq!(rig.stack.tcp.len(), 1);
    rig.stack.close();
    server.join().unwrap();
}

#[test]
fn hostile_million_udp_ports_leave_tables_bounded_and_the_gateway_answering() {
    const PORTS: u16 = 62_500;
    const TURN: u16 = 2500;
    const PLACES: u8 = 16;
    crate::descriptors::raise_to(8 * NET_UDP_FLOWS as u64);
    let mut rig = Rig::new(NetConfig::default());
    rig.outside.0.lock().unwrap().sink = Some(Default::default());
    for place in 0..PLACES {
        let to = SocketAddrV4::new([203, 0, 113, place].into(), 9);
        for port in 1..=PORTS {
            rig.send(&udp_frame(port, to, b""));
            if port % TURN == 0 {
                rig.turn_quickly();
                assert!(rig.stack.udp.len() <= NET_UDP_FLOWS);
            }
        }
    }
    let stats = rig.stats();
    let sent = u64::from(PORTS) * u64::from(PLACES);
    assert_eq!((rig.card.dropped(), stats.rx_frames, stats.udp_opened), (0, sent, sent));
    assert_eq!(stats.udp_flows, NET_UDP_FLOWS as u64);
    assert!(stats.limited >= sent - stats.udp_flows, "those that gave way are counted");
    rig.frames();
    let mut echo = vec![0; 16];
    crate::net::packet::Echo { id: 1, sequence: 1, data: &[0; 8] }.write(&mut echo, false);
    rig.send(&ip_frame(GUEST, GATEWAY, 1, &echo));
    assert_eq!(rig.answers().len(), 1, "the gateway's echo");
}
