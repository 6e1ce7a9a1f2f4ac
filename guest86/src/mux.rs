//! Channels over one byte stream: what both ends keep track of.
//!
//! A [`Session`] is fed the bytes that arrive and collects the bytes to be sent; it waits for nothing and
//! does no input or output. The rules, in short:
//!
//! - Each end numbers its own end of a channel and is addressed by that number.
//! - A sender may have as many payload bytes outstanding as its receiver has allowed, in OPEN or
//!   OPEN-CONFIRM and with WINDOW-ADJUST since.
//! - EOF ends one direction. CLOSE ends both; each end sends it once, and nothing after it.
//!
//! There is no greeting. An end that joins a line on which an earlier session may have stopped in the
//! middle of a frame has two ways to get in step: the opening end skips everything before the answer to its
//! own OPEN ([`Session::hunt`]), the accepting end gives up an unfinished frame when, after a pause on the
//! line, an OPEN of our own making follows ([`Session::pause`]).

use crate::frame::{self, Frame, UnknownType};
use crate::limits;
use std::collections::{BTreeMap, VecDeque};

/// A channel, in the words of the end that owns the session. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(u64);

/// Breaches after which the stream cannot be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No frame starts with this byte.
    UnknownType(u8),
    /// A DATA frame is longer than we take.
    Packet(u32),
    /// More payload than the window allows.
    Window,
    /// A WINDOW-ADJUST makes the window larger than 2^32-1.
    Credit,
    /// An answer to an OPEN that was not sent, or with an impossible "maximum packet".
    Confirm,
    /// The other end makes us answer faster than it reads.
    Flood,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownType(kind) => write!(f, "no frame starts with byte {kind:#04x}"),
            Self::Packet(length) => write!(f, "frame with {length} bytes of data"),
            Self::Window => f.write_str("more data than the window allows"),
            Self::Credit => f.write_str("window larger than 2^32-1"),
            Self::Confirm => f.write_str("answer to a channel that was not asked for"),
            Self::Flood => f.write_str("questions are not followed by reading the answers"),
        }
    }
}

impl std::error::Error for Violation {}

impl From<UnknownType> for Violation {
    fn from(kind: UnknownType) -> Self {
        Self::UnknownType(kind.0)
    }
}

/// Which end of the line a session is.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Opens channels and refuses those the other end opens. Numbers count up from here and are never used
    /// again, so that frames of an earlier session meet no channel of this one.
    Opens {
        /// First number.
        first: u32,
    },
    /// Accepts channels and opens none. Takes the lowest free number.
    Accepts,
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// OPEN was sent, the answer is not here yet.
    Opening,
    /// Both ends know each other's number.
    Open,
    /// The other end refused.
    Refused,
    /// The other end sent CLOSE, or we did.
    Closed,
    /// There is no such channel (any more).
    Gone,
}

#[derive(Debug)]
struct Channel {
    number: u32,
    peer: u32,
    stage: Stage,
    /// Payload the other end takes in one frame.
    packet: u32,
    /// Payload we may still send.
    window: u32,
    /// Payload sent and not credited.
    outstanding: u32,
    received: VecDeque<u8>,
    /// Payload the other end may still send.
    offered: u32,
    /// Payload read and not yet credited.
    owed: u32,
    sent_eof: bool,
    sent_close: bool,
    got_eof: bool,
    got_close: bool,
}

/// What to do with the bytes that arrive.
enum Decoder {
    /// Collecting a header in [`Session::header`].
    Header,
    /// Payload for a channel, or for none.
    Payload { channel: Option<Handle>, left: usize },
    /// Skipping until the answer to an OPEN; the last five bytes.
    Hunting(u64),
}

/// All channels of a line.
pub struct Session {
    role: Role,
    next_number: u32,
    next_handle: u64,
    decoder: Decoder,
    header: Vec<u8>,
    /// After a pause inside a frame: bytes that may be the start of a new session.
    probe: Option<Vec<u8>>,
    channels: BTreeMap<Handle, Channel>,
    numbers: BTreeMap<u32, Handle>,
    incoming: VecDeque<Handle>,
    out: Vec<u8>,
}

impl Session {
    /// A session without channels.
    pub fn new(role: Role) -> Self {
        let next_number = match role {
            Role::Opens { first } => first,
            Role::Accepts => 0,
        };
        Self {
            role,
            next_number,
            next_handle: 0,
            decoder: Decoder::Header,
            header: Vec::with_capacity(frame::MAX_HEADER),
            probe: None,
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
            incoming: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// Skips what arrives until the first answer to an OPEN of this session: a restored guest may be in the
    /// middle of a frame of the session before. Only sensible with a random first number.
    pub fn hunt(&mut self) {
        self.decoder = Decoder::Hunting(0);
    }

    /// Forgets all channels and starts anew; handles given out so far stay invalid.
    pub fn reset(&mut self) {
        let next_handle = self.next_handle;
        *self = Self { next_handle, ..Self::new(self.role) };
    }

    /// Whether a frame has begun and not ended.
    pub fn mid_frame(&self) -> bool {
        match &self.decoder {
            Decoder::Header => !self.header.is_empty() || self.probe.is_some(),
            Decoder::Payload { .. } => true,
            Decoder::Hunting(_) => false,
        }
    }

    /// Tells that nothing has arrived for a while although a frame has begun. If the next bytes are an OPEN
    /// with exactly the window and packet that this crate offers, they start a new session; else the frame
    /// goes on with them, at the latest when there is another pause.
    pub fn pause(&mut self) -> Result<(), Violation> {
        if let Some(held) = self.probe.take() {
            self.receive(&held)?;
        }
        if self.mid_frame() {
            self.probe = Some(Vec::new());
        }
        Ok(())
    }

    /// Asks for a channel.
    pub fn open(&mut self) -> Handle {
        let number = self.free_number();
        Frame::Open { from: number, window: limits::WINDOW, packet: limits::PACKET }.encode(&mut self.out);
        self.add(number, Channel::new(number, Stage::Opening, 0, 0, limits::MIN_PACKET))
    }

    /// The oldest channel that the other end opened and nobody has taken yet.
    pub fn accept(&mut self) -> Option<Handle> {
        self.incoming.pop_front()
    }

    fn add(&mut self, number: u32, channel: Channel) -> Handle {
        let handle = Handle(self.next_handle);
        self.next_handle += 1;
        self.numbers.insert(number, handle);
        self.channels.insert(handle, channel);
        handle
    }

    fn free_number(&mut self) -> u32 {
        match self.role {
            Role::Accepts => (0..).find(|number| !self.numbers.contains_key(number)).unwrap_or(u32::MAX),
            Role::Opens { .. } => loop {
                let number = self.next_number;
                self.next_number = number.wrapping_add(1);
                if !self.numbers.contains_key(&number) {
                    return number;
                }
            },
        }
    }

    /// Takes bytes from the line. After an error the session is of no use any more; see [`Session::reset`].
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        if let Some(mut probe) = self.probe.take() {
            let mut pattern = Vec::new();
            Frame::Open { from: 0, window: limits::WINDOW, packet: limits::PACKET }.encode(&mut pattern);
            while probe.len() < pattern.len() {
                let Some((&byte, rest)) = bytes.split_first() else {
                    self.probe = Some(probe);
                    return Ok(());
                };
                let at = probe.len();
                probe.push(byte);
                bytes = rest;
                // The number may be any.
                if pattern.get(at).is_some_and(|&expected| expected != byte) && !(1..5).contains(&at) {
                    break;
                }
            }
            if probe.len() == pattern.len() && probe.ends_with(&pattern[5..]) {
                self.reset();
            }
            self.receive(&probe)?;
        }
        while !bytes.is_empty() {
            bytes = self.step(bytes)?;
        }
        Ok(())
    }

    /// Takes some of the bytes and returns the rest.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Violation> {
        match &mut self.decoder {
            Decoder::Payload { channel, left } => {
                let count = bytes.len().min(*left);
                let (payload, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
                *left -= payload.len();
                let channel = *channel;
                if *left == 0 {
                    self.decoder = Decoder::Header;
                }
                if let Some(channel) = channel.and_then(|handle| self.channels.get_mut(&handle)) {
                    channel.received.extend(payload);
                }
                Ok(rest)
            }
            Decoder::Hunting(last) => {
                let mut window = *last;
                for (index, &byte) in bytes.iter().enumerate() {
                    window = (window << 8 | u64::from(byte)) & 0xff_ffff_ffff;
                    let number = window as u32;
                    let answer = matches!(window >> 32, 101 | 102);
                    let ours = self.numbers.get(&number).and_then(|handle| self.channels.get(handle));
                    if answer && ours.is_some_and(|channel| channel.stage == Stage::Opening) {
                        self.decoder = Decoder::Header;
                        self.receive(&window.to_be_bytes()[3..])?;
                        return Ok(&bytes[index + 1..]);
                    }
                }
                *last = window;
                Ok(&[])
            }
            Decoder::Header => {
                let kind = *self.header.first().or(bytes.first()).unwrap_or(&0);
                let missing = frame::header_length(kind)?.saturating_sub(self.header.len());
                let (now, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
                self.header.extend_from_slice(now);
                if let Some((frame, _)) = Frame::decode(&self.header)? {
                    self.header.clear();
                    self.frame(frame)?;
                }
                if self.out.len() > limits::MAX_OUTBOX {
                    return Err(Violation::Flood);
                }
                Ok(rest)
            }
        }
    }

    fn by_number(&mut self, number: u32) -> Option<(Handle, &mut Channel)> {
        let handle = *self.numbers.get(&number)?;
        Some((handle, self.channels.get_mut(&handle)?))
    }

    /// Acts on a header. Frames for channels that do not exist are ignored: they belong to a session before
    /// this one, or come late.
    fn frame(&mut self, frame: Frame) -> Result<(), Violation> {
        match frame {
            Frame::Open { from, window, packet } => self.opened(from, window, packet),
            Frame::OpenConfirm { to, from, window, packet } => {
                let Some((handle, channel)) = self.by_number(to) else { return Ok(()) };
                let fits = (limits::MIN_PACKET..=limits::MAX_PACKET).contains(&packet);
                if channel.peer_unknown() {
                    // Closed here before the answer came: now there is a number to say so to.
                    Frame::Close { to: from }.encode(&mut self.out);
                    self.channels.remove(&handle);
                    self.numbers.remove(&to);
                    return Ok(());
                }
                if channel.stage != Stage::Opening || !fits {
                    return Err(Violation::Confirm);
                }
                channel.stage = Stage::Open;
                (channel.peer, channel.window, channel.packet) = (from, window, packet);
            }
            Frame::OpenFailure { to } => {
                let Some((handle, channel)) = self.by_number(to) else { return Ok(()) };
                match channel.stage {
                    Stage::Opening => channel.stage = Stage::Refused,
                    Stage::Closed if channel.peer_unknown() => drop(self.channels.remove(&handle)),
                    _ => return Err(Violation::Confirm),
                }
                self.numbers.remove(&to);
            }
            Frame::WindowAdjust { to, add } => {
                let Some((_, channel)) = self.by_number(to) else { return Ok(()) };
                channel.window = channel.window.checked_add(add).ok_or(Violation::Credit)?;
                channel.outstanding = channel.outstanding.saturating_sub(add);
            }
            Frame::Data { to, length } => {
                if length > limits::PACKET {
                    return Err(Violation::Packet(length));
                }
                let mut target = None;
                if let Some((handle, channel)) = self.by_number(to) {
                    if channel.stage != Stage::Closed || channel.got_close {
                        channel.offered = channel.offered.checked_sub(length).ok_or(Violation::Window)?;
                        target = Some(handle);
                    }
                }
                if length > 0 {
                    self.decoder = Decoder::Payload { channel: target, left: length as usize };
                }
            }
            Frame::Eof { to } => {
                if let Some((_, channel)) = self.by_number(to) {
                    channel.got_eof = true;
                }
            }
            Frame::Close { to } => self.closed(to),
        }
        Ok(())
    }

    fn opened(&mut self, from: u32, window: u32, packet: u32) {
        let fits = (limits::MIN_PACKET..=limits::MAX_PACKET).contains(&packet);
        if !fits || matches!(self.role, Role::Opens { .. }) || self.channels.len() >= limits::CHANNELS {
            Frame::OpenFailure { to: from }.encode(&mut self.out);
            return;
        }
        let number = self.free_number();
        Frame::OpenConfirm { to: from, from: number, window: limits::WINDOW, packet: limits::PACKET }
            .encode(&mut self.out);
        let handle = self.add(number, Channel::new(number, Stage::Open, from, window, packet));
        self.incoming.push_back(handle);
    }

    fn closed(&mut self, number: u32) {
        let opens = matches!(self.role, Role::Opens { .. });
        let Some((handle, channel)) = self.by_number(number) else { return };
        if channel.stage == Stage::Opening || channel.peer_unknown() {
            return;
        }
        let released = channel.stage == Stage::Closed && !channel.got_close;
        channel.got_eof = true;
        channel.got_close = true;
        channel.stage = Stage::Closed;
        let peer = channel.peer;
        let answer = !std::mem::replace(&mut channel.sent_close, true);
        if answer {
            Frame::Close { to: peer }.encode(&mut self.out);
        }
        if released {
            self.channels.remove(&handle);
        }
        // A service may send output after CLOSE (the Go one does, with a terminal). The opening end keeps the
        // number, which it never gives to another channel, until its owner has read enough.
        if released || !opens {
            self.numbers.remove(&number);
        }
    }

    /// How far a channel has come.
    pub fn stage(&self, handle: Handle) -> Stage {
        self.channels.get(&handle).map_or(Stage::Gone, |channel| channel.stage)
    }

    /// Whether the other end has closed the channel.
    pub fn closed_by_peer(&self, handle: Handle) -> bool {
        self.channels.get(&handle).is_none_or(|channel| channel.got_close)
    }

    /// Bytes received and not yet read, and whether no more will come (late output aside).
    pub fn readable(&self, handle: Handle) -> (usize, bool) {
        self.channels.get(&handle).map_or((0, true), |channel| (channel.received.len(), channel.got_eof))
    }

    /// Moves received bytes into `buffer` and returns how many. Nothing in it may mean "not yet" or "end";
    /// [`Session::readable`] tells.
    pub fn read(&mut self, handle: Handle, buffer: &mut [u8]) -> usize {
        let Some(channel) = self.channels.get_mut(&handle) else { return 0 };
        let count = buffer.len().min(channel.received.len());
        let (first, second) = channel.received.as_slices();
        let split = first.len().min(count);
        buffer[..split].copy_from_slice(&first[..split]);
        buffer[split..count].copy_from_slice(&second[..count - split]);
        channel.received.drain(..count);
        channel.owed = channel.owed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if channel.owed >= limits::CREDIT_STEP {
            self.credit(handle);
        }
        if let Some(channel) = self.channels.get_mut(&handle) {
            if channel.received.is_empty() && channel.received.capacity() > limits::PACKET as usize {
                channel.received = VecDeque::new();
            }
        }
        count
    }

    /// Credits all that was read. To be called before waiting for more, as the other end may be waiting too.
    pub fn credit(&mut self, handle: Handle) {
        let Some(channel) = self.channels.get_mut(&handle) else { return };
        let add = std::mem::take(&mut channel.owed);
        if add > 0 && channel.stage == Stage::Open && !channel.got_eof && !channel.sent_close {
            channel.offered = channel.offered.saturating_add(add);
            Frame::WindowAdjust { to: channel.peer, add }.encode(&mut self.out);
        }
    }

    /// Queues as much of `payload` as window and outbox allow and returns how many bytes that was, or `None`
    /// if the channel takes no more payload at all.
    pub fn write(&mut self, handle: Handle, payload: &[u8]) -> Option<usize> {
        let channel = self.channels.get_mut(&handle)?;
        match channel.stage {
            Stage::Open if !channel.sent_eof && !channel.sent_close => {}
            Stage::Opening => return Some(0),
            _ => return None,
        }
        let mut done = 0;
        while self.out.len() < limits::OUTBOX {
            let room = channel.window.min(limits::IN_FLIGHT.saturating_sub(channel.outstanding));
            let size = limits::PIECE.min(room.min(channel.packet) as usize);
            let piece = payload.get(done..).unwrap_or_default();
            let piece = piece.get(..size).unwrap_or(piece);
            if piece.is_empty() {
                break;
            }
            frame::data(channel.peer, piece, &mut self.out);
            channel.window -= piece.len() as u32;
            channel.outstanding += piece.len() as u32;
            done += piece.len();
        }
        Some(done)
    }

    /// Tells the other end that no more payload follows.
    pub fn eof(&mut self, handle: Handle) {
        let Some(channel) = self.channels.get_mut(&handle) else { return };
        if channel.stage == Stage::Open && !channel.sent_eof && !channel.sent_close {
            channel.sent_eof = true;
            Frame::Eof { to: channel.peer }.encode(&mut self.out);
        }
    }

    /// Ends a channel. What was received and not read is dropped with [`Session::release`].
    pub fn close(&mut self, handle: Handle) {
        let Some(channel) = self.channels.get_mut(&handle) else { return };
        match channel.stage {
            Stage::Open if !channel.sent_close => {
                channel.sent_close = true;
                Frame::Close { to: channel.peer }.encode(&mut self.out);
                channel.stage = Stage::Closed;
            }
            Stage::Opening => channel.stage = Stage::Closed,
            _ => {}
        }
    }

    /// Closes a channel and forgets it as soon as the other end has closed it too.
    pub fn release(&mut self, handle: Handle) {
        self.close(handle);
        let opens = matches!(self.role, Role::Opens { .. });
        let Some(channel) = self.channels.get_mut(&handle) else { return };
        channel.received = VecDeque::new();
        // Late frames for a number that is never used again need no memory of it.
        if channel.got_close || channel.stage == Stage::Refused || (opens && channel.sent_close) {
            let number = channel.number;
            self.channels.remove(&handle);
            if self.numbers.get(&number) == Some(&handle) {
                self.numbers.remove(&number);
            }
        }
    }

    /// Closes all channels that were opened before this one: they belong to an earlier session.
    pub fn end_before(&mut self, handle: Handle) {
        let older: Vec<Handle> = self.channels.range(..handle).map(|(older, _)| *older).collect();
        for older in older {
            self.close(older);
            if let Some(channel) = self.channels.remove(&older) {
                if self.numbers.get(&channel.number) == Some(&older) {
                    self.numbers.remove(&channel.number);
                }
            }
        }
    }

    /// Bytes to be sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
}

impl Channel {
    fn new(number: u32, stage: Stage, peer: u32, window: u32, packet: u32) -> Self {
        Self {
            number,
            peer,
            stage,
            packet,
            window,
            outstanding: 0,
            received: VecDeque::new(),
            offered: limits::WINDOW,
            owed: 0,
            sent_eof: false,
            sent_close: false,
            got_eof: false,
            got_close: false,
        }
    }

    /// Whether it was closed here before the other end had answered.
    fn peer_unknown(&self) -> bool {
        self.stage == Stage::Closed && !self.sent_close && !self.got_close
    }
}
