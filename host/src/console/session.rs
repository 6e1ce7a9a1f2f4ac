//! A session: a machine, its console, and whatever happens first.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ConsoleError;
use super::input::InputThread;
use super::keys::Command;
use super::output::{Output, OutputEvent};
use super::pacer::{Drain, Moment, POLL};
use crate::clock;
use crate::config::SessionConfig;
use crate::snapshot::save::Capture;
use crate::vm::{Guest, Runner, SerialSink, StopReason, VCPU_STACK, Vm};

/// Time between the `--exit-on` text and the end: what follows at once is still shown.
const EXIT_GRACE: Duration = Duration::from_millis(200);

/// How long a machine may take to stop when told.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long the terminal may take for the rest of the output when the user wants out.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

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
    /// The thread that saves is done.
    SaveDone,
}

/// Saves a machine's state while it runs on. Says what was done, or what went wrong.
pub type Saver = Arc<dyn Fn(&mut dyn Capture) -> Result<String, String> + Send + Sync>;

/// Where the guest's input comes from.
pub enum Input {
    /// A terminal in raw mode: keys, with commands to env86 among them.
    Terminal(Box<dyn Read + Send>),
    /// Anything else: bytes as they are, at the guest's pace.
    Pipe(Box<dyn Read + Send>),
    /// There is none, nor an end of it.
    Nothing,
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
            Self::Guest(StopReason::RebootFailed) => 1,
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

/// A machine that does not run, and why.
type Stopped = (Box<dyn Runner>, StopReason);

/// A session that has ended.
pub struct Ended {
    /// Why.
    pub end: End,
    /// The stopped machine, unless it is lost.
    pub runner: Option<Box<dyn Runner>>,
    /// The machine would run on if it were let.
    pub alive: bool,
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
    greeting: Vec<u8>,
    saver: Option<Saver>,
}

/// What saving is at.
enum Saving {
    Idle,
    /// The machine was asked to pause.
    Pausing,
    Writing(JoinHandle<Result<String, String>>),
}

impl Saving {
    /// Waits for what is being written and says how it went.
    fn finish(&mut self, notice: &dyn Fn(&str)) {
        if let Self::Writing(thread) = std::mem::replace(self, Self::Idle) {
            let text = match thread.join() {
                Ok(Ok(done)) => done,
                Ok(Err(error)) => error,
                Err(_) => "Internal error: the thread that saves panicked".to_owned(),
            };
            notice(&format!("env86: {text}\n"));
        }
    }
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
        let output = Arc::new(output);
        Ok(Self { config, sender, events, output, greeting: Vec::new(), saver: None })
    }

    /// Types `bytes` to the guest at the beginning.
    #[must_use]
    pub fn greet(mut self, bytes: &[u8]) -> Self {
        self.greeting = bytes.to_vec();
        self
    }

    /// What [`Command::Save`] does.
    #[must_use]
    pub fn save_with(mut self, saver: Saver) -> Self {
        self.saver = Some(saver);
        self
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
        let Vm { runner, guest, .. } = vm;
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
        // A queue that is empty takes it.
        let _ = self.greeting.is_empty() || guest.type_bytes(&self.greeting);
        self.start_vcpu(runner)?;
        input_thread.start(input)?;

        let timeout = self.config.timeout.and_then(|timeout| Some((timeout, start.checked_add(timeout)?)));
        let mut saving = Saving::Idle;
        let (end, stopped) = self.wait(timeout, &*guest, &mut saving, &moment, notice)?;
        ended.store(true, Ordering::Release);
        let (end, stopped) = match stopped {
            Some(stopped) => (end, Some(stopped)),
            None if matches!(end, End::Panicked) => (end, None),
            None => self.stop(end, &*guest),
        };
        let end = self.finish_output(end, timeout.map(|(_, at)| at));
        if matches!(saving, Saving::Writing(_)) {
            notice("env86: waiting until the snapshot is saved\n");
        }
        saving.finish(notice);
        let alive = matches!(stopped, Some((_, StopReason::Stopped | StopReason::Paused)));
        let runner = stopped.map(|(runner, _)| runner);
        Ok(Ended { end, runner, alive, mid_line: self.output.is_mid_line() })
    }

    /// Begins to save, or says why not.
    fn begin_save(&self, saving: &mut Saving, guest: &dyn Guest, notice: &dyn Fn(&str)) {
        if self.saver.is_none() {
            notice("env86: there is nowhere to save to\n");
        } else if matches!(saving, Saving::Idle) {
            *saving = Saving::Pausing;
            notice("env86: saving in the background\n");
            guest.pause();
        } else {
            notice("env86: still saving; try again when that is done\n");
        }
    }

    /// Saves the paused machine and lets it run on.
    fn save(&self, mut runner: Box<dyn Runner>, saving: &mut Saving) -> Result<(), ConsoleError> {
        let capture = self.saver.clone().map(|saver| (saver, runner.capture_copy()));
        self.start_vcpu(runner)?;
        *saving = Saving::Idle;
        if let Some((saver, mut capture)) = capture {
            let sender = self.sender.clone();
            let body = move || {
                let saved = saver(&mut *capture);
                let _ = sender.send(Event::SaveDone);
                saved
            };
            let thread = thread::Builder::new().name("save".to_owned()).spawn(body);
            *saving = Saving::Writing(thread.map_err(ConsoleError::Thread)?);
        }
        Ok(())
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
        guest: &dyn Guest,
        saving: &mut Saving,
        moment: &dyn Fn() -> Moment,
        notice: &dyn Fn(&str),
    ) -> Result<(End, Option<Stopped>), ConsoleError> {
        let mut found_at: Option<Instant> = None;
        let mut drain: Option<Drain> = None;
        loop {
            let now = clock::now();
            if found_at.is_some_and(|at| now >= at) {
                return Ok((End::ExitPattern, None));
            }
            if let Some((timeout, _)) = timeout.filter(|(_, at)| now >= *at) {
                return Ok((End::Timeout(timeout), None));
            }
            if drain.as_mut().is_some_and(|drain| drain.is_done(moment())) {
                return Ok((End::InputEnd, None));
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
                Err(RecvTimeoutError::Disconnected) => return Ok((End::Stuck, None)),
            };
            match event {
                Event::Stopped(runner, StopReason::Paused) => self.save(runner, saving)?,
                Event::SaveDone => saving.finish(notice),
                Event::Stopped(runner, reason) => {
                    let orderly = matches!(reason, StopReason::PowerOff | StopReason::Halted);
                    let end =
                        if found_at.is_some() && orderly { End::ExitPattern } else { End::Guest(reason) };
                    return Ok((end, Some((runner, reason))));
                }
                Event::Panicked => return Ok((End::Panicked, None)),
                Event::Command(Command::Quit) => return Ok((End::Quit, None)),
                Event::Command(Command::Help) => notice(&super::keys::help()),
                Event::Command(Command::Save) => self.begin_save(saving, guest, notice),
                Event::CtrlD => return Ok((End::CtrlD, None)),
                Event::InputEnd => drain = Some(Drain::new(self.config.linger)),
                Event::InputFailed(error) => return Ok((End::InputFailed(error), None)),
                Event::Output(OutputEvent::PatternFound) => found_at = Some(clock::now() + EXIT_GRACE),
                Event::Output(OutputEvent::Failed(error)) => return Ok((End::OutputFailed(error), None)),
                Event::Signal(signal) => return Ok((End::Signal(signal), None)),
            }
        }
    }

    /// Stops a machine that still runs.
    fn stop(&self, end: End, guest: &dyn Guest) -> (End, Option<Stopped>) {
        // The machine may be waiting for the terminal.
        self.output.release();
        let deadline = clock::now() + STOP_PATIENCE;
        while clock::now() < deadline {
            guest.stop();
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Stopped(runner, reason)) => return (end, Some((runner, reason))),
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
