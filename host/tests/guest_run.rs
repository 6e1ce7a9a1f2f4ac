//! `env86 run` in a Linux guest: a command in it behaves like a local one, whatever it is given for
//! streams and however it ends.
//!
//! The image comes from `cargo xtask test`, which names it in `ENV86_FIXTURES`.
#![cfg(unix)]

#[path = "common/signals.rs"]
mod signals;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

fn image() -> PathBuf {
    let fixtures =
        std::env::var_os("ENV86_FIXTURES").expect("run by `cargo xtask test`, which sets ENV86_FIXTURES");
    PathBuf::from(fixtures).join("mini-state")
}

/// `env86 run FLAGS IMAGE -- COMMAND`.
fn command(flags: &[&str], command: &[&str]) -> Command {
    let mut env86 = Command::new(env!("CARGO_BIN_EXE_env86"));
    // What hangs, fails.
    env86.args(["run", "--timeout", "300"]).args(flags).arg(image()).arg("--").args(command);
    env86
}

/// Runs with `input` on a pipe. Standard output, standard error, status.
fn with_pipe(flags: &[&str], line: &[&str], input: &[u8]) -> Output {
    let mut child = command(flags, line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        // A command that does not read everything is none of the test's business.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn streams_stay_apart_and_status_is_the_commands() {
    let run = with_pipe(&["-i"], &["sh", "-c", "cat; echo err >&2; exit 7"], b"hi\n");
    assert_eq!((text(&run.stdout), text(&run.stderr)), ("hi\n".into(), "err\n".into()));
    assert_eq!(run.status.code(), Some(7));
}

#[test]
fn bytes_pass_unchanged_in_both_directions() {
    // Every byte value, not a multiple of any buffer.
    let input: Vec<u8> = (0..300_001u32).map(|n| (n.wrapping_mul(0x9E37_79B1) >> 23) as u8).collect();
    let run = with_pipe(&["-i"], &["cat"], &input);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(run.stdout == input, "{} of {} bytes", run.stdout.len(), input.len());
}

/// What a command's standard input can be.
#[derive(Clone, Copy, Debug)]
enum Stdin {
    Pipe,
    Null,
    Closed,
    Terminal,
}

/// A pseudo-terminal: the user's end, and the program's.
fn terminal() -> (File, impl Fn() -> Stdio) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
    let tty = move || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
    (File::from(user), tty)
}

fn is_raw(user: &File) -> bool {
    let modes = tcgetattr(user).unwrap().local_modes;
    !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

#[test]
fn status_is_right_with_every_kind_of_input() {
    let ends: &[(&[&str], &[&str], i32)] = &[
        (&[], &["true"], 0),
        (&[], &["sh", "-c", "exit 1"], 1),
        (&[], &["sh", "-c", "exit 3"], 3),
        (&[], &["/etc"], 126),
        (&[], &["no-such-command"], 127),
        (&[], &["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["--timeout", "1.5"], &["sleep", "100"], 124),
    ];
    for stdin in [Stdin::Pipe, Stdin::Null, Stdin::Closed, Stdin::Terminal] {
        for (flags, line, status) in ends {
            for more in [&[][..], &["-i"], &["-i", "-t"]] {
                let (user, tty) = terminal();
                let mut env86 = command(&[*flags, more].concat(), line);
                env86.stdout(Stdio::null()).stderr(Stdio::piped());
                match stdin {
                    Stdin::Pipe => env86.stdin(Stdio::piped()),
                    Stdin::Null => env86.stdin(Stdio::null()),
                    Stdin::Terminal => env86.stdin(tty()),
                    // A shell closes it; the standard library cannot.
                    Stdin::Closed => {
                        let program = env86.get_program().to_owned();
                        let arguments: Vec<_> = env86.get_args().map(ToOwned::to_owned).collect();
                        env86 = Command::new("sh");
                        env86.args(["-c", "exec \"$@\" <&-", "sh"]).arg(program).args(arguments);
                        env86.stdout(Stdio::null()).stderr(Stdio::piped())
                    }
                };
                let run = env86.spawn().unwrap().wait_with_output().unwrap();
                let what = format!("{stdin:?} {flags:?} {more:?} {line:?}: {}", text(&run.stderr));
                assert_eq!(run.status.code(), Some(*status), "{what}");
                assert!(!is_raw(&user), "the terminal is still raw: {what}");
            }
        }
    }
}

#[test]
fn environment_directory_and_user_are_as_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# comment\nFROM_FILE=file\nBOTH=file\n\nINHERITED\n").unwrap();
    let flags = ["-e", "BOTH=flag value", "-w", "/etc", "-u", "1234:1235", "--env-file"];
    let flags = [&flags[..], &[file.path().to_str().unwrap()]].concat();
    let line = ["sh", "-c", "echo \"$FROM_FILE,$BOTH,$INHERITED\"; pwd; id -u; id -g"];
    let run = command(&flags, &line).env("INHERITED", "here").stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&run.stdout), "file,flag value,here\n/etc\n1234\n1235\n", "{}", text(&run.stderr));
}

#[test]
fn terminal_is_raw_has_its_size_and_is_restored() {
    let (mut user, tty) = terminal();
    tcsetwinsize(&user, Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut env86 = command(&[], &["sh", "-c", script]);
    // Its own session, so that the terminal's changes of size reach it.
    let child = env86.stdin(tty()).stdout(tty()).stderr(tty()).process_group(0).spawn().unwrap();
    let mut seen = String::new();
    wait_for(&mut user, &mut seen, "33 77\r\nready\r\n");
    assert!(is_raw(&user));
    tcsetwinsize(&user, Winsize { ws_row: 44, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    kill_process(pid(&child), Signal::WINCH).unwrap();
    wait_for(&mut user, &mut seen, "44 99\r\n");
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!is_raw(&user));
}

/// Everything that can be set for a terminal.
fn settings(user: &File) -> String {
    format!("{:?}", tcgetattr(user).unwrap())
}

#[test]
fn terminal_is_as_before_however_the_run_ends() {
    let sleep = "echo ready; exec sleep 100";
    // What happens, and the status it gives.
    let ends: &[(&[&str], &str, Option<Signal>, i32)] = &[
        (&[], "exit 3", None, 3),
        (&[], "poweroff -f; sleep 100", None, 125),
        (&["-w", "/no/such/directory"], "true", None, 126),
        (&["--timeout", "2"], sleep, None, 124),
        (&[], sleep, Some(Signal::TERM), 128 + 15),
        (&[], sleep, Some(Signal::HUP), 128 + 1),
        (&[], sleep, Some(Signal::INT), 128 + 2),
    ];
    let heard = |signal: &Option<Signal>| signal.is_none_or(signals::is_heard);
    for (flags, script, signal, status) in ends.iter().filter(|(_, _, signal, _)| heard(signal)) {
        let (mut user, tty) = terminal();
        let before = settings(&user);
        let mut env86 = command(flags, &["sh", "-c", script]);
        let mut child =
            env86.stdin(tty()).stdout(tty()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        if let Some(signal) = signal {
            wait_for(&mut user, &mut String::new(), "ready\r\n");
            assert!(is_raw(&user));
            kill_process(pid(&child), *signal).unwrap();
        }
        let ended = child.wait().unwrap().code();
        assert_eq!((ended, settings(&user)), (Some(*status), before), "{flags:?} {script} {signal:?}");
    }
    // As `timeout` ends it, which cannot be caught there: it returns what it always does.
    let (user, tty) = terminal();
    let before = settings(&user);
    let env86 = command(&["-it"], &["sleep", "100"]);
    let mut timeout = Command::new("timeout");
    timeout.arg("4").arg(env86.get_program()).args(env86.get_args());
    let status = timeout.stdin(tty()).stdout(tty()).stderr(Stdio::null()).status().unwrap();
    assert_eq!((status.code(), settings(&user)), (Some(124), before));
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn wait_for(user: &mut File, seen: &mut String, what: &str) {
    let mut buffer = [0; 1000];
    while !seen.contains(what) {
        let n = user.read(&mut buffer).unwrap_or(0);
        assert!(n > 0, "{what:?} is not in {seen:?}");
        seen.push_str(&text(&buffer[..n]));
    }
}

/// Starts a command that says when it is ready.
fn ready(flags: &[&str], script: &str) -> (Child, impl Read) {
    let mut child =
        command(flags, &["sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = [0; 6];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    (child, stdout)
}

#[test]
fn signals_reach_the_command() {
    let signals = [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1), (Signal::QUIT, 3)];
    for (signal, number) in signals.into_iter().filter(|(signal, _)| signals::is_heard(*signal)) {
        let script =
            format!("trap 'echo got {number}; exit 9' {number}; echo ready; while :; do sleep 0.1; done");
        let (mut child, mut stdout) = ready(&[], &script);
        kill_process(pid(&child), signal).unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(
            (rest.as_str(), child.wait().unwrap().code()),
            (format!("got {number}\n").as_str(), Some(9))
        );
    }
    let (mut child, _stdout) = ready(&[], "echo ready; exec sleep 100");
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn second_sigint_ends_a_command_that_ignores_it() {
    if !signals::is_heard(Signal::INT) {
        return;
    }
    let (mut child, mut stdout) = ready(&[], "trap 'echo once' INT; echo ready; while :; do sleep 0.1; done");
    kill_process(pid(&child), Signal::INT).unwrap();
    let mut line = [0; 5];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"once\n");
    kill_process(pid(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
}

#[test]
fn reader_that_goes_away_ends_the_run_as_a_local_command() {
    let mut child = command(&[], &["yes"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut some = [0; 10];
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    let status = child.wait().unwrap();
    assert!(status.code() == Some(141) || status.signal() == Some(13), "{status:?}");
}

#[test]
fn guest_that_switches_itself_off_is_told_about() {
    let run = command(&[], &["sh", "-c", "poweroff -f; sleep 100"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(125), "{}", text(&run.stderr));
    assert!(text(&run.stderr).starts_with("env86: The guest switched itself off"), "{}", text(&run.stderr));
}

#[test]
fn service_that_dies_and_guest_that_restarts_end_the_run() {
    for script in ["kill -9 $(pidof guest86); sleep 1000", "reboot -f; sleep 1000"] {
        let run = command(&[], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(run.status.code(), Some(125), "{script}: {}", text(&run.stderr));
        assert!(text(&run.stderr).contains("the guest service is gone"), "{}", text(&run.stderr));
    }
}

#[test]
fn summary_and_exit_code_file_have_the_status() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("status");
    let flags = ["--json", "--exit-code-file", file.to_str().unwrap()];
    let run = command(&flags, &["sh", "-c", "exit 3"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(3));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "3\n");
    let summary: serde_json::Value = serde_json::from_slice(&run.stderr).unwrap();
    assert_eq!((&summary["reason"], &summary["exit_code"]), (&"exited".into(), &3.into()));
    assert!(summary["seconds_before_start"].as_f64() <= summary["seconds"].as_f64());
}

#[test]
fn image_is_not_changed() {
    let times = || {
        let entries = std::fs::read_dir(image()).unwrap().map(Result::unwrap);
        let mut files: Vec<_> =
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap())).collect();
        files.sort();
        files
    };
    let before = times();
    let run = command(&[], &["sh", "-c", "echo new >/root/new && rm -r /bin && cat /root/new"]);
    let output = { run }.stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&output.stdout), "new\n", "{}", text(&output.stderr));
    assert_eq!(times(), before);
    let again = command(&[], &["ls", "/root/new"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
}

#[test]
fn no_program_of_the_hosts_path_is_started() {
    // The terminal's size could be had from `tput`, and is not.
    let directory = tempfile::tempdir().unwrap();
    let (programs, mark) = (directory.path(), directory.path().join("mark"));
    for name in ["tput", "stty", "sh"] {
        let program = programs.join(name);
        std::fs::write(&program, format!("#!/bin/sh\necho {name} >>{}\n", mark.display())).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    for flags in [&[][..], &["-t"]] {
        let mut run = command(flags, &["echo", "hi"]);
        let output = run.env("PATH", programs).stdin(Stdio::null()).output().unwrap();
        assert_eq!(text(&output.stdout).trim_end(), "hi", "{}", text(&output.stderr));
    }
    assert!(!mark.exists(), "started: {}", std::fs::read_to_string(&mark).unwrap());
}

#[test]
fn files_of_the_process_are_the_commands_streams() {
    // Not a pipe: a file that is written at its own position.
    let file = tempfile::tempfile().unwrap();
    let out: OwnedFd = file.try_clone().unwrap().into();
    let status = command(&[], &["echo", "into the file"]).stdin(Stdio::null()).stdout(out).status().unwrap();
    assert!(status.success());
    let mut file = file;
    let mut written = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut written).unwrap();
    assert_eq!(written, "into the file\n");
}

#[test]
fn directory_of_the_host_is_the_guests_too() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("from-host"), "host\n").unwrap();
    let mount = format!("{}:/mnt/a b", directory.path().display());
    let script =
        "cat '/mnt/a b/from-host' && echo guest >'/mnt/a b/from-guest' && ln -s /etc '/mnt/a b/link'";
    let run = command(&["-m", &mount], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!((text(&run.stdout), run.status.code()), ("host\n".into(), Some(0)), "{}", text(&run.stderr));
    assert_eq!(std::fs::read_to_string(directory.path().join("from-guest")).unwrap(), "guest\n");
    assert_eq!(std::fs::read_link(directory.path().join("link")).unwrap(), PathBuf::from("/etc"));
    let refused = command(&["-v", &format!("{mount}:ro")], &["touch", "/mnt/a b/more"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("Read-only file system"), "{}", text(&refused.stderr));
}

#[test]
fn lines_that_several_programs_append_are_all_there() {
    let directory = tempfile::tempdir().unwrap();
    let script = "cd /mnt; for w in 1 2 3; do (n=0; while [ $n -lt 100 ]; do echo $w $n >>log; n=$((n+1)); done) & \
                  done; wait; sort -u log | wc -l";
    for kind in ["", ":overlay"] {
        let mount = format!("{}:/mnt{kind}", directory.path().display());
        let run = command(&["-m", &mount], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(text(&run.stdout), "300\n", "{kind} {}", text(&run.stderr));
        let _ = std::fs::remove_file(directory.path().join("log"));
    }
}

#[test]
fn tree_of_files_goes_into_a_mounted_directory_and_out_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let mount = format!("{}:/mnt", directory.path().display());
    let script = "cd /mnt && mkdir t && i=0 && while [ $i -lt 300 ]; do mkdir -p t/d$((i%10)) && \
                  echo $i >t/d$((i%10))/f$i && i=$((i+1)); done && tar cf /tmp/t.tar t && mkdir again && \
                  tar xf /tmp/t.tar -C again && diff -r t again/t && find again -type f | wc -l";
    let run = command(&["-m", &mount], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&run.stdout), "300\n", "{}", text(&run.stderr));
    for number in 0..300 {
        let file = directory.path().join(format!("again/t/d{}/f{number}", number % 10));
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{number}\n"));
    }
}

#[test]
fn overlay_mount_takes_writes_that_the_host_never_sees() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("sub/file"), "host\n").unwrap();
    let mount = format!("{}:/mnt:overlay", directory.path().display());
    let script = "cat /mnt/sub/file && echo guest >>/mnt/sub/file && mv /mnt/sub/file /mnt/moved && \
                  cat /mnt/moved && mkdir /mnt/new && cp /bin/busybox /mnt/new && cmp /bin/busybox /mnt/new/busybox";
    let run = command(&["-m", &mount], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(
        (text(&run.stdout), run.status.code()),
        ("host\nhost\nguest\n".into(), Some(0)),
        "{}",
        text(&run.stderr)
    );
    assert_eq!(std::fs::read_to_string(directory.path().join("sub/file")).unwrap(), "host\n");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn writes_of_an_overlay_stay_in_their_directory_for_the_next_run() {
    let base = tempfile::tempdir().unwrap();
    let [lower, upper] = ["lower", "upper"].map(|name| base.path().join(name));
    std::fs::create_dir_all(lower.join("sub")).unwrap();
    std::fs::write(lower.join("sub/file"), "host\n").unwrap();
    std::fs::write(lower.join("other"), "other\n").unwrap();
    let mount = format!("{}:/mnt:overlay={}", lower.display(), upper.display());
    let script = "cd /mnt && echo guest >>sub/file && rm other && mkdir new && mv sub/file new/moved && \
                  cp /bin/busybox new && mkdir t && cp -r new t && rm -r t";
    let run = command(&["-m", &mount], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert_eq!(std::fs::read_to_string(lower.join("sub/file")).unwrap(), "host\n");
    assert_eq!(std::fs::read_to_string(lower.join("other")).unwrap(), "other\n");
    assert_eq!(std::fs::read_to_string(upper.join("new/moved")).unwrap(), "host\nguest\n");
    assert!(upper.join(".wh.other").exists() && upper.join("sub/.wh.file").exists());
    let script = "cd /mnt && cmp /bin/busybox new/busybox && cat new/moved && find . | sort";
    for flags in [&[][..], &["--mount-by-service"]] {
        let flags = [flags, &["-m", &mount]].concat();
        let run = command(&flags, &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
        let listed = "host\nguest\n.\n./new\n./new/busybox\n./new/moved\n./sub\n";
        assert_eq!(text(&run.stdout), listed, "{}", text(&run.stderr));
    }
    let inside = format!("{}:/mnt:overlay={}", lower.display(), lower.join("sub").display());
    let run = command(&["-m", &inside], &["true"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(125));
    assert!(text(&run.stderr).contains("one is inside the other"), "{}", text(&run.stderr));
}

#[test]
fn several_directories_are_mounted_from_the_device() {
    let base = tempfile::tempdir().unwrap();
    let [one, two, three, upper] = ["one", "two", "three", "upper"].map(|name| base.path().join(name));
    for directory in [&one, &two, &three] {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("file"), "host\n").unwrap();
    }
    let mounts = [
        format!("{}:/mnt/o ne", one.display()),
        format!("{}:/mnt/two:overlay={}", two.display(), upper.display()),
        format!("{}:/mnt/three:ro", three.display()),
    ];
    let flags = ["-m", &mounts[0], "-m", &mounts[1], "-m", &mounts[2]];
    let script = "cat /mnt/*/file && echo guest >'/mnt/o ne/new' && echo guest >/mnt/two/new && \
                  ! touch /mnt/three/new 2>/dev/null && grep -c '/mnt/.*trans=virtio' /proc/mounts && \
                  ls -A /tmp | grep -c hostshare";
    let run = command(&flags, &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&run.stdout), "host\nhost\nhost\n3\n0\n", "{}", text(&run.stderr));
    for new in [one.join("new"), upper.join("new")] {
        assert_eq!(std::fs::read_to_string(new).unwrap(), "guest\n");
    }
    assert_eq!(std::fs::read_dir(&three).unwrap().count(), 1);
}

#[test]
fn mounts_through_the_service_are_the_same_directories() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("from-host"), "host\n").unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("file"), "other\n").unwrap();
    let mounts =
        [format!("{}:/mnt/a", directory.path().display()), format!("{}:/mnt/b:ro", other.path().display())];
    let flags = ["--mount-by-service", "-m", &mounts[0], "-m", &mounts[1]];
    let script = "cat /mnt/a/from-host /mnt/b/file && head -c 300000 /dev/urandom >/mnt/a/large && \
                  sha256sum </mnt/a/large && ! touch /mnt/b/x 2>/dev/null && ! grep -q virtio.*/mnt/a /proc/mounts";
    let run = command(&flags, &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{} {}", text(&run.stdout), text(&run.stderr));
    assert!(text(&run.stdout).starts_with("host\nother\n"), "{}", text(&run.stdout));
    let sum = Command::new("sha256sum")
        .stdin(File::open(directory.path().join("large")).unwrap())
        .output()
        .unwrap();
    assert!(text(&run.stdout).ends_with(&text(&sum.stdout)), "{} {}", text(&run.stdout), text(&sum.stdout));
}

/// A program that maps a file; see `guests/mapper.s`.
fn mapper() -> Vec<u8> {
    let hex: Vec<u8> = include_str!("guests/mapper.hex").bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
    hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn mapped_files_are_read_and_written_through_a_mount() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("mapper");
    std::fs::write(&program, mapper()).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mount = format!("{}:/mnt", directory.path().display());
    let mut content = b"host line\n".to_vec();
    content.resize(9000, b'.');
    // The program comes from the mount too. What it maps is what the guest, and the host, see afterwards.
    let file = directory.path().join("file");
    std::fs::write(&file, &content).unwrap();
    let script = "cd /mnt && ./mapper file && echo added >>file && ./mapper file && sync && tail -c 6 file";
    let run = command(&["-m", &mount], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    let printed = "host line\nhost line\nadded\n";
    assert_eq!((text(&run.stdout), run.status.code()), (printed.into(), Some(0)), "{}", text(&run.stderr));
    let mut expected = content.clone();
    expected[4096..4104].copy_from_slice(b"mapped\n\0");
    expected.extend(b"added\n");
    assert!(std::fs::read(&file).unwrap() == expected);
    // Without a word about it, the pages reach the host before the run is over.
    std::fs::write(&file, &content).unwrap();
    let run = command(&["-m", &mount], &["/mnt/mapper", "/mnt/file"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&run.stdout), "host line\n", "{}", text(&run.stderr));
    assert!(std::fs::read(&file).unwrap() == expected[..9000]);
    let overlay = format!("{}:/mnt:overlay", directory.path().display());
    std::fs::write(directory.path().join("file"), &content).unwrap();
    let script = "cd /mnt && ./mapper file && tail -c +4097 file | head -n 1";
    let run = command(&["-m", &overlay], &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&run.stdout), "host line\nmapped\n", "{}", text(&run.stderr));
    assert!(std::fs::read(directory.path().join("file")).unwrap() == content, "the host's file stays");
}

#[test]
fn service_stays_small_whatever_goes_through_it() {
    let input = vec![7; 3 << 20];
    // Commands beside the one whose streams are busy.
    let script = "for n in 1 2 3 4 5 6; do sleep 1 & done; cat; wait; \
                  grep -E 'VmHWM|VmRSS' /proc/$(pidof guest86)/status >&2";
    let run = with_pipe(&["-i"], &["sh", "-c", script], &input);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(run.stdout == input, "{} bytes", run.stdout.len());
    let errors = text(&run.stderr);
    let sizes: Vec<u32> = errors.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(sizes.len(), 2, "{errors}");
    assert!(sizes.iter().all(|kilobytes| (100..4096).contains(kilobytes)), "{errors}");
}

/// An image that boots, whose first program is changed.
fn with_init(change: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let mini = image().with_file_name("mini");
    let copy = tempfile::tempdir().unwrap();
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(mini.join("fs.json")).unwrap()).unwrap();
    let find = |value: &serde_json::Value, name: &str| {
        value.as_array().unwrap().iter().position(|row| row[0] == name).unwrap()
    };
    let sbin = find(&index["fsroot"], "sbin");
    let init = find(&index["fsroot"][sbin][6], "init");
    let row = &mut index["fsroot"][sbin][6][init];
    let text = change(std::fs::read_to_string(mini.join("fs").join(row[6].as_str().unwrap())).unwrap());
    row[1] = text.len().into();
    row[6] = "init.bin".into();
    std::fs::write(copy.path().join("fs.json"), index.to_string()).unwrap();
    std::fs::copy(mini.join("image.json"), copy.path().join("image.json")).unwrap();
    std::fs::create_dir(copy.path().join("fs")).unwrap();
    for entry in std::fs::read_dir(mini.join("fs")).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), copy.path().join("fs").join(entry.file_name())).unwrap();
    }
    std::fs::write(copy.path().join("fs/init.bin"), text).unwrap();
    copy
}

#[test]
fn guest_that_does_not_find_the_device_gets_its_mounts_from_the_service() {
    // As in a kernel without the driver.
    let line = "busybox mount -t sysfs sysfs /sys\n";
    let hide = "busybox mount -t tmpfs tmpfs /sys/bus/virtio\n";
    let image = with_init(|text| {
        assert!(text.contains(line));
        text.replace(line, &[line, hide].concat())
    });
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("from-host"), "host\n").unwrap();
    let mount = format!("{}:/mnt", directory.path().display());
    let script = "cat /mnt/from-host; echo guest >/mnt/from-guest; grep ' /mnt ' /proc/mounts";
    let run = run_in(image.path(), &["-m", &mount], &["sh", "-c", script]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(text(&run.stdout).starts_with("host\n"), "{}", text(&run.stdout));
    assert!(text(&run.stdout).contains("trans=fd"), "{}", text(&run.stdout));
    assert_eq!(std::fs::read_to_string(directory.path().join("from-guest")).unwrap(), "guest\n");
}

/// The image that boots, without the guest service. What is in it otherwise stays where it is.
fn without_service() -> tempfile::TempDir {
    let mini = image().with_file_name("mini");
    let copy = tempfile::tempdir().unwrap();
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(mini.join("fs.json")).unwrap()).unwrap();
    let rows = |value: &mut serde_json::Value, name: &str| -> Option<usize> {
        value.as_array()?.iter().position(|row| row[0] == name)
    };
    let root = &mut index["fsroot"];
    let bin = rows(root, "bin").unwrap();
    let service = rows(&mut root[bin][6], "guest86").unwrap();
    root[bin][6].as_array_mut().unwrap().remove(service);
    std::fs::write(copy.path().join("fs.json"), index.to_string()).unwrap();
    std::fs::copy(mini.join("image.json"), copy.path().join("image.json")).unwrap();
    std::os::unix::fs::symlink(mini.join("fs"), copy.path().join("fs")).unwrap();
    copy
}

fn run_in(image: &std::path::Path, flags: &[&str], line: &[&str]) -> Output {
    let mut env86 = Command::new(env!("CARGO_BIN_EXE_env86"));
    env86.args(["run", "--timeout", "300"]).args(flags).arg(image).arg("--").args(line);
    env86.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn guest_without_service_runs_commands_at_its_console() {
    let image = without_service();
    let run =
        run_in(image.path(), &["-e", "A=it's", "-w", "/etc"], &["sh", "-c", "echo \"$A\"; pwd; exit 7"]);
    assert_eq!(
        (text(&run.stdout), run.status.code()),
        ("it's\n/etc\n".into(), Some(7)),
        "{}",
        text(&run.stderr)
    );
    assert!(
        text(&run.stderr).starts_with("env86: warning: the guest has no service"),
        "{}",
        text(&run.stderr)
    );
    let run = run_in(image.path(), &["-i"], &["cat"]);
    assert_eq!(run.status.code(), Some(125), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("No guest service") && text(&run.stderr).contains("--install-guest"));
    let run = run_in(image.path(), &[], &["sh", "-c", "reboot -f; sleep 1000"]);
    assert_eq!(run.status.code(), Some(125), "{}", text(&run.stderr));
    let run = run_in(image.path(), &["--boot-timeout", "0.1"], &["true"]);
    assert_eq!(run.status.code(), Some(125), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("No guest service"), "{}", text(&run.stderr));
}

#[test]
fn service_is_installed_into_a_guest_without_one() {
    let image = without_service();
    let home = tempfile::tempdir().unwrap();
    // The one of the fixture.
    let mini = self::image().with_file_name("mini-state");
    let mut extract = Command::new(env!("CARGO_BIN_EXE_env86"));
    let out = extract
        .args(["run", "--timeout", "300"])
        .arg(&mini)
        .args(["--", "cat", "/bin/guest86"])
        .output()
        .unwrap();
    std::fs::write(home.path().join("guest86"), &out.stdout).unwrap();
    let mut env86 = Command::new(env!("CARGO_BIN_EXE_env86"));
    env86
        .env("ENV86_PATH", home.path())
        .args(["run", "--timeout", "300", "--install-guest", "-i"])
        .arg(image.path());
    let child = env86.args(["--", "sh", "-c", "cat; echo err >&2; exit 3"]).stdin(Stdio::piped());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let run = child.wait_with_output().unwrap();
    assert_eq!(
        (text(&run.stdout), text(&run.stderr), run.status.code()),
        ("in\n".into(), "err\n".into(), Some(3))
    );
    let index = std::fs::read_to_string(image.path().join("fs.json")).unwrap();
    assert!(!index.contains("guest86"), "the image was changed");
}

#[test]
fn full_screen_program_draws_follows_resizes_and_saves() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "first\nsecond\n").unwrap();
    let mount = format!("{}:/mnt", directory.path().display());
    let (mut user, tty) = terminal();
    let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&user, size(24, 80)).unwrap();
    let mut env86 = command(&["-m", &mount], &["vi", "/mnt/file"]);
    let mut child =
        env86.env("TERM", "xterm").stdin(tty()).stdout(tty()).stderr(tty()).process_group(0).spawn().unwrap();
    let mut seen = String::new();
    // The last line of 24 has the file's name and position.
    wait_for(&mut user, &mut seen, "second");
    wait_for(&mut user, &mut seen, "\u{1b}[24;1H");
    seen.clear();
    for (rows, columns) in [(40, 100), (10, 30), (30, 120)] {
        tcsetwinsize(&user, size(rows, columns)).unwrap();
        kill_process(pid(&child), Signal::WINCH).unwrap();
        // It draws its last line where that is now.
        wait_for(&mut user, &mut seen, &format!("\u{1b}[{rows};1H"));
        seen.clear();
    }
    for (typed, drawn) in [("ddi", "I /mnt/file"), ("hello ", "\u{1b}[1;7H"), ("\u{1b}", "- /mnt/file")] {
        user.write_all(typed.as_bytes()).unwrap();
        wait_for(&mut user, &mut seen, drawn);
        seen.clear();
    }
    user.write_all(b":wq\r").unwrap();
    let drain = thread::spawn(move || {
        let mut buffer = [0; 1000];
        while user.read(&mut buffer).is_ok_and(|count| count > 0) {}
        user
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(directory.path().join("file")).unwrap(), "hello second\n");
    drop(env86);
    drop(tty);
    let _ = drain.join();
}
