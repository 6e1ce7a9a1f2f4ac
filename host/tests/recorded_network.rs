//! The network against a recording of another one: what a guest sends is sent again, the answers are compared.
//!
//! `recorded/network.txt` has a line of explanation and then exchanges, each beginning with `exchange: TITLE`: who
//! sent a frame (`guest` or `gateway`), its bytes in hexadecimal digits, `#`, and what it is. `result: none` says
//! that nothing came.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use emu_devices::net::NetSink;
use host::net::{CardEnd, GATEWAY_MAC, NetConfig, Policy, Reach, UserNet, cable};

const RECORDED: &str = include_str!("recorded/network.txt");

/// The guest's card in the recording.
const CARD: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where fields are in an Ethernet frame with an IPv4 packet without options.
const ETHERTYPE: usize = 12;
const IP: usize = 14;
const PROTOCOL: usize = IP + 9;
const PAYLOAD: usize = IP + 20;

/// Identifier and sequence number of the ping that no exchange has.
const MARK: [u8; 4] = [0xbe, 0xef, 0, 86];

struct Exchange {
    title: &'static str,
    asked: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
}

fn exchanges() -> Vec<Exchange> {
    let mut found: Vec<Exchange> = Vec::new();
    for line in RECORDED.lines().skip(1) {
        if let Some(title) = line.strip_prefix("exchange: ") {
            found.push(Exchange { title, asked: Vec::new(), answered: Vec::new() });
        } else if let Some((side, rest)) = line.split_once(' ').filter(|(side, _)| *side != "result:") {
            let digits = rest.split(' ').next().unwrap();
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            let exchange = found.last_mut().unwrap();
            match side {
                // It asked who the guest was, and was told.
                _ if is_request(&bytes, GATEWAY_MAC) || is_reply_to_gateway(&bytes) => {}
                "guest" => exchange.asked.push(bytes),
                "gateway" => exchange.answered.push(bytes),
                _ => panic!("{line}"),
            }
        }
    }
    found
}

fn is_arp(frame: &[u8], kind: u8) -> bool {
    frame[ETHERTYPE..ETHERTYPE + 2] == [8, 6] && frame[21] == kind
}

fn is_request(frame: &[u8], from: [u8; 6]) -> bool {
    is_arp(frame, 1) && frame[6..12] == from
}

fn is_reply_to_gateway(frame: &[u8]) -> bool {
    is_arp(frame, 2) && frame[..6] == GATEWAY_MAC
}

/// A ping of the gateway that no exchange has: its answer shows that everything before it was answered.
fn marker() -> Vec<u8> {
    let mut frame = [&GATEWAY_MAC[..], &CARD, &[8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0]].concat();
    frame.extend([192, 168, 127, 2, 192, 168, 127, 1, 8, 0, 0, 0]);
    frame.extend(MARK);
    for (from, at) in [(IP, IP + 10), (PAYLOAD, PAYLOAD + 2)] {
        let end = if from == IP { PAYLOAD } else { frame.len() };
        let sum: u32 =
            frame[from..end].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn is_marker(frame: &[u8]) -> bool {
    is_ip(frame, 1) && frame[PAYLOAD] == 0 && frame[PAYLOAD + 4..PAYLOAD + 8] == MARK
}

fn is_ip(frame: &[u8], protocol: u8) -> bool {
    frame[ETHERTYPE..ETHERTYPE + 2] == [8, 0] && frame[PROTOCOL] == protocol
}

/// An answer of the name server.
fn is_names(frame: &[u8]) -> bool {
    is_ip(frame, 17) && frame[PAYLOAD..PAYLOAD + 2] == [0, 53]
}

/// A server that says of every name that there is none.
fn no_names() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 600];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            buffer[2..4].copy_from_slice(&[0x81, 0x83]);
            socket.send_to(&buffer[..count], from).unwrap();
        }
    });
    address
}

struct Rig {
    card: CardEnd,
    woken: Receiver<()>,
    _net: UserNet,
}

impl Rig {
    fn new() -> Self {
        let (wake, woken) = channel();
        let (card, end) = cable(Arc::new(move || _ = wake.send(()))).unwrap();
        let config = NetConfig {
            guest_mac: CARD,
            policy: Policy { reach: Reach::Nothing, ..Policy::default() },
            dns_servers: Some(vec![no_names()]),
            ..NetConfig::default()
        };
        Self { card, woken, _net: UserNet::start(config, end).unwrap() }
    }

    /// Sends what the guest sends and collects the answers.
    fn answers(&mut self, exchange: &Exchange) -> Vec<Vec<u8>> {
        exchange.asked.iter().for_each(|frame| self.card.send(frame));
        // Names are asked elsewhere, and the answer takes its time.
        let last = if exchange.title.starts_with("DNS") { is_names } else { is_marker };
        if !exchange.title.starts_with("DNS") {
            self.card.send(&marker());
        }
        let mut answers: Vec<Vec<u8>> = Vec::new();
        while !answers.last().is_some_and(|frame| last(frame)) {
            let received = self.card.receive(&mut |frame| {
                answers.push(frame.to_vec());
                true
            });
            if received == 0 {
                self.woken.recv_timeout(PATIENCE).expect("an answer");
            }
        }
        answers.retain(|frame| !is_request(frame, GATEWAY_MAC) && !is_marker(frame));
        answers
    }
}

/// A frame without what is different each time: identification of packets, and checksums of their headers.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[ETHERTYPE..ETHERTYPE + 2] == [8, 0] {
        frame[IP + 4..IP + 8].fill(0);
        frame[IP + 10..IP + 12].fill(0);
    }
    frame
}

/// What a DHCP reply offers: address, then options by number, without those that one of them leaves out.
fn offered(frame: &[u8]) -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
    const DHCP: usize = PAYLOAD + 8;
    const BROADCAST: u8 = 28;
    const SEARCH: u8 = 119;
    let mut options = Vec::new();
    let mut rest = &frame[DHCP + 240..];
    while rest[0] != 255 {
        let (option, after) = rest[2..].split_at(usize::from(rest[1]));
        if !matches!(rest[0], BROADCAST | SEARCH) {
            options.push((rest[0], option.to_vec()));
        }
        rest = after;
    }
    (frame[DHCP + 16..DHCP + 20].to_vec(), options)
}

/// Answers that are other ones on purpose: begin of the title, and whether this is what they are to be.
type Other = (&'static str, fn(&[Vec<u8>], &[Vec<u8>]) -> bool);

/// One answer, from this sender, that is such an ICMP message.
fn is_icmp(answers: &[Vec<u8>], from: [u8; 4], message: [u8; 2]) -> bool {
    let [frame] = answers else { return false };
    is_ip(frame, 1) && frame[IP + 12..IP + 16] == from && frame[PAYLOAD..PAYLOAD + 2] == message
}

/// Its address.
const GATEWAY: [u8; 4] = [192, 168, 127, 1];

const OTHERS: &[Other] = &[
    // The address is the one that is asked for, if it is free.
    ("DHCP request for another address", |ours, recorded| {
        let (mut address, options) = offered(&recorded[0]);
        address[3] = 77;
        ours.len() == 1 && offered(&ours[0]) == (address, options)
    }),
    ("DHCP", |ours, recorded| ours.len() == 1 && offered(&ours[0]) == offered(&recorded[0])),
    // The host is .254 and not .253.
    ("ARP for the virtual host address", |ours, _| ours.is_empty()),
    ("ARP for any other address", |ours, _| ours.len() == 1 && ours[0][28..32] == [192, 168, 127, 254]),
    // No answers are made up: where nothing may be reached, that is said.
    ("ICMP echo to an address that does not exist", |ours, _| is_icmp(ours, GATEWAY, [3, 13])),
    ("ICMP echo with TTL 1", |ours, _| is_icmp(ours, GATEWAY, [11, 0])),
    ("UDP to link-local", |ours, _| is_icmp(ours, [169, 254, 169, 254], [3, 3])),
    // What the server says is passed on: there is no such name.
    ("DNS AAAA", |ours, recorded| ours.len() == 1 && ours[0][PAYLOAD + 10..] == unknown(&recorded[0])),
    // There is a router.
    ("IPv6 router solicitation", |ours, _| {
        ours.len() == 1 && ours[0][ETHERTYPE..ETHERTYPE + 2] == [0x86, 0xdd]
    }),
];

/// The same answer of a name server, with "no such name" for its code.
fn unknown(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame[PAYLOAD + 8..].to_vec();
    answer[3] |= 3;
    answer.split_off(2)
}

#[test]
fn recorded_questions_get_the_recorded_answers_or_better_ones() {
    let mut rig = Rig::new();
    let mut same = 0;
    for exchange in exchanges() {
        let answers: Vec<_> = rig.answers(&exchange).iter().map(|frame| comparable(frame)).collect();
        let recorded: Vec<_> = exchange.answered.iter().map(|frame| comparable(frame)).collect();
        if answers == recorded {
            same += 1;
            continue;
        }
        let other = OTHERS.iter().find(|(title, _)| exchange.title.starts_with(title));
        let expected = other.is_some_and(|(_, expected)| expected(&answers, &recorded));
        assert!(expected, "{}: {answers:02x?} instead of {recorded:02x?}", exchange.title);
    }
    assert_eq!(same, 8);
}
