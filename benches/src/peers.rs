//! The emulators to compare with. `cargo xtask peers` installs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::{output, target_dir};

/// npm's v86, Node, and the firmware v86 needs.
pub struct V86Peer {
    dir: PathBuf,
    bios: PathBuf,
    vga_bios: PathBuf,
    /// v86's version and Node's, for reports.
    pub version: String,
}

impl V86Peer {
    /// Finds v86 in `dir` or where `cargo xtask peers` puts it.
    ///
    /// # Errors
    /// Says which part is missing.
    pub fn find(dir: Option<&Path>) -> Result<Self> {
        let dir = dir.map_or_else(installed, Path::to_owned);
        let firmware = Path::new("/usr/share/seabios");
        let (bios, vga_bios) = (firmware.join("bios-256k.bin"), firmware.join("vgabios-stdvga.bin"));
        for file in [&dir.join("build/v86.wasm"), &bios, &vga_bios] {
            ensure!(file.is_file(), "{} is missing; `cargo xtask peers` installs it", file.display());
        }
        let package: Value = serde_json::from_slice(&fs::read(dir.join("package.json"))?)?;
        let node = output(Command::new("node").arg("--version")).context("v86 needs Node")?;
        let version = format!(
            "v86 {}, Node {}",
            package["version"].as_str().unwrap_or("of unknown version"),
            node.trim()
        );
        Ok(Self { dir, bios, vga_bios, version })
    }

    /// Node with a script, told where v86 and its firmware are.
    pub fn node(&self, script: &Path) -> Command {
        let mut node = Command::new("node");
        node.arg(script).arg("--v86").arg(&self.dir);
        node.arg("--bios").arg(&self.bios).arg("--vga-bios").arg(&self.vga_bios);
        node
    }
}

/// Where `cargo xtask peers` puts v86; of several versions the last.
fn installed() -> PathBuf {
    let peers = target_dir().join("peers");
    let entries = fs::read_dir(&peers).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut versions: Vec<_> = entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("v86-")))
        .filter(|path| path.join("complete").is_file())
        .collect();
    versions.sort();
    versions.pop().unwrap_or_else(|| peers.join("v86")).join("node_modules/v86")
}
