//! `env86 boot`: a machine with its serial console on the terminal.
//!
//! Exit status: 0 if the guest switched itself off or the user ended it, the guest's own status
//! if it gave one, 124 after `--timeout`, 125 if the guest crashed, 128 + n after signal n, 141 if
//! standard output was closed, 1 for any other error.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use serde_json::json;

use super::engine_args::EngineArgs;
use super::net::{self, NetArgs};
use super::report::{Reporter, size};
use super::stats;
use super::trace_start::TraceStart;
use super::{lockstep, print, start};
use crate::clock;
use crate::config::{self, BootOptions, ClockMode, CtrlD};
use crate::console::session::{Ended, Event, Input, Saver, Session};
use crate::console::{session::End, terminal};
use crate::error::{Error, FAILURE, one_line};
use crate::image::Image;
use crate::image::kernel_source::KernelFlags;
use crate::limits;
use crate::paths;
use crate::progress::Progress;
use crate::run::Ready;
use crate::signals;
use crate::snapshot::SnapshotFileError;
use crate::snapshot::locate;
use crate::snapshot::save::{self, Saved, Target};
use crate::vm::{Runner, StopReason};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClockArg {
    /// Guest time follows the host's
    Host,
    /// Guest time counts instructions: every run is the same
    Deterministic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CtrlDArg {
    /// Ctrl-D ends the virtual machine
    Exit,
    /// Ctrl-D reaches the guest
    Guest,
}

/// What ends a machine that another process stops.
const SIGTERM: i32 = 15;

const AFTER_HELP: &str = "\
At the terminal, Ctrl-a x ends the virtual machine and Ctrl-a h lists the other commands;
everything else is typed to the guest, Ctrl-c and Ctrl-z included.

If standard input is no terminal, it is typed to the guest once that waits for input, and the
virtual machine ends when the guest has read everything and has then been idle and silent for a
moment (--linger). A script that should run longer ends with 'poweroff' and does not need that:

    printf 'uname -a\\n' | env86 boot IMAGE

An image with a snapshot starts where that was taken; IMAGE:NAME starts the one made by
'env86 snapshot create IMAGE:NAME'. --save saves at the end, if the guest still runs then: after
Ctrl-a x, Ctrl-d, --exit-on and the end of input, but not after --timeout, a signal or power-off.

Exit status: 0 if the guest switched itself off or was ended, the status a test guest gives, 124
after --timeout, 125 if the guest crashed, 128+n after signal n, 1 for other errors.";

/// Flags and arguments of `boot`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct BootArgs {
    /// Image: a directory, a .tgz archive, or a name in the store; IMAGE:NAME for a named snapshot
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    image: OsString,

    /// The old tool ignored what follows.
    #[arg(hide = true)]
    ignored: Vec<OsString>,

    /// Start from power-on, ignoring the image's snapshot
    #[arg(long)]
    cold: bool,

    /// Guest memory, e.g. 512M or 1G
    #[arg(long, value_name = "SIZE", value_parser = config::parse_memory)]
    memory: Option<u64>,

    /// Kernel command line instead of the image's
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,

    /// Add to the kernel command line
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,

    /// Kernel to boot: bzImage, ELF or multiboot file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,

    /// Initial RAM disk to boot with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,

    /// End when the guest has printed TEXT
    #[arg(long, value_name = "TEXT")]
    exit_on: Option<OsString>,

    /// End after SECS seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    timeout: Option<Duration>,

    /// After the end of piped input, wait until the guest was idle and silent for SECS (0.3)
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    linger: Option<Duration>,

    /// What Ctrl-d does [default: guest, with --save exit]
    #[arg(long, value_name = "WHAT")]
    ctrl_d: Option<CtrlDArg>,

    /// Name by which exec, cp, stop and ps know the virtual machine
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    engine: EngineArgs,

    /// Run the interpreter and the translator side by side, without input, until they differ
    #[arg(long, conflicts_with_all = ["save", "engine"])]
    lockstep: bool,

    /// Where guest time comes from
    #[arg(long, value_name = "CLOCK")]
    clock: Option<ClockArg>,

    /// Attach the first serial port to the terminal (the default)
    #[arg(long = "ttyS0")]
    tty_s0: bool,

    /// Do not open a window
    #[arg(long)]
    no_console: bool,

    /// Keep the host's keyboard from the guest
    #[arg(long)]
    no_keyboard: bool,

    /// Keep the host's mouse from the guest
    #[arg(long)]
    no_mouse: bool,

    /// Save the machine's state into the image at the end
    #[arg(long)]
    save: bool,

    #[command(flatten)]
    net: NetArgs,

    /// Boot from this firmware (not available yet)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    bios: Option<PathBuf>,

    /// Video firmware (not available yet)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    vga_bios: Option<PathBuf>,

    /// Print the address of the console page (not available yet)
    #[arg(long)]
    console_url: bool,

    /// Show the console page in Chrome (not available yet)
    #[arg(long)]
    cdp: bool,

    /// Print instruction count and state hash at the end
    #[arg(long, hide = true)]
    state_hash: bool,

    /// Say on standard error when the guest's first instruction is due, for benchmarks
    #[arg(long, hide = true)]
    trace_start: bool,

    /// Errors, warnings and the result as JSON lines on standard error
    #[arg(long)]
    json: bool,

    /// No warnings and notes
    #[arg(long)]
    quiet: bool,
}

impl BootArgs {
    /// How this run reports.
    pub fn reporter(&self) -> Reporter {
        Reporter { json: self.json, quiet: self.quiet }
    }

    fn options(&self) -> BootOptions {
        BootOptions {
            memory: self.memory,
            cmdline: self.cmdline.clone(),
            append: self.append.clone(),
            engine: self.engine.engine(),
            translator: self.engine.translator(),
            clock: match self.clock {
                Some(ClockArg::Deterministic) => ClockMode::Deterministic,
                Some(ClockArg::Host) | None => ClockMode::Host,
            },
            kernel: KernelFlags { kernel: self.kernel.clone(), initrd: self.initrd.clone() },
            timeout: self.timeout,
            exit_on: self.exit_on.clone().map(OsString::into_encoded_bytes),
            ctrl_d: self.ctrl_d.map(|what| match what {
                CtrlDArg::Exit => CtrlD::Exit,
                CtrlDArg::Guest => CtrlD::Guest,
            }),
            linger: self.linger,
            save: self.save,
            net: self.net.wishes(),
        }
    }

    /// Refuses flags whose feature is the point of the run, and warns about the others.
    fn check_features(&self, reporter: Reporter) -> anyhow::Result<()> {
        let firmware_hint =
            Some("a Linux kernel boots without firmware: --kernel FILE, or an image that has one");
        let essential = [
            (self.bios.is_some(), "boot from firmware (--bios)", firmware_hint),
            (self.vga_bios.is_some(), "boot from firmware (--vga-bios)", firmware_hint),
        ];
        for (asked, what, hint) in essential {
            if asked {
                return Err(Error::NotYet { what: what.to_owned(), hint }.into());
            }
        }
        anyhow::ensure!(
            !self.net.is_on() || !matches!(self.clock, Some(ClockArg::Deterministic)),
            "A run with --clock deterministic is the same every time and has no network (--net, -p)"
        );
        if self.exit_on.as_ref().is_some_and(|text| text.len() > limits::MAX_EXIT_PATTERN) {
            anyhow::bail!("Text for flag --exit-on is longer than {} bytes", limits::MAX_EXIT_PATTERN);
        }
        let later =
            [(self.console_url, "the console page (--console-url)"), (self.cdp, "the console page (--cdp)")];
        for (asked, what) in later {
            if asked {
                reporter.warning(&format!("{what} is not available yet and left out"));
            }
        }
        if !self.ignored.is_empty() {
            let ignored: Vec<_> = self.ignored.iter().map(|text| text.to_string_lossy()).collect();
            reporter.warning(&format!("ignored: {}", ignored.join(" ")));
        }
        Ok(())
    }
}

/// Boots an image. Returns the exit status.
///
/// # Errors
/// Whatever keeps the machine from starting.
pub fn run(args: BootArgs, reporter: Reporter) -> anyhow::Result<u8> {
    args.check_features(reporter)?;
    let net = args.net.config()?;
    let progress = if args.json || args.quiet { Progress::hidden() } else { Progress::on_terminal() };
    let (path, name) = locate::resolve(&args.image, paths::home().as_deref()).map_err(Error::from)?;
    let named = args.name.as_deref().map(start::claim).transpose()?;
    save::sweep(&path);
    let image = Image::open(&path, &progress).map_err(Error::from)?;
    let found = match args.cold {
        true => None,
        false => locate::find(&image, name.as_ref()).map_err(Error::from)?,
    };
    let opened = found.map(|found| found.open(&image)).transpose().map_err(Error::from)?;
    let options = args.options();
    let config = start::resolve(&options, &image, opened.as_ref(), reporter)?;
    if args.lockstep {
        let find = || match args.cold {
            true => Ok(None),
            false => {
                let found = locate::find(&image, name.as_ref()).map_err(Error::from)?;
                Ok(found.map(|found| found.open(&image)).transpose().map_err(Error::from)?)
            }
        };
        return lockstep::run(&image, &find, &config, &options.kernel, reporter);
    }
    let target = match &name {
        Some(name) => Target::named(&image, name, None),
        None => Target::current(&image, None),
    };
    let target = match args.save {
        // Better to be told now than after an hour's work.
        true => Some(target.and_then(|target| target.check().map(|()| target)).map_err(Error::from)?),
        false => target.ok(),
    };

    let mut session = Session::new(config.session.clone(), Box::new(io::stdout())).map_err(Error::from)?;
    if opened.is_some() {
        // The prompt was printed long ago; this makes the guest print another one.
        session = session.greet(b"\n");
    }
    if let Some(target) = target.clone() {
        session = session.save_with(background_saver(target));
    }
    let mut vm =
        start::build(&image, opened, &config, &options.kernel, session.sink(), None, None, reporter)?;
    let _net = net::start(net, &mut vm, reporter)?;
    if let Some((_, endpoint)) = &named {
        let sender = session.sender();
        let stop = move |_| drop(sender.send(Event::Signal(SIGTERM)));
        start::serve(endpoint, &vm, &path, &[], None, Arc::new(Ready::now()), Box::new(stop))?;
    }
    if let Some(service) = vm.service.clone().filter(|_| vm.restored) {
        service.freshen_in_background();
    }
    if args.trace_start {
        vm.runner = Box::new(TraceStart::new(vm.runner));
    }

    let sender = session.sender();
    let signals = signals::listen(move |signal| {
        // Nobody listens any more only when the process is about to end.
        let _ = sender.send(Event::Signal(signal));
    });
    let _signals = signals.map_err(Error::from)?;
    let start = clock::now();
    let interactive = terminal::is_interactive();
    let raw = interactive.then(terminal::RawMode::enter).transpose().map_err(Error::from)?;
    let stdin = Box::new(io::stdin());
    let input = if interactive { Input::Terminal(stdin) } else { Input::Pipe(stdin) };
    let ended = session.run(vm, input, &|text| reporter.text(text)).map_err(Error::from)?;
    drop(raw);
    let elapsed = clock::now().saturating_duration_since(start);
    let target = target.filter(|_| args.save);
    if let Some(runner) = ended.runner.as_ref().filter(|_| args.engine.stats) {
        stats::tell(&runner.counters(), runner.retired(), reporter);
    }
    Ok(tell_end(ended, &path, elapsed, args.state_hash, target.as_ref(), &progress, reporter))
}

/// Saves what [`Command::Save`](crate::console::keys::Command::Save) asks for.
fn background_saver(target: Target) -> Saver {
    Arc::new(move |capture| {
        let start = clock::now();
        // No progress bar: the terminal is the guest's.
        let saved = target.save(capture, &Progress::hidden()).map_err(|error| one_line(&error))?;
        Ok(describe_saved(&saved, clock::now().saturating_duration_since(start)))
    })
}

fn describe_saved(saved: &Saved, time: Duration) -> String {
    format!("saved {} in {:.1} s: {}", size(saved.bytes), time.as_secs_f64(), saved.path.display())
}

/// Saves the machine at the end of a session, if that is an orderly one. Otherwise says why not.
fn save_at_end(
    end: &End,
    alive: bool,
    runner: Option<&mut Box<dyn Runner>>,
    target: &Target,
    progress: &Progress,
    reporter: Reporter,
) -> Result<Option<Saved>, SnapshotFileError> {
    let orderly = matches!(end, End::ExitPattern | End::CtrlD | End::Quit | End::InputEnd);
    match runner {
        Some(runner) if orderly && alive => target.save(&mut *runner.capture(), progress).map(Some),
        _ => {
            let reason = match end {
                End::Timeout(_) => "the time was up",
                End::Signal(_) => "a signal ended the run",
                _ if orderly => "the guest does not run any more",
                End::Guest(_) => "the guest ended the run",
                _ => "the run did not end as it should",
            };
            reporter.warning(&format!("the snapshot is not saved: {reason}"));
            Ok(None)
        }
    }
}

/// Says how the session ended, and saves it into `target`. Returns the exit status.
fn tell_end(
    ended: Ended,
    image: &Path,
    elapsed: Duration,
    state_hash: bool,
    target: Option<&Target>,
    progress: &Progress,
    reporter: Reporter,
) -> u8 {
    let Ended { end, mut runner, alive, mid_line } = ended;
    let notes = !reporter.quiet && !reporter.json;
    let reason = match &end {
        End::ExitPattern => Some("Exit pattern"),
        End::CtrlD => Some("Ctrl-D"),
        End::Quit => Some("Ctrl-A x"),
        _ => None,
    };
    if let Some(reason) = reason.filter(|_| notes) {
        // As the old tool printed it; scripts look for it.
        let what = if target.is_some() && alive { "Saving" } else { "Exiting" };
        print(&format!("\r\n{reason} detected. {what}...\n"));
    } else if mid_line && io::stdout().is_terminal() {
        print("\n");
    }
    match &end {
        End::Timeout(timeout) => {
            reporter
                .failure(&format!("Timed out after {} s: {}", timeout.as_secs_f64(), image.display()), None);
        }
        End::Guest(StopReason::TripleFault) => {
            reporter.failure(&format!("The guest crashed (triple fault): {}", image.display()), None);
            if let Some(report) = runner.as_ref().map(|runner| runner.report()).filter(|_| !reporter.json) {
                reporter.text(&report);
            }
        }
        End::Signal(signal) => reporter.warning(&format!("ended by signal {signal}")),
        End::InputFailed(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            reporter.failure("Cannot read standard input: the terminal is gone", None);
        }
        End::InputFailed(error) => reporter.failure(&format!("Cannot read standard input: {error}"), None),
        End::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        End::OutputFailed(error) => reporter.failure(&format!("Cannot write standard output: {error}"), None),
        End::Panicked => reporter.failure("Internal error: the machine's thread panicked", None),
        End::Stuck => reporter.failure("Internal error: the machine did not stop", None),
        End::Guest(StopReason::RebootFailed) => {
            let reason = runner.as_ref().and_then(|runner| runner.reboot_error()).unwrap_or_default();
            reporter.failure(&format!("The guest rebooted: {}: {reason}", image.display()), None);
        }
        End::Guest(_) | End::ExitPattern | End::CtrlD | End::Quit | End::InputEnd => {}
    }
    let saved = target.map(|target| save_at_end(&end, alive, runner.as_mut(), target, progress, reporter));
    let failed = matches!(saved, Some(Err(_)));
    let saved = match saved {
        Some(Ok(saved)) => saved,
        Some(Err(error)) => {
            reporter.error(&Error::from(error).into());
            None
        }
        None => None,
    };
    let exit_code = if failed { FAILURE } else { end.exit_code() };
    let retired = runner.as_ref().map(|runner| runner.retired());
    let hash = runner.as_mut().filter(|_| state_hash).map(|runner| format!("{:016x}", runner.state_hash()));
    if reporter.json {
        reporter.object(&json!({
            "level": "info",
            "event": "end",
            "reason": end.name(),
            "exit_code": exit_code,
            "seconds": elapsed.as_secs_f64(),
            "instructions": retired,
            "state_hash": hash,
            "saved": saved.map(|saved| json!({ "file": saved.path.display().to_string(), "bytes": saved.bytes })),
            "report": runner
                .as_ref()
                .filter(|_| matches!(end, End::Guest(StopReason::TripleFault)))
                .map(|runner| runner.report()),
        }));
    } else if let (Some(hash), Some(retired)) = (hash, retired) {
        reporter.text(&format!("instructions {retired}\nstate-hash {hash}"));
    }
    exit_code
}
