//! Guest boot tests: the release binary with the guests of `cargo xtask fixtures`.

use crate::demo::{MINI_PROMPT, boot};
use crate::fixtures;
use crate::guest::Guest;
use crate::peers;
use crate::run::{output, run, target_dir, tool};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEBIAN_PROMPT: &str = "debian# ";

/// A command and what its answer has to contain.
type Exchange = (&'static str, &'static str);

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

/// What the Debian guest is asked after a cold boot: programs that use more of the CPU than BusyBox does.
const DEBIAN: &[Exchange] = &[
    ("uname -n", "debian"),
    ("python3 -c 'import math; print(math.factorial(20), math.pi)'", "2432902008176640000 3.141592653589793"),
    ("echo 'int puts(const char *); int main() { puts(\"made\"); }' >/tmp/a.c", ""),
    ("gcc -O2 -o /tmp/a /tmp/a.c && /tmp/a", "made"),
    ("printf abc | openssl dgst -sha512", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"),
    ("bzip2 -c /bin/bash | bunzip2 | cmp - /bin/bash && echo same", "same"),
];

/// What is true in the snapshot that real v86 made (`fixtures/state.rs` prepares it).
const MINI_STATE: &[Exchange] = &[
    ("hostname", "mini"),
    ("cat /root/file-in-state", "hello"),
    ("lsmod | grep -q '^ne2k_pci ' && echo loaded", "loaded"),
];

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
    BootTest { name: "mini resumes from a snapshot made by v86", guest: "mini-state", run: mini_state },
    BootTest { name: "mini is saved, resumed, and resumed by v86", guest: "mini", run: mini_saved },
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

fn mini_saved(env86: &Path) -> Result<()> {
    let copy = target_dir().join("fixtures/.saved");
    let _ = fs::remove_dir_all(&copy);
    run(tool("cp").arg("-a").arg(image("mini")).arg(&copy))?;

    let mut guest = start(env86, &["--cold", "--save"], &copy, 180)?;
    guest.expect(MINI_PROMPT)?;
    converse(&mut guest, MINI_PROMPT, &[("echo kept >/root/marker; echo held >/tmp/in-memory", "")])?;
    guest.send_bytes(b"\x04")?; // Ctrl-D ends and saves
    if !guest.wait()?.success() {
        bail!("env86 did not end well after Ctrl-D with --save");
    }

    let marks: &[Exchange] = &[("cat /root/marker", "kept"), ("cat /tmp/in-memory", "held")];
    let mut guest = start(env86, &[], &copy, 60)?;
    guest.expect(MINI_PROMPT)?;
    converse(&mut guest, MINI_PROMPT, marks).context("after resuming in env86")?;
    power_off(guest)?;

    let mut v86 = peers::node_v86(&peers::v86()?, &copy);
    v86.args(["--prompt", MINI_PROMPT, "--timeout", "120"]);
    let console = output(v86.args(marks.iter().map(|(command, _)| command))).context("resuming in v86")?;
    // Answers stand at the start of a line, where no echo of a command does.
    for (command, expected) in marks {
        if !console.contains(&format!("\n{expected}")) {
            bail!(
                "resumed in v86, `{command}` does not print {expected:?}; the guest's output is\n{console}"
            );
        }
    }
    fs::remove_dir_all(&copy)?;
    Ok(())
}

fn debian_cold(env86: &Path) -> Result<()> {
    let mut guest = start(env86, &["--cold"], &image("debian"), 420)?;
    guest.expect(DEBIAN_PROMPT)?;
    converse(&mut guest, DEBIAN_PROMPT, DEBIAN)?;
    // The end of the input ends env86, whatever the guest does.
    guest.close_input();
    guest.wait().map(drop)
}

fn image(name: &str) -> PathBuf {
    fixtures::directory().join(name)
}

fn start(env86: &Path, options: &[&str], image: &Path, seconds: u64) -> Result<Guest> {
    Guest::start(&mut boot(env86, options, image), Duration::from_secs(seconds))
}

fn converse(guest: &mut Guest, prompt: &str, exchanges: &[Exchange]) -> Result<()> {
    for (command, expected) in exchanges {
        let answer = guest.ask(command, prompt).with_context(|| format!("asked `{command}`"))?;
        if !answer.contains(expected) {
            bail!("asked `{command}`, the guest answered {answer:?} and not {expected:?}");
        }
    }
    Ok(())
}

fn power_off(mut guest: Guest) -> Result<()> {
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
