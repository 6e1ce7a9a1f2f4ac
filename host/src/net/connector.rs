//! How the network reaches the outside. Tests put something else in its place.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
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
    fn ping(&mut self, addr: Ipv4Addr) -> io::Result<OwnedFd>;
    /// The address is one of the host's.
    fn is_own(&mut self, addr: Ipv4Addr) -> bool;
}

/// The host's sockets.
pub(super) struct HostConnector;

/// Interval of probes on connections to the outside that are silent.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

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

    fn ping(&mut self, addr: Ipv4Addr) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::ICMP))?;
        rustix::net::connect(&socket, &SocketAddrV4::new(addr, 0))?;
        Ok(socket)
    }

    fn is_own(&mut self, addr: Ipv4Addr) -> bool {
        // Whoever talks to the host from the host does it from the very address it talks to, or from a loopback
        // address. Connecting a datagram socket sends nothing.
        let addr = SocketAddr::from((addr, 9));
        let Ok(socket) = self.udp(addr) else { return false };
        let Ok(local) = rustix::net::getsockname(&socket) else { return false };
        SocketAddrV4::try_from(local).is_ok_and(|local| local.ip() == &addr.ip() || local.ip().is_loopback())
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
    use super::*;

    #[test]
    fn connector_knows_the_hosts_own_addresses() {
        assert!(HostConnector.is_own(Ipv4Addr::LOCALHOST));
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
