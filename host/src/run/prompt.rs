//! Without a service in the guest: the command at the shell prompt of its serial console.
//!
//! A console is one stream of text, so this is less than a service gives: standard output and standard error
//! are one, there is no input, and what else writes to the console gets in between. The exit status is exact.
//! The shell reads a script from the console, without echo and line editing; its output stands between two
//! marks, which the script prints and which are in pieces where it is typed.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use super::control::{Controller, Order};
use super::mounts::{self, quoted};
use super::{End, Event, Started, Streams};
use crate::clock;
use crate::rpc::{Command, Deadline, RpcError};
use crate::shares::Spec;
use crate::vm::Guest;

/// How long a shell may take to answer what is typed.
const ANSWER: Duration = Duration::from_secs(10);

/// How often to look for something else than output.
const LOOK: Duration = Duration::from_millis(50);

/// How long mounts may take.
const MOUNTS: Duration = Duration::from_secs(60);

/// Longest line a terminal takes, in bytes, with room for its end.
const LINE: usize = 4000;

/// Bytes typed at once.
const PIECE: usize = 512;

/// Bytes printed before a mark is missed.
const NOISE: usize = 1 << 20;

/// A shell that reads what is typed as a script.
pub(super) struct Prompt {
    machine: Arc<dyn Guest>,
    bytes: Receiver<u8>,
    /// Different each time, so that no output can be taken for a mark by accident.
    token: String,
    ended: Arc<AtomicBool>,
    /// The terminal makes CR LF of each line's end.
    crlf: bool,
}

impl Prompt {
    /// Makes the shell read a script, if there is a shell.
    pub(super) fn open(machine: Arc<dyn Guest>, tail: &super::tail::Tail) -> Option<Self> {
        let token = format!("{:08x}", clock::Random::system().ok()?.next_u32());
        let mut this = Self {
            machine,
            bytes: tail.listen(),
            token,
            ended: Arc::new(AtomicBool::new(false)),
            crlf: false,
        };
        // What has been typed before goes away; the shell's own line editor ends with this line.
        this.type_bytes(b"\x15");
        let token = &this.token;
        let first = format!("stty -echo -onlcr 2>/dev/null; echo env86-'{token}'-ready; sh /proc/self/fd/0");
        if !this.type_line(&first) {
            return None;
        }
        let mark = format!("env86-{}-ready", this.token);
        this.find(mark.as_bytes(), Deadline::after(ANSWER))?;
        this.crlf = this.byte(Deadline::after(ANSWER))? == b'\r';
        Some(this)
    }

    /// Types bytes. False if the machine takes no more.
    fn type_bytes(&self, bytes: &[u8]) -> bool {
        let deadline = Deadline::after(ANSWER);
        bytes.chunks(PIECE).all(|piece| {
            while !self.machine.type_bytes(piece) {
                if self.ended.load(Ordering::Acquire) || deadline.left() == Some(Duration::ZERO) {
                    return false;
                }
                self.machine.wait_space(piece.len());
            }
            true
        })
    }

    /// Types a line.
    pub(super) fn type_line(&self, line: &str) -> bool {
        line.len() <= LINE && self.type_bytes(line.as_bytes()) && self.type_bytes(b"\n")
    }

    fn byte(&self, deadline: Deadline) -> Option<u8> {
        self.bytes.recv_timeout(deadline.left()?).ok()
    }

    /// Skips output up to a mark and including it.
    fn find(&self, mark: &[u8], deadline: Deadline) -> Option<()> {
        let mut seen = Vec::new();
        while seen.len() < NOISE {
            seen.push(self.byte(deadline)?);
            if seen.ends_with(mark) {
                return Some(());
            }
        }
        None
    }

    /// Has the shell run a script. Its output follows.
    fn begin(&self, script: &str) -> bool {
        let token = &self.token;
        let lines = format!("echo env86-'{token}'-begin\n{script}\necho env86-'{token}'-end-$?-");
        lines.lines().all(|line| self.type_line(line))
            && self.find(format!("env86-{token}-begin").as_bytes(), Deadline::after(ANSWER)).is_some()
            && (!self.crlf || self.byte(Deadline::after(ANSWER)).is_some())
            && self.byte(Deadline::after(ANSWER)).is_some()
    }

    /// Runs the command.
    pub(super) fn carry(
        mut self,
        streams: Streams,
        mounts: &[Spec],
        started: Option<Started>,
        events: &Sender<Event>,
    ) -> End {
        let Streams { command, input, mut output, .. } = streams;
        let script = match script(&command, input.is_some()) {
            Ok(script) => script,
            Err(why) => return End::Console(why),
        };
        if !mounts.is_empty()
            && let Err(why) = self.mount(mounts)
        {
            return End::NotMounted(why);
        }
        let ended = self.ended.clone();
        let (controller, orders) = Controller::of_console(move || ended.store(true, Ordering::Release));
        if !self.begin(&script) {
            return End::NoService;
        }
        let _ = events.send(Event::Started(controller));
        if let Some(Err(error)) = started.map(|started| started()) {
            return End::Failed(RpcError::Host(error));
        }
        let mut write = |bytes: &[u8]| output.write_all(bytes).and_then(|()| output.flush());
        match self.follow(&mut write, Some(&orders), Deadline::never()) {
            Ok(Some(status)) => End::Exited(status),
            Ok(None) => End::Failed(RpcError::Gone),
            Err(error) => End::OutputFailed(error),
        }
    }

    fn mount(&mut self, specs: &[Spec]) -> Result<(), String> {
        if specs.iter().any(|spec| spec.guest.contains(char::is_control)) {
            return Err("the directory's name cannot be typed at a console".to_owned());
        }
        let mut text = Vec::new();
        let script = format!("(\n{}) 2>&1 </dev/null", mounts::script(specs));
        let status = if self.begin(&script) {
            let mut keep = |bytes: &[u8]| text.write_all(bytes);
            self.follow(&mut keep, None, Deadline::after(MOUNTS)).ok().flatten()
        } else {
            None
        };
        match status {
            Some(0) => Ok(()),
            None => Err("the shell at the guest's console does not answer".to_owned()),
            Some(_) => {
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                Err(if text.is_empty() {
                    "the guest has no driver for it (9p over virtio)".to_owned()
                } else {
                    text
                })
            }
        }
    }

    /// Gives the script's output to `write` until its status comes. `None` if it does not come.
    fn follow(
        &self,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
        orders: Option<&Receiver<Order>>,
        deadline: Deadline,
    ) -> std::io::Result<Option<u8>> {
        let mut scan = Scan::new(format!("env86-{}-end-", self.token).into_bytes(), self.crlf);
        let mut ready = Vec::new();
        loop {
            let wait = deadline.or_after(LOOK).left().unwrap_or(LOOK);
            let mut next = match self.bytes.recv_timeout(wait) {
                Ok(byte) => Some(byte),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            };
            while let Some(byte) = next {
                if let Some(status) = scan.push(byte, &mut ready) {
                    write(&ready)?;
                    return Ok(Some(status));
                }
                next = if ready.len() < PIECE { self.bytes.try_recv().ok() } else { None };
            }
            if !ready.is_empty() {
                write(&ready)?;
                ready.clear();
            }
            match orders.map(Receiver::try_recv) {
                // What ends a local command in the foreground.
                Some(Ok(Order::Signal(_))) => drop(self.type_bytes(b"\x03")),
                Some(Ok(Order::Resize) | Err(TryRecvError::Empty | TryRecvError::Disconnected)) | None => {}
            }
            if self.ended.load(Ordering::Acquire) || deadline.left() == Some(Duration::ZERO) {
                return Ok(None);
            }
        }
    }
}

/// Finds the mark of the end in output that comes in bytes.
struct Scan {
    mark: Vec<u8>,
    crlf: bool,
    /// What may be the beginning of the mark, or of the status after it.
    held: Vec<u8>,
}

impl Scan {
    fn new(mark: Vec<u8>, crlf: bool) -> Self {
        Self { mark, crlf, held: Vec::new() }
    }

    /// Takes a byte. Output that is certain goes to `ready`; gives the status when all of it has come.
    fn push(&mut self, byte: u8, ready: &mut Vec<u8>) -> Option<u8> {
        self.held.push(byte);
        loop {
            if let Some(status) = self.held.strip_prefix(&self.mark[..]) {
                match status.split_last() {
                    Some((b'-', digits)) if !digits.is_empty() => {
                        let digits = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
                        return Some(digits.unwrap_or(super::FAILED_STATUS));
                    }
                    Some((b'0'..=b'9', digits)) if digits.len() < 3 => return None,
                    None => return None,
                    _ => {}
                }
            } else if self.mark.starts_with(&self.held) || (self.crlf && self.held == b"\r") {
                return None;
            }
            // The first byte is no beginning: it is output.
            let first = self.held.remove(0);
            let swallowed = self.crlf && first == b'\r' && self.held.first() == Some(&b'\n');
            if !swallowed {
                ready.push(first);
            }
            if self.held.is_empty() {
                return None;
            }
        }
    }
}

/// The command as a script, or why it cannot be one.
fn script(command: &Command, has_input: bool) -> Result<String, &'static str> {
    let options = command.options.clone().unwrap_or_default();
    if has_input && !command.pty {
        return Err("passing standard input (-i)");
    }
    if !options.user.is_empty() {
        return Err("running as another user (-u)");
    }
    let dir = (!command.dir.is_empty()).then(|| format!("cd {} || exit 126\n", quoted(&command.dir)));
    let variables = options.extra_env.iter().filter_map(|text| text.split_once('='));
    let exports: String = variables.map(|(key, value)| format!("export {key}={}\n", quoted(value))).collect();
    let words = std::iter::once(&command.name).chain(&command.args).map(|word| quoted(word));
    let words = words.collect::<Vec<_>>().join(" ");
    let script = format!("(\n{}{exports}exec {words}\n) </dev/null 2>&1", dir.unwrap_or_default());
    if script.contains(|character: char| character.is_control() && !matches!(character, '\n' | '\t')) {
        return Err("a command with control characters in it");
    }
    if script.lines().any(|line| line.len() > LINE) {
        return Err("a command as long as this");
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::RunOptions;

    fn scan(output: &[u8], crlf: bool) -> (Vec<u8>, Option<u8>) {
        let mut scan = Scan::new(b"env86-x-end-".to_vec(), crlf);
        let mut ready = Vec::new();
        let status = output.iter().find_map(|byte| scan.push(*byte, &mut ready));
        (ready, status)
    }

    #[test]
    fn output_ends_at_the_mark_and_nowhere_else() {
        assert_eq!(scan(b"env86-x-end-0-", false), (b"".to_vec(), Some(0)));
        assert_eq!(scan(b"hi\nenv86-x-end-137-\n", false), (b"hi\n".to_vec(), Some(137)));
        // Without a line's end before it, and after things that look like it.
        let tricky = b"eenv86-x-env86-x-end-env86-x-end-x-env86-x-end-1234-no";
        assert_eq!(scan(tricky, false), (tricky.to_vec(), None));
        let (output, status) = scan(b"eenv86-x-endenv86-x-end-7-", false);
        assert_eq!((output, status), (b"eenv86-x-end".to_vec(), Some(7)));
        assert_eq!(scan(b"a\r\nb\rc\r\r\nenv86-x-end-1-", true), (b"a\nb\rc\r\n".to_vec(), Some(1)));
        assert_eq!(scan(b"a\r\nenv86-x-end-1-", false).0, b"a\r\n");
    }

    #[test]
    fn commands_become_scripts_or_say_why_not() {
        let options = RunOptions { extra_env: vec!["A=it's".into()], ..RunOptions::default() };
        let command = Command {
            name: "echo".into(),
            args: vec!["a b".into(), "$HOME".into()],
            dir: "/etc".into(),
            options: Some(options.clone()),
            ..Command::default()
        };
        let text = script(&command, false).unwrap();
        assert_eq!(
            text,
            "(\ncd '/etc' || exit 126\nexport A='it'\\''s'\nexec 'echo' 'a b' '$HOME'\n) </dev/null 2>&1"
        );
        assert!(script(&command, true).is_err());
        let user = RunOptions { user: "ann".into(), ..options };
        assert!(script(&Command { options: Some(user), ..command.clone() }, false).is_err());
        for bad in ["\u{3}".to_owned(), "\u{4}".to_owned(), "x".repeat(LINE)] {
            assert!(script(&Command { args: vec![bad], ..command.clone() }, false).is_err());
        }
    }
}
