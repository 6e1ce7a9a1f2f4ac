//! Snapshots behind the real binary: saving, starting from them, and never losing one.

#[path = "common/guest.rs"]
mod guest;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use guest::ConsoleImage;

/// Runs env86; a guest that hangs fails instead.
fn env86(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_env86"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("env86 starts");
    // A run that ends before it has read everything is fine.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn boot(image: &Path, flags: &[&str], input: &[u8]) -> Output {
    let mut arguments = vec!["boot", "--timeout", "60"];
    arguments.extend(flags);
    arguments.push(image.to_str().unwrap());
    env86(&arguments, input)
}

#[track_caller]
fn assert_ok(run: &Output) {
    assert_eq!(run.status.code(), Some(0), "{}{}", text(&run.stdout), text(&run.stderr));
}

fn describe(what: &str) -> serde_json::Value {
    let run = env86(&["snapshot", "describe", "--json", what], b"");
    assert_ok(&run);
    serde_json::from_slice(&run.stdout).unwrap()
}

/// Names of all files.
fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pack(image: &ConsoleImage, archive: &Path) {
    let gzip = flate2::write::GzEncoder::new(fs::File::create(archive).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    tar.append_dir_all(".", image.path()).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn saved_machine_goes_on_where_it_was() {
    let image = ConsoleImage::new();
    for (flag, file) in [("-save", "initial.state"), ("--save", "initial.state.zst")] {
        if file.ends_with(".zst") {
            fs::remove_file(image.path().join("initial.state")).unwrap();
            fs::write(image.path().join(file), b"anything").unwrap();
        }
        let run = boot(&image.path(), &["--cold", flag], b"one");
        assert_ok(&run);
        assert_eq!(text(&run.stdout), "ready\r\none");
        assert_eq!(files(&image.path()), ["image.json", file, "kernel"]);
        // Not "ready" again: it never starts, it goes on. A newline comes first.
        let run = boot(&image.path(), &[], b"two");
        assert_ok(&run);
        assert_eq!((text(&run.stdout), text(&run.stderr)), ("\ntwo".to_owned(), String::new()));
        let run = boot(&image.path(), &["--cold"], b"three");
        assert_eq!(text(&run.stdout), "ready\r\nthree");
        let about = describe(image.path().to_str().unwrap());
        assert_eq!(about["container"]["writer"], "env86");
        assert_eq!(about["container"]["compression"], if file.ends_with("zst") { "zstd" } else { "raw" });
        assert_eq!(about["memory"]["bytes"], 2 << 20);
    }
}

#[test]
fn saving_is_for_orderly_ends_of_a_living_guest() {
    let image = ConsoleImage::new();
    let run = boot(&image.path(), &["--save", "--exit-on", "done"], b"done");
    assert_ok(&run);
    assert_eq!(text(&run.stdout), "ready\r\ndone\r\nExit pattern detected. Saving...\n");
    let before = fs::read(image.path().join("initial.state")).unwrap();
    for (input, flags, status, reason) in [
        (&b"L"[..], &["--timeout", "0.5"][..], 124, "the time was up"),
        (b"Q", &[], 0, "the guest ended the run"),
        (b"T", &[], 125, "the guest ended the run"),
    ] {
        let run = boot(&image.path(), &[&["--cold", "--save"], flags].concat(), input);
        assert_eq!(run.status.code(), Some(status));
        assert!(
            text(&run.stderr).contains(&format!("the snapshot is not saved: {reason}")),
            "{}",
            text(&run.stderr)
        );
        assert!(fs::read(image.path().join("initial.state")).unwrap() == before);
    }
}

#[test]
fn archive_is_saved_into_and_started_from() {
    let image = ConsoleImage::new();
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("img.tgz");
    pack(&image, &archive);
    assert_ok(&boot(&archive, &["--save"], b"one"));
    assert_eq!(files(place.path()), ["img.tgz"]);
    let run = boot(&archive, &["--save"], b"two");
    assert_eq!(text(&run.stdout), "\ntwo");
    assert_ok(&boot(&archive, &["--cold"], b"x"));
    let run = env86(&["snapshot", "create", &format!("{}:x", archive.display())], b"");
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("in an archive") && text(&run.stderr).contains("hint: unpack"));
}

#[test]
fn split_snapshot_is_started_from_and_a_missing_part_named() {
    let image = ConsoleImage::new();
    assert_ok(&boot(&image.path(), &["--save"], b"one"));
    let whole = fs::read(image.path().join("initial.state")).unwrap();
    fs::remove_file(image.path().join("initial.state")).unwrap();
    fs::create_dir(image.path().join("state")).unwrap();
    let json = fs::read_to_string(image.path().join("image.json")).unwrap();
    fs::write(image.path().join("image.json"), json.replacen('{', "{\"initial_state_parts\": 3,", 1))
        .unwrap();
    for (n, part) in whole.chunks(whole.len() / 3 + 1).enumerate() {
        fs::write(image.path().join(format!("state/initial.state.{n}")), part).unwrap();
    }
    assert_eq!(text(&boot(&image.path(), &[], b"two").stdout), "\ntwo");
    assert_eq!(describe(image.path().to_str().unwrap())["container"]["parts"], 3);
    fs::remove_file(image.path().join("state/initial.state.2")).unwrap();
    let run = boot(&image.path(), &[], b"");
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("part 3 of 3 is missing"), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("hint: --cold"), "{}", text(&run.stderr));
}

#[test]
fn damaged_snapshots_are_errors_that_name_file_and_place() {
    let image = ConsoleImage::new();
    let at = image.path().join("initial.state.zst");
    fs::write(&at, b"x").unwrap();
    assert_ok(&boot(&image.path(), &["--cold", "--save"], b"one"));
    let zstd = fs::read(&at).unwrap();
    let raw = zstd::decode_all(&zstd[..]).unwrap();
    let with = |name: &str, content: &[u8]| {
        let _ = fs::remove_file(&at);
        fs::write(image.path().join(name), content).unwrap();
        let run = boot(&image.path(), &[], b"");
        let error = text(&run.stderr);
        assert_eq!((run.status.code(), text(&run.stdout)), (Some(1), String::new()), "{error}");
        assert!(error.starts_with("env86: Cannot use the snapshot: ") && error.contains(name), "{error}");
        fs::remove_file(image.path().join(name)).unwrap();
        error
    };
    let error = with("initial.state.zst", &zstd[..zstd.len() - 5]);
    assert!(error.contains("cut off") || error.contains("end of the file"), "{error}");
    let error = with("initial.state.zst", &zstd[..zstd.len() / 2]);
    assert!(error.contains("never finished") && error.contains("offset"), "{error}");
    let mut wrong = zstd.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(with("initial.state.zst", &wrong).contains("checksum"));
    assert!(with("initial.state", &raw[..raw.len() - 4]).contains("header says"));
    assert!(
        with("initial.state", b"garbage, but long enough for a header").contains("This is not a snapshot")
    );
    assert!(with("initial.state", b"").contains("cut off"));
    let mut old = raw.clone();
    old[4] = 5;
    assert!(with("initial.state", &old).contains("version 5"));
}

#[test]
fn snapshot_that_image_json_names_and_is_not_there_is_an_error() {
    let image = ConsoleImage::new();
    let json = fs::read_to_string(image.path().join("image.json")).unwrap();
    for (url, reason) in
        [("./s", "s: no such file"), ("https://h/s", "files on the network"), ("../s", "not a file of")]
    {
        let with = format!("{{\"initial_state\": {{\"url\": \"{url}\"}},");
        fs::write(image.path().join("image.json"), json.replacen('{', &with, 1)).unwrap();
        let run = boot(&image.path(), &[], b"");
        assert_eq!(run.status.code(), Some(1));
        assert!(text(&run.stderr).contains(reason), "{}", text(&run.stderr));
        assert_ok(&boot(&image.path(), &["--cold"], b"x"));
    }
}

#[test]
fn memory_of_the_snapshot_counts_and_a_wish_is_a_warning() {
    let image = ConsoleImage::new();
    assert_ok(&boot(&image.path(), &["--save"], b"one"));
    let run = boot(&image.path(), &["--memory", "64M", "--append", "quiet"], b"two");
    assert_ok(&run);
    assert_eq!(text(&run.stdout), "\ntwo");
    let warnings = text(&run.stderr);
    assert!(warnings.contains("the snapshot's guest has 2 MiB of memory, not 64 MiB"), "{warnings}");
    assert!(warnings.contains("--append"), "{warnings}");
}

#[test]
fn named_snapshots_are_made_listed_restored_and_removed() {
    let image = ConsoleImage::new();
    let path = image.path();
    let named = |name: &str| format!("{}:{name}", path.display());
    let run = |arguments: &[&str]| {
        let run = env86(&[&["snapshot"], arguments].concat(), b"");
        assert_ok(&run);
        text(&run.stdout)
    };
    assert_eq!(run(&["ls", path.to_str().unwrap()]), "no snapshots\n");
    // Without a snapshot the image is booted.
    run(&["create", &named("fresh"), "--linger", "0.2"]);
    assert_eq!(files(&path), ["image.json", "kernel", "snapshots"]);
    assert_eq!(text(&boot(Path::new(&named("fresh")), &[], b"a").stdout), "\na");
    assert_ok(&boot(Path::new(&named("fresh")), &["--save"], b"b"));
    assert_eq!(files(&path.join("snapshots")), ["fresh.state"]);
    // A copy is the same bytes.
    assert_ok(&boot(&path, &["--save"], b"c"));
    run(&["create", &named("copy")]);
    assert!(
        fs::read(path.join("snapshots/copy.state")).unwrap() == fs::read(path.join("initial.state")).unwrap()
    );
    let again = env86(&["snapshot", "create", &named("copy")], b"");
    assert!(again.status.code() == Some(1) && text(&again.stderr).contains("--force replaces it"));
    run(&["create", &named("small"), "--cold", "--compress", "--exit-on", "ready"]);
    let list: serde_json::Value =
        serde_json::from_str(&run(&["ls", "--json", path.to_str().unwrap()])).unwrap();
    let names: Vec<_> = list["snapshots"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(serde_json::json!(names), serde_json::json!([null, "copy", "fresh", "small"]));
    let table = run(&["ls", path.to_str().unwrap()]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.starts_with("NAME") && table.contains("(image)") && table.contains("zstd"), "{table}");

    run(&["restore", &named("small")]);
    assert_eq!(files(&path), ["image.json", "initial.state.zst", "kernel", "snapshots"]);
    run(&["restore", &named("copy")]);
    assert_eq!(files(&path), ["image.json", "initial.state", "kernel", "snapshots"]);
    let difference = run(&["diff", &named("copy")]);
    assert!(difference.contains("Pages     0 of 512 changed"), "{difference}");
    let difference: serde_json::Value =
        serde_json::from_str(&run(&["diff", "--json", &named("copy"), &named("fresh")])).unwrap();
    assert!(!difference["slots"].as_array().unwrap().is_empty());

    run(&["rm", &named("copy"), &named("small")]);
    let missing = boot(Path::new(&named("copy")), &[], b"");
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("hint: there are: fresh"), "{}", text(&missing.stderr));
    let nameless = env86(&["snapshot", "rm", path.to_str().unwrap()], b"");
    assert!(text(&nameless.stderr).contains(":NAME"), "{}", text(&nameless.stderr));
}

#[test]
fn description_is_text_for_people() {
    let image = ConsoleImage::new();
    assert_ok(&boot(&image.path(), &["--save"], b"one"));
    let file = image.path().join("initial.state");
    for what in [image.path(), file] {
        let run = env86(&["snapshot", "describe", what.to_str().unwrap()], b"");
        assert_ok(&run);
        let lines = text(&run.stdout);
        for word in [
            "Snapshot ",
            "version 6, raw, written by env86",
            "2.0 MiB",
            "protected 32-bit",
            "ring 0",
            "UART0",
        ] {
            assert!(lines.contains(word), "{word}: {lines}");
        }
    }
}

/// A file system that takes no more: the shell limits the size of files.
#[cfg(unix)]
#[test]
fn write_error_leaves_the_old_snapshot_and_no_other_file() {
    let image = ConsoleImage::new();
    assert_ok(&boot(&image.path(), &["--save"], b"one"));
    let before = fs::read(image.path().join("initial.state")).unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; printf two | {} boot --timeout 60 --save {}",
        env!("CARGO_BIN_EXE_env86"),
        image.path().display()
    );
    let run = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    let error = text(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{error}");
    assert!(error.contains("Cannot save the snapshot") && error.contains("is unchanged"), "{error}");
    assert_eq!(files(&image.path()), ["image.json", "initial.state", "kernel"]);
    assert!(fs::read(image.path().join("initial.state")).unwrap() == before);
}

#[cfg(unix)]
#[test]
fn image_that_cannot_be_written_is_refused_before_the_guest_starts() {
    use std::os::unix::fs::PermissionsExt;
    let image = ConsoleImage::new();
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let writable = fs::write(image.path().join("probe"), b"").is_ok();
    let run = boot(&image.path(), &["--save"], b"one");
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The superuser writes everywhere.
    if !writable {
        assert_eq!((run.status.code(), text(&run.stdout)), (Some(1), String::new()));
        assert!(text(&run.stderr).contains("Cannot save the snapshot"), "{}", text(&run.stderr));
    }
}

/// Kills env86 at random moments of saving. `ENV86_KILLS=200` for a long run.
#[cfg(unix)]
#[test]
fn killed_while_saving_leaves_the_old_or_the_new_snapshot() {
    let kills: u32 = std::env::var("ENV86_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    for compressed in [false, true] {
        let image = ConsoleImage::new();
        let file = image.path().join(if compressed { "initial.state.zst" } else { "initial.state" });
        if compressed {
            fs::write(&file, b"x").unwrap();
        }
        assert_ok(&boot(&image.path(), &["--cold", "--save"], b"0"));
        // How long saving takes, with a margin: some runs end by themselves.
        let mut longest = std::time::Duration::from_millis(5);
        let mut seed = 0x1234_5678u32;
        let (mut killed, mut finished) = (0, 0);
        for _ in 0..kills / 2 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wait = longest.mul_f64(f64::from(seed >> 8) / f64::from(1 << 24) * 1.2);
            if kill_while_saving(&image.path(), wait, &mut longest) {
                killed += 1
            } else {
                finished += 1
            }
            let run = boot(&image.path(), &[], b"alive");
            assert_eq!(text(&run.stdout), "\nalive", "{}", text(&run.stderr));
            let names: Vec<PathBuf> = files(&image.path()).into_iter().map(PathBuf::from).collect();
            assert_eq!(names.len(), 3, "{names:?}");
            assert!(names.contains(&PathBuf::from(file.file_name().unwrap())), "{names:?}");
        }
        eprintln!("{killed} killed, {finished} finished");
    }
}

#[cfg(unix)]
fn now() -> std::time::Instant {
    #[allow(clippy::disallowed_methods)] // about the test's own time, not the guest's
    std::time::Instant::now()
}

/// Saves, and kills the process so long after it has begun to. False if it was done by then.
#[cfg(unix)]
fn kill_while_saving(image: &Path, wait: std::time::Duration, longest: &mut std::time::Duration) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_env86"));
    command.args(["boot", "--timeout", "60", "--save", "--exit-on", "!"]).arg(image);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"go!").unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut seen, mut buffer) = (Vec::new(), [0; 256]);
    while !text(&seen).contains("Saving...") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{}", text(&seen));
        seen.extend_from_slice(&buffer[..n]);
    }
    let begin = now();
    // Waits for the end, but not longer than that.
    while begin.elapsed() < wait {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            *longest = begin.elapsed().max(*longest / 2);
            return false;
        }
        std::thread::yield_now();
    }
    child.kill().unwrap();
    let _ = child.wait();
    *longest = longest.mul_f64(1.1);
    true
}
