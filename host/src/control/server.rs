//! What a machine's process answers.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use guest86::call::method;
use guest86::cbor::Value;

use super::endpoint::Endpoint;
use super::message::{self, Reply, Request, Status};
use super::splice;
use crate::clock;
use crate::rpc::wire::Service;
use crate::rpc::{Deadline, RpcError};
use crate::run::Ready;

/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(5);

/// How long the service may take to say who it is.
const ATTACH: Duration = Duration::from_secs(30);

/// How long it may take to show that it is still there.
const ALIVE: Duration = Duration::from_secs(20);

/// Pause after a connection could not be taken, for want of descriptors, say.
const RETRY: Duration = Duration::from_millis(100);

/// A machine, as far as clients have to do with it.
pub struct Machine {
    /// What it is.
    pub status: Status,
    /// The line to the service in the guest.
    pub service: Option<Service>,
    /// It comes from a snapshot.
    pub restored: bool,
    /// Opened when clients may use the guest.
    pub ready: Arc<Ready>,
    /// Ends it; its command has this long to end after it was asked.
    pub stop: Box<dyn Fn(Duration) + Send + Sync>,
}

/// Answers clients as long as the process lives.
///
/// # Errors
/// The host gives no thread.
pub fn start(endpoint: &Endpoint, machine: Machine) -> io::Result<()> {
    let listener = endpoint.listener()?;
    let body = move || accept_all(&listener, &Arc::new(machine));
    thread::Builder::new().name("control".to_owned()).spawn(body).map(drop)
}

fn accept_all(listener: &UnixListener, machine: &Arc<Machine>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            clock::pause(RETRY);
            continue;
        };
        let machine = machine.clone();
        // A client that is not answered sees the connection end.
        let answering = move || drop(answer(stream, &machine));
        let _ = thread::Builder::new().name("control client".to_owned()).spawn(answering);
    }
}

fn answer(mut stream: UnixStream, machine: &Machine) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST))?;
    stream.set_write_timeout(Some(REQUEST))?;
    let request = message::read(&mut stream)?;
    match request {
        Request::Status => message::write(&mut stream, &Reply::Status(machine.status.clone())),
        Request::Stop { patience } => {
            (machine.stop)(Duration::try_from_secs_f64(patience).unwrap_or(Duration::MAX));
            message::write(&mut stream, &Reply::Done)?;
            stream.set_read_timeout(None)?;
            // The client waits for the end of the process, or goes away.
            message::read::<Request>(&mut stream).map(drop)
        }
        Request::Guest { patience } => {
            let patience = Duration::try_from_secs_f64(patience).unwrap_or(ATTACH);
            let attached = match attach(machine, patience) {
                Ok(attached) => attached,
                Err(error) => return message::write(&mut stream, &Reply::Error(error)),
            };
            let (service, reply) = attached;
            message::write(&mut stream, &reply)?;
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(None)?;
            splice::serve(stream, service.guest())
        }
    }
}

/// Waits for the guest's service.
fn attach(machine: &Machine, patience: Duration) -> Result<(Service, Reply), String> {
    const NONE: &str = "its guest has no service; commands need guest86 on /dev/ttyS1";
    let service = machine.service.clone().ok_or(NONE)?;
    let deadline = Deadline::after(patience);
    if !service.wait_open(machine.restored, deadline) {
        return Err(NONE.to_owned());
    }
    if !machine.ready.wait(deadline) {
        return Err("the directories of the host are not mounted yet".to_owned());
    }
    let guest = service.guest();
    let attached = |deadline| guest.attach(deadline).map_err(|error| error.to_string());
    let info = attached(Deadline::after(ATTACH))?;
    if !machine.status.command.is_empty() {
        // The machine ends with this service; and a new session would end its command.
        return Ok((service.clone(), Reply::from(&*info)));
    }
    // It may be another service than the last time: guests reboot.
    let alive = guest.call(method::VERSION, &Value::Array(Vec::new()), Deadline::after(ALIVE));
    let info = match alive {
        Err(RpcError::TimedOut | RpcError::Gone | RpcError::OutOfSync(_)) => {
            guest.reconnect();
            attached(Deadline::after(ATTACH))?
        }
        _ => info,
    };
    Ok((service, Reply::from(&*info)))
}
