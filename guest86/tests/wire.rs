//! The wire, against recorded sessions: every frame and every item comes out of our types as it went in.

mod recording;

use guest86::call::{self, Entry, Record, Response, RunRequest, method};
use guest86::cbor::Value;
use guest86::frame::Frame;
use guest86::limits;
use guest86::mux::{Role, Session, Stage, Violation};
use recording::{Side, all, codec_frames, sessions};
use std::collections::HashMap;

fn decode(bytes: &[u8]) -> Value {
    let (value, length) = Value::decode(bytes, limits::REQUEST_ITEMS).unwrap();
    assert_eq!(length, bytes.len());
    value
}

#[test]
fn every_recorded_frame_is_read_as_described_and_written_back_equal() {
    let mut count = 0;
    for (name, sessions) in all() {
        for line in sessions.iter().flat_map(|session| &session.lines) {
            let Some((frame, payload)) = line.frame() else { continue };
            assert_eq!(frame.to_string(), line.meaning, "{name}");
            let mut bytes = Vec::new();
            match frame {
                Frame::Data { to, length } => {
                    assert_eq!(length as usize, payload.len());
                    guest86::frame::data(to, payload, &mut bytes);
                }
                other => other.encode(&mut bytes),
            }
            assert_eq!(bytes, line.bytes, "{name}: {}", line.meaning);
            count += 1;
        }
    }
    assert!(count > 500, "{count}");
}

/// The item in a frame, whatever follows it.
fn first(bytes: &[u8]) -> Option<Value> {
    Some(Value::decode(bytes, limits::REQUEST_ITEMS).ok()?.0)
}

/// Selector, argument and the guest's frames of a recorded call, and whether it goes on after the response.
fn dissect(call: &recording::Call) -> Option<(String, Value, Vec<Value>)> {
    let (sent, _) = codec_frames(&call.host_payload, 2);
    let [header, argument] = sent[..] else { return None };
    let selector = first(header)?.get("S")?.as_text()?.to_owned();
    let raw = [method::DIAL, method::TERMINAL, method::MOUNT_9P].contains(&selector.as_str());
    let (received, _) = codec_frames(&call.guest_payload, if raw { 2 } else { usize::MAX });
    Some((selector, decode(argument), received.into_iter().map(decode).collect()))
}

#[test]
fn every_recorded_item_is_written_back_equal() {
    let mut count = 0;
    for (name, sessions) in all().into_iter().filter(|(name, _)| *name != "mux-edge") {
        for call in sessions.iter().flat_map(recording::Session::calls) {
            let raw = dissect(&call).is_some_and(|(selector, ..)| {
                [method::DIAL, method::TERMINAL, method::MOUNT_9P].contains(&selector.as_str())
            });
            let sent = codec_frames(&call.host_payload, 2).0;
            let received = codec_frames(&call.guest_payload, if raw { 2 } else { usize::MAX }).0;
            for item in sent.into_iter().chain(received) {
                assert_eq!(decode(item).to_vec(), item, "{name}");
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn requests_and_responses_of_recorded_calls_go_through_our_types_unchanged() {
    let mut seen = HashMap::<String, usize>::new();
    for (name, sessions) in all() {
        for call in sessions.iter().flat_map(recording::Session::calls) {
            let Some((selector, argument, received)) = dissect(&call) else { continue };
            *seen.entry(selector.clone()).or_default() += 1;
            if name != "mux-edge" {
                let header = codec_frames(&call.host_payload, 1).0[0];
                assert_eq!(call::header(&selector).to_vec(), header);
            }
            let Some((response, values)) = received.split_first() else { continue };
            let response_header = Response::from_value(response).unwrap();
            assert_eq!(&response_header.to_value(), response, "{name}");
            if selector == method::RUN {
                assert_eq!(RunRequest::from_value(&argument).unwrap().to_value(), argument, "{name}");
                for record in values.iter().skip(1) {
                    assert_eq!(&Record::from_value(record.clone()).unwrap().to_value(), record, "{name}");
                }
            }
            if selector == method::STAT && response_header.error.is_none() {
                assert_eq!(Entry::from_value(&values[0]).unwrap().to_value(), values[0]);
            }
            if selector == method::READ_DIR && values[0] != Value::Null {
                for entry in values[0].as_array().unwrap() {
                    assert_eq!(&Entry::from_value(entry).unwrap().to_value(), entry);
                }
            }
        }
    }
    for selector in [method::VERSION, method::RUN, method::STAT, method::READ_DIR, method::DIAL] {
        assert!(seen.contains_key(selector), "{selector} in {seen:?}");
    }
}

#[test]
fn windows_of_recorded_sessions_are_never_exceeded() {
    for (name, sessions) in all() {
        for session in sessions.iter().filter(|session| session.result.is_none()) {
            // Payload that may still be sent, and payload that may still be credited, by (sender, number).
            let mut window = HashMap::<(bool, u32), (i64, i64)>::new();
            // The other end's number of a channel, by (who is addressed with it, number).
            let mut partner = HashMap::<(bool, u32), u32>::new();
            for line in &session.lines {
                let Some((frame, _)) = line.frame() else { continue };
                let host = line.side == Side::Host;
                match frame {
                    Frame::Open { from, window: size, .. } => {
                        window.insert((false, from), (size.into(), 0));
                    }
                    Frame::OpenConfirm { to, from, window: size, .. } => {
                        window.insert((true, from), (size.into(), 0));
                        partner.extend([((true, from), to), ((false, to), from)]);
                    }
                    Frame::Data { to, length } => {
                        let entry = window.get_mut(&(host, to)).unwrap();
                        (entry.0, entry.1) = (entry.0 - i64::from(length), entry.1 + i64::from(length));
                        assert!(entry.0 >= 0, "{name}: more data than the window");
                    }
                    Frame::WindowAdjust { to, add } => {
                        let entry = window.get_mut(&(!host, partner[&(host, to)])).unwrap();
                        (entry.0, entry.1) = (entry.0 + i64::from(add), entry.1 - i64::from(add));
                        assert!(entry.1 >= 0 || name == "mux-edge", "{name}: more credit than data");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The guest's end with a whole recorded host side, cut into pieces of these sizes.
fn accept_all(bytes: &[u8], sizes: &[usize]) -> (Result<(), Violation>, Vec<u8>, Vec<Vec<u8>>) {
    let mut session = Session::new(Role::Accepts);
    let (mut rest, mut result) = (bytes, Ok(()));
    for size in sizes.iter().cycle() {
        let (piece, tail) = rest.split_at((*size).min(rest.len()));
        result = session.receive(piece);
        rest = tail;
        if rest.is_empty() || result.is_err() {
            break;
        }
    }
    let mut received = Vec::new();
    while let Some(handle) = session.accept() {
        let mut buffer = vec![0; 1 << 16];
        let count = session.read(handle, &mut buffer);
        buffer.truncate(count);
        received.push(buffer);
    }
    (result, session.output().clone(), received)
}

#[test]
fn recorded_bytes_cut_anywhere_give_the_same_session() {
    for (name, sessions) in all() {
        for session in sessions {
            let bytes = session.bytes(Side::Host);
            let whole = accept_all(&bytes, &[usize::MAX]);
            for sizes in [&[1][..], &[2, 3, 5, 7], &[13, 1, 1, 40], &[9]] {
                assert_eq!(accept_all(&bytes, sizes), whole, "{name}: {}", session.title);
            }
        }
    }
}

#[test]
fn recorded_breaches_are_breaches_for_us_or_harmless() {
    let outcome = |title: &str| {
        let all = sessions("mux-edge");
        let session = all.iter().find(|session| session.title.starts_with(title)).unwrap();
        accept_all(&session.bytes(Side::Host), &[usize::MAX]).0
    };
    assert_eq!(outcome("unknown frame type"), Err(Violation::UnknownType(0x63)));
    assert_eq!(outcome("CLOSE for a channel that does not exist"), Ok(()));
    assert_eq!(outcome("WINDOW-ADJUST for a channel that does not exist"), Ok(()));
    assert_eq!(outcome("OPEN-CONFIRM for a channel"), Err(Violation::Confirm));
    assert_eq!(outcome("OPEN-FAILURE for a channel"), Err(Violation::Confirm));
    assert_eq!(outcome("WINDOW-ADJUST that overflows"), Err(Violation::Credit));
    assert_eq!(outcome("DATA with a declared length"), Err(Violation::Packet(u32::MAX)));
    assert_eq!(outcome("OPEN whose first byte"), Err(Violation::UnknownType(0)));
}

fn opener() -> Session {
    Session::new(Role::Opens { first: 0xfeed_0000 })
}

/// Carries everything from one session to the other, both ways, until nothing is left.
fn exchange(host: &mut Session, guest: &mut Session) {
    loop {
        let (down, up) = (std::mem::take(host.output()), std::mem::take(guest.output()));
        if down.is_empty() && up.is_empty() {
            return;
        }
        guest.receive(&down).unwrap();
        host.receive(&up).unwrap();
    }
}

#[test]
fn data_flows_both_ways_and_ends_in_order() {
    let (mut host, mut guest) = (opener(), Session::new(Role::Accepts));
    let channel = host.open();
    assert_eq!(host.write(channel, b"early"), Some(0), "nothing is sent before the answer");
    exchange(&mut host, &mut guest);
    let served = guest.accept().unwrap();
    assert_eq!(host.write(channel, b"question"), Some(8));
    host.eof(channel);
    assert_eq!(host.write(channel, b"more"), None);
    exchange(&mut host, &mut guest);
    let mut buffer = [0; 100];
    assert_eq!(guest.readable(served), (8, true));
    assert_eq!(guest.read(served, &mut buffer), 8);
    assert_eq!(guest.write(served, b"answer"), Some(6));
    guest.close(served);
    assert_eq!(guest.write(served, b"late"), None);
    exchange(&mut host, &mut guest);
    assert_eq!(host.readable(channel), (6, true));
    assert_eq!(host.stage(channel), Stage::Closed);
    assert_eq!(host.read(channel, &mut buffer), 6);
    host.release(channel);
    guest.release(served);
    assert_eq!((host.stage(channel), guest.stage(served)), (Stage::Gone, Stage::Gone));
}

#[test]
fn writer_stops_at_the_window_until_credit_comes() {
    let (mut host, mut guest) = (opener(), Session::new(Role::Accepts));
    let channel = host.open();
    exchange(&mut host, &mut guest);
    let served = guest.accept().unwrap();
    let payload = vec![7; 1 << 20];
    let mut sent = 0;
    loop {
        let count = host.write(channel, &payload).unwrap();
        exchange(&mut host, &mut guest);
        if count == 0 {
            break;
        }
        sent += count;
    }
    assert_eq!(sent, limits::IN_FLIGHT as usize, "uncredited data is limited whatever the window is");
    let mut buffer = vec![0; 9000];
    assert_eq!(guest.read(served, &mut buffer), 9000);
    exchange(&mut host, &mut guest);
    assert_eq!(host.write(channel, &payload), Some(9000));
    guest.release(served);
}

#[test]
fn small_reads_are_credited_when_the_reader_waits() {
    let (mut host, mut guest) = (opener(), Session::new(Role::Accepts));
    let channel = host.open();
    exchange(&mut host, &mut guest);
    let served = guest.accept().unwrap();
    host.write(channel, b"abc");
    exchange(&mut host, &mut guest);
    guest.read(served, &mut [0; 10]);
    assert!(guest.output().is_empty(), "not a credit for each read");
    guest.credit(served);
    assert_eq!(Frame::decode(guest.output()).unwrap().unwrap().0.to_string(), "adjust to=4276944896 add=3");
}

#[test]
fn data_beyond_the_window_or_the_packet_is_a_breach() {
    let open = |session: &mut Session| {
        let mut bytes = Vec::new();
        Frame::Open { from: 1, window: 0, packet: 1000 }.encode(&mut bytes);
        session.receive(&bytes).unwrap();
    };
    let mut session = Session::new(Role::Accepts);
    open(&mut session);
    let mut bytes = Vec::new();
    guest86::frame::data(0, &vec![0; limits::PACKET as usize], &mut bytes);
    for _ in 0..limits::WINDOW / limits::PACKET {
        session.receive(&bytes).unwrap();
    }
    assert_eq!(session.receive(&bytes), Err(Violation::Window));

    let mut session = Session::new(Role::Accepts);
    open(&mut session);
    let mut bytes = Vec::new();
    Frame::Data { to: 0, length: limits::PACKET + 1 }.encode(&mut bytes);
    assert_eq!(session.receive(&bytes), Err(Violation::Packet(limits::PACKET + 1)));
}

#[test]
fn channels_are_limited_and_unread_answers_end_the_session() {
    let mut session = Session::new(Role::Accepts);
    let mut bytes = Vec::new();
    Frame::Open { from: 1, window: 0, packet: 1000 }.encode(&mut bytes);
    for _ in 0..limits::CHANNELS {
        session.receive(&bytes).unwrap();
        assert_eq!(std::mem::take(session.output())[0], 101);
    }
    session.receive(&bytes).unwrap();
    assert_eq!(std::mem::take(session.output())[0], 102);
    let result = (0..=limits::MAX_OUTBOX / 5).map(|_| session.receive(&bytes)).find(Result::is_err);
    assert_eq!(result, Some(Err(Violation::Flood)));
}

#[test]
fn opener_refuses_channels_of_the_other_end() {
    let mut host = opener();
    let mut bytes = Vec::new();
    Frame::Open { from: 5, window: 1, packet: 1000 }.encode(&mut bytes);
    host.receive(&bytes).unwrap();
    assert_eq!(*host.output(), [102, 0, 0, 0, 5]);
    assert!(host.accept().is_none());
}

#[test]
fn channel_given_up_before_its_answer_is_closed_when_the_answer_comes() {
    let (mut host, mut guest) = (opener(), Session::new(Role::Accepts));
    let channel = host.open();
    host.release(channel);
    exchange(&mut host, &mut guest);
    let served = guest.accept().unwrap();
    assert!(guest.closed_by_peer(served));
    assert_eq!(host.stage(channel), Stage::Gone);
}

#[test]
fn output_after_close_still_reaches_the_opener() {
    let mut host = opener();
    let channel = host.open();
    let mut bytes = Vec::new();
    Frame::OpenConfirm { to: 0xfeed_0000, from: 1, window: 1000, packet: 1000 }.encode(&mut bytes);
    guest86::frame::data(0xfeed_0000, b"hi", &mut bytes);
    Frame::Close { to: 0xfeed_0000 }.encode(&mut bytes);
    guest86::frame::data(0xfeed_0000, b"\r\n", &mut bytes);
    host.receive(&bytes).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(host.read(channel, &mut buffer), 4);
    host.release(channel);
    host.receive(&bytes[17..]).unwrap();
    assert_eq!(host.stage(channel), Stage::Gone);
}

#[test]
fn opener_that_hunts_finds_its_answer_behind_any_noise() {
    let mut host = opener();
    host.hunt();
    // Before there is an OPEN, and while its answer is on its way: the rest of a frame, and frames of others.
    let mut noise = vec![0x65; 300];
    guest86::frame::data(3, b"someone else's", &mut noise);
    host.receive(&noise).unwrap();
    let channel = host.open();
    noise.extend([0x65, 0xfe, 0xed, 0x00, 0x01, 0x68]);
    Frame::OpenConfirm { to: 0xfeed_0000, from: 9, window: 1000, packet: 1000 }.encode(&mut noise);
    guest86::frame::data(0xfeed_0000, b"x", &mut noise);
    for byte in noise {
        host.receive(&[byte]).unwrap();
    }
    assert_eq!(host.stage(channel), Stage::Open);
    assert_eq!(host.readable(channel), (1, false));
}

#[test]
fn new_session_after_a_pause_inside_a_frame_starts_clean() {
    let mut guest = Session::new(Role::Accepts);
    let mut first = opener();
    first.open();
    guest.receive(&std::mem::take(first.output())).unwrap();
    let old = guest.accept().unwrap();
    guest.output().clear();
    // The old host's frame is cut off in its middle.
    guest.receive(&[104, 0, 0, 0, 0, 0, 0, 16, 0, 1, 2, 3]).unwrap();
    assert!(guest.mid_frame());
    guest.pause().unwrap();
    let mut second = Session::new(Role::Opens { first: 77 });
    second.hunt();
    let channel = second.open();
    for byte in std::mem::take(second.output()) {
        guest.receive(&[byte]).unwrap();
    }
    assert_eq!(guest.stage(old), Stage::Gone);
    second.receive(&std::mem::take(guest.output())).unwrap();
    assert_eq!(second.stage(channel), Stage::Open);
}

#[test]
fn frame_that_goes_on_after_a_pause_is_not_harmed() {
    let payload: Vec<u8> = (0..3000).map(|n| [0x64, 0, 1, 2, 0, 4, 0][n % 7]).collect();
    let mut frames = Vec::new();
    Frame::Open { from: 1, window: 0, packet: 1000 }.encode(&mut frames);
    guest86::frame::data(0, &payload, &mut frames);
    for cut in 1..frames.len() {
        let mut guest = Session::new(Role::Accepts);
        guest.receive(&frames[..cut]).unwrap();
        guest.pause().unwrap();
        let (now, later) = frames[cut..].split_at(1);
        guest.receive(now).unwrap();
        guest.receive(later).unwrap();
        guest.pause().unwrap();
        let channel = guest.accept().unwrap();
        let mut buffer = vec![0; 4000];
        assert_eq!(guest.read(channel, &mut buffer), payload.len());
        assert_eq!(buffer[..payload.len()], payload);
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_never_panic_nor_pile_up(
        bytes in proptest::collection::vec(proptest::prop_oneof![100u8..107, 0u8..3, proptest::num::u8::ANY], 0..2000),
        opens in 0usize..4,
    ) {
        let mut host = Session::new(Role::Opens { first: 0 });
        let handles: Vec<_> = (0..opens).map(|_| host.open()).collect();
        let _ = host.receive(&bytes);
        for handle in handles {
            assert!(host.readable(handle).0 <= limits::WINDOW as usize);
            host.write(handle, &bytes);
            host.release(handle);
        }
        let mut guest = Session::new(Role::Accepts);
        let _ = guest.receive(&bytes);
        assert!(guest.output().len() <= limits::MAX_OUTBOX + 100);
    }
}
