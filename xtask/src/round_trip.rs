//! A session of the mini guest that goes from v86 to env86 and back, several times, through snapshots: what
//! it was doing has to go on each time as if nothing had happened.

use crate::boot::power_off;
use crate::demo::{MINI_PROMPT, boot};
use crate::floats::{self, Floats};
use crate::guest::Guest;
use crate::net::session::in_terminal;
use crate::peers;
use crate::run::{need, output, run as run_command, target_dir, tool};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Emulator {
    V86,
    Env86,
}

/// How the snapshot that the next one restores is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Raw,
    Zstd,
}

/// Who runs the guest, one after the other, and what is left for the next one. The first one starts with the
/// fixture's snapshot.
const HOPS: &[(Emulator, Form)] = &[
    (Emulator::V86, Form::Raw),
    (Emulator::Env86, Form::Raw),
    (Emulator::V86, Form::Zstd),
    (Emulator::Env86, Form::Zstd),
    (Emulator::V86, Form::Raw),
    (Emulator::Env86, Form::Raw),
];

const RAW: &str = "initial.state";
const ZSTD: &str = "initial.state.zst";

/// Everything one emulator does has to be done within this time.
const HOP_TIMEOUT: u64 = 120;

/// Guest seconds that the timer started before each hop waits.
const SHORT: f64 = 3.0;
/// Guest seconds that a timer waits that is started in the first emulator and asked for in the last one.
const LONG: f64 = 12.0;
/// How late a timer may be on a busy host.
const LATE: f64 = 2.0;

/// The up arrow key.
const UP: &[u8] = b"\x1b[A";

/// Typed in the first emulator, before the programs start. `timer N S` waits in the background.
const PREPARE: &[&str] = &[
    "up() { read u x </proc/uptime; echo $u; }",
    "timer() { ( (up >/tmp/a$1; sleep $2; up >/tmp/z$1) & ); }",
    "tick() { while :; do echo tick >>/tmp/ticks; sleep 0.2; done; }",
    "( (tick) & )",
    "chmod +x /tmp/floats; ( (/tmp/floats >/tmp/records) & )",
    "cp /bin/busybox /root/big; cp /bin/busybox /tmp/big",
    "mkdir /root/d; echo inner >/root/d/f; ln -s d /root/link",
    "echo 10.0.0.9 nine >>/etc/hosts; mv /root/.profile /root/moved",
    "rm /usr/share/doc/busybox-static/copyright",
    "exec 3>>/root/open; v=seventeen",
];

/// What has to be true in each emulator.
const KEPT: &[(&str, &str)] = &[
    ("cmp /bin/busybox /root/big && cmp /bin/busybox /tmp/big && echo same", "same"),
    ("cat /root/link/f", "inner"),
    ("tail -n 1 /etc/hosts", "10.0.0.9 nine"),
    ("ls -A /root | xargs", "big d file-in-state kept link moved open"),
    ("ls /usr/share/doc/busybox-static | wc -l", "0"),
    ("echo $v", "seventeen"),
];

/// What is known of the guest from one emulator to the next.
struct Session {
    boot_id: String,
    uptime: f64,
    ticks: usize,
    records: usize,
    floats: Floats,
}

/// Runs it on a copy of `fixture`.
pub fn run(env86: &Path, fixture: &Path) -> Result<()> {
    need(&[("node", "nodejs"), ("zstd", "zstd")])?;
    let v86 = peers::v86()?;
    let image = copy(fixture, "round-trip")?;
    let mut session: Option<Session> = None;
    for (hop, &(emulator, form)) in HOPS.iter().enumerate() {
        let last = hop + 1 == HOPS.len();
        let mut in_emulator = || -> Result<()> {
            let mut guest = start(emulator, env86, &v86, &image)?;
            guest.expect(MINI_PROMPT)?;
            let session = match &mut session {
                Some(session) => {
                    check(&mut guest, hop, session)?;
                    session
                }
                None => session.insert(prepare(&mut guest)?),
            };
            if last {
                check_timer(&mut guest, "long", LONG)?;
                return power_off(guest);
            }
            leave(&mut guest, hop, session)?;
            save(emulator, guest)?;
            convert(&image, form)
        };
        in_emulator().with_context(|| format!("emulator {} of the session, {emulator:?}", hop + 1))?;
    }
    fs::remove_dir_all(image)?;
    Ok(())
}

/// A copy of an image whose snapshot may be changed.
pub fn copy(image: &Path, name: &str) -> Result<PathBuf> {
    let copy = target_dir().join("fixtures").join(format!(".{name}"));
    let _ = fs::remove_dir_all(&copy);
    run_command(tool("cp").args(["-a", "--link"]).arg(image).arg(&copy))?;
    Ok(copy)
}

fn start(emulator: Emulator, env86: &Path, v86: &Path, image: &Path) -> Result<Guest> {
    let mut command = match emulator {
        // To a pipe, env86 would wait for the guest to come to rest, and this one never does.
        Emulator::Env86 => in_terminal(&boot(env86, &["--save"], image))?,
        Emulator::V86 => {
            let mut node = peers::node_v86(v86, image);
            node.args(["--interactive", "--timeout"]).arg(HOP_TIMEOUT.to_string());
            node.arg("--save").arg(image.join(RAW));
            node
        }
    };
    Guest::start(&mut command, Duration::from_secs(HOP_TIMEOUT))
}

/// Ends the emulator so that it saves.
fn save(emulator: Emulator, mut guest: Guest) -> Result<()> {
    match emulator {
        Emulator::Env86 => guest.send_bytes(b"\x04")?, // Ctrl-D
        Emulator::V86 => guest.close_input(),
    }
    let status = guest.wait()?;
    ensure!(status.success(), "it ended with {status} when it was to save");
    Ok(())
}

/// Makes sure that the image's snapshot has this form. v86 writes a raw one; env86 writes what it found.
fn convert(image: &Path, form: Form) -> Result<()> {
    let (raw, zstd) = (image.join(RAW), image.join(ZSTD));
    // A raw snapshot beside a compressed one is v86's new one: env86 would have removed either of them.
    if raw.exists() {
        let _ = fs::remove_file(&zstd);
        if form == Form::Zstd {
            // One frame with a window below 128 MiB: the decoder in v86 takes nothing else.
            output(tool("zstd").args(["-q", "-3", "--rm", "-o"]).arg(&zstd).arg(&raw))?;
        }
    }
    let expected = if form == Form::Zstd { &zstd } else { &raw };
    ensure!(expected.exists(), "there is no {}", expected.display());
    Ok(())
}

/// Starts everything that has to survive.
fn prepare(guest: &mut Guest) -> Result<Session> {
    for bytes in floats::program().chunks(12) {
        let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        silent(guest, &format!("printf '{escaped}' >>/tmp/floats"))?;
    }
    for command in PREPARE {
        silent(guest, command)?;
    }
    silent(guest, &format!("timer long {LONG}"))?;
    let boot_id = guest.ask("cat /proc/sys/kernel/random/boot_id", MINI_PROMPT)?;
    Ok(Session { boot_id, uptime: 0.0, ticks: 0, records: 0, floats: Floats::new() })
}

/// A command that prints nothing.
fn silent(guest: &mut Guest, command: &str) -> Result<()> {
    let answer = guest.ask(command, MINI_PROMPT)?;
    ensure!(answer.is_empty(), "`{command}` printed {answer:?}");
    Ok(())
}

fn number<T: std::str::FromStr>(guest: &mut Guest, command: &str) -> Result<T> {
    let answer = guest.ask(command, MINI_PROMPT)?;
    answer.trim().parse().ok().with_context(|| format!("`{command}` printed {answer:?}"))
}

/// The last commands before the snapshot is made.
fn leave(guest: &mut Guest, hop: usize, session: &mut Session) -> Result<()> {
    silent(guest, &format!("echo {hop} >>/root/kept; echo {hop} >>/tmp/held; echo {hop} >&3"))?;
    check_floats(guest, session)?;
    session.ticks = number(guest, "wc -l </tmp/ticks")?;
    session.uptime = number(guest, "up")?;
    silent(guest, &format!("timer {hop} {SHORT}"))?;
    let said = guest.ask(&format!("echo said-$(({hop} + 100))"), MINI_PROMPT)?;
    ensure!(said == format!("said-{}", hop + 100), "`echo` printed {said:?}");
    Ok(())
}

/// Everything of the emulators before `hop` is still there and goes on.
fn check(guest: &mut Guest, hop: usize, session: &mut Session) -> Result<()> {
    // The shell writes the whole line again, with its prompt.
    guest.send_bytes(UP)?;
    guest.expect(MINI_PROMPT)?;
    let recalled = guest.ask("", MINI_PROMPT)?;
    ensure!(recalled == format!("said-{}", hop + 99), "the shell's history recalled {recalled:?}");
    let boot_id = guest.ask("cat /proc/sys/kernel/random/boot_id", MINI_PROMPT)?;
    ensure!(boot_id == session.boot_id, "the guest was booted again");
    let uptime: f64 = number(guest, "up")?;
    let jump = uptime - session.uptime;
    ensure!((0.0..10.0).contains(&jump), "the guest's clock jumped by {jump:.2} s");
    let ticks: usize = number(guest, "wc -l </tmp/ticks")?;
    ensure!(ticks >= session.ticks, "{} lines of a file in memory became {ticks}", session.ticks);

    for (command, expected) in KEPT {
        let answer = guest.ask(command, MINI_PROMPT)?;
        ensure!(answer == *expected, "`{command}` printed {answer:?} and not {expected:?}");
    }
    let lines: Vec<_> = (0..hop).map(|hop| hop.to_string()).collect();
    for file in ["/root/kept", "/tmp/held", "/root/open"] {
        let answer = guest.ask(&format!("xargs <{file}"), MINI_PROMPT)?;
        ensure!(answer == lines.join(" "), "{file} holds {answer:?}");
    }

    check_timer(guest, &(hop - 1).to_string(), SHORT)?;
    let later: usize = number(guest, "wc -l </tmp/ticks")?;
    ensure!(later > ticks, "the background process does not run any more");
    check_floats(guest, session)
}

/// The timer `name` fired, or does so now, `seconds` after it was started.
fn check_timer(guest: &mut Guest, name: &str, seconds: f64) -> Result<()> {
    silent(guest, &format!("until [ -s /tmp/z{name} ]; do sleep 0.1; done"))?;
    let start: f64 = number(guest, &format!("cat /tmp/a{name}"))?;
    let end: f64 = number(guest, &format!("cat /tmp/z{name}"))?;
    let took = end - start;
    // Uptime is told in hundredths.
    if !(seconds - 0.015..=seconds + LATE).contains(&took) {
        bail!("a timer of {seconds} s took {took:.2} s of guest time");
    }
    Ok(())
}

/// The program that computes has got on, and all its results are right.
fn check_floats(guest: &mut Guest, session: &mut Session) -> Result<()> {
    silent(guest, "cp /tmp/records /tmp/copy")?;
    let bytes: usize = number(guest, "wc -c </tmp/copy")?;
    let records = bytes / floats::RECORD;
    ensure!(bytes.is_multiple_of(floats::RECORD), "the computing program left {bytes} bytes");
    ensure!(records > session.records, "the computing program does not run: {records} records");
    session.records = records;
    let answer = guest.ask("sha256sum </tmp/copy", MINI_PROMPT)?;
    let expected = session.floats.sha256(records);
    ensure!(answer.starts_with(&expected), "one of {records} records of x87 and SSE registers is wrong");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See the test of the same name in `boot`.
    #[test]
    fn commands_fit_on_the_line_of_the_prompt() {
        for command in PREPARE.iter().chain(KEPT.iter().map(|(command, _)| command)) {
            assert!(MINI_PROMPT.len() + command.len() < 79, "{command}");
        }
    }
}
