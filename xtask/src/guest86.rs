//! `cargo xtask guest86`: the guest service as a static i686 Linux program.
//!
//! With an i686 target in the Rust installation that runs this, that is used. Else Debian's Rust packages are
//! unpacked, not installed, under `target/guest86/`: the compiler for amd64 with its library, and the i386
//! build of the same library beside it. Either way the C library is the host's 32-bit one, linked statically.

use crate::fixtures::packages::Apt;
use crate::run::{cargo, install, output, run, step, target_dir, tool, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest's target.
const TARGET: &str = "i686-unknown-linux-gnu";

/// Debian's compiler.
const COMPILER: &str = "rustc-web";

/// The standard library, for the host and for the guest.
const LIBRARY: &str = "libstd-rust-web-dev";

/// Builds the service, unless nothing has changed, and returns where it is. `sources` replaces the host's
/// package source lists.
pub fn build(sources: Option<&Path>) -> Result<PathBuf> {
    let directory = target_dir().join("guest86");
    let compiler = if has_target() { None } else { Some(debian_compiler(&directory, sources)?) };
    c_library()?;
    step("building guest86 for i686");
    let mut command = cargo();
    command.args(["build", "--quiet", "--release", "--package", "guest86", "--bin", "guest86"]);
    command.args(["--target", TARGET, "--target-dir"]).arg(directory.join("build"));
    command.env("CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    // Small: it is copied into images and lives in guests with little memory.
    for (key, value) in
        [("OPT_LEVEL", "s"), ("LTO", "fat"), ("CODEGEN_UNITS", "1"), ("DEBUG", "false"), ("STRIP", "true")]
    {
        command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    // Settings for the host's compiler do not fit this one.
    for key in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTC"] {
        command.env_remove(key);
    }
    if let Some(compiler) = compiler {
        command.env("RUSTC", compiler);
    }
    run(&mut command)?;
    let binary = directory.join("build").join(TARGET).join("release/guest86");
    check(&binary)?;
    offer(&binary)?;
    Ok(binary)
}

/// Puts the service where the build of `host` looks for it (`host/build.rs`). The same one again changes nothing,
/// so that nothing is built again.
fn offer(binary: &Path) -> Result<()> {
    let directory = workspace().join("target/guest-service");
    let (file, new) = (directory.join("guest86"), fs::read(binary)?);
    if fs::read(&file).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    fs::write(&file, new).with_context(|| format!("cannot write {}", file.display()))
}

/// `cargo xtask guest86`
pub fn report() -> Result<()> {
    let binary = build(None)?;
    println!("{}", binary.display());
    Ok(())
}

/// Whether the Rust installation can build for the guest.
fn has_target() -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let directory = output(rustc.args(["--print", "target-libdir", "--target", TARGET])).unwrap_or_default();
    let library = fs::read_dir(directory.trim()).into_iter().flatten().flatten();
    library.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// Debian's compiler, unpacked once.
fn debian_compiler(directory: &Path, sources: Option<&Path>) -> Result<PathBuf> {
    let tree = directory.join("rust");
    let compiler = tree.join("rustc.sh");
    if compiler.is_file() {
        return Ok(compiler);
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("guest86 needs the Rust target {TARGET}: install it with `rustup target add {TARGET}`");
    }
    step(format!("no Rust target {TARGET} here, taking Debian's compiler"));
    let (apt, fresh) = (directory.join("apt"), directory.join("rust.new"));
    let _ = fs::remove_dir_all(&fresh);
    let unpacked = Apt::open(&apt, sources, &["amd64", "i386"]).and_then(|apt| unpack(&apt, &fresh));
    let back_end = unpacked.with_context(|| format!("`rustup target add {TARGET}` would do instead"))?;
    // The compiler's own libraries are not where the host looks for libraries.
    let script = "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")/usr\n\
                  export LD_LIBRARY_PATH=$here/lib/x86_64-linux-gnu:$here/lib\nexec \"$here/bin/rustc\" \"$@\"\n";
    fs::write(fresh.join("rustc.sh"), script)?;
    fs::set_permissions(fresh.join("rustc.sh"), fs::Permissions::from_mode(0o755))?;
    let runs = || output(Command::new(fresh.join("rustc.sh")).arg("-V"));
    if runs().is_err() {
        // LLVM has dependencies of its own, which the host's apt knows how to follow.
        install(&[&back_end])?;
        runs().context("Debian's Rust compiler does not run here")?;
    }
    let _ = fs::remove_dir_all(&apt);
    let _ = fs::remove_dir_all(&tree);
    // Under its name it is complete.
    fs::rename(&fresh, &tree)?;
    Ok(compiler)
}

/// Unpacks the compiler and both libraries, all of one version: that of the guest's library, as a mirror may
/// have a newer one for one architecture before it has it for the other. Returns the package with the LLVM
/// that the compiler needs.
fn unpack(apt: &Apt, tree: &Path) -> Result<String> {
    let field = |package: &str, name: &str| -> Result<String> {
        let fields = apt.show(package)?;
        fields.get(name).cloned().with_context(|| format!("package {package} has no {name}"))
    };
    let version = field(&format!("{LIBRARY}:i386"), "Version")?;
    let shared = field(&format!("{LIBRARY}:amd64={version}"), "Depends")?;
    let shared = shared.split([' ', ',']).next().unwrap_or_default();
    let packages: Vec<String> =
        [(COMPILER, "amd64"), (LIBRARY, "amd64"), (LIBRARY, "i386"), (shared, "amd64")]
            .iter()
            .map(|(package, architecture)| format!("{package}:{architecture}={version}"))
            .collect();
    apt.unpack(&packages.iter().map(String::as_str).collect::<Vec<_>>(), tree)?;
    let needed = field(&format!("{shared}:amd64={version}"), "Depends")?;
    let back_end = needed.split([' ', ',']).find(|word| word.starts_with("libllvm"));
    Ok(back_end.context("the Rust compiler depends on no LLVM")?.to_owned())
}

/// Makes sure of a static 32-bit C library.
fn c_library() -> Result<()> {
    let there = || {
        // Without one, the compiler prints the bare name.
        let found = output(tool("cc").args(["-m32", "-print-file-name=libc.a"])).unwrap_or_default();
        Path::new(found.trim()).is_absolute()
    };
    if !there() {
        install(&["gcc-multilib"])?;
    }
    if !there() {
        bail!("`cc -m32` finds no static C library (Debian: gcc-multilib)");
    }
    Ok(())
}

/// Makes sure that the program is what a guest without anything can run.
fn check(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    if !is_static_i386(&bytes) {
        bail!("{} is no static 32-bit x86 program", binary.display());
    }
    Ok(())
}

/// Whether this is a 32-bit x86 ELF program without an interpreter (the dynamic linker).
fn is_static_i386(bytes: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let segments = || {
        let (table, size, count) = (word(28)? as usize, half(42)?, half(44)?);
        (0..count).map(|index| word(table + index * size)).collect::<Option<Vec<u32>>>()
    };
    bytes.starts_with(b"\x7fELF\x01\x01\x01")
        && half(18) == Some(3)
        && segments().is_some_and(|types| !types.is_empty() && !types.contains(&INTERPRETER))
}

#[cfg(test)]
mod tests {
    use super::is_static_i386;

    fn elf(machine: u8, segment: u8) -> Vec<u8> {
        let mut bytes = vec![0; 52 + 32];
        bytes[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        bytes[18] = machine;
        bytes[28] = 52;
        bytes[42] = 32;
        bytes[44] = 1;
        bytes[52] = segment;
        bytes
    }

    #[test]
    fn static_i386_programs_are_told_from_others() {
        assert!(is_static_i386(&elf(3, 1)));
        assert!(!is_static_i386(&elf(62, 1)), "x86-64");
        assert!(!is_static_i386(&elf(3, 3)), "dynamically linked");
        assert!(!is_static_i386(&elf(3, 1)[..54]), "cut off");
        assert!(!is_static_i386(b"#!/bin/sh"));
    }
}
