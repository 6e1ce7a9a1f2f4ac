//! Raw bytes between a channel and something else; `vm.Dial`.

use super::{reason, respond, start};
use crate::cbor::Value;
use crate::link::{Channel, LinkError, forever};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes carried at once.
const PIECE: usize = 8 << 10;

/// How often a writer that has to wait looks whether the host is still there.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Carries bytes to the channel until their end.
fn to_channel(mut from: impl Read, channel: &Channel) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if channel.write(buffer.get(..count).unwrap_or_default(), &forever).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The same from a file that does not block, until its end or, after a pause, that of `witness`.
pub fn to_channel_until(from: File, channel: &Channel, witness: &File) {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(witness.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let (readable, over) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if readable {
            let mut buffer = vec![0; PIECE];
            match (&from).read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if channel.write(buffer.get(..count).unwrap_or_default(), &forever).is_err() {
                        return;
                    }
                }
            }
        } else if over {
            return;
        }
    }
}

/// Writes all of `bytes` to something that does not block (for long); `false` if it takes no more, or the host
/// has closed the channel meanwhile.
pub fn write_patiently(to: &mut (impl Write + AsFd), mut bytes: &[u8], channel: &Channel) -> bool {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return false,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)];
                if matches!(poll(&mut fds, Some(&LOOK)), Ok(0)) && channel.hung_up() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Carries bytes from the channel until their end.
fn from_channel(channel: &Channel, mut to: &TcpStream) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = channel.read(&mut buffer, &forever) {
        if !write_patiently(&mut to, buffer.get(..count).unwrap_or_default(), channel) {
            return;
        }
    }
}

/// Couples a socket with a channel until both directions have ended. Each end is passed on when it comes.
pub fn couple(channel: &Arc<Channel>, socket: TcpStream) {
    let Ok(writer) = socket.try_clone() else { return channel.close() };
    // Reading blocks, writing must not for ever: the host may hang up while nobody reads what it sent.
    let _ = writer.set_write_timeout(Some(Duration::from_millis(100)));
    let feeder = channel.clone();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let feeding = start("relay", move || {
        from_channel(&feeder, &writer);
        // A host that is gone altogether wants no more answers either.
        let how = if feeder.hung_up() { Shutdown::Both } else { Shutdown::Write };
        let _ = writer.shutdown(how);
        drop(done);
    });
    if feeding {
        to_channel(&socket, channel);
        channel.eof();
        // Nothing is sent on this: it ends with the thread.
        let _ = wait.recv();
    }
    let _ = socket.shutdown(Shutdown::Both);
    channel.close();
}

/// Couples any kind of stream socket with a channel.
pub fn couple_fd(channel: &Arc<Channel>, socket: OwnedFd) {
    // Only read, write and shutdown are used, which are the same for all stream sockets.
    couple(channel, TcpStream::from(socket));
}

/// Answers `vm.Dial`.
pub fn dial(channel: Arc<Channel>, argument: &Value) -> Result<(), LinkError> {
    let Some(address) = argument.as_text() else {
        return super::reply(&channel, Err("the address is no text".into()));
    };
    // The name of every guest's own address needs no resolver.
    let numeric = address.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    match TcpStream::connect(numeric.as_deref().unwrap_or(address)) {
        Ok(socket) => {
            let _ = socket.set_nodelay(true);
            respond(&channel, Ok(Value::Null), true)?;
            couple(&channel, socket);
            Ok(())
        }
        Err(error) => {
            let connect = if error.raw_os_error().is_some() { "connect: " } else { "" };
            super::reply(&channel, Err(format!("dial tcp {address}: {connect}{}", reason(&error))))
        }
    }
}
