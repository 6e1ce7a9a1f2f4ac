//! `run --detach`: the machine in a process of its own, without a terminal.
//!
//! The one who asked starts env86 again with `--background NAME` and waits for its first line on a pipe,
//! which is its standard output. That line comes when the command has started; until then errors go where the
//! user sees them, from then on to the log.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::control::names::Name;
use crate::error::FAILURE;

/// What the one who waits is told.
const STARTED: &[u8] = b"started\n";

/// Starts this command line again in the background, and waits until its command has started. The exit
/// status: zero, or that of the process if it ended before.
pub(super) fn spawn(name: &Name) -> io::Result<u8> {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let background = [OsString::from("--background"), name.as_str().into()];
    let mut child = Command::new(std::env::current_exe()?)
        .arg(verb)
        .args(background)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(STARTED.len() as u64).read_to_end(&mut line)?;
    }
    if line == STARTED {
        return Ok(0);
    }
    let status = child.wait()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(FAILURE))
}

/// Leaves the session of the one who started us, so that its terminal's signals are not ours.
pub(super) fn leave_session() -> io::Result<()> {
    match rustix::process::setsid() {
        // One that leads a session has no terminal to leave.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the log: the file the user named, or the one beside the socket.
pub(super) fn open_log(named: Option<&Path>, own: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    match named {
        Some(path) => File::options().create(true).append(true).open(path),
        // What a machine that died has left is not this one's.
        None => {
            let _ = std::fs::remove_file(own);
            File::options().create_new(true).append(true).mode(0o600).open(own)
        }
    }
}

/// Tells the one who waits that the command has started, and goes over to the log.
pub(super) fn started(log: &File) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(STARTED)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(log)?;
    rustix::stdio::dup2_stderr(log)?;
    Ok(())
}
