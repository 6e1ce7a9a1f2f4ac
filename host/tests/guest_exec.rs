//! Machines with a name in a Linux guest: `run --detach`, `exec`, `ps`, `stop`, `cp`.
//!
//! The image comes from `cargo xtask test`, which names it in `ENV86_FIXTURES`.
#![cfg(unix)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

fn image() -> PathBuf {
    let fixtures =
        std::env::var_os("ENV86_FIXTURES").expect("run by `cargo xtask test`, which sets ENV86_FIXTURES");
    PathBuf::from(fixtures).join("mini-state")
}

/// A place for sockets that no other test uses. Machines in it end with it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn env86(&self, args: &[&str]) -> Command {
        let mut env86 = Command::new(env!("CARGO_BIN_EXE_env86"));
        env86.args(args).env("XDG_RUNTIME_DIR", self.dir.path()).stdin(Stdio::null());
        env86
    }

    fn run(&self, args: &[&str]) -> Output {
        self.env86(args).output().unwrap()
    }

    /// Starts a machine in the background.
    fn start(&self, name: &str, script: &str) {
        let image = image();
        let args = ["run", "-d", "--timeout", "300", "--name", name];
        let args = [&args[..], &[image.to_str().unwrap(), "--", "sh", "-c", script]].concat();
        let run = self.run(&args);
        assert_eq!((text(&run.stdout), text(&run.stderr)), (format!("{name}\n"), String::new()));
        assert_eq!(run.status.code(), Some(0));
    }

    fn exec(&self, name: &str, flags: &[&str], script: &str) -> Output {
        self.run(&[&["exec"], flags, &[name, "--", "sh", "-c", script]].concat())
    }

    /// What a script prints; it has to succeed.
    fn says(&self, name: &str, script: &str) -> String {
        let run = self.exec(name, &[], script);
        assert_eq!(run.status.code(), Some(0), "{script}: {}", text(&run.stderr));
        text(&run.stdout)
    }

    fn names(&self) -> String {
        let run = self.run(&["ps", "-q"]);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        text(&run.stdout)
    }

    /// Files of the sockets' directory.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("env86")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn status(&self, name: &str) -> serde_json::Value {
        let run = self.run(&["ps", "--json"]);
        let lines: Vec<serde_json::Value> =
            text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.into_iter().find(|line| line["name"] == name).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let names = text(&self.run(&["ps", "-q"]).stdout);
        for name in names.lines() {
            self.run(&["stop", "--time", "0", name]);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn machine_in_the_background_is_listed_used_and_ended() {
    let place = Place::new();
    place.start("one", "echo out; echo err >&2; exec sleep 1000");
    assert_eq!(place.names(), "one\n");
    let directory = place.dir.path().join("env86");
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(directory.join("one.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    let status = place.status("one");
    assert_eq!(status["command"][0], "sh");
    assert_eq!(status["image"], image().canonicalize().unwrap().to_str().unwrap());
    assert!(text(&place.run(&["ps"]).stdout).contains("mini-state"));

    let image = image();
    let again = place.run(&["run", "--name", "one", image.to_str().unwrap(), "--", "true"]);
    assert_eq!(again.status.code(), Some(125));
    assert!(text(&again.stderr).contains("one with this name runs already"), "{}", text(&again.stderr));

    assert_eq!(place.says("one", "pidof sleep >/dev/null && echo there"), "there\n");
    let log = fs::read_to_string(status["log"].as_str().unwrap()).unwrap();
    assert_eq!(log, "out\nerr\n");
    let stop = place.run(&["stop", "one"]);
    assert_eq!((text(&stop.stdout), text(&stop.stderr)), ("one\n".into(), String::new()));
    assert_eq!(place.left(), Vec::<PathBuf>::new());
    let none = place.run(&["exec", "one", "--", "true"]);
    assert_eq!(none.status.code(), Some(125));
    assert_eq!(text(&none.stderr), "env86: no VM named one; env86 ps lists them\n");
    let none = place.run(&["stop", "one"]);
    assert_eq!((none.status.code(), text(&none.stdout)), (Some(1), String::new()));
}

#[test]
fn command_that_cannot_start_is_told_before_the_background() {
    let place = Place::new();
    let image = image();
    let run = place.run(&["run", "-d", "--name", "x", image.to_str().unwrap(), "--", "no-such-command"]);
    assert_eq!((run.status.code(), text(&run.stdout)), (Some(127), String::new()));
    assert!(text(&run.stderr).contains("no-such-command"), "{}", text(&run.stderr));
    let run = place.run(&["run", "-d", "/no/such/image", "--", "true"]);
    assert_eq!((run.status.code(), text(&run.stdout)), (Some(125), String::new()));
    let run = place.run(&["run", "-d", "--name", "../x", image.to_str().unwrap(), "--", "true"]);
    assert_eq!(run.status.code(), Some(125));
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn log_that_was_asked_for_stays_and_so_does_the_status() {
    let place = Place::new();
    let (image, log) = (image(), place.dir.path().join("log"));
    let code = place.dir.path().join("code");
    let args =
        ["run", "-d", "--rm", "--log", log.to_str().unwrap(), "--exit-code-file", code.to_str().unwrap()];
    let line = [image.to_str().unwrap(), "--", "sh", "-c", "echo hello; read x </tmp/fifo; exit 5"];
    let run = place.run(&[&args[..], &line].concat());
    let name = text(&run.stdout).trim().to_owned();
    assert!(name.starts_with("ministate-"), "{name} {}", text(&run.stderr));
    // The shell could not open the fifo, or waits for us.
    place.exec(&name, &[], "mkfifo /tmp/fifo; echo >/tmp/fifo");
    let stop = place.run(&["stop", &name]);
    assert!(matches!(stop.status.code(), Some(0 | 1)), "{}", text(&stop.stderr));
    assert!(fs::read_to_string(&log).unwrap().starts_with("hello\n"));
    assert!(code.exists());
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn command_in_a_running_machine_is_like_one_of_run() {
    let place = Place::new();
    place.start("vm", "exec sleep 1000");
    let mut child = place
        .env86(&["exec", "-i", "vm", "--", "sh", "-c", "cat; echo err >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Every byte value, more than any buffer.
    let input: Vec<u8> = (0..400_001u32).map(|n| (n.wrapping_mul(0x9E37_79B1) >> 23) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = input.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&feeding).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
    assert_eq!((text(&output.stderr), output.status.code()), ("err\n".into(), Some(7)));

    for (flags, script, status) in [
        (&[][..], "true", 0),
        (&[], "exit 3", 3),
        (&[], "exec /etc", 126),
        (&[], "exec no-such-command", 127),
        (&[], "kill -KILL $$", 137),
        (&["--timeout", "0.5"], "sleep 100", 124),
    ] {
        let run = place.exec("vm", flags, script);
        assert_eq!(run.status.code(), Some(status), "{script}: {}", text(&run.stderr));
    }
    for (command, status) in [("/etc", 126), ("no-such-command", 127)] {
        assert_eq!(place.run(&["exec", "vm", "--", command]).status.code(), Some(status));
    }
    let flags = ["-e", "A=b c", "-w", "/etc", "-u", "12:34"];
    let run = place.exec("vm", &flags, "echo \"$A\"; pwd; id -u; id -g");
    assert_eq!(text(&run.stdout), "b c\n/etc\n12\n34\n", "{}", text(&run.stderr));
    assert_eq!(place.run(&["exec", "--no-such-flag", "vm", "--", "true"]).status.code(), Some(2));
    // What one command leaves, the next one finds.
    place.says("vm", "echo kept >/tmp/kept");
    assert_eq!(place.says("vm", "cat /tmp/kept"), "kept\n");
}

#[test]
fn command_whose_caller_is_gone_ends_and_signals_reach_it() {
    let place = Place::new();
    place.start("vm", "exec sleep 1000");
    let start = |script: &str| {
        let mut child =
            place.env86(&["exec", "vm", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        child
    };
    let mut child = start("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done");
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let mut child = start("echo ready; exec sleep 2000");
    child.kill().unwrap();
    child.wait().unwrap();
    // The guest is told, and ends it.
    let wait =
        "n=0; while ps | grep -q '[s]leep 2000'; do n=$((n+1)); [ $n = 100 ] && exit 1; sleep 0.1; done";
    place.says("vm", wait);
}

#[test]
fn machine_that_was_killed_is_forgotten() {
    let place = Place::new();
    place.start("vm", "exec sleep 1000");
    let number = place.status("vm")["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(number).unwrap()).unwrap(), Signal::KILL).unwrap();
    // The process may take a moment to go, and its last moment is answered with nothing.
    for _ in 0..1000 {
        if place.left().is_empty() {
            break;
        }
        place.names();
    }
    assert_eq!(place.left(), Vec::<PathBuf>::new());
    place.start("vm", "exec sleep 1000");
}

#[test]
fn machine_whose_command_ignores_sigterm_is_ended_when_time_is_up() {
    let place = Place::new();
    place.start("a", "trap '' TERM; while :; do sleep 1; done");
    place.start("b", "exec sleep 1000");
    let stop = place.run(&["stop", "--time", "0.5", "a", "b"]);
    assert_eq!(
        (stop.status.code(), text(&stop.stdout)),
        (Some(0), "a\nb\n".into()),
        "{}",
        text(&stop.stderr)
    );
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn machine_that_was_booted_has_a_name_too() {
    let place = Place::new();
    let image = image();
    let child = place
        .env86(&["boot", "--name", "booted", "--timeout", "300", image.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.unwrap();
    for _ in 0..1000 {
        if place.names() == "booted\n" {
            break;
        }
    }
    assert_eq!(place.says("booted", "echo hi"), "hi\n");
    assert_eq!(place.status("booted")["command"], serde_json::json!([]));
    assert_eq!(place.run(&["stop", "booted"]).status.code(), Some(0));
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn command_whose_service_dies_or_whose_guest_restarts_ends() {
    let place = Place::new();
    let mut child = boot(&place, "vm", &image());
    let dies = |script: &str| {
        let run = place.exec("vm", &["--timeout", "200"], script);
        assert_eq!(run.status.code(), Some(125), "{script}: {}", text(&run.stderr));
        assert!(text(&run.stderr).contains("the guest service is gone"), "{}", text(&run.stderr));
    };
    dies("kill -9 $(pidof guest86); sleep 1000");
    child.stdin.as_mut().unwrap().write_all(b"setsid /bin/guest86 /dev/ttyS1 &\n").unwrap();
    assert_eq!(place.says("vm", "echo again"), "again\n", "another service is used");
    dies("reboot -f; sleep 1000");
    assert_eq!(place.says("vm", "echo again"), "again\n", "the guest boots another one");
    assert_eq!(place.run(&["stop", "vm"]).status.code(), Some(0));
    child.wait().unwrap();
}

/// Boots a machine with a name, and waits until it has it.
fn boot(place: &Place, name: &str, image: &Path) -> Child {
    let mut boot = place.env86(&["boot", "--name", name, "--timeout", "300", image.to_str().unwrap()]);
    let mut child = boot.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    for _ in 0..1000 {
        if place.names() == format!("{name}\n") {
            return child;
        }
        assert!(child.try_wait().unwrap().is_none(), "the machine has ended");
    }
    panic!("the machine has no name");
}

#[test]
fn machine_that_switches_itself_off_gives_its_name_back() {
    let place = Place::new();
    let mut child = boot(&place, "vm", &image());
    let off = place.exec("vm", &[], "poweroff -f; sleep 100");
    assert_eq!(off.status.code(), Some(125), "{}", text(&off.stderr));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.names(), "");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
    assert_eq!(place.run(&["stop", "vm"]).status.code(), Some(1));
    // The name can be used again.
    let mut child = boot(&place, "vm", &image());
    assert_eq!(place.says("vm", "echo again"), "again\n");
    assert_eq!(place.run(&["stop", "vm"]).status.code(), Some(0));
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn command_in_a_machine_that_has_just_been_started_sees_its_mounts() {
    let place = Place::new();
    let image = image();
    let directories: Vec<PathBuf> = (0..8).map(|n| place.dir.path().join(format!("d{n}"))).collect();
    let mut flags: Vec<String> = Vec::new();
    for (number, directory) in directories.iter().enumerate() {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("file"), format!("{number}\n")).unwrap();
        flags.extend(["-m".to_owned(), format!("{}:/mnt/{number}", directory.display())]);
    }
    // In the foreground: nothing says when it is ready, and its name is there before anything is mounted.
    let mut env86 = place.env86(&["run", "--timeout", "300", "--name", "vm"]);
    env86.args(&flags).arg(&image).args(["--", "sleep", "1000"]);
    let mut child = env86.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while place.names() != "vm\n" {
        assert!(child.try_wait().unwrap().is_none(), "the machine has ended");
    }
    assert_eq!(place.says("vm", "cat /mnt/*/file"), "0\n1\n2\n3\n4\n5\n6\n7\n");
    assert_eq!(place.run(&["stop", "vm"]).status.code(), Some(0));
    child.wait().unwrap();
}

/// Everything below a directory: kind, permissions, time and contents.
fn tree(path: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let at = entry.unwrap().path();
            let meta = fs::symlink_metadata(&at).unwrap();
            let name = at.strip_prefix(path).unwrap().to_owned();
            let (contents, time) = match () {
                () if meta.is_dir() => (Vec::new(), meta.mtime()),
                // A link's own time is not kept.
                () if meta.is_symlink() => {
                    (fs::read_link(&at).unwrap().into_os_string().into_encoded_bytes(), 0)
                }
                () => (fs::read(&at).unwrap(), meta.mtime()),
            };
            found.push((name, meta.mode(), time, contents));
            if meta.is_dir() {
                waiting.push(at);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn trees_are_copied_in_and_out_as_they_are() {
    let place = Place::new();
    place.start("vm", "exec sleep 1000");
    let (from, to) = (place.dir.path().join("from"), place.dir.path().join("to"));
    fs::create_dir_all(from.join("sub/deep")).unwrap();
    fs::create_dir(from.join("empty")).unwrap();
    let large: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
    for (name, contents, mode) in [
        ("sub/deep/large", &large[..], 0o640),
        ("a b", b"x", 0o444),
        ("program", b"#!/bin/sh\n", 0o755),
        ("nothing", b"", 0o600),
    ] {
        let path = from.join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::File::open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_086)).unwrap();
    }
    fs::set_permissions(from.join("empty"), fs::Permissions::from_mode(0o711)).unwrap();
    symlink("../a b", from.join("sub/link")).unwrap();
    symlink("/nowhere", from.join("dangling")).unwrap();
    let cp = |one: &Path, two: &Path| {
        let run = place.run(&["cp", one.to_str().unwrap(), two.to_str().unwrap()]);
        (run.status.code().unwrap(), text(&run.stderr))
    };
    let fine = (0, String::new());
    // A new name; then into what is there, under its own name; then its contents.
    assert_eq!(cp(&from, Path::new("vm:/root/new")), fine);
    assert_eq!(cp(&from, Path::new("vm:/root")), fine);
    assert_eq!(
        place.says("vm", "mkdir /root/c; cd /root; stat -c '%a %u' from/program from/empty"),
        "755 0\n711 0\n"
    );
    assert_eq!(cp(&from.join("."), Path::new("vm:/root/c")), fine);
    for name in ["new", "from", "c"] {
        assert_eq!(cp(Path::new(&format!("vm:/root/{name}")), &to), fine);
        assert_eq!(tree(&to), tree(&from), "{name}");
        fs::remove_dir_all(&to).unwrap();
    }
    fs::create_dir(&to).unwrap();
    assert_eq!(cp(Path::new("vm:/root/c/a b"), &to), fine);
    assert_eq!(cp(Path::new("vm:/root/c/a b"), &to), fine, "a second time");
    assert_eq!(fs::read(to.join("a b")).unwrap(), b"x");
    assert_eq!(cp(&from.join("a b"), Path::new("vm:/root/copy")), fine);
    assert_eq!(place.says("vm", "cat /root/copy"), "x");
    for (one, two) in [
        ("/no/such/file", "vm:/root"),
        ("vm:/no/such/file", "."),
        ("vm:/root/copy", "/no/such/dir/x"),
        (from.to_str().unwrap(), "vm:/root/copy"),
        (from.to_str().unwrap(), "vm:/no/such/dir"),
        ("vm:/root", "vm:/tmp"),
        (".", "here"),
        ("-", "vm:/root/copy"),
        ("-", "vm:/no/such/dir"),
        ("-", "-"),
    ] {
        let run = place.env86(&["cp", one, two]).current_dir(place.dir.path()).output().unwrap();
        assert_eq!(run.status.code(), Some(1), "{one} {two}");
        assert!(text(&run.stderr).starts_with("env86: "), "{one} {two}: {}", text(&run.stderr));
    }
}

#[test]
fn archives_go_in_and_out_through_standard_streams() {
    let place = Place::new();
    place.start("vm", "exec sleep 1000");
    let (from, to) = (place.dir.path().join("from"), place.dir.path().join("to"));
    let long = "n".repeat(150);
    fs::create_dir_all(from.join("sub").join(&long)).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("sub").join(&long).join("deep"), vec![7; 300_000]).unwrap();
    fs::write(from.join("a b"), "x").unwrap();
    fs::hard_link(from.join("a b"), from.join("again")).unwrap();
    fs::set_permissions(from.join("a b"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("/nowhere", from.join("link")).unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o711)).unwrap();
    for at in [from.join("a b"), from.join("sub")] {
        fs::File::open(at).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_086)).unwrap();
    }
    // As other programs write archives, and read them.
    let tar = Command::new("tar").arg("-C").arg(&from).args(["-cf", "-", "."]).output().unwrap();
    let send = |archive: &[u8], place: &str, env86: &mut Command| {
        let mut child =
            env86.args(["cp", "-", place]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that is refused is not read.
        let _ = child.stdin.take().unwrap().write_all(archive);
        let run = child.wait_with_output().unwrap();
        (run.status.code(), text(&run.stderr))
    };
    place.says("vm", "mkdir /root/in; ln -s in /root/way");
    assert_eq!(send(&tar.stdout, "vm:/root/in", &mut place.env86(&[])), (Some(0), String::new()));
    assert_eq!(send(&tar.stdout, "vm:/root/in", &mut place.env86(&[])), (Some(0), String::new()), "again");
    assert_eq!(place.says("vm", "cd /root/in; stat -c '%a %h' 'a b' sub"), "640 2\n711 3\n");
    let receive = |args: &[&str]| {
        let run = place.run(&[&["cp"], args].concat());
        assert_eq!((run.status.code(), text(&run.stderr)), (Some(0), String::new()));
        run.stdout
    };
    for (args, below) in [
        (&["vm:/root/in/.", "-"][..], "."),
        (&["vm:/root/in", "-"], "in"),
        (&["-L", "vm:/root/way", "-"], "way"),
    ] {
        let archive = receive(args);
        let mut tar = Command::new("tar");
        let mut tar = tar.arg("-C").arg(&to).args(["-xpf", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(tar.wait().unwrap().success());
        assert_eq!(tree(&to.join(below)), tree(&from), "{below}");
        fs::remove_dir_all(&to).unwrap();
        fs::create_dir(&to).unwrap();
    }
    // A link as it is, and what it points to.
    for (flags, expected) in [(&[][..], None), (&["-L"], Some("x"))] {
        place.says("vm", "ln -sf 'in/a b' /root/file");
        let args = [flags, &["vm:/root/file", to.to_str().unwrap()]].concat();
        receive(&args);
        let copy = to.join("file");
        assert_eq!(fs::symlink_metadata(&copy).unwrap().is_symlink(), expected.is_none());
        assert_eq!(fs::read_to_string(&copy).ok().as_deref(), expected);
    }
    symlink("from/a b", place.dir.path().join("out")).unwrap();
    receive(&["-L", place.dir.path().join("out").to_str().unwrap(), "vm:/root/followed"]);
    assert_eq!(place.says("vm", "[ -L /root/followed ] || cat /root/followed"), "x");
    let evil = {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../../etc");
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &b"evil"[..]).unwrap();
        archive.into_inner().unwrap()
    };
    for (archive, why) in [(&evil[..], "leads out"), (&b"no archive at all"[..], "archive")] {
        let (status, errors) = send(archive, "vm:/root/in", &mut place.env86(&[]));
        assert_eq!(status, Some(1));
        assert!(errors.contains(why), "{errors}");
    }
}

#[test]
fn copies_out_of_a_guest_stay_where_they_belong() {
    let place = Place::new();
    place.start("vm", "exec sleep 1000");
    let (to, outside) = (place.dir.path().join("to"), place.dir.path().join("outside"));
    fs::create_dir_all(to.join("evil")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();
    // The user's own links are in the way of the guest's names.
    symlink(&outside, to.join("evil/dir")).unwrap();
    symlink(outside.join("file"), to.join("evil/file")).unwrap();
    let script = "mkdir -p /evil/dir && echo new >/evil/dir/file && echo new >/evil/file && mkfifo /evil/pipe && \
                  cp /bin/busybox /evil/suid && chmod 6755 /evil/suid && ln -s /etc/passwd /evil/link";
    place.says("vm", script);
    let run = place.run(&["cp", "vm:/evil/file", to.join("evil/file").to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(fs::symlink_metadata(to.join("evil/file")).unwrap().is_file());
    let run = place.run(&["cp", "vm:/evil", to.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(1), "a link is no directory: {}", text(&run.stderr));
    fs::remove_file(to.join("evil/dir")).unwrap();
    let run = place.run(&["cp", "vm:/evil", to.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("left out: /evil/pipe"), "{}", text(&run.stderr));
    assert_eq!(fs::metadata(to.join("evil/suid")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(to.join("evil/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}
