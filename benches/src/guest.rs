//! A guest in another process: when its output shows something, and how much memory it takes.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::clock::now;

/// What is kept of the output for an error message, in bytes.
const TAIL: usize = 2000;

/// A process that ends with its owner. Its input stays open and silent.
pub struct Guest {
    child: Child,
    start: Instant,
    pieces: Receiver<Piece>,
    output: Vec<u8>,
    /// Standard error, with the time at which each byte had come.
    messages: Vec<(u8, Duration)>,
}

struct Piece {
    error: bool,
    bytes: Vec<u8>,
    at: Instant,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the process ends, which is when the guest is dropped at the latest.
fn forward(mut stream: impl Read + Send + 'static, error: bool, sender: Sender<Piece>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if sender.send(Piece { error, bytes: buffer[..n].to_vec(), at: now() }).is_err() {
                break;
            }
        }
    });
}

impl Guest {
    /// Starts it.
    ///
    /// # Errors
    /// The host's.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let (sender, pieces) = mpsc::channel();
        forward(child.stdout.take().context("no standard output")?, false, sender.clone());
        forward(child.stderr.take().context("no standard error")?, true, sender);
        Ok(Self { child, start, pieces, output: Vec::new(), messages: Vec::new() })
    }

    /// Waits until standard output has shown `text`. Returns the time since the start.
    ///
    /// # Errors
    /// It did not within `timeout`, or the process ended.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<Duration> {
        loop {
            let tail = |output: &[u8]| {
                String::from_utf8_lossy(&output[output.len().saturating_sub(TAIL)..]).into_owned()
            };
            match self.pieces.recv_timeout(timeout.saturating_sub(self.start.elapsed())) {
                Ok(piece) => {
                    let time = piece.at.duration_since(self.start);
                    if piece.error {
                        self.messages.extend(piece.bytes.iter().map(|byte| (*byte, time)));
                        continue;
                    }
                    // It may have come in two pieces.
                    let from = self.output.len().saturating_sub(text.len());
                    self.output.extend(piece.bytes);
                    if self.output[from..].windows(text.len()).any(|part| part == text.as_bytes()) {
                        return Ok(time);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {text:?} within {timeout:?}; the console ends with\n{}", tail(&self.output))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let messages: Vec<u8> = self.messages.iter().map(|(byte, _)| *byte).collect();
                    let (console, messages) = (tail(&self.output), tail(&messages));
                    bail!("it ended before {text:?}; the console ends with\n{console}\n{messages}")
                }
            }
        }
    }

    /// When standard error had shown `text`, as far as it has been looked at.
    pub fn message_time(&self, text: &str) -> Option<Duration> {
        let messages: Vec<u8> = self.messages.iter().map(|(byte, _)| *byte).collect();
        let at = messages.windows(text.len()).position(|part| part == text.as_bytes())?;
        self.messages.get(at + text.len() - 1).map(|(_, time)| *time)
    }

    /// Waits until it has ended by itself. Returns the time since the start.
    ///
    /// # Errors
    /// The host's; it failed.
    pub fn wait_for_end(&mut self) -> Result<Duration> {
        let status: ExitStatus = self.child.wait()?;
        let time = self.start.elapsed();
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(time)
    }

    /// Processor time it has used, in the kernel too.
    ///
    /// # Errors
    /// The host does not say.
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // Numbers follow the program's name in parentheses; the 12th and 13th are ticks of 10 ms.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: Vec<u64> = fields.skip(11).take(2).map_while(|field| field.parse().ok()).collect();
        anyhow::ensure!(ticks.len() == 2, "cannot make sense of {path}");
        Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
    }

    /// Its memory now.
    ///
    /// # Errors
    /// The host does not say.
    pub fn memory(&self) -> Result<Memory> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.child.id());
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (status, rollup) = (read("status")?, read("smaps_rollup")?);
        let kib = |text: &str, name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|rest| rest.split_whitespace().next()).context(name.to_owned())?;
            Ok(number.parse::<f64>()? / 1024.0)
        };
        Ok(Memory {
            resident: kib(&status, "VmRSS")?,
            anonymous: kib(&status, "RssAnon")?,
            file: kib(&status, "RssFile")?,
            proportional: kib(&rollup, "Pss")?,
        })
    }
}

/// Memory of a process, MiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// All that is in memory.
    pub resident: f64,
    /// Of that, what belongs to no file.
    pub anonymous: f64,
    /// Of that, what is a file's.
    pub file: f64,
    /// What is in memory, shared pages divided by the number of those who share them.
    pub proportional: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Guest {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Guest::start(command).unwrap()
    }

    #[test]
    fn text_is_found_though_it_comes_in_pieces_and_the_process_goes_on() {
        let mut guest = shell("echo begin >&2; printf 'Linux\\nmi'; printf 'ni# '; cat");
        let time = guest.wait_for("mini# ", TIMEOUT).unwrap();
        assert!(time < TIMEOUT);
        assert!(guest.memory().unwrap().resident > 0.0);
        assert!(guest.processor_time().unwrap() < TIMEOUT);
    }

    #[test]
    fn messages_have_times() {
        let mut guest = shell("echo begin >&2; read line; echo end");
        assert!(guest.message_time("begin").is_none());
        drop(guest.child.stdin.take());
        guest.wait_for("end", TIMEOUT).unwrap();
        // Two pipes: this one may come later.
        let _ = guest.wait_for("never", TIMEOUT);
        assert!(guest.message_time("begin").unwrap() < TIMEOUT);
        assert!(guest.wait_for_end().is_ok());
    }

    #[test]
    fn process_that_ends_before_is_an_error_with_its_output() {
        let error = shell("echo Kernel panic").wait_for("mini# ", TIMEOUT).unwrap_err().to_string();
        assert!(error.contains("Kernel panic"), "{error}");
    }
}
