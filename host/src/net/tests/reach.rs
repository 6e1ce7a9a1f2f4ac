//! What a guest cannot reach: no socket of the host is made for it.

use super::*;
use crate::net::packet::{Ipv4, tcp_flag};
use crate::net::{HOST, Policy, Reach, Rule};

fn everywhere() -> Vec<Ipv4Addr> {
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "127.0.0.1",
        "127.1.2.3",
        "169.254.1.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.254",
        "192.0.0.1",
        "192.0.0.170",
        "192.168.0.1",
        "192.168.1.10",
        "192.168.127.0",
        "192.168.127.1",
        "192.168.127.2",
        "192.168.127.3",
        "192.168.127.253",
        "192.168.127.254",
        "192.168.127.255",
        "198.18.0.1",
        "198.19.255.255",
        "203.0.113.5",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "1.1.1.1",
        "8.8.8.8",
    ]
    .map(|addr| addr.parse().unwrap())
    .to_vec()
}

/// Tries everything everywhere. Returns the addresses for which the host was asked for a socket.
fn reached(policy: Policy, host_access: bool) -> Vec<Ipv4Addr> {
    let mut rig = Rig::new(NetConfig { policy, host_access, ..NetConfig::default() });
    rig.outside.0.lock().unwrap().own.push([192, 168, 1, 10].into());
    for addr in everywhere() {
        for port in [22, 53, 67, 80, 5353] {
            let to = SocketAddrV4::new(addr, port);
            rig.send(&tcp_frame(1000 + port, to, 1, tcp_flag::SYN));
            rig.send(&udp_frame(1000 + port, to, b"x"));
        }
        let mut echo = vec![0; 8];
        crate::net::packet::Echo { id: 1, sequence: 1, data: b"" }.write(&mut echo, false);
        rig.send(&ip_frame(GUEST, addr, 1, &echo));
        rig.turn_quickly();
        rig.frames();
    }
    let mut asked: Vec<Ipv4Addr> = rig
        .outside
        .asked()
        .into_iter()
        .filter_map(|addr| match addr {
            SocketAddr::V4(addr) => Some(*addr.ip()),
            SocketAddr::V6(_) => None,
        })
        .collect();
    asked.sort();
    asked.dedup();
    asked
}

fn addrs(texts: &[&str]) -> Vec<Ipv4Addr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const PUBLIC: [&str; 3] = ["1.1.1.1", "8.8.8.8", "203.0.113.5"];

#[test]
fn reach_by_default_excludes_the_host_and_its_neighbours() {
    let mut open = addrs(&PUBLIC);
    open.extend(addrs(&["10.0.0.1", "10.255.255.255", "100.64.0.1", "172.16.0.1", "172.31.255.254"]));
    open.extend(addrs(&["192.168.0.1", "198.18.0.1", "198.19.255.255"]));
    open.sort();
    assert_eq!(reached(Policy::default(), false), open);
}

#[test]
fn reach_without_private_networks_is_the_internet() {
    let policy = Policy { reach: Reach::NoPrivate, ..Policy::default() };
    assert_eq!(reached(policy, false), addrs(&PUBLIC));
}

#[test]
fn reach_of_nothing_is_what_is_allowed() {
    let policy = Policy { reach: Reach::Nothing, ..Policy::default() };
    assert_eq!(reached(policy.clone(), false), Vec::<Ipv4Addr>::new());
    let allow =
        ["8.8.8.8:53", "10.0.0.0/8:1-21", "169.254.169.254:80"].map(|text| Rule::parse(text).unwrap());
    let policy = Policy { allow: allow.to_vec(), ..policy };
    assert_eq!(reached(policy, false), addrs(&["8.8.8.8", "169.254.169.254"]));
}

#[test]
fn reach_denied_wins() {
    let policy = Policy {
        allow: vec![Rule::parse("*").unwrap(), Rule::parse("10.0.0.0/8").unwrap()],
        deny: ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "100.64.0.0/10"]
            .map(|text| Rule::parse(text).unwrap())
            .to_vec(),
        ..Policy::default()
    };
    assert_eq!(reached(policy, false), addrs(&PUBLIC));
}

#[test]
fn reach_of_the_host_is_its_loopback_address() {
    let policy = Policy { reach: Reach::Nothing, ..Policy::default() };
    assert_eq!(reached(policy.clone(), true), addrs(&["127.0.0.1"]));
    let allow = vec![Rule::parse("host.env86.internal:80").unwrap()];
    let policy = Policy { allow, ..policy };
    assert_eq!(reached(policy, false), addrs(&["127.0.0.1"]));
}

#[test]
fn reach_denied_is_answered_truthfully() {
    let mut rig = Rig::new(NetConfig::default());
    rig.send(&tcp_frame(1000, SocketAddrV4::new(HOST, 22), 1, tcp_flag::SYN));
    rig.send(&udp_frame(1000, SocketAddrV4::new(HOST, 22), b"x"));
    let kinds: Vec<_> = rig
        .answers()
        .iter()
        .map(|frame| {
            let ip = Ipv4::parse(&frame[ETHERNET..]).unwrap();
            (ip.protocol, ip.payload[0], ip.payload[13])
        })
        .collect();
    assert_eq!(kinds.len(), 2);
    assert_eq!((kinds[0].0, kinds[0].2), (6, tcp_flag::RST | tcp_flag::ACK));
    assert_eq!((kinds[1].0, kinds[1].1), (1, 3));
    assert_eq!(rig.stats().denied, 2);
    assert!(rig.outside.asked().is_empty());
}

#[test]
fn reach_rules_are_bounded() {
    let allow = vec![Rule::parse("1.1.1.1").unwrap(); crate::limits::NET_RULES + 1];
    let policy = Policy { allow, ..Policy::default() };
    let (_card, net) = cable(Arc::new(|| {})).unwrap();
    let error = crate::net::UserNet::start(NetConfig { policy, ..NetConfig::default() }, net).err().unwrap();
    assert!(matches!(error, crate::net::NetError::TooMany("rules")));
}
