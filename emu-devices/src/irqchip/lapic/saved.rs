//! The local APIC in snapshots: slot 46, v86's structure of 46 dwords as bytes.
//!
//! | dword | what |
//! | --- | --- |
//! | 0 | id register |
//! | 1, 2 | timer: divide register, and the shift that follows from it (not read) |
//! | 3 | timer: initial count |
//! | 4 | timer: the initial count while it runs, 0 when a one-shot timer has ended |
//! | 5 | padding |
//! | 6-7 | timer: when the period began, milliseconds of the saving process's clock (not read) |
//! | 8-12 | LVT timer, performance, LINT0, LINT1, error |
//! | 13-15 | TPR, ICR |
//! | 16-39 | IRR, ISR, TMR |
//! | 40-42 | spurious vector, destination format, logical destination |
//! | 43, 44 | errors, ESR |
//! | 45 | LVT thermal |
//!
//! Before August 2025 the same fields were an array. From either the timer begins a whole period anew;
//! the exact count is in the extra array. Bits that the registers do not have are dropped.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::time::VmTime;
use emu_core::values;

use super::{LVT_REMOTE_IRR, LocalApic, SVR_WRITABLE, Timer, Vectors};
use crate::device::{Ctx, DeviceState};
use crate::irqchip::{dwords, structure};
use crate::saved::{EXTRA_VERSION, keep, past_time, read_extra};

const DWORDS: usize = 46;

/// The chip, register by register as the guest reads them.
pub(super) struct SavedLapic {
    id: u32,
    tpr: u32,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: [u32; 8],
    tmr: [u32; 8],
    irr: [u32; 8],
    errors: u32,
    esr: u32,
    icr_low: u32,
    icr_high: u32,
    lvt_timer: u32,
    lvt_thermal: u32,
    lvt_perf: u32,
    lvt_lint0: u32,
    lvt_lint1: u32,
    lvt_error: u32,
    divide: u32,
    initial: u32,
    count: u32,
    since: VmTime,
    eoi: Option<u8>,
    nmi: bool,
}

impl SavedLapic {
    pub(super) fn capture(chip: &LocalApic) -> Self {
        let &LocalApic {
            device: _,
            id,
            tpr,
            ldr,
            dfr,
            svr,
            isr: Vectors(isr),
            tmr: Vectors(tmr),
            irr: Vectors(irr),
            errors,
            esr,
            icr_low,
            icr_high,
            lvt_timer,
            lvt_thermal,
            lvt_perf,
            lvt_lint0,
            lvt_lint1,
            lvt_error,
            timer: Timer { divide, initial, count, since },
            eoi,
            nmi,
        } = chip;
        Self {
            id: u32::from(id) << 24,
            tpr: u32::from(tpr),
            ldr,
            dfr,
            svr,
            isr,
            tmr,
            irr,
            errors,
            esr,
            icr_low,
            icr_high,
            lvt_timer,
            lvt_thermal,
            lvt_perf,
            lvt_lint0,
            lvt_lint1,
            lvt_error,
            divide,
            initial,
            count,
            since,
            eoi,
            nmi,
        }
    }

    pub(super) fn apply(self, chip: &mut LocalApic, ctx: &mut Ctx<'_>) {
        // Vectors 0-15 do not exist.
        let vectors = |mut words: [u32; 8]| {
            words[0] &= 0xFFFF_0000;
            Vectors(words)
        };
        *chip = LocalApic {
            device: chip.device,
            id: (self.id >> 24) as u8 & 0x0F,
            tpr: self.tpr as u8,
            ldr: self.ldr & 0xFF00_0000,
            dfr: self.dfr | 0x0FFF_FFFF,
            svr: self.svr & SVR_WRITABLE,
            isr: vectors(self.isr),
            tmr: vectors(self.tmr),
            irr: vectors(self.irr),
            errors: self.errors & 0xFF,
            esr: self.esr & 0xFF,
            icr_low: self.icr_low & 0x000C_CFFF,
            icr_high: self.icr_high & 0xFF00_0000,
            lvt_timer: self.lvt_timer & 0x0003_00FF,
            lvt_thermal: self.lvt_thermal & 0x0001_07FF,
            lvt_perf: self.lvt_perf & 0x0001_07FF,
            lvt_lint0: self.lvt_lint0 & 0x0001_A7FF & !LVT_REMOTE_IRR,
            lvt_lint1: self.lvt_lint1 & 0x0001_A7FF & !LVT_REMOTE_IRR,
            lvt_error: self.lvt_error & 0x0001_00FF,
            timer: Timer {
                divide: self.divide & 0xB,
                initial: self.initial,
                count: self.count.min(self.initial),
                since: self.since,
            },
            eoi: self.eoi,
            nmi: self.nmi,
        };
        chip.schedule(ctx);
    }

    fn timer(&self) -> Timer {
        Timer { divide: self.divide, initial: self.initial, count: self.count, since: self.since }
    }

    /// The structure at guest time `now`.
    fn to_v86(&self, now: VmTime) -> Value {
        let timer = self.timer();
        let current = timer.current(now, self.lvt_timer & super::LVT_TIMER_PERIODIC != 0);
        let passed = u64::from(self.initial.saturating_sub(current)) << timer.shift();
        let (running, began) = match current {
            0 => (0, 0.0),
            _ => (self.initial, now.saturating_sub(passed) as f64 / 1e6),
        };
        let began = began.to_bits();
        let first = [self.id, self.divide, timer.shift(), self.initial, running, 0];
        let then = [
            began as u32,
            (began >> 32) as u32,
            self.lvt_timer,
            self.lvt_perf,
            self.lvt_lint0,
            self.lvt_lint1,
            self.lvt_error,
            self.tpr,
            self.icr_low,
            self.icr_high,
        ];
        let last = [self.svr, self.dfr, self.ldr, self.errors, self.esr, self.lvt_thermal];
        let vectors = self.irr.into_iter().chain(self.isr).chain(self.tmr);
        structure(first.into_iter().chain(then).chain(vectors).chain(last))
    }

    pub(super) fn into_state(self, now: VmTime) -> DeviceState {
        let v86 = self.to_v86(now);
        DeviceState { v86, extra: values![EXTRA_VERSION, self.count, self.since as i64, self.eoi, self.nmi] }
    }

    fn read_structure(&mut self, words: &[u32; DWORDS]) {
        let fields: [(&mut u32, usize); 18] = [
            (&mut self.id, 0),
            (&mut self.divide, 1),
            (&mut self.initial, 3),
            (&mut self.count, 4),
            (&mut self.lvt_timer, 8),
            (&mut self.lvt_perf, 9),
            (&mut self.lvt_lint0, 10),
            (&mut self.lvt_lint1, 11),
            (&mut self.lvt_error, 12),
            (&mut self.tpr, 13),
            (&mut self.icr_low, 14),
            (&mut self.icr_high, 15),
            (&mut self.svr, 40),
            (&mut self.dfr, 41),
            (&mut self.ldr, 42),
            (&mut self.errors, 43),
            (&mut self.esr, 44),
            (&mut self.lvt_thermal, 45),
        ];
        for (field, index) in fields {
            keep(field, words.get(index).copied());
        }
        for (vectors, first) in [(&mut self.irr, 16), (&mut self.isr, 24), (&mut self.tmr, 32)] {
            for (vector, word) in vectors.iter_mut().zip(words.iter().skip(first)) {
                *vector = *word;
            }
        }
    }

    fn read_array(&mut self, fields: &mut Fields<'_>) -> Result<(), FieldError> {
        let numbers: [(&mut u32, usize); 17] = [
            (&mut self.id, 0),
            (&mut self.divide, 1),
            (&mut self.initial, 3),
            (&mut self.count, 4),
            (&mut self.lvt_timer, 6),
            (&mut self.lvt_perf, 7),
            (&mut self.lvt_lint0, 8),
            (&mut self.lvt_lint1, 9),
            (&mut self.lvt_error, 10),
            (&mut self.tpr, 11),
            (&mut self.icr_low, 12),
            (&mut self.icr_high, 13),
            (&mut self.svr, 17),
            (&mut self.dfr, 18),
            (&mut self.ldr, 19),
            (&mut self.errors, 20),
            (&mut self.esr, 21),
        ];
        for (field, index) in numbers {
            keep(field, fields.u32(index)?);
        }
        for (vectors, index) in [(&mut self.irr, 14), (&mut self.isr, 15), (&mut self.tmr, 16)] {
            keep(vectors, fields.u32s(index)?);
        }
        // 0 where it was not saved yet.
        keep(&mut self.lvt_thermal, fields.u32(22)?.filter(|lvt| *lvt != 0));
        Ok(())
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState, now: VmTime) -> Result<Self, FieldError> {
        match &mut state.v86 {
            Value::Typed(typed) => {
                let words: [u32; DWORDS] = dwords(typed)?;
                self.read_structure(&words);
            }
            other => {
                let Some(mut fields) = Fields::of(other)? else { return Ok(self) };
                self.read_array(&mut fields)?;
            }
        }
        // v86 counts from the initial count always and knows only whether the timer runs.
        self.count = if self.count == 0 { 0 } else { self.initial };
        self.since = now;
        read_extra(&mut state.extra, |fields| {
            keep(&mut self.count, fields.u32(1)?);
            keep(&mut self.since, past_time(fields, 2, now)?);
            self.eoi = fields.u8(3)?;
            keep(&mut self.nmi, fields.bool(4)?);
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize;

    use super::*;
    use crate::device::Device;
    use crate::irqchip::{ApicMessage, DeliveryMode};
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    const BASE: u64 = 0xFEE0_0000;

    fn write(board: &mut TestBoard, apic: &mut LocalApic, register: u64, value: u32) {
        apic.mmio_write(&mut board.ctx(), BASE + register, AccessSize::Dword, value);
    }

    fn read(board: &mut TestBoard, apic: &mut LocalApic, register: u64) -> u32 {
        apic.mmio_read(&mut board.ctx(), BASE + register, AccessSize::Dword).unwrap()
    }

    fn restored_at(now: VmTime, state: DeviceState) -> (TestBoard, LocalApic) {
        let (mut board, mut apic) = (TestBoard::new(), LocalApic::new());
        board.now = now;
        board.power_up(&mut apic, 3);
        apic.restore(&mut board.ctx(), state).unwrap();
        (board, apic)
    }

    /// Vector 61h (level) in service, 41h requested, a periodic timer of 1 ms that has run 0.3 ms.
    fn exercise(apic: &mut LocalApic, board: &mut TestBoard) {
        for (register, value) in [
            (super::super::ID, 0x0300_0000),
            (super::super::SVR, 0x1FF),
            (super::super::LDR, 0x0200_0000),
            (super::super::DFR, 0xFFFF_FFFF),
            (super::super::TPR, 0x20),
            (super::super::LVT_LINT0, 0x700),
            (super::super::LVT_LINT1, 0x400),
            (super::super::LVT_ERROR, 0xE0),
            (super::super::LVT_PERF, 0x1_0400),
            (super::super::LVT_THERMAL, 0x1_0200),
            (super::super::ICR_HIGH, 0x0300_0000),
            (super::super::ICR_LOW, 0x0004_4041),
            (super::super::DIVIDE, 0x3), // by 16
            (super::super::LVT_TIMER, 0x2_0050),
            (super::super::INITIAL_COUNT, 62_500),
        ] {
            write(board, apic, register, value);
        }
        apic.deliver(ApicMessage {
            vector: 0x61,
            delivery: DeliveryMode::Fixed,
            level: true,
            destination: 3,
            logical: false,
        });
        assert_eq!(apic.acknowledge(), Some(0x61));
        board.advance(apic, 300_000);
    }

    snapshot_conformance! {
        lapic_snapshot_conforms,
        make: LocalApic::new,
        exercise: exercise,
        ignored: &[],
    }

    /// What [`exercise`] leaves, in v86's structure.
    fn golden() -> [u32; DWORDS] {
        let mut words = [0; DWORDS];
        words[..6].copy_from_slice(&[0x0300_0000, 3, 4, 62_500, 62_500, 0]);
        words[8..16].copy_from_slice(&[
            0x2_0050,
            0x1_0400,
            0x700,
            0x400,
            0xE0,
            0x20,
            0x0004_4041,
            0x0300_0000,
        ]);
        words[16 + 2] = 2; // IRR 41h
        words[24 + 3] = 2; // ISR 61h
        words[32 + 3] = 2; // TMR 61h
        words[40..].copy_from_slice(&[0x1FF, u32::MAX, 0x0200_0000, 0, 0, 0x1_0200]);
        words
    }

    fn old_array(words: &[u32; DWORDS]) -> Value {
        let vectors = |first: usize| Value::i32s(&words[first..first + 8]);
        let mut old: Vec<Value> = words[..5].iter().map(|w| Value::from(*w)).collect();
        old.push(Value::from(123_456.75));
        old.extend(words[8..16].iter().map(|w| Value::signed(*w)));
        old.extend([vectors(16), vectors(24), vectors(32)]);
        old.extend(words[40..45].iter().map(|w| Value::signed(*w)));
        old.into()
    }

    fn check_interrupts(board: &mut TestBoard, apic: &mut LocalApic) {
        assert_eq!(apic.acknowledge(), None, "61h is in service");
        write(board, apic, super::super::EOI, 0);
        assert_eq!(apic.take_eoi(), Some(0x61));
        assert_eq!(apic.acknowledge(), Some(0x41));
        write(board, apic, super::super::EOI, 0);
        assert_eq!(apic.take_eoi(), None);
        assert!(apic.passes_ext_int());
    }

    #[test]
    fn lapic_state_is_v86s_structure() {
        let (mut board, mut apic) = (TestBoard::new(), LocalApic::new());
        board.power_up(&mut apic, 3);
        board.advance(&mut apic, 2_000_000);
        exercise(&mut apic, &mut board);
        let mut words = golden();
        let began = 2.0f64.to_bits();
        (words[6], words[7]) = (began as u32, (began >> 32) as u32);
        let state = apic.save(&mut board.ctx());
        assert_eq!(state.v86, structure(words));
        let Value::Typed(typed) = &state.v86 else { panic!("no typed array") };
        assert_eq!((typed.kind.name(), typed.data.len()), ("Uint8Array", 184));
    }

    #[test]
    fn lapic_powered_up_is_saved_as_v86_has_it() {
        let mut words = [0; DWORDS];
        words[2] = 1;
        words[8..13].fill(0x1_0000);
        words[40] = 0xFE;
        words[41] = u32::MAX;
        words[45] = 0x1_0000;
        let state = LocalApic::new().save(&mut TestBoard::new().ctx());
        assert_eq!(state.v86, structure(words));
    }

    #[test]
    fn lapic_timer_goes_on_within_its_period() {
        let (mut board, mut apic) = (TestBoard::new(), LocalApic::new());
        board.power_up(&mut apic, 3);
        exercise(&mut apic, &mut board);
        let (mut board, mut apic) = restored_at(board.now, apic.save(&mut board.ctx()));
        check_interrupts(&mut board, &mut apic);
        assert_eq!(read(&mut board, &mut apic, super::super::CURRENT_COUNT), 43_750);
        assert_eq!(board.events.next_deadline(), Some(1_000_000));
        board.advance(&mut apic, 700_000);
        assert_eq!(apic.acknowledge(), Some(0x50));
        assert_eq!(board.events.next_deadline(), Some(2_000_000));
    }

    #[test]
    fn lapic_structure_of_v86_starts_the_timers_period_anew() {
        let mut words = golden();
        let saver = 5e9f64.to_bits();
        (words[6], words[7]) = (saver as u32, (saver >> 32) as u32);
        let (mut board, mut apic) = restored_at(7, DeviceState::v86(structure(words)));
        check_interrupts(&mut board, &mut apic);
        assert_eq!(read(&mut board, &mut apic, super::super::CURRENT_COUNT), 62_500);
        assert_eq!(board.events.next_deadline(), Some(1_000_007));
        words[4] = 0;
        words[8] = 0x50; // a one-shot timer that has ended
        let (mut board, mut apic) = restored_at(7, DeviceState::v86(structure(words)));
        assert_eq!(board.events.next_deadline(), None);
        assert_eq!(read(&mut board, &mut apic, super::super::CURRENT_COUNT), 0);
    }

    #[test]
    fn lapic_array_from_before_august_2025_takes_irr_from_element_14() {
        let (mut board, mut apic) = restored_at(0, DeviceState::v86(old_array(&golden())));
        check_interrupts(&mut board, &mut apic);
        assert_eq!(board.events.next_deadline(), Some(1_000_000));
        let registers = [super::super::ID, super::super::LVT_THERMAL, super::super::DFR];
        let values = registers.map(|r| read(&mut board, &mut apic, r));
        assert_eq!(values, [0x0300_0000, 0x1_0000, u32::MAX]);
    }

    #[test]
    fn lapic_time_from_the_future_does_not_stop_the_timer() {
        let (mut board, mut apic) = (TestBoard::new(), LocalApic::new());
        board.power_up(&mut apic, 3);
        exercise(&mut apic, &mut board);
        let mut state = apic.save(&mut board.ctx());
        state.extra = values![1, u32::MAX, i64::MAX, 0x61, false];
        let (board, _) = restored_at(500, state);
        assert_eq!(board.events.next_deadline(), Some(1_000_500));
    }
}
