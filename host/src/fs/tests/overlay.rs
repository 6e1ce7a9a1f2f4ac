//! The overlay through the server.

use std::sync::Arc;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{Filesystem, NodeId};
use emu_devices::p9::wire::{AT_REMOVEDIR, Reader, request};

use super::client::Part::{D, Q, S};
use super::client::{Client, ROOT};
use super::fsjson::many_files;
use super::{SAMPLE, blobs, large, options, overlay};
use crate::fs::blobs::{DirectoryBlobs, MemoryBlobs};
use crate::fs::overlay::Overlay;
use crate::limits;

fn client() -> Client {
    Client::new(overlay(SAMPLE))
}

#[test]
fn from_fs_json_numbers_follow_file_order() {
    let mut overlay = overlay(
        r#"{"version":3,"size":0,"fsroot":[
            ["a",0,5,16877,0,0,[["b",0,5,33188,0,0],["null",0,0,8630,0,0],["c",0,5,33188,0,0]]],
            ["d",0,5,33188,0,0]]}"#,
    );
    let mut seen = vec![];
    for path in ["/", "/a", "/a/b", "/a/c", "/d"] {
        let ino = overlay.resolve(path.as_bytes()).unwrap();
        seen.push((ino, overlay.getattr(NodeId(ino.into())).unwrap().qid.path));
    }
    assert_eq!(seen, [(0, 1), (1, 2), (2, 3), (3, 5), (4, 6)]);
    assert_eq!(overlay.resolve(b"/a/null"), Err(Errno::ENOENT));
}

#[test]
fn from_fs_json_duplicate_name_later_one_counts() {
    let mut client = Client::new(overlay(
        r#"{"version":3,"size":0,"fsroot":[
            ["x",0,5,16877,0,0,[["lost",0,5,33188,0,0]]], ["y",0,5,33188,0,0],
            ["x",5,5,33188,0,0,"hello"], ["y",0,5,16877,0,0,[["in",0,5,33188,0,0]]]]}"#,
    ));
    assert_eq!(client.names("/").unwrap(), ["x", "y"]);
    assert_eq!(client.contents("/x").unwrap(), b"hello");
    assert_eq!(client.names("/y").unwrap(), ["in"]);
    assert_eq!(client.stat("/").unwrap().nlink, 3);
    assert_eq!(client.stat("/y/in").unwrap().qid.2, 7);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
fn from_fs_json_hundred_thousand_files_load_fast() {
    let text = many_files(100_000);
    let (options, _) = options();
    let before = std::time::Instant::now();
    let overlay =
        Overlay::from_fs_json(text.as_bytes(), "fs.json", Arc::new(MemoryBlobs::default()), options).unwrap();
    let elapsed = before.elapsed();
    assert_eq!(overlay.tree.count(), 100_001);
    // An order of magnitude of slack for a loaded machine and an unoptimised build.
    assert!(elapsed.as_secs_f64() < 3.0, "took {elapsed:?}");
}

#[test]
fn attributes_come_from_fs_json() {
    let mut client = client();
    let motd = client.stat("/etc/motd").unwrap();
    assert_eq!((motd.qid, motd.mode, motd.nlink, motd.size), ((0, 0, 3), 0o100644, 1, 5));
    assert_eq!((motd.atime, motd.mtime, motd.ctime, motd.blocks), (200, 200, 200, 1));
    let etc = client.stat("/etc").unwrap();
    assert_eq!((etc.qid, etc.mode, etc.uid, etc.gid, etc.nlink), ((0x80, 0, 2), 0o040755, 1, 2, 2));
    let lib = client.stat("/lib").unwrap();
    assert_eq!((lib.qid.0, lib.mode, lib.size), (2, 0o120777, 3));
    assert_eq!(client.readlink("/lib").unwrap(), "etc");
    let root = client.stat("/").unwrap();
    assert_eq!((root.mode, root.nlink, root.mtime), (0o040777, 3, 1001));
}

#[test]
fn contents_come_from_the_store_until_written() {
    let mut client = client();
    assert_eq!(client.contents("/etc/motd").unwrap(), b"hello");
    assert!(client.contents("/etc/large").unwrap() == large());
    client.open("/etc/motd", 1, 2).unwrap();
    client.write(1, 4, b"p me").unwrap();
    assert_eq!(client.contents("/etc/motd").unwrap(), b"hellp me");
    client.open("/etc/large", 2, 0o1001).unwrap();
    assert_eq!(client.stat("/etc/large").unwrap().size, 0);
    client.write(2, 3, b"x").unwrap();
    assert_eq!(client.contents("/etc/large").unwrap(), b"\0\0\0x");
}

#[test]
fn bad_content_files_are_eio_and_reported_once() {
    let (options, warnings) = options();
    let overlay = Overlay::from_fs_json(SAMPLE.as_bytes(), "fs.json", Arc::new(blobs()), options).unwrap();
    let mut client = Client::new(overlay);
    for _ in 0..2 {
        assert_eq!(client.contents("/etc/wrong"), Err(Errno::EIO));
        assert_eq!(client.contents("/etc/missing"), Err(Errno::EIO));
    }
    assert_eq!(
        *warnings.lock().unwrap(),
        [
            "Cannot use content file test: fs/wrong: Size is 4 bytes, expected 5",
            "Cannot use content file test: fs/missing: No such file"
        ]
    );
    // Overwriting needs no old contents.
    client.open("/etc/wrong", 1, 0o1001).unwrap();
    client.write(1, 0, b"new").unwrap();
    assert_eq!(client.contents("/etc/wrong").unwrap(), b"new");
}

#[test]
fn image_directory_with_wrong_hash_and_compressed_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("2cf24dba.bin"), b"hello").unwrap();
    std::fs::write(dir.path().join("2cf24dbb.bin"), b"hello").unwrap();
    let packed = zstd::encode_all(&b"hello"[..], 19).unwrap();
    std::fs::write(dir.path().join("2cf24dba.bin.zst"), packed).unwrap();
    let rows = ["2cf24dba.bin", "2cf24dbb.bin", "2cf24dba.bin.zst"]
        .map(|name| format!("[\"{name}\",5,0,33188,0,0,\"{name}\"]"))
        .join(",");
    let text = format!("{{\"version\":3,\"fsroot\":[{rows}]}}");
    let (options, warnings) = options();
    let source = Arc::new(DirectoryBlobs::new(dir.path()));
    let mut client = Client::new(Overlay::from_fs_json(text.as_bytes(), "fs.json", source, options).unwrap());
    assert_eq!(client.contents("/2cf24dba.bin").unwrap(), b"hello");
    assert_eq!(client.contents("/2cf24dba.bin.zst").unwrap(), b"hello");
    assert_eq!(client.contents("/2cf24dbb.bin"), Err(Errno::EIO));
    let warnings = warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("2cf24dbb.bin: SHA-256 is 2cf24dba5fb0"), "{}", warnings[0]);
}

#[test]
fn times_change_as_posix_says() {
    let mut client = client();
    let times = |client: &mut Client, path: &str| {
        let attr = client.stat(path).unwrap();
        (attr.atime, attr.mtime, attr.ctime)
    };
    client.open("/etc/motd", 1, 2).unwrap();
    client.read(1, 0, 5).unwrap();
    assert_eq!(times(&mut client, "/etc/motd"), (200, 200, 200), "access times are the guest's business");
    client.write(1, 0, b"J").unwrap();
    let (_, mtime, ctime) = times(&mut client, "/etc/motd");
    assert!(mtime > 1000 && ctime == mtime);
    client.create("/etc", "new", 2).unwrap();
    let (_, dir, _) = times(&mut client, "/etc");
    assert!(dir > mtime);
    client.link("/etc/new", "/", "second").unwrap();
    let (_, mtime, ctime) = times(&mut client, "/etc/new");
    assert!(ctime > dir && mtime < ctime);
    assert!(times(&mut client, "/").1 >= ctime);
    let chmod = [D(2), D(1), D(0o106755), D(0), D(0), Q(0), Q(0), Q(0), Q(0), Q(0)];
    client.ask(request::SETATTR, &chmod).unwrap();
    let attr = client.attr(2);
    assert!(attr.ctime > ctime && attr.mtime == mtime);
    assert_eq!((attr.mode, attr.uid), (0o106755, 1000), "set-uid bits are kept");
}

#[test]
fn unlinked_and_replaced_files_stay_until_closed() {
    let mut client = client();
    client.open("/etc/motd", 1, 2).unwrap();
    client.create("/etc", "new", 2).unwrap();
    client.write(2, 0, b"new").unwrap();
    client.rename("/etc", "new", "/etc", "motd").unwrap();
    assert_eq!(client.contents("/etc/motd").unwrap(), b"new");
    assert_eq!(client.read(1, 0, 9).unwrap(), b"hello");
    client.write(1, 5, b"!").unwrap();
    assert_eq!(client.read(1, 0, 9).unwrap(), b"hello!");
    assert_eq!(client.attr(1).nlink, 0);
    assert_eq!(client.ask(request::LINK, &[D(ROOT), D(1), S("back")]), Err(Errno::ENOENT));
    client.clunk(1);
}

#[test]
fn removed_directory_in_use_is_empty_and_dead() {
    let mut client = client();
    client.mkdir("/", "d").unwrap();
    client.mkdir("/d", "e").unwrap();
    client.open("/d/e", 1, 0).unwrap();
    client.unlink("/d", "e", AT_REMOVEDIR).unwrap();
    client.unlink("/", "d", AT_REMOVEDIR).unwrap();
    let names: Vec<_> = client.readdir(1, 0, 500).unwrap().into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, [".", ".."]);
    assert_eq!(client.ask(request::MKDIR, &[D(1), S("x"), D(0o755), D(0)]), Err(Errno::ENOENT));
    assert_eq!(
        client.ask(request::WALK, &[D(1), D(2), super::client::Part::W(1), S("..")]),
        Err(Errno::ENOENT)
    );
}

#[test]
fn special_files_are_kept_but_not_opened() {
    let mut client = client();
    let mknod = [D(ROOT), S("null"), D(0o020666), D(1), D(3), D(0)];
    client.ask(request::MKNOD, &mknod).unwrap();
    assert_eq!(client.open("/null", 1, 0), Err(Errno::ENXIO));
    assert_eq!(client.open("/lib", 1, 0), Err(Errno::ELOOP));
    assert_eq!(client.truncate("/null", 0), Err(Errno::EINVAL));
    assert_eq!(client.truncate("/etc", 0), Err(Errno::EISDIR));
    client.walk("/null", 1).unwrap();
    let attr = client.ask(request::GETATTR, &[D(1), Q(0x7ff)]).unwrap();
    assert_eq!(attr[41..49], 0x103u64.to_le_bytes());
}

#[test]
fn readdir_survives_changes_and_ends() {
    let mut client = client();
    for i in 0..200 {
        client.create("/etc", &format!("file-{i}"), 1).unwrap();
        client.clunk(1);
    }
    client.open("/etc", 1, 0).unwrap();
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let part = client.readdir(1, offset, 400).unwrap();
        let Some(last) = part.last() else { break };
        offset = last.1;
        for (name, ..) in &part {
            // What was listed is renamed, which would put it at the end.
            if name.starts_with("file-") {
                client.rename("/etc", name, "/etc", &format!("renamed-{name}")).unwrap();
            }
        }
        client.create("/etc", &format!("new-{}", seen.len()), 2).unwrap();
        client.clunk(2);
        seen.extend(part.into_iter().map(|entry| entry.0));
    }
    assert_eq!(seen.len(), 2 + 4 + 200);
    assert_eq!(seen[..3], [".", "..", "motd"]);
    let again: Vec<_> = client.readdir(1, 0, 1 << 19).unwrap().into_iter().map(|entry| entry.0).collect();
    assert!(again.len() > seen.len());
    assert!(again.iter().filter(|name| name.starts_with("renamed-")).count() == 200);
}

#[test]
fn readdir_offset_of_v86_leads_behind_the_same_entry() {
    let mut client = client();
    client.open("/etc", 1, 0).unwrap();
    // v86 counts bytes: 24 per entry and the name.
    let all = ["motd", "large", "wrong", "missing"];
    let mut offset = 25 + 26;
    let rest = |client: &mut Client, offset: u64| {
        client.readdir(1, offset, 500).unwrap().into_iter().map(|entry| entry.0).collect::<Vec<_>>()
    };
    assert_eq!(rest(&mut client, 25)[0], "..");
    for (i, name) in all.iter().enumerate() {
        assert_eq!(rest(&mut client, offset), all[i..]);
        offset += 24 + name.len() as u64;
    }
    assert_eq!(rest(&mut client, offset), Vec::<String>::new());
    assert_eq!(rest(&mut client, u64::MAX), Vec::<String>::new());
}

#[test]
fn statfs_is_v86s_with_what_was_added() {
    let mut client = client();
    let statfs = |client: &mut Client| {
        let reply = client.ask(request::STATFS, &[D(ROOT)]).unwrap();
        let mut reader = Reader::new(&reply);
        assert_eq!((reader.u32(), reader.u32()), (Ok(0x0102_1997), Ok(8192)));
        [(); 5].map(|()| reader.u64().unwrap())
    };
    let [blocks, bfree, bavail, files, ffree] = statfs(&mut client);
    assert_eq!((blocks, bfree, files, ffree), (1 << 25, (1 << 25) - 204113u64.div_ceil(8192), 7, 1 << 20));
    assert_eq!(bavail, limits::OVERLAY_BYTES / 8192);
    client.create("/", "f", 1).unwrap();
    client.write(1, 0, &[0; 500_000]).unwrap();
    let [_, after, available, files, _] = statfs(&mut client);
    assert!((61..70).contains(&(bfree - after)) && (61..70).contains(&(bavail - available)));
    assert_eq!(files, 8);
}

#[test]
fn overlay_limit_is_enospc_and_removing_makes_room() {
    let (mut options, _) = options();
    options.limit = 300_000;
    let overlay = Overlay::from_fs_json(SAMPLE.as_bytes(), "fs.json", Arc::new(blobs()), options).unwrap();
    let mut client = Client::new(overlay);
    client.create("/", "f", 1).unwrap();
    let written = client.write(1, 0, &[1; 400_000]).unwrap();
    assert_eq!(written, 4 * 65536);
    assert_eq!(client.write(1, u64::from(written), &[1; 65536]), Err(Errno::ENOSPC));
    assert_eq!(client.attr(1).size, u64::from(written));
    let mut made = 0;
    while client.mkdir("/", &format!("d{made}")).is_ok() {
        made += 1;
    }
    assert!((50..100).contains(&made), "{made}");
    assert_eq!(client.mkdir("/", "x"), Err(Errno::ENOSPC));
    assert_eq!(client.create("/", "x", 2), Err(Errno::ENOSPC));
    assert_eq!(client.symlink("/", "x", &"t".repeat(4000)), Err(Errno::ENOSPC));
    assert_eq!(client.link("/f", "/", &"l".repeat(255)), Err(Errno::ENOSPC));
    assert_eq!(client.rename("/", "d0", "/", &"l".repeat(255)), Err(Errno::ENOSPC));
    client.truncate("/f", 10).unwrap();
    client.mkdir("/", "x").unwrap();
    client.clunk(1);
    client.unlink("/", "f", 0).unwrap();
    for i in 0..made {
        client.unlink("/", &format!("d{i}"), AT_REMOVEDIR).unwrap();
    }
    client.unlink("/", "x", AT_REMOVEDIR).unwrap();
    client.create("/", "g", 1).unwrap();
    assert_eq!(client.write(1, 0, &[1; 4 * 65536]), Ok(4 * 65536), "all room is back");
}

#[test]
fn host_reads_files_and_directories() {
    let mut overlay = overlay(SAMPLE);
    assert_eq!(overlay.read_file("/etc/motd", 1 << 20).unwrap(), b"hello");
    assert!(overlay.read_file("etc//large", 1 << 20).unwrap() == large());
    assert_eq!(overlay.read_file("/lib/motd", 1 << 20), Err(Errno::ENOTDIR), "links are not followed");
    assert_eq!(overlay.read_file("/etc", 1 << 20), Err(Errno::EISDIR));
    assert_eq!(overlay.read_file("/etc/motd/x", 1 << 20), Err(Errno::ENOTDIR));
    assert_eq!(overlay.read_file("/etc/../etc/motd", 1 << 20), Err(Errno::ENOENT));
    assert_eq!(overlay.read_file("/etc/missing", 1 << 20), Err(Errno::EIO));
    let names: Vec<_> =
        overlay.list_dir("/etc").unwrap().into_iter().map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [&b"motd"[..], b"large", b"wrong", b"missing"]);
}

#[test]
fn closed_session_leaves_no_open_files() {
    let mut overlay = overlay(SAMPLE);
    let entry = overlay.root().unwrap();
    let flags = emu_devices::p9::fs::OpenFlags {
        access: emu_devices::p9::fs::Access::Read,
        truncate: false,
        directory: true,
        append: false,
    };
    let handles = [(); 3].map(|()| overlay.open(entry.node, flags).unwrap());
    assert_eq!(overlay.open_files(), 3);
    overlay.release(handles[1]);
    overlay.release(handles[1]);
    assert_eq!(overlay.open_files(), 2);
    assert_eq!(overlay.open(entry.node, flags).unwrap(), handles[1], "numbers are used again");
}
