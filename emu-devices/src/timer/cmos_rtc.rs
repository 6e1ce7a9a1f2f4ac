//! MC146818 real-time clock and the CMOS memory behind ports 70h/71h.
//!
//! Motorola MC146818A data sheet. The time is the host's calendar time (UTC) plus an offset that
//! changes when the guest sets the clock. Flags are computed when somebody looks: a deadline exists
//! only while an interrupt is enabled.
//!
//! As in v86, guests can change the time, the alarm, status A and B, the diagnostic byte 0Eh and the
//! shutdown code 0Fh; the rest of the CMOS holds the machine's configuration and is read-only.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;
use emu_core::time::{NS_PER_SEC, VmTime};

use super::calendar::Calendar;
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

mod saved;

const INDEX_PORT: u16 = 0x70;
const DATA_PORT: u16 = 0x71;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0A;
const STATUS_B: u8 = 0x0B;
const STATUS_C: u8 = 0x0C;
const STATUS_D: u8 = 0x0D;
const DIAGNOSTIC: u8 = 0x0E;
const SHUTDOWN: u8 = 0x0F;
const CENTURY: u8 = 0x32;
/// Where PS/2 models keep the century.
const CENTURY_PS2: u8 = 0x37;

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
const A_POWER_UP: u8 = 0x26;
/// Divider select 11x holds the prescaler in reset.
const A_DIVIDER_RESET: u8 = 0x60;
const B_SET: u8 = 1 << 7;
const B_PERIODIC: u8 = 1 << 6;
const B_ALARM: u8 = 1 << 5;
const B_UPDATE: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const C_REQUEST: u8 = 1 << 7;
const D_VALID_TIME: u8 = 1 << 7;
/// Periodic, alarm, update: the same bits enable in B and flag in C.
const FLAGS: u8 = B_PERIODIC | B_ALARM | B_UPDATE;

const PM: u8 = 1 << 7;

/// Status A announces an update this long before the second changes.
const UPDATE_WARNING_NS: u64 = 1_000_000;
/// After the prescaler leaves reset the first update comes half a second later.
const AFTER_DIVIDER_RESET_NS: i128 = 500_000_000;
/// The time base of the periodic interrupt.
const PERIODIC_HZ: u128 = 32_768;

/// Deadlines computed from calendar time are not closer than this (the two clocks may run apart)
/// and not farther (calendar time may step).
const MIN_CALENDAR_WAIT_NS: u64 = 50_000;
const MAX_CALENDAR_WAIT_NS: u64 = 10 * NS_PER_SEC;

const NS: i128 = NS_PER_SEC as i128;

/// A hard disk as the CMOS describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmosDisk {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

/// What firmware is told through the CMOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmosConfig {
    /// RAM in bytes.
    pub memory_size: u64,
    /// Types of the two floppy drives: 0 none, 1 360K, 2 1.2M, 3 720K, 4 1.44M, 5 2.88M.
    pub floppy_types: [u8; 2],
    /// Boot order, lowest nibble first: 1 floppy, 2 hard disk, 3 CD.
    pub boot_order: u16,
    /// Firmware skips its waiting times.
    pub fast_boot: bool,
    /// Primary and secondary master with a medium.
    pub disks: [Option<CmosDisk>; 2],
}

impl Default for CmosConfig {
    fn default() -> Self {
        Self {
            memory_size: 64 << 20,
            floppy_types: [4, 4],
            boot_order: 0x123,
            fast_boot: false,
            disks: [None, None],
        }
    }
}

impl CmosConfig {
    fn cells(&self) -> [u8; 128] {
        let mut cells = [0; 128];
        let kib_above_1m = (self.memory_size >> 10).saturating_sub(1024);
        let blocks_above_16m = (self.memory_size >> 16).saturating_sub(256);
        cells[0x10] = (self.floppy_types[0] << 4) | (self.floppy_types[1] & 0x0F);
        cells[0x14] = 0x2F;
        put_word(&mut cells, 0x15, 640);
        put_word(&mut cells, 0x17, kib_above_1m);
        put_word(&mut cells, 0x30, kib_above_1m);
        put_word(&mut cells, 0x34, blocks_above_16m);
        cells[0x38] = 0x01 | ((self.boot_order >> 4) as u8 & 0xF0);
        cells[0x3D] = self.boot_order as u8;
        cells[0x3F] = u8::from(self.fast_boot);
        for (i, disk) in self.disks.iter().enumerate() {
            let Some(disk) = disk else { continue };
            cells[0x12] = 0xF0;
            // Translation: LBA for the primary (bit 0) and the secondary master (bit 4).
            cells[0x39] |= 1 << (4 * i);
            let [low, high] = disk.cylinders.to_le_bytes();
            let geometry = [low, high, disk.heads, 0xFF, 0xFF, 0xC8, low, high, disk.sectors];
            for (cell, value) in cells.iter_mut().skip(0x1B + 9 * i).zip(geometry) {
                *cell = value;
            }
        }
        cells
    }
}

fn put_word(cells: &mut [u8; 128], index: usize, value: u64) {
    let word = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    for (cell, byte) in cells.iter_mut().skip(index).zip(word) {
        *cell = byte;
    }
}

/// The chip.
#[derive(Clone, Debug)]
pub struct CmosRtc {
    device: DeviceId,
    irq: IrqLine,
    config: CmosConfig,
    index: u8,
    /// Port 70h bit 7. There is no source of NMI on this machine.
    nmi_disabled: bool,
    cells: [u8; 128],
    status_a: u8,
    status_b: u8,
    status_c: u8,
    /// Clock time minus the host's calendar time, nanoseconds.
    offset_ns: i128,
    /// The time while it stands still (SET, or prescaler in reset).
    frozen: Option<Calendar>,
    /// Up to where flags were computed: guest time, and clock time in seconds.
    seen_now: VmTime,
    seen_second: i64,
}

impl CmosRtc {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(INDEX_PORT, 2)];

    /// Powered up with `config`, showing the host's time.
    pub fn new(irq: IrqLine, config: CmosConfig) -> Self {
        Self {
            device: 0,
            irq,
            config,
            index: 0,
            nmi_disabled: false,
            cells: config.cells(),
            status_a: A_POWER_UP,
            status_b: B_24_HOURS,
            status_c: 0,
            offset_ns: 0,
            frozen: None,
            seen_now: 0,
            seen_second: 0,
        }
    }

    /// A CMOS cell (the time cells are not used).
    pub fn cell(&self, index: u8) -> u8 {
        self.cells[usize::from(index & 0x7F)]
    }

    /// Changes a CMOS cell until the next cold reset.
    pub fn set_cell(&mut self, index: u8, value: u8) {
        self.cells[usize::from(index & 0x7F)] = value;
    }

    /// True if the guest disabled NMI through port 70h.
    pub fn is_nmi_disabled(&self) -> bool {
        self.nmi_disabled
    }

    // ---- time --------------------------------------------------------------------------------

    /// Clock time in nanoseconds since 1970, if it were running.
    fn clock_ns(&self, wall_ns: u64) -> i128 {
        i128::from(wall_ns) + self.offset_ns
    }

    fn clock_second(&self, wall_ns: u64) -> i64 {
        self.clock_ns(wall_ns).div_euclid(NS) as i64
    }

    fn nanosecond(&self, wall_ns: u64) -> u64 {
        self.clock_ns(wall_ns).rem_euclid(NS) as u64
    }

    fn calendar(&self, wall_ns: u64) -> Calendar {
        self.frozen.unwrap_or_else(|| Calendar::from_unix(self.clock_second(wall_ns)))
    }

    fn is_divider_reset(&self) -> bool {
        self.status_a & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    /// The time stands still.
    fn is_held(&self) -> bool {
        self.status_b & B_SET != 0 || self.is_divider_reset()
    }

    /// Stops or starts the time after a change of A or B.
    fn freeze_or_thaw(&mut self, wall_ns: u64) {
        match (self.is_held(), self.frozen) {
            (true, None) => self.frozen = Some(self.calendar(wall_ns)),
            (false, Some(calendar)) => {
                self.frozen = None;
                self.set_clock(calendar, wall_ns);
            }
            _ => {}
        }
    }

    /// Sets the second; where in the second we are does not change.
    fn set_clock(&mut self, calendar: Calendar, wall_ns: u64) {
        let target = i128::from(calendar.to_unix()) * NS + i128::from(self.nanosecond(wall_ns));
        self.offset_ns = target - i128::from(wall_ns);
        self.seen_second = self.clock_second(wall_ns);
    }

    fn encode(&self, value: u8) -> u8 {
        if self.status_b & B_BINARY != 0 { value } else { (value / 10 % 10) << 4 | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.status_b & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0x0F) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.status_b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { PM } else { 0 };
        self.encode(hour.wrapping_add(11) % 12 + 1) | pm
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.status_b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
    }

    fn read_time(&self, index: u8, wall_ns: u64) -> u8 {
        let t = self.calendar(wall_ns);
        match index {
            SECONDS => self.encode(t.second),
            MINUTES => self.encode(t.minute),
            HOURS => self.encode_hour(t.hour),
            WEEKDAY => self.encode(t.weekday()),
            DAY => self.encode(t.day),
            MONTH => self.encode(t.month),
            YEAR => self.encode(t.year.rem_euclid(100) as u8),
            _ => self.encode(t.year.div_euclid(100).rem_euclid(100) as u8),
        }
    }

    fn write_time(&mut self, index: u8, value: u8, wall_ns: u64) {
        let mut t = self.calendar(wall_ns);
        let number = self.decode(value);
        match index {
            SECONDS => t.second = number,
            MINUTES => t.minute = number,
            HOURS => t.hour = self.decode_hour(value),
            DAY => t.day = number,
            MONTH => t.month = number,
            YEAR => t.year = t.year.div_euclid(100) * 100 + i64::from(number),
            CENTURY | CENTURY_PS2 => t.year = i64::from(number) * 100 + t.year.rem_euclid(100),
            // The weekday follows from the date.
            _ => return,
        }
        if self.frozen.is_some() {
            self.frozen = Some(t);
        } else {
            self.set_clock(t, wall_ns);
        }
    }

    // ---- flags and interrupts ----------------------------------------------------------------

    /// Length of the periodic interrupt's period in ticks of 32,768 Hz; `None` if it is off.
    fn period(&self) -> Option<u128> {
        match self.status_a & 0x0F {
            _ if self.is_divider_reset() => None,
            0 => None,
            // Two rates exist twice.
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// First clock second after `after` at which the alarm goes off; `None` if it never does.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        // 11xxxxxx means "any".
        let matches = |cell: u8, value: u8, decoded: u8| cell & 0xC0 == 0xC0 || decoded == value;
        let [s, m, h] = [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM].map(|i| self.cell(i));
        let (s_want, m_want, h_want) = (self.decode(s), self.decode(m), self.decode_hour(h));
        let from = after.saturating_add(1);
        let today = from.div_euclid(86_400).saturating_mul(86_400);
        for midnight in [today, today.saturating_add(86_400)] {
            for hour in (0..24).filter(|x| matches(h, *x, h_want)) {
                let hour_start = midnight.saturating_add(i64::from(hour) * 3600);
                if hour_start.saturating_add(3600) <= from {
                    continue;
                }
                for minute in (0..60).filter(|x| matches(m, *x, m_want)) {
                    let minute_start = hour_start.saturating_add(i64::from(minute) * 60);
                    if minute_start.saturating_add(60) <= from {
                        continue;
                    }
                    for second in (0..60).filter(|x| matches(s, *x, s_want)) {
                        let at = minute_start.saturating_add(i64::from(second));
                        if at >= from {
                            return Some(at);
                        }
                    }
                }
            }
        }
        None
    }

    /// Sets the flags for everything that happened since the last call.
    fn collect_flags(&mut self, now: VmTime, wall_ns: u64) {
        if let Some(period) = self.period() {
            let count = |t: VmTime| u128::from(t) * PERIODIC_HZ / u128::from(NS_PER_SEC) / period;
            if count(now) != count(self.seen_now) {
                self.status_c |= B_PERIODIC;
            }
        }
        self.seen_now = now;
        let second = self.clock_second(wall_ns);
        if self.frozen.is_none() && second != self.seen_second {
            self.status_c |= B_UPDATE;
            // After a step back only the present second counts.
            let since = if second > self.seen_second { self.seen_second } else { second.saturating_sub(1) };
            if self.next_alarm(since).is_some_and(|at| at <= second) {
                self.status_c |= B_ALARM;
            }
        }
        self.seen_second = second;
    }

    fn is_requesting(&self) -> bool {
        self.status_c & self.status_b & FLAGS != 0
    }

    /// Drives the line and sets the deadline of the next interrupt.
    fn update(&self, ctx: &mut Ctx<'_>) {
        ctx.irq.set(self.irq, self.is_requesting());
        let wanted = if self.is_requesting() { 0 } else { self.status_b & FLAGS };
        let mut deadline = VmTime::MAX;
        if let (true, Some(period)) = (wanted & B_PERIODIC != 0, self.period()) {
            let ns = u128::from(NS_PER_SEC);
            let ticks = (u128::from(ctx.now) * PERIODIC_HZ / ns / period + 1) * period;
            let at = (ticks * ns).div_ceil(PERIODIC_HZ);
            deadline = deadline.min(VmTime::try_from(at).unwrap_or(VmTime::MAX));
        }
        if self.frozen.is_none() {
            let second = self.clock_second(ctx.wall_ns);
            let mut wait_for = |at: i64| {
                let wait = i128::from(at) * NS - self.clock_ns(ctx.wall_ns);
                let wait = u64::try_from(wait).unwrap_or(0).clamp(MIN_CALENDAR_WAIT_NS, MAX_CALENDAR_WAIT_NS);
                deadline = deadline.min(ctx.now.saturating_add(wait));
            };
            if wanted & B_UPDATE != 0 {
                wait_for(second.saturating_add(1));
            }
            if let (true, Some(at)) = (wanted & B_ALARM != 0, self.next_alarm(second)) {
                wait_for(at);
            }
        }
        if deadline == VmTime::MAX {
            ctx.cancel(self.device);
        } else {
            ctx.schedule(self.device, deadline);
        }
    }

    fn read(&mut self, ctx: &mut Ctx<'_>) -> u8 {
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY | CENTURY_PS2 => {
                self.read_time(self.index, ctx.wall_ns)
            }
            STATUS_A => {
                let near = self.nanosecond(ctx.wall_ns) >= NS_PER_SEC - UPDATE_WARNING_NS;
                let updating = self.frozen.is_none() && near;
                self.status_a | if updating { A_UPDATE_IN_PROGRESS } else { 0 }
            }
            STATUS_B => self.status_b,
            STATUS_C => {
                self.collect_flags(ctx.now, ctx.wall_ns);
                let request = if self.is_requesting() { C_REQUEST } else { 0 };
                let value = std::mem::take(&mut self.status_c) | request;
                self.update(ctx);
                value
            }
            STATUS_D => D_VALID_TIME,
            index => self.cell(index),
        }
    }

    fn write(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        let wall_ns = ctx.wall_ns;
        self.collect_flags(ctx.now, wall_ns);
        match self.index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY | CENTURY_PS2 => {
                self.write_time(self.index, value, wall_ns);
            }
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM | DIAGNOSTIC | SHUTDOWN => {
                self.set_cell(self.index, value);
            }
            STATUS_A => {
                let was_reset = self.is_divider_reset();
                self.status_a = value & !A_UPDATE_IN_PROGRESS;
                if was_reset && !self.is_divider_reset() {
                    let fraction = i128::from(self.nanosecond(wall_ns));
                    self.offset_ns += AFTER_DIVIDER_RESET_NS - fraction;
                    self.seen_second = self.clock_second(wall_ns);
                }
                self.freeze_or_thaw(wall_ns);
            }
            STATUS_B => {
                self.status_b = if value & B_SET != 0 { value & !B_UPDATE } else { value };
                self.freeze_or_thaw(wall_ns);
            }
            _ => {}
        }
        self.update(ctx);
    }
}

impl Device for CmosRtc {
    fn name(&self) -> &'static str {
        "cmos-rtc"
    }

    fn attach(&mut self, id: DeviceId) {
        self.device = id;
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        (port == DATA_PORT && size == AccessSize::Byte).then(|| u32::from(self.read(ctx)))
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        match (port, size) {
            (INDEX_PORT, AccessSize::Byte) => {
                self.index = value as u8 & 0x7F;
                self.nmi_disabled = value & 0x80 != 0;
            }
            (DATA_PORT, AccessSize::Byte) => self.write(ctx, value as u8),
            _ => {}
        }
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        self.collect_flags(ctx.now, ctx.wall_ns);
        self.update(ctx);
    }

    /// A reboot only disables the interrupts: the rest is battery-backed. Power-up writes the
    /// configuration anew and keeps a time the guest has set.
    fn reset(&mut self, ctx: &mut Ctx<'_>, kind: ResetKind) {
        match kind {
            ResetKind::Warm => {
                self.status_b &= !FLAGS;
                self.status_c = 0;
            }
            ResetKind::Cold => {
                *self = Self {
                    device: self.device,
                    offset_ns: self.offset_ns,
                    ..Self::new(self.irq, self.config)
                };
            }
        }
        self.seen_now = ctx.now;
        self.seen_second = self.clock_second(ctx.wall_ns);
        self.update(ctx);
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        saved::SavedRtc::capture(self, ctx).into_state(self, ctx)
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedRtc::capture(self, ctx).read(state)?.apply(self, ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TEST_WALL_NS, TestBoard};

    const IRQ8: IrqLine = IrqLine::wired_to(8);
    const SECOND: u64 = NS_PER_SEC;

    fn with(config: CmosConfig) -> (TestBoard, CmosRtc) {
        let mut board = TestBoard::new();
        let mut rtc = CmosRtc::new(IRQ8, config);
        board.power_up(&mut rtc, 1);
        (board, rtc)
    }

    fn new() -> (TestBoard, CmosRtc) {
        with(CmosConfig::default())
    }

    fn read(board: &mut TestBoard, rtc: &mut CmosRtc, index: u8) -> u8 {
        board.outb(rtc, INDEX_PORT, index);
        board.inb(rtc, DATA_PORT)
    }

    fn write(board: &mut TestBoard, rtc: &mut CmosRtc, index: u8, value: u8) {
        board.outb(rtc, INDEX_PORT, index);
        board.outb(rtc, DATA_PORT, value);
    }

    fn time(board: &mut TestBoard, rtc: &mut CmosRtc) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|i| read(board, rtc, i))
    }

    #[test]
    fn cmos_for_32_mib_matches_the_reference_dump() {
        let (mut board, mut rtc) = with(CmosConfig { memory_size: 32 << 20, ..CmosConfig::default() });
        let table = [
            (0x10, 0x44),
            (0x14, 0x2F),
            (0x15, 0x80),
            (0x16, 0x02),
            (0x17, 0x00),
            (0x18, 0x7C),
            (0x30, 0x00),
            (0x31, 0x7C),
            (0x34, 0x00),
            (0x35, 0x01),
            (0x38, 0x11),
            (0x3D, 0x23),
            (0x3F, 0x00),
            (0x0A, 0x26),
            (0x0B, 0x02),
            (0x0C, 0x00),
            (0x0D, 0x80),
        ];
        for (index, value) in table {
            assert_eq!(read(&mut board, &mut rtc, index), value, "cell {index:#x}");
        }
        write(&mut board, &mut rtc, 0x40, 0x55);
        assert_eq!(read(&mut board, &mut rtc, 0x40), 0);
    }

    #[test]
    fn cmos_describes_large_memory_disks_and_floppy_boot() {
        let disk = CmosDisk { cylinders: 0x1234, heads: 16, sectors: 63 };
        let config = CmosConfig {
            memory_size: 2 << 30,
            boot_order: 0x321,
            fast_boot: true,
            disks: [Some(disk), Some(disk)],
            floppy_types: [4, 0],
        };
        let (mut board, mut rtc) = with(config);
        let cells = [0x10, 0x17, 0x18, 0x34, 0x35, 0x38, 0x3D, 0x3F, 0x12, 0x39];
        let values = cells.map(|i| read(&mut board, &mut rtc, i));
        assert_eq!(values, [0x40, 0xFF, 0xFF, 0x00, 0x7F, 0x31, 0x21, 1, 0xF0, 0x11]);
        let geometry: Vec<u8> = (0x24..0x2D).map(|i| read(&mut board, &mut rtc, i)).collect();
        assert_eq!(geometry, [0x34, 0x12, 16, 0xFF, 0xFF, 0xC8, 0x34, 0x12, 63]);
    }

    #[test]
    fn rtc_shows_utc_in_bcd_and_crosses_the_leap_day() {
        let (mut board, mut rtc) = new();
        assert_eq!(time(&mut board, &mut rtc), [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x50]);
        board.advance(&mut rtc, 10 * SECOND);
        assert_eq!(time(&mut board, &mut rtc), [0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00]);
        assert_eq!(read(&mut board, &mut rtc, CENTURY_PS2), 0x20);
    }

    #[test]
    fn rtc_formats_binary_and_12_hours() {
        let (mut board, mut rtc) = new();
        write(&mut board, &mut rtc, STATUS_B, B_BINARY | B_24_HOURS);
        assert_eq!(read(&mut board, &mut rtc, HOURS), 23);
        write(&mut board, &mut rtc, STATUS_B, 0);
        assert_eq!(read(&mut board, &mut rtc, HOURS), 0x91);
        for hour in 0..24 {
            assert_eq!(rtc.decode_hour(rtc.encode_hour(hour)), hour);
        }
        assert_eq!([rtc.encode_hour(0), rtc.encode_hour(12)], [0x12, 0x92]);
    }

    #[test]
    fn rtc_update_in_progress_only_before_the_second_changes() {
        let (mut board, mut rtc) = new();
        board.advance(&mut rtc, SECOND - UPDATE_WARNING_NS - 1);
        assert_eq!(read(&mut board, &mut rtc, STATUS_A), 0x26);
        board.advance(&mut rtc, 1);
        assert_eq!(read(&mut board, &mut rtc, STATUS_A), 0xA6);
        board.advance(&mut rtc, UPDATE_WARNING_NS);
        assert_eq!(read(&mut board, &mut rtc, STATUS_A), 0x26);
    }

    #[test]
    fn rtc_set_as_linux_does_it_starts_half_a_second_before_the_next_second() {
        let (mut board, mut rtc) = new();
        board.advance(&mut rtc, 123_456_789);
        write(&mut board, &mut rtc, STATUS_B, 0x82);
        write(&mut board, &mut rtc, STATUS_A, 0x76);
        let fields = [
            (YEAR, 0x31),
            (MONTH, 0x12),
            (DAY, 0x31),
            (HOURS, 0x23),
            (MINUTES, 0x59),
            (SECONDS, 0x58),
            (CENTURY, 0x20),
        ];
        for (index, value) in fields {
            write(&mut board, &mut rtc, index, value);
        }
        board.advance(&mut rtc, 5 * SECOND);
        assert_eq!(read(&mut board, &mut rtc, SECONDS), 0x58);
        write(&mut board, &mut rtc, STATUS_B, 0x02);
        write(&mut board, &mut rtc, STATUS_A, 0x26);
        board.advance(&mut rtc, SECOND / 2 - 1);
        assert_eq!(read(&mut board, &mut rtc, SECONDS), 0x58);
        board.advance(&mut rtc, 1);
        assert_eq!(read(&mut board, &mut rtc, SECONDS), 0x59);
        board.advance(&mut rtc, SECOND);
        assert_eq!(time(&mut board, &mut rtc), [0x20, 0x32, 0x01, 0x01, 5, 0, 0, 0]);
    }

    #[test]
    fn rtc_set_without_stopping_keeps_the_fraction() {
        let (mut board, mut rtc) = new();
        board.advance(&mut rtc, SECOND / 4);
        write(&mut board, &mut rtc, MINUTES, 0x10);
        assert_eq!(time(&mut board, &mut rtc)[5..], [0x23, 0x10, 0x50]);
        board.advance(&mut rtc, 3 * SECOND / 4);
        assert_eq!(read(&mut board, &mut rtc, SECONDS), 0x51);
        // The offset survives a reboot and power-up.
        rtc.reset(&mut board.ctx(), ResetKind::Cold);
        assert_eq!(read(&mut board, &mut rtc, MINUTES), 0x10);
    }

    #[test]
    fn rtc_periodic_interrupt_comes_1024_times_a_second() {
        let (mut board, mut rtc) = new();
        write(&mut board, &mut rtc, STATUS_B, 0x42);
        let mut interrupts = 0;
        while let Some(at) = board.events.next_deadline().filter(|at| *at < SECOND) {
            let step = at - board.now;
            board.advance(&mut rtc, step);
            assert!(board.irq.is_high(IRQ8));
            assert_eq!(read(&mut board, &mut rtc, STATUS_C) & 0xC0, 0xC0);
            assert!(!board.irq.is_high(IRQ8));
            interrupts += 1;
        }
        assert_eq!(interrupts, 1023);
    }

    #[test]
    fn rtc_interrupt_line_stays_high_until_c_is_read() {
        let (mut board, mut rtc) = new();
        write(&mut board, &mut rtc, STATUS_B, 0x42);
        board.advance(&mut rtc, 10_000_000);
        assert!(board.irq.is_high(IRQ8));
        assert_eq!(board.events.next_deadline(), None);
        assert_eq!(read(&mut board, &mut rtc, STATUS_C), 0xC0);
        assert_eq!(read(&mut board, &mut rtc, STATUS_C), 0x00);
    }

    #[test]
    fn rtc_update_interrupt_comes_when_the_second_changes() {
        let (mut board, mut rtc) = new();
        board.advance(&mut rtc, 300_000_000);
        write(&mut board, &mut rtc, STATUS_B, 0x12);
        board.advance(&mut rtc, 699_000_000);
        assert!(!board.irq.is_high(IRQ8));
        board.advance(&mut rtc, 1_000_000);
        assert!(board.irq.is_high(IRQ8));
        // The periodic flag is set too, whether or not it may interrupt.
        assert_eq!(read(&mut board, &mut rtc, STATUS_C), 0xD0);
    }

    #[test]
    fn rtc_flags_are_seen_by_polling_without_interrupts() {
        let (mut board, mut rtc) = new();
        assert_eq!(read(&mut board, &mut rtc, STATUS_C), 0);
        board.advance(&mut rtc, 2 * SECOND);
        assert_eq!(read(&mut board, &mut rtc, STATUS_C), 0x50);
        assert!(!board.irq.is_high(IRQ8));
    }

    #[test]
    fn rtc_alarm_fires_at_its_time_every_day() {
        let (mut board, mut rtc) = new();
        for (index, value) in [(HOURS_ALARM, 0x00), (MINUTES_ALARM, 0x00), (SECONDS_ALARM, 0x05)] {
            write(&mut board, &mut rtc, index, value);
        }
        write(&mut board, &mut rtc, STATUS_B, 0x22);
        board.advance(&mut rtc, 15 * SECOND - 1);
        assert!(!board.irq.is_high(IRQ8));
        board.advance(&mut rtc, 1);
        assert!(board.irq.is_high(IRQ8));
        assert_eq!(read(&mut board, &mut rtc, STATUS_C) & 0xA0, 0xA0);
        board.advance(&mut rtc, 86_400 * SECOND - 1);
        assert!(!board.irq.is_high(IRQ8));
        board.advance(&mut rtc, 1);
        assert!(board.irq.is_high(IRQ8));
    }

    #[test]
    fn rtc_alarm_wildcards_match_everything_and_nonsense_nothing() {
        let (_, mut rtc) = new();
        let now = TEST_WALL_NS as i64 / 1_000_000_000;
        for index in [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM] {
            rtc.set_cell(index, 0xFF);
        }
        assert_eq!(rtc.next_alarm(now), Some(now + 1));
        rtc.set_cell(SECONDS_ALARM, 0x00);
        assert_eq!(rtc.next_alarm(now), Some(now + 10));
        rtc.set_cell(MINUTES_ALARM, 0x58);
        assert_eq!(rtc.next_alarm(now), Some(now + 10 + 58 * 60));
        rtc.set_cell(MINUTES_ALARM, 0x75);
        assert_eq!(rtc.next_alarm(now), None);
    }

    #[test]
    fn rtc_reboot_disables_interrupts_and_keeps_the_rest() {
        let (mut board, mut rtc) = new();
        write(&mut board, &mut rtc, SHUTDOWN, 0x0A);
        write(&mut board, &mut rtc, STATUS_B, 0x72);
        rtc.reset(&mut board.ctx(), ResetKind::Warm);
        assert_eq!(read(&mut board, &mut rtc, STATUS_B), 0x02);
        assert_eq!(read(&mut board, &mut rtc, SHUTDOWN), 0x0A);
        rtc.reset(&mut board.ctx(), ResetKind::Cold);
        assert_eq!(read(&mut board, &mut rtc, SHUTDOWN), 0);
    }

    #[test]
    fn rtc_index_port_reads_as_an_empty_port() {
        let (mut board, mut rtc) = new();
        board.outb(&mut rtc, INDEX_PORT, 0x8D);
        assert!(rtc.is_nmi_disabled());
        assert_eq!(board.inb(&mut rtc, INDEX_PORT), 0xFF);
        assert_eq!(board.port_in(&mut rtc, DATA_PORT, AccessSize::Dword), 0xFFFF_FFFF);
        assert_eq!(board.inb(&mut rtc, DATA_PORT), 0x80);
    }
}
