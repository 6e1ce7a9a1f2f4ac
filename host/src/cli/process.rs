//! What `run` and `exec` have in common: a command, its streams and its surroundings.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::config;
use crate::limits;
use crate::rpc::{Command, RunOptions};

/// How a command runs.
#[derive(Debug, Args)]
pub(super) struct ProcessArgs {
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

    /// End the command after SECS seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    pub(super) timeout: Option<Duration>,
}

/// Which of the host's streams a command gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// It has a terminal.
    pub(super) terminal: bool,
    /// It gets our input.
    pub(super) input: bool,
    /// That is a terminal, which has to be raw.
    pub(super) raw: bool,
}

impl ProcessArgs {
    /// What our streams are, and what was asked for.
    pub(super) fn ends(&self) -> Ends {
        let (input, output) = (io::stdin().is_terminal(), io::stdout().is_terminal());
        let terminal = !self.no_tty && (self.tty || (input && output));
        Ends { terminal, input: self.interactive || (terminal && input), raw: terminal && input }
    }

    /// What a command in the background has.
    pub(super) fn no_ends() -> Ends {
        Ends { terminal: false, input: false, raw: false }
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

    /// The command as the guest service gets it.
    pub(super) fn command(&self, line: &[OsString], ends: Ends) -> anyhow::Result<Command> {
        let texts = line.iter().map(|text| utf8(text)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut texts = texts.into_iter();
        let (rows, columns) = ends.terminal.then(window).flatten().unwrap_or_default();
        let term = std::env::var("TERM").ok().filter(|term| ends.terminal && !term.is_empty());
        let options = RunOptions {
            extra_env: self.environment()?,
            user: self.user.clone().unwrap_or_default(),
            rows,
            columns,
            term: term.unwrap_or_default(),
            no_input: !ends.input && !ends.terminal,
        };
        Ok(Command {
            name: texts.next().unwrap_or_default(),
            args: texts.collect(),
            dir: self.workdir.clone().unwrap_or_default(),
            env: None,
            pty: ends.terminal,
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

/// Rows and columns of the terminal, if one of the standard streams is one.
pub(super) fn window() -> Option<(u16, u16)> {
    // crossterm would start `tput`, whatever that is on this path, where there is no terminal.
    #[cfg(unix)]
    {
        use rustix::stdio::{stderr, stdin, stdout};
        let size = |stream| rustix::termios::tcgetwinsize(stream).ok();
        let size = size(stdin()).or_else(|| size(stdout())).or_else(|| size(stderr()))?;
        Some((size.ws_row, size.ws_col))
    }
    #[cfg(not(unix))]
    crossterm::terminal::size().ok().map(|(columns, rows)| (rows, columns))
}
