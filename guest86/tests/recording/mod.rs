//! Recorded sessions between the Go host and the Go guest service.
//!
//! A file has a line of explanation and then sessions, each starting with `session: TITLE`. The lines after
//! it are frames in the order in which they crossed the line: who sent it (`host` or `guest`), its bytes in
//! hexadecimal digits, `#`, and what it says. `# raw` marks bytes that are no whole frame. `result: WORD`
//! says what the Go service did that is no frame: it ended, crashed, or kept quiet.

#![allow(dead_code)] // each test program uses its part

use guest86::frame::Frame;

/// Who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Host,
    Guest,
}

/// A frame, or bytes that are none.
#[derive(Clone, Debug)]
pub struct Line {
    pub side: Side,
    pub bytes: Vec<u8>,
    pub meaning: String,
}

impl Line {
    /// Header and payload, `None` if the bytes are no whole frame.
    pub fn frame(&self) -> Option<(Frame, &[u8])> {
        if self.meaning == "raw" {
            return None;
        }
        let (frame, length) = Frame::decode(&self.bytes).unwrap().unwrap();
        Some((frame, &self.bytes[length..]))
    }
}

/// A session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub title: String,
    pub lines: Vec<Line>,
    pub result: Option<String>,
}

/// What both sides said on one channel.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub host_number: u32,
    pub guest_number: u32,
    pub host_payload: Vec<u8>,
    pub guest_payload: Vec<u8>,
    pub host_eof: bool,
}

impl Session {
    /// The channels in the order in which they were granted.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        for line in &self.lines {
            let Some((frame, payload)) = line.frame() else { continue };
            match (line.side, frame) {
                (Side::Guest, Frame::OpenConfirm { to, from, .. }) => {
                    calls.push(Call { host_number: to, guest_number: from, ..Call::default() });
                }
                (Side::Guest, Frame::Data { to, .. }) => {
                    let call = calls.iter_mut().rev().find(|call| call.host_number == to).unwrap();
                    call.guest_payload.extend(payload);
                }
                (Side::Host, Frame::Data { to, .. }) => {
                    // A session may break before the channel is granted.
                    if let Some(call) = calls.iter_mut().rev().find(|call| call.guest_number == to) {
                        call.host_payload.extend(payload);
                    }
                }
                (Side::Host, Frame::Eof { to }) => {
                    calls.iter_mut().rev().find(|call| call.guest_number == to).unwrap().host_eof = true;
                }
                _ => {}
            }
        }
        calls
    }

    /// All bytes of one side.
    pub fn bytes(&self, side: Side) -> Vec<u8> {
        self.lines.iter().filter(|line| line.side == side).flat_map(|line| line.bytes.clone()).collect()
    }
}

/// Cuts the codec frames at the start of a channel's payload off, at most `count`. The rest may be raw.
pub fn codec_frames(payload: &[u8], count: usize) -> (Vec<&[u8]>, &[u8]) {
    let (mut frames, mut rest) = (Vec::new(), payload);
    while frames.len() < count && rest.len() >= 4 {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let Some(frame) = rest.get(4..4 + length) else { break };
        frames.push(frame);
        rest = &rest[4 + length..];
    }
    (frames, rest)
}

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len() % 2 == 0, "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn parse(text: &str) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_prefix("session: ") {
            sessions.push(Session { title: title.into(), ..Session::default() });
            continue;
        }
        let session = sessions.last_mut().unwrap();
        if let Some(result) = line.strip_prefix("result: ") {
            session.result = Some(result.into());
            continue;
        }
        let (side, rest) = line.split_once(' ').unwrap();
        let (bytes, meaning) = rest.split_once(" # ").unwrap();
        let side = if side == "host" { Side::Host } else { Side::Guest };
        session.lines.push(Line { side, bytes: hex(bytes), meaning: meaning.into() });
    }
    sessions
}

macro_rules! recordings {
    ($($name:literal)*) => {
        /// All recordings: file name and sessions.
        pub fn all() -> Vec<(&'static str, Vec<Session>)> {
            vec![$(($name, parse(include_str!(concat!("../sessions/", $name, ".txt"))))),*]
        }
    };
}

recordings! {
    "bad-args" "dial" "dial-refused" "fs" "mount9p" "mux-edge" "run-baddir" "run-concurrent" "run-echo"
    "run-echo-pty" "run-exit3" "run-killed" "run-notfound" "run-pty-late-output" "run-stdin" "run-stdin-pty"
    "selectors" "terminal" "version"
}

/// The sessions of one file.
pub fn sessions(name: &str) -> Vec<Session> {
    all().into_iter().find(|(file, _)| *file == name).unwrap().1
}
