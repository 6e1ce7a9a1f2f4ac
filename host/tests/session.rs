//! A small guest (`guests/console.s`) behind the real binary: pipes and exit status.

#[path = "common/guest.rs"]
mod guest;
#[cfg(unix)]
#[path = "common/signals.rs"]
mod signals;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use guest::ConsoleImage;

/// No run takes that long; a hanging one fails instead.
const LIMIT: [&str; 2] = ["--timeout", "60"];

fn spawn(image: &ConsoleImage, flags: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_env86"));
    command.arg("boot").args(LIMIT).args(flags).arg(image.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("env86 starts")
}

/// Boots the guest with piped input.
fn boot(input: &[u8], flags: &[&str]) -> Output {
    let image = ConsoleImage::new();
    let mut child = spawn(&image, flags);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn piped_input_is_answered_and_its_end_ends_the_run() {
    let run = boot(b"hello\n\x01x\x04\x03 world\n", &[]);
    assert_eq!(text(&run.stdout), "ready\r\nhello\n\x01x\x04\x03 world\n");
    assert_eq!((text(&run.stderr).as_str(), run.status.code()), ("", Some(0)));
}

#[test]
fn large_piped_input_is_not_lost() {
    let input: Vec<u8> = (0..20_000u32).map(|i| b'a' + (i % 16) as u8).collect();
    let run = boot(&input, &[]);
    assert!(run.stdout.strip_prefix(b"ready\r\n").is_some_and(|echo| echo == input));
}

#[test]
fn old_flags_change_nothing_about_it() {
    let run = boot(b"hi\n", &["-ttyS0", "-cold", "-no-console", "-no-keyboard", "-no-mouse"]);
    assert_eq!(text(&run.stdout), "ready\r\nhi\n");
    assert_eq!((text(&run.stderr).as_str(), run.status.code()), ("", Some(0)));
}

#[test]
fn guest_that_halts_is_status_0_and_one_that_crashes_125() {
    let run = boot(b"bye\nQ", &[]);
    assert_eq!((text(&run.stdout).as_str(), run.status.code()), ("ready\r\nbye\n", Some(0)));
    let run = boot(b"T", &[]);
    assert_eq!(run.status.code(), Some(125));
    let report = text(&run.stderr);
    assert!(report.starts_with("env86: The guest crashed (triple fault): "), "{report}");
    assert!(report.contains("EIP="), "{report}");
}

#[test]
fn timeout_is_status_124() {
    let run = boot(b"L", &["--timeout", "0.5"]);
    assert_eq!(run.status.code(), Some(124));
    assert!(text(&run.stderr).starts_with("env86: Timed out after 0.5 s: "), "{}", text(&run.stderr));
}

#[test]
fn exit_on_text_ends_the_run_with_the_old_message() {
    let run = boot(b"almost done.", &["-exit-on", "done"]);
    assert_eq!(text(&run.stdout), "ready\r\nalmost done.\r\nExit pattern detected. Exiting...\n");
    assert_eq!(run.status.code(), Some(0));
    let run = boot(b"done", &["--exit-on", "done", "--quiet"]);
    assert_eq!(text(&run.stdout), "ready\r\ndone");
}

#[test]
fn closed_output_is_status_141() {
    let image = ConsoleImage::new();
    let mut child = spawn(&image, &[]);
    child.stdin.take().unwrap().write_all(b"F").unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1000]).unwrap();
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[cfg(unix)]
#[test]
fn signals_end_the_run_with_their_number() {
    use rustix::process::{Pid, Signal, kill_process};
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)];
    for (signal, status) in signals.into_iter().filter(|(signal, _)| signals::is_heard(*signal)) {
        let image = ConsoleImage::new();
        let mut child = spawn(&image, &[]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\r\n");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
    }
}

#[test]
fn json_result_tells_how_it_ended() {
    let run = boot(b"T", &["--json"]);
    let lines: Vec<serde_json::Value> =
        text(&run.stderr).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines[0]["level"], "error");
    let end = &lines[1];
    assert_eq!(
        (&end["event"], &end["reason"], &end["exit_code"]),
        (&"end".into(), &"triple-fault".into(), &125.into())
    );
    assert!(end["instructions"].as_u64().unwrap() > 100);
    assert!(end["report"].as_str().unwrap().contains("EIP="));
}

#[test]
fn deterministic_runs_have_the_same_state_hash() {
    let hash = || {
        let run = boot(b"", &["--clock", "deterministic", "--state-hash"]);
        let lines = text(&run.stderr);
        let hash = lines.lines().find_map(|line| line.strip_prefix("state-hash ")).map(str::to_owned);
        assert!(lines.lines().any(|line| line.starts_with("instructions ")), "{lines}");
        hash.unwrap_or_else(|| panic!("no hash in {lines}"))
    };
    let first = hash();
    assert_eq!(first.len(), 16);
    assert_eq!(first, hash());
}

#[test]
fn kernel_that_is_none_says_so() {
    let image = ConsoleImage::new();
    std::fs::write(image.path().join("kernel"), "#!/bin/sh\n").unwrap();
    let run = spawn(&image, &[]).wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let error = text(&run.stderr);
    assert!(error.starts_with("env86: Cannot boot the kernel: ./kernel of "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn kernel_that_needs_more_memory_gets_a_hint() {
    let run = boot(b"", &["--memory", "1M"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("hint: give the guest more memory"), "{}", text(&run.stderr));
}
