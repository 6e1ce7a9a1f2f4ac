//! How the network reaches the outside. Tests put something else in its place.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// Makes sockets towards the outside. What it is asked for has passed the policy.
pub(super) trait Connector: Send {
    /// Begins to connect. The socket gets writable when that is done, and has an error if it failed.
    fn tcp(&mut self, addr: SocketAddr) -> io::Result<OwnedFd>;
    /// A connected datagram socket.
    fn udp(&mut self, addr: SocketAddr) -> io::Result<OwnedFd>;
    /// A connected datagram socket for ICMP echo messages, which fills in checksum and identifier.
    fn ping(&mut self, addr: IpAddr) -> io::Result<OwnedFd>;
    /// The address is one of the host's.
    fn is_own(&mut self, addr: IpAddr) -> bool;
    /// The host has a way to the IPv6 internet, and an address of it.
    fn has_ipv6(&mut self) -> bool;
}

/// The host's sockets.
pub(super) struct HostConnector;

/// Interval of probes on connections to the outside that are silent.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// An address of the IPv6 internet: where the way there begins is where all ways there begin.
const SOMEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);

fn socket(addr: &SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

impl Connector for HostConnector {
    fn tcp(&mut self, addr: SocketAddr) -> io::Result<OwnedFd> {
        let socket = socket(&addr, SocketType::STREAM)?;
        prepare_tcp(&socket);
        match rustix::net::connect(&socket, &addr) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }

    fn udp(&mut self, addr: SocketAddr) -> io::Result<OwnedFd> {
        let socket = socket(&addr, SocketType::DGRAM)?;
        rustix::net::connect(&socket, &addr)?;
        Ok(socket)
    }

    fn ping(&mut self, addr: IpAddr) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, protocol) = match addr {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
        rustix::net::connect(&socket, &SocketAddr::new(addr, 0))?;
        Ok(socket)
    }

    fn is_own(&mut self, addr: IpAddr) -> bool {
        // Whoever talks to the host from the host does it from the very address it talks to, or from a loopback
        // address. Connecting a datagram socket sends nothing.
        let addr = SocketAddr::from((addr, 9));
        let Ok(socket) = self.udp(addr) else { return false };
        let Ok(local) = rustix::net::getsockname(&socket) else { return false };
        SocketAddr::try_from(local).is_ok_and(|local| local.ip() == addr.ip() || local.ip().is_loopback())
    }

    fn has_ipv6(&mut self) -> bool {
        let Ok(socket) = self.udp(SocketAddr::from((SOMEWHERE6, 9))) else { return false };
        let Ok(local) = rustix::net::getsockname(&socket) else { return false };
        // A host with only unique local addresses has a network, and not the internet.
        SocketAddr::try_from(local).is_ok_and(|local| match local.ip() {
            IpAddr::V6(addr) => addr.segments()[0] & 0xe000 == 0x2000,
            IpAddr::V4(_) => false,
        })
    }
}

/// Options of every connection of the host: small messages at once, and dead peers are found.
pub(super) fn prepare_tcp(socket: &OwnedFd) {
    // A connection without them is still one.
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEP_ALIVE);
}

/// Closes a connection so that the peer sees that it was broken off.
pub(super) fn reset(socket: OwnedFd) {
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
    drop(socket);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn connector_knows_the_hosts_own_addresses() {
        assert!(HostConnector.is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(HostConnector.is_own([127, 9, 9, 9].into()));
        assert!(!HostConnector.is_own([192, 0, 2, 1].into()));
    }

    #[test]
    fn connector_refused_connection_is_an_error() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(HostConnector.tcp(addr).is_ok());
        drop(listener);
        let refused = match HostConnector.tcp(addr) {
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            Ok(socket) => sockopt::socket_error(&socket).unwrap().is_err(),
        };
        assert!(refused);
    }
}
