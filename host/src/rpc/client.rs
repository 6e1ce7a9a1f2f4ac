//! Calls of the guest service.

use super::channel::{Line, Port};
use super::mux::{Attached, Connection};
use super::{Deadline, RpcError};
use guest86::call::{self, Attributes, Entry, FILES, Info, MOUNTS, Response, method};
use guest86::cbor::Value;
use guest86::codec;
use guest86::limits;
use guest86::link::{Channel, Link, LinkError};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Contents of files carried at once, in bytes.
const PIECE: usize = 32 << 10;

/// The service in a guest. Clones are the same service.
///
/// Any call attaches to it first if that has not happened yet, or has to happen again.
#[derive(Clone)]
pub struct Guest {
    connection: Arc<Connection>,
}

/// Bytes both ways between the host and something in the guest. Dropping it closes it.
pub struct RawStream {
    channel: Channel,
}

/// Opens a channel and sends header and argument.
pub(super) fn begin(
    link: &Arc<Link>,
    selector: &str,
    argument: &Value,
    deadline: Deadline,
) -> Result<Channel, RpcError> {
    let patience = || deadline.left();
    let channel = link.open(&patience)?;
    let mut bytes = codec::encode(&call::header(selector));
    bytes.extend(codec::encode(argument));
    match channel.write(&bytes, &patience) {
        // The answer may come before the service has seen everything.
        Ok(()) | Err(LinkError::Closed) => Ok(channel),
        Err(error) => Err(error.into()),
    }
}

/// Reads response header and value.
pub(super) fn response(
    channel: &Channel,
    limit: usize,
    deadline: Deadline,
) -> Result<(Response, Value), RpcError> {
    let patience = || deadline.left();
    let header = codec::read(channel, limits::RESPONSE, limits::REQUEST_ITEMS, &patience)?;
    let header = Response::from_value(&header).ok_or(RpcError::WrongAnswer("a call"))?;
    let value = codec::read(channel, limit, limits::CBOR_ITEMS, &patience)?;
    Ok((header, value))
}

/// A call that ends with its answer, on a given session.
pub(super) fn call_on(
    link: &Arc<Link>,
    selector: &str,
    argument: &Value,
    deadline: Deadline,
) -> Result<Value, RpcError> {
    let channel = begin(link, selector, argument, deadline)?;
    finish(&channel, limits::RESPONSE, deadline)
}

/// The answer of a call that ends with it.
pub(super) fn finish(channel: &Channel, limit: usize, deadline: Deadline) -> Result<Value, RpcError> {
    let (header, value) = response(channel, limit, deadline)?;
    header.error.map_or(Ok(value), |error| Err(RpcError::Remote(error)))
}

fn texts(items: &[&str]) -> Value {
    Value::Array(items.iter().map(|&item| Value::text(item)).collect())
}

impl Guest {
    /// The service at the other end of a line.
    pub fn new(line: Arc<dyn Line>) -> Self {
        Self { connection: Connection::new(line) }
    }

    /// The service behind a session that is attached already: another process has the line, and passes on what
    /// is said here ([`crate::control`]).
    pub fn of_session(link: Arc<Link>, info: Info) -> Self {
        Self { connection: Connection::of_session(link, info) }
    }

    /// Opens a channel, for whoever makes calls of its own on it.
    pub fn open_channel(&self, deadline: Deadline) -> Result<Channel, RpcError> {
        Ok(self.attached(deadline)?.link.open(&|| deadline.left())?)
    }

    /// Takes bytes that the guest has sent. Never waits; meant for the thread that runs the machine.
    pub fn receive(&self, bytes: &[u8]) {
        self.connection.receive(bytes);
    }

    /// Tells whether somebody listens in the guest.
    pub fn set_port(&self, port: Port) {
        self.connection.set_port(port);
    }

    /// Whether somebody listens, as far as has been told.
    pub fn port(&self) -> Port {
        self.connection.port()
    }

    /// The guest has been restored: the session is over, the next call begins another one.
    pub fn reconnect(&self) {
        self.connection.reconnect();
    }

    /// The machine has ended: all calls fail from now on.
    pub fn shut_down(&self) {
        self.connection.shut_down();
    }

    /// Waits until the service answers, and returns what it says about itself.
    pub fn attach(&self, deadline: Deadline) -> Result<Arc<Info>, RpcError> {
        Ok(self.attached(deadline)?.info)
    }

    pub(super) fn attached(&self, deadline: Deadline) -> Result<Attached, RpcError> {
        self.connection.attach(deadline)
    }

    /// The session, if the service has this feature.
    fn able(&self, feature: &'static str, deadline: Deadline) -> Result<Arc<Link>, RpcError> {
        let attached = self.attached(deadline)?;
        if attached.info.can(feature) { Ok(attached.link) } else { Err(RpcError::Unsupported(feature)) }
    }

    /// Calls a method whose answer ends the call.
    pub fn call(&self, selector: &str, argument: &Value, deadline: Deadline) -> Result<Value, RpcError> {
        call_on(&self.attached(deadline)?.link, selector, argument, deadline)
    }

    /// Brings up the guest's network after a restore. The error names the steps that failed.
    pub fn reset_network(&self, deadline: Deadline) -> Result<(), RpcError> {
        self.call(method::RESET_NETWORK, &texts(&[]), deadline).map(drop)
    }

    /// A file's type, size and time; links are followed.
    pub fn stat(&self, path: &str, deadline: Deadline) -> Result<Entry, RpcError> {
        let value = self.call(method::STAT, &texts(&[path]), deadline)?;
        Entry::from_value(&value).ok_or(RpcError::WrongAnswer(method::STAT))
    }

    /// A directory's entries by name. With owner, permissions and targets of links if the service knows them.
    pub fn read_dir(&self, path: &str, deadline: Deadline) -> Result<Vec<Entry>, RpcError> {
        let attached = self.attached(deadline)?;
        let selector = if attached.info.can(FILES) { method::LIST } else { method::READ_DIR };
        let value = call_on(&attached.link, selector, &texts(&[path]), deadline)?;
        let wrong = RpcError::WrongAnswer(method::READ_DIR);
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => {
                items.iter().map(Entry::from_value).collect::<Option<Vec<_>>>().ok_or(wrong)
            }
            _ => Err(wrong),
        }
    }

    /// A file's contents, at most `limit` bytes.
    pub fn read_file(&self, path: &str, limit: usize, deadline: Deadline) -> Result<Vec<u8>, RpcError> {
        let link = self.attached(deadline)?.link;
        let channel = begin(&link, method::READ_FILE, &texts(&[path]), deadline)?;
        // Length and type of the byte string come on top.
        match finish(&channel, limit.saturating_add(9), deadline)? {
            Value::Bytes(bytes) if bytes.len() <= limit => Ok(bytes),
            Value::Bytes(_) => Err(RpcError::Remote(format!("{path}: the file is too large"))),
            _ => Err(RpcError::WrongAnswer(method::READ_FILE)),
        }
    }

    /// Creates or overwrites a file.
    pub fn write_file(&self, path: &str, bytes: &[u8], deadline: Deadline) -> Result<(), RpcError> {
        let argument = Value::Array(vec![Value::text(path), Value::Bytes(bytes.to_vec())]);
        self.call(method::WRITE_FILE, &argument, deadline).map(drop)
    }

    /// Makes a directory and its parents.
    pub fn make_dir(&self, path: &str, deadline: Deadline) -> Result<(), RpcError> {
        self.call(method::MAKE_DIR, &texts(&[path]), deadline).map(drop)
    }

    /// Removes a file or a whole directory; there need not be one.
    pub fn remove_all(&self, path: &str, deadline: Deadline) -> Result<(), RpcError> {
        self.call(method::REMOVE_ALL, &texts(&[path]), deadline).map(drop)
    }

    /// Renames a file or directory.
    pub fn rename(&self, old: &str, new: &str, deadline: Deadline) -> Result<(), RpcError> {
        self.call(method::RENAME, &texts(&[old, new]), deadline).map(drop)
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &str, path: &str, deadline: Deadline) -> Result<(), RpcError> {
        let link = self.able(FILES, deadline)?;
        call_on(&link, method::SYMLINK, &texts(&[target, path]), deadline).map(drop)
    }

    /// All about a file; links are not followed.
    pub fn lstat(&self, path: &str, deadline: Deadline) -> Result<Entry, RpcError> {
        let value = call_on(&self.able(FILES, deadline)?, method::LSTAT, &texts(&[path]), deadline)?;
        Entry::from_value(&value).ok_or(RpcError::WrongAnswer(method::LSTAT))
    }

    /// Sets permissions, owner and time of what is there.
    pub fn set_attributes(&self, attributes: &Attributes, deadline: Deadline) -> Result<(), RpcError> {
        let link = self.able(FILES, deadline)?;
        call_on(&link, method::SET_ATTRIBUTES, &attributes.to_value(), deadline).map(drop)
    }

    /// Opens a file of any size in the guest for reading.
    pub fn open(&self, path: &str, deadline: Deadline) -> Result<(Entry, Contents), RpcError> {
        let link = self.able(FILES, deadline)?;
        let channel = begin(&link, method::GET, &texts(&[path]), deadline)?;
        let entry =
            Entry::from_value(&begun(&channel, deadline)?).ok_or(RpcError::WrongAnswer(method::GET))?;
        let left = u64::try_from(entry.size).map_err(|_| RpcError::WrongAnswer(method::GET))?;
        Ok((entry, Contents { channel, left, path: path.to_owned(), deadline }))
    }

    /// Copies a file of any size out of the guest.
    pub fn get(&self, path: &str, to: &mut impl Write, deadline: Deadline) -> Result<Entry, RpcError> {
        let (entry, mut contents) = self.open(path, deadline)?;
        let mut buffer = vec![0; PIECE];
        while let count @ 1.. = contents.next(&mut buffer)? {
            to.write_all(buffer.get(..count).unwrap_or_default())?;
        }
        Ok(entry)
    }

    /// Copies a file of any size into the guest.
    pub fn put(
        &self,
        attributes: &Attributes,
        from: &mut impl Read,
        deadline: Deadline,
    ) -> Result<(), RpcError> {
        let patience = || deadline.left();
        let link = self.able(FILES, deadline)?;
        let channel = begin(&link, method::PUT, &attributes.to_value(), deadline)?;
        begun(&channel, deadline)?;
        let mut buffer = vec![0; PIECE];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            match channel.write(buffer.get(..count).unwrap_or_default(), &patience) {
                Ok(()) => {}
                // A disk that is full, say: the reason comes.
                Err(LinkError::Closed) => break,
                Err(error) => return Err(error.into()),
            }
        }
        channel.eof();
        match codec::read(&channel, limits::RESPONSE, limits::REQUEST_ITEMS, &patience)? {
            Value::Null => Ok(()),
            Value::Text(error) => Err(RpcError::Remote(error)),
            _ => Err(RpcError::WrongAnswer(method::PUT)),
        }
    }

    /// Connects to `host:port` from inside the guest.
    pub fn dial(&self, address: &str, deadline: Deadline) -> Result<RawStream, RpcError> {
        self.stream(method::DIAL, &Value::text(address), deadline)
    }

    /// Mounts something at a path of the guest. The stream carries 9P: the guest asks, the host answers. It
    /// has to be served at once; [`Guest::wait_mount`] tells when the mount can be used.
    pub fn mount_9p(&self, path: &str, deadline: Deadline) -> Result<RawStream, RpcError> {
        self.stream(method::MOUNT_9P, &Value::text(path), deadline)
    }

    /// Waits until a mount can be used.
    pub fn wait_mount(&self, path: &str, deadline: Deadline) -> Result<(), RpcError> {
        call_on(&self.able(MOUNTS, deadline)?, method::WAIT_MOUNT, &texts(&[path]), deadline).map(drop)
    }

    /// Takes a mount away.
    pub fn unmount(&self, path: &str, deadline: Deadline) -> Result<(), RpcError> {
        call_on(&self.able(MOUNTS, deadline)?, method::UNMOUNT, &texts(&[path]), deadline).map(drop)
    }

    fn stream(&self, selector: &str, argument: &Value, deadline: Deadline) -> Result<RawStream, RpcError> {
        let channel = begin(&self.attached(deadline)?.link, selector, argument, deadline)?;
        begun(&channel, deadline)?;
        Ok(RawStream { channel })
    }
}

/// The value of a call that goes on.
fn begun(channel: &Channel, deadline: Deadline) -> Result<Value, RpcError> {
    match response(channel, limits::RESPONSE, deadline)? {
        (Response { error: Some(error), .. }, _) => Err(RpcError::Remote(error)),
        (Response { goes_on: true, .. }, value) => Ok(value),
        _ => Err(RpcError::WrongAnswer("a call that goes on")),
    }
}

/// Contents of a file in the guest: as many bytes as it had when it was opened, or an error.
pub struct Contents {
    channel: Channel,
    left: u64,
    path: String,
    deadline: Deadline,
}

impl Contents {
    /// The next bytes; none at the end.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, RpcError> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.channel.read(buffer, &|| self.deadline.left())?;
        match self.left.checked_sub(count as u64) {
            Some(rest) if count > 0 => self.left = rest,
            Some(_) => {
                return Err(RpcError::Remote(format!("{}: the file was cut while it was read", self.path)));
            }
            None => return Err(RpcError::WrongAnswer(method::GET)),
        }
        Ok(count)
    }
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(io::Error::other)
    }
}

impl RawStream {
    /// Reads at least one byte; zero at the end of what the guest sends.
    pub fn read(&self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, RpcError> {
        Ok(self.channel.read(buffer, &|| deadline.left())?)
    }

    /// Writes all of `bytes`.
    pub fn write(&self, bytes: &[u8], deadline: Deadline) -> Result<(), RpcError> {
        Ok(self.channel.write(bytes, &|| deadline.left())?)
    }

    /// Tells the guest that nothing more follows.
    pub fn end(&self) {
        self.channel.eof();
    }

    /// Ends both directions; whoever reads or writes gets an error.
    pub fn close(&self) {
        self.channel.close();
    }
}
