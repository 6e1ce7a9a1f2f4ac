//! Calls of the guest service, passed through the machine's process.
//!
//! Each channel that the client opens is one to the guest. What the client does not read, the guest does not
//! get rid of, and the other way round: both are windows of their own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use guest86::link::{Channel, Link, LinkError, forever};

use crate::clock;
use crate::rpc::{Deadline, Guest};

/// Bytes carried at once.
const PIECE: usize = 32 << 10;

/// How long opening a channel to the guest may take.
const OPEN: Duration = Duration::from_secs(60);

/// How long the Go service may take for what it sends after it has closed a channel.
const LATE: Duration = Duration::from_millis(100);

/// Carries a session's bytes over a socket until either end is done with it.
pub(super) fn carry(stream: UnixStream, link: &Arc<Link>) -> std::io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = stream;
    let sender = link.clone();
    thread::Builder::new().name("control out".to_owned()).spawn(move || {
        let mut buffer = Vec::new();
        while sender.take_output(&mut buffer) && output.write_all(&buffer).is_ok() {}
        sender.down();
        // The reader has nothing to wait for any more.
        let _ = output.shutdown(std::net::Shutdown::Both);
    })?;
    let receiver = link.clone();
    let reading = thread::Builder::new().name("control in".to_owned()).spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = input.read(&mut buffer) {
            if receiver.push(buffer.get(..count).unwrap_or_default()).is_err() {
                break;
            }
        }
        receiver.down();
    });
    if reading.is_err() {
        link.down();
    }
    reading.map(drop)
}

/// Serves a client until it goes away.
pub(super) fn serve(stream: UnixStream, guest: &Guest) -> std::io::Result<()> {
    let link = Link::accepting();
    carry(stream, &link)?;
    loop {
        match link.accept(&forever) {
            Ok(channel) => {
                let guest = guest.clone();
                let call = move || call(&Arc::new(channel), &guest);
                // Without a thread the channel closes, which the client sees.
                let _ = thread::Builder::new().name("control call".to_owned()).spawn(call);
            }
            Err(_) => return Ok(()),
        }
    }
}

/// Couples a channel of the client with one of the guest until one end closes it.
fn call(client: &Arc<Channel>, guest: &Guest) {
    let Ok(inner) = guest.open_channel(Deadline::after(OPEN)) else { return client.close() };
    let inner = Arc::new(inner);
    let (from, to) = (client.clone(), inner.clone());
    let up = thread::Builder::new().name("control up".to_owned()).spawn(move || {
        if pump(&from, &to).is_ok() && !from.hung_up() {
            to.eof();
        }
    });
    let (from, to) = (inner.clone(), client.clone());
    let down = thread::Builder::new().name("control down".to_owned()).spawn(move || {
        if pump(&from, &to).is_ok() && !from.hung_up() {
            to.eof();
            // It may have nothing more to say and still listen.
            let _ = from.wait_closed(&forever);
        }
        let end = clock::now() + LATE;
        let mut buffer = vec![0; PIECE];
        while let count @ 1.. =
            from.read_late(&mut buffer, &|| Some(end.saturating_duration_since(clock::now())))
        {
            let bytes = buffer.get(..count).unwrap_or_default();
            if to.write(bytes, &forever).is_err() {
                break;
            }
        }
        to.close();
    });
    if up.is_ok() && down.is_ok() {
        let _ = client.wait_closed(&forever);
    }
    inner.close();
    client.close();
}

/// Carries bytes until their end.
fn pump(from: &Channel, to: &Channel) -> Result<(), LinkError> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer, &forever)? {
            0 => return Ok(()),
            count => to.write(buffer.get(..count).unwrap_or_default(), &forever)?,
        }
    }
}
