//! A command and its streams, from its start to its exit status.

use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::control::Controller;
use super::input;
use super::{End, Event, Started, Streams, Window};
use crate::clock;
use crate::rpc::{Deadline, Guest, Output, RpcError, exit_code};

/// How long the service may take to start the command.
const START: Duration = Duration::from_secs(60);

/// Pause before writing again to an output that is non-blocking and full.
const RETRY: Duration = Duration::from_millis(5);

/// Starts the command and carries its output until it ends.
pub(super) fn carry(
    guest: &Guest,
    streams: Streams,
    window: Window,
    started: Option<Started>,
    events: &Sender<Event>,
) -> End {
    let Streams { command, input, mut output, mut errors } = streams;
    let mut running = match guest.run(&command, Deadline::after(START)) {
        Ok(running) => running,
        Err(RpcError::Start { message, code }) => return End::NotStarted(code, message),
        Err(error) => return End::Failed(error),
    };
    match Controller::start(guest.clone(), running.control(), window) {
        Ok(controller) => drop(events.send(Event::Started(controller))),
        Err(error) => return End::Failed(RpcError::Host(error)),
    }
    if let Some(Err(error)) = started.map(|started| started()) {
        return End::Failed(RpcError::Host(error));
    }
    let feeding = match input {
        Some(input) => input::start(input, running.input(command.pty)),
        // Without options an old service gives the command a pipe, whose end has to come from here.
        None if !command.pty => running.input(false).end(Deadline::after(START)).map_err(io::Error::other),
        None => Ok(()),
    };
    if let Err(error) = feeding {
        return End::Failed(RpcError::Host(error));
    }
    loop {
        let written = match running.next(Deadline::never()) {
            Ok(Output::Stdout(bytes)) => write(&mut *output, &bytes),
            Ok(Output::Stderr(bytes)) => write(&mut *errors, &bytes),
            Ok(Output::Exit(status)) => return End::Exited(exit_code(status)),
            Err(error) => return End::Failed(error),
        };
        if let Err(error) = written {
            return End::OutputFailed(error);
        }
    }
}

/// Writes everything at once: what a command prints is seen when it prints it.
fn write(output: &mut (dyn Write + Send), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => clock::pause(RETRY),
            Err(error) => return Err(error),
        }
    }
    output.flush()
}
