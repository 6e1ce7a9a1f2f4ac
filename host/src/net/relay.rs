//! The relay for machines in browsers: Ethernet over WebSocket, as v86's `network_relay_url` speaks it.
//!
//! One binary message is one frame, without check sequence, in both directions. Each connection gets a network of
//! its own, whose card has the source address of the first frame. Any path is taken.
//!
//! A web page that is not ours must not get a way into the host's network: the browser tells where a page comes from
//! (`Origin`), and only this host's pages, and those that were named, are let in. Programs send no origin.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::{HeaderMap, StatusCode, header};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error as WsError, HandshakeError, Message, WebSocket};

use super::cable::MAX_FRAME;
use super::{CardEnd, NetConfig, UserNet, cable};
use crate::limits::RELAY_CONNECTIONS;

/// How long a client may take for each piece of its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Messages that wait for a client that does not read; the network waits then.
const WRITE_BUFFER: usize = 256 << 10;

/// Bytes of a connection on their way to the guest. v86's NE2000 has room for eight frames and drops the others, and
/// nothing tells how many it has taken: messages wait in the browser. Four frames of one connection, so that two
/// connections do not disturb each other.
const AHEAD: usize = 4 * 1460;

/// What the relay is started with.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Origins of web pages that are let in beside this host's own; `*` lets in all.
    pub origins: Vec<String>,
    /// The network each connection gets.
    pub net: NetConfig,
}

/// What the relay has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayEvent {
    /// A machine is connected.
    Connected(SocketAddr),
    /// It is gone.
    Disconnected(SocketAddr),
    /// A connection was refused, and why.
    Refused(SocketAddr, String),
}

type Observer = Arc<dyn Fn(RelayEvent) + Send + Sync>;

/// A running relay. Ends when it is dropped; so do its connections, a moment later.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    config: RelayConfig,
    observer: Observer,
    connections: AtomicUsize,
    ended: AtomicBool,
    /// Readable for ever once the relay has ended.
    end: OwnedFd,
}

impl Relay {
    /// Listens. `observer` is told what happens, on other threads.
    ///
    /// # Errors
    /// The address is taken or not for us.
    pub fn start(config: RelayConfig, observer: Observer) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen)?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            config,
            observer,
            connections: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            end: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let thread = {
            let shared = shared.clone();
            thread::Builder::new().name("relay".to_owned()).spawn(move || accept(&listener, &shared))?
        };
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(fds: &mut [PollFd<'_>]) {
    // A signal is as good as an event: whoever waits looks.
    let _ = poll(fds, None);
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::Acquire) {
        wait(&mut [PollFd::new(listener, PollFlags::IN), PollFd::new(&shared.end, PollFlags::IN)]);
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => {
                // No descriptors, for example: the listener stays readable.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let place = Place::take(shared);
        let shared = shared.clone();
        // Without a thread there is no connection, and the client sees that.
        let _ = thread::Builder::new().name("relay-card".to_owned()).spawn(move || {
            let result = match place {
                Some(_) => serve(stream, peer, &shared),
                None => {
                    refuse(&stream, "503 Service Unavailable", "too many connections");
                    Err("too many connections".to_owned())
                }
            };
            // Whoever hears of the end finds the place free.
            drop(place);
            (shared.observer)(match result {
                Ok(()) => RelayEvent::Disconnected(peer),
                Err(why) => RelayEvent::Refused(peer, why),
            });
        });
    }
}

/// One of the connections there may be at a time.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        if shared.connections.fetch_add(1, Ordering::AcqRel) >= RELAY_CONNECTIONS {
            shared.connections.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(shared.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn refuse(mut stream: &TcpStream, status: &str, text: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n");
    let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{text}\n", text.len() + 1);
}

/// Whether a page from `origin` may use the relay.
fn is_allowed(origin: Option<&str>, others: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    if others.iter().any(|other| other == "*" || other.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let Some(host) = host else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    matches!(name, "localhost" | "127.0.0.1" | "::1")
}

fn origin_of(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(None),
        (Some(origin), None) => origin.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

fn handshake(stream: TcpStream, shared: &Shared) -> Result<WebSocket<TcpStream>, String> {
    let failed = |error: io::Error| error.to_string();
    stream.set_nonblocking(false).map_err(failed)?;
    stream.set_read_timeout(Some(HANDSHAKE)).map_err(failed)?;
    stream.set_write_timeout(Some(HANDSHAKE)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let spare = stream.try_clone().map_err(failed)?;
    // The response type is the library's.
    #[allow(clippy::result_large_err)]
    let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        match origin_of(request.headers()) {
            Ok(origin) if is_allowed(origin, &shared.config.origins) => Ok(response),
            _ => {
                let mut refusal = ErrorResponse::new(Some("this page may not use the network\n".to_owned()));
                *refusal.status_mut() = StatusCode::FORBIDDEN;
                Err(refusal)
            }
        }
    };
    let limits = WebSocketConfig::default()
        .max_message_size(Some(64 << 10))
        .max_frame_size(Some(64 << 10))
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(WRITE_BUFFER);
    match tungstenite::accept_hdr_with_config(stream, check, Some(limits)) {
        Ok(socket) => Ok(socket),
        Err(HandshakeError::Failure(WsError::Http(response))) => Err(format!("status {}", response.status())),
        Err(HandshakeError::Failure(WsError::Io(error))) => Err(error.to_string()),
        Err(HandshakeError::Failure(error)) => {
            refuse(&spare, "400 Bad Request", "expecting websocket upgrade");
            Err(error.to_string())
        }
        Err(HandshakeError::Interrupted(_)) => Err("the client is too slow".to_owned()),
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared) -> Result<(), String> {
    let mut socket = handshake(stream, shared)?;
    let failed = |error: io::Error| error.to_string();
    socket.get_ref().set_nonblocking(true).map_err(failed)?;
    let wake =
        Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| e.to_string())?);
    (shared.observer)(RelayEvent::Connected(peer));
    let mut connection = Connection { wake, shared, card: None, is_full: false };
    // However it ends, the client is gone.
    let _ = connection.run(&mut socket);
    Ok(())
}

struct Connection<'a> {
    /// Readable when the network has something for the client.
    wake: Arc<OwnedFd>,
    shared: &'a Shared,
    /// The network, from the first frame on.
    card: Option<(CardEnd, UserNet)>,
    /// The client takes nothing at the moment.
    is_full: bool,
}

/// True if an operation has to wait for the socket; the error if it failed.
fn would_block<T>(result: Result<T, WsError>) -> Result<bool, WsError> {
    match result {
        Ok(_) => Ok(false),
        Err(WsError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

impl Connection<'_> {
    fn run(&mut self, socket: &mut WebSocket<TcpStream>) -> Result<(), WsError> {
        loop {
            let mut interest = PollFlags::IN;
            if self.is_full {
                interest |= PollFlags::OUT;
            }
            let stream = socket.get_ref().as_fd();
            wait(&mut [
                PollFd::from_borrowed_fd(stream, interest),
                PollFd::new(&*self.wake, PollFlags::IN),
                PollFd::new(&self.shared.end, PollFlags::IN),
            ]);
            if self.shared.ended.load(Ordering::Acquire) {
                return Ok(());
            }
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            self.read_client(socket)?;
            self.write_client(socket)?;
        }
    }

    fn read_client(&mut self, socket: &mut WebSocket<TcpStream>) -> Result<(), WsError> {
        /// Then the client gets something, too.
        const AT_ONCE: u32 = 256;
        for _ in 0..AT_ONCE {
            match socket.read() {
                // The reference takes texts as well.
                Ok(Message::Binary(frame)) => self.send(&frame)?,
                Ok(Message::Text(frame)) => self.send(frame.as_bytes())?,
                Ok(_) => {}
                other => {
                    would_block(other)?;
                    return Ok(());
                }
            }
        }
        // What is left in the library's buffer makes no descriptor readable.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), WsError> {
        use emu_devices::net::NetSink;
        let Some(source) = frame.get(6..12).and_then(|mac| <[u8; 6]>::try_from(mac).ok()) else {
            return Ok(());
        };
        if frame.len() > MAX_FRAME {
            return Ok(());
        }
        if self.card.is_none() {
            let wake = self.wake.clone();
            let (card, end) = cable(Arc::new(move || {
                let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
            }))?;
            let net = self.shared.config.net.clone();
            let config = NetConfig { guest_mac: source, ahead: Some(AHEAD), ..net };
            let net = UserNet::start(config, end).map_err(io::Error::other)?;
            self.card = Some((card, net));
        }
        if let Some((card, _)) = &mut self.card {
            card.send(frame);
        }
        Ok(())
    }

    fn write_client(&mut self, socket: &mut WebSocket<TcpStream>) -> Result<(), WsError> {
        self.is_full = would_block(socket.flush())?;
        let Some((card, _)) = &self.card else { return Ok(()) };
        let mut failure = None;
        let is_full = &mut self.is_full;
        card.receive(&mut |frame| {
            if *is_full || failure.is_some() {
                return false;
            }
            match would_block(socket.write(Message::binary(frame.to_vec()))) {
                // It is in the library's buffer.
                Ok(blocked) => *is_full = blocked,
                Err(WsError::WriteBufferFull(_)) => {
                    *is_full = true;
                    return false;
                }
                Err(error) => failure = Some(error),
            }
            true
        });
        if let Some(error) = failure {
            return Err(error);
        }
        self.is_full |= would_block(socket.flush())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    use tungstenite::client::IntoClientRequest;

    use super::*;
    use crate::net::{GATEWAY, GATEWAY_MAC};

    fn relay(origins: &[&str]) -> (Relay, Receiver<RelayEvent>) {
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let config = RelayConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            net: NetConfig::default(),
        };
        let observer = move |event| drop(sender.lock().unwrap().send(event));
        (Relay::start(config, Arc::new(observer)).unwrap(), events)
    }

    fn connect(relay: &Relay, path: &str, origin: Option<&str>) -> Result<WebSocket<TcpStream>, String> {
        let stream = TcpStream::connect(relay.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut request = format!("ws://{}{path}", relay.address()).into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.parse().unwrap());
        }
        tungstenite::client(request, stream).map(|(socket, _)| socket).map_err(|error| error.to_string())
    }

    /// "Who has the gateway's address? Tell 192.168.127.2".
    fn arp_request(mac: [u8; 6]) -> Vec<u8> {
        let mut frame = [&[0xFF; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
        frame.extend([192, 168, 127, 2, 0, 0, 0, 0, 0, 0]);
        frame.extend(GATEWAY.octets());
        frame
    }

    #[test]
    fn relay_carries_frames_of_each_client_to_a_network_of_its_own() {
        let (relay, _events) = relay(&[]);
        let clients =
            [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]].map(|mac| (mac, connect(&relay, "/any/path", None)));
        for (mac, client) in clients {
            let mut client = client.unwrap();
            client.send(Message::binary(vec![1; 5])).unwrap();
            client.send(Message::binary(vec![1; 5000])).unwrap();
            client.send(Message::binary(arp_request(mac))).unwrap();
            let answer = loop {
                match client.read().unwrap() {
                    Message::Binary(frame)
                        if frame.get(12..14) == Some(&[8, 6]) && frame.get(21) == Some(&2) =>
                    {
                        break frame;
                    }
                    _ => {}
                }
            };
            assert_eq!(answer[..6], mac);
            assert_eq!(answer[22..28], GATEWAY_MAC);
        }
    }

    #[test]
    fn relay_lets_in_pages_of_this_host_and_named_ones_only() {
        let (relay, events) = relay(&["https://demo.example"]);
        for (origin, allowed) in [
            ("http://localhost:8000", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:9", true),
            ("https://demo.example", true),
            ("https://evil.example", false),
            ("https://localhost.evil.example", false),
            ("http://127.0.0.1.evil.example:80", false),
            ("null", false),
        ] {
            assert_eq!(connect(&relay, "/", Some(origin)).is_ok(), allowed, "{origin}");
        }
        drop(relay);
        let refused = events.iter().filter(|event| matches!(event, RelayEvent::Refused(..))).count();
        assert_eq!(refused, 4);
    }

    #[test]
    fn relay_answers_plain_http_with_what_it_wants() {
        let (relay, _events) = relay(&[]);
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.ends_with("expecting websocket upgrade\n"), "{answer}");
    }

    #[test]
    fn relay_bounds_its_connections_and_frees_their_places() {
        let (relay, events) = relay(&[]);
        let mut clients: Vec<_> =
            (0..RELAY_CONNECTIONS).map(|_| connect(&relay, "/", None).unwrap()).collect();
        assert!(connect(&relay, "/", None).is_err());
        drop(clients.pop());
        while !matches!(events.recv().unwrap(), RelayEvent::Disconnected(_)) {}
        assert!(connect(&relay, "/", None).is_ok());
    }
}
