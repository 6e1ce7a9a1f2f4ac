//! Builds the programs of `benches/guest/` with the host's compiler: static i386 programs without a C library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::workloads::{self, Math};
use crate::workspace::{output, root, target_dir};

/// Files for the guest's `/bench`: name, permissions, content.
pub type File = (String, u32, Vec<u8>);

/// Helpers of the scripts and of the group `network`.
const HELPERS: &[&str] = &["mark", "text", "transfer"];
/// Files that are taken as they are.
const SCRIPTS: &[(&str, u32)] = &[("agent", 0o755), ("whole", 0o755), ("work.py", 0o644)];
/// Sources that the workload `gcc` compiles.
const COMPILED: &[&str] = &["rt.h", "control.c", "sha256.c", "string.c", "sort.c"];

/// The same for all programs. The bytes do not depend on where the compiler runs, so no build identifier.
const FLAGS: &[&str] = &[
    "-m32",
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-pic",
    "-no-pie",
    "-nostdlib",
    "-static",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns",
    "-fno-math-errno",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-s",
];

fn math_flags(math: Math) -> &'static [&'static str] {
    match math {
        Math::X87 => &["-march=i686", "-mfpmath=387"],
        Math::Sse2 => &["-march=pentium4", "-msse2", "-mfpmath=sse"],
    }
}

/// Everything that goes into the guest.
pub struct Programs {
    /// In `/bench`; names may have a directory.
    pub files: Vec<File>,
    /// SHA-256 over names and contents: which bytes a result belongs to.
    pub hash: String,
    /// First line of the compiler's `--version`.
    pub compiler: String,
}

/// Builds all programs.
///
/// # Errors
/// There is no compiler for 32-bit programs; a source does not compile.
pub fn build() -> Result<Programs> {
    let sources = root().join("benches/guest");
    let directory = target_dir().join("benches/programs");
    fs::create_dir_all(&directory)?;
    let version = output(Command::new(compiler()).arg("--version"))
        .context("the programs for the guest need a C compiler (Debian: gcc)")?;
    let mut files: Vec<File> = Vec::new();
    let mut add = |name: &str, source: &str, math, define: Option<&str>| -> Result<()> {
        let target = directory.join(name);
        compile(&sources.join(source).with_extension("c"), &target, math, define)?;
        files.push((name.to_owned(), 0o755, fs::read(&target)?));
        Ok(())
    };
    for helper in HELPERS {
        add(helper, helper, Math::X87, None)?;
    }
    for workload in workloads::ALL {
        if let Some(source) = workload.source {
            add(workload.name, source, workload.math, Some(workload.name))?;
        }
    }
    for (name, permissions) in SCRIPTS {
        files.push(((*name).to_owned(), *permissions, fs::read(sources.join(name))?));
    }
    for name in COMPILED {
        files.push((format!("src/{name}"), 0o644, fs::read(sources.join(name))?));
    }
    let mut hash = Sha256::new();
    for (name, _, content) in &files {
        hash.update(name);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    let hash = hex(&hash.finalize());
    Ok(Programs { files, hash, compiler: version.lines().next().unwrap_or_default().to_owned() })
}

/// `CC` if set.
fn compiler() -> PathBuf {
    std::env::var_os("CC").map_or_else(|| "gcc".into(), PathBuf::from)
}

fn compile(source: &Path, target: &Path, math: Math, name: Option<&str>) -> Result<()> {
    let mut command = Command::new(compiler());
    command.args(FLAGS).args(math_flags(math));
    if let Some(name) = name {
        command.arg(format!("-DNAME=\"{name}\""));
    }
    command.arg(source).arg("-o").arg(target);
    output(&mut command).map(drop).with_context(|| {
        format!("{} cannot be built as a 32-bit program (Debian: gcc and binutils for x86)", source.display())
    })
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
