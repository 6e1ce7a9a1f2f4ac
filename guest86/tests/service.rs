//! What the service can do beyond the recorded sessions.
#![cfg(target_os = "linux")]

mod peer;

use guest86::call::{Attributes, Entry, FEATURES, Info, Record, RunOptions, RunRequest, Status, method};
use guest86::cbor::Value;
use guest86::link::{Channel, Link, LinkError};
use peer::{PATIENCE, ask, begin, connect, item};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn shell(script: &str) -> RunRequest {
    let options = Some(RunOptions::default());
    RunRequest { name: "sh".into(), args: vec!["-c".into(), script.into()], options, ..RunRequest::default() }
}

/// Starts a command and returns its process id.
fn run(link: &Arc<Link>, request: &RunRequest) -> (Channel, i64) {
    let (channel, response, value) = begin(link, method::RUN, &request.to_value());
    assert_eq!((response.error, response.goes_on), (None, true));
    (channel, value.as_int().unwrap())
}

/// Standard output, standard error, and how it ended.
fn finish(channel: &Channel) -> (String, String, Status) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match Record::from_value(item(channel)).unwrap() {
            Record::Stdout(bytes) => stdout.extend(bytes),
            Record::Stderr(bytes) => stderr.extend(bytes),
            Record::Status(status) => {
                return (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status);
            }
        }
    }
}

/// Reads output until it contains `text`.
fn until(channel: &Channel, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        match Record::from_value(item(channel)).unwrap() {
            Record::Stdout(bytes) => all.push_str(&String::from_utf8(bytes).unwrap()),
            other => panic!("{other:?} after {all:?}"),
        }
    }
    all
}

const fn exit(code: i64) -> Status {
    Status { code, signal: None }
}

/// A directory of a test's own.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("guest86-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Waits until a process is gone.
fn gone(pid: i64) -> bool {
    for _ in 0..1000 {
        if !alive(pid) {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}

#[test]
fn streams_stay_apart_and_all_output_comes_before_the_status() {
    let (link, _) = connect();
    for _ in 0..50 {
        let (channel, _) = run(&link, &shell("echo out; echo err >&2; exit 3"));
        assert_eq!(finish(&channel), ("out\n".into(), "err\n".into(), exit(3)));
    }
    let (channel, _) = run(&link, &shell("head -c 3000000 /dev/zero | tr '\\0' x"));
    let (stdout, _, status) = finish(&channel);
    assert_eq!((stdout.len(), status), (3_000_000, exit(0)));
}

#[test]
fn input_ends_where_the_host_ends_it() {
    let (link, _) = connect();
    let (channel, _) = run(&link, &shell("wc -c"));
    channel.write(&vec![b'x'; 1_000_000], PATIENCE).unwrap();
    channel.eof();
    assert_eq!(finish(&channel).0.trim(), "1000000");
    let request = RunRequest {
        options: Some(RunOptions { no_input: true, ..RunOptions::default() }),
        ..shell("cat; readlink /proc/self/fd/0")
    };
    let (channel, _) = run(&link, &request);
    assert_eq!(finish(&channel).0, "/dev/null\n");
}

#[test]
fn command_that_does_not_read_stops_only_itself() {
    let (link, _) = connect();
    let (stuck, pid) = run(&link, &shell("sleep 1000"));
    let payload = vec![0; 1 << 20];
    assert_eq!(stuck.write(&payload, &peer::within(200)), Err(LinkError::TimedOut), "there is back-pressure");
    assert_eq!(ask(&link, method::VERSION, &[]), Ok(Value::text("dev")));
    drop(stuck);
    assert!(gone(pid), "and it does not outlive its channel");
}

#[test]
fn process_left_behind_does_not_hold_up_the_status() {
    let (link, _) = connect();
    let (channel, _) = run(&link, &shell("sleep 1000 & echo $!"));
    let (stdout, _, status) = finish(&channel);
    assert_eq!(status, exit(0));
    let pid = stdout.trim().parse().unwrap();
    assert!(alive(pid), "it is none of our business");
    ask(&link, method::SIGNAL, &[Value::Int(pid.into()), Value::Int(9)]).unwrap();
    assert!(gone(pid));
}

#[test]
fn signals_reach_the_whole_group_and_are_reported() {
    let (link, _) = connect();
    let (channel, pid) = run(&link, &shell("sleep 1000 & echo $!; wait"));
    let child: i64 = until(&channel, "\n").trim().parse().unwrap();
    ask(&link, method::SIGNAL, &[Value::Int(pid.into()), Value::Int(15)]).unwrap();
    assert_eq!(finish(&channel).2, Status { code: -1, signal: Some(15) });
    assert!(gone(child));
    let nobody = ask(&link, method::SIGNAL, &[Value::Int(pid.into()), Value::Int(15)]);
    assert_eq!(nobody, Err("no such process".into()));
    for bad in [0, -1, i64::MAX] {
        assert!(ask(&link, method::SIGNAL, &[Value::Int(bad.into()), Value::Int(9)]).is_err(), "{bad}");
    }
}

#[test]
fn terminate_ends_what_ignores_sigterm() {
    let (link, _) = connect();
    let (channel, pid) = run(&link, &shell("trap '' TERM; echo ready; while :; do sleep 1000; done"));
    until(&channel, "ready");
    ask(&link, method::TERMINATE, &[Value::Int(pid.into())]).unwrap();
    assert_eq!(finish(&channel).2, Status { code: -1, signal: Some(9) });
}

#[test]
fn host_that_closes_a_call_hangs_up_on_the_whole_group() {
    let (link, _) = connect();
    for eof_first in [false, true] {
        let (channel, pid) = run(&link, &shell("trap '' HUP; sleep 1000 & echo $!; wait; sleep 1000"));
        let child: i64 = until(&channel, "\n").trim().parse().unwrap();
        if eof_first {
            channel.eof();
        }
        drop(channel);
        assert!(gone(pid) && gone(child), "EOF first: {eof_first}");
    }
}

#[test]
fn terminal_has_the_size_and_kind_asked_for_and_follows_resizes() {
    let (link, _) = connect();
    let options = RunOptions { rows: 24, columns: 81, term: "vt220".into(), ..RunOptions::default() };
    let script =
        "echo $TERM; stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let (channel, pid) = run(&link, &RunRequest { pty: true, options: Some(options), ..shell(script) });
    assert_eq!(until(&channel, "ready\r\n"), "vt220\r\n24 81\r\nready\r\n");
    ask(&link, method::RESIZE, &[pid, 30, 100].map(|number| Value::Int(number.into()))).unwrap();
    let (stdout, _, status) = finish(&channel);
    assert_eq!((stdout.as_str(), status), ("30 100\r\n", exit(0)));
}

#[test]
fn control_keys_of_a_terminal_reach_the_foreground() {
    let (link, _) = connect();
    let (channel, _) = run(&link, &RunRequest { pty: true, ..shell("echo ready; exec sleep 1000") });
    until(&channel, "ready");
    channel.write(b"\x03", PATIENCE).unwrap();
    assert_eq!(finish(&channel).2, Status { code: -1, signal: Some(2) });
}

#[test]
fn environment_is_inherited_extended_or_replaced() {
    let (link, _) = connect();
    let mut request = shell("echo ${CARGO:+kept} $MORE");
    request.options = Some(RunOptions { extra_env: vec!["MORE=1".into()], ..RunOptions::default() });
    assert_eq!(finish(&run(&link, &request).0).0, "kept 1\n");
    request.env = Some(vec!["ONLY=2".into(), "PATH=/bin:/usr/bin".into()]);
    request.args[1] = "echo ${CARGO:+kept} $MORE $ONLY $HOME".into();
    assert_eq!(finish(&run(&link, &request).0).0, "1 2\n");
}

#[test]
fn start_failures_tell_the_error_number_only_to_those_who_know() {
    let (link, _) = connect();
    let mut request = RunRequest { name: "no-such-program".into(), ..RunRequest::default() };
    let (_, response, value) = begin(&link, method::RUN, &request.to_value());
    assert_eq!((response.goes_on, value), (false, Value::Null));
    assert!(response.error.unwrap().contains("not found"));
    for (name, errno) in [("no-such-program", 2), ("/nowhere/x", 2), ("/tmp", 13), ("/etc/passwd", 13)] {
        request.name = name.into();
        request.options = Some(RunOptions::default());
        let (_, response, value) = begin(&link, method::RUN, &request.to_value());
        assert!(response.error.is_some());
        assert_eq!(value.get("Errno"), Some(&Value::Int(errno)), "{name}: {:?}", response.error);
    }
    request.options = Some(RunOptions { user: "nobody-at-all".into(), ..RunOptions::default() });
    let (_, response, _) = begin(&link, method::RUN, &request.to_value());
    assert_eq!(response.error.unwrap(), "no such user: nobody-at-all");
}

#[test]
fn command_runs_as_another_user() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        // Only root can become somebody else; the guest's service is root.
        return;
    }
    let (link, _) = connect();
    let options = RunOptions { user: "1234:2345".into(), ..RunOptions::default() };
    let request =
        RunRequest { dir: "/".into(), options: Some(options), ..shell("id -u; id -g; id -G; echo $HOME") };
    assert_eq!(finish(&run(&link, &request).0).0, "1234\n2345\n2345\n/\n");
}

#[test]
fn attach_ends_what_earlier_sessions_left_and_nothing_else() {
    let notes = peer::Notes::default();
    let line = peer::start(notes);
    let old = peer::attach(&line, 1);
    let (_forgotten, pid) = run(&old, &shell("echo x; sleep 1000"));
    old.down();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let new = peer::attach(&line, 1_000_000);
    let info = Info::from_value(&ask(&new, method::ATTACH, &[]).unwrap()).unwrap();
    assert_eq!((info.version.as_str(), info.protocol), ("dev", 1));
    assert!(FEATURES.iter().all(|feature| info.can(feature)));
    assert!(gone(pid));
    let (channel, _) = run(&new, &shell("echo still here"));
    assert_eq!(finish(&channel).0, "still here\n");
}

#[test]
fn clock_and_entropy_reach_the_system() {
    let (link, notes) = connect();
    ask(&link, method::SET_TIME, &[Value::Int(1_700_000_000), Value::Int(5)]).unwrap();
    ask(&link, method::ADD_ENTROPY, &[Value::Bytes(vec![7; 64])]).unwrap();
    assert!(ask(&link, method::ADD_ENTROPY, &[Value::text("x")]).is_err());
    assert_eq!(*notes.0.lock().unwrap(), ["time 1700000000.000000005", "entropy 64"]);
    assert_eq!(ask(&link, method::RESET_NETWORK, &[]), Err("failed: network address".into()));
}

#[test]
fn large_files_are_written_and_read_as_one_value() {
    let (link, _) = connect();
    let dir = Dir::new("large");
    for size in [0, 1, 65_530, 65_536, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
        let path = Value::text(dir.path("f"));
        ask(&link, method::WRITE_FILE, &[path.clone(), Value::Bytes(bytes.clone())]).unwrap();
        assert_eq!(ask(&link, method::READ_FILE, &[path]), Ok(Value::Bytes(bytes)), "{size}");
    }
    assert_eq!(std::fs::metadata(dir.path("f")).unwrap().permissions().mode() & 0o777, 0o644);
    let cpus = ask(&link, method::READ_FILE, &[Value::text("/proc/self/status")]).unwrap();
    assert!(!cpus.as_bytes().unwrap().is_empty());
    let (missing, file) = (Value::text(dir.path("no/f")), Value::Bytes(vec![0; 100_000]));
    assert!(ask(&link, method::WRITE_FILE, &[missing, file]).unwrap_err().contains("no such file"));
}

#[test]
fn contents_that_are_too_long_for_one_value_are_errors() {
    let (link, _) = connect();
    let dir = Dir::new("long");
    let file = std::fs::File::create(dir.path("f")).unwrap();
    file.set_len(guest86::limits::FILE + 1).unwrap();
    for path in [dir.path("f"), "/dev/zero".into()] {
        let refused = ask(&link, method::READ_FILE, &[Value::text(path)]).unwrap_err();
        assert!(refused.ends_with("file too large"), "{refused}");
    }
}

#[test]
fn oversized_requests_are_refused() {
    let (link, _) = connect();
    let long = Value::Bytes(vec![0; guest86::limits::REQUEST]);
    let channel = link.open(PATIENCE).unwrap();
    channel.write(&guest86::codec::encode(&guest86::call::header(method::STAT)), PATIENCE).unwrap();
    let _ = channel.write(&guest86::codec::encode(&Value::Array(vec![long])), PATIENCE);
    let answer = guest86::call::Response::from_value(&item(&channel)).unwrap();
    assert!(answer.error.unwrap().contains("too long"));
    assert_eq!(ask(&link, method::VERSION, &[]), Ok(Value::text("dev")));
}

#[test]
fn files_go_both_ways_with_their_attributes() {
    let (link, _) = connect();
    let dir = Dir::new("copy");
    let contents: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let attributes = Attributes {
        path: dir.path("f"),
        mode: Some(0o4751),
        owner: None,
        mtime: Some((1_234_567_890, 123_456_789)),
    };
    let (channel, response, _) = begin(&link, method::PUT, &attributes.to_value());
    assert!(response.goes_on);
    channel.write(&contents, PATIENCE).unwrap();
    channel.eof();
    assert_eq!(item(&channel), Value::Null);
    let meta = std::fs::metadata(dir.path("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o4751, 1_234_567_890, 123_456_789));

    let (channel, response, value) =
        begin(&link, method::GET, &Value::Array(vec![Value::text(dir.path("f"))]));
    assert!(response.goes_on);
    let entry = Entry::from_value(&value).unwrap();
    assert_eq!((entry.size, entry.details.unwrap().mode), (200_000, 0o104751));
    assert_eq!(peer::rest(&channel), contents);

    ask(&link, method::SYMLINK, &[Value::text("f"), Value::text(dir.path("l"))]).unwrap();
    ask(&link, method::MAKE_DIR, &[Value::text(dir.path("d/e"))]).unwrap();
    let list = ask(&link, method::LIST, &[Value::text(dir.path(""))]).unwrap();
    let entries: Vec<_> =
        list.as_array().unwrap().iter().map(|entry| Entry::from_value(entry).unwrap()).collect();
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["d", "f", "l"]);
    assert_eq!(entries[2].details.as_ref().unwrap().target, "f");
    assert_eq!(entries[0].details.as_ref().unwrap().mode, 0o040755);
    let attributes = Attributes { path: dir.path("d"), mode: Some(0o700), ..Attributes::default() };
    let (_, response, _) = begin(&link, method::SET_ATTRIBUTES, &attributes.to_value());
    assert_eq!(response.error, None);
    ask(&link, method::REMOVE_ALL, &[Value::text(dir.path("d"))]).unwrap();
    ask(&link, method::REMOVE_ALL, &[Value::text(dir.path("d"))]).unwrap();
    assert!(!Path::new(&dir.path("d")).exists());
}

#[test]
fn mount_without_a_kernel_that_can_is_an_error_not_the_end() {
    let (link, _) = connect();
    let dir = Dir::new("mount");
    // A file is where the directory would be, so that no mount is made whoever runs the tests.
    std::fs::write(dir.path("f"), "").unwrap();
    let (_, response, _) = begin(&link, method::MOUNT_9P, &Value::text(dir.path("f/x")));
    assert!(response.error.unwrap().starts_with("mount "));
    assert!(ask(&link, method::WAIT_MOUNT, &[Value::text("/nowhere")]).is_err());
    assert!(ask(&link, method::UNMOUNT, &[Value::text(dir.path("f"))]).is_err());
    assert_eq!(ask(&link, method::VERSION, &[]), Ok(Value::text("dev")));
}
