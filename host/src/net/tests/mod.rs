//! The network against a guest that is a second TCP/IP stack on the other end of the cable, and against raw
//! frames. The outside is on the host's loopback interface, under addresses of the tests' choice.

mod forwards;
mod hostile;
mod ipv6;
mod outbound;
mod reach;
mod services;
mod throughput;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use emu_devices::net::NetSink;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::cable::{CardEnd, cable};
use super::config::NetConfig;
use super::connector::{Connector, HostConnector};
use super::packet::{ETHERNET, IPV4, Ipv4Head, Mac, UDP, ethertype, write_udp};
use super::stack::Stack;
use super::stats::Counters;
use super::user_net::build;
use super::{BoundForward, GATEWAY, GATEWAY_MAC, GUEST};
use crate::clock;

/// The VM's card.
const VM: Mac = [0x00, 0x22, 0x15, 0x01, 0x02, 0x03];

/// How long a test may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The outside: which of its addresses are where on the loopback interface, and what was asked for.
#[derive(Clone, Default)]
struct Outside(Arc<Mutex<OutsideState>>);

#[derive(Default)]
struct OutsideState {
    places: HashMap<SocketAddr, SocketAddr>,
    pings: Option<SocketAddr>,
    asked: Vec<SocketAddr>,
    own: Vec<IpAddr>,
    has_ipv6: bool,
    /// Nothing ever comes of a connection; the other ends of what is handed out.
    black_hole: Option<Vec<UnixDatagram>>,
    /// Conversations of datagrams end here, with what they were sent; the last ones are kept.
    sink: Option<std::collections::VecDeque<UnixDatagram>>,
}

impl Outside {
    fn place(&self, outside: &str, inside: SocketAddr) -> SocketAddrV4 {
        let addr: SocketAddrV4 = outside.parse().unwrap();
        self.0.lock().unwrap().places.insert(SocketAddr::V4(addr), inside);
        addr
    }

    fn asked(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap().asked.clone()
    }

    fn find(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let mut state = self.0.lock().unwrap();
        state.asked.push(addr);
        state.places.get(&addr).copied().ok_or_else(|| rustix::io::Errno::HOSTUNREACH.into())
    }
}

impl Connector for Outside {
    fn tcp(&mut self, addr: SocketAddr) -> io::Result<OwnedFd> {
        if let Some(others) = &mut self.0.lock().unwrap().black_hole {
            // A socket whose queue is full is never writable.
            let (full, other) = UnixDatagram::pair()?;
            full.set_nonblocking(true)?;
            while full.send(&[0]).is_ok() {}
            others.push(other);
            return Ok(full.into());
        }
        self.find(addr).and_then(|addr| HostConnector.tcp(addr))
    }

    fn udp(&mut self, addr: SocketAddr) -> io::Result<OwnedFd> {
        if let Some(sink) = &mut self.0.lock().unwrap().sink {
            let (here, there) = UnixDatagram::pair()?;
            here.set_nonblocking(true)?;
            sink.push_back(there);
            // The conversation of the first one has given way.
            if sink.len() > crate::limits::NET_UDP_FLOWS {
                sink.pop_front();
            }
            return Ok(here.into());
        }
        self.find(addr).and_then(|addr| HostConnector.udp(addr))
    }

    fn ping(&mut self, addr: IpAddr) -> io::Result<OwnedFd> {
        let mut state = self.0.lock().unwrap();
        state.asked.push(SocketAddr::from((addr, 0)));
        match state.pings {
            Some(addr) => HostConnector.udp(addr),
            None => Err(rustix::io::Errno::ACCESS.into()),
        }
    }

    fn is_own(&mut self, addr: IpAddr) -> bool {
        self.0.lock().unwrap().own.contains(&addr)
    }

    fn has_ipv6(&mut self) -> bool {
        self.0.lock().unwrap().has_ipv6
    }
}

/// A network without a thread, and the card's end of its cable.
struct Rig {
    stack: Stack,
    card: CardEnd,
    outside: Outside,
    forwards: Vec<BoundForward>,
}

impl Rig {
    fn new(config: NetConfig) -> Self {
        let (card, net) = cable(Arc::new(|| {})).unwrap();
        let outside = Outside::default();
        let counters = Arc::new(Counters::default());
        let config = NetConfig { guest_mac: VM, ..config };
        let (stack, forwards) = build(config, net, Box::new(outside.clone()), counters, 86).unwrap();
        Self { stack, card, outside, forwards }
    }

    fn turn(&mut self) {
        self.stack.wait(Some(Duration::from_millis(1)));
        self.stack.turn(clock::now());
    }

    fn stats(&self) -> super::NetStats {
        self.stack.io.counters.snapshot()
    }

    /// Turns until something is true.
    fn until(&mut self, mut what: impl FnMut(&mut Self) -> bool) {
        let end = clock::now() + PATIENCE;
        while !what(self) {
            assert!(clock::now() < end, "it took too long");
            self.turn();
        }
    }

    /// Turns, polling the guest, until something is true.
    fn run(&mut self, guest: &mut Guest, mut what: impl FnMut(&mut Guest) -> bool) {
        self.until(|rig| {
            guest.poll();
            let done = what(guest);
            guest.poll();
            rig.turn_quickly();
            done
        });
    }

    fn turn_quickly(&mut self) {
        self.stack.wait(Some(Duration::ZERO));
        self.stack.turn(clock::now());
    }

    fn send(&mut self, frame: &[u8]) {
        self.card.send(frame);
    }

    /// What the card has got, after a turn.
    fn answers(&mut self) -> Vec<Vec<u8>> {
        self.turn_quickly();
        self.frames()
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.card.receive(&mut |frame| {
            frames.push(frame.to_vec());
            true
        });
        frames
    }
}

/// A frame with an IPv4 packet from the VM.
fn ip_frame(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + IPV4];
    frame[..6].copy_from_slice(&GATEWAY_MAC);
    frame[6..12].copy_from_slice(&VM);
    frame[12..14].copy_from_slice(&ethertype::IPV4.to_be_bytes());
    let head = Ipv4Head { src, dst, protocol, id: 1, offset: 0, more: false };
    head.write(&mut frame[ETHERNET..], payload.len());
    frame.extend(payload);
    frame
}

/// A frame with a datagram from the VM.
fn udp_frame(port: u16, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; UDP + payload.len()];
    write_udp(&mut datagram, SocketAddrV4::new(GUEST, port), to, payload);
    ip_frame(GUEST, *to.ip(), 17, &datagram)
}

/// A frame with a TCP segment without data from the VM.
fn tcp_frame(port: u16, to: SocketAddrV4, sequence: u32, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&port.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[12..16].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    let sum = super::packet::transport_checksum(GUEST, *to.ip(), 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip_frame(GUEST, *to.ip(), 6, &segment)
}

/// A guest with a TCP/IP stack.
struct Guest {
    device: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
}

/// The guest's card.
struct Card {
    end: CardEnd,
    received: std::collections::VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut CardEnd);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let received = &mut self.received;
        self.end.receive(&mut |frame| {
            let room = received.len() < 256;
            if room {
                received.push_back(frame.to_vec());
            }
            room
        });
        self.received.pop_front().map(|frame| (Received(frame), Sending(&mut self.end)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.end))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl Guest {
    /// A guest with a fixed address.
    fn new(card: &CardEnd, mac: Mac, addr: Ipv4Addr) -> Self {
        let mut device = Card { end: card.clone(), received: Default::default() };
        let start = clock::now();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = 86;
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::from_millis(1));
        interface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(IpAddress::Ipv4(addr), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Self { device, interface, sockets: SocketSet::new(Vec::new()), start, next_port: 2000 }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros((clock::now() - self.start).as_micros() as i64 + 1000)
    }

    fn poll(&mut self) {
        self.interface.poll(self.now(), &mut self.device, &mut self.sockets);
    }

    fn connect(&mut self, to: SocketAddrV4) -> SocketHandle {
        let ring = || tcp::SocketBuffer::new(vec![0; 256 << 10]);
        let mut socket = tcp::Socket::new(ring(), ring());
        socket.set_nagle_enabled(false);
        self.next_port += 1;
        let to = (IpAddress::Ipv4(*to.ip()), to.port());
        socket.connect(self.interface.context(), to, self.next_port).unwrap();
        self.sockets.add(socket)
    }

    fn listen(&mut self, port: u16) -> SocketHandle {
        let ring = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = tcp::Socket::new(ring(), ring());
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Takes what has been received.
    fn read(&mut self, handle: SocketHandle, into: &mut Vec<u8>) {
        let socket = self.tcp(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), into.extend_from_slice(bytes))).unwrap();
        }
    }
}

/// A server on the loopback interface that serves one connection after the other.
fn server(
    connections: usize,
    serve: impl Fn(TcpStream) + Send + Sync + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    let thread = std::thread::spawn(move || {
        let served: Vec<_> = (0..connections)
            .map(|_| {
                let (stream, _) = listener.accept().unwrap();
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream))
            })
            .collect();
        served.into_iter().for_each(|thread| thread.join().unwrap());
    });
    (addr, thread)
}

/// Sends back what comes until the end, or until the connection breaks.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Bytes that repeat late.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}
