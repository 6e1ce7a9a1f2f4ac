//! Host and service against each other, and the host against services that misbehave.

use super::*;
use guest86::call::{self, method};
use guest86::cbor::Value;
use guest86::codec;
use guest86::frame::{self, Frame};
use guest86::limits;
use guest86::service::{Service, System, serve};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A socket for a line.
struct Socket {
    stream: Mutex<UnixStream>,
    broken: AtomicBool,
}

impl Line for Socket {
    fn send(&self, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= channel::SEND);
        let sent = self.stream.lock().unwrap().write_all(bytes).is_ok();
        self.broken.store(!sent, Ordering::Relaxed);
        sent
    }

    fn wait_space(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }
}

/// A client and the guest's end of its line.
fn client() -> (Guest, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut input = ours.try_clone().unwrap();
    let guest = Guest::new(Arc::new(Socket { stream: Mutex::new(ours), broken: AtomicBool::new(false) }));
    let receiver = guest.clone();
    thread::spawn(move || {
        let mut buffer = [0; 700];
        while let Ok(count @ 1..) = input.read(&mut buffer) {
            receiver.receive(&buffer[..count]);
        }
        receiver.shut_down();
    });
    (guest, theirs)
}

/// Notes what it is told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<(Duration, usize)>>>);

impl System for Notes {
    fn set_time(&self, seconds: i64, nanos: u32) -> std::io::Result<()> {
        self.0.lock().unwrap().push((Duration::new(seconds as u64, nanos), 0));
        Ok(())
    }

    fn add_entropy(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.lock().unwrap().push((Duration::ZERO, bytes.len()));
        Ok(())
    }

    fn reset_network(&self) -> Result<(), String> {
        Ok(())
    }
}

fn serve_on(line: UnixStream, notes: Notes) {
    let service = Service::new("test", Box::new(notes));
    let input = line.try_clone().unwrap();
    thread::spawn(move || serve(&service, input.into(), line.into()));
}

/// A client whose guest has our service.
fn with_service() -> (Guest, Notes) {
    let (guest, line) = client();
    let notes = Notes::default();
    serve_on(line, notes.clone());
    (guest, notes)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

fn shell(script: &str) -> Command {
    Command { name: "sh".into(), args: vec!["-c".into(), script.into()], ..Command::default() }
}

/// Standard output, standard error, exit code.
fn finish(mut running: Running) -> (Vec<u8>, Vec<u8>, u8) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match running.next(soon()).unwrap() {
            Output::Stdout(bytes) => stdout.extend(bytes),
            Output::Stderr(bytes) => stderr.extend(bytes),
            Output::Exit(status) => {
                assert!(running.next(soon()).is_err(), "nothing follows");
                return (stdout, stderr, exit_code(status));
            }
        }
    }
}

#[test]
fn command_has_its_streams_and_exit_code() {
    let (guest, _) = with_service();
    let info = guest.attach(soon()).unwrap();
    assert_eq!((info.version.as_str(), info.protocol), ("test", call::PROTOCOL));
    let running = guest.run(&shell("cat; echo err >&2; exit 7"), soon()).unwrap();
    let input = running.input(false);
    input.write(b"hi\n", soon()).unwrap();
    input.end(soon()).unwrap();
    assert_eq!(finish(running), (b"hi\n".to_vec(), b"err\n".to_vec(), 7));
    let killed = guest.run(&shell("kill -9 $$"), soon()).unwrap();
    assert_eq!(finish(killed).2, 137);
}

#[test]
fn missing_and_forbidden_programs_have_a_shells_exit_codes() {
    let (guest, _) = with_service();
    for (name, expected) in
        [("no-such-program", 127), ("/nowhere/x", 127), ("/tmp", 126), ("/etc/passwd", 126)]
    {
        let command = Command { name: name.into(), ..Command::default() };
        match guest.run(&command, soon()) {
            Err(RpcError::Start { code, .. }) => assert_eq!(code, expected, "{name}"),
            Err(other) => panic!("{name}: {other}"),
            Ok(_) => panic!("{name} was started"),
        }
    }
    let command = Command { dir: "/nowhere".into(), ..shell("true") };
    assert!(matches!(guest.run(&command, soon()), Err(RpcError::Start { code: 126, .. })));
}

#[test]
fn megabytes_through_a_command_are_intact() {
    let (guest, _) = with_service();
    let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let running = guest.run(&shell("cat"), soon()).unwrap();
    let (input, sent) = (running.input(false), bytes.clone());
    let feeder = thread::spawn(move || {
        input.write(&sent, soon()).unwrap();
        input.end(soon()).unwrap();
    });
    let (stdout, _, code) = finish(running);
    feeder.join().unwrap();
    assert!(stdout == bytes && code == 0);
}

#[test]
fn signals_and_sizes_reach_a_terminal() {
    let (guest, _) = with_service();
    let options = RunOptions { rows: 10, columns: 20, term: "vt100".into(), ..RunOptions::default() };
    let script =
        "trap 'stty size; exit 4' WINCH; trap 'exit 5' USR1; echo $TERM; while :; do sleep 0.05; done";
    let command = Command { pty: true, options: Some(options), ..shell(script) };
    for resized in [true, false] {
        let mut running = guest.run(&command, soon()).unwrap();
        // A terminal's line comes in as many pieces as it likes.
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            match running.next(soon()).unwrap() {
                Output::Stdout(bytes) => line.extend(bytes),
                other => panic!("{other:?} after {line:?}"),
            }
        }
        assert_eq!(line, b"vt100\r\n");
        if resized {
            running.control().resize(33, 44, soon()).unwrap();
            assert_eq!(finish(running), (b"33 44\r\n".to_vec(), vec![], 4));
        } else {
            running.control().signal(10, soon()).unwrap();
            assert_eq!(finish(running).2, 5);
        }
    }
}

#[test]
fn waiting_for_output_ends_with_the_deadline_and_loses_nothing() {
    let (guest, _) = with_service();
    let mut running = guest.run(&shell("read line; echo $line"), soon()).unwrap();
    let early = running.next(Deadline::after(Duration::from_millis(50)));
    assert!(matches!(early, Err(RpcError::TimedOut)));
    running.input(false).write(b"later\n", soon()).unwrap();
    assert_eq!(finish(running), (b"later\n".to_vec(), vec![], 0));
}

#[test]
fn files_go_in_and_out() {
    let (guest, _) = with_service();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    guest.make_dir(&path("a/b"), soon()).unwrap();
    guest.write_file(&path("a/f"), b"text", soon()).unwrap();
    assert_eq!(guest.read_file(&path("a/f"), 100, soon()).unwrap(), b"text");
    assert!(guest.read_file(&path("a/f"), 3, soon()).is_err(), "larger than asked for");
    let contents: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let attributes = Attributes { path: path("a/g"), mode: Some(0o600), ..Attributes::default() };
    guest.put(&attributes, &mut &contents[..], soon()).unwrap();
    let mut back = Vec::new();
    let entry = guest.get(&path("a/g"), &mut back, soon()).unwrap();
    assert!(back == contents && entry.details.unwrap().mode == 0o100600);
    let names: Vec<_> =
        guest.read_dir(&path("a"), soon()).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["b", "f", "g"]);
    guest.rename(&path("a/f"), &path("a/h"), soon()).unwrap();
    assert_eq!(guest.stat(&path("a/h"), soon()).unwrap().size, 4);
    guest.remove_all(&path("a"), soon()).unwrap();
    match guest.stat(&path("a"), soon()) {
        Err(RpcError::Remote(text)) => assert!(text.contains("no such file"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn restored_guest_gets_the_time_and_entropy() {
    let (guest, notes) = with_service();
    let wall = Duration::from_secs(1_800_000_000);
    freshen(&guest, wall, &[7; 48], soon()).unwrap();
    let mut told = notes.0.lock().unwrap().clone();
    told.sort();
    assert_eq!(told[0], (Duration::ZERO, 48));
    assert!(told[1].0 >= wall && told[1].0 < wall + Duration::from_secs(5), "{told:?}");
}

#[test]
fn service_that_is_restarted_is_attached_again() {
    let (guest, line) = client();
    let first = line.try_clone().unwrap();
    serve_on(first, Notes::default());
    assert_eq!(finish(guest.run(&shell("echo one"), soon()).unwrap()).0, b"one\n");
    let mut stuck = guest.run(&shell("sleep 1000"), soon()).unwrap();
    guest.set_port(Port::Closed);
    assert!(matches!(stuck.next(soon()), Err(RpcError::Gone)), "calls of the old session end");
    let waiting = guest.attach(Deadline::after(Duration::from_millis(50)));
    assert!(matches!(waiting, Err(RpcError::NoService)), "nothing is sent to a closed port");
    guest.set_port(Port::Open);
    assert_eq!(finish(guest.run(&shell("echo two"), soon()).unwrap()).0, b"two\n");
}

#[test]
fn session_cut_off_in_the_middle_of_frames_is_followed_by_a_clean_one() {
    let (guest, mut line) = client();
    // The rest of a frame of the session before, in both directions.
    line.write_all(b"rest of a frame h\0\0\0").unwrap();
    let server = line.try_clone().unwrap();
    let (mut relay, ours) = UnixStream::pair().unwrap();
    serve_on(ours, Notes::default());
    relay.write_all(&[104, 0, 0, 0, 0, 0, 0, 63, 0, 1, 2, 3]).unwrap();
    for (mut from, mut to) in [(server.try_clone().unwrap(), relay.try_clone().unwrap()), (relay, server)] {
        thread::spawn(move || {
            let mut buffer = [0; 500];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
    }
    assert_eq!(guest.attach(soon()).unwrap().version, "test");
    guest.reconnect();
    assert_eq!(guest.attach(soon()).unwrap().version, "test");
}

#[test]
fn nobody_there_is_an_error_at_the_deadline() {
    let (guest, _line) = client();
    assert!(matches!(guest.attach(Deadline::after(Duration::from_millis(700))), Err(RpcError::NoService)));
    guest.shut_down();
    assert!(matches!(guest.attach(soon()), Err(RpcError::Gone)));
}

/// A guest that answers the first OPEN and the question who it is, and then calls `act` with the line and the
/// host's number of the next channel, once its call has been read.
fn scripted(version: &'static str, act: impl FnOnce(&mut UnixStream, u32) + Send + 'static) -> Guest {
    let (guest, mut line) = client();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut calls = 0;
        let mut number = 0;
        let mut buffer = [0; 4096];
        let mut act = Some(act);
        while let Ok(count @ 1..) = line.read(&mut buffer) {
            bytes.extend(&buffer[..count]);
            while let Ok(Some((frame, header))) = Frame::decode(&bytes) {
                let payload = if let Frame::Data { length, .. } = frame { length as usize } else { 0 };
                if bytes.len() < header + payload {
                    break;
                }
                bytes.drain(..header + payload);
                let mut out = Vec::new();
                match frame {
                    Frame::Open { from, .. } => {
                        number = from;
                        let window = 1 << 30;
                        Frame::OpenConfirm { to: from, from: 5, window, packet: 1 << 24 }.encode(&mut out);
                    }
                    Frame::Data { .. } => {
                        calls += 1;
                        let items = match calls {
                            // As the Go service answers `vm.Attach` and `vm.Version`.
                            1 => vec![("not found: /vm/Attach", Value::Null)],
                            2 => vec![("", Value::text(version))],
                            _ => vec![],
                        };
                        for (error, value) in items {
                            let error = (!error.is_empty()).then(|| error.to_owned());
                            let response = call::Response { error, goes_on: false };
                            frame::data(number, &codec::encode(&response.to_value()), &mut out);
                            frame::data(number, &codec::encode(&value), &mut out);
                            Frame::Close { to: number }.encode(&mut out);
                        }
                    }
                    _ => {}
                }
                if line.write_all(&out).is_err() {
                    return;
                }
                if let (3.., Some(act)) = (calls, if calls > 2 { act.take() } else { None }) {
                    act(&mut line, number);
                }
            }
        }
    });
    guest
}

fn started(number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let response = call::Response { error: None, goes_on: true };
    frame::data(number, &codec::encode(&response.to_value()), &mut out);
    frame::data(number, &codec::encode(&Value::Int(112)), &mut out);
    out
}

#[test]
fn output_that_the_go_service_sends_after_close_is_delivered() {
    let guest = scripted("dev", |line, number| {
        let mut out = started(number);
        let record = |record: call::Record| codec::encode(&record.to_value());
        frame::data(number, &record(call::Record::Stdout(b"hi".into())), &mut out);
        frame::data(number, &record(call::Record::Status(Status { code: 0, signal: None })), &mut out);
        Frame::Close { to: number }.encode(&mut out);
        line.write_all(&out).unwrap();
        thread::sleep(Duration::from_millis(20));
        let mut late = Vec::new();
        frame::data(number, &record(call::Record::Stdout(b"\r\n".into())), &mut late);
        line.write_all(&late).unwrap();
    });
    let info = guest.attach(soon()).unwrap();
    assert_eq!((info.version.as_str(), info.protocol), ("dev", 0));
    let running = guest.run(&Command { pty: true, ..shell("echo hi") }, soon()).unwrap();
    assert_eq!(finish(running), (b"hi\r\n".to_vec(), vec![], 0));
}

#[test]
fn options_the_go_service_lacks_are_errors_or_worked_around() {
    let mut request = shell("true");
    let options = RunOptions { extra_env: vec!["A=1".into()], term: "x".into(), ..RunOptions::default() };
    request.pty = true;
    command_for_old(&mut request, &options).unwrap();
    assert_eq!((request.name.as_str(), request.args[..3].join(" ")), ("env", "TERM=x A=1 sh".into()));
    let options = RunOptions { user: "ann".into(), ..RunOptions::default() };
    assert!(command_for_old(&mut request, &options).is_err());
}

use super::command::old_service as command_for_old;

/// What a hostile guest sends in answer to a command, and what the command's user sees.
fn hostile(answer: impl FnOnce(u32) -> Vec<u8> + Send + 'static) -> RpcError {
    let guest = scripted("dev", move |line, number| {
        let _ = line.write_all(&answer(number));
    });
    let deadline = Deadline::after(Duration::from_secs(2));
    let mut running = match guest.run(&shell("true"), deadline) {
        Err(error) => return error,
        Ok(running) => running,
    };
    loop {
        match running.next(deadline) {
            Err(error) => return error,
            Ok(Output::Exit(status)) => panic!("{status:?}"),
            Ok(_) => {}
        }
    }
}

/// A codec frame with these bytes as its item.
fn item(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let length = u32::try_from(bytes.len()).unwrap();
    for piece in [&length.to_be_bytes()[..], bytes].concat().chunks(limits::PACKET as usize) {
        frame::data(number, piece, &mut out);
    }
    out
}

#[test]
fn hostile_answers_end_the_call_with_an_error() {
    let out_of_sync = |error: RpcError| assert!(matches!(error, RpcError::OutOfSync(_)), "{error:?}");
    out_of_sync(hostile(|_| vec![0xff; 100]));
    out_of_sync(hostile(|number| item(number, b"\xa2\x61E\xf6\x61")));
    out_of_sync(hostile(|number| item(number, &[0x81; 1000])));
    out_of_sync(hostile(|number| item(number, b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")));
    out_of_sync(hostile(|number| {
        let mut out = Vec::new();
        frame::data(number, &u32::MAX.to_be_bytes(), &mut out);
        out
    }));
    out_of_sync(hostile(|number| {
        let mut out = Vec::new();
        Frame::Data { to: number, length: u32::MAX }.encode(&mut out);
        out
    }));
    out_of_sync(hostile(|number| [started(number), item(number, &[0x9f; 100])].concat()));
    out_of_sync(hostile(|number| {
        let mut many = started(number);
        let mut map = vec![0xbf];
        map.extend([0x00; 2000]);
        map.push(0xff);
        many.extend(item(number, &map));
        many
    }));
    // More than the window.
    out_of_sync(hostile(|number| {
        let mut out = Vec::new();
        for _ in 0..2 * limits::WINDOW / limits::PACKET {
            frame::data(number, &[0; limits::PACKET as usize], &mut out);
        }
        out
    }));
    let wrong = |error: RpcError| assert!(matches!(error, RpcError::WrongAnswer(_)), "{error:?}");
    wrong(hostile(|number| item(number, b"\x80")));
    wrong(hostile(|number| [started(number), item(number, b"\x05")].concat()));
    // Never ending, never saying anything.
    let empty = hostile(|number| {
        let record = call::Record::Stdout(Vec::new());
        [started(number), codec_frames(number, &record, 1000)].concat()
    });
    assert!(matches!(empty, RpcError::TimedOut), "{empty:?}");
    let closed = hostile(|number| {
        let mut out = started(number);
        Frame::Close { to: number }.encode(&mut out);
        out
    });
    assert!(matches!(closed, RpcError::Gone), "{closed:?}");
}

fn codec_frames(number: u32, record: &call::Record, count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..count {
        frame::data(number, &codec::encode(&record.to_value()), &mut out);
    }
    out
}

#[test]
fn guest_that_asks_without_listening_is_given_up() {
    // OPENs of the guest are refused one by one, until it is plain that nobody reads the refusals.
    let (guest, mut line) = client();
    let reading = line.try_clone().unwrap();
    serve_on(reading, Notes::default());
    guest.attach(soon()).unwrap();
    let mut open = Vec::new();
    Frame::Open { from: 1, window: 0, packet: 1000 }.encode(&mut open);
    for _ in 0..1000 {
        line.write_all(&open).unwrap();
    }
    // It was the service's own line, so the service is confused by the refusals; a new session works.
    guest.reconnect();
    assert_eq!(guest.attach(soon()).unwrap().version, "test");
}

#[test]
fn random_bytes_from_a_guest_do_no_harm() {
    let mut seed = 86u64;
    for _ in 0..50 {
        let (guest, mut line) = client();
        let attaching = guest.clone();
        let waiting = thread::spawn(move || attaching.attach(Deadline::after(Duration::from_millis(100))));
        let bytes: Vec<u8> = (0..20_000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let byte = (seed >> 33) as u8;
                if byte & 0x80 == 0 { 100 + byte % 7 } else { byte }
            })
            .collect();
        line.write_all(&bytes).unwrap();
        assert!(waiting.join().unwrap().is_err());
    }
}

#[test]
fn replies_out_of_order_reach_their_calls() {
    let (guest, _) = with_service();
    guest.attach(soon()).unwrap();
    let threads: Vec<_> = (0..20u32)
        .map(|n| {
            let guest = guest.clone();
            thread::spawn(move || {
                let script = format!("sleep 0.{}; echo {n}", 20 - n);
                let running = guest.run(&shell(&script), soon()).unwrap();
                assert_eq!(finish(running).0, format!("{n}\n").into_bytes());
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(guest.call(method::VERSION, &Value::Null, soon()).unwrap(), Value::text("test"));
}
