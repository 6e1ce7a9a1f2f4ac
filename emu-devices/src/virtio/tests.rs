//! Transport and queues, with the simplest devices on them.

use emu_core::bus::AccessSize::{Byte, Dword, Word};
use proptest::prelude::*;

use super::driver::{Driver, RAM};
use super::spec::{common, desc, feature, kind, status};
use super::*;
use crate::device::{Device, ResetKind};
use crate::limits::VIRTIO_CHAIN_DESCRIPTORS;

/// A device that writes back what it reads; it has every transport feature, and a configuration
/// with a field of each width.
struct Echo {
    resets: u32,
    notified: Vec<u16>,
    field: u32,
}

const ECHO_QUEUES: [QueueSpec; 3] = [
    QueueSpec { max_size: 8, notify_off: 0 },
    QueueSpec { max_size: 1024, notify_off: 1 },
    QueueSpec { max_size: 8, notify_off: 1 },
];

impl VirtioDevice for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }
    fn device_id(&self) -> u16 {
        kind::CONSOLE
    }
    fn features(&self) -> u64 {
        1 | feature::INDIRECT_DESC | feature::EVENT_IDX | feature::VERSION_1
    }
    fn queues(&self) -> &'static [QueueSpec] {
        &ECHO_QUEUES
    }
    fn config_widths(&self) -> &'static [u8] {
        &[4, 2, 1, 1]
    }
    fn config_read(&self, offset: u16) -> u32 {
        match offset {
            0 => self.field,
            4 => 0xBBAA,
            _ => 0x11 * u32::from(offset),
        }
    }
    fn config_write(&mut self, offset: u16, value: u32) {
        if offset == 0 {
            self.field = value;
        }
    }
    fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
        self.notified.push(q);
        let mut data = Vec::new();
        while let Some(mut chain) = queues.pop(q) {
            if chain.read_all(queues.mem(), 0x1_0000, &mut data) {
                chain.write(queues.mem_mut(), &data);
            }
            queues.push(q, chain);
        }
        queues.flush(q);
        queues.notify_on_next(q);
    }
    fn reset(&mut self) {
        self.resets += 1;
    }
}

fn echo() -> Echo {
    Echo { resets: 0, notified: Vec::new(), field: 0x4433_2211 }
}

fn driver() -> Driver<Echo> {
    Driver::new(echo(), Slot::CONSOLE)
}

/// Offers one hand-made chain that starts at descriptor 0 of queue 0 and notifies.
fn send_raw(d: &mut Driver<Echo>, table: &[(u64, u32, u16, u16)]) {
    let (at, ..) = Driver::<Echo>::rings(0);
    for (i, &descriptor) in table.iter().enumerate() {
        d.put_desc(at + 16 * i as u64, descriptor);
    }
    d.offer(0, 0);
    d.kick(0);
}

fn broken(d: &mut Driver<Echo>) -> bool {
    d.status() & status::NEEDS_RESET != 0
}

// ---- registers -----------------------------------------------------------------------------------

#[test]
fn common_configuration_at_power_up_accepts_everything() {
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    assert_eq!(d.common_in(common::NUM_QUEUES, Word), 3);
    assert_eq!(d.common_in(common::DEVICE_FEATURE, Dword), 0x3000_0001);
    assert_eq!(d.common_in(common::DRIVER_FEATURE, Dword), 0x3000_0001);
    d.common_out(common::DEVICE_FEATURE_SELECT, Dword, 1);
    assert_eq!(d.common_in(common::DEVICE_FEATURE, Dword), 1);
    d.common_out(common::DEVICE_FEATURE_SELECT, Dword, 4);
    assert_eq!(d.common_in(common::DEVICE_FEATURE, Dword), 0);
    assert_eq!(d.common_in(common::MSIX_CONFIG, Word), 0xFFFF);
    assert_eq!(d.common_in(common::QUEUE_MSIX_VECTOR, Word), 0xFFFF);
    assert_eq!(d.common_in(common::QUEUE_SIZE, Word), 8);
    d.common_out(common::QUEUE_SELECT, Word, 1);
    assert_eq!(d.common_in(common::QUEUE_SIZE, Word), 1024);
    assert_eq!(d.common_in(common::QUEUE_NOTIFY_OFF, Word), 1);
    d.common_out(common::QUEUE_SELECT, Word, 3);
    assert_eq!(d.common_in(common::QUEUE_SIZE, Word), 0, "no such queue");
}

#[test]
fn common_configuration_fields_answer_in_their_width_and_bytewise() {
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    let at = 0x200;
    d.common_out(common::QUEUE_DESC, Dword, 0x8765_4321);
    assert_eq!(d.input(at + common::QUEUE_DESC + 2, Byte), Some(0x65));
    assert_eq!(d.input(at + common::QUEUE_DESC, Word), None, "half a field");
    assert_eq!(d.input(at + common::QUEUE_DESC + 1, Dword), None);
    assert_eq!(d.input(at + common::QUEUE_SIZE, Dword), Some(8), "alone");
    assert_eq!(d.input(at + common::QUEUE_SIZE + 1, Byte), Some(0));
    assert_eq!(d.input(at + common::QUEUE_SIZE + 1, Word), None);
    assert_eq!(d.input(at + common::DEVICE_STATUS, Word), None);
    assert_eq!(d.input(at + 56, Byte), None, "behind the last field");
    for (offset, size) in
        [(common::QUEUE_DESC, Word), (common::QUEUE_DESC, Byte), (common::QUEUE_SIZE, Dword)]
    {
        d.common_out(offset, size, 4);
    }
    assert_eq!(d.common_in(common::QUEUE_DESC, Dword), 0x8765_4321);
    assert_eq!(d.common_in(common::QUEUE_SIZE, Word), 8);
    d.common_out(common::QUEUE_DESC + 4, Dword, 1);
    assert_eq!(d.common_in(common::QUEUE_DESC + 4, Dword), 0, "no memory above 4 GiB");
}

#[test]
fn device_configuration_follows_the_same_width_rules() {
    let mut d = driver();
    assert_eq!(d.input(0, Dword), Some(0x4433_2211));
    assert_eq!(d.input(3, Byte), Some(0x44));
    assert_eq!(d.input(0, Word), None);
    assert_eq!(d.input(4, Word), Some(0xBBAA));
    assert_eq!(d.input(4, Dword), Some(0xBBAA));
    assert_eq!(d.input(5, Byte), Some(0xBB));
    assert_eq!(d.input(6, Byte), Some(0x66));
    assert_eq!(d.input(6, Word), None);
    assert_eq!(d.input(8, Byte), None);
    d.output(0, Word, 0);
    d.output(0, Dword, 7);
    assert_eq!(d.dev.device().field, 7);
}

#[test]
fn features_that_were_not_offered_keep_features_ok_away_until_reset() {
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    d.common_out(common::DRIVER_FEATURE, Dword, 0x3);
    assert_eq!(d.common_in(common::DRIVER_FEATURE, Dword), 1, "masked");
    d.common_out(common::DEVICE_STATUS, Byte, 0xB);
    assert_eq!(d.status(), 0x3);
    d.common_out(common::DRIVER_FEATURE, Dword, 0x1);
    d.common_out(common::DEVICE_STATUS, Byte, 0xB);
    assert_eq!(d.status(), 0x3);
    d.common_out(common::DEVICE_STATUS, Byte, 0);
    d.common_out(common::DEVICE_STATUS, Byte, 0xB);
    assert_eq!(d.status(), 0xB);
    assert_eq!(d.common_in(common::DRIVER_FEATURE, Dword), 0x3000_0001);
    d.common_out(common::DRIVER_FEATURE_SELECT, Dword, 9);
    d.common_out(common::DRIVER_FEATURE, Dword, 1);
    d.common_out(common::DEVICE_STATUS, Byte, 0xB);
    assert_eq!(d.status(), 0x3, "bits beyond all words are not offered either");
}

#[test]
fn queue_size_is_rounded_up_and_clamped() {
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    for (written, size) in [(3, 4), (8, 8), (9, 8), (0xFFFF, 8), (0, 0), (1, 1)] {
        d.common_out(common::QUEUE_SIZE, Word, written);
        assert_eq!(d.common_in(common::QUEUE_SIZE, Word), size, "{written}");
    }
}

#[test]
fn queue_enable_needs_all_addresses_and_lasts_until_reset() {
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    d.common_out(common::QUEUE_DESC, Dword, 0x1000);
    d.common_out(common::QUEUE_AVAIL, Dword, 0x2000);
    d.common_out(common::QUEUE_ENABLE, Word, 1);
    assert_eq!(d.common_in(common::QUEUE_ENABLE, Word), 0);
    d.common_out(common::QUEUE_USED, Dword, 0x3000);
    d.common_out(common::QUEUE_ENABLE, Word, 2);
    assert_eq!(d.common_in(common::QUEUE_ENABLE, Word), 0);
    d.common_out(common::QUEUE_ENABLE, Word, 1);
    d.common_out(common::QUEUE_ENABLE, Word, 0);
    assert_eq!(d.common_in(common::QUEUE_ENABLE, Word), 1);
    d.common_out(common::DEVICE_STATUS, Byte, 0);
    assert_eq!(d.common_in(common::QUEUE_ENABLE, Word), 0);
    assert_eq!(d.common_in(common::QUEUE_USED, Dword), 0);
}

#[test]
fn reset_clears_registers_queues_and_interrupt_and_tells_the_device() {
    for by_machine in [false, true] {
        let mut d = driver();
        d.add(0, &[b"x"], &[1]);
        d.kick(0);
        assert!(d.irq());
        let resets = d.dev.device().resets;
        if by_machine {
            d.dev.reset(&mut d.bench.ctx(), ResetKind::Warm);
        } else {
            d.common_out(common::DEVICE_STATUS, Byte, 0);
        }
        assert!(!d.irq());
        assert_eq!(d.isr(), 0);
        assert_eq!(d.status(), 0);
        assert_eq!(d.dev.device().resets, resets + 1);
        assert_eq!(d.dev.state().queues[0].next_avail, 0);
    }
}

#[test]
fn isr_read_acknowledges_and_lowers_the_line() {
    let mut d = driver();
    d.add(0, &[b"x"], &[1]);
    d.kick(0);
    assert_eq!(d.input(0x100, Word), None);
    assert!(d.irq(), "an access that is not answered acknowledges nothing");
    assert_eq!(d.isr(), 1);
    assert!(!d.irq());
    assert_eq!(d.isr(), 0);
}

#[test]
fn notification_takes_words_and_the_value_names_the_queue() {
    let mut d = driver();
    assert_eq!(d.input(0x300, Word), Some(0xFFFF));
    assert_eq!(d.input(0x303, Byte), Some(0xFF));
    assert_eq!(d.input(0x304, Word), None, "two addresses");
    d.output(0x302, Word, 2);
    d.output(0x300, Word, 1);
    d.output(0x300, Word, 3);
    d.output(0x304, Word, 0);
    d.output(0x301, Word, 0);
    d.output(0x300, Byte, 0);
    d.output(0x300, Dword, 0);
    assert_eq!(d.dev.device().notified, [2, 1]);
}

#[test]
fn config_change_interrupts_a_ready_driver_and_renews_the_generation_once() {
    let mut d = driver();
    d.dev.with(&mut d.bench.ctx(), |_, queues| queues.config_changed());
    assert!(d.irq());
    assert_eq!(d.common_in(common::CONFIG_GENERATION, Byte), 0);
    d.input(0, Dword);
    assert_eq!(d.common_in(common::CONFIG_GENERATION, Byte), 1);
    d.input(0, Dword);
    assert_eq!(d.common_in(common::CONFIG_GENERATION, Byte), 1);
    assert_eq!(d.isr(), 2);
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    d.dev.with(&mut d.bench.ctx(), |_, queues| queues.config_changed());
    assert!(!d.irq(), "the driver is not ready");
}

#[test]
fn needs_reset_before_the_driver_is_ready_interrupts_when_it_is() {
    let mut d = driver();
    d.common_out(common::DEVICE_STATUS, Byte, 0xB); // not DRIVER_OK any more
    d.offer(0, 8);
    d.kick(0);
    assert!(broken(&mut d) && !d.irq());
    d.common_out(common::DEVICE_STATUS, Byte, 0x4F);
    assert!(d.irq());
    assert_eq!(d.isr(), 2);
}

#[test]
fn ports_claimed_are_those_of_the_regions() {
    let mut d = driver();
    d.dev.claim_ports(&mut d.bench.ports, 3);
    let owned: Vec<u16> = (0..=0xFFFF).filter(|&p| d.bench.ports.lookup(p) == Some((3, p))).collect();
    let expected = [(0xB600, 16), (0xB700, 16), (0xB800, 64), (0xB900, 16)];
    assert_eq!(owned, expected.iter().flat_map(|&(p, n)| p..p + n).collect::<Vec<u16>>());
    assert_eq!(d.dev.port_read(&mut d.bench.ctx(), 0xB5FF, Byte), None);
    assert_eq!(d.dev.port_read(&mut d.bench.ctx(), 0xBA00, Byte), None);
}

// ---- queues --------------------------------------------------------------------------------------

#[test]
fn queue_chains_come_back_in_order_with_lengths() {
    let mut d = driver();
    let a = d.add(0, &[b"abc", b"defg"], &[2, 16]);
    let b = d.add(0, &[b"hello"], &[3]);
    d.kick(0);
    assert_eq!(d.used(0), [(a.head, 7), (b.head, 3)]);
    assert_eq!([d.get(a.out[0], 2), d.get(a.out[1], 6)].concat(), b"abcdefg\0");
    assert_eq!(d.get(b.out[0], 4), b"hel\0");
    assert!(d.wants_notification_at(0, 2));
}

#[test]
fn queue_indices_wrap_around() {
    let mut d = driver();
    for i in 0..70_000u32 {
        let (table, ..) = Driver::<Echo>::rings(0);
        d.put_desc(table, (0x10_0000, 4, desc::NEXT, 1));
        d.put_desc(table + 16, (0x10_1000, 4, desc::WRITE, 0));
        d.put(0x10_0000, &i.to_le_bytes());
        d.offer(0, 0);
        d.kick(0);
        assert_eq!(d.bench.mem.dma_read_u32(0x10_1000), Some(i));
    }
    assert_eq!(d.dev.state().queues[0].next_avail, (70_000u32 & 0xFFFF) as u16);
    assert!(!broken(&mut d));
}

#[test]
fn queue_interrupt_follows_the_flag_without_event_idx_and_always_comes_with() {
    let (_, avail, _) = Driver::<Echo>::rings(0);
    for (features, flags, expected) in [
        (feature::VERSION_1, 0u16, true),
        (feature::VERSION_1, 1, false),
        (feature::VERSION_1 | feature::EVENT_IDX, 1, true),
    ] {
        let mut d = driver();
        d.start(features);
        d.put(avail, &flags.to_le_bytes());
        d.add(0, &[b"x"], &[1]);
        d.kick(0);
        assert_eq!(d.irq(), expected, "{features:x} {flags}");
        assert_eq!(d.used(0).len(), 1);
    }
}

#[test]
fn queue_that_is_not_enabled_has_no_chains() {
    let mut d = Driver::cold(echo(), Slot::CONSOLE);
    let (desc, avail, used) = Driver::<Echo>::rings(0);
    d.common_out(common::QUEUE_DESC, Dword, desc as u32);
    d.common_out(common::QUEUE_AVAIL, Dword, avail as u32);
    d.common_out(common::QUEUE_USED, Dword, used as u32);
    d.add(0, &[b"x"], &[1]);
    d.kick(0);
    assert_eq!(d.used(0), []);
    assert!(!broken(&mut d));
}

#[test]
fn queue_indirect_table_is_followed_once() {
    let mut d = driver();
    let (table, inner) = (d.alloc(64), d.alloc(64));
    d.put(0x18_0000, b"direct");
    d.put(0x18_1000, b"table");
    d.put_desc(table, (0x18_1000, 5, desc::NEXT, 1));
    d.put_desc(table + 16, (0x18_2000, 32, desc::WRITE, 0));
    send_raw(&mut d, &[(0x18_0000, 6, desc::NEXT, 1), (table, 32, desc::INDIRECT, 0)]);
    assert_eq!(d.used(0), [(0, 11)]);
    assert_eq!(d.get(0x18_2000, 11), b"directtable");
    // A table in a table.
    d.put_desc(inner, (0x18_1000, 5, 0, 0));
    d.put_desc(table, (inner, 16, desc::INDIRECT, 0));
    send_raw(&mut d, &[(table, 32, desc::INDIRECT, 0)]);
    assert!(broken(&mut d));
}

#[test]
fn queue_bad_indirect_tables_break_the_device() {
    for (features, len) in [(feature::VERSION_1, 32), (u64::MAX, 0), (u64::MAX, 20), (u64::MAX, 8)] {
        let mut d = driver();
        let offered = d.dev.device().features();
        d.start(features & offered);
        let table = d.alloc(64);
        send_raw(&mut d, &[(table, len, desc::INDIRECT, 0)]);
        assert!(broken(&mut d), "{features:x} {len}");
    }
}

#[test]
fn queue_readable_descriptor_after_a_writable_one_ends_the_chain() {
    let mut d = driver();
    d.put(0x18_0000, b"abcdef");
    send_raw(
        &mut d,
        &[
            (0x18_0000, 3, desc::NEXT, 1),
            (0x18_1000, 2, desc::WRITE | desc::NEXT, 2),
            (0x18_0003, 3, desc::NEXT, 3),
            (0x18_2000, 16, desc::WRITE, 0),
        ],
    );
    assert_eq!(d.used(0), [(0, 2)]);
}

#[test]
fn queue_descriptor_loop_is_cut_at_the_queue_size() {
    let mut d = driver();
    d.put(0x18_0000, b"ab");
    send_raw(&mut d, &[(0x18_0000, 2, desc::NEXT, 0)]);
    assert_eq!(d.used(0), [(0, 0)]);
    assert!(!broken(&mut d));
    // Seven readable descriptors and one that is written leave room for seven pairs of letters.
    let mut table = [(0x18_0000u64, 2u32, desc::NEXT, 0u16); 8];
    table.iter_mut().enumerate().for_each(|(i, t)| t.3 = (i as u16 + 1) % 8);
    table[7] = (0x18_1000, 100, desc::WRITE | desc::NEXT, 0);
    send_raw(&mut d, &table);
    assert_eq!(d.used(0), [(0, 14)]);
    assert_eq!(d.get(0x18_1000, 15), b"ababababababab\0");
}

#[test]
fn queue_chain_length_limit_is_exact() {
    for (extra, ok) in [(0u32, true), (1, false)] {
        let mut d = driver();
        let n = VIRTIO_CHAIN_DESCRIPTORS as u32 + extra;
        let table = d.alloc(u64::from(n) * 16);
        for i in 0..n {
            let (flags, next) = if i + 1 < n { (desc::NEXT, i + 1) } else { (desc::WRITE, 0) };
            let at = if i + 1 < n { 0x1F_0000 } else { 0x1F_1000 };
            d.put_desc(table + 16 * u64::from(i), (at, 1, flags, next as u16));
        }
        send_raw(&mut d, &[(table, n * 16, desc::INDIRECT, 0)]);
        assert_eq!(broken(&mut d), !ok, "{n}");
        assert_eq!(d.used(0).len(), usize::from(ok));
    }
}

#[test]
fn queue_errors_break_the_device_until_reset() {
    type Sabotage = fn(&mut Driver<Echo>);
    let cases: [(&str, Sabotage); 8] = [
        ("head beyond the table", |d| {
            d.offer(0, 8);
            d.kick(0);
        }),
        ("next beyond the table", |d| send_raw(d, &[(0x18_0000, 1, desc::NEXT, 8)])),
        ("buffer behind RAM", |d| send_raw(d, &[(RAM as u64, 1, 0, 0)])),
        ("buffer across the end of RAM", |d| send_raw(d, &[(RAM as u64 - 4, 8, desc::WRITE, 0)])),
        ("buffer that wraps", |d| send_raw(d, &[(0xFFFF_FFFF, u32::MAX, desc::WRITE, 0)])),
        ("available index too far", |d| {
            let (_, avail, _) = Driver::<Echo>::rings(0);
            d.put(avail + 2, &9u16.to_le_bytes());
            d.kick(0);
        }),
        ("table behind RAM", |d| {
            d.common_out(common::QUEUE_SELECT, Word, 0);
            d.common_out(common::QUEUE_DESC, Dword, RAM as u32);
            d.offer(0, 0);
            d.kick(0);
        }),
        ("used ring behind RAM", |d| {
            d.common_out(common::QUEUE_SELECT, Word, 0);
            d.common_out(common::QUEUE_USED, Dword, RAM as u32 - 2);
            send_raw(d, &[(0x18_0000, 1, 0, 0)]);
        }),
    ];
    for (what, sabotage) in cases {
        let mut d = driver();
        sabotage(&mut d);
        assert!(broken(&mut d), "{what}");
        assert_eq!(d.isr(), 2, "{what}: configuration interrupt");
        // Nothing works any more …
        d.add(1, &[b"x"], &[1]);
        d.kick(1);
        assert_eq!(d.used(1), [], "{what}");
        // … until the driver starts over.
        let features = d.dev.device().features();
        d.start(features);
        d.add(1, &[b"x"], &[1]);
        d.kick(1);
        assert_eq!(d.used(1).len(), 1, "{what}");
    }
}

#[test]
fn queue_address_bits_above_32_do_not_count() {
    let mut d = driver();
    d.put(0x18_0000, b"low");
    send_raw(&mut d, &[(0x7_0018_0000, 3, desc::NEXT, 1), (0x18_1000, 3, desc::WRITE, 0)]);
    assert_eq!(d.get(0x18_1000, 3), b"low");
}

#[test]
fn queue_used_ring_on_top_of_the_available_ring_ends() {
    let mut d = driver();
    let (_, avail, _) = Driver::<Echo>::rings(0);
    d.common_out(common::QUEUE_SELECT, Word, 0);
    d.common_out(common::QUEUE_USED, Dword, avail as u32);
    // Each completion makes another chain available.
    d.add(0, &[b"x"], &[1]);
    let taken = d.dev.with(&mut d.bench.ctx(), |_, queues| {
        let mut taken = 0;
        while let Some(chain) = queues.pop(0) {
            queues.complete(0, chain);
            taken += 1;
        }
        taken
    });
    assert_eq!(taken, 8 + 1024 + 8, "as many as all queues could hold");
}

#[test]
fn queue_staged_chains_are_invisible_until_flushed() {
    let mut d = driver();
    let sent = d.add(0, &[b"x"], &[1]);
    d.dev.with(&mut d.bench.ctx(), |_, queues| {
        let chain = queues.pop(0).unwrap();
        queues.push(0, chain);
    });
    assert_eq!(d.used(0), []);
    assert!(!d.irq());
    assert_eq!(d.dev.state().queues[0].staged, 1);
    d.dev.with(&mut d.bench.ctx(), |_, queues| queues.flush(0));
    assert_eq!(d.used(0), [(sent.head, 0)]);
    assert!(d.irq());
}

// ---- hostile drivers -----------------------------------------------------------------------------

fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let addr =
        prop_oneof![0x10_0000u64..0x20_0000, 0u64..0x2_0000, any::<u32>().prop_map(u64::from), any::<u64>()];
    let len = prop_oneof![0u32..64, (1u32..16).prop_map(|n| n * 16), any::<u32>()];
    (addr, len, 0u16..8, prop_oneof![0u16..9, any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_descriptors_never_panic_and_only_ram_is_touched(
        table in prop::collection::vec(descriptor(), 8),
        inner in prop::collection::vec(descriptor(), 8),
        heads in prop::collection::vec(prop_oneof![0u16..8, any::<u16>()], 8),
        index in prop_oneof![0u16..9, any::<u16>()],
        rings in prop::option::weighted(0.2, any::<[u32; 3]>()),
        features in any::<bool>(),
    ) {
        let mut d = driver();
        if features {
            d.start(feature::VERSION_1);
        }
        let (at, avail, _) = Driver::<Echo>::rings(0);
        for (i, &t) in table.iter().enumerate() {
            d.put_desc(at + 16 * i as u64, t);
        }
        for (i, &t) in inner.iter().enumerate() {
            d.put_desc(0x10_0000 + 16 * i as u64, t);
        }
        for (i, h) in heads.iter().enumerate() {
            d.put(avail + 4 + 2 * i as u64, &h.to_le_bytes());
        }
        d.put(avail + 2, &index.to_le_bytes());
        if let Some(addresses) = rings {
            for (field, address) in [common::QUEUE_DESC, common::QUEUE_AVAIL, common::QUEUE_USED].into_iter().zip(addresses) {
                d.common_out(field, Dword, address);
            }
        }
        d.dev.with(&mut d.bench.ctx(), |_, queues| {
            while let Some(chain) = queues.pop(0) {
                assert!(chain.readable().len() + chain.writable().len() <= VIRTIO_CHAIN_DESCRIPTORS);
                for s in chain.readable().iter().chain(chain.writable()) {
                    assert!(u64::from(s.addr) + u64::from(s.len) <= RAM as u64);
                }
            }
        });
    }

    #[test]
    fn random_chain_changes_only_its_buffers_and_the_used_ring(
        table in prop::collection::vec(descriptor(), 8),
    ) {
        let mut d = driver();
        let (at, _, used) = Driver::<Echo>::rings(0);
        for (i, &t) in table.iter().enumerate() {
            d.put_desc(at + 16 * i as u64, t);
        }
        d.offer(0, 0);
        let before = d.bench.mem.ram().as_slice().to_vec();
        let written = d.dev.with(&mut d.bench.ctx(), |_, queues| {
            let mut chain = queues.pop(0)?;
            chain.write(queues.mem_mut(), &[0xEE; 300]);
            let segments = chain.writable().to_vec();
            queues.complete(0, chain);
            Some(segments)
        });
        let mut allowed = vec![(used, 4 + 8 * 8 + 2)];
        allowed.extend(written.into_iter().flatten().map(|s| (u64::from(s.addr), u64::from(s.len))));
        for (i, (now, old)) in d.bench.mem.ram().as_slice().iter().zip(&before).enumerate() {
            let i = i as u64;
            prop_assert!(now == old || allowed.iter().any(|&(a, n)| i >= a && i - a < n), "{i:#x}");
        }
    }

    #[test]
    fn random_port_accesses_never_panic(
        accesses in prop::collection::vec((0u16..0x440, 0u8..3, any::<bool>(), prop_oneof![0u32..16, any::<u32>()]), 1..200),
    ) {
        let mut d = driver();
        for (port, size, write, value) in accesses {
            let size = [Byte, Word, Dword][usize::from(size)];
            if write {
                d.output(port, size, value);
            } else if let Some(v) = d.input(port, size) {
                prop_assert!(v <= size.ones());
            }
        }
    }
}
