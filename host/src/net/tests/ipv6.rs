//! The gateway as an IPv6 router, and conversations over IPv6.

use std::net::Ipv6Addr;

use super::*;
use crate::limits::NET_NEIGHBOURS;
use crate::net::dns::tests::query;
use crate::net::dns::{Asked, Record, addresses, code, kind, read_question, write_answer};
use crate::net::packet::{Echo, Ip, Segment, Udp as Datagram, protocol, tcp_flag};
use crate::net::packet6::{self, ALL_NODES, IPV6, write_head};
use crate::net::{GATEWAY6, GATEWAY6_LINK, HOST6, Policy, Rule, SUBNET6};

const VM6: Ipv6Addr = Ipv6Addr::new(0xfd5a, 0x94ef, 0xe40c, 0, 0x222, 0x15ff, 0xfe01, 0x203);
const VM_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x222, 0x15ff, 0xfe01, 0x203);

/// The Ethernet address of a multicast group (RFC 2464, 7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn addr(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A frame with an IPv6 packet from the VM.
fn frame6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + IPV6];
    frame[..6].copy_from_slice(&if dst.is_multicast() { multicast_mac(dst) } else { GATEWAY_MAC });
    frame[6..12].copy_from_slice(&VM);
    frame[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    write_head(&mut frame[ETHERNET..], src, dst, protocol, hops, payload.len());
    frame.extend(payload);
    frame
}

fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, hops: u8, mut message: Vec<u8>) -> Vec<u8> {
    packet6::seal(&mut message, src.into(), dst.into());
    frame6(src, dst, protocol::ICMPV6, hops, &message)
}

fn solicitation(src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![0; 24];
    message[0] = packet6::NEIGHBOUR_SOLICITATION;
    message[8..].copy_from_slice(&target.octets());
    icmp6(src, addr("ff02::1:ff00:1"), 255, message)
}

fn router_solicitation() -> Vec<u8> {
    icmp6(VM_LINK, addr("ff02::2"), 255, vec![packet6::ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
}

fn udp6(src: Ipv6Addr, to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; UDP + payload.len()];
    write_udp(&mut datagram, SocketAddr::from((src, 4000)), SocketAddr::from((to, port)), payload);
    frame6(src, to, protocol::UDP, 64, &datagram)
}

fn syn6(src: Ipv6Addr, to: Ipv6Addr, port: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&(1000 + port).to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12..16].copy_from_slice(&[0x50, tcp_flag::SYN, 0xff, 0xff]);
    let sum = crate::net::packet::transport_checksum(src, to, protocol::TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    frame6(src, to, protocol::TCP, 64, &segment)
}

fn echo6(to: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![0; 12];
    Echo { id: 7, sequence: 3, data: b"data" }.write6(&mut message, false, VM6.into(), to.into());
    frame6(VM6, to, protocol::ICMPV6, 64, &message)
}

/// The packets for the VM, with right checksums.
fn packets(frames: &[Vec<u8>]) -> Vec<Ip<'_>> {
    let read = |frame| packet6::parse(frame).expect("an IPv6 packet");
    let packets: Vec<Ip<'_>> = frames.iter().map(|frame| read(&frame[ETHERNET..])).collect();
    for ip in &packets {
        let sum = crate::net::packet::transport_checksum(ip.src, ip.dst, ip.protocol, ip.payload);
        assert_eq!(sum, 0, "{ip:?}");
    }
    packets
}

/// A rig whose outside has this server at that address.
fn rig_with(outside: &str, inside: SocketAddr) -> Rig {
    let rig = Rig::new(NetConfig::default());
    rig.outside.0.lock().unwrap().places.insert(outside.parse().unwrap(), inside);
    rig
}

/// A guest with a TCP/IP stack and an IPv6 address.
fn guest6(rig: &Rig) -> Guest {
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    guest.interface.update_ip_addrs(|addrs| {
        addrs.clear();
        addrs.push(IpCidr::new(IpAddress::Ipv6(VM6), 64)).unwrap();
    });
    guest.interface.routes_mut().add_default_ipv6_route(GATEWAY6).unwrap();
    guest
}

fn connect6(guest: &mut Guest, to: &str) -> SocketHandle {
    let ring = || tcp::SocketBuffer::new(vec![0; 256 << 10]);
    let mut socket = tcp::Socket::new(ring(), ring());
    let to: std::net::SocketAddrV6 = to.parse().unwrap();
    guest.next_port += 1;
    let remote = (IpAddress::Ipv6(*to.ip()), to.port());
    socket.connect(guest.interface.context(), remote, guest.next_port).unwrap();
    guest.sockets.add(socket)
}

#[test]
fn ipv6_router_tells_its_prefix_and_is_a_way_out_only_if_the_host_has_one() {
    let mut rig = Rig::new(NetConfig::default());
    for (has_ipv6, lifetime) in [(false, 0_u16), (true, 1800)] {
        rig.outside.0.lock().unwrap().has_ipv6 = has_ipv6;
        rig.send(&router_solicitation());
        let answers = rig.answers();
        let [ip] = packets(&answers)[..] else { panic!("{}", answers.len()) };
        assert_eq!((ip.src, ip.dst, ip.ttl), (GATEWAY6_LINK.into(), VM_LINK.into(), 255));
        assert_eq!(ip.payload[..2], [134, 0]);
        assert_eq!(ip.payload[6..8], lifetime.to_be_bytes());
        assert_eq!(ip.payload[32..36], [3, 4, 64, 0xc0]);
        assert_eq!(ip.payload[48..64], SUBNET6.octets());
        assert_eq!(ip.payload[72..88], GATEWAY6.octets());
        assert_eq!(answers[0][..6], VM);
    }
    let mut far = router_solicitation();
    far[ETHERNET + 7] = 64;
    rig.send(&far);
    assert!(rig.answers().is_empty(), "it came through another router");
}

#[test]
fn ipv6_router_goes_on_telling_of_itself_to_guests_that_speak_ipv6() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&echo6(GATEWAY6));
    assert_eq!(rig.answers().len(), 1);
    rig.stack.turn(clock::now() + Duration::from_secs(601));
    let frames = rig.frames();
    let [ip] = packets(&frames)[..] else { panic!("{}", frames.len()) };
    assert_eq!((ip.payload[0], ip.dst), (134, ALL_NODES.into()));
    assert_eq!(frames[0][..6], [0xff; 6], "an NE2000 lets no multicast through");
}

#[test]
fn ipv6_gateway_and_host_are_found_and_nobody_else() {
    let mut rig = Rig::new(NetConfig::default());
    for target in [GATEWAY6, GATEWAY6_LINK, HOST6] {
        rig.send(&solicitation(VM6, target));
        let answers = rig.answers();
        let [ip] = packets(&answers)[..] else { panic!("{target}") };
        assert_eq!((ip.src, ip.dst, ip.ttl), (target.into(), VM6.into(), 255));
        assert_eq!((ip.payload[0], ip.payload[4]), (136, 0xe0));
        assert_eq!(ip.payload[8..24], target.octets());
        assert_eq!(ip.payload[26..32], GATEWAY_MAC);
    }
    // Somebody wants to take the gateway's address.
    rig.send(&solicitation(Ipv6Addr::UNSPECIFIED, GATEWAY6));
    let answers = rig.answers();
    assert_eq!(packets(&answers)[0].dst, IpAddr::from(ALL_NODES));
    for target in [VM6, addr("fd5a:94ef:e40c::2"), addr("2606:4700::1")] {
        rig.send(&solicitation(VM6, target));
        assert!(rig.answers().is_empty(), "{target}");
    }
}

#[test]
fn ipv6_pings_are_answered_by_the_gateway_and_by_the_outside() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&echo6(GATEWAY6));
    let answers = rig.answers();
    let [ip] = packets(&answers)[..] else { panic!() };
    assert_eq!((ip.src, ip.payload[0], &ip.payload[4..]), (GATEWAY6.into(), 129, &b"\0\x07\0\x03data"[..]));
    for (to, reason) in [(HOST6, [1, 1]), (addr("2606:4700::1"), [1, 1])] {
        rig.send(&echo6(to)); // the host denies ping sockets
        let answers = rig.answers();
        let [ip] = packets(&answers)[..] else { panic!("{to}") };
        assert_eq!((ip.src, &ip.payload[..2]), (GATEWAY6.into(), &reason[..]), "{to}");
    }
    let pinged = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rig.outside.0.lock().unwrap().pings = Some(pinged.local_addr().unwrap());
    rig.send(&echo6(addr("2606:4700::1")));
    rig.turn();
    let mut message = [0; 100];
    let (len, from) = pinged.recv_from(&mut message).unwrap();
    assert_eq!((message[0], &message[4..len]), (128, &b"\0\x07\0\x03data"[..]));
    message[0] = 129;
    pinged.send_to(&message[..len], from).unwrap();
    let mut frames = Vec::new();
    rig.until(|rig| {
        frames.extend(rig.frames());
        !frames.is_empty()
    });
    let [ip] = packets(&frames)[..] else { panic!() };
    assert_eq!((ip.src, ip.payload[0], &ip.payload[8..]), (addr("2606:4700::1").into(), 129, &b"data"[..]));
}

#[test]
fn ipv6_connection_carries_data_in_both_directions_and_ends_in_both() {
    let (server, thread) = server(1, echo);
    let mut rig = rig_with("[2606:4700::1]:80", server);
    let mut guest = guest6(&rig);
    let socket = connect6(&mut guest, "[2606:4700::1]:80");
    let data = pattern(300_000);
    let (mut sent, mut received) = (0, Vec::new());
    rig.run(&mut guest, |guest| {
        let tcp = guest.tcp(socket);
        if tcp.can_send() && sent < data.len() {
            sent += tcp.send_slice(&data[sent..]).unwrap();
        }
        if sent == data.len() && tcp.may_send() {
            tcp.close();
        }
        guest.read(socket, &mut received);
        received.len() == data.len() && !guest.tcp(socket).may_recv()
    });
    assert_eq!(received, data);
    thread.join().unwrap();
    assert_eq!(rig.stats().tcp_opened, 1);
}

#[test]
fn ipv6_refused_and_unreachable_are_told_truthfully() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut rig = rig_with("[2606:4700::1]:80", closed);
    let mut answer = |frame: &[u8]| {
        rig.send(frame);
        let mut frames = Vec::new();
        rig.until(|rig| {
            frames.extend(rig.frames());
            !frames.is_empty()
        });
        frames
    };
    let frames = answer(&syn6(VM6, addr("2606:4700::1"), 80));
    let segment = Segment::parse(packets(&frames)[0]).unwrap();
    assert_eq!(segment.flags, tcp_flag::RST | tcp_flag::ACK);
    for (frame, kind, from) in [
        (syn6(VM6, addr("2606:4700::2"), 80), [1, 3], GATEWAY6), // no way there
        (udp6(VM6, addr("2606:4700::2"), 9, b"x"), [1, 3], GATEWAY6),
        (udp6(VM6, HOST6, 9, b"x"), [1, 4], HOST6), // denied
        (udp6(VM6, GATEWAY6, 9, b"x"), [1, 4], GATEWAY6),
        (frame6(VM6, addr("2606:4700::2"), 44, 64, &[17, 0, 0, 1, 0, 0, 0, 1]), [4, 1], addr("2606:4700::2")),
        (frame6(VM6, addr("2606:4700::2"), 17, 1, &[0; 8]), [3, 0], GATEWAY6), // the last hop
    ] {
        let frames = answer(&frame);
        let ip = packets(&frames)[0];
        assert_eq!((ip.src, &ip.payload[..2]), (from.into(), &kind[..]), "{frame:?}");
        assert!(frame[ETHERNET..].starts_with(&ip.payload[8..]), "it quotes the packet");
    }
}

#[test]
fn ipv6_datagrams_go_both_ways() {
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut rig = rig_with("[2606:4700::1]:7", echo.local_addr().unwrap());
    rig.send(&udp6(VM6, addr("2606:4700::1"), 7, b"hello"));
    rig.turn();
    let mut buffer = [0; 100];
    let (len, from) = echo.recv_from(&mut buffer).unwrap();
    echo.send_to(&buffer[..len], from).unwrap();
    let mut frames = Vec::new();
    rig.until(|rig| {
        frames.extend(rig.frames());
        !frames.is_empty()
    });
    let datagram = Datagram::parse(packets(&frames)[0]).unwrap();
    assert_eq!((datagram.src, datagram.dst, datagram.payload), (7, 4000, &b"hello"[..]));
}

/// What the guest is told about a name for which the host's server has this.
fn asked(has_ipv6: bool, answer: (u8, Vec<Record>), gateway: Ipv6Addr) -> Vec<u8> {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let place: SocketAddr = "203.0.113.1:53".parse().unwrap();
    let mut rig = Rig::new(NetConfig { dns_servers: Some(vec![place]), ..NetConfig::default() });
    {
        let mut outside = rig.outside.0.lock().unwrap();
        outside.places.insert(place, server.local_addr().unwrap());
        outside.has_ipv6 = has_ipv6;
    }
    rig.send(&udp6(VM6, gateway, 53, &query(77, "example.com", kind::AAAA)));
    rig.turn();
    let mut buffer = [0; 512];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    let Asked::Question(question) = read_question(&buffer[..len]) else { panic!() };
    server.send_to(&write_answer(&buffer[..len], Some(&question), answer.0, &answer.1), from).unwrap();
    let mut frames = Vec::new();
    rig.until(|rig| {
        frames.extend(rig.frames());
        !frames.is_empty()
    });
    let ip = packets(&frames)[0];
    assert_eq!(ip.src, IpAddr::from(gateway));
    Datagram::parse(ip).unwrap().payload.to_vec()
}

#[test]
fn ipv6_addresses_are_told_only_if_the_host_can_reach_them() {
    let there = || (code::OK, vec![Record::Aaaa(addr("2606:4700::1"))]);
    let answer = asked(true, there(), GATEWAY6);
    assert_eq!(addresses(&answer)[0].0, IpAddr::from(addr("2606:4700::1")));
    let answer = asked(false, there(), GATEWAY6_LINK);
    assert_eq!((&answer[..2], answer[3] & 0xf, addresses(&answer)), (&[0, 77][..], code::OK, vec![]));
    let answer = asked(false, (code::NO_NAME, vec![]), GATEWAY6);
    assert_eq!(answer[3] & 0xf, code::NO_NAME, "what does not exist does not exist");
}

#[test]
fn ipv6_sources_that_are_not_the_guests_are_dropped() {
    let mut rig = Rig::new(NetConfig::default());
    for src in [
        "fd5a:94ef:e40c::1",
        "fe80::1",
        "fd5a:94ef:e40c::fe",
        "fd5a:94ef:e40c::",
        "2606:4700::7",
        "::1",
        "ff02::1",
    ] {
        rig.send(&udp6(addr(src), addr("2606:4700::1"), 9, b"x"));
        assert!(rig.answers().is_empty(), "{src}");
    }
    assert_eq!(rig.stats().spoofed, 7);
    // Addresses of the link stay on it.
    rig.send(&syn6(VM_LINK, addr("2606:4700::1"), 80));
    assert!(rig.answers().is_empty());
    // Another card's address.
    rig.send(&echo6(GATEWAY6));
    assert_eq!(rig.answers().len(), 1);
    let mut other = echo6(GATEWAY6);
    other[11] ^= 1;
    rig.send(&other);
    assert!(rig.answers().is_empty());
    assert_eq!(rig.stats().spoofed, 8);
    assert!(rig.outside.asked().is_empty());
}

#[test]
fn ipv6_known_addresses_are_bounded() {
    let mut rig = Rig::new(NetConfig::default());
    for n in 0..NET_NEIGHBOURS as u16 + 100 {
        let src = Ipv6Addr::new(0xfd5a, 0x94ef, 0xe40c, 0, 1, 2, 3, n);
        rig.send(&udp6(src, addr("ff02::fb"), 5353, b"x"));
        rig.turn_quickly();
    }
    assert_eq!(rig.stack.io.hosts.neighbours(), NET_NEIGHBOURS);
}

#[test]
fn ipv6_denied_places_get_no_socket() {
    let places = [
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::c0a8:7f01",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2001:0:1::1",
        "fe80::5",
        "fd00:ec2::254",
        "fd5a:94ef:e40c::fe",
        "fd5a:94ef:e40c::99",
        "ff02::5",
        "100::1",
        "4000::1",
        "2606:4700::10",
    ];
    let mut rig = Rig::new(NetConfig::default());
    rig.outside.0.lock().unwrap().own.push("2606:4700::10".parse().unwrap());
    for place in places {
        for port in [22, 53, 80] {
            rig.send(&syn6(VM6, addr(place), port));
            rig.send(&udp6(VM6, addr(place), port, b"x"));
        }
        rig.send(&echo6(addr(place)));
        rig.turn_quickly();
        rig.frames();
    }
    assert_eq!(rig.outside.asked(), vec![]);
    assert!(rig.stats().denied > 0);
    // The host's ::1, if that is opened.
    let allow = vec![Rule::parse("host.env86.internal:80").unwrap()];
    let mut rig =
        Rig::new(NetConfig { policy: Policy { allow, ..Policy::default() }, ..NetConfig::default() });
    rig.send(&syn6(VM6, HOST6, 80));
    rig.send(&syn6(VM6, HOST6, 81));
    rig.turn_quickly();
    assert_eq!(rig.outside.asked(), ["[::1]:80".parse().unwrap()]);
}

#[test]
fn ipv6_damaged_packets_are_dropped_and_counted() {
    let mut rig = Rig::new(NetConfig::default());
    let frame = echo6(GATEWAY6);
    for len in ETHERNET..frame.len() {
        rig.send(&frame[..len]);
    }
    for at in [ETHERNET + 8, ETHERNET + IPV6, frame.len() - 1] {
        let mut frame = frame.clone();
        frame[at] ^= 0x40;
        rig.send(&frame);
    }
    assert!(rig.answers().is_empty());
    let stats = rig.stats();
    assert_eq!(stats.rx_frames, (frame.len() - ETHERNET + 3) as u64);
    assert!(stats.malformed > 0 && stats.ignored > 0 && stats.spoofed > 0);
}
