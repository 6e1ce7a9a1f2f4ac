//! Images that are not what they should be: one line of error, status 1, no panic.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, env86, tgz};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("home")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image directory `img` with this `image.json`.
    fn image(json: impl AsRef<[u8]>) -> Self {
        let place = Self::new();
        fs::create_dir(place.path("img")).unwrap();
        fs::write(place.path("img/image.json"), json).unwrap();
        place
    }

    /// An archive `img.tgz`.
    fn archive(bytes: &[u8]) -> Self {
        let place = Self::new();
        fs::write(place.path("img.tgz"), bytes).unwrap();
        place
    }

    fn boot(&self, name: &str, flags: &[&str]) -> Run {
        let image = self.path(name);
        let mut arguments = vec!["boot", image.to_str().unwrap()];
        arguments.extend(flags);
        env86(&self.path("home"), &arguments)
    }
}

/// One line of error that names `file` and says `reason`; hints may follow.
fn assert_error(run: &Run, file: &Path, reason: &str) {
    assert_eq!(run.status, 1, "{}", run.err);
    assert_eq!(run.out, "");
    let (errors, rest): (Vec<&str>, Vec<&str>) =
        run.err.lines().partition(|line| line.starts_with("env86: "));
    assert_eq!(errors.len(), 1, "{}", run.err);
    assert!(rest.iter().all(|line| line.starts_with("hint: ")), "{}", run.err);
    assert!(errors[0].contains(file.to_str().unwrap()), "{} is not in {}", file.display(), errors[0]);
    assert!(errors[0].contains(reason), "{reason:?} is not in {}", errors[0]);
}

fn assert_json_error(json: impl AsRef<[u8]>, reason: &str) {
    let place = Place::image(json);
    assert_error(&place.boot("img", &[]), &place.path("img/image.json"), reason);
}

#[test]
fn missing_image_names_the_store_that_was_searched() {
    let place = Place::new();
    let run = env86(&place.path("home"), &["boot", "alpine"]);
    assert_error(&run, &place.path("home"), "Cannot find the image: alpine: no such path");
    assert!(run.err.contains("\nhint: "), "{}", run.err);
    let run = place.boot("nothing", &[]);
    assert_error(&run, &place.path("nothing"), "no such path");
}

#[test]
fn directory_without_image_json_is_no_image() {
    let place = Place::new();
    fs::create_dir(place.path("img")).unwrap();
    assert_error(&place.boot("img", &[]), &place.path("img"), "no image.json found in image");
}

#[test]
fn image_json_that_is_no_json_is_refused() {
    assert_json_error("", "EOF");
    assert_json_error("garbage\n\x1b[2J", "line 1 column 1");
    assert_json_error("\u{FEFF}{}", "byte order mark");
    assert_json_error(b"\xFF\xFE{\0}\0", "byte order mark");
    assert_json_error(b"\0\0\0\0", "line 1 column 1");
    assert_json_error(r#"{"cmdline": "ro""#, "EOF");
    assert_json_error("[]", "expected an object, found an array");
    assert_json_error(b"{\"cmdline\": \"\xFF\xFF\"}", "unicode");
    assert_json_error(format!("{{\"a\": {}", "[".repeat(500_000)), "recursion limit");
}

#[test]
fn image_json_with_wrong_types_names_key_and_reason() {
    assert_json_error(r#"{"memory_size": "512M"}"#, r#"key "memory_size": expected a number"#);
    assert_json_error(r#"{"memory_size": -5}"#, r#"key "memory_size": expected a whole number"#);
    assert_json_error(r#"{"acpi": 1}"#, r#"key "acpi": expected true or false, found a number"#);
    assert_json_error(r#"{"bzimage": "./k"}"#, r#"key "bzimage": expected an object"#);
    assert_json_error(r#"{"filesystem": []}"#, r#"key "filesystem": expected an object"#);
}

#[test]
fn image_json_larger_than_the_limit_is_refused() {
    let mut json = vec![b' '; (1 << 20) + 1];
    json[0] = b'{';
    json[1] = b'}';
    assert_json_error(json, "larger than 1048576 bytes");
}

#[test]
fn image_json_that_is_no_file_is_refused() {
    let place = Place::new();
    fs::create_dir_all(place.path("img/image.json")).unwrap();
    assert_error(&place.boot("img", &[]), &place.path("img/image.json"), "it is a directory");
}

#[cfg(unix)]
#[test]
fn links_in_circles_and_devices_are_refused() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    fs::create_dir(place.path("img")).unwrap();
    symlink("image.json", place.path("img/image.json")).unwrap();
    assert_error(&place.boot("img", &[]), &place.path("img/image.json"), "symbolic link");
    symlink("circle", place.path("circle")).unwrap();
    assert_error(&place.boot("circle", &[]), &place.path("circle"), "symbolic link");
    symlink("/dev/zero", place.path("zero")).unwrap();
    assert_error(&place.boot("zero", &[]), &place.path("zero"), "neither a directory nor a file");
}

#[test]
fn archive_that_is_none_is_refused() {
    for bytes in [&b""[..], b"x", b"not an archive at all", b"PK\x03\x04zip"] {
        let place = Place::archive(bytes);
        assert_error(
            &place.boot("img.tgz", &[]),
            &place.path("img.tgz"),
            "not a gzip-compressed tar archive",
        );
    }
    let place = Place::archive(b"\x1F\x8B\x08\0garbage that goes on");
    assert_error(&place.boot("img.tgz", &[]), &place.path("img.tgz"), "Cannot read the image archive");
}

#[test]
fn archive_cut_short_is_refused() {
    let noise: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let whole = tgz(&[("image.json", b"{}"), ("fs/a", &noise)]);
    for len in [3, 10, 200, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        let place = Place::archive(&whole[..len]);
        let run = place.boot("img.tgz", &[]);
        assert_error(&run, &place.path("img.tgz"), "Cannot read the image archive");
    }
}

#[test]
fn archive_with_names_that_leave_it_is_refused() {
    for name in ["../image.json", "/image.json", "fs/../../x"] {
        let place = Place::archive(&tgz(&[("image.json", b"{}"), (name, b"{}")]));
        assert_error(&place.boot("img.tgz", &[]), &place.path("img.tgz"), "bad entry name");
    }
}

#[test]
fn archive_with_a_folder_around_the_image_gets_a_hint() {
    let place = Place::archive(&tgz(&[("alpine/image.json", b"{}")]));
    let run = place.boot("img.tgz", &[]);
    assert_error(&run, &place.path("img.tgz"), "no image.json found in image");
    assert!(run.err.contains("tar -C alpine"), "{}", run.err);
}

#[test]
fn archive_is_read_like_a_directory() {
    let place = Place::archive(&tgz(&[("./image.json", br#"{"acpi": 5}"#)]));
    assert_error(&place.boot("img.tgz", &[]), &place.path("img.tgz/image.json"), r#"key "acpi""#);
}

#[test]
fn kernel_that_is_missing_says_what_to_do() {
    let place = Place::image("{}");
    let run = place.boot("img", &[]);
    assert_error(&run, &place.path("img"), "it names no kernel");
    assert!(run.err.contains("hint: give one with --kernel"), "{}", run.err);
    let place = Place::image(r#"{"bzimage": {"url": "./vmlinuz"}}"#);
    assert_error(&place.boot("img", &[]), &place.path("img/vmlinuz"), "no such file");
}

#[test]
fn kernel_elsewhere_is_refused() {
    for (url, reason) in [
        ("https://example.invalid/k", "not supported yet"),
        ("/vmlinuz.bin", "not a file of the image"),
        ("../outside", "not a file of the image"),
        ("file:///etc/passwd", "not a file of the image"),
    ] {
        let place = Place::image(format!(r#"{{"bzimage": {{"url": "{url}"}}}}"#));
        fs::write(place.path("outside"), b"kernel").unwrap();
        assert_error(&place.boot("img", &[]), &place.path("img"), reason);
    }
}

#[test]
fn kernel_flags_name_files_that_must_be_there() {
    let place = Place::image("{}");
    let gone = place.path("gone");
    let run = place.boot("img", &["--kernel", gone.to_str().unwrap()]);
    assert_error(&run, &gone, "Cannot read the kernel");
    fs::write(place.path("k"), b"kernel").unwrap();
    let kernel = place.path("k");
    let run = place.boot("img", &["--kernel", kernel.to_str().unwrap(), "--initrd", gone.to_str().unwrap()]);
    assert_error(&run, &gone, "Cannot read the initrd");
}

#[test]
fn what_a_later_version_brings_says_so() {
    let cases = [
        (r#"{"hda": {"url": "./disk"}}"#, "drives (hda) are not available yet"),
        (r#"{"bios": {"url": "./bios"}}"#, "firmware"),
    ];
    for (json, reason) in cases {
        let place = Place::image(json);
        assert_error(&place.boot("img", &[]), &place.path("img"), reason);
    }
    let place = Place::image("{}");
    fs::write(place.path("img/initial.state.zst"), b"x").unwrap();
    let run = place.boot("img", &[]);
    assert_error(&run, &place.path("img/initial.state.zst"), "cut off");
    assert!(run.err.contains("start with --cold"), "{}", run.err);
    assert_error(&place.boot("img", &["--cold"]), &place.path("img"), "it names no kernel");
}

/// Both engines come as far as the kernel, which is none.
#[test]
fn engines_are_built_on_request() {
    let place = Place::image(r#"{"bzimage": {"url": "./k"}}"#);
    fs::write(place.path("img/k"), b"kernel").unwrap();
    for engine in ["interp", "jit"] {
        if engine == "jit" && !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            continue;
        }
        let run = place.boot("img", &["--engine", engine]);
        assert_eq!(run.status, 1);
        assert!(run.err.contains("Cannot boot the kernel"), "{}", run.err);
    }
}

#[test]
fn file_index_that_makes_no_sense_is_refused() {
    let deep = format!(r#"{{"version": 3, "fsroot": {}"#, r#"[["d",0,0,16877,0,0,"#.repeat(100_000));
    let cases: [(&[u8], &str); 10] = [
        (b"", "end"),
        (b"garbage", "at byte 0"),
        (b"\xEF\xBB\xBF{}", "at byte"),
        (b"[]", "at byte"),
        (b"{}", "version"),
        (br#"{"version": 2, "fsroot": []}"#, "version"),
        (br#"{"version": 3, "fsroot": [["a", 1"#, "at byte"),
        (br#"{"version": 3, "fsroot": [["../a", 1, 0, 33188, 0, 0, "x"]], "size": 1}"#, "name"),
        (br#"{"version": 3, "fsroot": [["/etc", 1, 0, 33188, 0, 0, "x"]], "size": 1}"#, "name"),
        (deep.as_bytes(), "at byte"),
    ];
    for (text, reason) in cases {
        let place = Place::image(r#"{"bzimage_initrd_from_filesystem": true}"#);
        fs::write(place.path("img/fs.json"), text).unwrap();
        assert_error(&place.boot("img", &[]), &place.path("img/fs.json"), reason);
    }
}

#[test]
fn file_index_that_is_missing_is_refused_if_it_is_needed() {
    let place = Place::image(r#"{"bzimage_initrd_from_filesystem": true}"#);
    assert_error(&place.boot("img", &[]), &place.path("img"), "no fs.json found in image");
    let place = Place::image("{}");
    fs::create_dir(place.path("img/fs")).unwrap();
    assert_error(&place.boot("img", &[]), &place.path("img"), "no fs.json found in image");
}

#[test]
fn kernel_missing_in_the_tree_says_what_to_do() {
    let place = Place::image(r#"{"bzimage_initrd_from_filesystem": true}"#);
    fs::write(place.path("img/fs.json"), r#"{"version": 3, "fsroot": [], "size": 0}"#).unwrap();
    let run = place.boot("img", &[]);
    assert_error(&run, &place.path("img"), "no kernel in / or /boot");
    assert!(run.err.contains("hint: install a kernel"), "{}", run.err);
}

#[test]
fn content_file_with_a_bad_name_or_missing_is_refused() {
    for name in ["../../etc/passwd", "/etc/passwd", "gone.bin"] {
        let place = Place::image(r#"{"bzimage_initrd_from_filesystem": true}"#);
        let index = format!(
            r#"{{"version": 3, "fsroot": [["vmlinuz", 5, 0, 33188, 0, 0, "{name}"],
                ["initrd", 5, 0, 33188, 0, 0, "{name}"]], "size": 10}}"#
        );
        fs::write(place.path("img/fs.json"), index).unwrap();
        let run = place.boot("img", &["--quiet"]);
        assert_eq!(run.status, 1, "{name}");
        assert_eq!((run.err.lines().count(), run.out.as_str()), (1, ""), "{}", run.err);
    }
}

#[test]
fn stored_images_are_found_by_name() {
    let place = Place::new();
    fs::create_dir_all(place.path("home/github.com/user/alpine/3.18")).unwrap();
    fs::create_dir_all(place.path("home/made/local")).unwrap();
    fs::write(place.path("home/github.com/user/alpine/3.18/image.json"), "{}").unwrap();
    fs::write(place.path("home/made/local/image.json"), "[]").unwrap();
    let run = env86(&place.path("home"), &["boot", "github.com/user/alpine-env86@3.18"]);
    assert_error(&run, Path::new("alpine/3.18"), "it names no kernel");
    let run = env86(&place.path("home"), &["boot", "made"]);
    assert_error(&run, Path::new("made/local/image.json"), "expected an object");
    let run = env86(&place.path("home"), &["boot", "made@2.0"]);
    assert_error(&run, Path::new("made@2.0"), "no image of that name");
}
