//! A process whose standard streams are a guest's console: what it prints, line by line, and when.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::clock::now;

/// What an error repeats of the output, in bytes.
const TAIL: usize = 1500;
/// More of a line is dropped.
const MAX_LINE: usize = 4096;

/// A line of output.
#[derive(Clone, Debug)]
pub struct Line {
    /// Without its end and without control sequences.
    pub text: String,
    /// When its first byte came.
    pub begun: Instant,
    /// When its end came.
    pub ended: Instant,
}

/// What a command of the guest's agent did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Host time from the end of its START line to the beginning of its END line; `None` if this process saw both
    /// at once, because it was late.
    pub time: Option<Duration>,
    /// From its END line.
    pub checksum: Option<String>,
    /// The guest's own opinion of the time.
    pub guest_time: Option<Duration>,
    /// Exit status.
    pub status: u32,
    /// Other lines, for messages.
    pub said: Vec<String>,
}

/// A command of the agent whose lines are coming.
#[derive(Default)]
struct Run {
    outcome: Outcome,
    /// When the end of its START line came.
    start: Option<Instant>,
}

impl Run {
    /// Takes a line. The outcome, if it was the last one.
    fn line(&mut self, line: Line) -> Result<Option<Outcome>> {
        let words: Vec<_> = line.text.split(' ').collect();
        let outcome = &mut self.outcome;
        match (words.as_slice(), self.start) {
            (["START", _], _) => self.start = Some(line.ended),
            (["END", _, checksum, rest @ ..], Some(start)) => {
                let time = line.begun.saturating_duration_since(start);
                outcome.time = (!time.is_zero()).then_some(time);
                outcome.checksum = Some((*checksum).to_owned());
                outcome.guest_time =
                    rest.first().and_then(|text| text.parse().ok()).map(Duration::from_micros);
            }
            (["DONE", status], _) => {
                outcome.status = status.parse().context("exit status")?;
                return Ok(Some(std::mem::take(outcome)));
            }
            _ => outcome.said.push(line.text),
        }
        Ok(None)
    }
}

/// A process that ends with its owner, also when it is stopped.
pub struct Console {
    child: Child,
    input: ChildStdin,
    pieces: Receiver<(Instant, Vec<u8>)>,
    /// The line that is being received.
    line: Vec<u8>,
    begun: Instant,
    /// Received and not yet looked at.
    waiting: std::collections::VecDeque<Line>,
    tail: Vec<u8>,
    stopped: bool,
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Console {
    /// Starts it.
    ///
    /// # Errors
    /// The host's.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let input = child.stdin.take().context("no standard input")?;
        let mut output = child.stdout.take().context("no standard output")?;
        let (sender, pieces) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                if sender.send((now(), buffer[..n].to_vec())).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            input,
            pieces,
            line: Vec::new(),
            begun: now(),
            waiting: Default::default(),
            tail: Vec::new(),
            stopped: false,
        })
    }

    fn receive(&mut self, deadline: Instant) -> Result<()> {
        let tail = |tail: &[u8]| String::from_utf8_lossy(tail).into_owned();
        match self.pieces.recv_timeout(deadline.saturating_duration_since(now())) {
            Ok((at, bytes)) => {
                for byte in &bytes {
                    if self.line.is_empty() {
                        self.begun = at;
                    }
                    if *byte == b'\n' {
                        let text = plain(&std::mem::take(&mut self.line));
                        self.waiting.push_back(Line { text, begun: self.begun, ended: at });
                    } else if *byte != b'\r' && self.line.len() < MAX_LINE {
                        self.line.push(*byte);
                    }
                }
                self.tail.extend(&bytes);
                self.tail.drain(..self.tail.len().saturating_sub(TAIL));
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("it did not answer in time; its output ends with\n{}", tail(&self.tail))
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("it ended; its output ends with\n{}", tail(&self.tail))
            }
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// There is none until `deadline`, or the process ended.
    pub fn line(&mut self, deadline: Instant) -> Result<Line> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Ok(line);
            }
            self.receive(deadline)?;
        }
    }

    /// Waits until an unfinished line ends with `text`.
    ///
    /// # Errors
    /// Those of [`Console::line`].
    pub fn wait_for_prompt(&mut self, text: &str, deadline: Instant) -> Result<()> {
        // After it, BusyBox asks for the cursor's position.
        while !plain(&self.line).ends_with(text) {
            self.receive(deadline)?;
        }
        self.waiting.clear();
        Ok(())
    }

    /// Types a line.
    ///
    /// # Errors
    /// The process takes no input any more.
    pub fn send(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).context("it takes no input")
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// Those of [`Console::line`].
    pub fn wait_for_line(&mut self, text: &str, deadline: Instant) -> Result<()> {
        while self.line(deadline)?.text != text {}
        Ok(())
    }

    /// Lets the guest's agent run a command.
    ///
    /// # Errors
    /// It does not end until `deadline`, or the process ended.
    pub fn command(&mut self, command: &str, deadline: Instant) -> Result<Outcome> {
        self.send(command)?;
        let mut run = Run::default();
        loop {
            if let Some(outcome) = run.line(self.line(deadline)?)? {
                return Ok(outcome);
            }
        }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Keeps the process from running.
    ///
    /// # Errors
    /// The host's.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("-STOP")?;
        self.stopped = true;
        Ok(())
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// The host's.
    pub fn go_on(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stopped) {
            self.signal("-CONT")?;
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(name).arg(self.child.id().to_string()).status()?;
        ensure!(status.success(), "`kill {name}` ended with {status}");
        Ok(())
    }
}

/// Text without terminal control sequences.
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
            c => result.push(c),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Console {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Console::start(command).unwrap()
    }

    fn soon() -> Instant {
        now() + Duration::from_secs(30)
    }

    #[test]
    fn agent_runs_commands_and_tells_their_outcome() {
        let agent = crate::workspace::root().join("benches/guest/agent");
        let mut command = Command::new("sh");
        command.arg(agent);
        let mut console = Console::start(command).unwrap();
        // Where there is no /root, it ends at once.
        if console.wait_for_line("AGENT", soon()).is_err() {
            return;
        }
        let line = "echo START a; echo noise; echo END a 00ff 1500; exit 3";
        let outcome = console.command(line, soon()).unwrap();
        assert_eq!((outcome.status, outcome.checksum.as_deref()), (3, Some("00ff")));
        assert_eq!(outcome.guest_time, Some(Duration::from_micros(1500)));
        assert_eq!(outcome.said, ["noise"]);
        let outcome = console.command("echo END b 1", soon()).unwrap();
        assert_eq!((outcome.time, outcome.status), (None, 0));
    }

    /// What a run took whose START and END lines came in pieces at these milliseconds: begin, end, begin, end.
    fn took(milliseconds: [u64; 4]) -> Option<Duration> {
        let zero = now();
        let [start_begun, start_ended, end_begun, end_ended] =
            milliseconds.map(|ms| zero + Duration::from_millis(ms));
        let mut run = Run::default();
        let line = |text: &str, begun, ended| Line { text: text.to_owned(), begun, ended };
        assert!(run.line(line("START a", start_begun, start_ended)).unwrap().is_none());
        assert!(run.line(line("END a 00ff 1500", end_begun, end_ended)).unwrap().is_none());
        run.line(line("DONE 0", end_ended, end_ended)).unwrap().unwrap().time
    }

    #[test]
    fn time_is_from_the_end_of_the_first_line_to_the_beginning_of_the_second() {
        assert_eq!(took([0, 3, 10, 14]), Some(Duration::from_millis(7)));
        assert_eq!(took([5, 5, 5, 5]), None, "in one piece: nobody knows how long it took");
    }

    #[test]
    fn prompt_is_found_behind_control_sequences() {
        let mut console = shell("printf 'Linux\\r\\nmini# \\033[6n'; read line; echo got $line");
        console.wait_for_prompt("mini# ", soon()).unwrap();
        console.send("this").unwrap();
        let line = console.line(soon()).unwrap();
        assert_eq!(line.text, "mini# got this");
    }

    #[test]
    fn stopped_process_goes_on_and_a_stopped_one_can_be_dropped() {
        let mut console = shell("read a; echo $a; read b");
        console.stop().unwrap();
        console.send("word").unwrap();
        assert!(console.line(now() + Duration::from_millis(50)).is_err());
        console.go_on().unwrap();
        assert_eq!(console.line(soon()).unwrap().text, "word");
        console.stop().unwrap();
    }

    #[test]
    fn end_of_the_process_is_an_error_with_its_output() {
        let error = shell("echo Kernel panic").wait_for_line("AGENT", soon()).unwrap_err().to_string();
        assert!(error.contains("Kernel panic"), "{error}");
    }
}
