//! The thread that makes the guest ready, and [`carry`]s the command.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::prompt::Prompt;
use super::{End, Event, Job};
use super::{carry, mounts};
use crate::rpc::wire::Service;
use crate::rpc::{Deadline, RpcError};
use crate::vm;

/// How long a service may take for its first answer.
const ATTACH: Duration = Duration::from_secs(30);

/// Starts a service that has been put into the guest and that its init does not start.
const START_SERVICE: &str = "/bin/guest86 /dev/ttyS1 </dev/null >/dev/null 2>&1 &";

/// How long the guest's clock may take to be set: a command that sees the wrong time is worse than one
/// that starts a little later, and better than none.
const FRESH: Duration = Duration::from_secs(3);

/// Starts the thread.
pub(super) fn start(
    service: Service,
    machine: Arc<dyn vm::Guest>,
    restored: bool,
    job: Job,
    events: Sender<Event>,
) -> io::Result<()> {
    let body = move || {
        let end = attend(&service, machine, restored, job, &events);
        // Nobody listens any more only when the run has ended already.
        let _ = events.send(Event::Over(end));
    };
    thread::Builder::new().name("command".to_owned()).spawn(body).map(drop)
}

fn attend(
    service: &Service,
    machine: Arc<dyn vm::Guest>,
    restored: bool,
    job: Job,
    events: &Sender<Event>,
) -> End {
    let Job { streams, mounts, tunnel, timeout: _, patience, window, started, console, ready } = job;
    let deadline = Deadline::after(patience);
    if !service.wait_open(restored, deadline) {
        // A guest that is still booting has no shell either.
        let spent = deadline.left().is_some_and(|left| left.is_zero());
        let Some(console) = console.filter(|_| !spent) else { return End::NoService };
        let Some(shell) = Prompt::open(machine, &console.tail) else { return End::NoService };
        let installed = console.installed
            && shell.type_line(START_SERVICE)
            && service.wait_open(false, Deadline::after(ATTACH));
        if !installed {
            (console.notice)();
            return shell.carry(streams, &mounts, started, events);
        }
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
    if let Err(reason) = mounts::mount(guest, &mounts, tunnel) {
        return End::NotMounted(reason);
    }
    ready.open();
    let end = carry::carry(guest, streams, window, started, events);
    if let End::Exited(_) = end {
        mounts::flush(guest, &mounts);
    }
    end
}
