//! One end of one TCP connection with the guest.
//!
//! smoltcp's interfaces go through all their sockets for every packet. Here every connection has an interface
//! of its own, without an Ethernet layer, whose only address is the one that the guest talks to; finding the
//! connection of a packet is this network's business. So the work for a packet does not depend on the number of
//! connections.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use super::MTU;
use super::cable::Frames;
use super::line::Line;
use super::packet::{ETHERNET, Mac};

/// How long the guest may take to answer while a connection is made.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval of probes on connections that are silent. A guest that was restarted answers with a reset.
const KEEP_ALIVE: SmolDuration = SmolDuration::from_secs(120);

/// A guest that does not answer at all for so long is gone.
const GONE: SmolDuration = SmolDuration::from_secs(1800);

/// Acknowledgements wait so long for data to go with.
const ACK_DELAY: SmolDuration = SmolDuration::from_millis(5);

/// See the module.
pub(super) struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    epoch: Instant,
}

/// Bytes of a connection's rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    /// What the guest may send before the host takes it.
    pub(super) from_guest: usize,
    /// What is sent before the guest acknowledges it.
    pub(super) to_guest: usize,
}

/// Frames for one connection, and the way back.
pub(super) struct Packets<'a> {
    pub(super) line: &'a mut Line,
    /// The guest's card.
    pub(super) mac: Mac,
    /// Of its version of IP.
    pub(super) ethertype: u16,
    pub(super) batch: &'a Frames,
    /// Frames of the batch.
    pub(super) frames: std::vec::Drain<'a, usize>,
    /// A packet that comes before them, without a frame.
    pub(super) packet: Option<&'a [u8]>,
    /// Something could not be sent for lack of room.
    pub(super) blocked: bool,
}

impl Device for Packets<'_> {
    type RxToken<'b>
        = Rx<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Tx<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: SmolInstant) -> Option<(Rx<'_>, Tx<'_>)> {
        let packet = match self.packet.take() {
            Some(packet) => packet,
            None => self.batch.get(self.frames.next()?)?.get(ETHERNET..)?,
        };
        Some((Rx(packet), Tx { line: self.line, mac: self.mac, ethertype: self.ethertype }))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Tx<'_>> {
        if !self.line.has_room() {
            self.blocked = true;
            return None;
        }
        Some(Tx { line: self.line, mac: self.mac, ethertype: self.ethertype })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// A packet for the connection.
pub(super) struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a packet of the connection.
pub(super) struct Tx<'a> {
    line: &'a mut Line,
    mac: Mac,
    ethertype: u16,
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.line.send(self.mac, self.ethertype, len, f)
    }
}

/// A device for what needs one and does nothing with it.
struct NoPackets;

impl Device for NoPackets {
    type RxToken<'b> = Rx<'b>;
    type TxToken<'b> = Tx<'b>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Rx<'_>, Tx<'_>)> {
        None
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Tx<'_>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

fn address(addr: IpAddr) -> IpAddress {
    match addr {
        IpAddr::V4(addr) => IpAddress::Ipv4(addr),
        IpAddr::V6(addr) => IpAddress::Ipv6(addr),
    }
}

fn endpoint(addr: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(address(addr.ip()), addr.port())
}

impl Endpoint {
    fn new(local: SocketAddr, rings: Rings, epoch: Instant, now: Instant, seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut NoPackets, smol(epoch, now));
        interface.update_ip_addrs(|addrs| {
            // There is room for one address at least.
            let _ = addrs.push(IpCidr::new(address(local.ip()), if local.is_ipv4() { 32 } else { 128 }));
        });
        let ring = |size: usize| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(ring(rings.from_guest), ring(rings.to_guest));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_timeout(Some(CONNECT_TIMEOUT.into()));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, epoch }
    }

    /// An end that waits for the guest's SYN. `None` for an address that nobody can have.
    pub(super) fn listen(
        local: SocketAddr,
        rings: Rings,
        epoch: Instant,
        now: Instant,
        seed: u64,
    ) -> Option<Self> {
        let mut this = Self::new(local, rings, epoch, now, seed);
        this.socket().listen(IpListenEndpoint::from(endpoint(local))).ok()?;
        Some(this)
    }

    /// An end that connects to the guest.
    pub(super) fn connect(
        local: SocketAddr,
        guest: SocketAddr,
        rings: Rings,
        epoch: Instant,
        now: Instant,
        seed: u64,
    ) -> Option<Self> {
        let mut this = Self::new(local, rings, epoch, now, seed);
        let socket = this.sockets.get_mut::<tcp::Socket<'_>>(this.handle);
        socket.connect(this.interface.context(), endpoint(guest), endpoint(local)).ok()?;
        Some(this)
    }

    /// The connection is made: from now on silence is no reason to give up.
    pub(super) fn established(&mut self) {
        let socket = self.socket();
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(GONE));
    }

    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Works off packets and sends what there is to send.
    pub(super) fn poll(&mut self, now: Instant, packets: &mut Packets<'_>) {
        self.interface.poll(smol(self.epoch, now), packets, &mut self.sockets);
    }

    /// When it wants to be polled again.
    pub(super) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(smol(self.epoch, now), &self.sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(self.epoch + Duration::from_micros(micros))
    }
}

/// smoltcp's time. Zero means something special there.
fn smol(epoch: Instant, now: Instant) -> SmolInstant {
    let micros = now.saturating_duration_since(epoch).as_micros();
    SmolInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
