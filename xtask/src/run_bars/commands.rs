//! Commands, their streams and their ends.

use super::{Course, MARK, between, names, rate};
use crate::bars::noise;
use crate::guest::Guest;
use crate::net::session::in_terminal;
use crate::run::{now, output, tool};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long `true` may take, seconds.
const START: f64 = 0.2;

/// How long a process of a run that has ended may take to be gone.
const GONE: Duration = Duration::from_secs(2);

/// How long the full-screen program may take for everything.
const SCREEN: Duration = Duration::from_secs(60);

/// The line of the manual: input, both outputs, status.
pub fn example(course: &Course) -> Result<String> {
    let mut child = course
        .command(&["-i"], &["sh", "-c", "cat; echo err >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(b"hi\n")?;
    let ended = child.wait_with_output()?;
    let seen = (ended.stdout.as_slice(), ended.stderr.as_slice(), ended.status.code());
    ensure!(seen == (b"hi\n", b"err\n", Some(7)), "{ended:?}");
    Ok("hi, err, 7".to_owned())
}

/// One run of `true`, seconds.
fn once(course: &Course) -> Result<f64> {
    let begin = now();
    let ended = course.command(&[], &["true"]).output()?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(super::succeeded(&ended)?.is_empty(), "it printed something");
    Ok(took)
}

fn median(times: &mut [f64]) -> Result<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("nothing was measured")
}

pub fn start(course: &Course) -> Result<String> {
    once(course)?; // The host has read the files then.
    let mut times = (0..20).map(|_| once(course)).collect::<Result<Vec<_>>>()?;
    let median = median(&mut times)?;
    let text = format!("{:.0} ms, slowest {:.0} ms", median * 1e3, times[times.len() - 1] * 1e3);
    ensure!(median <= START, "{text}");
    Ok(text)
}

pub fn pairs(course: &Course) -> Result<String> {
    let count = course.size.pairs;
    let begin = now();
    let halves = thread::scope(|scope| {
        let threads = [count / 2, count - count / 2]
            .map(|runs| scope.spawn(move || (0..runs).map(|_| once(course)).collect::<Result<Vec<_>>>()));
        threads.map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    });
    let took = begin.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for half in halves {
        times.extend(half?);
    }
    let median = median(&mut times)?;
    Ok(format!("{count} in {took:.1} s, 0 failures, median {:.0} ms", median * 1e3))
}

/// What runs could leave behind on the host: files, sockets.
fn leftovers(course: &Course) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in ["temporary", "runtime", "home"] {
        found.extend(names(&course.place.join(directory))?);
    }
    found.extend(names(&course.image)?);
    for directory in ["/tmp", "/dev/shm"] {
        // Others use these too.
        let ours = |name: &String| name.contains("/env86");
        let Ok(entries) = fs::read_dir(directory) else { continue };
        found.extend(entries.flatten().map(|entry| entry.path().display().to_string()).filter(ours));
    }
    let place = course.place.display().to_string();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    found.extend(sockets.lines().filter(|line| line.contains(&place)).map(ToOwned::to_owned));
    Ok(found)
}

/// Processes that were started here and still run, this one apart.
fn processes() -> Vec<String> {
    let mark = format!("{MARK}={}", std::process::id());
    let marked = |path: &Path| {
        fs::read(path.join("environ"))
            .is_ok_and(|text| text.split(|&byte| byte == 0).any(|pair| pair == mark.as_bytes()))
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let found = entries.flatten().map(|entry| entry.path()).filter(|path| marked(path));
    found.map(|path| path.display().to_string()).collect()
}

pub fn sequence(course: &Course) -> Result<String> {
    let before = leftovers(course)?;
    let begin = now();
    for number in 0..course.size.sequence {
        once(course).with_context(|| format!("run {number}"))?;
    }
    let took = begin.elapsed().as_secs_f64();
    let deadline = now() + GONE;
    while !processes().is_empty() && now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(processes().is_empty(), "left: {:?}", processes());
    let after = leftovers(course)?;
    ensure!(before == after, "left: {:?}", after.iter().filter(|name| !before.contains(name)));
    let each = took * 1e3 / course.size.sequence as f64;
    Ok(format!("{}, {each:.0} ms each; no process, socket or file is left", course.size.sequence))
}

/// What a command's standard input can be.
#[derive(Clone, Copy, Debug)]
enum Input {
    Terminal,
    Pipe,
    Null,
    Closed,
}

/// Ends of commands: flags, command, status.
const ENDS: &[(&[&str], &[&str], i32)] = &[
    (&[], &["true"], 0),
    (&[], &["sh", "-c", "exit 1"], 1),
    (&[], &["sh", "-c", "exit 3"], 3),
    (&[], &["/etc"], 126),
    (&[], &["no-such-command"], 127),
    (&[], &["sh", "-c", "kill -KILL $$"], 128 + 9),
    (&[], &["sh", "-c", "kill -TERM $$"], 128 + 15),
    (&["--timeout", "1"], &["sleep", "100"], 124),
];

pub fn matrix(course: &Course) -> Result<String> {
    let (mut count, mut wrong) = (0, Vec::new());
    for input in [Input::Terminal, Input::Pipe, Input::Null, Input::Closed] {
        for (flags, line, status) in ENDS {
            for more in [&[][..], &["-i"], &["-i", "-t"]] {
                let seen = with(course, input, &[*flags, more].concat(), line)?;
                count += 1;
                if seen != Some(*status) {
                    wrong.push(format!("{input:?} {flags:?} {more:?} {line:?}: {seen:?}"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {count}: {}", wrong.len(), wrong.join("; "));
    Ok(format!("{count} combinations"))
}

/// The status of a run with this input.
fn with(course: &Course, input: Input, flags: &[&str], line: &[&str]) -> Result<Option<i32>> {
    let mut command = course.command(flags, line);
    match input {
        Input::Pipe => drop(command.stdin(Stdio::piped())),
        Input::Null => drop(command.stdin(Stdio::null())),
        Input::Closed => command = within(course, "exec \"$@\" <&-", &command),
        Input::Terminal => {
            command = in_terminal(&command)?;
            course.at_home(&mut command);
        }
    }
    let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?.wait_with_output()?;
    Ok(ended.status.code())
}

/// A shell's script that finds the command in its parameters.
fn within(course: &Course, script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    course.at_home(&mut shell);
    shell
}

/// Ends of runs at a terminal: flags, what the guest does, signal for env86, status.
const TERMINAL_ENDS: &[(&[&str], &str, &str, i32)] = &[
    (&[], "exit 3", "", 3),
    (&[], "poweroff -f; sleep 100", "", 125),
    (&[], "kill -9 $(pidof guest86); sleep 100", "", 125),
    (&["-w", "/no/such/directory"], "true", "", 126),
    (&["--timeout", "1"], "sleep 100", "", 124),
    (&[], "sleep 100", "TERM", 128 + 15),
    (&[], "sleep 100", "HUP", 128 + 1),
    (&[], "sleep 100", "INT", 128 + 2),
];

pub fn terminals(course: &Course) -> Result<String> {
    let ends = TERMINAL_ENDS.iter().map(|end| (*end, ""));
    let by_timeout = ((&[][..], "sleep 100", "", 124), "timeout --foreground 2 ");
    for ((flags, script, signal, status), prefix) in ends.chain([by_timeout]) {
        let mut killer = String::new();
        if !signal.is_empty() {
            killer = format!("(sleep 2; kill -{signal} $$) & ");
        }
        let script_around = format!(
            "stty -g; sh -c '{killer}exec {prefix}\"$@\" 2>/dev/null' sh \"$@\"; s=$?; echo; stty -g; exit $s"
        );
        let command = course.command(&[flags, &["-t", "-i"]].concat(), &["sh", "-c", script]);
        let mut command = in_terminal(&within(course, &script_around, &command))?;
        course.at_home(&mut command);
        let ended = command.output()?;
        let text = String::from_utf8_lossy(&ended.stdout);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let what = || format!("{flags:?} {script:?} {signal} {prefix}: {} {text:?}", ended.status);
        ensure!(ended.status.code() == Some(status), "{}", what());
        let settings = lines.first().zip(lines.last());
        ensure!(settings.is_some_and(|(a, b)| a == b && a.contains(':')), "{}", what());
    }
    Ok(format!("{} ends, settings as before", TERMINAL_ENDS.len() + 1))
}

pub fn full_screen(course: &Course) -> Result<String> {
    let sizes = [(24, 80), (40, 100), (10, 30), (50, 132)];
    let mut vi = full_screen_program(course, &["vi", "/etc/passwd"])?;
    for (rows, columns) in sizes {
        resize(&vi, rows, columns)?;
        // It draws its last line where that is now.
        vi.expect(&format!("\x1b[{rows};1H")).with_context(|| format!("vi, {rows}x{columns}"))?;
    }
    vi.send_bytes(b":q\r")?;
    let status = vi.wait()?;
    ensure!(status.success(), "vi: {status}");

    let mut top = full_screen_program(course, &["top", "-d", "1"])?;
    for (columns, heading) in [(80, " COMMAND\x1b[m"), (40, " %CP\x1b[m")] {
        resize(&top, 20, columns)?;
        // The line above the processes is cut at the right edge.
        top.expect(heading).with_context(|| format!("top, {columns} columns"))?;
    }
    top.send_bytes(b"q")?;
    let status = top.wait()?;
    ensure!(status.success(), "top: {status}");
    Ok(format!("vi at {} sizes, top at 2", sizes.len()))
}

/// A program of the guest in a terminal of 24 lines of 80.
fn full_screen_program(course: &Course, line: &[&str]) -> Result<Guest> {
    let env86 = course.command(&["-i", "-t"], line);
    let mut command = in_terminal(&within(course, "stty rows 24 cols 80; exec \"$@\"", &env86))?;
    course.at_home(&mut command);
    command.env("TERM", "xterm");
    Guest::start(&mut command, SCREEN)
}

fn resize(guest: &Guest, rows: usize, columns: usize) -> Result<()> {
    let (rows, columns) = (rows.to_string(), columns.to_string());
    // The terminal is there when the program has drawn something, or soon.
    let deadline = now() + SCREEN;
    let terminal = loop {
        match terminal_below(guest.id()) {
            Ok(terminal) => break terminal,
            Err(error) if now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    output(tool("stty").arg("-F").arg(terminal).args(["rows", &rows, "cols", &columns])).map(drop)
}

/// The terminal of the program that `script` runs.
fn terminal_below(script: u32) -> Result<PathBuf> {
    let children = fs::read_to_string(format!("/proc/{script}/task/{script}/children"))?;
    let child = children.split_whitespace().next().context("the program has ended")?;
    Ok(fs::read_link(format!("/proc/{child}/fd/0"))?)
}

pub fn stream(course: &Course) -> Result<String> {
    let sent = noise(7, course.size.stream);
    let mut child = course.command(&["-i"], &["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let begin = now();
    let (mut input, mut output) =
        (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
    let mut received = Vec::with_capacity(sent.len());
    thread::scope(|scope| {
        let feeder = scope.spawn(|| input.write_all(&sent).map(|()| drop(input)));
        output.read_to_end(&mut received)?;
        feeder.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
    })?;
    let status = child.wait()?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{status}");
    let same = received.iter().zip(&sent).take_while(|(a, b)| a == b).count();
    ensure!(received == sent, "{} of {} bytes came, {same} of them right", received.len(), sent.len());
    let one_way = course.script(
        "read a x </proc/uptime; dd if=/dev/zero bs=64k count=320 2>/dev/null; read b x </proc/uptime; \
         echo $a $b >/mnt/times",
    )?;
    let out = between(&fs::read_to_string(course.files().join("times"))?)?;
    Ok(format!("{}, intact; only out: {}", rate(sent.len() as u64, took), rate(one_way.len() as u64, out)))
}
