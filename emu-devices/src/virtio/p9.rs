//! virtio-9p: carries 9P messages between the guest's client and a server.

mod saved;

use emu_core::snapshot::{FieldError, Value};

use crate::device::DeviceState;
use crate::limits::VIRTIO_P9_MESSAGE;
use crate::p9::saved::{RestoreError, SaveError, SavedServer};

use super::pci::{CorePlace, Queues, VirtioDevice};
use super::spec::{feature, kind};
use super::state::QueueSpec;
use saved::SavedP9;

/// The only queue.
const REQUESTS: u16 = 0;
/// VIRTIO_9P_MOUNT_TAG: the configuration holds a tag.
const MOUNT_TAG: u64 = 1 << 0;
/// Longest tag in bytes.
const TAG_LEN: usize = 254;
/// Tag length, tag bytes.
const WIDTHS: [u8; 1 + TAG_LEN] = {
    let mut widths = [1; 1 + TAG_LEN];
    widths[0] = 2;
    widths
};
const QUEUES: [QueueSpec; 1] = [QueueSpec { max_size: 32, notify_off: 0 }];

/// A 9P server.
pub trait P9Handler: Send {
    /// Answers one message. `request` is what the client sent, at most [`VIRTIO_P9_MESSAGE`] bytes and
    /// not to be trusted in any way. The answer goes to `reply`, which is empty, and is cut at
    /// `max_reply` bytes. An empty reply gives the guest its buffers back without an answer.
    fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, max_reply: usize);

    /// The client is gone: all fids are dropped, the file tree stays.
    fn reset(&mut self);

    /// Session and files for a snapshot.
    ///
    /// # Errors
    /// They cannot be saved.
    fn save(&mut self) -> Result<SavedServer, SaveError> {
        Err(SaveError::Unsupported)
    }

    /// Replaces session and files by saved ones.
    ///
    /// # Errors
    /// What is wrong with them.
    fn restore(&mut self, _saved: SavedServer) -> Result<(), RestoreError> {
        Err(RestoreError::Unsupported)
    }
}

impl P9Handler for crate::p9::Server {
    fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, max_reply: usize) {
        Self::handle(self, request, reply, max_reply);
    }

    fn reset(&mut self) {
        Self::reset(self);
    }

    fn save(&mut self) -> Result<SavedServer, SaveError> {
        Self::save(self)
    }

    fn restore(&mut self, saved: SavedServer) -> Result<(), RestoreError> {
        Self::restore(self, saved)
    }
}

/// How saving the files went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveReport {
    /// Why they are not in the snapshot, which is worth nothing then.
    pub error: Option<SaveError>,
    /// Number of changed files with holes so large that v86 finds nothing in them: it has no form for
    /// them.
    pub not_for_v86: u32,
}

/// virtio-9p device.
///
/// Keeps one request and one reply buffer, each at most [`VIRTIO_P9_MESSAGE`] bytes.
pub struct VirtioP9 {
    tag: Vec<u8>,
    handler: Box<dyn P9Handler>,
    request: Vec<u8>,
    reply: Vec<u8>,
    report: SaveReport,
}

impl VirtioP9 {
    /// A device with mount tag `tag` (cut at 254 bytes; v86's is `host9p`).
    pub fn new(tag: &str, handler: Box<dyn P9Handler>) -> Self {
        let tag = tag.bytes().take(TAG_LEN).collect();
        Self { tag, handler, request: Vec::new(), reply: Vec::new(), report: SaveReport::default() }
    }

    /// The server.
    pub fn handler(&mut self) -> &mut dyn P9Handler {
        self.handler.as_mut()
    }

    /// How the last saving went. Must be looked at after each, since [`Device::save`](crate::Device::save)
    /// cannot fail.
    pub fn save_report(&self) -> &SaveReport {
        &self.report
    }
}

impl VirtioDevice for VirtioP9 {
    fn name(&self) -> &'static str {
        "virtio-9p"
    }

    fn device_id(&self) -> u16 {
        kind::P9
    }

    fn features(&self) -> u64 {
        MOUNT_TAG | feature::INDIRECT_DESC | feature::EVENT_IDX | feature::VERSION_1
    }

    fn queues(&self) -> &'static [QueueSpec] {
        &QUEUES
    }

    fn config_widths(&self) -> &'static [u8] {
        &WIDTHS
    }

    fn config_read(&self, offset: u16) -> u32 {
        match offset.checked_sub(2) {
            None => self.tag.len() as u32,
            Some(i) => self.tag.get(usize::from(i)).copied().unwrap_or(0).into(),
        }
    }

    fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
        while let Some(mut chain) = queues.pop(q) {
            self.reply.clear();
            let max_reply = chain.writable_len().min(VIRTIO_P9_MESSAGE as u64) as usize;
            if chain.read_all(queues.mem(), VIRTIO_P9_MESSAGE, &mut self.request) {
                self.handler.handle(&self.request, &mut self.reply, max_reply);
                self.reply.truncate(max_reply);
                chain.write(queues.mem_mut(), &self.reply);
            }
            queues.push(q, chain);
        }
        queues.flush(REQUESTS);
        queues.notify_on_next(REQUESTS);
    }

    fn reset(&mut self) {
        self.handler.reset();
    }

    fn core_place(&self) -> CorePlace {
        CorePlace::V86(2)
    }

    fn save(&mut self, core: Value) -> DeviceState {
        match SavedP9::capture(self) {
            Ok(saved) => {
                let (state, not_for_v86) = saved.into_state(core);
                self.report = SaveReport { error: None, not_for_v86 };
                state
            }
            Err(error) => {
                self.report = SaveReport { error: Some(error), not_for_v86: 0 };
                DeviceState::default()
            }
        }
    }

    fn restore(&mut self, state: &mut DeviceState) -> Result<(), FieldError> {
        SavedP9::read(state, self)?.apply(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use emu_core::bus::AccessSize::{Byte, Word};

    use super::*;
    use crate::virtio::Slot;
    use crate::virtio::driver::Driver;
    use crate::virtio::spec::desc;

    /// Lengths of requests and allowed replies, number of resets.
    type Log = Arc<Mutex<(Vec<(usize, usize)>, u32)>>;

    /// Answers with the request backwards, and with nothing to "no answer".
    struct Server(Log);

    impl P9Handler for Server {
        fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, max_reply: usize) {
            assert!(reply.is_empty());
            self.0.lock().unwrap().0.push((request.len(), max_reply));
            if request != b"no answer" {
                reply.extend(request.iter().rev());
            }
        }
        fn reset(&mut self) {
            self.0.lock().unwrap().1 += 1;
        }
    }

    fn p9() -> (Driver<VirtioP9>, Log) {
        let log = Log::default();
        (Driver::new(VirtioP9::new("host9p", Box::new(Server(log.clone()))), Slot::P9), log)
    }

    #[test]
    fn p9_configuration_holds_the_tag_and_zeros() {
        let (mut d, _) = p9();
        assert_eq!(d.input(0, Word), Some(6));
        let tag: Vec<u8> = (2..256).map(|i| d.input(i, Byte).unwrap() as u8).collect();
        assert!(tag.starts_with(b"host9p\0") && tag.iter().skip(6).all(|&b| b == 0));
        assert_eq!(d.dev.device().features(), 0x1_3000_0001);
        let long = VirtioP9::new(&"x".repeat(300), Box::new(Server(Log::default())));
        assert_eq!(long.config_read(0), 254);
        assert_eq!(long.config_read(255), u32::from(b'x'));
    }

    #[test]
    fn p9_requests_are_answered_into_the_writable_buffers() {
        let (mut d, log) = p9();
        let a = d.add(0, &[b"123", b"456"], &[2, 10]);
        let b = d.add(0, &[b"abcdef"], &[4]);
        let c = d.add(0, &[b"no answer"], &[4]);
        d.kick(0);
        assert_eq!(d.used(0), [(a.head, 6), (b.head, 4), (c.head, 0)]);
        assert_eq!([d.get(a.out[0], 2), d.get(a.out[1], 4)].concat(), b"654321");
        assert_eq!(d.get(b.out[0], 5), b"fedc\0", "cut");
        assert_eq!(log.lock().unwrap().0, [(6, 12), (6, 4), (9, 4)]);
        assert!(d.irq() && d.wants_notification_at(0, 3));
    }

    #[test]
    fn p9_message_size_limit_is_exact() {
        const MIB: u32 = 1 << 20;
        let (mut d, log) = p9();
        let tables = d.alloc(16 * 64);
        // Sixteen times the same MiB of RAM, and in the second request a byte more; replies likewise.
        for (i, extra) in [0u64, 1].into_iter().enumerate() {
            let table = tables + 512 * i as u64;
            let n = 16 + extra;
            for k in 0..n {
                let len = if k < 16 { MIB } else { 1 };
                d.put_desc(table + 16 * k, (0, len, desc::NEXT, k as u16 + 1));
            }
            d.put_desc(table + 16 * n, (0x10_0000 + 0x8_0000, 64, desc::WRITE, 0));
            let (queue_table, ..) = Driver::<VirtioP9>::rings(0);
            d.put_desc(queue_table, (table, 16 * (n as u32 + 1), desc::INDIRECT, 0));
            d.offer(0, 0);
            d.kick(0);
        }
        assert_eq!(log.lock().unwrap().0, [(VIRTIO_P9_MESSAGE, 64)]);
        assert_eq!(d.used(0), [(0, 64), (0, 0)]);
        // A writable part of 17 MiB still means a reply of 16 at most.
        let table = tables;
        d.put_desc(table, (0x10_0000, 4, desc::NEXT, 1));
        for k in 1..=17 {
            let next = if k < 17 { desc::NEXT } else { 0 };
            d.put_desc(table + 16 * k, (0x10_0000, MIB, desc::WRITE | next, k as u16 + 1));
        }
        let (queue_table, ..) = Driver::<VirtioP9>::rings(0);
        d.put_desc(queue_table, (table, 16 * 18, desc::INDIRECT, 0));
        d.offer(0, 0);
        d.kick(0);
        assert_eq!(log.lock().unwrap().0.last(), Some(&(4, VIRTIO_P9_MESSAGE)));
    }

    #[test]
    fn p9_reset_drops_the_session() {
        let (mut d, log) = p9();
        let before = log.lock().unwrap().1;
        d.output(0x214, Byte, 0);
        assert_eq!(log.lock().unwrap().1, before + 1);
    }
}
