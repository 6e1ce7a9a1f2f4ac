//! Commands that are running.

use super::start;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a process group may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// A command, which leads a process group.
pub struct Process {
    pid: Pid,
    /// Our end of its terminal, if it has one.
    terminal: Option<File>,
    ended: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Process {
    fn ended(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for the end.
    pub fn wait(&self) -> ExitStatus {
        let mut ended = self.ended();
        loop {
            if let Some(status) = *ended {
                return status;
            }
            ended = self.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether it ends within [`GRACE`].
    fn ends_soon(&self) -> bool {
        let ended = self.ended();
        let waited = self.changed.wait_timeout_while(ended, GRACE, |ended| ended.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process_group(self.pid, signal).map_err(|errno| super::reason(&errno.into()))
    }

    /// Sends a signal to the group, and SIGKILL to what is left of it after a while. Waits for that.
    pub fn end(&self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        let _ = self.signal(signal);
        // A stopped process would not get around to ending.
        let _ = self.signal(Signal::CONT);
        self.ends_soon();
        let _ = self.signal(Signal::KILL);
    }
}

/// All commands that are running, by process id.
#[derive(Default)]
pub struct Processes {
    running: Arc<Mutex<BTreeMap<i32, Arc<Process>>>>,
}

impl Processes {
    fn running(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<Process>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes charge of a command that was just started. When it has ended, `witness` is closed.
    pub fn add(&self, mut child: Child, terminal: Option<File>, witness: OwnedFd) -> Option<Arc<Process>> {
        let pid = Pid::from_child(&child);
        let process = Arc::new(Process { pid, terminal, ended: Mutex::new(None), changed: Condvar::new() });
        self.running().insert(process.id(), process.clone());
        let (reaped, running) = (process.clone(), self.running.clone());
        let waiting = start("wait", move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&reaped.id());
            *reaped.ended() = Some(status);
            reaped.changed.notify_all();
            drop(witness);
        });
        if !waiting {
            let _ = process.signal(Signal::KILL);
            self.running().remove(&process.id());
            return None;
        }
        Some(process)
    }

    fn find(&self, pid: i64) -> Option<Arc<Process>> {
        self.running().get(&i32::try_from(pid).ok()?).cloned()
    }

    /// Sends a signal: to the group of one of our commands, else to one process. Zero only asks whether it is
    /// there.
    pub fn signal(&self, pid: i64, number: i64) -> Result<(), String> {
        let number = i32::try_from(number).map_err(|_| "no such signal")?;
        let raw = i32::try_from(pid).ok().filter(|&pid| pid > 0).and_then(Pid::from_raw);
        let target = raw.ok_or("no such process")?;
        let told = |result: rustix::io::Result<()>| result.map_err(|errno| super::reason(&errno.into()));
        if number == 0 {
            return told(rustix::process::test_kill_process(target));
        }
        let signal = Signal::from_named_raw(number).ok_or("no such signal")?;
        match self.find(pid) {
            Some(process) => process.signal(signal),
            None => told(kill_process(target, signal)),
        }
    }

    /// Ends a command: SIGTERM, and SIGKILL later.
    pub fn terminate(&self, pid: i64) -> Result<(), String> {
        match self.find(pid) {
            Some(process) => process.end(Signal::TERM),
            None => self.signal(pid, Signal::TERM.as_raw().into())?,
        }
        Ok(())
    }

    /// Changes the size of a command's terminal; its foreground processes get SIGWINCH.
    pub fn resize(&self, pid: i64, rows: u16, columns: u16) -> Result<(), String> {
        let process = self.find(pid).ok_or("no such process")?;
        let terminal = process.terminal.as_ref().ok_or("the process has no terminal")?;
        tcsetwinsize(terminal, size(rows, columns)).map_err(|errno| super::reason(&errno.into()))
    }
}

/// A terminal's size in characters.
pub fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
