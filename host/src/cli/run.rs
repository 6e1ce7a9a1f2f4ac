//! `env86 run`: a command in a guest that behaves like a local one.
//!
//! Exit status: the command's own; 124 after `--timeout`, 125 if env86 or the guest failed, 126 if the
//! command cannot be executed, 127 if there is none, 128 + n after signal n, 2 for wrong flags.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use emu_devices::p9::Server;
use emu_devices::virtio::P9Handler;
use serde_json::json;

use super::boot::EngineArg;
use super::net::{self, NetArgs};
use super::report::Reporter;
use super::start;
use crate::clock;
use crate::config::{self, BootOptions};
use crate::console::terminal::RawMode;
use crate::error::{Error, printable};
use crate::image::Image;
use crate::limits;
use crate::paths;
use crate::progress::Progress;
use crate::rpc::{Command, RunOptions};
use crate::run::tail::Tail;
use crate::run::{End, Ended, Event, Job, Run};
use crate::shares::{Shares, Spec};
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

    /// Pass standard input to the command
    #[arg(long, short)]
    interactive: bool,

    /// Give the command a terminal (the default if standard input and output are terminals)
    #[arg(long, short)]
    tty: bool,

    /// Give the command no terminal
    #[arg(long, short = 'T', conflicts_with = "tty")]
    no_tty: bool,

    /// Set an environment variable; without a value, to the one it has here
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    env: Vec<String>,

    /// Read environment variables from FILE, one KEY[=VALUE] a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    env_file: Vec<PathBuf>,

    /// Directory the command starts in
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,

    /// User the command runs as: NAME, UID, NAME:GROUP or UID:GID
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,

    /// Show a directory of the host in the guest; :ro lets it only look
    #[arg(
        long,
        short = 'm',
        visible_alias = "volume",
        visible_short_alias = 'v',
        value_name = "HOST:GUEST[:ro]"
    )]
    mount: Vec<OsString>,

    #[command(flatten)]
    net: NetArgs,

    /// End the run after SECS seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    timeout: Option<Duration>,

    /// Give up if the guest has not booted its service after SECS seconds (300)
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    boot_timeout: Option<Duration>,

    /// Guest memory, e.g. 512M or 1G, when the image boots
    #[arg(long, value_name = "SIZE", value_parser = config::parse_memory)]
    memory: Option<u64>,

    /// Boot the image, ignoring its snapshot
    #[arg(long)]
    cold: bool,

    /// What executes the guest's instructions [default: jit where there is one]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineArg>,

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

    /// Environment variables in the order they are set.
    fn environment(&self) -> anyhow::Result<Vec<String>> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            let failed = |error: io::Error| anyhow::anyhow!("Cannot read {}: {error}", path.display());
            let mut text = String::new();
            let file = fs::File::open(path).map_err(failed)?;
            file.take(limits::MAX_ENV_FILE).read_to_string(&mut text).map_err(failed)?;
            let lines = text.lines().map(str::trim_start);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                variables.extend(variable(line)?);
            }
        }
        for text in &self.env {
            variables.extend(variable(text)?);
        }
        Ok(variables)
    }

    /// Directories of the host: their places, and who serves them if there are any.
    fn shares(&self) -> anyhow::Result<Mounts> {
        let specs = self.mount.iter().map(|text| Spec::parse(text)).collect::<Result<Vec<_>, _>>();
        let specs = specs.map_err(Error::from)?;
        if specs.is_empty() {
            return Ok((specs, None));
        }
        let shares = Shares::open(&specs).map_err(Error::from)?;
        let server: Box<dyn P9Handler> = Box::new(Server::new(Box::new(shares)));
        Ok((specs, Some(server)))
    }

    fn command(&self, terminal: bool, has_input: bool) -> anyhow::Result<Command> {
        let texts = self.command.iter().map(|text| utf8(text)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut texts = texts.into_iter();
        let (rows, columns) = window().filter(|_| terminal).unwrap_or_default();
        let term = std::env::var("TERM").ok().filter(|term| terminal && !term.is_empty());
        let options = RunOptions {
            extra_env: self.environment()?,
            user: self.user.clone().unwrap_or_default(),
            rows,
            columns,
            term: term.unwrap_or_default(),
            no_input: !has_input && !terminal,
        };
        Ok(Command {
            name: texts.next().unwrap_or_default(),
            args: texts.collect(),
            dir: self.workdir.clone().unwrap_or_default(),
            env: None,
            pty: terminal,
            options: Some(options),
        })
    }
}

/// `KEY=VALUE` from that or from `KEY`; nothing if that is not set here.
fn variable(text: &str) -> anyhow::Result<Option<String>> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    anyhow::ensure!(!key.is_empty() && !text.contains('\0'), "Not an environment variable: {text:?}");
    Ok(value.map(|value| format!("{key}={value}")))
}

fn utf8(text: &OsStr) -> anyhow::Result<String> {
    let text = text.to_str();
    text.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("The command is not valid UTF-8"))
}

/// Rows and columns of the terminal.
fn window() -> Option<(u16, u16)> {
    crossterm::terminal::size().ok().map(|(columns, rows)| (rows, columns))
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
    let net = args.net.config()?;
    let begin = clock::now();
    let both = io::stdin().is_terminal() && io::stdout().is_terminal();
    let terminal = !args.no_tty && (args.tty || both);
    let has_input = args.interactive || (terminal && io::stdin().is_terminal());
    let command = args.command(terminal, has_input)?;
    let (mounts, shares) = args.shares()?;

    let (path, name) = locate::resolve(&args.image, paths::home().as_deref()).map_err(Error::from)?;
    let image = Image::open(&path, &Progress::hidden()).map_err(Error::from)?;
    let found = match args.cold {
        true => None,
        false => locate::find(&image, name.as_ref()).map_err(Error::from)?,
    };
    let opened = found.map(|found| found.open(&image)).transpose().map_err(Error::from)?;
    let options = BootOptions {
        memory: args.memory,
        engine: args.engine.map(Into::into),
        net: args.net.wishes(),
        ..BootOptions::default()
    };
    let config = start::resolve(&options, &image, opened.as_ref(), reporter)?;
    let restored = opened.is_some();
    let console = Tail::default();
    let mut vm = start::build(&image, opened, &config, &options.kernel, console.sink(), shares, reporter)?;
    let _net = net::start(net, &mut vm, reporter)?;

    let run = Run::default();
    let sender = run.sender();
    let signals = signals::forward(move |signal| {
        // Nobody listens any more only when the process is about to end.
        let _ = sender.send(Event::Signal(signal));
    });
    let _signals = signals.map_err(Error::from)?;
    let raw = (terminal && io::stdin().is_terminal()).then(RawMode::enter);
    let raw = raw.transpose().map_err(Error::from)?;
    let job = Job {
        command,
        input: has_input.then(|| Box::new(io::stdin()) as Box<dyn Read + Send>),
        output: Box::new(io::stdout()),
        errors: Box::new(io::stderr()),
        mounts,
        timeout: args.timeout,
        patience: args.boot_timeout.unwrap_or(BOOT_PATIENCE),
        window: Box::new(window),
    };
    let ended = run.run(vm, job).map_err(Error::from)?;
    drop(raw);
    let seconds = clock::now().saturating_duration_since(begin).as_secs_f64();
    let before = ended.started.map(|at| at.saturating_duration_since(begin).as_secs_f64());
    tell(&ended, &path, restored, &console, reporter);
    let exit_code = ended.end.exit_code();
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
    if matches!(ended.end, End::NoService | End::Guest(_)) && !reporter.quiet && !reporter.json {
        for line in console.lines() {
            reporter.text(&format!("console: {}", printable(&line)));
        }
    }
}
