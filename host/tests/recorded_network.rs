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

#[test]
fn recorded_questions_get_the_recorded_answers_or_better_ones() {
    let mut rig = Rig::new();
    for exchange in exchanges() {
        let answers: Vec<_> = rig.answers(&exchange).iter().map(|frame| comparable(frame)).collect();
        let recorded: Vec<_> = exchange.answered.iter().map(|frame| comparable(frame)).collect();
        println!("{}: {}", exchange.title, answers == recorded);
        for frame in &answers {
            println!("  ours {frame:02x?}");
        }
        for frame in &recorded {
            println!("  rec. {frame:02x?}");
        }
    }
}
