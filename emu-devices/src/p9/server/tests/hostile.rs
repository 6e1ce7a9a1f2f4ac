//! Any bytes get a valid reply or none, and nothing leaks.

use proptest::prelude::*;

use super::client::*;
use crate::p9::wire::{self, request};

#[test]
fn request_without_tag_is_dropped_and_wrong_size_is_einval() {
    let mut client = Client::new();
    for length in 0..7 {
        assert_eq!(client.raw(&[9, 0, 0, 0, 120, 1, 0][..length], LARGE), []);
    }
    for size in [0u32, 6, 8, 100] {
        let message = [&size.to_le_bytes()[..], &[120, 1, 0]].concat();
        assert_eq!(client.raw(&message, LARGE), [11, 0, 0, 0, 7, 1, 0, 22, 0, 0, 0], "size {size}");
    }
    let huge = [&u32::MAX.to_le_bytes()[..], &[120, 1, 0]].concat();
    assert_eq!(client.raw(&huge, LARGE), [11, 0, 0, 0, 7, 1, 0, 90, 0, 0, 0]);
    let padded = [&[9, 0, 0, 0, 108, 1, 0, 3, 0][..], &[1; 50]].concat();
    assert_eq!(client.raw(&padded, LARGE), [7, 0, 0, 0, 109, 1, 0]);
}

#[test]
fn short_requests_of_every_type_get_replies_and_leak_nothing() {
    let mut client = Client::new();
    for kind in (0..=255u8).step_by(2) {
        for length in 0..40 {
            let zeros = Body(vec![0; length]);
            client.start();
            let _ = client.ask(kind, zeros);
        }
    }
    client.server.reset();
    assert_eq!(client.held(), (0, 0));
}

/// A message with sensible fields, so that random ones get far.
fn sensible_message() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => proptest::sample::select(vec!["a", "b", "c", "d"]).prop_map(|s| s.as_bytes().to_vec()),
        1 => proptest::sample::select(vec![".", "..", "", "a/b"]).prop_map(|s| s.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..300),
    ];
    let fid = || prop_oneof![9 => 0u32..6, 1 => any::<u32>()];
    let small = || prop_oneof![9 => 0u32..70000, 1 => any::<u32>()];
    let offset = prop_oneof![5 => 0u64..100, 1 => any::<u64>()];
    let kinds = vec![
        request::STATFS,
        request::LOPEN,
        request::LCREATE,
        request::SYMLINK,
        request::MKNOD,
        request::RENAME,
        request::READLINK,
        request::GETATTR,
        request::SETATTR,
        request::XATTRWALK,
        request::XATTRCREATE,
        request::READDIR,
        request::FSYNC,
        request::LOCK,
        request::GETLOCK,
        request::LINK,
        request::MKDIR,
        request::RENAMEAT,
        request::UNLINKAT,
        request::ATTACH,
        request::FLUSH,
        request::WALK,
        request::WALK,
        request::READ,
        request::WRITE,
        request::CLUNK,
        request::REMOVE,
    ];
    (
        proptest::sample::select(kinds),
        (fid(), fid(), name.clone(), name, proptest::collection::vec(any::<u8>(), 0..60)),
        (small(), offset, 0u16..4, 0u8..4),
    )
        .prop_map(|(kind, (fid, other, name, name2, data), (number, offset, count, lock))| {
            let b = body();
            let message = match kind {
                request::LOPEN => b.u32(fid).u32(number & 0o201003),
                request::LCREATE => b.u32(fid).s(name).u32(number & 3).u32(number).u32(0),
                request::SYMLINK => b.u32(fid).s(name).s(name2).u32(0),
                request::MKNOD => b.u32(fid).s(name).u32(number).u32(1).u32(2).u32(3),
                request::RENAME => b.u32(fid).u32(other).s(name),
                request::GETATTR => b.u32(fid).u64(offset),
                request::SETATTR => {
                    let b = b.u32(fid).u32(number & 0x1ff).u32(number).u32(1).u32(2);
                    b.u64(offset).u64(1).u64(2).u64(3).u64(4)
                }
                request::XATTRWALK => b.u32(fid).u32(other).s(name),
                request::READDIR | request::READ => b.u32(fid).u64(offset).u32(number),
                request::LOCK => {
                    b.u32(fid).u8(lock).u32(0).u64(offset).u64(u64::from(number)).u32(other).s(name)
                }
                request::GETLOCK => b.u32(fid).u8(lock).u64(offset).u64(u64::from(number)).u32(other).s(name),
                request::LINK => b.u32(fid).u32(other).s(name),
                request::MKDIR => b.u32(fid).s(name).u32(number).u32(0),
                request::RENAMEAT => b.u32(fid).s(name).u32(other).s(name2),
                request::UNLINKAT => b.u32(fid).s(name).u32(number & wire::AT_REMOVEDIR),
                request::ATTACH => b.u32(fid).u32(wire::NO_FID).s("").s(name).u32(0),
                request::WALK => match count {
                    0 => b.u32(fid).u32(other).u16(0),
                    1 => b.u32(fid).u32(other).u16(1).s(name),
                    2 => b.u32(fid).u32(other).u16(2).s(name).s(name2),
                    _ => b.u32(fid).u32(other).u16(3).s(name).s(name2).s(".."),
                },
                request::WRITE => {
                    let mut b = b.u32(fid).u64(offset).u32(data.len() as u32);
                    b.0.extend(data);
                    b
                }
                _ => b.u32(fid).u32(number),
            };
            message.message(kind, number as u16)
        })
}

/// Some bytes changed, cut off or added.
fn mutated(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (message, changes, proptest::option::of(any::<prop::sample::Index>())).prop_map(
        |(mut message, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(message.len());
                message[at] = value;
            }
            if let Some(cut) = cut {
                message.truncate(cut.index(message.len()));
                let size = (message.len() as u32).to_le_bytes();
                message.iter_mut().zip(size).for_each(|(old, new)| *old = new);
            }
            message
        },
    )
}

fn assert_valid_reply(message: &[u8], reply: &[u8], max_reply: usize) -> Result<(), TestCaseError> {
    prop_assert!(reply.len() <= max_reply);
    if reply.is_empty() {
        prop_assert!(message.len() < wire::HEADER || max_reply < wire::ERROR_REPLY);
        return Ok(());
    }
    prop_assert_eq!(reply[..4].to_vec(), (reply.len() as u32).to_le_bytes());
    prop_assert!(reply[4] == wire::RLERROR || reply[4] == message[4].wrapping_add(1));
    prop_assert_eq!(&reply[5..7], &message[5..7]);
    if reply[4] == wire::RLERROR {
        prop_assert_eq!(reply.len(), wire::ERROR_REPLY);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_get_valid_replies_and_leak_nothing(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..40),
        max_reply in prop_oneof![Just(LARGE), 0usize..200],
    ) {
        let mut client = Client::new();
        for message in messages {
            let reply = client.raw(&message, max_reply);
            assert_valid_reply(&message, &reply, max_reply)?;
        }
        client.server.reset();
        prop_assert_eq!(client.held(), (0, 0));
    }

    #[test]
    fn mutated_messages_get_valid_replies_and_leak_nothing(
        messages in proptest::collection::vec(
            prop_oneof![4 => sensible_message().boxed(), 1 => mutated(sensible_message()).boxed()], 1..150),
        max_reply in prop_oneof![4 => Just(LARGE), 1 => 0usize..200],
    ) {
        let mut client = Client::new();
        for message in messages {
            let reply = client.raw(&message, max_reply);
            assert_valid_reply(&message, &reply, max_reply)?;
        }
        client.server.reset();
        prop_assert_eq!(client.held(), (0, 0));
    }
}
