//! Saved and restored trees.

use std::sync::Arc;

use emu_devices::p9::fs::{Filesystem, NodeId, Time};
use emu_devices::p9::saved::{RestoreError, SavedBody, SavedContents, SavedInode, SavedServer, SavedTree};
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

#[test]
fn restored_changes_count_against_the_limit() {
    let mut client = Client::new(overlay(SAMPLE));
    client.create("/", "f", 1).unwrap();
    client.write(1, 0, &[5; 100_000]).unwrap();
    let saved = save(&mut client.server);
    let mut overlay = empty();
    overlay.restore(saved.tree, &|_| false).unwrap();
    assert_eq!(overlay.added(), 100_000);
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
    let tree = SavedTree { inodes, last_qid: 9, total: 1 << 30, used: 5, listings };
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
