//! `vm.Run` and `vm.Terminal`.

use super::process::{Process, size};
use super::{Service, reason, relay, respond, start, sys, users};
use crate::call::{Record, RunOptions, RunRequest, Status};
use crate::cbor::Value;
use crate::codec;
use crate::link::{Channel, LinkError, forever};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcsetwinsize;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

/// Where programs are if the service was started without PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Output read at once, in bytes.
const PIECE: usize = 8 << 10;

/// After a command has ended, its output ends when nobody has written for so long: a process it left behind
/// may keep the pipe open for ever.
const DRAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Output that is read after a command has ended, in bytes. More than the pipe held at that time comes from
/// processes it left behind.
const DRAIN_BYTES: usize = 1 << 20;

/// Why a command did not start.
struct Failure {
    /// As the Go service words it.
    text: String,
    /// Error number, if the system gave one.
    errno: Option<i32>,
}

impl Failure {
    fn new(what: &str, error: &io::Error) -> Self {
        Self { text: format!("{what}: {}", reason(error)), errno: error.raw_os_error() }
    }

    /// The value after the response header, for hosts that know of it.
    fn value(&self) -> Value {
        Value::map([("Errno", self.errno.map_or(Value::Null, |errno| Value::Int(errno.into())))])
    }
}

/// Our ends of a command's standard streams.
struct Streams {
    input: Option<File>,
    output: Option<File>,
    errors: Option<File>,
}

/// Answers `vm.Run`.
pub fn run(service: &Arc<Service>, channel: Arc<Channel>, argument: &Value) -> Result<(), LinkError> {
    let request = match RunRequest::from_value(argument) {
        Ok(request) => request,
        Err(key) => return super::reply(&channel, Err(format!("{key} has the wrong type"))),
    };
    let started = launch(service, &request);
    let (process, streams, witness) = match started {
        Ok(started) => started,
        Err(failure) => {
            let header = crate::call::Response { error: Some(failure.text.clone()), goes_on: false };
            let value = if request.options.is_some() { failure.value() } else { Value::Null };
            channel.write(&codec::encode(&header.to_value()), &forever)?;
            channel.write(&codec::encode(&value), &forever)?;
            channel.close();
            return Ok(());
        }
    };
    if let Err(error) = respond(&channel, Ok(Value::Int(process.id().into())), true) {
        process.end(Signal::HUP);
        return Err(error);
    }
    let (feeder, fed, input) = (channel.clone(), process.clone(), streams.input);
    let feeding = start("stdin", move || {
        feed(&feeder, input, &fed);
    });
    if !feeding {
        process.end(Signal::KILL);
    }
    let pumped = pump(&channel, streams.output, streams.errors, &witness);
    if pumped.is_err() {
        process.end(Signal::HUP);
    }
    let status = to_status(process.wait(), request.options.is_some());
    pumped?;
    channel.write(&codec::encode(&Record::Status(status).to_value()), &forever)?;
    channel.close();
    Ok(())
}

/// Answers `vm.Terminal`: a shell, raw bytes both ways.
pub fn terminal(service: &Arc<Service>, channel: Arc<Channel>) -> Result<(), LinkError> {
    let request = RunRequest { name: "/bin/sh".into(), pty: true, ..RunRequest::default() };
    let (process, streams, witness) = match launch(service, &request) {
        Ok(started) => started,
        Err(failure) => return super::reply(&channel, Err(failure.text)),
    };
    if let Err(error) = respond(&channel, Ok(Value::Null), true) {
        process.end(Signal::HUP);
        return Err(error);
    }
    let (feeder, fed, input) = (channel.clone(), process.clone(), streams.input);
    start("stdin", move || feed(&feeder, input, &fed));
    // What a shell leaves behind may keep the terminal open: its own end is what counts.
    if let Some(output) = streams.output {
        relay::to_channel_until(output, &channel, &witness);
    }
    channel.eof();
    process.end(Signal::HUP);
    process.wait();
    channel.close();
    Ok(())
}

fn to_status(status: ExitStatus, with_signal: bool) -> Status {
    match status.code() {
        Some(code) => Status { code: code.into(), signal: None },
        None => Status { code: -1, signal: status.signal().filter(|_| with_signal) },
    }
}

/// Starts a command. The last file is readable (at its end) when the command has ended.
fn launch(service: &Service, request: &RunRequest) -> Result<(Arc<Process>, Streams, File), Failure> {
    let plain = |text: String| Failure { text, errno: None };
    let options = request.options.clone().unwrap_or_default();
    if request.name.is_empty() {
        return Err(plain("exec: no command".into()));
    }
    if !request.dir.is_empty() {
        let there = std::fs::metadata(&request.dir).and_then(|meta| match meta.is_dir() {
            true => Ok(()),
            false => Err(Errno::NOTDIR.into()),
        });
        there.map_err(|error| Failure::new(&format!("chdir {}", request.dir), &error))?;
    }
    let user = match options.user.as_str() {
        "" => None,
        wanted => Some(users::find(wanted).map_err(plain)?),
    };
    let environment = environment(request, &options, user.as_ref());
    let program = find_program(&request.name, &environment, request.options.is_some())?;
    let mut command = Command::new(&program);
    command.arg0(&request.name).args(&request.args);
    command.env_clear().envs(environment);
    if !request.dir.is_empty() {
        command.current_dir(&request.dir);
    }
    let failed = |error: io::Error| Failure::new(&format!("fork/exec {}", program.display()), &error);
    let master = match request.pty {
        true => Some(open_pty(&mut command, &options).map_err(|error| Failure::new("pty", &error))?),
        false => None,
    };
    if master.is_none() {
        command.stdin(if options.no_input { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let (witness, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Failure::new("pipe", &errno.into()))?;
    let mut child = sys::spawn(&mut command, request.pty, user.map(|user| user.identity)).map_err(failed)?;
    // Its copies of the terminal would keep it open.
    drop(command);
    let copy = |file: &Option<File>| file.as_ref().map(File::try_clone).transpose().ok().flatten();
    let streams = Streams {
        input: child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe))).or_else(|| copy(&master)),
        output: child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe))).or_else(|| copy(&master)),
        errors: child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe))),
    };
    let process = service.processes.add(child, master, held);
    let process = process.ok_or_else(|| plain("too many threads".into()))?;
    Ok((process, streams, File::from(witness)))
}

/// Gives the command a terminal and returns our end of it.
fn open_pty(command: &mut Command, options: &RunOptions) -> io::Result<File> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    if options.rows > 0 && options.columns > 0 {
        tcsetwinsize(&master, size(options.rows, options.columns))?;
    }
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = match rustix::pty::ioctl_tiocgptpeer(&master, flags) {
        Ok(slave) => slave,
        // Linux before 4.13.
        Err(_) => {
            let name = ptsname(&master, Vec::new())?;
            rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?
        }
    };
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    Ok(File::from(master))
}

/// What the command finds in its environment.
fn environment(
    request: &RunRequest,
    options: &RunOptions,
    user: Option<&users::User>,
) -> Vec<(String, String)> {
    fn set(all: &mut Vec<(String, String)>, key: &str, value: &str) {
        all.retain(|(name, _)| name != key);
        all.push((key.into(), value.into()));
    }
    let mut all = Vec::new();
    match &request.env {
        Some(given) => {
            for (key, value) in given.iter().filter_map(|pair| pair.split_once('=')) {
                set(&mut all, key, value);
            }
        }
        None => {
            all = std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
                .collect();
            for (key, value) in [("PATH", PATH), ("HOME", "/root")] {
                if !all.iter().any(|(name, _)| name == key) {
                    set(&mut all, key, value);
                }
            }
        }
    }
    if let Some(user) = user {
        set(&mut all, "HOME", &user.home);
        if !user.name.is_empty() {
            set(&mut all, "USER", &user.name);
            set(&mut all, "LOGNAME", &user.name);
        }
    }
    if request.pty && !options.term.is_empty() {
        set(&mut all, "TERM", &options.term);
    }
    for (key, value) in options.extra_env.iter().filter_map(|pair| pair.split_once('=')) {
        set(&mut all, key, value);
    }
    // What has no name or a zero byte would make the start fail.
    all.retain(|(key, value)| !key.is_empty() && !key.contains('\0') && !value.contains('\0'));
    all
}

/// Searches the path: the command's own for hosts that know of options, else the service's as the Go service
/// does.
fn find_program(name: &str, environment: &[(String, String)], own: bool) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let service = std::env::var("PATH").unwrap_or_else(|_| PATH.into());
    let given = environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.clone());
    let path = given.filter(|_| own).unwrap_or(service);
    let mut forbidden = false;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let file = Path::new(dir).join(name);
        if let Ok(meta) = std::fs::metadata(&file) {
            if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
                return Ok(file);
            }
            forbidden |= meta.is_file();
        }
    }
    let (text, errno) = match forbidden {
        true => ("permission denied", Errno::ACCESS),
        false => ("executable file not found in $PATH", Errno::NOENT),
    };
    Err(Failure { text: format!("exec: {name:?}: {text}"), errno: Some(errno.raw_os_error()) })
}

/// Carries input to a command and hangs up when the host does.
fn feed(channel: &Channel, input: Option<File>, process: &Process) {
    if let Some(mut input) = input {
        // A command that does not read must not keep us from noticing that the host is gone.
        let _ = rustix::io::ioctl_fionbio(&input, true);
        let mut buffer = vec![0; PIECE];
        loop {
            match channel.read(&mut buffer, &forever) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    if !relay::write_patiently(&mut input, buffer.get(..count).unwrap_or_default(), channel) {
                        // Nobody reads any more; what comes is taken and dropped, so that the host can go on.
                        while channel.read(&mut buffer, &forever).is_ok_and(|count| count > 0) {}
                        break;
                    }
                }
            }
        }
        // The end of a pipe is the end of the input; with a terminal the end means nothing.
    }
    let _ = channel.wait_closed(&forever);
    process.end(Signal::HUP);
}

/// Carries output to the host until there is no more.
fn pump(
    channel: &Channel,
    mut output: Option<File>,
    mut errors: Option<File>,
    witness: &File,
) -> Result<(), LinkError> {
    let mut buffer = vec![0; PIECE];
    // Bytes that may still come after the end.
    let mut left: Option<usize> = None;
    while (output.is_some() || errors.is_some()) && left != Some(0) {
        let mut fds = Vec::with_capacity(3);
        for file in output.iter().chain(&errors) {
            fds.push(PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
        }
        if left.is_none() {
            fds.push(PollFd::from_borrowed_fd(witness.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, left.map(|_| &DRAIN)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Ok(()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut ready = ready.into_iter();
        let mut taken = 0;
        for (file, kind) in [(&mut output, false), (&mut errors, true)] {
            let Some(open) = file else { continue };
            if !ready.next().unwrap_or(false) {
                continue;
            }
            match open.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A terminal's end is an error.
                Ok(0) | Err(_) => *file = None,
                Ok(count) => {
                    taken += count;
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    let record = if kind { Record::Stderr(bytes) } else { Record::Stdout(bytes) };
                    channel.write(&codec::encode(&record.to_value()), &forever)?;
                }
            }
        }
        left = match left {
            Some(left) => Some(left.saturating_sub(taken)),
            None => ready.next().unwrap_or(false).then_some(DRAIN_BYTES),
        };
    }
    Ok(())
}
