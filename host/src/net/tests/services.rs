//! The gateway's own services: DHCP, DNS, ping; spoofed senders; the thread.

use std::io::{Read, Write};

use smoltcp::socket::dhcpv4;

use super::*;
use crate::net::dns::tests::query;
use crate::net::dns::{addresses, kind};
use crate::net::packet::{ARP, Arp, Echo, Ipv4, Udp, checksum};
use crate::net::{HOST, UserNet};

fn payloads(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let payload = |frame: &Vec<u8>| Some(Udp::parse(&Ipv4::parse(frame.get(ETHERNET..)?)?)?.payload.to_vec());
    frames.iter().filter_map(payload).collect()
}

#[test]
fn dhcp_client_gets_its_address() {
    let mut rig = Rig::new(NetConfig::default());
    let mut guest = Guest::new(&rig.card, VM, [192, 168, 127, 200].into());
    guest.interface.update_ip_addrs(|addrs| addrs.clear());
    let socket = guest.sockets.add(dhcpv4::Socket::new());
    let mut lease = None;
    rig.run(&mut guest, |guest| {
        if let Some(dhcpv4::Event::Configured(config)) =
            guest.sockets.get_mut::<dhcpv4::Socket<'_>>(socket).poll()
        {
            lease = Some((config.address.address(), config.router, config.dns_servers.first().copied()));
        }
        lease.is_some()
    });
    assert_eq!(lease, Some((GUEST, Some(GATEWAY), Some(GATEWAY))));
    assert_eq!(rig.stats().dhcp_acks, 1);
    assert_eq!(rig.stack.io.hosts.guest(), Some(GUEST));
}

#[test]
fn dns_built_in_names_are_answered() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&udp_frame(4000, SocketAddrV4::new(GATEWAY, 53), &query(77, "host.env86.internal", kind::A)));
    let answers = payloads(&rig.answers());
    assert_eq!(answers[0][..2], [0, 77]);
    assert_eq!(addresses(&answers[0]).first().map(|(addr, _)| *addr), Some(HOST.into()));
    assert!(rig.outside.asked().is_empty());
}

/// A DNS server that has one address for every name.
fn answer(question: &[u8], addr: [u8; 4]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
    answer.extend(addr);
    answer
}

#[test]
fn dns_questions_are_forwarded_and_the_next_server_is_asked() {
    let (dead, live) = ("203.0.113.1:53", "203.0.113.2:53");
    let servers = [dead, live].map(|addr| addr.parse().unwrap()).to_vec();
    let mut rig = Rig::new(NetConfig { dns_servers: Some(servers), ..NetConfig::default() });
    let (silent, server) = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).into();
    rig.outside.place(dead, silent.local_addr().unwrap());
    rig.outside.place(live, server.local_addr().unwrap());
    rig.send(&udp_frame(4000, SocketAddrV4::new(GATEWAY, 53), &query(77, "example.com", kind::A)));
    let now = clock::now();
    rig.stack.turn(now);
    assert_eq!(rig.stack.resolver.len(), 1);
    rig.stack.turn(now + Duration::from_secs(3));
    let mut buffer = [0; 512];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[2..len], query(0, "example.com", kind::A)[2..]);
    let reply = answer(&buffer[..len], [9, 8, 7, 6]);
    // A stranger's answer does not count: the number is wrong.
    let mut forged = reply.clone();
    forged[0] ^= 1;
    server.send_to(&forged, from).unwrap();
    server.send_to(&reply, from).unwrap();
    let mut answers = Vec::new();
    rig.until(|rig| {
        answers.extend(payloads(&rig.frames()));
        !answers.is_empty()
    });
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][..2], [0, 77]);
    assert_eq!(addresses(&answers[0])[0].0, Ipv4Addr::new(9, 8, 7, 6));
    assert_eq!(rig.stack.resolver.len(), 0);
}

#[test]
fn dns_without_servers_fails_at_once_and_questions_are_bounded() {
    let mut rig = Rig::new(NetConfig { dns_servers: Some(Vec::new()), ..NetConfig::default() });
    let dns = SocketAddrV4::new(GATEWAY, 53);
    rig.send(&udp_frame(4000, dns, &query(77, "example.com", kind::A)));
    let answers = payloads(&rig.answers());
    assert_eq!(answers[0][3] & 0xf, 2, "server failure");
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let servers = vec!["203.0.113.1:53".parse().unwrap()];
    let mut rig = Rig::new(NetConfig { dns_servers: Some(servers), ..NetConfig::default() });
    rig.outside.place("203.0.113.1:53", silent.local_addr().unwrap());
    for n in 0..crate::limits::NET_DNS_QUERIES as u16 + 10 {
        rig.send(&udp_frame(4000 + n, dns, &query(n, "example.com", kind::A)));
    }
    rig.turn_quickly();
    assert_eq!(rig.stack.resolver.len(), crate::limits::NET_DNS_QUERIES);
    assert_eq!(rig.stats().limited, 10);
}

#[test]
fn dns_over_tcp_answers_built_in_and_forwarded_names() {
    let server_addr = "203.0.113.2:53";
    let mut rig =
        Rig::new(NetConfig { dns_servers: Some(vec![server_addr.parse().unwrap()]), ..NetConfig::default() });
    let (addr, server) = server(1, |mut stream| {
        let mut len = [0; 2];
        stream.read_exact(&mut len).unwrap();
        let mut question = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut question).unwrap();
        let answer = answer(&question, [9, 8, 7, 6]);
        stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&answer).unwrap();
    });
    rig.outside.place(server_addr, addr);
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    let socket = guest.connect(SocketAddrV4::new(GATEWAY, 53));
    rig.run(&mut guest, |guest| guest.tcp(socket).can_send());
    for (id, name) in [(1, "gateway.env86.internal"), (2, "example.com")] {
        let question = query(id, name, kind::A);
        guest.tcp(socket).send_slice(&(question.len() as u16).to_be_bytes()).unwrap();
        guest.tcp(socket).send_slice(&question).unwrap();
    }
    guest.tcp(socket).close();
    let mut received = Vec::new();
    rig.run(&mut guest, |guest| {
        guest.read(socket, &mut received);
        !guest.tcp(socket).may_recv()
    });
    let mut answers = Vec::new();
    let mut rest = received.as_slice();
    while let [high, low, tail @ ..] = rest {
        let (answer, tail) = tail.split_at(u16::from_be_bytes([*high, *low]).into());
        answers.push((answer[1], addresses(answer)[0].0));
        rest = tail;
    }
    assert_eq!(answers, [(1, GATEWAY.into()), (2, IpAddr::from([9, 8, 7, 6]))]);
    server.join().unwrap();
}

fn ping(to: Ipv4Addr, sequence: u16) -> Vec<u8> {
    let echo = Echo { id: 0x1234, sequence, data: b"are you there?" };
    let mut message = vec![0; 8 + echo.data.len()];
    echo.write(&mut message, false);
    ip_frame(GUEST, to, 1, &message)
}

#[test]
fn ping_of_the_gateway_is_answered_by_it() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&ping(GATEWAY, 3));
    let answers = rig.answers();
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!((ip.src, ip.dst), (GATEWAY, GUEST));
    assert_eq!(checksum(ip.payload), 0);
    let echo = Echo::parse_reply(ip.payload, false).unwrap();
    assert_eq!((echo.id, echo.sequence, echo.data), (0x1234, 3, b"are you there?".as_slice()));
}

#[test]
fn ping_of_the_outside_is_forwarded_or_refused() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&ping([203, 0, 113, 5].into(), 1));
    let answers = rig.answers();
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!((ip.src, &ip.payload[..2]), (GATEWAY, [3, 13].as_slice()), "the host does not let us");
    // A socket that behaves as the host's ICMP sockets do: with an identifier of its own.
    let pinged = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rig.outside.0.lock().unwrap().pings = Some(pinged.local_addr().unwrap());
    rig.send(&ping([203, 0, 113, 5].into(), 2));
    rig.turn_quickly();
    let mut buffer = [0; 100];
    let (len, from) = pinged.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[0], 8);
    buffer[0] = 0;
    buffer[4..6].fill(0x55);
    pinged.send_to(&buffer[..len], from).unwrap();
    let mut answers = Vec::new();
    rig.until(|rig| {
        answers.extend(rig.frames());
        !answers.is_empty()
    });
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!(ip.src, Ipv4Addr::new(203, 0, 113, 5));
    let echo = Echo::parse_reply(ip.payload, false).unwrap();
    assert_eq!((echo.id, echo.sequence), (0x1234, 2));
    for n in 0..100 {
        rig.send(&ping([203, 0, 113, n].into(), 2));
    }
    rig.turn_quickly();
    assert_eq!(rig.stack.pings.len(), crate::limits::NET_PINGS);
    rig.stack.turn(clock::now() + Duration::from_secs(20));
    assert_eq!(rig.stack.pings.len(), 0);
}

#[test]
fn packets_at_the_end_of_their_life_are_reported() {
    let mut rig = Rig::new(NetConfig::default());
    let mut frame = ping([203, 0, 113, 5].into(), 1);
    frame[ETHERNET + 8] = 1;
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = checksum(&frame[ETHERNET..ETHERNET + IPV4]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    rig.send(&frame);
    let answers = rig.answers();
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!((ip.src, &ip.payload[..2]), (GATEWAY, [11, 0].as_slice()));
}

#[test]
fn packets_of_unknown_protocols_are_reported() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&ip_frame(GUEST, [203, 0, 113, 5].into(), 132, &[0; 20]));
    let answers = rig.answers();
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!(&ip.payload[..2], [3, 2]);
}

fn arp(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(sender_mac);
    frame.extend(ethertype::ARP.to_be_bytes());
    frame.resize(ETHERNET + ARP, 0);
    let arp = Arp { request: true, sender_mac, sender, target_mac: [0; 6], target };
    arp.write(&mut frame[ETHERNET..]);
    frame
}

#[test]
fn arp_is_answered_for_gateway_and_host_only() {
    let mut rig = Rig::new(NetConfig::default());
    for last in 0..=255 {
        rig.send(&arp(VM, GUEST, [192, 168, 127, last].into()));
    }
    let answered: Vec<_> = rig
        .answers()
        .iter()
        .map(|frame| {
            let arp = Arp::parse(&frame[ETHERNET..]).unwrap();
            assert_eq!((frame[..6].to_vec(), arp.sender_mac, arp.target), (VM.to_vec(), GATEWAY_MAC, GUEST));
            arp.sender
        })
        .collect();
    assert_eq!(answered, [GATEWAY, HOST]);
}

#[test]
fn spoofed_senders_are_dropped() {
    let mut rig = Rig::new(NetConfig::default());
    let to = SocketAddrV4::new(GATEWAY, 53);
    let with_source = |src: Ipv4Addr| {
        let mut datagram = vec![0; UDP];
        write_udp(&mut datagram, SocketAddrV4::new(src, 9), to, b"");
        ip_frame(src, GATEWAY, 17, &datagram)
    };
    let mut frames: Vec<_> = [
        GATEWAY,
        HOST,
        [192, 168, 127, 255].into(),
        [192, 168, 127, 0].into(),
        [10, 0, 2, 15].into(),
        [8, 8, 8, 8].into(),
        [127, 0, 0, 1].into(),
        [224, 0, 0, 1].into(),
    ]
    .map(with_source)
    .to_vec();
    for mac in [GATEWAY_MAC, [0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut frame = udp_frame(9, to, b"");
        frame[6..12].copy_from_slice(&mac);
        frames.push(frame);
        frames.push(arp(mac, GUEST, GATEWAY));
    }
    frames.push(arp(VM, GATEWAY, GATEWAY));
    let mut other = arp(VM, GUEST, GATEWAY);
    other[ETHERNET + 8] ^= 4;
    frames.push(other);
    for frame in &frames {
        rig.send(frame);
    }
    assert_eq!(rig.answers(), Vec::<Vec<u8>>::new());
    assert_eq!(rig.stats().spoofed, frames.len() as u64);
    // The owner of an address keeps it.
    rig.send(&arp(VM, GUEST, GATEWAY));
    rig.send(&arp([2, 2, 2, 2, 2, 2], GUEST, GATEWAY));
    assert_eq!(rig.answers().len(), 1);
    assert_eq!(rig.stack.io.hosts.mac(GUEST), Some(VM));
}

#[test]
fn network_on_its_thread_serves_sleeps_and_ends() {
    let (addr, server) = server(1, echo);
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("x.pcap");
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    let (card, net) = cable(Arc::new(move || {
        let _ = tell.lock().unwrap().send(());
    }))
    .unwrap();
    let forwards = ["0:80", "0:80/udp"];
    let forwards = forwards.iter().map(|text| crate::net::Forward::parse(text).unwrap()).collect();
    let config = NetConfig {
        guest_mac: VM,
        host_access: true,
        forwards,
        pcap: Some(pcap.clone()),
        ..NetConfig::default()
    };
    let net = UserNet::start(config, net).unwrap();
    assert_eq!(net.forwards().len(), 2);
    let mut guest = Guest::new(&card, VM, GUEST);
    let SocketAddr::V4(addr) = addr else { panic!() };
    let socket = guest.connect(SocketAddrV4::new(HOST, addr.port()));
    guest.poll();
    let mut received = Vec::new();
    let mut sent = false;
    while !received.ends_with(b"through a thread") {
        told.recv_timeout(PATIENCE).unwrap();
        guest.poll();
        if !sent && guest.tcp(socket).can_send() {
            guest.tcp(socket).send_slice(b"through a thread").unwrap();
            sent = true;
        }
        guest.read(socket, &mut received);
        guest.poll();
    }
    let stats = net.stats();
    assert_eq!((stats.tcp_opened, stats.tcp_flows), (1, 1));
    assert!(stats.rx_frames > 2 && stats.tx_bytes > 100);
    net.stop();
    drop(server); // its connection was broken off
    assert!(std::fs::read(&pcap).unwrap().len() > 200);
}
