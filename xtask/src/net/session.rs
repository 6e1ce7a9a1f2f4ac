//! A guest with a network, which is given whole scripts: it fetches them from a server of this process.

use super::servers::Http;
use crate::guest::Guest;
use crate::run::{need, tool};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Card {
    /// NE2000
    Ne2k,
    /// virtio-net
    Virtio,
}

impl Card {
    /// Its driver in Linux.
    fn driver(self) -> &'static str {
        match self {
            Self::Ne2k => "ne2k-pci",
            Self::Virtio => "virtio_net",
        }
    }

    /// As `--nic` has it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Ne2k => "ne2k",
            Self::Virtio => "virtio",
        }
    }
}

/// The host's address as guests see it.
pub const HOST: &str = "192.168.127.254";

/// A guest at its prompt.
pub struct Session<'a> {
    /// Its console.
    pub guest: Guest,
    http: &'a Http,
    prompt: &'static str,
}

static SCRIPTS: AtomicUsize = AtomicUsize::new(0);

impl<'a> Session<'a> {
    /// Starts the emulator and lets the guest ask for an address.
    pub fn start(
        command: &mut Command,
        card: Card,
        http: &'a Http,
        prompt: &'static str,
        timeout: Duration,
    ) -> Result<Self> {
        let mut guest = Guest::start(command, timeout)?;
        guest.expect(prompt)?;
        let mut this = Self { guest, http, prompt };
        let line = format!("modprobe {};ip link set eth0 up;udhcpc -n -q -i eth0 2>&1", card.driver());
        let said = this.ask(&line)?;
        ensure!(said.contains("lease of 192.168.127.2 obtained"), "the guest has no address: {said}");
        Ok(this)
    }

    /// Types a command that fits on the line and returns what it prints.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.guest.ask(command, self.prompt).with_context(|| format!("asked `{command}`"))
    }

    /// Runs a script of any length and returns what it prints.
    pub fn script(&mut self, text: &str) -> Result<String> {
        let name = format!("s{}", SCRIPTS.fetch_add(1, Ordering::Relaxed));
        self.http.publish(&name, text);
        self.ask(&format!("curl -s {HOST}:{}/file/{name} | sh", self.http.port))
    }

    /// The same for a program in Python.
    pub fn python(&mut self, text: &str) -> Result<String> {
        let name = format!("p{}", SCRIPTS.fetch_add(1, Ordering::Relaxed));
        self.http.publish(&name, text);
        self.ask(&format!("curl -s {HOST}:{}/file/{name} >/tmp/{name}; python3 /tmp/{name}", self.http.port))
    }
}

/// The same command with a terminal for its standard streams: env86 takes its own keys only from one.
pub fn in_terminal(command: &Command) -> Result<Command> {
    need(&[("script", "bsdutils")])?;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")));
    let mut script = tool("script");
    script.args(["--quiet", "--flush", "--return", "--command"]);
    // `exec`: whoever ends `script` ends the emulator and not a shell around it.
    script.arg(format!("exec {}", quoted.collect::<Vec<_>>().join(" "))).arg("/dev/null");
    Ok(script)
}
