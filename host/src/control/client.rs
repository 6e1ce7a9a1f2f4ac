//! Asking a machine's process.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use guest86::call::Info;
use guest86::link::Link;
use guest86::mux::{Role, Session};
use rustix::process::{Pid, Signal};

use super::ControlError;
use super::message::{self, Reply, Request, Status};
use super::names::{Directory, Name};
use super::splice;
use crate::clock;
use crate::rpc::Guest;

/// How long a machine's process may take to answer what it knows.
const ANSWER: Duration = Duration::from_secs(5);

/// How long it may take beyond what the guest may, to say that there is no service.
const MORE: Duration = Duration::from_secs(60);

/// How long it may take to end once it has no reason to wait any more.
const END: Duration = Duration::from_secs(15);

/// A connection to a machine's process.
pub struct Client {
    name: Name,
    stream: UnixStream,
}

impl Client {
    /// Connects to the machine with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn connect(directory: &Directory, name: &Name) -> Result<Self, ControlError> {
        let stream = directory.connect(name)?;
        let stream = stream.ok_or_else(|| ControlError::Unknown(name.as_str().to_owned()))?;
        Ok(Self { name: name.clone(), stream })
    }

    fn silent(&self, error: &io::Error) -> ControlError {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it takes too long".to_owned(),
            io::ErrorKind::UnexpectedEof => "it has just ended".to_owned(),
            _ => error.to_string(),
        };
        ControlError::Silent { name: self.name.as_str().to_owned(), why }
    }

    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Reply, ControlError> {
        let reply = self
            .stream
            .set_read_timeout(Some(patience))
            .and_then(|()| self.stream.set_write_timeout(Some(ANSWER)))
            .and_then(|()| message::write(&mut self.stream, request))
            .and_then(|()| message::read(&mut self.stream));
        match reply {
            Ok(Reply::Error(why)) => Err(ControlError::Refused { name: self.name.as_str().to_owned(), why }),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.silent(&error)),
        }
    }

    fn unexpected(&self) -> ControlError {
        self.silent(&io::Error::other("its answer is another one than expected"))
    }

    /// What the machine is.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(mut self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status, ANSWER)? {
            Reply::Status(status) => Ok(status),
            _ => Err(self.unexpected()),
        }
    }

    /// The service in the guest. Everything begun through it ends with the last clone.
    ///
    /// # Errors
    /// There is none, also after the guest had this long to start it.
    pub fn guest(mut self, patience: Duration) -> Result<Guest, ControlError> {
        let request = Request::Guest { patience: patience.as_secs_f64() };
        let Reply::Guest { version, protocol, kernel, features } = self.ask(&request, patience + MORE)?
        else {
            return Err(self.unexpected());
        };
        let free = self.stream.set_read_timeout(None).and_then(|()| self.stream.set_write_timeout(None));
        free.map_err(|error| self.silent(&error))?;
        let link = Link::new(Session::new(Role::Opens { first: 0 }));
        let failed = |error: io::Error| ControlError::Guest(error.into());
        splice::carry(self.stream, &link).map_err(failed)?;
        Ok(Guest::of_session(link, Info { version, protocol, kernel, features }))
    }
}

/// Ends the machine with this name, and waits until its process has ended. Its command has this long to end
/// after it was asked; a process that does not end after that is killed.
///
/// # Errors
/// There is none with this name, or it cannot be ended.
pub fn stop(directory: &Directory, name: &Name, patience: Duration) -> Result<(), ControlError> {
    let mut client = Client::connect(directory, name)?;
    let pid = peer(&client.stream);
    // One that does not even answer is killed below.
    let _ = client.ask(&Request::Stop { patience: patience.as_secs_f64() }, ANSWER);
    let deadline = clock::now().checked_add(patience).and_then(|at| at.checked_add(END));
    if !ended(&mut client, deadline) {
        let killed = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        if !matches!(killed, Some(Ok(()))) || !ended(&mut client, clock::now().checked_add(END)) {
            return Err(client.silent(&io::ErrorKind::TimedOut.into()));
        }
    }
    // What a killed process leaves is removed.
    directory.connect(name).map(drop)
}

/// The process at the other end.
#[cfg(target_os = "linux")]
fn peer(stream: &UnixStream) -> Option<Pid> {
    rustix::net::sockopt::socket_peercred(stream).ok().map(|peer| peer.pid)
}

#[cfg(not(target_os = "linux"))]
fn peer(_stream: &UnixStream) -> Option<Pid> {
    None
}

/// Waits until the process at the other end has ended. Nothing more comes from it before.
fn ended(client: &mut Client, deadline: Option<Instant>) -> bool {
    loop {
        // A time that cannot be counted is as long as need be.
        let left = deadline.map_or(END, |deadline| deadline.saturating_duration_since(clock::now()));
        if left.is_zero() || client.stream.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        match message::read::<Reply>(&mut client.stream) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
}
