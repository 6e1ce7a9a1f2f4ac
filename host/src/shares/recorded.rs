//! A recorded client: what Linux asks of a server for some shell commands, asked again.
//!
//! `recorded.txt` has a line of explanation, and then for each command `command: LINE` and the requests it
//! caused: `done` or `error NUMBER`, which is how the server of the time answered, the message in hexadecimal
//! digits, `zeros N` if N more bytes follow, which are zero, `#`, and what it says.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use emu_devices::p9::wire::{HEADER, request};
use emu_devices::p9::{Errno, Server};

use super::*;

const RECORDED: &str = include_str!("recorded.txt");

/// The error of a reply, if it is one.
fn error(reply: &[u8]) -> Option<Errno> {
    const RLERROR: u8 = 7;
    let number = reply.get(HEADER..HEADER + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    (reply[4] == RLERROR).then(|| Errno(number.unwrap()))
}

#[test]
fn recorded_requests_are_answered_and_do_what_they_say() {
    let base = tempfile::tempdir().unwrap();
    let top = base.path();
    fs::create_dir_all(top.join("sub/deep")).unwrap();
    fs::write(top.join("hello.txt"), "hello from host\n").unwrap();
    fs::write(top.join("sub/deep/f"), "s\n").unwrap();
    symlink("hello.txt", top.join("link")).unwrap();
    let spec = Spec { host: top.to_owned(), guest: "/m".into(), mode: Mode::ReadWrite };
    let mut server = Server::new(Box::new(Shares::alone(&spec).unwrap()));
    let root = rustix::process::geteuid().is_root();
    let (mut command, mut asked) = ("", 0);
    for line in RECORDED.lines().skip(2) {
        if let Some(line) = line.strip_prefix("command: ") {
            command = line;
            continue;
        }
        let (message, meaning) = line.split_once(" # ").unwrap();
        let mut words = message.split(' ');
        let recorded = match words.next().unwrap() {
            "done" => None,
            _ => Some(Errno(words.next().unwrap().parse().unwrap())),
        };
        let digits = words.next().unwrap();
        let mut bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        let zeros = words.nth(1).map_or(0, |count| count.parse().unwrap());
        bytes.resize(bytes.len() + zeros, 0);
        let kind = bytes[4];
        let mut reply = Vec::new();
        server.handle(&bytes, &mut reply, 1 << 20);
        let expected = match (kind, recorded) {
            (_, None) => None,
            (_, Some(Errno::ENOENT)) => Some(Errno::ENOENT),
            (request::XATTRWALK, _) => Some(Errno::EOPNOTSUPP),
            (request::MKNOD, _) if command.starts_with("mknod") => Some(Errno::EPERM),
            (request::SETATTR, _) if command.starts_with("chown") && !root => Some(Errno::EPERM),
            // What was not there yet is now.
            (_, Some(_)) => None,
        };
        assert_eq!(error(&reply), expected, "{command}: {meaning}");
        assert_eq!(reply[4], if expected.is_some() { 7 } else { kind + 1 }, "{command}: {meaning}");
        asked += 1;
    }
    assert!(asked > 190, "{asked}");
    assert_eq!(fs::read(top.join("sub/moved2")).unwrap(), b"a\nb\n");
    assert_eq!(fs::read(top.join("hard")).unwrap(), b"hel");
    let hello = fs::metadata(top.join("hello.txt")).unwrap();
    assert_eq!((hello.nlink(), hello.mode() & 0o777, hello.len()), (2, 0o700, 3));
    assert_eq!(fs::read(top.join("big")).unwrap(), vec![0; 100 << 10]);
    assert!(fs::symlink_metadata(top.join("ff")).unwrap().file_type().is_fifo());
    for gone in ["sl", "d1", "new", "moved", "dev"] {
        assert!(fs::symlink_metadata(top.join(gone)).is_err(), "{gone}");
    }
}
