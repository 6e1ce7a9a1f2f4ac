//! Talks to a guest through the standard streams of the emulator that runs it.

use crate::run::now;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How much of the guest's output an error repeats.
const TAIL: usize = 2000;

/// A running emulator whose guest's serial terminal is its standard input and output. Dropping it ends it.
pub struct Guest {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    transcript: Vec<u8>,
    /// Up to where [`Guest::expect`] has looked.
    seen: usize,
    timeout: Duration,
    deadline: Instant,
}

impl Guest {
    /// Starts an emulator that has to be done with everything within `timeout`.
    pub fn start(command: &mut Command, timeout: Duration) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let input = child.stdin.take();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let deadline = now() + timeout;
        Ok(Self { child, input, output, transcript: Vec::new(), seen: 0, timeout, deadline })
    }

    /// Waits until the guest has printed `text` and returns what came before it since the last call.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let mut from = self.seen;
        loop {
            let found =
                self.transcript[from..].windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let before = plain(&self.transcript[self.seen..from + at]);
                self.seen = from + at + text.len();
                return Ok(before);
            }
            from = self.seen.max((self.transcript.len() + 1).saturating_sub(text.len()));
            let left = self.deadline.saturating_duration_since(now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.transcript.extend(bytes),
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the guest did not print {text:?} within {} s; the end of its output is\n{}",
                    self.timeout.as_secs(),
                    self.tail()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait()?;
                    bail!(
                        "the emulator ended ({status}) before the guest printed {text:?}; the end of its output is\n{}",
                        self.tail()
                    );
                }
            }
        }
    }

    /// Types a line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.send_bytes(format!("{line}\n").as_bytes())
    }

    /// Types bytes, for keys that are no text.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("the guest's input is closed")?;
        input.write_all(bytes).and_then(|()| input.flush()).context("the emulator takes no more input")
    }

    /// Types a command at a prompt that was just seen, and returns what it prints until the next prompt.
    /// The command has to fit on the line, or its echo would be taken for its answer.
    pub fn ask(&mut self, command: &str, prompt: &str) -> Result<String> {
        self.send(command)?;
        let text = self.expect(prompt)?;
        let answer = text.split_once('\n').map_or("", |(_echo, answer)| answer);
        Ok(answer.trim_end().to_owned())
    }

    /// Ends the guest's input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for the emulator to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            // Output is read on, so that the emulator is never kept from ending by a full pipe.
            let pause = match self.output.recv_timeout(Duration::from_millis(20)) {
                Ok(bytes) => {
                    self.transcript.extend(bytes);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => Duration::ZERO,
                Err(RecvTimeoutError::Disconnected) => Duration::from_millis(20),
            };
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if now() >= self.deadline {
                bail!(
                    "the emulator did not end within {} s; the end of its output is\n{}",
                    self.timeout.as_secs(),
                    self.tail()
                );
            }
            thread::sleep(pause);
        }
    }

    /// The emulator's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the emulator has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    fn tail(&self) -> String {
        plain(&self.transcript[self.transcript.len().saturating_sub(TAIL)..])
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails only if the emulator has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Text without carriage returns and terminal control sequences.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            // ESC [ parameters final: the final byte is the first from '@' on.
            '\x1b' if characters.as_str().starts_with('[') => {
                characters.next();
                characters.find(|c| ('@'..='~').contains(c));
            }
            '\r' => {}
            c => result.push(c),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script that behaves like an emulator with a guest.
    fn fake(script: &str, seconds: u64) -> Guest {
        Guest::start(Command::new("sh").args(["-c", script]), Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn ask_returns_the_answer_without_echo_and_control_sequences() {
        let script = r#"
            printf 'Linux boots\r\nmini# \033[6n'; read line
            printf '%s\r\nanswer to \033[1m%s\033[m\r\nmini# \033[6n' "$line" "$line"; read line
            exit 0"#;
        let mut guest = fake(script, 20);
        assert_eq!(guest.expect("mini# ").unwrap(), "Linux boots\n");
        assert_eq!(guest.ask("uname", "mini# ").unwrap(), "answer to uname");
        guest.send("poweroff").unwrap();
        assert!(guest.wait().unwrap().success());
    }

    #[test]
    fn expect_emulator_that_ends_early_reports_status_and_output() {
        let error = fake("echo no such image; exit 3", 20).expect("mini# ").unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such image"), "{error}");
    }

    #[test]
    fn expect_silent_guest_times_out_with_its_output() {
        // `cat` waits for input that never comes.
        let mut guest = fake("echo stuck; exec cat", 1);
        let error = guest.expect("mini# ").unwrap_err().to_string();
        assert!(error.contains("within 1 s") && error.contains("stuck"), "{error}");
        assert!(guest.wait().unwrap_err().to_string().contains("did not end"));
    }

    #[test]
    fn expect_text_across_reads_is_found() {
        // Six bytes do not divide the 4096 of a read: some of the prompts arrive in two pieces.
        let mut guest = fake("yes 'mini# ' | head -n 3000 | tr -d '\\n'; printf 'rest#'", 20);
        for _ in 0..3000 {
            assert_eq!(guest.expect("mini# ").unwrap(), "");
        }
        assert_eq!(guest.expect("#").unwrap(), "rest");
    }

    #[test]
    fn close_input_ends_a_guest_that_reads_to_the_end() {
        let mut guest = fake("cat >/dev/null; exit 7", 20);
        guest.close_input();
        assert_eq!(guest.wait().unwrap().code(), Some(7));
    }
}
