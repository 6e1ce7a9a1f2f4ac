//! A session: a machine, its console, and whatever happens first.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::ConsoleError;
use super::input::InputThread;
use super::keys::Command;
use super::output::{Output, OutputEvent};
use super::pacer::{Drain, Moment, POLL};
use crate::clock;
use crate::config::SessionConfig;
use crate::vm::{Guest, Runner, SerialSink, StopReason, Vm};

/// Time between the `--exit-on` text and the end: what follows at once is still shown.
const EXIT_GRACE: Duration = Duration::from_millis(200);

/// How long a machine may take to stop when told.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long the terminal may take for the rest of the output when the user wants out.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// The vCPU thread's stack. Deep recursion would be a bug; a stack overflow would be its end.
const VCPU_STACK: usize = 8 << 20;

/// Exit status of a program that lost its reader, as shells report it (128 + SIGPIPE).
const BROKEN_PIPE_STATUS: u8 = 141;

/// Exit status for `--timeout`, as that of `timeout(1)`.
const TIMEOUT_STATUS: u8 = 124;

/// Exit status when the guest crashed.
const CRASH_STATUS: u8 = 125;

/// What other threads tell the session.
pub enum Event {
    /// The machine stopped by itself or because it was told.
    Stopped(Box<dyn Runner>, StopReason),
    /// The machine's code panicked; the message was printed by the panic hook.
    Panicked,
    /// The user gave a command.
    Command(Command),
    /// Ctrl-D was typed and ends the session.
    CtrlD,
    /// The end of piped input; everything before was handed to the machine.
    InputEnd,
    /// Standard input cannot be read, or the terminal is gone.
    InputFailed(io::Error),
    /// From the output thread.
    Output(OutputEvent),
    /// A signal asks the process to end.
    Signal(i32),
}

/// Where the guest's input comes from.
pub enum Input {
    /// A terminal in raw mode: keys, with commands to env86 among them.
    Terminal(Box<dyn Read + Send>),
    /// Anything else: bytes as they are, at the guest's pace.
    Pipe(Box<dyn Read + Send>),
}

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The guest ended it.
    Guest(StopReason),
    /// The `--exit-on` text was printed.
    ExitPattern,
    /// Ctrl-D.
    CtrlD,
    /// Ctrl-A x.
    Quit,
    /// The end of piped input, and the guest has nothing more to do.
    InputEnd,
    /// `--timeout`.
    Timeout(Duration),
    /// A signal.
    Signal(i32),
    /// Standard input cannot be read, or the terminal is gone.
    InputFailed(io::Error),
    /// Standard output takes no more.
    OutputFailed(io::Error),
    /// The machine's code panicked.
    Panicked,
    /// The machine did not stop when told.
    Stuck,
}

impl End {
    /// Exit status of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Guest(StopReason::TripleFault) => CRASH_STATUS,
            Self::Guest(StopReason::GuestExit(status)) => *status,
            Self::Guest(_) | Self::ExitPattern | Self::CtrlD | Self::Quit | Self::InputEnd => 0,
            Self::Timeout(_) => TIMEOUT_STATUS,
            Self::Signal(signal) => u8::try_from(128_i32.saturating_add(*signal)).unwrap_or(1),
            Self::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => BROKEN_PIPE_STATUS,
            Self::InputFailed(_) | Self::OutputFailed(_) | Self::Panicked | Self::Stuck => 1,
        }
    }

    /// The reason in one word, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Guest(StopReason::PowerOff) => "power-off",
            Self::Guest(StopReason::Halted) => "halted",
            Self::Guest(StopReason::TripleFault) => "triple-fault",
            Self::Guest(StopReason::Stopped) => "stopped",
            Self::Guest(StopReason::Paused) => "paused",
            Self::Guest(StopReason::RebootFailed) => "reboot-failed",
            Self::Guest(StopReason::GuestExit(_)) => "guest-exit",
            Self::ExitPattern => "exit-pattern",
            Self::CtrlD => "ctrl-d",
            Self::Quit => "quit",
            Self::InputEnd => "input-end",
            Self::Timeout(_) => "timeout",
            Self::Signal(_) => "signal",
            Self::InputFailed(_) => "input-failed",
            Self::OutputFailed(_) => "output-failed",
            Self::Panicked => "internal-error",
            Self::Stuck => "stuck",
        }
    }

    /// True if nobody is there who wants to see the rest of the output at any price.
    fn is_forced(&self) -> bool {
        !matches!(self, Self::Guest(_) | Self::ExitPattern | Self::InputEnd)
    }
}

/// A session that has ended.
pub struct Ended {
    /// Why.
    pub end: End,
    /// The stopped machine, unless it is lost.
    pub runner: Option<Box<dyn Runner>>,
    /// The guest's last line of output has no end.
    pub mid_line: bool,
}

/// A session before its machine exists: the console is there first, because the machine is built
/// around it.
pub struct Session {
    config: SessionConfig,
    sender: Sender<Event>,
    events: Receiver<Event>,
    output: Arc<Output>,
}

impl Session {
    /// A session that prints to `writer`.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn new(config: SessionConfig, writer: Box<dyn Write + Send>) -> Result<Self, ConsoleError> {
        let (sender, events) = channel();
        let report = sender.clone();
        let output = Output::start(writer, config.exit_on.clone(), move |event| {
            // Nobody listens any more only when the process is about to end.
            let _ = report.send(Event::Output(event));
        })?;
        Ok(Self { config, sender, events, output: Arc::new(output) })
    }

    /// What the machine's COM1 writes to.
    pub fn sink(&self) -> Box<dyn SerialSink> {
        self.output.sink()
    }

    /// For threads that have something to tell, such as that of the signals.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Runs the machine until the session ends, and stops it if it still runs. Everything the
    /// guest printed has been written then. `notice` is told what the user should see meanwhile.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn run(self, vm: Vm, input: Input, notice: &dyn Fn(&str)) -> Result<Ended, ConsoleError> {
        let Vm { runner, guest } = vm;
        let start = clock::now();
        let ended = Arc::new(AtomicBool::new(false));
        let moment = {
            let (guest, output) = (guest.clone(), self.output.clone());
            move || Moment {
                now: clock::now().saturating_duration_since(start),
                silent: output.silent_for(),
                status: guest.status(),
            }
        };
        let input_events = self.sender.clone();
        let input_thread = InputThread {
            guest: guest.clone(),
            ctrl_d: self.config.ctrl_d,
            ended: ended.clone(),
            events: Box::new(move |event| drop(input_events.send(event))),
            moment: Box::new(moment.clone()),
        };
        self.start_vcpu(runner)?;
        input_thread.start(input)?;

        let timeout = self.config.timeout.and_then(|timeout| Some((timeout, start.checked_add(timeout)?)));
        let (end, runner) = self.wait(timeout, &moment, notice);
        ended.store(true, Ordering::Release);
        let (end, runner) = match runner {
            Some(runner) => (end, Some(runner)),
            None if matches!(end, End::Panicked) => (end, None),
            None => self.stop(end, &*guest),
        };
        let end = self.finish_output(end, timeout.map(|(_, at)| at));
        Ok(Ended { end, runner, mid_line: self.output.is_mid_line() })
    }

    fn start_vcpu(&self, mut runner: Box<dyn Runner>) -> Result<(), ConsoleError> {
        let sender = self.sender.clone();
        let body = move || {
            let stopped = catch_unwind(AssertUnwindSafe(move || {
                let reason = runner.run();
                (runner, reason)
            }));
            let _ = sender.send(match stopped {
                Ok((runner, reason)) => Event::Stopped(runner, reason),
                Err(_) => Event::Panicked,
            });
        };
        let thread = thread::Builder::new().name("vcpu".to_owned()).stack_size(VCPU_STACK).spawn(body);
        thread.map(drop).map_err(ConsoleError::Thread)
    }

    /// Waits for whatever ends the session first.
    fn wait(
        &self,
        timeout: Option<(Duration, Instant)>,
        moment: &dyn Fn() -> Moment,
        notice: &dyn Fn(&str),
    ) -> (End, Option<Box<dyn Runner>>) {
        let mut found_at: Option<Instant> = None;
        let mut drain: Option<Drain> = None;
        loop {
            let now = clock::now();
            if found_at.is_some_and(|at| now >= at) {
                return (End::ExitPattern, None);
            }
            if let Some((timeout, _)) = timeout.filter(|(_, at)| now >= *at) {
                return (End::Timeout(timeout), None);
            }
            if drain.as_mut().is_some_and(|drain| drain.is_done(moment())) {
                return (End::InputEnd, None);
            }
            let deadlines = [found_at, timeout.map(|(_, at)| at), drain.is_some().then(|| now + POLL)];
            let event = match deadlines.into_iter().flatten().min() {
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => self.events.recv_timeout(deadline.saturating_duration_since(now)),
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                // `self.sender` lives, so this cannot be; without events nothing can be waited for.
                Err(RecvTimeoutError::Disconnected) => return (End::Stuck, None),
            };
            match event {
                Event::Stopped(runner, reason) => {
                    let orderly = matches!(reason, StopReason::PowerOff | StopReason::Halted);
                    let end =
                        if found_at.is_some() && orderly { End::ExitPattern } else { End::Guest(reason) };
                    return (end, Some(runner));
                }
                Event::Panicked => return (End::Panicked, None),
                Event::Command(Command::Quit) => return (End::Quit, None),
                Event::Command(Command::Help) => notice(&super::keys::help()),
                Event::Command(Command::Save) => notice("env86: saving is not available yet\n"),
                Event::CtrlD => return (End::CtrlD, None),
                Event::InputEnd => drain = Some(Drain::new(self.config.linger)),
                Event::InputFailed(error) => return (End::InputFailed(error), None),
                Event::Output(OutputEvent::PatternFound) => found_at = Some(clock::now() + EXIT_GRACE),
                Event::Output(OutputEvent::Failed(error)) => return (End::OutputFailed(error), None),
                Event::Signal(signal) => return (End::Signal(signal), None),
            }
        }
    }

    /// Stops a machine that still runs.
    fn stop(&self, end: End, guest: &dyn Guest) -> (End, Option<Box<dyn Runner>>) {
        // The machine may be waiting for the terminal.
        self.output.release();
        let deadline = clock::now() + STOP_PATIENCE;
        while clock::now() < deadline {
            guest.stop();
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Stopped(runner, _)) => return (end, Some(runner)),
                Ok(Event::Panicked) => return (End::Panicked, None),
                _ => {}
            }
        }
        (End::Stuck, None)
    }

    /// Waits until the output is written: until `timeout`, unless somebody wants out.
    fn finish_output(&self, end: End, timeout: Option<Instant>) -> End {
        let deadline = if end.is_forced() { Some(clock::now() + OUTPUT_PATIENCE) } else { timeout };
        let mut end = end;
        loop {
            let finished = self.output.finish(POLL);
            while let Ok(event) = self.events.try_recv() {
                match event {
                    Event::Output(OutputEvent::PatternFound) => {
                        if matches!(end, End::Guest(StopReason::PowerOff | StopReason::Halted)) {
                            end = End::ExitPattern;
                        }
                    }
                    Event::Output(OutputEvent::Failed(error)) if !end.is_forced() => {
                        return End::OutputFailed(error);
                    }
                    Event::Signal(signal) if !end.is_forced() => return End::Signal(signal),
                    _ => {}
                }
            }
            if finished || deadline.is_some_and(|deadline| clock::now() >= deadline) {
                return end;
            }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
