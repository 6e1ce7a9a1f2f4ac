//! The binary at a terminal: keys, and that the terminal is usable afterwards.
#![cfg(unix)]

#[path = "common/guest.rs"]
mod guest;
#[path = "common/signals.rs"]
mod signals;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use guest::ConsoleImage;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// env86 at a pseudo-terminal.
struct Terminal {
    user: File,
    child: Child,
    seen: Vec<u8>,
    _image: ConsoleImage,
}

impl Terminal {
    /// Boots the guest and waits until it is ready.
    fn boot(flags: &[&str]) -> Self {
        let image = ConsoleImage::new();
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
        let tty = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_env86"));
        command.args(["boot", "--timeout", "60"]).args(flags).arg(image.path());
        let child = command.stdin(tty()).stdout(tty()).stderr(tty()).spawn().unwrap();
        let mut this = Self { user: File::from(user), child, seen: Vec::new(), _image: image };
        this.wait_for("ready\r\n");
        assert!(this.is_raw());
        this
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.user).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn press(&mut self, keys: &[u8]) {
        self.user.write_all(keys).unwrap();
    }

    /// Reads until `text` was printed, and forgets everything up to it.
    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 1000];
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|part| part == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return;
            }
            let n = self.user.read(&mut buffer).unwrap_or(0);
            assert!(n > 0, "{text:?} is not in {:?}", String::from_utf8_lossy(&self.seen));
            self.seen.extend(&buffer[..n]);
        }
    }

    /// Waits for the end; the terminal must be usable again.
    fn end(mut self) -> Option<i32> {
        let status = self.child.wait().unwrap();
        assert!(!self.is_raw(), "the terminal is still raw");
        status.code()
    }
}

#[test]
fn keys_reach_the_guest_and_ctrl_a_x_ends_it() {
    let mut terminal = Terminal::boot(&[]);
    terminal.press(b"a\x03b\x1ac\x04d\r");
    terminal.wait_for("a\x03b\x1ac\x04d\r");
    terminal.press(b"\x01\x01.");
    terminal.wait_for("\x01.");
    terminal.press(b"\x01h");
    terminal.wait_for("end the virtual machine");
    terminal.press(b"\x01x");
    terminal.wait_for("\r\nCtrl-A x detected. Exiting...\r\n");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn ctrl_a_s_saves_and_the_guest_runs_on() {
    let mut terminal = Terminal::boot(&[]);
    for keys in ["one", "two"] {
        terminal.press(b"\x01s");
        terminal.wait_for("env86: saving in the background");
        terminal.wait_for("env86: saved ");
        terminal.wait_for(" s: ");
        terminal.press(keys.as_bytes());
        terminal.wait_for(keys);
        assert!(terminal._image.path().join("initial.state").exists());
    }
    terminal.press(b"\x01x");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn ctrl_d_saves_with_the_old_message() {
    let mut terminal = Terminal::boot(&["-save"]);
    terminal.press(b"\x04");
    terminal.wait_for("\r\nCtrl-D detected. Saving...\r\n");
    let image = terminal._image.path().join("initial.state");
    terminal.child.wait().unwrap();
    assert!(image.exists());
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn ctrl_d_ends_the_run_if_asked() {
    let mut terminal = Terminal::boot(&["--ctrl-d", "exit"]);
    terminal.press(b"\x04");
    terminal.wait_for("\r\nCtrl-D detected. Exiting...\r\n");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn terminal_is_restored_when_the_guest_ends() {
    let mut terminal = Terminal::boot(&[]);
    terminal.press(b"Q");
    assert_eq!(terminal.end(), Some(0));
    let mut terminal = Terminal::boot(&[]);
    terminal.press(b"T");
    terminal.wait_for("The guest crashed");
    terminal.wait_for("executed\r\n");
    assert_eq!(terminal.end(), Some(125));
}

#[test]
fn terminal_is_restored_after_signals() {
    let signals = [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)];
    for (signal, status) in signals.into_iter().filter(|(signal, _)| signals::is_heard(*signal)) {
        let mut terminal = Terminal::boot(&[]);
        terminal.press(b"L");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        assert_eq!(terminal.end(), Some(status));
    }
}

#[test]
fn terminal_is_restored_while_the_process_is_stopped() {
    use rustix::process::{WaitOptions, waitpid};
    let mut terminal = Terminal::boot(&[]);
    let pid = Pid::from_child(&terminal.child);
    kill_process(pid, Signal::TSTP).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped());
    assert!(!terminal.is_raw(), "the shell gets a raw terminal");
    kill_process(pid, Signal::CONT).unwrap();
    // Until then keys would be echoed by the terminal itself.
    while !terminal.is_raw() {
        assert!(terminal.child.try_wait().unwrap().is_none(), "the process did not go on");
        std::thread::yield_now();
    }
    terminal.press(b"back");
    terminal.wait_for("back");
    terminal.press(b"Q");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn closed_terminal_ends_the_run() {
    let terminal = Terminal::boot(&[]);
    let Terminal { user, mut child, _image, .. } = terminal;
    drop(user);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
