//! The command line: one file per subcommand.
//!
//! Exit status: 0 for an orderly end, 1 for errors of env86, and what the subcommand adds (see
//! `boot`). Errors are one line on standard error, with a second one that says what to try.

mod boot;
mod compat;
mod cp;
mod detach;
mod engine_args;
mod exec;
mod lockstep;
mod machines;
mod net;
mod network;
mod process;
mod report;
mod run;
mod snapshot;
pub(crate) mod start;
mod stats;
mod trace_start;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::error::{Error, FAILURE};
use crate::run::FAILED_STATUS;
use report::Reporter;

/// Version: set at build time by `ENV86_VERSION`, else the package's.
pub const VERSION: &str = match option_env!("ENV86_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Exit status of `run` for wrong flags.
const USAGE: u8 = 2;

/// Native i386 PC emulator and virtual machine runner.
#[derive(Debug, Parser)]
#[command(name = "env86", version = VERSION, subcommand_required = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot an image, with its serial console on the terminal
    Boot(Box<boot::BootArgs>),
    /// Make, list, compare and restore snapshots of an image
    Snapshot(snapshot::SnapshotArgs),
    /// Run a command in an image
    Run(Box<run::RunArgs>),
    /// Run a command in a virtual machine that is running
    Exec(Box<exec::ExecArgs>),
    /// List the virtual machines that have a name
    Ps(machines::PsArgs),
    /// End virtual machines
    Stop(machines::StopArgs),
    /// Copy files and directories into a virtual machine or out of it
    Cp(cp::CpArgs),
    /// Pull an image from a repository (not available yet)
    Pull(Later),
    /// Create an image from a directory or from Docker (not available yet)
    Create(Later),
    /// Prepare an image for the web (not available yet)
    Prepare(Later),
    /// Serve an image on the web (not available yet)
    Serve(Later),
    /// Give machines in browsers a network
    Network(network::NetworkArgs),
    /// Print a bundled file (not available yet)
    #[command(hide = true)]
    Assets(Later),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of a command that a later version brings.
#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// Runs the command line `arguments`, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let json = arguments.iter().any(|argument| argument == "--json" || argument == "-json");
    match dispatch(arguments, Reporter { json, quiet: false }) {
        Ok(status) => ExitCode::from(status),
        Err(Failure { error, reporter, status }) => {
            reporter.error(&error);
            ExitCode::from(status)
        }
    }
}

/// A command that failed.
struct Failure {
    error: anyhow::Error,
    reporter: Reporter,
    /// Exit status of the process.
    status: u8,
}

impl Failure {
    fn new(error: anyhow::Error, reporter: Reporter) -> Self {
        Self { error, reporter, status: FAILURE }
    }
}

fn dispatch(arguments: Vec<OsString>, reporter: Reporter) -> Result<u8, Failure> {
    let mut root = Cli::command();
    root.build();
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    match first {
        None if arguments.len() < 2 => return Ok(help_on_stderr(&mut root)),
        Some("-v" | "--v") => {
            print(&format!("{VERSION}\n"));
            return Ok(0);
        }
        Some("-help") => {
            print(&root.render_help().to_string());
            return Ok(0);
        }
        Some("-version") => {
            print(&root.render_version());
            return Ok(0);
        }
        Some(name) if name.starts_with('-') || root.find_subcommand(name).is_some() => {}
        _ => {
            // The status is that of the old tool.
            let name = arguments.get(1).map(|name| name.to_string_lossy()).unwrap_or_default();
            reporter.failure(&format!("Unknown command: {name}"), None);
            return Ok(help_on_stderr(&mut root));
        }
    }
    let later = root.find_subcommand(first.unwrap_or_default()).filter(|command| is_later(command));
    let arguments = match later {
        Some(command) if !asks_for_help(arguments.get(2)) => {
            let what = format!("run '{} {}'", root.get_name(), command.get_name());
            return Err(Failure::new(Error::NotYet { what, hint: None }.into(), reporter));
        }
        Some(command) => vec![root.get_name().into(), command.get_name().into(), "--help".into()],
        None => {
            let status = usage_status(first);
            compat::normalise(arguments, &root).map_err(|error| Failure {
                error: error.into(),
                reporter,
                status,
            })?
        }
    };
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return Ok(usage_error(&error, &root, &arguments, reporter)),
    };
    match cli.verb {
        Verb::Boot(args) => {
            let reporter = args.reporter();
            boot::run(*args, reporter).map_err(|error| Failure::new(error, reporter))
        }
        Verb::Run(args) => {
            let reporter = args.reporter();
            run::run(*args, reporter).map_err(|error| Failure { error, reporter, status: FAILED_STATUS })
        }
        Verb::Exec(args) => {
            let reporter = args.reporter();
            exec::run(*args, reporter).map_err(|error| Failure { error, reporter, status: FAILED_STATUS })
        }
        Verb::Ps(args) => machines::ps(args).map_err(|error| Failure::new(error, reporter)),
        Verb::Stop(args) => Ok(machines::stop(&args, reporter)),
        Verb::Cp(args) => {
            let reporter = args.reporter();
            cp::run(args, reporter).map_err(|error| Failure::new(error, reporter))
        }
        Verb::Snapshot(args) => {
            let reporter = args.reporter();
            snapshot::run(args).map_err(|error| Failure::new(error, reporter))
        }
        Verb::Network(args) => {
            let reporter = args.reporter();
            network::run(&args, reporter).map_err(|error| Failure::new(error, reporter))
        }
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "env86", &mut text);
            print(&String::from_utf8_lossy(&text));
            Ok(0)
        }
        Verb::Pull(later)
        | Verb::Create(later)
        | Verb::Prepare(later)
        | Verb::Serve(later)
        | Verb::Assets(later) => {
            let what = format!("run this command ({} arguments)", later.rest.len());
            Err(Failure::new(Error::NotYet { what, hint: None }.into(), reporter))
        }
    }
}

/// True for commands that only have [`Later`] arguments.
fn is_later(command: &clap::Command) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == "rest")
}

fn asks_for_help(argument: Option<&OsString>) -> bool {
    argument.is_some_and(|argument| ["-h", "-help", "--h", "--help"].iter().any(|help| argument == help))
}

/// The old tool's answer to no command and to unknown ones.
fn help_on_stderr(root: &mut clap::Command) -> u8 {
    let _ = write!(io::stderr().lock(), "{}", root.render_help());
    0
}

/// Shows what clap has to say: help and version on standard output, errors in our form.
fn usage_error(error: &clap::Error, root: &clap::Command, arguments: &[OsString], reporter: Reporter) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print(&error.render().to_string());
            return 0;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let _ = write!(io::stderr().lock(), "{}", error.render());
            return 0;
        }
        _ => {}
    }
    let name = arguments.get(1).and_then(|name| name.to_str()).unwrap_or_default();
    let command = root.find_subcommand(name);
    let rendered = error.render().to_string();
    let message = match (error.kind(), command, error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(command), Some(ContextValue::Strings(missing))) => {
            let needed = command.get_positionals().filter(|arg| arg.is_required_set()).count();
            let got = needed.saturating_sub(missing.len());
            format!("requires at least {needed} arg(s), only received {got}")
        }
        _ => {
            let first = rendered.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            let mut letters = first.chars();
            let capital = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
            capital + letters.as_str()
        }
    };
    let known = command.map_or(String::new(), |command| format!("{} ", command.get_name()));
    reporter.failure(&message, Some(&format!("see 'env86 {known}--help'")));
    usage_status(Some(name))
}

/// Exit status for a command line that cannot be understood. That of `run` and `exec` cannot be a command's by accident
/// of the old tool's habits.
fn usage_status(command: Option<&str>) -> u8 {
    if matches!(command, Some("run" | "exec")) { USAGE } else { FAILURE }
}

/// Prints to standard output. A reader that has gone away is no error.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
