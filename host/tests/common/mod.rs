//! Runs the env86 binary.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run left behind.
pub struct Run {
    /// Exit status; -1 after a signal.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs env86 without input, in a home of its own.
pub fn env86<S: AsRef<OsStr>>(home: &Path, arguments: &[S]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_env86"));
    command.args(arguments).env("ENV86_PATH", home).stdin(Stdio::null());
    let output = command.output().expect("env86 starts");
    Run {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A gzip-compressed tar archive of files.
#[allow(dead_code)] // not every test file needs archives
pub fn tgz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        // Set directly: the library refuses the names that some tests are about.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *content).expect("memory takes everything");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar.into_inner().expect("memory takes everything")).expect("memory takes everything");
    gzip.finish().expect("memory takes everything")
}
