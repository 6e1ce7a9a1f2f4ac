//! The 8254 and port 61h in snapshots: slot 58, nine typed arrays with an element per counter.
//!
//! | element | what | not read |
//! | --- | --- | --- |
//! | 0 | the next access is to the low byte | fourth counter |
//! | 1 | counts | fourth counter |
//! | 2 | mode | fourth counter |
//! | 3 | access: 1 low byte, 2 high byte, 3 both; 0 before programming counts as 3 | fourth counter |
//! | 4 | latched bytes to be read: 2 both, 1 the high one | fourth counter |
//! | 5 | latched value | |
//! | 6 | count as written; 0 is stored as FFFFh | |
//! | 7 | when the value was that of element 8, milliseconds of the saver's clock | all |
//! | 8 | clocks until the end of the period, or of the count | |
//!
//! v86 knows neither gates nor port 61h, counts in binary only and keeps one byte pointer for reading
//! and writing. The exact state is in the extra array; without it the period continues where element
//! 8 says, and a counter 2 that counts has its gate open.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::time::VmTime;
use emu_core::values;

use super::counter::{Clocks, SavedCounter};
use super::{GATE_2, MIN_INTERRUPT_NS, PORT_B_WRITABLE, Pit8254, clocks_at};
use crate::device::{Ctx, DeviceState};
use crate::saved::{EXTRA_VERSION, keep, past_time, read_extra};

/// First of the counters in the extra array.
const EXTRA_COUNTERS: usize = 5;

/// The chip.
pub(super) struct SavedPit {
    counters: [SavedCounter; 3],
    port_b: u8,
    last_interrupt: VmTime,
    /// OUT of counter 0 has risen, but the interrupt was not delivered yet.
    due: bool,
    /// Level of IRQ 0.
    irq: bool,
}

impl SavedPit {
    pub(super) fn capture(chip: &Pit8254, ctx: &Ctx<'_>) -> Self {
        let Pit8254 { device: _, irq, counters, port_b, next_rise, last_interrupt } = chip;
        Self {
            counters: counters.each_ref().map(SavedCounter::capture),
            port_b: *port_b,
            last_interrupt: *last_interrupt,
            due: next_rise.is_some_and(|at| at <= clocks_at(ctx.now)),
            irq: ctx.irq.is_high(*irq),
        }
    }

    pub(super) fn apply(self, chip: &mut Pit8254, ctx: &mut Ctx<'_>) {
        let now = clocks_at(ctx.now);
        let Self { counters, port_b, last_interrupt, due, irq } = self;
        let gates = [true, true, port_b & GATE_2 != 0];
        for ((counter, saved), gate) in chip.counters.iter_mut().zip(counters).zip(gates) {
            *counter = saved.into_counter(gate, now);
        }
        chip.port_b = port_b;
        chip.last_interrupt = last_interrupt;
        ctx.irq.set(chip.irq, irq);
        chip.schedule(ctx, now);
        if due {
            chip.next_rise = Some(now);
            ctx.schedule(chip.device, last_interrupt.saturating_add(MIN_INTERRUPT_NS).max(ctx.now));
        }
    }

    pub(super) fn into_state(self, now: VmTime) -> DeviceState {
        let ms = now as f64 / 1e6;
        let now = clocks_at(now);
        let mut counters = self.counters.each_ref().map(|counter| counter.to_v86(now));
        // A tick that is due but not delivered: v86 delivers at once that of a counter that counts.
        counters[0].enabled |= self.due;
        let bytes = |field: fn(&V86Counter) -> u8| {
            let [a, b, c] = counters.each_ref().map(field);
            Value::bytes([a, b, c, 0])
        };
        let words = |field: fn(&V86Counter) -> u16| Value::u16s(&counters.each_ref().map(field));
        let v86 = values![
            bytes(|c| c.next_low.into()),
            bytes(|c| c.enabled.into()),
            bytes(|c| c.mode),
            bytes(|c| c.access),
            bytes(|c| c.latch),
            words(|c| c.latched),
            words(|c| c.reload),
            Value::f64s(&counters.each_ref().map(|c| if c.enabled { ms } else { 0.0 })),
            words(|c| c.left),
        ];
        let [a, b, c] = self.counters.each_ref().map(SavedCounter::to_extra);
        let last = self.last_interrupt as i64;
        DeviceState { v86, extra: values![EXTRA_VERSION, self.port_b, last, self.due, self.irq, a, b, c] }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState, ctx: &Ctx<'_>) -> Result<Self, FieldError> {
        let now = clocks_at(ctx.now);
        if let Some(mut fields) = Fields::of(&mut state.v86)? {
            self.read_v86(&mut fields, now)?;
        }
        read_extra(&mut state.extra, |fields| {
            keep(&mut self.port_b, fields.u8(1)?.map(|value| value & PORT_B_WRITABLE));
            keep(&mut self.last_interrupt, past_time(fields, 2, ctx.now)?);
            keep(&mut self.due, fields.bool(3)?);
            keep(&mut self.irq, fields.bool(4)?);
            for (counter, index) in self.counters.iter_mut().zip(EXTRA_COUNTERS..) {
                fields.array(index, |fields| counter.read_extra(fields, now))?;
            }
            Ok(())
        })?;
        Ok(self)
    }

    fn read_v86(&mut self, fields: &mut Fields<'_>, now: Clocks) -> Result<(), FieldError> {
        let mut bytes = |index| fields.u8s::<4>(index);
        let (next_low, enabled, mode) = (bytes(0)?, bytes(1)?, bytes(2)?);
        let (access, latch) = (bytes(3)?, bytes(4)?);
        let mut words = |index| fields.u16s::<3>(index);
        let (latched, reload, left) = (words(5)?, words(6)?, words(8)?);
        let nth = |array: Option<[u8; 4]>, n: usize| array.and_then(|array| array.get(n).copied());
        let nth_word = |array: Option<[u16; 3]>, n: usize| array.and_then(|array| array.get(n).copied());
        for (n, counter) in self.counters.iter_mut().enumerate() {
            let access = nth(access, n).map_or(3, |access| access & 3);
            let v86 = V86Counter {
                next_low: nth(next_low, n).is_none_or(|low| low != 0) || access == 0,
                enabled: nth(enabled, n).is_some_and(|enabled| enabled != 0),
                mode: nth(mode, n).unwrap_or(0),
                access,
                latch: nth(latch, n).unwrap_or(0),
                latched: nth_word(latched, n).unwrap_or(0),
                reload: nth_word(reload, n).unwrap_or(0),
                left: nth_word(left, n).unwrap_or(u16::MAX),
            };
            if n == 2 && v86.enabled {
                self.port_b |= GATE_2;
            }
            counter.read_v86(&v86, now);
        }
        Ok(())
    }
}

/// A counter as v86 has it.
#[derive(Debug)]
pub(super) struct V86Counter {
    pub(super) next_low: bool,
    pub(super) enabled: bool,
    pub(super) mode: u8,
    pub(super) access: u8,
    pub(super) latch: u8,
    pub(super) latched: u16,
    pub(super) reload: u16,
    pub(super) left: u16,
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;

    use super::super::{CONTROL, COUNTER_0, COUNTER_2, OUT_2, PORT_B, time_of};
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    const IRQ0: IrqLine = IrqLine::wired_to(0);

    fn new() -> (TestBoard, Pit8254) {
        let (mut board, mut pit) = (TestBoard::new(), Pit8254::new(IRQ0));
        board.power_up(&mut pit, 1);
        (board, pit)
    }

    fn restored_at(now: VmTime, state: DeviceState) -> (TestBoard, Pit8254) {
        let (mut board, mut pit) = (TestBoard::new(), Pit8254::new(IRQ0));
        board.now = now;
        board.power_up(&mut pit, 1);
        pit.restore(&mut board.ctx(), state).unwrap();
        (board, pit)
    }

    fn program(board: &mut TestBoard, pit: &mut Pit8254, control: u8, count: u16) {
        board.outb(pit, CONTROL, control);
        for byte in count.to_le_bytes() {
            board.outb(pit, COUNTER_0 + u16::from(control >> 6), byte);
        }
    }

    fn latch(board: &mut TestBoard, pit: &mut Pit8254, counter: u8) -> u16 {
        board.outb(pit, CONTROL, counter << 6);
        let port = COUNTER_0 + u16::from(counter);
        u16::from_le_bytes([board.inb(pit, port), board.inb(pit, port)])
    }

    fn go_to(board: &mut TestBoard, pit: &mut Pit8254, clocks: Clocks) {
        let step = time_of(clocks) - board.now;
        board.advance(pit, step);
    }

    /// Counter 0: mode 3 with a new count pending; 1: BCD, latched and half read, status latched; 2:
    /// half a count written.
    fn exercise(pit: &mut Pit8254, board: &mut TestBoard) {
        board.outb(pit, PORT_B, 0x03);
        program(board, pit, 0x36, 10_000);
        program(board, pit, 0x75, 0x0500);
        program(board, pit, 0xB6, 1193);
        board.advance(pit, 10_000_000);
        board.outb(pit, COUNTER_0, 0x00);
        board.outb(pit, COUNTER_0, 0x10);
        board.outb(pit, CONTROL, 0x40);
        let _ = board.inb(pit, 0x41);
        board.outb(pit, CONTROL, 0xE4); // status of counter 1
        board.outb(pit, COUNTER_2, 0x34);
    }

    snapshot_conformance! {
        pit_snapshot_conforms,
        make: || Pit8254::new(IRQ0),
        exercise: exercise,
        ignored: &[&[7]],
    }

    /// Counter 0 as Linux programs it for 100 Hz, as v86 saves it.
    fn of_v86(left: u16) -> Value {
        values![
            Value::bytes([1, 0, 1, 0]),
            Value::bytes([1, 0, 1, 0]),
            Value::bytes([2, 0, 0, 0]),
            Value::bytes([3, 0, 3, 0]),
            Value::bytes([0, 0, 2, 0]),
            Value::u16s(&[0, 0, 0x1234]),
            Value::u16s(&[11_932, 0, 0xFFFF]),
            Value::f64s(&[7.5e8, 0.0, 7.5e8]),
            Value::u16s(&[left, 0, 0xFFFF]),
        ]
    }

    #[test]
    fn pit_array_of_v86_interrupts_within_a_period_and_then_periodically() {
        let (mut board, mut pit) = restored_at(5, DeviceState::v86(of_v86(3000)));
        assert_eq!(latch(&mut board, &mut pit, 0), 3000);
        let mut rises = Vec::new();
        for _ in 0..3 {
            let step = board.events.next_deadline().unwrap() - board.now;
            board.advance(&mut pit, step);
            assert!(board.take_rise(IRQ0));
            rises.push(clocks_at(board.now));
        }
        assert_eq!(rises, [3000, 3000 + 11_932, 3000 + 2 * 11_932]);
        // Counter 2: what was latched, then 65,536 clocks from the restore.
        assert_eq!([board.inb(&mut pit, COUNTER_2), board.inb(&mut pit, COUNTER_2)], [0x34, 0x12]);
        assert_eq!(board.inb(&mut pit, PORT_B) & (OUT_2 | 0xF), GATE_2);
        go_to(&mut board, &mut pit, 65_537);
        assert_eq!(board.inb(&mut pit, PORT_B) & OUT_2, OUT_2);
    }

    #[test]
    fn pit_array_of_v86_is_written_back_but_for_unprogrammed_counters_and_time() {
        let (mut board, mut pit) = restored_at(0, DeviceState::v86(of_v86(3000)));
        let Value::Array(saved) = pit.save(&mut board.ctx()).v86 else { panic!("no array") };
        let Value::Array(mut expected) = of_v86(3000) else { panic!("no array") };
        expected[0] = Value::bytes([1, 1, 1, 0]);
        expected[3] = Value::bytes([3, 3, 3, 0]);
        expected[7] = Value::f64s(&[0.0; 3]);
        assert_eq!(saved, expected);
    }

    #[test]
    fn pit_powered_up_array_of_v86_leaves_nothing_counting() {
        let bytes = || Value::bytes([0; 4]);
        let words = || Value::u16s(&[0; 3]);
        let times = Value::f64s(&[0.0; 3]);
        let v86 = values![bytes(), bytes(), bytes(), bytes(), bytes(), words(), words(), times, words()];
        let (mut board, mut pit) = restored_at(0, DeviceState::v86(v86));
        assert_eq!(board.events.next_deadline(), None);
        let (mut fresh_board, mut fresh) = new();
        assert_eq!(pit.save(&mut board.ctx()), fresh.save(&mut fresh_board.ctx()));
    }

    #[test]
    fn pit_state_is_v86s_array() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 11_932);
        program(&mut board, &mut pit, 0xB6, 0); // mode 3, 65,536, gate closed
        board.outb(&mut pit, COUNTER_2, 0x55);
        board.outb(&mut pit, CONTROL, 0x00);
        let latched = board.inb(&mut pit, COUNTER_0);
        assert_eq!(latched, 0x9C);
        go_to(&mut board, &mut pit, 1 + 11_932 + 5000);
        let state = pit.save(&mut board.ctx());
        let ms = board.now as f64 / 1e6;
        let expected = values![
            Value::bytes([1, 1, 0, 0]),
            Value::bytes([1, 0, 0, 0]),
            Value::bytes([2, 0, 3, 0]),
            Value::bytes([3, 3, 3, 0]),
            Value::bytes([1, 0, 0, 0]),
            Value::u16s(&[11_932, 0, 0]),
            Value::u16s(&[11_932, 0, 0x0055]),
            Value::f64s(&[ms, 0.0, 0.0]),
            Value::u16s(&[11_932 - 5000, 0, 0]),
        ];
        assert_eq!(state.v86, expected);
        assert_eq!(board.inb(&mut pit, COUNTER_0), 0x2E);
    }

    #[test]
    fn pit_goes_on_exactly_where_it_was() {
        let (mut board, mut pit) = new();
        exercise(&mut pit, &mut board);
        let (mut again_board, mut again) = restored_at(board.now, pit.save(&mut board.ctx()));
        assert_eq!(again.speaker_period(), pit.speaker_period());
        assert!(pit.speaker_period().is_some());
        let mut both = |f: &dyn Fn(&mut Pit8254, &mut TestBoard) -> u64| {
            assert_eq!(f(&mut pit, &mut board), f(&mut again, &mut again_board));
        };
        both(&|p, b| b.inb(p, 0x41).into()); // status
        both(&|p, b| b.inb(p, 0x41).into()); // the latched count's high byte
        both(&|p, b| {
            b.outb(p, COUNTER_2, 0x12); // the count's high byte
            latch(b, p, 2).into()
        });
        for _ in 0..5 {
            both(&|p, b| {
                let at = b.events.next_deadline().unwrap();
                b.advance(p, at - b.now);
                assert!(b.take_rise(IRQ0));
                at
            });
            both(&|p, b| latch(b, p, 0).into());
            both(&|p, b| latch(b, p, 1).into());
            both(&|p, b| latch(b, p, 2).into());
            both(&|p, b| b.inb(p, PORT_B).into());
        }
        assert_eq!(board.irq.is_high(IRQ0), again_board.irq.is_high(IRQ0));
    }

    #[test]
    fn pit_interrupt_that_was_due_is_delivered_after_restoring() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 1000);
        board.now = time_of(1 + 1000 + 300);
        let (mut board, mut pit) = restored_at(board.now, pit.save(&mut board.ctx()));
        assert!(!board.take_rise(IRQ0));
        board.advance(&mut pit, 0);
        assert!(board.take_rise(IRQ0));
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 2 * 1000)));
    }

    /// A guest that programs one tick at a time would otherwise stand still in v86.
    #[test]
    fn pit_one_shot_that_is_due_still_counts_for_v86_until_it_is_delivered() {
        let counts = |state: DeviceState| match state.v86 {
            Value::Array(fields) => fields[1].clone(),
            other => panic!("{other:?}"),
        };
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x38, 1000); // mode 4
        board.now = time_of(1 + 1000 + 300);
        assert_eq!(counts(pit.save(&mut board.ctx())), Value::bytes([1, 0, 0, 0]));
        board.advance(&mut pit, 0);
        assert!(board.take_rise(IRQ0));
        assert_eq!(counts(pit.save(&mut board.ctx())), Value::bytes([0, 0, 0, 0]));
    }

    #[test]
    fn pit_times_from_the_future_do_not_stop_the_guest() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 1000);
        let mut state = pit.save(&mut board.ctx());
        let far = |kind: u8| {
            values![
                2,
                3,
                false,
                1000,
                true,
                Value::Null,
                false,
                Value::Null,
                Value::Null,
                kind,
                i64::MAX,
                1000,
                i64::MAX,
                1000
            ]
        };
        for kind in 0..3 {
            state.extra = values![1, 1, i64::MAX, false, false, far(kind), far(kind), far(kind)];
            let again = DeviceState { v86: state.v86.clone(), extra: state.extra.clone() };
            let (mut board, mut pit) = restored_at(1_000_000, again);
            board.advance(&mut pit, 500_000_000);
            assert_eq!(board.take_rise(IRQ0), kind == 1);
            let _ = (latch(&mut board, &mut pit, 0), board.inb(&mut pit, PORT_B));
        }
    }
}
