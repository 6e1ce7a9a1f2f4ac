//! Commands in the guest.

use super::client::{self, Guest};
use super::{Deadline, RpcError};
use guest86::call::{OUTPUT_FIRST, PROCESSES, RUN_OPTIONS, Record, RunOptions, RunRequest, Status, method};
use guest86::cbor::Value;
use guest86::codec;
use guest86::limits;
use guest86::link::{Channel, LinkError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How long the Go service may take for output that it sends after the status.
const LATE: Duration = Duration::from_millis(100);

/// How long it may take to close the channel after the status.
const CLOSING: Duration = Duration::from_millis(300);

/// Parts an output record may have: it is a small map.
const RECORD_ITEMS: usize = 64;

/// A command to run in the guest.
pub type Command = RunRequest;

/// What comes from a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output; with a terminal everything.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The end. Nothing follows.
    Exit(Status),
}

/// What a running command can be told, by another thread. Clones are the same.
#[derive(Clone)]
pub struct Control {
    guest: Guest,
    pid: i64,
}

/// A command that is running. Dropping it hangs up: its process group is ended.
pub struct Running {
    guest: Guest,
    channel: Arc<Channel>,
    pid: i64,
    /// The service sends all output before the status.
    output_first: bool,
    /// Output that came late, and then the status.
    pending: VecDeque<Output>,
    /// The status was delivered.
    over: bool,
}

/// The input of a command. Clones are the same input.
#[derive(Clone)]
pub struct Input {
    channel: Arc<Channel>,
    terminal: bool,
}

/// The exit status that a shell would give.
pub fn exit_code(status: Status) -> u8 {
    match (status.signal, u8::try_from(status.code)) {
        (Some(signal), _) => u8::try_from(signal).map_or(255, |signal| 128_u8.saturating_add(signal)),
        (None, Ok(code)) => code,
        // The Go service does not tell which signal it was.
        (None, Err(_)) => 255,
    }
}

/// The exit status that a shell would give for a command that cannot be started.
fn start_code(message: &str, value: &Value) -> u8 {
    const ENOENT: i64 = 2;
    let missing = match value.get("Errno").and_then(Value::as_int) {
        Some(errno) => errno == ENOENT,
        None => message.contains("not found") || message.contains("no such file"),
    };
    // A missing working directory is no missing program.
    if missing && !message.starts_with("chdir") { 127 } else { 126 }
}

impl Guest {
    /// Starts a command. Options that the service does not know are an error if they ask for anything.
    pub fn run(&self, command: &Command, deadline: Deadline) -> Result<Running, RpcError> {
        let attached = self.attached(deadline)?;
        let mut request = command.clone();
        if attached.info.can(RUN_OPTIONS) {
            request.options.get_or_insert_default();
        } else if let Some(options) = request.options.take() {
            old_service(&mut request, &options)?;
        }
        let channel = client::begin(&attached.link, method::RUN, &request.to_value(), deadline)?;
        let (header, value) = client::response(&channel, limits::RESPONSE, deadline)?;
        if let Some(message) = header.error {
            let code = start_code(&message, &value);
            return Err(RpcError::Start { message, code });
        }
        let pid = value.as_int().filter(|_| header.goes_on).ok_or(RpcError::WrongAnswer(method::RUN))?;
        Ok(Running {
            guest: self.clone(),
            channel: Arc::new(channel),
            pid,
            output_first: attached.info.can(OUTPUT_FIRST),
            pending: VecDeque::new(),
            over: false,
        })
    }
}

/// Options, as far as the Go service can be made to do without knowing them.
pub(super) fn old_service(request: &mut RunRequest, options: &RunOptions) -> Result<(), RpcError> {
    if !options.user.is_empty() {
        return Err(RpcError::Unsupported("commands of another user"));
    }
    let mut extra = options.extra_env.clone();
    if request.pty && !options.term.is_empty() {
        extra.insert(0, format!("TERM={}", options.term));
    }
    if !extra.is_empty() {
        match &mut request.env {
            Some(env) => env.extend(extra),
            // Its environment is not known here; `env` adds to it.
            None => {
                let name = std::mem::replace(&mut request.name, "env".into());
                extra.push(name);
                extra.append(&mut request.args);
                request.args = extra;
            }
        }
    }
    Ok(())
}

impl Running {
    /// Process id in the guest.
    pub fn pid(&self) -> i64 {
        self.pid
    }

    /// Its input, for another thread. `terminal` is whether it was started with a terminal.
    pub fn input(&self, terminal: bool) -> Input {
        Input { channel: self.channel.clone(), terminal }
    }

    /// Waits for the next piece of output or the end. After an error, or the end, there is no more.
    pub fn next(&mut self, deadline: Deadline) -> Result<Output, RpcError> {
        loop {
            if let Some(output) = self.pending.pop_front() {
                self.over = matches!(output, Output::Exit(_));
                return Ok(output);
            }
            if self.over {
                return Err(RpcError::Gone);
            }
            let patience = || deadline.left();
            // Between two records nothing is lost when patience ends.
            if !self.channel.wait_readable(&patience) {
                return Err(RpcError::TimedOut);
            }
            let item = codec::read(&self.channel, limits::RESPONSE, RECORD_ITEMS, &patience)?;
            match Record::from_value(item).ok_or(RpcError::WrongAnswer(method::RUN))? {
                Record::Stdout(bytes) if bytes.is_empty() => {}
                Record::Stdout(bytes) => return Ok(Output::Stdout(bytes)),
                Record::Stderr(bytes) => return Ok(Output::Stderr(bytes)),
                Record::Status(status) => {
                    if !self.output_first {
                        self.late_output(deadline);
                    }
                    self.pending.push_back(Output::Exit(status));
                }
            }
        }
    }

    /// Collects what the Go service sends after the status, and even after it has closed the channel.
    fn late_output(&mut self, deadline: Deadline) {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 4096];
        let closing = deadline.or_after(CLOSING);
        while let Ok(count @ 1..) = self.channel.read(&mut buffer, &|| closing.left()) {
            bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        while bytes.len() < limits::WINDOW as usize {
            let late = deadline.or_after(LATE);
            match self.channel.read_late(&mut buffer, &|| late.left()) {
                0 => break,
                count => bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            }
        }
        let mut rest = &bytes[..];
        while let Some((head, tail)) = rest.split_first_chunk::<{ codec::PREFIX }>() {
            let length = u32::from_be_bytes(*head) as usize;
            let Some((item, after)) = tail.split_at_checked(length) else { break };
            rest = after;
            let record =
                Value::decode(item, RECORD_ITEMS).ok().and_then(|(item, _)| Record::from_value(item));
            match record {
                Some(Record::Stdout(bytes)) if !bytes.is_empty() => {
                    self.pending.push_back(Output::Stdout(bytes))
                }
                Some(Record::Stderr(bytes)) => self.pending.push_back(Output::Stderr(bytes)),
                _ => {}
            }
        }
    }

    /// The way to tell it something while another thread waits for its output.
    pub fn control(&self) -> Control {
        Control { guest: self.guest.clone(), pid: self.pid }
    }

    /// Ends the command: its process group gets SIGHUP, and SIGKILL if that does not help.
    pub fn hang_up(&self) {
        self.channel.close();
    }
}

impl Control {
    /// Sends a signal to the command's process group.
    pub fn signal(&self, number: i32, deadline: Deadline) -> Result<(), RpcError> {
        let attached = self.guest.attached(deadline)?;
        if attached.info.can(PROCESSES) {
            let params = Value::Array(vec![Value::Int(self.pid.into()), Value::Int(number.into())]);
            return self.guest.call(method::SIGNAL, &params, deadline).map(drop);
        }
        // With a terminal the command leads a group, without one it does not.
        self.shell(&format!("kill -{number} -- -{0} || kill -{number} {0}", self.pid), deadline)
    }

    /// Changes the size of the command's terminal.
    pub fn resize(&self, rows: u16, columns: u16, deadline: Deadline) -> Result<(), RpcError> {
        let attached = self.guest.attached(deadline)?;
        if attached.info.can(PROCESSES) {
            let params = [self.pid, rows.into(), columns.into()].map(|number| Value::Int(number.into()));
            return self.guest.call(method::RESIZE, &Value::Array(params.into()), deadline).map(drop);
        }
        self.shell(&format!("stty rows {rows} cols {columns} </proc/{}/fd/0", self.pid), deadline)
    }

    /// Runs a line of shell beside the command.
    fn shell(&self, script: &str, deadline: Deadline) -> Result<(), RpcError> {
        let (status, output) = self.guest.shell(script, &[], deadline)?;
        if exit_code(status) == 0 { Ok(()) } else { Err(RpcError::Remote(output)) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The input may be in use elsewhere.
        self.channel.close();
    }
}

impl Guest {
    /// Runs a line of shell and returns its status and what it printed (the last of it).
    ///
    /// # Errors
    /// The service's; a status other than 0 is none.
    pub fn shell(
        &self,
        script: &str,
        input: &[u8],
        deadline: Deadline,
    ) -> Result<(Status, String), RpcError> {
        const KEPT: usize = 4 << 10;
        let command =
            Command { name: "sh".into(), args: vec!["-c".into(), script.into()], ..Command::default() };
        let mut running = self.run(&command, deadline)?;
        let feeder = running.input(false);
        feeder.write(input, deadline)?;
        feeder.end(deadline)?;
        let mut text = Vec::new();
        loop {
            match running.next(deadline)? {
                Output::Stdout(bytes) | Output::Stderr(bytes) => {
                    text.extend(bytes);
                    text.drain(..text.len().saturating_sub(KEPT));
                }
                Output::Exit(status) => {
                    return Ok((status, String::from_utf8_lossy(&text).trim().to_owned()));
                }
            }
        }
    }
}

impl Input {
    /// Writes all of `bytes`. Input that the command no longer reads is dropped without an error.
    pub fn write(&self, bytes: &[u8], deadline: Deadline) -> Result<(), RpcError> {
        match self.channel.write(bytes, &|| deadline.left()) {
            Ok(()) | Err(LinkError::Closed) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the input: the pipe closes; a terminal gets Ctrl-D, which it understands in cooked mode.
    pub fn end(&self, deadline: Deadline) -> Result<(), RpcError> {
        if self.terminal {
            return self.write(&[0x04], deadline);
        }
        self.channel.eof();
        Ok(())
    }
}
