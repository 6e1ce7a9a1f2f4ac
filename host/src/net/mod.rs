//! The guest's network, made of the host's ordinary sockets: no root, no helper process.
//!
//! A card is connected by a [`cable`] to a [`UserNet`], whose one thread plays the router of a small network:
//!
//! | address | who |
//! | --- | --- |
//! | 192.168.127.0/24 | the network |
//! | [`GATEWAY`] | router, DHCP server, DNS server; its Ethernet address is [`GATEWAY_MAC`] |
//! | 192.168.127.2 | the VM; other cards on the same cable get the following addresses |
//! | [`HOST`] | the host's loopback address, if the policy opens it |
//! | [`SUBNET6`]`/64` | the same for IPv6: [`GATEWAY6`], [`HOST6`], and guests that make their addresses themselves |
//!
//! See `docs/usernet.md` for what it does and what it does not do, `docs/network.md` for the flags.

pub mod cable;
pub mod config;
pub mod policy;
pub mod relay;

mod connector;
mod dhcp;
mod dns;
mod dry;
mod endpoint;
mod flow;
mod forward;
mod hosts;
mod impair;
mod io;
mod line;
mod names;
mod neighbours;
mod packet;
mod packet6;
mod pcap;
mod ping;
mod poller;
mod reassembly;
mod resolver;
mod stack;
mod stats;
mod tcp;
mod udp;
mod user_net;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use cable::{CardEnd, NetEnd, cable};
pub use config::{Forward, Impairments, NetConfig, Protocol};
pub use dry::DryNet;
pub use policy::{Policy, Reach, Rule};
pub use stats::NetStats;
pub use user_net::UserNet;

/// Network address.
pub const SUBNET: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 0);
/// Bits of the network's part of an address.
pub const SUBNET_PREFIX: u32 = 24;
/// Router, DHCP and DNS server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
/// The VM.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
/// The host.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
/// All of the network.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 255);
/// Network address of IPv6, a unique local one (RFC 4193); the prefix has 64 bits.
pub const SUBNET6: Ipv6Addr = Ipv6Addr::new(0xfd5a, 0x94ef, 0xe40c, 0, 0, 0, 0, 0);
/// Router and DNS server.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd5a, 0x94ef, 0xe40c, 0, 0, 0, 0, 1);
/// The router as its neighbours know it.
pub const GATEWAY6_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The host: its ::1.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd5a, 0x94ef, 0xe40c, 0, 0, 0, 0, 0xfe);
/// Ethernet address of the gateway and of the host.
pub const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
/// Names of [`HOST`].
pub const HOST_NAMES: [&str; 3] = ["host.env86.internal", "host.docker.internal", "host.containers.internal"];

/// Bytes of an IP packet that fit into a frame.
pub const MTU: usize = 1500;

/// The gateway has this address.
fn is_gateway(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr == GATEWAY,
        IpAddr::V6(addr) => addr == GATEWAY6 || addr == GATEWAY6_LINK,
    }
}

/// This address stands for the host.
fn is_host(addr: IpAddr) -> bool {
    addr == HOST || addr == HOST6
}

/// A forward that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundForward {
    /// Protocol.
    pub protocol: Protocol,
    /// Where the host listens, with the port it chose if it had the choice.
    pub host: SocketAddr,
    /// Port in the guest.
    pub guest: u16,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A port is taken, or not for us.
    #[error("Cannot listen on {addr}/{protocol}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// How.
        protocol: Protocol,
        /// Why not.
        source: std::io::Error,
    },
    /// The capture file.
    #[error("Cannot write the capture file {path}")]
    Pcap {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// More forwards or rules than there may be.
    #[error("Cannot start the network: too many {0}")]
    TooMany(&'static str),
    /// The host.
    #[error("Cannot start the network")]
    Host(#[source] std::io::Error),
}
