//! `env86 run`: a command in a guest that behaves like a local one.
//!
//! Exit status: the command's own; 124 after `--timeout`, 125 if env86 or the guest failed, 126 if the
//! command cannot be executed, 127 if there is none, 128 + n after signal n, 2 for wrong flags.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueHint};
use emu_devices::p9::Server;
use emu_devices::virtio::P9Handler;
use serde_json::json;

use super::engine_args::EngineArgs;
use super::net::{self, NetArgs};
use super::process::{ProcessArgs, window};
use super::report::Reporter;
use super::{detach, start, stats};
use crate::clock;
use crate::config::{self, BootOptions};
use crate::console::terminal::RawMode;
use crate::control::endpoint::Endpoint;
use crate::control::names::{Directory, Name};
use crate::error::{Error, printable};
use crate::fs::cache::Warn;
use crate::image::Image;
use crate::paths;
use crate::progress::Progress;
use crate::rpc::RpcError;
use crate::run::tail::Tail;
use crate::run::{Console, End, Ended, Event, Job, Ready, Run, Streams, install};
use crate::shares::{self, Spec};
use crate::signals;
use crate::snapshot::locate;
use crate::vm::StopReason;

/// How long a guest may take to boot its service.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

/// Directories of the host and their places, and who serves them if there are any.
type Mounts = (Vec<Spec>, Option<Box<dyn P9Handler>>);

const AFTER_HELP: &str = "\
The image starts from its snapshot if it has one, and is never changed. Without -t, standard output
and standard error of the command are those of env86, byte for byte, and it reads nothing unless -i
is given. When both ends are terminals, -t is the default.

    echo hi | env86 run -i IMAGE -- sh -c 'cat; exit 7'

With --detach the machine runs in the background, without a terminal; 'env86 ps' lists those, and
'env86 stop NAME' ends one. What the command prints goes to the file of --log, else to one that is
removed when the machine ends ('env86 ps --json' names it).

SIGINT, SIGTERM, SIGQUIT and SIGHUP are passed to the command; a second one ends the run.

Exit status: the command's; 124 after --timeout, 125 if env86 or the guest failed, 126 if the command
cannot be executed, 127 if it is not found, 128+n after signal n, 2 for wrong flags.";

/// Flags and arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct RunArgs {
    /// Image: a directory, a .tgz archive, or a name in the store; IMAGE:NAME for a named snapshot
    #[arg(value_hint = ValueHint::AnyPath)]
    image: OsString,

    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    #[command(flatten)]
    process: ProcessArgs,

    /// Name by which exec, cp, stop and ps know the virtual machine
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Print the name when the command has started, and leave it running in the background
    #[arg(long, short, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,

    /// With --detach: write the command's output to FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "detach")]
    log: Option<PathBuf>,

    /// This is the process in the background, with this name.
    #[arg(long, hide = true, value_name = "NAME")]
    background: Option<String>,

    /// Show a directory of the host in the guest; :ro lets it only look, :overlay keeps what it writes in memory,
    /// :overlay=DIR in another directory
    #[arg(
        long,
        short = 'm',
        visible_alias = "volume",
        visible_short_alias = 'v',
        value_name = "HOST:GUEST[:ro|:overlay[=DIR]]"
    )]
    mount: Vec<OsString>,

    /// Carry mounts through the guest service even if the guest has a driver for the device.
    #[arg(long, hide = true)]
    mount_by_service: bool,

    /// Boot the image with the guest service put into /bin, for images without one; the image is not changed
    #[arg(long)]
    install_guest: bool,

    #[command(flatten)]
    net: NetArgs,

    /// Give up if the guest has not booted its service after SECS seconds (300)
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    boot_timeout: Option<Duration>,

    /// Guest memory, e.g. 512M or 1G, when the image boots
    #[arg(long, value_name = "SIZE", value_parser = config::parse_memory)]
    memory: Option<u64>,

    /// Boot the image, ignoring its snapshot
    #[arg(long)]
    cold: bool,

    #[command(flatten)]
    engine: EngineArgs,

    /// Accepted for those who are used to it: nothing of a run is kept
    #[arg(long)]
    rm: bool,

    /// Write the exit status into FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    exit_code_file: Option<PathBuf>,

    /// Errors, warnings and a summary as JSON lines on standard error
    #[arg(long)]
    json: bool,

    /// No warnings
    #[arg(long, short)]
    quiet: bool,

    /// Run the page in Chrome (the old tool's; there is none)
    #[arg(long, hide = true)]
    cdp: bool,
}

impl RunArgs {
    /// How this run reports.
    pub fn reporter(&self) -> Reporter {
        Reporter { json: self.json, quiet: self.quiet }
    }

    /// The name the machine is to have, with its socket.
    fn claim(&self) -> anyhow::Result<Option<(Directory, Endpoint)>> {
        let Some(name) = self.background.as_ref().or(self.name.as_ref()) else { return Ok(None) };
        Ok(Some(start::claim(name)?))
    }

    /// Directories of the host: their places, and who serves them if there are any.
    fn shares(&self, reporter: Reporter) -> anyhow::Result<Mounts> {
        let specs = self.mount.iter().map(|text| Spec::parse(text)).collect::<Result<Vec<_>, _>>();
        let specs = specs.map_err(Error::from)?;
        if specs.is_empty() {
            return Ok((specs, None));
        }
        let warn = || Box::new(move |message: &str| reporter.warning(message)) as Warn;
        let shares = shares::Mounts::open(&specs, warn).map_err(Error::from)?;
        if self.mount_by_service {
            return Ok((specs, None));
        }
        let server: Box<dyn P9Handler> = Box::new(Server::new(Box::new(shares)));
        Ok((specs, Some(server)))
    }
}

/// Runs a command in an image. Returns the exit status.
///
/// # Errors
/// Whatever keeps the command from being started.
pub fn run(args: RunArgs, reporter: Reporter) -> anyhow::Result<u8> {
    let status = attempt(&args, reporter);
    if let Some(path) = &args.exit_code_file {
        let status = status.as_ref().map_or(crate::run::FAILED_STATUS, |status| *status);
        fs::write(path, format!("{status}\n"))
            .map_err(|error| anyhow::anyhow!("Cannot write {}: {error}", path.display()))?;
    }
    status
}

fn attempt(args: &RunArgs, reporter: Reporter) -> anyhow::Result<u8> {
    if args.detach && args.background.is_none() {
        return detach(args);
    }
    let net = args.net.config()?;
    let begin = clock::now();
    let ends = if args.detach { ProcessArgs::no_ends() } else { args.process.ends() };
    let command = args.process.command(&args.command, ends)?;
    let (path, name) = locate::resolve(&args.image, paths::home().as_deref()).map_err(Error::from)?;
    let named = args.claim()?;
    let log = match (&named, args.detach) {
        (Some((directory, endpoint)), true) => {
            detach::leave_session()?;
            let own = directory.log(endpoint.name());
            let log = detach::open_log(args.log.as_deref(), &own);
            let at = args.log.as_deref().unwrap_or(&own).to_path_buf();
            Some((log.map_err(|error| anyhow::anyhow!("Cannot write {}: {error}", at.display()))?, at))
        }
        _ => None,
    };
    let (mounts, shares) = args.shares(reporter)?;

    let image = Image::open(&path, &Progress::hidden()).map_err(Error::from)?;
    // A snapshot has its guest's tree as it was.
    let found = match args.cold || args.install_guest {
        true => None,
        false => locate::find(&image, name.as_ref()).map_err(Error::from)?,
    };
    let opened = found.map(|found| found.open(&image)).transpose().map_err(Error::from)?;
    let options = BootOptions {
        memory: args.memory,
        engine: args.engine.engine(),
        translator: args.engine.translator(),
        net: args.net.wishes(),
        ..BootOptions::default()
    };
    let config = start::resolve(&options, &image, opened.as_ref(), reporter)?;
    let restored = opened.is_some();
    let service = args.install_guest.then(install::find).transpose().map_err(Error::from)?;
    let console = Tail::default();
    let mut vm = start::build(
        &image,
        opened,
        &config,
        &options.kernel,
        console.sink(),
        shares,
        service.as_deref(),
        reporter,
    )?;
    let _net = net::start(net, &mut vm, reporter)?;

    let run = Run::default();
    let sender = run.sender();
    let signals = signals::forward(move |signal| {
        // Nobody listens any more only when the process is about to end.
        let _ = sender.send(Event::Signal(signal));
    });
    let _signals = signals.map_err(Error::from)?;
    let ready = Arc::<Ready>::default();
    if let Some((_, endpoint)) = &named {
        let sender = run.sender();
        let log = log.as_ref().map(|(_, path)| path.as_path());
        let stop = move |patience| drop(sender.send(Event::Stop(patience)));
        start::serve(endpoint, &vm, &path, &args.command, log, ready.clone(), Box::new(stop))?;
    }
    let raw = ends.raw.then(RawMode::enter).transpose().map_err(Error::from)?;
    let streams = match &log {
        Some((log, _)) => Streams {
            command,
            input: None,
            output: Box::new(log.try_clone()?),
            errors: Box::new(log.try_clone()?),
        },
        None => Streams {
            command,
            input: ends.input.then(|| Box::new(io::stdin()) as Box<dyn Read + Send>),
            output: Box::new(io::stdout()),
            errors: Box::new(io::stderr()),
        },
    };
    let job = Job {
        streams,
        mounts,
        tunnel: args.mount_by_service,
        console: Some(Console {
            tail: console.clone(),
            installed: args.install_guest,
            notice: Box::new(move || {
                reporter.warning(
                    "the guest has no service: the command runs at the shell of its console, with one \
                     stream for all output and no input; --install-guest gives it one",
                );
            }),
        }),
        timeout: args.process.timeout,
        patience: args.boot_timeout.unwrap_or(BOOT_PATIENCE),
        window: Box::new(window),
        started: log.map(|(log, _)| Box::new(move || detach::started(&log)) as _),
        ready,
    };
    let ended = run.run(vm, job).map_err(Error::from)?;
    drop(raw);
    let seconds = clock::now().saturating_duration_since(begin).as_secs_f64();
    let before = ended.started.map(|at| at.saturating_duration_since(begin).as_secs_f64());
    tell(&ended, &path, restored, &console, reporter);
    let exit_code = ended.end.exit_code();
    if let Some(runner) = ended.runner.as_ref().filter(|_| args.engine.stats) {
        stats::tell(&runner.counters(), runner.retired(), reporter);
    }
    if reporter.json {
        reporter.object(&json!({
            "level": "info",
            "event": "end",
            "reason": ended.end.name(),
            "exit_code": exit_code,
            "restored": restored,
            "seconds": seconds,
            "seconds_before_start": before,
            "instructions": ended.runner.as_ref().map(|runner| runner.retired()),
        }));
    }
    Ok(exit_code)
}

/// Has another process do it, and says which.
fn detach(args: &RunArgs) -> anyhow::Result<u8> {
    let name = match &args.name {
        Some(name) => Name::new(name).map_err(Error::from)?,
        None => Name::invent(Path::new(&args.image)),
    };
    let status = detach::spawn(&name).map_err(|error| anyhow::anyhow!("Cannot start env86: {error}"))?;
    if status == 0 {
        super::print(&format!("{name}\n"));
    }
    Ok(status)
}

/// Says what went wrong, if something did.
fn tell(ended: &Ended, image: &Path, restored: bool, console: &Tail, reporter: Reporter) {
    let image = image.display();
    let (message, hint) = match &ended.end {
        End::Exited(_) | End::Signal(_) => return,
        End::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
        End::NotStarted(_, why) => (format!("Cannot run the command: {why}"), None),
        End::Timeout(time) => (format!("Timed out after {} s: {image}", time.as_secs_f64()), None),
        End::NoService if restored => (
            format!("No guest service: {image}: none listens in the snapshot's guest"),
            Some("start guest86 in the image's init and make the snapshot again, or use 'env86 boot IMAGE'"),
        ),
        End::NoService => (
            format!("No guest service: {image}: the guest has booted and none answers"),
            Some("the image's init has to start guest86 on /dev/ttyS1; 'env86 boot IMAGE' gives a console"),
        ),
        End::NotMounted(why) => (format!("Cannot mount in the guest: {why}"), None),
        End::Console(what) => (
            format!("No guest service: {image}: the shell at its console is not enough for {what}"),
            Some("--install-guest gives the guest a service"),
        ),
        End::Failed(error) => (format!("Lost the command: {image}: {error}"), None),
        End::Guest(StopReason::TripleFault) => (format!("The guest crashed (triple fault): {image}"), None),
        End::Guest(StopReason::PowerOff | StopReason::Halted) => {
            (format!("The guest switched itself off before the command ended: {image}"), None)
        }
        End::Guest(_) => (format!("The guest ended before the command did: {image}"), None),
        End::OutputFailed(error) => (format!("Cannot write standard output: {error}"), None),
        End::Panicked => ("Internal error: the machine's thread panicked".to_owned(), None),
    };
    reporter.failure(&message, hint);
    if matches!(ended.end, End::NoService | End::Guest(_) | End::Failed(RpcError::Gone))
        && !reporter.quiet
        && !reporter.json
    {
        for line in console.lines() {
            reporter.text(&format!("console: {}", printable(&line)));
        }
    }
}
