//! The gateway's DNS server: answers what it knows, asks the host's servers everything else.
//!
//! Questions are passed on as they are, and so are answers; only the number that tells them apart is another
//! one on the host's side.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::GUEST;
use super::dns::{Asked, Question, Record, addresses, answer_code, code, kind, read_question, write_answer};
use super::io::Io;
use super::names::Names;
use super::poller::{Kind, Ready, Token};
use crate::limits::NET_DNS_QUERIES;

/// How long one server gets.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often all servers are asked.
const ROUNDS: usize = 2;

/// How long addresses of names that rules speak of are remembered at least and at most: programs keep them for
/// longer than DNS says, but not for ever.
const REMEMBERED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(24 * 3600));

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Over UDP, from there, at this address of the gateway's.
    Udp(SocketAddr, IpAddr),
    /// Over a TCP connection with that number.
    Tcp(u64),
}

struct Query {
    client: Client,
    question: Question,
    message: Vec<u8>,
    /// The number on the host's side.
    number: u16,
    attempt: usize,
    until: Instant,
    socket: OwnedFd,
    /// Over TCP: what is still to be sent, and what was received.
    stream: Option<(Vec<u8>, Vec<u8>)>,
    timer: Option<Instant>,
}

/// See the module.
pub(super) struct Resolver {
    names: Names,
    queries: HashMap<u64, Query>,
    /// Answers for clients over TCP.
    pub(super) answers: Vec<(u64, Option<Vec<u8>>)>,
}

/// What has come of looking at a socket.
enum News {
    Nothing,
    Answer(Vec<u8>),
    Failed,
}

impl Resolver {
    pub(super) fn new(names: Names) -> Self {
        Self { names, queries: HashMap::new(), answers: Vec::new() }
    }

    /// Questions that wait for an answer.
    pub(super) fn len(&self) -> usize {
        self.queries.len()
    }

    fn reply(&mut self, io: &mut Io, client: Client, answer: Option<Vec<u8>>) {
        match (client, answer) {
            (Client::Tcp(flow), answer) => self.answers.push((flow, answer)),
            (Client::Udp(guest, gateway), Some(answer)) => {
                io.send_udp(SocketAddr::new(gateway, 53), guest, &answer);
            }
            (Client::Udp(..), None) => {}
        }
    }

    /// Somebody asks.
    pub(super) fn ask(&mut self, io: &mut Io, client: Client, message: &[u8]) {
        io.counters.dns_queries.inc();
        let question = match read_question(message) {
            Asked::Question(question) => question,
            Asked::Nonsense => {
                io.counters.malformed.inc();
                return self.reply(io, client, None);
            }
            Asked::Answer(code) => {
                io.counters.malformed.inc();
                return self.reply(io, client, Some(write_answer(message, None, code, &[])));
            }
        };
        let guest = match client {
            Client::Udp(SocketAddr::V4(guest), _) => *guest.ip(),
            _ => io.hosts.guest().unwrap_or(GUEST),
        };
        if !io.guard.may_resolve(&question.name) {
            io.counters.denied.inc();
            let answer = write_answer(message, Some(&question), code::REFUSED, &[]);
            return self.reply(io, client, Some(answer));
        }
        if let Some((code, mut records)) = self.names.answer(&question, guest, io.now) {
            let in_vain = |record: &Record| matches!(record, Record::Aaaa(addr) if !addr.is_loopback());
            if records.iter().any(in_vain) && !io.connector.has_ipv6() {
                records.retain(|record| !in_vain(record));
            }
            let answer = write_answer(message, Some(&question), code, &records);
            self.learn(io, &question.name, &answer);
            return self.reply(io, client, Some(answer));
        }
        if self.queries.len() >= NET_DNS_QUERIES {
            io.counters.limited.inc();
            return self.reply(io, client, None);
        }
        self.attempt(io, client, question, message.to_vec(), 0);
    }

    /// Asks the next server, until there is none that can be asked.
    fn attempt(&mut self, io: &mut Io, client: Client, question: Question, message: Vec<u8>, first: usize) {
        let servers = self.names.servers(io.now).to_vec();
        for attempt in first..servers.len() * ROUNDS {
            let Some(server) = servers.get(attempt % servers.len()) else { break };
            let number = io.random() as u16;
            let Some((socket, stream)) = begin(io, client, *server, number, &message) else { continue };
            let id = io.new_id();
            let token = Token::new(Kind::Dns, id);
            if io.poller.add(&socket, token).is_err() {
                break;
            }
            let until = io.now + PATIENCE;
            let mut timer = None;
            io.timers.by(token, &mut timer, until);
            let query = Query { client, question, message, number, attempt, until, socket, stream, timer };
            self.queries.insert(id, query);
            return;
        }
        let answer = write_answer(&message, Some(&question), code::FAILED, &[]);
        self.reply(io, client, Some(answer));
    }

    fn learn(&mut self, io: &mut Io, name: &str, answer: &[u8]) {
        for (addr, ttl) in addresses(answer) {
            io.guard.learn(name, addr, io.now + ttl.clamp(REMEMBERED.0, REMEMBERED.1));
        }
    }

    /// Something has happened to a question's socket.
    pub(super) fn event(&mut self, io: &mut Io, id: u64, _: Ready) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        let news = if query.stream.is_some() { query.stream_news() } else { query.news(&mut io.buffer) };
        match news {
            News::Nothing => {}
            News::Failed => self.next(io, id),
            News::Answer(mut answer) => {
                let Some(query) = self.queries.remove(&id) else { return };
                io.timers.cancel(Token::new(Kind::Dns, id), query.timer);
                // Addresses that nobody can reach from here only make guests wait.
                let is_aaaa = query.question.kind == kind::AAAA && query.question.is_internet();
                if is_aaaa && answer_code(&answer) == code::OK && !io.connector.has_ipv6() {
                    answer = write_answer(&query.message, Some(&query.question), code::OK, &[]);
                }
                if let (Some(space), Some(number)) = (answer.get_mut(..2), query.message.get(..2)) {
                    space.copy_from_slice(number);
                }
                self.learn(io, &query.question.name, &answer);
                self.reply(io, query.client, Some(answer));
            }
        }
    }

    /// A question's time is over.
    pub(super) fn timer(&mut self, io: &mut Io, id: u64) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        query.timer = None;
        if query.until <= io.now {
            self.next(io, id);
        } else {
            io.timers.by(Token::new(Kind::Dns, id), &mut query.timer, query.until);
        }
    }

    fn next(&mut self, io: &mut Io, id: u64) {
        let Some(query) = self.queries.remove(&id) else { return };
        io.timers.cancel(Token::new(Kind::Dns, id), query.timer);
        self.attempt(io, query.client, query.question, query.message, query.attempt + 1);
    }
}

/// Bytes to send and bytes received.
type Streamed = (Vec<u8>, Vec<u8>);

/// Asks one server.
fn begin(
    io: &mut Io,
    client: Client,
    server: SocketAddr,
    number: u16,
    message: &[u8],
) -> Option<(OwnedFd, Option<Streamed>)> {
    let mut message = message.to_vec();
    message.get_mut(..2)?.copy_from_slice(&number.to_be_bytes());
    match client {
        Client::Udp(..) => {
            let socket = io.connector.udp(server).ok()?;
            rustix::net::send(&socket, &message, SendFlags::NOSIGNAL).ok()?;
            Some((socket, None))
        }
        Client::Tcp(_) => {
            let socket = io.connector.tcp(server).ok()?;
            let mut bytes = u16::try_from(message.len()).ok()?.to_be_bytes().to_vec();
            bytes.extend(message);
            Some((socket, Some((bytes, Vec::new()))))
        }
    }
}

impl Query {
    /// An answer to this question: the number is the only thing a stranger could not know.
    fn is_answer(&self, answer: &[u8]) -> bool {
        let number = self.number.to_be_bytes();
        answer.len() >= 12
            && answer.starts_with(&number)
            && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
    }

    fn news(&mut self, buffer: &mut [u8]) -> News {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, len)) => match buffer.get(..len) {
                    Some(answer) if self.is_answer(answer) => return News::Answer(answer.to_vec()),
                    _ => {}
                },
                Err(Errno::AGAIN) => return News::Nothing,
                Err(Errno::INTR) => {}
                Err(_) => return News::Failed,
            }
        }
    }

    fn stream_news(&mut self) -> News {
        let Some((to_send, received)) = &mut self.stream else { return News::Failed };
        while !to_send.is_empty() {
            match rustix::net::send(&self.socket, to_send, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(to_send.drain(..sent.min(to_send.len()))),
                Err(Errno::AGAIN | Errno::NOTCONN) => return News::Nothing,
                Err(Errno::INTR) => {}
                Err(_) => return News::Failed,
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((_, 0)) => return News::Failed,
                Ok((_, len)) => received.extend(buffer.get(..len).unwrap_or_default()),
                Err(Errno::AGAIN) => return News::Nothing,
                Err(Errno::INTR) => continue,
                Err(_) => return News::Failed,
            }
            let Some(len) = received.first_chunk::<2>().map(|len| usize::from(u16::from_be_bytes(*len)))
            else {
                continue;
            };
            if let Some(answer) = received.get(2..2 + len) {
                let answer = answer.to_vec();
                return if self.is_answer(&answer) { News::Answer(answer) } else { News::Failed };
            }
        }
    }
}
