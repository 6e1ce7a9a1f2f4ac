use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use emu_devices::p9::wire::AT_REMOVEDIR;
use emu_devices::p9::{Errno, Server};
use tempfile::TempDir;

use super::*;
use crate::fs::tests::client::Client;

struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let lower = base.path().join("lower");
        fs::create_dir_all(lower.join("dir/deep")).unwrap();
        fs::write(lower.join("dir/deep/file"), "deep").unwrap();
        fs::write(lower.join("dir/file"), "lower").unwrap();
        fs::write(lower.join("top"), "top").unwrap();
        symlink("../../outside", lower.join("link")).unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        Self(base)
    }

    fn lower(&self) -> PathBuf {
        self.0.path().join("lower")
    }

    fn upper(&self) -> PathBuf {
        self.0.path().join("upper")
    }

    fn union(&self) -> Result<Union, ShareError> {
        let spec = Spec { host: self.lower(), guest: "/m".into(), mode: Mode::OverlayIn(self.upper()) };
        Union::open(&spec, &self.upper())
    }

    fn client(&self) -> Client {
        Client::of(Server::new(Box::new(self.union().unwrap())), "")
    }
}

/// Everything in a directory, with contents.
fn tree(path: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.path().strip_prefix(path).unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                waiting.push(entry.path());
                all.push((name, "/".into()));
            } else if kind.is_symlink() {
                all.push((name, fs::read_link(entry.path()).unwrap().display().to_string()));
            } else {
                all.push((name, fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// Everything the guest sees, with contents.
fn seen(client: &mut Client) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(directory) = waiting.pop() {
        for name in client.names(&directory).unwrap() {
            let path = format!("{directory}/{name}").trim_start_matches('/').to_owned();
            match client.stat(&path).unwrap().mode & 0o170_000 {
                0o040_000 => {
                    waiting.push(path.clone());
                    all.push((path, "/".into()));
                }
                0o120_000 => all.push((path.clone(), client.readlink(&path).unwrap())),
                _ => {
                    let contents = client.contents(&path).unwrap();
                    all.push((path, String::from_utf8(contents).unwrap()));
                }
            }
        }
    }
    all.sort();
    all
}

fn put(client: &mut Client, path: &str, at: u64, text: &str) -> Result<(), Errno> {
    client.open(path, 40, 1)?;
    let written = client.write(40, at, text.as_bytes());
    client.clunk(40);
    written.map(drop)
}

fn make(client: &mut Client, directory: &str, name: &str, text: &str) -> Result<(), Errno> {
    client.create(directory, name, 40)?;
    client.write(40, 0, text.as_bytes()).unwrap();
    client.clunk(40);
    Ok(())
}

#[test]
fn writes_stay_in_their_directory_and_the_next_run_sees_them() {
    let host = Host::new();
    let before = tree(&host.lower());
    let mut client = host.client();
    put(&mut client, "dir/deep/file", 2, "XX!").unwrap();
    make(&mut client, "dir", "new", "made").unwrap();
    client.unlink("", "top", 0).unwrap();
    client.rename("dir", "file", "", "moved").unwrap();
    client.mkdir("", "made").unwrap();
    client.symlink("made", "link", "/etc").unwrap();
    let all = seen(&mut client);
    drop(client);
    assert_eq!(tree(&host.lower()), before);
    let text = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let expected = [
        text("dir", "/"),
        text("dir/deep", "/"),
        text("dir/deep/file", "deXX!"),
        text("dir/new", "made"),
        text("link", "../../outside"),
        text("made", "/"),
        text("made/link", "/etc"),
        text("moved", "lower"),
    ];
    assert_eq!(all, expected);
    assert_eq!(seen(&mut host.client()), expected);
    let kept: Vec<_> = tree(&host.upper()).into_iter().map(|(path, _)| path).collect();
    let names = [
        ".wh.top",
        "dir",
        "dir/.wh.file",
        "dir/deep",
        "dir/deep/file",
        "dir/new",
        "made",
        "made/link",
        "moved",
    ];
    assert_eq!(kept, names.map(PathBuf::from));
}

#[test]
fn directory_that_takes_the_place_of_another_shows_nothing_of_it() {
    let host = Host::new();
    let mut client = host.client();
    assert_eq!(client.unlink("", "dir", AT_REMOVEDIR), Err(Errno::ENOTEMPTY));
    client.unlink("dir/deep", "file", 0).unwrap();
    client.unlink("dir", "deep", AT_REMOVEDIR).unwrap();
    client.unlink("dir", "file", 0).unwrap();
    client.unlink("", "dir", AT_REMOVEDIR).unwrap();
    assert_eq!(client.stat("dir").map(drop), Err(Errno::ENOENT));
    client.mkdir("", "dir").unwrap();
    assert_eq!(client.names("dir").unwrap(), [""; 0]);
    make(&mut client, "dir", "file", "other").unwrap();
    client.mkdir("", "source").unwrap();
    client.mkdir("source", "deep").unwrap();
    client.rename("source", "deep", "dir", "deep").unwrap();
    let mut again = {
        drop(client);
        host.client()
    };
    assert_eq!(again.contents("dir/file").unwrap(), b"other");
    assert_eq!(again.names("dir/deep").unwrap(), [""; 0]);
}

#[test]
fn directory_of_the_lower_one_is_not_renamed() {
    let host = Host::new();
    let mut client = host.client();
    assert_eq!(client.rename("", "dir", "", "other"), Err(Errno::EXDEV));
    assert_eq!(client.contents("dir/deep/file").unwrap(), b"deep");
}

#[test]
fn names_of_the_overlays_own_do_not_exist_for_the_guest() {
    let host = Host::new();
    fs::write(host.lower().join(".wh.below"), "").unwrap();
    fs::create_dir_all(host.upper().join("dir")).unwrap();
    fs::write(host.upper().join(".wh.top"), "").unwrap();
    fs::write(host.upper().join("dir/.wh..wh..opq"), "").unwrap();
    let mut client = host.client();
    // A layer that another program made.
    assert_eq!(client.names("dir").unwrap(), [""; 0]);
    assert_eq!(client.stat("top").map(drop), Err(Errno::ENOENT));
    for name in [".wh.top", ".wh..wh..opq", ".wh.x", ".wh."] {
        assert_eq!(client.create("", name, 40), Err(Errno::EINVAL), "{name}");
        assert_eq!(client.mkdir("dir", name), Err(Errno::EINVAL), "{name}");
        assert_eq!(client.symlink("", name, "x"), Err(Errno::EINVAL), "{name}");
        assert_eq!(client.link("link", "", name), Err(Errno::EINVAL), "{name}");
        assert_eq!(client.rename("", "link", "", name), Err(Errno::EINVAL), "{name}");
        assert_eq!(client.unlink("", name, 0), Err(Errno::ENOENT), "{name}");
    }
    assert!(client.names("").unwrap().iter().all(|name| !name.starts_with(".wh")));
}

#[test]
fn file_that_is_open_goes_on_when_it_is_copied_and_removed() {
    let host = Host::new();
    let mut client = host.client();
    client.open("dir/file", 20, 0).unwrap();
    let number = client.attr(20).qid;
    put(&mut client, "dir/file", 0, "UP").unwrap();
    // As in one directory: who has it open sees the change, and it is the same file.
    assert_eq!(client.read(20, 0, 100).unwrap(), b"UPwer");
    assert_eq!(client.attr(20).qid, number);
    assert_eq!(client.stat("dir/file").unwrap().qid, number);
    client.unlink("dir", "file", 0).unwrap();
    assert_eq!(client.read(20, 0, 100).unwrap(), b"UPwer");
    assert_eq!(client.stat("dir/file").map(drop), Err(Errno::ENOENT));
    client.clunk(20);
}

#[test]
fn copies_have_modes_times_and_holes() {
    let host = Host::new();
    let file = host.lower().join("dir/deep/sparse");
    let contents = fs::File::create(&file).unwrap();
    contents.set_len(64 << 20).unwrap();
    contents.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(86)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(host.lower().join("dir/deep"), fs::Permissions::from_mode(0o750)).unwrap();
    let mut client = host.client();
    client.link("dir/deep/sparse", "", "second").unwrap();
    let copy = fs::metadata(host.upper().join("dir/deep/sparse")).unwrap();
    assert_eq!((copy.mode() & 0o7777, copy.len(), copy.mtime(), copy.nlink()), (0o640, 64 << 20, 86, 2));
    assert!(copy.blocks() < 1000, "{}", copy.blocks());
    assert_eq!(fs::metadata(host.upper().join("dir/deep")).unwrap().mode() & 0o7777, 0o750);
    // What is overwritten anyway is not copied.
    client.open("dir/file", 20, 0x201).unwrap();
    assert_eq!(fs::metadata(host.upper().join("dir/file")).unwrap().len(), 0);
}

#[test]
fn copy_of_a_run_that_was_killed_is_no_file() {
    let host = Host::new();
    fs::create_dir(host.upper()).unwrap();
    fs::write(host.upper().join(".wh..wh.copy"), "half").unwrap();
    let mut client = host.client();
    assert_eq!(client.contents("top").unwrap(), b"top");
    put(&mut client, "top", 0, "T").unwrap();
    assert_eq!(tree(&host.upper()), [(PathBuf::from("top"), "Top".to_owned())]);
}

#[test]
fn directories_that_cannot_be_one_are_refused() {
    let host = Host::new();
    let first = host.union().unwrap();
    assert!(matches!(host.union(), Err(ShareError::Busy { .. })));
    drop(first);
    drop(host.union().unwrap());
    let spec = |upper: &Path| Spec {
        host: host.lower(),
        guest: "/m".into(),
        mode: Mode::OverlayIn(upper.to_owned()),
    };
    for upper in [host.lower(), host.lower().join("dir"), host.0.path().to_owned(), host.lower().join("new")]
    {
        let refused = Union::open(&spec(&upper), &upper);
        assert!(matches!(refused, Err(ShareError::Nested { .. })), "{}", upper.display());
    }
    for upper in [host.lower().join("top"), host.0.path().join("no/where")] {
        assert!(Union::open(&spec(&upper), &upper).is_err(), "{}", upper.display());
    }
}

#[test]
fn links_in_either_directory_are_not_followed() {
    let host = Host::new();
    let outside = host.0.path().join("outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir(host.upper()).unwrap();
    // As if somebody on the host had put them there.
    symlink(&outside, host.upper().join("dir")).unwrap();
    symlink(&outside, host.lower().join("way")).unwrap();
    symlink(outside.join("secret"), host.upper().join("top")).unwrap();
    let mut client = host.client();
    for directory in ["dir", "way"] {
        assert!(client.walk(&format!("{directory}/secret"), 20).is_err(), "{directory}");
        assert!(client.create(directory, "new", 20).is_err(), "{directory}");
        assert!(client.names(directory).is_err(), "{directory}");
    }
    assert!(client.open("top", 20, 1).is_err());
    assert!(client.truncate("top", 0).is_err());
    // A directory of the upper one turns into a link while it is in use.
    client.mkdir("", "made").unwrap();
    client.walk("made", 30).unwrap();
    fs::remove_dir(host.upper().join("made")).unwrap();
    symlink(&outside, host.upper().join("made")).unwrap();
    for name in ["secret", "new"] {
        let _ = client.create("made", name, 20);
    }
    assert_eq!(tree(&outside), [(PathBuf::from("secret"), "secret".to_owned())]);
}

/// A generator of numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

#[test]
fn random_changes_are_those_of_a_plain_directory() {
    const NAMES: [&str; 5] = ["a", "b", "dir", "file", "deep"];
    let mut done = 0;
    for seed in 1..=6 {
        let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let host = Host::new();
        let before = tree(&host.lower());
        let plain = Host::new();
        let spec = Spec { host: plain.lower(), guest: "/m".into(), mode: Mode::ReadWrite };
        let mut plain = Client::of(Server::new(Box::new(Shares::alone(&spec).unwrap())), "");
        let mut client = host.client();
        for step in 0..150 {
            let mut directories: Vec<String> = vec![String::new()];
            let all = seen(&mut plain);
            directories.extend(all.iter().filter(|(_, text)| text == "/").map(|(path, _)| path.clone()));
            let at = directories[numbers.below(directories.len())].clone();
            let to = directories[numbers.below(directories.len())].clone();
            let [name, new] = [0; 2].map(|_| NAMES[numbers.below(NAMES.len())]);
            let path = format!("{at}/{name}").trim_start_matches('/').to_owned();
            let text = format!("{step}");
            let (kind, place) = (numbers.below(9), numbers.below(8) as u64);
            let act = |client: &mut Client| match kind {
                0 => make(client, &at, name, &text),
                1 => client.mkdir(&at, name),
                2 => client.symlink(&at, name, &text),
                3 => client.unlink(&at, name, 0),
                4 => client.unlink(&at, name, AT_REMOVEDIR),
                5 | 6 => client.rename(&at, name, &to, new),
                7 => client.truncate(&path, place),
                _ => put(client, &path, place, &text).map(drop),
            };
            let what = format!("seed {seed} step {step}: {kind} {at:?} {name} {to:?} {new} {place}");
            let outcome = act(&mut client);
            if outcome != Err(Errno::EXDEV) {
                let expected = act(&mut plain);
                assert_eq!(outcome.is_ok(), expected.is_ok(), "{what}: {outcome:?} {expected:?}");
                done += usize::from(outcome.is_ok());
            }
            if step % 50 == 49 {
                assert_eq!(seen(&mut client), seen(&mut plain), "{what}");
                drop(client);
                client = host.client();
            }
            assert_eq!(seen(&mut client), seen(&mut plain), "{what}");
        }
        assert_eq!(tree(&host.lower()), before);
    }
    assert!(done > 200, "{done}");
}
