//! What every report says: on what it was measured, and which peers were missing.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::peers::V86Peer;

/// Above this spread a time says little: the host was busy with something else.
pub const MAX_SPREAD: f64 = 0.05;

/// Circumstances of a measurement.
#[derive(Serialize)]
pub struct Header {
    /// Model name of the host's CPU.
    cpu: String,
    /// Runs of each.
    rounds: u32,
    /// Versions of the peers.
    peers: Vec<String>,
    /// Peers that were left out, and why.
    missing: Vec<String>,
}

impl Header {
    /// For this host.
    pub fn new(rounds: u32) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
        Self { cpu: model.unwrap_or("unknown").to_owned(), rounds, peers: Vec::new(), missing: Vec::new() }
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
        writeln!(f, "Host CPU: {}; rounds: {}", self.cpu, self.rounds)?;
        for peer in &self.peers {
            writeln!(f, "Peer: {peer}")?;
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
