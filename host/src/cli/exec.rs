//! `env86 exec`: a command in a guest that is running already.
//!
//! Exit status as that of `run`.

use std::ffi::OsString;
use std::io::{self, Read};
use std::time::Duration;

use clap::Args;

use super::process::{ProcessArgs, window};
use super::report::Reporter;
use crate::config;
use crate::console::terminal::RawMode;
use crate::control::client::Client;
use crate::control::names::{Directory, Name};
use crate::error::Error;
use crate::run::{End, Event, Run, Streams};
use crate::signals;

/// How long a guest may take to boot its service.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

const AFTER_HELP: &str = "\
The virtual machine is one that 'env86 run --name' or 'env86 boot --name' has started. Streams, terminal and
signals are as for 'env86 run'.

    env86 exec -it NAME -- sh

Exit status: the command's; 124 after --timeout, 125 if env86 or the guest failed or there is no
such virtual machine, 126 if the command cannot be executed, 127 if it is not found, 128+n after signal n, 2
for wrong flags.";

/// Flags and arguments of `exec`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct ExecArgs {
    /// Name of the virtual machine
    name: String,

    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    #[command(flatten)]
    process: ProcessArgs,

    /// Give up if the guest has not booted its service after SECS seconds (300)
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    boot_timeout: Option<Duration>,

    /// Errors and warnings as JSON lines on standard error
    #[arg(long)]
    json: bool,

    /// No warnings
    #[arg(long, short)]
    quiet: bool,
}

impl ExecArgs {
    /// How this run reports.
    pub fn reporter(&self) -> Reporter {
        Reporter { json: self.json, quiet: self.quiet }
    }
}

/// Runs a command. Returns the exit status.
///
/// # Errors
/// Whatever keeps the command from being started.
pub fn run(args: ExecArgs, reporter: Reporter) -> anyhow::Result<u8> {
    let ends = args.process.ends();
    let command = args.process.command(&args.command, ends)?;
    let name = Name::new(&args.name).map_err(Error::from)?;
    let directory = Directory::open().map_err(Error::from)?;
    let client = Client::connect(&directory, &name).map_err(Error::from)?;
    let guest = client.guest(args.boot_timeout.unwrap_or(BOOT_PATIENCE)).map_err(Error::from)?;
    let run = Run::default();
    let sender = run.sender();
    let signals = signals::forward(move |signal| {
        // Nobody listens any more only when the process is about to end.
        let _ = sender.send(Event::Signal(signal));
    });
    let _signals = signals.map_err(Error::from)?;
    let raw = ends.raw.then(RawMode::enter).transpose().map_err(Error::from)?;
    let streams = Streams {
        command,
        input: ends.input.then(|| Box::new(io::stdin()) as Box<dyn Read + Send>),
        output: Box::new(io::stdout()),
        errors: Box::new(io::stderr()),
    };
    let end = run.exec(&guest, streams, Box::new(window), args.process.timeout).map_err(Error::from)?;
    drop(raw);
    match &end {
        End::Exited(_) | End::Signal(_) => {}
        End::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        End::NotStarted(_, why) => reporter.failure(&format!("Cannot run the command: {why}"), None),
        End::Timeout(time) => {
            reporter.failure(&format!("Timed out after {} s: {name}", time.as_secs_f64()), None);
        }
        End::OutputFailed(error) => {
            reporter.failure(&format!("Cannot write standard output: {error}"), None);
        }
        End::Failed(error) => reporter.failure(&format!("Lost the command: {name}: {error}"), None),
        other => reporter.failure(&format!("Lost the command: {name}: {}", other.name()), None),
    }
    Ok(end.exit_code())
}
