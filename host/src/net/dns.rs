//! Messages of DNS (RFC 1035), as far as a forwarder has to understand them, and DNS over TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use smoltcp::socket::tcp;

/// Bytes of a message's head.
const HEAD: usize = 12;

/// Types of records.
pub(super) mod kind {
    pub(in crate::net) const A: u16 = 1;
    pub(in crate::net) const PTR: u16 = 12;
    pub(in crate::net) const AAAA: u16 = 28;
}

/// The internet's class.
const IN: u16 = 1;

/// Answers' codes.
pub(super) mod code {
    pub(in crate::net) const OK: u8 = 0;
    pub(in crate::net) const FORMAT: u8 = 1;
    pub(in crate::net) const FAILED: u8 = 2;
    pub(in crate::net) const NO_NAME: u8 = 3;
    pub(in crate::net) const NOT_HERE: u8 = 4;
    pub(in crate::net) const REFUSED: u8 = 5;
}

/// Seconds for which answers from here are good.
const TTL: u32 = 60;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, without the last dot. Bytes that are no printable ASCII stand as `?`.
    pub(super) name: String,
    pub(super) kind: u16,
    pub(super) class: u16,
    /// Where the question ends in the message.
    end: usize,
}

impl Question {
    pub(super) fn is_internet(&self) -> bool {
        self.class == IN
    }
}

/// Reads a name without compression.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            return Some((name, at));
        }
        if len > 63 || name.len() + len > 254 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = message.get(at..at + len)?;
        name.extend(label.iter().map(|byte| match byte {
            b'.' => '?', // a dot inside a label separates nothing
            byte if byte.is_ascii_graphic() => char::from(byte.to_ascii_lowercase()),
            _ => '?',
        }));
        at += len;
    }
}

/// What can be said of a message from a guest.
pub(super) enum Asked {
    /// A question.
    Question(Question),
    /// Nothing that is answered.
    Nonsense,
    /// Something that gets this code as its answer.
    Answer(u8),
}

/// Reads a message from a guest.
pub(super) fn read_question(message: &[u8]) -> Asked {
    let (Some(flags), Some(questions)) = (be16(message, 2), be16(message, 4)) else { return Asked::Nonsense };
    if message.len() < HEAD || flags & 0x8000 != 0 {
        return Asked::Nonsense;
    }
    if flags & 0x7800 != 0 {
        return Asked::Answer(code::NOT_HERE);
    }
    let read = || {
        let (name, at) = read_name(message, HEAD)?;
        let (kind, class) = (be16(message, at)?, be16(message, at + 2)?);
        Some(Question { name, kind, class, end: at + 4 })
    };
    match read() {
        Some(question) if questions == 1 => Asked::Question(question),
        _ => Asked::Answer(code::FORMAT),
    }
}

/// Something to say about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(String),
}

impl Record {
    pub(super) fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Aaaa(_) => kind::AAAA,
            Self::Ptr(_) => kind::PTR,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::A(addr) => addr.octets().to_vec(),
            Self::Aaaa(addr) => addr.octets().to_vec(),
            Self::Ptr(name) => {
                let mut data = Vec::new();
                for label in name.split('.') {
                    data.push(label.len().min(63) as u8);
                    data.extend(label.bytes().take(63));
                }
                data.push(0);
                data
            }
        }
    }
}

/// Makes an answer to a message with that question (if it has one).
pub(super) fn write_answer(
    message: &[u8],
    question: Option<&Question>,
    code: u8,
    records: &[Record],
) -> Vec<u8> {
    let mut answer = message.get(..2).unwrap_or(&[0, 0]).to_vec();
    let wanted = message.get(2).copied().unwrap_or(0) & 0x79; // operation, recursion desired
    answer.extend([0x80 | wanted, 0x80 | code]);
    let count = |n: usize| u16::try_from(n).unwrap_or(0).to_be_bytes();
    answer.extend(count(usize::from(question.is_some())));
    answer.extend(count(records.len()));
    answer.extend([0; 4]);
    answer.extend(question.and_then(|question| message.get(HEAD..question.end)).unwrap_or_default());
    for record in records {
        answer.extend([0xc0, HEAD as u8]); // the question's name
        answer.extend(record.kind().to_be_bytes());
        answer.extend(IN.to_be_bytes());
        answer.extend(TTL.to_be_bytes());
        let data = record.data();
        answer.extend(count(data.len()));
        answer.extend(data);
    }
    answer
}

/// Skips a name, compressed or not.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len if len > 63 => return None,
            len => at += 1 + usize::from(len),
        }
    }
}

/// Records of one answer that are looked at.
const LOOKED_AT: u16 = 64;

/// Code of an answer.
pub(super) fn answer_code(answer: &[u8]) -> u8 {
    answer.get(3).map_or(code::FAILED, |flags| flags & 0xf)
}

/// Addresses in an answer, and how long they are good.
pub(super) fn addresses(answer: &[u8]) -> Vec<(IpAddr, Duration)> {
    let mut found = Vec::new();
    let mut read = || {
        let mut at = HEAD;
        for _ in 0..be16(answer, 4)?.min(LOOKED_AT) {
            at = skip_name(answer, at)? + 4;
        }
        for _ in 0..be16(answer, 6)?.min(LOOKED_AT) {
            at = skip_name(answer, at)?;
            let (kind, class) = (be16(answer, at)?, be16(answer, at + 2)?);
            let ttl = u32::from(be16(answer, at + 4)?) << 16 | u32::from(be16(answer, at + 6)?);
            let len = usize::from(be16(answer, at + 8)?);
            let data = answer.get(at + 10..at + 10 + len)?;
            let addr = match kind {
                kind::A => data.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
                kind::AAAA => data.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
                _ => None,
            };
            if let Some(addr) = addr.filter(|_| class == IN) {
                found.push((addr, Duration::from_secs(ttl.into())));
            }
            at += 10 + len;
        }
        Some(())
    };
    // What cannot be read does not count; the guest reads it itself.
    let _ = read();
    found
}

/// Questions that one connection may have open.
const OPEN: usize = 8;

/// DNS over TCP: messages with their length before them.
#[derive(Default)]
pub(super) struct Stream {
    received: Vec<u8>,
    to_send: Vec<u8>,
    open: usize,
    closed: bool,
}

impl Stream {
    /// Moves bytes from and to the guest. True if something has moved.
    pub(super) fn exchange(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let mut moved = false;
        while socket.can_recv() && !self.has_questions() {
            // A message and the next one's length are enough to go on with.
            let room = (2 + usize::from(u16::MAX)).saturating_sub(self.received.len());
            let Ok(taken) = socket.recv(|bytes| {
                let taken = bytes.len().min(room);
                self.received.extend_from_slice(bytes.get(..taken).unwrap_or_default());
                (taken, taken)
            }) else {
                break;
            };
            moved |= taken > 0;
            if taken == 0 {
                break;
            }
        }
        while socket.can_send() && !self.to_send.is_empty() {
            let Ok(sent) = socket.send_slice(&self.to_send) else { break };
            self.to_send.drain(..sent);
            moved = true;
        }
        let quiet = self.open == 0 && self.to_send.is_empty() && !self.has_questions();
        if quiet && !self.closed && !socket.may_recv() {
            self.closed = true;
            socket.close();
            moved = true;
        }
        moved
    }

    /// The length of the first message, if it is complete and may be asked now.
    fn first(&self) -> Option<usize> {
        let len = usize::from(be16(&self.received, 0)?);
        (self.open < OPEN && self.received.len() >= 2 + len).then_some(len)
    }

    /// There is a complete question.
    pub(super) fn has_questions(&self) -> bool {
        self.first().is_some()
    }

    /// Takes the complete questions. Each of them needs an [`Self::answer`].
    pub(super) fn take_questions(&mut self) -> impl Iterator<Item = Vec<u8>> {
        std::iter::from_fn(|| {
            let len = self.first()?;
            let message = self.received.get(2..2 + len)?.to_vec();
            self.received.drain(..2 + len);
            self.open += 1;
            Some(message)
        })
    }

    /// Answers a question, or says that it gets no answer.
    pub(super) fn answer(&mut self, answer: Option<&[u8]>) {
        self.open = self.open.saturating_sub(1);
        if let Some(answer) = answer
            && let Ok(len) = u16::try_from(answer.len())
        {
            self.to_send.extend(len.to_be_bytes());
            self.to_send.extend_from_slice(answer);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::net) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(label.len() as u8);
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    fn question(message: &[u8]) -> Option<Question> {
        match read_question(message) {
            Asked::Question(question) => Some(question),
            _ => None,
        }
    }

    #[test]
    fn dns_question_is_read_in_lower_case() {
        let question = question(&query(7, "WWW.Example.com", kind::AAAA)).unwrap();
        assert_eq!((&*question.name, question.kind, question.class), ("www.example.com", kind::AAAA, 1));
    }

    #[test]
    fn dns_answers_are_read_as_written() {
        let message = query(7, "a.b", kind::A);
        let question = question(&message).unwrap();
        let records = [Record::A([1, 2, 3, 4].into()), Record::A([5, 6, 7, 8].into())];
        let answer = write_answer(&message, Some(&question), code::OK, &records);
        assert_eq!(answer[..8], [0, 7, 0x81, 0x80, 0, 1, 0, 2]);
        let minute = Duration::from_secs(60);
        assert_eq!(addresses(&answer), [([1, 2, 3, 4].into(), minute), ([5, 6, 7, 8].into(), minute)]);
    }

    #[test]
    fn dns_messages_that_ask_nothing_get_no_answer_or_an_error() {
        let mut response = query(7, "a.b", kind::A);
        response[2] |= 0x80;
        assert!(matches!(read_question(&response), Asked::Nonsense));
        assert!(matches!(read_question(&response[..11]), Asked::Nonsense));
        let mut update = query(7, "a.b", kind::A);
        update[2] |= 5 << 3;
        assert!(matches!(read_question(&update), Asked::Answer(code::NOT_HERE)));
        let mut two = query(7, "a.b", kind::A);
        two[5] = 2;
        assert!(matches!(read_question(&two), Asked::Answer(code::FORMAT)));
        let mut pointer = query(7, "", kind::A);
        pointer[12] = 0xc0;
        assert!(matches!(read_question(&pointer), Asked::Answer(code::FORMAT)));
        let long = vec!["x".repeat(63); 5].join(".");
        assert!(matches!(read_question(&query(7, &long, kind::A)), Asked::Answer(code::FORMAT)));
    }

    #[test]
    fn dns_stream_takes_messages_apart_and_bounds_open_ones() {
        let mut stream = Stream::default();
        let message = query(1, "a.b", kind::A);
        for _ in 0..OPEN + 2 {
            stream.received.extend((message.len() as u16).to_be_bytes());
            stream.received.extend(&message);
        }
        stream.received.extend([0, 9, 1]);
        let taken: Vec<_> = stream.take_questions().collect();
        assert_eq!(taken, vec![message.clone(); OPEN]);
        assert!(!stream.has_questions());
        stream.answer(Some(b"abc"));
        stream.answer(None);
        assert_eq!(stream.to_send, b"\0\x03abc");
        assert_eq!(stream.take_questions().count(), 2);
        assert_eq!(stream.received, [0, 9, 1]);
    }

    proptest! {
        #[test]
        fn dns_reading_never_fails_badly(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = addresses(&bytes);
            if let Asked::Question(question) = read_question(&bytes) {
                let answer = write_answer(&bytes, Some(&question), code::OK, &[]);
                prop_assert!(answer.len() <= bytes.len());
            }
        }
    }
}
