//! One command in a guest: started, fed, watched, and its machine stopped after it.
//!
//! | module | what |
//! | --- | --- |
//! | [`attend`] | the command's thread: service, clock, mounts |
//! | [`carry`] | then the command: start, output, exit status |
//! | [`control`] | signals and window sizes on their way to the command |
//! | [`mounts`] | directories of the host, mounted before the command starts |
//! | [`ready`] | others wait until the guest is ready |
//! | [`install`] | the service, put into the tree of a guest that has none |
//! | [`prompt`] | without a service: the command at the console's shell prompt |
//! | [`input`] | the host's input on its way to the command |
//! | [`tail`] | the guest's console, remembered for when something goes wrong |

mod attend;
mod carry;
mod control;
mod input;
pub mod install;
mod mounts;
mod prompt;
mod ready;
pub mod tail;

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock;
use crate::console::ConsoleError;
use crate::rpc::{self, Command, RpcError};
use crate::vm::{self, Guest, Runner, StopReason, Vm};
use control::{Controller, Order};
pub(crate) use mounts::quoted;
pub use ready::Ready;

/// How long a machine may take to stop when told.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long a command may take to end after a signal that asks it to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Exit status for a time that is up, as that of `timeout(1)`.
pub const TIMEOUT_STATUS: u8 = 124;

/// Exit status when env86 or the guest failed, as Docker's.
pub const FAILED_STATUS: u8 = 125;

/// Exit status of a program that lost its reader, as shells report it (128 + SIGPIPE).
const BROKEN_PIPE_STATUS: u8 = 141;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
#[cfg(unix)]
const SIGWINCH: i32 = signal_hook::consts::SIGWINCH;
#[cfg(not(unix))]
const SIGWINCH: i32 = 28;

/// Gives the size of the terminal, rows and columns, whenever it is asked for.
pub type Window = Box<dyn Fn() -> Option<(u16, u16)> + Send>;

/// Called when the command has started. An error ends it.
pub type Started = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A command and the host's ends of its streams.
pub struct Streams {
    /// The command.
    pub command: Command,
    /// The host's input for it; `None`: it gets none.
    pub input: Option<Box<dyn Read + Send>>,
    /// Its standard output; with a terminal everything.
    pub output: Box<dyn Write + Send>,
    /// Its standard error.
    pub errors: Box<dyn Write + Send>,
}

/// The shell at a guest's console, for want of a service.
pub struct Console {
    /// What the guest prints there.
    pub tail: tail::Tail,
    /// A service is in the guest's `/bin` and has to be started.
    pub installed: bool,
    /// Called when the shell has to do.
    pub notice: Box<dyn Fn() + Send>,
}

/// What to run, and with what.
pub struct Job {
    /// The command.
    pub streams: Streams,
    /// Directories of the host and their places in the guest. The machine serves them.
    #[cfg(unix)]
    pub mounts: Vec<crate::shares::Spec>,
    /// The guest service carries the mounts, not the machine's device.
    pub tunnel: bool,
    /// What to do in a guest without a service; `None`: the run ends.
    pub console: Option<Console>,
    /// The end of the run, from its beginning on.
    pub timeout: Option<Duration>,
    /// How long the guest may take to boot its service.
    pub patience: Duration,
    /// Size of the terminal.
    pub window: Window,
    /// Called when the command has started.
    pub started: Option<Started>,
    /// Opened when everything is mounted.
    pub ready: Arc<Ready>,
}

/// Mounts directories of the host in a guest whose machine serves them. The error is for people.
///
/// # Errors
/// The guest cannot.
pub(crate) fn mount(guest: &rpc::Guest, specs: &[crate::shares::Spec]) -> Result<(), String> {
    mounts::mount(guest, specs, false)
}

/// Why a run ended.
#[derive(Debug)]
pub enum End {
    /// The command ended with this exit status.
    Exited(u8),
    /// The guest could not start it: the exit status a shell gives, and why.
    NotStarted(u8, String),
    /// The time was up.
    Timeout(Duration),
    /// This signal ended the run before the command did.
    Signal(i32),
    /// No service answers in the guest.
    NoService,
    /// The connection to the command broke.
    Failed(RpcError),
    /// A directory of the host could not be mounted.
    NotMounted(String),
    /// The guest has no service, and a shell at its console cannot do this.
    Console(&'static str),
    /// The guest ended while the command ran.
    Guest(StopReason),
    /// Standard output takes no more.
    OutputFailed(io::Error),
    /// The machine's code panicked.
    Panicked,
}

impl End {
    /// Exit status of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited(status) | Self::NotStarted(status, _) => *status,
            Self::Timeout(_) => TIMEOUT_STATUS,
            Self::Signal(signal) => u8::try_from(128_i32.saturating_add(*signal)).unwrap_or(FAILED_STATUS),
            Self::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => BROKEN_PIPE_STATUS,
            _ => FAILED_STATUS,
        }
    }

    /// The reason in one word, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::NotStarted(..) => "not-started",
            Self::Timeout(_) => "timeout",
            Self::Signal(_) => "signal",
            Self::NoService => "no-service",
            Self::Failed(_) => "failed",
            Self::NotMounted(_) => "not-mounted",
            Self::Console(_) => "no-service",
            Self::Guest(_) => "guest-ended",
            Self::OutputFailed(_) => "output-failed",
            Self::Panicked => "internal-error",
        }
    }
}

/// A run that has ended.
pub struct Ended {
    /// Why.
    pub end: End,
    /// The stopped machine, unless it is lost.
    pub runner: Option<Box<dyn Runner>>,
    /// When the command was started.
    pub started: Option<Instant>,
}

/// What other threads tell the run.
pub enum Event {
    /// A signal came.
    Signal(i32),
    /// Somebody asks for the end; the command has this long after it was asked.
    Stop(Duration),
    /// The machine stopped.
    Stopped(Box<dyn Runner>, StopReason),
    /// The machine's code panicked; the message was printed by the panic hook.
    Panicked,
    /// The command runs.
    Started(Controller),
    /// The command ended, or could not go on.
    Over(End),
}

/// A run before its machine exists, so that signals have somewhere to go.
pub struct Run {
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Default for Run {
    fn default() -> Self {
        let (sender, events) = channel();
        Self { sender, events }
    }
}

impl Run {
    /// For threads that have something to tell, such as that of the signals.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Runs the machine until the command has ended and all its output is written, and stops it.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn run(self, vm: Vm, job: Job) -> Result<Ended, ConsoleError> {
        let begin = clock::now();
        let Vm { runner, guest, service, restored, .. } = vm;
        let timeout = job.timeout;
        self.start_vcpu(runner)?;
        let Some(service) = service else {
            let runner = self.stop(&*guest).ok();
            return Ok(Ended { end: End::NoService, runner, started: None });
        };
        attend::start(service, guest.clone(), restored, job, self.sender.clone())
            .map_err(ConsoleError::Thread)?;
        let deadline = timeout.and_then(|timeout| Some((timeout, begin.checked_add(timeout)?)));
        let mut watch = Watch { deadline, ..Watch::default() };
        let (end, runner) = watch.wait(&self.events);
        let runner = match runner {
            Some(runner) => Some(runner),
            None if matches!(end, End::Panicked) => None,
            None => self.stop(&*guest).ok(),
        };
        Ok(Ended { end, runner, started: watch.started })
    }

    /// Runs a command in a guest whose machine somebody else has, until it has ended and all its output is
    /// written.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn exec(
        self,
        guest: &rpc::Guest,
        streams: Streams,
        window: Window,
        timeout: Option<Duration>,
    ) -> Result<End, ConsoleError> {
        let deadline = timeout.and_then(|timeout| Some((timeout, clock::now().checked_add(timeout)?)));
        let (sender, theirs) = (self.sender.clone(), guest.clone());
        let body = move || {
            let end = carry::carry(&theirs, streams, window, None, &sender);
            let _ = sender.send(Event::Over(end));
        };
        let thread = thread::Builder::new().name("command".to_owned()).spawn(body);
        thread.map_err(ConsoleError::Thread)?;
        let mut watch = Watch { deadline, ..Watch::default() };
        Ok(watch.wait(&self.events).0)
    }

    fn start_vcpu(&self, mut runner: Box<dyn Runner>) -> Result<(), ConsoleError> {
        let sender = self.sender.clone();
        let body = move || {
            let stopped = catch_unwind(AssertUnwindSafe(move || {
                let reason = runner.run();
                (runner, reason)
            }));
            // Nobody listens any more only when the process is about to end.
            let _ = sender.send(match stopped {
                Ok((runner, reason)) => Event::Stopped(runner, reason),
                Err(_) => Event::Panicked,
            });
        };
        let thread = thread::Builder::new().name("vcpu".to_owned()).stack_size(vm::VCPU_STACK).spawn(body);
        thread.map(drop).map_err(ConsoleError::Thread)
    }

    /// Stops a machine that still runs.
    fn stop(&self, guest: &dyn Guest) -> Result<Box<dyn Runner>, ()> {
        let deadline = clock::now() + STOP_PATIENCE;
        while clock::now() < deadline {
            guest.stop();
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Stopped(runner, _)) => return Ok(runner),
                Ok(Event::Panicked) => return Err(()),
                _ => {}
            }
        }
        Err(())
    }
}

/// What is known while the command runs.
#[derive(Default)]
struct Watch {
    deadline: Option<(Duration, Instant)>,
    controller: Option<Controller>,
    started: Option<Instant>,
    /// A signal that the command got, and when its patience ends.
    asked: Option<(i32, Option<Instant>)>,
}

impl Watch {
    /// Waits for whatever ends the run first.
    fn wait(&mut self, events: &Receiver<Event>) -> (End, Option<Box<dyn Runner>>) {
        // The machine may stop a moment before its last output has arrived.
        let mut stopped: Option<(Box<dyn Runner>, StopReason)> = None;
        loop {
            let now = clock::now();
            if let Some((timeout, _)) = self.deadline.filter(|(_, at)| now >= *at) {
                return (End::Timeout(timeout), stopped.map(|(runner, _)| runner));
            }
            if let Some((signal, _)) = self.asked.filter(|(_, at)| at.is_some_and(|at| now >= at)) {
                return (End::Signal(signal), stopped.map(|(runner, _)| runner));
            }
            let deadlines = [self.deadline.map(|(_, at)| at), self.asked.and_then(|(_, at)| at)];
            let event = match deadlines.into_iter().flatten().min() {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => events.recv_timeout(at.saturating_duration_since(now)),
            };
            match event {
                Ok(Event::Started(controller)) => {
                    self.controller = Some(controller);
                    self.started = Some(clock::now());
                }
                Ok(Event::Signal(signal)) => {
                    if let Some(end) = self.signal(signal) {
                        return (end, stopped.map(|(runner, _)| runner));
                    }
                }
                Ok(Event::Stop(patience)) => {
                    if let Some(end) = self.stop(patience) {
                        return (end, stopped.map(|(runner, _)| runner));
                    }
                }
                // The command's thread finds the line dead, after everything that came over it.
                Ok(Event::Stopped(runner, reason)) => {
                    if let Some(service) = self.controller.as_ref() {
                        service.shut_down();
                    }
                    stopped = Some((runner, reason));
                    if self.controller.is_none() {
                        let end = End::Guest(reason);
                        return (end, stopped.map(|(runner, _)| runner));
                    }
                }
                Ok(Event::Panicked) => return (End::Panicked, None),
                Ok(Event::Over(end)) => {
                    return match (end, stopped) {
                        (End::Failed(_), Some((runner, reason))) => (End::Guest(reason), Some(runner)),
                        (end, stopped) => (end, stopped.map(|(runner, _)| runner)),
                    };
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The run has a sender of its own, so this cannot be.
                Err(RecvTimeoutError::Disconnected) => return (End::Panicked, None),
            }
        }
    }

    /// Asks the command to end. Says if the run ends at once.
    fn stop(&mut self, patience: Duration) -> Option<End> {
        let Some(controller) = self.controller.as_ref().filter(|_| !patience.is_zero()) else {
            return Some(End::Signal(SIGTERM));
        };
        controller.give(Order::Signal(SIGTERM));
        self.asked = Some((SIGTERM, clock::now().checked_add(patience)));
        None
    }

    /// Passes a signal on. Says if it ends the run.
    fn signal(&mut self, signal: i32) -> Option<End> {
        let Some(controller) = &self.controller else {
            return (signal != SIGWINCH).then_some(End::Signal(signal));
        };
        if signal == SIGWINCH {
            controller.give(Order::Resize);
            return None;
        }
        if let Some((first, _)) = self.asked {
            // Whoever asks twice does not want to wait.
            return Some(End::Signal(first));
        }
        controller.give(Order::Signal(signal));
        // A program may well go on after SIGINT; a second one ends it.
        let patience = (signal != SIGINT).then(|| clock::now() + END_PATIENCE);
        self.asked = Some((signal, patience));
        None
    }
}
