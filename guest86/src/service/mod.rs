//! The guest service: answers calls that come in over a line.
//!
//! Each call has a thread, as each may block: on a command, on a file, on a mount whose server is the host
//! at the other end of this very line. The threads that read and write the line never wait for them.

mod files;
mod line;
mod mount;
mod network;
mod process;
mod relay;
mod run;
mod sys;
mod system;
mod users;

pub use line::{open_terminal, serve};
pub use system::{Linux, System};

use crate::call::{self, Info, Response, method};
use crate::cbor::Value;
use crate::codec::{self, CodecError};
use crate::limits;
use crate::link::{Channel, LinkError, forever};
use mount::Mounts;
use process::Processes;
use std::io;
use std::sync::Arc;

/// Stack of a thread in bytes. Little of it is ever touched.
const STACK: usize = 256 << 10;

/// What the calls share.
pub struct Service {
    version: String,
    system: Box<dyn System>,
    processes: Processes,
    mounts: Mounts,
}

/// Result of a method: a value, or what to tell people.
type Answer = Result<Value, String>;

impl Service {
    /// A service that gives this version and acts on this system.
    pub fn new(version: &str, system: Box<dyn System>) -> Arc<Self> {
        Arc::new(Self {
            version: version.into(),
            system,
            processes: Processes::default(),
            mounts: Mounts::default(),
        })
    }

    fn info(&self) -> Info {
        Info {
            version: self.version.clone(),
            protocol: call::PROTOCOL,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            features: call::FEATURES.iter().map(|&feature| feature.to_owned()).collect(),
        }
    }

    /// Answers the call on a channel.
    fn handle(self: &Arc<Self>, channel: Channel) {
        // An answer that cannot be delivered interests nobody.
        let _ = self.try_handle(channel);
    }

    fn try_handle(self: &Arc<Self>, channel: Channel) -> Result<(), LinkError> {
        let selector = match codec::read(&channel, limits::CALL_HEADER, limits::REQUEST_ITEMS, &forever) {
            Ok(header) => match call::selector(&header) {
                Some(selector) => selector,
                None => return reply(&channel, Err("call header without a selector".into())),
            },
            Err(CodecError::End) => return Ok(()),
            Err(CodecError::Link(error)) => return Err(error),
            Err(error) => return reply(&channel, Err(format!("call header: {error}"))),
        };
        let is = |method: &str| selector == call::normalize(method);
        if is(method::WRITE_FILE) {
            return files::write_file(&channel);
        }
        let raw = [method::RUN, method::TERMINAL, method::DIAL, method::MOUNT_9P, method::PUT];
        let bare = [method::SET_ATTRIBUTES];
        if !METHODS.iter().map(|(name, _)| name).chain(&raw).chain(&bare).any(|name| is(name)) {
            return reply(&channel, Err(format!("not found: {selector}")));
        }
        let argument = match codec::read(&channel, limits::REQUEST, limits::REQUEST_ITEMS, &forever) {
            Ok(argument) => argument,
            Err(CodecError::Link(error)) => return Err(error),
            Err(error) => return reply(&channel, Err(format!("fn: args: {error}"))),
        };
        if is(method::RUN) {
            return run::run(self, Arc::new(channel), &argument);
        } else if is(method::TERMINAL) {
            return run::terminal(self, Arc::new(channel));
        } else if is(method::DIAL) {
            return relay::dial(Arc::new(channel), &argument);
        } else if is(method::MOUNT_9P) {
            return mount::mount(self, Arc::new(channel), &argument);
        } else if is(method::PUT) {
            return files::put(&channel, &argument);
        } else if is(method::SET_ATTRIBUTES) {
            return reply(&channel, files::set_attributes(&argument));
        }
        let Some((_, arity)) = METHODS.iter().find(|(name, _)| is(name)) else { return Ok(()) };
        let params = match parameters(&argument, *arity) {
            Ok(params) => params,
            Err(error) => return reply(&channel, Err(error)),
        };
        if is(method::READ_FILE) {
            return files::read_file(&channel, params);
        } else if is(method::GET) {
            return files::get(&channel, params);
        } else if is(method::ATTACH) {
            channel.end_older();
            return reply(&channel, Ok(self.info().to_value()));
        }
        reply(&channel, self.function(&selector, params))
    }

    /// Methods that take an array and give a value.
    fn function(&self, selector: &str, params: &[Value]) -> Answer {
        let is = |method: &str| selector == call::normalize(method);
        match () {
            () if is(method::VERSION) => Ok(Value::text(&self.version)),
            () if is(method::INFO) => Ok(self.info().to_value()),
            () if is(method::RESET_NETWORK) => self.system.reset_network().map(|()| Value::Null),
            () if is(method::STAT) => files::stat(params),
            () if is(method::LSTAT) => files::lstat(params),
            () if is(method::READ_DIR) => files::read_dir(params),
            () if is(method::LIST) => files::list(params),
            () if is(method::MAKE_DIR) => files::make_dir(params),
            () if is(method::REMOVE_ALL) => files::remove_all(params),
            () if is(method::RENAME) => files::rename(params),
            () if is(method::SYMLINK) => files::symlink(params),
            () if is(method::SIGNAL) => {
                self.processes.signal(integer(params, 0)?, integer(params, 1)?).map(|()| Value::Null)
            }
            () if is(method::TERMINATE) => {
                self.processes.terminate(integer(params, 0)?).map(|()| Value::Null)
            }
            () if is(method::RESIZE) => {
                let size = |index| integer(params, index).map(|size| u16::try_from(size).unwrap_or(u16::MAX));
                self.processes.resize(integer(params, 0)?, size(1)?, size(2)?).map(|()| Value::Null)
            }
            () if is(method::SET_TIME) => {
                let nanos = u32::try_from(integer(params, 1)?).unwrap_or(0).min(999_999_999);
                done("settimeofday", self.system.set_time(integer(params, 0)?, nanos))
            }
            () if is(method::ADD_ENTROPY) => {
                let bytes =
                    params.first().and_then(Value::as_bytes).ok_or("parameter 1 is no byte string")?;
                done("entropy", self.system.add_entropy(bytes))
            }
            () if is(method::WAIT_MOUNT) => self.mounts.wait(&files::path(params, 0)?).map(|()| Value::Null),
            () if is(method::UNMOUNT) => mount::unmount(&files::path(params, 0)?).map(|()| Value::Null),
            // `vm.MountFuse` has never done anything.
            () => Ok(Value::Null),
        }
    }
}

/// Methods whose argument is an array, with its length.
const METHODS: &[(&str, usize)] = &[
    (method::VERSION, 0),
    (method::RESET_NETWORK, 0),
    (method::STAT, 1),
    (method::READ_FILE, 1),
    (method::READ_DIR, 1),
    (method::MAKE_DIR, 1),
    (method::REMOVE_ALL, 1),
    (method::RENAME, 2),
    (method::SIGNAL, 2),
    (method::TERMINATE, 1),
    (method::MOUNT_FUSE, 2),
    (method::INFO, 0),
    (method::ATTACH, 0),
    (method::SET_TIME, 2),
    (method::ADD_ENTROPY, 1),
    (method::RESIZE, 3),
    (method::WAIT_MOUNT, 1),
    (method::UNMOUNT, 1),
    (method::LSTAT, 1),
    (method::LIST, 1),
    (method::GET, 1),
    (method::SYMLINK, 2),
];

/// The parameters of a method that takes `arity` of them. Errors are worded as the Go service words them.
fn parameters(argument: &Value, arity: usize) -> Result<&[Value], String> {
    let params = match argument {
        Value::Null => &[],
        Value::Array(params) => &params[..],
        _ => return Err("fn: args: not an array".into()),
    };
    if params.len() != arity {
        return Err(format!("fn: expected {arity} params, got {}", params.len()));
    }
    Ok(params)
}

fn integer(params: &[Value], index: usize) -> Result<i64, String> {
    let value = params.get(index).and_then(Value::as_int);
    value.ok_or_else(|| format!("parameter {} is no integer", index + 1))
}

fn text(params: &[Value], index: usize) -> Result<&str, String> {
    match params.get(index) {
        Some(Value::Null) => Ok(""),
        other => other.and_then(Value::as_text).ok_or_else(|| format!("parameter {} is no text", index + 1)),
    }
}

fn done(what: &str, result: io::Result<()>) -> Answer {
    result.map(|()| Value::Null).map_err(|error| format!("{what}: {}", reason(&error)))
}

/// The system's words for an error, as Go has them: no number, small first letter.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn respond(channel: &Channel, answer: Answer, goes_on: bool) -> Result<(), LinkError> {
    let (value, error) = match answer {
        Ok(value) => (value, None),
        Err(error) => (Value::Null, Some(error)),
    };
    let response = Response { goes_on: goes_on && error.is_none(), error };
    channel.write(&codec::encode(&response.to_value()), &forever)?;
    channel.write(&codec::encode(&value), &forever)
}

/// Answers a call that ends with the answer.
fn reply(channel: &Channel, answer: Answer) -> Result<(), LinkError> {
    respond(channel, answer, false)?;
    channel.close();
    Ok(())
}

/// Starts a thread, or does without: when there is none to be had, `work` is dropped and its channel closes.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work).is_ok()
}
