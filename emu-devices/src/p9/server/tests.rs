//! The server against a small file system: protocol rules.

mod client;
mod hostile;

use client::*;

use crate::limits;
use crate::p9::errno::Errno;
use crate::p9::fs::Qid;
use crate::p9::saved::{SavedFid, SavedIo, SavedLock, SavedServer};
use crate::p9::server::Server;
use crate::p9::testfs::MemFs;
use crate::p9::wire::{self, Reader, request};

// Sessions

#[test]
fn version_known_gets_smaller_msize_and_drops_fids() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    let reply = client.ask(request::VERSION, body().u32(u32::MAX).s("9P2000.L")).unwrap();
    assert_eq!(reply, body().u32(limits::P9_MAX_MSIZE).s("9P2000.L").0);
    assert_eq!(client.server.msize(), limits::P9_MAX_MSIZE);
    assert_eq!(client.clunk(1), Err(Errno::EBADF));
    assert_eq!(client.held(), (0, 0));
}

#[test]
fn version_with_suffix_is_cut_and_foreign_version_is_unknown() {
    let mut client = Client::new();
    let reply = client.ask(request::VERSION, body().u32(8192).s("9P2000.L.Google.7")).unwrap();
    assert_eq!(reply, body().u32(8192).s("9P2000.L").0);
    for version in ["9P2000.u", "9P2000", "9P2000.Linux", ""] {
        let reply = client.ask(request::VERSION, body().u32(8192).s(version)).unwrap();
        assert_eq!(reply, body().u32(8192).s("unknown").0);
    }
}

#[test]
fn version_with_tiny_msize_is_refused() {
    let mut client = Client::new();
    let reply = client.ask(request::VERSION, body().u32(limits::P9_MIN_MSIZE - 1).s("9P2000.L"));
    assert_eq!(reply, Err(Errno::EMSGSIZE));
    assert_eq!(client.server.msize(), limits::P9_DEFAULT_MSIZE);
}

#[test]
fn message_larger_than_msize_is_refused() {
    let mut client = Client::new();
    let exact = vec![0; MSIZE as usize - wire::HEADER - 16];
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "f").unwrap();
    assert_eq!(client.write(1, 0, &exact), Ok(exact.len()));
    assert_eq!(client.write(1, 0, &[&exact[..], &[0]].concat()), Err(Errno::EMSGSIZE));
}

#[test]
fn reset_forgets_session() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "f").unwrap();
    client.server.reset();
    assert_eq!(client.held(), (0, 0));
    assert_eq!((client.server.fid_count(), client.server.msize()), (0, limits::P9_DEFAULT_MSIZE));
    client.start();
    assert_eq!(client.walk(ROOT, 1, &["f"]), Ok(1));
}

#[test]
fn unknown_type_and_auth_are_eopnotsupp() {
    let mut client = Client::new();
    for kind in [0, 6, 9, 98, 102, 106, 112, 114, 124, 126, 255] {
        let reply = client.raw(&body().message(kind, 5), LARGE);
        assert_eq!(reply, [11, 0, 0, 0, 7, 5, 0, 95, 0, 0, 0], "type {kind}");
    }
}

#[test]
fn flush_is_answered() {
    let mut client = Client::new();
    assert_eq!(client.ask(request::FLUSH, body().u16(3)), Ok(vec![]));
}

#[test]
fn attach_several_times_gives_the_same_root() {
    let mut client = Client::new();
    let first = client.attach(1, "").unwrap();
    assert_eq!(client.attach(2, "/").unwrap(), first);
    assert_eq!(first[0], Qid::DIRECTORY);
    assert_eq!(client.attach(2, ""), Err(Errno::EBADF));
    let with_afid = body().u32(9).u32(1).s("").s("").u32(0);
    assert_eq!(client.ask(request::ATTACH, with_afid), Err(Errno::EBADF));
    assert_eq!(client.attach(wire::NO_FID, ""), Err(Errno::EBADF));
}

#[test]
fn attach_name_is_a_path_that_stays_inside() {
    let mut client = Client::new();
    client.mkdir(ROOT, "d").unwrap();
    client.make_file("f", b"");
    let root = client.attach(1, "").unwrap();
    assert_ne!(client.attach(2, "/d/").unwrap(), root);
    assert_eq!(client.attach(3, "d/../../..").unwrap(), root);
    assert_eq!(client.attach(4, "nothing"), Err(Errno::ENOENT));
    assert_eq!(client.attach(4, "f"), Err(Errno::ENOTDIR));
    assert_eq!(client.attach(4, &"./".repeat(limits::P9_ATTACH_DEPTH)).unwrap(), root);
    assert_eq!(client.attach(5, &"./".repeat(limits::P9_ATTACH_DEPTH + 1)), Err(Errno::ENAMETOOLONG));
    assert_eq!(client.remove(2), Err(Errno::EBUSY));
    client.server.reset();
    assert_eq!(client.held(), (0, 0));
}

// Walking

#[test]
fn walk_first_name_missing_is_enoent_and_makes_no_fid() {
    let mut client = Client::new();
    assert_eq!(client.walk(ROOT, 1, &["a", "b"]), Err(Errno::ENOENT));
    assert_eq!(client.clunk(1), Err(Errno::EBADF));
}

#[test]
fn walk_later_name_missing_is_partial_and_makes_no_fid() {
    let mut client = Client::new();
    client.mkdir(ROOT, "a").unwrap();
    client.make_file("f", b"");
    assert_eq!(client.walk(ROOT, 1, &["a", "b", "c"]), Ok(1));
    assert_eq!(client.walk(ROOT, 1, &["f", "b"]), Ok(1));
    assert_eq!(client.clunk(1), Err(Errno::EBADF));
    client.walk(ROOT, 2, &["f"]).unwrap();
    assert_eq!(client.walk(2, 1, &["b"]), Err(Errno::ENOTDIR));
    assert_eq!(client.walk(2, 1, &[".."]), Err(Errno::ENOTDIR));
    client.server.reset();
    assert_eq!(client.held(), (0, 0));
}

#[test]
fn walk_dots_stay_inside_the_root() {
    let mut client = Client::new();
    client.mkdir(ROOT, "a").unwrap();
    assert_eq!(client.walk(ROOT, 1, &["..", "..", "a", ".", "..", "a"]), Ok(6));
    client.mkdir(1, "in-a").unwrap();
    assert_eq!(client.walk(ROOT, 2, &["a", "in-a"]), Ok(2));
}

#[test]
fn walk_illegal_names_are_enoent_or_too_long() {
    let mut client = Client::new();
    for name in ["", "a/b", "/", "a\0"] {
        assert_eq!(client.walk(ROOT, 1, &[name]), Err(Errno::ENOENT), "{name:?}");
    }
    assert_eq!(client.walk(ROOT, 1, &[&"n".repeat(limits::P9_NAME)]), Err(Errno::ENOENT));
    assert_eq!(client.walk(ROOT, 1, &[&"n".repeat(limits::P9_NAME + 1)]), Err(Errno::ENAMETOOLONG));
    assert_eq!(client.walk(ROOT, 1, &["."; limits::P9_WALK]), Ok(limits::P9_WALK));
    assert_eq!(client.walk(ROOT, 2, &["."; limits::P9_WALK + 1]), Err(Errno::EINVAL));
}

#[test]
fn walk_in_place_moves_the_fid_but_not_an_open_one() {
    let mut client = Client::new();
    client.mkdir(ROOT, "a").unwrap();
    client.walk(ROOT, 1, &[]).unwrap();
    assert_eq!(client.walk(1, 1, &[]), Ok(0));
    assert_eq!(client.walk(1, 1, &["a"]), Ok(1));
    assert_eq!(client.walk(1, 1, &["missing"]), Err(Errno::ENOENT));
    client.mkdir(1, "b").unwrap();
    client.lopen(1, 0).unwrap();
    assert_eq!(client.walk(1, 1, &["b"]), Err(Errno::EBADF));
    assert_eq!(client.walk(1, 2, &["b"]), Ok(1));
    assert_eq!(client.walk(ROOT, 2, &["a"]), Err(Errno::EBADF));
    assert_eq!(client.walk(77, 3, &[]), Err(Errno::EBADF));
    client.server.reset();
    assert_eq!(client.held(), (0, 0));
}

#[test]
fn walk_reply_that_does_not_fit_makes_no_fid() {
    let mut client = Client::new();
    client.mkdir(ROOT, "a").unwrap();
    let message = body().u32(ROOT).u32(1).u16(1).s("a").message(request::WALK, 1);
    let reply = client.raw(&message, wire::HEADER + 2 + 12);
    assert_eq!(reply[4], wire::RLERROR);
    assert_eq!(client.clunk(1), Err(Errno::EBADF));
    assert_eq!(client.held(), (1, 0));
}

// Files

#[test]
fn lcreate_turns_fid_into_the_file() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    let reply = client.create(1, "f").unwrap();
    assert_eq!(reply[0], 0);
    assert_eq!(&reply[13..], (MSIZE - 24).to_le_bytes());
    assert_eq!(client.write(1, 0, b"hello"), Ok(5));
    assert_eq!(client.read(1, 1, 100), Ok(b"ello".to_vec()));
    assert_eq!(client.lopen(1, 0), Err(Errno::EINVAL));
    assert_eq!(client.create(1, "g"), Err(Errno::EINVAL));
    client.walk(ROOT, 2, &[]).unwrap();
    assert_eq!(client.create(2, "f"), Err(Errno::EEXIST));
    assert_eq!(client.create(2, ".."), Err(Errno::EEXIST));
    assert_eq!(client.create(2, "a/b"), Err(Errno::EINVAL));
    assert_eq!(client.create(2, "g").map(|_| ()), Ok(()));
}

#[test]
fn lopen_with_trunc_empties_the_file() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.lopen(1, 0o1000).unwrap();
    assert_eq!(client.read(1, 0, 9), Ok(b"hello".to_vec()));
    client.walk(ROOT, 2, &["f"]).unwrap();
    client.lopen(2, 0o1000 | 0o100000 | 2).unwrap();
    assert_eq!(client.read(1, 0, 9), Ok(vec![]));
}

#[test]
fn io_against_the_open_mode_is_ebadf() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    for (fid, flags) in [(1, 0), (2, 1), (3, 2)] {
        client.walk(ROOT, fid, &["f"]).unwrap();
        assert_eq!(client.read(fid, 0, 1), Err(Errno::EBADF));
        client.lopen(fid, flags).unwrap();
    }
    assert_eq!(client.write(1, 0, b"x"), Err(Errno::EBADF));
    assert_eq!(client.read(2, 0, 1), Err(Errno::EBADF));
    assert_eq!(client.write(3, 0, b"x"), Ok(1));
    assert_eq!(client.read(3, 0, 2), Ok(b"xe".to_vec()));
    client.walk(ROOT, 4, &["f"]).unwrap();
    assert_eq!(client.lopen(4, 3), Err(Errno::EINVAL));
    assert_eq!(client.lopen(4, 0o200000), Err(Errno::ENOTDIR));
}

#[test]
fn read_is_cut_to_msize_and_to_reply_buffer() {
    let mut client = Client::new();
    client.make_file("f", &[7; 60000]);
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.lopen(1, 2).unwrap();
    client.write(1, 60000, &[7; 60000]).unwrap();
    assert_eq!(client.read(1, 0, u32::MAX).unwrap().len(), MSIZE as usize - 11);
    let message = body().u32(1).u64(0).u32(5000).message(request::READ, 1);
    assert_eq!(client.raw(&message, 100).len(), 100);
    assert_eq!(client.raw(&message, 11), [11, 0, 0, 0, request::READ + 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(client.raw(&message, 10), []);
}

#[test]
fn offsets_use_all_64_bits() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.lopen(1, 2).unwrap();
    assert_eq!(client.read(1, 1 << 32, 5), Ok(vec![]));
    assert_eq!(client.write(1, 1 << 32, b"x"), Err(Errno::EFBIG));
    assert_eq!(client.write(1, u64::MAX, b"x"), Err(Errno::EFBIG));
}

#[test]
fn files_open_for_appending_are_written_at_their_end() {
    let mut client = Client::new();
    client.make_file("f", b"a");
    for fid in [1, 2] {
        client.walk(ROOT, fid, &["f"]).unwrap();
        client.lopen(fid, 0o2001).unwrap();
    }
    // Both clients think that the file ends at 1.
    assert_eq!((client.write(1, 1, b"bc"), client.write(2, 1, b"de")), (Ok(2), Ok(2)));
    client.walk(ROOT, 3, &["f"]).unwrap();
    client.lopen(3, 2).unwrap();
    assert_eq!(client.read(3, 0, 9), Ok(b"abcde".to_vec()));
    client.write(3, 1, b"B").unwrap();
    assert_eq!(client.read(3, 0, 9), Ok(b"aBcde".to_vec()));
}

#[test]
fn write_shorter_than_its_count_is_einval() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "f").unwrap();
    let reply = client.ask(request::WRITE, body().u32(1).u64(0).u32(100).u32(0));
    assert_eq!(reply, Err(Errno::EINVAL));
}

#[test]
fn directory_is_not_read_or_written() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    assert_eq!(client.lopen(1, 1), Err(Errno::EISDIR));
    client.lopen(1, 0o200000).unwrap();
    assert_eq!(client.read(1, 0, 5), Err(Errno::EISDIR));
    client.make_file("f", b"");
    client.walk(ROOT, 2, &["f"]).unwrap();
    client.lopen(2, 0).unwrap();
    assert_eq!(client.readdir(2, 0, 500), Err(Errno::ENOTDIR));
}

#[test]
fn fsync_takes_both_forms() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "f").unwrap();
    assert_eq!(client.ask(request::FSYNC, body().u32(1).u32(1)), Ok(vec![]));
    assert_eq!(client.ask(request::FSYNC, body().u32(1)), Ok(vec![]));
    assert_eq!(client.ask(request::FSYNC, body().u32(ROOT).u32(0)), Err(Errno::EBADF));
}

#[test]
fn unlinked_file_stays_usable_until_clunk() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.lopen(1, 2).unwrap();
    client.unlinkat(ROOT, "f", 0).unwrap();
    assert_eq!(client.read(1, 0, 9), Ok(b"hello".to_vec()));
    assert_eq!(client.walk(ROOT, 2, &["f"]), Err(Errno::ENOENT));
    let attr = client.ask(request::GETATTR, body().u32(1).u64(0x7ff)).unwrap();
    assert_eq!(&attr[33..41], 0u64.to_le_bytes(), "link count");
    client.clunk(1).unwrap();
    // The root, and the directory the fid was found in is given back too.
    assert_eq!(client.held(), (1, 0));
}

// Directories

#[test]
fn readdir_gives_all_entries_once_in_whole_pieces() {
    let mut client = Client::new();
    for i in 0..50 {
        client.make_file(&format!("file-{i}"), b"");
    }
    client.mkdir(ROOT, "dir").unwrap();
    client.walk(ROOT, 1, &[]).unwrap();
    client.lopen(1, 0).unwrap();
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let part = client.readdir(1, offset, 100).unwrap();
        let Some(last) = part.last() else { break };
        offset = last.1;
        seen.extend(part.into_iter().map(|(name, _, kind)| (name, kind)));
        // Changes behind and in front do not disturb.
        client.unlinkat(ROOT, &seen.last().unwrap().0, 0).ok();
    }
    assert_eq!(seen.len(), 53);
    assert_eq!((seen[0].0.as_str(), seen[1].0.as_str()), (".", ".."));
    assert_eq!(seen[52], ("dir".into(), 4));
    assert!(seen[2..52].iter().all(|(name, kind)| name.starts_with("file-") && *kind == 8));
}

#[test]
fn readdir_with_no_room_for_an_entry_is_einval() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    client.lopen(1, 0).unwrap();
    assert_eq!(client.readdir(1, 0, 24), Err(Errno::EINVAL));
    assert_eq!(client.readdir(1, 0, 25).unwrap().len(), 1);
    assert_eq!(client.readdir(1, 2, 0), Ok(vec![]));
}

#[test]
fn unlinkat_flag_has_to_match_the_object() {
    let mut client = Client::new();
    client.mkdir(ROOT, "d").unwrap();
    client.make_file("f", b"");
    client.walk(ROOT, 1, &["d"]).unwrap();
    client.mkdir(1, "in").unwrap();
    let dir = wire::AT_REMOVEDIR;
    assert_eq!(client.unlinkat(ROOT, "d", 0), Err(Errno::EISDIR));
    assert_eq!(client.unlinkat(ROOT, "f", dir), Err(Errno::ENOTDIR));
    assert_eq!(client.unlinkat(ROOT, "d", dir), Err(Errno::ENOTEMPTY));
    assert_eq!(client.unlinkat(ROOT, "x", dir), Err(Errno::ENOENT));
    assert_eq!(client.unlinkat(ROOT, ".", dir), Err(Errno::EINVAL));
    assert_eq!(client.unlinkat(ROOT, "..", dir), Err(Errno::ENOTEMPTY));
    assert_eq!(client.unlinkat(ROOT, "..", 0), Err(Errno::EISDIR));
    assert_eq!(client.unlinkat(ROOT, "", 0), Err(Errno::EINVAL));
    assert_eq!(client.unlinkat(ROOT, "f", 1), Err(Errno::EINVAL));
    client.unlinkat(1, "in", dir).unwrap();
    client.unlinkat(ROOT, "d", dir).unwrap();
    client.unlinkat(ROOT, "f", 0).unwrap();
    assert_eq!(client.mkdir(1, "again"), Err(Errno::ENOENT));
}

#[test]
fn remove_takes_the_entry_and_the_fid() {
    let mut client = Client::new();
    client.mkdir(ROOT, "d").unwrap();
    client.walk(ROOT, 1, &["d"]).unwrap();
    client.mkdir(1, "in").unwrap();
    assert_eq!(client.remove(1), Err(Errno::ENOTEMPTY));
    assert_eq!(client.clunk(1), Err(Errno::EBADF));
    client.walk(ROOT, 1, &["d", "in"]).unwrap();
    assert_eq!(client.remove(1), Ok(vec![]));
    client.walk(ROOT, 1, &["d"]).unwrap();
    assert_eq!(client.remove(1), Ok(vec![]));
    assert_eq!(client.walk(ROOT, 1, &["d"]), Err(Errno::ENOENT));
    assert_eq!(client.remove(ROOT), Err(Errno::EBUSY));
    assert_eq!(client.held(), (0, 0));
}

#[test]
fn remove_after_the_entry_became_another_file_is_enoent() {
    let mut client = Client::new();
    client.make_file("f", b"old");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.unlinkat(ROOT, "f", 0).unwrap();
    client.make_file("f", b"new");
    assert_eq!(client.remove(1), Err(Errno::ENOENT));
    assert_eq!(client.walk(ROOT, 1, &["f"]), Ok(1));
}

#[test]
fn renamed_file_is_followed_by_its_fids() {
    let mut client = Client::new();
    client.make_file("f", b"x");
    client.mkdir(ROOT, "d").unwrap();
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.walk(ROOT, 2, &["d"]).unwrap();
    client.renameat(ROOT, "f", 2, "g").unwrap();
    assert_eq!(client.ask(request::RENAME, body().u32(1).u32(ROOT).s("h")), Ok(vec![]));
    assert_eq!(client.walk(ROOT, 3, &["h"]), Ok(1));
    assert_eq!(client.remove(1), Ok(vec![]));
    assert_eq!(client.walk(ROOT, 4, &["h"]), Err(Errno::ENOENT));
    client.server.reset();
    assert_eq!(client.held(), (0, 0));
}

#[test]
fn rename_between_two_names_of_a_file_changes_no_fid() {
    let mut client = Client::new();
    client.make_file("a", b"x");
    client.walk(ROOT, 1, &["a"]).unwrap();
    client.ask(request::LINK, body().u32(ROOT).u32(1).s("b")).unwrap();
    client.renameat(ROOT, "a", ROOT, "b").unwrap();
    client.remove(1).unwrap();
    assert_eq!(client.walk(ROOT, 1, &["a"]), Err(Errno::ENOENT));
    assert_eq!(client.walk(ROOT, 1, &["b"]), Ok(1));
}

#[test]
fn rename_errors_are_reported() {
    let mut client = Client::new();
    client.mkdir(ROOT, "d").unwrap();
    client.walk(ROOT, 1, &["d"]).unwrap();
    assert_eq!(client.renameat(ROOT, "d", 1, "d"), Err(Errno::EINVAL));
    assert_eq!(client.renameat(ROOT, "x", 1, "d"), Err(Errno::ENOENT));
    assert_eq!(client.renameat(ROOT, ".", 1, "d"), Err(Errno::EBUSY));
    assert_eq!(client.renameat(ROOT, "d", 1, ".."), Err(Errno::EBUSY));
    assert_eq!(client.renameat(ROOT, "d", 1, "a/b"), Err(Errno::EINVAL));
    assert_eq!(client.ask(request::RENAME, body().u32(ROOT).u32(1).s("r")), Err(Errno::EBUSY));
}

#[test]
fn symlink_is_stored_as_given_and_not_followed() {
    let mut client = Client::new();
    let link = |name: &str, target: &str| body().u32(ROOT).s(name).s(target).u32(0);
    let qid = client.ask(request::SYMLINK, link("l", "../../etc/passwd")).unwrap();
    assert_eq!(qid[0], Qid::SYMLINK);
    assert_eq!(client.ask(request::SYMLINK, link("l", "x")), Err(Errno::EEXIST));
    assert_eq!(client.ask(request::SYMLINK, link("m", "")), Err(Errno::ENOENT));
    assert_eq!(client.ask(request::SYMLINK, link("m", "a\0b")), Err(Errno::EINVAL));
    let long = "t".repeat(limits::P9_LINK_TARGET);
    assert_eq!(client.ask(request::SYMLINK, link("m", &(long.clone() + "t"))), Err(Errno::ENAMETOOLONG));
    client.ask(request::SYMLINK, link("m", &long)).unwrap();
    client.walk(ROOT, 1, &["l"]).unwrap();
    assert_eq!(client.ask(request::READLINK, body().u32(1)), Ok(body().s("../../etc/passwd").0));
    assert_eq!(client.ask(request::READLINK, body().u32(ROOT)), Err(Errno::EINVAL));
    assert_eq!(client.lopen(1, 0), Err(Errno::ELOOP));
    assert_eq!(client.walk(1, 2, &["x"]), Err(Errno::ENOTDIR));
}

#[test]
fn mknod_makes_files_and_devices_but_no_directories() {
    let mut client = Client::new();
    let node = |name: &str, mode: u32| body().u32(ROOT).s(name).u32(mode).u32(0x123).u32(0x456).u32(0);
    client.ask(request::MKNOD, node("null", 0o020666)).unwrap();
    client.ask(request::MKNOD, node("file", 0o644)).unwrap();
    assert_eq!(client.ask(request::MKNOD, node("d", 0o040755)), Err(Errno::EPERM));
    assert_eq!(client.ask(request::MKNOD, node("l", 0o120777)), Err(Errno::EINVAL));
    assert_eq!(client.ask(request::MKNOD, node("x", 0o030777)), Err(Errno::EINVAL));
    let attr = |client: &mut Client, name: &str| {
        client.walk(ROOT, 1, &[name]).unwrap();
        let attr = client.ask(request::GETATTR, body().u32(1).u64(0x7ff)).unwrap();
        client.clunk(1).unwrap();
        let mode = u32::from_le_bytes(attr[21..25].try_into().unwrap());
        (mode, u64::from_le_bytes(attr[41..49].try_into().unwrap()))
    };
    // new_encode_dev(0x123, 0x456)
    assert_eq!(attr(&mut client, "null"), (0o020666, 0x0041_2356));
    assert_eq!(attr(&mut client, "file"), (0o100644, 0));
}

#[test]
fn link_of_directory_is_eperm() {
    let mut client = Client::new();
    client.mkdir(ROOT, "d").unwrap();
    client.walk(ROOT, 1, &["d"]).unwrap();
    assert_eq!(client.ask(request::LINK, body().u32(ROOT).u32(1).s("e")), Err(Errno::EPERM));
    assert_eq!(client.ask(request::LINK, body().u32(ROOT).u32(1).s(".")), Err(Errno::EEXIST));
}

// Attributes

#[test]
fn getattr_tells_what_it_knows() {
    let mut client = Client::new();
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "f").unwrap();
    client.write(1, 0, b"hello").unwrap();
    let attr = client.ask(request::GETATTR, body().u32(1).u64(u64::MAX)).unwrap();
    assert_eq!(attr.len(), 153);
    let mut reader = Reader::new(&attr);
    assert_eq!(reader.u64(), Ok(0x17ff), "basic and generation");
    reader.bytes(13).unwrap();
    assert_eq!(reader.u32(), Ok(0o100644));
    assert_eq!((reader.u32(), reader.u32()), (Ok(1000), Ok(5)));
    assert_eq!((reader.u64(), reader.u64(), reader.u64()), (Ok(1), Ok(0), Ok(5)));
    let few = client.ask(request::GETATTR, body().u32(1).u64(0x200)).unwrap();
    assert_eq!(few[..8], 0x200u64.to_le_bytes());
}

#[test]
fn setattr_changes_what_is_marked() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    let set = |valid: u32| {
        let message = body().u32(1).u32(valid).u32(0o104755).u32(7).u32(8).u64(2);
        message.u64(u64::MAX).u64(5).u64(20).u64(6)
    };
    let attr = |client: &mut Client| client.ask(request::GETATTR, body().u32(1).u64(0x7ff)).unwrap();
    let before = attr(&mut client);
    client.ask(request::SETATTR, set(0)).unwrap();
    assert_eq!(attr(&mut client), before);
    client.ask(request::SETATTR, set(0x1ff)).unwrap();
    let after = attr(&mut client);
    let mut reader = Reader::new(&after[21..]);
    assert_eq!((reader.u32(), reader.u32(), reader.u32()), (Ok(0o104755), Ok(7), Ok(8)));
    reader.bytes(16).unwrap();
    assert_eq!(reader.u64(), Ok(2), "size");
    reader.bytes(16).unwrap();
    assert_eq!((reader.u64(), reader.u64()), (Ok(u64::MAX), Ok(5)), "1969 is allowed");
    assert_eq!((reader.u64(), reader.u64()), (Ok(20), Ok(6)));
    client.ask(request::SETATTR, set(0x10)).unwrap();
    assert_eq!(attr(&mut client)[73..81], 1000u64.to_le_bytes());
    let bad = body().u32(1).u32(0x80).u32(0).u32(0).u32(0).u64(0).u64(0).u64(1_000_000_000).u64(0).u64(0);
    assert_eq!(client.ask(request::SETATTR, bad), Err(Errno::EINVAL));
}

#[test]
fn setattr_owner_minus_one_is_left_alone() {
    let mut client = Client::new();
    client.make_file("f", b"");
    client.walk(ROOT, 1, &["f"]).unwrap();
    let message = body().u32(1).u32(6).u32(0).u32(u32::MAX).u32(u32::MAX).u64(0).u64(0).u64(0).u64(0).u64(0);
    client.ask(request::SETATTR, message).unwrap();
    let attr = client.ask(request::GETATTR, body().u32(1).u64(0x7ff)).unwrap();
    assert_eq!(attr[25..33], [1000u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
}

#[test]
fn statfs_has_sixty_bytes() {
    let mut client = Client::new();
    let reply = client.ask(request::STATFS, body().u32(ROOT)).unwrap();
    assert_eq!(reply.len(), 60);
    assert_eq!(reply[..4], 0x0102_1997u32.to_le_bytes());
    assert_eq!(reply[8..16], (1u64 << 40).to_le_bytes());
    assert_eq!(client.ask(request::STATFS, body().u32(5)), Err(Errno::EBADF));
}

#[test]
fn xattr_requests_are_eopnotsupp() {
    let mut client = Client::new();
    let walk = body().u32(ROOT).u32(1).s("security.capability");
    assert_eq!(client.ask(request::XATTRWALK, walk), Err(Errno::EOPNOTSUPP));
    let create = body().u32(ROOT).s("user.x").u64(1).u32(0);
    assert_eq!(client.ask(request::XATTRCREATE, create), Err(Errno::EOPNOTSUPP));
    assert_eq!(client.clunk(1), Err(Errno::EBADF));
}

// Locks

#[test]
fn lock_conflict_is_blocked_and_clunk_releases() {
    let mut client = Client::new();
    client.make_file("f", b"");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.walk(ROOT, 2, &["f"]).unwrap();
    assert_eq!(client.lock(1, 1, 0, 10, 100), Ok(0));
    assert_eq!(client.lock(2, 0, 9, 1, 200), Ok(1));
    assert_eq!(client.lock(2, 0, 10, 0, 200), Ok(0));
    let query = body().u32(2).u8(1).u64(0).u64(0).u32(200).s("host");
    let reply = client.ask(request::GETLOCK, query.clone()).unwrap();
    assert_eq!(reply, body().u8(1).u64(0).u64(10).u32(100).s("host").0);
    client.clunk(1).unwrap();
    let reply = client.ask(request::GETLOCK, query).unwrap();
    assert_eq!(reply, body().u8(2).u64(0).u64(0).u32(200).s("host").0);
    assert_eq!(client.lock(2, 1, 0, 0, 200), Ok(0));
    assert_eq!(client.lock(2, 2, 0, 0, 200), Ok(0));
    assert_eq!(client.lock(2, 3, 0, 0, 200), Err(Errno::EINVAL));
    assert_eq!(client.lock(2, 0, 2, u64::MAX, 200), Err(Errno::EINVAL));
}

#[test]
fn lock_client_name_is_bounded() {
    let mut client = Client::new();
    let lock = |name: &str| body().u32(ROOT).u8(1).u32(0).u64(0).u64(0).u32(1).s(name);
    let name = "c".repeat(limits::P9_LOCK_CLIENT);
    assert_eq!(client.ask(request::LOCK, lock(&name)), Ok(vec![0]));
    assert_eq!(client.ask(request::LOCK, lock(&(name + "c"))), Err(Errno::EINVAL));
}

// Snapshots

#[test]
fn restored_session_goes_on_where_it_was() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.lopen(1, 2).unwrap();
    client.walk(ROOT, 2, &[]).unwrap();
    client.lopen(2, 0).unwrap();
    client.lock(1, 1, 3, 0, 55).unwrap();
    let saved = client.server.save().unwrap();
    let again = SavedServer::from_values(&mut saved.clone().into_values()).unwrap().unwrap();
    assert_eq!(again.locks, saved.locks);

    let mut other = Client::new();
    other.make_file("unrelated", b"");
    other.server.restore(saved.clone()).unwrap();
    assert_eq!(other.server.msize(), MSIZE);
    assert_eq!(other.server.fid_count(), 3);
    assert_eq!(other.held(), client.held());
    assert!(other.server.save().unwrap() == saved);
    assert_eq!(other.read(1, 0, 9), Ok(b"hello".to_vec()));
    assert_eq!(other.write(1, 0, b"J"), Ok(1));
    let names: Vec<_> = other.readdir(2, 0, 500).unwrap().into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, [".", "..", "f"]);
    other.walk(ROOT, 3, &["f"]).unwrap();
    assert_eq!(other.lock(3, 1, 0, 0, 66), Ok(1), "the lock came along");
    other.clunk(1).unwrap();
    assert_eq!(other.lock(3, 1, 0, 0, 66), Ok(0), "and goes with its fid");
    assert_eq!(other.lopen(2, 0).unwrap_err(), Errno::EINVAL, "it is open");
    other.server.reset();
    assert_eq!(other.held(), (0, 0));
}

/// As a snapshot of v86 has it: how fids were open and where they were found is not known.
fn as_v86_saves(mut saved: SavedServer) -> SavedServer {
    for fid in &mut saved.fids {
        (fid.io, fid.dir) = (SavedIo::Unknown, None);
    }
    saved
}

#[test]
fn restored_session_of_v86_opens_fids_when_they_are_used() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.lopen(1, 2).unwrap();
    client.walk(ROOT, 2, &[]).unwrap();
    client.lopen(2, 0).unwrap();
    client.walk(ROOT, 3, &["f"]).unwrap();
    let saved = as_v86_saves(client.server.save().unwrap());
    let mut other = Client::new();
    other.server.restore(saved.clone()).unwrap();
    assert_eq!(other.held(), (4, 0));
    assert!(other.server.save().unwrap().fids.iter().all(|fid| fid.io == SavedIo::Unknown));
    assert_eq!(other.write(1, 0, b"J"), Ok(1));
    let names: Vec<_> = other.readdir(2, 0, 500).unwrap().into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, [".", "..", "f"]);
    assert_eq!(other.held().1, 2);
    // A fid that may have been open may also be opened.
    other.lopen(3, 0).unwrap();
    assert_eq!(other.remove(3), Err(Errno::EBUSY), "where it is in the tree is not known");
    other.server.reset();
    assert_eq!(other.held(), (0, 0));
}

#[test]
fn restored_fid_can_be_removed_where_it_was_found() {
    let mut client = Client::new();
    client.mkdir(ROOT, "d").unwrap();
    client.walk(ROOT, 1, &["d"]).unwrap();
    client.walk(ROOT, 2, &["d"]).unwrap();
    client.create(2, "f").unwrap();
    client.clunk(1).unwrap();
    let saved = client.server.save().unwrap();
    let mut other = Client::new();
    other.server.restore(saved.clone()).unwrap();
    assert_eq!(other.remove(2), Ok(vec![]));
    assert_eq!(other.walk(ROOT, 3, &["d", "f"]), Ok(1));
    // Where there is no directory there is nothing to remove from.
    let mut wrong = saved;
    wrong.fids[1].dir = Some(wrong.fids[1].inode);
    other.server.restore(wrong).unwrap();
    assert_eq!(other.remove(2), Err(Errno::EBUSY));
    other.server.reset();
    assert_eq!(other.held(), (0, 0));
}

#[test]
fn restore_drops_what_refers_to_nothing() {
    let mut client = Client::new();
    let mut saved = client.server.save().unwrap();
    let fid = saved.fids[0].clone();
    saved.fids.push(SavedFid { fid: 8, inode: 9, ..fid.clone() });
    saved.fids.push(SavedFid { fid: wire::NO_FID, ..fid.clone() });
    saved.fids.push(fid);
    saved.msize = 5;
    let lock = SavedLock {
        inode: 9,
        exclusive: true,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: vec![],
        fid: None,
    };
    saved.locks = vec![
        lock.clone(),
        SavedLock { inode: 0, start: 5, length: u64::MAX, ..lock.clone() },
        SavedLock { inode: 0, client_id: vec![0; limits::P9_LOCK_CLIENT + 1], ..lock },
    ];
    client.server.restore(saved).unwrap();
    assert_eq!((client.server.fid_count(), client.server.msize()), (1, limits::P9_MIN_MSIZE));
    assert_eq!(client.server.save().unwrap().locks, []);
    let mut saved = client.server.save().unwrap();
    saved.msize = u32::MAX;
    client.server.restore(saved).unwrap();
    assert_eq!(client.server.msize(), limits::P9_RESTORED_MSIZE);
    assert_eq!(client.held(), (1, 0));
}

#[test]
fn restore_with_too_many_fids_is_refused() {
    let mut client = Client::new();
    let fid = client.server.save().unwrap().fids[0].clone();
    let saved = SavedServer { fids: vec![fid; limits::P9_FIDS + 1], ..SavedServer::default() };
    assert!(client.server.restore(saved).is_err());
    assert_eq!(client.server.fid_count(), 1, "nothing happened");
}

#[test]
fn restored_fid_on_read_only_file_system_can_be_read() {
    let mut client = Client::new();
    client.make_file("f", b"hello");
    client.walk(ROOT, 1, &["f"]).unwrap();
    let saved = as_v86_saves(client.server.save().unwrap());
    let (mut fs, _) = MemFs::new();
    fs.read_only = true;
    let mut server = Server::new(Box::new(fs));
    server.restore(saved).unwrap();
    client.server = server;
    assert_eq!(client.read(1, 0, 9), Ok(b"hello".to_vec()));
    assert_eq!(client.write(1, 0, b"J"), Err(Errno::EBADF));
}
