//! The line to the guest service: CBOR, its messages, and frames of many channels.

#![no_main]

use env86_fuzz::input::{Input, Seed};
use guest86::call::{Attributes, Entry, Info, Record, Response, RunOptions, RunRequest, header, selector};
use guest86::cbor::{Value, text_and_bytes_head};
use guest86::frame::{self, Frame};
use guest86::limits;
use guest86::mux::{Role, Session, Stage};

/// Values one message may have.
const ITEMS: usize = 4096;

fn message(bytes: &[u8]) {
    let _ = text_and_bytes_head(bytes);
    let Ok((value, used)) = Value::decode(bytes, ITEMS) else { return };
    assert!(used <= bytes.len(), "more was decoded than there is");
    let again = value.to_vec();
    let (same, all) = Value::decode(&again, ITEMS).expect("what was encoded");
    assert_eq!((&same, all), (&value, again.len()), "encoding and decoding");
    let _ = selector(&value);
    if let Some(response) = Response::from_value(&value) {
        let _ = Response::from_value(&response.to_value()).expect("what was encoded");
    }
    if let Ok(request) = RunRequest::from_value(&value) {
        assert!(RunRequest::from_value(&request.to_value()).is_ok());
    }
    if let Some(info) = Info::from_value(&value) {
        assert!(Info::from_value(&info.to_value()).is_some());
    }
    if let Some(attributes) = Attributes::from_value(&value) {
        assert!(Attributes::from_value(&attributes.to_value()).is_some());
    }
    if let Some(entry) = Entry::from_value(&value) {
        assert!(Entry::from_value(&entry.to_value()).is_some());
    }
    let _ = Record::from_value(value);
}

/// Bytes a session may owe its peer before somebody takes them.
const MAX_OUTPUT: usize = 1 << 20;

/// Two ends of a line, and what comes in between.
fn session(input: &mut Input<'_>) {
    let kind = input.u8();
    let role = if kind & 1 == 0 { Role::Accepts } else { Role::Opens { first: 7 } };
    let mut session = Session::new(role);
    if kind & 2 != 0 {
        session.hunt();
    }
    let mut handles = Vec::new();
    let mut buffer = [0; 300];
    while !input.is_empty() {
        let what = input.u8();
        let picked = handles.get(usize::from(what >> 4).checked_rem(handles.len()).unwrap_or(0)).copied();
        match (what & 15, picked) {
            (0..=5, _) => {
                let len = input.u8();
                if session.receive(input.bytes(len.into())).is_err() {
                    session.reset();
                    handles.clear();
                }
            }
            (6, _) if kind & 1 != 0 && handles.len() < 16 => handles.push(session.open()),
            (6, _) => handles.extend(session.accept()),
            (7, Some(handle)) => {
                session.read(handle, &mut buffer);
                session.credit(handle);
            }
            (8, Some(handle)) => {
                let sent = session.write(handle, &buffer[..usize::from(what)]);
                assert!(sent.unwrap_or(0) <= usize::from(what));
            }
            (9, Some(handle)) => session.eof(handle),
            (10, Some(handle)) => session.close(handle),
            (11, Some(handle)) => {
                session.release(handle);
                handles.retain(|other| *other != handle);
            }
            (12, Some(handle)) => session.end_before(handle),
            (13, _) => {
                if session.pause().is_err() {
                    session.reset();
                    handles.clear();
                }
            }
            (14, _) => session.output().clear(),
            _ => {
                for handle in &handles {
                    let (readable, _) = session.readable(*handle);
                    assert!(readable <= limits::WINDOW as usize, "more than the window is kept");
                    let _ = session.stage(*handle) == Stage::Gone || session.closed_by_peer(*handle);
                }
            }
        }
        assert!(session.output().len() <= MAX_OUTPUT, "output grows");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let request = RunRequest {
        name: "sh".to_owned(),
        args: vec!["-c".to_owned(), "true".to_owned()],
        dir: "/".to_owned(),
        env: Some(vec!["A=b".to_owned()]),
        pty: true,
        options: Some(RunOptions::default()),
    };
    for value in [
        request.to_value(),
        header("Run"),
        Value::map([
            ("a", Value::text("b")),
            ("c", Value::Array(vec![Value::Int(-70_000), Value::Bool(true)])),
        ]),
    ] {
        seeds.push([&[0], &value.to_vec()[..]].concat());
    }
    let mut frames = Vec::new();
    for f in [
        Frame::Open { from: 0, window: limits::WINDOW, packet: limits::PACKET },
        Frame::Open { from: 3, window: 10, packet: 64 },
    ] {
        f.encode(&mut frames);
    }
    frame::data(0, b"hello", &mut frames);
    for kind in 0..4u8 {
        let seed = Seed::new().u8(1).u8(kind).u8(0).u8(frames.len() as u8).bytes(&frames);
        seeds.push(seed.bytes(&[6, 6, 15, 8, 7, 14, 9, 13, 0x1A, 11, 12, 15]).0);
    }
    seeds
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let input = &mut Input::new(data);
    match input.u8() & 3 {
        0 | 2 => message(input.rest()),
        3 => {
            let bytes = input.rest();
            if let Ok(Some((frame, used))) = Frame::decode(bytes) {
                assert!(used <= bytes.len());
                let mut again = Vec::new();
                frame.encode(&mut again);
                assert_eq!(again, bytes[..used], "encoding and decoding");
            }
        }
        _ => session(input),
    }
});
