//! Shares through the protocol, with a client that may do anything.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use emu_devices::p9::wire::{AT_REMOVEDIR, request};
use emu_devices::p9::{Errno, Server};
use tempfile::TempDir;

use super::*;
use crate::fs::tests::client::Part::{D, Q, S};
use crate::fs::tests::client::{Client, ROOT};
use crate::limits;

/// A directory to share, beside one that has a secret.
struct Host {
    directory: TempDir,
}

const SECRET: &[u8] = b"secret";

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("share")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), SECRET).unwrap();
        Self { directory }
    }

    fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn client(&self, mode: Mode) -> Client {
        let spec = Spec { host: self.share(), guest: "/mnt".into(), mode };
        let shares = Shares::open(&[spec]).unwrap();
        Client::of(Server::new(Box::new(shares)), "/0")
    }

    /// Nothing outside was changed or added.
    fn assert_intact(&self, what: &str) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{what}");
        assert_eq!(fs::read(self.outside().join("secret")).unwrap(), SECRET, "{what}");
        let mode = fs::metadata(self.outside().join("secret")).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o644, "{what}");
        let names: Vec<_> =
            fs::read_dir(self.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
    }
}

fn user_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn files_made_by_the_guest_are_the_hosts() {
    let host = Host::new();
    let mut client = host.client(Mode::ReadWrite);
    client.mkdir("", "dir").unwrap();
    client.create("dir", "file", 1).unwrap();
    assert_eq!(client.write(1, 3, b"hello").unwrap(), 5);
    assert_eq!(client.read(1, 0, 100).unwrap(), b"\0\0\0hello");
    assert_eq!(fs::read(host.share().join("dir/file")).unwrap(), b"\0\0\0hello");
    let attr = client.attr(1);
    assert_eq!((attr.mode, attr.size, attr.nlink), (0o100644, 8, 1));
    client.symlink("dir", "link", "../../outside/secret").unwrap();
    assert_eq!(client.readlink("dir/link").unwrap(), "../../outside/secret");
    client.link("dir/file", "", "second").unwrap();
    assert_eq!(client.stat("second").unwrap().qid, client.attr(1).qid);
    client.rename("dir", "file", "", "third").unwrap();
    client.truncate("third", 2).unwrap();
    assert_eq!(fs::read(host.share().join("second")).unwrap(), b"\0\0");
    let mut names = client.names("").unwrap();
    names.sort();
    assert_eq!(names, ["dir", "second", "third"]);
    assert_eq!(client.unlink("", "dir", AT_REMOVEDIR), Err(Errno::ENOTEMPTY));
    client.unlink("dir", "link", 0).unwrap();
    client.unlink("", "dir", AT_REMOVEDIR).unwrap();
    client.unlink("", "second", 0).unwrap();
    assert_eq!(client.stat("third").unwrap().nlink, 1);
}

#[test]
fn owner_is_root_for_the_guest_and_the_user_for_the_host() {
    let host = Host::new();
    let mut client = host.client(Mode::ReadWrite);
    fs::write(host.share().join("mine"), b"").unwrap();
    let attr = client.stat("mine").unwrap();
    assert_eq!((attr.uid, attr.gid), (0, 0));
    // chown to what it is already.
    let owner = |uid: u32| [D(50), D(2), D(0), D(uid), D(0), Q(0), Q(0), Q(0), Q(0), Q(0)];
    client.at("mine", 50, |client| client.ask(request::SETATTR, &owner(0))).unwrap();
    let other = client.at("mine", 50, |client| client.ask(request::SETATTR, &owner(4321)));
    let uid = fs::metadata(host.share().join("mine")).unwrap().uid();
    if user_is_root() {
        assert_eq!((other.is_ok(), uid), (true, 4321));
    } else {
        assert_eq!(other.unwrap_err(), Errno::EPERM);
    }
}

#[test]
fn set_user_id_is_not_set_on_files_of_the_host() {
    let host = Host::new();
    let mut client = host.client(Mode::ReadWrite);
    client.create("", "program", 1).unwrap();
    let mode = [D(1), D(1), D(0o6755), D(0), D(0), Q(0), Q(0), Q(0), Q(0), Q(0)];
    client.ask(request::SETATTR, &mode).unwrap();
    assert_eq!(fs::metadata(host.share().join("program")).unwrap().mode() & 0o7777, 0o755);
    client
        .at("", 50, |client| client.ask(request::MKNOD, &[D(50), S("other"), D(0o106755), D(0), D(0), D(0)]))
        .unwrap();
    assert_eq!(fs::metadata(host.share().join("other")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn file_stays_usable_while_it_is_open_without_a_name() {
    let host = Host::new();
    let mut client = host.client(Mode::ReadWrite);
    client.create("", "gone", 1).unwrap();
    client.write(1, 0, b"still here").unwrap();
    client.walk("gone", 2).unwrap();
    client.unlink("", "gone", 0).unwrap();
    assert_eq!(client.read(1, 0, 100).unwrap(), b"still here");
    // A fid that is not open is good for the same.
    assert_eq!((client.attr(2).size, client.attr(2).nlink), (10, 0));
    client.ask(request::LOPEN, &[D(2), D(0)]).unwrap();
    assert_eq!(client.read(2, 0, 5).unwrap(), b"still");
    // Replaced by a rename: the same.
    client.create("", "old", 3).unwrap();
    client.write(3, 0, b"old").unwrap();
    client.create("", "new", 4).unwrap();
    client.rename("", "new", "", "old").unwrap();
    assert_eq!(client.read(3, 0, 100).unwrap(), b"old");
    assert_eq!(client.stat("old").unwrap().size, 0);
}

#[test]
fn read_only_share_refuses_every_change() {
    let host = Host::new();
    fs::write(host.share().join("file"), b"contents").unwrap();
    let mut client = host.client(Mode::ReadOnly);
    assert_eq!(client.contents("file").unwrap(), b"contents");
    let refused = Err(Errno::EROFS);
    assert_eq!(client.open("file", 1, 1), refused);
    assert_eq!(client.open("file", 1, 2), refused);
    // Cutting a file off needs it open for writing: this is a plain open.
    client.open("file", 1, 0o1000).unwrap();
    client.clunk(1);
    assert_eq!(client.create("", "new", 1), refused);
    assert_eq!(client.mkdir("", "new"), refused);
    assert_eq!(client.symlink("", "new", "x"), refused);
    assert_eq!(client.link("file", "", "new"), refused);
    assert_eq!(client.rename("", "file", "", "new"), refused);
    assert_eq!(client.unlink("", "file", 0), refused);
    assert_eq!(client.truncate("file", 0), refused);
    let times = [D(50), D(0x20), D(0), D(0), D(0), Q(0), Q(0), Q(0), Q(0), Q(0)];
    assert_eq!(
        client.at("file", 50, |client| client.ask(request::SETATTR, &times)).unwrap_err(),
        Errno::EROFS
    );
    assert_eq!(fs::read_dir(host.share()).unwrap().count(), 1);
    assert_eq!(fs::read(host.share().join("file")).unwrap(), b"contents");
}

/// Every way of naming something outside, for every request that takes a name.
#[test]
fn names_never_lead_outside() {
    let host = Host::new();
    let outside = host.outside();
    let absolute = outside.to_str().unwrap().to_owned();
    fs::create_dir(host.share().join("dir")).unwrap();
    fs::write(host.share().join("file"), b"inside").unwrap();
    let names = [
        "..",
        ".",
        "../outside",
        "../outside/secret",
        "./../outside",
        "/",
        "/etc",
        "//",
        "dir/..",
        "dir/../..",
        "dir/../../outside",
        "../share/../outside/secret",
        "",
        "..\0",
        "file/..",
        "\0",
        "..//outside",
        &absolute,
    ];
    let mut attempts = 0;
    let mut client = host.client(Mode::ReadWrite);
    for name in names {
        for dir in ["", "dir"] {
            client.walk(dir, 60).unwrap();
            let tries: [(u8, Vec<crate::fs::tests::client::Part<'_>>); 8] = [
                (request::MKDIR, vec![D(60), S(name), D(0o755), D(0)]),
                (request::SYMLINK, vec![D(60), S(name), S("x"), D(0)]),
                (request::MKNOD, vec![D(60), S(name), D(0o100644), D(0), D(0), D(0)]),
                (request::UNLINKAT, vec![D(60), S(name), D(0)]),
                (request::UNLINKAT, vec![D(60), S(name), D(AT_REMOVEDIR)]),
                (request::RENAMEAT, vec![D(60), S("file"), D(60), S(name)]),
                (request::RENAMEAT, vec![D(60), S(name), D(60), S("stolen")]),
                (request::LCREATE, vec![D(60), S(name), D(2), D(0o644), D(0)]),
            ];
            for (kind, parts) in tries {
                let answer = client.ask(kind, &parts);
                assert!(answer.is_err(), "{kind} {name:?} in {dir:?}");
                host.assert_intact(&format!("{kind} {name:?} in {dir:?}"));
                attempts += 1;
            }
            client.clunk(60);
            // What a walk finds is inside, or it finds nothing.
            if client.walk(&format!("{dir}/{name}"), 61).is_ok() {
                let inside = fs::metadata(host.share()).unwrap();
                let within = [host.share().join("dir"), host.share(), host.share().join("file")];
                let inodes: Vec<_> = within.iter().map(|path| fs::metadata(path).unwrap().ino()).collect();
                assert!(inodes.contains(&client.attr(61).qid.2), "{name:?} in {dir:?}: {inside:?}");
                client.clunk(61);
            }
            attempts += 1;
        }
    }
    assert!(attempts > 300, "{attempts}");
}

/// Links, made by the guest or there before, are never followed by the host.
#[test]
fn links_never_lead_outside() {
    let host = Host::new();
    let outside = host.outside();
    let secret = outside.join("secret");
    let mut client = host.client(Mode::ReadWrite);
    let targets = [
        outside.to_str().unwrap().to_owned(),
        secret.to_str().unwrap().to_owned(),
        "../outside".into(),
        "../outside/secret".into(),
        "/proc/self/root".into(),
        "/proc/self/cwd".into(),
        "/proc/self/fd".into(),
        "/".into(),
        "..".into(),
        "/dev/null".into(),
    ];
    for (number, target) in targets.iter().enumerate() {
        let (by_guest, by_host) = (format!("guest{number}"), format!("host{number}"));
        client.symlink("", &by_guest, target).unwrap();
        symlink(target, host.share().join(&by_host)).unwrap();
        for link in [&by_guest, &by_host] {
            for flags in [0, 1, 2, 0o1000, 0o200000] {
                assert!(client.open(link, 1, flags).is_err(), "{link} -> {target}");
            }
            for below in ["secret", "outside", "etc", "..", "self"] {
                assert!(client.walk(&format!("{link}/{below}"), 1).is_err(), "{link}/{below}");
            }
            assert_eq!(&client.readlink(link).unwrap(), target);
            assert!(client.truncate(link, 0).is_err());
            let mode = [D(50), D(1), D(0o777), D(0), D(0), Q(0), Q(0), Q(0), Q(0), Q(0)];
            let _ = client.at(link, 50, |client| client.ask(request::SETATTR, &mode));
            let times = [D(50), D(0x1b0), D(0), D(0), D(0), Q(0), Q(9), Q(0), Q(9), Q(0)];
            let _ = client.at(link, 50, |client| client.ask(request::SETATTR, &times));
            assert!(client.mkdir(link, "made").is_err());
            assert!(client.create(link, "made", 1).is_err());
            assert!(client.unlink(link, "secret", 0).is_err());
            assert!(client.rename(link, "secret", "", "stolen").is_err());
            assert!(client.names(link).is_err());
            // Another name for the link is a name for the link.
            let second = format!("{link}b");
            client.link(link, "", &second).unwrap();
            assert_eq!(&client.readlink(&second).unwrap(), target);
            host.assert_intact(&format!("{link} -> {target}"));
        }
    }
    let mtime = fs::metadata(&secret).unwrap().mtime();
    assert_ne!(mtime, 9, "the times of what a link points to");
}

/// Somebody swaps names for links between the requests of the guest.
#[test]
fn names_that_turn_into_links_are_not_followed() {
    let host = Host::new();
    let mut client = host.client(Mode::ReadWrite);
    let share = host.share();
    fs::create_dir_all(share.join("a/b")).unwrap();
    fs::write(share.join("a/b/secret"), b"mine").unwrap();
    client.walk("a/b", 1).unwrap();
    client.walk("a/b/secret", 2).unwrap();
    // The directory is moved away, and a link to the outside is put in its place.
    fs::rename(share.join("a/b"), share.join("moved")).unwrap();
    symlink(host.outside(), share.join("a/b")).unwrap();
    // What the guest holds is what it found.
    client.ask(request::MKDIR, &[D(1), S("new"), D(0o755), D(0)]).unwrap();
    assert!(share.join("moved/new").is_dir());
    client.ask(request::LOPEN, &[D(2), D(2)]).unwrap();
    assert_eq!(client.read(2, 0, 10).unwrap(), b"mine");
    assert!(client.walk("a/b/secret", 3).is_err());
    // The same when everything has to be found again.
    let files = limits::SHARE_DESCRIPTORS * 3;
    for number in 0..files {
        client.create("", &format!("f{number}"), 1000).unwrap();
        client.clunk(1000);
        client.walk(&format!("f{number}"), 2000 + number as u32).unwrap();
    }
    let answer = client.ask(request::MKDIR, &[D(1), S("again"), D(0o755), D(0)]);
    assert!(answer.is_ok() || answer == Err(Errno::ESTALE), "{answer:?}");
    host.assert_intact("a directory that became a link");
    // And a directory that the host moves out of the share is not a way out.
    fs::create_dir(share.join("escape")).unwrap();
    client.walk("escape", 4).unwrap();
    fs::rename(share.join("escape"), host.directory.path().join("escaped")).unwrap();
    for up in [".."; 3] {
        let parts = [D(4), D(5), crate::fs::tests::client::Part::W(1), S(up)];
        assert!(client.ask(request::WALK, &parts).is_err());
    }
    fs::remove_dir(host.directory.path().join("escaped")).unwrap();
    host.assert_intact("a directory that left");
}

#[test]
fn special_files_are_neither_opened_nor_made() {
    let host = Host::new();
    let mut client = host.client(Mode::ReadWrite);
    for (name, mode) in [("char", 0o020666), ("block", 0o060666)] {
        let parts = [D(50), S(name), D(mode), D(1), D(3), D(0)];
        let answer = client.at("", 50, |client| client.ask(request::MKNOD, &parts));
        assert_eq!(answer.unwrap_err(), Errno::EPERM, "{name}");
    }
    let parts = [D(50), S("fifo"), D(0o010644), D(0), D(0), D(0)];
    client.at("", 50, |client| client.ask(request::MKNOD, &parts)).unwrap();
    assert_eq!(client.stat("fifo").unwrap().mode, 0o010644);
    assert_eq!(client.open("fifo", 1, 0), Err(Errno::ENXIO));
    let parts = [D(50), S("socket"), D(0o140600), D(0), D(0), D(0)];
    client.at("", 50, |client| client.ask(request::MKNOD, &parts)).unwrap();
    assert_eq!(client.open("socket", 1, 2), Err(Errno::ENXIO));
}

#[test]
fn parent_of_a_shares_root_is_itself_and_shares_stay_apart() {
    let host = Host::new();
    let specs: Vec<_> = [host.share(), host.outside()]
        .map(|host| Spec { host, guest: "/mnt".into(), mode: Mode::ReadWrite })
        .into();
    let mut client = Client::of(Server::new(Box::new(Shares::open(&specs).unwrap())), "");
    assert_eq!(client.names("").unwrap(), ["0", "1"]);
    assert_eq!(client.stat("0/..").unwrap().qid, client.stat("0").unwrap().qid);
    assert_eq!(client.mkdir("", "2"), Err(Errno::EROFS));
    client.create("0", "file", 1).unwrap();
    assert_eq!(client.rename("0", "file", "1", "file"), Err(Errno::EXDEV));
    assert_eq!(client.link("0/file", "1", "file"), Err(Errno::EXDEV));
    for name in ["00", "2", "+1", "-1", " 0", "18446744073709551616"] {
        assert!(client.walk(name, 2).is_err(), "{name}");
    }
    assert_eq!(client.attr(ROOT).mode, 0o040555);
    host.assert_intact("two shares");
}

#[test]
fn a_hundred_thousand_entries_are_listed_once_each() {
    let host = Host::new();
    let count = 100_000;
    for number in 0..count {
        fs::File::create(host.share().join(format!("file-{number:06}"))).unwrap();
    }
    let mut client = host.client(Mode::ReadWrite);
    client.open("", 1, 0).unwrap();
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let part = client.readdir(1, offset, 200_000).unwrap();
        let Some(last) = part.last() else { break };
        offset = last.1;
        seen.extend(part.into_iter().map(|entry| entry.0));
        // Made and removed meanwhile.
        client.create("", "meanwhile", 2).unwrap();
        client.clunk(2);
        client.unlink("", "meanwhile", 0).unwrap();
    }
    seen.retain(|name| name.starts_with("file-"));
    seen.sort();
    assert_eq!(seen.len(), count);
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn descriptors_are_bounded_however_much_the_guest_holds() {
    let host = Host::new();
    let mut path = host.share();
    // Deep and wide.
    for _ in 0..100 {
        path = path.join("d");
    }
    fs::create_dir_all(&path).unwrap();
    let spec = Spec { host: host.share(), guest: "/mnt".into(), mode: Mode::ReadWrite };
    let mut shares = Shares::open(&[spec]).unwrap();
    use emu_devices::p9::Filesystem;
    let mut at = shares.lookup(shares_root(), b"0").unwrap().node;
    let root = at;
    let mut held = vec![at];
    while let Ok(entry) = shares.lookup(at, b"d") {
        at = entry.node;
        held.push(at);
    }
    assert_eq!(held.len(), 101);
    let owner = emu_devices::p9::fs::Owner { uid: None, gid: 0 };
    for number in 0..3 * limits::SHARE_DESCRIPTORS {
        let name = format!("x{number}").into_bytes();
        shares.mkdir(root, &name, 0o755, owner).unwrap();
        held.push(shares.lookup(root, &name).unwrap().node);
        assert!(shares.kept().1 <= limits::SHARE_DESCRIPTORS + 1, "{:?}", shares.kept());
    }
    // All of them still work.
    for node in &held {
        shares.getattr(*node).unwrap();
    }
    // Names go while the guest holds on.
    for number in 0..3 * limits::SHARE_DESCRIPTORS {
        shares.rmdir(root, format!("x{number}").as_bytes()).unwrap();
    }
    assert!(shares.kept().1 <= 2 * limits::SHARE_DESCRIPTORS + 2, "{:?}", shares.kept());
    for node in held {
        shares.forget(node);
    }
    // The root, directories that may be asked for again soon, and what they are in.
    assert!(shares.kept().0 <= 1 + limits::SHARE_RESTING + 100, "{:?}", shares.kept());
}

fn shares_root() -> emu_devices::p9::fs::NodeId {
    emu_devices::p9::fs::NodeId(0)
}

#[test]
fn missing_directory_and_file_instead_of_one_are_errors() {
    let host = Host::new();
    let open = |path: &Path| {
        let spec = Spec { host: path.to_owned(), guest: "/mnt".into(), mode: Mode::ReadWrite };
        Shares::open(&[spec]).map(drop).unwrap_err().to_string()
    };
    let missing = open(&host.share().join("missing"));
    assert!(missing.starts_with("Cannot mount ") && missing.contains("No such file"), "{missing}");
    assert!(open(&host.outside().join("secret")).contains("Not a directory"));
    fs::set_permissions(host.share(), fs::Permissions::from_mode(0o000)).unwrap();
    if !user_is_root() {
        assert!(open(&host.share()).contains("denied"));
    }
    fs::set_permissions(host.share(), fs::Permissions::from_mode(0o755)).unwrap();
}
