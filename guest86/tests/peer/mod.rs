//! A service on one end of a socket pair, and the test on the other.

#![allow(dead_code)] // each test program uses its part

use guest86::call::{self, Response};
use guest86::cbor::Value;
use guest86::codec;
use guest86::limits;
use guest86::link::{Channel, Link, Patience};
use guest86::mux::{Role, Session};
use guest86::service::{Service, System, serve};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything to happen: a minute from the start of the test program.
pub const PATIENCE: Patience<'static> = &|| {
    static END: OnceLock<Instant> = OnceLock::new();
    let end = *END.get_or_init(|| now() + Duration::from_secs(60));
    Some(end.saturating_duration_since(now()))
};

#[allow(clippy::disallowed_methods)] // tests give up after a while of real time
fn now() -> Instant {
    Instant::now()
}

/// Patience that ends after this many milliseconds.
pub fn within(millis: u64) -> impl Fn() -> Option<Duration> {
    let end = now() + Duration::from_millis(millis);
    move || Some(end.saturating_duration_since(now()))
}

/// Notes what it is told and changes nothing.
#[derive(Clone, Default)]
pub struct Notes(pub Arc<Mutex<Vec<String>>>);

impl System for Notes {
    fn set_time(&self, seconds: i64, nanos: u32) -> io::Result<()> {
        self.0.lock().unwrap().push(format!("time {seconds}.{nanos:09}"));
        Ok(())
    }

    fn add_entropy(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().push(format!("entropy {}", bytes.len()));
        Ok(())
    }

    fn reset_network(&self) -> Result<(), String> {
        Err("failed: network address".into())
    }
}

/// Starts a service and returns the other end of its line.
pub fn start(system: Notes) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let service = Service::new("dev", Box::new(system));
    let input = theirs.try_clone().unwrap();
    thread::spawn(move || serve(&service, input.into(), theirs.into()));
    ours
}

/// The opening end of a line.
pub fn attach(line: &UnixStream, first: u32) -> Arc<Link> {
    let mut session = Session::new(Role::Opens { first });
    session.hunt();
    let link = Link::new(session);
    let (sender, mut output) = (link.clone(), line.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = Vec::new();
        while sender.take_output(&mut buffer) && output.write_all(&buffer).is_ok() {}
    });
    let (receiver, mut input) = (link.clone(), line.try_clone().unwrap());
    // A line may get a new link after this one; this one's reader must not take its bytes.
    input.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while receiver.ended().is_none() {
            match input.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
                Ok(count) => drop(receiver.push(&buffer[..count])),
            }
        }
        receiver.down();
    });
    link
}

/// A service and a link to it.
pub fn connect() -> (Arc<Link>, Notes) {
    let notes = Notes::default();
    let line = start(notes.clone());
    (attach(&line, 0x1234_5678), notes)
}

/// Reads an item.
pub fn item(channel: &Channel) -> Value {
    codec::read(channel, limits::RESPONSE, limits::CBOR_ITEMS, PATIENCE).unwrap()
}

/// Sends a call and returns the channel, the response header and the value.
pub fn begin(link: &Arc<Link>, selector: &str, argument: &Value) -> (Channel, Response, Value) {
    let channel = link.open(PATIENCE).unwrap();
    channel.write(&codec::encode(&call::header(selector)), PATIENCE).unwrap();
    channel.write(&codec::encode(argument), PATIENCE).unwrap();
    let response = Response::from_value(&item(&channel)).unwrap();
    let value = item(&channel);
    (channel, response, value)
}

/// A call that ends with its answer.
pub fn ask(link: &Arc<Link>, selector: &str, params: &[Value]) -> Result<Value, String> {
    let (_, response, value) = begin(link, selector, &Value::Array(params.to_vec()));
    assert!(!response.goes_on);
    response.error.map_or(Ok(value), Err)
}

/// Reads to the end of the channel.
pub fn rest(channel: &Channel) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 5000]);
    while let count @ 1.. = channel.read(&mut buffer, PATIENCE).unwrap() {
        all.extend(&buffer[..count]);
    }
    all
}
