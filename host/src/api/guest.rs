//! The service in a guest.

use std::time::Duration;

use super::ApiError;
use crate::rpc::{self, Command, Deadline, Output, exit_code};

/// How long the service may take for one step.
const STEP: Duration = Duration::from_secs(60);

/// What a command has printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandOutput {
    /// Exit status, 128 + n after signal n.
    pub status: u8,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// The service in the guest of a [`super::Vm`]. Clones are the same service.
#[derive(Clone)]
pub struct Guest(rpc::Guest);

impl Guest {
    pub(super) fn new(guest: rpc::Guest) -> Self {
        Self(guest)
    }

    /// Everything the service can do, with deadlines.
    pub fn rpc(&self) -> &rpc::Guest {
        &self.0
    }

    /// Runs a command without input until it ends, and gives what it prints.
    ///
    /// # Errors
    /// It cannot be started, or the guest is lost.
    pub fn output(&self, command: &Command) -> Result<CommandOutput, ApiError> {
        let mut running = self.0.run(command, Deadline::after(STEP))?;
        running.input(false).end(Deadline::after(STEP))?;
        let mut output = CommandOutput::default();
        loop {
            match running.next(Deadline::never())? {
                Output::Stdout(bytes) => output.stdout.extend(bytes),
                Output::Stderr(bytes) => output.stderr.extend(bytes),
                Output::Exit(status) => {
                    output.status = exit_code(status);
                    return Ok(output);
                }
            }
        }
    }

    /// A file of the guest.
    ///
    /// # Errors
    /// It cannot be read, or is larger than `limit` bytes.
    pub fn read_file(&self, path: &str, limit: usize) -> Result<Vec<u8>, ApiError> {
        Ok(self.0.read_file(path, limit, Deadline::after(STEP))?)
    }

    /// Creates or overwrites a file of the guest.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_file(&self, path: &str, bytes: &[u8]) -> Result<(), ApiError> {
        Ok(self.0.write_file(path, bytes, Deadline::after(STEP))?)
    }
}
