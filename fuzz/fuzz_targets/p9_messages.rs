//! 9P messages straight to the server: a session, saved and restored on the way if asked to.

#![no_main]

use emu_devices::p9::Server;
use env86_fuzz::device::sessions;
use env86_fuzz::files::server;
use env86_fuzz::input::{Input, Seed};

/// Bytes of the reply buffer.
const ROOM: usize = 8192;
/// Messages of one session.
const MAX_MESSAGES: usize = 200;
/// Most times that the session is saved: small holes are written out, 64 MiB of zeros each time.
const MAX_SAVES: u32 = 4;

fn ask(server: &mut Server, message: &[u8], room: usize) -> Vec<u8> {
    let mut reply = Vec::new();
    server.handle(message, &mut reply, room);
    assert!(reply.len() <= room, "a reply that does not fit");
    if let Some(size) = reply.get(..4) {
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
        assert_eq!(size as usize, reply.len(), "a reply's size");
    }
    reply
}

fn seeds() -> Vec<Vec<u8>> {
    let messages = sessions::messages();
    let with = |message: &[u8]| Seed::new().u16(message.len() as u16).u8(0).bytes(message).0;
    let whole: Vec<u8> = messages.iter().flat_map(|message| with(message)).collect();
    let each = messages.iter().map(|message| {
        let parts =
            [with(&messages[0]), with(&messages[1]), with(&messages[2]), with(message), vec![0, 0x80, 0]];
        [parts.concat(), with(message)].concat()
    });
    std::iter::once(whole.clone()).chain(each).collect()
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let input = &mut Input::new(data);
    let mut plain = server();
    let mut restored = server();
    let mut saves = 0;
    for _ in 0..MAX_MESSAGES {
        if input.is_empty() {
            break;
        }
        let (len, form) = (input.u16(), input.u8());
        if len & 0x8000 != 0 {
            saves += 1;
            if saves > MAX_SAVES {
                continue;
            }
            let saved = restored.save().expect("a tree in memory can be saved");
            restored = server();
            restored.restore(saved.clone()).expect("what was saved");
            assert_eq!(restored.save().as_ref(), Ok(&saved), "restored and saved again");
            continue;
        }
        let mut message = input.bytes(usize::from(len & 0x1FFF)).to_vec();
        let size = (message.len() as u32).to_le_bytes();
        // The size is right unless the form says that it is the input's.
        if form & 1 == 0
            && let Some(head) = message.get_mut(..4)
        {
            head.copy_from_slice(&size);
        }
        let room = if form & 2 == 0 { ROOM } else { usize::from(form) };
        let reply = ask(&mut plain, &message, room);
        assert_eq!(reply, ask(&mut restored, &message, room), "a session, and one that was restored");
    }
    plain.reset();
});
