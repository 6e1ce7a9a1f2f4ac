//! The service, against recorded sessions: the host's side is played, the answers are compared.
#![cfg(target_os = "linux")]

mod peer;
mod recording;

use guest86::call::{self, Record, Response, Status, method};
use guest86::cbor::Value;
use guest86::frame::Frame;
use guest86::limits;
use guest86::link::{Channel, Link};
use peer::PATIENCE;
use recording::{Call, Side, codec_frames, sessions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

fn decode(bytes: &[u8]) -> Value {
    Value::decode(bytes, limits::REQUEST_ITEMS).unwrap().0
}

/// Plays the host's side of a call.
fn play(link: &Arc<Link>, call: &Call) -> Channel {
    let channel = link.open(PATIENCE).unwrap();
    channel.write(&call.host_payload, PATIENCE).unwrap();
    if call.host_eof {
        channel.eof();
    }
    channel
}

/// What a recorded or played call amounts to, without what differs from run to run: process ids, times, how
/// output is cut into records and how standard output and standard error interleave.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    header: Option<Response>,
    value: Value0,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<Status>,
}

type Value0 = Option<Value>;

fn outcome(selector: &str, payload: &[u8]) -> Outcome {
    let (frames, rest) = codec_frames(payload, usize::MAX);
    assert_eq!(rest, b"");
    let mut items = frames.into_iter().map(decode);
    let mut header = Response::from_value(&items.next().unwrap()).unwrap();
    if let Some(error) = &mut header.error {
        // Wording that is Go's own.
        if error.starts_with("fn: args: ") && !error.ends_with("EOF") {
            *error = "fn: args: ...".into();
        }
    }
    let mut outcome = Outcome { value: items.next().map(settled), ..Outcome::default() };
    if selector == method::RUN && header.goes_on {
        assert!(outcome.value.take().unwrap().as_int().unwrap() > 0);
        for item in items {
            assert!(outcome.status.is_none(), "nothing comes after the status");
            match Record::from_value(item).unwrap() {
                Record::Stdout(bytes) => outcome.stdout.extend(bytes),
                Record::Stderr(bytes) => outcome.stderr.extend(bytes),
                Record::Status(status) => outcome.status = Some(status),
            }
        }
    } else {
        assert_eq!(items.next(), None);
    }
    outcome.header = Some(header);
    outcome
}

/// Times and sizes of directories vary.
fn settled(mut value: Value) -> Value {
    let is_dir = value.get("IsDir") == Some(&Value::Bool(true));
    match &mut value {
        Value::Array(items) => items.iter_mut().for_each(|item| *item = settled(item.clone())),
        Value::Map(pairs) => {
            for (key, value) in pairs {
                let key = key.as_text().unwrap_or_default();
                if key == "Mtime" || (key == "Size" && is_dir) {
                    *value = Value::Null;
                }
            }
        }
        _ => {}
    }
    value
}

fn selector(call: &Call) -> String {
    let header = decode(codec_frames(&call.host_payload, 1).0[0]);
    header.get("S").unwrap().as_text().unwrap().to_owned()
}

/// Plays all calls of a recording, one after the other, and compares their outcomes.
fn replay(name: &str) {
    let (link, _) = peer::connect();
    for call in sessions(name).iter().flat_map(recording::Session::calls) {
        let selector = selector(&call);
        let channel = play(&link, &call);
        let played = peer::rest(&channel);
        assert_eq!(
            outcome(&selector, &played),
            outcome(&selector, &call.guest_payload),
            "{name}: {selector}"
        );
    }
}

#[test]
fn calls_without_a_process_give_the_recorded_answers() {
    for name in ["version", "selectors", "bad-args", "dial-refused"] {
        replay(name);
    }
}

#[test]
fn file_methods_give_the_recorded_answers() {
    let _ = std::fs::remove_dir_all("/tmp/demo/a");
    replay("fs");
    let _ = std::fs::remove_dir_all("/tmp/demo/a");
}

#[test]
fn commands_give_the_recorded_output_and_status() {
    for name in ["run-echo", "run-exit3", "run-killed", "run-notfound", "run-baddir", "run-stdin"] {
        replay(name);
    }
}

#[test]
fn commands_on_a_terminal_give_the_recorded_output_and_status() {
    for name in ["run-echo-pty", "run-stdin-pty"] {
        replay(name);
    }
}

#[test]
fn concurrent_calls_give_the_recorded_output_and_status() {
    let (link, _) = peer::connect();
    let calls = sessions("run-concurrent")[0].calls();
    let channels: Vec<_> = calls.iter().map(|call| play(&link, call)).collect();
    for (call, channel) in calls.iter().zip(channels) {
        let selector = selector(call);
        assert_eq!(outcome(&selector, &peer::rest(&channel)), outcome(&selector, &call.guest_payload));
    }
}

#[test]
fn dial_carries_what_was_recorded_and_both_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut question = [0; 4];
        socket.read_exact(&mut question).unwrap();
        socket.write_all(&[b"echo:", &question[..]].concat()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).unwrap();
        rest
    });
    let recorded = &sessions("dial")[0].calls()[0];
    let (_, sent) = codec_frames(&recorded.host_payload, 2);
    let (_, received) = codec_frames(&recorded.guest_payload, 2);
    let (link, _) = peer::connect();
    let (channel, response, _) = peer::begin(&link, method::DIAL, &Value::text(address));
    assert!(response.goes_on);
    channel.write(sent, PATIENCE).unwrap();
    assert_eq!(peer::rest(&channel), received, "the end of the connection is passed on");
    channel.write(b"bye", PATIENCE).unwrap();
    channel.eof();
    assert_eq!(server.join().unwrap(), b"bye", "the other direction was still open");
    channel.wait_closed(PATIENCE).unwrap();
}

#[test]
fn terminal_carries_a_shell() {
    let (link, _) = peer::connect();
    let (channel, response, value) = peer::begin(&link, method::TERMINAL, &Value::Null);
    assert_eq!((response.goes_on, value), (true, Value::Null));
    channel.write(b"echo mark$((1+1)); exit 5\n", PATIENCE).unwrap();
    let output = String::from_utf8(peer::rest(&channel)).unwrap();
    assert!(output.contains("mark2\r\n"), "{output:?}");
}

/// Reads whole frames until none come for a while, credits left out. The first number of a confirmation's
/// window is ours.
fn frames(line: &mut UnixStream) -> Vec<(Frame, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    line.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while let Ok(count @ 1..) = line.read(&mut buffer) {
        bytes.extend(&buffer[..count]);
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((frame, length)) = Frame::decode(&bytes[at..]).unwrap() {
        let payload = if let Frame::Data { length, .. } = frame { length as usize } else { 0 };
        at += length;
        if !matches!(frame, Frame::WindowAdjust { .. }) {
            found.push((comparable(frame), bytes[at..at + payload].to_vec()));
        }
        at += payload;
    }
    found
}

/// Without what each service chooses for itself.
fn comparable(frame: Frame) -> Frame {
    match frame {
        Frame::OpenConfirm { to, from, .. } => Frame::OpenConfirm { to, from, window: 0, packet: 0 },
        other => other,
    }
}

#[test]
fn edge_cases_of_channels_give_the_recorded_frames() {
    // Where the Go service ends, crashes or keeps quiet, this one goes on; the tests of the wire have those.
    let played: Vec<_> =
        sessions("mux-edge").into_iter().filter(|session| session.result.is_none()).collect();
    assert!(played.len() > 12);
    let threads: Vec<_> = played
        .into_iter()
        .map(|session| {
            std::thread::spawn(move || {
                let mut line = peer::start(peer::Notes::default());
                let mut lines = session.lines.iter().peekable();
                while lines.peek().is_some() {
                    while let Some(line_) = lines.next_if(|line| line.side == Side::Host) {
                        line.write_all(&line_.bytes).unwrap();
                    }
                    let mut expected = Vec::new();
                    while let Some(line) = lines.next_if(|line| line.side == Side::Guest) {
                        let (frame, payload) = line.frame().unwrap();
                        if !matches!(frame, Frame::WindowAdjust { .. }) {
                            expected.push((comparable(frame), payload.to_vec()));
                        }
                    }
                    assert_eq!(frames(&mut line), expected, "{}", session.title);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn broken_call_headers_get_an_error() {
    let (link, _) = peer::connect();
    for header in [&b"\0\0\0\x02\xff\xff"[..], b"\0\0\0\x01\x80", b"\xff\xff\xff\xff"] {
        let channel = link.open(PATIENCE).unwrap();
        channel.write(header, PATIENCE).unwrap();
        let response = Response::from_value(&peer::item(&channel)).unwrap();
        assert!(response.error.is_some(), "{header:?}");
    }
    assert_eq!(peer::ask(&link, method::VERSION, &[]), Ok(Value::text("dev")));
}

#[test]
fn line_out_of_step_is_usable_again_after_a_pause() {
    for noise in [&b"\0\0\0"[..], b"d\0\0", b"h\0\0\0\0\0\0\x10\0abc", b"h\0\0\0\0\xff\xff\xff\xff"] {
        let mut line = peer::start(peer::Notes::default());
        line.write_all(noise).unwrap();
        let link = peer::attach(&line, 99);
        // The first attempt may fall into the unfinished frame.
        if link.open(&peer::within(300)).is_err() {
            link.down();
            std::thread::sleep(Duration::from_millis(300));
            let link = peer::attach(&line, 1 << 20);
            let version = peer::ask(&link, method::VERSION, &[]);
            assert_eq!(version, Ok(Value::text("dev")), "{noise:?}");
        }
    }
    assert_eq!(call::normalize("vm.Version"), "/vm/Version");
}
