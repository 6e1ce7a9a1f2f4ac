//! What every report says: on what it was measured, and which peers were missing.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::peers::V86Peer;
use crate::workspace::output;

/// Above this spread a time says little: the host was busy with something else.
pub const MAX_SPREAD: f64 = 0.05;

/// Circumstances of a measurement.
#[derive(Serialize)]
pub struct Header {
    /// When it began, UTC.
    date: String,
    /// Model name of the host's CPU.
    cpu: String,
    /// How many of them there are.
    processors: usize,
    /// The host's load average of the last minute when it began.
    load: String,
    /// Runs of each.
    rounds: u32,
    /// Versions of the peers.
    peers: Vec<String>,
    /// Peers that were left out, and why.
    missing: Vec<String>,
    /// What else matters.
    notes: Vec<String>,
}

impl Header {
    /// For this host.
    pub fn new(rounds: u32) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let date = output(Command::new("date").args(["-u", "+%F %R"])).unwrap_or_default();
        Self {
            date: date.trim().to_owned(),
            cpu: model.unwrap_or("unknown").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            rounds,
            peers: Vec::new(),
            missing: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a line.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Notes that something was left out, and why.
    pub fn leave_out(&mut self, text: String) {
        self.missing.push(text);
    }

    /// Notes a peer, or why it is missing.
    pub fn peer(&mut self, peer: Result<V86Peer>) -> Option<V86Peer> {
        match peer {
            Ok(peer) => {
                self.peers.push(peer.version.clone());
                Some(peer)
            }
            Err(error) => {
                self.missing.push(format!("v86: {error:#}"));
                None
            }
        }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cpu, processors, load, rounds, .. } = self;
        writeln!(f, "{date} UTC; host CPU: {cpu}, {processors} of them, load {load}; rounds: {rounds}")?;
        for peer in &self.peers {
            writeln!(f, "Peer: {peer}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for missing in &self.missing {
            writeln!(f, "Left out: {missing}")?;
        }
        if cfg!(debug_assertions) {
            writeln!(f, "This is a debug build: its times mean nothing.")?;
        }
        Ok(())
    }
}

/// Writes a report as JSON.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(file: &Path, report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
