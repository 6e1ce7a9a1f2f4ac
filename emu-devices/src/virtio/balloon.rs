//! virtio-balloon: takes memory from the guest on paper, learns statistics and free pages.
//!
//! Inflated pages are only counted. Pages the guest hints at as free are zeroed, so that snapshots
//! shrink.

mod saved;

use emu_core::snapshot::{FieldError, Value};

use crate::device::{Ctx, DeviceState};
use crate::limits::VIRTIO_BALLOON_STATS;

use super::pci::{CorePlace, Queues, VirtioDevice, VirtioPci};
use super::spec::{feature, kind};
use super::state::QueueSpec;
use saved::SavedBalloon;

/// Queue numbers.
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
const FREE_PAGES: u16 = 3;
const QUEUES: [QueueSpec; 4] = [
    QueueSpec { max_size: 32, notify_off: 0 },
    QueueSpec { max_size: 32, notify_off: 0 },
    QueueSpec { max_size: 2, notify_off: 1 },
    QueueSpec { max_size: 64, notify_off: 2 },
];

/// VIRTIO_BALLOON_F_STATS_VQ and FREE_PAGE_HINT.
const FEATURES: u64 = 1 << 1 | 1 << 3;

/// Pages wanted, pages given, hint command.
const WIDTHS: [u8; 3] = [4, 4, 4];
const NUM_PAGES: u16 = 0;
const ACTUAL: u16 = 4;

/// Bytes of a page number in inflate and deflate requests.
const PFN_SIZE: u64 = 4;
/// Free page hints: the guest's "end of list".
const HINT_STOP: u32 = 0;
/// Free page hints: the host is done with the list.
const HINT_DONE: u32 = 1;
/// Free page hints: the host wants a list.
const HINT_START: u32 = 2;

/// Statistics the guest reports, by the specification's tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonStats {
    values: [Option<u64>; 16],
    /// Reports received since power-up; tells a fresh report from an old one.
    pub reports: u64,
}

impl BalloonStats {
    /// Value of a tag: 0 swapped in, 1 swapped out (bytes), 2 major faults, 3 minor faults, 4 free
    /// memory, 5 total memory, 6 available memory, 7 disk caches (bytes), 8 huge pages allocated,
    /// 9 failed.
    pub fn get(&self, tag: u16) -> Option<u64> {
        self.values.get(usize::from(tag)).copied().flatten()
    }

    /// Entries: tag (2 bytes), value (8 bytes).
    fn parse(&mut self, report: &[u8]) {
        self.values = [None; 16];
        for entry in report.chunks_exact(10) {
            let &[t0, t1, ref value @ ..] = entry else { continue };
            let (tag, Ok(value)) = (u16::from_le_bytes([t0, t1]), <[u8; 8]>::try_from(value)) else {
                continue;
            };
            if let Some(place) = self.values.get_mut(usize::from(tag)) {
                *place = Some(u64::from_le_bytes(value));
            }
        }
        self.reports += 1;
    }
}

/// virtio-balloon device.
#[derive(Default)]
pub struct VirtioBalloon {
    /// Pages the host asks for.
    pub(crate) num_pages: u32,
    /// Pages the guest gave.
    pub(crate) actual: u32,
    hint_command: u32,
    zeroed: u64,
    stats: BalloonStats,
}

impl VirtioBalloon {
    /// An empty balloon.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pages of 4 KiB the guest gave.
    pub fn actual(&self) -> u32 {
        self.actual
    }

    /// Last report.
    pub fn stats(&self) -> &BalloonStats {
        &self.stats
    }

    /// Bytes zeroed since [`VirtioPci::request_free_pages`]; `None` while the guest is still
    /// reporting.
    pub fn zeroed(&self) -> Option<u64> {
        (self.hint_command < HINT_START).then_some(self.zeroed)
    }

    fn count(&mut self, q: u16, queues: &mut Queues<'_>) {
        while let Some(chain) = queues.pop(q) {
            let pages = u32::try_from(chain.readable_len() / PFN_SIZE).unwrap_or(u32::MAX);
            self.actual = match q {
                INFLATE => self.actual.saturating_add(pages),
                _ => self.actual.saturating_sub(pages),
            };
            queues.push(q, chain);
        }
        queues.flush(q);
    }

    /// Reports are kept: the driver makes a new one when it gets the buffer of the old one back.
    fn take_stats(&mut self, queues: &mut Queues<'_>) {
        while let Some(chain) = queues.pop(STATS) {
            let mut report = [0; VIRTIO_BALLOON_STATS];
            let len = chain.read_prefix(queues.mem(), &mut report);
            self.stats.parse(report.get(..len).unwrap_or_default());
            queues.push(STATS, chain);
        }
    }

    fn take_hints(&mut self, queues: &mut Queues<'_>) {
        // There cannot be more free pages than RAM; a guest that repeats itself gains no time.
        let mut allowance = queues.mem().ram_len();
        while let Some(chain) = queues.pop(FREE_PAGES) {
            let mut command = [0; 4];
            if chain.read_prefix(queues.mem(), &mut command) == 4
                && u32::from_le_bytes(command) == HINT_STOP
                && self.hint_command >= HINT_START
            {
                self.hint_command = HINT_DONE;
                queues.config_changed();
            }
            for s in chain.writable() {
                let len = u64::from(s.len);
                if self.hint_command < HINT_START || len > allowance {
                    break; // nobody asked (any more), or too much
                }
                allowance -= len;
                if let Some(page) = queues.mem_mut().dma_slice_mut(u64::from(s.addr), s.len as usize) {
                    page.fill(0);
                    self.zeroed = self.zeroed.saturating_add(len);
                }
            }
            queues.push(FREE_PAGES, chain);
        }
        queues.flush(FREE_PAGES);
    }
}

impl VirtioDevice for VirtioBalloon {
    fn name(&self) -> &'static str {
        "virtio-balloon"
    }

    fn device_id(&self) -> u16 {
        kind::BALLOON
    }

    fn features(&self) -> u64 {
        FEATURES | feature::VERSION_1
    }

    fn queues(&self) -> &'static [QueueSpec] {
        &QUEUES
    }

    fn config_widths(&self) -> &'static [u8] {
        &WIDTHS
    }

    fn config_read(&self, offset: u16) -> u32 {
        match offset {
            NUM_PAGES => self.num_pages,
            ACTUAL => self.actual,
            _ => self.hint_command,
        }
    }

    fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
        match q {
            INFLATE | DEFLATE => self.count(q, queues),
            STATS => self.take_stats(queues),
            _ => self.take_hints(queues),
        }
    }

    /// The driver starts with an empty balloon again; what the host asks for stays.
    fn reset(&mut self) {
        self.actual = 0;
        self.hint_command = 0;
    }

    fn core_place(&self) -> CorePlace {
        CorePlace::V86(0)
    }

    fn save(&mut self, core: Value) -> DeviceState {
        SavedBalloon::capture(self).into_state(core)
    }

    fn restore(&mut self, state: &mut DeviceState) -> Result<(), FieldError> {
        SavedBalloon::read(state, self)?.apply(self);
        Ok(())
    }
}

impl VirtioPci<VirtioBalloon> {
    /// Asks the guest for `pages` pages of 4 KiB in all.
    pub fn set_target(&mut self, ctx: &mut Ctx<'_>, pages: u32) {
        self.with(ctx, |balloon, queues| {
            balloon.num_pages = pages;
            queues.config_changed();
        });
    }

    /// Asks the guest for a new statistics report; it arrives when the guest has run.
    pub fn request_stats(&mut self, ctx: &mut Ctx<'_>) {
        self.with(ctx, |_, queues| queues.flush(STATS));
    }

    /// Asks the guest for its free pages, which are zeroed as they are reported.
    pub fn request_free_pages(&mut self, ctx: &mut Ctx<'_>) {
        self.with(ctx, |balloon, queues| {
            balloon.hint_command = HINT_START;
            balloon.zeroed = 0;
            queues.config_changed();
        });
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize::{Byte, Dword};
    use proptest::prelude::*;

    use super::*;
    use crate::virtio::Slot;
    use crate::virtio::driver::{Driver, RAM};
    use crate::virtio::spec::desc;

    fn balloon() -> Driver<VirtioBalloon> {
        Driver::new(VirtioBalloon::new(), Slot::BALLOON)
    }

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn balloon_queues_and_features_are_v86s() {
        let d = balloon();
        assert_eq!(d.dev.device().features(), 0x1_0000_000A);
        let queues: Vec<_> = d.dev.state().queues.iter().map(|q| (q.max_size, q.notify_off)).collect();
        assert_eq!(queues, [(32, 0), (32, 0), (2, 1), (64, 2)]);
    }

    #[test]
    fn balloon_counts_pages_in_and_out() {
        let mut d = balloon();
        d.dev.set_target(&mut d.bench.ctx(), 5);
        assert!(d.irq());
        assert_eq!(d.isr(), 2);
        assert_eq!(d.input(0, Dword), Some(5));
        d.add(INFLATE, &[&[0; 12], &[0; 8]], &[]);
        d.kick(INFLATE);
        assert_eq!(d.input(4, Dword), Some(5));
        d.output(4, Dword, 99); // Linux writes its own count
        d.add(DEFLATE, &[&[0; 8]], &[]);
        d.kick(DEFLATE);
        assert_eq!(d.dev.device().actual(), 3);
        d.add(DEFLATE, &[&[0; 400]], &[]);
        d.kick(DEFLATE);
        assert_eq!(d.dev.device().actual(), 0, "never below nothing");
        assert_eq!((d.used(INFLATE).len(), d.used(DEFLATE).len()), (1, 2));
    }

    #[test]
    fn balloon_keeps_the_statistics_buffer_until_it_wants_a_report() {
        let mut d = balloon();
        d.isr();
        let report = [entry(4, 1000), entry(5, 1 << 40), entry(99, 1), vec![1, 2, 3]].concat();
        d.add(STATS, &[&report], &[]);
        d.kick(STATS);
        assert_eq!(d.used(STATS), []);
        assert!(!d.irq());
        let stats = *d.dev.device().stats();
        assert_eq!(
            (stats.get(4), stats.get(5), stats.get(0), stats.get(99)),
            (Some(1000), Some(1 << 40), None, None)
        );
        d.dev.request_stats(&mut d.bench.ctx());
        assert_eq!(d.used(STATS).len(), 1);
        assert!(d.irq());
        d.add(STATS, &[&entry(4, 7)], &[]);
        d.kick(STATS);
        let stats = d.dev.device().stats();
        assert_eq!((stats.get(4), stats.get(5), stats.reports), (Some(7), None, 2));
    }

    #[test]
    fn balloon_looks_at_a_limited_part_of_a_report() {
        let mut d = balloon();
        let fits = VIRTIO_BALLOON_STATS / 10;
        let mut report: Vec<u8> = (0..fits).flat_map(|_| entry(1, 1)).collect();
        report.extend(entry(2, 2)); // crosses the limit
        d.add(STATS, &[&report], &[]);
        d.kick(STATS);
        assert_eq!((d.dev.device().stats().get(1), d.dev.device().stats().get(2)), (Some(1), None));
    }

    #[test]
    fn balloon_zeroes_hinted_pages_while_it_asked_for_them() {
        let mut d = balloon();
        let page = d.add(FREE_PAGES, &[], &[4096]).out[0];
        d.put(page, &[0xAA; 4096]);
        d.kick(FREE_PAGES);
        assert_eq!(d.get(page, 1), [0xAA], "nobody asked");
        d.dev.request_free_pages(&mut d.bench.ctx());
        assert_eq!(d.input(8, Dword), Some(2));
        assert_eq!(d.dev.device().zeroed(), None);
        d.add(FREE_PAGES, &[&2u32.to_le_bytes()], &[]);
        let page = d.add(FREE_PAGES, &[], &[4096]).out[0];
        d.put(page, &[0xAA; 4096]);
        let start = d.isr();
        d.add(FREE_PAGES, &[&0u32.to_le_bytes()], &[]);
        d.kick(FREE_PAGES);
        assert!(d.get(page, 4096).iter().all(|&b| b == 0));
        assert_eq!(d.dev.device().zeroed(), Some(4096));
        assert_eq!(d.input(8, Dword), Some(1), "done");
        assert_eq!((start & 2, d.isr() & 2), (2, 2));
        assert_eq!(d.used(FREE_PAGES).len(), 4);
    }

    #[test]
    fn balloon_zeroes_at_most_as_much_as_there_is_ram_per_notification() {
        let mut d = balloon();
        d.dev.request_free_pages(&mut d.bench.ctx());
        let (table, ..) = Driver::<VirtioBalloon>::rings(FREE_PAGES);
        let half = RAM as u32 / 2;
        for i in 0..3 {
            let next = if i < 2 { desc::NEXT } else { 0 };
            d.put_desc(table + 16 * i, (RAM as u64 / 2, half, desc::WRITE | next, i as u16 + 1));
        }
        d.offer(FREE_PAGES, 0);
        d.kick(FREE_PAGES);
        d.add(FREE_PAGES, &[&0u32.to_le_bytes()], &[]);
        d.kick(FREE_PAGES);
        assert_eq!(d.dev.device().zeroed(), Some(RAM as u64));
    }

    #[test]
    fn balloon_reset_empties_it_and_keeps_the_target() {
        let mut d = balloon();
        d.dev.set_target(&mut d.bench.ctx(), 5);
        d.add(INFLATE, &[&[0; 12]], &[]);
        d.kick(INFLATE);
        d.output(0x214, Byte, 0);
        assert_eq!((d.input(0, Dword), d.input(4, Dword)), (Some(5), Some(0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn balloon_survives_random_chains(
            chains in prop::collection::vec((0u16..4, prop::collection::vec(0u8..4, 0..40), 0u32..40), 1..60),
        ) {
            let mut d = balloon();
            d.dev.request_free_pages(&mut d.bench.ctx());
            for (q, readable, writable) in chains {
                d.add(q, &[&readable], &[writable]);
                d.kick(q);
                d.dev.request_stats(&mut d.bench.ctx());
            }
            prop_assert!(d.dev.device().actual() <= 60 * 10);
        }
    }
}
