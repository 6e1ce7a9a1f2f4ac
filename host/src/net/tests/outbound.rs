//! From the guest to the outside.

use std::io::{Read, Write};
use std::net::Shutdown;

use rustix::net::sockopt;
use smoltcp::socket::tcp::State;

use super::*;
use crate::limits::{NET_TCP_FLOWS, NET_TCP_PENDING, NET_UDP_FLOWS};
use crate::net::packet::{Ipv4, Segment, tcp_flag};

fn rig_and_guest() -> (Rig, Guest) {
    let rig = Rig::new(NetConfig::default());
    let guest = Guest::new(&rig.card, VM, GUEST);
    (rig, guest)
}

#[test]
fn tcp_echo_of_many_megabytes_is_the_same() {
    let (mut rig, mut guest) = rig_and_guest();
    let (addr, server) = server(1, echo);
    let to = rig.outside.place("203.0.113.5:80", addr);
    let socket = guest.connect(to);
    let sent = pattern(12 << 20);
    let (mut offset, mut received) = (0, Vec::with_capacity(sent.len()));
    rig.run(&mut guest, |guest| {
        while guest.tcp(socket).can_send() && offset < sent.len() {
            offset += guest.tcp(socket).send_slice(&sent[offset..]).unwrap();
        }
        if offset == sent.len() {
            guest.tcp(socket).close();
        }
        guest.read(socket, &mut received);
        offset == sent.len() && !guest.tcp(socket).may_recv()
    });
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    server.join().unwrap();
    rig.run(&mut guest, |guest| {
        !guest.tcp(socket).is_active() || guest.tcp(socket).state() == State::TimeWait
    });
    rig.until(|rig| rig.stack.tcp.len() == 0);
    assert_eq!((rig.stats().tcp_opened, rig.stats().tcp_flows), (1, 0));
    assert_eq!(rig.stack.io.timers.next(), None, "nothing wakes the thread any more");
}

#[test]
fn tcp_is_answered_only_after_the_host_has_connected() {
    let mut rig = Rig::new(NetConfig::default());
    rig.outside.0.lock().unwrap().black_hole = Some(Vec::new());
    rig.send(&tcp_frame(1000, "203.0.113.5:80".parse().unwrap(), 7, tcp_flag::SYN));
    assert_eq!(rig.answers(), Vec::<Vec<u8>>::new());
    assert_eq!(rig.stack.tcp.len(), 1);
    rig.stack.turn(clock::now() + Duration::from_secs(29));
    assert_eq!(rig.stack.tcp.len(), 1);
    rig.stack.turn(clock::now() + Duration::from_secs(31));
    assert_eq!(rig.stack.tcp.len(), 0, "it had its time");
    assert_eq!(rig.frames(), Vec::<Vec<u8>>::new(), "a timeout stays a timeout");
    assert_eq!(rig.stats().tcp_failed, 1);
}

#[test]
fn tcp_refused_stays_refused_and_unreachable_unreachable() {
    let (mut rig, mut guest) = rig_and_guest();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let to = rig.outside.place("203.0.113.5:80", closed);
    let socket = guest.connect(to);
    rig.run(&mut guest, |guest| guest.tcp(socket).state() == State::Closed);
    rig.send(&tcp_frame(1000, "203.0.113.9:80".parse().unwrap(), 7, tcp_flag::SYN));
    let answers = rig.answers();
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!((ip.src, ip.protocol, &ip.payload[..2]), (GATEWAY, 1, [3, 1].as_slice()));
    assert_eq!(rig.stack.tcp.len(), 0);
    assert_eq!(rig.stats().tcp_failed, 2);
}

#[test]
fn tcp_server_that_closes_first_is_heard() {
    let (mut rig, mut guest) = rig_and_guest();
    let (addr, server) = server(1, |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"and thanks");
    });
    let to = rig.outside.place("203.0.113.5:80", addr);
    let socket = guest.connect(to);
    let mut received = Vec::new();
    rig.run(&mut guest, |guest| {
        guest.read(socket, &mut received);
        guest.tcp(socket).state() == State::CloseWait && received == b"bye"
    });
    guest.tcp(socket).send_slice(b"and thanks").unwrap();
    guest.tcp(socket).close();
    rig.run(&mut guest, |guest| guest.tcp(socket).state() == State::Closed);
    server.join().unwrap();
    rig.until(|rig| rig.stack.tcp.len() == 0);
}

#[test]
fn tcp_client_that_closes_first_gets_its_answer() {
    let (mut rig, mut guest) = rig_and_guest();
    let (addr, server) = server(1, |mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(&request.repeat(1000)).unwrap();
    });
    let to = rig.outside.place("203.0.113.5:80", addr);
    let socket = guest.connect(to);
    let mut received = Vec::new();
    let mut sent = false;
    rig.run(&mut guest, |guest| {
        if !sent && guest.tcp(socket).can_send() {
            guest.tcp(socket).send_slice(&pattern(500)).unwrap();
            guest.tcp(socket).close();
            sent = true;
        }
        guest.read(socket, &mut received);
        sent && !guest.tcp(socket).may_recv()
    });
    assert!(received == pattern(500).repeat(1000));
    server.join().unwrap();
}

#[test]
fn tcp_reset_passes_in_both_directions() {
    let (mut rig, mut guest) = rig_and_guest();
    let (addr, server) = server(2, |mut stream| {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 1 {
            // The server breaks off.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        } else {
            panic!("the guest said nothing");
        }
        if byte == [2] {
            // The guest breaks off.
            let error = stream.read(&mut byte).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    });
    let to = rig.outside.place("203.0.113.5:80", addr);
    let (one, two) = (guest.connect(to), guest.connect(to));
    rig.run(&mut guest, |guest| guest.tcp(one).can_send() && guest.tcp(two).can_send());
    guest.tcp(one).send_slice(&[1]).unwrap();
    guest.tcp(two).send_slice(&[2]).unwrap();
    rig.run(&mut guest, |guest| guest.tcp(one).state() == State::Closed && guest.tcp(two).send_queue() == 0);
    guest.tcp(two).abort();
    rig.run(&mut guest, |guest| guest.tcp(two).state() == State::Closed);
    rig.until(|rig| rig.stack.tcp.len() == 0);
    server.join().unwrap();
}

#[test]
fn tcp_guest_that_stands_still_loses_nothing() {
    const BYTES: usize = 4 << 20;
    let (mut rig, mut guest) = rig_and_guest();
    let (addr, server) = server(3, |mut stream| stream.write_all(&pattern(BYTES)).unwrap());
    let to = rig.outside.place("203.0.113.5:80", addr);
    let sockets = [(); 3].map(|()| guest.connect(to));
    rig.run(&mut guest, |guest| sockets.iter().all(|socket| guest.tcp(*socket).may_send()));
    let mut received = vec![Vec::new(); 3];
    let mut round = 0;
    rig.run(&mut guest, |guest| {
        for (socket, received) in sockets.iter().zip(&mut received) {
            // Each reads only now and then, so that the line is full of what the others get.
            if round % 7 == 0 {
                guest.read(*socket, received);
            }
            round += 1;
        }
        received.iter().all(|received| received.len() == BYTES)
    });
    assert!(received.iter().all(|received| *received == pattern(BYTES)));
    server.join().unwrap();
    assert_eq!(rig.stats().limited, 0);
    let sent = rig.stats().tx_bytes as usize;
    assert!(sent < 3 * BYTES * 11 / 10, "{sent} bytes: something was sent twice");
}

#[test]
fn tcp_two_hundred_connections_at_once() {
    let (mut rig, mut guest) = rig_and_guest();
    let (addr, server) = server(200, echo);
    let to = rig.outside.place("203.0.113.5:80", addr);
    let sockets: Vec<_> = (0..200).map(|_| guest.connect(to)).collect();
    let mut received = vec![Vec::new(); 200];
    let mut sent = [false; 200];
    rig.run(&mut guest, |guest| {
        for (n, socket) in sockets.iter().enumerate() {
            if !sent[n] && guest.tcp(*socket).can_send() {
                guest.tcp(*socket).send_slice(&pattern(5000)[n..]).unwrap();
                guest.tcp(*socket).close();
                sent[n] = true;
            }
            guest.read(*socket, &mut received[n]);
        }
        sent.iter().all(|sent| *sent) && sockets.iter().all(|socket| !guest.tcp(*socket).may_recv())
    });
    for (n, received) in received.iter().enumerate() {
        assert!(*received == pattern(5000)[n..], "connection {n}");
    }
    server.join().unwrap();
    assert_eq!(rig.stats().tcp_opened, 200);
}

#[test]
fn tcp_syn_flood_is_bounded_and_lets_others_through() {
    let mut rig = Rig::new(NetConfig::default());
    rig.outside.0.lock().unwrap().black_hole = Some(Vec::new());
    let to = |n: u32| SocketAddrV4::new(Ipv4Addr::from(0xcb00_7100 + n % 200), 80);
    for n in 0..3000_u32 {
        rig.send(&tcp_frame(1024 + n as u16, to(n), n, tcp_flag::SYN));
        if n % 100 == 99 {
            rig.turn_quickly();
        }
        assert!(rig.stack.tcp.len() <= NET_TCP_PENDING);
    }
    rig.turn_quickly();
    assert_eq!(rig.stack.tcp.len(), NET_TCP_PENDING);
    assert_eq!(rig.stats().limited, 3000 - NET_TCP_PENDING as u64);
    assert_eq!(rig.frames(), Vec::<Vec<u8>>::new());
    rig.outside.0.lock().unwrap().black_hole = None;
    let (addr, server) = server(1, echo);
    let live = rig.outside.place("203.0.113.222:80", addr);
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    let socket = guest.connect(live);
    rig.run(&mut guest, |guest| guest.tcp(socket).can_send());
    guest.tcp(socket).close();
    rig.run(&mut guest, |guest| !guest.tcp(socket).may_recv());
    server.join().unwrap();
}

#[test]
fn tcp_connections_are_bounded() {
    let mut rig = Rig::new(NetConfig::default());
    // Streams of the gateway's DNS server need no socket of the host.
    let to = SocketAddrV4::new(GATEWAY, 53);
    for n in 0..NET_TCP_FLOWS as u32 + 50 {
        rig.send(&tcp_frame(1024 + n as u16, to, n, tcp_flag::SYN));
        if n % 50 == 49 {
            rig.turn_quickly();
            rig.frames();
        }
    }
    rig.turn_quickly();
    rig.frames();
    assert_eq!(rig.stack.tcp.len(), NET_TCP_FLOWS);
    assert_eq!(rig.stats().limited, 50);
    // Nobody acknowledges: they are given up.
    let now = clock::now();
    for second in 1..40 {
        rig.stack.turn(now + Duration::from_secs(second));
        rig.frames();
    }
    assert_eq!(rig.stack.tcp.len(), 0);
}

#[test]
fn tcp_segments_of_nobody_are_reset() {
    let mut rig = Rig::new(NetConfig::default());
    let to = "203.0.113.5:80".parse().unwrap();
    rig.send(&tcp_frame(1000, to, 7, tcp_flag::ACK));
    rig.send(&tcp_frame(1000, to, 7, tcp_flag::RST));
    rig.send(&tcp_frame(1000, SocketAddrV4::new(GATEWAY, 80), 7, tcp_flag::SYN));
    let answers = rig.answers();
    let flags: Vec<_> = answers
        .iter()
        .map(|frame| Segment::parse(&Ipv4::parse(&frame[ETHERNET..]).unwrap()).unwrap().flags)
        .collect();
    assert_eq!(flags, [tcp_flag::RST, tcp_flag::RST | tcp_flag::ACK]);
    assert!(rig.outside.asked().is_empty());
}

#[test]
fn tcp_survives_a_line_that_loses_frames() {
    let config = NetConfig {
        impairments: crate::net::Impairments {
            loss: 0.02,
            delay: Duration::from_millis(1),
            rate: Some(20_000_000),
            seed: 3,
        },
        ..NetConfig::default()
    };
    let mut rig = Rig::new(config);
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    let (addr, server) = server(1, echo);
    let to = rig.outside.place("203.0.113.5:80", addr);
    let socket = guest.connect(to);
    let sent = pattern(200_000);
    let (mut offset, mut received) = (0, Vec::new());
    rig.run(&mut guest, |guest| {
        if guest.tcp(socket).can_send() && offset < sent.len() {
            offset += guest.tcp(socket).send_slice(&sent[offset..]).unwrap();
        }
        guest.read(socket, &mut received);
        received.len() == sent.len()
    });
    assert!(received == sent);
    assert!(rig.stats().impaired > 0);
    drop(rig);
    drop(server);
}

#[test]
fn udp_echo_of_all_sizes() {
    let mut rig = Rig::new(NetConfig::default());
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = rig.outside.place("203.0.113.5:7", echo.local_addr().unwrap());
    let mut buffer = vec![0; 65536];
    for len in [0, 1, 1472, 1473, 4000, 65507] {
        let sent = pattern(len);
        let whole = udp_frame(5000, to, &sent);
        let ip = Ipv4::parse(&whole[ETHERNET..]).unwrap();
        for (n, piece) in ip.payload.chunks(1480).enumerate() {
            let mut frame = ip_frame(GUEST, *to.ip(), 17, piece);
            let more = (n + 1) * 1480 < ip.payload.len();
            let head =
                Ipv4Head { src: GUEST, dst: *to.ip(), protocol: 17, id: len as u16, offset: n * 1480, more };
            frame[ETHERNET..ETHERNET + IPV4].fill(0);
            head.write(&mut frame[ETHERNET..], piece.len());
            rig.send(&frame);
        }
        rig.turn_quickly();
        let (received, from) = echo.recv_from(&mut buffer).unwrap();
        assert!(buffer[..received] == sent, "{received} bytes of {len}");
        echo.send_to(&sent, from).unwrap();
        let mut reassembly = crate::net::reassembly::Reassembly::default();
        let mut answer = None;
        rig.until(|rig| {
            for frame in rig.frames() {
                let ip = Ipv4::parse(&frame[ETHERNET..]).unwrap();
                let whole = if ip.is_fragment() {
                    reassembly.add(&ip, clock::now())
                } else {
                    Some(ip.packet.to_vec())
                };
                answer = whole.or(answer.take());
            }
            answer.is_some()
        });
        let answer = answer.unwrap();
        let ip = Ipv4::parse(&answer).unwrap();
        assert_eq!((ip.src, ip.dst), (*to.ip(), GUEST));
        let datagram = crate::net::packet::Udp::parse(&ip).unwrap();
        assert_eq!((datagram.src, datagram.dst), (7, 5000));
        assert!(datagram.payload == sent, "{len} bytes");
    }
    assert_eq!(rig.stack.udp.len(), 1);
}

#[test]
fn udp_nobody_listening_is_told() {
    let mut rig = Rig::new(NetConfig::default());
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let to = rig.outside.place("203.0.113.5:7", closed);
    rig.send(&udp_frame(5000, to, b"anybody?"));
    let mut answers = Vec::new();
    rig.until(|rig| {
        answers.extend(rig.frames());
        !answers.is_empty()
    });
    let ip = Ipv4::parse(&answers[0][ETHERNET..]).unwrap();
    assert_eq!((ip.src, ip.protocol, &ip.payload[..2]), (*to.ip(), 1, [3, 3].as_slice()));
    let quoted = &ip.payload[8..];
    assert_eq!(quoted, &udp_frame(5000, to, b"anybody?")[ETHERNET..]);
}

#[test]
fn udp_conversations_end_and_begin_again() {
    let mut rig = Rig::new(NetConfig::default());
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = rig.outside.place("203.0.113.5:123", echo.local_addr().unwrap());
    let now = clock::now();
    for round in 0..3 {
        rig.send(&udp_frame(123, to, b"time?"));
        let now = now + Duration::from_secs(round * 1000);
        rig.stack.turn(now);
        let (_, from) = echo.recv_from(&mut [0; 10]).unwrap();
        assert_eq!(rig.stack.udp.len(), 1);
        echo.send_to(b"late", from).unwrap();
        rig.stack.turn(now + Duration::from_secs(14));
        assert_eq!(rig.stack.udp.len(), 1);
        rig.stack.turn(now + Duration::from_secs(31));
        assert_eq!(rig.stack.udp.len(), 0);
    }
    assert_eq!(rig.stats().udp_opened, 3);
}

#[test]
fn udp_conversations_are_bounded() {
    let mut rig = Rig::new(NetConfig::default());
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = echo.local_addr().unwrap();
    // The table is what bounds it: one round of ports and addresses fills it many times over.
    for n in 0..20_u32 {
        let to = rig.outside.place(&format!("203.0.113.{n}:9"), inside);
        for port in 0..500_u16 {
            rig.send(&udp_frame(1024 + port, to, b""));
        }
        rig.turn_quickly();
        assert!(rig.stack.udp.len() <= NET_UDP_FLOWS);
    }
    assert_eq!(rig.stack.udp.len(), NET_UDP_FLOWS);
    assert_eq!(rig.stats().udp_opened, 10_000);
}

/// A card that drops what it has no room for would otherwise have most of every burst sent again, and again late.
#[test]
fn tcp_sends_no_further_ahead_than_it_may() {
    const AHEAD: usize = 4 * 1460;
    let mut rig = Rig::new(NetConfig { ahead: Some(AHEAD), ..NetConfig::default() });
    let (addr, server) = server(1, |mut stream| {
        let _ = stream.write_all(&pattern(200_000));
    });
    let to = rig.outside.place("203.0.113.5:80", addr);
    rig.send(&tcp_frame(1000, to, 1, 2));
    let mut answers = Vec::new();
    rig.until(|rig| {
        answers.extend(rig.frames());
        !answers.is_empty()
    });
    let sequence = |frame: &[u8]| {
        u32::from_be_bytes(frame[ETHERNET + IPV4 + 4..ETHERNET + IPV4 + 8].try_into().unwrap())
    };
    let first = sequence(&answers[0]).wrapping_add(1);
    // The guest says that it has room for 64 KiB and acknowledges nothing but the handshake.
    let mut ack = tcp_frame(1000, to, 2, 16);
    ack[ETHERNET + IPV4 + 8..ETHERNET + IPV4 + 12].copy_from_slice(&first.to_be_bytes());
    super::hostile::mend(&mut ack);
    rig.send(&ack);
    let mut end = 0;
    let mut look = |rig: &mut Rig| {
        for frame in rig.frames() {
            let len = (frame.len() - ETHERNET - IPV4 - 20) as i64;
            // A probe repeats the byte before the first one.
            let begin = i64::from(sequence(&frame).wrapping_sub(first) as i32);
            end = end.max(begin + len);
        }
        end
    };
    rig.until(|rig| look(rig) >= AHEAD as i64);
    for _ in 0..20 {
        rig.turn();
    }
    assert_eq!(look(&mut rig), AHEAD as i64);
    rig.stack.close();
    server.join().unwrap();
}
