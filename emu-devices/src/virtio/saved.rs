//! Registers and queues as snapshots hold them: the array that all of v86's virtio devices share.
//!
//! | element | |
//! | --- | --- |
//! | 0, 1 | feature selectors |
//! | 2, 3 | offered and accepted features, four words each |
//! | 4 | features accepted so far are all offered |
//! | 5-9 | status, configuration changed, its generation, ISR, queue selector |
//! | 10 on | a queue each: size, largest size, in use, notification address, descriptor table, available ring, next entry of it, used ring, staged replies, 1 |
//!
//! A queue's last element tells that the next entry is a free-running index. Until April 2025 v86 reduced
//! it modulo the queue's size; such a queue is repaired ([`SavedQueue::apply`]).
//!
//! The array says everything, so there is nothing of our own.

use emu_core::mem::Memory;
use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::queue::Queue;
use super::spec::status;
use super::state::VirtioState;

/// Version of the devices' own state.
pub(crate) const VERSION: u32 = 1;

/// Elements before the queues.
const QUEUES: usize = 10;

type Result<T> = std::result::Result<T, FieldError>;

/// The fields of a device's own state; `None` if there is none.
pub(crate) fn own_fields(extra: &mut Value) -> Result<Option<Fields<'_>>> {
    let Some(fields) = Fields::of(extra)? else { return Ok(None) };
    match fields.u32(0)? {
        Some(VERSION) => Ok(Some(fields)),
        _ => Err(FieldError::at(0, "from a version of env86 that is not known")),
    }
}

/// A queue.
struct SavedQueue {
    size: u16,
    max_size: u16,
    enabled: bool,
    notify_off: u16,
    desc: u32,
    avail: u32,
    used: u32,
    next_avail: u16,
    staged: u16,
    /// `next_avail` is not reduced.
    exact: bool,
}

impl SavedQueue {
    fn capture(queue: &Queue) -> Self {
        let Queue { max_size, size, enabled, notify_off, desc, avail, used, next_avail, staged } = *queue;
        Self { size, max_size, enabled, notify_off, desc, avail, used, next_avail, staged, exact: true }
    }

    fn to_value(&self) -> Value {
        values![
            self.size,
            self.max_size,
            self.enabled,
            self.notify_off,
            Value::signed(self.desc),
            Value::signed(self.avail),
            self.next_avail,
            Value::signed(self.used),
            self.staged,
            u8::from(self.exact),
        ]
    }

    /// What is missing is as in `queue`.
    fn read(f: &Fields<'_>, queue: &Queue) -> Result<Self> {
        let mut saved = Self::capture(queue);
        if let Some(size) = f.u32(0)? {
            saved.size = match u16::try_from(size) {
                Ok(size) if size <= queue.max_size && (size == 0 || size.is_power_of_two()) => size,
                _ => {
                    let reason = format!(
                        "a queue of {size} entries; powers of two up to {} are possible",
                        queue.max_size
                    );
                    return Err(FieldError::at(0, reason));
                }
            };
        }
        // What the device offers is its own business.
        f.u32(1)?;
        f.u32(3)?;
        saved.enabled = f.bool(2)?.unwrap_or(saved.enabled);
        saved.desc = f.u32(4)?.unwrap_or(saved.desc);
        saved.avail = f.u32(5)?.unwrap_or(saved.avail);
        saved.next_avail = f.u16(6)?.unwrap_or(saved.next_avail);
        saved.used = f.u32(7)?.unwrap_or(saved.used);
        saved.staged = f.u16(8)?.unwrap_or(saved.staged);
        saved.exact = f.u32(9)? == Some(1);
        Ok(saved)
    }

    /// An index that may be reduced is made whole. What was taken is what was answered, because no
    /// device keeps requests; only if that does not fit (a request got lost in v86) as few requests as
    /// possible are taken to be waiting.
    fn apply(self, queue: &mut Queue, mem: &Memory) {
        let Self { size, max_size: _, enabled, notify_off: _, desc, avail, used, next_avail, staged, exact } =
            self;
        *queue = Queue { size, enabled, desc, avail, used, next_avail, staged, ..queue.clone() };
        if exact || !queue.in_use() {
            return;
        }
        let (Ok(available), Ok(used)) = (queue.avail_index(mem), queue.used_index(mem)) else { return };
        let answered = used.wrapping_add(staged);
        let fits = (answered ^ next_avail) & queue.mask() == 0 && available.wrapping_sub(answered) <= size;
        let waiting = available.wrapping_sub(next_avail) & queue.mask();
        queue.next_avail = if fits { answered } else { available.wrapping_sub(waiting) };
    }
}

/// Registers and queues.
pub(super) struct SavedCore {
    device_feature_select: u32,
    driver_feature_select: u32,
    device_features: [u32; 4],
    driver_features: [u32; 4],
    features_ok: bool,
    status: u8,
    config_changed: bool,
    config_generation: u8,
    isr: u8,
    queue_select: u16,
    queues: Vec<SavedQueue>,
}

impl SavedCore {
    pub(super) fn capture(state: &VirtioState) -> Self {
        let VirtioState {
            device_feature_select,
            driver_feature_select,
            device_features,
            driver_features,
            features_ok,
            status,
            config_changed,
            config_generation,
            isr,
            queue_select,
            queues,
        } = state;
        Self {
            device_feature_select: *device_feature_select,
            driver_feature_select: *driver_feature_select,
            device_features: *device_features,
            driver_features: *driver_features,
            features_ok: *features_ok,
            status: *status,
            config_changed: *config_changed,
            config_generation: *config_generation,
            isr: *isr,
            queue_select: *queue_select,
            queues: queues.iter().map(SavedQueue::capture).collect(),
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let mut items = vec![
            Value::from(self.device_feature_select),
            Value::from(self.driver_feature_select),
            Value::u32s(&self.device_features),
            Value::u32s(&self.driver_features),
            Value::from(self.features_ok),
            Value::from(self.status),
            Value::from(self.config_changed),
            Value::from(self.config_generation),
            Value::from(self.isr),
            Value::from(self.queue_select),
        ];
        items.extend(self.queues.iter().map(SavedQueue::to_value));
        Value::Array(items)
    }

    /// What is missing is as in `state`, which is that after power-up.
    pub(super) fn read(f: &mut Fields<'_>, state: &VirtioState) -> Result<Self> {
        let mut saved = Self::capture(state);
        saved.device_feature_select = f.u32(0)?.unwrap_or(saved.device_feature_select);
        saved.driver_feature_select = f.u32(1)?.unwrap_or(saved.driver_feature_select);
        // Features are what the device can do, whatever another one could.
        let offered = state.device_features;
        let masked = |saved: [u32; 4]| std::array::from_fn(|i| at(&saved, i) & at(&offered, i));
        saved.device_features = f.u32s::<4>(2)?.map_or(offered, masked);
        let accepted = f.u32s::<4>(3)?.unwrap_or(saved.driver_features);
        saved.driver_features = masked(accepted);
        saved.features_ok = f.bool(4)?.unwrap_or(saved.features_ok);
        saved.status = f.u8(5)?.unwrap_or(saved.status);
        saved.config_changed = f.bool(6)?.unwrap_or(saved.config_changed);
        saved.config_generation = f.u8(7)?.unwrap_or(saved.config_generation);
        saved.isr = f.u8(8)?.unwrap_or(saved.isr);
        saved.queue_select = f.u16(9)?.unwrap_or(saved.queue_select);
        if saved.status & status::FEATURES_OK != 0 && saved.driver_features != accepted {
            return Err(FieldError::at(3, "the driver uses features that this device does not have"));
        }
        let queues = saved.queues.len();
        if f.len() > QUEUES + queues {
            return Err(FieldError::at(QUEUES + queues, format!("this device has {queues} queues")));
        }
        for (n, (saved, queue)) in saved.queues.iter_mut().zip(&state.queues).enumerate() {
            if let Some(read) = f.array(QUEUES + n, |f| SavedQueue::read(f, queue))? {
                *saved = read;
            }
        }
        Ok(saved)
    }

    /// `mem` holds the rings already.
    pub(super) fn apply(self, state: &mut VirtioState, mem: &Memory) {
        let Self {
            device_feature_select,
            driver_feature_select,
            device_features,
            driver_features,
            features_ok,
            status,
            config_changed,
            config_generation,
            isr,
            queue_select,
            queues,
        } = self;
        state.device_feature_select = device_feature_select;
        state.driver_feature_select = driver_feature_select;
        state.device_features = device_features;
        state.driver_features = driver_features;
        state.features_ok = features_ok;
        state.status = status;
        state.config_changed = config_changed;
        state.config_generation = config_generation;
        state.isr = isr;
        state.queue_select = queue_select;
        for (saved, queue) in queues.into_iter().zip(&mut state.queues) {
            saved.apply(queue, mem);
        }
    }
}

fn at(words: &[u32; 4], i: usize) -> u32 {
    words.get(i).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize::{Byte, Dword, Word};

    use super::super::driver::Driver;
    use super::super::pci::{Queues, VirtioDevice};
    use super::super::spec::{common, feature};
    use super::super::state::QueueSpec;
    use super::super::{Slot, VirtioPci};
    use super::*;
    use crate::device::{Device, DeviceState};
    use crate::snapshot_conformance;

    /// Gives every request back as it is. v86 knows no such device.
    struct Echo;

    impl VirtioDevice for Echo {
        fn name(&self) -> &'static str {
            "echo"
        }
        fn device_id(&self) -> u16 {
            9
        }
        fn features(&self) -> u64 {
            feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC
        }
        fn queues(&self) -> &'static [QueueSpec] {
            &[QueueSpec { max_size: 32, notify_off: 0 }, QueueSpec { max_size: 8, notify_off: 1 }]
        }
        fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
            while let Some(chain) = queues.pop(q) {
                queues.push(q, chain);
            }
            queues.flush(q);
        }
    }

    fn driver() -> Driver<Echo> {
        Driver::new(Echo, Slot::P9)
    }

    fn core(state: &mut DeviceState) -> &mut Vec<Value> {
        let Value::Array(own) = &mut state.extra else { panic!() };
        let Value::Array(core) = &mut own[1] else { panic!() };
        core
    }

    fn field(state: &mut DeviceState, queue: usize, n: usize) -> &mut Value {
        let Value::Array(queue) = &mut core(state)[QUEUES + queue] else { panic!() };
        &mut queue[n]
    }

    /// Replaces the device by a new one with this state, on the same memory.
    fn restore(d: &mut Driver<Echo>, state: DeviceState) -> Result<()> {
        d.dev = VirtioPci::new(Echo, Slot::P9);
        d.bench.irq = emu_core::irq::IrqLines::new();
        d.dev.restore(&mut d.bench.ctx(), state)
    }

    snapshot_conformance!(
        saved_core_conforms,
        make: || VirtioPci::new(Echo, Slot::P9),
        exercise: |dev, board| {
            let mut d = Driver::over(std::mem::replace(dev, VirtioPci::new(Echo, Slot::P9)), std::mem::take(board));
            d.start(d.dev.device().features());
            d.add(1, &[b"x"], &[]);
            d.kick(1);
            d.common_out(common::QUEUE_SELECT, Word, 1);
            d.common_out(common::DRIVER_FEATURE_SELECT, Dword, 7);
            d.common_out(common::DEVICE_FEATURE_SELECT, Dword, 1);
            d.dev.with(&mut d.bench.ctx(), |_, queues| queues.config_changed());
            (*dev, *board) = (d.dev, d.bench);
        },
        ignored: &[],
    );

    #[test]
    fn saved_core_is_v86s_array() {
        let mut d = driver();
        d.add(0, &[b"x"], &[]);
        d.kick(0);
        let features = [0x3000_0000, 1, 0, 0];
        let mut state = d.dev.save(&mut d.bench.ctx());
        let queue = |n: u32, size: u16, notify: u8, next: u16| {
            let at = 0x1_0000 * (n + 1);
            values![size, size, true, notify, at, at + 0x8000, next, at + 0xC000, 0, 1]
        };
        assert_eq!(
            Value::Array(std::mem::take(core(&mut state))),
            values![
                0,
                1,
                Value::u32s(&features),
                Value::u32s(&features),
                true,
                15,
                false,
                0,
                1,
                1,
                queue(0, 32, 0, 1),
                queue(1, 8, 1, 0),
            ]
        );
        d.dev.state.queues[0].desc = 0x8000_0010;
        let mut state = d.dev.save(&mut d.bench.ctx());
        assert_eq!(*field(&mut state, 0, 4), Value::Int(-0x7FFF_FFF0), "v86's are signed");
    }

    #[test]
    fn restored_interrupt_is_pending_until_isr_is_read_and_work_goes_on() {
        let mut d = driver();
        for _ in 0..40 {
            d.add(0, &[b"x"], &[]);
            d.kick(0);
        }
        assert_eq!(d.used(0).len(), 40);
        let state = d.dev.save(&mut d.bench.ctx());
        restore(&mut d, state).unwrap();
        assert!(d.irq());
        assert_eq!(d.isr(), 1);
        assert!(!d.irq());
        let sent = d.add(0, &[b"y"], &[]);
        d.kick(0);
        assert_eq!(d.used(0), [(sent.head, 0)]);
        assert!(d.irq());

        // Without a pending interrupt the wire is low.
        d.isr();
        let state = d.dev.save(&mut d.bench.ctx());
        restore(&mut d, state).unwrap();
        assert!(!d.irq());
    }

    /// (taken, waiting): requests before and at the time of saving.
    fn old_queue_goes_on(taken: usize, waiting: usize, lost: bool) {
        let mut d = driver();
        for _ in 0..taken {
            d.add(0, &[b"x"], &[]);
            d.kick(0);
        }
        d.used(0);
        let sent: Vec<_> = (0..waiting).map(|_| d.add(0, &[b"y"], &[]).head).collect();
        if lost {
            d.dev.state.queues[0].next_avail += 1;
        }
        let mut state = d.dev.save(&mut d.bench.ctx());
        let expected = d.dev.state.queues[0].next_avail;
        *field(&mut state, 0, 6) = Value::from(expected & 31);
        let Value::Array(queue) = &mut core(&mut state)[QUEUES] else { panic!() };
        queue.truncate(9);
        restore(&mut d, state).unwrap();
        assert_eq!(d.dev.state.queues[0].next_avail, expected, "{taken} {waiting}");
        if !lost {
            d.kick(0);
            assert_eq!(d.used(0).iter().map(|u| u.0).collect::<Vec<_>>(), sent);
        }
    }

    #[test]
    fn old_queue_with_reduced_index_is_repaired() {
        for taken in [0, 1, 31, 32, 33, 63, 64, 100] {
            // 32: the ring is full. With some, the available index is in the next round already.
            for waiting in [0, 1, 2, 31, 32] {
                old_queue_goes_on(taken, waiting, false);
            }
        }
        for waiting in [1, 2, 31, 32] {
            old_queue_goes_on(63, waiting, true);
        }
    }

    #[test]
    fn old_queue_index_survives_the_wrap_of_16_bits() {
        let mut d = driver();
        let (_, avail, used) = Driver::<Echo>::rings(0);
        let mut state = d.dev.save(&mut d.bench.ctx());
        d.put(avail + 2, &3u16.to_le_bytes());
        d.put(used + 2, &65534u16.to_le_bytes());
        *field(&mut state, 0, 6) = Value::from(30);
        *field(&mut state, 0, 9) = Value::Null;
        restore(&mut d, state).unwrap();
        assert_eq!(d.dev.state.queues[0].next_avail, 65534);
    }

    #[test]
    fn old_queue_outside_ram_is_left_alone() {
        let mut d = driver();
        let mut state = d.dev.save(&mut d.bench.ctx());
        *field(&mut state, 0, 5) = Value::signed(0xFFFF_FFF0);
        *field(&mut state, 0, 6) = Value::from(5);
        *field(&mut state, 0, 9) = Value::from(0);
        restore(&mut d, state).unwrap();
        assert_eq!(d.dev.state.queues[0].next_avail, 5);
        d.kick(0);
        assert_eq!(d.status() & status::NEEDS_RESET, status::NEEDS_RESET);
    }

    #[test]
    fn restored_core_that_cannot_be_is_refused() {
        let refused = |change: &dyn Fn(&mut DeviceState), path: &[u32]| {
            let mut d = driver();
            let mut state = d.dev.save(&mut d.bench.ctx());
            change(&mut state);
            assert_eq!(restore(&mut d, state).unwrap_err().path, path);
        };
        for size in [3, 64, 0x1_0020] {
            refused(&|state| *field(state, 0, 0) = Value::from(size), &[1, 10, 0]);
        }
        refused(&|state| core(state)[3] = Value::u32s(&[0x3000_0001, 1, 0, 0]), &[1, 3]);
        refused(&|state| core(state).push(values![]), &[1, 12]);
        refused(
            &|state| {
                let Value::Array(own) = &mut state.extra else { panic!() };
                own[0] = Value::from(2);
            },
            &[0],
        );
    }

    #[test]
    fn restored_queue_that_lost_an_address_after_it_was_enabled_is_still_enabled() {
        let mut d = driver();
        d.common_out(common::QUEUE_SELECT, Word, 0);
        d.common_out(common::QUEUE_DESC, Dword, 0);
        let state = d.dev.save(&mut d.bench.ctx());
        restore(&mut d, state).unwrap();
        assert_eq!(d.common_in(common::QUEUE_ENABLE, Word), 1);
    }

    #[test]
    fn restored_queue_has_as_many_staged_replies_as_before() {
        let mut d = driver();
        // A driver can make more chains available than the queue has entries.
        d.dev.state.queues[0].staged = 33;
        let state = d.dev.save(&mut d.bench.ctx());
        restore(&mut d, state).unwrap();
        assert_eq!(d.dev.state.queues[0].staged, 33);
    }

    #[test]
    fn restored_features_nobody_accepted_yet_are_the_devices_own() {
        let mut d = Driver::cold(Echo, Slot::P9);
        let mut state = d.dev.save(&mut d.bench.ctx());
        core(&mut state)[2] = Value::u32s(&[u32::MAX; 4]);
        core(&mut state)[3] = Value::u32s(&[u32::MAX; 4]);
        restore(&mut d, state).unwrap();
        assert_eq!(d.dev.state.device_features, [0x3000_0000, 1, 0, 0]);
        assert_eq!(d.dev.state.driver_features, [0x3000_0000, 1, 0, 0]);
        assert_eq!(d.common_in(common::DEVICE_STATUS, Byte), 0);
    }
}
