//! The thread that starts the command and carries its output.

use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::control::Controller;
use super::{End, Event, Job};
use super::{input, mounts};
use crate::clock;
use crate::rpc::wire::Service;
use crate::rpc::{Deadline, Output, RpcError, exit_code};

/// How long a service may take for its first answer.
const ATTACH: Duration = Duration::from_secs(30);

/// How long the guest's clock may take to be set: a command that sees the wrong time is worse than one
/// that starts a little later, and better than none.
const FRESH: Duration = Duration::from_secs(3);

/// How long the service may take to start the command.
const START: Duration = Duration::from_secs(60);

/// Pause before writing again to an output that is non-blocking and full.
const RETRY: Duration = Duration::from_millis(5);

/// Starts the thread.
pub(super) fn start(service: Service, restored: bool, job: Job, events: Sender<Event>) -> io::Result<()> {
    let body = move || {
        let end = attend(&service, restored, job, &events);
        // Nobody listens any more only when the run has ended already.
        let _ = events.send(Event::Over(end));
    };
    thread::Builder::new().name("command".to_owned()).spawn(body).map(drop)
}

fn attend(service: &Service, restored: bool, job: Job, events: &Sender<Event>) -> End {
    let Job { command, input, mut output, mut errors, mounts, timeout: _, patience, window } = job;
    if !service.wait_open(restored, Deadline::after(patience)) {
        return End::NoService;
    }
    let guest = service.guest();
    match guest.attach(Deadline::after(ATTACH)) {
        Ok(_) => {}
        Err(RpcError::NoService) => return End::NoService,
        Err(error) => return End::Failed(error),
    }
    if restored {
        // What it cannot do is no reason not to run the command.
        let _ = service.freshen(Deadline::after(FRESH));
    } else {
        service.raise_network();
    }
    if let Err(reason) = mounts::mount(guest, &mounts) {
        return End::NotMounted(reason);
    }
    let mut running = match guest.run(&command, Deadline::after(START)) {
        Ok(running) => running,
        Err(RpcError::Start { message, code }) => return End::NotStarted(code, message),
        Err(error) => return End::Failed(error),
    };
    match Controller::start(service.clone(), running.control(), window) {
        Ok(controller) => drop(events.send(Event::Started(controller))),
        Err(error) => return End::Failed(RpcError::Host(error)),
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
            Ok(Output::Exit(status)) => {
                mounts::flush(guest, &mounts);
                return End::Exited(exit_code(status));
            }
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
