//! The command line without a guest: help, versions, flags, exit status.

mod common;

use common::{Run, env86};

fn run(arguments: &[&str]) -> Run {
    let home = tempfile::tempdir().unwrap();
    env86(home.path(), arguments)
}

/// The run failed with one line of error (and a hint), status 1 and nothing on standard output.
fn assert_error(run: &Run, text: &str) {
    assert_eq!(run.status, 1, "{}", run.err);
    assert_eq!(run.out, "");
    let mut lines = run.err.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("env86: "), "{}", run.err);
    assert!(first.contains(text), "{:?} is not in {}", text, run.err);
    assert!(lines.all(|line| line.starts_with("hint: ")), "{}", run.err);
}

#[test]
fn no_arguments_and_unknown_commands_show_help_on_stderr() {
    let none = run(&[]);
    assert_eq!((none.status, none.out.as_str()), (0, ""));
    assert!(none.err.contains("Usage: env86"), "{}", none.err);
    let unknown = run(&["frobnicate"]);
    assert_eq!((unknown.status, unknown.out.as_str()), (0, ""));
    assert!(unknown.err.starts_with("env86: Unknown command: frobnicate\n"), "{}", unknown.err);
    assert!(unknown.err.contains("Usage: env86"));
}

#[test]
fn version_is_printed_alone_or_with_the_name() {
    let old = run(&["-v"]);
    assert_eq!((old.status, old.err.as_str()), (0, ""));
    assert_eq!(old.out.split_whitespace().count(), 1, "{}", old.out);
    for flag in ["--version", "-V", "-version"] {
        let new = run(&[flag]);
        assert_eq!((new.status, new.out.as_str()), (0, format!("env86 {}", old.out).as_str()), "{flag}");
    }
}

#[test]
fn help_lists_every_command() {
    for flag in ["--help", "-h", "-help", "help"] {
        let help = run(&[flag]);
        assert_eq!((help.status, help.err.as_str()), (0, ""), "{flag}");
        for verb in
            ["boot", "run", "pull", "create", "prepare", "serve", "network", "completions", "snapshot"]
        {
            assert!(help.out.lines().any(|line| line.trim_start().starts_with(verb)), "{flag}: {verb}");
        }
    }
}

#[test]
fn help_of_a_command_is_on_stdout() {
    for line in [&["boot", "-h"][..], &["boot", "-help"], &["boot", "--help"], &["help", "boot"]] {
        let help = run(line);
        assert_eq!((help.status, help.err.as_str()), (0, ""), "{line:?}");
        for flag in ["--ttyS0", "--exit-on", "--cold", "--memory", "--timeout", "--kernel", "--ctrl-d"] {
            assert!(help.out.contains(flag), "{line:?}: {flag}");
        }
        assert!(!help.out.contains("--state-hash"));
    }
    let later = run(&["pull", "-h"]);
    assert_eq!(later.status, 0);
    assert!(later.out.contains("not available yet"), "{}", later.out);
}

#[test]
fn snapshot_commands_have_help_and_take_flags_in_either_spelling() {
    let help = run(&["snapshot", "--help"]);
    assert_eq!((help.status, help.err.as_str()), (0, ""));
    for verb in ["create", "ls", "restore", "rm", "diff", "describe"] {
        assert!(help.out.lines().any(|line| line.trim_start().starts_with(verb)), "{verb}");
        assert_eq!(run(&["snapshot", verb, "-h"]).status, 0, "{verb}");
    }
    for line in [&["snapshot", "ls", "-quiet", "gone"][..], &["snapshot", "describe", "gone", "--quiet"]] {
        assert_error(&run(line), "Cannot find the image: gone");
    }
    assert_error(&run(&["snapshot", "create", "-nonsense", "x"]), "Unknown flag: -nonsense");
    assert_error(&run(&["snapshot", "restore", "."]), "Missing name of the snapshot: write .:NAME");
    let json = run(&["snapshot", "ls", "-json", "gone"]);
    assert!(json.err.starts_with('{'), "{}", json.err);
}

#[test]
fn commands_that_come_later_say_so() {
    for verb in ["pull", "create", "prepare", "serve", "assets"] {
        assert_error(&run(&[verb]), "not available yet");
        assert_error(&run(&[verb, "-net", "image", "ls", "-la"]), "not available yet");
    }
}

#[test]
fn completions_exist_for_shells() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let done = run(&["completions", shell]);
        assert_eq!(done.status, 0, "{}", done.err);
        assert!(done.out.contains("exit-on"), "{shell}");
    }
    assert_error(&run(&["completions", "nosuchshell"]), "nosuchshell");
}

#[test]
fn wrong_usage_is_status_1() {
    assert_error(&run(&["boot"]), "requires at least 1 arg(s), only received 0");
    assert_error(&run(&["boot", "-nonsense", "img"]), "Unknown flag: -nonsense");
    assert_error(&run(&["boot", "img", "--nonsense"]), "--nonsense");
    assert_error(&run(&["boot", "-exit-on"]), "Flag needs a value: -exit-on");
    assert_error(&run(&["boot", "-cold=perhaps", "img"]), "expected true or false");
    assert_error(&run(&["boot", "img", "-cold"]), "write --cold");
    assert_error(&run(&["boot", "--memory", "lots", "img"]), "expected a size");
    assert_error(&run(&["boot", "--memory", "3G", "img"]), "at most 2G");
    assert_error(&run(&["boot", "--timeout", "-1", "img"]), "number of seconds");
    assert_error(&run(&["boot", "--engine", "warp", "img"]), "warp");
    assert_error(&run(&["boot", "-p", "80", "img"]), "expected [ADDRESS:]HOST-PORT:GUEST-PORT");
    assert_error(&run(&["boot", "-p", "80:http", "img"]), "a port is a number");
    assert_error(&run(&["boot", "--exit-on", &"x".repeat(4097), "img"]), "longer than 4096 bytes");
    assert_error(&run(&["--nonsense"]), "--nonsense");
}

#[test]
fn old_flags_are_understood_in_every_spelling() {
    let lines: [&[&str]; 9] = [
        &["boot", "-ttyS0", "-exit-on", "login:", "no-such-image"],
        &["boot", "-exit-on=login:", "-ttyS0=true", "no-such-image"],
        &["boot", "--ttyS0", "--exit-on=login:", "no-such-image"],
        &["boot", "-cold", "-no-console", "-no-keyboard", "-no-mouse", "no-such-image"],
        &["boot", "-save=false", "no-such-image"],
        &["boot", "no-such-image", "--cold", "--exit-on", "-x", "--memory=64M"],
        &["boot", "-memory", "64M", "-cmdline", "-x", "no-such-image"],
        &["boot", "-cold", "-cold=false", "--timeout", "1", "--timeout", "2", "no-such-image"],
        &["boot", "-ctrl-d", "exit", "-clock", "deterministic", "-engine=interp", "--", "no-such-image"],
    ];
    for line in lines {
        assert_error(&run(line), "Cannot find the image: no-such-image");
    }
}

#[test]
fn features_that_come_later_say_so() {
    assert_error(&run(&["boot", "--bios", "bios.bin", "img"]), "--bios): not available yet");
    assert_error(&run(&["boot", "--vga-bios=vga.bin", "img"]), "--vga-bios): not available yet");
    let warned: [(&[&str], &str); 3] = [
        (&["boot", "-console-url", "img"], "--console-url"),
        (&["boot", "-cdp", "img"], "--cdp"),
        (&["boot", "img", "extra"], "ignored: extra"),
    ];
    for (line, word) in warned {
        let run = run(line);
        assert_eq!(run.status, 1);
        let first = run.err.lines().next().unwrap_or_default();
        assert!(first.starts_with("env86: warning: ") && first.contains(word), "{line:?}: {}", run.err);
        assert!(run.err.contains("Cannot find the image: img"), "{line:?}: {}", run.err);
    }
}

#[test]
fn quiet_leaves_errors_and_drops_warnings() {
    let quiet = run(&["boot", "--quiet", "-cdp", "img"]);
    assert_error(&quiet, "Cannot find the image: img");
}

#[test]
fn json_errors_are_objects() {
    for line in [&["boot", "--json", "-cdp", "img"][..], &["boot", "--json", "-nonsense"]] {
        let run = run(line);
        assert_eq!(run.status, 1);
        let objects: Vec<serde_json::Value> =
            run.err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let error = objects.last().unwrap();
        assert_eq!(error["level"], "error", "{}", run.err);
        assert!(error["message"].is_string());
    }
}
