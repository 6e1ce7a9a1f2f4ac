//! Saved and restored trees.

use std::sync::Arc;

use emu_devices::p9::fs::{Access, Filesystem, NodeId, OpenFlags, Owner, SetAttr, SetTime, Time};
use emu_devices::p9::saved::{
    RestoreError, SaveError, SavedBody, SavedContents, SavedInode, SavedListing, SavedServer, SavedTree,
};
use emu_devices::p9::{Errno, Server};

use super::client::Client;
use super::{SAMPLE, blobs, options, overlay};
use crate::fs::overlay::Overlay;
use crate::limits;

fn empty() -> Overlay {
    Overlay::empty(Arc::new(blobs()), options().0)
}

/// Saves a server, writes that as values and reads it from them again.
pub(super) fn save(server: &mut Server) -> SavedServer {
    let saved = server.save().unwrap();
    let again = SavedServer::from_values(&mut saved.clone().into_values()).unwrap().unwrap();
    assert!(again == saved);
    saved
}

fn restored(saved: SavedServer) -> Client {
    let mut client = Client::new(empty());
    client.server.restore(saved).unwrap();
    client
}

#[test]
fn save_unchanged_tree_looks_like_v86s() {
    let tree = overlay(SAMPLE).save().unwrap();
    assert_eq!((tree.last_qid, tree.total, tree.used, tree.inodes.len()), (7, 256 << 30, 204113, 7));
    let names = |index: usize| match &tree.inodes[index].as_ref().unwrap().body {
        SavedBody::Directory(names) => names
            .iter()
            .map(|(name, ino)| (String::from_utf8_lossy(name).into_owned(), *ino))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let pair = |name: &str, ino: u32| (name.to_owned(), ino);
    assert_eq!(names(0), [pair(".", 0), pair("..", 0), pair("etc", 1), pair("lib", 6)]);
    assert_eq!(names(1)[..3], [pair(".", 1), pair("..", 0), pair("motd", 2)]);
    let motd = tree.inodes[2].as_ref().unwrap();
    assert_eq!(motd.body, SavedBody::File(SavedContents::Stored("hello".into())));
    assert_eq!((motd.size, motd.qid_path, motd.nlink, motd.mtime.sec), (5, 3, 1, 200));
    assert_eq!(tree.inodes[6].as_ref().unwrap().body, SavedBody::Symlink(b"etc".to_vec()));
}

#[test]
fn restored_session_goes_on_with_changed_and_removed_files() {
    let mut client = Client::new(overlay(SAMPLE));
    client.open("/etc/motd", 1, 2).unwrap();
    client.write(1, 5, b", world").unwrap();
    client.create("/etc", "gone", 2).unwrap();
    client.write(2, 0, b"still here").unwrap();
    client.unlink("/etc", "gone", 0).unwrap();
    client.mkdir("/", "dead").unwrap();
    client.open("/dead", 3, 0).unwrap();
    client.unlink("/", "dead", emu_devices::p9::wire::AT_REMOVEDIR).unwrap();
    client.open("/etc", 4, 0).unwrap();
    client.truncate("/etc/large", 100_000).unwrap();
    client.link("/etc/motd", "/", "motd2").unwrap();
    assert_eq!(client.lock(1, 1), 0);
    let part = client.readdir(4, 0, 90).unwrap();
    assert_eq!(part.len(), 3);
    let saved = save(&mut client.server);

    let mut other = restored(saved.clone());
    assert!(save(&mut other.server) == saved, "saving again gives the same");
    assert_eq!(other.read(1, 0, 99).unwrap(), b"hello, world");
    assert_eq!(other.read(2, 0, 99).unwrap(), b"still here");
    assert_eq!(other.readdir(3, 0, 99).unwrap().len(), 2);
    let rest: Vec<_> = other.readdir(4, part[2].1, 999).unwrap().into_iter().map(|entry| entry.0).collect();
    assert_eq!(rest, ["large", "wrong", "missing"]);
    assert!(other.contents("/etc/large").unwrap() == super::large()[..100_000]);
    assert_eq!(other.contents("/motd2").unwrap(), b"hello, world");
    assert_eq!(other.stat("/motd2").unwrap().nlink, 2);
    assert_eq!(other.stat("/").unwrap(), client.stat("/").unwrap());
    let before = other.server.save().unwrap().tree.inodes.iter().flatten().count();
    other.clunk(2);
    other.clunk(3);
    let after = other.server.save().unwrap().tree.inodes.iter().flatten().count();
    assert_eq!(before - after, 2, "what was kept for a fid goes with it");
    // New objects get new identities.
    other.create("/", "new", 9).unwrap();
    assert!(other.attr(9).qid.2 > saved.tree.last_qid);
}

fn entries(client: &mut Client, fid: u32, cookie: u64, count: u32) -> Vec<(String, u64)> {
    let entries = client.readdir(fid, cookie, count).unwrap();
    entries.into_iter().map(|(name, cookie, _)| (name, cookie)).collect()
}

#[test]
fn restored_listing_goes_on_behind_removed_names_and_ends_where_it_did() {
    let mut client = Client::new(overlay(SAMPLE));
    client.mkdir("/", "d").unwrap();
    for i in 0..40 {
        client.create("/d", &format!("f{i:02}"), 9).unwrap();
        client.clunk(9);
    }
    for i in 0..10 {
        client.unlink("/d", &format!("f{i:02}"), 0).unwrap();
    }
    client.open("/d", 1, 0).unwrap();
    let first = entries(&mut client, 1, 0, 300);
    let last = first.last().unwrap().clone();
    // What was listed goes, what comes is not part of this listing.
    for (name, _) in first.iter().skip(2) {
        client.unlink("/d", name, 0).unwrap();
    }
    client.create("/d", "later", 9).unwrap();
    client.clunk(9);

    let mut other = restored(save(&mut client.server));
    let mut names = Vec::new();
    let mut cookie = last.1;
    loop {
        let some = entries(&mut other, 1, cookie, 100);
        let Some(last) = some.last() else { break };
        cookie = last.1;
        names.extend(some.into_iter().map(|entry| entry.0));
    }
    let seen = first.len() - 2 + 10;
    assert_eq!(names, (seen..40).map(|i| format!("f{i:02}")).collect::<Vec<_>>());
    assert_eq!(entries(&mut other, 1, 0, 9999).last().unwrap().0, "later", "from the start again");
    let (a, b) = (save(&mut client.server), save(&mut other.server));
    assert!(a.tree.listings == b.tree.listings && !a.tree.listings.is_empty());
}

#[test]
fn restored_listing_that_does_not_fit_is_refused() {
    let mut client = Client::new(overlay(SAMPLE));
    client.unlink("/etc", "motd", 0).unwrap();
    let saved = save(&mut client.server);
    assert_eq!(saved.tree.listings, [SavedListing { inode: 1, places: vec![1, 2, 3], next: 4 }]);
    for (inode, places, next) in
        [(1, vec![1, 2], 4), (1, vec![1, 3, 3], 4), (1, vec![1, 2, 4], 4), (3, vec![], 0), (99, vec![], 0)]
    {
        let listings = vec![SavedListing { inode, places, next }];
        let tree = SavedTree { listings, ..saved.tree.clone() };
        let reason = "its listing does not fit it";
        assert_eq!(empty().restore(tree, &|_| false), Err(RestoreError::Inode { inode, reason }));
    }
}

#[test]
fn saved_files_with_large_holes_are_not_written_out() {
    let mut client = Client::new(overlay(SAMPLE));
    let far = 1 << 39;
    client.open("/etc/large", 1, 2).unwrap();
    client.write(1, far, b"end").unwrap();
    client.create("/", "small", 2).unwrap();
    client.write(2, 1 << 20, b"x").unwrap();
    let saved = save(&mut client.server);
    let body = |index: usize| &saved.tree.inodes[index].as_ref().unwrap().body;
    let SavedBody::File(SavedContents::Extents(extents)) = body(3) else { panic!("{:?}", body(3)) };
    let lengths: Vec<_> = extents.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect();
    assert_eq!(lengths, [(0, 200_000), (far, 3)]);
    let SavedBody::File(SavedContents::Bytes(bytes)) = body(7) else { panic!("{:?}", body(7)) };
    assert_eq!(bytes.len(), (1 << 20) + 1, "v86 gets small holes as zeros");
    let values = saved.clone().into_values();
    assert_eq!(values.not_for_v86, 1);

    let mut other = restored(saved.clone());
    assert_eq!(other.stat("/etc/large").unwrap().size, far + 3);
    assert!(other.read(1, 0, 1 << 19).unwrap()[..200_000] == super::large());
    assert_eq!(other.read(1, far - 2, 99).unwrap(), b"\0\0end");
    assert_eq!(other.read(2, (1 << 20) - 1, 99).unwrap(), b"\0x");
    assert!(save(&mut other.server) == saved);

    let mut wrong = saved.tree;
    wrong.inodes[3].as_mut().unwrap().size = far;
    let reason = "its contents lie where they cannot be";
    assert_eq!(empty().restore(wrong, &|_| true), Err(RestoreError::Inode { inode: 3, reason }));
}

#[test]
fn restored_files_with_small_holes_have_as_many_blocks_as_before() {
    let mut client = Client::new(overlay(SAMPLE));
    client.create("/", "f", 1).unwrap();
    client.write(1, 0, &[0; 100_000]).unwrap();
    client.write(1, 1 << 20, b"x").unwrap();
    let attr = client.stat("/f").unwrap();
    assert_eq!(attr.blocks, (100_000 + 1u64).div_ceil(512));
    let saved = save(&mut client.server);
    let mut values = saved.into_values();
    let saved = SavedServer::from_values(&mut values).unwrap().unwrap();
    let mut other = restored(saved.clone());
    assert_eq!(other.stat("/f").unwrap().blocks, attr.blocks);
    assert!(save(&mut other.server) == saved);

    let mut wrong = saved.tree;
    wrong.filled[0].parts[1].0 += 1;
    let reason = "its holes lie where they cannot be";
    assert_eq!(empty().restore(wrong, &|_| true), Err(RestoreError::Inode { inode: 7, reason }));
}

#[test]
fn saved_holes_and_contents_are_bounded_together() {
    use emu_devices::limits::{P9_SAVED_CONTENTS, P9_SAVED_HOLES};
    let mut overlay = overlay(SAMPLE);
    let owner = Owner { uid: None, gid: 0 };
    let flags = OpenFlags { access: Access::ReadWrite, truncate: false, directory: false, append: false };
    for (name, size) in [(b"a", P9_SAVED_HOLES - 5), (b"b", 6), (b"c", 5), (b"d", 1)] {
        let (entry, _) = overlay.create(NodeId(0), name, 0o644, owner, flags).unwrap();
        overlay.setattr(entry.node, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
    }
    let saved = Server::new(Box::new(overlay)).save().unwrap();
    let whole = |index: usize| {
        matches!(saved.tree.inodes[index].as_ref().unwrap().body, SavedBody::File(SavedContents::Bytes(_)))
    };
    assert_eq!([7, 8, 9, 10].map(whole), [true, false, true, false]);

    // A content file that size would not fit; it is not even read.
    let size = P9_SAVED_CONTENTS + 1;
    let json = format!(r#"{{"fsroot":[["f",{size},0,33188,0,0,"huge"]],"version":3,"size":0}}"#);
    let mut overlay = super::overlay(&json);
    overlay.setattr(NodeId(1), &SetAttr { size: Some(size - 1), ..SetAttr::default() }).unwrap();
    overlay.setattr(NodeId(1), &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
    let saved = Server::new(Box::new(overlay)).save();
    assert_eq!(saved.unwrap_err(), SaveError::TooLarge { limit: P9_SAVED_CONTENTS });
}

#[test]
fn saved_file_that_cannot_be_read_is_an_error() {
    let mut overlay = overlay(SAMPLE);
    overlay.setattr(NodeId(5), &SetAttr { size: Some(4), ..SetAttr::default() }).unwrap();
    let saved = Server::new(Box::new(overlay)).save();
    assert_eq!(saved.unwrap_err(), SaveError::Contents { inode: 5, error: Errno::EIO });
}

#[test]
fn restored_tree_keeps_what_v86_has_no_place_for() {
    let mut original = overlay(SAMPLE);
    let owner = Owner { uid: Some(u32::MAX - 1), gid: 1 << 31 };
    for (name, mode, rdev) in [
        (&b"fifo"[..], 0o010600, (0, 0)),
        (b"tty", 0o020620, (4, 64)),
        (b"sda", 0o060660, (1 << 20, 255)),
        (b"sock", 0o140777, (2, 3)),
        (b"caf\xE9\xFF", 0o100644, (0, 0)),
    ] {
        original.mknod(NodeId(0), name, mode, rdev, owner).unwrap();
    }
    original.symlink(NodeId(0), b"\x80", b"\xFE/\xFF", owner).unwrap();
    let times = SetAttr {
        atime: Some(SetTime::To(Time { sec: i64::MIN, nsec: 999_999_999 })),
        mtime: Some(SetTime::To(Time { sec: -1, nsec: 1 })),
        ..SetAttr::default()
    };
    original.setattr(NodeId(2), &times).unwrap();
    let mut server = Server::new(Box::new(original));
    let saved = save(&mut server);
    let mut other = empty();
    other.restore(saved.tree.clone(), &|_| false).unwrap();
    for ino in 0..saved.tree.inodes.len() as u64 {
        assert_eq!(other.getattr(NodeId(ino)), server.filesystem().getattr(NodeId(ino)), "{ino}");
    }
    let name = other.list_dir("/").unwrap().pop().unwrap().0;
    assert_eq!((&*name, other.readlink(NodeId(12)).unwrap()), (&b"\x80"[..], b"\xFE/\xFF".to_vec()));
}

#[test]
fn restored_tree_of_100_000_files_is_complete() {
    const FILES: u32 = 100_000;
    const EACH: u32 = 1000;
    let dirs = FILES / EACH;
    let name = |ino: u32| format!("file-{ino}").into_bytes();
    let mut inodes = vec![inode(0o040755, SavedBody::Directory((1..=dirs).map(|d| (name(d), d)).collect()))];
    for d in 0..dirs {
        let files = (0..EACH).map(|f| 1 + dirs + d * EACH + f);
        inodes.push(inode(0o040755, SavedBody::Directory(files.map(|ino| (name(ino), ino)).collect())));
    }
    inodes.extend((0..FILES).map(|f| file(SavedContents::Stored(format!("{f:08x}.bin")))));
    let tree = SavedTree { inodes, last_qid: 1 << 20, total: 1 << 38, ..SavedTree::default() };
    let saved = SavedServer { msize: 8192, tree, ..SavedServer::default() };
    let saved = SavedServer::from_values(&mut saved.into_values()).unwrap().unwrap();
    let mut overlay = empty();
    overlay.restore(saved.tree, &|_| false).unwrap();
    assert_eq!(overlay.statfs().unwrap().files, u64::from(1 + dirs + FILES));
    let last = overlay.list_dir(name(dirs)).unwrap().pop().unwrap().0;
    assert_eq!(&*last, &name(dirs + FILES)[..]);
    assert_eq!(overlay.getattr(NodeId(u64::from(dirs + FILES))).unwrap().nlink, 1);
}

#[test]
fn restored_changes_count_against_the_limit() {
    let mut client = Client::new(overlay(SAMPLE));
    client.create("/", "f", 1).unwrap();
    client.write(1, 0, &[5; 100_000]).unwrap();
    let saved = save(&mut client.server);
    let mut overlay = empty();
    // v86 does not tell what was added: contents.
    overlay.restore(SavedTree { added: None, ..saved.tree }, &|_| false).unwrap();
    assert_eq!(overlay.added(), 2 * 65_536);
}

#[test]
fn restored_names_count_against_the_limit_as_before() {
    let mut client = Client::new(overlay(SAMPLE));
    for (fid, name) in (1..).zip(["a", "b", "a longer name"]) {
        client.create("/etc", name, fid).unwrap();
    }
    client.write(1, 0, b"contents").unwrap();
    let mut again = overlay(SAMPLE);
    let saved = save(&mut client.server);
    let added = saved.tree.added;
    assert!(added > Some(100), "names, inodes and contents: {added:?}");
    again.restore(saved.tree, &|_| true).unwrap();
    assert_eq!(Some(again.balance()), added);
}

#[test]
fn restored_contents_that_take_less_memory_count_as_before() {
    let mut client = Client::new(overlay(SAMPLE));
    client.create("/", "f", 1).unwrap();
    // A place for 64 KiB; what is left over is more than the rest of the tree costs.
    client.write(1, 0, &[0; 33_000]).unwrap();
    let saved = save(&mut client.server);
    let added = saved.tree.added;
    let mut again = overlay(SAMPLE);
    again.restore(saved.tree, &|_| true).unwrap();
    assert_eq!(Some(again.balance()), added);
}

#[test]
fn restored_files_count_as_before_when_they_change_and_go() {
    let mut client = Client::new(overlay(SAMPLE));
    // With a hole that is written out; in the middle of a file of the image; more removed than added.
    client.create("/", "f", 1).unwrap();
    client.write(1, 70_000, b"end").unwrap();
    client.open("/etc/large", 2, 2).unwrap();
    client.write(2, 100_000, b"x").unwrap();
    let saved = save(&mut client.server);
    let mut other = restored(saved);
    let added = |client: &mut Client| save(&mut client.server).tree.added;
    let steps: [&dyn Fn(&mut Client); 4] = [
        &|client| assert_eq!(client.write(2, 10, b"y"), Ok(1)),
        &|client| client.truncate("/etc/large", 150_000).unwrap(),
        &|client| client.unlink("/", "f", 0).unwrap(),
        &|client| client.unlink("/etc", "large", 0).unwrap(),
    ];
    for (n, step) in steps.into_iter().enumerate() {
        step(&mut client);
        step(&mut other);
        assert_eq!(added(&mut other), added(&mut client), "step {n}");
    }
    for client in [&mut client, &mut other] {
        client.clunk(1);
        client.clunk(2);
    }
    let less = added(&mut client);
    assert!(less < Some(0), "{less:?}");
    assert_eq!(added(&mut other), less);
    let mut again = restored(save(&mut client.server));
    assert_eq!(added(&mut again), less);
}

fn inode(mode: u32, body: SavedBody) -> Option<SavedInode> {
    let time = Time { sec: 5, nsec: 0 };
    Some(SavedInode {
        mode,
        body,
        size: 5,
        uid: 1,
        gid: 2,
        ctime: time,
        atime: time,
        mtime: time,
        qid_version: 3,
        qid_path: 40,
        nlink: 77,
    })
}

fn dir(names: &[(&str, u32)]) -> Option<SavedInode> {
    let names = names.iter().map(|(name, ino)| (name.as_bytes().to_vec(), *ino)).collect();
    inode(0o040755, SavedBody::Directory(names))
}

fn file(contents: SavedContents) -> Option<SavedInode> {
    inode(0o100644, SavedBody::File(contents))
}

fn restore(inodes: Vec<Option<SavedInode>>) -> Result<Overlay, RestoreError> {
    let mut overlay = overlay(SAMPLE);
    let before = overlay.save().unwrap();
    let listings = Vec::new();
    let tree = SavedTree { inodes, last_qid: 9, total: 1 << 30, used: 5, listings, ..SavedTree::default() };
    match overlay.restore(tree, &|_| false) {
        Ok(()) => Ok(overlay),
        Err(error) => {
            assert!(overlay.save().unwrap() == before, "nothing has changed");
            Err(error)
        }
    }
}

#[test]
fn restore_tree_of_v86_is_taken_over() {
    let bytes = |bytes: &[u8]| SavedContents::Bytes(bytes.to_vec());
    let mut overlay = restore(vec![
        dir(&[("sub", 2), ("..", 0), ("f", 3), (".", 0), ("l", 4), ("long", 5), ("short", 6), ("c", 7)]),
        None,
        // As an old image has them: Go's bits above.
        inode(2148549119, SavedBody::Directory(vec![(b"same".to_vec(), 3)])),
        file(SavedContents::Stored("hello".into())),
        inode(0o120777, SavedBody::Symlink(b"f".to_vec())),
        file(bytes(b"more than five")),
        file(bytes(b"")),
        inode(0o020666, SavedBody::Special(1, 3)),
        // Deleted, not in use.
        file(bytes(b"junk")),
    ])
    .unwrap();
    for (path, contents) in
        [("/f", b"hello"), ("/sub/same", b"hello"), ("/long", b"more "), ("/short", b"\0\0\0\0\0")]
    {
        assert_eq!(overlay.read_file(path, 1 << 20).unwrap(), contents, "{path}");
    }
    let attr = |overlay: &mut Overlay, ino: u64| overlay.getattr(NodeId(ino)).unwrap();
    assert_eq!(attr(&mut overlay, 0).nlink, 3);
    assert_eq!((attr(&mut overlay, 2).mode, attr(&mut overlay, 2).nlink), (0o041777, 2));
    let f = attr(&mut overlay, 3);
    assert_eq!((f.nlink, f.qid.version, f.qid.path, f.qid.kind), (2, 3, 40, 0));
    assert_eq!(attr(&mut overlay, 7).rdev, (1, 3));
    assert_eq!(overlay.getattr(NodeId(8)), Err(Errno::ESTALE));
    let totals = overlay.statfs().unwrap();
    assert_eq!((totals.blocks, totals.files), ((1 << 30) / 8192, 7));
}

#[test]
fn restore_impossible_trees_are_refused() {
    let wrong = |inode, reason| RestoreError::Inode { inode, reason };
    let cases = [
        (vec![], RestoreError::NoRoot),
        (vec![None], RestoreError::NoRoot),
        (vec![file(SavedContents::Stored("hello".into()))], RestoreError::NoRoot),
        (vec![dir(&[("x", 1)])], wrong(0, "a name in it stands for nothing")),
        (vec![dir(&[("x", u32::MAX)])], wrong(0, "a name in it stands for nothing")),
        (vec![dir(&[("x", 1)]), None], wrong(0, "a name in it stands for nothing")),
        (vec![dir(&[("a/b", 0)])], wrong(0, "a name in it is not possible")),
        (vec![dir(&[("", 0)])], wrong(0, "a name in it is not possible")),
        (vec![dir(&[("loop", 0)])], wrong(0, "a directory in it is somewhere else too")),
        (
            vec![dir(&[("a", 1)]), dir(&[("b", 2)]), dir(&[("c", 1)])],
            wrong(2, "a directory in it is somewhere else too"),
        ),
        (vec![dir(&[("a", 1), ("b", 1)]), dir(&[])], wrong(0, "a directory in it is somewhere else too")),
        (
            vec![dir(&[("a", 1), ("a", 1)]), file(SavedContents::Stored("x".into()))],
            wrong(0, "a name in it is there twice"),
        ),
        (vec![dir(&[]), file(SavedContents::Changed)], wrong(1, "its contents are missing")),
        (
            vec![dir(&[]), file(SavedContents::Stored("../x".into()))],
            wrong(1, "the name of its content file is not possible"),
        ),
        (
            vec![dir(&[]), inode(0o040755, SavedBody::Symlink(vec![]))],
            wrong(1, "its mode is that of something else"),
        ),
        (
            vec![dir(&[]), inode(0o120777, SavedBody::Symlink(vec![b't'; limits::MAX_LINK_TARGET + 1]))],
            wrong(1, "its target is too long"),
        ),
        (
            vec![
                dir(&[]),
                file(SavedContents::Bytes(vec![]))
                    .map(|inode| SavedInode { size: limits::MAX_FILE_SIZE + 1, ..inode }),
            ],
            wrong(1, "too large"),
        ),
        (
            vec![dir(&[]).map(|inode| SavedInode { qid_path: u64::MAX, ..inode })],
            RestoreError::TooMany { what: "identities" },
        ),
        (vec![None; limits::MAX_INODES + 1], RestoreError::TooMany { what: "files" }),
    ];
    for (inodes, expected) in cases {
        assert_eq!(restore(inodes).map(|_| ()).unwrap_err(), expected);
    }
}
