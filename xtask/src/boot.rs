//! Guest boot tests: the release binary with the guests of `cargo xtask fixtures`.

use crate::demo::{MINI_PROMPT, boot};
use crate::fixtures;
use crate::guest::Guest;
use crate::health;
use crate::round_trip;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Prompt of the Debian guest.
pub const DEBIAN_PROMPT: &str = "debian# ";

/// A command and what its answer has to contain.
pub type Exchange = (&'static str, &'static str);

/// What the mini guest is asked after a cold boot.
const MINI: &[Exchange] = &[
    ("uname -sm", "Linux i686"),
    ("cat /proc/mounts | grep ' / '", "host9p / 9p rw"),
    ("awk 'BEGIN { printf \"%.15f\", 355 / 113 }'", "3.141592920353983"),
    ("echo abc >/root/new && mv /root/new /root/old && cat /root/old", "abc"),
    ("rm /root/old && ls -A /root", ".profile"),
    ("modprobe ne2k-pci && ifconfig eth0 | head -n 1", "HWaddr"),
    ("cp /bin/busybox /tmp/copy && cmp /bin/busybox /tmp/copy && echo same", "same"),
];

/// What is true in the snapshot that v86 made (`fixtures/state.rs` prepares it).
const MINI_STATE: &[Exchange] = &[
    ("hostname", "mini"),
    ("cat /root/file-in-state", "hello"),
    ("lsmod | grep -q '^ne2k_pci ' && echo loaded", "loaded"),
    ("ifconfig eth0 up && ifconfig eth0 | grep -o RUNNING", "RUNNING"),
];

/// Kernel parameter that makes the mini guest list its files and power off instead of starting a shell.
const POWER_OFF: &str = "env86.poweroff";

/// What the Debian guest is asked after a cold boot: programs that use more of the CPU than BusyBox does,
/// many processes, and many changes to the tree.
const DEBIAN: &[Exchange] = &[
    ("uname -n", "debian"),
    ("python3 -c 'import math; print(math.factorial(20), math.pi)'", "2432902008176640000 3.141592653589793"),
    ("echo 'int puts(const char *); int main() { puts(\"made\"); }' >/tmp/a.c", ""),
    ("gcc -O2 -o /tmp/a /tmp/a.c && /tmp/a", "made"),
    ("printf abc | openssl dgst -sha512", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"),
    ("cd /tmp && head -c 5000000 /dev/urandom >r && echo filled", "filled"),
    ("bzip2 -9c r | bunzip2 | cmp - r && echo same", "same"),
    ("for i in $(seq 300); do /bin/true; done; echo forked", "forked"),
    ("mkdir /root/many && cd /root/many && echo there", "there"),
    ("for i in $(seq 1000); do echo $i >f$i; done; ls | wc -l", "1000"),
    ("for i in $(seq 1000); do mv f$i g$i; done; ls g* | wc -l", "1000"),
    ("for i in $(seq 1 2 1000); do rm g$i; done; echo $(ls | wc -l)", "500"),
    ("echo $(ls f* 2>/dev/null | wc -l) $(cat g2 g500 g1000)", "0 2 500 1000"),
];

/// Files of the Debian guest whose SHA-256 it is asked for: content files are named by its first digits.
const HASHED: &[&str] = &["bin/bash", "usr/bin/python3.11"];

/// A boot test.
pub struct BootTest {
    /// What it is called in reports.
    pub name: &'static str,
    /// The guest it needs.
    pub guest: &'static str,
    /// Runs it with the binary under test.
    pub run: fn(&Path) -> Result<()>,
}

/// All boot tests, quick ones first.
pub const TESTS: &[BootTest] = &[
    BootTest { name: "mini boots cold", guest: "mini", run: mini_cold },
    BootTest {
        name: "mini under the deterministic clock ends in the same state with either engine",
        guest: "mini",
        run: mini_twice,
    },
    BootTest {
        name: "mini goes the same way with either engine and any threshold",
        guest: "mini",
        run: mini_lockstep,
    },
    BootTest { name: "mini resumes from a snapshot made by v86", guest: "mini-state", run: mini_state },
    BootTest {
        name: "a session goes from v86 to env86 and back",
        guest: "mini-state",
        run: |env86| round_trip::run(env86, &image("mini-state")),
    },
    BootTest {
        name: "debian boots with the translator within its limits",
        guest: "debian",
        run: |env86| health::check(env86, &image("debian"), DEBIAN_PROMPT),
    },
    BootTest { name: "debian boots cold and runs its programs", guest: "debian", run: debian_cold },
];

fn mini_cold(env86: &Path) -> Result<()> {
    let mut guest = start(env86, &["--cold"], &image("mini"), 180)?;
    guest.expect(MINI_PROMPT)?;
    converse(&mut guest, MINI_PROMPT, MINI)?;
    power_off(guest)
}

fn mini_state(env86: &Path) -> Result<()> {
    let mut guest = start(env86, &[], &image("mini-state"), 60)?;
    guest.expect(MINI_PROMPT)?;
    converse(&mut guest, MINI_PROMPT, MINI_STATE)?;
    power_off(guest)
}

/// The same image twice under the deterministic clock, alone: the same number of instructions, and the same registers
/// and memory at the end.
fn mini_twice(env86: &Path) -> Result<()> {
    let common = ["--cold", "--clock", "deterministic", "--state-hash", "--append", POWER_OFF];
    let end = |own: &[&str]| {
        let options: Vec<&str> = common.iter().chain(own).copied().collect();
        end_state(&mut boot(env86, &options, &image("mini")))
    };
    let first = end(&["--engine", "interp"])?;
    let second = end(&["--engine", "jit"])?;
    if first != second {
        bail!("deterministic boots differ: interpreted it ends with {first}, translated with {second}");
    }
    Ok(())
}

/// The translator side by side with the interpreter, at several thresholds: every 33 million instructions all
/// registers, the number of instructions and all of the memory are the same, and so they are in the end. The lower
/// levels (`--jit t1`, `calls`) take minutes for it; `cargo xtask blocks` has them.
fn mini_lockstep(env86: &Path) -> Result<()> {
    let mut first = None;
    for own in [
        &["--jit-threshold", "1"][..],
        &["--jit-threshold", "16"],
        &["--jit-threshold", "1", "--jit-region-threshold", "0"],
        &["--jit-threshold", "never"],
    ] {
        let common = ["--cold", "--lockstep", "--append", POWER_OFF];
        let options: Vec<&str> = common.iter().chain(own).copied().collect();
        let (status, said) = all_output(&mut boot(env86, &options, &image("mini")))?;
        if !status.success() {
            bail!("in lockstep with {own:?} env86 ended with {status}; it said {said}");
        }
        let equal = said.lines().rev().find(|line| line.starts_with("equal for "));
        let equal = equal.with_context(|| format!("lockstep does not say how far: {said}"))?.to_owned();
        match &first {
            None => first = Some(equal),
            Some(first) if *first != equal => {
                bail!("the guest's way depends on the threshold: {first}, with {own:?} {equal}")
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Runs env86 to its end; its status and all that it prints.
fn all_output(command: &mut Command) -> Result<(ExitStatus, String)> {
    let ended = command.stdin(Stdio::piped()).output().context("starting env86")?;
    let said = [ended.stderr, ended.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok((ended.status, said))
}

/// Runs env86 to its end; instruction count and state hash as it prints them.
fn end_state(command: &mut Command) -> Result<String> {
    let (status, notes) = all_output(command)?;
    if !status.success() {
        bail!("env86 ended with {status}; it said {notes}");
    }
    let wanted = |line: &&str| line.starts_with("instructions ") || line.starts_with("state-hash ");
    let lines: Vec<_> = notes.lines().filter(wanted).collect();
    if lines.len() != 2 {
        bail!("no instruction count or state hash in {notes}");
    }
    Ok(lines.join(", "))
}

fn debian_cold(env86: &Path) -> Result<()> {
    let mut guest = start(env86, &["--cold"], &image("debian"), 420)?;
    guest.expect(DEBIAN_PROMPT)?;
    converse(&mut guest, DEBIAN_PROMPT, DEBIAN)?;
    for path in HASHED {
        let answer = guest.ask(&format!("sha256sum /{path}"), DEBIAN_PROMPT)?;
        let digits = content_name(&image("debian"), path)?;
        let digits = digits.split('.').next().unwrap_or_default();
        if !answer.starts_with(digits) {
            bail!("the guest's SHA-256 of /{path} is {answer:?}; the image's is {digits}...");
        }
    }
    // The end of the input ends env86, whatever the guest does.
    guest.close_input();
    guest.wait().map(drop)
}

/// Name of the content file of `path` in an image.
fn content_name(image: &Path, path: &str) -> Result<String> {
    let index: Value = serde_json::from_slice(&fs::read(image.join("fs.json"))?)?;
    let mut rows = &index["fsroot"];
    let mut last = None;
    let mut resolved: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    while let Some(part) = resolved.pop() {
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row[0] == part.as_str()));
        let row = row.with_context(|| format!("the image has no {path}"))?;
        // A link on the way (Debian's /bin) is followed from the root.
        if let (Some(target), false) = (row[6].as_str(), resolved.is_empty()) {
            resolved.extend(target.trim_start_matches('/').split('/').rev().map(str::to_owned));
            rows = &index["fsroot"];
            continue;
        }
        rows = &row[6];
        last = row[6].as_str().map(str::to_owned);
    }
    last.with_context(|| format!("{path} is not a file of the image"))
}

fn image(name: &str) -> PathBuf {
    fixtures::directory().join(name)
}

fn start(env86: &Path, options: &[&str], image: &Path, seconds: u64) -> Result<Guest> {
    Guest::start(&mut boot(env86, options, image), Duration::from_secs(seconds))
}

/// Asks everything and compares the answers.
pub fn converse(guest: &mut Guest, prompt: &str, exchanges: &[Exchange]) -> Result<()> {
    for (command, expected) in exchanges {
        let answer = guest.ask(command, prompt).with_context(|| format!("asked `{command}`"))?;
        if !answer.contains(expected) {
            bail!("asked `{command}`, the guest answered {answer:?} and not {expected:?}");
        }
    }
    Ok(())
}

/// Ends a guest that a shell answers in.
pub fn power_off(mut guest: Guest) -> Result<()> {
    guest.send("poweroff -f")?;
    let status = guest.wait()?;
    if !status.success() {
        bail!("env86 ended with {status} after the guest powered off");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guests' terminals have 80 columns. A longer line is wrapped in the echo, and `Guest::ask` would take
    /// the rest of it for the answer.
    #[test]
    fn commands_fit_on_the_line_of_the_prompt() {
        for (prompt, list) in [(MINI_PROMPT, MINI), (MINI_PROMPT, MINI_STATE), (DEBIAN_PROMPT, DEBIAN)] {
            for (command, _) in list {
                assert!(prompt.len() + command.len() < 79, "{command}");
            }
        }
    }
}
