//! The clock chip in snapshots: slot 47.
//!
//! | element | what |
//! | --- | --- |
//! | 0 | index |
//! | 1 | CMOS cells; the diagnostic byte's is unused |
//! | 2, 3 | clock time and the host's calendar time it belongs to, Unix milliseconds |
//! | 4, 5 | host's time of the next periodic interrupt and of the alarm, 0 = none (not read) |
//! | 6, 7 | periodic interrupt enabled, period in milliseconds (not read) |
//! | 8-10 | status A, B, C |
//! | 11 | NMI disabled |
//! | 12, 13 | update interrupt enabled, host's time of the next (not read) |
//! | 14 | diagnostic byte; older files have none |
//!
//! What is not read follows from the registers and the alarm's cells. The clock is restored relative to
//! the host's calendar: one that was right is right again, however long the snapshot lay around; an
//! alarm missed meanwhile goes off at once. The extra array has the offset to the nanosecond and the
//! time of a stopped clock, which v86's does not stop.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{A_UPDATE_IN_PROGRESS, B_ALARM, B_PERIODIC, B_UPDATE, C_REQUEST, CmosRtc, DIAGNOSTIC, FLAGS, NS};
use crate::device::{Ctx, DeviceState};
use crate::saved::{EXTRA_VERSION, keep, read_extra};
use crate::timer::calendar::Calendar;

const NS_PER_MS: i128 = 1_000_000;
/// Latest moment JavaScript knows, Unix milliseconds.
const MAX_MS: f64 = 8.64e15;
/// Largest distance of the clock from the host's calendar, seconds: 30,000 years.
const MAX_OFFSET: i64 = 1 << 40;
/// Largest year a guest can set.
const MAX_YEAR: i64 = 25_599;

/// The chip.
pub(super) struct SavedRtc {
    index: u8,
    nmi_disabled: bool,
    cells: [u8; 128],
    status_a: u8,
    status_b: u8,
    status_c: u8,
    offset_ns: i128,
    frozen: Option<Calendar>,
    /// Clock second up to which flags are in status C.
    second: i64,
}

impl SavedRtc {
    pub(super) fn capture(chip: &CmosRtc, ctx: &Ctx<'_>) -> Self {
        let mut chip = chip.clone();
        chip.collect_flags(ctx.now, ctx.wall_ns);
        let CmosRtc {
            device: _,
            irq: _,
            config: _,
            index,
            nmi_disabled,
            cells,
            status_a,
            status_b,
            status_c,
            offset_ns,
            frozen,
            seen_now: _,
            seen_second,
        } = chip;
        Self {
            index,
            nmi_disabled,
            cells,
            status_a,
            status_b,
            status_c,
            offset_ns,
            frozen,
            second: seen_second,
        }
    }

    pub(super) fn apply(self, chip: &mut CmosRtc, ctx: &mut Ctx<'_>) {
        let Self { index, nmi_disabled, cells, status_a, status_b, status_c, offset_ns, frozen, second } =
            self;
        *chip = CmosRtc {
            device: chip.device,
            irq: chip.irq,
            config: chip.config,
            index,
            nmi_disabled,
            cells,
            status_a,
            status_b,
            status_c,
            offset_ns,
            frozen,
            seen_now: ctx.now,
            seen_second: second,
        };
        if !chip.is_held() {
            chip.frozen = None;
        } else if chip.frozen.is_none() {
            chip.frozen = Some(Calendar::from_unix(second));
        }
        chip.collect_flags(ctx.now, ctx.wall_ns);
        chip.update(ctx);
    }

    /// `chip` is the one this was captured from.
    pub(super) fn into_state(self, chip: &CmosRtc, ctx: &Ctx<'_>) -> DeviceState {
        let wall = i128::from(ctx.wall_ns);
        let clock = match self.frozen {
            Some(calendar) => i128::from(calendar.to_unix()) * NS,
            None => wall + self.offset_ns,
        };
        let ms = |ns: i128| Value::from((ns.div_euclid(NS_PER_MS) as f64).clamp(-MAX_MS, MAX_MS));
        // Moments of the clock, as the host's.
        let second_ms = |second: i64| ms(i128::from(second) * NS - self.offset_ns);
        let enabled = |bit: u8| self.status_b & bit != 0;
        let periodic = enabled(B_PERIODIC) && chip.period().is_some();
        let period = match self.status_a & 0xF {
            0 => Value::Null,
            rate => Value::from(1000.0 / f64::from(32_768u32 >> (rate - 1))),
        };
        let alarm = chip.next_alarm(self.second).filter(|_| enabled(B_ALARM));
        let requesting = self.status_c & self.status_b & FLAGS != 0;
        let mut cells = self.cells;
        let diagnostic = cells.get_mut(usize::from(DIAGNOSTIC)).map_or(0, std::mem::take);
        let v86 = values![
            self.index,
            Value::bytes(cells),
            ms(clock),
            ms(wall),
            if periodic { ms(wall) } else { Value::Int(0) },
            alarm.map_or(Value::Int(0), second_ms),
            periodic,
            period,
            self.status_a,
            self.status_b,
            self.status_c | if requesting { C_REQUEST } else { 0 },
            u8::from(self.nmi_disabled),
            enabled(B_UPDATE),
            if enabled(B_UPDATE) { second_ms(self.second.saturating_add(1)) } else { Value::Int(0) },
            diagnostic,
        ];
        let frozen = self.frozen.map(|Calendar { year, month, day, hour, minute, second }| {
            values![year, month, day, hour, minute, second]
        });
        let extra = values![
            EXTRA_VERSION,
            self.offset_ns.div_euclid(NS) as i64,
            self.offset_ns.rem_euclid(NS) as i64,
            self.second,
            frozen,
        ];
        DeviceState { v86, extra }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        if let Some(mut fields) = Fields::of(&mut state.v86)? {
            self.read_v86(&mut fields)?;
        }
        read_extra(&mut state.extra, |fields| {
            if let Some(seconds) = fields.i64(1)? {
                let nanoseconds = fields.u32(2)?.unwrap_or(0);
                let seconds = seconds.clamp(-MAX_OFFSET, MAX_OFFSET);
                self.offset_ns = i128::from(seconds) * NS + i128::from(nanoseconds) % NS;
            }
            keep(&mut self.second, fields.i64(3)?);
            self.frozen = fields.array(4, |fields| {
                Ok(Calendar {
                    year: fields.i64(0)?.unwrap_or(1970).clamp(0, MAX_YEAR),
                    month: fields.u8(1)?.unwrap_or(1),
                    day: fields.u8(2)?.unwrap_or(1),
                    hour: fields.u8(3)?.unwrap_or(0),
                    minute: fields.u8(4)?.unwrap_or(0),
                    second: fields.u8(5)?.unwrap_or(0),
                })
            })?;
            Ok(())
        })?;
        Ok(self)
    }

    fn read_v86(&mut self, fields: &mut Fields<'_>) -> Result<(), FieldError> {
        keep(&mut self.index, fields.u8(0)?.map(|index| index & 0x7F));
        keep(&mut self.cells, fields.u8s(1)?);
        let ms = |value: f64| value.clamp(-MAX_MS, MAX_MS) as i64;
        let (clock, host) = (fields.f64(2)?.map(ms), fields.f64(3)?.map(ms));
        if let (Some(clock), Some(host)) = (clock, host) {
            self.offset_ns = i128::from(clock - host) * NS_PER_MS;
            self.second = clock.div_euclid(1000);
        }
        keep(&mut self.status_a, fields.u8(8)?.map(|a| a & !A_UPDATE_IN_PROGRESS));
        keep(&mut self.status_b, fields.u8(9)?);
        keep(&mut self.status_c, fields.u8(10)?.map(|c| c & FLAGS));
        keep(&mut self.nmi_disabled, fields.bool(11)?);
        if let Some(cell) = self.cells.get_mut(usize::from(DIAGNOSTIC)) {
            keep(cell, fields.u8(14)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;
    use emu_core::time::NS_PER_SEC;

    use super::super::{CmosConfig, DATA_PORT, INDEX_PORT};
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::{TEST_WALL_NS, TestBoard};

    const IRQ8: IrqLine = IrqLine::wired_to(8);
    const SECOND: u64 = NS_PER_SEC;
    const WALL_MS: i64 = (TEST_WALL_NS / 1_000_000) as i64;

    fn new() -> (TestBoard, CmosRtc) {
        let (mut board, mut rtc) = (TestBoard::new(), CmosRtc::new(IRQ8, CmosConfig::default()));
        board.power_up(&mut rtc, 1);
        (board, rtc)
    }

    /// Restored in a machine that is `later` nanoseconds of calendar time ahead of the test board's
    /// start, at guest time `now`.
    fn restored(now: u64, later: u64, state: DeviceState) -> (TestBoard, CmosRtc) {
        let (mut board, mut rtc) = (TestBoard::new(), CmosRtc::new(IRQ8, CmosConfig::default()));
        board.now = now;
        board.wall_ns = TEST_WALL_NS + later;
        board.power_up(&mut rtc, 1);
        rtc.restore(&mut board.ctx(), state).unwrap();
        (board, rtc)
    }

    fn read(board: &mut TestBoard, rtc: &mut CmosRtc, index: u8) -> u8 {
        board.outb(rtc, INDEX_PORT, index);
        board.inb(rtc, DATA_PORT)
    }

    fn write(board: &mut TestBoard, rtc: &mut CmosRtc, index: u8, value: u8) {
        board.outb(rtc, INDEX_PORT, index);
        board.outb(rtc, DATA_PORT, value);
    }

    fn time(board: &mut TestBoard, rtc: &mut CmosRtc) -> [u8; 6] {
        [0x09, 0x08, 0x07, 0x04, 0x02, 0x00].map(|i| read(board, rtc, i))
    }

    fn set_year_and_alarm(rtc: &mut CmosRtc, board: &mut TestBoard) {
        for (index, value) in [(0x05, 0x00), (0x03, 0x00), (0x01, 0x05)] {
            write(board, rtc, index, value);
        }
        write(board, rtc, 0x0E, 0x40);
        write(board, rtc, 0x0F, 0x0A);
        write(board, rtc, 0x09, 0x31);
        write(board, rtc, 0x0B, 0x72);
        board.outb(rtc, INDEX_PORT, 0x8F);
        board.advance(rtc, 1_300_000_000);
    }

    fn stopped(rtc: &mut CmosRtc, board: &mut TestBoard) {
        set_year_and_alarm(rtc, board);
        write(board, rtc, 0x0B, 0x82);
        write(board, rtc, 0x00, 0x99);
    }

    snapshot_conformance! {
        rtc_snapshot_conforms,
        make: || CmosRtc::new(IRQ8, CmosConfig::default()),
        exercise: set_year_and_alarm,
        ignored: &[&[4], &[5], &[6], &[7], &[12], &[13]],
    }

    snapshot_conformance! {
        rtc_stopped_snapshot_conforms,
        make: || CmosRtc::new(IRQ8, CmosConfig::default()),
        exercise: stopped,
        ignored: &[&[4], &[5], &[6], &[7], &[12], &[13]],
    }

    /// In sync when v86 saved it at the test board's start; periodic interrupt at 1024 Hz.
    fn of_v86() -> Value {
        let mut cells = [0; 128];
        cells[0x34] = 0x55;
        values![
            15,
            Value::bytes(cells),
            WALL_MS,
            WALL_MS,
            WALL_MS,
            0,
            true,
            0.9765625,
            0x26,
            0x42,
            0,
            1,
            false,
            0,
            0x80,
        ]
    }

    #[test]
    fn rtc_array_of_v86_shows_the_present_time_and_interrupts_periodically() {
        let (mut board, mut rtc) = restored(0, 3600 * SECOND, DeviceState::v86(of_v86()));
        assert!(rtc.is_nmi_disabled());
        assert_eq!(time(&mut board, &mut rtc), [0x24, 0x02, 0x29, 0x00, 0x59, 0x50]);
        assert_eq!([0x34, 0x0E].map(|i| read(&mut board, &mut rtc, i)), [0x55, 0x80]);
        assert!(!board.irq.is_high(IRQ8));
        board.advance(&mut rtc, 976_563);
        assert!(board.irq.is_high(IRQ8));
        assert_eq!(read(&mut board, &mut rtc, 0x0C) & 0xC0, 0xC0);
    }

    #[test]
    fn rtc_array_of_v86_is_written_back_unchanged() {
        let (mut board, mut rtc) = restored(0, 0, DeviceState::v86(of_v86()));
        assert_eq!(rtc.save(&mut board.ctx()).v86, of_v86());
    }

    #[test]
    fn rtc_array_of_12_elements_is_accepted() {
        let Value::Array(mut items) = of_v86() else { panic!("no array") };
        items.truncate(12);
        items[7] = Value::Null; // a rate of 0 is an infinite period
        items[8] = 0x20.into();
        items[3] = (WALL_MS + 60_000).into(); // a minute behind
        let (mut board, mut rtc) = restored(0, 60 * SECOND, DeviceState::v86(items.into()));
        assert_eq!(time(&mut board, &mut rtc), [0x24, 0x02, 0x28, 0x23, 0x59, 0x50]);
        assert_eq!(board.events.next_deadline(), None);
        assert_eq!(read(&mut board, &mut rtc, 0x0E), 0);
    }

    #[test]
    fn rtc_state_is_v86s_array() {
        let (mut board, mut rtc) = new();
        write(&mut board, &mut rtc, 0x0B, 0x32);
        for (index, value) in [(0x05, 0x00), (0x03, 0x00), (0x01, 0x05), (0x0E, 0x40)] {
            write(&mut board, &mut rtc, index, value);
        }
        write(&mut board, &mut rtc, 0x02, 0x58); // a minute back
        board.advance(&mut rtc, 250_000_000);
        let state = rtc.save(&mut board.ctx());
        let mut cells: [u8; 128] = std::array::from_fn(|i| rtc.cell(i as u8));
        assert_eq!(cells[0x0E], 0x40);
        cells[0x0E] = 0;
        let now = WALL_MS + 250;
        let expected = values![
            0x02,
            Value::bytes(cells),
            now - 60_000,
            now,
            0,
            WALL_MS + 75_000, // 00:00:05 by the clock
            false,
            0.9765625,
            0x26,
            0x32,
            0x40,
            0,
            true,
            WALL_MS + 1000,
            0x40,
        ];
        assert_eq!(state.v86, expected);
        assert_eq!(state.extra, values![1, -60, 0, WALL_MS / 1000 - 60, Value::Null]);
    }

    #[test]
    fn rtc_keeps_its_offset_and_flags_over_a_pause() {
        let (mut board, mut rtc) = new();
        board.advance(&mut rtc, 300_000_000);
        set_year_and_alarm(&mut rtc, &mut board);
        assert!(board.irq.is_high(IRQ8), "the second has changed");
        let state = rtc.save(&mut board.ctx());
        let (mut board, mut rtc) = restored(board.now, 86_400 * SECOND, state);
        assert!(board.irq.is_high(IRQ8));
        assert_eq!(time(&mut board, &mut rtc), [0x31, 0x03, 0x01, 0x23, 0x59, 0x50]);
        assert_eq!(read(&mut board, &mut rtc, 0x0C), 0xF0, "periodic, update, and a missed alarm");
        assert!(!board.irq.is_high(IRQ8));
        assert_eq!(read(&mut board, &mut rtc, 0x0F), 0x0A);
    }

    #[test]
    fn rtc_stopped_clock_stays_stopped() {
        let (mut board, mut rtc) = new();
        stopped(&mut rtc, &mut board);
        let state = rtc.save(&mut board.ctx());
        let (mut board, mut rtc) = restored(board.now, 500 * SECOND, state);
        assert_eq!(time(&mut board, &mut rtc)[5], 0x99);
        board.advance(&mut rtc, 5 * SECOND);
        write(&mut board, &mut rtc, 0x00, 0x10);
        write(&mut board, &mut rtc, 0x0B, 0x02);
        board.advance(&mut rtc, 2 * SECOND);
        assert_eq!(time(&mut board, &mut rtc), [0x31, 0x02, 0x28, 0x23, 0x59, 0x12]);
    }
}
